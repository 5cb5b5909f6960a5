//! What files take on disk: allocated blocks, as du(1) counts them, not lengths.

use std::{
    collections::HashSet,
    fs::File,
    io,
    ops::AddAssign,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use rustix::{
    fs::{FileType, OFlags, Stat},
    io::Errno,
};

use crate::image::{RelPath, tree};

/// The unit of `st_blocks` (stat(2)).
const BLOCK: u64 = 512;

/// What some files take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes of the blocks that are allocated.
    pub bytes: u64,
    /// Files of every type, directories included.
    pub files: u64,
}

impl AddAssign for DiskUsage {
    fn add_assign(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.files = self.files.saturating_add(other.files);
    }
}

impl FromIterator<Self> for DiskUsage {
    fn from_iter<T: IntoIterator<Item = Self>>(parts: T) -> Self {
        let mut all = Self::default();
        parts.into_iter().for_each(|part| all += part);
        all
    }
}

/// What `path` takes with everything below it on the same file system. A file with several names counts once; what
/// vanishes meanwhile counts nothing, and so does a `path` that is not there.
///
/// # Errors
/// If a directory cannot be read.
pub fn measure(path: &Path) -> io::Result<DiskUsage> {
    let root = match File::open(path) {
        Ok(root) => root,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(DiskUsage::default()),
        // A symbolic link that leads nowhere, a socket: nothing to go into.
        Err(_) => return one(path),
    };
    let stat = rustix::fs::fstat(&root)?;
    let mut walk = Walk {
        root: root.as_fd(),
        device: stat.st_dev,
        seen: HashSet::new(),
        usage: DiskUsage::default(),
        left: Vec::new(),
    };
    walk.count(&stat);
    if tree::file_type(&stat) == FileType::Directory {
        walk.left.push(RelPath::default());
        while let Some(dir) = walk.left.pop() {
            walk.directory(&dir)?;
        }
    }
    Ok(walk.usage)
}

/// What one file takes, or a directory without what is in it; nothing if it is not there.
///
/// # Errors
/// If it cannot be looked at.
pub fn one(path: &Path) -> io::Result<DiskUsage> {
    use std::os::unix::fs::MetadataExt;
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => Ok(DiskUsage {
            bytes: metadata.blocks() * BLOCK,
            files: 1,
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(DiskUsage::default()),
        Err(e) => Err(e),
    }
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    device: u64,
    /// Files with more than one name.
    seen: HashSet<u64>,
    usage: DiskUsage,
    /// Directories that are still to be read.
    left: Vec<RelPath>,
}

impl Walk<'_> {
    fn directory(&mut self, path: &RelPath) -> io::Result<()> {
        let dir = match tree::open_beneath(self.root, path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(dir) => dir,
            // It has gone or become something else, or lies deeper than paths go.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let names = match tree::list(dir.as_fd()) {
            Ok(names) => names,
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        for name in names {
            let Some(stat) = tree::stat(dir.as_fd(), &name)? else {
                continue;
            };
            if stat.st_dev != self.device {
                continue;
            }
            self.count(&stat);
            if tree::file_type(&stat) == FileType::Directory {
                self.left.push(path.join(&name));
            }
        }
        Ok(())
    }

    fn count(&mut self, stat: &Stat) {
        let is_dir = tree::file_type(stat) == FileType::Directory;
        if is_dir || stat.st_nlink < 2 || self.seen.insert(stat.st_ino) {
            self.usage += DiskUsage {
                bytes: u64::try_from(stat.st_blocks).unwrap_or_default() * BLOCK,
                files: 1,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, process::Command};

    use super::*;

    #[test]
    fn it_is_what_du_says() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        fs::write(dir.path().join("a/large"), vec![1; 300_000]).unwrap();
        fs::write(dir.path().join("a/b/small"), "x").unwrap();
        fs::hard_link(dir.path().join("a/large"), dir.path().join("a/b/again")).unwrap();
        symlink("/etc", dir.path().join("link")).unwrap();
        let sparse = File::create(dir.path().join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        let output = Command::new("du")
            .args(["-s", "--block-size=1"])
            .arg(dir.path())
            .output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let du: u64 = text.split_whitespace().next().unwrap().parse().unwrap();
        let usage = measure(dir.path()).unwrap();
        assert_eq!(usage.bytes, du);
        assert_eq!(usage.files, 8);
        assert_eq!(measure(&dir.path().join("none")).unwrap(), DiskUsage::default());
    }
}
