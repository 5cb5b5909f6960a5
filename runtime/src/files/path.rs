//! Paths as clients write them, and what they lead to.

use std::{collections::VecDeque, os::fd::AsFd};

use rustix::{
    fs::{self, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};

use super::Root;
use crate::{
    Error, Result,
    image::{RelPath, tree},
};

/// Symbolic links followed in one path at most.
const LINKS_MAX: usize = 255;

/// A path in a container, made plain by its text alone: below the root, without `.` and `..`. A `/` or `/.` at its end
/// says that a directory is meant, and is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPath {
    /// With a leading slash.
    text: String,
}

/// What a path leads to. A symbolic link at its end is not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStat {
    /// The last component.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Type and permissions, `st_mode` of stat(2).
    pub mode: u32,
    /// Last change of the content: seconds since 1970 and nanoseconds.
    pub mtime: (i64, i64),
    /// Where a symbolic link leads in the end, as an absolute path in the container; as far as that can be told.
    pub link_target: String,
}

impl ContainerPath {
    /// The path that `text` means; relative to the root if it is relative.
    ///
    /// # Errors
    /// Invalid for an empty text and for a NUL.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::invalid("bad parameter: path cannot be empty"));
        }
        if text.contains('\0') {
            return Err(Error::invalid(format!("invalid path {text:?}: contains a NUL")));
        }
        let mut parts: Vec<&str> = Vec::new();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let mut clean = format!("/{}", parts.join("/"));
        let last = text.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        if last == "." {
            if !clean.ends_with('/') {
                clean.push('/');
            }
            clean.push('.');
        }
        if text.ends_with('/') && !clean.ends_with('/') {
            clean.push('/');
        }
        Ok(Self { text: clean })
    }

    /// The text for system calls and messages.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The last component: `.` if the path ends so, `/` for the root.
    pub fn base(&self) -> &str {
        match self.text.trim_end_matches('/').rsplit('/').next() {
            None | Some("") => "/",
            Some(name) => name,
        }
    }

    /// The directory that the last component is in, and the last component.
    pub fn split(&self) -> (&str, &str) {
        match self.text.rsplit_once('/') {
            Some(("", name)) => ("/", name),
            Some(parts) => parts,
            None => ("/", &self.text),
        }
    }
}

impl Root {
    /// Opens `path`.
    ///
    /// # Errors
    /// As openat2(2).
    pub(super) fn open(&self, path: &str, flags: OFlags) -> Result<std::os::fd::OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // A rename elsewhere on the system raced with the walk.
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
    }

    /// What `path` leads to.
    ///
    /// # Errors
    /// Not found; invalid if something on the way is no directory or links go round in circles.
    pub fn stat(&self, path: &ContainerPath) -> Result<PathStat> {
        let fail = |errno| refused(path.as_str(), errno);
        let found = self
            .open(path.as_str(), OFlags::PATH | OFlags::NOFOLLOW)
            .map_err(fail)?;
        let stat = fs::fstat(&found).map_err(fail)?;
        let link_target = match tree::file_type(&stat) {
            FileType::Symlink => self.follow(path.as_str()).map_err(fail)?,
            _ => String::new(),
        };
        Ok(describe(path, &stat, link_target))
    }

    /// The absolute path without symbolic links that `path` means at this moment. What does not exist stays as it is.
    ///
    /// # Errors
    /// `ELOOP` for links without end; as readlinkat(2).
    pub(super) fn follow(&self, path: &str) -> Result<String, Errno> {
        let mut ahead: VecDeque<String> = path.split('/').map(str::to_owned).collect();
        let mut done: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = ahead.pop_front() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    done.pop();
                    continue;
                }
                _ => done.push(part),
            }
            let here = format!("/{}", done.join("/"));
            let found = match self.open(&here, OFlags::PATH | OFlags::NOFOLLOW) {
                Ok(found) => found,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(errno) => return Err(errno),
            };
            if tree::file_type(&fs::fstat(&found)?) != FileType::Symlink {
                continue;
            }
            links += 1;
            if links > LINKS_MAX {
                return Err(Errno::LOOP);
            }
            let target = fs::readlinkat(&found, "", Vec::new())?;
            let target = target.to_string_lossy().into_owned();
            done.pop();
            if target.starts_with('/') {
                done.clear();
            }
            for part in target.split('/').rev() {
                ahead.push_front(part.to_owned());
            }
        }
        Ok(format!("/{}", done.join("/")))
    }

    /// Opens the directory that `path` leads to, and tells its path without symbolic links.
    ///
    /// # Errors
    /// Not found; invalid if it is no directory.
    pub(super) fn directory(&self, path: &ContainerPath) -> Result<(std::os::fd::OwnedFd, RelPath)> {
        let fail = |errno| refused(path.as_str(), errno);
        let found = self.open(path.as_str(), OFlags::PATH).map_err(fail)?;
        if tree::file_type(&fs::fstat(found.as_fd()).map_err(fail)?) != FileType::Directory {
            return Err(Error::invalid("extraction point is not a directory"));
        }
        let plain = self.follow(path.as_str()).map_err(fail)?;
        Ok((found, RelPath::clean(plain.as_bytes())?))
    }
}

pub(super) fn describe(path: &ContainerPath, stat: &Stat, link_target: String) -> PathStat {
    PathStat {
        name: path.base().to_owned(),
        size: stat.st_size,
        mode: stat.st_mode,
        mtime: (
            stat.st_mtime,
            i64::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        ),
        link_target,
    }
}

/// A failed look-up as the client's or the host's error.
pub(super) fn refused(path: &str, errno: Errno) -> Error {
    let kind = match errno {
        Errno::NOENT => crate::Kind::NotFound,
        Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::INVAL => crate::Kind::Invalid,
        Errno::ROFS => crate::Kind::Forbidden,
        _ => crate::Kind::Internal,
    };
    let why = match errno {
        Errno::NOTDIR => "not a directory",
        Errno::LOOP => "too many levels of symbolic links",
        Errno::NAMETOOLONG => "file name too long",
        _ => return Error::new(kind, path.to_owned()).caused_by(errno),
    };
    Error::new(kind, format!("{path}: {why}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_are_cleaned_by_their_text() {
        let table = [
            ("/", "/", "/"),
            (".", "/.", "."),
            ("..", "/", "/"),
            ("/a/../../b", "/b", "b"),
            ("a", "/a", "a"),
            ("/a/", "/a/", "a"),
            ("/a//b/.", "/a/b/.", "."),
            ("/a/./", "/a/./", "."),
            ("//", "/", "/"),
        ];
        for (text, clean, base) in table {
            let path = ContainerPath::parse(text).unwrap();
            assert_eq!((path.as_str(), path.base()), (clean, base), "{text}");
        }
        assert!(ContainerPath::parse("").is_err());
        assert!(ContainerPath::parse("a\0b").is_err());
        assert_eq!(ContainerPath::parse("/a/b").unwrap().split(), ("/a", "b"));
        assert_eq!(ContainerPath::parse("/a").unwrap().split(), ("/", "a"));
    }

    #[test]
    fn links_are_told_and_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("real/sub")).unwrap();
        std::fs::write(dir.path().join("real/file"), "12345").unwrap();
        symlink("/real", dir.path().join("absolute")).unwrap();
        symlink("../../../../absolute/file", dir.path().join("real/up")).unwrap();
        symlink("nothing/there", dir.path().join("broken")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        let root = Root(std::fs::File::open(dir.path()).unwrap().into());
        let stat = |path: &str| root.stat(&ContainerPath::parse(path).unwrap());
        assert_eq!(stat("/absolute/file").unwrap().size, 5);
        assert_eq!(stat("/real/up").unwrap().link_target, "/real/file");
        assert_eq!(stat("/broken").unwrap().link_target, "/nothing/there");
        assert_eq!(stat("/absolute").unwrap().link_target, "/real");
        let followed = stat("/absolute/").unwrap();
        assert_eq!(
            (followed.mode & 0o170_000, followed.name.as_str()),
            (0o040_000, "absolute")
        );
        assert_eq!(stat("/real/file/").unwrap_err().kind(), crate::Kind::Invalid);
        assert_eq!(stat("/real/none").unwrap_err().kind(), crate::Kind::NotFound);
        assert_eq!(stat("/loop").unwrap_err().kind(), crate::Kind::Invalid);
        assert_eq!(stat("/loop/x").unwrap_err().kind(), crate::Kind::Invalid);
    }
}
