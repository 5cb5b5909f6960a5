//! A directory tree reached only through a descriptor of its root: nothing in it can lead outside.

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags},
    io::Errno,
};

use super::path::RelPath;

/// `bytes` as a path for a system call.
pub fn os(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Opens what `path` names below `root`, resolving symbolic links as if `root` were `/`.
///
/// # Errors
/// As openat2(2).
pub fn open_in_root(root: BorrowedFd<'_>, path: &RelPath, flags: OFlags) -> Result<OwnedFd, Errno> {
    resolve(
        root,
        path,
        flags,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Opens what `path` names below `root` without following any symbolic link.
///
/// # Errors
/// As openat2(2); `ELOOP` if there is a symbolic link on the way.
pub fn open_beneath(root: BorrowedFd<'_>, path: &RelPath, flags: OFlags) -> Result<OwnedFd, Errno> {
    resolve(
        root,
        path,
        flags,
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )
}

fn resolve(
    root: BorrowedFd<'_>,
    path: &RelPath,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let name = if path.is_root() { b"." } else { path.as_bytes() };
    loop {
        match fs::openat2(root, os(name), flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename elsewhere on the system raced with the walk.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Opens the directory `name`, one component, in `parent`; a symbolic link there is refused.
///
/// # Errors
/// As openat(2); `ENOTDIR` for everything but a directory.
pub fn open_subdir(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(parent, os(name), flags, Mode::empty())
}

/// What `name`, one component, in `parent` is; `None` if there is nothing. Symbolic links are not followed.
///
/// # Errors
/// As fstatat(2).
pub fn stat(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Option<fs::Stat>, Errno> {
    match fs::statat(parent, os(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The type of file that `stat` describes.
pub fn file_type(stat: &fs::Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Whether `stat` describes an overlayfs whiteout: a character device 0:0.
pub fn is_whiteout(stat: &fs::Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// A path that names exactly the file behind `fd`, for calls that have no variant for descriptors opened with O_PATH.
pub fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Removes `name`, one component, in `parent`, with all that is below it if it is a directory. Nothing there is fine.
///
/// Needs three descriptors whatever the depth: directories found inside are first moved up to the top one.
///
/// # Errors
/// As unlinkat(2), openat(2), renameat2(2).
pub fn remove_all(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match fs::unlinkat(parent, os(name), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e),
    }
    let top = match open_subdir(parent, name) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(e),
    };
    let mut moved = 0_u64;
    while let Some(sub) = empty_files(top.as_fd(), top.as_fd(), &mut moved)? {
        let dir = open_subdir(top.as_fd(), &sub)?;
        empty_files(dir.as_fd(), top.as_fd(), &mut moved)?;
        fs::unlinkat(&top, os(&sub), AtFlags::REMOVEDIR)?;
    }
    match fs::unlinkat(parent, os(name), AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Removes the files in `dir` and moves its directories to `top`. If `dir` is `top` itself, its directories stay and
/// one of them is returned.
fn empty_files(dir: BorrowedFd<'_>, top: BorrowedFd<'_>, moved: &mut u64) -> Result<Option<Vec<u8>>, Errno> {
    let is_top = dir.as_raw_fd() == top.as_raw_fd();
    for name in list(dir)? {
        match fs::unlinkat(dir, os(&name), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) if is_top => return Ok(Some(name)),
            Err(Errno::ISDIR | Errno::PERM) => move_up(dir, &name, top, moved)?,
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

fn move_up(dir: BorrowedFd<'_>, name: &[u8], top: BorrowedFd<'_>, moved: &mut u64) -> Result<(), Errno> {
    loop {
        *moved += 1;
        let target = format!(".removed-{moved}");
        match fs::renameat_with(dir, os(name), top, target.as_str(), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            result => return result,
        }
    }
}

/// The names in the directory `dir`, unsorted, without `.` and `..`.
///
/// # Errors
/// As getdents64(2).
pub fn list(dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::{fs as std_fs, os::unix::fs::symlink};

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        std_fs::File::open(path).unwrap().into()
    }

    #[test]
    fn removes_deep_trees_and_nothing_behind_links() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std_fs::create_dir(&outside).unwrap();
        std_fs::write(outside.join("file"), "kept").unwrap();
        let mut deep = dir.path().join("tree");
        std_fs::create_dir(&deep).unwrap();
        symlink(&outside, deep.join("link")).unwrap();
        for level in 0..1500 {
            deep.push(if level % 100 == 7 { ".removed-1" } else { "d" });
            std_fs::create_dir(&deep).unwrap();
            if level % 100 == 0 {
                std_fs::write(deep.join("f"), "x").unwrap();
            }
        }
        let root = open(dir.path());
        remove_all(root.as_fd(), b"tree").unwrap();
        remove_all(root.as_fd(), b"tree").unwrap();
        assert_eq!(list(root.as_fd()).unwrap(), [b"outside"]);
        assert!(outside.join("file").exists());
    }

    #[test]
    fn resolution_stays_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root_path = dir.path().join("root");
        std_fs::create_dir_all(root_path.join("etc")).unwrap();
        std_fs::write(root_path.join("etc/name"), "inside").unwrap();
        std_fs::write(dir.path().join("name"), "outside").unwrap();
        symlink("/etc", root_path.join("abs")).unwrap();
        symlink("../../../etc", root_path.join("up")).unwrap();
        let root = open(&root_path);
        for path in ["abs/name", "up/name"] {
            let path = RelPath::clean(path.as_bytes()).unwrap();
            let fd = open_in_root(root.as_fd(), &path, OFlags::RDONLY).unwrap();
            assert_eq!(std::io::read_to_string(std_fs::File::from(fd)).unwrap(), "inside");
            assert_eq!(
                open_beneath(root.as_fd(), &path, OFlags::RDONLY).unwrap_err(),
                Errno::LOOP
            );
        }
    }
}
