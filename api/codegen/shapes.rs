//! Questions about a single schema.

use serde_json::Value;
use utoipa::openapi::{
    KnownFormat, RefOr, Schema, SchemaFormat,
    extensions::Extensions,
    schema::{Object, SchemaType, Type},
};

use crate::codegen::document::word;

/// Whether a schema becomes a struct.
pub fn is_struct(schema: &Schema) -> bool {
    match schema {
        Schema::Object(object) => !object.properties.is_empty(),
        Schema::AllOf(_) => true,
        _ => false,
    }
}

pub fn is_anything(schema: &Schema) -> bool {
    matches!(schema, Schema::Object(object) if object.schema_type.is_any_value() && object.properties.is_empty())
}

pub fn is_null(schema: &RefOr<Schema>) -> bool {
    matches!(schema, RefOr::T(Schema::Object(object)) if matches!(object.schema_type, SchemaType::Type(Type::Null)))
}

/// Whether a schema allows null.
pub fn nullable(schema: &Schema) -> bool {
    match schema {
        Schema::Object(Object {
            schema_type: SchemaType::Array(types),
            ..
        }) => types.contains(&Type::Null),
        Schema::Array(array) => {
            matches!(&array.schema_type, SchemaType::Array(types) if types.contains(&Type::Null))
        }
        Schema::OneOf(one) => one.items.len() > 1 && one.items.iter().any(is_null),
        _ => false,
    }
}

/// The type of a schema beside null; none if it takes anything.
pub fn sole_type(schema_type: &SchemaType) -> Result<Option<Type>, String> {
    match schema_type {
        SchemaType::Type(of) => Ok(Some(of.clone())),
        SchemaType::AnyValue => Ok(None),
        SchemaType::Array(types) => {
            let others: Vec<_> = types.iter().filter(|of| **of != Type::Null).collect();
            match others[..] {
                [of] => Ok(Some(of.clone())),
                // A parameter that is a number or a text is read as text.
                _ if others.contains(&&Type::String) => Ok(Some(Type::String)),
                _ => Err("a value of several types".into()),
            }
        }
    }
}

/// What a document's `x-unknown` says about values that an enum does not have.
pub fn unknown_words(schema: &Schema) -> Option<String> {
    let Schema::Object(object) = schema else {
        return None;
    };
    word(&object.extensions, "x-unknown").map(str::to_owned)
}

/// The values and the default of a string enum.
pub fn enumeration(schema: &Schema) -> Result<Option<(Vec<String>, usize)>, String> {
    let Schema::Object(object) = schema else {
        return Ok(None);
    };
    let (Some(values), Some(Type::String)) = (&object.enum_values, sole_type(&object.schema_type)?) else {
        return Ok(None);
    };
    let texts = values
        .iter()
        .filter(|value| !value.is_null())
        .map(|value| {
            value
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| format!("the enum has the value {value}"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    // Go's zero value, if it is one of the values.
    let empty = texts.iter().position(String::is_empty);
    let declared = object.default.as_ref().and_then(Value::as_str);
    let declared = declared.and_then(|default| texts.iter().position(|value| value == default));
    Ok(Some((texts, empty.or(declared).unwrap_or(0))))
}

pub fn integer(object: &Object) -> Result<&'static str, String> {
    Ok(match &object.format {
        None | Some(SchemaFormat::KnownFormat(KnownFormat::Int64)) => "i64",
        Some(SchemaFormat::KnownFormat(KnownFormat::Int32)) => "i32",
        Some(SchemaFormat::Custom(format)) => match format.as_str() {
            "int8" => "i8",
            "int16" => "i16",
            "uint8" => "u8",
            "uint16" => "u16",
            "uint32" => "u32",
            "uint64" => "u64",
            other => return Err(format!("unknown integer format {other}")),
        },
        Some(_) => return Err("a format that is not one of integers".into()),
    })
}

pub fn extensions(schema: &Schema) -> &Option<Extensions> {
    match schema {
        Schema::Array(array) => &array.extensions,
        Schema::Object(object) => &object.extensions,
        Schema::OneOf(one) => &one.extensions,
        Schema::AllOf(all) => &all.extensions,
        Schema::AnyOf(any) => &any.extensions,
        _ => &None,
    }
}

/// What the document says about a schema.
pub fn description(schema: &Schema) -> String {
    let text = match schema {
        Schema::Array(array) => &array.description,
        Schema::Object(object) => &object.description,
        Schema::OneOf(one) => &one.description,
        Schema::AllOf(all) => &all.description,
        Schema::AnyOf(any) => &any.description,
        _ => &None,
    };
    text.clone().unwrap_or_default()
}
