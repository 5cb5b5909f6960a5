//! The engine is killed while it changes images: what it acknowledged is there afterwards, what it did not is absent or
//! whole, and nothing is left over.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

use super::*;
use crate::image::testing::{Item, Tar, TestImage, docker_archive};

/// Tells a test process that it is the engine, and where its root is.
const ROOT: &str = "BERTH_TEST_IMAGE_ROOT";

/// The engine: does what its first line of input says, and tells when it is done.
#[test]
#[ignore = "run by the other tests as a process of its own"]
fn engine() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };
    let store = ImageStore::open(Path::new(&root), Limits::default()).unwrap();
    let mut input = std::io::stdin().lock();
    let mut order = String::new();
    input.read_line(&mut order).unwrap();
    match order.trim() {
        "load" => drop(store.load(input, &()).unwrap()),
        "remove" => store.remove(&store.resolve("x:1").unwrap().id).unwrap(),
        "tag" => {
            let name = Reference::parse("y:1").unwrap();
            assert_eq!(store.tag(&store.resolve("x:1").unwrap().id, &name).unwrap(), None);
        }
        order => panic!("unknown order {order:?}"),
    }
    writeln!(std::io::stderr(), "done").unwrap();
    // Killed here at the latest.
    loop {
        std::thread::park();
    }
}

fn start(root: &Path, order: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "image::store::kill_tests::engine",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env(ROOT, root)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.as_mut().unwrap(), "{order}").unwrap();
    child
}

fn wait_until_done(child: &mut Child) {
    let said = BufReader::new(child.stderr.as_mut().unwrap())
        .lines()
        .map(Result::unwrap);
    assert!(said.into_iter().any(|line| line == "done"), "the engine failed");
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Everything below a root, but for what the trash still has to remove.
fn files(root: &Path) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for dir in [
        "content/ingest",
        "content/blobs/sha256",
        "layers",
        "images",
        "names",
    ] {
        for entry in std::fs::read_dir(root.join(dir)).unwrap() {
            all.insert(format!("{dir}/{}", entry.unwrap().file_name().to_string_lossy()));
        }
    }
    all
}

fn archive() -> Vec<u8> {
    let layer = |n: u32| {
        let files = (0..50).map(|f| Item::file(format!("d{n}/f{f}"), vec![b'x'; 3000]));
        Tar::new([Item::dir(format!("d{n}"))]).extend(files).finish()
    };
    docker_archive(&[TestImage::new("x:1", vec![layer(1), layer(2)])])
}

#[test]
fn killed_while_loading() {
    let archive = archive();
    let root = tempfile::tempdir().unwrap();
    let mut absent = 0;
    for step in 0..=10 {
        let mut child = start(root.path(), "load");
        let sent = archive.len() * step / 10;
        child.stdin.as_mut().unwrap().write_all(&archive[..sent]).unwrap();
        child.stdin.as_mut().unwrap().flush().unwrap();
        kill(child);
        let store = ImageStore::open(root.path(), Limits::default()).unwrap();
        match store.resolve("x:1") {
            Ok(image) => {
                assert!(store.lower_dirs(&image)[1].join("d1/f49").exists());
                store.remove(&image.id).unwrap();
            }
            Err(_) => absent += 1,
        }
        for image in store.list() {
            store.remove(&image.id).unwrap();
        }
        assert_eq!(files(root.path()), BTreeSet::new(), "step {step}");
    }
    assert!(absent >= 10);
}

#[test]
fn killed_after_the_acknowledgement() {
    let archive = archive();
    let root = tempfile::tempdir().unwrap();
    let mut child = start(root.path(), "load");
    child.stdin.take().unwrap().write_all(&archive).unwrap();
    wait_until_done(&mut child);
    kill(child);
    let mut child = start(root.path(), "tag");
    wait_until_done(&mut child);
    kill(child);
    let store = ImageStore::open(root.path(), Limits::default()).unwrap();
    let image = store.resolve("y:1").unwrap();
    assert_eq!(image.repo_tags(), ["x:1", "y:1"]);
    assert!(store.lower_dirs(&image)[0].join("d2/f49").exists());
    drop(store);
    let mut child = start(root.path(), "remove");
    wait_until_done(&mut child);
    kill(child);
    let store = ImageStore::open(root.path(), Limits::default()).unwrap();
    assert!(store.list().is_empty());
    assert_eq!(files(root.path()), BTreeSet::new());
}
