//! Request bodies that must keep coming.
//!
//! JSON bodies are read whole before anything is done, so a client that stops halfway would hold a request open for
//! ever. Archives may well wait for their source and are not limited.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

/// Longest pause within a JSON body.
const PAUSE_LIMIT: Duration = Duration::from_secs(30);

/// Whether the body of a request with these headers has to keep coming.
pub fn applies(headers: &HeaderMap) -> bool {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    content_type.is_some_and(|text| {
        text.trim_start()
            .get(..16)
            .is_some_and(|t| t.eq_ignore_ascii_case("application/json"))
    })
}

/// A body that fails when it pauses for too long.
pub struct Steady<B = Incoming> {
    body: B,
    limit: Duration,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<B> Steady<B> {
    /// See the module.
    pub fn new(body: B) -> Self {
        Self {
            body,
            limit: PAUSE_LIMIT,
            pause: None,
        }
    }
}

impl<B> Body for Steady<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            if let Some(pause) = &mut this.pause {
                pause.as_mut().reset(Instant::now() + this.limit);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let pause = this.pause.get_or_insert_with(|| Box::pin(sleep(this.limit)));
        match pause.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                let late = io::Error::new(io::ErrorKind::TimedOut, "the client stopped sending it");
                Poll::Ready(Some(Err(late.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    #[tokio::test]
    async fn a_body_that_stops_fails() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<io::Result<Frame<Bytes>>>(1);
        let frames = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        let mut body = Steady::new(StreamBody::new(frames));
        body.limit = Duration::from_millis(20);
        for _ in 0..2 {
            sender
                .send(Ok(Frame::data(Bytes::from_static(b"{"))))
                .await
                .unwrap();
            assert!(body.frame().await.unwrap().is_ok());
        }
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("stopped"), "{error}");
    }

    #[test]
    fn only_json_has_to_keep_coming() {
        let with = |value| {
            applies(&HeaderMap::from_iter([(
                header::CONTENT_TYPE,
                HeaderValue::from_static(value),
            )]))
        };
        assert!(with("application/json") && with("Application/JSON; charset=utf-8"));
        assert!(!with("application/x-tar") && !with("text/plain") && !applies(&HeaderMap::new()));
    }
}
