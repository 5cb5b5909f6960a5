//! Creating a sandbox: what is prepared on the host, and what its first process does inside.

use std::{
    convert::Infallible,
    fs::File,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use nix::unistd::Pid;
use oci_spec::runtime::{ContainerState, Process, Spec};
use rustix::fs::Mode;

use super::{
    ANNOTATION_INIT, Options, Point, Sandbox, StartError, Stdio,
    channel::{Channel, Message},
    devices::{self, HostNodes, Terminal},
    identity,
    idmap::Ids,
    init, masks,
    mounts::{self, Planned},
    namespaces::{self, Namespaces, PidNamespace},
    proc::Proc,
    process::{self, Settled, Streams},
    root::{Make, Root},
    rootfs::{self, OldOverlay},
    seccomp::Filter,
};
use crate::{
    Error, Result,
    cgroup::Entrances,
    error::Context,
    failpoint::{self, hit},
    ids::IdMap,
    sys::{clone, process as own, shared::SharedMessage},
};

/// Prefix of errors, in Docker's words.
pub(super) const CONTEXT: &str = "failed to create task for container: failed to create shim task: OCI runtime create failed: \
    unable to start container process";

/// All that is prepared before the process exists.
struct Plan<'a> {
    spec: &'a Spec,
    process: &'a Process,
    options: &'a Options<'a>,
    namespaces: Namespaces,
    old_overlay: Option<OldOverlay>,
    mounts: Vec<Planned>,
    host_nodes: Option<HostNodes>,
    filter: Option<Filter>,
    entrances: Entrances,
    /// Whether the process is born in its cgroups.
    entered: bool,
    init: bool,
}

impl<'a> Plan<'a> {
    fn new(spec: &'a Spec, options: &'a Options<'a>) -> Result<Self> {
        refuse_unknown(spec, options.hooks.is_some())?;
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| Error::invalid("the specification has no process"))?;
        let namespaces = Namespaces::of(spec)?;
        // No device can be made in another user namespace: `/dev` is made here, unless none can be made here either.
        let outer_dev = namespaces.other_user() && devices::can_be_made();
        let host_nodes = if namespaces.other_user() {
            Some(HostNodes::open(spec, outer_dev)?)
        } else {
            None
        };
        let init = spec.annotations().as_ref().and_then(|a| a.get(ANNOTATION_INIT));
        Ok(Self {
            spec,
            process,
            options,
            namespaces,
            old_overlay: OldOverlay::of(spec)?,
            mounts: mounts::plan(spec, options.cgroup, outer_dev)?,
            host_nodes,
            filter: Filter::of(spec)?,
            entrances: options.cgroup.entrances()?,
            entered: false,
            init: init.is_some_and(|v| v == "true"),
        })
    }
}

impl Plan<'_> {
    /// Opens what is needed from the host's mounts: the root and the sources of binds. The new process meanwhile gets on
    /// with what does not need them.
    fn open_mounts(&self, ids: Option<Ids<'_>>) -> Result<Vec<OwnedFd>> {
        let mut all = mounts::open_trees(&self.mounts, self.spec, ids)?;
        if self.old_overlay.is_none() {
            let ids = ids.filter(|_| rootfs::is_mapped(self.spec));
            all.push(rootfs::prepare(self.spec, ids)?);
        }
        Ok(all)
    }

    /// Takes them over in the new process; the root, if it is among them.
    fn receive_mounts(&mut self, channel: &Channel) -> Result<Option<OwnedFd>> {
        let root = usize::from(self.old_overlay.is_none());
        let count = mounts::tree_count(&self.mounts);
        let mut all = channel
            .receive_all(Message::Mounts, count + root)
            .context(|| "the engine gave up")?
            .into_iter();
        mounts::hand_over(&mut self.mounts, all.by_ref().take(count));
        Ok(all.next())
    }
}

/// Parts of a specification that would silently do nothing are refused instead.
fn refuse_unknown(spec: &Spec, hooks_known: bool) -> Result<()> {
    let linux = spec.linux().as_ref();
    let process = spec.process().as_ref();
    let hooks = !hooks_known
        && spec
            .hooks()
            .as_ref()
            .is_some_and(|h| *h != oci_spec::runtime::Hooks::default());
    let unknown = [
        ("hooks", hooks),
        ("linux.intelRdt", linux.is_some_and(|l| l.intel_rdt().is_some())),
        (
            "linux.timeOffsets",
            linux.is_some_and(|l| l.time_offsets().is_some()),
        ),
        (
            "linux.personality",
            linux.is_some_and(|l| l.personality().is_some()),
        ),
        (
            "linux.memoryPolicy",
            linux.is_some_and(|l| l.memory_policy().is_some()),
        ),
        (
            "linux.netDevices",
            linux.is_some_and(|l| l.net_devices().is_some()),
        ),
        (
            "linux.mountLabel",
            linux.is_some_and(|l| l.mount_label().as_ref().is_some_and(|m| !m.is_empty())),
        ),
        (
            "process.selinuxLabel",
            process.is_some_and(|p| p.selinux_label().as_ref().is_some_and(|s| !s.is_empty())),
        ),
        (
            "process.scheduler",
            process.is_some_and(|p| p.scheduler().is_some()),
        ),
        (
            "process.ioPriority",
            process.is_some_and(|p| p.io_priority().is_some()),
        ),
        (
            "process.execCPUAffinity",
            process.is_some_and(|p| p.exec_cpu_affinity().is_some()),
        ),
    ];
    match unknown.iter().find(|(_, is_there)| *is_there) {
        Some((name, _)) => Err(Error::invalid(format!(
            "{name} in the specification is not supported"
        ))),
        None => Ok(()),
    }
}

/// See [`super::create`].
pub(super) fn create(spec: &Spec, stdio: Stdio, options: &Options<'_>) -> Result<Sandbox, StartError> {
    let mut sandbox = begin(spec, stdio, options)?;
    ready(&mut sandbox, options)?;
    Ok(sandbox)
}

/// See [`super::begin`].
pub(super) fn begin(spec: &Spec, stdio: Stdio, options: &Options<'_>) -> Result<Sandbox, StartError> {
    run(spec, stdio, options).map_err(|e| in_words_of(options, e))
}

/// See [`super::ready`].
pub(super) fn ready(sandbox: &mut Sandbox, options: &Options<'_>) -> Result<(), StartError> {
    let ready = sandbox.channel()?.expect(Message::Ready);
    let terminal = ready.map_err(|e| sandbox.failure(&e));
    sandbox.terminal = terminal.map_err(|e| in_words_of(options, e))?;
    Ok(())
}

fn in_words_of(options: &Options<'_>, error: StartError) -> StartError {
    match options.standalone {
        None => error.in_context(CONTEXT),
        Some(_) => error.plainly(),
    }
}

/// Runs the hooks of `point`, if there may be any.
fn run_hooks(options: &Options<'_>, point: Point, status: ContainerState, pid: i32) -> Result<()> {
    options
        .hooks
        .map_or(Ok(()), |hooks| hooks.run(point, status, Some(pid)))
}

fn run(spec: &Spec, stdio: Stdio, options: &Options<'_>) -> Result<Sandbox, StartError> {
    let mut plan = Plan::new(spec, options)?;
    super::hide_memory()?;
    let report = SharedMessage::new().context(|| "cannot share memory with the new process")?;
    let (ours, theirs) = Channel::pair().context(|| "cannot make a channel to the new process")?;
    let (mut ours, mut stdio) = (Some(ours), Some(stdio));

    let directory = options.cgroup.v2_path().map(File::open).transpose();
    let directory = directory.context(|| "cannot open the cgroup's directory")?;
    hit("sandbox.clone").map_err(Error::from)?;
    let joins = plan.namespaces.joined_user.is_some();
    let (pid_namespace, flags) = match joins {
        false => (
            PidNamespace::enter(plan.namespaces.joined_pid.as_ref())?,
            plan.namespaces.clone_flags(),
        ),
        true => (None, 0),
    };
    let mut body = |cloned| -> i32 {
        // The new process's copy of our end would keep it from noticing that we have died.
        ours = None;
        process::end_with(&report, || match joins {
            false => inside(&mut plan, stdio.take(), cloned, &theirs, &report),
            true => join_user(&mut plan, stdio.take(), cloned, &theirs, &report),
        })
    };
    let mut child = clone::clone(flags, directory.as_ref().map(AsFd::as_fd), || body(true));
    if child.is_err() && directory.is_some() {
        // Kernels before 5.7, and cgroups that take no processes this way.
        child = clone::clone(flags, None, || body(false));
    }
    let left = pid_namespace.map_or(Ok(()), PidNamespace::leave);
    let (pid, pidfd) = child.context(|| "cannot create the namespaces (clone3)")?;
    drop(theirs);
    let ours = ours.ok_or_else(|| Error::internal("the channel to the new process is gone"))?;
    let mut sandbox = Sandbox::waiting(pid, pidfd, ours, report);
    left?;
    if joins {
        sandbox.follow()?;
    }
    let pid = sandbox.pid();

    if let Some(score) = plan.process.oom_score_adj() {
        // From here, as root of a user namespace may not do it.
        std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())
            .context(|| format!("cannot set oom_score_adj to {score}"))?;
    }
    if plan.namespaces.new_user {
        namespaces::map_ids(pid, spec)?;
        let told = sandbox.channel()?.send(Message::Mapped, None);
        told.map_err(|e| sandbox.failure(&e))?;
    }
    let user = match plan.namespaces.other_user() {
        true => Some(Owner::of(pid)?),
        false => None,
    };
    if let Some(user) = &user {
        // Only from here can they be given to somebody whom the namespace knows.
        identity::hand_over_streams(stdio.as_ref(), &user.map)?;
        if plan.namespaces.new_cgroup && mounts::has_own_cgroups(spec) && !options.cgroup.has_v1() {
            options.cgroup.delegate(user.map.root())?;
        }
    }
    for point in [Point::Prestart, Point::CreateRuntime] {
        run_hooks(options, point, ContainerState::Creating, pid.as_raw())?;
    }
    hit("sandbox.mounts").map_err(Error::from)?;
    let mounts = plan.open_mounts(user.as_ref().map(Owner::ids))?;
    let sent = sandbox.channel()?.send_all(Message::Mounts, &mounts);
    sent.map_err(|e| sandbox.failure(&e))?;
    drop(mounts);
    hit("sandbox.sent").map_err(Error::from)?;
    Ok(sandbox)
}

/// The user namespace of the new process.
struct Owner {
    namespace: OwnedFd,
    map: IdMap,
}

impl Owner {
    fn of(pid: Pid) -> Result<Self> {
        let file = File::open(format!("/proc/{pid}/ns/user"));
        Ok(Self {
            namespace: file.context(|| "cannot open the user namespace")?.into(),
            map: IdMap::of_process(pid.as_raw())?,
        })
    }

    fn ids(&self) -> Ids<'_> {
        Ids {
            namespace: self.namespace.as_fd(),
            map: &self.map,
        }
    }
}

/// What a process does that is to be in a user namespace that exists: it joins that, and makes the real one there, so
/// that the other new namespaces belong to it. This one is seen by nobody in there.
fn join_user(
    plan: &mut Plan<'_>,
    stdio: Option<Stdio>,
    cloned: bool,
    channel: &Channel,
    report: &SharedMessage,
) -> Result<Infallible, StartError> {
    failpoint::keep_within_reach();
    plan.entrances.enter(cloned)?;
    plan.entered = true;
    PidNamespace::enter(plan.namespaces.joined_pid.as_ref())?;
    if let Some(user) = &plan.namespaces.joined_user {
        nix::sched::setns(user, nix::sched::CloneFlags::CLONE_NEWUSER)
            .context(|| "cannot join the user namespace")?;
    }
    become_root()?;
    let flags = plan.namespaces.flags | libc::CLONE_PARENT as u64;
    let mut stdio = Some(stdio);
    let (_, pidfd) = clone::clone(flags, None, || {
        process::end_with(report, || {
            inside(plan, stdio.take().flatten(), cloned, channel, report)
        })
    })
    .context(|| "cannot create the namespaces (clone3)")?;
    channel
        .send(Message::Process, Some(pidfd.as_raw_fd()))
        .context(|| "the engine gave up")?;
    clone::exit(0)
}

/// What the new process does. Returns only with an error.
fn inside(
    plan: &mut Plan<'_>,
    stdio: Option<Stdio>,
    cloned: bool,
    channel: &Channel,
    report: &SharedMessage,
) -> Result<Infallible, StartError> {
    failpoint::keep_within_reach();
    hit("inside.begin").map_err(Error::from)?;
    own::reset_signals().context(|| "cannot reset the signals")?;
    rustix::process::umask(Mode::empty());
    if plan.namespaces.new_user {
        channel.expect(Message::Mapped).context(|| "the engine gave up")?;
        become_root()?;
        // The queues of an IPC namespace belong to whoever made it.
        nix::sched::unshare(plan.namespaces.ipc_of_root()).context(|| "cannot make an IPC namespace")?;
    }
    plan.namespaces.join()?;
    hit("inside.cgroup").map_err(Error::from)?;
    if !plan.entered {
        plan.entrances.enter(cloned)?;
    }
    if plan.namespaces.new_cgroup {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)
            .context(|| "cannot make a cgroup namespace")?;
    }
    nix::unistd::setsid().context(|| "cannot begin a session")?;
    super::join_keyring(plan.options)?;
    network_and_names(plan)?;

    let stdio = stdio.ok_or_else(|| Error::internal("the standard streams are gone"))?;
    let (root, proc, streams) = prepare_root(plan, stdio, channel)?;
    let filter = plan.filter.take();
    hit("inside.settle").map_err(Error::from)?;
    let settled = process::settle(
        plan.spec,
        plan.process,
        &streams,
        filter,
        plan.options.nofile,
        Some(&proc),
        &root,
    )?;
    settled.take_terminal()?;
    let preserved = plan.options.standalone.map_or(0, |s| s.preserve_fds);
    let first = i32::try_from(preserved).unwrap_or(i32::MAX - 3) + 3;
    own::close_on_exec_from(first).context(|| "cannot close the engine's files")?;
    let master = streams.master.as_ref().map(AsRawFd::as_raw_fd);
    hit("inside.ready").map_err(Error::from)?;
    channel
        .send(Message::Ready, master)
        .context(|| "the engine gave up")?;
    // If the engine's side is gone, so is the reason to run.
    channel.expect(Message::Go).context(|| "the engine gave up")?;
    let Some(gate) = plan.options.standalone.and_then(|s| s.gate) else {
        return execute(plan, &settled, channel, report);
    };
    let starter = gate.wait()?;
    let failed = match execute(plan, &settled, channel, report) {
        Ok(never) => match never {},
        Err(failed) => failed.plainly(),
    };
    starter.tell(&failed);
    Err(failed)
}

/// The last steps, once the start has been asked for.
fn execute(
    plan: &Plan<'_>,
    settled: &Settled,
    channel: &Channel,
    report: &SharedMessage,
) -> Result<Infallible, StartError> {
    let own_id = rustix::process::getpid().as_raw_nonzero().get();
    run_hooks(
        plan.options,
        Point::StartContainer,
        ContainerState::Created,
        own_id,
    )?;
    hit("inside.seal").map_err(Error::from)?;
    settled.seal()?;
    if plan.init {
        return init::run(settled, report, channel);
    }
    Err(settled.execute())
}

/// In a new user namespace nobody is root by birth.
pub(super) fn become_root() -> Result<()> {
    use rustix::{fs::Gid, fs::Uid, thread};
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    thread::set_thread_groups(&[]).context(|| "cannot drop the groups")?;
    thread::set_thread_res_gid(gid, gid, gid).context(|| "cannot become the namespace's root group")?;
    thread::set_thread_res_uid(uid, uid, uid).context(|| "cannot become the namespace's root")
}

fn network_and_names(plan: &Plan<'_>) -> Result<()> {
    if plan.namespaces.new_net {
        own::loopback_up().context(|| "cannot take up the loopback interface")?;
    }
    if let Some(name) = plan.spec.hostname().as_deref().filter(|n| !n.is_empty()) {
        if !plan.namespaces.own_uts {
            return Err(Error::invalid(
                "a hostname needs a UTS namespace of the container's own",
            ));
        }
        rustix::system::sethostname(name.as_bytes())
            .context(|| format!("cannot set the hostname {name:?}"))?;
    }
    if let Some(name) = plan.spec.domainname().as_deref().filter(|n| !n.is_empty()) {
        if !plan.namespaces.own_uts {
            return Err(Error::invalid(
                "a domainname needs a UTS namespace of the container's own",
            ));
        }
        rustix::system::setdomainname(name.as_bytes())
            .context(|| format!("cannot set the domainname {name:?}"))?;
    }
    Ok(())
}

/// Enters the root and fills it; what is wrong with it after that, the container has done itself.
fn prepare_root(
    plan: &mut Plan<'_>,
    stdio: Stdio,
    channel: &Channel,
) -> Result<(Root, Proc, Streams), StartError> {
    let spec = plan.spec;
    mounts::make(&mut plan.mounts)?;
    let detached = plan.receive_mounts(channel)?;
    let own_id = rustix::process::getpid().as_raw_nonzero().get();
    run_hooks(
        plan.options,
        Point::CreateContainer,
        ContainerState::Creating,
        own_id,
    )?;
    let pivot = !plan.options.standalone.is_some_and(|s| s.no_pivot);
    hit("inside.root").map_err(Error::from)?;
    let root = rootfs::enter(detached, plan.old_overlay.as_ref(), pivot)?;
    hit("inside.attach").map_err(Error::from)?;
    let attached = mounts::attach(std::mem::take(&mut plan.mounts), &root)?;
    if let Some(dev) = &attached.dev {
        hit("inside.devices").map_err(Error::from)?;
        devices::populate(spec, &root, dev, plan.host_nodes.as_ref())?;
    }
    let terminal = match (&stdio, &attached.pts) {
        (Stdio::Pipes { .. }, _) => None,
        (Stdio::Terminal { height, width }, Some(pts)) => Some(Terminal::open(pts, *height, *width)?),
        (Stdio::Terminal { height, width }, None) => Some(Terminal::open_in(&root, *height, *width)?),
    };
    if let Some(terminal) = &terminal {
        hit("inside.console").map_err(Error::from)?;
        terminal.show_as_console(&root)?;
    }
    let streams = Streams::new(stdio, terminal, &root)?;

    let proc = match &attached.proc {
        Some(proc) => Proc::of(proc)?,
        None => Proc::new()?,
    };
    let linux = spec.linux().as_ref();
    if let Some(parameters) = linux.and_then(|l| l.sysctl().as_ref()) {
        hit("inside.sysctl").map_err(Error::from)?;
        proc.set_parameters(parameters, &plan.namespaces)?;
    }
    let cwd = plan.process.cwd();
    hit("inside.cwd").map_err(Error::from)?;
    root.make(cwd, Make::Directory)
        .context(|| format!("mkdir {}: cannot make the working directory", cwd.display()))?;
    let masked = linux
        .and_then(|l| l.masked_paths().as_deref())
        .unwrap_or_default();
    let readonly = linux
        .and_then(|l| l.readonly_paths().as_deref())
        .unwrap_or_default();
    hit("inside.masks").map_err(Error::from)?;
    masks::apply(masked, readonly, &root, &attached)?;
    rootfs::seal(&root, spec)?;
    hit("inside.verify").map_err(Error::from)?;
    mounts::verify(&root, &attached)?;
    Ok((root, proc, streams))
}
