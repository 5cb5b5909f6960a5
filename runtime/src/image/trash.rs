//! Removal that nobody has to wait for.
//!
//! What is thrown away is renamed into `<root>/trash`, which is done at once and survives the engine, and one thread
//! removes it from there. On most disks it is gone before the caller looks; on a slow one the caller goes on.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{disk, tree, worker::Worker};
use crate::{Result, error::Context, failpoint::hit};

/// Where things go that are no longer needed. What is left when it is dropped is removed by the next one.
#[derive(Debug)]
pub struct Trash {
    dir: PathBuf,
    worker: Worker<String>,
}

impl Trash {
    /// Opens the trash below `root` and begins to remove what is in it.
    ///
    /// # Errors
    /// If the file system fails or no thread can be started.
    pub fn open(root: &Path) -> Result<Self> {
        let dir = root.join("trash");
        disk::make_dir(&dir)?;
        let of_worker = dir.clone();
        let worker = Worker::start("image-trash", 1, move |names| remove(&of_worker, &names))?;
        let trash = Self { dir, worker };
        trash.try_again()?;
        Ok(trash)
    }

    /// Begins to remove whatever is in it: what an engine that died has left, or what could not be removed before.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn try_again(&self) -> Result<()> {
        for name in disk::list_all(&self.dir)? {
            self.worker.push(name);
        }
        Ok(())
    }

    /// Throws away the file or directory `path`. One that is not there is fine.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub fn discard(&self, path: &Path) -> Result<()> {
        let name = format!("{:016x}", rand::random::<u64>());
        match hit("trash.rename").and_then(|()| fs::rename(path, self.dir.join(&name))) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result.context(|| format!("cannot remove {}", path.display()))?,
        }
        self.worker.push(name);
        Ok(())
    }

    /// Throws away everything under construction in `dir`.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn sweep(&self, dir: &Path) -> Result<()> {
        for name in disk::list_all(dir)? {
            if name.starts_with(disk::TEMPORARY) {
                self.discard(&dir.join(name))?;
            }
        }
        Ok(())
    }

    /// Waits until everything is gone, but no longer than `patience`.
    pub fn settle(&self, patience: Duration) {
        self.worker.settle(patience);
    }
}

fn remove(dir: &Path, names: &[String]) {
    let removed = File::open(dir).and_then(|fd| {
        let remove = |name: &String| {
            hit("trash.delete")?;
            Ok(tree::remove_all(fd.as_fd(), name.as_bytes())?)
        };
        // One that resists does not keep the others.
        names.iter().map(remove).fold(Ok(()), Result::and)
    });
    if let Err(error) = removed {
        // The next start, or the next prune, tries again.
        tracing::warn!(%error, "cannot empty the trash {}", dir.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_discarded_vanishes() {
        let root = tempfile::tempdir().unwrap();
        let trash = Trash::open(root.path()).unwrap();
        fs::create_dir_all(root.path().join("tree/a/b")).unwrap();
        fs::write(root.path().join("file"), "x").unwrap();
        for name in ["tree", "file", "nothing"] {
            trash.discard(&root.path().join(name)).unwrap();
            assert!(!root.path().join(name).exists());
        }
        trash.settle(Duration::from_secs(60));
        assert_eq!(fs::read_dir(root.path().join("trash")).unwrap().count(), 0);
    }

    #[test]
    fn what_an_engine_left_is_removed_by_the_next() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("trash/old/x")).unwrap();
        let trash = Trash::open(root.path()).unwrap();
        trash.settle(Duration::from_secs(60));
        assert_eq!(fs::read_dir(root.path().join("trash")).unwrap().count(), 0);
    }
}
