//! The `filters` parameter of lists, prunes and events.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::ErrorReply;

/// What `filters` asks for: names, and for each the values that are looked for.
///
/// Different names must all fit; of several values of one name one must fit, but of `label` and `label!` all.
/// A name that is not there fits everything. Matching by expression, prefix or time is left to the caller, over [`Filters::values`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeMap<String, bool>>);

impl Filters {
    /// Reads both JSON forms, `{"name":["value"]}` and `{"name":{"value":true}}`; empty text means no filters.
    /// Anything else is 400 `invalid filter`.
    pub fn parse(text: &str) -> Result<Self, ErrorReply> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let invalid = || ErrorReply::invalid("invalid filter").code("invalid-filter");
        let names = match serde_json::from_str(text).map_err(|_| invalid())? {
            Value::Object(names) => names,
            Value::Null => return Ok(Self::default()),
            _ => return Err(invalid()),
        };
        let mut filters = BTreeMap::new();
        for (name, values) in names {
            let values = match values {
                Value::Null => BTreeMap::new(),
                Value::Array(values) => values
                    .into_iter()
                    .map(|value| match value {
                        Value::String(value) => Ok((value, true)),
                        _ => Err(invalid()),
                    })
                    .collect::<Result<_, _>>()?,
                Value::Object(values) => values
                    .into_iter()
                    .map(|(value, wanted)| wanted.as_bool().map(|wanted| (value, wanted)).ok_or_else(invalid))
                    .collect::<Result<_, _>>()?,
                _ => return Err(invalid()),
            };
            filters.insert(name, values);
        }
        Ok(Self(filters))
    }

    /// 400 `invalid filter 'x'` for the first name that is not in `allowed`.
    pub fn allow(&self, allowed: &[&str]) -> Result<(), ErrorReply> {
        match self.0.keys().find(|name| !allowed.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => Err(ErrorReply::invalid(format!("invalid filter '{name}'")).code("invalid-filter")),
        }
    }

    /// The same filters with one more value looked for.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0
            .entry(name.to_owned())
            .or_default()
            .insert(value.to_owned(), true);
        self
    }

    /// Whether nothing is filtered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `name` is given.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The values of `name`, in order of text; none if it is not given.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .get(name)
            .into_iter()
            .flatten()
            .filter(|(_, wanted)| **wanted)
            .map(|(value, _)| value.as_str())
    }

    /// Whether `name` is not given (or without any value), or one of its values makes `test` true.
    pub fn any(&self, name: &str, test: impl FnMut(&str) -> bool) -> bool {
        self.0.get(name).is_none_or(BTreeMap::is_empty) || self.values(name).any(test)
    }

    /// Whether `name` is not given, or one of its values is `value`.
    pub fn exact(&self, name: &str, value: &str) -> bool {
        self.any(name, |wanted| wanted == value)
    }

    /// The single value of `name`; 400 when several are given.
    pub fn one(&self, name: &str) -> Result<Option<&str>, ErrorReply> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(self.bad_value(name)),
            (value, None) => Ok(value),
        }
    }

    /// The value of a filter that is a boolean: `1`, `true`, `0` or `false`; 400 for other text and for both at once.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, ErrorReply> {
        let mut answer = None;
        for value in self.values(name) {
            let value = match value {
                "1" | "true" | "True" | "TRUE" => true,
                "0" | "false" | "False" | "FALSE" => false,
                _ => return Err(self.bad_value(name)),
            };
            if answer.is_some_and(|other| other != value) {
                return Err(self.bad_value(name));
            }
            answer = Some(value);
        }
        Ok(answer)
    }

    /// Whether `labels` have everything that `label` asks for and nothing of what `label!` refuses.
    /// Each value is `key` or `key=value`.
    pub fn labels<'a>(&self, labels: impl Fn(&str) -> Option<&'a str>) -> bool {
        let has = |wanted: &str| match wanted.split_once('=') {
            None => labels(wanted).is_some(),
            Some((key, value)) => labels(key) == Some(value),
        };
        self.values("label").all(has) && (!self.contains("label!") || !self.values("label!").all(has))
    }

    /// [`Filters::labels`] over a map of labels.
    pub fn label_map(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels(|key| labels.get(key).map(String::as_str))
    }

    /// The 400 for a value of `name` that is not understood.
    pub fn bad_value(&self, name: &str) -> ErrorReply {
        let values: Vec<_> = self.values(name).collect();
        ErrorReply::invalid(format!("invalid filter '{name}=[{}]'", values.join(" "))).code("invalid-filter")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(text: &str) -> Filters {
        Filters::parse(text).expect("they are filters")
    }

    #[test]
    fn both_forms_say_the_same() {
        assert_eq!(
            filters(r#"{"a":["x","y"],"b":[]}"#),
            filters(r#"{"b":{},"a":{"y":true,"x":true}}"#)
        );
        assert!(filters("").is_empty() && filters(" null").is_empty() && filters("{}").is_empty());
    }

    #[test]
    fn a_value_that_is_not_wanted_still_names_the_filter() {
        let filters = filters(r#"{"status":{"running":false}}"#);
        assert!(filters.contains("status"));
        assert!(!filters.exact("status", "running"));
        assert!(filters.exact("name", "anything"));
    }

    #[test]
    fn values_of_a_name_are_alternatives_but_labels_add_up() {
        let filters = filters(r#"{"status":["exited","dead"],"label":["a","b=2"]}"#);
        assert!(filters.exact("status", "dead") && !filters.exact("status", "running"));
        let labels = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>()
        };
        assert!(filters.label_map(&labels(&[("a", "1"), ("b", "2")])));
        assert!(!filters.label_map(&labels(&[("a", "1"), ("b", "3")])));
        assert!(!filters.label_map(&labels(&[("b", "2")])));
        let without = Filters::default().with("label!", "keep");
        assert!(without.label_map(&labels(&[("a", "1")])));
        assert!(!without.label_map(&labels(&[("keep", "")])));
    }

    #[test]
    fn booleans_are_one_of_two() {
        let value = |text: &str| filters(text).boolean("dangling").map_err(|error| error.message);
        assert_eq!(value("{}"), Ok(None));
        assert_eq!(value(r#"{"dangling":["1","true"]}"#), Ok(Some(true)));
        assert_eq!(value(r#"{"dangling":["0"]}"#), Ok(Some(false)));
        assert!(value(r#"{"dangling":["0","1"]}"#).is_err());
        assert_eq!(
            value(r#"{"dangling":["maybe"]}"#),
            Err("invalid filter 'dangling=[maybe]'".to_owned())
        );
    }

    #[test]
    fn one_is_one() {
        assert_eq!(filters(r#"{"until":["5"]}"#).one("until"), Ok(Some("5")));
        assert!(filters(r#"{"until":["5","6"]}"#).one("until").is_err());
    }
}
