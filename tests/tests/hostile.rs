//! Archives made to do harm. Whatever they say, nothing outside the store may change, and no half image may appear.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt, path::Path};

use berth_tests::{
    Engine,
    container::busybox,
    image::{Compression, Image, Node, Tar},
};
use serde_json::json;
use tempfile::TempDir;

/// A directory that nothing may touch: what is in it and how it looks.
pub struct Canary {
    directory: TempDir,
    before: BTreeMap<String, (u64, u32, i64, i64, Vec<u8>)>,
}

impl Canary {
    /// A new one.
    pub fn new() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("canary-")
            .tempdir()
            .expect("a directory");
        fs::write(directory.path().join("file"), "untouched").expect("a file");
        fs::create_dir(directory.path().join("sub")).expect("a directory");
        let before = Self::look(directory.path());
        Self { directory, before }
    }

    /// Where it is.
    pub fn path(&self) -> &str {
        self.directory.path().to_str().expect("text")
    }

    fn look(path: &Path) -> BTreeMap<String, (u64, u32, i64, i64, Vec<u8>)> {
        let mut all = BTreeMap::new();
        let mut paths = vec![path.to_owned()];
        paths.extend(
            fs::read_dir(path)
                .expect("it exists")
                .map(|entry| entry.expect("an entry").path()),
        );
        for path in paths {
            let data = fs::symlink_metadata(&path).expect("it exists");
            let content = if data.is_file() {
                fs::read(&path).expect("a file")
            } else {
                Vec::new()
            };
            all.insert(
                path.display().to_string(),
                (data.ino(), data.mode(), data.mtime(), data.mtime_nsec(), content),
            );
        }
        all
    }

    /// Fails if it was touched.
    #[track_caller]
    pub fn check(&self, what: &str) {
        assert_eq!(
            Self::look(self.directory.path()),
            self.before,
            "{what} reached the host"
        );
    }
}

/// Layers that try to write, link or remove outside of their root.
pub fn escapes(canary: &str) -> Vec<(&'static str, Tar)> {
    let up = format!("{}{canary}", "../".repeat(30));
    let inside = |name: &str| format!("{canary}/{name}");
    let above = |name: &str| format!("{up}/{name}");
    vec![
        ("dot dot", Tar::new().file(&above("file"), 0o644, "broken")),
        ("absolute", Tar::new().file(&inside("file"), 0o644, "broken")),
        (
            "dot dot in the middle",
            Tar::new().file(&format!("a/../{}", above("new")), 0o644, "broken"),
        ),
        (
            "file below a link",
            Tar::new()
                .symlink("link", canary)
                .file("link/file", 0o644, "broken"),
        ),
        (
            "file below a relative link",
            Tar::new().symlink("link", &up).file("link/file", 0o644, "broken"),
        ),
        (
            "directory over a link",
            Tar::new()
                .symlink("link", canary)
                .add("link", 0o700, Node::Directory),
        ),
        (
            "directory over a link, with slash",
            Tar::new().symlink("link", canary).directory("link/", 0o700),
        ),
        (
            "file over a link",
            Tar::new()
                .symlink("link", &inside("file"))
                .file("link", 0o600, "broken"),
        ),
        (
            "hard link to the host",
            Tar::new()
                .add("h", 0o644, Node::Hardlink(&inside("file")))
                .file("h", 0o644, "broken"),
        ),
        (
            "hard link upwards",
            Tar::new()
                .add("h", 0o644, Node::Hardlink(&above("file")))
                .file("h", 0o644, "broken"),
        ),
        (
            "hard link through a link",
            Tar::new()
                .symlink("link", canary)
                .add("h", 0o644, Node::Hardlink("link/file"))
                .file("h", 0o644, "broken"),
        ),
        ("whiteout upwards", Tar::new().file(&above(".wh.file"), 0o644, "")),
        (
            "whiteout below a link",
            Tar::new()
                .symlink("link", canary)
                .file("link/.wh.file", 0o644, ""),
        ),
        (
            "opaque below a link",
            Tar::new()
                .symlink("link", canary)
                .file("link/.wh..wh..opq", 0o644, ""),
        ),
        ("whiteout of dot dot", Tar::new().file(".wh...", 0o644, "")),
        ("whiteout of dot", Tar::new().file(".wh..", 0o644, "")),
        ("whiteout of nothing", Tar::new().file(".wh.", 0o644, "")),
        (
            "link chain",
            (0..60)
                .fold(Tar::new().symlink("l0", canary), |tar, number| {
                    tar.symlink(&format!("l{}", number + 1), &format!("l{number}"))
                })
                .file("l60/file", 0o644, "broken"),
        ),
        (
            "link loop",
            Tar::new()
                .symlink("a", "b")
                .symlink("b", "a")
                .file("a/file", 0o644, "broken"),
        ),
        (
            "pax path upwards",
            Tar::new()
                .pax(&[("path", &above("file"))])
                .file("x", 0o644, "broken"),
        ),
        (
            "pax link upwards",
            Tar::new()
                .pax(&[("linkpath", &inside("file"))])
                .add("x", 0o644, Node::Hardlink("y"))
                .file("x", 0o644, "broken"),
        ),
        (
            "the root as a link",
            Tar::new().symlink("./", canary).file("file", 0o644, "broken"),
        ),
        ("the root as a file", Tar::new().file(".", 0o644, "broken")),
        (
            "overlay attributes",
            Tar::new()
                .pax(&[("SCHILY.xattr.trusted.overlay.redirect", "/../../..")])
                .directory("d/", 0o755)
                .pax(&[("SCHILY.xattr.trusted.overlay.opaque", "y")])
                .directory("e/", 0o755),
        ),
        (
            "a forged whiteout device",
            Tar::new().add("dev0", 0o644, Node::Character(0, 0)),
        ),
    ]
}

#[tokio::test]
async fn layers_stay_within_their_root() {
    let engine = Engine::start().await;
    let canary = Canary::new();
    for (what, layer) in escapes(canary.path()) {
        let image = Image::new("hostile:v1", [Tar::new().directory("bin/", 0o755), layer]);
        for archive in [image.docker_archive(), image.oci_archive(Compression::Gzip)] {
            let reply = engine.api.post_tar("/images/load", archive).await;
            assert!(
                [200, 400].contains(&reply.status().as_u16()),
                "{what}: {}",
                reply.text()
            );
            canary.check(what);
            // Loaded or refused; never listed and broken.
            let refused = reply.status() != 200 || reply.text().contains("errorDetail");
            let seen = engine.api.get("/images/hostile:v1/json").await;
            assert_eq!(seen.status() == 404, refused, "{what}: {}", reply.text());
            if !refused {
                engine.api.delete("/images/hostile:v1?force=1").await.expect(200);
                canary.check(what);
            }
        }
    }
    engine.finish().await;
}

#[tokio::test]
async fn containers_of_hostile_layers_stay_within_their_root() {
    let engine = Engine::start().await;
    let canary = Canary::new();
    let inside = format!("{}/sub", canary.path());
    // What the engine itself prepares in a root, replaced by links to the host.
    for target in [
        "proc",
        "sys",
        "dev",
        "etc",
        "dev/shm",
        "dev/pts",
        "etc/hosts",
        "etc/resolv.conf",
        "dev/null",
        "dev/console",
    ] {
        let mut layer = Tar::new();
        if let Some((parent, _)) = target.split_once('/') {
            layer = layer.directory(&format!("{parent}/"), 0o755);
        } else if target == "etc" {
            layer = layer.file(".wh.etc", 0o644, "");
        }
        let image = Image::busybox()
            .tagged("trap:v1")
            .with_layer(layer.symlink(target, &inside));
        engine.api.load(&image).await;
        let mut config = busybox(&["true"]);
        config["Image"] = json!("trap:v1");
        config["WorkingDir"] = json!("/new/directory");
        let reply = engine.api.post_json("/containers/create", &config).await;
        if reply.status() == 201 {
            let id = reply.json()["Id"].as_str().expect("an id").to_owned();
            if engine.api.post(&format!("/containers/{id}/start")).await.status() == 204 {
                engine.api.wait(&id).await;
            }
            canary.check(target);
            engine.api.remove(&id).await;
        }
        canary.check(target);
    }
    engine.finish().await;
}

#[tokio::test]
async fn archives_that_lie_are_refused_and_leave_nothing() {
    let engine = Engine::start().await;
    let image = Image::new("lie:v1", [Tar::new().file("a", 0o644, "a")]);
    let good = image.docker_archive();
    let config = String::from_utf8(image.configuration()).expect("text");
    let manifest = |value: serde_json::Value| Tar::new().file("manifest.json", 0o644, value.to_string());
    let layer = &image.layers[0];
    let whole = |config: &str, layers: serde_json::Value| {
        manifest(json!([{"Config": "c.json", "RepoTags": ["lie:v1"], "Layers": layers}]))
            .file("c.json", 0o644, config)
            .file("l.tar", 0o644, layer)
            .finish()
    };
    let other = Image::new("x", [Tar::new().file("b", 0o644, "other")]);
    let mut half = good.clone();
    half.truncate(good.len() / 2);
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("no tar", b"this is not an archive".repeat(100)),
        ("an empty tar", Tar::new().finish()),
        ("half of a tar", half),
        ("gzip of no tar", Compression::Gzip.apply(b"nothing")),
        ("half of a gzip", Compression::Gzip.apply(&good)[..200].to_vec()),
        ("no manifest", Tar::new().file("c.json", 0o644, &config).finish()),
        (
            "manifest of no JSON",
            Tar::new().file("manifest.json", 0o644, "{").finish(),
        ),
        ("manifest of nulls", manifest(json!([null])).finish()),
        (
            "missing config",
            manifest(json!([{"Config": "c.json", "RepoTags": ["lie:v1"], "Layers": []}])).finish(),
        ),
        ("missing layer", whole(&config, json!(["other.tar"]))),
        (
            "layer by path upwards",
            whole(&config, json!(["../../../../etc/passwd"])),
        ),
        ("layer by absolute path", whole(&config, json!(["/etc/passwd"]))),
        (
            "more layers than diff ids",
            whole(&config, json!(["l.tar", "l.tar"])),
        ),
        ("fewer layers than diff ids", whole(&config, json!([]))),
        (
            "a wrong diff id",
            whole(
                &String::from_utf8(other.configuration()).expect("text"),
                json!(["l.tar"]),
            ),
        ),
        ("config of no JSON", whole("{", json!(["l.tar"]))),
        ("config of another shape", whole("[]", json!(["l.tar"]))),
        (
            "config with odd types",
            whole("{\"rootfs\":{\"diff_ids\":5}}", json!(["l.tar"])),
        ),
        (
            "a bad name",
            manifest(json!([{"Config": "c.json", "RepoTags": ["../../x:y"], "Layers": ["l.tar"]}]))
                .file("c.json", 0o644, &config)
                .file("l.tar", 0o644, layer)
                .finish(),
        ),
        (
            "manifest as a link",
            Tar::new()
                .symlink("manifest.json", "/etc/passwd")
                .file("c.json", 0o644, &config)
                .finish(),
        ),
        (
            "layer as a link",
            manifest(json!([{"Config": "c.json", "RepoTags": ["lie:v1"], "Layers": ["l.tar"]}]))
                .file("c.json", 0o644, &config)
                .symlink("l.tar", "/etc/passwd")
                .finish(),
        ),
    ];
    let before = engine.api.get("/images/json?all=1").await.expect(200).json();
    for (what, archive) in bad {
        let reply = engine.api.post_tar("/images/load", archive).await;
        let refused = reply.status() == 400 || reply.status() == 500 || reply.text().contains("errorDetail");
        assert!(refused, "{what} was taken: {} {}", reply.status(), reply.text());
        let after = engine.api.get("/images/json?all=1").await.expect(200).json();
        assert_eq!(after, before, "{what} left an image");
    }
    // The engine still takes a good one.
    let reply = engine.api.post_tar("/images/load", good).await.expect(200);
    assert!(reply.text().contains("Loaded image: lie:v1"), "{}", reply.text());
    engine.finish().await;
}

#[tokio::test]
async fn blobs_must_be_what_their_digest_says() {
    let engine = Engine::start().await;
    let image = Image::new(
        "blob:v1",
        [Tar::new().file("a", 0o644, "some text that is long enough to be found")],
    );
    let mut archive = image.oci_archive(Compression::None);
    let place = archive
        .windows(9)
        .position(|bytes| bytes == b"some text")
        .expect("the text");
    archive[place] = b'S';
    let reply = engine.api.post_tar("/images/load", archive).await;
    assert!(
        reply.status() != 200 || reply.text().contains("errorDetail"),
        "{}",
        reply.text()
    );
    engine.api.get("/images/blob:v1/json").await.expect(404);
    engine.finish().await;
}

#[tokio::test]
async fn odd_users_of_an_image_are_not_root() {
    let engine = Engine::start().await;
    // A line of passwd whose name is a number must not win over the number.
    let layer = Tar::new().file(
        "etc/passwd",
        0o644,
        "root:x:0:0::/:/bin/sh\n1000:x:0:0::/:/bin/sh\n",
    );
    engine
        .api
        .load(&Image::busybox().tagged("users:v1").with_layer(layer))
        .await;
    for user in [
        "1",
        "1000",
        "2147483647",
        "4294967295",
        "4294967296",
        "-1",
        "0x0",
        "1:",
        ":5",
        "a:b:c",
        "\n0",
        "nobody",
    ] {
        let mut config = busybox(&["id", "-u"]);
        config["Image"] = json!("users:v1");
        config["User"] = json!(user);
        let reply = engine.api.post_json("/containers/create", &config).await;
        if reply.status() != 201 {
            assert_eq!(reply.status(), 400, "{user:?}: {}", reply.text());
            continue;
        }
        let id = reply.json()["Id"].as_str().expect("an id").to_owned();
        let started = engine.api.post(&format!("/containers/{id}/start")).await;
        if started.status() == 204 {
            engine.api.wait(&id).await;
            let uid = engine.api.logs(&id).await.out;
            let asked_for_root = user == ":5";
            assert!(asked_for_root || uid.trim() != "0", "{user:?} became root");
            assert!(
                user.parse::<u32>().is_err() || uid.trim() == user,
                "{user:?} became {uid:?}"
            );
        }
        engine.api.remove(&id).await;
    }
    engine.finish().await;
}
