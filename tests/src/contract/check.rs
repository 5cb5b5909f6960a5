//! The check of one reply: first its head, then its body or the records of its stream.

use std::{fs::File, sync::LazyLock};

use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use serde_json::Value;

use super::{Asked, Contract, Operation, Side, Version, Violations, segment};
use crate::stream;

/// Headers that HTTP itself governs (RFC 9110, RFC 9112); the document need not declare them.
const TRANSPORT: [HeaderName; 5] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::DATE,
    header::TRANSFER_ENCODING,
];

/// Headers that every answer of a known path carries.
const COMMON: [&str; 4] = ["api-version", "docker-experimental", "ostype", "server"];

/// Headers that any answer may carry. The document says so in its text, and declares them where it declares an error.
const ANYWHERE: [&str; 1] = ["x-request-id"];

/// The header that goes with every failure.
const FAILURE: &str = "x-berth-error";

/// How the body of a reply is to be read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// There must be none.
    None,
    /// One JSON value that fulfils the schema at `pointer`.
    Json {
        /// Version whose fields count.
        version: Version,
        /// JSON pointer to the schema.
        pointer: String,
    },
    /// A sequence of JSON values, each of which fulfils the schema at `pointer`.
    Records {
        /// Version whose fields count.
        version: Version,
        /// JSON pointer to the schema.
        pointer: String,
        /// Each value ends in CR LF.
        crlf: bool,
    },
    /// Frames with headers of eight bytes.
    Frames,
    /// Anything: text, an archive, raw output.
    Bytes,
    /// The connection carries another protocol from here on.
    TakenOver,
}

/// Status and headers of a reply.
#[derive(Clone, Debug)]
pub struct Head {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
}

impl Head {
    /// The header's value as text, empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

/// Where `BERTH_SEEN` names a file, it gets a line for each reply: `tests/unseen.py` tells which of the document's answers
/// no test has seen.
fn note(operation: &Operation, status: u16) {
    use std::io::Write;
    static FILE: LazyLock<Option<File>> = LazyLock::new(|| {
        let path = std::env::var_os("BERTH_SEEN")?;
        let file = File::options().create(true).append(true).open(&path);
        Some(file.unwrap_or_else(|error| panic!("cannot write {path:?}: {error}")))
    });
    if let Some(mut file) = FILE.as_ref() {
        writeln!(file, "{} {status}", operation.id).expect("the file takes a line");
    }
}

impl Contract {
    /// Checks status and headers, and tells how the body has to look.
    pub fn check_head(&self, asked: &Asked<'_>, head: &Head) -> (Body, Violations) {
        let mut violations = Violations::default();
        let body = match asked.operation {
            None => outside(asked, head, &mut violations),
            Some(operation) => self.operation_head(asked, operation, head, &mut violations),
        };
        (body, violations)
    }

    fn operation_head(
        &self,
        asked: &Asked<'_>,
        operation: &Operation,
        head: &Head,
        violations: &mut Violations,
    ) -> Body {
        let status = head.status.as_u16();
        note(operation, status);
        if !operation.exists_in(asked.version) && head.status != StatusCode::BAD_REQUEST {
            violations.add(format!(
                "{} does not exist in this version, yet answers {status}",
                operation.id
            ));
        }
        let pointer = format!("{}/responses/{status}", operation.pointer);
        let Some(response) = self.document().pointer(&pointer) else {
            violations.add(format!("status {status} is not declared for {}", operation.id));
            return Body::Bytes;
        };
        let pointer = match response["$ref"].as_str().and_then(|text| text.strip_prefix('#')) {
            Some(target) => target.to_owned(),
            None => pointer,
        };
        let response = self.resolve(response);
        let switched = head.status == StatusCode::SWITCHING_PROTOCOLS;
        self.headers(response, head, operation.hijack && status < 400, violations);
        if switched {
            return Body::TakenOver;
        }
        self.content(asked, operation, response, &pointer, head, violations)
    }

    /// Declared headers must be valid, undeclared ones must not be there.
    fn headers(&self, response: &Value, head: &Head, taken_over: bool, violations: &mut Violations) {
        let declared = response["headers"].as_object();
        let failed = head.status.as_u16() >= 300;
        let find = |name: &str| {
            declared
                .into_iter()
                .flatten()
                .find(|(known, _)| known.eq_ignore_ascii_case(name))
                .map(|(_, value)| value)
        };
        for (name, value) in &head.headers {
            let Some(header) = find(name.as_str()) else {
                let name = name.as_str();
                let known = COMMON.contains(&name) || ANYWHERE.contains(&name) || failed && name == FAILURE;
                if !known && !TRANSPORT.iter().any(|header| header == name) {
                    violations.add(format!("header {name}: {value:?} is not declared"));
                }
                continue;
            };
            let schema = &self.resolve(header)["schema"];
            let Ok(text) = value.to_str() else {
                violations.add(format!("header {name} is not text"));
                continue;
            };
            if let Some(fault) = header_fault(schema, text) {
                violations.add(format!("header {name}: {text:?} {fault}"));
            }
        }
        for (name, header) in declared.into_iter().flatten() {
            let required = self.resolve(header)["required"] == true
                || !taken_over && COMMON.contains(&&*name.to_lowercase());
            if required && !head.headers.contains_key(name.as_str()) {
                violations.add(format!("header {name} is missing"));
            }
        }
        // Answers on a connection that is being taken over are written in front of the other protocol.
        for name in COMMON.iter().filter(|name| !taken_over && find(name).is_none()) {
            if !head.headers.contains_key(*name) {
                violations.add(format!(
                    "header {name} is missing; every answer of a known path has it"
                ));
            }
        }
    }

    fn content(
        &self,
        asked: &Asked<'_>,
        operation: &Operation,
        response: &Value,
        pointer: &str,
        head: &Head,
        violations: &mut Violations,
    ) -> Body {
        let sent = head.header("content-type");
        let content = response["content"].as_object();
        if asked.method == Method::HEAD {
            return Body::None;
        }
        let Some(content) = content.filter(|content| !content.is_empty()) else {
            if operation.hijack && head.status == StatusCode::OK {
                return Body::TakenOver;
            }
            if !sent.is_empty() {
                violations.add(format!(
                    "content type {sent:?} on an answer that is declared to have no body"
                ));
            }
            return Body::None;
        };
        // Where a request decides whether there is a body at all.
        if sent.is_empty() && response["x-may-be-empty"] == true && head.header("content-length") == "0" {
            return Body::None;
        }
        let found = content.iter().find(|(declared, _)| same_type(declared, sent));
        let Some((declared, media)) = found else {
            let declared: Vec<&String> = content.keys().collect();
            violations.add(format!(
                "content type {sent:?} is not declared; declared: {declared:?}"
            ));
            return Body::Bytes;
        };
        if operation.hijack && head.status == StatusCode::OK {
            return Body::TakenOver;
        }
        let pointer = format!("{pointer}/content/{}/schema", segment(declared));
        let version = asked.version;
        match media["x-stream"].as_str() {
            Some("json") => Body::Records {
                version,
                pointer,
                crlf: false,
            },
            Some("progress") => Body::Records {
                version,
                pointer,
                crlf: true,
            },
            Some("frames") if declared.contains("multiplexed") => Body::Frames,
            None if declared == "application/json" => Body::Json { version, pointer },
            _ => Body::Bytes,
        }
    }

    /// Checks a whole body.
    pub fn check_body(&self, rule: &Body, bytes: &[u8]) -> Violations {
        let mut violations = Violations::default();
        match rule {
            Body::None if bytes.is_empty() => {}
            Body::None => violations.add(format!(
                "a body of {} bytes where there must be none",
                bytes.len()
            )),
            Body::Bytes | Body::TakenOver => {}
            Body::Frames => {
                if let Err(error) = stream::frames(bytes) {
                    violations.add(error);
                }
            }
            Body::Json { version, pointer } => match serde_json::from_slice(bytes) {
                Ok(value) => self.check_value(*version, pointer, &value, &mut violations),
                Err(error) => violations.add(format!("the body is not JSON: {error}: {}", excerpt(bytes))),
            },
            Body::Records {
                version,
                pointer,
                crlf,
            } => {
                if *crlf && !bytes.is_empty() && !bytes.ends_with(b"\r\n") {
                    violations.add("the last record does not end in CR LF");
                }
                for record in serde_json::Deserializer::from_slice(bytes).into_iter::<Value>() {
                    match record {
                        Ok(value) => self.check_value(*version, pointer, &value, &mut violations),
                        Err(error) => violations.add(format!("a record is not JSON: {error}")),
                    }
                }
            }
        }
        violations
    }

    /// Checks one record of a stream.
    pub fn check_record(&self, rule: &Body, value: &Value) -> Violations {
        let mut violations = Violations::default();
        match rule {
            Body::Records { version, pointer, .. } => {
                self.check_value(*version, pointer, value, &mut violations);
            }
            other => violations.add(format!("a record where {other:?} is declared")),
        }
        violations
    }

    fn check_value(&self, version: Version, pointer: &str, value: &Value, violations: &mut Violations) {
        for error in self.validator(version, Side::Reply, pointer).iter_errors(value) {
            let place = error.instance_path().to_string();
            let place = if place.is_empty() { "the body" } else { &place };
            violations.add(format!("{place}: {}", shortened(&error.to_string())));
        }
    }
}

/// The rules for paths that the document does not have.
fn outside(asked: &Asked<'_>, head: &Head, violations: &mut Violations) -> Body {
    match head.status {
        StatusCode::NOT_FOUND => {
            if head.header("content-type") != "application/json" {
                violations.add("an unknown path must answer with application/json");
            }
            for name in COMMON.iter().filter(|name| head.headers.contains_key(**name)) {
                violations.add(format!("header {name} on the answer of an unknown path"));
            }
            if asked.method == Method::HEAD {
                return Body::None;
            }
            let pointer = "/components/schemas/ErrorResponse".to_owned();
            Body::Json {
                version: asked.version,
                pointer,
            }
        }
        StatusCode::OK if asked.method == Method::OPTIONS => Body::None,
        StatusCode::MOVED_PERMANENTLY => Body::Bytes,
        // Refused before the path was looked at, for the form of the request itself.
        StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Body::Bytes,
        status => {
            violations.add(format!("status {status} from a path that is not in the document"));
            Body::Bytes
        }
    }
}

/// Content types are the same word for word; a charset may be added to text.
fn same_type(declared: &str, sent: &str) -> bool {
    declared == sent
        || declared.starts_with("text/")
            && sent
                .strip_prefix(declared)
                .is_some_and(|rest| rest.starts_with("; charset=utf-8"))
}

/// What a header's text has against its schema. Headers have no types of their own.
fn header_fault(schema: &Value, text: &str) -> Option<String> {
    let typed = match schema["type"].as_str() {
        Some("integer") => text.parse::<i64>().is_ok(),
        Some("boolean") => text == "true" || text == "false",
        _ => true,
    };
    if !typed {
        return Some(format!("is not of type {}", schema["type"]));
    }
    let listed = schema["enum"].as_array()?;
    (!listed.iter().any(|value| value == text)).then(|| format!("is not one of {listed:?}"))
}

fn excerpt(bytes: &[u8]) -> String {
    shortened(&String::from_utf8_lossy(bytes))
}

fn shortened(text: &str) -> String {
    const MOST: usize = 300;
    match text.char_indices().nth(MOST) {
        None => text.to_owned(),
        Some((end, _)) => format!(
            "{} ... ({} bytes)",
            text.get(..end).unwrap_or_default(),
            text.len()
        ),
    }
}
