//! Reading a container's log.

use std::{io, os::fd::OwnedFd, path::Path, sync::Arc};

use berth_api::{
    Framing,
    frames::{self, Source},
};
use berth_runtime::{
    Error, Kind, Result,
    error::Context,
    log::{Format, Progress, Query, Reader},
};
use bytes::Bytes;
use futures_util::{Stream, stream};
use jiff::Timestamp;
use tokio::io::unix::AsyncFd;

use super::{Containers, blocking, model::Container, validate::LogDriver};
use crate::engine::time;

/// How much is read and sent at once, in bytes.
const CHUNK: usize = 128 << 10;

/// What a client wants of a log, as it wrote it.
#[derive(Clone, Debug, Default)]
pub struct LogRequest {
    /// Go on until the container stops.
    pub follow: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Seconds since 1970; empty or 0: from the beginning.
    pub since: String,
    /// Seconds since 1970; empty or 0: no limit.
    pub until: String,
    /// With times.
    pub timestamps: bool,
    /// With attributes.
    pub details: bool,
    /// Number of messages from the end; any other text means all.
    pub tail: String,
}

impl Containers {
    /// The log of a container as a stream of bytes, and how they are framed.
    ///
    /// # Errors
    /// Invalid if neither stream is wanted or a time is none; conflict if the container is dead or being removed; not
    /// implemented if its log driver can't be read.
    pub async fn logs(
        &self,
        container: &Arc<Container>,
        request: &LogRequest,
    ) -> Result<(Framing, impl Stream<Item = io::Result<Bytes>> + Send + use<>)> {
        if !(request.stdout || request.stderr) {
            return Err(Error::invalid(
                "Bad parameters: you must choose at least one stream",
            ));
        }
        let query = Query {
            tail: request.tail.parse().ok(),
            since: moment(&request.since)?,
            until: moment(&request.until)?,
            follow: request.follow,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        container.now().state.must_exist(container.id())?;
        let framing = framing(container);
        let format = Format {
            framed: framing == Framing::Multiplexed,
            timestamps: request.timestamps,
            details: request.details,
        };
        Ok((framing, self.log_stream(container, query, format).await?))
    }

    /// The entries that `query` wants, as chunks.
    pub(super) async fn log_stream(
        &self,
        container: &Arc<Container>,
        mut query: Query,
        format: Format,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>> {
        let log = &container.identity.log;
        let not_kept = log.remote.as_ref().is_some_and(|remote| remote.cache_disabled);
        if log.driver == LogDriver::None || not_kept {
            let message = "configured logging driver does not support reading";
            return Err(Error::new(Kind::NotImplemented, message));
        }
        // Subscribed before the state is looked at, so that an end between the two is not missed.
        let ends = container.progress.subscribe();
        let run = ends.borrow().ends;
        query.follow &= container.now().state.has_process();
        let path = self.store.log(container.id());
        let reader = blocking(move || LogReader::open(&path, query)).await?;
        let log = Log {
            reader: Some(reader),
            format,
            ends,
            run,
        };
        Ok(stream::unfold(log, |mut log| async move {
            let chunk = log.next().await?;
            Some((Ok(chunk), log))
        }))
    }
}

/// How a container's output reaches clients.
pub fn framing(container: &Container) -> Framing {
    match container.config().tty {
        true => Framing::Raw,
        false => Framing::Multiplexed,
    }
}

/// A moment of a query, in seconds since 1970; none for empty text and 0.
fn moment(text: &str) -> Result<Option<Timestamp>> {
    if matches!(text, "" | "0") {
        return Ok(None);
    }
    if !text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-'))
    {
        return Err(Error::invalid(format!(
            "invalid time {text:?}: seconds since 1970 are needed, as in 1764000000.5"
        )));
    }
    time::parse_moment_now(text).map(Some)
}

/// A log that is being sent.
struct Log {
    /// None after an error or the end.
    reader: Option<LogReader>,
    format: Format,
    ends: tokio::sync::watch::Receiver<super::model::Progress>,
    /// How many runs had ended when it was opened.
    run: u64,
}

struct LogReader {
    reader: Reader,
    news: Option<OwnedFd>,
    waiter: Option<AsyncFd<OwnedFd>>,
}

impl LogReader {
    fn open(path: &Path, query: Query) -> Result<Self> {
        let reader = Reader::open(path, query)?;
        let news = reader.fd().map(|fd| fd.try_clone_to_owned()).transpose();
        let news = news.context(|| "cannot watch a log")?;
        Ok(Self {
            reader,
            news,
            waiter: None,
        })
    }

    /// Waits until there may be more.
    async fn news(&mut self) -> io::Result<()> {
        if let Some(news) = self.news.take() {
            #[expect(
                deprecated,
                reason = "its successor is unsafe for types that may give up their descriptor; this one can't"
            )]
            let waiter = AsyncFd::new(news)?;
            self.waiter = Some(waiter);
        }
        match &self.waiter {
            Some(waiter) => waiter.readable().await.map(|mut ready| ready.clear_ready()),
            None => Ok(()),
        }
    }
}

impl Log {
    /// The next chunk; none at the end. An error is the last chunk.
    async fn next(&mut self) -> Option<Bytes> {
        match self.chunk().await {
            Ok(chunk) => chunk,
            Err(error) => {
                self.reader = None;
                let text = format!("error reading the log: {error}\n");
                Some(match self.format.framed {
                    true => frames::frame(Source::System, text.as_bytes()),
                    false => Bytes::from(text),
                })
            }
        }
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        while let Some(mut reader) = self.reader.take() {
            let format = self.format;
            let (reader, progress, chunk) = blocking(move || {
                let mut chunk = Vec::new();
                let progress = reader.reader.fill(&format, &mut chunk, CHUNK)?;
                Ok((reader, progress, chunk))
            })
            .await?;
            let reader = (progress != Progress::End).then_some(reader);
            self.reader = reader;
            if !chunk.is_empty() {
                return Ok(Some(chunk.into()));
            }
            if progress == Progress::Pending {
                self.wait().await?;
            }
        }
        Ok(None)
    }

    /// Waits for more, or for the end of the run, after which what is there is all.
    async fn wait(&mut self) -> Result<()> {
        let Some(reader) = &mut self.reader else {
            return Ok(());
        };
        let run = self.run;
        tokio::select! {
            news = reader.news() => news.context(|| "cannot wait for a log"),
            // The log is complete before its end is told. An error means that the container is gone, too.
            _ = self.ends.wait_for(|now| now.ends > run || now.removed) => {
                reader.reader.stop_following();
                Ok(())
            }
        }
    }
}
