//! One output, many attached clients, none of which loses a byte.
//!
//! What a client's socket does not take at once goes to a [`Backlog`] that all clients share. When its file is full,
//! one more chunk is held in memory and nothing further is read from the container until the slowest client has made
//! room. So a client can hold the container up, as with Docker, but only once it lags by the whole backlog; and not
//! for ever: one that takes nothing for the stall time while output waits for it is cut off.

use std::{
    io::IoSlice,
    os::unix::net::UnixStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{SendAncillaryBuffer, SendFlags, sendmsg},
};

use super::{backlog::Backlog, connection::part, protocol::Streams};
use crate::log::Stream;

/// Settings of a [`Fanout`].
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Where the backlog's file is made.
    pub directory: PathBuf,
    /// Its greatest size, in bytes.
    pub backlog: u64,
    /// How long a client may take nothing while output waits for it; none: for ever.
    pub stall: Option<Duration>,
}

/// The clients attached to one process.
#[derive(Debug)]
pub(super) struct Fanout {
    framed: bool,
    stall: Option<Duration>,
    clients: Vec<Client>,
    backlog: Backlog,
    finished: bool,
}

/// One attached client.
#[derive(Debug)]
pub(super) struct Client {
    /// Non-blocking.
    pub socket: UnixStream,
    streams: Streams,
    /// Whether its input has not ended yet.
    pub input: bool,
    /// Where in the backlog it is, if it lags.
    position: Option<u64>,
    /// Bytes left of the frame it is in the middle of.
    frame_left: u64,
    /// Its session is over: it gets what is kept up to here and is then closed.
    until: Option<u64>,
    gone: bool,
    progress: Instant,
}

impl Client {
    fn new(socket: UnixStream, streams: Streams) -> Self {
        Self {
            socket,
            streams,
            input: true,
            position: None,
            frame_left: 0,
            until: None,
            gone: false,
            progress: Instant::now(),
        }
    }

    fn wants(&self, stream: u8) -> bool {
        match stream {
            1 => self.streams.stdout,
            _ => self.streams.stderr,
        }
    }

    /// Whether the client feeds standard input, rather than being read only to notice its end.
    pub fn feeds(&self) -> bool {
        self.streams.stdin
    }

    /// Whether output waits until its socket takes more.
    pub fn lags(&self) -> bool {
        self.position.is_some()
    }

    /// Its connection is closed: it takes nothing any more, but what it has sent is still to be read.
    pub fn abandon(&mut self) {
        self.position = None;
        self.streams.stdout = false;
        self.streams.stderr = false;
        self.gone = !(self.streams.stdin && self.input);
    }

    /// Sends at once what the socket takes of `parts`.
    fn send(&mut self, parts: &[IoSlice<'_>]) -> u64 {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match sendmsg(&self.socket, parts, &mut SendAncillaryBuffer::default(), flags) {
                Ok(sent) => return sent as u64,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return 0,
                Err(_) => {
                    self.abandon();
                    return 0;
                }
            }
        }
    }

    /// Takes what it can from the backlog.
    fn catch_up(&mut self, backlog: &Backlog, framed: bool) {
        while let Some(position) = self.position {
            let end = self.until.unwrap_or_else(|| backlog.written());
            let behind = end.saturating_sub(position);
            if behind == 0 {
                self.position = None;
                return;
            }
            let picky = framed && !(self.streams.stdout && self.streams.stderr);
            if picky && self.frame_left == 0 {
                let Ok(header) = backlog.header(position) else {
                    self.abandon();
                    return;
                };
                let [stream, _, _, _, length @ ..] = header;
                let length = 8 + u64::from(u32::from_be_bytes(length));
                if !self.wants(stream) {
                    self.position = Some(position + length);
                    continue;
                }
                self.frame_left = length;
            }
            let most = if picky { self.frame_left } else { behind };
            match backlog.send(&self.socket, position, most) {
                Ok(0) | Err(Errno::AGAIN) => return,
                Ok(sent) => {
                    self.position = Some(position + sent);
                    self.frame_left = self.frame_left.saturating_sub(sent);
                    self.progress = Instant::now();
                }
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.abandon();
                    return;
                }
            }
        }
    }
}

impl Fanout {
    /// For output that is sent in frames, or raw (a terminal's, which is all standard output).
    pub fn new(framed: bool, limits: Limits) -> Self {
        Self {
            framed,
            stall: limits.stall,
            clients: Vec::new(),
            backlog: Backlog::new(limits.directory, limits.backlog),
            finished: false,
        }
    }

    /// Adds a client; what comes from now on reaches it. Its socket has to be non-blocking.
    pub fn add(&mut self, socket: UnixStream, streams: Streams) {
        self.clients.push(Client::new(socket, streams));
    }

    /// The clients, whose indices hold until [`sweep`](Self::sweep).
    pub fn clients(&self) -> &[Client] {
        &self.clients
    }

    /// One of [`clients`](Self::clients).
    pub fn client_mut(&mut self, index: usize) -> Option<&mut Client> {
        self.clients.get_mut(index)
    }

    /// Whether more output may be read from the process.
    pub fn has_room(&self) -> bool {
        self.backlog.has_room()
    }

    /// Passes output on to every client that wants it.
    pub fn deliver(&mut self, stream: Stream, bytes: &[u8]) {
        if self.clients.is_empty() || bytes.is_empty() {
            return;
        }
        let header = stream.header(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        let header = if self.framed { header.as_slice() } else { &[] };
        let total = (header.len() + bytes.len()) as u64;
        let at = self.backlog.written();
        let mut kept = false;
        for client in &mut self.clients {
            if client.gone || client.until.is_some() || !client.wants(stream.number()) {
                continue;
            }
            if client.lags() {
                kept = true;
                continue;
            }
            let sent = client.send(&[IoSlice::new(header), IoSlice::new(bytes)]);
            if sent < total && client.wants(stream.number()) {
                client.position = Some(at + sent);
                client.frame_left = total - sent;
                client.progress = Instant::now();
                kept = true;
            }
        }
        if kept {
            self.backlog.keep(&[header, bytes]);
        }
    }

    /// Ends a client's session: it gets what it is owed and is then closed.
    pub fn leave(&mut self, index: usize) {
        let end = self.backlog.written();
        if let Some(client) = self.clients.get_mut(index) {
            client.until = Some(end);
        }
    }

    /// Serves a client whose socket can take more.
    pub fn serve(&mut self, index: usize) {
        if let Some(client) = self.clients.get_mut(index) {
            client.catch_up(&self.backlog, self.framed);
        }
    }

    /// No more output will come: clients are closed as soon as they have everything.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Drops clients that are gone, done or stalled, and forgets what nobody needs any more.
    pub fn sweep(&mut self, now: Instant) {
        let blocked = !self.backlog.has_room();
        let (finished, stall) = (self.finished, self.stall);
        self.clients.retain(|client| {
            let waiting = client.lags() && (blocked || finished || client.until.is_some());
            let stalled = waiting && stall.is_some_and(|s| now.duration_since(client.progress) >= s);
            let done = (finished || client.until.is_some()) && !client.lags();
            let stays = !(client.gone || stalled || done);
            if !stays {
                part(&client.socket);
            }
            stays
        });
        if self.backlog.written() > 0 {
            let needed = self.clients.iter().filter_map(|c| c.position).min();
            self.backlog.release(needed);
        }
    }

    /// When [`sweep`](Self::sweep) has to look again even if nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        let stall = self.stall?;
        let lagging = self.clients.iter().filter(|c| c.lags());
        lagging.map(|c| c.progress + stall).min()
    }

    /// Gives back what only a busy output needs.
    pub fn rest(&mut self) {
        self.backlog.rest();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const ALL: Streams = Streams {
        stdin: false,
        stdout: true,
        stderr: true,
    };

    fn fanout(framed: bool, backlog: u64) -> Fanout {
        let directory = std::env::temp_dir();
        Fanout::new(
            framed,
            Limits {
                directory,
                backlog,
                stall: Some(Duration::from_secs(60)),
            },
        )
    }

    fn attach(fanout: &mut Fanout, streams: Streams) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        ours.set_nonblocking(true).unwrap();
        fanout.add(theirs, streams);
        ours
    }

    fn take(socket: &mut UnixStream, most: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        // What has been received when the socket is empty stays in `bytes`.
        let _ = socket.take(most as u64).read_to_end(&mut bytes);
        bytes
    }

    fn pattern(n: usize) -> Vec<u8> {
        (0..10_000).map(|i| ((i * 7 + n * 13) % 251) as u8).collect()
    }

    #[test]
    fn frames_go_to_those_who_want_them() {
        let mut fanout = fanout(true, 1 << 20);
        let mut all = attach(&mut fanout, ALL);
        let mut out = attach(&mut fanout, Streams { stderr: false, ..ALL });
        fanout.deliver(Stream::Stderr, b"bad");
        fanout.deliver(Stream::Stdout, b"good");
        assert_eq!(
            take(&mut all, 1000),
            b"\x02\0\0\0\0\0\0\x03bad\x01\0\0\0\0\0\0\x04good"
        );
        assert_eq!(take(&mut out, 1000), b"\x01\0\0\0\0\0\0\x04good");
        assert!(fanout.has_room());
    }

    /// Three clients at three speeds, through socket buffer, file and memory, with wraps and skipped frames.
    #[test]
    fn nobody_loses_a_byte() {
        for framed in [true, false] {
            let mut fanout = fanout(framed, 2 << 20);
            let mut slow = attach(&mut fanout, ALL);
            let mut picky = attach(&mut fanout, Streams { stderr: false, ..ALL });
            let mut fast = attach(&mut fanout, ALL);
            let (mut expected, mut expected_out) = (Vec::new(), Vec::new());
            let mut got = [Vec::new(), Vec::new(), Vec::new()];
            let mut sent = 0;
            let mut blocked = false;
            let mut rounds = 0;
            while got[0].len() < expected.len() || sent < 2000 {
                rounds += 1;
                assert!(rounds < 100_000);
                if fanout.has_room() && sent < 2000 {
                    let stream = match sent % 3 {
                        2 if framed => Stream::Stderr,
                        _ => Stream::Stdout,
                    };
                    let bytes = pattern(sent);
                    let header = stream.header(bytes.len() as u32);
                    let frame = [if framed { &header[..] } else { &[] }, &bytes].concat();
                    if stream == Stream::Stdout {
                        expected_out.extend_from_slice(&frame);
                    }
                    expected.extend_from_slice(&frame);
                    fanout.deliver(stream, &bytes);
                    sent += 1;
                } else {
                    blocked = true;
                }
                let slow_speed = if sent == 2000 { 1 << 20 } else { 3000 };
                got[0].extend(take(&mut slow, slow_speed));
                got[1].extend(take(&mut picky, 6000));
                got[2].extend(take(&mut fast, 1 << 20));
                for index in 0..3 {
                    fanout.serve(index);
                }
                fanout.sweep(Instant::now());
            }
            got[2].extend(take(&mut fast, 1 << 20));
            while got[1].len() < expected_out.len() {
                got[1].extend(take(&mut picky, 1 << 20));
                fanout.serve(1);
            }
            assert!(blocked, "the slowest client holds the output up");
            for (got, expected) in got.iter().zip([&expected, &expected_out, &expected]) {
                assert_eq!(got.len(), expected.len());
                let differs = got.iter().zip(expected).position(|(a, b)| a != b);
                assert_eq!(differs, None);
            }
            fanout.sweep(Instant::now());
            assert_eq!(fanout.backlog.written(), 0);
        }
    }

    #[test]
    fn without_a_disk_one_chunk_is_held() {
        let mut fanout = fanout(true, 1 << 20);
        fanout.backlog = Backlog::new("/nonexistent".into(), 1 << 20);
        let mut client = attach(&mut fanout, ALL);
        let mut expected = Vec::new();
        let mut got = Vec::new();
        for n in 0..200 {
            while !fanout.has_room() {
                got.extend(take(&mut client, 5000));
                fanout.serve(0);
                fanout.sweep(Instant::now());
            }
            let bytes = pattern(n);
            expected.extend_from_slice(&Stream::Stdout.header(bytes.len() as u32));
            expected.extend_from_slice(&bytes);
            fanout.deliver(Stream::Stdout, &bytes);
        }
        fanout.finish();
        while !fanout.clients.is_empty() {
            got.extend(take(&mut client, 1 << 20));
            fanout.serve(0);
            fanout.sweep(Instant::now());
        }
        got.extend(take(&mut client, 1 << 20));
        assert!(got == expected);
    }

    #[test]
    fn a_stalled_client_is_cut_off_only_when_it_blocks() {
        let mut fanout = fanout(true, 1 << 20);
        let _client = attach(&mut fanout, ALL);
        let later = Instant::now() + Duration::from_secs(3600);
        while fanout.has_room() {
            fanout.sweep(later);
            assert_eq!(fanout.clients.len(), 1);
            fanout.deliver(Stream::Stdout, &pattern(0));
        }
        fanout.sweep(Instant::now());
        assert_eq!(fanout.clients.len(), 1);
        assert!(fanout.deadline().unwrap() < later);
        fanout.sweep(later);
        assert!(fanout.clients.is_empty() && fanout.has_room());
    }
}
