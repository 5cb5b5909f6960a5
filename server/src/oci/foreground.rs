//! Staying with a process until it ends: signals go to it, its terminal is relayed to the caller's own.

use std::{
    fs::File,
    io::{self, IoSlice, Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use berth_runtime::{
    Error, Kind, Result,
    error::Context as _,
    sandbox::{self, Sandbox},
};
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
    socket::{ControlMessage, MsgFlags, sendmsg},
    wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize},
};

/// Bytes read at once.
const CHUNK: usize = 8192;

/// Hands the terminal of a new process to whoever listens on `socket`, as runc does: the descriptor comes with its name.
pub(super) fn send_terminal(sandbox: &mut Sandbox, socket: &Path) -> Result<()> {
    let message = || format!("cannot hand the terminal over to {}", socket.display());
    let master = sandbox
        .take_terminal()
        .ok_or_else(|| Error::internal("the process has no terminal"))?;
    let stream = UnixStream::connect(socket).context(message)?;
    let fds = [master.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let name = [IoSlice::new(b"/dev/ptmx")];
    sendmsg::<()>(stream.as_raw_fd(), &name, &rights, MsgFlags::MSG_NOSIGNAL, None).context(message)?;
    Ok(())
}

/// The caller's own terminal, raw until this is dropped.
struct Raw {
    before: Termios,
}

impl Raw {
    /// None if standard input is no terminal.
    fn begin() -> Result<Option<Self>> {
        let stdin = rustix::stdio::stdin();
        if !isatty(stdin) {
            return Ok(None);
        }
        let before = tcgetattr(stdin).context(|| "cannot read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin, OptionalActions::Now, &raw).context(|| "cannot set the terminal raw")?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no settings.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Waits for the end of a process that is the caller's child; its exit code.
pub(super) fn attend(sandbox: &mut Sandbox) -> Result<u8> {
    let mut set = SigSet::all();
    for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL] {
        set.remove(fault);
    }
    set.thread_block().context(|| "cannot block signals")?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context(|| "cannot receive signals")?;
    let master = sandbox.take_terminal();
    let _raw = match &master {
        Some(_) => Raw::begin()?,
        None => None,
    };
    if let Some(master) = &master {
        follow_size(master);
    }
    Watch {
        signals,
        master: master.map(File::from),
        input: true,
    }
    .run(sandbox)
}

struct Watch {
    signals: SignalFd,
    master: Option<File>,
    /// Whether standard input goes on.
    input: bool,
}

impl Watch {
    fn run(&mut self, sandbox: &Sandbox) -> Result<u8> {
        // One that ended before the signals were blocked sends no more.
        let mut ended = reap(sandbox)?;
        loop {
            if let Some(code) = ended {
                // What was written last is still to be shown.
                while self.master.is_some() && self.wait_output()? {
                    self.relay_output()?;
                }
                return Ok(code);
            }
            let (signal, output, input) = self.wait()?;
            if output {
                self.relay_output()?;
            }
            if input {
                self.relay_input()?;
            }
            if signal {
                ended = self.take_signals(sandbox)?;
            }
        }
    }

    /// Waits for a signal, output or input.
    fn wait(&self) -> Result<(bool, bool, bool)> {
        let stdin = rustix::stdio::stdin();
        let mut fds = vec![PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN)];
        if let Some(master) = &self.master {
            fds.push(PollFd::new(master, PollFlags::IN));
            if self.input {
                fds.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
            }
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context(|| "cannot wait"),
        }
        let ready = |i: usize| fds.get(i).is_some_and(|fd| !fd.revents().is_empty());
        Ok((ready(0), ready(1), ready(2)))
    }

    fn wait_output(&self) -> Result<bool> {
        let Some(master) = &self.master else {
            return Ok(false);
        };
        let mut fds = [PollFd::new(master, PollFlags::IN)];
        let none = rustix::event::Timespec::default();
        poll(&mut fds, Some(&none)).context(|| "cannot wait")?;
        Ok(fds[0].revents().contains(PollFlags::IN))
    }

    fn relay_output(&mut self) -> Result<()> {
        let mut buffer = [0; CHUNK];
        let Some(master) = &mut self.master else {
            return Ok(());
        };
        match master.read(&mut buffer) {
            Ok(length @ 1..) => {
                let mut out = io::stdout();
                let bytes = buffer.get(..length).unwrap_or_default();
                out.write_all(bytes)
                    .and_then(|()| out.flush())
                    .context(|| "cannot show the output")
            }
            // Nobody holds the other end.
            _ => {
                self.master = None;
                Ok(())
            }
        }
    }

    fn relay_input(&mut self) -> Result<()> {
        let mut buffer = [0; CHUNK];
        let length = rustix::io::read(rustix::stdio::stdin(), &mut buffer).unwrap_or(0);
        self.input = length > 0;
        if let Some(master) = &mut self.master {
            let bytes = buffer.get(..length).unwrap_or_default();
            master.write_all(bytes).context(|| "cannot pass the input on")?;
        }
        Ok(())
    }

    /// Acts on the signals that came; the exit code if the process has ended.
    fn take_signals(&self, sandbox: &Sandbox) -> Result<Option<u8>> {
        while let Some(info) = self.signals.read_signal().context(|| "cannot receive signals")? {
            let number = i32::try_from(info.ssi_signo).unwrap_or_default();
            match Signal::try_from(number) {
                Ok(Signal::SIGCHLD) => {
                    if let Some(code) = reap(sandbox)? {
                        return Ok(Some(code));
                    }
                }
                Ok(Signal::SIGWINCH) => {
                    if let Some(master) = &self.master {
                        follow_size(master);
                    }
                }
                Ok(Signal::SIGURG | Signal::SIGPIPE) => {}
                _ => match sandbox::signal(sandbox.pidfd(), number) {
                    Err(e) if e.kind() != Kind::NotFound => return Err(e),
                    _ => {}
                },
            }
        }
        Ok(None)
    }
}

/// Gives the terminal the size of the caller's own.
fn follow_size(master: &(impl AsFd + ?Sized)) {
    if let Ok(size) = tcgetwinsize(rustix::stdio::stdin()) {
        // The size is not worth failing for.
        let _ = tcsetwinsize(master, size);
    }
}

/// The exit code of the process, if it has ended; orphans that came to the caller are reaped on the way.
fn reap(sandbox: &Sandbox) -> Result<Option<u8>> {
    let status = waitid(
        Id::PIDFd(sandbox.pidfd()),
        WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG,
    )
    .context(|| "cannot wait for the process")?;
    let code = match status {
        WaitStatus::Exited(_, code) => Some(code & 0xFF),
        WaitStatus::Signaled(_, signal, _) => Some(128 + signal as i32),
        _ => None,
    };
    if code.is_some() {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(s) if s != WaitStatus::StillAlive) {}
    }
    Ok(code.map(|c| u8::try_from(c).unwrap_or(u8::MAX)))
}
