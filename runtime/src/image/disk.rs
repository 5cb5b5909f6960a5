//! Small files that are whole or absent, and directories that vanish unless they are kept.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::{fd::AsFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{trash::Trash, tree};
use crate::{Error, Result, error::Context, failpoint::hit};

/// Makes the directory `path` and those above it that are missing, for the engine's user alone.
///
/// # Errors
/// If a directory cannot be made.
pub fn make_dir(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .context(|| format!("cannot make the directory {}", path.display()))
}

/// Writes `bytes` to `dir/name` so that at any moment the old or the new file is there, and the new one when this
/// returns, even if the power fails.
///
/// # Errors
/// If the file system fails; then the old file stays, or none if there was none. Only if there was one and the directory
/// cannot be synced, it is replaced all the same.
pub fn write_file(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        hit("disk.create")?;
        let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(dir)?;
        hit("disk.write")?;
        file.write_all(bytes)?;
        hit("disk.sync")?;
        file.as_file().sync_all()?;
        let path = dir.join(name);
        let is_new = !path.exists();
        hit("disk.rename")?;
        file.persist(&path).map_err(|e| e.error)?;
        sync_dir(dir).inspect_err(|_| {
            if is_new {
                // What failed is what is told.
                let _ = fs::remove_file(&path);
            }
        })
    };
    write().context(|| format!("cannot write {}", dir.join(name).display()))
}

/// Writes `bytes` to `dir/name` so that at any moment the old or the new file is there, unless the power fails.
///
/// # Errors
/// If the file system fails; then the old file stays.
pub fn write_file_lazily(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(dir)?;
        file.write_all(bytes)?;
        file.persist(dir.join(name)).map_err(|e| e.error)?;
        Ok(())
    };
    write().context(|| format!("cannot write {}", dir.join(name).display()))
}

/// Removes `dir/name` for good. A file that is not there is fine.
///
/// # Errors
/// If the file system fails.
pub fn remove_file(dir: &Path, name: &str) -> Result<()> {
    match hit("disk.remove").and_then(|()| fs::remove_file(dir.join(name))) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(()) => sync_dir(dir),
    }
    .context(|| format!("cannot remove {}", dir.join(name).display()))
}

/// Makes names made in or removed from `dir` last.
///
/// # Errors
/// As fsync(2).
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    hit("disk.sync-dir")?;
    File::open(dir)?.sync_all()
}

/// Writes everything that the file system of `dir` still holds in memory.
///
/// # Errors
/// As syncfs(2).
pub fn sync_file_system(dir: &Path) -> Result<()> {
    let sync = || -> io::Result<()> { Ok(rustix::fs::syncfs(File::open(dir)?)?) };
    sync().context(|| format!("cannot write out {}", dir.display()))
}

/// What identifies the running kernel: what it holds in memory is lost with it.
///
/// # Errors
/// If it cannot be read.
pub fn boot_id() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(PATH).context(|| format!("cannot read {PATH}"))?;
    Ok(text.trim().to_owned())
}

/// Unmounts everything below `dir` that an engine that died has left mounted.
///
/// # Errors
/// If the mounts cannot be read or one stays.
pub fn unmount_below(dir: &Path) -> Result<()> {
    const PATH: &str = "/proc/self/mountinfo";
    let dir = fs::canonicalize(dir).context(|| format!("cannot look at {}", dir.display()))?;
    let text = fs::read_to_string(PATH).context(|| format!("cannot read {PATH}"))?;
    // Later ones lie on top of earlier ones.
    for line in text.lines().rev() {
        let Some(place) = line.split(' ').nth(4).map(PathBuf::from) else {
            continue;
        };
        if place.starts_with(&dir) && place != dir {
            nix::mount::umount2(&place, nix::mount::MntFlags::MNT_DETACH)
                .context(|| format!("cannot unmount {}", place.display()))?;
        }
    }
    Ok(())
}

/// How names of things under construction begin. [`Trash::sweep`] removes what an engine that died left of them.
pub const TEMPORARY: &str = ".tmp-";

/// The names of the files and directories in `dir` that are not under construction, unsorted.
///
/// # Errors
/// If the directory cannot be read.
pub fn list(dir: &Path) -> Result<Vec<String>> {
    let mut names = list_all(dir)?;
    names.retain(|name| !name.starts_with(TEMPORARY));
    Ok(names)
}

/// All names in `dir`, unsorted; those that are no text are none of the engine's.
///
/// # Errors
/// If the directory cannot be read.
pub fn list_all(dir: &Path) -> Result<Vec<String>> {
    let list = || -> io::Result<Vec<String>> {
        let names = tree::list(File::open(dir)?.as_fd())?;
        Ok(names
            .into_iter()
            .filter_map(|name| String::from_utf8(name).ok())
            .collect())
    };
    list().context(|| format!("cannot list {}", dir.display()))
}

/// A directory under construction; it is thrown away unless [`Scratch::keep`] gave it a name.
#[derive(Debug)]
pub struct Scratch {
    parent: PathBuf,
    name: Option<String>,
    trash: Arc<Trash>,
}

impl Scratch {
    /// Makes a new one in `parent`.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn new(parent: &Path, trash: &Arc<Trash>) -> Result<Self> {
        loop {
            let name = format!("{TEMPORARY}{:016x}", rand::random::<u64>());
            let make = || DirBuilder::new().mode(0o700).create(parent.join(&name));
            match hit("scratch.make").and_then(|()| make()) {
                Ok(()) => {
                    return Ok(Self {
                        parent: parent.to_owned(),
                        name: Some(name),
                        trash: Arc::clone(trash),
                    });
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => {
                    let message = format!("cannot make a directory in {}", parent.display());
                    return Err(Error::internal(message).caused_by(e));
                }
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.parent.join(self.name.as_deref().unwrap_or_default())
    }

    /// Gives it its final name. `false` if there is something of that name already; it is thrown away then.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn keep(mut self, name: &str) -> Result<bool> {
        match hit("scratch.keep").and_then(|()| fs::rename(self.path(), self.parent.join(name))) {
            Ok(()) => {
                self.name = None;
                Ok(true)
            }
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                Ok(false)
            }
            Err(e) => Err(Error::internal(format!("cannot rename {}", self.path().display())).caused_by(e)),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.name.is_some()
            && let Err(error) = self.trash.discard(&self.path())
        {
            // The next start sweeps it.
            tracing::warn!(%error, "cannot remove a temporary directory");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        write_file(dir.path(), "a", b"one").unwrap();
        write_file(dir.path(), "a", b"two").unwrap();
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"two");
        assert_eq!(list(dir.path()).unwrap(), ["a"]);
        remove_file(dir.path(), "a").unwrap();
        remove_file(dir.path(), "a").unwrap();
        assert!(list(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn scratch_directories_vanish_or_stay() {
        let root = tempfile::tempdir().unwrap();
        let trash = Arc::new(Trash::open(root.path()).unwrap());
        let dir = tempfile::tempdir_in(root.path()).unwrap();
        let [first, second] = [(), ()].map(|()| Scratch::new(dir.path(), &trash).unwrap());
        fs::create_dir(first.path().join("fs")).unwrap();
        fs::create_dir(second.path().join("fs")).unwrap();
        assert!(list(dir.path()).unwrap().is_empty());
        assert!(first.keep("kept").unwrap());
        assert!(!second.keep("kept").unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
