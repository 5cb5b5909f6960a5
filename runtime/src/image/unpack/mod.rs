//! Tar streams become directory trees: layers for overlayfs, or plain directories.
//!
//! Everything happens relative to the descriptor of the target directory. Parents are resolved as if that directory
//! were `/`, last components are never followed, so whatever an archive holds ends up below the target or is refused.
//!
//! A layer's whiteouts (OCI image specification, layer.md, "Whiteouts") turn into overlayfs's own: `.wh.name` into a
//! character device 0:0 called `name`, `.wh..wh..opq` into the attribute `trusted.overlay.opaque=y` of its directory.

mod make;
mod parents;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    io::BufRead,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
    sync::Arc,
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

pub use self::parents::settle;
use super::{
    limits::Limits,
    path::RelPath,
    tar_reader::{Entry, Kind, TarReader, Time},
    tree, xattr,
};
use crate::{Error, Result, ids::IdMap};

/// Names that start so stand for a removal in a lower layer.
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Names that start so belong to AUFS, which invented whiteouts.
const WHITEOUT_META_PREFIX: &[u8] = b".wh..wh.";
/// The one of them with a meaning: nothing of lower layers shows in this directory.
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
/// The mode of a directory that the archive does not mention.
const IMPLIED_MODE: u32 = 0o755;

/// What to do with names that mean a removal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whiteouts {
    /// Make overlayfs's whiteouts: the target is a layer.
    #[default]
    Overlay,
    /// They are names like any other: the target is a plain directory.
    Literal,
}

/// How to unpack.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What names that mean a removal do.
    pub whiteouts: Whiteouts,
    /// The owner of everything, instead of what the archive says.
    pub owner: Option<(u32, u32)>,
    /// Refuse to replace a directory by something else or something else by a directory.
    pub keep_kinds: bool,
    /// Refuse devices.
    pub no_devices: bool,
    /// The archive and [`owner`](Self::owner) have the inner ids of this map, and the files get the outer ones.
    pub ids: Option<Arc<IdMap>>,
    /// The directory below the root that takes everything. It is left as it is, whatever the archive says of it. Symbolic
    /// links in it lead as seen from the root.
    pub(crate) below: Option<RelPath>,
    /// Upper bounds.
    pub limits: Limits,
}

/// What unpacking made.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Bytes of all files, as written.
    pub size: u64,
    /// The root directory itself is opaque: nothing of lower layers shows at all.
    pub root_opaque: bool,
    /// Directories that had to be made although the archive does not describe them. Their attributes come from the
    /// layers below: see [`settle`].
    pub implied: BTreeSet<RelPath>,
    /// Hard links to files that only layers below can have: name and target, in order.
    pub links_below: Vec<(RelPath, RelPath)>,
}

impl Outcome {
    /// Whether the tree is complete whatever lies below it.
    pub fn is_self_contained(&self) -> bool {
        self.implied.is_empty() && self.links_below.is_empty()
    }
}

/// Unpacks the tar stream `input`, which must be uncompressed, into the directory `root`.
///
/// The stream is read to its end, beyond the end of the archive. When this fails, what was made stays.
///
/// # Errors
/// [`crate::Kind::Invalid`] and [`crate::Kind::TooLarge`] for archives that are refused, [`crate::Kind::Internal`] if
/// the file system fails.
pub fn unpack(input: impl BufRead, root: BorrowedFd<'_>, options: &Options) -> Result<Outcome> {
    let mut extractor = Extractor {
        root,
        options,
        cached: None,
        times: Vec::new(),
        outcome: Outcome::default(),
    };
    let mut reader = TarReader::new(input, &options.limits, options.limits.layer_entries);
    while let Some(mut entry) = reader.next()? {
        if let Some(dir) = &options.below {
            match (entry.path.is_root(), entry.kind) {
                (true, Kind::Directory) => continue,
                (true, _) => {
                    return Err(Error::invalid(
                        "invalid path in archive: the root is not a directory",
                    ));
                }
                (false, _) => {}
            }
            entry.path = dir.join_path(&entry.path);
        }
        extractor.take(&entry, &mut reader)?;
    }
    reader.finish()?;
    extractor.set_directory_times()?;
    Ok(extractor.outcome)
}

struct Extractor<'a> {
    root: BorrowedFd<'a>,
    options: &'a Options,
    /// The directory of the last entry; most of the time the next one lies there too.
    cached: Option<(RelPath, Rc<OwnedFd>)>,
    /// Times of directories, set at the end: each file made in them changes them.
    times: Vec<(RelPath, Time)>,
    outcome: Outcome,
}

/// Where an entry goes: its directory and its name there.
struct Place<'p> {
    parent: Rc<OwnedFd>,
    path: &'p RelPath,
    name: &'p [u8],
}

impl Place<'_> {
    fn refused(&self, errno: Errno) -> Error {
        refused(self.path, errno)
    }
}

impl Extractor<'_> {
    fn take<R: BufRead>(&mut self, entry: &Entry, reader: &mut TarReader<'_, R>) -> Result<()> {
        let Some((_, name)) = entry.path.split() else {
            return self.take_root(entry);
        };
        if self.options.whiteouts == Whiteouts::Overlay {
            if name == WHITEOUT_OPAQUE {
                return self.make_opaque(&entry.path);
            }
            if entry
                .path
                .components()
                .any(|part| part.starts_with(WHITEOUT_META_PREFIX))
            {
                return Ok(());
            }
            if let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) {
                return self.whiteout(&entry.path, hidden);
            }
        }
        if let Some(max) = self.options.limits.layer_bytes
            && self.outcome.size.saturating_add(entry.size) > max
        {
            return Err(Error::new(
                crate::Kind::TooLarge,
                format!("layer is larger than {max} bytes"),
            ));
        }
        if self.options.no_devices && matches!(entry.kind, Kind::CharDevice | Kind::BlockDevice) {
            return Err(Error::invalid(format!(
                "{:?} is a device, which cannot be part of a build context",
                entry.path.display()
            )));
        }
        let place = self.place(&entry.path, name)?;
        if !self.outcome.links_below.is_empty() {
            self.outcome.links_below.retain(|(path, _)| *path != entry.path);
        }
        match entry.kind {
            Kind::Directory => self.directory(entry, &place),
            Kind::File => self.file(entry, &place, reader),
            Kind::Symlink => self.symlink(entry, &place),
            Kind::HardLink => self.hard_link(entry, &place),
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => self.node(entry, &place),
        }
    }

    /// An entry for the target directory itself gives it its attributes.
    fn take_root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(Error::invalid(
                "invalid path in archive: the root is not a directory",
            ));
        }
        let root = tree::open_beneath(self.root, &entry.path, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|e| refused(&entry.path, e))?;
        self.set_attributes(entry, root.as_fd())?;
        self.times.push((entry.path.clone(), entry.mtime));
        Ok(())
    }

    /// Opens the directory that `path` goes to, making what is missing of it.
    fn place<'p>(&mut self, path: &'p RelPath, name: &'p [u8]) -> Result<Place<'p>> {
        let parent = match &self.cached {
            Some((dir, fd)) if dir.as_bytes() == path.parent_bytes() => Rc::clone(fd),
            _ => {
                let (dir, _) = path.split().unwrap_or_default();
                let fd = Rc::new(self.open_or_make(&dir)?);
                self.cached = Some((dir, Rc::clone(&fd)));
                fd
            }
        };
        Ok(Place { parent, path, name })
    }

    /// Opens the directory `dir`, making what is missing of the way to it.
    fn open_or_make(&mut self, dir: &RelPath) -> Result<OwnedFd> {
        let mut missing = Vec::new();
        let mut at = dir.clone();
        let mut fd = loop {
            match tree::open_in_root(self.root, &at, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(fd) => break fd,
                Err(errno @ (Errno::NOENT | Errno::NOTDIR)) => {
                    let (above, _) = at.split().ok_or_else(|| refused(dir, errno))?;
                    missing.push(std::mem::replace(&mut at, above));
                }
                Err(errno) => return Err(refused(dir, errno)),
            }
        };
        for path in missing.iter().rev() {
            fd = self.make_implied(fd, path)?;
        }
        Ok(fd)
    }

    /// Makes the directory `path`, which the archive has not described so far, in `parent`.
    fn make_implied(&mut self, parent: OwnedFd, path: &RelPath) -> Result<OwnedFd> {
        let (_, name) = path.split().ok_or_else(|| refused(path, Errno::NOENT))?;
        let place = Place {
            parent: Rc::new(parent),
            path,
            name,
        };
        let there = tree::stat(place.parent.as_fd(), name).map_err(|e| place.refused(e))?;
        let hidden = there.as_ref().is_some_and(|stat| self.is_whiteout(stat));
        if there.is_some() && !hidden {
            // A file, or a symbolic link that leads nowhere or to a file.
            return Err(place.refused(Errno::NOTDIR));
        }
        let fd = self.make_directory(&place, hidden)?;
        fs::fchmod(&fd, Mode::from_raw_mode(IMPLIED_MODE)).map_err(|e| place.refused(e))?;
        if let Some(owner) = self.options.owner {
            let (uid, gid) = self.outer(owner, path)?;
            make::chown(&fd, uid, gid).map_err(|e| place.refused(e))?;
        }
        self.outcome.implied.insert(path.clone());
        Ok(fd)
    }

    /// Makes a directory; `hidden` says that a whiteout is in its place, so that nothing of lower layers may show.
    fn make_directory(&self, place: &Place<'_>, hidden: bool) -> Result<OwnedFd> {
        let name = tree::os(place.name);
        if hidden {
            fs::unlinkat(place.parent.as_fd(), name, AtFlags::empty()).map_err(|e| place.refused(e))?;
        }
        fs::mkdirat(place.parent.as_fd(), name, Mode::RWXU).map_err(|e| place.refused(e))?;
        let fd = tree::open_subdir(place.parent.as_fd(), place.name).map_err(|e| place.refused(e))?;
        if hidden {
            xattr::set_opaque(&fd).map_err(|e| place.refused(e))?;
        }
        Ok(fd)
    }

    fn is_whiteout(&self, stat: &fs::Stat) -> bool {
        self.options.whiteouts == Whiteouts::Overlay && tree::is_whiteout(stat)
    }

    /// Hides `hidden` of the layers below. What this layer itself has under that name stays.
    fn whiteout(&mut self, path: &RelPath, hidden: &[u8]) -> Result<()> {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Error::invalid(format!(
                "invalid whiteout in archive: {:?}",
                path.display()
            )));
        }
        let place = self.place(path, hidden)?;
        let there = tree::stat(place.parent.as_fd(), hidden).map_err(|e| place.refused(e))?;
        match there.as_ref().map(tree::file_type) {
            None => fs::mknodat(
                place.parent.as_fd(),
                tree::os(hidden),
                FileType::CharacterDevice,
                Mode::empty(),
                0,
            )
            .map_err(|e| place.refused(e)),
            Some(FileType::Directory) => {
                let fd = tree::open_subdir(place.parent.as_fd(), hidden).map_err(|e| place.refused(e))?;
                xattr::set_opaque(&fd).map_err(|e| place.refused(e))
            }
            Some(_) => Ok(()),
        }
    }

    fn make_opaque(&mut self, marker: &RelPath) -> Result<()> {
        let (dir, _) = marker.split().unwrap_or_default();
        if dir.is_root() {
            self.outcome.root_opaque = true;
        }
        self.open_or_make(&dir)?;
        let fd = tree::open_in_root(self.root, &dir, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|e| refused(&dir, e))?;
        xattr::set_opaque(&fd).map_err(|e| refused(&dir, e))
    }

    fn set_directory_times(&self) -> Result<()> {
        for (path, time) in &self.times {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            match tree::open_in_root(self.root, path, flags) {
                Ok(fd) => fs::futimens(&fd, &make::times(*time)).map_err(|e| refused(path, e))?,
                // Something else replaced it later in the archive.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(refused(path, e)),
            }
        }
        Ok(())
    }
}

/// A failed system call on an entry: the archive's fault where its names or sizes caused it, else the host's.
fn refused(path: &RelPath, errno: Errno) -> Error {
    let message = format!("cannot unpack {:?}", path.display());
    let kind = match errno {
        Errno::NAMETOOLONG
        | Errno::LOOP
        | Errno::NOTDIR
        | Errno::ISDIR
        | Errno::INVAL
        | Errno::FBIG
        | Errno::XDEV
        | Errno::EXIST
        | Errno::NOENT
        | Errno::MLINK
        | Errno::TOOBIG
        | Errno::RANGE => crate::Kind::Invalid,
        Errno::ROFS => crate::Kind::Forbidden,
        _ => crate::Kind::Internal,
    };
    Error::new(kind, message).caused_by(errno)
}
