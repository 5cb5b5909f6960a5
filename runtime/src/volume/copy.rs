//! Copying a directory with everything in it. Both sides are reached through descriptors only, and no symbolic link is
//! ever followed: whoever changes the trees meanwhile cannot lead the copy outside.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use crate::{
    Result,
    error::Context,
    ids::{CAPABILITY, IdMap},
    image::{tree, xattr},
};

/// Copies what is in the directory `from` into the empty directory `to`, which also gets owner, mode, times and
/// attributes of `from`, with `ids` those outside of its container. Names that appear in `to` meanwhile are kept. Files that are one file in `from` are one in `to`.
///
/// # Errors
/// Internal, naming the path below `from`; what has been copied stays.
pub fn copy_directory(from: &OwnedFd, to: &OwnedFd, ids: Option<&IdMap>) -> Result<()> {
    let mut copy = Copy {
        from: from.as_fd(),
        to: to.as_fd(),
        links: HashMap::new(),
        ids,
    };
    let mut todo = vec![Vec::new()];
    let mut done: Vec<Vec<u8>> = Vec::new();
    while let Some(directory) = todo.pop() {
        let failed = || format!("cannot copy /{}", String::from_utf8_lossy(&directory));
        copy.entries(&directory, &mut todo).context(failed)?;
        done.push(directory);
    }
    // From the bottom up, as making an entry changes the time of its directory.
    for directory in done.iter().rev() {
        let failed = || {
            format!(
                "cannot copy the properties of /{}",
                String::from_utf8_lossy(directory)
            )
        };
        copy.properties(directory).context(failed)?;
    }
    Ok(())
}

struct Copy<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    /// Where files with several names have been copied to, by their inode.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Of the container that `from` belongs to.
    ids: Option<&'a IdMap>,
}

impl Copy<'_> {
    /// Copies the entries of one directory; those that are directories are made and added to `todo`.
    fn entries(&mut self, directory: &[u8], todo: &mut Vec<Vec<u8>>) -> io::Result<()> {
        let from = open_directory(self.from, directory)?;
        let to = open_directory(self.to, directory)?;
        for name in tree::list(from.as_fd())? {
            let Some(stat) = tree::stat(from.as_fd(), &name)? else {
                continue;
            };
            let mut path = directory.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            let made = match tree::file_type(&stat) {
                FileType::Directory => {
                    let made = rustix::fs::mkdirat(&to, tree::os(&name), Mode::RWXU);
                    if made.is_ok() {
                        todo.push(path);
                    }
                    made
                }
                FileType::RegularFile => self.file(&from, &to, &name, path),
                FileType::Symlink => self.symlink(&from, &to, &name, &stat),
                _ if tree::is_whiteout(&stat) => Ok(()),
                kind => self.node(&to, &name, kind, &stat),
            };
            match made {
                // Someone else was faster, and what is there stays; or it went away.
                Ok(()) | Err(Errno::EXIST | Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn file(&mut self, from: &OwnedFd, to: &OwnedFd, name: &[u8], path: Vec<u8>) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = File::from(rustix::fs::openat(from, tree::os(name), flags, Mode::empty())?);
        let stat = rustix::fs::fstat(&source)?;
        if tree::file_type(&stat) != FileType::RegularFile {
            return Ok(());
        }
        let inode = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some(first) = self.links.get(&inode)
        {
            let first = open_beneath(self.to, first, OFlags::PATH | OFlags::NOFOLLOW)?;
            let first = tree::proc_path(first.as_fd());
            return rustix::fs::linkat(
                rustix::fs::CWD,
                &first,
                to,
                tree::os(name),
                AtFlags::SYMLINK_FOLLOW,
            );
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = File::from(rustix::fs::openat(
            to,
            tree::os(name),
            flags,
            Mode::RUSR | Mode::WUSR,
        )?);
        io::copy(&mut &source, &mut &target)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        self.set_properties(source.as_fd(), target.as_fd(), &stat)?;
        if stat.st_nlink > 1 {
            self.links.insert(inode, path);
        }
        Ok(())
    }

    /// Owner, mode, times and attributes of a directory.
    fn properties(&self, directory: &[u8]) -> io::Result<()> {
        let from = open_directory(self.from, directory)?;
        let to = match open_directory(self.to, directory) {
            // Removed again by someone else.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            to => to?,
        };
        let stat = rustix::fs::fstat(&from)?;
        Ok(self.set_properties(from.as_fd(), to.as_fd(), &stat)?)
    }

    fn set_properties(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> Result<(), Errno> {
        let (user, group) = self.owner(stat)?;
        rustix::fs::fchown(to, Some(user), Some(group))?;
        // After the owner, whose change takes capabilities away.
        for attribute in xattr::read(from)? {
            let name = tree::os(&attribute.name);
            let value = match self.ids {
                Some(ids) if attribute.name == CAPABILITY => ids.outer_capability(&attribute.value),
                _ => attribute.value.clone(),
            };
            match rustix::fs::fsetxattr(to, name, &value, XattrFlags::empty()) {
                // A file system without attributes, or without those of this kind.
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(error) => return Err(error),
            }
        }
        rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        rustix::fs::futimens(to, &times(stat))
    }

    fn symlink(&self, from: &OwnedFd, to: &OwnedFd, name: &[u8], stat: &Stat) -> Result<(), Errno> {
        let target = rustix::fs::readlinkat(from, tree::os(name), Vec::new())?;
        rustix::fs::symlinkat(target, to, tree::os(name))?;
        self.set_named(to, name, stat)
    }

    /// A pipe, a socket or a device.
    fn node(&self, to: &OwnedFd, name: &[u8], kind: FileType, stat: &Stat) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::mknodat(to, tree::os(name), kind, mode, stat.st_rdev)?;
        self.set_named(to, name, stat)
    }

    /// Owner and times of what cannot be opened; the umask of the engine is 0, so that the mode is right already.
    fn set_named(&self, to: &OwnedFd, name: &[u8], stat: &Stat) -> Result<(), Errno> {
        let (user, group) = self.owner(stat)?;
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(to, tree::os(name), Some(user), Some(group), nofollow)?;
        rustix::fs::utimensat(to, tree::os(name), &times(stat), nofollow)
    }

    /// Whom the copy of a file is to belong to.
    fn owner(&self, stat: &Stat) -> Result<(Uid, Gid), Errno> {
        let (uid, gid) = match self.ids {
            Some(ids) => ids.outer(stat.st_uid, stat.st_gid).ok_or(Errno::OVERFLOW)?,
            None => (stat.st_uid, stat.st_gid),
        };
        Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
    }
}

fn open_directory(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    open_beneath(root, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

fn open_beneath(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() {
        Path::new(".")
    } else {
        tree::os(path)
    };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename elsewhere made it uncertain whether the path stayed inside.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.try_into().unwrap_or_default(),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    };

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    #[test]
    fn everything_arrives_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("a/file"), vec![7; 100_000]).unwrap();
        fs::set_permissions(from.join("a/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::hard_link(from.join("a/file"), from.join("a/b/same")).unwrap();
        symlink("../../../etc/passwd", from.join("link")).unwrap();
        let mode = Mode::from_raw_mode(0o640);
        rustix::fs::mknodat(rustix::fs::CWD, from.join("pipe"), FileType::Fifo, mode, 0).unwrap();
        chown(from.join("a"), Some(12), Some(34)).unwrap();
        chown(&from, Some(56), Some(78)).unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o1777)).unwrap();

        copy_directory(&open(&from), &open(&to), None).unwrap();
        assert_eq!(fs::read(to.join("a/file")).unwrap(), vec![7; 100_000]);
        let of = |name: &str| fs::symlink_metadata(to.join(name)).unwrap();
        assert_eq!(of("a/file").mode() & 0o7777, 0o4751);
        assert_eq!(of("a/file").ino(), of("a/b/same").ino());
        assert_eq!((of("a").uid(), of("a").gid()), (12, 34));
        assert_eq!(
            (of("").uid(), of("").gid(), of("").mode() & 0o7777),
            (56, 78, 0o1777)
        );
        assert_eq!(
            fs::read_link(to.join("link")).unwrap(),
            Path::new("../../../etc/passwd")
        );
        let source = fs::metadata(from.join("a")).unwrap();
        assert_eq!(of("a").modified().unwrap(), source.modified().unwrap());
        assert!(std::os::unix::fs::FileTypeExt::is_fifo(&of("pipe").file_type()));
    }

    #[test]
    fn links_in_the_way_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to, canary) = (
            dir.path().join("from"),
            dir.path().join("to"),
            dir.path().join("canary"),
        );
        fs::create_dir_all(from.join("a")).unwrap();
        fs::write(from.join("a/file"), "x").unwrap();
        fs::create_dir(&to).unwrap();
        fs::create_dir(&canary).unwrap();
        symlink(&canary, to.join("a")).unwrap();
        copy_directory(&open(&from), &open(&to), None).unwrap();
        assert_eq!(fs::read_dir(&canary).unwrap().count(), 0);
    }
}
