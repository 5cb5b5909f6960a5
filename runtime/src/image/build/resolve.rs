//! Paths below a root made plain: which real path a text means, links followed as if the root were `/`.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::{
    fs::{self, FileType, OFlags},
    io::Errno,
};

use crate::{
    Error, Result,
    image::{path::RelPath, tree},
};

/// Symbolic links followed in one path at most.
const LINKS_MAX: usize = 40;

/// What something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// Anything else.
    Other,
}

/// What a path means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its real path below the root, without links, components joined by slashes; empty for the root.
    pub path: Vec<u8>,
    /// What is there; none if nothing is.
    pub kind: Option<Kind>,
}

/// The real path of `path` below `root`, and what is there. What is missing is taken as it is written; `..` never leads
/// above the root.
///
/// # Errors
/// [`crate::Kind::Invalid`] for too many links, a name that is too long, a NUL, and a file where a directory is needed.
pub fn resolve(root: BorrowedFd<'_>, path: &[u8]) -> Result<Found> {
    let refused = |why: &str| Error::invalid(format!("{:?}: {why}", String::from_utf8_lossy(path)));
    if path.contains(&0) {
        return Err(refused("a path cannot hold a NUL"));
    }
    let mut todo: VecDeque<Vec<u8>> = components(path);
    let mut real = RelPath::default();
    let mut kind = Some(Kind::Directory);
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == b".." {
            real = real.split().map(|(parent, _)| parent).unwrap_or_default();
            kind = Some(Kind::Directory);
            continue;
        }
        let next = real.join(&name);
        let stat = match tree::open_beneath(root, &real, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(parent) => tree::stat(parent.as_fd(), &name),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        };
        let stat = stat.map_err(|errno| match errno {
            Errno::NOTDIR => refused("not a directory"),
            Errno::NAMETOOLONG => refused("file name too long"),
            errno => refused("cannot be looked at").caused_by(errno),
        })?;
        kind = match stat.as_ref().map(tree::file_type) {
            Some(FileType::Symlink) => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(refused("too many levels of symbolic links"));
                }
                let parent = tree::open_beneath(root, &real, OFlags::PATH | OFlags::DIRECTORY)
                    .map_err(|errno| refused("cannot be opened").caused_by(errno))?;
                let target = fs::readlinkat(&parent, tree::os(&name), Vec::new())
                    .map_err(|errno| refused("cannot be read").caused_by(errno))?;
                let target = target.into_bytes();
                if target.starts_with(b"/") {
                    real = RelPath::default();
                }
                for component in components(&target).into_iter().rev() {
                    todo.push_front(component);
                }
                kind = Some(Kind::Directory);
                continue;
            }
            Some(FileType::Directory) => Some(Kind::Directory),
            Some(FileType::RegularFile) => Some(Kind::File),
            Some(_) => Some(Kind::Other),
            None => None,
        };
        real = next;
    }
    Ok(Found {
        path: real.as_bytes().to_vec(),
        kind,
    })
}

fn components(path: &[u8]) -> VecDeque<Vec<u8>> {
    let parts = path
        .split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".");
    parts.map(<[u8]>::to_vec).collect()
}

/// The names in the directory `path` (a real path) below `root`, sorted; none if it is no directory.
///
/// # Errors
/// If the file system fails.
pub fn names(root: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<Vec<u8>>> {
    let path = real(path)?;
    match tree::open_beneath(root, &path, OFlags::RDONLY | OFlags::DIRECTORY)
        .and_then(|dir| tree::list(dir.as_fd()))
    {
        Ok(mut names) => {
            names.sort_unstable();
            Ok(names)
        }
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(Vec::new()),
        Err(errno) => Err(Error::internal(format!("cannot list {:?}", path.display())).caused_by(errno)),
    }
}

/// All real paths below `root` that `wanted` takes, sorted; `enter` tells whether a directory is looked into.
///
/// # Errors
/// If the file system fails.
pub fn find(
    root: BorrowedFd<'_>,
    enter: &dyn Fn(&[u8]) -> bool,
    wanted: &dyn Fn(&[u8]) -> bool,
) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    let mut ahead = vec![RelPath::default()];
    while let Some(dir) = ahead.pop() {
        for name in names(root, dir.as_bytes())? {
            let path = dir.join(&name);
            if wanted(path.as_bytes()) {
                found.push(path.as_bytes().to_vec());
            }
            if enter(path.as_bytes()) {
                ahead.push(path);
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// A real path as the rest of the store takes it.
pub(super) fn real(path: &[u8]) -> Result<RelPath> {
    match path {
        b"" => Ok(RelPath::default()),
        path => RelPath::clean(path),
    }
}
