//! Reading JSON the way Go's `encoding/json` fills its structs, which is what clients of this API rely on.
//!
//! - a missing field and `null` both give the zero value, at every depth;
//! - field names match without regard to (ASCII) case, an exact match is preferred;
//! - unknown fields are ignored; so are fields the requested API version does not have;
//! - a few lists of strings also take one string.
//!
//! `Reader` is a serde deserializer over a parsed [`Value`]. It knows a struct's field names because derived
//! implementations name them, so no table of the models is needed, and types are only ever instantiated for it
//! when a request carries them.

use std::fmt;

use serde::{
    de::{
        self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
        Unexpected, Visitor, value::BorrowedStrDeserializer,
    },
    forward_to_deserialize_any,
};
use serde_json::{Map, Value};

use crate::{generated::gates, version::ApiVersion};

/// Lists that clients written against old engines send as a plain string.
const STRING_OR_LIST: [&str; 5] = ["Cmd", "Entrypoint", "Shell", "CapAdd", "CapDrop"];

/// Reads `json` as a model by the rules of this module, as a client of `version` means it.
///
/// Errors read like `invalid JSON: HostConfig.Memory: invalid type: string "x", expected i64`; bytes after the value are an error.
pub fn read_json<T: DeserializeOwned>(json: &[u8], version: ApiVersion) -> Result<T, ReadError> {
    let value = serde_json::from_slice(json).map_err(|error| ReadError::new(syntax_error(json, &error)))?;
    read_value(value, version)
}

/// What is wrong with `json`, in the words of Go's `encoding/json`, which clients look for, and where.
fn syntax_error(json: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected EOF".to_owned();
    }
    let (line, column) = (error.line(), error.column());
    let said = error.to_string();
    let text = json.split(|byte| *byte == b'\n').nth(line.saturating_sub(1));
    let found = text.and_then(|text| text.get(column.saturating_sub(1)).copied());
    let (Some(found), Some(place)) = (found, found.and_then(|found| place(&said, found))) else {
        return said;
    };
    let found = char::from(found).escape_default();
    format!("invalid character '{found}' {place} (line {line}, column {column})")
}

/// Where in the grammar a character is that serde_json's words `said` complain about.
fn place(said: &str, found: u8) -> Option<&'static str> {
    const PLACES: [(&str, &str); 5] = [
        (
            "key must be a string",
            "looking for beginning of object key string",
        ),
        ("expected value", "looking for beginning of value"),
        ("expected `:`", "after object key"),
        ("expected `,` or `}`", "after object key:value pair"),
        ("expected `,` or `]`", "after array element"),
    ];
    let place = PLACES.iter().find(|(words, _)| said.starts_with(words));
    match (place, found) {
        (Some((_, place)), _) => Some(place),
        (None, b'}') if said.starts_with("trailing comma") => {
            Some("looking for beginning of object key string")
        }
        (None, b']') if said.starts_with("trailing comma") => Some("looking for beginning of value"),
        (None, _) if said.starts_with("trailing characters") => Some("after top-level value"),
        (None, _) => None,
    }
}

/// [`read_json`] for JSON that is parsed already.
pub fn read_value<T: DeserializeOwned>(value: Value, version: ApiVersion) -> Result<T, ReadError> {
    T::deserialize(Reader { value, version })
}

/// Why a JSON value is not what a model takes, and where.
#[derive(Debug)]
pub struct ReadError {
    path: String,
    message: String,
}

impl ReadError {
    fn new(message: String) -> Self {
        Self {
            path: String::new(),
            message,
        }
    }

    /// The same error seen from one level further up.
    fn inside(mut self, key: &str) -> Self {
        if !self.path.is_empty() && !self.path.starts_with('[') {
            self.path.insert(0, '.');
        }
        self.path.insert_str(0, key);
        self
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid JSON: ")?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }
}

struct Reader {
    value: Value,
    version: ApiVersion,
}

impl Reader {
    /// Hands the value over as it is; type errors come from the visitor.
    fn plain<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), _, _) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (_, _, Some(value)) => visitor.visit_f64(value),
                _ => Err(ReadError::new(format!("the number {number} is out of range"))),
            },
            Value::String(value) => visitor.visit_string(value),
            Value::Array(items) => visitor.visit_seq(Items {
                items: items.into_iter(),
                index: 0,
                version: self.version,
            }),
            Value::Object(members) => visitor.visit_map(Members::of_map(members, self.version)),
        }
    }
}

macro_rules! null_is {
    ($($method:ident => $visit:ident($zero:expr),)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
            match self.value {
                Value::Null => visitor.$visit($zero),
                _ => self.plain(visitor),
            }
        })*
    };
}

impl<'de> Deserializer<'de> for Reader {
    type Error = ReadError;

    null_is! {
        deserialize_bool => visit_bool(false),
        deserialize_i8 => visit_i8(0),
        deserialize_i16 => visit_i16(0),
        deserialize_i32 => visit_i32(0),
        deserialize_i64 => visit_i64(0),
        deserialize_u8 => visit_u8(0),
        deserialize_u16 => visit_u16(0),
        deserialize_u32 => visit_u32(0),
        deserialize_u64 => visit_u64(0),
        deserialize_f32 => visit_f32(0.0),
        deserialize_f64 => visit_f64(0.0),
        deserialize_str => visit_str(""),
        deserialize_string => visit_str(""),
        deserialize_seq => visit_seq(Items::none()),
        deserialize_map => visit_map(Members::none()),
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.plain(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let version = self.version;
        match self.value {
            Value::Null => visitor.visit_map(Members::none()),
            Value::Object(members) => visitor.visit_map(Members::of_struct(members, name, fields, version)),
            // A derived struct would take a list as its fields in order; Go does not.
            Value::Array(_) => Err(de::Error::invalid_type(Unexpected::Seq, &visitor)),
            _ => self.plain(visitor),
        }
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier ignored_any
    }
}

struct Items {
    items: std::vec::IntoIter<Value>,
    index: usize,
    version: ApiVersion,
}

impl Items {
    fn none() -> Self {
        Self {
            items: Vec::new().into_iter(),
            index: 0,
            version: ApiVersion::NEWEST,
        }
    }
}

impl<'de> SeqAccess<'de> for Items {
    type Error = ReadError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, ReadError> {
        let Some(value) = self.items.next() else {
            return Ok(None);
        };
        let index = self.index;
        self.index += 1;
        let version = self.version;
        seed.deserialize(Reader { value, version })
            .map(Some)
            .map_err(|error| error.inside(&format!("[{index}]")))
    }
}

/// The members of an object, in the order they are handed over.
enum Members {
    /// Keys are data.
    Map(
        std::vec::IntoIter<(String, Value)>,
        Option<(String, Value)>,
        ApiVersion,
    ),
    /// Keys are the names of fields, as the model spells them.
    Struct(
        std::vec::IntoIter<(&'static str, Value)>,
        Option<(&'static str, Value)>,
        ApiVersion,
    ),
}

impl Members {
    fn none() -> Self {
        Self::of_map(Map::new(), ApiVersion::NEWEST)
    }

    fn of_map(members: Map<String, Value>, version: ApiVersion) -> Self {
        Self::Map(members.into_iter().collect::<Vec<_>>().into_iter(), None, version)
    }

    fn of_struct(
        members: Map<String, Value>,
        name: &str,
        fields: &'static [&'static str],
        version: ApiVersion,
    ) -> Self {
        let mut found: Vec<(&'static str, bool, Value)> = Vec::new();
        for (key, value) in members {
            let exact = fields.iter().find(|field| **field == key);
            let Some(&field) = exact.or_else(|| fields.iter().find(|field| field.eq_ignore_ascii_case(&key)))
            else {
                continue;
            };
            if value.is_null() || gates::outside(name, field, version) {
                continue;
            }
            let value = match value {
                Value::String(_) if STRING_OR_LIST.contains(&field) => Value::Array(vec![value]),
                value => value,
            };
            match found.iter_mut().find(|(known, ..)| *known == field) {
                None => found.push((field, exact.is_some(), value)),
                Some(earlier) if exact.is_some() => *earlier = (field, true, value),
                Some(_) => {}
            }
        }
        let found: Vec<_> = found
            .into_iter()
            .map(|(field, _, value)| (field, value))
            .collect();
        Self::Struct(found.into_iter(), None, version)
    }
}

impl<'de> MapAccess<'de> for Members {
    type Error = ReadError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, ReadError> {
        match self {
            Self::Map(members, current, _) => {
                *current = members.next();
                current
                    .as_ref()
                    .map(|(key, _)| seed.deserialize(key.as_str().into_deserializer()))
                    .transpose()
            }
            Self::Struct(members, current, _) => {
                *current = members.next();
                current
                    .as_ref()
                    .map(|(key, _)| seed.deserialize(BorrowedStrDeserializer::new(key)))
                    .transpose()
            }
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, ReadError> {
        let missing = || ReadError::new("a value was asked for before its key".to_owned());
        match self {
            Self::Map(_, current, version) => {
                let (key, value) = current.take().ok_or_else(missing)?;
                let version = *version;
                seed.deserialize(Reader { value, version })
                    .map_err(|error| error.inside(&key))
            }
            Self::Struct(_, current, version) => {
                let (key, value) = current.take().ok_or_else(missing)?;
                let version = *version;
                seed.deserialize(Reader { value, version })
                    .map_err(|error| error.inside(key))
            }
        }
    }
}

/// Reads a value as a model and writes it again.
#[cfg(test)]
pub(crate) fn echo<T: DeserializeOwned + serde::Serialize>(value: Value) -> Result<Value, String> {
    let model: T = read_value(value, ApiVersion::NEWEST).map_err(|error| error.to_string())?;
    serde_json::to_value(model).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::models::{ContainerConfig, ContainerCreateRequest, PortMap};

    fn read<T: DeserializeOwned>(value: Value) -> Result<T, String> {
        read_value(value, ApiVersion::NEWEST).map_err(|error| error.to_string())
    }

    #[test]
    fn null_is_the_zero_value_everywhere() {
        let nulls: ContainerCreateRequest = read(json!({
            "Image": null, "Tty": null, "Env": ["A=1", null], "Labels": {"a": null}, "Healthcheck": null,
            "ExposedPorts": {"80/tcp": null}, "HostConfig": {"Memory": null, "RestartPolicy": null, "Mounts": null},
        }))
        .expect("it is read");
        assert_eq!(nulls.image, "");
        assert_eq!(nulls.env, Some(vec!["A=1".to_owned(), String::new()]));
        assert!(
            nulls
                .exposed_ports
                .is_some_and(|ports| ports.contains_key("80/tcp"))
        );
        assert_eq!(nulls.healthcheck, None);
        assert_eq!(nulls.host_config, Some(Default::default()));
        assert_eq!(read::<ContainerConfig>(json!(null)), Ok(Default::default()));
    }

    #[test]
    fn field_names_match_in_any_case_and_exactly_first() {
        let config: ContainerConfig =
            read(json!({"image": "a", "TTY": true, "unknown": {"x": 1}})).expect("it is read");
        assert_eq!((config.image.as_str(), config.tty), ("a", true));
        for both in [
            json!({"image": "a", "Image": "b", "IMAGE": "c"}),
            json!({"IMAGE": "c", "Image": "b"}),
        ] {
            assert_eq!(
                read::<ContainerConfig>(both).map(|config| config.image),
                Ok("b".to_owned())
            );
        }
        // Names that are data stay as they are.
        let ports: PortMap = read(json!({"80/TCP": null})).expect("it is read");
        assert!(ports.contains_key("80/TCP"));
    }

    #[test]
    fn some_lists_take_a_text() {
        let config: ContainerConfig = read(json!({"cmd": "ls", "Entrypoint": ["a"]})).expect("it is read");
        assert_eq!(config.cmd, Some(vec!["ls".to_owned()]));
        assert!(read::<ContainerConfig>(json!({"Env": "A=1"})).is_err());
    }

    #[test]
    fn errors_name_the_place() {
        let error = |value| read::<ContainerCreateRequest>(value).expect_err("it is wrong");
        assert_eq!(
            error(json!({"HostConfig": {"memory": "1g"}})),
            "invalid JSON: HostConfig.Memory: invalid type: string \"1g\", expected i64"
        );
        assert_eq!(
            error(json!({"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": 80}]}}})),
            "invalid JSON: HostConfig.PortBindings.80/tcp[0].HostPort: invalid type: integer `80`, expected a string"
        );
        assert!(
            error(json!({"HostConfig": []})).starts_with("invalid JSON: HostConfig: invalid type: sequence")
        );
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(read_json::<Value>(deep.as_bytes(), ApiVersion::NEWEST).is_err());
    }
}
