//! What a failed operation answers, and how a handler's own error becomes it.

use std::fmt;

use axum::{body::Body, http::Response};
use http::{HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE};
use serde::Serialize;

/// The header that carries the stable code of an error.
pub const ERROR_CODE: HeaderName = HeaderName::from_static("x-berth-error");

/// An error as it goes out: status, `{"message": …}`, and a stable code in the header `X-Berth-Error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorReply {
    /// The HTTP status; 304 is answered without a body.
    pub status: StatusCode,
    /// What people read: what was wrong, with which value, and what to do.
    pub message: String,
    /// What programs read: lower-case words joined by `-`; never changes for a given cause.
    pub code: &'static str,
}

/// Implemented by the error type of the handlers.
///
/// `From<ErrorReply>` lets a handler return the errors this crate makes ([`crate::Ctx::later`], a bad filter value) with `?`.
pub trait Fault: From<ErrorReply> + Send + 'static {
    /// The answer this error gets. Called once, where the reply is written.
    fn reply(&self) -> ErrorReply;
}

impl fmt::Display for ErrorReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ErrorReply {}

impl Fault for ErrorReply {
    fn reply(&self) -> ErrorReply {
        self.clone()
    }
}

impl ErrorReply {
    /// An error of `status` that reads `message`; the code follows from the status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let code = match status.as_u16() {
            304 => "not-modified",
            400 => "invalid",
            401 => "unauthorized",
            403 => "forbidden",
            404 => "not-found",
            409 => "conflict",
            413 => "too-large",
            501 => "not-implemented",
            503 => "unavailable",
            _ => "internal",
        };
        Self {
            status,
            message: message.into(),
            code,
        }
    }

    /// 400: the request itself is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 500: the engine failed.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The same error under a more specific code.
    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let body = match self.status {
            StatusCode::NOT_MODIFIED => Body::empty(),
            _ => Body::from(message_body(&self.message)),
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if self.status != StatusCode::NOT_MODIFIED {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        headers.insert(ERROR_CODE, HeaderValue::from_static(self.code));
        response
    }
}

fn message_body(message: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct ErrorBody<'a> {
        message: &'a str,
    }
    let mut body = serde_json::to_vec(&ErrorBody { message }).unwrap_or_default();
    body.push(b'\n');
    body
}
