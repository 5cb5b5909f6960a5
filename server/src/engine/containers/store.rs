//! Containers on disk.
//!
//! ```text
//! <data root>/containers/<id>/container.json   what a restarted engine needs
//!                             …                log, hosts files, writable layer
//! <data root>/containers/.gone-<id>            being deleted
//! <exec root>/containers/<id>/                 bundle of the present run
//! ```
//!
//! A container exists from the moment its `container.json` has that name until its directory is renamed away.
//! Everything here blocks.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use berth_runtime::{Result, error::Context, failpoint::hit};

use super::{model::Record, spec::files};

const FILE: &str = "container.json";
const NEW_FILE: &str = ".container.json.new";
const GONE: &str = ".gone-";
/// In the directory of a container that is being removed: its anonymous volumes go with it.
const WITH_VOLUMES: &str = ".with-volumes";
/// Where the shared memory of a shareable container is mounted, in its bundle.
pub const SHM: &str = "shm";

/// Whether a file is to survive the loss of power. Everything survives the loss of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// It tells what nothing else tells.
    Yes,
    /// The supervisor could tell it again.
    No,
}

/// Where a container's own changes to its file system are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WritableLayer {
    /// The files.
    pub upper: PathBuf,
    /// What overlayfs needs beside them.
    pub work: PathBuf,
}

/// What is on disk.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The containers.
    pub records: Vec<Record>,
    /// Ids of those that were half made or half removed, and whose anonymous volumes go as well.
    pub volumes_of: Vec<String>,
    leftovers: Vec<PathBuf>,
}

impl Loaded {
    fn leave(&mut self, path: PathBuf, volumes_of: Option<String>) {
        self.leftovers.push(path);
        self.volumes_of.extend(volumes_of);
    }

    /// Deletes what half-made and half-removed containers have left.
    pub fn clean(&self) {
        for path in &self.leftovers {
            clean(path);
        }
    }
}

/// The two directories of containers.
#[derive(Clone, Debug)]
pub struct Store {
    data: PathBuf,
    exec: PathBuf,
    roots: PathBuf,
    /// Whether there may be anything in `roots`.
    open_roots: bool,
}

impl Store {
    /// The containers below these roots, whose directories are made if they are missing.
    ///
    /// # Errors
    /// Internal, if they can't be made.
    pub fn open(data_root: &Path, exec_root: &Path) -> Result<Self> {
        let store = Self {
            data: data_root.join("containers"),
            exec: exec_root.join("containers"),
            roots: exec_root.join("roots"),
            open_roots: false,
        };
        for path in [&store.data, &store.exec] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o710)
                .create(path)
                .context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(store)
    }

    /// The same store, of containers that may have ids of their own.
    pub fn with_open_roots(mut self, open_roots: bool) -> Self {
        self.open_roots = open_roots;
        self
    }

    /// The directory of a container.
    pub fn directory(&self, id: &str) -> PathBuf {
        self.data.join(id)
    }

    /// The bundle of a container's run.
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.exec.join(id)
    }

    /// Where the root of a container with ids of its own is mounted, if another runtime runs it: its root gets there, and
    /// finds nothing beside it.
    pub fn open_root(&self, id: &str) -> PathBuf {
        self.roots.join(id)
    }

    /// The writable layer of a container.
    pub fn writable_layer(&self, id: &str) -> WritableLayer {
        let directory = self.directory(id);
        WritableLayer {
            upper: directory.join("upper"),
            work: directory.join("work"),
        }
    }

    /// The current file of a container's log.
    pub fn log(&self, id: &str) -> PathBuf {
        self.directory(id).join(format!("{id}-json.log"))
    }

    /// Makes the directory of a new container, with an empty writable layer.
    ///
    /// # Errors
    /// Internal, also if there is one already.
    pub fn make_directory(&self, id: &str) -> Result<()> {
        let layer = self.writable_layer(id);
        make_dir(&self.directory(id), 0o710)?;
        // Its mode is that of the container's root directory.
        make_dir(&layer.upper, 0o755)?;
        make_dir(&layer.work, 0o700)
    }

    /// Makes an empty bundle, in place of what a former run may have left.
    ///
    /// # Errors
    /// Internal.
    pub fn make_bundle(&self, id: &str) -> Result<PathBuf> {
        let path = self.bundle(id);
        match make_dir(&path, 0o700) {
            Err(_) if path.exists() => {
                self.remove_bundle(id)?;
                make_dir(&path, 0o700)?;
            }
            made => made?,
        }
        Ok(path)
    }

    /// Removes a bundle; one that is not there is fine.
    ///
    /// # Errors
    /// Internal.
    pub fn remove_bundle(&self, id: &str) -> Result<()> {
        let path = self.bundle(id);
        if path.join(SHM).exists() {
            files::unmount_shm(&path.join(SHM))?;
        }
        if self.open_roots {
            let root = self.open_root(id);
            absent_is_fine(fs::remove_dir(&root)).context(|| format!("cannot remove {}", root.display()))?;
        }
        let remove = || fs::remove_dir_all(&path);
        absent_is_fine(hit("bundle.remove").and_then(|()| remove()))
            .context(|| format!("cannot remove {}", path.display()))
    }

    /// Writes a container's file in one step.
    ///
    /// # Errors
    /// Internal.
    pub fn save(&self, record: &Record, sync: Sync) -> Result<()> {
        let directory = self.directory(&record.identity.id);
        let path = directory.join(FILE);
        let message = || format!("cannot write {}", path.display());
        let bytes = serde_json::to_vec(record).context(message)?;
        let new = directory.join(NEW_FILE);
        let write = || -> io::Result<()> {
            hit("container.create")?;
            let mut file = File::create(&new)?;
            hit("container.write")?;
            file.write_all(&bytes)?;
            if sync == Sync::Yes {
                hit("container.sync")?;
                file.sync_data()?;
            }
            hit("container.rename")?;
            fs::rename(&new, &path)
        };
        if let Err(error) = write() {
            // Where it cannot be removed, the next one takes its place.
            let _ = fs::remove_file(&new);
            return Err(error).context(message);
        }
        if sync == Sync::Yes {
            hit("container.sync-dir").context(message)?;
            sync_directory(&directory).context(message)?;
        }
        Ok(())
    }

    /// Takes a container's directory away in one step. `with_volumes` leaves a mark that its anonymous volumes go too.
    ///
    /// # Errors
    /// Internal. The container is as it was then.
    pub fn retire(&self, id: &str, with_volumes: bool) -> Result<()> {
        self.remove_bundle(id)?;
        let path = self.directory(id);
        let message = || format!("cannot remove {}", path.display());
        if with_volumes {
            absent_is_fine(fs::write(path.join(WITH_VOLUMES), "")).context(message)?;
        }
        let gone = self.data.join(format!("{GONE}{id}"));
        absent_is_fine(fs::rename(&path, &gone)).context(message)
    }

    /// Takes a container's directory away and then deletes it with everything in it.
    ///
    /// # Errors
    /// Internal, if something can't be deleted. The container is gone all the same once the directory has been renamed;
    /// the rest is tried again when the engine starts.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.retire(id, false)?;
        let gone = self.data.join(format!("{GONE}{id}"));
        let message = || format!("cannot remove {}", gone.display());
        let delete = || fs::remove_dir_all(&gone);
        absent_is_fine(hit("container.delete").and_then(|()| delete())).context(message)
    }

    /// Reads every container, and finds what half-made and half-removed ones have left.
    ///
    /// # Errors
    /// Internal, if the directory can't be read. A container whose file can't be read is left alone, with a warning.
    pub fn load(&self) -> Result<Loaded> {
        let mut loaded = Loaded::default();
        for name in entries(&self.data)? {
            let path = self.data.join(&name);
            if let Some(id) = name.strip_prefix(GONE) {
                let volumes = path.join(WITH_VOLUMES).exists();
                loaded.leave(path, volumes.then(|| id.to_owned()));
                continue;
            }
            match fs::read(path.join(FILE)) {
                Ok(bytes) => match serde_json::from_slice::<Record>(&bytes) {
                    Ok(record) if *record.identity.id == *name => loaded.records.push(record),
                    Ok(record) => {
                        let inside = record.identity.id;
                        tracing::warn!(path = %path.display(), %inside, "the file of another container; left alone");
                    }
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "not a container's file; left alone");
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => loaded.leave(path, Some(name)),
                Err(error) => tracing::warn!(path = %path.display(), %error, "cannot be read; left alone"),
            }
        }
        Ok(loaded)
    }

    /// The ids of all bundles there are.
    ///
    /// # Errors
    /// Internal, if the directory can't be read.
    pub fn bundles(&self) -> Result<Vec<String>> {
        entries(&self.exec)
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    hit("container.mkdir")
        .and_then(|()| DirBuilder::new().mode(mode).create(path))
        .context(|| format!("cannot make {}", path.display()))
}

fn entries(path: &Path) -> Result<Vec<String>> {
    let message = || format!("cannot read {}", path.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(path).context(message)? {
        if let Ok(name) = entry.context(message)?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

fn clean(path: &Path) {
    if let Err(error) = absent_is_fine(fs::remove_dir_all(path)) {
        tracing::warn!(path = %path.display(), %error, "a leftover could not be removed");
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use berth_api::models::ContainerConfig;

    use super::*;
    use crate::engine::containers::model::{self, Details};

    fn record(id: &str) -> Record {
        Record {
            identity: model::test_identity(id, ContainerConfig::default()),
            details: Details {
                restart_count: 3,
                stopped_by_hand: true,
                prepared: true,
                ..Details::new("web")
            },
        }
    }

    #[test]
    fn containers_survive_and_leftovers_do_not() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), &root.path().join("run")).unwrap();
        for id in ["aa", "bb", "cc"] {
            store.make_directory(id).unwrap();
        }
        store.save(&record("aa"), Sync::No).unwrap();
        let mut changed = record("aa");
        changed.details.state.exit_code = 7;
        store.save(&changed, Sync::Yes).unwrap();
        store.save(&record("bb"), Sync::No).unwrap();
        fs::rename(store.directory("bb"), store.data.join(".gone-bb")).unwrap();

        let loaded = store.load().unwrap();
        assert_eq!(loaded.records, [changed]);
        assert_eq!(loaded.volumes_of, ["cc"]);
        loaded.clean();
        assert_eq!(entries(&store.data).unwrap(), ["aa"]);
        store.remove("aa").unwrap();
        store.remove("aa").unwrap();
        assert!(entries(&store.data).unwrap().is_empty());
    }

    #[test]
    fn a_bundle_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), &root.path().join("run")).unwrap();
        let bundle = store.make_bundle("aa").unwrap();
        fs::write(bundle.join("exit.json"), "{}").unwrap();
        store.make_bundle("aa").unwrap();
        assert!(!bundle.join("exit.json").exists());
        store.remove_bundle("aa").unwrap();
        assert!(store.bundles().unwrap().is_empty());
    }
}
