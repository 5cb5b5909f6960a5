//! Connections to a supervisor's socket before and after they have said what they are.

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    time::Instant,
};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};

use super::{
    client::LineBuffer,
    protocol::{Event, Hello, MAX_LINE, RequestLine, decode_line, encode_line},
};
use crate::{Error, Result};

/// Events that a control connection may leave unread, in bytes. Beyond that it is closed; a new one starts with the state.
const MAX_UNREAD: usize = 64 * 1024;

/// Ends a connection so that the other side reads to the end what it was sent. With bytes of it unread here, closing
/// would make that a reset.
pub(super) fn part(socket: &UnixStream) {
    // Broken connections need no farewell.
    let _ = socket.shutdown(Shutdown::Both);
    let mut unread = [0; 4096];
    while let Ok(1..) = recv(socket, &mut unread, RecvFlags::DONTWAIT).map(|(length, _)| length) {}
}

/// A connection that has not said yet what it is. Its socket is non-blocking.
#[derive(Debug)]
pub(super) struct Greeting {
    pub socket: UnixStream,
    pub since: Instant,
    /// It has said what it is, or is gone.
    pub over: bool,
    line: Vec<u8>,
}

/// What became of a [`Greeting`].
pub(super) enum Greeted {
    Waiting,
    Hello(Hello),
    Malformed(Error),
    Gone,
}

impl Greeting {
    pub fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            since: Instant::now(),
            over: false,
            line: Vec::new(),
        }
    }

    /// Reads the hello and not a byte beyond it.
    pub fn read(&mut self, buffer: &mut [u8]) -> Greeted {
        let (length, _) = match recv(&self.socket, &mut *buffer, RecvFlags::PEEK) {
            Ok(seen) => seen,
            Err(Errno::AGAIN | Errno::INTR) => return Greeted::Waiting,
            Err(_) => return Greeted::Gone,
        };
        let seen = buffer.get(..length).unwrap_or_default();
        let end = memchr::memchr(b'\n', seen);
        let take = end.map_or(length, |at| at + 1);
        let Some(part) = buffer.get_mut(..take).filter(|part| !part.is_empty()) else {
            return Greeted::Gone;
        };
        if (&self.socket).read_exact(part).is_err() {
            return Greeted::Gone;
        }
        if self.line.len() + take > MAX_LINE {
            return Greeted::Malformed(Error::invalid(format!(
                "the hello is longer than {MAX_LINE} bytes"
            )));
        }
        self.line.extend_from_slice(part);
        match end.map(|_| decode_line(&self.line)) {
            None => Greeted::Waiting,
            Some(Ok(hello)) => Greeted::Hello(hello),
            Some(Err(e)) => Greeted::Malformed(e),
        }
    }
}

/// A control connection. Its socket is non-blocking.
#[derive(Debug)]
pub(super) struct Peer {
    pub socket: UnixStream,
    lines: LineBuffer,
    unsent: Vec<u8>,
    gone: bool,
}

impl Peer {
    pub fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            lines: LineBuffer::default(),
            unsent: Vec::new(),
            gone: false,
        }
    }

    /// Whether it is to be dropped.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether events wait until the socket takes more.
    pub fn lags(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Sends an event, or queues it.
    pub fn send(&mut self, event: &Event) {
        if encode_line(event, &mut self.unsent).is_err() || self.unsent.len() > MAX_UNREAD {
            self.gone = true;
        }
        self.flush();
    }

    /// Sends what is queued, as far as the socket takes it.
    pub fn flush(&mut self) {
        let mut sent = 0;
        while let Some(rest) = self.unsent.get(sent..).filter(|rest| !rest.is_empty()) {
            match (&self.socket).write(rest) {
                Ok(length) => sent += length,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.gone = true;
                    break;
                }
            }
        }
        self.unsent.drain(..sent);
    }

    /// Reads once; requests are then to be had from [`next_request`](Self::next_request).
    pub fn read(&mut self, buffer: &mut [u8]) {
        match (&self.socket).read(buffer) {
            Ok(0) => self.gone = true,
            Ok(length) => {
                let pushed = self.lines.push(buffer.get(..length).unwrap_or_default());
                self.gone |= pushed.is_err();
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.gone = true,
        }
    }

    /// The next request that has been read.
    pub fn next_request(&mut self) -> Option<Result<RequestLine>> {
        self.lines.next_line().map(decode_line)
    }
}
