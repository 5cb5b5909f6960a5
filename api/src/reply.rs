//! Writing replies: one function for each shape the document declares.

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderName, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use serde::Serialize;
use serde_json::json;

use crate::{
    error::ErrorReply,
    stream::{ByteStream, Framing, JsonStream},
    version::{ApiVersion, write_as},
};

pub(crate) type Reply = Response<Body>;

/// JSON that was made before: the document itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JsonText(pub Bytes);

fn with_type(status: u16, content_type: HeaderValue, body: Body) -> Reply {
    let mut reply = empty(status);
    *reply.body_mut() = body;
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    reply
}

pub(crate) fn empty(status: u16) -> Reply {
    let mut reply = Response::new(Body::empty());
    *reply.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    reply
}

pub(crate) fn json<T: Serialize>(status: u16, value: &T, version: ApiVersion) -> Result<Reply, ErrorReply> {
    let text = record(value, version, b"\n")
        .map_err(|error| ErrorReply::internal(format!("the answer can't be written as JSON: {error}")))?;
    Ok(with_type(
        status,
        HeaderValue::from_static("application/json"),
        Body::from(text),
    ))
}

pub(crate) fn json_text(status: u16, text: JsonText) -> Reply {
    with_type(
        status,
        HeaderValue::from_static("application/json"),
        Body::from(text.0),
    )
}

pub(crate) fn text(status: u16, content_type: &'static str, text: String) -> Reply {
    with_type(status, text_type(content_type), Body::from(text))
}

/// Texts are in UTF-8, and say so where the type has such a parameter.
fn text_type(content_type: &'static str) -> HeaderValue {
    HeaderValue::from_static(match content_type {
        "text/plain" => "text/plain; charset=utf-8",
        "text/html" => "text/html; charset=utf-8",
        other => other,
    })
}

pub(crate) fn bytes(
    status: u16,
    content_type: &'static str,
    stream: ByteStream,
    version: ApiVersion,
) -> Reply {
    let content_type = match stream.framing {
        None => HeaderValue::from_static(content_type),
        Some(framing) => output_type(framing, version),
    };
    with_type(status, content_type, Body::from_stream(stream.chunks))
}

/// The content type of process output. Clients below 1.42 know only one.
pub(crate) fn output_type(framing: Framing, version: ApiVersion) -> HeaderValue {
    HeaderValue::from_static(match framing {
        Framing::Multiplexed if version >= ApiVersion::new(1, 42) => {
            "application/vnd.docker.multiplexed-stream"
        }
        _ => "application/vnd.docker.raw-stream",
    })
}

/// How the records of a stream end, and what an error becomes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lines {
    /// LF; an error breaks the reply off.
    Json,
    /// CR LF; an error is a last record.
    Progress,
}

pub(crate) fn records<T: Serialize + 'static>(
    status: u16,
    lines: Lines,
    stream: JsonStream<T>,
    version: ApiVersion,
) -> Reply {
    let end: &[u8] = match lines {
        Lines::Json => b"\n",
        Lines::Progress => b"\r\n",
    };
    let chunks = stream.map(move |item| match item {
        Ok(item) => record(&item, version, end).map_err(|error| error.to_string()),
        Err(error) if lines == Lines::Progress => {
            let message = error.message;
            let last = json!({ "errorDetail": { "message": message }, "error": message });
            record(&last, version, end).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.message),
    });
    with_type(
        status,
        HeaderValue::from_static("application/json"),
        Body::from_stream(chunks),
    )
}

fn record<T: Serialize>(value: &T, version: ApiVersion, end: &[u8]) -> serde_json::Result<Bytes> {
    let mut text = write_as(version, || serde_json::to_vec(value))?;
    text.extend_from_slice(end);
    Ok(text.into())
}

/// Adds a header the document declares; an empty value is left out.
pub(crate) fn header(reply: &mut Reply, name: &'static str, value: &str) -> Result<(), ErrorReply> {
    if value.is_empty() {
        return Ok(());
    }
    let value = HeaderValue::from_str(value)
        .map_err(|_| ErrorReply::internal(format!("the value of the header {name} can't be sent")))?;
    reply.headers_mut().insert(HeaderName::from_static(name), value);
    Ok(())
}
