//! The engine's connection to the supervisor of a container that runs.

use std::{
    collections::HashMap,
    os::unix::net::UnixStream as StdUnixStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use berth_runtime::{
    Result,
    error::Context,
    supervisor::{
        Event, Failure, FailureKind, LineBuffer, Request, RequestLine,
        protocol::{decode_line, encode_line},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::oneshot,
};

/// How long a supervisor may take to answer. It never blocks for long, so only a stopped one or a host in distress
/// comes near.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends requests. Shared by all operations on the container.
#[derive(Debug)]
pub struct Link {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    calls: Mutex<Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    last: u64,
    closed: bool,
    waiting: HashMap<u64, oneshot::Sender<Result<Event, Failure>>>,
}

/// Receives events. Owned by the task that watches the container.
#[derive(Debug)]
pub struct Events {
    reader: OwnedReadHalf,
    lines: LineBuffer,
    link: Arc<Link>,
}

/// Makes a control connection usable by tasks.
///
/// # Errors
/// Internal, if the socket can't be registered.
pub fn open(stream: StdUnixStream) -> Result<(Arc<Link>, Events)> {
    let message = || "cannot use a supervisor's control socket";
    stream.set_nonblocking(true).context(message)?;
    let (reader, writer) = UnixStream::from_std(stream).context(message)?.into_split();
    let link = Arc::new(Link {
        writer: tokio::sync::Mutex::new(writer),
        calls: Mutex::default(),
    });
    let events = Events {
        reader,
        lines: LineBuffer::default(),
        link: Arc::clone(&link),
    };
    Ok((link, events))
}

fn unavailable(message: impl Into<String>) -> Failure {
    Failure {
        kind: FailureKind::Unavailable,
        code: 0,
        message: message.into(),
    }
}

/// The failure of every call to a supervisor that is not there any more.
pub fn gone() -> Failure {
    unavailable("the container's supervisor has gone")
}

impl Link {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request and gives its answer.
    ///
    /// # Errors
    /// What the supervisor answers; unavailable if it has gone or does not answer.
    pub async fn call(&self, request: Request) -> Result<Event, Failure> {
        let answer = tokio::time::timeout(PATIENCE, async {
            self.send(request).await?.await.map_err(|_| gone())?
        });
        answer.await.unwrap_or_else(|_| {
            let seconds = PATIENCE.as_secs();
            Err(unavailable(format!(
                "the container's supervisor did not answer within {seconds} s"
            )))
        })
    }

    /// Sends a request; its answer comes through the receiver.
    async fn send(&self, request: Request) -> Result<oneshot::Receiver<Result<Event, Failure>>, Failure> {
        let (sender, receiver) = oneshot::channel();
        let id = {
            let mut calls = self.calls();
            if calls.closed {
                return Err(gone());
            }
            calls.last += 1;
            let id = calls.last;
            calls.waiting.insert(id, sender);
            id
        };
        let mut line = Vec::with_capacity(64);
        if let Err(error) = encode_line(&RequestLine { id, request }, &mut line) {
            return Err(unavailable(error.to_string()));
        }
        // A line is far smaller than the socket's buffer: it is written whole or not at all.
        if self.writer.lock().await.write_all(&line).await.is_err() {
            self.close();
        }
        Ok(receiver)
    }

    /// Hands an answer to whoever asked; gives back every other event.
    fn deliver(&self, event: Event) -> Option<Event> {
        let (id, answer) = match event {
            Event::Done { id } | Event::Started { id, .. } if id != 0 => (id, Ok(event)),
            Event::Failed { id, failure } if id != 0 => (id, Err(failure)),
            other => return Some(other),
        };
        if let Some(asked) = self.calls().waiting.remove(&id) {
            // Whoever asked may have given up.
            let _ = asked.send(answer);
        }
        None
    }

    /// Fails all calls, those to come included.
    fn close(&self) {
        let mut calls = self.calls();
        calls.closed = true;
        calls.waiting.clear();
    }
}

impl Events {
    /// The next event that is not the answer to a call; none when the connection has ended.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some(line) = self.lines.next_line() {
                match decode_line(line) {
                    Ok(event) => {
                        if let Some(event) = self.link.deliver(event) {
                            return Some(event);
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a supervisor sent what is no event; it was skipped")
                    }
                }
            }
            let mut buffer = [0u8; 1024];
            let length = match self.reader.read(&mut buffer).await {
                Ok(0) | Err(_) => None,
                Ok(length) => buffer.get(..length),
            };
            let pushed = length.is_some_and(|bytes| self.lines.push(bytes).is_ok());
            if !pushed {
                self.link.close();
                return None;
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.link.close();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};

    use super::*;

    fn pair() -> (StdUnixStream, Arc<Link>, Events) {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        let (link, events) = open(ours).unwrap();
        (theirs, link, events)
    }

    fn answer(stream: &mut StdUnixStream, event: &Event) {
        let mut line = Vec::new();
        encode_line(event, &mut line).unwrap();
        stream.write_all(&line).unwrap();
    }

    #[tokio::test]
    async fn answers_find_their_calls_and_events_the_watcher() {
        let (mut supervisor, link, mut events) = pair();
        let watcher = tokio::spawn(async move { (events.next().await, events.next().await) });
        let server = std::thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(supervisor.try_clone().unwrap())
                .read_line(&mut line)
                .unwrap();
            let asked: RequestLine = decode_line(line.as_bytes()).unwrap();
            answer(&mut supervisor, &Event::Oom {});
            let failure = Failure {
                kind: FailureKind::Invalid,
                code: 127,
                message: "no".into(),
            };
            answer(
                &mut supervisor,
                &Event::Failed {
                    id: asked.id,
                    failure,
                },
            );
        });
        let error = link.call(Request::Start {}).await.unwrap_err();
        assert_eq!(
            (error.kind, error.code, &*error.message),
            (FailureKind::Invalid, 127, "no")
        );
        server.join().unwrap();
        assert_eq!(watcher.await.unwrap(), (Some(Event::Oom {}), None));
        assert_eq!(link.call(Request::KillAll {}).await.unwrap_err(), gone());
    }
}
