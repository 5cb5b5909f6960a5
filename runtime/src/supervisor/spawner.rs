//! The spawner: a small process that forks supervisors, because forking a big one is slow and forking one with
//! threads is unsound.

use std::{
    ffi::{CStr, OsStr},
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, net::UnixStream},
    },
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::{
    sys::{
        prctl,
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        stat::{Mode, umask},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, setsid},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
    process::{PidfdFlags, pidfd_open},
};

use super::process;
use crate::{
    Error, Kind, Result,
    error::Context,
    failpoint::hit,
    sandbox,
    sys::{fork, signals, title},
};

/// Longest bundle path, in bytes (PATH_MAX).
const MAX_PATH: usize = 4096;

/// Signals that end neither the spawner nor a supervisor, whoever sends them to their process group.
const SHRUGGED_OFF: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGPIPE,
    Signal::SIGALRM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGXFSZ,
];

/// How long a spawner that does not answer any more may take to be found dead.
const DYING: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// Set, to anything, in the environment of a program that is executed to be a spawner; its socket is standard input.
const ASKED: &str = "BERTH_SPAWNER";

/// The engine's handle on its spawner. Dropping it ends the spawner; the supervisors stay.
#[derive(Debug)]
pub struct Spawner {
    process: Mutex<Arc<Process>>,
    /// Whether the program knows what [`Spawner::serve_if_asked`] is for.
    renewable: bool,
}

/// One spawner process.
#[derive(Debug)]
struct Process {
    socket: OwnedFd,
    pid: Pid,
    pidfd: OwnedFd,
}

/// A supervisor that has just been forked and is creating its sandbox.
#[derive(Debug)]
pub struct Launched {
    /// Control connection, see [`protocol`](super::protocol): the first line to come is
    /// [`Event::Created`](super::Event::Created) or [`Event::Failed`](super::Event::Failed).
    pub control: UnixStream,
    /// Process id of the supervisor. To be shown, not signalled.
    pub supervisor_pid: i32,
    /// The supervisor itself; readable when it has ended.
    pub supervisor: OwnedFd,
}

impl Spawner {
    /// Forks the spawner. To be called first thing in `main`, while the process is small and has a single thread.
    ///
    /// # Errors
    /// [`Kind::Internal`] if there are other threads already or the system refuses.
    pub fn fork() -> Result<Self> {
        let (ours, theirs) = sockets()?;
        let pid = fork::fork(move || match serve(theirs) {
            Ok(()) => 0,
            Err(_) => 1,
        })
        .context(|| "cannot fork the spawner")?;
        Ok(Self {
            process: Mutex::new(Arc::new(Process::new(ours, pid)?)),
            renewable: false,
        })
    }

    /// The same, but with another process in the place of one that has died: this program, executed anew. Its `main`
    /// must begin with [`Spawner::serve_if_asked`].
    #[must_use]
    pub fn renewable(self) -> Self {
        Self {
            renewable: true,
            ..self
        }
    }

    /// Is the spawner, if this program was executed to be one: does not come back before the engine has gone, and then
    /// with `true`.
    pub fn serve_if_asked() -> bool {
        if std::env::var_os(ASKED).is_none() {
            return false;
        }
        // If it fails its engine sees the end of the socket.
        let _ = std::io::stdin().as_fd().try_clone_to_owned().and_then(serve);
        true
    }

    /// Forks a supervisor for `bundle`, an absolute path to a directory with `config.json` and `supervisor.json`.
    /// Blocks for the duration of one fork, about 0.2 ms; any number of threads may call it.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] if the spawner has died and there can be no other.
    /// [`Kind::Internal`] if the system refuses the fork.
    pub fn launch(&self, bundle: &Path) -> Result<Launched> {
        let process = Arc::clone(&self.process());
        match process.launch(bundle) {
            Err(error) if self.renewable && has_ended(&process.pidfd) => match self.renew(&process) {
                Ok(next) => next.launch(bundle),
                Err(reason) => Err(error.caused_by(reason)),
            },
            launched => launched,
        }
    }

    /// The spawner as a pidfd: readable when it has ended.
    ///
    /// # Errors
    /// If there is no descriptor for it.
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        self.process().pidfd.try_clone()
    }

    fn process(&self) -> MutexGuard<'_, Arc<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another process in the place of `dead`, unless somebody was faster.
    fn renew(&self, dead: &Arc<Process>) -> Result<Arc<Process>> {
        let mut process = self.process();
        if Arc::ptr_eq(&process, dead) {
            let (ours, theirs) = sockets()?;
            let child = Command::new("/proc/self/exe")
                .env(ASKED, "1")
                .stdin(theirs)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context(|| "cannot execute another spawner")?;
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
            tracing::warn!(dead = %dead.pid, %pid, "the spawner has died; there is another one");
            *process = Arc::new(Process::new(ours, pid)?);
        }
        Ok(Arc::clone(&process))
    }
}

/// The engine's end of a spawner's socket, and the spawner's.
fn sockets() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .context(|| "cannot make the spawner's socket")
}

impl Process {
    /// A child that has just been made, and is not reaped yet, so that its number cannot have gone to another process.
    fn new(socket: OwnedFd, pid: Pid) -> Result<Self> {
        let pidfd = rustix_pid(pid)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .context(|| "cannot hold the spawner")?;
        Ok(Self { socket, pid, pidfd })
    }

    fn launch(&self, bundle: &Path) -> Result<Launched> {
        let path = bundle.as_os_str().as_bytes();
        if !bundle.is_absolute() || path.len() > MAX_PATH {
            return Err(Error::invalid(format!(
                "bundle path {} must be absolute and at most {MAX_PATH} bytes long",
                bundle.display()
            )));
        }
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .context(|| "cannot make a supervisor's control socket")?;
        // The supervisor answers on its own control socket, so callers need no lock among themselves.
        hit("spawner.ask")?;
        send_with_fd(&self.socket, path, theirs.as_fd()).map_err(|e| self.dead(e))?;
        drop(theirs);
        let mut answer = [0u8; 4];
        let (length, supervisor) =
            receive_with_fd(&ours, &mut answer).context(|| "cannot read the spawner's answer")?;
        if length == 0 {
            return Err(self.dead(Errno::PIPE));
        }
        let answer = i32::from_ne_bytes(answer);
        match supervisor {
            Some(supervisor) if length == 4 && answer > 0 => Ok(Launched {
                control: UnixStream::from(ours),
                supervisor_pid: answer,
                supervisor,
            }),
            _ => Err(
                Error::internal(format!("cannot fork a supervisor for {}", bundle.display()))
                    .caused_by(io::Error::from_raw_os_error(answer.saturating_neg())),
            ),
        }
    }

    /// The error of a launch that got no answer.
    fn dead(&self, cause: Errno) -> Error {
        // A process that dies closes its files a moment before it has ended.
        let _ = poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&DYING));
        if has_ended(&self.pidfd) {
            let how = match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, code)) => format!("exited with code {code}"),
                Ok(WaitStatus::Signaled(_, signal, _)) => format!("was ended by {signal}"),
                _ => "has ended".into(),
            };
            return Error::new(
                Kind::Unavailable,
                format!(
                    "no container can be started: the spawner (pid {}) {how}; restart the engine, running containers \
                     are not affected",
                    self.pid
                ),
            );
        }
        Error::new(
            Kind::Unavailable,
            format!("the spawner (pid {}) did not answer; try again", self.pid),
        )
        .caused_by(io::Error::from(cause))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // End of file is what ends the spawner; shut down first, then leave no zombie.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        let _ = waitpid(self.pid, None);
    }
}

/// The spawner's whole life.
fn serve(socket: OwnedFd) -> io::Result<()> {
    let socket = settle(socket, c"berth-spawner")?;
    signals::shrug_off(&SHRUGGED_OFF)?;
    let mut chld = SigSet::empty();
    chld.add(Signal::SIGCHLD);
    chld.thread_set_mask()?;
    let children = SignalFd::with_flags(&chld, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    // What `ps` shows is not worth failing for.
    let _ = title::set("berth-spawner");
    // What cannot be computed ahead is computed, and complained about, by each supervisor.
    let _ = sandbox::warm_up();
    super::state::warm_up();
    let mut path = [0u8; MAX_PATH];
    loop {
        let mut fds = [
            PollFd::new(&socket, PollFlags::IN),
            PollFd::new(&children, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let (asked, ended) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if ended {
            while let Ok(Some(_)) = children.read_signal() {}
            reap();
        }
        if asked {
            match receive_with_fd(&socket, &mut path) {
                Ok((0, _)) => return Ok(()),
                Ok((length, Some(control))) => spawn(&path[..length], control),
                // Without its descriptor (no room for one here) a request cannot be answered: the engine reads end of file.
                Ok((_, None)) | Err(Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Forks one supervisor, or tells the engine why not.
fn spawn(bundle: &[u8], control: OwnedFd) {
    let fork = || {
        fork::fork(|| match start_supervisor(bundle, &control) {
            Ok(()) => 0,
            Err(_) => 1,
        })
    };
    if let Err(e) = hit("spawner.fork").and_then(|()| fork()) {
        let answer = e.raw_os_error().unwrap_or(libc::EAGAIN).saturating_neg();
        // If the engine is gone there is nobody to tell.
        let _ = rustix::net::send(&control, &answer.to_ne_bytes(), SendFlags::NOSIGNAL);
    }
}

/// The first steps of a supervisor: becomes a process of its own and announces itself.
fn start_supervisor(bundle: &[u8], control: &OwnedFd) -> io::Result<()> {
    let control = control.try_clone()?;
    let control = settle(control, c"berth-super")?;
    SigSet::empty().thread_set_mask()?;
    let pid = nix::unistd::getpid();
    hit("supervisor.announce")?;
    let this = pidfd_open(rustix_pid(pid)?, PidfdFlags::empty())?;
    send_with_fd(&control, &pid.as_raw().to_ne_bytes(), this.as_fd())?;
    drop(this);
    process::run(Path::new(OsStr::from_bytes(bundle)), UnixStream::from(control)).map_err(io::Error::other)
}

/// Makes a freshly forked process independent of its parent: session, directory, descriptors, name.
fn settle(keep: OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    let keep = fork::close_all_but(keep)?;
    setsid()?;
    prctl::set_name(name)?;
    prctl::set_dumpable(false)?;
    nix::unistd::chdir("/")?;
    umask(Mode::from_bits_truncate(0o022));
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(keep)
}

/// Collects the supervisors that have ended.
fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

/// Whether the process behind `pidfd` has ended.
pub(super) fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok() && !fds[0].revents().is_empty()
}

fn rustix_pid(pid: Pid) -> Result<rustix::process::Pid, Errno> {
    rustix::process::Pid::from_raw(pid.as_raw()).ok_or(Errno::SRCH)
}

/// Sends one message that carries one descriptor.
fn send_with_fd(socket: &OwnedFd, bytes: &[u8], fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::INVAL);
    }
    loop {
        match sendmsg(
            socket,
            &[IoSlice::new(bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        ) {
            Err(Errno::INTR) => {}
            done => return done.map(drop),
        }
    }
}

/// Receives one message and the descriptor it carries.
fn receive_with_fd(socket: &OwnedFd, bytes: &mut [u8]) -> Result<(usize, Option<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    loop {
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = match recvmsg(
            socket,
            &mut [IoSliceMut::new(bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        let mut fd = None;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                for received in fds {
                    fd = Some(received);
                }
            }
        }
        return Ok((received.bytes, fd));
    }
}
