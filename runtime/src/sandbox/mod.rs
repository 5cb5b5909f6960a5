//! An OCI runtime specification becomes a running process.
//!
//! [`create`] makes the namespaces, the root file system and everything else up to the point where only the program
//! itself is missing; [`Sandbox::start`] lets it execute. [`exec`] runs a further process in a sandbox that lives.
//!
//! The caller has to be a small process without threads (the container's supervisor): the new process is a copy of it
//! that runs this module's code until it executes the program.

mod capabilities;
mod channel;
mod create;
pub mod defaults;
mod devices;
mod exec;
mod executable;
mod failure;
pub(crate) mod filesystem;
mod hooks;
mod identity;
pub(crate) mod idmap;
mod init;
mod masks;
mod mounts;
mod namespaces;
mod options;
mod proc;
mod process;
mod program;
mod propagation;
pub(crate) mod root;
pub(crate) mod rootfs;
mod seccomp;
mod standalone;
pub(crate) mod user;
mod view;

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::{
    sys::{
        signal::Signal,
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};
use oci_spec::runtime::{LinuxSeccomp, Process, Spec};

use self::channel::{Channel, Message};
pub use self::{
    executable::run_from_read_only_copy,
    failure::StartError,
    hooks::{Hooks, Point},
    idmap::probe as probe_idmap,
    options::{IDMAP_IF_POSSIBLE, SUBPATH},
    standalone::{Gate, Standalone},
    view::{Found, ImageView},
};
use crate::{
    Error, Result,
    cgroup::Cgroup,
    error::Context,
    external::External,
    sys::{pidfd::send_signal, process as own, shared::SharedMessage},
};

/// Annotation of the specification: run a minimal init as the first process (`true`), which starts the program,
/// forwards signals to it, reaps orphans and ends with the program's exit code.
pub const ANNOTATION_INIT: &str = "berth.init";
/// Annotation: [`SECCOMP_BUILTIN`] or [`SECCOMP_UNCONFINED`]. `linux.seccomp`, if present, is a custom profile and wins.
pub const ANNOTATION_SECCOMP: &str = "berth.seccomp";
/// Annotation: comma-separated names or numbers of further groups of the process, resolved inside the root.
pub const ANNOTATION_GROUP_ADD: &str = "berth.group-add";
/// Annotation: the files of the root have the ids that they have inside the user namespace, and are to show so there
/// (`true`); without it they are shown as they are.
pub const ANNOTATION_MAPPED_ROOT: &str = "berth.mapped-root";
/// Value of [`ANNOTATION_SECCOMP`]: Docker's default profile for the process's capabilities.
pub const SECCOMP_BUILTIN: &str = "builtin";
/// Value of [`ANNOTATION_SECCOMP`], and the meaning of its absence: no filter.
pub const SECCOMP_UNCONFINED: &str = "unconfined";

/// Standard streams of the new process.
#[derive(Debug)]
pub enum Stdio {
    /// The process's ends of three pipes (or any other files).
    Pipes {
        /// None: the sandbox's own `/dev/null`.
        stdin: Option<OwnedFd>,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A terminal made inside the sandbox; [`Sandbox::take_terminal`] has its other end. 0 × 0: size not set.
    Terminal {
        /// Rows.
        height: u16,
        /// Columns.
        width: u16,
    },
}

/// What the specification does not say.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Container id; names the session keyring.
    pub id: &'a str,
    /// Where the process is accounted. Limits are already applied to it; `linux.resources` is not read here.
    pub cgroup: &'a Cgroup,
    /// Soft and hard `RLIMIT_NOFILE` to give back to the process, if the engine raised its own and `process.rlimits`
    /// does not set one.
    pub nofile: Option<(u64, u64)>,
    /// Programs to run on the way, and what they are told; none: a specification with hooks is refused.
    pub hooks: Option<&'a Hooks>,
    /// For a caller that does not stay; none: the caller keeps the sandbox.
    pub standalone: Option<&'a Standalone<'a>>,
}

/// A process in a sandbox: created and waiting for [`start`](Self::start), or running.
///
/// Dropping one that was not started ends it. Dropping a running one leaves it alone.
/// The caller is its parent and reaps it (`waitid` with the pidfd).
#[derive(Debug)]
pub struct Sandbox {
    pid: Pid,
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
    /// Until it is started.
    waiting: Option<Waiting>,
    /// Another program that has made it, until it is started.
    external: Option<External>,
}

#[derive(Debug)]
struct Waiting {
    channel: Channel,
    report: SharedMessage,
}

impl Sandbox {
    fn waiting(pid: Pid, pidfd: OwnedFd, channel: Channel, report: SharedMessage) -> Self {
        Self {
            pid,
            pidfd,
            terminal: None,
            waiting: Some(Waiting { channel, report }),
            external: None,
        }
    }

    fn running(pid: Pid, pidfd: OwnedFd, terminal: Option<OwnedFd>) -> Self {
        Self {
            pid,
            pidfd,
            terminal,
            waiting: None,
            external: None,
        }
    }

    /// A process that another runtime has made; with `external`, it waits to be started by it.
    pub(crate) fn external(
        pid: Pid,
        pidfd: OwnedFd,
        terminal: Option<OwnedFd>,
        external: Option<External>,
    ) -> Self {
        Self {
            pid,
            pidfd,
            terminal,
            waiting: None,
            external,
        }
    }

    /// Process id, as the caller's pid namespace numbers it.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Becomes readable when the process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The master end of the terminal, once, if [`Stdio::Terminal`] was asked for.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Lets a created process execute its program and returns once it has. One that is running already is left alone.
    ///
    /// # Errors
    /// [`StartError`] if the program cannot be executed; the process has then ended and been reaped.
    pub fn start(&mut self) -> Result<(), StartError> {
        if let Some(external) = self.external.take() {
            return external.start().inspect_err(|_| {
                self.end();
            });
        }
        let Some(waiting) = &self.waiting else {
            return Ok(());
        };
        let begun = waiting
            .channel
            .send(Message::Go, None)
            .and_then(|()| waiting.channel.receive());
        match begun {
            Ok(None) if waiting.report.get().is_none() => {
                self.waiting = None;
                Ok(())
            }
            Ok(_) => Err(self.failure(&io::ErrorKind::UnexpectedEof.into())),
            Err(e) => Err(self.failure(&e)),
        }
        .map_err(|e: StartError| e.in_context(create::CONTEXT))
    }

    /// Lets go of a created process, which from here on outlives the caller and waits at its
    /// [gate](Standalone::gate).
    ///
    /// # Errors
    /// [`StartError`] if it has ended; it is reaped then.
    pub fn release(&mut self) -> Result<(), StartError> {
        let released = self.channel()?.send(Message::Go, None);
        released.map_err(|e| self.failure(&e))?;
        self.waiting = None;
        Ok(())
    }

    /// Sends `signal` by pidfd; a process that has ended is no error.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) if the kernel refuses.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        match send_signal(self.pidfd(), signal as i32) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => other.context(|| format!("cannot send {signal} to process {}", self.pid)),
        }
    }

    fn channel(&self) -> Result<&Channel, StartError> {
        let gone = || StartError::other("the process is running already");
        self.waiting.as_ref().map(|w| &w.channel).ok_or_else(gone)
    }

    /// Goes over from a process that has joined a user namespace to the one that it has made there.
    fn follow(&mut self) -> Result<(), StartError> {
        let told = self.channel()?.expect(Message::Process);
        let Some(pidfd) = told.map_err(|e| self.failure(&e))? else {
            return Err(StartError::other("the new process was not announced"));
        };
        self.reap();
        self.pid = namespaces::pid_of(pidfd.as_raw_fd()).context(|| "cannot find the new process")?;
        self.pidfd = pidfd;
        Ok(())
    }

    /// Why the process did not come as far as it should: what it reported, else how it ended. It is ended and reaped.
    fn failure(&mut self, error: &io::Error) -> StartError {
        let status = self.end();
        let waiting = self.waiting.take();
        waiting
            .and_then(|w| StartError::reported(&w.report))
            .unwrap_or_else(|| {
                let status = status.map_or_else(String::new, |s| format!(" ({s:?})"));
                StartError::other(format!(
                    "the container's process ended before its program could run{status}: {error}"
                ))
            })
    }

    /// Waits for the end of a process that ends by itself; what it reported.
    fn finish(mut self) -> Result<SharedMessage, StartError> {
        self.reap();
        let gone = || StartError::other("the process is running already");
        self.waiting.take().map(|w| w.report).ok_or_else(gone)
    }

    /// Ends and reaps the process.
    fn end(&self) -> Option<WaitStatus> {
        // One that has ended is fine, anything else would show in the waiting below.
        let _ = send_signal(self.pidfd(), libc::SIGKILL);
        self.reap()
    }

    fn reap(&self) -> Option<WaitStatus> {
        loop {
            match waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED) {
                Err(nix::errno::Errno::EINTR) => {}
                other => return other.ok(),
            }
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if self.waiting.is_some() || self.external.is_some() {
            self.end();
        }
    }
}

/// Mounts the root of `spec` at `target`, in a mount namespace that the caller gets for itself; false if `spec` has no
/// root to be mounted.
pub(crate) fn mount_root(spec: &Spec, target: &Path) -> Result<bool> {
    rootfs::mount_at(spec, target)
}

/// The system call filter that `spec` asks for, spelled out.
pub(crate) fn seccomp_of(spec: &Spec) -> Result<Option<LinuxSeccomp>> {
    seccomp::in_full(spec)
}

/// The user of `process` in numbers, looked up in the root directory `root`, with the further groups `group_add`.
pub(crate) fn find_user(process: &Process, group_add: &str, root: OwnedFd) -> Result<user::User> {
    let accounts = user::Accounts::read(&root::Root::from(root))?;
    identity::resolve(process, group_add, &accounts)
}

/// Builds the sandbox that `spec` describes and returns when its process waits to be started.
///
/// The calling process becomes undumpable (prctl(2), `PR_SET_DUMPABLE`), so that nothing in the sandbox can examine the
/// copies of it that are on their way to become the sandbox's processes.
///
/// # Errors
/// [`StartError`]; nothing is left behind then.
pub fn create(spec: &Spec, stdio: Stdio, options: &Options<'_>) -> Result<Sandbox, StartError> {
    create::create(spec, stdio, options)
}

/// The first part of [`create`]: returns while the new process is still preparing itself, so that the caller can do so too.
///
/// # Errors
/// As those of [`create`].
pub(crate) fn begin(spec: &Spec, stdio: Stdio, options: &Options<'_>) -> Result<Sandbox, StartError> {
    create::begin(spec, stdio, options)
}

/// The second part of [`create`]: waits until the process of `sandbox` has nothing left to do but to start.
///
/// # Errors
/// As those of [`create`].
pub(crate) fn ready(sandbox: &mut Sandbox, options: &Options<'_>) -> Result<(), StartError> {
    create::ready(sandbox, options)
}

/// Runs `process` in the running sandbox whose first process is `target` (a pidfd): in its namespaces and its cgroup,
/// with the seccomp setting of `spec` (the specification the sandbox was created from). Returns once the program
/// has been executed.
///
/// # Errors
/// [`StartError`], among others if the sandbox has ended.
pub fn exec(
    target: BorrowedFd<'_>,
    spec: &Spec,
    process: &Process,
    stdio: Stdio,
    options: &Options<'_>,
) -> Result<Sandbox, StartError> {
    exec::exec(target, spec, process, stdio, options)
}

/// Looks for the user of a further process, `user[:group]` by names or numbers, in the files of the sandbox whose first
/// process is `pid`. [`exec()`] does it again for itself; this tells a mistake early.
///
/// # Errors
/// [`Kind::Invalid`](crate::Kind::Invalid) or [`Kind::NotFound`](crate::Kind::NotFound) if there is no such user or
/// group; [`Kind::Internal`](crate::Kind::Internal) if the sandbox has ended.
pub fn check_user(pid: i32, text: &str) -> Result<()> {
    user::check(pid, text)
}

/// Sends the signal with number `number` (real-time ones included) to the process behind `pidfd`.
///
/// # Errors
/// [`Kind::Invalid`](crate::Kind::Invalid) for a number that is no signal, [`Kind::NotFound`](crate::Kind::NotFound) if
/// the process has ended, internal if the kernel refuses.
pub fn signal(pidfd: BorrowedFd<'_>, number: i32) -> Result<()> {
    match send_signal(pidfd, number) {
        Err(rustix::io::Errno::INVAL) => Err(Error::invalid(format!("{number} is not a signal"))),
        Err(rustix::io::Errno::SRCH) => Err(Error::not_found("the process has ended")),
        other => other.context(|| format!("cannot send signal {number}")),
    }
}

/// Computes what every sandbox needs and forked processes inherit: the host's cgroup hierarchies and the default seccomp
/// filter. Calling it once in a long-lived parent saves its children the work.
///
/// # Errors
/// Internal, if the host's hierarchies cannot be read.
pub fn warm_up() -> Result<()> {
    seccomp::Filter::builtin(defaults::CAPABILITY_MASK)?;
    crate::cgroup::support().map(drop)
}

/// Keeps processes of the sandbox from attaching to the copies of this process that join them.
fn hide_memory() -> Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context(|| "cannot become undumpable")
}

/// Gives the process a session keyring of its container's own, where the kernel has keyrings.
fn join_keyring(options: &Options<'_>) -> Result<()> {
    if options.standalone.is_some_and(|s| s.no_new_keyring) {
        return Ok(());
    }
    let id = options.id;
    let name = CString::new(format!("_ses.{id}")).context(|| "the container's id holds a NUL byte")?;
    match own::join_session_keyring(&name) {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other.context(|| "cannot join the session keyring"),
    }
}
