//! What is kept of a container between the commands: a directory with its record, its specification and its gate.

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use berth_runtime::{
    Error, Result, cgroup::Cgroup, error::Context as _, sandbox::Hooks, supervisor::Identity,
};
use jiff::Timestamp;
use nix::unistd::{Uid, User};
use oci_spec::runtime::Spec;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Context;

const RECORD: &str = "state.json";
const SPEC: &str = "config.json";
const GATE: &str = "gate";
/// Longest id, in bytes: it names a directory.
const ID_MAX: usize = 255;

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// The record of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub id: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub created: Timestamp,
    pub annotations: HashMap<String, String>,
    pub init: Identity,
    pub cgroup: Cgroup,
}

/// The directory of a container.
#[derive(Clone, Debug)]
pub(super) struct Directory(PathBuf);

impl Context {
    /// Where container `id` is kept.
    ///
    /// # Errors
    /// Invalid for an id that cannot be one.
    pub fn directory(&self, id: &str) -> Result<Directory> {
        let good = |c: char| c.is_ascii_alphanumeric() || "+-_.".contains(c);
        if id.is_empty() || id.len() > ID_MAX || id == "." || id == ".." || !id.chars().all(good) {
            return Err(Error::invalid(format!("invalid container ID format: {id:?}")));
        }
        Ok(Directory(self.root.join(id)))
    }

    /// The ids of all containers.
    pub fn ids(&self) -> Result<Vec<String>> {
        let message = || format!("cannot list {}", self.root.display());
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.context(message)?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let entry = entry.context(message)?;
            if let (true, Ok(name)) = (
                entry.path().join(RECORD).exists(),
                entry.file_name().into_string(),
            ) {
                ids.push(name);
            }
        }
        ids.sort();
        Ok(ids)
    }
}

impl Directory {
    /// Makes it.
    ///
    /// # Errors
    /// Conflict if there is one.
    pub fn make(&self) -> Result<()> {
        let message = || format!("cannot make {}", self.0.display());
        if let Some(parent) = self.0.parent() {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o711);
            builder.create(parent).context(message)?;
        }
        match DirBuilder::new().mode(0o700).create(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::conflict("container with given ID already exists"))
            }
            other => other.context(message),
        }
    }

    pub fn gate(&self) -> PathBuf {
        self.0.join(GATE)
    }

    pub fn exists(&self) -> bool {
        self.0.is_dir()
    }

    /// Keeps others from changing the container until the file is dropped.
    pub fn lock(&self) -> Result<File> {
        let file = match File::open(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(not_there()),
            other => other.context(|| format!("cannot open {}", self.0.display()))?,
        };
        flock(&file, FlockOperation::LockExclusive)
            .context(|| format!("cannot lock {}", self.0.display()))?;
        // It may have been removed while this waited.
        match file.metadata() {
            Ok(data) if data.nlink() > 0 => Ok(file),
            _ => Err(not_there()),
        }
    }

    pub fn store(&self, record: &Record, spec: &Spec) -> Result<()> {
        self.write(SPEC, spec)?;
        self.write(RECORD, record)
    }

    /// Writes a file in one step.
    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let path = self.0.join(name);
        let temporary = self.0.join(format!("{name}.new"));
        let message = || format!("cannot write {}", path.display());
        let bytes = serde_json::to_vec(value).context(message)?;
        File::create(&temporary)
            .and_then(|mut file| file.write_all(&bytes))
            .and_then(|()| fs::rename(&temporary, &path))
            .context(message)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let path = self.0.join(name);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(not_there()),
            other => other.context(|| format!("cannot read {}", path.display()))?,
        };
        serde_json::from_slice(&bytes)
            .context(|| format!("{} is not what this runtime has written", path.display()))
    }

    /// # Errors
    /// Not found for a container that does not exist.
    pub fn load(&self) -> Result<Record> {
        self.read(RECORD)
    }

    pub fn spec(&self) -> Result<Spec> {
        self.read(SPEC)
    }

    /// Where the container is in its life now.
    pub fn status(&self, record: &Record) -> Status {
        if !record.init.is_running() {
            Status::Stopped
        } else if self.gate().exists() {
            Status::Created
        } else if record.cgroup.is_frozen().unwrap_or(false) {
            Status::Paused
        } else {
            Status::Running
        }
    }

    /// Name of who made the container.
    pub fn owner(&self) -> String {
        let uid = fs::metadata(&self.0).map(|m| m.uid()).unwrap_or_default();
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        user.map_or_else(|| uid.to_string(), |u| u.name)
    }

    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).context(|| format!("cannot remove {}", self.0.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Record {
    pub fn hooks(&self, spec: &Spec) -> Hooks {
        Hooks::of(spec, &self.id, self.bundle.clone())
    }
}

fn not_there() -> Error {
    Error::not_found("container does not exist")
}

/// Reads JSON from the file that a user named.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::invalid(format!("{} is not what is expected", path.display())).caused_by(e))
}
