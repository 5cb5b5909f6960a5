//! Volumes on disk.
//!
//! ```text
//! <data root>/volumes/<name>/volume.json   what a restarted engine needs
//!                            _data         the data, of volumes of the driver `local`
//! <data root>/volumes/.new-…               being made
//! <data root>/volumes/.gone-…              being deleted
//! ```
//!
//! A volume exists from the moment its directory has its name until that is renamed away. Everything here blocks.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown},
    path::{Path, PathBuf},
};

use berth_runtime::{Result, error::Context, failpoint::hit, volume};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

const FILE: &str = "volume.json";
const DATA: &str = "_data";
const NEW: &str = ".new-";
const GONE: &str = ".gone-";

/// What is known of a volume. It never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// The driver that made it.
    pub driver: String,
    /// What the driver was told.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created: Timestamp,
    /// The container (a full id) that it was made for without a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_for: Option<String>,
}

/// The directory of volumes, and the user and group that new ones belong to.
#[derive(Clone, Debug)]
pub struct Store(PathBuf, (u32, u32));

impl Store {
    /// The volumes below `root`, which exists. New ones belong to the user and group `owner`.
    pub fn new(root: PathBuf, owner: (u32, u32)) -> Self {
        Self(root, owner)
    }

    /// Where the data of a local volume is.
    pub fn data(&self, name: &str) -> PathBuf {
        self.0.join(name).join(DATA)
    }

    /// Makes a volume, with an empty directory for data if it is local, to which `prepare` is applied.
    ///
    /// # Errors
    /// Internal, and those of `prepare`; nothing is left behind then.
    pub fn add(&self, record: &Record, local: bool, prepare: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let (new, path) = (
            self.0.join(format!("{NEW}{}", record.name)),
            self.0.join(&record.name),
        );
        let failed = || format!("cannot make volume {}", record.name);
        let mut named = false;
        let begin = || -> io::Result<()> {
            // The same mode as Docker's: users in containers get to the data, but cannot list what else there is.
            hit("volume.create")?;
            DirBuilder::new().mode(0o701).create(&new)?;
            hit("volume.data")?;
            if local {
                DirBuilder::new().mode(0o755).create(new.join(DATA))?;
                if self.1 != (0, 0) {
                    chown(new.join(DATA), Some(self.1.0), Some(self.1.1))?;
                }
            }
            Ok(())
        };
        let mut finish = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(new.join(FILE))?;
            hit("volume.write")?;
            file.write_all(&serde_json::to_vec(record)?)?;
            hit("volume.sync")?;
            file.sync_data()?;
            File::open(&new)?.sync_all()?;
            hit("volume.rename")?;
            fs::rename(&new, &path)?;
            named = true;
            hit("volume.sync-dir")?;
            File::open(&self.0)?.sync_all()
        };
        let made = begin()
            .context(failed)
            .and_then(|()| prepare(&new.join(DATA)))
            .and_then(|()| finish().context(failed));
        if made.is_err() {
            clean(if named { &path } else { &new });
        }
        made
    }

    /// Gives the empty data directory of a volume the content that `fill` puts into another one, in one step.
    ///
    /// # Errors
    /// Those of `fill`; internal. The volume is as it was then.
    pub fn fill(&self, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let (new, data) = (self.0.join(format!("{NEW}{name}")), self.data(name));
        let failed = || format!("cannot fill volume {name}");
        hit("volume.fill").context(failed)?;
        DirBuilder::new().mode(0o755).create(&new).context(failed)?;
        let filled =
            fill(&new).and_then(
                |()| match hit("volume.filled").and_then(|()| fs::rename(&new, &data)) {
                    // It has got content otherwise, which counts.
                    Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                    renamed => renamed.context(failed),
                },
            );
        if new.exists() {
            clean(&new);
        }
        filled
    }

    /// Takes a volume away in one step; [`Store::delete`] deletes it.
    ///
    /// # Errors
    /// Internal.
    pub fn retire(&self, name: &str) -> Result<()> {
        let failed = || format!("cannot remove volume {name}");
        // An earlier one of that name whose data could not be deleted then.
        let gone = self.0.join(format!("{GONE}{name}"));
        if gone.exists() {
            self.delete(name)?;
        }
        let retire = || fs::rename(self.0.join(name), &gone);
        match hit("volume.retire").and_then(|()| retire()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.context(failed),
        }
    }

    /// Deletes a volume that was taken away, with its data.
    ///
    /// # Errors
    /// Internal, if something cannot be deleted; it is tried again when the engine starts.
    pub fn delete(&self, name: &str) -> Result<()> {
        let gone = self.0.join(format!("{GONE}{name}"));
        volume::unmount(&gone.join(DATA))?;
        volume::quota::lift(&gone.join(DATA))?;
        match hit("volume.delete").and_then(|()| fs::remove_dir_all(&gone)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.context(|| format!("cannot delete the data of volume {name}")),
        }
    }

    /// Deletes what is left of volumes that were taken away and could not be deleted then.
    pub fn sweep(&self) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let file = entry.file_name();
            let Some(name) = file.to_str().and_then(|name| name.strip_prefix(GONE)) else {
                continue;
            };
            if let Err(error) = self.delete(name) {
                tracing::warn!(volume = name, %error, "data of a removed volume stays");
            }
        }
    }

    /// Reads every volume, and puts away what half-made and half-removed ones have left.
    ///
    /// # Errors
    /// Internal, if the directory cannot be read. A volume whose file cannot be read is left alone, with a warning.
    pub fn load(&self) -> Result<Vec<Record>> {
        let failed = || format!("cannot read {}", self.0.display());
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.0).context(failed)? {
            let entry = entry.context(failed)?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let path = entry.path();
            if name.starts_with(NEW) || name.starts_with(GONE) {
                clean(&path);
                continue;
            }
            let read =
                fs::read(path.join(FILE)).and_then(|bytes| Ok(serde_json::from_slice::<Record>(&bytes)?));
            match read {
                Ok(record) if record.name == name => records.push(record),
                Ok(record) => {
                    tracing::warn!(path = %path.display(), inside = record.name, "the file of another volume; left alone");
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "not a volume's directory; left alone");
                }
            }
        }
        Ok(records)
    }
}

/// Deletes what is of no use any more.
fn clean(path: &Path) {
    let cleaned = volume::unmount(&path.join(DATA))
        .and_then(|()| volume::quota::lift(&path.join(DATA)))
        .and_then(|()| fs::remove_dir_all(path).context(|| format!("cannot delete {}", path.display())));
    if let Err(error) = cleaned {
        tracing::warn!(path = %path.display(), %error, "a leftover of a volume could not be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str) -> Record {
        Record {
            name: name.into(),
            driver: "local".into(),
            options: BTreeMap::new(),
            labels: BTreeMap::from([("a".into(), "b".into())]),
            created: Timestamp::UNIX_EPOCH,
            made_for: None,
        }
    }

    #[test]
    fn volumes_survive_and_leftovers_do_not() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(root.path().to_owned(), (0, 0));
        store.add(&record("data"), true, |_| Ok(())).unwrap();
        assert!(store.add(&record("data"), true, |_| Ok(())).is_err());
        store.add(&record("old"), true, |_| Ok(())).unwrap();
        store.retire("old").unwrap();
        fs::create_dir_all(root.path().join(".new-half/_data")).unwrap();
        fs::create_dir(root.path().join("foreign")).unwrap();
        assert_eq!(store.load().unwrap(), [record("data")]);
        let mut names: Vec<_> = fs::read_dir(root.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["data", "foreign"]);
    }

    #[test]
    fn filled_as_a_whole_and_only_when_empty() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(root.path().to_owned(), (0, 0));
        store.add(&record("data"), true, |_| Ok(())).unwrap();
        let write = |text: &'static str| {
            move |path: &Path| {
                fs::write(path.join("file"), text).unwrap();
                Ok(())
            }
        };
        let failed = store.fill("data", |path| {
            write("half")(path)?;
            Err(berth_runtime::Error::internal("broken"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(store.data("data")).unwrap().count(), 0);
        store.fill("data", write("first")).unwrap();
        store.fill("data", write("second")).unwrap();
        assert_eq!(fs::read(store.data("data").join("file")).unwrap(), b"first");
        assert!(!root.path().join(".new-data").exists());
    }
}
