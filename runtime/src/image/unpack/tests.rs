//! The extractor on real file systems: what it makes, and what it refuses to make. Needs root.

use std::{
    fs::File,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use super::*;
use crate::image::testing::{Item, Tar};

/// A target directory with a canary beside it, which no archive may touch.
struct Ground {
    dir: tempfile::TempDir,
    before: Vec<String>,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("layer")).unwrap();
        let canary = dir.path().join("canary");
        std::fs::create_dir_all(canary.join("dir")).unwrap();
        std::fs::write(canary.join("file"), "canary").unwrap();
        std::fs::write(canary.join("dir/file"), "canary").unwrap();
        std::os::unix::fs::symlink("file", canary.join("link")).unwrap();
        let before = fingerprint(&canary);
        Self { dir, before }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("layer")
    }

    fn canary(&self) -> String {
        self.dir.path().join("canary").to_str().unwrap().to_owned()
    }

    fn unpack_with(&self, tar: Tar, options: &Options) -> Result<Outcome> {
        let root: OwnedFd = File::open(self.root()).unwrap().into();
        let result = unpack(&tar.finish()[..], root.as_fd(), options);
        self.check();
        result
    }

    fn unpack(&self, tar: Tar) -> Result<Outcome> {
        self.unpack_with(tar, &Options::default())
    }

    fn check(&self) {
        assert_eq!(
            fingerprint(&self.dir.path().join("canary")),
            self.before,
            "the canary was touched"
        );
        let mut names: Vec<_> = std::fs::read_dir(self.dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["canary", "layer"]);
    }

    fn meta(&self, path: &str) -> std::fs::Metadata {
        std::fs::symlink_metadata(self.root().join(path)).unwrap()
    }

    fn xattrs(&self, path: &str) -> Vec<(String, Vec<u8>)> {
        let all = xattr::read(File::open(self.root().join(path)).unwrap()).unwrap();
        all.into_iter()
            .map(|x| (String::from_utf8(x.name).unwrap(), x.value))
            .collect()
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.root().join(path)).unwrap()
    }

    fn exists(&self, path: &str) -> bool {
        self.root().join(path).symlink_metadata().is_ok()
    }

    fn is_whiteout(&self, path: &str) -> bool {
        let meta = self.meta(path);
        meta.file_type().is_char_device() && meta.rdev() == 0
    }

    fn is_opaque(&self, path: &str) -> bool {
        xattr::is_opaque(File::open(self.root().join(path)).unwrap()).unwrap()
    }
}

/// Everything about a tree that must not change.
fn fingerprint(path: &Path) -> Vec<String> {
    let meta = std::fs::symlink_metadata(path).unwrap();
    let content = if meta.is_file() {
        std::fs::read_to_string(path).unwrap()
    } else {
        String::new()
    };
    let mut all = vec![format!(
        "{} {} {:o} {}:{} {} {}.{} {}.{} {content}",
        path.display(),
        meta.ino(),
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.nlink(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec()
    )];
    if meta.is_dir() {
        let mut names: Vec<_> = std::fs::read_dir(path)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        names.sort();
        all.extend(names.iter().flat_map(|name| fingerprint(name)));
    }
    all
}

#[test]
fn makes_every_kind_with_its_attributes() {
    let ground = Ground::new();
    let outcome = ground
        .unpack(Tar::new([
            Item::dir("./").mode(0o711).owner(7, 8),
            Item::dir("d")
                .mode(0o1777)
                .owner(1, 2)
                .mtime(1000)
                .xattr("user.dir", "1"),
            Item::file("d/f", "data")
                .mode(0o6755)
                .owner(1000, 2000)
                .pax("mtime", "1234.567891234")
                .xattr("user.a", "b")
                .xattr("trusted.x", "y"),
            Item::symlink("d/s", "/etc/passwd").owner(3, 4).mtime(77),
            Item::hard_link("d/h", "/d/f"),
            Item::hard_link("d/hs", "d/s"),
            Item::device(b'3', "null", 1, 3).mode(0o666),
            Item::device(b'4', "sda", 8, 0).mode(0o660).owner(0, 6),
            Item::new(b'6', "fifo").mode(0o622),
        ]))
        .unwrap();
    assert_eq!((outcome.size, outcome.is_self_contained()), (4, true));
    let root = ground.meta("");
    assert_eq!((root.mode() & 0o7777, root.uid(), root.gid()), (0o711, 7, 8));
    let dir = ground.meta("d");
    assert_eq!(
        (dir.mode() & 0o7777, dir.uid(), dir.gid(), dir.mtime()),
        (0o1777, 1, 2, 1000)
    );
    let file = ground.meta("d/f");
    assert_eq!(
        (file.mode() & 0o7777, file.uid(), file.gid()),
        (0o6755, 1000, 2000)
    );
    assert_eq!(
        (file.mtime(), file.mtime_nsec(), file.nlink()),
        (1234, 567_891_234, 2)
    );
    assert_eq!(file.ino(), ground.meta("d/h").ino());
    let attributes = ground.xattrs("d/f");
    assert_eq!(
        attributes,
        [
            ("trusted.x".to_owned(), b"y".to_vec()),
            ("user.a".to_owned(), b"b".to_vec())
        ]
    );
    let link = ground.meta("d/s");
    assert_eq!(
        (link.uid(), link.gid(), link.mtime(), link.nlink()),
        (3, 4, 77, 2)
    );
    assert_eq!(
        std::fs::read_link(ground.root().join("d/hs")).unwrap(),
        Path::new("/etc/passwd")
    );
    let null = ground.meta("null");
    assert!(null.file_type().is_char_device());
    assert_eq!(
        (null.rdev(), null.mode() & 0o7777),
        (rustix::fs::makedev(1, 3), 0o666)
    );
    let sda = ground.meta("sda");
    assert!(sda.file_type().is_block_device());
    assert_eq!((sda.mode() & 0o7777, sda.gid()), (0o660, 6));
    assert!(ground.meta("fifo").file_type().is_fifo());
    assert_eq!(ground.meta("fifo").mode() & 0o7777, 0o622);
}

#[test]
fn capabilities_survive_the_change_of_owner() {
    let ground = Ground::new();
    // VFS_CAP_REVISION_2 with cap_net_raw; the value holds a newline on purpose elsewhere, see the PAX tests.
    let value = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    ground
        .unpack(Tar::new([Item::file("ping", "x")
            .owner(5, 5)
            .mode(0o755)
            .xattr("security.capability", value)]))
        .unwrap();
    let attributes = ground.xattrs("ping");
    assert_eq!(attributes, [("security.capability".to_owned(), value.to_vec())]);
}

#[test]
fn sparse_files_keep_their_holes() {
    let ground = Ground::new();
    let item = Item::file("s", "abcde")
        .pax("GNU.sparse.size", "100000000")
        .pax("GNU.sparse.map", "0,3,50000000,2");
    assert_eq!(ground.unpack(Tar::new([item])).unwrap().size, 5);
    let meta = ground.meta("s");
    assert_eq!(meta.len(), 100_000_000);
    assert!(meta.blocks() * 512 < 1 << 20);
    assert_eq!(
        &std::fs::read(ground.root().join("s")).unwrap()[50_000_000..50_000_003],
        b"de\0"
    );
}

#[test]
fn later_entries_replace_earlier_ones() {
    let ground = Ground::new();
    ground
        .unpack(Tar::new([
            Item::file("a", "1"),
            Item::file("a", "2"),
            Item::symlink("l", "a"),
            Item::file("l", "own"),
            Item::dir("d"),
            Item::file("d/x", "x"),
            Item::file("d", "file"),
            Item::file("f", "x"),
            Item::dir("f").mode(0o700),
            Item::symlink("dl", "f"),
            Item::dir("dl").mode(0o750),
            Item::dir("f").mode(0o711),
        ]))
        .unwrap();
    assert_eq!(
        (ground.read("a"), ground.read("l"), ground.read("d")),
        ("2".into(), "own".into(), "file".into())
    );
    assert_eq!(ground.meta("f").mode() & 0o777, 0o711);
    assert!(ground.meta("dl").is_dir());
}

#[test]
fn whiteouts_become_overlayfs_ones() {
    let ground = Ground::new();
    let outcome = ground
        .unpack(Tar::new([
            Item::dir("d"),
            Item::file("d/.wh.gone", ""),
            Item::hard_link("d/.wh.too", "d/.wh.gone"),
            Item::dir("o"),
            Item::file("o/own", "1"),
            Item::file("o/.wh..wh..opq", ""),
            Item::file("o/later", "2"),
            Item::file(".wh..wh.aufs", ""),
            Item::dir(".wh..wh.plnk"),
            Item::file(".wh..wh.plnk/1.2", ""),
            // Hidden below and new here, in both orders.
            Item::file(".wh.new1", ""),
            Item::dir("new1"),
            Item::dir("new2"),
            Item::file(".wh.new2", ""),
            Item::file(".wh.new3", ""),
            Item::file("new3", "3"),
            Item::file("new4", "4"),
            Item::file(".wh.new4", ""),
            Item::file(".wh.implied", ""),
            Item::file("implied/f", "5"),
        ]))
        .unwrap();
    assert!(ground.is_whiteout("d/gone") && ground.is_whiteout("d/too"));
    assert!(ground.is_opaque("o") && !ground.is_opaque("d"));
    assert_eq!(ground.read("o/own") + &ground.read("o/later"), "12");
    assert!(!ground.exists(".wh..wh.aufs") && !ground.exists(".wh..wh.plnk"));
    assert!(ground.is_opaque("new1") && ground.is_opaque("new2") && ground.is_opaque("implied"));
    assert_eq!(
        ground.read("new3") + &ground.read("new4") + &ground.read("implied/f"),
        "345"
    );
    assert!(!outcome.root_opaque);
    assert!(
        ground
            .unpack(Tar::new([Item::file(".wh..wh..opq", "")]))
            .unwrap()
            .root_opaque
    );
}

#[test]
fn whiteouts_are_plain_names_in_plain_directories() {
    let ground = Ground::new();
    let options = Options {
        whiteouts: Whiteouts::Literal,
        owner: Some((12, 13)),
        ..Options::default()
    };
    ground
        .unpack_with(
            Tar::new([Item::file("a/.wh.x", "1"), Item::file("a/.wh..wh..opq", "2")]),
            &options,
        )
        .unwrap();
    assert_eq!(ground.read("a/.wh.x") + &ground.read("a/.wh..wh..opq"), "12");
    assert_eq!((ground.meta("a").uid(), ground.meta("a/.wh.x").gid()), (12, 13));
}

#[test]
fn kinds_are_kept_on_demand() {
    let ground = Ground::new();
    ground
        .unpack(Tar::new([Item::dir("d"), Item::file("f", "x")]))
        .unwrap();
    let options = Options {
        keep_kinds: true,
        ..Options::default()
    };
    let error = ground
        .unpack_with(Tar::new([Item::dir("f")]), &options)
        .unwrap_err();
    assert!(error.message().starts_with("cannot overwrite non-directory"));
    let error = ground
        .unpack_with(Tar::new([Item::file("d", "x")]), &options)
        .unwrap_err();
    assert!(error.message().starts_with("cannot overwrite directory"));
    ground
        .unpack_with(Tar::new([Item::dir("d"), Item::file("f", "y")]), &options)
        .unwrap();
    assert_eq!(ground.read("f"), "y");
}

#[test]
fn overlay_attributes_are_dropped() {
    let ground = Ground::new();
    ground
        .unpack(Tar::new([
            Item::dir("d")
                .xattr("trusted.overlay.opaque", "y")
                .xattr("trusted.overlay.redirect", "/../..")
                .xattr("user.overlay.opaque", "y")
                .xattr("user.kept", "1"),
            Item::file("f", "x")
                .xattr("trusted.overlay.metacopy", "")
                .xattr("trusted.overlay.origin", "x"),
        ]))
        .unwrap();
    let all = |path: &str| {
        let mut names = [0_u8; 1024];
        let path = ground.root().join(path);
        let n = rustix::fs::listxattr(&path, &mut names[..]).unwrap();
        String::from_utf8_lossy(&names[..n]).into_owned()
    };
    assert_eq!((all("d"), all("f")), ("user.kept\0".to_owned(), String::new()));
}

#[test]
fn missing_parents_come_from_below() {
    let below = Ground::new();
    below
        .unpack(Tar::new([
            Item::dir("tmp")
                .mode(0o1777)
                .owner(9, 9)
                .mtime(99)
                .xattr("user.x", "y"),
            Item::file("tmp/target", "linked").mode(0o4755).mtime(5),
            Item::dir("hidden").mode(0o700),
        ]))
        .unwrap();
    let middle = Ground::new();
    middle.unpack(Tar::new([Item::file(".wh.hidden", "")])).unwrap();
    let top = Ground::new();
    let outcome = top
        .unpack(Tar::new([
            Item::file("tmp/new", "x"),
            Item::file("hidden/new", "x"),
            Item::file("nowhere/new", "x"),
            Item::dir("d").mtime(42),
            Item::hard_link("d/link", "tmp/target"),
            Item::hard_link("d/again", "d/link"),
            Item::hard_link("gone", "tmp/missing"),
            Item::file("gone", "replaced"),
        ]))
        .unwrap();
    assert_eq!(outcome.implied.len(), 3);
    assert_eq!(outcome.links_below.len(), 2);
    let stack: Vec<OwnedFd> = [&middle, &below]
        .map(|g| File::open(g.root()).unwrap().into())
        .into();
    let root = File::open(top.root()).unwrap();
    settle(root.as_fd(), &outcome, &stack).unwrap();
    let tmp = top.meta("tmp");
    assert_eq!((tmp.mode() & 0o7777, tmp.uid(), tmp.mtime()), (0o1777, 9, 99));
    assert_eq!(top.xattrs("tmp").len(), 1);
    assert_eq!(
        (
            top.meta("hidden").mode() & 0o777,
            top.meta("nowhere").mode() & 0o777
        ),
        (0o755, 0o755)
    );
    assert_eq!(top.read("d/link"), "linked");
    assert_eq!(
        (top.meta("d/link").ino(), top.meta("d/link").mode() & 0o7777),
        (top.meta("d/again").ino(), 0o4755)
    );
    assert_eq!(
        (top.meta("d").mtime(), top.read("gone").as_str()),
        (42, "replaced")
    );
    let outcome = top.unpack(Tar::new([Item::hard_link("bad", "nothing")])).unwrap();
    assert_eq!(
        settle(root.as_fd(), &outcome, &stack).unwrap_err().kind(),
        crate::Kind::Invalid
    );
}

/// Archives that reach for what is outside. Each is refused, or confined to the layer; the canary never changes.
#[test]
fn hostile_archives() {
    type Case = (&'static str, fn(&str) -> Vec<Item>, bool);
    let refused = false;
    let confined = true;
    let cases: &[Case] = &[
        ("parent", |_| vec![Item::file("../canary/file", "x")], refused),
        (
            "parent of a directory",
            |_| vec![Item::dir("../canary").mode(0o777)],
            refused,
        ),
        (
            "parent in the middle",
            |_| vec![Item::file("a/../../canary/file", "x")],
            refused,
        ),
        ("parent at the end", |_| vec![Item::dir("a/../..")], refused),
        (
            "parent after the root",
            |_| vec![Item::file("/../canary/file", "x")],
            refused,
        ),
        (
            "many parents",
            |_| vec![Item::file("../".repeat(60) + "etc/x", "x")],
            refused,
        ),
        (
            "parent in PAX",
            |_| vec![Item::file("a", "x").pax("path", "../canary/file")],
            refused,
        ),
        ("cleaned parent", |_| vec![Item::file("a/../b", "x")], confined),
        (
            "absolute",
            |c| vec![Item::file(format!("{c}/file"), "x")],
            confined,
        ),
        ("absolute directory", |c| vec![Item::dir(c).mode(0o777)], confined),
        (
            "doubled slashes",
            |c| vec![Item::file(format!("//{c}//file"), "x")],
            confined,
        ),
        (
            "absolute link, then file",
            |c| vec![Item::symlink("l", c), Item::file("l/file", "x")],
            refused,
        ),
        (
            "relative link, then file",
            |_| vec![Item::symlink("l", "../canary"), Item::file("l/file", "x")],
            refused,
        ),
        (
            "link to the root, then file",
            |_| vec![Item::symlink("l", "/"), Item::file("l/file", "x")],
            confined,
        ),
        (
            "link up, then file",
            |_| vec![Item::symlink("l", "../../.."), Item::file("l/file", "x")],
            confined,
        ),
        (
            "link to dot, then file",
            |_| vec![Item::symlink("l", "."), Item::file("l/file", "x")],
            confined,
        ),
        (
            "link, then the same name as a file",
            |c| vec![Item::symlink("l", format!("{c}/file")), Item::file("l", "x")],
            confined,
        ),
        (
            "link, then the same name as a directory",
            |c| vec![Item::symlink("l", c), Item::dir("l").mode(0o777).mtime(1)],
            confined,
        ),
        (
            "directory, then link in its place",
            |c| vec![Item::dir("d").mtime(1), Item::symlink("d", c)],
            confined,
        ),
        (
            "directory, link, file below",
            |c| {
                vec![
                    Item::dir("d"),
                    Item::file("d/a", "x"),
                    Item::symlink("d", c),
                    Item::file("d/file", "x"),
                ]
            },
            refused,
        ),
        (
            "link, then device",
            |c| vec![Item::symlink("l", c), Item::device(b'3', "l/null", 1, 3)],
            refused,
        ),
        (
            "link, then fifo in its place",
            |c| vec![Item::symlink("l", format!("{c}/file")), Item::new(b'6', "l")],
            confined,
        ),
        (
            "link, then link below",
            |c| vec![Item::symlink("l", c), Item::symlink("l/file", "x")],
            refused,
        ),
        (
            "link, then hard link below",
            |c| {
                vec![
                    Item::file("f", "x"),
                    Item::symlink("l", c),
                    Item::hard_link("l/file", "f"),
                ]
            },
            refused,
        ),
        (
            "chain of links",
            |c| {
                let mut items: Vec<_> = (1..40)
                    .map(|n| Item::symlink(format!("l{n}"), format!("l{}", n - 1)))
                    .collect();
                items.push(Item::symlink("l0", c));
                items.push(Item::file("l39/file", "x"));
                items
            },
            refused,
        ),
        (
            "link loop",
            |_| {
                vec![
                    Item::symlink("a", "b"),
                    Item::symlink("b", "a"),
                    Item::file("a/f", "x"),
                ]
            },
            refused,
        ),
        (
            "link to itself",
            |_| vec![Item::symlink("a", "a"), Item::file("a/f", "x")],
            refused,
        ),
        (
            "dangling link",
            |_| vec![Item::symlink("a", "nowhere"), Item::file("a/f", "x")],
            refused,
        ),
        (
            "file as a parent",
            |_| vec![Item::file("a", "x"), Item::file("a/f", "x")],
            refused,
        ),
        (
            "hard link outside, absolute",
            |c| vec![Item::hard_link("h", format!("{c}/file"))],
            confined,
        ),
        (
            "hard link outside, relative",
            |_| vec![Item::hard_link("h", "../canary/file")],
            refused,
        ),
        (
            "hard link through a link",
            |c| {
                vec![
                    Item::symlink("l", c),
                    Item::hard_link("h", "l/file"),
                    Item::file("h", "x"),
                ]
            },
            confined,
        ),
        (
            "hard link to a link, then file",
            |c| {
                vec![
                    Item::symlink("l", format!("{c}/file")),
                    Item::hard_link("h", "l"),
                    Item::file("h", "x"),
                ]
            },
            confined,
        ),
        (
            "hard link to a link, then mode",
            |c| {
                vec![
                    Item::symlink("l", c),
                    Item::hard_link("h", "l"),
                    Item::dir("h").mode(0o777),
                ]
            },
            confined,
        ),
        (
            "hard link to a directory",
            |_| vec![Item::dir("d"), Item::hard_link("h", "d")],
            refused,
        ),
        (
            "hard link to the root",
            |_| vec![Item::hard_link("h", ".")],
            refused,
        ),
        (
            "hard link to itself",
            |_| vec![Item::file("h", "x"), Item::hard_link("h", "./h")],
            refused,
        ),
        (
            "hard link to nothing",
            |_| vec![Item::hard_link("h", "")],
            refused,
        ),
        (
            "hard link to a whiteout",
            |_| vec![Item::file(".wh.w", ""), Item::hard_link("h", "w")],
            refused,
        ),
        (
            "hard link into what it replaces",
            |_| {
                vec![
                    Item::dir("d"),
                    Item::file("d/f", "x"),
                    Item::hard_link("d", "d/f"),
                ]
            },
            confined,
        ),
        ("link without a target", |_| vec![Item::symlink("l", "")], refused),
        (
            "link with a long target",
            |_| vec![Item::symlink("l", "t/".repeat(3000))],
            refused,
        ),
        (
            "whiteout device",
            |_| vec![Item::device(b'3', "w", 0, 0)],
            refused,
        ),
        (
            "huge device number",
            |_| vec![Item::device(b'4', "w", 4096, 0)],
            refused,
        ),
        ("whiteout of nothing", |_| vec![Item::file(".wh.", "")], refused),
        ("whiteout of dot", |_| vec![Item::file(".wh..", "")], refused),
        ("whiteout of dot dot", |_| vec![Item::file(".wh...", "")], refused),
        (
            "whiteout of dot dot below",
            |_| vec![Item::dir("d"), Item::file("d/.wh...", "")],
            refused,
        ),
        (
            "whiteout of three dots",
            |_| vec![Item::file(".wh....", "")],
            confined,
        ),
        (
            "whiteout behind a link",
            |c| vec![Item::symlink("l", c), Item::file("l/.wh.file", "")],
            refused,
        ),
        (
            "whiteout behind an inner link",
            |_| vec![Item::symlink("l", ".."), Item::file("l/.wh.canary", "")],
            confined,
        ),
        (
            "opaque behind a link",
            |c| vec![Item::symlink("l", c), Item::file("l/.wh..wh..opq", "")],
            refused,
        ),
        (
            "opaque link",
            |c| vec![Item::symlink(".wh..wh..opq", c)],
            confined,
        ),
        (
            "whiteout that is a link",
            |c| vec![Item::symlink(".wh.x", c), Item::file("x/file", "x")],
            confined,
        ),
        ("root as a link", |c| vec![Item::symlink("./", c)], refused),
        ("root as a file", |_| vec![Item::file(".", "x")], refused),
        (
            "root by parents as a link",
            |c| vec![Item::symlink("a/..", c)],
            refused,
        ),
        ("empty name", |_| vec![Item::file("", "x")], refused),
        (
            "NUL in a name",
            |_| vec![Item::file("x", "x").pax("path", "a\0b")],
            refused,
        ),
        (
            "NUL in a target",
            |_| vec![Item::symlink("x", "y").pax("linkpath", "a\0b")],
            refused,
        ),
        (
            "name of 256 bytes",
            |_| vec![Item::file("n".repeat(256), "x")],
            refused,
        ),
        (
            "path of 5000 bytes",
            |_| vec![Item::file("d/".repeat(2500) + "f", "x")],
            refused,
        ),
        (
            "path of 4000 bytes",
            |_| vec![Item::file("d/".repeat(2000) + "f", "x"), Item::symlink("d", "x")],
            confined,
        ),
        (
            "file called like a directory",
            |_| vec![Item::file("f/", "x")],
            refused,
        ),
        (
            "magic link",
            |_| vec![Item::symlink("l", "/proc/self/root/etc"), Item::file("l/x", "x")],
            refused,
        ),
        (
            "times through a link",
            |c| {
                vec![
                    Item::dir("d/e").mtime(1),
                    Item::symlink("d", c),
                    Item::dir("x").mtime(3),
                ]
            },
            confined,
        ),
        (
            "size beyond any file",
            |_| {
                vec![
                    Item::file("s", "a")
                        .pax("GNU.sparse.size", "9000000000000000000")
                        .pax("GNU.sparse.map", "0,1"),
                ]
            },
            refused,
        ),
        (
            "attribute too big",
            |_| vec![Item::file("x", "x").xattr("user.big", vec![b'x'; 70_000])],
            refused,
        ),
        (
            "nobody's owner",
            |_| vec![Item::file("x", "x").owner(u64::from(u32::MAX), 0).mode(0o4755)],
            refused,
        ),
    ];
    assert!(cases.len() >= 60);
    for (name, items, accepted) in cases {
        let ground = Ground::new();
        let result = ground.unpack(Tar::new(items(&ground.canary())));
        assert_eq!(result.is_ok(), *accepted, "{name}: {result:?}");
        if let Err(error) = result {
            assert!(
                matches!(error.kind(), crate::Kind::Invalid | crate::Kind::TooLarge),
                "{name}: {error} is the archive's fault"
            );
        }
    }
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    let ground = Ground::new();
    ground
        .unpack(Tar::new([Item::file("a/b/f", "x").mode(0o666)]))
        .unwrap();
    assert_eq!(ground.meta("a/b").permissions().mode() & 0o777, 0o755);
    assert_eq!(ground.meta("a/b/f").permissions().mode() & 0o777, 0o666);
}

#[test]
fn nearly_good_archives_touch_nothing_else() {
    let ground = Ground::new();
    let canary = ground.canary();
    let good = [
        Tar::new([
            Item::dir("d"),
            Item::file("d/f", "content"),
            Item::symlink("l", &canary),
            Item::file("l/x", "x"),
        ]),
        Tar::new([
            Item::symlink("d", "../canary"),
            Item::hard_link("h", "d/file"),
            Item::file("h", "x").pax("path", "../canary/file"),
            Item::file(".wh.d", ""),
        ]),
    ]
    .map(Tar::finish);
    let good: Vec<&[u8]> = good.iter().map(Vec::as_slice).collect();
    let mut done = 0;
    crate::mutate::mutants("archives", &good, |bytes| {
        // Each is written to the disk: some are enough for every run.
        done += 1;
        if done % 8 != 0 {
            return;
        }
        let root: OwnedFd = File::open(ground.root()).unwrap().into();
        let _ = unpack(bytes, root.as_fd(), &Options::default());
        ground.check();
        std::fs::remove_dir_all(ground.root()).unwrap();
        std::fs::create_dir(ground.root()).unwrap();
    });
}
