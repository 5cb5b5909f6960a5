//! Copying trees, as `COPY` and `ADD` do it.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufReader, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use super::{
    chmod::Chmod,
    resolve::{self, Kind, real},
};
use crate::{
    Error, Result,
    error::Context,
    image::{
        ahead,
        limits::Limits,
        path::RelPath,
        tree,
        unpack::{self, Options, Whiteouts},
        xattr,
    },
};

/// The mode of directories that have to be made on the way.
const MADE_MODE: u32 = 0o755;
/// Bytes that are copied at once.
const BUFFER: usize = 128 << 10;

/// How to copy.
pub struct CopyOptions<'a> {
    /// Owner and group of everything; without it they stay.
    pub owner: Option<(u32, u32)>,
    /// What a file is called in a directory that takes it, such as the name of the link that led to it; without it, as it
    /// is called where it comes from.
    pub name: Option<&'a [u8]>,
    /// Mode of everything.
    pub chmod: Option<&'a Chmod>,
    /// What is left out, by its path below the source.
    pub leave_out: &'a (dyn Fn(&[u8]) -> bool + Sync),
    /// Asked now and then whether to go on.
    pub go_on: &'a (dyn Fn() -> bool + Sync),
}

/// Copies what is at the real path `source` below `from` to `destination` below `to`: a directory's content into the
/// directory of that name, anything else to that very path or, if there is a directory or `into` says so, into it.
/// Links in `destination` are followed below `to`.
///
/// # Errors
/// [`crate::Kind::Invalid`] if a directory is to replace a file; internal if the file system fails.
pub fn copy(
    from: BorrowedFd<'_>,
    source: &[u8],
    to: BorrowedFd<'_>,
    destination: &[u8],
    into: bool,
    options: &CopyOptions<'_>,
) -> Result<Copied> {
    let mut copier = Copier {
        from,
        to,
        options,
        links: HashMap::new(),
        buffer: vec![0; BUFFER],
        count: 0,
    };
    let source = real(source)?;
    let found = resolve::resolve(to, destination)?;
    let target = real(&found.path)?;
    let Some((parent, name)) = source.split() else {
        copier.directory(&source, &target, found.kind)?;
        return Ok(Copied {
            entries: copier.count,
        });
    };
    let dir = copier.open(from, &parent, OFlags::PATH | OFlags::DIRECTORY)?;
    let stat = tree::stat(dir.as_fd(), name).map_err(|e| failed(&source, e))?;
    let stat = stat.ok_or_else(|| Error::not_found(format!("{:?} is gone", source.display())))?;
    if tree::file_type(&stat) == FileType::Directory {
        copier.directory(&source, &target, found.kind)?;
        return Ok(Copied {
            entries: copier.count,
        });
    }
    let target = match into || found.kind == Some(Kind::Directory) {
        true => target.join(options.name.unwrap_or(name)),
        false => target,
    };
    let (target_parent, target_name) = target
        .split()
        .ok_or_else(|| Error::invalid("the destination of a file is a directory"))?;
    let target_dir = copier.make(&target_parent)?;
    copier.entry(
        dir.as_fd(),
        name,
        &stat,
        &source,
        target_dir.as_fd(),
        target_name,
        &target,
    )?;
    Ok(Copied {
        entries: copier.count,
    })
}

/// Unpacks an archive, compressed or not, into the directory `destination` below `to`, which is made if missing, and then
/// belongs to `owner`; what is in the archive belongs to whom it says.
///
/// # Errors
/// As [`unpack::unpack`].
pub fn unpack_into(
    archive: impl Read + Send,
    to: BorrowedFd<'_>,
    destination: &[u8],
    owner: Option<(u32, u32)>,
    limits: &Limits,
) -> Result<()> {
    let found = resolve::resolve(to, destination)?;
    let copier = Copier {
        from: to,
        to,
        options: &CopyOptions {
            owner,
            name: None,
            chmod: None,
            leave_out: &|_| false,
            go_on: &|| true,
        },
        links: HashMap::new(),
        buffer: Vec::new(),
        count: 0,
    };
    copier.make(&real(&found.path)?)?;
    let dir = copier.open(to, &real(&found.path)?, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let options = Options {
        whiteouts: Whiteouts::Literal,
        limits: limits.clone(),
        ..Options::default()
    };
    ahead::expanded(archive, limits, |_, plain| {
        unpack::unpack(BufReader::new(plain), dir.as_fd(), &options).map(drop)
    })
}

/// What copying did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Copied {
    /// Files, directories and links.
    pub entries: u64,
}

struct Copier<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    options: &'a CopyOptions<'a>,
    /// Where files with several names went, by device and inode.
    links: HashMap<(u64, u64), RelPath>,
    buffer: Vec<u8>,
    count: u64,
}

impl Copier<'_> {
    fn open(&self, root: BorrowedFd<'_>, path: &RelPath, flags: OFlags) -> Result<OwnedFd> {
        tree::open_beneath(root, path, flags).map_err(|e| failed(path, e))
    }

    /// Opens the directory `path` of the destination, making what is missing.
    fn make(&self, path: &RelPath) -> Result<OwnedFd> {
        match tree::open_beneath(self.to, path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {}
            Err(errno @ (Errno::NOTDIR | Errno::LOOP)) => {
                return Err(
                    Error::invalid(format!("cannot copy to non-directory: {:?}", path.display()))
                        .caused_by(errno),
                );
            }
            result => return result.map_err(|e| failed(path, e)),
        }
        let (parent, name) = path.split().ok_or_else(|| failed(path, Errno::NOENT))?;
        let parent = self.make(&parent)?;
        fs::mkdirat(&parent, tree::os(name), Mode::RWXU).map_err(|e| failed(path, e))?;
        let dir = tree::open_subdir(parent.as_fd(), name).map_err(|e| failed(path, e))?;
        if let Some((uid, gid)) = self.options.owner {
            fs::fchown(&dir, Some(uid_of(uid)), Some(gid_of(gid))).map_err(|e| failed(path, e))?;
        }
        fs::fchmod(&dir, Mode::from_raw_mode(MADE_MODE)).map_err(|e| failed(path, e))?;
        Ok(dir)
    }

    /// Copies the content of a directory into another, which is made if missing and else stays as it is.
    fn directory(&mut self, source: &RelPath, target: &RelPath, there: Option<Kind>) -> Result<()> {
        if there.is_some_and(|kind| kind != Kind::Directory) {
            return Err(Error::invalid(format!(
                "cannot copy to non-directory: {:?}",
                target.display()
            )));
        }
        // Paths still to copy; directories get their times when all in them is there.
        let mut times: Vec<(RelPath, Stat)> = Vec::new();
        let mut ahead = vec![(source.clone(), target.clone())];
        self.make(target)?;
        while let Some((from, to)) = ahead.pop() {
            if !(self.options.go_on)() {
                return Err(Error::new(crate::Kind::Conflict, "the build was cancelled"));
            }
            let dir = self.open(self.from, &from, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let target_dir = self.open(self.to, &to, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let mut names = tree::list(dir.as_fd()).map_err(|e| failed(&from, e))?;
            names.sort_unstable();
            for name in names {
                let path = from.join(&name);
                let below = path.as_bytes().get(source.as_bytes().len()..).unwrap_or_default();
                if (self.options.leave_out)(below.strip_prefix(b"/").unwrap_or(below)) {
                    continue;
                }
                let Some(stat) = tree::stat(dir.as_fd(), &name).map_err(|e| failed(&path, e))? else {
                    continue;
                };
                let target = to.join(&name);
                if tree::file_type(&stat) == FileType::Directory {
                    self.subdirectory(dir.as_fd(), &name, &stat, target_dir.as_fd(), &target)?;
                    times.push((target.clone(), stat));
                    ahead.push((path, target));
                } else {
                    self.entry(
                        dir.as_fd(),
                        &name,
                        &stat,
                        &path,
                        target_dir.as_fd(),
                        &name,
                        &target,
                    )?;
                }
            }
        }
        for (path, stat) in times.iter().rev() {
            let dir = self.open(self.to, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            fs::futimens(&dir, &times_of(stat)).map_err(|e| failed(path, e))?;
        }
        Ok(())
    }

    fn subdirectory(
        &mut self,
        from: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        to: BorrowedFd<'_>,
        path: &RelPath,
    ) -> Result<()> {
        self.count += 1;
        match fs::mkdirat(to, tree::os(name), Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let there = tree::stat(to, name).map_err(|e| failed(path, e))?;
                if there.as_ref().map(tree::file_type) != Some(FileType::Directory) {
                    tree::remove_all(to, name).map_err(|e| failed(path, e))?;
                    fs::mkdirat(to, tree::os(name), Mode::RWXU).map_err(|e| failed(path, e))?;
                }
            }
            Err(e) => return Err(failed(path, e)),
        }
        let source = tree::open_subdir(from, name).map_err(|e| failed(path, e))?;
        let target = tree::open_subdir(to, name).map_err(|e| failed(path, e))?;
        self.attributes(&source, &target, stat, path)
    }

    /// Owner, extended attributes, and mode of what is open.
    fn attributes(&self, source: &OwnedFd, target: &OwnedFd, stat: &Stat, path: &RelPath) -> Result<()> {
        let (uid, gid) = self.options.owner.unwrap_or((stat.st_uid, stat.st_gid));
        if uid != 0 || gid != 0 || self.options.owner.is_none() {
            fs::fchown(target, Some(uid_of(uid)), Some(gid_of(gid))).map_err(|e| failed(path, e))?;
        }
        for attribute in xattr::read(source.as_fd()).map_err(|e| failed(path, e))? {
            match fs::fsetxattr(
                target,
                tree::os(&attribute.name),
                &attribute.value,
                XattrFlags::empty(),
            ) {
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(e) => return Err(failed(path, e)),
            }
        }
        // Last: a change of owner takes set-user-ID away.
        fs::fchmod(target, Mode::from_raw_mode(self.mode(stat))).map_err(|e| failed(path, e))
    }

    fn mode(&self, stat: &Stat) -> u32 {
        let is_dir = tree::file_type(stat) == FileType::Directory;
        let mode = stat.st_mode & 0o7777;
        self.options.chmod.map_or(mode, |chmod| chmod.apply(mode, is_dir))
    }

    /// Copies anything but a directory, replacing what is there.
    #[expect(
        clippy::too_many_arguments,
        reason = "two places, each a directory, a name and a path for messages"
    )]
    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        source: &RelPath,
        to: BorrowedFd<'_>,
        as_name: &[u8],
        path: &RelPath,
    ) -> Result<()> {
        self.count += 1;
        let os_name = tree::os(as_name);
        let several = stat.st_nlink > 1 && tree::file_type(stat) == FileType::RegularFile;
        if several && let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
            let (dir, first_name) = first.split().ok_or_else(|| failed(path, Errno::NOENT))?;
            let dir = self.open(self.to, &dir, OFlags::PATH | OFlags::DIRECTORY)?;
            tree::remove_all(to, as_name).map_err(|e| failed(path, e))?;
            return fs::linkat(&dir, tree::os(first_name), to, os_name, AtFlags::empty())
                .map_err(|e| failed(path, e));
        }
        match tree::file_type(stat) {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let input =
                    fs::openat(from, tree::os(name), flags, Mode::empty()).map_err(|e| failed(source, e))?;
                let output = create(to, as_name).map_err(|e| failed(path, e))?;
                let (mut input, mut output) = (File::from(input), File::from(output));
                self.content(&mut input, &mut output, stat)
                    .context(|| format!("cannot copy to {:?}", path.display()))?;
                let (input, output) = (OwnedFd::from(input), OwnedFd::from(output));
                self.attributes(&input, &output, stat, path)?;
                fs::futimens(&output, &times_of(stat)).map_err(|e| failed(path, e))?;
            }
            FileType::Symlink => {
                let target =
                    fs::readlinkat(from, tree::os(name), Vec::new()).map_err(|e| failed(source, e))?;
                tree::remove_all(to, as_name).map_err(|e| failed(path, e))?;
                fs::symlinkat(target.as_c_str(), to, os_name).map_err(|e| failed(path, e))?;
                self.finish_special(stat, to, as_name, path)?;
            }
            kind @ (FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo) => {
                tree::remove_all(to, as_name).map_err(|e| failed(path, e))?;
                let mode = Mode::from_raw_mode(self.mode(stat));
                fs::mknodat(to, os_name, kind, mode, stat.st_rdev).map_err(|e| failed(path, e))?;
                self.finish_special(stat, to, as_name, path)?;
                fs::chmodat(to, os_name, mode, AtFlags::empty()).map_err(|e| failed(path, e))?;
            }
            // Sockets mean nothing without the process that made them.
            _ => {}
        }
        if several {
            self.links.insert((stat.st_dev, stat.st_ino), path.clone());
        }
        Ok(())
    }

    /// Copies what is in a file. A small one is read and written at once, which costs less than to ask the kernel how it
    /// might copy it.
    fn content(&mut self, input: &mut File, output: &mut File, stat: &Stat) -> std::io::Result<()> {
        let small = usize::try_from(stat.st_size).is_ok_and(|size| size < self.buffer.len());
        if !small {
            return std::io::copy(input, output).map(drop);
        }
        loop {
            match input.read(&mut self.buffer)? {
                0 => return Ok(()),
                read => output.write_all(self.buffer.get(..read).unwrap_or_default())?,
            }
        }
    }

    fn finish_special(&self, stat: &Stat, to: BorrowedFd<'_>, name: &[u8], path: &RelPath) -> Result<()> {
        let (uid, gid) = self.options.owner.unwrap_or((stat.st_uid, stat.st_gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        fs::chownat(to, tree::os(name), Some(uid_of(uid)), Some(gid_of(gid)), flags)
            .map_err(|e| failed(path, e))?;
        fs::utimensat(to, tree::os(name), &times_of(stat), flags).map_err(|e| failed(path, e))
    }
}

/// Makes the file `name`; whatever is there goes.
fn create(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match fs::openat(dir, tree::os(name), flags, Mode::RUSR | Mode::WUSR) {
        Err(Errno::EXIST) => {
            tree::remove_all(dir, name)?;
            fs::openat(dir, tree::os(name), flags, Mode::RUSR | Mode::WUSR)
        }
        result => result,
    }
}

fn times_of(stat: &Stat) -> Timestamps {
    let time = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: stat.st_mtime_nsec as _,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn uid_of(uid: u32) -> Uid {
    Uid::from_raw(uid)
}

fn gid_of(gid: u32) -> Gid {
    Gid::from_raw(gid)
}

fn failed(path: &RelPath, errno: Errno) -> Error {
    let kind = match errno {
        Errno::NOTDIR | Errno::ISDIR | Errno::NAMETOOLONG | Errno::LOOP => crate::Kind::Invalid,
        _ => crate::Kind::Internal,
    };
    Error::new(kind, format!("cannot copy {:?}", path.display())).caused_by(errno)
}
