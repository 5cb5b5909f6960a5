//! Turns the document's schemas into what a body has to fulfil word for word: objects are closed, fields that the
//! version does not have are gone, fields that are always sent are required, number formats are ranges.

use serde_json::{Map, Value, json};

use super::Version;

/// Which rules apply to a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// A reply: fields marked `x-always` are required.
    Reply,
    /// An example in the document, which may leave those out.
    Example,
}

/// A version as written in the document or in a path, `1.43`.
pub fn version(text: &str) -> Option<Version> {
    let mut parts = text.split('.').map(str::parse::<u32>);
    let version = (parts.next()?.ok()?, parts.next()?.ok()?);
    parts.all(|rest| rest == Ok(0)).then_some(version)
}

/// The whole document with every schema made strict.
pub fn document(document: &Value, version: Version, side: Side) -> Value {
    Strict {
        document,
        version,
        side,
    }
    .walk(document)
}

struct Strict<'a> {
    document: &'a Value,
    version: Version,
    side: Side,
}

impl Strict<'_> {
    /// Copies what is no schema and makes strict what is one.
    fn walk(&self, node: &Value) -> Value {
        match node {
            Value::Object(fields) => {
                let mut copy = Map::new();
                for (name, value) in fields {
                    let value = match name.as_str() {
                        "schema" => self.schema(value),
                        "schemas" => self.each(value),
                        "example" | "examples" => continue,
                        _ => self.walk(value),
                    };
                    copy.insert(name.clone(), value);
                }
                Value::Object(copy)
            }
            Value::Array(items) => items.iter().map(|item| self.walk(item)).collect(),
            plain => plain.clone(),
        }
    }

    fn each(&self, schemas: &Value) -> Value {
        let fields = schemas.as_object().into_iter().flatten();
        Value::Object(
            fields
                .map(|(name, schema)| (name.clone(), self.schema(schema)))
                .collect(),
        )
    }

    fn list(&self, schemas: &Value) -> Value {
        schemas
            .as_array()
            .into_iter()
            .flatten()
            .map(|schema| self.schema(schema))
            .collect()
    }

    fn schema(&self, schema: &Value) -> Value {
        let Some(fields) = schema.as_object() else {
            return schema.clone();
        };
        if fields.contains_key("allOf") {
            return self.schema(&self.merged(fields));
        }
        let mut copy = Map::new();
        for (name, value) in fields {
            let value = match name.as_str() {
                "properties" | "required" => continue,
                "items" | "additionalProperties" | "not" => self.schema(value),
                "oneOf" | "anyOf" => self.list(value),
                // Annotations have no say, and their text could be taken for schemas.
                "example" | "examples" | "default" | "description" | "externalDocs" | "xml" => continue,
                _ => value.clone(),
            };
            copy.insert(name.clone(), value);
        }
        if let Some(properties) = fields.get("properties").and_then(Value::as_object) {
            let required = self.required(fields, properties);
            let here = properties.iter().filter(|(_, schema)| self.exists(schema));
            let here = here
                .map(|(name, schema)| (name.clone(), self.schema(schema)))
                .collect();
            copy.insert("properties".into(), Value::Object(here));
            copy.insert("required".into(), required);
            copy.entry("additionalProperties").or_insert(Value::Bool(false));
        }
        if let Some((least, most)) = fields.get("format").and_then(Value::as_str).and_then(range) {
            copy.entry("minimum").or_insert(least);
            copy.entry("maximum").or_insert(most);
        }
        Value::Object(copy)
    }

    fn required(&self, fields: &Map<String, Value>, properties: &Map<String, Value>) -> Value {
        let listed = fields
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let listed = listed.filter_map(Value::as_str);
        let always = properties
            .iter()
            .filter(|(_, schema)| self.side == Side::Reply && schema["x-always"] == true)
            .map(|(name, _)| name.as_str());
        let mut names: Vec<&str> = listed.chain(always).collect();
        names.retain(|name| properties.get(*name).is_none_or(|schema| self.exists(schema)));
        names.sort_unstable();
        names.dedup();
        json!(names)
    }

    fn exists(&self, property: &Value) -> bool {
        let bound = |word: &str| property[word].as_str().and_then(version);
        bound("x-since").is_none_or(|since| self.version >= since)
            && bound("x-until").is_none_or(|until| self.version < until)
    }

    /// `allOf` as one object. Closing each branch by itself would forbid the fields of the others.
    fn merged(&self, fields: &Map<String, Value>) -> Value {
        let mut all = fields.clone();
        let branches = all.remove("allOf").unwrap_or_default();
        for branch in branches.as_array().into_iter().flatten() {
            let mut branch = self.resolved(branch).as_object().cloned().unwrap_or_default();
            if branch.contains_key("allOf") {
                branch = self.merged(&branch).as_object().cloned().unwrap_or_default();
            }
            for (name, value) in branch {
                match (all.get_mut(&name), value) {
                    (Some(Value::Object(known)), Value::Object(more)) => known.extend(more),
                    (Some(Value::Array(known)), Value::Array(more)) if name == "required" => {
                        known.extend(more)
                    }
                    (Some(_), _) => {}
                    (None, value) => {
                        all.insert(name, value);
                    }
                }
            }
        }
        Value::Object(all)
    }

    fn resolved<'b>(&'b self, schema: &'b Value) -> &'b Value {
        schema["$ref"]
            .as_str()
            .and_then(|reference| self.document.pointer(reference.strip_prefix('#')?))
            .unwrap_or(schema)
    }
}

/// Least and greatest number of an integer format.
fn range(format: &str) -> Option<(Value, Value)> {
    Some(match format {
        "int32" => (json!(i32::MIN), json!(i32::MAX)),
        "int64" => (json!(i64::MIN), json!(i64::MAX)),
        "uint8" => (json!(0), json!(u8::MAX)),
        "uint16" => (json!(0), json!(u16::MAX)),
        "uint32" => (json!(0), json!(u32::MAX)),
        "uint64" => (json!(0), json!(u64::MAX)),
        _ => return None,
    })
}
