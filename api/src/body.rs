//! Request bodies: JSON read whole into a model, anything else as a stream.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, TryStreamExt};
use http::{HeaderMap, StatusCode, header};
use http_body::Body as _;
use serde::de::DeserializeOwned;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use crate::{error::ErrorReply, read::read_json, version::ApiVersion};

/// The largest JSON body that is read, in bytes.
pub const JSON_LIMIT: usize = 4 << 20;

/// A body that is not JSON (an archive, usually), as it arrives. Nothing of it is read before the handler does.
pub struct RawBody {
    /// The `Content-Type` the client named, or an empty text.
    pub content_type: String,
    stream: BodyDataStream,
}

impl RawBody {
    pub(crate) fn new(headers: &HeaderMap, body: Body) -> Self {
        Self {
            content_type: content_type(headers).to_owned(),
            stream: body.into_data_stream(),
        }
    }

    /// A body of these bytes, for tests of handlers.
    pub fn of(content_type: &str, bytes: impl Into<Bytes>) -> Self {
        Self {
            content_type: content_type.to_owned(),
            stream: Body::from(bytes.into()).into_data_stream(),
        }
    }

    /// The body as an asynchronous reader. A client that goes away shows as an error, never as an early end.
    pub fn into_reader(self) -> impl AsyncRead + Send + Unpin + 'static {
        StreamReader::new(self)
    }
}

impl Stream for RawBody {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.poll_next_unpin(cx).map_err(io::Error::other)
    }
}

impl std::fmt::Debug for RawBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawBody")
            .field("content_type", &self.content_type)
            .finish_non_exhaustive()
    }
}

/// Reads a JSON body. Without one the model is zero, or 400 if the operation needs it.
pub(crate) async fn json<T: DeserializeOwned + Default>(
    headers: &HeaderMap,
    body: Body,
    required: bool,
    version: ApiVersion,
) -> Result<T, ErrorReply> {
    let bytes = collect(body).await?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return match required {
            true => Err(ErrorReply::invalid(
                "invalid JSON: got EOF while reading request body: this operation needs one",
            )),
            false => Ok(T::default()),
        };
    }
    must_be_json(headers)?;
    read_json(&bytes, version).map_err(|error| ErrorReply::invalid(error.to_string()))
}

async fn collect(body: Body) -> Result<Bytes, ErrorReply> {
    let too_large = || {
        ErrorReply::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request body is larger than the {JSON_LIMIT} bytes a JSON body may have"),
        )
    };
    if body.size_hint().lower() > JSON_LIMIT as u64 {
        return Err(too_large());
    }
    let mut stream = body.into_data_stream();
    let mut whole = BytesMut::new();
    let mut failed = |error: axum::Error| ErrorReply::invalid(format!("the request body broke off: {error}"));
    while let Some(chunk) = stream.try_next().await.map_err(&mut failed)? {
        if whole.len() + chunk.len() > JSON_LIMIT {
            return Err(too_large());
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

fn must_be_json(headers: &HeaderMap) -> Result<(), ErrorReply> {
    let named = content_type(headers);
    let essence = named.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ErrorReply::invalid(match named {
        "" => "a request body needs the header 'Content-Type: application/json'".to_owned(),
        other => format!("unsupported Content-Type {other:?}: must be 'application/json'"),
    }))
}

fn content_type(headers: &HeaderMap) -> &str {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}
