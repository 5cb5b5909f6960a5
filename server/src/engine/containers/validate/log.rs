//! Log settings: the options of `LogConfig`.

pub mod remote;

use std::collections::BTreeMap;

use berth_api::models::{ContainerConfig, HostConfigLogConfig};
use berth_runtime::{Error, Result};
use regex::Regex;
use serde::{Deserialize, Serialize};

/// Options that all recording drivers take.
const OPTIONS: [&str; 10] = [
    "max-size",
    "max-file",
    "compress",
    "labels",
    "labels-regex",
    "env",
    "env-regex",
    "tag",
    "mode",
    "max-buffer-size",
];

/// Further options of drivers that send output to a log of the host.
const REMOTE_OPTIONS: [&str; 4] = [
    "cache-disabled",
    "cache-max-size",
    "cache-max-file",
    "cache-compress",
];
/// Further options of the driver `syslog`.
const SYSLOG_OPTIONS: [&str; 3] = ["syslog-address", "syslog-facility", "syslog-format"];
/// Bytes that may wait for a log of the host, unless `max-buffer-size` says so.
const DEFAULT_BUFFER: u64 = 1 << 20;

/// Largest file of a log whose options give none, in bytes.
const DEFAULT_SIZE: u64 = 20 << 20;
/// Number of files of a log whose options give neither size nor number.
const DEFAULT_FILES: u32 = 5;

/// How a container's output is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSettings {
    /// Where to.
    pub driver: LogDriver,
    /// Size in bytes at which a file is rotated; 0: never.
    pub max_size: u64,
    /// How many files there may be, the current one included; at least 1.
    pub max_file: u32,
    /// Whether rotated files are compressed.
    pub compress: bool,
    /// What is written into every line as `attrs`.
    pub attributes: LogAttributes,
    /// Where the drivers `syslog` and `journald` send it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<remote::RemoteSettings>,
}

/// The known drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// Files in Docker's json-file format, which other programs may read.
    JsonFile,
    /// Files whose format is the engine's own affair.
    Local,
    /// Nowhere.
    None,
    /// A syslog daemon, and files of the engine's own.
    Syslog,
    /// The host's journal, and files of the engine's own.
    Journald,
}

/// Which attributes of a container are written into every line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogAttributes {
    /// Names of labels.
    labels: Vec<String>,
    /// Pattern of names of labels.
    labels_regex: String,
    /// Names of environment variables.
    env: Vec<String>,
    /// Pattern of names of environment variables.
    env_regex: String,
    /// Template of the tag; empty: none.
    tag: String,
}

/// What a tag may name.
#[derive(Clone, Copy, Debug)]
pub struct TagFacts<'a> {
    /// Full id of the container.
    pub id: &'a str,
    /// Name of the container, without a slash in front.
    pub name: &'a str,
    /// Id of the image, with `sha256:`.
    pub image_id: &'a str,
    /// The image as it was asked for.
    pub image_name: &'a str,
}

impl LogSettings {
    /// Fills in the engine's default driver and reads the options.
    ///
    /// # Errors
    /// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for an unknown driver, an unknown option and a bad value.
    pub fn read(config: &mut HostConfigLogConfig, default: &HostConfigLogConfig) -> Result<Self> {
        if config.r#type.is_empty() {
            config.r#type.clone_from(&default.r#type);
            if config.config.as_ref().is_none_or(BTreeMap::is_empty) {
                config.config.clone_from(&default.config);
            }
        }
        let driver = match config.r#type.as_str() {
            "json-file" => LogDriver::JsonFile,
            "local" => LogDriver::Local,
            "none" => LogDriver::None,
            "syslog" => LogDriver::Syslog,
            "journald" => LogDriver::Journald,
            other => {
                return Err(Error::invalid(format!(
                    "logger: no log driver named '{other}' is registered"
                )));
            }
        };
        let options = config.config.get_or_insert_default();
        if driver == LogDriver::None {
            return Ok(Self::nowhere());
        }
        if let Some(unknown) = options.keys().find(|name| !driver.knows(name)) {
            return Err(Error::invalid(format!(
                "unknown log opt '{unknown}' for {} log driver",
                config.r#type
            )));
        }
        check_mode(options)?;
        if matches!(driver, LogDriver::Syslog | LogDriver::Journald) {
            return remote::read(driver, options);
        }
        let (max_size, max_file) = bounds(options)?;
        let compress = match options.get("compress") {
            None => driver == LogDriver::Local,
            Some(text) => boolean(text).ok_or_else(|| not_parsed("ParseBool", text))?,
        };
        if options.contains_key("compress") && compress && (max_file < 2 || max_size == 0) {
            return Err(bad_value(
                "compress cannot be true when max-file is less than 2 or max-size is not set",
            ));
        }
        Ok(Self {
            driver,
            max_size,
            max_file,
            compress,
            attributes: LogAttributes::read(options)?,
            remote: None,
        })
    }

    fn nowhere() -> Self {
        Self {
            driver: LogDriver::None,
            max_size: 0,
            max_file: 1,
            compress: false,
            attributes: LogAttributes::default(),
            remote: None,
        }
    }
}

impl LogDriver {
    /// Whether it has an option of that name.
    fn knows(self, name: &str) -> bool {
        let of_file = ["max-size", "max-file", "compress"].contains(&name);
        let common = OPTIONS.contains(&name) && !of_file;
        match self {
            Self::JsonFile | Self::Local => common || of_file,
            Self::None => true,
            Self::Syslog => common || REMOTE_OPTIONS.contains(&name) || SYSLOG_OPTIONS.contains(&name),
            Self::Journald => common || REMOTE_OPTIONS.contains(&name),
        }
    }
}

/// What is wrong with the value of an option, in Docker's words.
fn bad_value(why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("failed to initialize logging driver: {why}"))
}

fn bad_size(text: &str) -> Error {
    bad_value(format!("invalid size: '{text}'"))
}

fn not_parsed(function: &str, text: &str) -> Error {
    bad_value(format!("strconv.{function}: parsing {text:?}: invalid syntax"))
}

/// `max-size` and `max-file`. Without either a log is bounded by the engine's own default.
fn bounds(options: &BTreeMap<String, String>) -> Result<(u64, u32)> {
    let size = options.get("max-size").map(|text| match text.as_str() {
        "-1" => Ok(0),
        _ => size(text).filter(|size| *size > 0).ok_or_else(|| bad_size(text)),
    });
    let files = options.get("max-file").map(|text| match text.parse::<i64>() {
        Ok(..1) => Err(bad_value("max-file cannot be less than 1")),
        Ok(files) => Ok(u32::try_from(files).unwrap_or(u32::MAX)),
        Err(_) => Err(not_parsed("Atoi", text)),
    });
    Ok(match (size.transpose()?, files.transpose()?) {
        (None, None) => (DEFAULT_SIZE, DEFAULT_FILES),
        (Some(size), None) => (size, 1),
        (None, Some(files)) => (DEFAULT_SIZE, files),
        (Some(size), Some(files)) => (size, files),
    })
}

fn check_mode(options: &BTreeMap<String, String>) -> Result<()> {
    let mode = options.get("mode").map_or("", String::as_str);
    if !matches!(mode, "" | "blocking" | "non-blocking") {
        return Err(Error::invalid(format!(
            "logger: logging mode not supported: {mode}"
        )));
    }
    if let Some(text) = options.get("max-buffer-size") {
        if mode != "non-blocking" {
            return Err(Error::invalid(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ));
        }
        size(text).ok_or_else(|| {
            Error::invalid(format!(
                "error parsing option max-buffer-size: invalid size: '{text}'"
            ))
        })?;
    }
    Ok(())
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A size such as `10m`, `1.5g`, `100`, `20 MiB`, in bytes; the units are powers of 1024.
fn size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower
        .trim_end_matches(|letter: char| letter.is_ascii_alphabetic())
        .trim_end();
    let unit = lower[digits.len()..].trim();
    let shift = match unit {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = if plain { digits.parse().ok()? } else { return None };
    let bytes = number * (1_u64 << shift) as f64;
    (bytes < 9.0e18).then_some(bytes as u64)
}

impl LogAttributes {
    pub(super) fn read(options: &BTreeMap<String, String>) -> Result<Self> {
        let text = |name: &str| options.get(name).cloned().unwrap_or_default();
        let list = |name: &str| {
            let text = text(name);
            text.split(',')
                .filter(|item| !item.is_empty())
                .map(|item| item.trim().to_owned())
                .collect()
        };
        let attributes = Self {
            labels: list("labels"),
            labels_regex: text("labels-regex"),
            env: list("env"),
            env_regex: text("env-regex"),
            tag: text("tag"),
        };
        for pattern in [&attributes.labels_regex, &attributes.env_regex] {
            Regex::new(pattern)
                .map_err(|error| Error::invalid(format!("invalid log pattern {pattern:?}: {error}")))?;
        }
        let nobody = TagFacts {
            id: "",
            name: "",
            image_id: "",
            image_name: "",
        };
        render(&attributes.tag, &nobody)?;
        Ok(attributes)
    }

    /// The attributes of a container with this configuration.
    ///
    /// # Errors
    /// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for settings that [`LogSettings::read`] would have refused.
    pub fn of(&self, config: &ContainerConfig, facts: &TagFacts<'_>) -> Result<BTreeMap<String, String>> {
        let mut attributes = BTreeMap::new();
        let labels = config
            .labels
            .iter()
            .flatten()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        pick(&mut attributes, labels, &self.labels, &self.labels_regex)?;
        let env = config
            .env
            .iter()
            .flatten()
            .filter_map(|entry| entry.split_once('='));
        pick(&mut attributes, env, &self.env, &self.env_regex)?;
        if !self.tag.is_empty() {
            attributes.insert("tag".to_owned(), render(&self.tag, facts)?);
        }
        Ok(attributes)
    }
}

fn pick<'a>(
    into: &mut BTreeMap<String, String>,
    from: impl Iterator<Item = (&'a str, &'a str)>,
    names: &[String],
    pattern: &str,
) -> Result<()> {
    if names.is_empty() && pattern.is_empty() {
        return Ok(());
    }
    let pattern = match pattern {
        "" => None,
        _ => Some(Regex::new(pattern).map_err(|error| Error::invalid(error.to_string()))?),
    };
    for (name, value) in from {
        if names.iter().any(|wanted| wanted == name)
            || pattern.as_ref().is_some_and(|pattern| pattern.is_match(name))
        {
            into.insert(name.to_owned(), value.to_owned());
        }
    }
    Ok(())
}

/// Fills in the `{{.Field}}`s of a tag.
fn render(template: &str, facts: &TagFacts<'_>) -> Result<String> {
    let short = |id: &str| {
        id.strip_prefix("sha256:")
            .unwrap_or(id)
            .chars()
            .take(12)
            .collect::<String>()
    };
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let unclosed = || Error::invalid(format!("invalid log tag {template:?}: {{{{ is not closed"));
        let (field, after) = after.split_once("}}").ok_or_else(unclosed)?;
        text.push_str(before);
        match field.trim() {
            ".ID" => text.push_str(&short(facts.id)),
            ".FullID" => text.push_str(facts.id),
            ".Name" => text.push_str(facts.name),
            ".ImageID" => text.push_str(&short(facts.image_id)),
            ".ImageFullID" => text.push_str(facts.image_id),
            ".ImageName" => text.push_str(facts.image_name),
            ".DaemonName" => text.push_str("docker"),
            other => {
                return Err(Error::invalid(format!(
                    "invalid log tag {template:?}: {other:?} is unknown; use .ID, .FullID, .Name, .ImageID, \
                     .ImageFullID, .ImageName or .DaemonName"
                )));
            }
        }
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(driver: &str, options: &[(&str, &str)]) -> Result<LogSettings> {
        let options = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let mut config = HostConfigLogConfig {
            r#type: driver.into(),
            config: Some(options),
        };
        let default = HostConfigLogConfig {
            r#type: "json-file".into(),
            config: Some(BTreeMap::new()),
        };
        LogSettings::read(&mut config, &default)
    }

    #[test]
    fn defaults_are_filled_in() {
        let default = HostConfigLogConfig {
            r#type: "json-file".into(),
            config: Some(BTreeMap::from([("max-size".into(), "1m".into())])),
        };
        let mut config = HostConfigLogConfig::default();
        let settings = LogSettings::read(&mut config, &default).unwrap();
        assert_eq!(config, default);
        assert_eq!(
            (settings.driver, settings.max_size, settings.max_file),
            (LogDriver::JsonFile, 1 << 20, 1)
        );
        let mut config = HostConfigLogConfig {
            r#type: "json-file".into(),
            config: None,
        };
        LogSettings::read(&mut config, &default).unwrap();
        assert_eq!(
            config.config,
            Some(BTreeMap::new()),
            "a named driver takes none of the default's options"
        );
    }

    #[test]
    fn options() {
        let bounds = |options: &[(&str, &str)]| {
            let settings = read("json-file", options).unwrap();
            (settings.max_size, settings.max_file, settings.compress)
        };
        assert_eq!(bounds(&[]), (20 << 20, 5, false));
        assert_eq!(bounds(&[("max-size", "10m")]), (10 << 20, 1, false));
        assert_eq!(
            bounds(&[("max-size", "1.5k"), ("max-file", "3"), ("compress", "true")]),
            (1536, 3, true)
        );
        assert_eq!(bounds(&[("max-size", "-1")]), (0, 1, false));
        assert_eq!(
            bounds(&[
                ("max-size", "20 MiB"),
                ("mode", "non-blocking"),
                ("max-buffer-size", "4m")
            ])
            .0,
            20 << 20
        );
        assert_eq!(
            read("none", &[("anything", "goes")]).unwrap().driver,
            LogDriver::None
        );
        assert!(read("local", &[]).unwrap().compress);
    }

    #[test]
    fn bad_options() {
        let error = |driver: &str, options: &[(&str, &str)]| read(driver, options).unwrap_err().to_string();
        assert_eq!(
            error("parchment", &[]),
            "logger: no log driver named 'parchment' is registered"
        );
        assert_eq!(
            error("json-file", &[("foo", "1")]),
            "unknown log opt 'foo' for json-file log driver"
        );
        assert_eq!(
            error("json-file", &[("max-size", "x")]),
            "failed to initialize logging driver: invalid size: 'x'"
        );
        assert_eq!(
            error("json-file", &[("max-size", "0")]),
            "failed to initialize logging driver: invalid size: '0'"
        );
        assert_eq!(
            error("json-file", &[("max-file", "0")]),
            "failed to initialize logging driver: max-file cannot be less than 1"
        );
        assert_eq!(
            error("json-file", &[("max-file", "-1")]),
            "failed to initialize logging driver: max-file cannot be less than 1"
        );
        assert_eq!(
            error("json-file", &[("compress", "yes")]),
            "failed to initialize logging driver: strconv.ParseBool: parsing \"yes\": invalid syntax"
        );
        assert!(
            error("json-file", &[("compress", "true"), ("max-size", "1m")])
                .contains(": compress cannot be true")
        );
        assert_eq!(
            error("json-file", &[("mode", "x")]),
            "logger: logging mode not supported: x"
        );
        assert!(error("json-file", &[("max-buffer-size", "1m")]).contains("only supported with"));
        assert!(error("json-file", &[("labels-regex", "(")]).starts_with("invalid log pattern"));
        assert!(error("json-file", &[("tag", "{{.Bogus}}")]).contains("is unknown"));
        assert!(error("json-file", &[("tag", "{{.ID")]).contains("is not closed"));
    }

    #[test]
    fn attributes_of_a_container() {
        let settings = read(
            "json-file",
            &[
                ("labels", "team,none"),
                ("env-regex", "^A"),
                ("env", "B"),
                ("tag", "x-{{.Name}}/{{ .ID }}{{.ImageID}}"),
            ],
        )
        .unwrap();
        let config = ContainerConfig {
            labels: Some(BTreeMap::from([
                ("team".into(), "web".into()),
                ("other".into(), "1".into()),
            ])),
            env: Some(vec!["A1=x=y".into(), "B=2".into(), "C=3".into(), "A2".into()]),
            ..ContainerConfig::default()
        };
        let facts = TagFacts {
            id: "0123456789abcdef",
            name: "box",
            image_id: "sha256:fedcba9876543210",
            image_name: "i",
        };
        let attributes = settings.attributes.of(&config, &facts).unwrap();
        let expected = [
            ("A1", "x=y"),
            ("B", "2"),
            ("tag", "x-box/0123456789abfedcba987654"),
            ("team", "web"),
        ];
        assert_eq!(
            attributes,
            expected
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into()
        );
    }
}
