//! The content store: files named by their digest, complete and verified whenever they are visible.
//!
//! `<root>/content/blobs/sha256/<hex>`, laid out like an OCI image layout. A blob is written under a temporary name in
//! `<root>/content/ingest` and renamed once its digest is known. Whoever makes a blob part of an image calls
//! [`BlobStore::sync`] first.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::NamedTempFile;

use super::{
    digest::{Digest, HashingWriter},
    disk,
    trash::Trash,
};
use crate::{Error, Kind, Result, error::Context, failpoint::hit};

/// The content store below one root.
#[derive(Debug)]
pub struct BlobStore {
    blobs: PathBuf,
    ingest: PathBuf,
    trash: Arc<Trash>,
}

impl BlobStore {
    /// Opens the store below `root`, making it if needed, and removes what was being written when an engine died.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn open(root: &Path, trash: &Arc<Trash>) -> Result<Self> {
        let store = Self {
            blobs: root.join("content/blobs/sha256"),
            ingest: root.join("content/ingest"),
            trash: Arc::clone(trash),
        };
        disk::make_dir(&store.blobs)?;
        disk::make_dir(&store.ingest)?;
        trash.sweep(&store.ingest)?;
        Ok(store)
    }

    /// Begins a new blob.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn writer(&self) -> Result<BlobWriter<'_>> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(disk::TEMPORARY);
        let file = hit("blob.create")
            .and_then(|()| builder.tempfile_in(&self.ingest))
            .context(|| format!("cannot make a file in {}", self.ingest.display()))?;
        Ok(BlobWriter {
            store: self,
            file: HashingWriter::new(file),
        })
    }

    /// Stores all of `reader`, which must have `digest` and be `size` bytes long.
    ///
    /// # Errors
    /// [`Kind::Invalid`] if it is anything else, also as soon as it is longer; then nothing is stored.
    pub fn ingest(&self, reader: impl Read, digest: &Digest, size: u64) -> Result<()> {
        let mut writer = self.writer()?;
        let count = io::copy(&mut reader.take(size.saturating_add(1)), &mut writer)
            .map_err(|e| Error::internal(format!("cannot store {digest}")).caused_by(e))?;
        if count != size {
            let what = if count > size { "more than" } else { "only" };
            let got = count.min(size);
            return Err(Error::invalid(format!(
                "wrong size of {digest}: expected {size} bytes, got {what} {got}"
            )));
        }
        writer.finish()?.commit(Some(digest)).map(drop)
    }

    /// The size of a blob in bytes; `None` if it is not here.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        match fs::metadata(self.path(digest)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::internal(format!("cannot look at the blob {digest}")).caused_by(e)),
        }
    }

    /// Makes the file `path`, which is on the same file system and has been verified, the blob `digest`.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn adopt(&self, path: &Path, digest: &Digest) -> Result<()> {
        fs::rename(path, self.path(digest)).context(|| format!("cannot store {digest}"))
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if it is not here.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        File::open(self.path(digest)).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::not_found(format!("content {digest} not found")),
            _ => Error::internal(format!("cannot open the blob {digest}")).caused_by(e),
        })
    }

    /// Reads a blob of at most `max` bytes and checks it.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::TooLarge`], or [`Kind::Internal`] if the disk does not return what was stored.
    pub fn read(&self, digest: &Digest, max: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_blob(digest)?
            .take(max.saturating_add(1))
            .read_to_end(&mut bytes)
            .context(|| format!("cannot read the blob {digest}"))?;
        if bytes.len() as u64 > max {
            return Err(Error::new(
                Kind::TooLarge,
                format!("{digest} is larger than {max} bytes"),
            ));
        }
        if Digest::of(&bytes) != *digest {
            return Err(Error::internal(format!(
                "the blob {digest} is damaged: remove the image and load it again"
            )));
        }
        Ok(bytes)
    }

    /// Removes a blob. One that is not here is fine.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn remove(&self, digest: &Digest) -> Result<()> {
        self.trash.discard(&self.path(digest))
    }

    /// Takes a blob away so that it can be brought back; an engine that dies meanwhile loses it.
    ///
    /// # Errors
    /// If it is not here or the file system fails.
    pub fn set_aside(&self, digest: &Digest) -> Result<PathBuf> {
        let aside = self
            .ingest
            .join(format!("{}damaged-{}", disk::TEMPORARY, digest.hex()));
        fs::rename(self.path(digest), &aside).context(|| format!("cannot set {digest} aside"))?;
        Ok(aside)
    }

    /// Makes sure that blobs survive a power failure.
    ///
    /// # Errors
    /// If one is not here or the file system fails.
    pub fn sync<'d>(&self, digests: impl IntoIterator<Item = &'d Digest>) -> Result<()> {
        for digest in digests {
            let file = self.open_blob(digest)?;
            hit("blob.sync")
                .and_then(|()| file.sync_data())
                .context(|| format!("cannot write out {digest}"))?;
        }
        disk::sync_dir(&self.blobs).context(|| format!("cannot write out {}", self.blobs.display()))
    }

    /// All blobs.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn list(&self) -> Result<Vec<Digest>> {
        Ok(disk::list(&self.blobs)?
            .iter()
            .filter_map(|name| Digest::from_hex(name).ok())
            .collect())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }
}

/// A blob being written; it vanishes unless it is finished and committed.
pub struct BlobWriter<'s> {
    store: &'s BlobStore,
    file: HashingWriter<NamedTempFile>,
}

impl<'s> BlobWriter<'s> {
    /// Ends writing.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn finish(mut self) -> Result<FinishedBlob<'s>> {
        hit("blob.write")
            .and_then(|()| self.file.flush())
            .context(|| "cannot store a blob")?;
        let (file, digest, size) = self.file.finish();
        Ok(FinishedBlob {
            store: self.store,
            file,
            digest,
            size,
        })
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.file.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A blob that is written and not visible yet.
pub struct FinishedBlob<'s> {
    store: &'s BlobStore,
    file: NamedTempFile,
    digest: Digest,
    size: u64,
}

impl FinishedBlob<'_> {
    /// What was written.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How many bytes were written.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Makes it visible under its digest, which must be `expected` if that is given. Returns the blob's file, open.
    ///
    /// # Errors
    /// [`Kind::Invalid`] if it is another one.
    pub fn commit(self, expected: Option<&Digest>) -> Result<File> {
        if let Some(expected) = expected
            && *expected != self.digest
        {
            return Err(Error::invalid(format!(
                "wrong content of {expected}: its digest is {}",
                self.digest
            )));
        }
        if self.store.size(&self.digest)? == Some(self.size) {
            return self.store.open_blob(&self.digest);
        }
        hit("blob.persist")?;
        self.file
            .persist(self.store.path(&self.digest))
            .map_err(|e| Error::internal(format!("cannot store {}", self.digest)).caused_by(e.error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(root: &Path) -> BlobStore {
        BlobStore::open(root, &Arc::new(Trash::open(root).unwrap())).unwrap()
    }

    fn store() -> (tempfile::TempDir, BlobStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        (dir, store)
    }

    fn put(store: &BlobStore, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        store.ingest(bytes, &digest, bytes.len() as u64).unwrap();
        digest
    }

    fn ingest_is_empty(store: &BlobStore) -> bool {
        fs::read_dir(&store.ingest).unwrap().next().is_none()
    }

    #[test]
    fn blobs_come_back_as_stored() {
        let (_dir, store) = store();
        let digest = Digest::of(b"hello");
        store.ingest(&b"hello"[..], &digest, 5).unwrap();
        store.ingest(&b"hello"[..], &digest, 5).unwrap();
        assert_eq!(put(&store, b"hello"), digest);
        assert_eq!(store.read(&digest, 5).unwrap(), b"hello");
        assert_eq!(store.read(&digest, 4).unwrap_err().kind(), Kind::TooLarge);
        assert_eq!(store.size(&digest).unwrap(), Some(5));
        assert_eq!(store.list().unwrap(), [digest]);
        store.remove(&digest).unwrap();
        store.remove(&digest).unwrap();
        assert_eq!(store.read(&digest, 5).unwrap_err().kind(), Kind::NotFound);
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn wrong_content_is_never_visible() {
        let (_dir, store) = store();
        let digest = Digest::of(b"hello");
        for (bytes, size) in [
            (&b"hallo"[..], 5),
            (b"hell", 5),
            (b"hello!", 5),
            (b"hello", 4),
            (b"", 5),
        ] {
            assert_eq!(
                store.ingest(bytes, &digest, size).unwrap_err().kind(),
                Kind::Invalid,
                "{bytes:?}"
            );
        }
        drop(store.writer().unwrap());
        assert!(store.list().unwrap().is_empty());
        assert!(ingest_is_empty(&store));
    }

    #[test]
    fn leftovers_and_damage() {
        let (dir, store) = store();
        let digest = put(&store, b"hello");
        fs::write(store.ingest.join(".tmp-dead"), "partial").unwrap();
        fs::write(store.path(&digest), "hallo").unwrap();
        let store = open(dir.path());
        assert!(ingest_is_empty(&store));
        assert_eq!(store.read(&digest, 5).unwrap_err().kind(), Kind::Internal);
    }
}
