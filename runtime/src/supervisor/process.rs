//! A supervisor's life, from the fork to the exit file.

use std::{
    fs::{self, File},
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use nix::sys::stat::{Mode, umask};
use oci_spec::runtime::{ContainerState, LinuxResources, Spec};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FlockOperation, flock},
    net::{AddressFamily, SocketFlags, SocketType},
};

use super::{
    client::{send_line, short_address},
    config::{LogConfig, SPEC_FILE, STATE_FILE, SupervisorConfig, write_json},
    connection::{Greeting, Peer},
    exec::Exec,
    fanout::Limits,
    protocol::{Event, ExitStatus, Failure, PROTOCOL, Snapshot, Status},
    session::{Ending, Session},
    state::{Identity, State},
    stdio::Streams,
};
use crate::{
    Error, Result,
    cgroup::{Cgroup, OomWatch},
    error::Context,
    external::External,
    failpoint::hit,
    log::Writer,
    sandbox::{self, Hooks, Options, Point, StartError, Stdio},
    sys::{memory, pages::Pages, title},
};

/// Size of the one buffer through which everything is read, in bytes; also the capacity of a pipe.
const BUFFER: usize = 64 * 1024;

/// How long the end of a container waits for processes that were killed and do not go away.
const LEFTOVERS: Duration = Duration::from_secs(5);

/// Runs the container of `bundle` to its end.
///
/// # Errors
/// Internal, if not even the failure could be recorded.
pub(super) fn run(bundle: &Path, mut control: UnixStream) -> Result<()> {
    let lock = match hit("supervisor.lock")
        .map_err(Error::from)
        .and_then(|()| lock(bundle))
    {
        Ok(lock) => lock,
        Err(e) => return send_line(&mut control, &failed(0, &e, 128)),
    };
    // An engine that died after asking must find the bundle as if it had not asked.
    if hung_up(&control) {
        return Ok(());
    }
    let config = SupervisorConfig::load(bundle);
    if let Ok(config) = &config {
        // What `ps` shows is not worth failing for.
        let _ = title::set(&format!("berth-super {}", config.id));
    }
    let exit_file = config
        .as_ref()
        .map_or_else(|_| "exit.json".into(), |c| c.exit_file.clone());
    match config
        .map_err(StartError::from)
        .and_then(|config| Supervisor::create(bundle, config))
    {
        Ok(mut supervisor) => {
            supervisor.lock = Some(lock);
            supervisor.welcome(control)?;
            supervisor.serve()
        }
        Err(error) => {
            let status = never_ran(&error);
            let recorded = write_json(&bundle.join(exit_file), &status);
            send_line(&mut control, &failed(0, &error.error, error.code))?;
            send_line(&mut control, &Event::Exit(status))?;
            recorded
        }
    }
}

/// Claims `bundle`. See [`super`] on what the lock means.
pub(super) fn lock(bundle: &Path) -> Result<File> {
    let directory = File::open(bundle).context(|| format!("cannot open the bundle {}", bundle.display()))?;
    flock(&directory, FlockOperation::NonBlockingLockExclusive).map_err(|e| {
        Error::conflict(format!(
            "the bundle {} is in use by another supervisor",
            bundle.display()
        ))
        .caused_by(io::Error::from(e))
    })?;
    Ok(directory)
}

fn hung_up(control: &UnixStream) -> bool {
    let mut fds = [PollFd::new(control, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec::default())).is_ok() && fds[0].revents().contains(PollFlags::HUP)
}

pub(super) fn failed(id: u64, error: &Error, code: i32) -> Event {
    Event::Failed {
        id,
        failure: failure(error, code),
    }
}

pub(super) fn failure(error: &Error, code: i32) -> Failure {
    Failure {
        kind: error.kind().into(),
        code,
        message: error.to_string(),
    }
}

pub(super) fn never_ran(error: &StartError) -> ExitStatus {
    ExitStatus {
        pid: 0,
        exit_code: error.code,
        signal: None,
        oom_killed: false,
        started_at: None,
        finished_at: Timestamp::now(),
        error: Some(error.to_string()),
    }
}

/// Where the container is in its life.
#[derive(Debug)]
pub(super) enum Phase {
    Created,
    Running(Timestamp),
    Exited(ExitStatus),
}

/// One container and everybody who is connected to it.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub bundle: PathBuf,
    pub config: SupervisorConfig,
    lock: Option<File>,
    /// What the state file says.
    state: State,
    pub cgroup: Cgroup,
    /// Programs that its specification has run.
    hooks: Hooks,
    pub listener: Option<std::os::fd::OwnedFd>,
    pub main: Session,
    pub execs: Vec<Exec>,
    pub phase: Phase,
    pub peers: Vec<Peer>,
    pub greetings: Vec<Greeting>,
    pub buffer: Pages,
    /// Of a container with a limit.
    pub oom_watch: Option<OomWatch>,
    oom_kills: u64,
    oom_killed: bool,
}

impl Supervisor {
    /// Makes cgroup and sandbox and listens; afterwards nothing is missing but the program.
    fn create(bundle: &Path, config: SupervisorConfig) -> Result<Self, StartError> {
        let path = |p: &Path| bundle.join(p);
        for stale in [
            &path(&config.exit_file),
            &path(&config.socket),
            &bundle.join(STATE_FILE),
        ] {
            match fs::remove_file(stale) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::from(e).into());
                }
                _ => {}
            }
        }
        let spec = load_spec(bundle)?;
        let log = match &config.log {
            LogConfig::None => None,
            LogConfig::JsonFile(log) => {
                hit("supervisor.log").map_err(Error::from)?;
                let mut log = log.clone();
                log.path = path(&log.path);
                Some(Writer::open(log)?)
            }
        };
        let (parent, name) = cgroup_path(&spec, &config.id);
        let none = LinuxResources::default();
        let resources = spec
            .linux()
            .as_ref()
            .and_then(|l| l.resources().as_ref())
            .unwrap_or(&none);
        hit("supervisor.cgroup").map_err(Error::from)?;
        let cgroup = Cgroup::create(&parent, &name, resources)?;
        let made = Self::create_in(bundle, config, &spec, log, &cgroup);
        if made.is_err() {
            // What could not be removed now is found by the engine, by its name.
            let _ = cgroup.kill_all();
            let _ = cgroup.remove();
        }
        made
    }

    fn create_in(
        bundle: &Path,
        config: SupervisorConfig,
        spec: &Spec,
        log: Option<Writer>,
        cgroup: &Cgroup,
    ) -> Result<Self, StartError> {
        let oom_kills = cgroup.oom_kills().unwrap_or(0);
        let resources = spec.linux().as_ref().and_then(|l| l.resources().as_ref());
        let memory = resources
            .and_then(|r| r.memory().as_ref())
            .and_then(|m| m.limit());
        // Others are told of when a process of theirs ends.
        let limited = memory.is_some_and(|limit| limit > 0);
        let process = spec.process().as_ref();
        let terminal = process.and_then(|p| p.terminal()).unwrap_or(false);
        let (streams, stdio) = match terminal {
            true => (None, terminal_size(process)),
            false => Streams::pipes(config.open_stdin).map(|(ours, theirs)| (Some(ours), theirs))?,
        };
        hit("supervisor.sandbox").map_err(Error::from)?;
        let hooks = match config.runtime {
            None => Hooks::of(spec, &config.id, bundle.to_owned()),
            // The program runs them itself.
            Some(_) => Hooks::default(),
        };
        let options = Options {
            id: &config.id,
            cgroup,
            nofile: config.nofile,
            hooks: Some(&hooks),
            standalone: None,
        };
        let mut sandbox = match external(&config, bundle) {
            Some(external) => external.create(spec, stdio)?,
            None => sandbox::begin(spec, stdio, &options)?,
        };
        // All that can be done while the new process prepares itself is done meanwhile.
        let limits = limits(bundle, &config);
        hit("supervisor.listen").map_err(Error::from)?;
        let listener = listen(&bundle.join(&config.socket))?;
        hit("supervisor.record").map_err(Error::from)?;
        let state = State {
            supervisor: Identity::of(nix::unistd::getpid().as_raw()),
            init: Identity::of(sandbox.pid().as_raw()),
            cgroup: cgroup.clone(),
            started_at: None,
        };
        state.store(bundle)?;
        let buffer = Pages::new(BUFFER).context(|| "cannot get memory for a buffer")?;
        if config.runtime.is_none() {
            sandbox::ready(&mut sandbox, &options)?;
        }
        let streams = match streams {
            Some(streams) => streams,
            None => Streams::terminal(&mut sandbox, config.open_stdin)?,
        };
        Ok(Self {
            bundle: bundle.to_owned(),
            lock: None,
            state,
            cgroup: cgroup.clone(),
            hooks,
            listener: Some(listener),
            main: Session::new(sandbox, streams, log, config.stdin_once, limits),
            execs: Vec::new(),
            phase: Phase::Created,
            peers: Vec::new(),
            greetings: Vec::new(),
            buffer,
            oom_watch: limited.then(|| cgroup.watch_oom().ok().flatten()).flatten(),
            oom_kills,
            oom_killed: false,
            config,
        })
    }

    /// Tells the engine that launched it, whose connection becomes the first control connection.
    fn welcome(&mut self, control: UnixStream) -> Result<()> {
        hit("supervisor.welcome")?;
        control.set_nonblocking(true)?;
        let mut peer = Peer::new(control);
        peer.send(&Event::Created { pid: self.pid() });
        self.peers.push(peer);
        Ok(())
    }

    pub fn pid(&self) -> i32 {
        self.main.sandbox.pid().as_raw()
    }

    pub fn snapshot(&self) -> Snapshot {
        let (status, started_at, exit) = match &self.phase {
            Phase::Created => (Status::Created, None, None),
            Phase::Running(at) => (Status::Running, Some(*at), None),
            Phase::Exited(exit) => (Status::Exited, exit.started_at, Some(exit.clone())),
        };
        let live = || self.execs.iter().filter(|e| e.status.is_none());
        Snapshot {
            protocol: PROTOCOL,
            container: self.config.id.clone(),
            status,
            pid: self.pid(),
            started_at,
            exit,
            execs: live().map(|e| e.name.clone()).collect(),
            exec_pids: live()
                .map(|e| (e.name.clone(), e.session.sandbox.pid().as_raw()))
                .collect(),
        }
    }

    pub fn broadcast(&mut self, event: &Event) {
        for peer in &mut self.peers {
            peer.send(event);
        }
    }

    /// Lets the program execute.
    ///
    /// # Errors
    /// A conflict if it was before, or why it cannot; then the container has ended.
    pub fn start(&mut self) -> Result<Timestamp, StartError> {
        if !matches!(self.phase, Phase::Created) {
            return Err(Error::conflict("the container has been started already").into());
        }
        hit("supervisor.start").map_err(Error::from)?;
        self.main.sandbox.start()?;
        let pid = Some(self.pid());
        if let Err(error) = self.hooks.run(Point::Poststart, ContainerState::Running, pid) {
            self.cgroup.kill_all()?;
            return Err(error.into());
        }
        // Too late to fail; not to die.
        let _ = hit("supervisor.started");
        let now = Timestamp::now();
        self.phase = Phase::Running(now);
        // Without the record only a lost supervisor's container is told apart less well.
        self.state.started_at = Some(now);
        let _ = self.state.store(&self.bundle);
        Ok(now)
    }

    /// Ends a container that was not started, and gives the status that is then to be announced.
    ///
    /// # Errors
    /// A conflict if it was.
    pub fn abort(&mut self) -> Result<ExitStatus> {
        if !matches!(self.phase, Phase::Created) {
            return Err(Error::conflict("the container has been started already"));
        }
        self.cgroup.kill_all()?;
        let error = StartError::other("the container was not started");
        Ok(self.wind_up(never_ran(&error)))
    }

    /// The container's first process has ended.
    pub fn ended(&mut self, ending: Ending) {
        let started_at = match &self.phase {
            Phase::Running(at) => Some(*at),
            _ => None,
        };
        let error = started_at
            .is_none()
            .then(|| "the container ended before it was started".to_owned());
        let status = self.wind_up(ExitStatus {
            pid: self.pid(),
            exit_code: ending.exit_code,
            signal: ending.signal,
            oom_killed: false,
            started_at,
            finished_at: Timestamp::now(),
            error,
        });
        self.announce(status);
    }

    /// Everything that has to be done before anybody is told: all output in the log, then the status on disk, then
    /// nothing left on the host.
    pub fn wind_up(&mut self, mut status: ExitStatus) -> ExitStatus {
        let _ = hit("supervisor.end");
        self.clear_cgroup();
        self.main.collect();
        self.end_execs();
        self.main.drain(&mut self.buffer);
        self.main.streams.close();
        self.main.finish_log();
        if let Some(dropped) = self.main.take_dropped() {
            self.broadcast(&dropped);
        }
        self.main.log = None;
        self.notice_oom();
        status.oom_killed = self.oom_killed;
        if let Err(error) = self.hooks.run(Point::Poststop, ContainerState::Stopped, None) {
            status.error.get_or_insert_with(|| error.to_string());
        }
        let recorded = hit("supervisor.exit-file")
            .map_err(Error::from)
            .and_then(|()| write_json(&self.bundle.join(&self.config.exit_file), &status));
        let _ = hit("supervisor.recorded");
        self.oom_watch = None;
        if let Some(external) = external(&self.config, &self.bundle) {
            // What it keeps is in the bundle and goes with it in any case.
            let _ = external.delete();
        }
        // What the kernel refuses once it may do the next time. Processes that cannot be killed keep their cgroup; the
        // engine finds it by its name.
        let _ = self.cgroup.remove().or_else(|_| self.cgroup.remove());
        self.listener = None;
        self.greetings.clear();
        let _ = hit("supervisor.socket");
        let _ = fs::remove_file(self.bundle.join(&self.config.socket));
        // Without the status on disk the lock stays until this process ends: nobody may think it is lost.
        if recorded.is_ok() {
            self.lock = None;
        }
        status
    }

    /// Tells everybody that the container has ended.
    pub fn announce(&mut self, status: ExitStatus) {
        self.phase = Phase::Exited(status.clone());
        self.main.fanout.finish();
        let _ = hit("supervisor.tell-end");
        self.broadcast(&Event::Exit(status));
    }

    /// Kills what the first process has left behind, which only happens if it shared its pid namespace.
    fn clear_cgroup(&mut self) {
        let deadline = std::time::Instant::now() + LEFTOVERS;
        let mut pause = Duration::from_millis(1);
        while self.cgroup.pids().is_ok_and(|pids| !pids.is_empty()) {
            if self.cgroup.kill_all().is_err() || std::time::Instant::now() > deadline {
                break;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Tells everybody if the kernel has killed for want of memory since this was last looked at.
    pub fn notice_oom(&mut self) -> bool {
        let kills = self.cgroup.oom_kills().unwrap_or(self.oom_kills);
        let more = kills > self.oom_kills;
        if more {
            self.oom_kills = kills;
            self.oom_killed = true;
            self.broadcast(&Event::Oom {});
        }
        more
    }

    /// Gives back memory that is only needed while there is something to do.
    pub fn rest(&mut self) {
        self.main.rest();
        for exec in &mut self.execs {
            exec.session.rest();
        }
        self.buffer.discard();
        memory::trim_heap();
        memory::trim_stack();
    }
}

/// The other runtime that the container is to be run by, if it is.
pub(super) fn external(config: &SupervisorConfig, bundle: &Path) -> Option<External> {
    let runtime = config.runtime.as_ref()?;
    Some(External::new(runtime, bundle, &config.id))
}

/// The specification in `bundle`.
pub(super) fn load_spec(bundle: &Path) -> Result<Spec> {
    let path = bundle.join(SPEC_FILE);
    let bytes = fs::read(&path).context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes)
        .context(|| format!("{} is not an OCI runtime specification", path.display()))
}

/// `linux.cgroupsPath` as parent and name.
pub(super) fn cgroup_path(spec: &Spec, id: &str) -> (String, String) {
    let path = spec.linux().as_ref().and_then(|l| l.cgroups_path().clone());
    let path = path.unwrap_or_else(|| Path::new("/berth").join(id));
    let parent = path
        .parent()
        .map_or_else(|| "/".into(), |p| p.to_string_lossy().into_owned());
    let name = path
        .file_name()
        .map_or_else(|| id.to_owned(), |n| n.to_string_lossy().into_owned());
    (parent, name)
}

/// The terminal that `process` asks for.
pub(super) fn terminal_size(process: Option<&oci_spec::runtime::Process>) -> Stdio {
    let size = process.and_then(|p| p.console_size());
    let cells = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
    Stdio::Terminal {
        height: size.map_or(0, |s| cells(s.height())),
        width: size.map_or(0, |s| cells(s.width())),
    }
}

pub(super) fn limits(bundle: &Path, config: &SupervisorConfig) -> Limits {
    let beside_log = match &config.log {
        LogConfig::JsonFile(log) => log.path.parent().map(|p| bundle.join(p)),
        LogConfig::None => None,
    };
    let chosen = config.backlog_dir.as_ref().map(|p| bundle.join(p));
    Limits {
        directory: chosen.or(beside_log).unwrap_or_else(|| bundle.to_owned()),
        backlog: config.backlog_max,
        stall: (config.stall_timeout > 0).then(|| Duration::from_secs(config.stall_timeout)),
    }
}

/// Makes the supervisor's socket, for root only from its first moment on.
fn listen(path: &Path) -> Result<std::os::fd::OwnedFd> {
    let message = || format!("cannot listen on {}", path.display());
    let (_directory, address) = short_address(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).context(message)?;
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = rustix::net::bind(&socket, &address);
    umask(before);
    bound.context(message)?;
    rustix::net::listen(&socket, 128).context(message)?;
    Ok(socket)
}
