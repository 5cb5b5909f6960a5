//! The networks that are there from the start.

use std::{fs, io};

use berth_api::{
    Filters,
    models::{IPAM, Network},
};
use berth_runtime::{Error, Kind, Result, error::Context};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    roots::{Roots, write_file},
    time,
};

/// Names and drivers, in the order in which they are listed.
const PREDEFINED: [(&str, &str); 3] = [("bridge", "bridge"), ("host", "host"), ("none", "null")];

/// The networks of the engine.
#[derive(Debug)]
pub struct Networks {
    predefined: Vec<Record>,
}

/// A network as it is kept on disk.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Record {
    id: String,
    name: String,
    driver: String,
    created: Timestamp,
}

impl Networks {
    /// Reads the networks, and makes the predefined ones when the data root is used for the first time.
    ///
    /// # Errors
    /// Internal, if they can neither be read nor written.
    pub fn open(roots: &Roots) -> Result<Self> {
        let path = roots.networks().join("predefined.json");
        let predefined = match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).context(|| format!("cannot read {}", path.display()))?
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let created = Timestamp::now();
                let record = |(name, driver): (&str, &str)| Record {
                    id: new_id(),
                    name: name.to_owned(),
                    driver: driver.to_owned(),
                    created,
                };
                let records: Vec<_> = PREDEFINED.into_iter().map(record).collect();
                let text = serde_json::to_vec(&records).context(|| "cannot write the networks as JSON")?;
                write_file(&path, &text)?;
                records
            }
            Err(e) => return Err(e).context(|| format!("cannot read {}", path.display())),
        };
        Ok(Self { predefined })
    }

    /// The networks that fit `filters`.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for an unknown value of `type`.
    pub fn list(&self, filters: &Filters) -> Result<Vec<Network>> {
        for value in filters.values("type") {
            if !matches!(value, "builtin" | "custom") {
                return Err(Error::invalid(format!(
                    "invalid filter 'type={value}': use builtin or custom"
                )));
            }
        }
        let fits = |record: &&Record| {
            filters.exact("type", "builtin")
                && filters.exact("driver", &record.driver)
                && filters.exact("scope", "local")
                && filters.any("name", |value| record.name.contains(value))
                && filters.any("id", |value| record.id.contains(value))
                && filters.any("label", |_| false)
        };
        Ok(self.predefined.iter().filter(fits).map(Record::model).collect())
    }

    /// The network of this full id, exact name, or unique beginning of an id.
    ///
    /// # Errors
    /// [`Kind::NotFound`], or [`Kind::Invalid`] if several
    /// ids begin so.
    pub fn find(&self, term: &str) -> Result<Network> {
        let exact = self.predefined.iter().find(|n| n.id == term || n.name == term);
        if let Some(record) = exact {
            return Ok(record.model());
        }
        let mut begin = self
            .predefined
            .iter()
            .filter(|n| !term.is_empty() && n.id.starts_with(term));
        match (begin.next(), begin.next()) {
            (Some(record), None) => Ok(record.model()),
            (Some(_), Some(_)) => Err(Error::invalid(format!(
                "network {term} is ambiguous: several ids begin so"
            ))),
            (None, _) => Err(Error::not_found(format!("network {term} not found"))),
        }
    }

    /// Removes a network: none yet, as those that are there from the start stay.
    ///
    /// # Errors
    /// As [`Networks::find`]; [`Kind::Forbidden`] for a predefined network.
    pub fn remove(&self, term: &str) -> Result<()> {
        let name = self.find(term)?.name;
        Err(Error::new(
            Kind::Forbidden,
            format!("{name} is a pre-defined network and cannot be removed"),
        ))
    }
}

impl Record {
    fn model(&self) -> Network {
        Network {
            id: self.id.clone(),
            name: self.name.clone(),
            driver: self.driver.clone(),
            created: time::rfc3339(self.created),
            scope: "local".into(),
            ipam: IPAM {
                driver: "default".into(),
                config: Some(Vec::new()),
                ..IPAM::default()
            },
            ..Network::default()
        }
    }
}

/// A new 64-digit id whose first 12 digits are not all decimal, as they may become a host name.
fn new_id() -> String {
    loop {
        let bytes: [u8; 32] = rand::random();
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        if !id.bytes().take(12).all(|digit| digit.is_ascii_digit()) {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, settings::Settings};

    fn open(dir: &Path) -> Networks {
        let settings = Settings {
            data_root: Some(dir.join("data")),
            exec_root: Some(dir.join("run")),
            ..Settings::default()
        };
        let roots = Roots::take(&Config::resolve(settings).unwrap()).unwrap();
        Networks::open(&roots).unwrap()
    }

    fn names(networks: &Networks, filter: (&str, &str)) -> Vec<String> {
        let list = networks
            .list(&Filters::default().with(filter.0, filter.1))
            .unwrap();
        list.into_iter().map(|network| network.name).collect()
    }

    #[test]
    fn ids_stay_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).list(&Filters::default()).unwrap();
        let again = open(dir.path()).list(&Filters::default()).unwrap();
        assert_eq!(first, again);
        assert_eq!(first.len(), 3);
    }

    #[test]
    fn networks_are_found_and_filtered() {
        let dir = tempfile::tempdir().unwrap();
        let networks = open(dir.path());
        let bridge = networks.find("bridge").unwrap();
        assert_eq!(networks.find(&bridge.id).unwrap(), bridge);
        assert_eq!(networks.find(&bridge.id[..20]).unwrap(), bridge);
        for unknown in ["", "other", "bridge2"] {
            assert_eq!(
                networks.find(unknown).unwrap_err().kind(),
                Kind::NotFound,
                "{unknown}"
            );
        }
        assert_eq!(names(&networks, ("name", "o")), ["host", "none"]);
        assert_eq!(names(&networks, ("driver", "null")), ["none"]);
        assert_eq!(names(&networks, ("id", &bridge.id[10..20])), ["bridge"]);
        assert_eq!(names(&networks, ("type", "custom")), Vec::<String>::new());
        assert_eq!(names(&networks, ("label", "x")), Vec::<String>::new());
        let odd = Filters::default().with("type", "odd");
        assert_eq!(networks.list(&odd).unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn predefined_networks_stay() {
        let dir = tempfile::tempdir().unwrap();
        let networks = open(dir.path());
        assert_eq!(networks.remove("host").unwrap_err().kind(), Kind::Forbidden);
        assert_eq!(networks.remove("other").unwrap_err().kind(), Kind::NotFound);
    }
}
