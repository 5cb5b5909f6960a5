//! Query parameters, read as leniently as the Engine API reads them.

use std::str::FromStr;

use crate::{error::ErrorReply, filters::Filters, version::ApiVersion};

/// Whether a text means yes where the API takes a boolean: all but the empty text, `0`, `no`, `false` and `none`, in any
/// case and with blanks around it.
pub fn is_true(text: &str) -> bool {
    let text = text.trim();
    !["", "0", "no", "false", "none"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word))
}

/// The decoded query of a request. Generated `…Query` structs are read from it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
    version: Option<ApiVersion>,
}

static NOTHING: Query = Query {
    pairs: Vec::new(),
    version: None,
};

impl Query {
    pub(crate) fn parse(raw: &str, version: ApiVersion) -> Self {
        Self {
            pairs: form_urlencoded::parse(raw.as_bytes()).into_owned().collect(),
            version: Some(version),
        }
    }

    /// This query, or an empty one when the request's version does not know the parameter.
    pub(crate) fn gated(&self, since: Option<ApiVersion>, until: Option<ApiVersion>) -> &Self {
        match self.version {
            Some(version) if version.within(since, until) => self,
            _ => &NOTHING,
        }
    }

    /// The first value, if the parameter is there; it may be empty.
    fn first(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The first value that is not empty.
    fn given(&self, name: &str) -> Option<&str> {
        self.first(name).filter(|value| !value.is_empty())
    }

    /// Absent: `default`; else whether it [`is_true`].
    pub(crate) fn boolean(&self, name: &str, default: bool) -> bool {
        self.first(name).map_or(default, is_true)
    }

    /// Absent or empty: none. Not a number of the parameter's type: 400.
    pub(crate) fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, ErrorReply> {
        self.given(name)
            .map(|value| {
                value.trim().parse().map_err(|_| {
                    ErrorReply::invalid(format!(
                        "invalid value {value:?} for parameter {name:?}: not a valid number"
                    ))
                })
            })
            .transpose()
    }

    /// Absent or empty: `default`.
    pub(crate) fn text(&self, name: &str, default: &str) -> String {
        self.given(name).unwrap_or(default).to_owned()
    }

    /// Every value of a parameter that may be repeated.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        self.pairs
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
            .collect()
    }

    /// Absent or empty: none. Not one of the values the enum has: 400 that names them.
    pub(crate) fn choice<T: FromStr<Err = String>>(&self, name: &str) -> Result<Option<T>, ErrorReply> {
        self.given(name)
            .map(|value| Self::chosen(name, value))
            .transpose()
    }

    /// Every value of a parameter that may be repeated and takes certain values only.
    pub(crate) fn choices<T: FromStr<Err = String>>(&self, name: &str) -> Result<Vec<T>, ErrorReply> {
        self.pairs
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| Self::chosen(name, value))
            .collect()
    }

    fn chosen<T: FromStr<Err = String>>(name: &str, value: &str) -> Result<T, ErrorReply> {
        value
            .parse()
            .map_err(|reason| ErrorReply::invalid(format!("invalid value for parameter {name:?}: {reason}")))
    }

    pub(crate) fn filters(&self, name: &str, allowed: &[&str], open: bool) -> Result<Filters, ErrorReply> {
        let filters = Filters::parse(self.first(name).unwrap_or_default())?;
        if !open {
            filters.allow(allowed)?;
        }
        Ok(filters)
    }

    /// A parameter that has to be there: 400 if `value` is none.
    pub(crate) fn required<T>(name: &str, value: Option<T>) -> Result<T, ErrorReply> {
        value.ok_or_else(|| {
            ErrorReply::invalid(format!(
                "bad parameter: {name:?} is required and must not be empty"
            ))
        })
    }

    /// A text that has to be there: 400 if it is not.
    pub(crate) fn required_text(&self, name: &str) -> Result<String, ErrorReply> {
        Self::required(name, self.given(name).map(str::to_owned))
    }
}
