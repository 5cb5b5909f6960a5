//! `openapi.yaml` as a document: sound in itself, whatever engine serves it.

use std::collections::{BTreeMap, BTreeSet};

use berth_tests::contract::{Contract, NEWEST, Side, segment};
use serde_json::Value;

/// Calls `visit` with every node and its JSON pointer.
fn walk(node: &Value, pointer: &str, visit: &mut dyn FnMut(&str, &Value)) {
    visit(pointer, node);
    match node {
        Value::Object(fields) => {
            for (name, value) in fields {
                walk(value, &format!("{pointer}/{}", segment(name)), visit);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                walk(value, &format!("{pointer}/{index}"), visit);
            }
        }
        _ => {}
    }
}

#[track_caller]
fn none(faults: &[String]) {
    assert!(faults.is_empty(), "openapi.yaml:\n  {}", faults.join("\n  "));
}

/// Fields of each object of the OpenAPI specification 3.1, section 4.8; the first list is required.
const OBJECTS: &[(&str, &[&str], &[&str])] = &[
    (
        "document",
        &["openapi", "info", "paths"],
        &[
            "jsonSchemaDialect",
            "servers",
            "webhooks",
            "components",
            "security",
            "tags",
            "externalDocs",
        ],
    ),
    (
        "info",
        &["title", "version"],
        &["summary", "description", "termsOfService", "contact", "license"],
    ),
    (
        "path",
        &[],
        &[
            "$ref",
            "summary",
            "description",
            "get",
            "put",
            "post",
            "delete",
            "options",
            "head",
            "patch",
            "trace",
            "servers",
            "parameters",
        ],
    ),
    (
        "operation",
        &["operationId", "responses", "summary", "description", "tags"],
        &[
            "externalDocs",
            "parameters",
            "requestBody",
            "callbacks",
            "deprecated",
            "security",
            "servers",
        ],
    ),
    (
        "parameter",
        &["name", "in", "description", "schema"],
        &[
            "required",
            "deprecated",
            "allowEmptyValue",
            "style",
            "explode",
            "allowReserved",
            "example",
            "examples",
        ],
    ),
    ("requestBody", &["content"], &["description", "required"]),
    ("response", &["description"], &["headers", "content", "links"]),
    (
        "header",
        &["description", "schema"],
        &[
            "required",
            "deprecated",
            "style",
            "explode",
            "example",
            "examples",
        ],
    ),
    ("media", &["schema"], &["example", "examples", "encoding"]),
];

fn shape(kind: &str, pointer: &str, node: &Value, faults: &mut Vec<String>) {
    let (_, required, optional) = OBJECTS
        .iter()
        .find(|(name, ..)| *name == kind)
        .expect("a known kind");
    let Some(fields) = node.as_object() else {
        faults.push(format!("{pointer}: a {kind} is an object"));
        return;
    };
    for name in required.iter().filter(|name| !fields.contains_key(**name)) {
        faults.push(format!("{pointer}: this {kind} has no {name}"));
    }
    for name in fields.keys() {
        let known =
            required.contains(&name.as_str()) || optional.contains(&name.as_str()) || name.starts_with("x-");
        if !known {
            faults.push(format!("{pointer}: a {kind} has no field {name}"));
        }
    }
}

#[test]
fn objects_have_the_fields_of_openapi_3_1() {
    let contract = Contract::shared();
    let document = contract.document();
    let mut faults = Vec::new();
    assert_eq!(document["openapi"], "3.1.0");
    shape("document", "", document, &mut faults);
    shape("info", "/info", &document["info"], &mut faults);
    for (path, item) in document["paths"].as_object().expect("paths") {
        shape("path", path, item, &mut faults);
    }
    let content = |pointer: &str, node: &Value, faults: &mut Vec<String>| {
        for (media, value) in node["content"].as_object().into_iter().flatten() {
            shape("media", &format!("{pointer} {media}"), value, faults);
        }
    };
    for operation in contract.operations() {
        let node = document.pointer(&operation.pointer).expect("it exists");
        let place = &operation.id;
        shape("operation", place, node, &mut faults);
        for parameter in node["parameters"].as_array().into_iter().flatten() {
            shape(
                "parameter",
                &format!("{place} {}", parameter["name"]),
                contract.resolve(parameter),
                &mut faults,
            );
        }
        if let Some(body) = node.get("requestBody") {
            let body = contract.resolve(body);
            shape("requestBody", place, body, &mut faults);
            content(place, body, &mut faults);
        }
        for (status, response) in node["responses"].as_object().expect("responses") {
            let place = format!("{place} {status}");
            let response = contract.resolve(response);
            shape("response", &place, response, &mut faults);
            content(&place, response, &mut faults);
            for (name, header) in response["headers"].as_object().into_iter().flatten() {
                shape(
                    "header",
                    &format!("{place} {name}"),
                    contract.resolve(header),
                    &mut faults,
                );
            }
            if status.parse::<u16>().is_err() {
                faults.push(format!("{place}: not a status"));
            }
        }
    }
    none(&faults);
}

#[test]
fn operation_ids_are_unique_and_tags_declared() {
    let contract = Contract::shared();
    let declared: BTreeSet<&str> = contract.document()["tags"]
        .as_array()
        .expect("tags")
        .iter()
        .filter_map(|tag| tag["name"].as_str())
        .collect();
    let mut seen = BTreeMap::new();
    let mut faults = Vec::new();
    for operation in contract.operations() {
        if let Some(other) = seen.insert(&operation.id, &operation.pointer) {
            faults.push(format!(
                "{} stands for {other} and {}",
                operation.id, operation.pointer
            ));
        }
        let tags = &contract
            .document()
            .pointer(&operation.pointer)
            .expect("it exists")["tags"];
        for tag in tags.as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !declared.contains(tag) {
                faults.push(format!("{}: the tag {tag} is not declared", operation.id));
            }
        }
    }
    assert!(contract.operations().len() > 100, "the whole API is there");
    none(&faults);
}

#[test]
fn every_reference_resolves() {
    let document = Contract::shared().document();
    let mut faults = Vec::new();
    let mut count = 0;
    walk(document, "", &mut |pointer, node| {
        let Some(reference) = node.get("$ref").and_then(Value::as_str) else {
            return;
        };
        count += 1;
        let target = reference
            .strip_prefix('#')
            .and_then(|target| document.pointer(target));
        if target.is_none() {
            faults.push(format!("{pointer}: {reference} points at nothing"));
        }
    });
    assert!(count > 100);
    none(&faults);
}

#[test]
fn path_parameters_are_those_in_the_path() {
    let contract = Contract::shared();
    let mut faults = Vec::new();
    for operation in contract.operations() {
        let in_path: BTreeSet<&str> = operation
            .path
            .split('{')
            .skip(1)
            .filter_map(|part| part.split('}').next())
            .collect();
        let node = contract
            .document()
            .pointer(&operation.pointer)
            .expect("it exists");
        let parameters: Vec<&Value> = node["parameters"].as_array().into_iter().flatten().collect();
        let mut names = BTreeSet::new();
        let mut declared = BTreeSet::new();
        for parameter in parameters {
            let (name, place) = (
                parameter["name"].as_str().unwrap_or(""),
                parameter["in"].as_str().unwrap_or(""),
            );
            if !names.insert((name, place)) {
                faults.push(format!("{}: {name} is declared twice", operation.id));
            }
            match place {
                "path" if parameter["required"] == true => {
                    declared.insert(name);
                }
                "path" => faults.push(format!("{}: {name} in the path must be required", operation.id)),
                "query" | "header" => {}
                other => faults.push(format!("{}: {name} in {other:?}", operation.id)),
            }
        }
        if declared != in_path {
            faults.push(format!(
                "{}: {declared:?} declared, {in_path:?} in the path",
                operation.id
            ));
        }
    }
    none(&faults);
}

#[test]
fn schemas_are_valid_json_schema() {
    let document = Contract::shared().document();
    let mut faults = Vec::new();
    let mut count = 0;
    walk(document, "", &mut |pointer, node| {
        let parts: Vec<&str> = pointer.split('/').collect();
        let own = parts.last() == Some(&"schema")
            && !pointer.contains("/examples/")
            && !pointer.contains("/properties/");
        let named = parts.len() == 4 && pointer.starts_with("/components/schemas/");
        if own || named {
            count += 1;
            if let Err(error) = jsonschema::draft202012::meta::validate(node) {
                faults.push(format!("{pointer}: {error}"));
            }
        }
    });
    assert!(count > 200, "{count} schemas");
    none(&faults);
}

#[test]
fn every_schema_property_and_parameter_is_described() {
    let document = Contract::shared().document();
    let mut faults = Vec::new();
    for (name, schema) in document["components"]["schemas"].as_object().expect("schemas") {
        walk(schema, name, &mut |pointer, node| {
            let described = node["description"]
                .as_str()
                .is_some_and(|text| !text.trim().is_empty());
            let property = pointer.rsplit('/').nth(1) == Some("properties");
            if (property || pointer == name) && node.is_object() && !described {
                faults.push(format!("{pointer} has no description"));
            }
        });
    }
    none(&faults);
}

#[test]
fn examples_are_valid_against_their_schemas() {
    let contract = Contract::shared();
    let document = contract.document();
    let mut faults = Vec::new();
    let mut count = 0;
    let mut media = Vec::new();
    walk(document, "", &mut |pointer, node| {
        let parts: Vec<&str> = pointer.split('/').collect();
        // A media type object: .../content/<type>; a header or parameter may have an example too.
        if parts.iter().rev().nth(1) == Some(&"content")
            && node.get("example").is_some()
            && node.get("schema").is_some()
        {
            media.push((format!("{pointer}/schema"), vec![node["example"].clone()]));
        }
    });
    walk(document, "", &mut |pointer, node| {
        let is_schema = pointer.starts_with("/components/schemas/") || pointer.contains("/schema");
        let inside = pointer.contains("/example");
        if let Some(list) = node
            .get("examples")
            .and_then(Value::as_array)
            .filter(|_| is_schema && !inside)
        {
            // The validators see the branches of an `allOf` as one object.
            let merged: Vec<&str> = pointer.split("/allOf/").collect();
            let merged: Vec<&str> = merged
                .iter()
                .enumerate()
                .map(|(index, part)| {
                    if index == 0 {
                        part
                    } else {
                        part.split_once('/').map_or("", |(_, rest)| rest)
                    }
                })
                .collect();
            media.push((merged.join("/"), list.clone()));
        }
    });
    for (pointer, examples) in media {
        let validator = contract.validator(NEWEST, Side::Example, &pointer);
        for example in examples {
            count += 1;
            for error in validator.iter_errors(&example) {
                faults.push(format!("{pointer}: {}: {error}", error.instance_path()));
            }
        }
    }
    assert!(count > 200, "{count} examples");
    none(&faults);
}

#[test]
fn json_bodies_have_examples() {
    let contract = Contract::shared();
    let mut faults = Vec::new();
    for operation in contract.operations() {
        let node = contract
            .document()
            .pointer(&operation.pointer)
            .expect("it exists");
        let mut contents = Vec::new();
        if let Some(body) = node.get("requestBody") {
            contents.push(("request", contract.resolve(body)));
        }
        for status in ["200", "201"] {
            if let Some(response) = node["responses"].get(status) {
                contents.push((status, contract.resolve(response)));
            }
        }
        for (what, content) in contents {
            let json = &content["content"]["application/json"];
            if json.is_object() && json.get("example").is_none() && json.get("examples").is_none() {
                faults.push(format!("{} {what}: no example", operation.id));
            }
        }
    }
    none(&faults);
}

#[test]
fn versions_in_marks_are_versions_of_the_api() {
    let mut faults = Vec::new();
    walk(Contract::shared().document(), "", &mut |pointer, node| {
        for mark in ["x-since", "x-until"] {
            let Some(text) = node.get(mark) else { continue };
            let minor = text
                .as_str()
                .and_then(|text| text.strip_prefix("1."))
                .and_then(|text| text.parse::<u32>().ok());
            if !minor.is_some_and(|minor| (24..=44).contains(&minor)) {
                faults.push(format!("{pointer}: {mark} {text}"));
            }
        }
    });
    none(&faults);
}
