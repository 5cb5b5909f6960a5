//! Why a process could not be started, with the exit code that clients are shown for it.

use std::fmt;

use crate::{Error, Kind};

/// A failed start: the error and the exit code that stands for it.
#[derive(Debug)]
pub struct StartError {
    /// 127: the program (or the target of a mount) was not found; 126: it cannot be executed; 128: anything else.
    pub code: i32,
    /// What went wrong. [`Kind::Invalid`] for 126 and 127, else mostly [`Kind::Internal`].
    pub error: Error,
}

impl StartError {
    /// Exit code 127: the program does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self {
            code: 127,
            error: Error::invalid(message),
        }
    }

    /// Exit code 126: the program exists and cannot be executed.
    pub fn not_executable(message: impl Into<String>) -> Self {
        Self {
            code: 126,
            error: Error::invalid(message),
        }
    }

    /// Exit code 128: any other failure.
    pub fn other(message: impl Into<String>) -> Self {
        Self {
            code: 128,
            error: Error::new(Kind::Internal, message),
        }
    }
}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        Self { code: 128, error }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}
