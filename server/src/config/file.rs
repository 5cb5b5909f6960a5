//! The configuration file and how it joins the flags.

use std::{io, path::Path};

use berth_runtime::{Error, Result};
use serde_json::{Map, Value};

use super::settings::Settings;

type Object = Map<String, Value>;

/// Reads `path` and fills in what `flags` leave unset. A file that is absent and not `required` is no settings.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) if it is missing though required, is not a JSON object, has
/// keys that do not exist, values of the wrong type, or keys that are also given as flags.
pub fn merge(flags: &Settings, path: &Path, required: bool) -> Result<Settings> {
    let bad = |why: String| {
        Error::invalid(format!(
            "cannot configure the engine with file {}: {why}",
            path.display()
        ))
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound && !required => return Ok(flags.clone()),
        Err(e) => return Err(bad(e.to_string())),
    };
    let file = parse(&text).map_err(bad)?;
    let given = as_object(flags).map_err(bad)?;
    check_keys(&file, &given).map_err(bad)?;
    let merged = given.into_iter().map(|(key, flag)| {
        let value = file.get(&key).cloned().unwrap_or(flag);
        (key, value)
    });
    serde_json::from_value(Value::Object(merged.collect())).map_err(|e| bad(e.to_string()))
}

/// An empty file is an empty object; a byte order mark is skipped.
fn parse(text: &str) -> Result<Object, String> {
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return Ok(Object::new());
    }
    serde_json::from_str(text).map_err(|e| format!("invalid JSON: {e}"))
}

/// Every key there is, with what the flags say; null where they say nothing.
fn as_object(flags: &Settings) -> Result<Object, String> {
    match serde_json::to_value(flags) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(format!("settings are {other}, not an object")),
        Err(e) => Err(e.to_string()),
    }
}

fn check_keys(file: &Object, flags: &Object) -> Result<(), String> {
    let unknown: Vec<_> = file
        .keys()
        .filter(|key| !flags.contains_key(*key))
        .map(String::as_str)
        .collect();
    if !unknown.is_empty() {
        let list = unknown.join(", ");
        return Err(format!(
            "the following directives don't match any configuration option: {list}"
        ));
    }
    let both = |(key, value): (&String, &Value)| {
        let flag = flags.get(key).filter(|flag| !flag.is_null())?;
        Some(format!("{key}: (from flag: {flag}, from file: {value})"))
    };
    let twice: Vec<_> = file.iter().filter_map(both).collect();
    if !twice.is_empty() {
        let list = twice.join(", ");
        return Err(format!(
            "the following directives are specified both as a flag and in the configuration file: {list}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::config::settings::{LogFormat, LogLevel};

    fn with(text: &str, flags: &Settings) -> Result<Settings> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        merge(flags, file.path(), true)
    }

    #[test]
    fn file_fills_in_and_flags_stay() {
        let flags = Settings {
            debug: Some(true),
            ..Settings::default()
        };
        let text = r#"{
            "hosts": ["unix:///x.sock", "tcp://127.0.0.1:1"], "data-root": "/d", "log-level": "warning",
            "log-format": "json", "labels": ["a=b"], "log-opts": {"max-size": "1m"},
            "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 20, "Soft": 10}}
        }"#;
        let all = with(text, &flags).unwrap();
        assert_eq!(all.debug, Some(true));
        assert_eq!(all.hosts.unwrap().len(), 2);
        assert_eq!(all.data_root.unwrap(), Path::new("/d"));
        assert_eq!(all.log_level, Some(LogLevel::Warn));
        assert_eq!(all.log_format, Some(LogFormat::Json));
        assert_eq!(all.log_opts.unwrap(), [("max-size".to_owned(), "1m".to_owned())]);
        assert_eq!(all.default_ulimits.unwrap()[0].hard, 20);
    }

    #[test]
    fn names_every_unknown_key() {
        let error = with(r#"{"foo": 1, "debug": true, "bar": 2}"#, &Settings::default()).unwrap_err();
        let text = "the following directives don't match any configuration option: bar, foo";
        assert!(error.to_string().contains(text), "{error}");
    }

    #[test]
    fn refuses_a_key_that_is_also_a_flag() {
        let flags = Settings {
            labels: Some(vec!["a=b".into()]),
            ..Settings::default()
        };
        let error = with(r#"{"labels": ["c=d"]}"#, &flags).unwrap_err();
        let text = r#"both as a flag and in the configuration file: labels: (from flag: ["a=b"], from file: ["c=d"])"#;
        assert!(error.to_string().contains(text), "{error}");
    }

    #[test]
    fn empty_and_absent_files_say_nothing() {
        assert!(with("\u{feff} \n", &Settings::default()).is_ok());
        let absent = Path::new("/nonexistent/daemon.json");
        assert!(merge(&Settings::default(), absent, false).is_ok());
        assert!(merge(&Settings::default(), absent, true).is_err());
    }

    #[test]
    fn refuses_broken_json_and_wrong_types() {
        for text in [
            "{",
            "[]",
            "{} {}",
            r#"{"debug": "yes"}"#,
            r#"{"hosts": "unix:///x"}"#,
            r#"{"hosts": ["x"]}"#,
            r#"{"default-ulimits": {"nofile": {"Hard": 1, "Soft": 2}}}"#,
        ] {
            assert!(with(text, &Settings::default()).is_err(), "{text}");
        }
    }
}
