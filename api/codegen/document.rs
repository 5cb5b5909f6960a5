//! Reading the contract into utoipa's model of OpenAPI.

use serde::de::DeserializeOwned;
use utoipa::openapi::{
    OpenApi, PathItem, Ref, RefOr, Response, Schema, extensions::Extensions, path::Parameter,
    request_body::RequestBody,
};
use yaml_serde::{Mapping, Value};

/// The contract.
pub struct Document {
    /// As utoipa models it.
    pub api: OpenApi,
    /// As JSON.
    pub json: String,
}

impl Document {
    /// Reads a YAML document.
    pub fn read(yaml: &str) -> Result<Self, String> {
        let mut value: Value = yaml_serde::from_str(yaml).map_err(|error| error.to_string())?;
        let json = serde_json::to_string(&value).map_err(|error| error.to_string())?;
        prepare(&mut value);
        let api = match yaml_serde::from_value(value.clone()) {
            Ok(api) => api,
            Err(error) => return Err(locate(&value).unwrap_or_else(|| error.to_string())),
        };
        Ok(Self { api, json })
    }

    /// The schema a reference names.
    pub fn schema(&self, reference: &str) -> Result<&Schema, String> {
        let name = ref_name(reference)?;
        match self
            .api
            .components
            .as_ref()
            .and_then(|components| components.schemas.get(name))
        {
            Some(RefOr::T(schema)) => Ok(schema),
            Some(RefOr::Ref(further)) => self.schema(&further.ref_location),
            None => Err(format!("no schema {reference}")),
        }
    }

    /// A response, given in place or by reference.
    pub fn response<'a>(&'a self, response: &'a RefOr<Response>) -> Result<&'a Response, String> {
        self.component(response, |components, name| components.responses.get(name))
    }

    /// A parameter, given in place or by reference.
    pub fn parameter<'a>(&'a self, parameter: &'a RefOr<Parameter>) -> Result<&'a Parameter, String> {
        self.component(parameter, |components, name| components.parameters.get(name))
    }

    /// A request body, given in place or by reference.
    pub fn request_body<'a>(&'a self, body: &'a RefOr<RequestBody>) -> Result<&'a RequestBody, String> {
        self.component(body, |components, name| components.request_bodies.get(name))
    }

    fn component<'a, T>(
        &'a self,
        item: &'a RefOr<T>,
        get: impl Fn(&'a utoipa::openapi::Components, &str) -> Option<&'a RefOr<T>>,
    ) -> Result<&'a T, String> {
        match item {
            RefOr::T(item) => Ok(item),
            RefOr::Ref(Ref { ref_location, .. }) => {
                let name = ref_name(ref_location)?;
                match self
                    .api
                    .components
                    .as_ref()
                    .and_then(|components| get(components, name))
                {
                    Some(RefOr::T(item)) => Ok(item),
                    _ => Err(format!("{ref_location} leads nowhere")),
                }
            }
        }
    }
}

/// Which part of a document utoipa does not take. Its own errors say only that no variant fits.
fn locate(document: &Value) -> Option<String> {
    let schemas = document
        .get("components")
        .and_then(|components| components.get("schemas"));
    let schema = schemas
        .and_then(first_wrong::<RefOr<Schema>>)
        .map(|place| format!("components.schemas.{place}"));
    schema.or_else(|| document.get("paths").and_then(first_wrong::<PathItem>))
}

/// The first member that is no `T`, and why.
fn first_wrong<T: DeserializeOwned>(members: &Value) -> Option<String> {
    members.as_mapping()?.iter().find_map(|(name, member)| {
        let error = yaml_serde::from_value::<T>(member.clone()).err()?;
        Some(format!(
            "{}: {error} (does each schema in it have a type?)",
            name.as_str().unwrap_or_default()
        ))
    })
}

/// The name at the end of a reference into the components.
pub fn ref_name(reference: &str) -> Result<&str, String> {
    match reference
        .strip_prefix("#/components/")
        .and_then(|rest| rest.split_once('/'))
    {
        Some((_, name)) => Ok(name),
        None => Err(format!("{reference} is not a reference into #/components")),
    }
}

/// A text among the extensions of an item.
pub fn word<'a>(extensions: &'a Option<Extensions>, name: &str) -> Option<&'a str> {
    extensions.as_ref()?.get(name)?.as_str()
}

/// Whether an extension of an item is `true`.
pub fn flag(extensions: &Option<Extensions>, name: &str) -> bool {
    extensions
        .as_ref()
        .and_then(|extensions| extensions.get(name))
        .is_some_and(|value| value.as_bool() == Some(true))
}

/// Makes explicit what utoipa's model can't hold otherwise: the words beside a `$ref`, and `required` of a parameter.
fn prepare(value: &mut Value) {
    match value {
        Value::Sequence(items) => items.iter_mut().for_each(prepare),
        Value::Mapping(members) => {
            members.iter_mut().for_each(|(_, member)| prepare(member));
            if members.contains_key("name") && members.contains_key("in") && !members.contains_key("required")
            {
                members.insert("required".into(), false.into());
            }
            let extended = |key: &Value| key.as_str().is_some_and(|key| key.starts_with("x-"));
            if members.contains_key("$ref") && members.keys().any(extended) {
                wrap_reference(members);
            }
        }
        _ => {}
    }
}

/// `{$ref, x-…}` becomes `{oneOf: [{$ref}], x-…}`.
fn wrap_reference(members: &mut Mapping) {
    if let Some(reference) = members.shift_remove("$ref") {
        let mut alone = Mapping::new();
        alone.insert("$ref".into(), reference);
        members.insert("oneOf".into(), Value::Sequence(vec![Value::Mapping(alone)]));
    }
}
