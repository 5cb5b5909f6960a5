//! Image configurations (OCI image specification, config.md, with Docker's additions), read leniently: what builders
//! really write, including `null` for nothing and a string for a list of one.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use super::{
    digest::Digest,
    limits::Limits,
    manifest::{Platform, null_as_default, parse_object},
};
use crate::{Error, Result};

/// The configuration of an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When the image was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub author: String,
    /// Docker's remark about the image as a whole.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub comment: String,
    /// The engine that made it.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub docker_version: String,
    /// Docker: the ID of the image that it was made of.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub parent: String,
    /// Docker: the ID of the container that it was made of.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub container: String,
    /// Docker: the configuration of that container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_config: Option<serde_json::Value>,
    /// The platform it is for.
    #[serde(default, deserialize_with = "null_as_default")]
    pub architecture: String,
    /// The platform it is for.
    #[serde(default, deserialize_with = "null_as_default")]
    pub os: String,
    /// The platform it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The platform it is for.
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// What a container of it runs.
    #[serde(default, deserialize_with = "null_as_default")]
    pub config: RunConfig,
    /// The layers.
    #[serde(default, deserialize_with = "null_as_default")]
    pub rootfs: RootFs,
    /// How the layers came about, lowest first; some steps made none.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub history: Vec<History>,
}

/// What a container of an image runs, unless its creator says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RunConfig {
    /// `user[:group]`, names or numbers.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub user: String,
    /// `port[/protocol]` as keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Empty>>,
    /// `NAME=value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// The first words of the command line.
    #[serde(default, deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The words after them.
    #[serde(default, deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Windows only: the command line is escaped already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args_escaped: Option<bool>,
    /// Paths that become volumes, as keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<BTreeMap<String, Empty>>,
    /// Where the command starts.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub working_dir: String,
    /// Labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// The signal that stops it, by name or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Seconds between that and SIGKILL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// Docker: how to see whether it is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Docker: build steps for images based on this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
    /// Docker: the shell of build steps in shell form.
    #[serde(default, deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
}

/// The value of maps that are used as sets: an empty object, whatever was written there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Empty {}

impl<'de> Deserialize<'de> for Empty {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self {})
    }
}

/// How to see whether a container is well. Times are nanoseconds; 0 means the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `NONE`, `CMD` and a command, or `CMD-SHELL` and a line.
    #[serde(default, deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub test: Option<Vec<String>>,
    /// Between two checks.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_zero"
    )]
    pub interval: i64,
    /// How long one may take.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_zero"
    )]
    pub timeout: i64,
    /// How long failures don't count.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_zero"
    )]
    pub start_period: i64,
    /// Between two checks during that time.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_zero"
    )]
    pub start_interval: i64,
    /// How many failures in a row it takes.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_zero"
    )]
    pub retries: i64,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// The layers of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default, deserialize_with = "null_as_default")]
    pub kind: String,
    /// The digests of their uncompressed archives, lowest first.
    #[serde(default, deserialize_with = "null_as_default")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self {
            kind: "layers".to_owned(),
            diff_ids: Vec::new(),
        }
    }
}

/// A step of an image's making.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By what command.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub created_by: String,
    /// By whom.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub author: String,
    /// A remark.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub comment: String,
    /// It made no layer.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] if it is none.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self> {
        let config: Self = parse_object(bytes, "image configuration")?;
        if config.rootfs.diff_ids.len() > limits.image_layers {
            return Err(Error::invalid(format!(
                "invalid image configuration: {} layers, more than {} are refused (max depth exceeded)",
                config.rootfs.diff_ids.len(),
                limits.image_layers
            )));
        }
        Ok(config)
    }

    /// When the image was made, if that is known and makes sense.
    pub fn created(&self) -> Option<Timestamp> {
        parse_time(self.created.as_deref())
    }

    /// Forgets what it was made of, so that another image can be made of it.
    pub fn forget_origin(&mut self) {
        self.parent.clear();
        self.container.clear();
        self.container_config = None;
    }

    /// The platform it is for.
    pub fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            variant: self.variant.clone().filter(|v| !v.is_empty()),
            os_version: self.os_version.clone().filter(|v| !v.is_empty()),
        }
    }
}

impl History {
    /// When the step was taken, if that is known and makes sense.
    pub fn created(&self) -> Option<Timestamp> {
        parse_time(self.created.as_deref())
    }
}

fn parse_time(text: Option<&str>) -> Option<Timestamp> {
    text?.parse().ok()
}

/// A list of words; older engines wrote a single word as a string.
fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        Many(Vec<String>),
    }
    Ok(Option::deserialize(deserializer)?.map(|words| match words {
        Words::One(word) => vec![word],
        Words::Many(words) => words,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_builders_write() {
        let text = r#"{"architecture":"amd64","os":"linux","created":"2023-11-14T22:13:20.5Z","unknown":{"a":[1]},
            "container_config":{"Cmd":["x"]},"history":null,
            "config":{"Env":["A=b"],"Cmd":"sh","Entrypoint":null,"ExposedPorts":{"80/tcp":{}},"Volumes":{"/v":null},
            "Labels":null,"Healthcheck":{"Test":["NONE"],"Interval":null},"OnBuild":[],"Hostname":"x","Tty":false},
            "rootfs":{"type":"layers","diff_ids":null}}"#;
        let config = ImageConfig::parse(text.as_bytes(), &Limits::default()).unwrap();
        assert_eq!(config.config.cmd, Some(vec!["sh".to_owned()]));
        assert_eq!(config.config.entrypoint, None);
        assert_eq!(config.config.on_build, Some(vec![]));
        assert!(config.config.volumes.unwrap().contains_key("/v"));
        assert_eq!(config.created.as_deref(), Some("2023-11-14T22:13:20.5Z"));
        assert!(ImageConfig::default().created().is_none());
        assert_eq!(
            ImageConfig::parse(b"{}", &Limits::default()).unwrap().rootfs.kind,
            "layers"
        );
    }

    #[test]
    fn hostile_configurations_are_errors_and_no_panics() {
        for text in [
            "",
            "[]",
            "null",
            "1",
            r#"{"config":{"Cmd":[1]}}"#,
            r#"{"config":{"Env":"x"}}"#,
            r#"{"rootfs":{"diff_ids":["sha256:../x"]}}"#,
            r#"{"history":[1]}"#,
            r#"{"config":{"StopTimeout":1e400}}"#,
        ] {
            let parsed = ImageConfig::parse(text.as_bytes(), &Limits::default());
            assert_eq!(parsed.unwrap_err().kind(), crate::Kind::Invalid, "{text}");
        }
        let odd = r#"{"created":"yesterday","config":{"Env":["A\u0000=\n"],"ExposedPorts":{"0;rm":1},"StopTimeout":-9}}"#;
        let config = ImageConfig::parse(odd.as_bytes(), &Limits::default()).unwrap();
        assert_eq!(config.created(), None);
    }
}
