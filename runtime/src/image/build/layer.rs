//! Small works on layers and trees.

use std::{
    fs::{self as std_fs, File, Permissions},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid},
    io::Errno,
};

use super::{
    merged::Merged,
    resolve::{self, real},
};
use crate::{
    Error, Result,
    error::Context,
    image::{path::RelPath, tree, xattr},
};

/// Gives `path` exactly this mode.
///
/// # Errors
/// If the file system fails.
pub fn set_mode(path: &Path, mode: u32) -> Result<()> {
    std_fs::set_permissions(path, Permissions::from_mode(mode))
        .context(|| format!("cannot change the mode of {}", path.display()))
}

/// Opens the regular file at the real path `path` below `root`.
///
/// # Errors
/// If it is something else or the file system fails.
pub fn open(root: BorrowedFd<'_>, path: &[u8]) -> Result<File> {
    let path = real(path)?;
    let fd =
        tree::open_beneath(root, &path, OFlags::RDONLY | OFlags::NONBLOCK).map_err(|e| failed(&path, e))?;
    Ok(File::from(fd))
}

/// Makes the directory `path` below `root`, links followed, with those above it that are missing; mode 0755, root's.
///
/// # Errors
/// Invalid if there is something else in its place.
pub fn make_directory(root: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
    let found = resolve::resolve(root, path)?;
    if found.kind.is_some_and(|kind| kind != resolve::Kind::Directory) {
        let shown = String::from_utf8_lossy(path).into_owned();
        return Err(Error::invalid(format!(
            "cannot make the directory {shown}: not a directory"
        )));
    }
    let whole = real(&found.path)?;
    let mut at = RelPath::default();
    for name in whole.components() {
        let dir =
            tree::open_beneath(root, &at, OFlags::PATH | OFlags::DIRECTORY).map_err(|e| failed(&at, e))?;
        match fs::mkdirat(&dir, tree::os(name), Mode::RWXU) {
            Ok(()) => {
                let made = tree::open_subdir(dir.as_fd(), name).map_err(|e| failed(&at, e))?;
                fs::fchmod(&made, Mode::from_raw_mode(0o755)).map_err(|e| failed(&at, e))?;
            }
            Err(Errno::EXIST) => {}
            Err(e) => return Err(failed(&whole, e)),
        }
        at = at.join(name);
    }
    Ok(())
}

/// Gives the directory `to` mode and owner of the one at the real path `path` below `root`.
///
/// # Errors
/// If the file system fails.
pub fn copy_attributes(root: BorrowedFd<'_>, path: &[u8], to: &Path) -> Result<()> {
    let path = real(path)?;
    let from =
        tree::open_beneath(root, &path, OFlags::PATH | OFlags::DIRECTORY).map_err(|e| failed(&path, e))?;
    let stat = fs::fstat(&from).map_err(|e| failed(&path, e))?;
    let to = File::open(to).context(|| format!("cannot open {}", to.display()))?;
    fs::fchown(
        &to,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )
    .map_err(|e| failed(&path, e))?;
    fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(|e| failed(&path, e))
}

/// Takes out of an upper directory what was only made to mount something on: empty files and directories at `places` that
/// `below` has not, and directories above them that differ from those below in nothing but their times.
///
/// No link is followed: what a step has put in the place of such a stub stays as it is.
///
/// # Errors
/// If the file system fails.
pub fn take_away_stubs(upper: &Path, below: &Merged, places: &[String]) -> Result<()> {
    let upper = File::open(upper).context(|| "cannot open a layer")?;
    for place in places {
        let Ok(path) = RelPath::clean(place.as_bytes()) else {
            continue;
        };
        take_away(upper.as_fd(), below.root(), &path)?;
    }
    Ok(())
}

fn take_away(upper: BorrowedFd<'_>, below: BorrowedFd<'_>, place: &RelPath) -> Result<()> {
    let mut path = place.clone();
    while let Some((parent, name)) = path.split() {
        let dir = match tree::open_beneath(upper, &parent, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(dir) => dir,
            // Nothing was made here, or a step has put something else in the way.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                path = parent;
                continue;
            }
            Err(e) => return Err(failed(&path, e)),
        };
        if let Some(stat) = tree::stat(dir.as_fd(), name).map_err(|e| failed(&path, e))? {
            let lower = stat_below(below, &path)?;
            if !is_stub(dir.as_fd(), name, &stat, lower.as_ref()).map_err(|e| failed(&path, e))? {
                return Ok(());
            }
            let flags = match tree::file_type(&stat) {
                FileType::Directory => AtFlags::REMOVEDIR,
                _ => AtFlags::empty(),
            };
            match fs::unlinkat(&dir, tree::os(name), flags) {
                Ok(()) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(()),
                Err(e) => return Err(failed(&path, e)),
            }
        }
        path = parent;
    }
    Ok(())
}

fn stat_below(below: BorrowedFd<'_>, path: &RelPath) -> Result<Option<Stat>> {
    match tree::open_beneath(below, path, OFlags::PATH | OFlags::NOFOLLOW) {
        Ok(fd) => fs::fstat(&fd).map(Some).map_err(|e| failed(path, e)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(e) => Err(failed(path, e)),
    }
}

fn is_stub(
    dir: BorrowedFd<'_>,
    name: &[u8],
    stat: &Stat,
    lower: Option<&Stat>,
) -> std::result::Result<bool, Errno> {
    let kind = tree::file_type(stat);
    match (kind, lower) {
        (FileType::RegularFile, None) => Ok(stat.st_size == 0),
        (FileType::Directory, lower) => {
            let fd = tree::open_subdir(dir, name)?;
            if !tree::list(fd.as_fd())?.is_empty() || xattr::is_opaque(&fd)? {
                return Ok(false);
            }
            Ok(lower.is_none_or(|lower| {
                (lower.st_mode, lower.st_uid, lower.st_gid) == (stat.st_mode, stat.st_uid, stat.st_gid)
            }))
        }
        _ => Ok(false),
    }
}

fn failed(path: &RelPath, errno: Errno) -> Error {
    Error::internal(format!("cannot change {:?}", path.display())).caused_by(errno)
}
