//! Small parts the generated models are made of.

use serde::{Deserialize, Serialize};

/// The object without members, as the values of `ExposedPorts` and `Volumes` are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmptyObject {}

/// Whether a value is the zero value of its type, which optional fields leave out.
pub(crate) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Declares an enum of strings: the type, its texts both ways, and serde by them.
macro_rules! string_enum {
    ($(#[$meta:meta])* $name:ident, $default:ident, { $($variant:ident = $text:literal,)* } $(, $unknown:literal)?) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $(#[doc = concat!("`", $text, "`")] $variant,)*
        }

        impl $name {
            /// Every value, in the document's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The text on the wire.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::$default
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err($crate::values::unknown_value(text, &[$($text,)*], concat!("" $(, $unknown)?))),
                }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::values::read_enum(deserializer)
            }
        }
    };
}
pub(crate) use string_enum;

/// What is said about a text that is no value of an enum: `words` with the text in the place of `{}`, if there are any.
pub(crate) fn unknown_value(text: &str, allowed: &[&str], words: &str) -> String {
    if !words.is_empty() {
        return words.replace("{}", text);
    }
    let allowed: Vec<_> = allowed.iter().map(|value| format!("{value:?}")).collect();
    format!("unknown value {text:?}, expected one of {}", allowed.join(", "))
}

/// Reads a string enum through its `FromStr`. Empty text is what clients written in Go send for "not set".
pub(crate) fn read_enum<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: std::str::FromStr<Err = String> + Default,
    D: serde::Deserializer<'de>,
{
    let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
    match text.parse() {
        Err(_) if text.is_empty() => Ok(T::default()),
        parsed => parsed.map_err(serde::de::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::{ApiVersion, models::*, write_as};

    fn written<T: serde::Serialize>(version: ApiVersion, value: &T) -> Value {
        let text = write_as(version, || serde_json::to_string(value)).expect("it is written");
        serde_json::from_str(&text).expect("JSON")
    }

    #[test]
    fn always_is_always_and_zero_is_left_out() {
        let config = written(ApiVersion::NEWEST, &HostConfig::default());
        assert_eq!(config["Binds"], json!(null), "a null that is always written");
        assert_eq!(config["NetworkMode"], json!(""));
        assert_eq!(config.get("Sysctls"), None);
    }

    #[test]
    fn even_what_is_always_written_has_its_first_version() {
        let has = |version| {
            written(version, &HostConfig::default())
                .get("ConsoleSize")
                .is_some()
        };
        assert!(has(ApiVersion::new(1, 42)));
        assert!(!has(ApiVersion::new(1, 41)));
    }

    #[test]
    fn an_enum_knows_its_texts() {
        assert_eq!(RestartPolicyName::default().as_str(), "");
        assert_eq!("on-failure".parse(), Ok(RestartPolicyName::OnFailure));
        let unknown = "sometimes"
            .parse::<RestartPolicyName>()
            .expect_err("it is unknown");
        assert!(
            unknown.contains("'sometimes'") && unknown.contains("'unless-stopped'"),
            "{unknown}"
        );
        assert!(
            RestartPolicyName::ALL
                .iter()
                .all(|name| name.as_str().parse() == Ok(*name))
        );
    }
}
