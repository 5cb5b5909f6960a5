//! A network as it is kept on disk and shown.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use berth_api::models::{ConfigReference, IPAM, IPAMConfig, Network};
use berth_runtime::{Result, error::Context, failpoint::hit, net};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    addresses::Range,
    options::{Driver, GatewayMode, Options},
};
use crate::engine::{
    roots::{clear_new, write_file},
    time,
};

/// Names of the networks that every engine has, and their drivers.
pub const PREDEFINED: [(&str, &str); 3] = [("bridge", "bridge"), ("host", "host"), ("none", "null")];
/// How bridges of user-defined networks are named, before digits of the network's id.
const BRIDGE_PREFIX: &str = "br-";
/// Bridge of the default network of the engine that has no special name.
const DEFAULT_BRIDGE: &str = "berth0";
/// The instance whose default bridge has that name.
const DEFAULT_INSTANCE: &str = "berth";

/// A network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Name of its driver.
    pub driver: String,
    /// When it was made.
    pub created: Timestamp,
    /// Its address ranges.
    #[serde(default)]
    pub ranges: Vec<Range>,
    /// IPv6 ranges that were given for a network without IPv6: they are shown and not used.
    #[serde(default)]
    pub unused: Vec<Range>,
    /// Options of the address management, as they were given.
    #[serde(default)]
    pub ipam_options: Option<BTreeMap<String, String>>,
    /// Whether containers get IPv6 addresses.
    #[serde(default)]
    pub ipv6: bool,
    /// Whether it is cut off from everything else.
    #[serde(default)]
    pub internal: bool,
    /// Kept for whoever set it.
    #[serde(default)]
    pub attachable: bool,
    /// Whether it is a configuration for others only.
    #[serde(default)]
    pub config_only: bool,
    /// The network its configuration came from; empty if none.
    #[serde(default)]
    pub config_from: String,
    /// Options of the driver, as they were given.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The link that belongs to it on the host: its bridge, or a parent made for it alone; empty if none.
    #[serde(default)]
    pub link: String,
}

impl Record {
    /// Its driver.
    ///
    /// # Errors
    /// Not found, if a file was changed by hand.
    pub fn driver(&self) -> Result<Driver> {
        Driver::parse(&self.driver)
    }

    /// Its options.
    ///
    /// # Errors
    /// Invalid, if a file was changed by hand.
    pub fn parsed_options(&self) -> Result<Options> {
        Options::read(&self.options)
    }

    /// Whether every engine has it.
    pub fn is_predefined(&self) -> bool {
        PREDEFINED.iter().any(|(name, _)| *name == self.name)
    }

    /// Whether it is one whose containers know each other by name.
    pub fn is_user_defined(&self) -> bool {
        !self.is_predefined()
    }

    /// The range whose subnet has the address.
    pub fn range_of(&self, address: IpAddr) -> Option<&Range> {
        self.ranges.iter().find(|range| range.subnet.contains(&address))
    }

    /// Whether an address is in a range that was given and is not used.
    pub fn has_unused(&self, address: IpAddr) -> bool {
        self.unused.iter().any(|range| range.subnet.contains(&address))
    }

    /// The first range of a family.
    pub fn range(&self, ipv6: bool) -> Option<&Range> {
        self.ranges
            .iter()
            .find(|range| range.subnet.addr().is_ipv6() == ipv6)
    }

    /// What the firewall has to know.
    ///
    /// # Errors
    /// As [`Record::parsed_options`].
    pub fn firewall(&self) -> Result<net::Network> {
        let options = self.parsed_options()?;
        Ok(net::Network {
            bridge: self.link.clone(),
            subnets: self.ranges.iter().map(|range| range.subnet).collect(),
            masquerade: !options.no_masquerade,
            icc: !options.no_icc,
            internal: self.internal,
            routed: options.gateway_modes.map(|mode| mode == GatewayMode::Routed),
            open: options.gateway_modes.contains(&GatewayMode::Unprotected),
            trusted: options.trusted,
        })
    }

    /// As clients see it, without its containers.
    pub fn model(&self) -> Network {
        let config = self.ranges.iter().chain(&self.unused).map(|range| IPAMConfig {
            subnet: range.subnet.to_string(),
            ip_range: range.range.map(|net| net.to_string()).unwrap_or_default(),
            gateway: range
                .gateway
                .map(|address| address.to_string())
                .unwrap_or_default(),
            auxiliary_addresses: range
                .reserved
                .iter()
                .map(|(name, address)| (name.clone(), address.to_string()))
                .collect(),
        });
        Network {
            id: self.id.clone(),
            name: self.name.clone(),
            driver: self.driver.clone(),
            created: time::rfc3339(self.created),
            scope: "local".into(),
            ipam: IPAM {
                driver: "default".into(),
                config: Some(config.collect()),
                options: self.ipam_options.clone(),
            },
            enable_ipv6: self.ipv6,
            internal: self.internal,
            attachable: self.attachable,
            config_only: self.config_only,
            config_from: ConfigReference {
                network: self.config_from.clone(),
            },
            options: self.options.clone(),
            labels: self.labels.clone(),
            ..Network::default()
        }
    }

    fn path(directory: &Path, id: &str) -> PathBuf {
        directory.join(format!("{id}.json"))
    }

    /// Writes it into `directory` in one step.
    ///
    /// # Errors
    /// Internal.
    pub fn store(&self, directory: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).context(|| "cannot write a network as JSON")?;
        write_file(&Self::path(directory, &self.id), &text)
    }

    /// Removes its file; its absence is fine.
    ///
    /// # Errors
    /// Internal.
    pub fn erase(&self, directory: &Path) -> Result<()> {
        let path = Self::path(directory, &self.id);
        match hit("network.erase").and_then(|()| fs::remove_file(&path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Reads all of `directory`. What cannot be read is left alone, with a warning.
    ///
    /// # Errors
    /// Internal, if the directory cannot be read.
    pub fn load_all(directory: &Path) -> Result<Vec<Self>> {
        let failed = || format!("cannot read {}", directory.display());
        clear_new(directory);
        let mut records = Vec::new();
        for entry in fs::read_dir(directory).context(failed)? {
            let path = entry.context(failed)?.path();
            let named = path.extension().is_some_and(|extension| extension == "json");
            if !named || path.file_stem().is_none_or(|stem| stem.len() != 64) {
                continue;
            }
            let record = fs::read(&path)
                .map_err(|error| error.to_string())
                .and_then(|text| serde_json::from_slice::<Self>(&text).map_err(|error| error.to_string()));
            match record {
                Ok(record) if Self::path(directory, &record.id) == path => records.push(record),
                Ok(_) => tracing::warn!(path = %path.display(), "the file of another network; left alone"),
                Err(error) => tracing::warn!(path = %path.display(), error, "not a network; left alone"),
            }
        }
        Ok(records)
    }
}

/// The name of a network's bridge.
pub fn bridge_name(instance: &str, name: &str, id: &str, options: &Options) -> String {
    match options.bridge.as_str() {
        "" if name == "bridge" && instance == DEFAULT_INSTANCE => DEFAULT_BRIDGE.to_owned(),
        "" => format!("{BRIDGE_PREFIX}{}", id.get(..12).unwrap_or(id)),
        given => given.to_owned(),
    }
}

/// A new 64-digit id whose first 12 digits are not all decimal, as they may become a host name.
pub fn new_id() -> String {
    loop {
        let bytes: [u8; 32] = rand::random();
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        if !id.bytes().take(12).all(|digit| digit.is_ascii_digit()) {
            return id;
        }
    }
}
