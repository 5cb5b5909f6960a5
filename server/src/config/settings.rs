//! What can be set, once: each field is a flag of `berthd` and a key of its configuration file.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use clap::{ArgAction, Args, ValueEnum};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{host::Host, ulimit::Ulimit};

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Every step.
    Trace,
    /// Decisions.
    Debug,
    /// Requests and changes of state.
    #[default]
    Info,
    /// What should not happen.
    #[value(alias = "warning")]
    #[serde(alias = "warning")]
    Warn,
    /// What failed.
    #[value(alias = "fatal")]
    #[serde(alias = "fatal")]
    Error,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The settings as given in one place; `None` where that place says nothing.
///
/// Flags and keys have the names that users of dockerd know.
#[derive(Clone, Debug, Default, Args, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Settings {
    /// Address to listen on: unix:///path, tcp://host:port or fd:// (repeatable)
    /// [default: unix:///run/berth.sock]
    #[arg(short = 'H', long = "host", value_name = "ADDRESS")]
    #[serde(with = "hosts")]
    pub hosts: Option<Vec<Host>>,
    /// Directory of everything that persists [default: /var/lib/berth]
    #[arg(long, value_name = "DIR")]
    pub data_root: Option<PathBuf>,
    /// Directory of everything that lasts until the next boot [default: /run/berth]
    #[arg(long, value_name = "DIR")]
    pub exec_root: Option<PathBuf>,
    /// File for the process id [default: berthd.pid in the exec root]
    #[arg(short, long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// Group that owns the unix sockets [default: docker]
    #[arg(short = 'G', long, value_name = "GROUP")]
    pub group: Option<String>,
    /// Log at level debug
    #[arg(short = 'D', long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub debug: Option<bool>,
    /// How much to log [default: info]
    #[arg(short, long, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// How log lines look [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Use TLS on TCP addresses; implied by --tlsverify
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub tls: Option<bool>,
    /// Use TLS and accept only clients with a certificate of --tlscacert
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub tlsverify: Option<bool>,
    /// The authority that client certificates must be signed by
    #[arg(long, value_name = "FILE")]
    pub tlscacert: Option<PathBuf>,
    /// The server's certificate, followed by its chain
    #[arg(long, value_name = "FILE")]
    pub tlscert: Option<PathBuf>,
    /// The private key of the certificate
    #[arg(long, value_name = "FILE")]
    pub tlskey: Option<PathBuf>,
    /// Allow tcp:// without TLS on loopback addresses: whoever reaches the port is root on this host
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_plain_tcp: Option<bool>,
    /// Name that marks everything this engine makes on the host
    /// [default: berth; with another data root, a name derived from it]
    #[arg(long, value_name = "NAME")]
    pub instance: Option<String>,
    /// Parent of the containers' cgroups [default: /<instance>]
    #[arg(long, value_name = "PATH")]
    pub cgroup_parent: Option<String>,
    /// Label of the engine, key=value (repeatable)
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Option<Vec<String>>,
    /// Default resource limit of containers, name=soft[:hard] (repeatable)
    #[arg(long = "default-ulimit", value_name = "LIMIT")]
    #[serde(with = "ulimits")]
    pub default_ulimits: Option<Vec<Ulimit>>,
    /// Default size of /dev/shm in containers: bytes, or with a unit as in 64M
    #[arg(long, value_name = "BYTES")]
    pub default_shm_size: Option<String>,
    /// Default cgroup namespace of containers: host or private
    #[arg(long, value_name = "MODE")]
    pub default_cgroupns_mode: Option<String>,
    /// Set no-new-privileges in every container that does not say otherwise
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub no_new_privileges: Option<bool>,
    /// Run an init process in every container that does not say otherwise
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub init: Option<bool>,
    /// Give containers user namespaces with the ids that /etc/subuid and /etc/subgid have for a user: default, or
    /// user[:group] by names or numbers
    #[arg(long, value_name = "USER")]
    pub userns_remap: Option<String>,
    /// Default log driver of containers [default: json-file]
    #[arg(long, value_name = "DRIVER")]
    pub log_driver: Option<String>,
    /// Default option of the log driver, key=value (repeatable)
    #[arg(long = "log-opt", value_name = "KEY=VALUE", value_parser = key_value)]
    #[serde(with = "pairs")]
    pub log_opts: Option<Vec<(String, String)>>,
    /// Directory with sockets and addresses of volume plugins (repeatable)
    /// [default: plugins in /run/docker, /etc/docker, /usr/lib/docker]
    #[arg(long = "plugin-dir", value_name = "DIR")]
    pub plugin_dirs: Option<Vec<PathBuf>>,
    /// Directory with descriptions of devices (CDI) that containers may ask for; of two that describe the same device,
    /// the later directory counts (repeatable) [default: /etc/cdi, /var/run/cdi]
    #[arg(long = "cdi-spec-dir", value_name = "DIR")]
    pub cdi_spec_dirs: Option<Vec<PathBuf>>,
    /// Registry that may be spoken to without TLS: host[:port] or a network (repeatable)
    #[arg(long = "insecure-registry", value_name = "REGISTRY")]
    pub insecure_registries: Option<Vec<String>>,
    /// Mirror of the default registry, or with PREFIX=URL of all images whose names begin so, like quay.io or
    /// docker.io/library (repeatable)
    #[arg(long = "registry-mirror", value_name = "URL")]
    pub registry_mirrors: Option<Vec<String>>,
    /// Directory with a directory for each registry host[:port]: *.crt are authorities, *.cert and *.key client
    /// certificates (repeatable) [default: /etc/berth/certs.d, /etc/docker/certs.d]
    #[arg(long = "registry-certs", value_name = "DIR")]
    pub registry_certs: Option<Vec<PathBuf>>,
    /// Seconds that nothing may come from a registry before a transfer is tried again [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub registry_timeout: Option<u64>,
    /// Layers that are fetched at a time [default: 3]
    #[arg(long, value_name = "NUMBER")]
    pub max_concurrent_downloads: Option<usize>,
    /// Layers that are sent at a time [default: 5]
    #[arg(long, value_name = "NUMBER")]
    pub max_concurrent_uploads: Option<usize>,
    /// How often a transfer is tried [default: 5]
    #[arg(long, value_name = "NUMBER")]
    pub max_download_attempts: Option<u32>,
    /// Address and prefix length of the default network's bridge, as in 10.1.0.1/24
    #[arg(long, value_name = "ADDRESS")]
    pub bip: Option<String>,
    /// Bridge that the default network uses and does not make; none for no default network
    #[arg(short = 'b', long, value_name = "NAME")]
    pub bridge: Option<String>,
    /// Addresses that networks are made from, as in base=10.0.0.0/8,size=24 (repeatable)
    #[arg(long = "default-address-pool", value_name = "POOL")]
    #[serde(with = "pools")]
    pub default_address_pools: Option<Vec<String>>,
    /// Largest packet of the default network in bytes [default: 1500]
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u32>,
    /// Address of the host for published ports that do not name one [default: 0.0.0.0]
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<IpAddr>,
    /// Whether containers of the default network may talk to each other [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub icc: Option<bool>,
    /// Whether what leaves the default network gets an address of the host [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ip_masq: Option<bool>,
    /// Whether to switch the host's forwarding on where networks need it [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ip_forward: Option<bool>,
    /// Whether containers of the default network get IPv6 addresses [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ipv6: Option<bool>,
    /// Part of the default network's subnet that containers get addresses from
    #[arg(long, value_name = "SUBNET")]
    pub fixed_cidr: Option<String>,
    /// IPv6 subnet of the default network
    #[arg(long, value_name = "SUBNET")]
    pub fixed_cidr_v6: Option<String>,
    /// Gateway of the default network, if it is not the bridge
    #[arg(long, value_name = "ADDRESS")]
    pub default_gateway: Option<Ipv4Addr>,
    /// IPv6 gateway of the default network, if it is not the bridge
    #[arg(long, value_name = "ADDRESS")]
    pub default_gateway_v6: Option<Ipv6Addr>,
    /// Name server of containers that do not say otherwise (repeatable) [default: those of the host]
    #[arg(long = "dns", value_name = "ADDRESS")]
    pub dns: Option<Vec<IpAddr>>,
    /// Domain that containers search names in if they do not say otherwise (repeatable)
    #[arg(long = "dns-search", value_name = "DOMAIN")]
    pub dns_search: Option<Vec<String>>,
    /// Option of the resolver of containers that do not say otherwise (repeatable)
    #[arg(long = "dns-opt", value_name = "OPTION")]
    pub dns_opts: Option<Vec<String>>,
    /// Address that host-gateway in extra hosts stands for [default: that of the default network's bridge]
    #[arg(long, value_name = "ADDRESS")]
    pub host_gateway_ip: Option<IpAddr>,
    /// No process stands behind a published port in any case; accepted for compatibility
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub userland_proxy: Option<bool>,
    /// Seconds that running requests get to finish when the engine is stopped [default: 15]
    #[arg(long, value_name = "SECONDS")]
    pub shutdown_timeout: Option<u64>,
    /// Another OCI runtime, name=path (repeatable)
    #[arg(long = "add-runtime", value_name = "NAME=PATH", value_parser = runtime)]
    #[serde(with = "runtimes")]
    pub runtimes: Option<Vec<(String, RuntimeSettings)>>,
    /// Runtime of containers that name none [default: runc, the engine's own]
    #[arg(long, value_name = "NAME")]
    pub default_runtime: Option<String>,
    /// Containers outlive the engine in any case; accepted for compatibility
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          action = ArgAction::Set)]
    pub live_restore: Option<bool>,
}

/// Another OCI runtime, as the configuration file describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct RuntimeSettings {
    /// The program.
    #[serde(default)]
    pub path: String,
    /// Arguments in front of its command.
    #[serde(default, rename = "runtimeArgs", skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<String>,
}

/// Reads a `name=path` flag.
fn runtime(text: &str) -> Result<(String, RuntimeSettings), String> {
    let (name, path) = key_value(text)?;
    let settings = RuntimeSettings {
        path,
        arguments: Vec::new(),
    };
    Ok((name, settings))
}

/// In the file, runtimes are an object.
mod runtimes {
    use super::*;

    pub fn serialize<S: Serializer>(
        value: &Option<Vec<(String, RuntimeSettings)>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let map = value
            .as_ref()
            .map(|list| list.iter().cloned().collect::<BTreeMap<_, _>>());
        map.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<(String, RuntimeSettings)>>, D::Error> {
        let map = Option::<BTreeMap<String, RuntimeSettings>>::deserialize(deserializer)?;
        Ok(map.map(|map| map.into_iter().collect()))
    }
}

/// Reads a `key=value` flag.
fn key_value(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("{text:?} is not of the form key=value"))
}

/// `hosts` as a list of texts.
mod hosts {
    use super::{Deserialize, Deserializer, Host, Serialize, Serializer};

    pub fn serialize<S: Serializer>(hosts: &Option<Vec<Host>>, to: S) -> Result<S::Ok, S::Error> {
        let texts = hosts
            .as_ref()
            .map(|h| h.iter().map(ToString::to_string).collect::<Vec<_>>());
        texts.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Host>>, D::Error> {
        let texts = Option::<Vec<String>>::deserialize(from)?;
        let parse = |text: String| text.parse::<Host>().map_err(serde::de::Error::custom);
        texts.map(|t| t.into_iter().map(parse).collect()).transpose()
    }
}

/// `default-ulimits` as an object of name and limit.
mod ulimits {
    use super::{BTreeMap, Deserialize, Deserializer, Serialize, Serializer, Ulimit};

    pub fn serialize<S: Serializer>(limits: &Option<Vec<Ulimit>>, to: S) -> Result<S::Ok, S::Error> {
        let map = limits
            .as_ref()
            .map(|l| l.iter().map(|l| (&l.name, l)).collect::<BTreeMap<_, _>>());
        map.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Ulimit>>, D::Error> {
        let map = Option::<BTreeMap<String, Ulimit>>::deserialize(from)?;
        let name = |(key, mut limit): (String, Ulimit)| {
            if limit.name.is_empty() {
                limit.name = key;
            }
            limit.checked().map_err(serde::de::Error::custom)
        };
        map.map(|m| m.into_iter().map(name).collect()).transpose()
    }
}

/// `default-address-pools` as a list of objects, or of texts.
mod pools {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Pool {
        Text(String),
        Object { base: String, size: u8 },
    }

    pub fn serialize<S: Serializer>(pools: &Option<Vec<String>>, to: S) -> Result<S::Ok, S::Error> {
        pools.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
        let pools = Option::<Vec<Pool>>::deserialize(from)?;
        let text = |pool| match pool {
            Pool::Text(text) => text,
            Pool::Object { base, size } => format!("base={base},size={size}"),
        };
        Ok(pools.map(|pools| pools.into_iter().map(text).collect()))
    }
}

/// `log-opts` as an object of texts.
mod pairs {
    use super::{BTreeMap, Deserialize, Deserializer, Serialize, Serializer};

    type Pairs = Option<Vec<(String, String)>>;

    pub fn serialize<S: Serializer>(pairs: &Pairs, to: S) -> Result<S::Ok, S::Error> {
        let map = pairs
            .as_ref()
            .map(|p| p.iter().cloned().collect::<BTreeMap<_, _>>());
        map.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Pairs, D::Error> {
        let map = Option::<BTreeMap<String, String>>::deserialize(from)?;
        Ok(map.map(|m| m.into_iter().collect()))
    }
}
