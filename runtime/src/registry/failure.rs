//! What went wrong with a registry, in its own words.

use std::error::Error as _;

use reqwest::StatusCode;
use serde::Deserialize;

use crate::{Error, Kind, image::Reference};

/// The longest text of a registry that is passed on.
const TEXT_MAX: usize = 1000;

/// Why a request to a registry was not answered as hoped.
#[derive(Debug)]
pub enum Failure {
    /// The registry refused it.
    Refused {
        /// The status of the answer.
        status: StatusCode,
        /// The registry's code, like `MANIFEST_UNKNOWN`; empty if there is none.
        code: String,
        /// What it says.
        text: String,
        /// When to ask again, in seconds.
        retry_after: Option<u64>,
    },
    /// It could not be reached.
    Unreachable(String),
    /// It did not answer, or not completely.
    Broken(String),
    /// Something else is wrong, and asking again does not help.
    Other(Error),
}

pub type Attempt<T> = std::result::Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Failure {
    /// A request that was not answered.
    pub fn broken(url: &reqwest::Url, error: &reqwest::Error) -> Self {
        let mut text = String::new();
        let mut cause = error.source();
        while let Some(next) = cause {
            text = next.to_string();
            cause = next.source();
        }
        if text.is_empty() {
            text = match error.is_timeout() {
                true => "timeout".to_owned(),
                false => "the connection broke off".to_owned(),
            };
        }
        let mut shown = url.clone();
        // A redirect may carry secrets there.
        shown.set_query(None);
        match error.is_connect() {
            true => Self::Unreachable(format!("cannot reach {shown}: {text}")),
            false => Self::Broken(format!("cannot read {shown}: {text}")),
        }
    }

    /// Whether the same request may be answered a little later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                status.is_server_error() && *status != StatusCode::NOT_IMPLEMENTED
                    || matches!(
                        *status,
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
                    )
            }
            Self::Broken(_) | Self::Unreachable(_) => true,
            Self::Other(_) => false,
        }
    }

    /// Whether the registry says that it does not have what was asked for.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::NOT_FOUND)
    }

    /// What the registry or the network says.
    pub fn text(&self) -> String {
        match self {
            Self::Refused { text, .. } | Self::Broken(text) | Self::Unreachable(text) => text.clone(),
            Self::Other(error) => error.to_string(),
        }
    }

    /// As the error of a pull: what is not there or not shown is not found.
    pub fn of_pull(self, reference: &Reference, anonymous: bool) -> Error {
        let (status, code) = match &self {
            Self::Refused { status, code, .. } => (*status, code.as_str()),
            Self::Broken(_) | Self::Unreachable(_) => return Error::internal(self.text()),
            Self::Other(_) => return self.into_error(),
        };
        let text = self.text();
        let name = reference.familiar_name();
        let denied = code == "DENIED" || (anonymous && status == StatusCode::UNAUTHORIZED);
        if denied {
            return Error::not_found(format!(
                "pull access denied for {name}, repository does not exist or may require 'docker login': {text}"
            ));
        }
        match (code, status) {
            ("NAME_UNKNOWN", _) => Error::not_found(format!("repository {name} not found: {text}")),
            ("MANIFEST_UNKNOWN", _) | (_, StatusCode::NOT_FOUND) => {
                Error::not_found(format!("manifest for {} not found: {text}", reference.familiar()))
            }
            _ => Error::internal(text),
        }
    }

    /// As the error of anything else: with the kind that the registry's status is.
    pub fn into_error(self) -> Error {
        match self {
            Self::Refused { status, text, .. } => {
                let kind = match status {
                    StatusCode::UNAUTHORIZED => Kind::Unauthorized,
                    StatusCode::FORBIDDEN => Kind::Forbidden,
                    StatusCode::NOT_FOUND => Kind::NotFound,
                    _ => Kind::Internal,
                };
                Error::new(kind, text)
            }
            Self::Broken(text) | Self::Unreachable(text) => Error::internal(text),
            Self::Other(error) => error,
        }
    }
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    errors: Vec<Entry>,
    /// Docker's token server.
    #[serde(default)]
    details: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Reads an answer that is an error.
pub fn refusal(
    status: StatusCode,
    retry_after: Option<u64>,
    bearer_error: Option<&str>,
    body: &[u8],
) -> Failure {
    let (mut code, mut text) = read(status, body);
    // RFC 6750, section 3.1: the challenge says more exactly what is missing.
    if bearer_error == Some("insufficient_scope") {
        code = "DENIED".to_owned();
        text = format!(
            "denied: requested access to the resource is denied{}",
            after(&text)
        );
    }
    Failure::Refused {
        status,
        code,
        text,
        retry_after,
    }
}

fn after(text: &str) -> String {
    match text.is_empty() {
        true => String::new(),
        false => format!(" ({text})"),
    }
}

fn read(status: StatusCode, body: &[u8]) -> (String, String) {
    let default_code = match status {
        StatusCode::UNAUTHORIZED => "UNAUTHORIZED",
        StatusCode::FORBIDDEN => "DENIED",
        StatusCode::TOO_MANY_REQUESTS => "TOOMANYREQUESTS",
        _ => "",
    };
    if let Ok(body) = serde_json::from_slice::<Body>(body) {
        if let Some(first) = body.errors.first() {
            let lines: Vec<String> = body.errors.iter().take(10).map(line).collect();
            return (first.code.clone(), short(&lines.join("\n")));
        }
        if let Some(text) = body.details.or(body.message) {
            let words = default_code.to_ascii_lowercase();
            let text = match words.is_empty() {
                true => text,
                false => format!("{words}: {text}"),
            };
            return (default_code.to_owned(), short(&text));
        }
    }
    let text = match status {
        StatusCode::UNAUTHORIZED => "unauthorized: authentication required".to_owned(),
        StatusCode::FORBIDDEN => "denied: requested access to the resource is denied".to_owned(),
        StatusCode::TOO_MANY_REQUESTS => "toomanyrequests: too many requests".to_owned(),
        _ => {
            let said = String::from_utf8_lossy(body);
            let printable: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
            format!("received unexpected HTTP status: {status}{}", after(&printable))
        }
    };
    (default_code.to_owned(), text)
}

/// `manifest unknown: manifest unknown`.
fn line(entry: &Entry) -> String {
    let code = entry.code.replace('_', " ").to_ascii_lowercase();
    match entry.message.is_empty() {
        true => code,
        false => format!("{code}: {}", entry.message),
    }
}

fn short(text: &str) -> String {
    text.chars().take(TEXT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, body: &str) -> Failure {
        refusal(StatusCode::from_u16(status).unwrap(), None, None, body.as_bytes())
    }

    #[test]
    fn pulls_fail_in_dockers_words() {
        let reference = Reference::parse("x:t").unwrap();
        let unknown = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        let denied = r#"{"errors":[{"code":"DENIED","message":"no"}]}"#;
        let cases = [
            (
                404,
                unknown,
                Kind::NotFound,
                "manifest for x:t not found: manifest unknown: manifest unknown",
            ),
            (
                403,
                denied,
                Kind::NotFound,
                "pull access denied for x, repository does not exist or may require 'docker login': denied: no",
            ),
            (
                500,
                "<html>",
                Kind::Internal,
                "received unexpected HTTP status: 500 Internal Server Error (<html>)",
            ),
            (429, "", Kind::Internal, "toomanyrequests: too many requests"),
        ];
        for (status, body, kind, text) in cases {
            let error = of(status, body).of_pull(&reference, false);
            assert_eq!((error.kind(), error.message()), (kind, text));
        }
        assert_eq!(of(401, "").of_pull(&reference, true).kind(), Kind::NotFound);
        assert_eq!(of(401, "").of_pull(&reference, false).kind(), Kind::Internal);
    }

    #[test]
    fn what_passes_is_tried_again() {
        for status in [429, 500, 502, 503, 504, 408] {
            assert!(of(status, "").is_passing(), "{status}");
        }
        for status in [400, 401, 403, 404, 501] {
            assert!(!of(status, "").is_passing(), "{status}");
        }
    }
}
