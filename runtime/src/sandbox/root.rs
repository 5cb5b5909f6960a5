//! The root directory of a sandbox as a descriptor. Every path of a container is resolved through it: symbolic links,
//! absolute ones too, stay inside, and magic links of `/proc` are not followed.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStringExt, fs::FileTypeExt, fs::MetadataExt},
    },
    path::{Component, Path},
};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};

/// Symbolic links followed in one path at most.
const LINKS_MAX: usize = 40;
/// Attempts at a path that is being renamed meanwhile.
const ATTEMPTS_MAX: usize = 128;

/// What a missing last component is made as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    Directory,
    File,
}

/// A directory that paths cannot lead out of.
#[derive(Debug)]
pub(crate) struct Root(OwnedFd);

impl From<OwnedFd> for Root {
    fn from(directory: OwnedFd) -> Self {
        Self(directory)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Root {
    /// The calling process's own root directory.
    pub fn current() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(CWD, "/", flags, Mode::empty())?))
    }

    /// Opens `path`.
    pub fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        open_in(self, path, flags, ResolveFlags::empty())
    }

    /// Opens `path` if no component of it is a symbolic link.
    pub fn open_plain(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        open_in(self, path, flags, ResolveFlags::NO_SYMLINKS)
    }

    /// Opens `path` (`O_PATH`), making what is missing: directories with mode 0755, and as last component a directory or
    /// an empty file with mode 0644. Dangling symbolic links are followed and what they name is made.
    pub fn make(&self, path: &Path, last: Make) -> io::Result<OwnedFd> {
        match self.open(path, OFlags::PATH) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.walk(path, last),
            other => other,
        }
    }

    /// The directory that `path` is in, made if missing, and the last component of `path`.
    pub fn make_parent<'p>(&self, path: &'p Path) -> io::Result<(OwnedFd, &'p OsStr)> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let name = path.file_name().ok_or_else(invalid)?;
        let parent = path.parent().ok_or_else(invalid)?;
        Ok((self.make(parent, Make::Directory)?, name))
    }

    /// Goes through `path` one component at a time, each opened from the descriptor of the one before; `..` goes back to
    /// a descriptor that was passed already, and so never above the root.
    fn walk(&self, path: &Path, last: Make) -> io::Result<OwnedFd> {
        let mut todo = components(path);
        let mut passed: Vec<OwnedFd> = Vec::new();
        let mut links = 0;
        let mut attempts = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                passed.pop();
                continue;
            }
            let directory = passed.last().map_or_else(|| self.as_fd(), AsFd::as_fd);
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = match rustix::fs::openat(directory, &name, flags, Mode::empty()) {
                Err(rustix::io::Errno::NOENT) if attempts < ATTEMPTS_MAX => {
                    attempts += 1;
                    let kind = if todo.is_empty() { last } else { Make::Directory };
                    make_at(directory, &name, kind)?;
                    todo.push_front(name);
                    continue;
                }
                other => other?,
            };
            let kind = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
            match kind {
                FileType::Symlink => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(io::Error::from_raw_os_error(libc::ELOOP));
                    }
                    let target = rustix::fs::readlinkat(&found, "", Vec::new())?;
                    let target = OsString::from_vec(target.into_bytes());
                    let target = Path::new(&target);
                    if target.is_absolute() {
                        passed.clear();
                    }
                    for component in components(target).into_iter().rev() {
                        todo.push_front(component);
                    }
                }
                FileType::Directory => passed.push(found),
                _ if todo.is_empty() => return Ok(found),
                _ => return Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
            }
        }
        match passed.pop() {
            Some(directory) => Ok(directory),
            None => Ok(self.0.try_clone()?),
        }
    }
}

/// Opens `path` as if `directory` were the root.
pub(crate) fn open_in(
    directory: impl AsFd,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..ATTEMPTS_MAX {
        match rustix::fs::openat2(&directory, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename elsewhere made it uncertain whether the path stayed inside.
            Err(rustix::io::Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// Makes one entry. One that appeared meanwhile is fine: it is examined like any other.
fn make_at(directory: BorrowedFd<'_>, name: &OsStr, kind: Make) -> io::Result<()> {
    let made = match kind {
        Make::Directory => rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755)),
        // mknod, unlike open, never follows a link and never opens what it finds.
        Make::File => rustix::fs::mknodat(
            directory,
            name,
            FileType::RegularFile,
            Mode::from_raw_mode(0o644),
            0,
        ),
    };
    match made {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Whether `file` is the character device `major`:`minor`.
pub(crate) fn is_character_device(file: &File, major: u32, minor: u32) -> io::Result<bool> {
    let data = file.metadata()?;
    Ok(data.file_type().is_char_device() && data.rdev() == rustix::fs::makedev(major, minor))
}

/// Whether `file` lies on a file system of the kind `magic` (statfs(2)).
pub(crate) fn is_on(file: impl AsFd, magic: u64) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(file)?.f_type as u64 == magic)
}

/// Number of the mount that `file` was reached through.
pub(crate) fn mount_id(file: impl AsFd) -> io::Result<u64> {
    use rustix::fs::{AtFlags, StatxFlags};
    let data = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    Ok(data.stx_mnt_id)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Tree {
        directory: tempfile::TempDir,
        root: Root,
    }

    impl Tree {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let inside = directory.path().join("root");
            std::fs::create_dir(&inside).unwrap();
            std::fs::create_dir(directory.path().join("canary")).unwrap();
            let root = rustix::fs::open(&inside, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
            Self {
                directory,
                root: root.into(),
            }
        }

        fn inside(&self, path: &str) -> std::path::PathBuf {
            self.directory.path().join("root").join(path)
        }

        fn canary_is_untouched(&self) {
            assert_eq!(
                std::fs::read_dir(self.directory.path().join("canary"))
                    .unwrap()
                    .count(),
                0
            );
        }
    }

    fn same(a: &OwnedFd, path: &Path) -> bool {
        let a = rustix::fs::fstat(a).unwrap();
        let b = rustix::fs::stat(path).unwrap();
        (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
    }

    #[test]
    fn makes_what_is_missing() {
        let tree = Tree::new();
        let made = tree.root.make(Path::new("/a/b/c"), Make::Directory).unwrap();
        assert!(same(&made, &tree.inside("a/b/c")));
        let made = tree.root.make(Path::new("a/b/f"), Make::File).unwrap();
        assert!(same(&made, &tree.inside("a/b/f")));
        assert!(tree.inside("a/b/f").is_file());
        let error = tree
            .root
            .make(Path::new("/a/b/f/g"), Make::Directory)
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR));
        let (parent, name) = tree.root.make_parent(Path::new("/x/y/z")).unwrap();
        assert!(same(&parent, &tree.inside("x/y")));
        assert_eq!(name, "z");
    }

    #[test]
    fn links_stay_inside() {
        let tree = Tree::new();
        let canary = tree.directory.path().join("canary");
        symlink(&canary, tree.inside("absolute")).unwrap();
        symlink("../canary", tree.inside("relative")).unwrap();
        symlink("../../../../../../..", tree.inside("up")).unwrap();
        for (link, name) in [("absolute", "f"), ("relative", "g"), ("up", "h")] {
            tree.root
                .make(&Path::new(link).join("d").join(name), Make::File)
                .unwrap();
            tree.canary_is_untouched();
        }
        assert!(tree.inside("canary/d/g").is_file());
        assert!(tree.inside("d/h").is_file());
        let below = canary.strip_prefix("/").unwrap().join("d/f");
        assert!(tree.inside(below.to_str().unwrap()).is_file());
    }

    #[test]
    fn dangling_and_circular_links() {
        let tree = Tree::new();
        std::fs::create_dir(tree.inside("etc")).unwrap();
        symlink("../run/resolve/stub.conf", tree.inside("etc/resolv.conf")).unwrap();
        let made = tree.root.make(Path::new("/etc/resolv.conf"), Make::File).unwrap();
        assert!(same(&made, &tree.inside("run/resolve/stub.conf")));
        symlink("b", tree.inside("a")).unwrap();
        symlink("a", tree.inside("b")).unwrap();
        let error = tree.root.make(Path::new("/a/x"), Make::File).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn plain_means_no_links() {
        let tree = Tree::new();
        std::fs::create_dir(tree.inside("real")).unwrap();
        symlink("real", tree.inside("link")).unwrap();
        assert!(tree.root.open(Path::new("/link"), OFlags::PATH).is_ok());
        let error = tree
            .root
            .open_plain(Path::new("/link"), OFlags::PATH)
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn magic_links_are_refused() {
        let root = Root::current().unwrap();
        let error = root.open(Path::new("/proc/self/cwd"), OFlags::PATH).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }
}
