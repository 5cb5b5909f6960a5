//! A further process in a sandbox that runs.
//!
//! Two processes do it. The first joins everything and becomes the user, while it is in the engine's pid namespace and
//! so invisible to the sandbox. The second is forked from it into the sandbox's pid namespace when nothing is left to
//! do but to execute the program: whoever attaches to it there gains no capability, no file and no memory of the
//! engine's that the program itself would not have. It is a child of the caller (`CLONE_PARENT`).

use std::{
    convert::Infallible,
    fs::File,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
};

use nix::unistd::setsid;
use oci_spec::runtime::{Process, Spec};
use rustix::fs::Mode;

use super::{
    Options, Sandbox, StartError, Stdio,
    channel::{Channel, Message},
    devices::Terminal,
    identity, namespaces,
    proc::Proc,
    process::{self, Settled, Streams},
    root::Root,
    seccomp::Filter,
};
use crate::{
    Result,
    error::Context,
    ids::IdMap,
    sys::{clone, process as own, shared::SharedMessage},
};

/// Prefix of errors, in Docker's words.
const CONTEXT: &str = "OCI runtime exec failed: exec failed: unable to start container process";

/// See [`super::exec`].
pub(super) fn exec(
    target: BorrowedFd<'_>,
    spec: &Spec,
    process: &Process,
    stdio: Stdio,
    options: &Options<'_>,
) -> Result<Sandbox, StartError> {
    run(target, spec, process, stdio, options).map_err(|e| match options.standalone {
        None => e.in_context(CONTEXT),
        Some(_) => e.plainly(),
    })
}

fn run(
    target: BorrowedFd<'_>,
    spec: &Spec,
    process: &Process,
    stdio: Stdio,
    options: &Options<'_>,
) -> Result<Sandbox, StartError> {
    let mut filter = Filter::of(spec)?;
    super::hide_memory()?;
    let report = SharedMessage::new().context(|| "cannot share memory with the new process")?;
    let (ours, theirs) = Channel::pair().context(|| "cannot make a channel to the new process")?;
    let mut stdio = Some(stdio);
    let directory = cgroup_directory(target, options);
    let mut body = |cloned| -> i32 {
        process::end_with(&report, || {
            let inside = Inside {
                target,
                spec,
                process,
                options,
                cloned,
            };
            inside.run(stdio.take(), filter.take(), &theirs, &report)
        })
    };
    let mut helper = clone::clone(0, directory.as_ref().map(AsFd::as_fd), || body(true));
    if helper.is_err() && directory.is_some() {
        helper = clone::clone(0, None, || body(false));
    }
    let (pid, pidfd) = helper.context(|| "cannot fork")?;
    drop(theirs);
    let mut helper = Sandbox::waiting(pid, pidfd, ours, report);

    let ready = helper.channel()?.expect(Message::Ready);
    let terminal = ready.map_err(|e| helper.failure(&e))?;
    let program = helper.channel()?.expect(Message::Process);
    let Some(pidfd) = program.map_err(|e| helper.failure(&e))? else {
        return Err(StartError::other("the new process was not announced"));
    };
    // Closed when the program begins, or when both processes have ended.
    let rest = helper.channel()?.receive();
    let report = helper.finish()?;
    rest.context(|| "cannot hear from the new process")?;
    let pid = namespaces::pid_of(pidfd.as_raw_fd()).context(|| "cannot find the new process")?;
    let sandbox = Sandbox::running(pid, pidfd, terminal);
    if let Some(error) = StartError::reported(&report) {
        sandbox.reap();
        return Err(error);
    }
    Ok(sandbox)
}

/// The v2 cgroup for the new process: the container's, or, if that has given its processes to cgroups below (then it
/// takes none itself), the one its first process is in.
fn cgroup_directory(target: BorrowedFd<'_>, options: &Options<'_>) -> Option<File> {
    let own = options.cgroup.v2_path()?;
    let moved = || -> Option<PathBuf> {
        let pid = namespaces::pid_of(target.as_raw_fd()).ok()?;
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = text.lines().find_map(|l| l.strip_prefix("0::/"))?;
        // As seen from the engine, the path ends in the part below the container's own directory.
        let below = Path::new(path)
            .ancestors()
            .find(|a| own.ends_with(a) && !a.as_os_str().is_empty())?;
        Some(own.join(Path::new(path).strip_prefix(below).ok()?))
    };
    let control = std::fs::read_to_string(own.join("cgroup.subtree_control")).unwrap_or_default();
    let path = if control.trim().is_empty() { None } else { moved() };
    File::open(path.as_deref().unwrap_or(own)).ok()
}

/// What the first of the two processes knows.
struct Inside<'a> {
    target: BorrowedFd<'a>,
    spec: &'a Spec,
    process: &'a Process,
    options: &'a Options<'a>,
    cloned: bool,
}

impl Inside<'_> {
    fn run(
        &self,
        stdio: Option<Stdio>,
        filter: Option<Filter>,
        channel: &Channel,
        report: &SharedMessage,
    ) -> Result<Infallible, StartError> {
        own::reset_signals().context(|| "cannot reset the signals")?;
        self.options.cgroup.entrances()?.enter(self.cloned)?;
        super::join_keyring(self.options)?;
        let proc = self.proc()?;
        if namespaces::with_user(self.spec) {
            let pid = namespaces::pid_of(self.target.as_raw_fd())
                .context(|| "cannot find the container's first process")?;
            identity::hand_over_streams(stdio.as_ref(), &IdMap::of_process(pid.as_raw())?)?;
        }
        let new_user = namespaces::join_all(self.target)?;
        if new_user {
            super::create::become_root()?;
        }
        let root = Root::current().context(|| "cannot open the container's root")?;
        rustix::process::umask(Mode::empty());
        let stdio = stdio.ok_or_else(|| StartError::other("the standard streams are gone"))?;
        let terminal = match &stdio {
            Stdio::Pipes { .. } => None,
            Stdio::Terminal { height, width } => Some(Terminal::open_in(&root, *height, *width)?),
        };
        let streams = Streams::new(stdio, terminal, &root)?;
        let settled = process::settle(
            self.spec,
            self.process,
            &streams,
            filter,
            self.options.nofile,
            proc.as_ref(),
            &root,
        )?;
        let master = streams.master.as_ref().map(AsRawFd::as_raw_fd);
        channel
            .send(Message::Ready, master)
            .context(|| "the engine gave up")?;
        // Everything else is closed for good: what owned it is never used or dropped again, as this process ends here.
        let preserved = self.options.standalone.map_or(0, |s| s.preserve_fds);
        let preserved = i32::try_from(preserved).unwrap_or_default();
        let keep: Vec<_> = (3..3 + preserved).chain([channel.number()]).collect();
        own::close_all_but(&keep).context(|| "cannot close the engine's files")?;
        process::end_with(report, || hand_over(&settled, channel, report))
    }

    /// The engine's procfs, if something is to be set through it; done before the namespaces are joined, in which no new
    /// one may be allowed.
    fn proc(&self) -> Result<Option<Proc>> {
        let score = self.process.oom_score_adj();
        let profile = self.process.apparmor_profile().as_ref().filter(|p| !p.is_empty());
        if score.is_none() && profile.is_none() {
            return Ok(None);
        }
        let proc = Proc::new()?;
        if let Some(score) = score {
            proc.write("self/oom_score_adj", &score.to_string())
                .context(|| format!("cannot set oom_score_adj to {score}"))?;
        }
        Ok(Some(proc))
    }
}

/// Forks the process that executes the program, tells the engine and ends.
fn hand_over(settled: &Settled, channel: &Channel, report: &SharedMessage) -> Result<Infallible, StartError> {
    // A profile of the user's may forbid what is still to come; then the fork comes first.
    let early = !settled.has_custom_filter();
    if early {
        settled.seal()?;
    }
    let begin = || -> Result<Infallible, StartError> {
        setsid().context(|| "cannot begin a session")?;
        settled.take_terminal()?;
        if !early {
            settled.seal()?;
        }
        Err(settled.execute())
    };
    let (_, pidfd) = clone::fork_sibling(|| process::end_with(report, begin)).context(|| "cannot fork")?;
    channel
        .send(Message::Process, Some(pidfd.as_raw_fd()))
        .context(|| "the engine gave up")?;
    clone::exit(0)
}
