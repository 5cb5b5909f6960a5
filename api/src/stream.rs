//! Replies that go on: JSON records, raw bytes, and multiplexed frames.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use crate::error::{ErrorReply, Fault};

type Records<T> = Pin<Box<dyn Stream<Item = Result<T, ErrorReply>> + Send>>;

/// A reply of JSON records, sent one by one: status and headers go out at once, then each record as it comes.
///
/// Dropped when the client goes away. An error ends it: in a progress stream after a record
/// `{"errorDetail":{"message":…},"error":…}`, elsewhere by breaking the connection off.
pub struct JsonStream<T>(Records<T>);

impl<T: Send + 'static> JsonStream<T> {
    /// A reply of what `records` yields.
    pub fn new<E: Fault>(records: impl Stream<Item = Result<T, E>> + Send + 'static) -> Self {
        Self(Box::pin(
            records.map(|record| record.map_err(|error| error.reply())),
        ))
    }

    /// A reply of records that can't fail.
    pub fn of(records: impl Stream<Item = T> + Send + 'static) -> Self {
        Self(Box::pin(records.map(Ok)))
    }

    /// A reply of the one record `later` gives, with status and headers sent before it is known.
    pub fn once<E: Fault>(later: impl Future<Output = Result<T, E>> + Send + 'static) -> Self {
        Self::new(futures_util::stream::once(later))
    }

    /// The same, once there is a record to begin with, or nothing more to come: for work that a client may take to be
    /// done when it sees the head of the reply, and leave.
    pub async fn begun(mut self) -> Self {
        match self.next().await {
            None => self,
            Some(first) => Self(Box::pin(futures_util::stream::iter([first]).chain(self.0))),
        }
    }

    /// A reply of what is sent to the other end of a channel, until that is dropped. Sending fails when the client is gone.
    pub fn channel<E: Fault>(capacity: usize) -> (tokio::sync::mpsc::Sender<Result<T, E>>, Self) {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(capacity);
        let records = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        (sender, Self::new(records))
    }
}

impl<T> Stream for JsonStream<T> {
    type Item = Result<T, ErrorReply>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl<T> std::fmt::Debug for JsonStream<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JsonStream")
    }
}

/// What the bytes of a stream or a taken-over connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// As the process wrote them: there is a terminal.
    Raw,
    /// In frames of [`crate::frames`]: there is none.
    Multiplexed,
}

type Chunks = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// A reply of bytes, chunk by chunk. An error breaks the connection off, so that a client never takes a part for the whole.
pub struct ByteStream {
    pub(crate) framing: Option<Framing>,
    pub(crate) chunks: Chunks,
}

impl ByteStream {
    /// Bytes of the content type the document declares (an archive).
    pub fn new(chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        Self {
            framing: None,
            chunks: Box::pin(chunks),
        }
    }

    /// Bytes of the content type the document declares, from a reader.
    pub fn reader(reader: impl AsyncRead + Send + 'static) -> Self {
        Self::new(ReaderStream::with_capacity(reader, 64 << 10))
    }

    /// Output of processes. The content type follows from the framing and the client's version.
    pub fn output(framing: Framing, chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        Self {
            framing: Some(framing),
            chunks: Box::pin(chunks),
        }
    }
}

impl Default for ByteStream {
    fn default() -> Self {
        Self::new(futures_util::stream::empty())
    }
}

impl std::fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByteStream")
            .field("framing", &self.framing)
            .finish_non_exhaustive()
    }
}
