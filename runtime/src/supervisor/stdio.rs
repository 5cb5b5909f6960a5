//! The standard streams of a process as its supervisor holds them.

use std::{
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
};

use nix::{fcntl::OFlag, unistd::pipe2};
use rustix::{
    fs::{OFlags, fcntl_setfl},
    pipe::fcntl_getpipe_size,
    pty::{OpenptFlags, ioctl_tiocgptpeer},
    termios::{Winsize, tcsetwinsize},
};

use crate::{
    Result,
    error::Context,
    log::Stream,
    sandbox::{Sandbox, Stdio},
};

/// More than the kernel keeps for a terminal, in bytes.
const TERMINAL_CAPACITY: usize = 1 << 20;

/// The supervisor's ends of a process's standard streams.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub input: Input,
    outputs: [Option<OwnedFd>; 2],
    terminal: Option<Terminal>,
}

/// A terminal's master end, and a peer kept open so that the master does not report a hang-up while the process is
/// between two uses of it.
#[derive(Debug)]
struct Terminal {
    master: OwnedFd,
    _peer: OwnedFd,
}

/// What reading an output gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Output {
    Bytes(usize),
    Nothing,
    End,
}

impl Streams {
    /// Pipes, and the other ends for the process. Standard input is `/dev/null` unless `open_stdin`.
    pub fn pipes(open_stdin: bool) -> Result<(Self, Stdio)> {
        let pipe = || pipe2(OFlag::O_CLOEXEC).context(|| "cannot make a pipe");
        let (stdin, input) = match open_stdin {
            true => pipe().map(|(theirs, ours)| (Some(theirs), Some(ours)))?,
            false => (None, None),
        };
        let (out, stdout) = pipe()?;
        let (err, stderr) = pipe()?;
        for ours in [input.as_ref(), Some(&out), Some(&err)].into_iter().flatten() {
            non_blocking(ours)?;
        }
        let streams = Self {
            input: Input::to(input),
            outputs: [Some(out), Some(err)],
            terminal: None,
        };
        Ok((
            streams,
            Stdio::Pipes {
                stdin,
                stdout,
                stderr,
            },
        ))
    }

    /// Takes over the terminal that `sandbox` was created with. Input for it is dropped unless `open_stdin`.
    pub fn terminal(sandbox: &mut Sandbox, open_stdin: bool) -> Result<Self> {
        let master = sandbox
            .take_terminal()
            .ok_or_else(|| crate::Error::internal("the sandbox has no terminal"))?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let peer = ioctl_tiocgptpeer(&master, flags).context(|| "cannot open the terminal")?;
        non_blocking(&master)?;
        let copy = || master.try_clone().context(|| "cannot duplicate the terminal");
        Ok(Self {
            input: Input::to(open_stdin.then(copy).transpose()?),
            outputs: [Some(copy()?), None],
            terminal: Some(Terminal { master, _peer: peer }),
        })
    }

    pub fn is_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// An output that has not ended.
    pub fn output(&self, stream: Stream) -> Option<&OwnedFd> {
        self.outputs[stream as usize].as_ref()
    }

    /// Whether all outputs have ended.
    pub fn ended(&self) -> bool {
        self.outputs.iter().all(Option::is_none)
    }

    /// Reads what there is on one output, without blocking.
    pub fn read(&mut self, stream: Stream, buffer: &mut [u8]) -> Output {
        let output = &mut self.outputs[stream as usize];
        let Some(fd) = output else { return Output::End };
        loop {
            match rustix::io::read(&*fd, &mut *buffer) {
                Ok(length) if length > 0 => return Output::Bytes(length),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Output::Nothing,
                // A terminal without a peer reports EIO.
                Ok(_) | Err(_) => {
                    *output = None;
                    return Output::End;
                }
            }
        }
    }

    /// How much one output can hold that has not been read yet, in bytes.
    pub fn capacity(&self, stream: Stream) -> usize {
        self.output(stream)
            .and_then(|fd| fcntl_getpipe_size(fd).ok())
            .unwrap_or(TERMINAL_CAPACITY)
    }

    /// Sets the size of the terminal, if there is one.
    pub fn resize(&self, width: u16, height: u16) -> Result<()> {
        let Some(terminal) = &self.terminal else {
            return Ok(());
        };
        let size = Winsize {
            ws_row: height,
            ws_col: width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&terminal.master, size).context(|| "cannot set the terminal's size")
    }

    /// Closes everything.
    pub fn close(&mut self) {
        *self = Self::default();
    }
}

fn non_blocking(fd: impl AsFd) -> Result<()> {
    fcntl_setfl(fd, OFlags::NONBLOCK).context(|| "cannot make a descriptor non-blocking")
}

/// Standard input: takes one chunk at a time and writes it as the process reads.
#[derive(Debug, Default)]
pub(super) struct Input {
    file: Option<std::fs::File>,
    pending: Vec<u8>,
    written: usize,
    closing: bool,
}

impl Input {
    fn to(fd: Option<OwnedFd>) -> Self {
        Self {
            file: fd.map(Into::into),
            ..Self::default()
        }
    }

    /// The descriptor to wait on until it takes more, if there is something to write.
    pub fn blocked(&self) -> Option<&std::fs::File> {
        self.file.as_ref().filter(|_| !self.has_room())
    }

    /// Whether the next chunk may come.
    pub fn has_room(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes a chunk; what comes for an input that is closed is dropped.
    pub fn push(&mut self, bytes: &[u8]) {
        let done = match self.closing {
            true => 0,
            false => self.write(bytes),
        };
        if self.file.is_some() && !self.closing {
            self.pending
                .extend_from_slice(bytes.get(done..).unwrap_or_default());
        }
    }

    /// Goes on writing.
    pub fn resume(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        self.written += self.write(pending.get(self.written..).unwrap_or_default());
        if self.written < pending.len() && self.file.is_some() {
            self.pending = pending;
            return;
        }
        self.written = 0;
        if self.closing {
            self.file = None;
        }
    }

    /// Closes it once everything is written.
    pub fn close(&mut self) {
        self.closing = true;
        if self.has_room() {
            self.file = None;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while let (Some(file), Some(rest)) = (&mut self.file, bytes.get(done..)) {
            if rest.is_empty() {
                break;
            }
            match file.write(rest) {
                Ok(length) => done += length,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // Nobody reads any more.
                Err(_) => self.file = None,
            }
        }
        done
    }
}
