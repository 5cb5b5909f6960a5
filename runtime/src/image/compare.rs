//! Whether two trees of files are the same layer.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{path::RelPath, tree, xattr};

const BUFFER: usize = 128 << 10;

/// Where `actual` is not what it should be, in words; `None` if it is the same in all that an archive tells of a file.
/// The root directories themselves are not compared, for many archives don't tell of them, and neither are the times of
/// directories.
///
/// # Errors
/// If something cannot be read.
pub fn difference(expected: BorrowedFd<'_>, actual: BorrowedFd<'_>) -> io::Result<Option<String>> {
    let mut left = vec![RelPath::default()];
    while let Some(path) = left.pop() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dirs = (
            tree::open_beneath(expected, &path, flags)?,
            tree::open_beneath(actual, &path, flags)?,
        );
        let mut names = tree::list(dirs.0.as_fd())?;
        let mut others = tree::list(dirs.1.as_fd())?;
        names.sort_unstable();
        others.sort_unstable();
        if let Some(name) = others.iter().find(|name| names.binary_search(name).is_err()) {
            return Ok(Some(format!(
                "{} does not belong there",
                path.join(name).display()
            )));
        }
        for name in names {
            let path = path.join(&name);
            let (Some(a), Some(b)) = (
                tree::stat(dirs.0.as_fd(), &name)?,
                tree::stat(dirs.1.as_fd(), &name)?,
            ) else {
                return Ok(Some(format!("{} is missing", path.display())));
            };
            if let Some(what) = differs((dirs.0.as_fd(), &a), (dirs.1.as_fd(), &b), &name)? {
                return Ok(Some(format!("{} has another {what}", path.display())));
            }
            if tree::file_type(&a) == FileType::Directory {
                left.push(path);
            }
        }
    }
    Ok(None)
}

fn differs(
    (expected, a): (BorrowedFd<'_>, &Stat),
    (actual, b): (BorrowedFd<'_>, &Stat),
    name: &[u8],
) -> io::Result<Option<&'static str>> {
    let kind = tree::file_type(a);
    let is_dir = kind == FileType::Directory;
    let plain = [
        ("type", kind == tree::file_type(b)),
        ("mode", a.st_mode == b.st_mode),
        ("owner", (a.st_uid, a.st_gid) == (b.st_uid, b.st_gid)),
        ("device number", a.st_rdev == b.st_rdev),
        ("size", is_dir || a.st_size == b.st_size),
        ("time", is_dir || tree::is_whiteout(a) || a.st_mtime == b.st_mtime),
    ];
    if let Some((what, _)) = plain.iter().find(|(_, same)| !same) {
        return Ok(Some(what));
    }
    match kind {
        FileType::Symlink => {
            let target = |dir| rustix::fs::readlinkat(dir, tree::os(name), Vec::new());
            return Ok((target(expected)? != target(actual)?).then_some("target"));
        }
        FileType::RegularFile | FileType::Directory => {}
        _ => return Ok(None),
    }
    let open = |dir| -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::openat(dir, tree::os(name), flags, Mode::empty())
    };
    let (mut a, mut b) = (File::from(open(expected)?), File::from(open(actual)?));
    if xattr::read(&a)? != xattr::read(&b)? || xattr::is_opaque(&a)? != xattr::is_opaque(&b)? {
        return Ok(Some("set of attributes"));
    }
    Ok((!is_dir && !same_content(&mut a, &mut b)?).then_some("content"))
}

fn same_content(a: &mut File, b: &mut File) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        let n = a.read(&mut left)?;
        let (Some(left), Some(right)) = (left.get(..n), right.get_mut(..n)) else {
            return Ok(false);
        };
        if n == 0 {
            return Ok(b.read(&mut [0])? == 0);
        }
        match b.read_exact(right) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            result => result?,
        }
        if left != right {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{PermissionsExt, symlink},
        path::Path,
        time::{Duration, SystemTime},
    };

    use super::*;

    fn make(root: &Path) {
        fs::create_dir_all(root.join("dir/sub")).unwrap();
        fs::write(root.join("dir/file"), vec![5; 3 * BUFFER]).unwrap();
        symlink("file", root.join("dir/link")).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let file = File::options().write(true).open(root.join("dir/file")).unwrap();
        file.set_modified(time).unwrap();
        let times = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            },
            last_modification: rustix::fs::Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            },
        };
        let link = root.join("dir/link");
        rustix::fs::utimensat(
            rustix::fs::CWD,
            &link,
            &times,
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )
        .unwrap();
    }

    #[test]
    fn every_difference_is_named() {
        type Change = fn(&Path);
        let changes: [(Change, &str); 6] = [
            (
                |root| fs::write(root.join("more"), "").unwrap(),
                "more does not belong there",
            ),
            (
                |root| fs::remove_dir(root.join("dir/sub")).unwrap(),
                "dir/sub is missing",
            ),
            (
                |root| {
                    let file = File::options().write(true).open(root.join("dir/file")).unwrap();
                    let time = file.metadata().unwrap().modified().unwrap();
                    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 2 * BUFFER as u64).unwrap();
                    file.set_modified(time).unwrap();
                },
                "dir/file has another content",
            ),
            (
                |root| fs::set_permissions(root.join("dir/file"), Permissions::from_mode(0o4755)).unwrap(),
                "dir/file has another mode",
            ),
            (
                |root| std::os::unix::fs::chown(root.join("dir"), Some(7), None).unwrap(),
                "dir has another owner",
            ),
            (
                |root| {
                    fs::remove_file(root.join("dir/link")).unwrap();
                    fs::write(root.join("dir/link"), "file").unwrap();
                },
                "dir/link has another type",
            ),
        ];
        for (change, said) in changes {
            let roots = [(), ()].map(|()| tempfile::tempdir().unwrap());
            roots.iter().for_each(|root| make(root.path()));
            let [a, b] = [0, 1].map(|at| File::open(roots[at].path()).unwrap());
            assert_eq!(difference(a.as_fd(), b.as_fd()).unwrap(), None);
            change(roots[1].path());
            let found = difference(a.as_fd(), b.as_fd()).unwrap();
            assert_eq!(found.as_deref(), Some(said));
        }
    }
}
