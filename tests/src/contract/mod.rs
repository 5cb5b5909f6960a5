//! Holds replies to the contract, `openapi.yaml`: the status must be declared for the operation, the headers and the
//! content type declared and present, the body valid, down to the last field. What the document does not declare
//! must not be sent.
//!
//! Versions count: a field marked `x-since` or `x-until` must not appear in a reply to a request of a version that
//! does not have it.

mod check;
mod locate;
mod strict;

use std::{
    collections::HashMap,
    fmt::Write as _,
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex},
};

use jsonschema::{Draft, Registry, Validator};
use serde_json::{Value, json};

pub use check::{Body, Head};
pub use locate::{Asked, Operation};
pub use strict::Side;

/// An API version, major and minor.
pub type Version = (u32, u32);

/// The newest version; it is the one a path without a version means.
pub const NEWEST: Version = (1, 43);

/// The document, ready to be asked.
pub struct Contract {
    document: Value,
    operations: Vec<Operation>,
    registries: Mutex<HashMap<(Version, Side), &'static Registry<'static>>>,
    validators: Mutex<HashMap<(Version, Side, String), Arc<Validator>>>,
}

/// What a reply did wrong; empty if nothing.
#[derive(Debug, Default)]
pub struct Violations(pub Vec<String>);

impl Violations {
    /// Whether there is nothing to complain about.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn add(&mut self, text: impl Into<String>) {
        self.0.push(text.into());
    }

    /// Fails the test if there is any violation; `what` says of which reply.
    ///
    /// # Panics
    /// That is what it is for.
    #[track_caller]
    pub fn enforce(&self, what: &str) {
        if !self.is_empty() {
            self.fail(what);
        }
    }

    /// Fails the test with every violation.
    ///
    /// # Panics
    /// That is what it is for.
    #[track_caller]
    pub fn fail(&self, what: &str) -> ! {
        let mut text = format!("the reply to {what} breaks the contract (openapi.yaml):");
        for violation in &self.0 {
            let _ = write!(text, "\n  - {violation}");
        }
        panic!("{text}");
    }
}

impl Contract {
    /// The contract of this repository, read once.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Contract> = LazyLock::new(|| {
            let path = Contract::path();
            let text = std::fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
            Contract::parse(&text)
        });
        &SHARED
    }

    /// Where the document lies.
    pub fn path() -> PathBuf {
        [env!("CARGO_MANIFEST_DIR"), "..", "openapi.yaml"]
            .iter()
            .collect()
    }

    /// A contract out of the text of a document.
    ///
    /// # Panics
    /// If the text is not YAML or has no paths.
    pub fn parse(text: &str) -> Self {
        let document: Value =
            yaml_serde::from_str(text).unwrap_or_else(|error| panic!("the document is not YAML: {error}"));
        let operations = locate::operations(&document);
        Self {
            document,
            operations,
            registries: Mutex::default(),
            validators: Mutex::default(),
        }
    }

    /// The document as read.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// Every operation of the document.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// What `reference` (`#/a/b`) points at.
    ///
    /// # Panics
    /// If it points at nothing.
    pub fn resolve<'a>(&'a self, node: &'a Value) -> &'a Value {
        match node.get("$ref").and_then(Value::as_str) {
            None => node,
            Some(reference) => reference
                .strip_prefix('#')
                .and_then(|pointer| self.document.pointer(pointer))
                .unwrap_or_else(|| panic!("{reference} points at nothing")),
        }
    }

    /// The validator of the schema at `pointer`, for one version and one side.
    ///
    /// # Panics
    /// If there is no valid schema.
    pub fn validator(&self, version: Version, side: Side, pointer: &str) -> Arc<Validator> {
        const URI: &str = "berth:contract";
        let key = (version, side, pointer.to_owned());
        if let Some(known) = self.validators.lock().expect("no panic while locked").get(&key) {
            return Arc::clone(known);
        }
        let registry = *self
            .registries
            .lock()
            .expect("no panic while locked")
            .entry((version, side))
            .or_insert_with(|| {
                let strict = strict::document(&self.document, version, side);
                let resource = Draft::Draft202012.create_resource(strict);
                let registry = Registry::new()
                    .add(URI, resource)
                    .and_then(|builder| builder.prepare());
                Box::leak(Box::new(
                    registry.unwrap_or_else(|error| panic!("bad schemas: {error}")),
                ))
            });
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_registry(registry)
            .should_validate_formats(true)
            // Braces of a path are not allowed in a URI as they are (RFC 3986).
            .build(&json!({"$ref": format!("{URI}#{}", pointer.replace('{', "%7B").replace('}', "%7D"))}))
            .unwrap_or_else(|error| panic!("the schema at {pointer} is not usable: {error}"));
        let validator = Arc::new(validator);
        self.validators
            .lock()
            .expect("no panic while locked")
            .insert(key, Arc::clone(&validator));
        validator
    }
}

/// One segment of a JSON pointer, escaped (RFC 6901).
pub fn segment(text: &str) -> String {
    text.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests;
