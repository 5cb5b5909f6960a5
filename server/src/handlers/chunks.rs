//! Archives that are made while they are sent.

use std::{
    io::{self, BufWriter, Write},
    task::Poll,
};

use berth_api::ByteStream;
use berth_runtime::{Error, Kind, Result};
use bytes::Bytes;
use futures_util::stream::poll_fn;
use tokio::sync::mpsc::Sender;

use crate::failure::{Failure, Reply};

/// Pieces that wait for a slow client.
const WAITING: usize = 8;
/// Bytes that are sent at once.
const CHUNK: usize = 256 * 1024;

/// The end of a reply's body that an archive is written to, by a thread that may block.
#[derive(Debug)]
pub struct Chunks(Sender<io::Result<Bytes>>);

impl Chunks {
    /// A body and its other end.
    pub fn channel() -> (Self, ByteStream) {
        let (sender, mut chunks) = tokio::sync::mpsc::channel(WAITING);
        (
            Self(sender),
            ByteStream::new(poll_fn(move |cx| chunks.poll_recv(cx))),
        )
    }

    /// A body that `work` writes. If that fails before there is anything of it, that is the answer.
    ///
    /// # Errors
    /// Internal, with what `work` gave.
    pub async fn begun(
        work: impl FnOnce(&mut (dyn Write + Send)) -> Result<()> + Send + 'static,
    ) -> Reply<ByteStream> {
        let (sender, mut chunks) = tokio::sync::mpsc::channel(WAITING);
        tokio::task::spawn_blocking(move || Self(sender).fill(work));
        let mut first = match chunks.recv().await {
            Some(Err(error)) => return Err(Failure::new(Kind::Internal, error.to_string())),
            first => first,
        };
        Ok(ByteStream::new(poll_fn(move |cx| match first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => chunks.poll_recv(cx),
        })))
    }

    /// Lets `work` write the body. A failure breaks the reply off, so that nobody takes it for complete.
    pub fn fill(self, work: impl FnOnce(&mut (dyn Write + Send)) -> Result<()>) {
        let sender = self.0.clone();
        let mut out = BufWriter::with_capacity(CHUNK, self);
        if let Err(error) = work(&mut out).and_then(|()| Ok(out.flush()?)) {
            tracing::debug!(%error, "an archive is broken off");
            // Nothing that was not sent is to follow.
            let _unsent = out.into_parts();
            let _client_left =
                sender.blocking_send(Err(io::Error::other(Error::internal(error.to_string()))));
        }
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
