//! Output that also goes to a log of the host: syslog (RFC 3164, RFC 5424) or systemd-journald.
//!
//! What the receiver does not take at once is kept, up to a bound; beyond that it is lost and counted. So a receiver that
//! never reads never holds up the container. A receiver that is gone is tried again from time to time.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Write},
    net::{TcpStream, ToSocketAddrs, UdpSocket},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixDatagram, UnixStream},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

use super::Stream;
use crate::{Error, Result};

/// Where journald listens, on hosts that have it.
pub const JOURNAL: &str = "/run/systemd/journal/socket";
/// Where the host's own syslog listens, in the order in which they are tried.
const LOCAL: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];
/// How long a connection may take when a container starts, and later.
const FIRST: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(200);
/// How long to leave a receiver alone that is gone.
const PAUSE: Duration = Duration::from_secs(5);
/// How long the receiver may take for the rest when the container has ended.
const FAREWELL: Duration = Duration::from_secs(2);

/// A log of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// Who takes it.
    pub receiver: Receiver,
    /// Bytes that may wait for it.
    pub max_buffer: u64,
}

/// Who takes output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "kebab-case")]
pub enum Receiver {
    /// A syslog daemon.
    Syslog(Syslog),
    /// The host's journal: these fields come with every entry.
    Journald {
        /// Name and value.
        fields: Vec<(String, String)>,
    },
}

/// How a syslog daemon is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Syslog {
    /// Where it listens.
    pub address: Address,
    /// Number of the facility, RFC 5424 section 6.2.1.
    pub facility: u8,
    /// How a message looks.
    pub format: Format,
    /// What the messages are of.
    pub tag: String,
    /// Name of this host.
    pub hostname: String,
}

/// Where a syslog daemon listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Address {
    /// On this host, wherever that is.
    Local,
    /// A unix socket: of streams, or if it has none, of datagrams.
    Unix(PathBuf),
    /// A unix socket of datagrams.
    Unixgram(PathBuf),
    /// `host:port`.
    Tcp(String),
    /// `host:port`.
    Udp(String),
}

/// How a syslog message looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// As programs of the same host write: no host name.
    Local,
    /// RFC 3164.
    Rfc3164,
    /// RFC 5424, seconds.
    Rfc5424,
    /// RFC 5424, microseconds.
    Rfc5424micro,
}

#[derive(Debug)]
enum Socket {
    UnixStream(UnixStream),
    UnixDatagram(UnixDatagram),
    Tcp(TcpStream),
    Udp(UdpSocket),
}

/// The connection to a receiver, and what waits for it.
#[derive(Debug)]
pub(super) struct Sink {
    config: Remote,
    socket: Option<Socket>,
    /// When the receiver may be tried again.
    again: Instant,
    waiting: VecDeque<Vec<u8>>,
    /// Bytes in `waiting`.
    bytes: u64,
    /// Bytes of output lost since this was last asked, and why.
    lost: Option<(u64, io::Error)>,
}

impl Sink {
    /// Connects.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) if the receiver cannot be reached.
    pub fn open(config: Remote) -> Result<Self> {
        let socket =
            connect(&config.receiver, FIRST).map_err(|error| unreachable(&config.receiver, error))?;
        Ok(Self {
            config,
            socket: Some(socket),
            again: Instant::now(),
            waiting: VecDeque::new(),
            bytes: 0,
            lost: None,
        })
    }

    /// Sends a line, without its newline; `partial` if it goes on.
    pub fn entry(&mut self, stream: Stream, text: &[u8], partial: bool, now: Timestamp) {
        let message = match &self.config.receiver {
            Receiver::Syslog(syslog) => syslog.message(stream, text, now),
            Receiver::Journald { fields } => journal(fields, stream, text, partial),
        };
        if self.bytes + message.len() as u64 > self.config.max_buffer {
            self.lose(text.len() as u64, ErrorKind::StorageFull.into());
            return;
        }
        self.bytes += message.len() as u64;
        self.waiting.push_back(message);
        self.send();
    }

    /// What is to be watched for room, if anything waits for it.
    pub fn lags(&self) -> Option<BorrowedFd<'_>> {
        self.socket
            .as_ref()
            .filter(|_| !self.waiting.is_empty())
            .map(AsFd::as_fd)
    }

    /// Sends what the receiver takes.
    pub fn send(&mut self) {
        if self.socket.is_none() && !self.waiting.is_empty() && Instant::now() >= self.again {
            match connect(&self.config.receiver, AGAIN) {
                Ok(socket) => self.socket = Some(socket),
                Err(_) => self.again = Instant::now() + PAUSE,
            }
        }
        while let (Some(socket), Some(first)) = (&mut self.socket, self.waiting.front_mut()) {
            match socket.send(first) {
                Ok(sent) if sent < first.len() && socket.is_stream() => {
                    first.drain(..sent);
                    self.bytes -= sent as u64;
                }
                Ok(_) => self.done(),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // This one datagram it never takes.
                Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) => {
                    self.lose(self.waiting.front().map_or(0, |first| first.len() as u64), e);
                    self.done();
                }
                Err(_) => {
                    self.socket = None;
                    self.again = Instant::now() + PAUSE;
                }
            }
        }
    }

    /// Waits a little for what is left to be taken.
    pub fn finish(&mut self) {
        let until = Instant::now() + FAREWELL;
        self.again = Instant::now();
        self.send();
        while let Some(fd) = self.lags() {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [rustix::event::PollFd::from_borrowed_fd(
                fd,
                rustix::event::PollFlags::OUT,
            )];
            let timeout = rustix::event::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or_default(),
                tv_nsec: left.subsec_nanos().into(),
            };
            if left.is_zero() || !matches!(rustix::event::poll(&mut fds, Some(&timeout)), Ok(1..)) {
                break;
            }
            self.send();
        }
        if self.bytes > 0 {
            self.lose(self.bytes, ErrorKind::TimedOut.into());
        }
    }

    /// Bytes that did not reach the receiver since this was last asked, and why the last of them did not.
    pub fn take_lost(&mut self) -> Option<(u64, io::Error)> {
        self.lost.take()
    }

    fn done(&mut self) {
        if let Some(first) = self.waiting.pop_front() {
            self.bytes = self.bytes.saturating_sub(first.len() as u64);
        }
    }

    fn lose(&mut self, bytes: u64, reason: io::Error) {
        let before = self.lost.take().map_or(0, |(bytes, _)| bytes);
        self.lost = Some((before + bytes, reason));
    }
}

impl Socket {
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::UnixStream(socket) => socket.write(bytes),
            Self::UnixDatagram(socket) => socket.send(bytes),
            Self::Tcp(socket) => socket.write(bytes),
            Self::Udp(socket) => socket.send(bytes),
        }
    }

    fn is_stream(&self) -> bool {
        matches!(self, Self::UnixStream(_) | Self::Tcp(_))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::UnixStream(socket) => socket.as_fd(),
            Self::UnixDatagram(socket) => socket.as_fd(),
            Self::Tcp(socket) => socket.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

/// The error of a receiver that cannot be reached when a container starts. Clients take a text about a missing file for
/// a missing program.
fn unreachable(receiver: &Receiver, error: io::Error) -> Error {
    let why = match receiver {
        Receiver::Journald { .. } => "journald is not enabled on this host".to_owned(),
        Receiver::Syslog(Syslog {
            address: Address::Local,
            ..
        }) => "Unix syslog delivery error".to_owned(),
        Receiver::Syslog(_) => error.to_string(),
    };
    Error::internal(format!("failed to initialize logging driver: {why}"))
}

/// A connection that never blocks.
fn connect(receiver: &Receiver, patience: Duration) -> io::Result<Socket> {
    match receiver {
        Receiver::Journald { .. } => datagrams(Path::new(JOURNAL)),
        Receiver::Syslog(syslog) => match &syslog.address {
            Address::Local => {
                let mut last = ErrorKind::NotFound.into();
                for path in LOCAL.map(Path::new) {
                    match unix(path) {
                        Ok(socket) => return Ok(socket),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
            Address::Unix(path) => unix(path),
            Address::Unixgram(path) => datagrams(path),
            Address::Tcp(address) => tcp(address, patience),
            Address::Udp(address) => {
                let target = resolve(address)?;
                let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any)?;
                socket.connect(target)?;
                socket.set_nonblocking(true)?;
                Ok(Socket::Udp(socket))
            }
        },
    }
}

fn unix(path: &Path) -> io::Result<Socket> {
    match UnixStream::connect(path) {
        Ok(socket) => {
            socket.set_nonblocking(true)?;
            Ok(Socket::UnixStream(socket))
        }
        Err(e) if e.raw_os_error() == Some(libc::EPROTOTYPE) => datagrams(path),
        Err(e) => Err(e),
    }
}

fn datagrams(path: &Path) -> io::Result<Socket> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    Ok(Socket::UnixDatagram(socket))
}

fn tcp(address: &str, patience: Duration) -> io::Result<Socket> {
    let socket = TcpStream::connect_timeout(&resolve(address)?, patience)?;
    socket.set_nonblocking(true)?;
    Ok(Socket::Tcp(socket))
}

fn resolve(address: &str) -> io::Result<std::net::SocketAddr> {
    let mut found = address.to_socket_addrs()?;
    found.next().ok_or_else(|| ErrorKind::AddrNotAvailable.into())
}

impl Syslog {
    fn message(&self, stream: Stream, text: &[u8], now: Timestamp) -> Vec<u8> {
        let severity = match stream {
            Stream::Stdout => 6,
            Stream::Stderr => 3,
        };
        let priority = u32::from(self.facility) * 8 + severity;
        let (tag, host, pid) = (&self.tag, &self.hostname, std::process::id());
        let head = match self.format {
            Format::Local => format!("<{priority}>{} {tag}[{pid}]: ", stamp(now)),
            Format::Rfc3164 => format!("<{priority}>{} {host} {tag}[{pid}]: ", stamp(now)),
            Format::Rfc5424 => format!("<{priority}>1 {now:.0} {host} {tag} {pid} {tag} - "),
            Format::Rfc5424micro => format!("<{priority}>1 {now:.6} {host} {tag} {pid} {tag} - "),
        };
        [head.as_bytes(), text, b"\n"].concat()
    }
}

/// `Jan  2 03:04:05` in the host's time.
fn stamp(now: Timestamp) -> String {
    TimeZone::system()
        .to_datetime(now)
        .strftime("%b %e %H:%M:%S")
        .to_string()
}

/// An entry in the journal's own protocol.
fn journal(fields: &[(String, String)], stream: Stream, text: &[u8], partial: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 512);
    let priority: &[u8] = match stream {
        Stream::Stdout => b"6",
        Stream::Stderr => b"3",
    };
    field("PRIORITY", priority, &mut out);
    field("MESSAGE", text, &mut out);
    for (name, value) in fields {
        field(name, value.as_bytes(), &mut out);
    }
    if partial {
        field("CONTAINER_PARTIAL_MESSAGE", b"true", &mut out);
    }
    out
}

fn field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn syslog(address: Address, format: Format) -> Remote {
        Remote {
            receiver: Receiver::Syslog(Syslog {
                address,
                facility: 3,
                format,
                tag: "t".into(),
                hostname: "h".into(),
            }),
            max_buffer: 1 << 20,
        }
    }

    #[test]
    fn messages_of_every_form() {
        let now: Timestamp = "2026-01-02T03:04:05.678901Z".parse().unwrap();
        let pid = std::process::id();
        for (format, expected) in [
            (
                Format::Rfc5424,
                format!("<30>1 2026-01-02T03:04:05Z h t {pid} t - x\n"),
            ),
            (
                Format::Rfc5424micro,
                format!("<30>1 2026-01-02T03:04:05.678901Z h t {pid} t - x\n"),
            ),
        ] {
            let Receiver::Syslog(syslog) = syslog(Address::Local, format).receiver else {
                panic!()
            };
            let message = syslog.message(Stream::Stdout, b"x", now);
            assert_eq!(String::from_utf8(message).unwrap(), expected);
        }
        let Receiver::Syslog(syslog) = syslog(Address::Local, Format::Rfc3164).receiver else {
            panic!()
        };
        let message = String::from_utf8(syslog.message(Stream::Stderr, b"x", now)).unwrap();
        assert!(
            message.starts_with("<27>Jan  2 ") && message.ends_with(&format!(" h t[{pid}]: x\n")),
            "{message}"
        );
    }

    #[test]
    fn a_journal_entry() {
        let entry = journal(&[("A".into(), "1".into())], Stream::Stderr, b"a\nb", true);
        let expected = b"PRIORITY=3\nMESSAGE\n\x03\0\0\0\0\0\0\0a\nb\nA=1\nCONTAINER_PARTIAL_MESSAGE=true\n";
        assert_eq!(entry, expected);
    }

    #[test]
    fn a_receiver_that_never_reads_holds_up_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut sink = Sink::open(syslog(Address::Unix(path), Format::Rfc5424)).unwrap();
        let (mut taken, _) = listener.accept().unwrap();
        let line = [b'x'; 10_000];
        for _ in 0..500 {
            sink.entry(Stream::Stdout, &line, false, Timestamp::now());
        }
        assert!(sink.lags().is_some() && sink.bytes <= 1 << 20);
        let (lost, _) = sink.take_lost().unwrap();
        assert!(lost > 1_000_000 && lost % 10_000 == 0, "{lost}");
        // Once it reads, all that was kept comes whole.
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            taken.read_to_end(&mut all).unwrap();
            all
        });
        sink.finish();
        assert!(sink.take_lost().is_none());
        drop(sink);
        let all = reader.join().unwrap();
        let lines = all.split_inclusive(|b| *b == b'\n').count() as u64;
        assert_eq!(lines * 10_000 + lost, 500 * 10_000);
    }
}
