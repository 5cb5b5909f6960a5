//! What a container has changed in the files of its image.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{self, FileType, OFlags, Stat},
    io::Errno,
};

use super::Root;
use crate::{
    Error, Result,
    image::{RelPath, tree, xattr},
};

/// The one extended attribute that counts as a change.
const CAPABILITIES: &[u8] = b"security.capability";

/// A file that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Absolute path in the container.
    pub path: Vec<u8>,
    /// How it differs.
    pub kind: ChangeKind,
}

/// How a file differs from the image's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It has changed, or something in it.
    Modified,
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
}

/// What the upper directory of an overlay changes in `below`, the root made of what lies under it; in the order of the
/// paths. A directory counts as changed if something in it is; its times alone don't count.
///
/// # Errors
/// If a file cannot be read.
pub fn changes(upper: BorrowedFd<'_>, below: &Root) -> Result<Vec<Change>> {
    let mut walk = Walk {
        upper,
        below: below.0.as_fd(),
        changes: Vec::new(),
    };
    walk.children(&RelPath::default(), true, false)?;
    let mut changes = walk.changes;
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(changes)
}

struct Walk<'a> {
    upper: BorrowedFd<'a>,
    below: BorrowedFd<'a>,
    changes: Vec<Change>,
}

impl Walk<'_> {
    /// Goes through what the directory `path` of the upper tree has. `merged`: below there is a directory too, and
    /// `opaque`: nothing of it shows.
    fn children(&mut self, path: &RelPath, merged: bool, opaque: bool) -> Result<()> {
        let fail = |errno| failed(path, errno);
        let dir = match tree::open_beneath(self.upper, path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(dir) => dir,
            // It vanished meanwhile.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(errno) => return Err(fail(errno)),
        };
        let names = tree::list(dir.as_fd()).map_err(fail)?;
        let old = match merged {
            true => self.open_below(path, OFlags::RDONLY | OFlags::DIRECTORY)?,
            false => None,
        };
        if let Some(old) = old.as_ref().filter(|_| opaque) {
            let known: BTreeSet<_> = names.iter().collect();
            for name in tree::list(old.as_fd()).map_err(fail)? {
                if !known.contains(&name) {
                    self.add(&path.join(&name), ChangeKind::Deleted);
                }
            }
        }
        for name in names {
            self.entry(&dir, old.as_ref(), &path.join(&name), &name)?;
        }
        Ok(())
    }

    fn entry(&mut self, dir: &OwnedFd, old: Option<&OwnedFd>, path: &RelPath, name: &[u8]) -> Result<()> {
        let fail = |errno| failed(path, errno);
        let Some(stat) = tree::stat(dir.as_fd(), name).map_err(fail)? else {
            return Ok(());
        };
        let before = match old {
            Some(old) => tree::stat(old.as_fd(), name).map_err(fail)?,
            None => None,
        };
        let is_directory = |stat: &Stat| tree::file_type(stat) == FileType::Directory;
        match before {
            before if tree::is_whiteout(&stat) => {
                if before.is_some() {
                    self.add(path, ChangeKind::Deleted);
                }
            }
            None => {
                self.add(path, ChangeKind::Added);
                if is_directory(&stat) {
                    self.children(path, false, false)?;
                }
            }
            Some(before) => {
                let at = self.changes.len();
                if is_directory(&stat) {
                    let merged = is_directory(&before);
                    let opaque = merged
                        && xattr::is_opaque(tree::open_subdir(dir.as_fd(), name).map_err(fail)?)
                            .map_err(fail)?;
                    self.children(path, merged, opaque)?;
                }
                if self.changes.len() > at || self.differs(path, &stat, &before)? {
                    self.add(path, ChangeKind::Modified);
                }
            }
        }
        Ok(())
    }

    /// Whether it is another file, and not just a copy that was opened for writing.
    fn differs(&self, path: &RelPath, now: &Stat, before: &Stat) -> Result<bool> {
        let owner = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev);
        if owner(now) != owner(before) {
            return Ok(true);
        }
        let content = |stat: &Stat| (stat.st_size, stat.st_mtime);
        let is_directory = tree::file_type(now) == FileType::Directory;
        // Archives of layers may hold whole seconds only.
        let finer =
            now.st_mtime_nsec != 0 && before.st_mtime_nsec != 0 && now.st_mtime_nsec != before.st_mtime_nsec;
        if !is_directory && (content(now) != content(before) || finer) {
            return Ok(true);
        }
        Ok(self.capabilities(self.upper, path)? != self.capabilities(self.below, path)?)
    }

    fn capabilities(&self, root: BorrowedFd<'_>, path: &RelPath) -> Result<Option<Vec<u8>>> {
        let fail = |errno| failed(path, errno);
        let file = match tree::open_beneath(root, path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(fail(errno)),
        };
        if tree::file_type(&fs::fstat(&file).map_err(fail)?) != FileType::RegularFile {
            return Ok(None);
        }
        let all = xattr::read(&file).map_err(fail)?;
        Ok(all.into_iter().find(|x| x.name == CAPABILITIES).map(|x| x.value))
    }

    fn open_below(&self, path: &RelPath, flags: OFlags) -> Result<Option<OwnedFd>> {
        match tree::open_beneath(self.below, path, flags) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(failed(path, errno)),
        }
    }

    fn add(&mut self, path: &RelPath, kind: ChangeKind) {
        let path = [b"/", path.as_bytes()].concat();
        self.changes.push(Change { path, kind });
    }
}

fn failed(path: &RelPath, errno: Errno) -> Error {
    Error::internal(format!("cannot compare {:?}", path.display())).caused_by(errno)
}
