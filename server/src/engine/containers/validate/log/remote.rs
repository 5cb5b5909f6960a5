//! The drivers that send output to a log of the host. They also keep files of the engine's own, from which the log is
//! read, unless `cache-disabled` says otherwise.

use std::collections::BTreeMap;

use berth_api::models::ContainerConfig;
use berth_runtime::{
    Error, Result,
    log::{Address, Receiver, Remote, Syslog, SyslogFormat},
};
use serde::{Deserialize, Serialize};

use super::{
    DEFAULT_BUFFER, DEFAULT_FILES, DEFAULT_SIZE, LogAttributes, LogDriver, LogSettings, TagFacts, bad_size,
    boolean, not_parsed, render, size,
};

/// Names of the facilities, in the order of their numbers (RFC 5424, section 6.2.1).
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "",
    "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];
/// `daemon`.
const DEFAULT_FACILITY: u8 = 3;
const SYSLOG_PORT: u16 = 514;
/// What messages are of unless `tag` says so.
const DEFAULT_TAG: &str = "{{.ID}}";

/// Where output is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteSettings {
    /// Bytes that may wait.
    pub max_buffer: u64,
    /// Whether it is kept nowhere else.
    pub cache_disabled: bool,
    /// How the syslog daemon is spoken to; none: it is the journal.
    pub syslog: Option<SyslogSettings>,
}

/// How a syslog daemon is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyslogSettings {
    /// Where it listens.
    pub address: Address,
    /// Number of the facility.
    pub facility: u8,
    /// How messages look.
    pub format: SyslogFormat,
}

/// Reads the options.
///
/// # Errors
/// Invalid for a bad value.
pub(super) fn read(driver: LogDriver, options: &BTreeMap<String, String>) -> Result<LogSettings> {
    let buffer = options.get("max-buffer-size").and_then(|text| size(text));
    let flag = |name: &str, default: bool| match options.get(name) {
        None => Ok(default),
        Some(text) => boolean(text).ok_or_else(|| not_parsed("ParseBool", text)),
    };
    let max_size = match options.get("cache-max-size") {
        None => DEFAULT_SIZE,
        Some(text) => size(text)
            .filter(|size| *size > 0)
            .ok_or_else(|| bad_size(text))?,
    };
    let max_file = match options.get("cache-max-file") {
        None => DEFAULT_FILES,
        Some(text) => text
            .parse()
            .ok()
            .filter(|files| *files > 0)
            .ok_or_else(|| not_parsed("Atoi", text))?,
    };
    let syslog = match driver {
        LogDriver::Syslog => Some(SyslogSettings {
            address: address(options.get("syslog-address").map_or("", String::as_str))?,
            facility: facility(options.get("syslog-facility").map_or("", String::as_str))?,
            format: format(options.get("syslog-format").map_or("", String::as_str))?,
        }),
        _ => None,
    };
    Ok(LogSettings {
        driver,
        max_size,
        max_file,
        compress: flag("cache-compress", true)?,
        attributes: LogAttributes::read(options)?,
        remote: Some(RemoteSettings {
            max_buffer: buffer.filter(|bytes| *bytes > 0).unwrap_or(DEFAULT_BUFFER),
            cache_disabled: flag("cache-disabled", false)?,
            syslog,
        }),
    })
}

fn address(text: &str) -> Result<Address> {
    if text.is_empty() {
        return Ok(Address::Local);
    }
    let bad = || {
        Error::invalid(format!(
            "syslog-address should be in form proto://address, got {text}"
        ))
    };
    let (protocol, rest) = text.split_once("://").ok_or_else(bad)?;
    match protocol {
        "unix" | "unixgram" if !rest.starts_with('/') => Err(bad()),
        "unix" => Ok(Address::Unix(rest.into())),
        "unixgram" => Ok(Address::Unixgram(rest.into())),
        "tcp" => Ok(Address::Tcp(with_port(rest).ok_or_else(bad)?)),
        "udp" => Ok(Address::Udp(with_port(rest).ok_or_else(bad)?)),
        "tcp+tls" => Err(Error::invalid(
            "syslog-address: tcp+tls is not supported; let a syslog daemon of this host pass messages on",
        )),
        _ => Err(bad()),
    }
}

/// `host:port`, with the default port if there is none.
fn with_port(text: &str) -> Option<String> {
    let text = text.trim_end_matches('/');
    let has_port = text.rsplit_once(':').is_some_and(|(host, port)| {
        port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')) && !host.is_empty()
    });
    match has_port {
        true => Some(text.to_owned()),
        false if text.is_empty() || text.contains('/') => None,
        false if text.contains(':') && !text.starts_with('[') => None,
        false => Some(format!("{text}:{SYSLOG_PORT}")),
    }
}

fn facility(text: &str) -> Result<u8> {
    if text.is_empty() {
        return Ok(DEFAULT_FACILITY);
    }
    let by_name = FACILITIES.iter().position(|name| *name == text);
    let number = by_name
        .or_else(|| text.parse().ok())
        .filter(|number| *number < FACILITIES.len());
    number
        .and_then(|number| u8::try_from(number).ok())
        .ok_or_else(|| Error::invalid(format!("invalid syslog facility: {text:?}")))
}

fn format(text: &str) -> Result<SyslogFormat> {
    Ok(match text {
        "" => SyslogFormat::Local,
        "rfc3164" => SyslogFormat::Rfc3164,
        "rfc5424" => SyslogFormat::Rfc5424,
        "rfc5424micro" => SyslogFormat::Rfc5424micro,
        _ => return Err(Error::invalid(format!("Invalid syslog format: {text:?}"))),
    })
}

impl RemoteSettings {
    /// The log of the host for a container with this configuration.
    ///
    /// # Errors
    /// Invalid for settings that would have been refused; internal if the host's name cannot be read.
    pub fn of(
        &self,
        attributes: &LogAttributes,
        config: &ContainerConfig,
        facts: &TagFacts<'_>,
    ) -> Result<Remote> {
        let template = match attributes.tag.as_str() {
            "" => DEFAULT_TAG,
            tag => tag,
        };
        let tag = render(template, facts)?;
        let receiver = match &self.syslog {
            Some(syslog) => Receiver::Syslog(Syslog {
                address: syslog.address.clone(),
                facility: syslog.facility,
                format: syslog.format,
                tag,
                hostname: super::super::host_name()?,
            }),
            None => Receiver::Journald {
                fields: journal_fields(attributes, config, facts, tag)?,
            },
        };
        Ok(Remote {
            receiver,
            max_buffer: self.max_buffer,
        })
    }
}

fn journal_fields(
    attributes: &LogAttributes,
    config: &ContainerConfig,
    facts: &TagFacts<'_>,
    tag: String,
) -> Result<Vec<(String, String)>> {
    let short: String = facts.id.chars().take(12).collect();
    let mut fields: Vec<(String, String)> = [
        ("CONTAINER_ID", short.as_str()),
        ("CONTAINER_ID_FULL", facts.id),
        ("CONTAINER_NAME", facts.name),
        ("CONTAINER_TAG", &tag),
        ("IMAGE_NAME", facts.image_name),
        ("SYSLOG_IDENTIFIER", &tag),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    let mut further = attributes.of(config, facts)?;
    further.remove("tag");
    fields.extend(
        further
            .into_iter()
            .map(|(name, value)| (field_name(&name), value)),
    );
    Ok(fields)
}

/// What the journal takes as a name: capitals, digits and underscores, and none of the latter in front.
fn field_name(text: &str) -> String {
    let clean = text.to_ascii_uppercase();
    let clean: String = clean
        .chars()
        .map(|c| {
            if c.is_ascii_uppercase() || c.is_ascii_digit() {
                c
            } else {
                '_'
            }
        })
        .collect();
    clean.trim_start_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let good = [
            ("", Address::Local),
            ("unix:///dev/log", Address::Unix("/dev/log".into())),
            ("unixgram:///dev/log", Address::Unixgram("/dev/log".into())),
            ("tcp://host:1514", Address::Tcp("host:1514".into())),
            ("udp://10.0.0.1", Address::Udp("10.0.0.1:514".into())),
            ("udp://[::1]", Address::Udp("[::1]:514".into())),
            ("tcp://[::1]:99", Address::Tcp("[::1]:99".into())),
        ];
        for (text, expected) in good {
            assert_eq!(address(text).unwrap(), expected, "{text}");
        }
        for text in [
            "host:1",
            "unix://relative",
            "http://x",
            "udp://",
            "tcp+tls://x:1",
            "tcp://::1",
        ] {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn facilities_and_formats() {
        for (text, number) in [
            ("", 3),
            ("daemon", 3),
            ("local7", 23),
            ("0", 0),
            ("kern", 0),
            ("16", 16),
        ] {
            assert_eq!(facility(text).unwrap(), number, "{text}");
        }
        for text in ["none", "24", "-1"] {
            assert!(facility(text).is_err(), "{text}");
        }
        assert!(format("rfc1").is_err());
    }

    #[test]
    fn names_of_fields() {
        assert_eq!(field_name("com.example-x"), "COM_EXAMPLE_X");
        assert_eq!(field_name("_a"), "A");
    }
}
