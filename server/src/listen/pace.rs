//! A transport that does not wait for ever for the head of a request.
//!
//! Between requests a connection may rest as long as it likes (or as long as its idle limit allows), and bodies and
//! streams take the time they take; but from its first byte on, a request head has to come in within its limit.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::framing::Framing;

/// Longest time for the head of a request.
pub const HEAD_LIMIT: Duration = Duration::from_secs(10);

const RESTING: u8 = 0;
const HEAD: u8 = 1;
const BUSY: u8 = 2;

/// What a connection is doing, shared between the transport and the service on top of it.
#[derive(Clone, Debug, Default)]
pub struct Phase(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    phase: AtomicU8,
    ambiguous: AtomicBool,
}

impl Phase {
    /// A request's head has come in.
    pub fn busy(&self) {
        self.0.phase.store(BUSY, Ordering::Relaxed);
    }

    /// Its response is complete.
    pub fn rest(&self) {
        self.0.phase.store(RESTING, Ordering::Relaxed);
    }

    /// Whether the head that came in last gave two lengths for its body.
    pub fn is_ambiguous(&self) -> bool {
        self.0.ambiguous.load(Ordering::Relaxed)
    }

    fn now(&self) -> u8 {
        self.0.phase.load(Ordering::Relaxed)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Paced<T> {
    io: T,
    phase: Phase,
    head: Duration,
    idle: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    framing: Framing,
    /// The phase that the timer runs for.
    timed: u8,
}

impl<T> Paced<T> {
    /// `io`, which may rest for `idle` at a time.
    pub fn new(io: T, phase: Phase, idle: Option<Duration>) -> Self {
        Self {
            io,
            phase,
            head: HEAD_LIMIT,
            idle,
            timer: None,
            framing: Framing::default(),
            timed: BUSY,
        }
    }

    /// The transport without limits.
    pub fn into_inner(self) -> T {
        self.io
    }

    /// Makes the timer fit the phase and fails if it has run out.
    fn check(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let phase = self.phase.now();
        if phase != self.timed {
            self.timed = phase;
            let limit = match phase {
                RESTING => self.idle,
                HEAD => Some(self.head),
                _ => None,
            };
            self.timer = limit.map(|limit| Box::pin(sleep_until(Instant::now() + limit)));
        }
        let Some(timer) = &mut self.timer else {
            return Poll::Pending;
        };
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client took too long to send a request",
        ))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        let new = buf.filled().get(before..).unwrap_or_default();
        if !new.is_empty() && this.phase.now() != BUSY {
            let first = this.phase.now() == RESTING;
            if first {
                this.framing = Framing::default();
                this.phase.0.phase.store(HEAD, Ordering::Relaxed);
            }
            this.framing.read(new);
            this.phase
                .0
                .ambiguous
                .store(this.framing.is_ambiguous(), Ordering::Relaxed);
            if first {
                // Most heads come in one piece; the timer is made by the next read, if there is one.
                this.timed = BUSY;
                return read;
            }
        }
        // Also when bytes came: a client that sends a byte now and then must not hold its place.
        match (this.check(cx), read) {
            (Poll::Ready(late), _) => Poll::Ready(Err(late)),
            (Poll::Pending, read) => read,
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const SHORT: Duration = Duration::from_millis(40);

    #[tokio::test]
    async fn a_head_that_trickles_in_runs_out_of_time() {
        let (mut client, server) = duplex(64);
        let mut paced = Paced::new(server, Phase::default(), None);
        paced.head = SHORT;
        let start = Instant::now();
        let trickle = tokio::spawn(async move {
            while client.write_all(b"G").await.is_ok() {
                tokio::time::sleep(SHORT / 8).await;
            }
        });
        let error = loop {
            if let Err(error) = paced.read_u8().await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= SHORT);
        drop(paced);
        trickle.await.unwrap();
    }

    #[tokio::test]
    async fn rest_and_bodies_are_not_limited() {
        let (mut client, server) = duplex(64);
        let phase = Phase::default();
        let mut paced = Paced::new(server, phase.clone(), None);
        paced.head = SHORT;
        for rests in [true, false, true, true] {
            assert!(tokio::time::timeout(SHORT * 2, paced.read_u8()).await.is_err());
            client.write_all(b"x").await.unwrap();
            assert_eq!(paced.read_u8().await.unwrap(), b'x');
            phase.busy();
            if rests {
                phase.rest();
            }
        }
    }

    #[tokio::test]
    async fn rest_ends_at_the_idle_limit() {
        let (_client, server) = duplex(64);
        let mut paced = Paced::new(server, Phase::default(), Some(SHORT));
        let start = Instant::now();
        assert_eq!(paced.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= SHORT);
    }
}
