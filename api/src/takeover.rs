//! Taking over the connection: attach, exec start, session.
//!
//! The client either asks for an upgrade and gets `101 UPGRADED`, or does not and gets `200 OK` without a length; either way the
//! connection then belongs to the handler. hyper can do neither for a bare 200, so the server drives its connections
//! with `without_shutdown` and gives the rest to the taker:
//!
//! ```text
//! let slot = TakeoverSlot::default();                  // one per connection, an extension of each of its requests
//! let parts = http1::Builder::new().serve_connection(io, service).without_shutdown().await?;
//! if let Some(taker) = slot.take() {
//!     taker.run(parts.io.into_inner(), parts.read_buf).await;
//! }
//! ```

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header};
use hyper::ext::ReasonPhrase;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

use crate::{error::ErrorReply, reply, stream::Framing, version::ApiVersion};

/// A byte stream in both directions. `poll_shutdown` closes the writing half only.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The connection a handler took over. What the client sent early is read first.
pub type Upgraded = Box<dyn Duplex>;

type Run = Box<dyn FnOnce(Upgraded) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// The reply that takes the connection over once it is sent.
pub struct Takeover {
    protocol: Protocol,
    run: Option<Run>,
}

#[derive(Clone, Copy, Debug)]
enum Protocol {
    /// Streams of a process; clients may or may not ask for an upgrade.
    Streams(Framing),
    /// The protocol the client names in `Upgrade`.
    Named,
    WebSocket,
}

impl Takeover {
    fn new<F>(protocol: Protocol, run: impl FnOnce(Upgraded) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self {
            protocol,
            run: Some(Box::new(|connection| Box::pin(run(connection)))),
        }
    }

    /// Streams of a process in `framing`; `run` owns the connection and closes it by dropping it.
    ///
    /// `run` is driven by the connection's own task. It is dropped, unrun, if the client goes away before the reply
    /// is sent; what the handler has begun by then goes on.
    pub fn streams<F>(framing: Framing, run: impl FnOnce(Upgraded) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::new(Protocol::Streams(framing), run)
    }

    /// The protocol the client names in `Upgrade`; `run` as for [`Takeover::streams`]. Without an upgrade: 400.
    pub fn protocol<F>(run: impl FnOnce(Upgraded) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::new(Protocol::Named, run)
    }

    /// A WebSocket after its handshake. A request that is no such handshake: 400.
    pub fn websocket<F>(run: impl FnOnce(WebSocketStream<Upgraded>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::new(Protocol::WebSocket, |connection| async {
            run(WebSocketStream::from_raw_socket(connection, Role::Server, None).await).await;
        })
    }

    /// Nothing is taken over after all (an exec that was started detached): an empty 200.
    pub fn none() -> Self {
        Self {
            protocol: Protocol::Named,
            run: None,
        }
    }

    /// Puts the taker into the slot and makes the reply after which the server looks there.
    pub(crate) fn reply(
        self,
        request: &HeaderMap,
        slot: Option<&TakeoverSlot>,
        version: ApiVersion,
    ) -> Result<Response<Body>, ErrorReply> {
        let Some(run) = self.run else {
            return Ok(reply::empty(200));
        };
        let upgrade = request.get(header::UPGRADE);
        let response = match self.protocol {
            Protocol::Streams(framing) => streams_head(upgrade, framing, version),
            Protocol::Named => switching(upgrade.ok_or_else(|| {
                ErrorReply::invalid("this operation needs 'Connection: Upgrade' and an 'Upgrade' header")
            })?),
            Protocol::WebSocket => websocket_head(request)?,
        };
        let slot = slot.ok_or_else(|| ErrorReply::internal("this connection can't be taken over"))?;
        slot.put(Taker(run));
        Ok(response)
    }
}

/// A head without a body: no length is written, and the connection's HTTP ends with it.
fn head() -> Response<Body> {
    Response::new(Body::from_stream(
        futures_util::stream::empty::<io::Result<Bytes>>(),
    ))
}

/// The 101 that switches to `protocol`.
fn switching(protocol: &HeaderValue) -> Response<Body> {
    let mut response = head();
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
        .extensions_mut()
        .insert(ReasonPhrase::from_static(b"UPGRADED"));
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, protocol.clone());
    response
}

fn streams_head(upgrade: Option<&HeaderValue>, framing: Framing, version: ApiVersion) -> Response<Body> {
    let (mut response, framing) = match upgrade {
        Some(protocol) => (switching(protocol), framing),
        // hyper would frame the body of an HTTP/1.1 reply; that of a 1.0 reply ends with the connection.
        // Whatever follows, clients that do not upgrade have always been told it is raw.
        None => {
            let mut response = head();
            *response.version_mut() = Version::HTTP_10;
            (response, Framing::Raw)
        }
    };
    let content_type = reply::output_type(framing, version);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// The server's half of a WebSocket handshake (RFC 6455, 4.2).
fn websocket_head(request: &HeaderMap) -> Result<Response<Body>, ErrorReply> {
    let is_websocket = request
        .get(header::UPGRADE)
        .is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let key = request.get(header::SEC_WEBSOCKET_KEY).filter(|_| is_websocket);
    let key = key.ok_or_else(|| ErrorReply::invalid("this operation needs a WebSocket handshake"))?;
    let version = request.get(header::SEC_WEBSOCKET_VERSION);
    if version.is_none_or(|version| version != "13") {
        return Err(ErrorReply::invalid(
            "only version 13 of the WebSocket protocol is spoken here",
        ));
    }
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| ErrorReply::internal("the WebSocket handshake can't be answered"))?;
    let mut response = switching(&HeaderValue::from_static("websocket"));
    response
        .headers_mut()
        .insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

impl std::fmt::Debug for Takeover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Takeover")
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

/// Where the reply leaves the taker for the server, one per connection.
#[derive(Clone, Default)]
pub struct TakeoverSlot(Arc<Mutex<Option<Taker>>>);

impl TakeoverSlot {
    /// The taker, if the last reply on this connection was a takeover.
    pub fn take(&self) -> Option<Taker> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, taker: Taker) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(taker);
    }
}

impl std::fmt::Debug for TakeoverSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TakeoverSlot")
    }
}

/// Runs the handler's half of a takeover.
pub struct Taker(Run);

impl Taker {
    /// Hands the connection to the handler: the raw transport, and what was read from it beyond the request.
    pub async fn run(self, connection: impl Duplex + 'static, early: Bytes) {
        let connection: Upgraded = match early.is_empty() {
            true => Box::new(connection),
            false => Box::new(Rewound { early, connection }),
        };
        (self.0)(connection).await;
    }
}

/// A connection some of whose input was read already.
struct Rewound<C> {
    early: Bytes,
    connection: C,
}

impl<C: AsyncRead + Unpin> AsyncRead for Rewound<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.connection).poll_read(cx, buf);
        }
        let length = self.early.len().min(buf.remaining());
        buf.put_slice(&self.early[..length]);
        self.early.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Rewound<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}
