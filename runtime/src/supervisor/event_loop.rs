//! The one loop in which a supervisor waits for everything it holds.

use std::{
    io::Write,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{SocketFlags, accept_with, sockopt::socket_peercred},
};

use super::{
    connection::{Greeted, Greeting, Peer, part},
    process::{Phase, Supervisor, failed, failure, never_ran},
    protocol::{Event, Hello, Request, RequestLine, StreamReply, encode_line},
    session::Session,
    stdio::Output,
};
use crate::{
    Error, Kind, Result,
    error::Context,
    log::{Stream, Writer},
};

/// Most connections at a time. Beyond that new ones wait in the socket's queue.
const MAX_CONNECTIONS: usize = 512;

/// How long a connection may take to say what it is, and a control connection to take the exit event.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to leave the socket alone when there is no descriptor for another connection.
const NO_DESCRIPTORS: Duration = Duration::from_millis(100);

/// How long the kernel may take from saying that memory is wanting to having killed.
const OOM_KILL: Duration = Duration::from_millis(100);

/// How long after the last event memory is given back.
const REST: Duration = Duration::from_secs(1);

/// Output that comes in pieces smaller than this, in bytes, and with less than [`FLOOD_GAP`] between them is let gather
/// for [`FLOOD_PAUSE`] before it is read: to be woken for each piece would cost the writer more than its writing.
const FLOOD_PIECE: usize = 16 * 1024;
const FLOOD_GAP: Duration = Duration::from_micros(150);
const FLOOD_PAUSE: Duration = Duration::from_micros(50);

/// Which process: the first one, or an exec by index.
type Which = Option<usize>;

/// What a descriptor in the poll set stands for.
#[derive(Clone, Copy, Debug)]
enum Source {
    Listener,
    Oom,
    Greeting(usize),
    Peer(usize),
    Exit(Which),
    Output(Which, Stream),
    Input(Which),
    Client(Which, usize),
    Log,
}

/// The poll set, and what each descriptor in it stands for.
#[derive(Debug, Default)]
struct Watched<'a> {
    sources: Vec<Source>,
    fds: Vec<PollFd<'a>>,
}

impl<'a> Watched<'a> {
    fn add(&mut self, source: Source, fd: BorrowedFd<'a>, flags: PollFlags) {
        self.sources.push(source);
        self.fds.push(PollFd::from_borrowed_fd(fd, flags));
    }
}

/// Things that happen by time.
#[derive(Debug, Default)]
struct Timers {
    accept_again: Option<Instant>,
    rest: Option<Instant>,
    oom: Option<Instant>,
    leave: Option<Instant>,
    /// When output came last.
    output: Option<Instant>,
    /// Whether output comes in a flood of small pieces.
    flood: bool,
}

impl Timers {
    /// Output has been read.
    fn read(&mut self, output: Output) {
        let Output::Bytes(length) = output else {
            return;
        };
        let now = Instant::now();
        let soon = self
            .output
            .is_some_and(|last| now.duration_since(last) < FLOOD_GAP);
        self.flood |= soon && length < FLOOD_PIECE;
        self.output = Some(now);
    }
}

impl Supervisor {
    /// Serves everybody until the container has ended and everybody has been told.
    pub(super) fn serve(&mut self) -> Result<()> {
        let mut timers = Timers {
            rest: Some(Instant::now() + REST),
            ..Timers::default()
        };
        loop {
            let now = Instant::now();
            self.sweep(now);
            if matches!(self.phase, Phase::Exited(_)) {
                let leave = *timers.leave.get_or_insert(now + PATIENCE);
                let waiting = !self.peers.is_empty() && now < leave;
                if !waiting && self.main.fanout.clients().is_empty() && self.execs.is_empty() {
                    return Ok(());
                }
            }
            if timers.rest.is_some_and(|at| at <= now) {
                timers.rest = None;
                self.rest();
            }
            if timers.oom.is_some_and(|at| at <= now) {
                timers.oom = None;
                self.notice_oom();
            }
            let happened = self.wait(now, &timers)?;
            if !happened.is_empty() {
                timers.rest = Some(Instant::now() + REST);
            }
            for (source, flags) in happened {
                self.handle(source, flags, &mut timers);
            }
            if std::mem::take(&mut timers.flood) {
                std::thread::sleep(FLOOD_PAUSE);
            }
        }
    }

    /// Drops what is over. Indices are stable from here to the next call.
    fn sweep(&mut self, now: Instant) {
        self.main.sweep(now);
        for exec in &mut self.execs {
            exec.session.sweep(now);
        }
        self.execs.retain(|e| !e.is_over());
        let exited = matches!(self.phase, Phase::Exited(_));
        self.peers.retain(|peer| {
            let stays = !peer.is_gone() && (peer.lags() || !exited);
            if !stays {
                part(&peer.socket);
            }
            stays
        });
        self.greetings
            .retain(|g| !g.over && now.duration_since(g.since) < PATIENCE);
    }

    /// Waits until something happens or a time comes.
    fn wait(&self, now: Instant, timers: &Timers) -> Result<Vec<(Source, PollFlags)>> {
        let mut watched = Watched::default();
        self.watch(now, timers, &mut watched);
        let deadline = self.deadline(timers);
        let timeout = deadline.map(|at| timespec(at.saturating_duration_since(now)));
        match poll(&mut watched.fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e).context(|| "cannot wait for events"),
        }
        let flags = watched.fds.iter().map(PollFd::revents);
        Ok(watched
            .sources
            .into_iter()
            .zip(flags)
            .filter(|(_, flags)| !flags.is_empty())
            .collect())
    }

    fn watch<'a>(&'a self, now: Instant, timers: &Timers, watched: &mut Watched<'a>) {
        let connections = self.peers.len() + self.greetings.len() + self.main.fanout.clients().len();
        let accepts = connections < MAX_CONNECTIONS && timers.accept_again.is_none_or(|at| at <= now);
        if let Some(listener) = self.listener.as_ref().filter(|_| accepts) {
            watched.add(Source::Listener, listener.as_fd(), PollFlags::IN);
        }
        if let Some(oom) = &self.oom_watch {
            watched.add(Source::Oom, oom.as_fd(), oom.interest());
        }
        for (index, greeting) in self.greetings.iter().enumerate() {
            watched.add(Source::Greeting(index), greeting.socket.as_fd(), PollFlags::IN);
        }
        for (index, peer) in self.peers.iter().enumerate() {
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, peer.lags());
            watched.add(Source::Peer(index), peer.socket.as_fd(), flags);
        }
        if let Some(fd) = self.main.log.as_ref().and_then(Writer::lags) {
            watched.add(Source::Log, fd, PollFlags::OUT);
        }
        watch_session(None, &self.main, watched);
        for (index, exec) in self.execs.iter().enumerate() {
            watch_session(Some(index), &exec.session, watched);
        }
    }

    /// When to wake up although nothing happened.
    fn deadline(&self, timers: &Timers) -> Option<Instant> {
        let execs = self.execs.iter().map(|e| &e.session);
        let stalls = execs.chain([&self.main]).filter_map(|s| s.fanout.deadline());
        let greetings = self.greetings.iter().map(|g| g.since + PATIENCE);
        let timers = [timers.accept_again, timers.rest, timers.oom, timers.leave];
        stalls.chain(greetings).chain(timers.into_iter().flatten()).min()
    }

    fn session(&mut self, which: Which) -> Option<&mut Session> {
        match which {
            None => Some(&mut self.main),
            Some(index) => self.execs.get_mut(index).map(|e| &mut e.session),
        }
    }

    fn handle(&mut self, source: Source, flags: PollFlags, timers: &mut Timers) {
        match source {
            Source::Log => {
                if let Some(log) = &mut self.main.log {
                    log.send();
                }
            }
            Source::Listener => {
                if let Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) = self.accept() {
                    timers.accept_again = Some(Instant::now() + NO_DESCRIPTORS);
                } else {
                    timers.accept_again = None;
                }
            }
            Source::Oom => self.oom_event(timers),
            Source::Greeting(index) => self.greeting_event(index),
            Source::Peer(index) => self.peer_event(index, flags),
            Source::Exit(which) => self.exit_event(which),
            Source::Output(which, stream) => timers.read(self.output_event(which, stream)),
            Source::Input(which) => {
                if let Some(session) = self.session(which) {
                    session.streams.input.resume();
                }
            }
            Source::Client(which, index) => {
                let session = match which {
                    None => Some(&mut self.main),
                    Some(index) => self.execs.get_mut(index).map(|e| &mut e.session),
                };
                if let Some(session) = session {
                    session.client_event(index, flags, &mut self.buffer);
                }
            }
        }
    }

    /// The kernel may still be about to kill: if nothing is counted yet, it is looked at once more.
    fn oom_event(&mut self, timers: &mut Timers) {
        if let Some(watch) = &self.oom_watch {
            watch.clear();
        }
        if !self.notice_oom() {
            timers.oom = Some(Instant::now() + OOM_KILL);
        }
    }

    /// Takes one connection, if it is root's or our own user's.
    fn accept(&mut self) -> Result<(), Errno> {
        let Some(listener) = &self.listener else {
            return Ok(());
        };
        let socket = match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(()),
            other => other?,
        };
        let uid = socket_peercred(&socket)?.uid;
        if uid.is_root() || uid == rustix::process::geteuid() {
            self.greetings.push(Greeting::new(UnixStream::from(socket)));
        }
        Ok(())
    }

    fn greeting_event(&mut self, index: usize) {
        let Some(greeting) = self.greetings.get_mut(index) else {
            return;
        };
        let greeted = greeting.read(&mut self.buffer);
        if matches!(greeted, Greeted::Waiting) {
            return;
        }
        // Its place stays taken until the next sweep, so that indices hold; this time is long past.
        let Some(closed) = Instant::now().checked_sub(PATIENCE) else {
            return;
        };
        greeting.since = closed;
        let Ok(socket) = greeting.socket.try_clone() else {
            return;
        };
        match greeted {
            Greeted::Waiting | Greeted::Gone => {}
            Greeted::Malformed(e) => refuse(&socket, &e),
            Greeted::Hello(Hello::Control {}) => {
                let mut peer = Peer::new(socket);
                peer.send(&Event::State(self.snapshot()));
                self.peers.push(peer);
            }
            Greeted::Hello(Hello::Attach(streams)) => {
                let tty = self.main.streams.is_terminal();
                if answer(&socket, &StreamReply::Attached { tty }) {
                    self.main.fanout.add(socket, streams);
                }
            }
            Greeted::Hello(Hello::Exec(request)) => self.exec(socket, *request),
        }
    }

    fn peer_event(&mut self, index: usize, flags: PollFlags) {
        let Some(peer) = self.peers.get_mut(index) else {
            return;
        };
        if flags.contains(PollFlags::OUT) {
            peer.flush();
        }
        if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            peer.read(&mut self.buffer);
        }
        while let Some(request) = self.peers.get_mut(index).and_then(Peer::next_request) {
            match request {
                Ok(request) => self.request(index, request),
                Err(e) => self.reply(index, &failed(0, &e, 0)),
            }
        }
    }

    fn reply(&mut self, index: usize, event: &Event) {
        if let Some(peer) = self.peers.get_mut(index) {
            peer.send(event);
        }
    }

    fn request(&mut self, index: usize, RequestLine { id, request }: RequestLine) {
        let event = match self.carry_out(index, id, request) {
            Ok(true) => return,
            Ok(false) => Event::Done { id },
            Err(e) => failed(id, &e, 0),
        };
        self.reply(index, &event);
    }

    fn abort_request(&mut self, index: usize, id: u64) -> Result<()> {
        let status = self.abort()?;
        self.reply(index, &Event::Done { id });
        self.announce(status);
        Ok(())
    }

    fn start_request(&mut self, index: usize, id: u64) {
        match self.start() {
            Ok(started_at) => {
                for (other, peer) in self.peers.iter_mut().enumerate() {
                    let id = if other == index { id } else { 0 };
                    peer.send(&Event::Started { id, started_at });
                }
            }
            Err(error) => {
                let answer = failed(id, &error.error, error.code);
                let status = matches!(self.phase, Phase::Created).then(|| self.wind_up(never_ran(&error)));
                self.reply(index, &answer);
                if let Some(status) = status {
                    self.announce(status);
                }
            }
        }
    }

    /// Whether the request has been answered already.
    fn carry_out(&mut self, index: usize, id: u64, request: Request) -> Result<bool> {
        if matches!(self.phase, Phase::Exited(_)) {
            return Err(Error::new(Kind::Conflict, "the container has ended"));
        }
        match request {
            Request::Start {} => {
                self.start_request(index, id);
                return Ok(true);
            }
            Request::Abort {} => return self.abort_request(index, id).map(|()| true),
            Request::KillAll {} => self.cgroup.kill_all()?,
            Request::Signal { number, exec } => self.named(exec.as_deref())?.signal(number)?,
            Request::Resize { width, height, exec } => self.named(exec.as_deref())?.resize(width, height)?,
            Request::CloseStdin {} => self.main.streams.input.close(),
        }
        Ok(false)
    }

    /// The exec of that name, or the container itself.
    fn named(&mut self, exec: Option<&str>) -> Result<&mut Session> {
        match exec {
            None => Ok(&mut self.main),
            Some(name) => self.find_exec(name).map(|exec| &mut exec.session),
        }
    }

    fn exit_event(&mut self, which: Which) {
        let ending = self.session(which).and_then(Session::reap);
        match (ending, which) {
            (None, _) => {}
            (Some(ending), None) => self.ended(ending),
            (Some(ending), Some(index)) => self.exec_ended(index, ending),
        }
    }

    fn output_event(&mut self, which: Which, stream: Stream) -> Output {
        if let Some(index) = which {
            let exec = self.execs.get_mut(index);
            return exec.map_or(Output::Nothing, |exec| {
                exec.session.read_output(stream, &mut self.buffer)
            });
        }
        let output = self.main.read_output(stream, &mut self.buffer);
        if let Some(dropped) = self.main.take_dropped() {
            self.broadcast(&dropped);
        }
        output
    }
}

fn watch_session<'a>(which: Which, session: &'a Session, watched: &mut Watched<'a>) {
    if let Some(pidfd) = session.exit() {
        watched.add(Source::Exit(which), pidfd, PollFlags::IN);
    }
    for stream in [Stream::Stdout, Stream::Stderr] {
        if let Some(fd) = session.readable(stream) {
            watched.add(Source::Output(which, stream), fd, PollFlags::IN);
        }
    }
    if let Some(input) = session.streams.input.blocked() {
        watched.add(Source::Input(which), input.as_fd(), PollFlags::OUT);
    }
    for (index, client) in session.fanout.clients().iter().enumerate() {
        if let Some(flags) = session.interest(index) {
            watched.add(Source::Client(which, index), client.socket.as_fd(), flags);
        }
    }
}

fn answer(mut socket: &UnixStream, reply: &StreamReply) -> bool {
    let mut line = Vec::new();
    encode_line(reply, &mut line).is_ok() && socket.write_all(&line).is_ok()
}

/// The other side may be gone already; then there is nobody to tell.
fn refuse(socket: &UnixStream, error: &Error) {
    answer(socket, &StreamReply::Failed(failure(error, 0)));
    part(socket);
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
