//! What files are, as one digest: names, kinds, modes, owners, contents; times do not count.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::{
    fs::{self, FileType, Mode, OFlags},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use super::resolve::real;
use crate::{
    Error, Result,
    error::Context,
    image::{path::RelPath, tree, xattr},
};

const BUFFER: usize = 128 << 10;

/// A digest under construction.
#[derive(Debug)]
pub struct Fingerprint {
    hash: Sha256,
    buffer: Vec<u8>,
}

impl Default for Fingerprint {
    fn default() -> Self {
        Self {
            hash: Sha256::new(),
            buffer: vec![0; BUFFER],
        }
    }
}

impl Fingerprint {
    /// Takes some text in.
    pub fn text(&mut self, text: &[u8]) {
        self.hash.update((text.len() as u64).to_le_bytes());
        self.hash.update(text);
    }

    /// Takes in what is at `path`, a real path below `root`, and all below it but what `leave_out` takes. Names count as
    /// they are below `path`, and so does the name of a file itself but not of a directory, whose content is what is copied.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn path(
        &mut self,
        root: BorrowedFd<'_>,
        path: &[u8],
        leave_out: &dyn Fn(&[u8]) -> bool,
    ) -> Result<()> {
        let top = real(path)?;
        let Some((parent, name)) = top.split() else {
            return self.below(root, &top, &top, leave_out);
        };
        let dir = tree::open_beneath(root, &parent, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|e| failed(&top, e))?;
        let stat = tree::stat(dir.as_fd(), name).map_err(|e| failed(&top, e))?;
        let stat = stat.ok_or_else(|| Error::not_found(format!("{:?} is gone", top.display())))?;
        if tree::file_type(&stat) == FileType::Directory {
            return self.below(root, &top, &top, leave_out);
        }
        self.entry(dir.as_fd(), name, name, &stat, &top)
    }

    fn below(
        &mut self,
        root: BorrowedFd<'_>,
        top: &RelPath,
        path: &RelPath,
        leave_out: &dyn Fn(&[u8]) -> bool,
    ) -> Result<()> {
        let mut ahead = vec![path.clone()];
        while let Some(path) = ahead.pop() {
            let dir = tree::open_beneath(root, &path, OFlags::RDONLY | OFlags::DIRECTORY)
                .map_err(|e| failed(&path, e))?;
            let mut names = tree::list(dir.as_fd()).map_err(|e| failed(&path, e))?;
            names.sort_unstable();
            let mut inner = Vec::new();
            for name in names {
                let child = path.join(&name);
                let shown = child.as_bytes().get(top.as_bytes().len()..).unwrap_or_default();
                let shown = shown.strip_prefix(b"/").unwrap_or(shown);
                if leave_out(shown) {
                    continue;
                }
                let Some(stat) = tree::stat(dir.as_fd(), &name).map_err(|e| failed(&child, e))? else {
                    continue;
                };
                self.entry(dir.as_fd(), &name, shown, &stat, &child)?;
                if tree::file_type(&stat) == FileType::Directory {
                    inner.push(child);
                }
            }
            ahead.extend(inner.into_iter().rev());
        }
        Ok(())
    }

    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        shown: &[u8],
        stat: &fs::Stat,
        path: &RelPath,
    ) -> Result<()> {
        self.text(shown);
        self.hash.update(stat.st_mode.to_le_bytes());
        self.hash.update(stat.st_uid.to_le_bytes());
        self.hash.update(stat.st_gid.to_le_bytes());
        match tree::file_type(stat) {
            FileType::Symlink => {
                let target = fs::readlinkat(dir, tree::os(name), Vec::new()).map_err(|e| failed(path, e))?;
                self.text(target.to_bytes());
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file =
                    fs::openat(dir, tree::os(name), flags, Mode::empty()).map_err(|e| failed(path, e))?;
                for attribute in xattr::read(file.as_fd()).map_err(|e| failed(path, e))? {
                    self.text(&attribute.name);
                    self.text(&attribute.value);
                }
                self.content(File::from(file), path)?;
            }
            _ => self.hash.update(stat.st_rdev.to_le_bytes()),
        }
        Ok(())
    }

    fn content(&mut self, mut file: File, path: &RelPath) -> Result<()> {
        let mut length = 0_u64;
        loop {
            let n = file
                .read(&mut self.buffer)
                .context(|| format!("cannot read {:?}", path.display()))?;
            if n == 0 {
                break;
            }
            length += n as u64;
            self.hash.update(self.buffer.get(..n).unwrap_or_default());
        }
        self.hash.update(length.to_le_bytes());
        Ok(())
    }

    /// The digest, 64 hexadecimal digits.
    pub fn finish(self) -> String {
        self.hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

fn failed(path: &RelPath, errno: Errno) -> Error {
    Error::internal(format!("cannot read {:?}", path.display())).caused_by(errno)
}
