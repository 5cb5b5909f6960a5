//! The contract itself, as it is served.

use std::{collections::BTreeMap, sync::Mutex};

use bytes::Bytes;
use yaml_serde::{Mapping, Value};

use crate::version::ApiVersion;

/// The contract as it was written.
pub const OPENAPI_YAML: &str = include_str!("../../openapi.yaml");

/// The contract as JSON, on one line that is ended.
pub const OPENAPI_JSON: &str = include_str!(concat!(env!("OUT_DIR"), "/openapi.json"));

/// The two ways the document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// YAML 1.2.
    Yaml,
    /// JSON.
    Json,
}

/// The document as clients of `version` have to see it: without what came later or went before.
///
/// Made on first use for versions other than the newest; the last one of each format is kept.
pub fn document_for(version: ApiVersion, format: Format) -> Bytes {
    static LAST: Mutex<BTreeMap<Format, (ApiVersion, Bytes)>> = Mutex::new(BTreeMap::new());
    if version == ApiVersion::NEWEST {
        return Bytes::from_static(match format {
            Format::Yaml => OPENAPI_YAML.as_bytes(),
            Format::Json => OPENAPI_JSON.as_bytes(),
        });
    }
    let last = || LAST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((of, text)) = last().get(&format)
        && *of == version
    {
        return text.clone();
    }
    let text = Bytes::from(restricted(version, format));
    last().insert(format, (version, text.clone()));
    text
}

fn restricted(version: ApiVersion, format: Format) -> String {
    let Ok(mut document) = yaml_serde::from_str::<Value>(OPENAPI_JSON) else {
        return String::new();
    };
    restrict(&mut document, version);
    if let Some(info) = document.get_mut("info").and_then(Value::as_mapping_mut) {
        info.insert("version".into(), version.to_string().into());
    }
    name_server(&mut document, version);
    match format {
        Format::Yaml => yaml_serde::to_string(&document).unwrap_or_default(),
        Format::Json => serde_json::to_string(&document).unwrap_or_default() + "\n",
    }
}

/// Lets the document's server be the one of `version`.
fn name_server(document: &mut Value, version: ApiVersion) {
    let newest = format!("/v{}", ApiVersion::NEWEST);
    let servers = document.get_mut("servers").and_then(Value::as_sequence_mut);
    for server in servers.into_iter().flatten().filter_map(Value::as_mapping_mut) {
        if server.get("url").and_then(Value::as_str) == Some(newest.as_str()) {
            server.insert("url".into(), format!("/v{version}").into());
        }
    }
}

/// Takes out every operation, parameter and property that `version` lacks, all the way down.
fn restrict(value: &mut Value, version: ApiVersion) {
    match value {
        Value::Sequence(items) => {
            items.retain(|item| known(item, version));
            items.iter_mut().for_each(|item| restrict(item, version));
        }
        Value::Mapping(members) => {
            let gone: Vec<Value> = members
                .iter()
                .filter(|(_, member)| !known(member, version))
                .map(|(key, _)| key.clone())
                .collect();
            for key in &gone {
                members.shift_remove(key);
            }
            drop_from_required(members, version);
            members
                .iter_mut()
                .for_each(|(_, member)| restrict(member, version));
            members
                .retain(|key, member| !(is_path(key) && member.as_mapping().is_some_and(Mapping::is_empty)));
        }
        _ => {}
    }
}

/// A schema's `required` must not name a property that is about to go.
fn drop_from_required(schema: &mut Mapping, version: ApiVersion) {
    let Some(properties) = schema.get("properties").and_then(Value::as_mapping) else {
        return;
    };
    let gone: Vec<Value> = properties
        .iter()
        .filter(|(_, property)| !known(property, version))
        .map(|(name, _)| name.clone())
        .collect();
    if let Some(required) = schema.get_mut("required").and_then(Value::as_sequence_mut) {
        required.retain(|name| !gone.contains(name));
    }
}

fn is_path(key: &Value) -> bool {
    key.as_str().is_some_and(|key| key.starts_with('/'))
}

fn known(value: &Value, version: ApiVersion) -> bool {
    let bound = |word: &str| value.get(word).and_then(Value::as_str).and_then(parse);
    version.within(bound("x-since"), bound("x-until"))
}

fn parse(text: &str) -> Option<ApiVersion> {
    let (major, minor) = text.split_once('.')?;
    Some(ApiVersion::new(major.parse().ok()?, minor.parse().ok()?))
}
