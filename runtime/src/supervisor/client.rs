//! The engine's side of a supervisor's socket. Everything here blocks; the sockets handed out can be made
//! non-blocking and given to any runtime.

use std::{
    io::{Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType},
};

use super::protocol::{
    Event, ExecRequest, Failure, Hello, MAX_LINE, Request, RequestLine, StreamReply, Streams, decode_line,
    encode_line,
};
use crate::{Error, Kind, Result, error::Context};

/// How long a supervisor may take to answer a hello. It never blocks, so only a stopped or overloaded host comes near.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A connection that carries standard streams.
#[derive(Debug)]
pub struct Attached {
    /// Output to read, input to write; input ends by shutting down the write half. Blocking.
    pub stream: UnixStream,
    /// Whether the output is raw terminal bytes instead of Docker's frames.
    pub tty: bool,
    /// Process id on the host, of an exec; 0 for the container's own streams.
    pub pid: i32,
}

/// Attaches to the container's own streams. When this returns, whatever the container writes reaches the stream.
///
/// # Errors
/// [`Kind::Unavailable`] if no supervisor listens on `socket`, else what the supervisor answers.
pub fn connect_attach(socket: &Path, streams: Streams) -> Result<Attached> {
    Ok(open_streams(socket, &Hello::Attach(streams))?)
}

/// Runs a further process in the container and attaches to it.
///
/// # Errors
/// [`Kind::Unavailable`] if no supervisor listens on `socket`, else what the supervisor answers, with the exit code
/// that stands for a program that could not be run.
pub fn connect_exec(socket: &Path, request: ExecRequest) -> Result<Attached, Failure> {
    open_streams(socket, &Hello::Exec(Box::new(request)))
}

/// Opens a control connection; its first line to come is [`Event::State`].
///
/// # Errors
/// [`Kind::Unavailable`] if no supervisor listens on `socket`.
pub fn connect_control(socket: &Path) -> Result<UnixStream> {
    let mut stream = connect(socket)?;
    send_line(&mut stream, &Hello::Control {})?;
    Ok(stream)
}

fn open_streams(socket: &Path, hello: &Hello) -> Result<Attached, Failure> {
    let mut stream = connect(socket)?;
    send_line(&mut stream, hello)?;
    stream
        .set_read_timeout(Some(HANDSHAKE))
        .context(|| "cannot set a time limit")?;
    let reply = decode_line(&receive_line(&mut stream)?)?;
    stream
        .set_read_timeout(None)
        .context(|| "cannot lift a time limit")?;
    match reply {
        StreamReply::Attached { tty } => Ok(Attached { stream, tty, pid: 0 }),
        StreamReply::Started { pid, tty } => Ok(Attached { stream, tty, pid }),
        StreamReply::Failed(failure) => Err(failure),
    }
}

/// Connects to a supervisor's socket, however long its path is (`sun_path` holds 107 bytes only).
pub(super) fn connect(socket: &Path) -> Result<UnixStream> {
    let absent = || {
        Error::new(
            Kind::Unavailable,
            format!("no supervisor listens on {}", socket.display()),
        )
    };
    let (_directory, address) = short_address(socket).map_err(|e| absent().caused_by(e))?;
    let fd = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .context(|| "cannot make a socket")?;
    rustix::net::connect(&fd, &address).map_err(|e| absent().caused_by(e))?;
    Ok(UnixStream::from(fd))
}

/// The address of `socket` through a descriptor of its directory, which has to live as long as the address is used.
pub(super) fn short_address(socket: &Path) -> Result<(OwnedFd, SocketAddrUnix)> {
    let (Some(parent), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(Error::invalid(format!("{} cannot be a socket", socket.display())));
    };
    let directory = rustix::fs::open(
        parent,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context(|| format!("cannot open {}", parent.display()))?;
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    path.push(name);
    let address =
        SocketAddrUnix::new(&path).context(|| format!("the name of {} is too long", socket.display()))?;
    Ok((directory, address))
}

/// Writes one line, blocking.
///
/// # Errors
/// [`Kind::Unavailable`] if the supervisor has gone.
pub fn send_line<T: serde::Serialize>(stream: &mut UnixStream, message: &T) -> Result<()> {
    let mut line = Vec::with_capacity(128);
    encode_line(message, &mut line)?;
    stream.write_all(&line).map_err(gone)
}

/// Reads exactly one line, newline included, and not a byte beyond it.
fn receive_line(stream: &mut UnixStream) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut peeked = [0u8; 512];
    loop {
        let (length, _) = rustix::net::recv(&*stream, &mut peeked, RecvFlags::PEEK)
            .map_err(std::io::Error::from)
            .map_err(gone)?;
        let seen = peeked.get(..length).unwrap_or_default();
        let end = seen.iter().position(|&b| b == b'\n').map(|at| at + 1);
        let take = end.unwrap_or(length);
        if take == 0 || line.len() + take > MAX_LINE {
            return Err(gone(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let start = line.len();
        line.resize(start + take, 0);
        stream
            .read_exact(line.get_mut(start..).unwrap_or_default())
            .map_err(gone)?;
        if end.is_some() {
            return Ok(line);
        }
    }
}

fn gone(cause: std::io::Error) -> Error {
    Error::new(Kind::Unavailable, "the container's supervisor went away").caused_by(cause)
}

/// Cuts a stream of bytes into lines, for whoever reads a control connection.
#[derive(Debug, Default)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    taken: usize,
}

impl LineBuffer {
    /// Appends what was read.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if a line grows beyond [`MAX_LINE`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        if self.bytes.len() + bytes.len() > MAX_LINE {
            return Err(Error::new(
                Kind::TooLarge,
                format!("a line on a supervisor's socket is longer than {MAX_LINE} bytes"),
            ));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole line, without its newline.
    pub fn next_line(&mut self) -> Option<&[u8]> {
        let rest = self.bytes.get(self.taken..)?;
        let end = rest.iter().position(|&b| b == b'\n')?;
        let start = self.taken;
        self.taken += end + 1;
        self.bytes.get(start..start + end)
    }
}

/// A control connection used by one thread at a time, blocking.
#[derive(Debug)]
pub struct Control {
    stream: UnixStream,
    lines: LineBuffer,
    next: u64,
}

impl Control {
    /// Wraps a launch's control end or what [`connect_control`] gave.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            lines: LineBuffer::default(),
            next: 1,
        }
    }

    /// Sends a request and gives the number its answer will carry.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] if the supervisor has gone.
    pub fn send(&mut self, request: Request) -> Result<u64> {
        let id = self.next;
        self.next += 1;
        send_line(&mut self.stream, &RequestLine { id, request })?;
        Ok(id)
    }

    /// The next event; none at the end of the connection. Waits at most as long as the stream's read time-out.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] if reading fails, [`Kind::Invalid`] if the line is not an event.
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(line) = self.lines.next_line() {
                return decode_line(line).map(Some);
            }
            let mut buffer = [0u8; 1024];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(length) => self.lines.push(buffer.get(..length).unwrap_or_default())?,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(gone(e)),
            }
        }
    }

    /// Sends a request and waits for its answer; events in between are dropped.
    ///
    /// # Errors
    /// What the supervisor answered, or [`Kind::Unavailable`] if it has gone.
    pub fn call(&mut self, request: Request) -> Result<Event> {
        let asked = self.send(request)?;
        loop {
            match self.next_event()? {
                None => return Err(gone(std::io::ErrorKind::UnexpectedEof.into())),
                Some(Event::Failed { id, failure }) if id == asked => return Err(failure.into()),
                Some(event @ (Event::Started { id, .. } | Event::Done { id })) if id == asked => {
                    return Ok(event);
                }
                Some(_) => {}
            }
        }
    }

    /// The stream itself.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }
}
