//! One connection: HTTP/1.1, request after request, until it ends or a handler takes it over.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{Router, body::Body};
use berth_api::{ErrorReply, OperationInfo, TakeoverSlot};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower::ServiceExt;
use tracing::Instrument;

use super::{
    Peer, Server,
    guard::{self, Guard},
    pace::{Paced, Phase},
    stall::{self, Steady},
};

/// Largest head of a request, in bytes.
const HEAD_SIZE: usize = 64 << 10;
/// Largest buffer for each direction, in bytes.
const BUFFER_SIZE: usize = 256 << 10;
/// How long a client that is still sending gets to read the answer before the connection is broken off.
const LINGER: Duration = Duration::from_secs(2);

/// What a listener demands of its connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Which requests are refused.
    pub guard: Guard,
    /// How long a connection may rest between requests.
    pub idle: Option<Duration>,
}

/// Serves one connection to its end.
pub async fn serve<T>(server: &Arc<Server>, io: T, peer: Peer, limits: Limits)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let phase = Phase::default();
    let slot = TakeoverSlot::default();
    let io = TokioIo::new(Paced::new(io, phase.clone(), limits.idle));
    let service = service_fn(|mut request: Request<Incoming>| {
        phase.busy();
        request.extensions_mut().insert(slot.clone());
        request.extensions_mut().insert(peer);
        let exchange = Exchange {
            server: Arc::clone(server),
            peer,
            guard: limits.guard,
            phase: phase.clone(),
            ambiguous: phase.is_ambiguous(),
        };
        let request = match stall::applies(request.headers()) {
            true => request.map(|body| Body::new(Steady::new(body))),
            false => request.map(Body::new),
        };
        Box::pin(async move { Ok::<_, Infallible>(exchange.answer(request).await) })
    });
    let mut connection = http1::Builder::new()
        .max_header_size(HEAD_SIZE)
        .max_buf_size(BUFFER_SIZE)
        .header_read_timeout(None)
        .title_case_headers(true)
        .serve_connection(io, service);
    let mut stopping = false;
    let result = loop {
        tokio::select! {
            result = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break result,
            () = server.stop.cancelled(), if !stopping => {
                stopping = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            () = server.abort.cancelled() => return,
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "a connection broke");
        return;
    }
    let parts = connection.into_parts();
    let io = parts.io.into_inner().into_inner();
    match slot.take() {
        Some(taker) => tokio::select! {
            () = taker.run(io, parts.read_buf) => {}
            () = server.abort.cancelled() => {}
        },
        None => linger(server, io).await,
    }
}

/// Closes so that a client which is still sending can read the answer it got: closing at once would reset the
/// connection and could take the answer with it.
async fn linger<T: AsyncRead + AsyncWrite + Unpin>(server: &Server, mut io: T) {
    if io.shutdown().await.is_err() {
        return;
    }
    let drain = async {
        let mut waste = [0; 4096];
        while io.read(&mut waste).await.is_ok_and(|read| read > 0) {}
    };
    tokio::select! {
        _ = tokio::time::timeout(LINGER, drain) => {}
        () = server.stop.cancelled() => {}
    }
}

/// One request and its answer.
struct Exchange {
    server: Arc<Server>,
    peer: Peer,
    guard: Guard,
    phase: Phase,
    /// Whether it gave two lengths for its body.
    ambiguous: bool,
}

impl Exchange {
    async fn answer(self, request: Request<Body>) -> Response<Tracked> {
        let start = Instant::now();
        let id = request_id();
        // Work is waited for at the end; streams turn out below not to be.
        let work = self.server.requests.token();
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let (uid, pid, address) = match self.peer {
            Peer::Local { uid, pid } => (Some(uid), pid, None),
            Peer::Remote(address) => (None, None, Some(tracing::field::display(address))),
        };
        let span = match method {
            Method::GET | Method::HEAD => tracing::debug_span!("request", id, uid, pid, address),
            _ => tracing::info_span!("request", id, uid, pid, address),
        };
        let app = self.server.app.clone();
        let mut response = self.respond(app, request).instrument(span.clone()).await;
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert("x-request-id", value);
        }
        span.in_scope(|| log(&method, &path, &response, start.elapsed()));
        let is_work = response.body().size_hint().exact().is_some();
        response.map(|body| Tracked {
            body,
            phase: self.phase,
            _work: is_work.then_some(work),
        })
    }

    async fn respond(&self, app: Router, request: Request<Body>) -> Response<Body> {
        if let Err(reason) = guard::check(self.guard, request.uri(), request.headers()) {
            return refuse(StatusCode::FORBIDDEN, reason);
        }
        if self.ambiguous {
            let text = "a request has either Content-Length or Transfer-Encoding, not both";
            return refuse(StatusCode::BAD_REQUEST, text);
        }
        match app.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// An answer that no operation made; the connection ends with it.
fn refuse(status: StatusCode, message: impl Into<String>) -> Response<Body> {
    let reply = ErrorReply::new(status, message);
    let mut response = Response::new(Body::from(
        serde_json::json!({ "message": reply.message }).to_string() + "\n",
    ));
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(berth_api::ERROR_CODE, HeaderValue::from_static(reply.code));
    response
}

/// A text that is different for every request.
fn request_id() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// One line a request: failures of the engine as errors, reads only when debugging.
fn log(method: &Method, path: &str, response: &Response<Body>, took: Duration) {
    let info = response.extensions().get::<OperationInfo>();
    let operation = info.map_or("-", |info| info.operation.id);
    let version = info.map(|info| info.version.to_string()).unwrap_or_default();
    let status = response.status().as_u16();
    let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let quiet = matches!(*method, Method::GET | Method::HEAD) && status < 500;
    match (status, quiet) {
        (500, _) => tracing::error!(%method, path, operation, version, status, us, "answered"),
        (_, true) => tracing::debug!(%method, path, operation, version, status, us, "answered"),
        _ => tracing::info!(%method, path, operation, version, status, us, "answered"),
    }
}

/// A response body that knows when it is through.
struct Tracked {
    body: Body,
    phase: Phase,
    /// Held by what is waited for at the end.
    _work: Option<TaskTrackerToken>,
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.phase.rest();
    }
}
