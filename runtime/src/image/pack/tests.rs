//! Trees that are packed and unpacked again, here and by GNU tar. Needs root.

use std::{
    os::unix::{
        fs::{MetadataExt, symlink},
        net::UnixListener,
    },
    path::Path,
    process::Command,
};

use super::*;
use crate::image::{
    testing::{Item, Tar},
    unpack::{self, Whiteouts, unpack},
};

fn open(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

fn packed(path: &Path, options: &Options) -> Vec<u8> {
    let mut out = Vec::new();
    pack(open(path).as_fd(), &mut out, options).unwrap();
    out
}

fn unpacked(archive: &[u8], whiteouts: Whiteouts) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let options = unpack::Options {
        whiteouts,
        ..unpack::Options::default()
    };
    unpack(archive, open(dir.path()).as_fd(), &options).unwrap();
    dir
}

/// Everything about a tree that an archive keeps, with inodes numbered by first appearance.
fn describe(root: &Path) -> Vec<String> {
    fn visit(root: &Path, path: &Path, inodes: &mut Vec<u64>, out: &mut Vec<String>) {
        let meta = path.symlink_metadata().unwrap();
        let inode = inodes.iter().position(|i| *i == meta.ino()).unwrap_or_else(|| {
            inodes.push(meta.ino());
            inodes.len() - 1
        });
        let content = match () {
            () if meta.is_file() => format!("{:?}", std::fs::read(path).unwrap()),
            () if meta.is_symlink() => format!("{:?}", std::fs::read_link(path).unwrap()),
            () => String::new(),
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let fd = fs::open(path, flags, Mode::empty()).unwrap();
        out.push(format!(
            "{:?} #{inode} {:o} {}:{} {}.{} {} {:?} {content}",
            path.strip_prefix(root).unwrap(),
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.rdev(),
            xattr::read(&fd).unwrap(),
        ));
        if meta.is_dir() {
            let mut names: Vec<_> = std::fs::read_dir(path)
                .unwrap()
                .map(|e| e.unwrap().path())
                .collect();
            names.sort();
            for name in names {
                visit(root, &name, inodes, out);
            }
        }
    }
    let mut out = Vec::new();
    visit(root, root, &mut Vec::new(), &mut out);
    out
}

fn everything() -> tempfile::TempDir {
    let long = "n".repeat(200);
    let archive = Tar::new([
        Item::dir("./").mode(0o711).owner(7, 8).mtime(77),
        Item::dir("d")
            .mode(0o1777)
            .owner(1, 2)
            .mtime(1000)
            .xattr("user.dir", "1"),
        Item::dir("d/empty").mtime(5),
        Item::file("d/f", "data")
            .mode(0o6755)
            .owner(1000, 3_000_000)
            .pax("mtime", "1234.567891234")
            .xattr("trusted.x", "a\nb"),
        Item::file("d/zero", "").mtime(-7),
        Item::file(format!("d/{long}"), "x".repeat(1000)).mtime(1),
        Item::symlink("d/s", "/etc/passwd").owner(3, 4).mtime(77),
        Item::symlink("d/sl", "t".repeat(300)).mtime(77),
        Item::hard_link("a", "d/f"),
        Item::hard_link("hs", "d/s"),
        Item::device(b'3', "null", 1, 3).mode(0o666),
        Item::device(b'4', "sda", 8, 1000).mode(0o660),
        Item::new(b'6', "fifo").mode(0o622),
        Item::file("odd \n\t\\\u{ff}name", "x"),
        Item::file("d.txt", "sorts before what is in d"),
    ])
    .finish();
    unpacked(&archive, Whiteouts::Overlay)
}

#[test]
fn trees_survive_the_round_trip() {
    let tree = everything();
    let options = Options {
        root: Some(b"./".to_vec()),
        nanoseconds: true,
        ..Options::default()
    };
    let archive = packed(tree.path(), &options);
    let copy = unpacked(&archive, Whiteouts::Overlay);
    assert_eq!(describe(copy.path()), describe(tree.path()));
    assert_eq!(packed(copy.path(), &options), archive);
}

#[test]
fn gnu_tar_reads_the_same() {
    let tree = everything();
    let options = Options {
        root: Some(b"./".to_vec()),
        nanoseconds: true,
        ..Options::default()
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), packed(tree.path(), &options)).unwrap();
    let copy = tempfile::tempdir().unwrap();
    let status = Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf"])
        .arg(file.path())
        .arg("-C")
        .arg(copy.path())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(describe(copy.path()), describe(tree.path()));
}

#[test]
fn what_gnu_tar_writes_is_read() {
    let tree = everything();
    std::fs::write(tree.path().join("sparse"), "").unwrap();
    let sparse = File::options()
        .write(true)
        .open(tree.path().join("sparse"))
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 3_000_000).unwrap();
    let formats: [&[&str]; 5] = [
        &["--format=posix"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
        &["--format=gnu", "--sparse"],
    ];
    for format in formats {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new("tar");
        command.args(format);
        if format[0] == "--format=posix" {
            command.args(["--xattrs", "--xattrs-include=*"]);
        }
        let status = command
            .arg("-cf")
            .arg(file.path())
            .arg("-C")
            .arg(tree.path())
            .arg(".")
            .status()
            .unwrap();
        assert!(status.success());
        let copy = unpacked(&std::fs::read(file.path()).unwrap(), Whiteouts::Overlay);
        if format[0] == "--format=posix" {
            assert_eq!(describe(copy.path()), describe(tree.path()), "{format:?}");
        }
        assert_eq!(
            std::fs::metadata(copy.path().join("sparse")).unwrap().len(),
            3_000_003
        );
        let sparse = std::fs::read(copy.path().join("sparse")).unwrap();
        assert!(
            sparse.starts_with(b"\0\0") && sparse.ends_with(b"\0end"),
            "{format:?}"
        );
        if format.contains(&"--sparse") {
            assert!(std::fs::metadata(copy.path().join("sparse")).unwrap().blocks() < 100);
        }
    }
}

#[test]
fn an_upper_directory_becomes_a_layer() {
    let layer = Tar::new([
        Item::dir("d"),
        Item::file("d/.wh.gone", ""),
        Item::dir("o"),
        Item::file("o/.wh..wh..opq", ""),
        Item::file("o/new", "x"),
    ])
    .finish();
    let tree = unpacked(&layer, Whiteouts::Overlay);
    let options = Options {
        overlay: true,
        ..Options::default()
    };
    let archive = packed(tree.path(), &options);
    let plain = unpacked(&archive, Whiteouts::Literal);
    for name in ["d/.wh.gone", "o/.wh..wh..opq", "o/new"] {
        assert!(plain.path().join(name).is_file(), "{name}");
    }
    let again = unpacked(&archive, Whiteouts::Overlay);
    assert_eq!(packed(again.path(), &options), archive);
    assert!(xattr::is_opaque(open(&again.path().join("o"))).unwrap());
}

#[test]
fn names_of_roots_single_entries_and_sockets() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("sub/f"), "data").unwrap();
    symlink("f", dir.path().join("sub/l")).unwrap();
    let _socket = UnixListener::bind(dir.path().join("sub/socket")).unwrap();
    let options = Options {
        root: Some(b"as".to_vec()),
        ..Options::default()
    };
    let copy = unpacked(&packed(&dir.path().join("sub"), &options), Whiteouts::Literal);
    let names: Vec<_> = describe(copy.path())
        .iter()
        .map(|l| l.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["\"\"", "\"as\"", "\"as/f\"", "\"as/l\""]);
    let parent = open(&dir.path().join("sub"));
    let mut out = Vec::new();
    pack_one(parent.as_fd(), b"l", b"other", &mut out, &Options::default()).unwrap();
    let copy = unpacked(&out, Whiteouts::Literal);
    assert_eq!(
        std::fs::read_link(copy.path().join("other")).unwrap(),
        Path::new("f")
    );
    let error = pack_one(parent.as_fd(), b"none", b"other", Vec::new(), &Options::default()).unwrap_err();
    assert_eq!(error.kind(), crate::Kind::NotFound);
}
