//! A client at the streams of an exec.

use std::{io, pin::pin, sync::Arc};

use berth_api::{
    Framing, Upgraded,
    frames::{self, Source},
};
use berth_runtime::supervisor::{Failure, Streams};
use tokio::{
    io::{
        AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf, WriteHalf, copy_buf, sink,
        split,
    },
    net::unix::OwnedReadHalf,
};

use super::{
    super::{
        Containers,
        attach::{BUFFER, InputEnd, disregard, pass_input},
        detach::{DetachKeys, Watcher},
        model::Container,
        payload::Payload,
    },
    Exec, ExecStart, Launched,
    start::Begun,
};

/// A client's place at an exec that it starts.
#[derive(Debug)]
pub struct ExecSession {
    containers: Containers,
    container: Arc<Container>,
    begun: Begun,
    request: ExecStart,
}

impl ExecSession {
    pub(super) fn new(
        containers: &Containers,
        container: &Arc<Container>,
        begun: Begun,
        request: ExecStart,
    ) -> Self {
        Self {
            containers: containers.clone(),
            container: Arc::clone(container),
            begun,
            request,
        }
    }

    /// How output is sent: as the client that started it says, whatever the exec has.
    pub fn framing(&self) -> Framing {
        match self.request.tty {
            true => Framing::Raw,
            false => Framing::Multiplexed,
        }
    }

    /// Starts the exec and serves the client until it leaves or the exec has ended. The exec goes on without it.
    pub async fn serve(self, client: Upgraded) {
        let (containers, container, request) = (self.containers, self.container, self.request);
        let Some(exec) = self.begun.go() else {
            return;
        };
        let launched = containers.exec_launch(&container, &exec, request).await;
        let place = Place {
            containers,
            container,
            exec: Arc::clone(&exec),
            tty: request.tty,
            launched,
        };
        let (input, mut output) = split(client);
        if let Err(error) = place.run(input, &mut output).await {
            tracing::debug!(exec = &*exec.id, %error, "a client of an exec was broken off");
        }
        // The client may be gone already.
        let _ = output.shutdown().await;
    }
}

/// A client at an exec that runs or could not be run.
struct Place {
    containers: Containers,
    container: Arc<Container>,
    exec: Arc<Exec>,
    /// Whether the client wants to see a terminal.
    tty: bool,
    launched: Result<Launched, Failure>,
}

impl Place {
    async fn run(self, input: ReadHalf<Upgraded>, output: &mut WriteHalf<Upgraded>) -> io::Result<()> {
        let stream = match self.launched {
            Ok(launched) => launched.stream,
            Err(failure) => {
                let text = format!("{}\r\n", failure.message);
                return match self.tty {
                    true => output.write_all(text.as_bytes()).await,
                    false => {
                        output
                            .write_all(&frames::frame(Source::Stdout, text.as_bytes()))
                            .await
                    }
                };
            }
        };
        let setup = &self.exec.setup;
        if setup.streams == Streams::default() {
            return Ok(());
        }
        let (from, to) = stream.into_split();
        let keys = match setup.tty {
            true => DetachKeys::parse(&setup.detach_keys).ok().map(Watcher::new),
            false => None,
        };
        let mut writing = pin!(async {
            pass_output(from, output, setup.tty, self.tty).await?;
            // Who sees the end asks for the exit code.
            self.exec.ended().await;
            Ok(())
        });
        let reading = pin!(async {
            match setup.streams.stdin {
                true => pass_input(input, to, keys, !setup.tty).await,
                false if setup.tty => pass_input(input, sink(), keys, true).await,
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
                self.containers
                    .publish_exec(&self.container, &self.exec, "exec_detach", &[]);
                Ok(())
            }
        }
    }
}

/// Passes output on. An exec with a terminal writes plain bytes and one without writes frames; a client that expects the
/// other gets that.
async fn pass_output(
    from: OwnedReadHalf,
    output: &mut (impl AsyncWrite + Unpin),
    has_tty: bool,
    wants_tty: bool,
) -> io::Result<()> {
    let mut from = BufReader::with_capacity(BUFFER, from);
    match (has_tty, wants_tty) {
        (true, false) => wrap(from, output).await,
        (false, true) => Payload::new(from, true).copy(output, BUFFER / 4).await,
        _ => copy_buf(&mut from, output).await.map(drop),
    }
}

async fn wrap(mut from: impl AsyncRead + Unpin, output: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0u8; BUFFER / 4];
    loop {
        let length = from.read(&mut buffer).await?;
        let bytes = buffer.get(..length).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(());
        }
        output.write_all(&frames::frame(Source::Stdout, bytes)).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_added() {
        let mut framed = Vec::new();
        wrap(&b"plain"[..], &mut framed).await.unwrap();
        assert_eq!(framed, &frames::frame(Source::Stdout, b"plain")[..]);
    }
}
