//! Makes one entry of an archive and gives it its attributes.

use std::{
    fs::File,
    io::{BufRead, Seek, SeekFrom, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use super::{Extractor, Place, refused};
use crate::{
    Error, Result,
    ids::CAPABILITY,
    image::{
        path::RelPath,
        tar_reader::{Entry, Kind, TarReader, Time, Xattr},
        tree, xattr,
    },
};

impl Extractor<'_> {
    pub(super) fn directory(&mut self, entry: &Entry, place: &Place<'_>) -> Result<()> {
        let there = tree::stat(place.parent.as_fd(), place.name).map_err(|e| place.refused(e))?;
        let fd = match there {
            Some(stat) if tree::file_type(&stat) == FileType::Directory => {
                tree::open_subdir(place.parent.as_fd(), place.name).map_err(|e| place.refused(e))?
            }
            Some(stat) if self.is_whiteout(&stat) => self.make_directory(place, true)?,
            Some(_) if self.options.keep_kinds => {
                let path = place.path.display();
                return Err(Error::invalid(format!(
                    "cannot overwrite non-directory {path:?} with directory {path:?}"
                )));
            }
            Some(_) => {
                self.clear(place)?;
                self.make_directory(place, false)?
            }
            None => self.make_directory(place, false)?,
        };
        self.set_attributes(entry, fd.as_fd())?;
        self.outcome.implied.remove(place.path);
        self.times.push((place.path.clone(), entry.mtime));
        Ok(())
    }

    pub(super) fn file<R: BufRead>(
        &mut self,
        entry: &Entry,
        place: &Place<'_>,
        reader: &mut TarReader<'_, R>,
    ) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = tree::os(place.name);
        let fd = self.replacing(place, || {
            fs::openat(place.parent.as_fd(), name, flags, Mode::RUSR | Mode::WUSR)
        })?;
        let mut file = File::from(fd);
        let context = |e: std::io::Error| match Errno::from_io_error(&e) {
            Some(errno) => place.refused(errno),
            None => Error::internal(format!("cannot write {:?}", place.path.display())).caused_by(e),
        };
        match &entry.segments {
            None => self.outcome.size += copy(reader, &mut file, entry.size, context)?,
            Some(segments) => {
                for segment in segments {
                    file.seek(SeekFrom::Start(segment.offset)).map_err(context)?;
                    self.outcome.size += copy(reader, &mut file, segment.length, context)?;
                }
                file.set_len(entry.size).map_err(context)?;
            }
        }
        self.set_attributes(entry, file.as_fd())?;
        fs::futimens(&file, &times(entry.mtime)).map_err(|e| place.refused(e))
    }

    pub(super) fn symlink(&mut self, entry: &Entry, place: &Place<'_>) -> Result<()> {
        if entry.link.is_empty() || entry.link.contains(&0) {
            return Err(Error::invalid(format!(
                "invalid symbolic link in archive: {:?} has no valid target",
                place.path.display()
            )));
        }
        let name = tree::os(place.name);
        self.replacing(place, || {
            fs::symlinkat(tree::os(&entry.link), place.parent.as_fd(), name)
        })?;
        let (uid, gid) = self.owner(entry)?;
        if (uid, gid) != (0, 0) {
            fs::chownat(
                place.parent.as_fd(),
                name,
                Some(Uid::from_raw(uid)),
                Some(Gid::from_raw(gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(|e| place.refused(e))?;
        }
        if !entry.xattrs.is_empty() {
            self.xattrs_by_path(entry, place)?;
        }
        self.set_times(entry, place)
    }

    pub(super) fn hard_link(&mut self, entry: &Entry, place: &Place<'_>) -> Result<()> {
        let mut target = RelPath::clean(&entry.link)?;
        if let Some(dir) = &self.options.below {
            target = dir.join_path(&target);
        }
        let Some((dir, target_name)) = target.split() else {
            return Err(Error::invalid(format!(
                "invalid hard link in archive: {:?} links to the root",
                place.path.display()
            )));
        };
        if target == *place.path {
            return Err(Error::invalid(format!(
                "invalid hard link in archive: {:?} links to itself",
                place.path.display()
            )));
        }
        self.clear(place)?;
        let found = match tree::open_in_root(self.root, &dir, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(fd) => tree::stat(fd.as_fd(), target_name)
                .map_err(|e| refused(&target, e))?
                .map(|stat| (fd, stat)),
            Err(Errno::NOENT) => None,
            Err(e) => return Err(refused(&target, e)),
        };
        match found {
            Some((_, stat)) if self.is_whiteout(&stat) => Err(refused(&target, Errno::NOENT)),
            Some((_, stat)) if tree::file_type(&stat) == FileType::Directory => {
                Err(refused(&target, Errno::ISDIR))
            }
            Some((fd, _)) => fs::linkat(
                &fd,
                tree::os(target_name),
                place.parent.as_fd(),
                tree::os(place.name),
                AtFlags::empty(),
            )
            .map_err(|e| place.refused(e)),
            None if self.options.whiteouts == super::Whiteouts::Overlay => {
                self.outcome.links_below.push((place.path.clone(), target));
                Ok(())
            }
            None => Err(refused(&target, Errno::NOENT)),
        }
    }

    pub(super) fn node(&mut self, entry: &Entry, place: &Place<'_>) -> Result<()> {
        let kind = match entry.kind {
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let (major, minor) = entry.device;
        if kind == FileType::CharacterDevice && (major, minor) == (0, 0) {
            return Err(Error::invalid(format!(
                "invalid device in archive: {:?} is 0:0, which is a whiteout",
                place.path.display()
            )));
        }
        // The kernel's numbers have 12 and 20 bits.
        if major >= 1 << 12 || minor >= 1 << 20 {
            return Err(Error::invalid(format!(
                "invalid device in archive: {:?} is {major}:{minor}",
                place.path.display()
            )));
        }
        let name = tree::os(place.name);
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        self.replacing(place, || {
            fs::mknodat(place.parent.as_fd(), name, kind, mode, fs::makedev(major, minor))
        })?;
        let (uid, gid) = self.owner(entry)?;
        let fd = open_path(place)?;
        fs::chownat(
            &fd,
            "",
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::EMPTY_PATH,
        )
        .map_err(|e| place.refused(e))?;
        fs::chmod(tree::proc_path(fd.as_fd()), Mode::from_raw_mode(entry.mode))
            .map_err(|e| place.refused(e))?;
        if !entry.xattrs.is_empty() {
            self.xattrs_by_path(entry, place)?;
        }
        self.set_times(entry, place)
    }

    /// Runs `make`, and once more after removing what was in the place.
    fn replacing<T>(&mut self, place: &Place<'_>, make: impl Fn() -> Result<T, Errno>) -> Result<T> {
        match make() {
            Err(Errno::EXIST) => {}
            result => return result.map_err(|e| place.refused(e)),
        }
        self.clear(place)?;
        make().map_err(|e| place.refused(e))
    }

    /// Removes what is in the place, for something that is no directory or was none.
    fn clear(&mut self, place: &Place<'_>) -> Result<()> {
        let Some(stat) = tree::stat(place.parent.as_fd(), place.name).map_err(|e| place.refused(e))? else {
            return Ok(());
        };
        if tree::file_type(&stat) == FileType::Directory {
            if self.options.keep_kinds {
                let path = place.path.display();
                return Err(Error::invalid(format!(
                    "cannot overwrite directory {path:?} with non-directory {path:?}"
                )));
            }
            let gone = place.path.clone();
            self.outcome.implied.retain(|dir| !below(dir, &gone));
            self.outcome.links_below.retain(|(path, _)| !below(path, &gone));
        }
        // Paths through what goes away may resolve differently from now on.
        self.cached = None;
        tree::remove_all(place.parent.as_fd(), place.name).map_err(|e| place.refused(e))
    }

    /// Whom what `entry` describes is to belong to.
    fn owner(&self, entry: &Entry) -> Result<(u32, u32)> {
        self.outer(self.options.owner.unwrap_or((entry.uid, entry.gid)), &entry.path)
    }

    /// The ids that files get for those of the archive.
    pub(super) fn outer(&self, (uid, gid): (u32, u32), path: &RelPath) -> Result<(u32, u32)> {
        let Some(ids) = &self.options.ids else {
            return Ok((uid, gid));
        };
        ids.outer(uid, gid).ok_or_else(|| {
            Error::invalid(format!(
                "{:?} belongs to {uid}:{gid}, which has no id in the user namespace of the container",
                path.display()
            ))
        })
    }

    /// Owner, extended attributes and mode of a file or directory, in the order in which they don't undo each other:
    /// a change of the owner drops capabilities and the set-user-ID bit.
    pub(super) fn set_attributes(&self, entry: &Entry, fd: BorrowedFd<'_>) -> Result<()> {
        let fail = |e| refused(&entry.path, e);
        let (uid, gid) = self.owner(entry)?;
        chown(fd, uid, gid).map_err(fail)?;
        for Xattr { name, value } in wanted(&entry.xattrs) {
            let value = match &self.options.ids {
                Some(ids) if name == CAPABILITY => &ids.outer_capability(value),
                _ => value,
            };
            tolerate(fs::fsetxattr(fd, tree::os(name), value, XattrFlags::empty())).map_err(fail)?;
        }
        fs::fchmod(fd, Mode::from_raw_mode(entry.mode)).map_err(fail)
    }

    /// Extended attributes of what cannot be opened for reading.
    fn xattrs_by_path(&self, entry: &Entry, place: &Place<'_>) -> Result<()> {
        let fd = open_path(place)?;
        let path = tree::proc_path(fd.as_fd());
        for Xattr { name, value } in wanted(&entry.xattrs) {
            match fs::setxattr(&path, tree::os(name), value, XattrFlags::empty()) {
                // The kernel has no user attributes on links and devices.
                Err(Errno::PERM) if name.starts_with(b"user.") => {}
                result => tolerate(result).map_err(|e| place.refused(e))?,
            }
        }
        Ok(())
    }

    fn set_times(&self, entry: &Entry, place: &Place<'_>) -> Result<()> {
        fs::utimensat(
            place.parent.as_fd(),
            tree::os(place.name),
            &times(entry.mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|e| place.refused(e))
    }
}

/// Whether `path` is `dir` or lies below it.
fn below(path: &RelPath, dir: &RelPath) -> bool {
    path.as_bytes()
        .strip_prefix(dir.as_bytes())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// The attributes that an archive may set.
fn wanted(xattrs: &[Xattr]) -> impl Iterator<Item = &Xattr> {
    xattrs.iter().filter(|x| !xattr::is_overlay(&x.name))
}

/// A file system without this kind of attribute keeps the file.
fn tolerate(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOTSUP) => Ok(()),
        result => result,
    }
}

fn open_path(place: &Place<'_>) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(place.parent.as_fd(), tree::os(place.name), flags, Mode::empty()).map_err(|e| place.refused(e))
}

pub(super) fn chown(fd: impl AsFd, uid: u32, gid: u32) -> Result<(), Errno> {
    fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

/// Access and modification time; archives of layers keep only the latter.
pub(super) fn times(time: Time) -> Timestamps {
    let time = Timespec {
        tv_sec: time.secs,
        tv_nsec: time.nanos,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Copies `length` bytes of the entry's data to `file`.
fn copy<R: BufRead>(
    reader: &mut TarReader<'_, R>,
    file: &mut File,
    length: u64,
    context: impl Fn(std::io::Error) -> Error,
) -> Result<u64> {
    let mut left = length;
    while left > 0 {
        let chunk = reader.data()?;
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        if n == 0 {
            return Err(Error::invalid("archive is cut off: unexpected EOF"));
        }
        file.write_all(chunk.get(..n).unwrap_or_default())
            .map_err(&context)?;
        reader.consume(n);
        left -= n as u64;
    }
    Ok(length)
}
