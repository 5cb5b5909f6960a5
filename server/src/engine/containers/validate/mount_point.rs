//! One mount of a container, in the form everything else works with: whatever way it was asked for.

use std::{collections::BTreeMap, path::PathBuf};

use berth_api::models;
use serde::{Deserialize, Serialize};

/// Where something is mounted in a container, and what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// Absolute path in the container, cleaned: no `.`, no `..`, no doubled or trailing slash.
    pub destination: String,
    /// What is mounted there.
    pub source: MountSource,
    /// Whether it is mounted read-only.
    pub read_only: bool,
    /// The options in text form, as a bind text had them after its second colon.
    #[serde(default)]
    pub mode: String,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum MountSource {
    /// A path of the host.
    Bind(BindSource),
    /// A volume.
    Volume(VolumeSource),
    /// A memory file system.
    Tmpfs {
        /// Options for mount(8), separated by commas, as they were asked for: [`tmpfs::merge`](super::tmpfs::merge)
        /// makes the final ones.
        options: String,
    },
}

/// A path of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindSource {
    /// Absolute path on the host, cleaned.
    pub path: String,
    /// How mounts below pass between host and container.
    pub propagation: Propagation,
    /// Whether the mounts below the path come along.
    pub recursive: bool,
    /// Whether the mounts below are read-only as well if the bind is.
    #[serde(default)]
    pub recursive_read_only: bool,
    /// Whether a missing path is made as a directory at start, instead of failing the start.
    pub create: bool,
    /// Whether a slave may be private where the source's mount passes nothing on.
    #[serde(default)]
    pub fallback: bool,
    /// Whether its files show with the ids of the container's user namespace.
    #[serde(default)]
    pub mapped: bool,
}

/// A volume, before or after it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSource {
    /// Its name; empty for an anonymous volume that does not exist yet.
    pub name: String,
    /// The volume's driver; empty: the default one.
    #[serde(default)]
    pub driver: String,
    /// Options of the driver if the volume is new.
    #[serde(default)]
    pub driver_options: BTreeMap<String, String>,
    /// Labels of the volume if it is new.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What of the volume is mounted, a relative path; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subpath: Option<String>,
    /// Whether an empty volume gets what the image has at the destination.
    pub copy_up: bool,
    /// Whether it was made for this container without a name.
    #[serde(default)]
    pub anonymous: bool,
    /// The host directory that holds its data, once it exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// How mounts made below a bind pass between host and container: mount_namespaces(7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// Not at all, this mount alone.
    Private,
    /// Not at all.
    #[default]
    Rprivate,
    /// Both ways, this mount alone.
    Shared,
    /// Both ways.
    Rshared,
    /// From the host to the container, this mount alone.
    Slave,
    /// From the host to the container.
    Rslave,
}

impl Propagation {
    const ALL: [Self; 6] = [
        Self::Private,
        Self::Rprivate,
        Self::Shared,
        Self::Rshared,
        Self::Slave,
        Self::Rslave,
    ];

    /// The word for it in mount options.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Rprivate => "rprivate",
            Self::Shared => "shared",
            Self::Rshared => "rshared",
            Self::Slave => "slave",
            Self::Rslave => "rslave",
        }
    }

    /// The propagation a word stands for.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|propagation| propagation.as_str() == word)
    }

    /// Whether mounts pass from the container to the host.
    pub const fn is_shared(self) -> bool {
        matches!(self, Self::Shared | Self::Rshared)
    }

    /// Whether mounts pass from the host to the container only.
    pub const fn is_slave(self) -> bool {
        matches!(self, Self::Slave | Self::Rslave)
    }
}

impl MountPoint {
    /// The mount as inspect, list and events show it.
    pub fn to_model(&self) -> models::MountPoint {
        let mut model = models::MountPoint {
            destination: self.destination.clone(),
            mode: self.mode.clone(),
            rw: !self.read_only,
            ..Default::default()
        };
        match &self.source {
            MountSource::Bind(bind) => {
                model.r#type = models::MountType::Bind;
                model.source.clone_from(&bind.path);
                model.propagation = bind.propagation.as_str().to_owned();
            }
            MountSource::Volume(volume) => {
                model.r#type = models::MountType::Volume;
                model.name.clone_from(&volume.name);
                model.source = volume
                    .path
                    .as_ref()
                    .map(|path| path.to_string_lossy().into_owned())
                    .unwrap_or_default();
                model.driver = if volume.driver.is_empty() {
                    "local".to_owned()
                } else {
                    volume.driver.clone()
                };
            }
            MountSource::Tmpfs { .. } => model.r#type = models::MountType::Tmpfs,
        }
        model
    }
}
