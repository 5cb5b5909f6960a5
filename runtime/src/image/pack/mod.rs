//! Directory trees become tar streams: layers to commit, exports, copies out of containers.
//!
//! Like the extractor this works on descriptors only and follows no symbolic link below the tree's root. Entries come in
//! the order of their names, so the same tree always makes the same bytes.

mod header;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::{self, FileType, Mode, OFlags, Stat},
    io::Errno,
};

pub use self::header::Header;
use super::{
    path::RelPath,
    tar_reader::{Time, Xattr},
    tree, xattr,
};
use crate::{
    Error, Result,
    error::Context,
    ids::{CAPABILITY, IdMap},
};

const BLOCK: usize = 512;
const BUFFER: usize = 256 * 1024;
/// Attributes that belong to the host and not to the files.
const HOST_XATTRS: [&[u8]; 3] = [b"security.selinux", b"security.ima", b"security.evm"];

/// How to pack.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The name of the tree's root in the archive, for instance `./` or `etc`; without one only what is in it is packed.
    pub root: Option<Vec<u8>>,
    /// The tree is the upper directory of an overlayfs and the archive a layer: removals become whiteouts.
    pub overlay: bool,
    /// Keep fractions of seconds of modification times.
    pub nanoseconds: bool,
    /// The files show with the outer ids of this map, and the archive gets the inner ones.
    pub ids: Option<Arc<IdMap>>,
}

/// Packs the directory `root` and all below it. Sockets are left out. A file that changes while it is read is packed as
/// long as it was at first.
///
/// # Errors
/// If the file system fails or `out` does.
pub fn pack(root: BorrowedFd<'_>, out: impl Write, options: &Options) -> Result<()> {
    pack_counted(root, out, options).map(drop)
}

/// What an archive holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Entries, whiteouts among them.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// [`pack`], telling what was packed.
///
/// # Errors
/// As [`pack`].
pub fn pack_counted(root: BorrowedFd<'_>, out: impl Write, options: &Options) -> Result<Packed> {
    let mut packer = Packer {
        root,
        out,
        options,
        links: HashMap::new(),
        parent: None,
        buffer: vec![0; BUFFER],
        packed: Packed::default(),
    };
    packer.tree()?;
    packer.end()?;
    Ok(packer.packed)
}

/// Packs the single entry `name`, one component, of the directory `parent`, calling it `as_name`. A directory is packed
/// without what is in it.
///
/// # Errors
/// As [`pack`].
pub fn pack_one(
    parent: BorrowedFd<'_>,
    name: &[u8],
    as_name: &[u8],
    out: impl Write,
    options: &Options,
) -> Result<()> {
    let mut packer = Packer {
        root: parent,
        out,
        options,
        links: HashMap::new(),
        parent: None,
        buffer: vec![0; BUFFER],
        packed: Packed::default(),
    };
    let path = RelPath::default().join(name);
    let stat = tree::stat(parent, name).map_err(|e| failed(&path, e))?;
    let stat =
        stat.ok_or_else(|| Error::not_found(format!("{}: no such file or directory", path.display())))?;
    packer.entry(parent, name, &path, as_name.to_vec(), &stat)?;
    packer.end()
}

struct Packer<'a, W> {
    root: BorrowedFd<'a>,
    out: W,
    options: &'a Options,
    /// Names of files that have more than one, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// The directory that the last entry was in.
    parent: Option<(RelPath, OwnedFd)>,
    buffer: Vec<u8>,
    packed: Packed,
}

impl<W: Write> Packer<'_, W> {
    fn tree(&mut self) -> Result<()> {
        let top = RelPath::default();
        let prefix = match &self.options.root {
            Some(name) => {
                let stat = fs::fstat(self.root).map_err(|e| failed(&top, e))?;
                let fd = tree::open_beneath(self.root, &top, OFlags::RDONLY | OFlags::DIRECTORY)
                    .map_err(|e| failed(&top, e))?;
                self.directory(fd.as_fd(), name.clone(), &stat)?;
                [name.strip_suffix(b"/").unwrap_or(name), b"/"].concat()
            }
            None => Vec::new(),
        };
        // Paths still to visit, the next one last.
        let mut ahead = self.children(&top)?;
        while let Some(path) = ahead.pop() {
            let Some((_, name)) = path.split() else { continue };
            let parent = self.open_parent(&path)?;
            let Some(stat) = tree::stat(parent.as_fd(), name).map_err(|e| failed(&path, e))? else {
                // It vanished since its directory was listed.
                continue;
            };
            let as_name = [&prefix, path.as_bytes()].concat();
            self.entry(parent.as_fd(), name, &path, as_name, &stat)?;
            if tree::file_type(&stat) == FileType::Directory {
                ahead.extend(self.children(&path)?);
            }
            self.parent = Some((path.split().unwrap_or_default().0, parent));
        }
        Ok(())
    }

    /// What is in the directory `path`, in reverse order; nothing if it vanished.
    fn children(&self, path: &RelPath) -> Result<Vec<RelPath>> {
        let names = match tree::open_beneath(self.root, path, OFlags::RDONLY | OFlags::DIRECTORY) {
            // What the kernel shows of itself is nobody's files: it comes as an empty directory.
            Ok(dir) if is_of_kernel(dir.as_fd()) => Vec::new(),
            Ok(dir) => tree::list(dir.as_fd()).map_err(|e| failed(path, e))?,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Vec::new(),
            Err(e) => return Err(failed(path, e)),
        };
        let mut children: Vec<_> = names.iter().map(|name| path.join(name)).collect();
        children.sort_unstable_by(|a, b| b.cmp(a));
        Ok(children)
    }

    fn open_parent(&mut self, path: &RelPath) -> Result<OwnedFd> {
        if let Some((dir, fd)) = self.parent.take()
            && dir.as_bytes() == path.parent_bytes()
        {
            return Ok(fd);
        }
        let (dir, _) = path.split().unwrap_or_default();
        tree::open_beneath(self.root, &dir, OFlags::PATH | OFlags::DIRECTORY).map_err(|e| failed(path, e))
    }

    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &RelPath,
        as_name: Vec<u8>,
        stat: &Stat,
    ) -> Result<()> {
        let kind = tree::file_type(stat);
        self.packed.entries += 1;
        if self.options.overlay && tree::is_whiteout(stat) {
            return self.whiteout(&as_name, b".wh.");
        }
        if kind == FileType::Directory {
            let fd = tree::open_subdir(parent, name).map_err(|e| failed(path, e))?;
            return self.directory(fd.as_fd(), as_name, stat);
        }
        if kind == FileType::Socket {
            return Ok(());
        }
        if stat.st_nlink > 1
            && let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino))
        {
            let header = Header::new(b'1', as_name)
                .link(first.clone())
                .stat(stat, self.options);
            return self.write(&header.encode()?);
        }
        self.plain(parent, name, path, &as_name, stat)?;
        if stat.st_nlink > 1 {
            self.links.insert((stat.st_dev, stat.st_ino), as_name);
        }
        Ok(())
    }

    /// Everything but directories, whiteouts and further names of a file.
    fn plain(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &RelPath,
        as_name: &[u8],
        stat: &Stat,
    ) -> Result<()> {
        let (flag, flags) = match tree::file_type(stat) {
            FileType::RegularFile => (b'0', OFlags::RDONLY | OFlags::NONBLOCK),
            FileType::Symlink => (b'2', OFlags::PATH),
            FileType::CharacterDevice => (b'3', OFlags::PATH),
            FileType::BlockDevice => (b'4', OFlags::PATH),
            FileType::Fifo => (b'6', OFlags::PATH),
            _ => return Ok(()),
        };
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match fs::openat(parent, tree::os(name), flags, Mode::empty()) {
            Ok(fd) => fd,
            // It vanished, or a link took its place.
            Err(Errno::NOENT | Errno::LOOP) => return Ok(()),
            Err(e) => return Err(failed(path, e)),
        };
        // What was opened counts, should somebody have replaced it in between.
        let now = fs::fstat(&fd).map_err(|e| failed(path, e))?;
        if tree::file_type(&now) != tree::file_type(stat) {
            return Ok(());
        }
        let mut header = Header::new(flag, as_name.to_vec())
            .stat(&now, self.options)
            .xattrs(wanted(fd.as_fd(), path, self.options.ids.as_deref())?);
        match flag {
            b'0' => {
                let size = u64::try_from(now.st_size).unwrap_or_default();
                self.write(&header.size(size).encode()?)?;
                self.packed.bytes += size;
                return self.data(File::from(fd), size, path);
            }
            b'2' => {
                let target = fs::readlinkat(&fd, "", Vec::new()).map_err(|e| failed(path, e))?;
                header = header.link(target.into_bytes());
            }
            b'3' | b'4' => header = header.device(fs::major(now.st_rdev), fs::minor(now.st_rdev)),
            _ => {}
        }
        self.write(&header.encode()?)
    }

    fn directory(&mut self, fd: BorrowedFd<'_>, mut as_name: Vec<u8>, stat: &Stat) -> Result<()> {
        if !as_name.ends_with(b"/") {
            as_name.push(b'/');
        }
        let path = RelPath::clean(&as_name)?;
        let header = Header::new(b'5', as_name.clone())
            .stat(stat, self.options)
            .xattrs(wanted(fd, &path, self.options.ids.as_deref())?);
        self.write(&header.encode()?)?;
        if self.options.overlay && xattr::is_opaque(fd).map_err(|e| failed(&path, e))? {
            return self.whiteout(&[as_name.as_slice(), b".wh..opq"].concat(), b".wh.");
        }
        Ok(())
    }

    /// An empty file whose last component begins with `prefix`.
    fn whiteout(&mut self, name: &[u8], prefix: &[u8]) -> Result<()> {
        let at = name.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
        let (dir, last) = name.split_at(at);
        self.write(&Header::new(b'0', [dir, prefix, last].concat()).encode()?)
    }

    fn data(&mut self, mut file: File, size: u64, path: &RelPath) -> Result<()> {
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let space = self.buffer.get_mut(..want).unwrap_or_default();
            let mut n = file
                .read(space)
                .context(|| format!("cannot read {:?}", path.display()))?;
            if n == 0 {
                // It became shorter; its size is in the archive already.
                space.fill(0);
                n = want;
            }
            self.out
                .write_all(space.get(..n).unwrap_or_default())
                .context(|| "cannot write an archive")?;
            left -= n as u64;
        }
        let used = usize::try_from(size % BLOCK as u64).unwrap_or_default();
        if used != 0 {
            self.write(&[0; BLOCK][used..])?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.write(&[0; 2 * BLOCK])?;
        self.out.flush().context(|| "cannot write an archive")
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).context(|| "cannot write an archive")
    }
}

impl Header {
    fn stat(self, stat: &Stat, options: &Options) -> Self {
        let nanos = if options.nanoseconds {
            i64::try_from(stat.st_mtime_nsec).unwrap_or_default()
        } else {
            0
        };
        let time = Time {
            secs: stat.st_mtime,
            nanos,
        };
        let (uid, gid) = match &options.ids {
            Some(ids) => ids.inner(stat.st_uid, stat.st_gid),
            None => (stat.st_uid, stat.st_gid),
        };
        self.attributes(stat.st_mode & 0o7777, uid, gid, time)
    }
}

fn wanted(fd: BorrowedFd<'_>, path: &RelPath, ids: Option<&IdMap>) -> Result<Vec<Xattr>> {
    let mut all = xattr::read(fd).map_err(|e| failed(path, e))?;
    all.retain(|x| !HOST_XATTRS.contains(&x.name.as_slice()));
    if let Some(ids) = ids {
        for attribute in all.iter_mut().filter(|x| x.name == CAPABILITY) {
            attribute.value = ids.inner_capability(&attribute.value);
        }
    }
    Ok(all)
}

/// Whether `dir` is of proc, sysfs or a control group file system (statfs(2)).
fn is_of_kernel(dir: BorrowedFd<'_>) -> bool {
    const MAGIC: [i64; 4] = [0x9fa0, 0x6265_6572, 0x0027_e0eb, 0x6367_7270];
    fs::fstatfs(dir).is_ok_and(|stat| MAGIC.contains(&stat.f_type))
}

fn failed(path: &RelPath, errno: Errno) -> Error {
    Error::internal(format!("cannot pack {:?}", path.display())).caused_by(errno)
}
