//! The upper directory of an overlay as the layer it would be.

use std::{
    fs::File,
    io::{BufWriter, Write},
    os::fd::AsFd,
    path::Path,
};

use rustix::fs;

use super::{
    pack::{self, Options, Packed},
    tree,
};
use crate::{Result, error::Context};

/// What the root of a layer is unless the layer says otherwise.
const ROOT_MODE: u32 = 0o755;
/// Bytes that are written at once.
const BUFFER: usize = 256 * 1024;

/// An upper directory, perhaps of an overlay that is in use.
#[derive(Debug)]
pub struct UpperDir {
    dir: File,
}

impl UpperDir {
    /// Opens it.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let dir = File::open(path).context(|| format!("cannot open {}", path.display()))?;
        Ok(Self { dir })
    }

    /// Whether nothing was changed.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn is_empty(&self) -> Result<bool> {
        let names = tree::list(self.dir.as_fd()).context(|| "cannot read a writable layer")?;
        Ok(names.is_empty() && !self.has_own_root()?)
    }

    /// Writes the layer: an uncompressed archive in which removals are whiteouts (OCI image specification, layer.md).
    ///
    /// # Errors
    /// As [`pack::pack_counted`].
    pub fn pack(&self, out: impl Write) -> Result<Packed> {
        let options = Options {
            root: self.has_own_root()?.then(|| b"./".to_vec()),
            overlay: true,
            nanoseconds: false,
            ids: None,
        };
        pack::pack_counted(self.dir.as_fd(), BufWriter::with_capacity(BUFFER, out), &options)
    }

    fn has_own_root(&self) -> Result<bool> {
        let stat = fs::fstat(&self.dir).context(|| "cannot read a writable layer")?;
        Ok((stat.st_mode & 0o7777, stat.st_uid, stat.st_gid) != (ROOT_MODE, 0, 0))
    }
}
