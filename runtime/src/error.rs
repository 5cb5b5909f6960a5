//! The one error type of the mechanisms: a kind that callers decide by, a message that people read.

use std::{error::Error as StdError, fmt, io};

/// What went wrong, in the terms callers have to tell apart.
///
/// The engine maps each kind to an HTTP status in exactly one place; nothing below it knows HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The caller's input is malformed or contradicts itself.
    Invalid,
    /// Credentials are missing or refused.
    Unauthorized,
    /// Understood, and not permitted.
    Forbidden,
    /// The named object does not exist.
    NotFound,
    /// The object's state or another object stands in the way.
    Conflict,
    /// The object already is in the state asked for.
    NotModified,
    /// The input is larger than allowed.
    TooLarge,
    /// The capability does not exist here.
    NotImplemented,
    /// The capability exists but cannot be used now.
    Unavailable,
    /// Everything else: the host or Berth itself failed.
    Internal,
}

/// An error: its [`Kind`], a message that says what, which value and what to do, and its cause.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Result with Berth's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` that reads `message`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// Shorthand for [`Kind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// Shorthand for [`Kind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// Shorthand for [`Kind::Conflict`].
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }

    /// Shorthand for [`Kind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// The same error with its cause attached; the cause is printed after the message.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The kind callers decide by.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The outermost message, without causes.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut cause = self.source();
        while let Some(next) = cause {
            match system_reason(next) {
                Some(reason) => write!(f, ": {reason}")?,
                None => write!(f, ": {next}")?,
            }
            // An inner `Error` has already printed its own chain.
            if next.is::<Self>() {
                break;
            }
            cause = next.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

/// Adds what was being done to an I/O or system error.
pub trait Context<T> {
    /// Wraps the error as [`Kind::Internal`] with a message made only when needed.
    ///
    /// # Errors
    /// The wrapped error, if `self` is one.
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|e| Error::internal(message()).caused_by(e))
    }
}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Self {
        Self::internal(system_reason(&e).unwrap_or_else(|| e.to_string()))
    }
}

/// What a failed system call says to people, in the words that clients look for: `no such file or directory`.
fn system_reason(error: &(dyn StdError + 'static)) -> Option<String> {
    let number = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::raw_os_error)
        .or_else(|| error.downcast_ref::<nix::Error>().map(|e| *e as i32))
        .or_else(|| {
            error
                .downcast_ref::<rustix::io::Errno>()
                .map(|e| e.raw_os_error())
        })?;
    let text = nix::Error::from_raw(number).desc();
    let mut letters = text.chars();
    // Names such as `RFS specific error` keep their capitals.
    let lower = letters
        .next()
        .filter(|_| !text.chars().nth(1).is_some_and(char::is_uppercase))?;
    Some(lower.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_prints_the_chain_once() {
        let inner = Error::internal("open /x").caused_by(io::Error::other("disk on fire"));
        let outer = Error::conflict("cannot start").caused_by(inner);
        assert_eq!(outer.to_string(), "cannot start: open /x: disk on fire");
        assert_eq!(outer.kind(), Kind::Conflict);
    }

    #[test]
    fn system_errors_read_as_clients_know_them() {
        let causes: [Box<dyn StdError + Send + Sync>; 3] = [
            io::Error::from_raw_os_error(2).into(),
            nix::Error::ENOENT.into(),
            rustix::io::Errno::NOENT.into(),
        ];
        for cause in causes {
            assert_eq!(
                Error::invalid("open /x").caused_by(cause).to_string(),
                "open /x: no such file or directory"
            );
        }
        assert_eq!(
            Error::from(io::Error::from_raw_os_error(13)).to_string(),
            "permission denied"
        );
    }
}
