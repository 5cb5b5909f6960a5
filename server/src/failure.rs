//! The engine's errors as HTTP: the one place where a kind becomes a status.

use berth_api::{ErrorReply, Fault};
use berth_runtime::{Error, Kind};
use http::StatusCode;

/// What a handler fails with: an error of the engine, or a reply that the API's own parts made.
#[derive(Debug)]
pub enum Failure {
    /// The engine's error.
    Engine(Error),
    /// A reply that is complete already.
    Reply(ErrorReply),
}

/// What a handler returns.
pub type Reply<T> = Result<T, Failure>;

impl Failure {
    /// An error of `kind` that reads `message`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self::Engine(Error::new(kind, message))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl From<ErrorReply> for Failure {
    fn from(reply: ErrorReply) -> Self {
        Self::Reply(reply)
    }
}

impl Fault for Failure {
    fn reply(&self) -> ErrorReply {
        match self {
            Self::Engine(error) => {
                let reply = ErrorReply::new(status(error.kind()), error.to_string());
                if error.kind() == Kind::Internal {
                    tracing::error!(error = %reply.message, "the engine failed");
                }
                reply
            }
            Self::Reply(reply) => reply.clone(),
        }
    }
}

/// The status of each kind.
fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Unauthorized => StatusCode::UNAUTHORIZED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::NotModified => StatusCode::NOT_MODIFIED,
        Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outermost_kind_decides_and_the_chain_is_told() {
        let cause = Error::internal("disk full");
        let reply = Failure::from(Error::conflict("cannot remove x").caused_by(cause)).reply();
        assert_eq!(reply.status, StatusCode::CONFLICT);
        assert_eq!(reply.message, "cannot remove x: disk full");
        assert_eq!(reply.code, "conflict");
    }

    #[test]
    fn a_finished_reply_stays_as_it_is() {
        let reply = ErrorReply::invalid("invalid filter").code("invalid-filter");
        assert_eq!(Failure::from(reply.clone()).reply(), reply);
    }
}
