//! Completes a layer with what only the layers below it know.
//!
//! An archive may leave out the directories its files lie in, and may hard-link to files of lower layers. Merged by
//! overlayfs, such a directory would take the place of the lower one with attributes nobody chose (think of `/tmp`).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use super::{Outcome, refused};
use crate::{
    Error, Result,
    image::{path::RelPath, tar_reader::Xattr, tree, xattr},
};

/// Gives the implied directories of an unpacked layer in `root` the attributes that they have in the layers `below`
/// (topmost first), and makes its links to files there by copying them.
///
/// # Errors
/// [`crate::Kind::Invalid`] if a linked file does not exist below, [`crate::Kind::Internal`] if the file system fails.
pub fn settle(root: BorrowedFd<'_>, outcome: &Outcome, below: &[OwnedFd]) -> Result<()> {
    for dir in &outcome.implied {
        let fail = |e| refused(dir, e);
        let Some((from, stat)) = find(below, dir).map_err(fail)? else {
            continue;
        };
        if tree::file_type(&stat) == FileType::Directory {
            match tree::open_beneath(root, dir, OFlags::RDONLY | OFlags::DIRECTORY) {
                Ok(to) => copy_attributes(from.as_fd(), &stat, to.as_fd()).map_err(fail)?,
                // Reached through a symbolic link of this layer: lower layers know it by another name.
                Err(Errno::LOOP) => {}
                Err(e) => return Err(fail(e)),
            }
        }
    }
    for (path, target) in &outcome.links_below {
        let (dir, name) = path.split().ok_or_else(|| refused(path, Errno::NOENT))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let parent = tree::open_in_root(root, &dir, flags).map_err(|e| refused(path, e))?;
        let before = fs::fstat(&parent).map_err(|e| refused(path, e))?;
        if !link_here(root, target, parent.as_fd(), name).map_err(|e| refused(path, e))? {
            link_below(below, path, target, parent.as_fd(), name)?;
        }
        fs::futimens(&parent, &times(&before)).map_err(|e| refused(path, e))?;
    }
    Ok(())
}

/// Links to `target` in this layer, where an earlier link may have brought it up already; `false` if it is not there.
fn link_here(
    root: BorrowedFd<'_>,
    target: &RelPath,
    parent: BorrowedFd<'_>,
    name: &[u8],
) -> Result<bool, Errno> {
    let Some((dir, target_name)) = target.split() else {
        return Ok(false);
    };
    let linked = tree::open_in_root(root, &dir, OFlags::PATH | OFlags::DIRECTORY).and_then(|dir| {
        fs::linkat(
            &dir,
            tree::os(target_name),
            parent,
            tree::os(name),
            AtFlags::empty(),
        )
    });
    match linked {
        Ok(()) => Ok(true),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Copies `target` up from the layers below.
fn link_below(
    below: &[OwnedFd],
    path: &RelPath,
    target: &RelPath,
    parent: BorrowedFd<'_>,
    name: &[u8],
) -> Result<()> {
    match find(below, target).map_err(|e| refused(target, e))? {
        Some((from, stat)) if tree::file_type(&stat) == FileType::RegularFile => {
            copy_file(from.as_fd(), &stat, parent, name).map_err(|e| refused(path, e))
        }
        _ => Err(Error::invalid(format!(
            "invalid hard link in archive: {:?} links to {:?}, which does not exist",
            path.display(),
            target.display()
        ))),
    }
}

/// What `path` is in the merged view of the layers `below`.
fn find(below: &[OwnedFd], path: &RelPath) -> Result<Option<(OwnedFd, fs::Stat)>, Errno> {
    'layers: for layer in below {
        let mut dir = layer
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        let mut opaque = false;
        let mut parts = path.components().peekable();
        while let Some(name) = parts.next() {
            opaque |= xattr::is_opaque(&dir)?;
            let Some(stat) = tree::stat(dir.as_fd(), name)? else {
                if opaque {
                    return Ok(None);
                }
                continue 'layers;
            };
            let is_dir = tree::file_type(&stat) == FileType::Directory;
            if parts.peek().is_some() && is_dir {
                dir = tree::open_subdir(dir.as_fd(), name)?;
                continue;
            }
            if parts.peek().is_some() || tree::is_whiteout(&stat) {
                return Ok(None);
            }
            let flags = match tree::file_type(&stat) {
                FileType::RegularFile | FileType::Directory => OFlags::RDONLY,
                _ => OFlags::PATH,
            };
            let fd = fs::openat(
                &dir,
                tree::os(name),
                flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            return Ok(Some((fd, stat)));
        }
    }
    Ok(None)
}

fn copy_attributes(from: BorrowedFd<'_>, stat: &fs::Stat, to: BorrowedFd<'_>) -> Result<(), Errno> {
    fs::fchown(
        to,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    for Xattr { name, value } in xattr::read(from)? {
        fs::fsetxattr(to, tree::os(&name), &value, XattrFlags::empty())?;
    }
    fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    fs::futimens(to, &times(stat))
}

fn times(stat: &fs::Stat) -> Timestamps {
    let time = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or_default(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn copy_file(
    from: BorrowedFd<'_>,
    stat: &fs::Stat,
    parent: BorrowedFd<'_>,
    name: &[u8],
) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let to = fs::openat(parent, tree::os(name), flags, Mode::RUSR | Mode::WUSR)?;
    while fs::copy_file_range(from, None, &to, None, 1 << 30)? != 0 {}
    copy_attributes(from, stat, to.as_fd())
}
