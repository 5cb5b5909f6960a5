//! Small files that are whole or absent, and directories that vanish unless they are kept.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::{fd::AsFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use super::tree;
use crate::{
    Result,
    error::{Context, Error},
};

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
/// If the file system fails; the old file stays.
pub fn write_file(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(dir.join(name)).map_err(|e| e.error)?;
        sync_dir(dir)
    };
    write().context(|| format!("cannot write {}", dir.join(name).display()))
}

/// Removes `dir/name` for good. A file that is not there is fine.
///
/// # Errors
/// If the file system fails.
pub fn remove_file(dir: &Path, name: &str) -> Result<()> {
    match fs::remove_file(dir.join(name)) {
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

/// How names of things under construction begin. [`sweep_temporary`] removes what an engine that died left of them.
pub const TEMPORARY: &str = ".tmp-";

/// Removes everything under construction in `dir`.
///
/// # Errors
/// If the file system fails.
pub fn sweep_temporary(dir: &Path) -> Result<()> {
    let sweep = || -> io::Result<()> {
        let parent = File::open(dir)?;
        for name in tree::list(parent.as_fd())? {
            if name.starts_with(TEMPORARY.as_bytes()) {
                tree::remove_all(parent.as_fd(), &name)?;
            }
        }
        Ok(())
    };
    sweep().context(|| format!("cannot clean {}", dir.display()))
}

/// The names of the files and directories in `dir` that are not under construction, unsorted.
///
/// # Errors
/// If the directory cannot be read.
pub fn list(dir: &Path) -> Result<Vec<String>> {
    let list = || -> io::Result<Vec<String>> {
        let names = tree::list(File::open(dir)?.as_fd())?;
        Ok(names
            .into_iter()
            .filter_map(|name| String::from_utf8(name).ok())
            .filter(|name| !name.starts_with(TEMPORARY))
            .collect())
    };
    list().context(|| format!("cannot list {}", dir.display()))
}

/// A directory under construction; it is removed with all it holds unless [`Scratch::keep`] gave it a name.
#[derive(Debug)]
pub struct Scratch {
    parent: PathBuf,
    name: Option<String>,
}

impl Scratch {
    /// Makes a new one in `parent`.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn new(parent: &Path) -> Result<Self> {
        loop {
            let name = format!("{TEMPORARY}{:016x}", rand::random::<u64>());
            match DirBuilder::new().mode(0o700).create(parent.join(&name)) {
                Ok(()) => {
                    return Ok(Self {
                        parent: parent.to_owned(),
                        name: Some(name),
                    });
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => {
                    return Err(
                        Error::internal(format!("cannot make a directory in {}", parent.display()))
                            .caused_by(e),
                    );
                }
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.parent.join(self.name.as_deref().unwrap_or_default())
    }

    /// Gives it its final name. `false` if there is something of that name already; it is removed then.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn keep(mut self, name: &str) -> Result<bool> {
        match fs::rename(self.path(), self.parent.join(name)) {
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
        let Some(name) = &self.name else { return };
        let removed = File::open(&self.parent)
            .and_then(|parent| Ok(tree::remove_all(parent.as_fd(), name.as_bytes())?));
        if let Err(error) = removed {
            // The next start sweeps it.
            tracing::warn!(%error, path = %self.path().display(), "cannot remove a temporary directory");
        }
    }
}

/// Removes the directory `parent/name` with all it holds: gone from its name at once, whatever happens then.
///
/// # Errors
/// If the file system fails.
pub fn remove_dir(parent: &Path, name: &str) -> Result<()> {
    let scratch = Scratch::new(parent)?;
    match fs::rename(parent.join(name), scratch.path()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.context(|| format!("cannot remove {}", parent.join(name).display())),
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
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (
            Scratch::new(dir.path()).unwrap(),
            Scratch::new(dir.path()).unwrap(),
        );
        fs::create_dir(first.path().join("fs")).unwrap();
        fs::create_dir(second.path().join("fs")).unwrap();
        assert!(list(dir.path()).unwrap().is_empty());
        assert!(first.keep("kept").unwrap());
        assert!(!second.keep("kept").unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        remove_dir(dir.path(), "kept").unwrap();
        remove_dir(dir.path(), "kept").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn leftovers_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".tmp-1")).unwrap();
        fs::write(dir.path().join(".tmp-1/x"), "").unwrap();
        fs::write(dir.path().join(".tmp-2"), "").unwrap();
        fs::write(dir.path().join("kept"), "").unwrap();
        sweep_temporary(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
