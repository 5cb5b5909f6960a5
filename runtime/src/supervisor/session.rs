//! A process of the container, its standard streams and whoever is attached to them.

use std::{
    io::Read,
    os::fd::{AsFd, BorrowedFd},
    time::Instant,
};

use jiff::Timestamp;
use rustix::{
    event::PollFlags,
    io::Errno,
    process::{WaitId, WaitIdOptions, waitid},
};

use super::{
    fanout::{Fanout, Limits},
    protocol::Event,
    stdio::{Output, Streams},
};
use crate::{
    Error, Kind, Result,
    error::Context,
    log::{Stream, Writer},
    sandbox::Sandbox,
    sys::pidfd::send_signal,
};

/// The container's first process, or an exec.
#[derive(Debug)]
pub(super) struct Session {
    pub sandbox: Sandbox,
    pub streams: Streams,
    pub fanout: Fanout,
    pub log: Option<Writer>,
    /// The end of a client's input is the end of the process's.
    input_once: bool,
    /// Reaped.
    ended: bool,
}

/// How a process ended, as waitid(2) tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub exit_code: i32,
    pub signal: Option<i32>,
}

impl Session {
    /// The session of a process that has been made with the other ends of `streams`.
    pub fn new(
        sandbox: Sandbox,
        streams: Streams,
        log: Option<Writer>,
        input_once: bool,
        limits: Limits,
    ) -> Self {
        let terminal = streams.is_terminal();
        Self {
            sandbox,
            streams,
            fanout: Fanout::new(!terminal, limits),
            log,
            input_once: input_once && !terminal,
            ended: false,
        }
    }

    /// Readable when the process has ended; none once it was reaped.
    pub fn exit(&self) -> Option<BorrowedFd<'_>> {
        (!self.ended).then(|| self.sandbox.pidfd())
    }

    /// The output, if it is to be read now.
    pub fn readable(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        self.streams
            .output(stream)
            .filter(|_| self.fanout.has_room())
            .map(AsFd::as_fd)
    }

    /// Reads an output once and passes on what it gave.
    pub fn read_output(&mut self, stream: Stream, buffer: &mut [u8]) -> Output {
        let output = self.streams.read(stream, buffer);
        if let Output::Bytes(length) = output {
            let bytes = buffer.get(..length).unwrap_or_default();
            if let Some(log) = &mut self.log {
                log.write(stream, bytes, Timestamp::now());
            }
            self.fanout.deliver(stream, bytes);
        }
        output
    }

    /// The event that tells of output lost to the log since this was last asked.
    pub fn take_dropped(&mut self) -> Option<Event> {
        let dropped = self.log.as_mut()?.take_dropped()?;
        Some(Event::LogDropped {
            bytes: dropped.bytes,
            message: dropped.reason.to_string(),
        })
    }

    /// Ends the log with what has not ended in a newline.
    pub fn finish_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.finish(Timestamp::now());
        }
    }

    /// Reads what is left in the outputs of a process that has ended. No more than they could hold at that moment:
    /// somebody outside the container may have got hold of them and go on writing.
    pub fn drain(&mut self, buffer: &mut [u8]) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut left = self.streams.capacity(stream);
            while left > 0
                && let Output::Bytes(length) = self.read_output(stream, buffer)
            {
                left = left.saturating_sub(length);
            }
        }
    }

    /// What to wait for on client `index`; none: leave it alone for now.
    pub fn interest(&self, index: usize) -> Option<PollFlags> {
        let client = self.fanout.clients().get(index)?;
        let deferred = client.input && client.feeds() && !self.streams.input.has_room();
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::OUT, client.lags());
        flags.set(PollFlags::IN, client.input && !deferred);
        // A closed connection is reported even if nothing is asked for: that would spin until there is room for its input.
        (client.lags() || !deferred).then_some(flags)
    }

    /// Something happened on client `index`.
    pub fn client_event(&mut self, index: usize, flags: PollFlags, buffer: &mut [u8]) {
        if flags.intersects(PollFlags::OUT | PollFlags::ERR) {
            self.fanout.serve(index);
        }
        if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.read_client(index, buffer);
        }
        let closed = flags.intersects(PollFlags::HUP | PollFlags::ERR);
        if let Some(client) = self.fanout.client_mut(index)
            && closed
        {
            client.abandon();
        }
    }

    fn read_client(&mut self, index: usize, buffer: &mut [u8]) {
        let Some(client) = self.fanout.client_mut(index) else {
            return;
        };
        let feeds = client.feeds();
        if !client.input || (feeds && !self.streams.input.has_room()) {
            return;
        }
        match (&client.socket).read(buffer) {
            Ok(0) => {
                client.input = false;
                self.input_ended(index, feeds);
            }
            Ok(length) if feeds => self.streams.input.push(buffer.get(..length).unwrap_or_default()),
            Ok(_) => {}
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
                ) => {}
            Err(_) => {
                client.input = false;
                client.abandon();
            }
        }
    }

    /// As in Docker: the end of a client's input either is the process's too, or the end of that client's session.
    fn input_ended(&mut self, index: usize, feeds: bool) {
        match (feeds, self.input_once) {
            (false, _) => {}
            (true, true) => self.streams.input.close(),
            (true, false) => self.fanout.leave(index),
        }
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for a number that is no signal, [`Kind::Conflict`] if the process has ended.
    pub fn signal(&self, number: i32) -> Result<()> {
        let pidfd = self.exit().ok_or_else(not_running)?;
        match send_signal(pidfd, number) {
            Err(Errno::INVAL) => Err(Error::invalid(format!("{number} is not a signal"))),
            Err(Errno::SRCH) => Err(not_running()),
            other => other.context(|| format!("cannot send signal {number}")),
        }
    }

    /// Sets the terminal's size. Without a terminal there is nothing to be done, which is no mistake: clients tell the
    /// size of their own window to whatever they run.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if the process has ended.
    pub fn resize(&self, width: u16, height: u16) -> Result<()> {
        if self.ended {
            return Err(not_running());
        }
        self.streams.resize(width, height)
    }

    /// Collects the process if it has ended.
    pub fn reap(&mut self) -> Option<Ending> {
        let pidfd = self.exit()?;
        let status = loop {
            match waitid(
                WaitId::PidFd(pidfd),
                WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
            ) {
                Err(Errno::INTR) => {}
                Ok(None) => return None,
                Ok(Some(status)) => break Some(status),
                // Somebody else has reaped it: how it ended is lost.
                Err(_) => break None,
            }
        };
        self.ended = true;
        let killed = status.as_ref().is_none_or(|s| s.killed() || s.dumped());
        let signal = match &status {
            Some(status) if killed => status.terminating_signal(),
            Some(_) => None,
            None => Some(libc::SIGKILL),
        };
        let code = status.and_then(|s| s.exit_status());
        Some(Ending {
            exit_code: signal.map_or_else(|| code.unwrap_or(255), |s| 128 + s),
            signal,
        })
    }

    /// Waits for a process that has been killed, or was collected by others.
    pub fn collect(&mut self) {
        while let Some(pidfd) = self.exit() {
            if !matches!(
                waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED),
                Err(Errno::INTR)
            ) {
                self.ended = true;
            }
        }
    }

    /// Lets go of clients that are done, see [`Fanout::sweep`].
    pub fn sweep(&mut self, now: Instant) {
        self.fanout.sweep(now);
    }

    /// Gives back memory that only a busy session needs.
    pub fn rest(&mut self) {
        self.fanout.rest();
        if let Some(log) = &mut self.log {
            log.rest();
        }
    }
}

fn not_running() -> Error {
    Error::new(Kind::Conflict, "the process is not running")
}
