//! Blobs that are arriving. What has come of one stays when a transfer is broken off, so that the next one goes on there.
//!
//! `<root>/content/partial/<hex>`: the first bytes of the blob, not verified. They are checked when the blob is complete.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{digest::Digest, disk, trash::Trash};
use crate::{Result, error::Context};

/// How long the beginning of a blob is kept after its last byte came.
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The beginnings of blobs below one root.
#[derive(Debug)]
pub struct Partials {
    dir: PathBuf,
    trash: Arc<Trash>,
}

/// The beginning of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    /// The digest of the whole blob.
    pub digest: Digest,
    /// How many bytes of it are here.
    pub size: u64,
    /// How long ago the last of them came.
    pub age: Duration,
}

impl Partials {
    /// Opens those below `root`, making the directory if needed.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn open(root: &Path, trash: &Arc<Trash>) -> Result<Self> {
        let dir = root.join("content/partial");
        disk::make_dir(&dir)?;
        Ok(Self {
            dir,
            trash: Arc::clone(trash),
        })
    }

    /// Opens the beginning of `digest` for reading and writing; an empty one if there is none.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn file(&self, digest: &Digest) -> Result<File> {
        let path = self.path(digest);
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .context(|| format!("cannot open {}", path.display()))
    }

    /// Where the beginning of `digest` is.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// Throws the beginning of `digest` away. One that is not there is fine.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn remove(&self, digest: &Digest) -> Result<()> {
        self.trash.discard(&self.path(digest))
    }

    /// All of them.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Partial>> {
        let now = SystemTime::now();
        let mut all = Vec::new();
        for digest in disk::list(&self.dir)?
            .iter()
            .filter_map(|n| Digest::from_hex(n).ok())
        {
            match fs::metadata(self.path(&digest)) {
                Ok(metadata) => all.push(Partial {
                    digest,
                    size: metadata.len(),
                    age: metadata
                        .modified()
                        .ok()
                        .and_then(|at| now.duration_since(at).ok())
                        .unwrap_or_default(),
                }),
                // It has just become a blob.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e).context(|| format!("cannot look at the beginning of {digest}")),
            }
        }
        Ok(all)
    }

    /// Throws away what nobody has gone on with for a day.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn expire(&self) -> Result<()> {
        for partial in self.list()? {
            if partial.age >= LIFETIME {
                self.remove(&partial.digest)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn beginnings_stay_for_a_day() {
        let root = tempfile::tempdir().unwrap();
        let trash = Arc::new(Trash::open(root.path()).unwrap());
        let partials = Partials::open(root.path(), &trash).unwrap();
        let [old, new] = [b"a", b"b"].map(|x| Digest::of(x));
        for digest in [old, new] {
            partials.file(&digest).unwrap().write_all(b"begin").unwrap();
        }
        let yesterday = SystemTime::now() - LIFETIME;
        partials.file(&old).unwrap().set_modified(yesterday).unwrap();
        assert_eq!(partials.list().unwrap().len(), 2);
        partials.expire().unwrap();
        let left = partials.list().unwrap();
        assert_eq!((left[0].digest, left[0].size, left.len()), (new, 5, 1));
        partials.remove(&new).unwrap();
        partials.remove(&new).unwrap();
        assert!(partials.list().unwrap().is_empty());
    }
}
