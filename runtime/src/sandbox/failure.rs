//! Why a process could not be started, with the exit code that clients are shown for it.

use std::fmt;

use crate::{Error, Kind, sys::shared::SharedMessage};

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

    /// Leaves it for the parent.
    pub(super) fn report(&self, to: &SharedMessage) {
        let tag = match (self.code, self.error.kind()) {
            (127, _) => 0,
            (126, _) => 1,
            (_, Kind::Invalid) => 2,
            (_, Kind::NotFound) => 3,
            _ => 4,
        };
        to.put(tag, &self.error.to_string());
    }

    /// What a child left, if it left something.
    pub(super) fn reported(from: &SharedMessage) -> Option<Self> {
        let (tag, message) = from.get()?;
        Some(match tag {
            0 => Self::not_found(message),
            1 => Self::not_executable(message),
            2 => Error::invalid(message).into(),
            3 => Error::not_found(message).into(),
            _ => Self::other(message),
        })
    }

    /// The same in the words of a runtime's command line.
    pub(super) fn plainly(self) -> Self {
        const PREFIX: &str = "unable to start container process";
        let text = self.error.to_string();
        match text.starts_with(PREFIX) {
            true => self,
            false => Self {
                code: self.code,
                error: Error::new(self.error.kind(), format!("{PREFIX}: {text}")),
            },
        }
    }

    /// The same in the words that Docker's clients look for.
    pub(super) fn in_context(self, context: &str) -> Self {
        match self.error.kind() {
            // Users and groups are looked up before anything runs, and reported plainly.
            Kind::NotFound => Self::other(self.error.to_string()),
            kind => Self {
                code: self.code,
                error: Error::new(kind, format!("{context}: {}: unknown", self.error)),
            },
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
