//! The files of a container: looked at, copied in and out, compared, exported.
//!
//! What runs is seen as its own processes see it, mounts and all. What does not run is put together where nobody else
//! sees it; only a copy into it holds off its start.

use std::{
    io::{Read, Write},
    os::fd::AsFd,
    path::Path,
    sync::Arc,
};

use berth_api::models::FilesystemChange;
use berth_runtime::{
    Error, Kind, Result,
    error::Context,
    failpoint::hit,
    files::{self, Assembly, Bound, ChangeKind, ContainerPath, Extraction, PathStat, Root},
    ids::IdMap,
};

use super::{
    Containers, blocking,
    commit::may_read,
    model::{Container, Details},
    validate::{MountPoint, MountSource},
};

/// The container's own files that are mounted in it: name in its directory, place in the container.
const NETWORK_FILES: [(&str, &str); 3] = [
    ("resolv.conf", "/etc/resolv.conf"),
    ("hostname", "/etc/hostname"),
    ("hosts", "/etc/hosts"),
];

/// How an archive is put into a container (API operation `PutContainerArchive`).
#[derive(Clone, Debug, Default)]
pub struct ArchiveIn {
    /// The directory that takes it.
    pub path: String,
    /// Refuse to replace a directory by something else or something else by a directory.
    pub keep_kinds: bool,
    /// Give everything to the container's user.
    pub own: bool,
}

impl Containers {
    /// What a path leads to; a symbolic link at its end is not followed.
    ///
    /// # Errors
    /// Not found; invalid for a malformed path.
    pub async fn stat_path(&self, container: &Arc<Container>, asked: &str, path: &str) -> Result<PathStat> {
        let (this, container) = (self.clone(), Arc::clone(container));
        let (asked, text) = (asked.to_owned(), path.to_owned());
        blocking(move || {
            let path = ContainerPath::parse(&text)?;
            let stat = this.look(&container, |root| root.stat(&path));
            stat.map_err(|error| named(error, &text, &asked))
        })
        .await
    }

    /// Writes an archive of what a path leads to; `told` is called before anything is written. Blocks.
    ///
    /// # Errors
    /// Not found, and invalid for a malformed path, before `told` is called; then what reading or writing gave.
    pub fn archive_out(
        &self,
        container: &Arc<Container>,
        asked: &str,
        text: &str,
        told: impl FnOnce(PathStat) + Send,
        out: impl Write + Send,
    ) -> Result<()> {
        let path = ContainerPath::parse(text)?;
        let ids = self.ids(container);
        self.look(container, |root| {
            hit("archive.out").context(|| "cannot read the files")?;
            root.pack(&path, ids, told, out)
        })
        .map_err(|error| named(error, text, asked))?;
        self.publish(container, "archive-path", &[]);
        Ok(())
    }

    /// Unpacks an archive, compressed or not, into a directory.
    ///
    /// # Errors
    /// Not found; invalid if the path is no directory or the archive malformed; forbidden if it cannot be written to.
    pub async fn archive_in(
        &self,
        container: &Arc<Container>,
        asked: &str,
        how: ArchiveIn,
        archive: impl Read + Send + 'static,
    ) -> Result<()> {
        let path = ContainerPath::parse(&how.path)?;
        // What does not run must not be started while its layer is mounted here.
        let operation = container.operation.lock().await;
        let details = container.details();
        let runs = details.state.has_process();
        let operation = (!runs).then_some(operation);
        let (this, target, asked) = (self.clone(), Arc::clone(container), asked.to_owned());
        let extracted = blocking(move || {
            let user = target.config().user.clone();
            let extraction = Extraction {
                owner: (how.own && !user.is_empty()).then_some(&*user),
                keep_kinds: how.keep_kinds,
                ids: this.ids(&target),
            };
            let extract = |root: &Root| {
                hit("archive.in").context(|| "cannot unpack the archive")?;
                root.unpack(&path, archive, &extraction)?;
                hit("archive.unpacked").context(|| "cannot unpack the archive")
            };
            let result = match runs {
                true => extract(&root_of(&target, details.state.pid)?),
                false => this.assembly(&target, &details, true).with(extract),
            };
            result.map_err(|error| match error.kind() {
                Kind::Forbidden => read_only(&details, &path, error),
                // The archive is at fault, whatever the limit that it breaks.
                Kind::TooLarge => Error::invalid(error.to_string()),
                _ => named(error, &how.path, &asked),
            })
        })
        .await;
        drop(operation);
        extracted?;
        self.publish(container, "extract-to-dir", &[]);
        Ok(())
    }

    /// What the container has changed in the files of its image; nothing if it has changed nothing.
    ///
    /// # Errors
    /// Internal, if a file can't be read.
    pub async fn changes(&self, container: &Arc<Container>) -> Result<Option<Vec<FilesystemChange>>> {
        let (this, container) = (self.clone(), Arc::clone(container));
        let changes = blocking(move || {
            let layer = this.store.writable_layer(container.id());
            let upper = std::fs::File::open(&layer.upper)
                .context(|| format!("cannot read {}", layer.upper.display()))?;
            let mut lowers = this.lowers(&container);
            if lowers.is_empty() {
                // A container without an image has nothing that its files could differ from.
                return Ok(Vec::new());
            }
            let below = Assembly {
                upper: lowers.remove(0),
                lowers,
                work: layer.work,
                ..Assembly::default()
            };
            below.with(|root| files::changes(upper.as_fd(), root))
        })
        .await?;
        let shown = changes.into_iter().map(|change| FilesystemChange {
            path: String::from_utf8_lossy(&change.path).into_owned(),
            kind: match change.kind {
                ChangeKind::Modified => 0,
                ChangeKind::Added => 1,
                ChangeKind::Deleted => 2,
            },
        });
        let shown: Vec<_> = shown.collect();
        Ok((!shown.is_empty()).then_some(shown))
    }

    /// Refuses an export before it begins.
    ///
    /// # Errors
    /// Conflict for a container that is dead or being removed.
    pub fn may_export(&self, container: &Container) -> Result<()> {
        may_read(container, "export")
    }

    /// Writes an archive of the container's root file system, without what is mounted in it. Blocks.
    ///
    /// # Errors
    /// What reading or writing gave.
    pub fn export(&self, container: &Arc<Container>, out: impl Write + Send) -> Result<()> {
        let details = container.details();
        hit("export.begin").context(|| "cannot read the files")?;
        let running = match details.state.has_process() {
            true => Root::of_process_without_mounts(details.state.pid, container.id()).ok(),
            false => None,
        };
        match running {
            Some(root) => root.pack_all(self.ids(container), out)?,
            None => {
                let assembly = Assembly {
                    mounts: Vec::new(),
                    // On disk, files have the ids that are wanted.
                    user: None,
                    ..self.assembly(container, &details, false)
                };
                assembly.with(|root| root.pack_all(None, out))?;
            }
        }
        self.publish(container, "export", &[]);
        Ok(())
    }

    /// Does `work` with the root of a container that is only looked at.
    fn look<T: Send>(
        &self,
        container: &Container,
        work: impl FnOnce(&Root) -> Result<T> + Send,
    ) -> Result<T> {
        let details = container.details();
        if details.state.has_process()
            && let Ok(root) = root_of(container, details.state.pid)
        {
            return work(&root);
        }
        self.assembly(container, &details, false).with(work)
    }

    fn lowers(&self, container: &Container) -> Vec<std::path::PathBuf> {
        let hold = container.image.as_ref();
        hold.map(|hold| self.images.lower_dirs(hold.image()))
            .unwrap_or_default()
    }

    /// What the root of a container that does not run is made of.
    fn assembly(&self, container: &Container, details: &Details, writable: bool) -> Assembly {
        let layer = self.store.writable_layer(container.id());
        let directory = self.store.directory(container.id());
        let mut mounts: Vec<Bound> = NETWORK_FILES
            .iter()
            .filter(|(_, place)| !details.mounts.iter().any(|mount| mount.destination == *place))
            .map(|(name, place)| Bound {
                source: directory.join(name),
                destination: place.into(),
                read_only: details.host_config.readonly_rootfs,
                recursive: false,
            })
            .collect();
        mounts.extend(details.mounts.iter().filter_map(bound));
        // From the top down, as they are at a start.
        mounts.sort_by_key(|mount| mount.destination.components().count());
        Assembly {
            lowers: self.lowers(container),
            upper: layer.upper,
            work: layer.work,
            writable,
            mounts,
            read_only: details.host_config.readonly_rootfs,
            user: self
                .defaults
                .load()
                .remap(&details.host_config)
                .map(|remap| Arc::clone(&remap.namespace)),
        }
    }

    /// The ids that a container's files show with, if it does not have the host's: those that it runs with, or would.
    fn ids(&self, container: &Container) -> Option<Arc<IdMap>> {
        let details = container.details();
        if details.state.has_process()
            && let Ok(map) = IdMap::of_process(details.state.pid)
        {
            return (!map.is_identity()).then(|| Arc::new(map));
        }
        let defaults = self.defaults.load();
        let remap = defaults.remap(&details.host_config);
        remap.map(|remap| Arc::clone(&remap.map))
    }
}

fn root_of(container: &Container, pid: i32) -> Result<Root> {
    Root::of_process(pid, container.id())
}

/// A mount of something that lasts; memory is empty while nothing runs.
fn bound(mount: &MountPoint) -> Option<Bound> {
    let (source, recursive) = match &mount.source {
        MountSource::Bind(bind) => (Path::new(&bind.path).to_owned(), bind.recursive),
        MountSource::Volume(volume) => (volume.path.clone()?, false),
        MountSource::Tmpfs { .. } => return None,
    };
    Some(Bound {
        source,
        destination: (&mount.destination).into(),
        read_only: mount.read_only,
        recursive,
    })
}

/// An error in the words that clients know.
fn named(error: Error, path: &str, container: &str) -> Error {
    match error.kind() {
        Kind::NotFound if error.message().starts_with('/') => {
            Error::not_found(format!("Could not find the file {path} in container {container}"))
        }
        // A user that the container does not know is a mistake in its configuration, not the absence of the path.
        Kind::NotFound => Error::invalid(error.to_string()),
        _ => error,
    }
}

fn read_only(details: &Details, path: &ContainerPath, error: Error) -> Error {
    let inside =
        |mount: &&MountPoint| mount.read_only && Path::new(path.as_str()).starts_with(&mount.destination);
    let message = match details.mounts.iter().any(|mount| inside(&mount)) {
        true => "mounted volume is marked read-only",
        false if details.host_config.readonly_rootfs => "container rootfs is marked read-only",
        false => return error,
    };
    Error::new(Kind::Forbidden, message)
}
