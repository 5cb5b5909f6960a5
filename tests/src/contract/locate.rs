//! Finds the operation that a request line means.

use http::Method;
use serde_json::Value;

use super::{Contract, NEWEST, Version, segment, strict};

/// One operation of the document.
#[derive(Clone, Debug)]
pub struct Operation {
    /// `operationId`.
    pub id: String,
    /// Method, upper case.
    pub method: Method,
    /// Path as in the document, with parameters in braces.
    pub path: String,
    /// JSON pointer to the operation.
    pub pointer: String,
    /// The connection is taken over.
    pub hijack: bool,
    since: Option<Version>,
    until: Option<Version>,
}

/// What a request line asks for.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The version in the path, or the newest.
    pub version: Version,
    /// The operation; none if the document has none there.
    pub operation: Option<&'a Operation>,
    /// Method and path, for messages.
    pub line: String,
    /// The method.
    pub method: Method,
}

/// Every operation of `document`.
///
/// # Panics
/// If there are no paths or a method does not exist.
pub fn operations(document: &Value) -> Vec<Operation> {
    let paths = document["paths"].as_object().expect("the document has paths");
    let mut all = Vec::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().into_iter().flatten() {
            if method == "parameters" {
                continue;
            }
            let flag = |name: &str| operation[name].as_bool().unwrap_or(false);
            all.push(Operation {
                id: operation["operationId"].as_str().unwrap_or_default().to_owned(),
                method: method.to_uppercase().parse().expect("a method"),
                path: path.clone(),
                pointer: format!("/paths/{}/{method}", segment(path)),
                hijack: flag("x-hijack") || flag("x-websocket"),
                since: operation["x-since"].as_str().and_then(strict::version),
                until: operation["x-until"].as_str().and_then(strict::version),
            });
        }
    }
    // The longer its literal part, the more specific a path is.
    all.sort_by_key(|operation| std::cmp::Reverse(literal(&operation.path)));
    all
}

impl Operation {
    /// Whether `version` has the operation.
    pub fn exists_in(&self, version: Version) -> bool {
        self.since.is_none_or(|since| version >= since) && self.until.is_none_or(|until| version < until)
    }
}

impl Contract {
    /// The operation and version that a request asks for. `target` may have a query.
    pub fn locate(&self, method: &Method, target: &str) -> Asked<'_> {
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        let (version, rest) = split_version(path);
        let operation = self
            .operations
            .iter()
            .find(|operation| operation.method == *method && matches(&operation.path, rest));
        Asked {
            version: version.unwrap_or(NEWEST),
            operation,
            line: format!("{method} {target}"),
            method: method.clone(),
        }
    }

    /// Whether the document has the path at all, with any method.
    pub fn knows_path(&self, target: &str) -> bool {
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        let (_, rest) = split_version(path);
        self.operations
            .iter()
            .any(|operation| matches(&operation.path, rest))
    }
}

/// `/v1.24/x` becomes version 1.24 and `/x`. Without a version the whole path is left.
fn split_version(path: &str) -> (Option<Version>, &str) {
    let found = path.strip_prefix("/v").and_then(|rest| {
        let end = rest.find('/')?;
        Some((strict::version(rest.get(..end)?)?, rest.get(end..)?))
    });
    match found {
        Some((version, rest)) => (Some(version), rest),
        None => (None, path),
    }
}

fn literal(path: &str) -> usize {
    path.split('/')
        .filter(|part| !part.starts_with('{'))
        .map(|part| part.len() + 1)
        .sum()
}

/// Whether `path` fits `template`. A parameter takes as much as it can get, slashes included, but not nothing.
fn matches(template: &str, path: &str) -> bool {
    // What every engine answers and no template can say: clients list networks with and without the slash.
    let path = if path == "/networks/" { "/networks" } else { path };
    match template.split_once('{') {
        None => template == path,
        Some((front, back)) => {
            let tail = back.split_once('}').map_or("", |(_, tail)| tail);
            let Some(middle) = path.strip_prefix(front).and_then(|rest| rest.strip_suffix(tail)) else {
                return false;
            };
            !middle.is_empty() && !middle.starts_with('/')
        }
    }
}
