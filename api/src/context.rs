//! What a handler knows about the call it answers, and the table of operations.

use http::{Method, StatusCode};

use crate::{error::ErrorReply, version::ApiVersion};

/// One operation of the contract. [`crate::operations`] lists all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The document's `operationId`.
    pub id: &'static str,
    /// The request method.
    pub method: Method,
    /// The path as the document writes it, such as `/containers/{id}/json`.
    pub path: &'static str,
    /// The document's tag.
    pub tag: &'static str,
    /// The first API version that has it, if not the oldest.
    pub since: Option<ApiVersion>,
    /// The first API version that lacks it again.
    pub until: Option<ApiVersion>,
    /// Whether it takes the connection over when it succeeds.
    pub takes_over: bool,
}

/// Which operation a request was, for logs and metrics: an extension of every response of a known route.
#[derive(Clone, Copy, Debug)]
pub struct OperationInfo {
    /// The operation.
    pub operation: &'static Operation,
    /// The API version the client asked for.
    pub version: ApiVersion,
}

/// The call a handler answers.
#[derive(Clone, Debug)]
pub struct Ctx {
    /// The operation called.
    pub operation: &'static Operation,
    /// The API version the client asked for; [`ApiVersion::NEWEST`] for a path without one.
    ///
    /// Fields and parameters that depend on it are handled by the generated code; look at it only for what the document can't declare.
    pub version: ApiVersion,
    /// Whether the client asked to upgrade the connection.
    pub upgrade: bool,
    /// How many bytes the request's body has; `None` if the client does not say before they come.
    pub body_length: Option<u64>,
}

impl Ctx {
    /// The 501 of an operation that this engine does not have yet: `Err(ctx.later().into())`.
    pub fn later(&self) -> ErrorReply {
        let Operation { id, method, path, .. } = self.operation;
        ErrorReply::new(
            StatusCode::NOT_IMPLEMENTED,
            format!(
                "{id} ({method} {path}) is not implemented by this engine yet; \
                 the other operations of its API work without it"
            ),
        )
    }
}
