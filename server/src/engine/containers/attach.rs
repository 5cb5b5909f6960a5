//! Clients at the standard streams of a container.

use std::{io, pin::pin, sync::Arc};

use berth_api::{
    Framing, Upgraded,
    frames::{self, Source},
};
use berth_runtime::{
    Error, Result,
    log::{Format, Query},
    supervisor::{Streams, connect_attach},
};
use futures_util::{Stream, StreamExt};
use jiff::Timestamp;
use tokio::{
    io::{
        AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf, WriteHalf, copy, copy_buf,
        sink, split,
    },
    net::UnixStream,
    sync::oneshot,
};

use super::{
    Containers, blocking,
    detach::{DetachKeys, Typed, Watcher},
    logs::framing,
    model::Container,
    run::{Pending, Run},
    state::{self, Phase},
};

/// How much is passed on at once, in bytes.
pub(super) const BUFFER: usize = 64 << 10;

/// What a client wants to be attached to.
#[derive(Clone, Debug)]
pub struct AttachRequest {
    /// Send what the log holds, first.
    pub logs: bool,
    /// Send what comes from now on.
    pub stream: bool,
    /// Which streams.
    pub streams: Streams,
    /// Keys that detach from a terminal, as the client wrote them.
    pub detach_keys: String,
}

/// A client's place at a container, held before the client is told that it has one.
#[derive(Debug)]
pub struct Attachment {
    containers: Containers,
    container: Arc<Container>,
    request: AttachRequest,
    keys: DetachKeys,
    live: Live,
    since: Timestamp,
}

/// Where live output comes from.
#[derive(Debug)]
enum Live {
    /// None is wanted.
    No,
    /// The supervisor.
    Now(UnixStream),
    /// The supervisor of the next start.
    Later(oneshot::Receiver<UnixStream>),
}

/// Why a client's input has ended.
pub(super) enum InputEnd {
    /// The client has nothing more to say; output goes on.
    Closed,
    /// The client leaves, or is to leave.
    Leave,
    /// The detach keys were typed.
    Detached,
}

impl Containers {
    /// Takes a place at a container's streams. From here on nothing it writes is missed.
    ///
    /// # Errors
    /// Invalid for bad detach keys; conflict if it is paused or waits for its policy.
    pub async fn attach(&self, container: &Arc<Container>, request: AttachRequest) -> Result<Attachment> {
        let keys = DetachKeys::parse(&request.detach_keys)?;
        let phase = container.now().state.phase;
        match phase {
            Phase::Paused => {
                return Err(Error::conflict(format!(
                    "container {} is paused, unpause the container before attach",
                    container.id()
                )));
            }
            Phase::Restarting => return Err(state::is_restarting(container.id())),
            Phase::Idle | Phase::Running => {}
        }
        let live = match request.stream {
            true => self.take_place(container, &request).await?,
            false => Live::No,
        };
        self.publish(container, "attach", &[]);
        Ok(Attachment {
            containers: self.clone(),
            container: Arc::clone(container),
            request,
            keys,
            live,
            since: Timestamp::now(),
        })
    }

    async fn take_place(&self, container: &Arc<Container>, request: &AttachRequest) -> Result<Live> {
        let streams = Streams {
            stdin: request.streams.stdin && container.config().open_stdin,
            ..request.streams
        };
        let run = {
            let mut current = container.current();
            match current.run.clone() {
                Some(run) if !run.has_ended() => Ok(run),
                // While an end is being put away, the next start is what is waited for.
                _ => Err(wait_for_start(&mut current.pending, streams)),
            }
        };
        match run {
            Ok(run) => connect(&run, streams).await.map(Live::Now),
            Err(ready) => Ok(Live::Later(ready)),
        }
    }
}

fn wait_for_start(pending: &mut Vec<Pending>, streams: Streams) -> oneshot::Receiver<UnixStream> {
    let (ready, receiver) = oneshot::channel();
    // Those whose clients have gone make room.
    pending.retain(|client| !client.ready.is_closed());
    pending.push(Pending { streams, ready });
    receiver
}

/// Connects to the supervisor of a run.
pub(super) async fn connect(run: &Run, streams: Streams) -> Result<UnixStream> {
    let socket = run.socket.clone();
    let stream = blocking(move || {
        let stream = connect_attach(&socket, streams)?.stream;
        stream.set_nonblocking(true)?;
        Ok(stream)
    });
    Ok(UnixStream::from_std(stream.await?)?)
}

impl Attachment {
    /// How output is sent.
    pub fn framing(&self) -> Framing {
        framing(&self.container)
    }

    /// Serves the client until it leaves or the container ends.
    pub async fn serve(self, client: Upgraded) {
        let (input, mut output) = split(client);
        let container = Arc::clone(&self.container);
        if let Err(error) = self.run(input, &mut output).await {
            tracing::debug!(container = container.id(), %error, "a client's attachment was broken off");
        }
        // The client may be gone already.
        let _ = output.shutdown().await;
    }

    async fn run(self, input: ReadHalf<Upgraded>, output: &mut WriteHalf<Upgraded>) -> io::Result<()> {
        if self.request.logs {
            self.replay(output).await?;
        }
        let supervisor = match self.live {
            Live::No => return Ok(()),
            Live::Now(stream) => stream,
            Live::Later(ready) => match ready.await {
                Ok(stream) => stream,
                // The start failed or the container was removed.
                Err(_) => return Ok(()),
            },
        };
        let config = self.container.config();
        let (from, to) = supervisor.into_split();
        let keys = config.tty.then(|| Watcher::new(self.keys));
        let mut writing = pin!(async {
            copy_buf(&mut BufReader::with_capacity(BUFFER, from), output)
                .await
                .map(drop)
        });
        let reading = pin!(async {
            let once = config.stdin_once && !config.tty;
            match self.request.streams.stdin {
                true if config.open_stdin => pass_input(input, to, keys, once).await,
                true => pass_input(input, sink(), keys, once).await,
                false => disregard(input).await,
            }
        });
        let end = tokio::select! {
            done = &mut writing => return done,
            end = reading => end,
        };
        match end {
            InputEnd::Closed => writing.await,
            InputEnd::Leave => Ok(()),
            InputEnd::Detached => {
                self.containers.publish(&self.container, "detach", &[]);
                Ok(())
            }
        }
    }

    /// Sends what the log held when the place was taken.
    async fn replay(&self, output: &mut WriteHalf<Upgraded>) -> io::Result<()> {
        let streams = self.request.streams;
        let query = Query {
            until: Some(self.since),
            stdout: streams.stdout,
            stderr: streams.stderr,
            ..Query::default()
        };
        let framed = self.framing() == Framing::Multiplexed;
        let format = Format {
            framed,
            ..Format::default()
        };
        match self.containers.log_stream(&self.container, query, format).await {
            Ok(log) => send_all(log, output).await,
            Err(error) => {
                let text = format!("{error}\n");
                let text = match framed {
                    true => frames::frame(Source::System, text.as_bytes()),
                    false => text.into(),
                };
                output.write_all(&text).await
            }
        }
    }
}

async fn send_all(
    chunks: impl Stream<Item = io::Result<bytes::Bytes>>,
    output: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut chunks = pin!(chunks);
    while let Some(chunk) = chunks.next().await {
        output.write_all(&chunk?).await?;
    }
    Ok(())
}

/// Reads what a client sends without being attached to standard input. Its end says nothing: clients close their sending
/// side when they have nothing to send. Whether they still listen shows when they are written to.
pub(super) async fn disregard(mut input: impl AsyncRead + Unpin) -> InputEnd {
    match copy(&mut input, &mut sink()).await {
        Ok(_) => std::future::pending().await,
        Err(_) => InputEnd::Leave,
    }
}

/// Passes a client's input on. Its end closes standard input if `once`, otherwise the client leaves with it.
pub(super) async fn pass_input(
    mut input: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut keys: Option<Watcher>,
    once: bool,
) -> InputEnd {
    let mut buffer = vec![0u8; BUFFER / 4];
    loop {
        let bytes = match input.read(&mut buffer).await {
            Ok(0) if once => {
                // The container may have ended meanwhile.
                let _ = to.shutdown().await;
                return InputEnd::Closed;
            }
            Ok(0) | Err(_) => return InputEnd::Leave,
            Ok(length) => buffer.get(..length).unwrap_or_default(),
        };
        let (passed, detach) = match &mut keys {
            None => (to.write_all(bytes).await, false),
            Some(keys) => match keys.feed(bytes) {
                Typed::Pass(bytes) => (to.write_all(&bytes).await, false),
                Typed::Detach(bytes) => (to.write_all(&bytes).await, true),
            },
        };
        if detach {
            return InputEnd::Detached;
        }
        if passed.is_err() {
            // The container ends; its last output is still to come.
            return InputEnd::Closed;
        }
    }
}
