//! Loading, naming, finding and removing images. Needs root, for layers have owners.

use std::{
    collections::BTreeSet,
    io::{Cursor, Write as _},
    os::unix::fs::MetadataExt,
    thread,
};

use serde_json::json;

use super::*;
use crate::{
    Kind,
    image::{
        LayerFrom,
        manifest::media,
        testing::{Item, Tar, TestImage, descriptor, docker_archive, oci_archive},
    },
};

struct Ground {
    dir: tempfile::TempDir,
    store: ImageStore,
}

impl Ground {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path(), limits).unwrap();
        Self { dir, store }
    }

    /// The engine dies and comes back.
    fn reopen(self) -> Self {
        self.reopen_after(|_| ())
    }

    /// Something happens below the root while there is no engine.
    fn reopen_after(self, happens: impl FnOnce(&Path)) -> Self {
        let Self { dir, store } = self;
        drop(store);
        happens(dir.path());
        let store = ImageStore::open(dir.path(), Limits::default()).unwrap();
        Self { dir, store }
    }

    fn load(&self, archive: &[u8]) -> Result<Vec<Loaded>> {
        self.store.load(archive, &())
    }

    fn load_one(&self, archive: &[u8]) -> Loaded {
        let mut loaded = self.load(archive).unwrap();
        assert_eq!(loaded.len(), 1);
        loaded.remove(0)
    }

    /// What is on disk, but for the directories that are always there.
    fn files(&self) -> BTreeSet<String> {
        self.store.trash.settle(Duration::from_secs(60));
        let mut all = BTreeSet::new();
        for dir in [
            "content/ingest",
            "content/blobs/sha256",
            "layers",
            "images",
            "names",
            "trash",
        ] {
            for entry in std::fs::read_dir(self.dir.path().join(dir)).unwrap() {
                all.insert(format!("{dir}/{}", entry.unwrap().file_name().to_string_lossy()));
            }
        }
        all
    }

    fn is_empty(&self) -> bool {
        self.files().is_empty() && self.store.list().is_empty()
    }
}

fn layer(name: &str, data: &str) -> Vec<u8> {
    Tar::new([Item::dir("etc"), Item::file(format!("etc/{name}"), data)]).finish()
}

fn busybox() -> TestImage {
    TestImage::new("busybox:latest", vec![layer("a", "1"), layer("b", "2")])
}

fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap().normalized()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn loads_a_docker_archive() {
    let ground = Ground::new();
    let archive = docker_archive(&[busybox()]);
    let loaded = ground.load_one(&archive);
    assert_eq!(loaded.names, [reference("busybox")]);
    let image = ground.store.resolve("busybox").unwrap();
    assert_eq!(
        (image.id, image.repo_tags()),
        (loaded.id, vec!["busybox:latest".to_owned()])
    );
    // Its layers are not compressed: a registry would have it under another digest.
    assert!(image.repo_digests().is_empty());
    assert_eq!(image.config.config.cmd, Some(vec!["sh".to_owned()]));
    assert_eq!(image.size(), 2);
    assert!(image.created().is_some() && !image.is_dangling());
    let dirs = ground.store.lower_dirs(&image);
    assert_eq!(std::fs::read_to_string(dirs[0].join("etc/b")).unwrap(), "2");
    assert_eq!(std::fs::read_to_string(dirs[1].join("etc/a")).unwrap(), "1");
    // The same archive makes the same image, however it is packed.
    for again in [
        archive.clone(),
        gzip(&archive),
        zstd::encode_all(&archive[..], 1).unwrap(),
    ] {
        assert_eq!(ground.load_one(&again).id, loaded.id);
    }
    assert_eq!(Ground::new().load_one(&archive).id, loaded.id);
    let before = ground.files();
    let ground = ground.reopen();
    assert_eq!(ground.files(), before);
    let again = ground.store.resolve("docker.io/library/busybox:latest").unwrap();
    assert_eq!(
        (again.id, &again.names, again.tagged),
        (image.id, &image.names, image.tagged)
    );
    assert_eq!(ground.store.lower_dirs(&again), dirs);
}

#[test]
fn layers_can_be_compressed_and_shared() {
    let ground = Ground::new();
    let [a, b] = [layer("a", "1"), layer("b", "2")];
    let ids = [&a, &b].map(|l| Digest::of(l));
    let config = json!({"os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}}).to_string();
    let config_name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    let manifest =
        json!([{"Config": config_name, "RepoTags": null, "Layers": ["1/layer.tar", "2/layer.tar"]}]);
    let archive = Tar::new([
        Item::file("1/layer.tar", gzip(&a)),
        Item::file("2/layer.tar", zstd::encode_all(&b[..], 1).unwrap()),
        Item::file(config_name, &config),
        Item::file("manifest.json", manifest.to_string()),
    ])
    .finish();
    let loaded = ground.load_one(&archive);
    assert!(loaded.names.is_empty());
    let compressed = ground.store.get(&loaded.id).unwrap();
    let types: Vec<_> = compressed
        .layers
        .iter()
        .map(|l| l.blob.media_type.as_str())
        .collect();
    assert_eq!(
        types,
        [format!("{}+gzip", media::LAYER), format!("{}+zstd", media::LAYER)]
    );
    assert!(compressed.is_dangling());
    let plain = ground.load_one(&docker_archive(&[TestImage::new("x:1", vec![a, b])]));
    let plain = ground.store.get(&plain.id).unwrap();
    assert_ne!(plain.id, compressed.id);
    assert_eq!(
        ground.store.lower_dirs(&plain),
        ground.store.lower_dirs(&compressed)
    );
    ground.store.remove(&plain.id).unwrap();
    assert!(ground.store.lower_dirs(&compressed)[0].join("etc/b").exists());
}

#[test]
fn a_layer_that_leaves_out_directories_depends_on_those_below() {
    let ground = Ground::new();
    let base = |mode| Tar::new([Item::dir("tmp").mode(mode)]).finish();
    let top = Tar::new([Item::file("tmp/f", "x")]).finish();
    let mut keys = BTreeSet::new();
    for (tag, mode) in [("one:1", 0o1777), ("two:1", 0o700), ("three:1", 0o700)] {
        let loaded = ground.load_one(&docker_archive(&[TestImage::new(
            tag,
            vec![base(mode), top.clone()],
        )]));
        let image = ground.store.get(&loaded.id).unwrap();
        let dir = ground.store.lower_dirs(&image)[0].clone();
        assert_eq!(std::fs::metadata(dir.join("tmp")).unwrap().mode() & 0o7777, mode);
        keys.insert(dir);
    }
    assert_eq!(keys.len(), 2);
}

#[test]
fn symlinked_layers_of_old_engines() {
    let ground = Ground::new();
    let image = TestImage::new("old:1", vec![layer("a", "1"), layer("a", "1")]);
    let config = image.config_bytes();
    let manifest =
        json!([{"Config": "c.json", "RepoTags": ["old:1"], "Layers": ["one/layer.tar", "two/layer.tar"]}]);
    let archive = Tar::new([
        Item::dir("one"),
        Item::file("one/layer.tar", layer("a", "1")),
        Item::symlink("two/layer.tar", "../one/layer.tar"),
        Item::file("c.json", config),
        Item::file("manifest.json", manifest.to_string()),
    ])
    .finish();
    let loaded = ground.load_one(&archive);
    assert_eq!(ground.store.get(&loaded.id).unwrap().layers.len(), 2);
}

#[test]
fn archives_from_before_the_manifest() {
    let ground = Ground::new();
    let archive = |top: &str| {
        Tar::new([
            Item::file(
                "one/json",
                r#"{"id":"one","created":"2014-01-02T03:04:05Z","container_config":{"Cmd":["a","b"]}}"#,
            ),
            Item::file("one/layer.tar", layer("a", "1")),
            Item::file(
                "two/json",
                r#"{"id":"two","parent":"one","config":{"Cmd":["sh"]},"architecture":"amd64"}"#,
            ),
            Item::file("two/layer.tar", gzip(&layer("b", "2"))),
            Item::file("loop/json", r#"{"parent":"loop"}"#),
            Item::file(
                "repositories",
                json!({"old": {"1": top, "2": top}, "base": {"1": "one"}}).to_string(),
            ),
        ])
        .finish()
    };
    let loaded = ground.load(&archive("two")).unwrap();
    assert_eq!(loaded[0].names, [reference("base:1")]);
    assert_eq!(loaded[1].names, [reference("old:1"), reference("old:2")]);
    let image = ground.store.get(&loaded[1].id).unwrap();
    assert_eq!(
        (image.layers.len(), image.config.history[0].created_by.as_str()),
        (2, "a b")
    );
    assert_eq!(image.config.config.cmd, Some(vec!["sh".to_owned()]));
    assert!(ground.store.lower_dirs(&image)[0].join("etc/b").exists());
    for top in ["loop", "none", "../two", ""] {
        assert_eq!(
            ground.load(&archive(top)).unwrap_err().kind(),
            Kind::Invalid,
            "{top}"
        );
    }
}

#[test]
fn an_oci_layout_keeps_its_bytes_and_picks_the_platform() {
    let ground = Ground::new();
    let layer = layer("a", "1");
    let manifest_for = |arch: &str, layer: &[u8]| {
        let config = json!({"architecture": arch, "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(layer)]}})
        .to_string();
        let manifest = json!({"schemaVersion": 2, "mediaType": media::MANIFEST,
            "config": descriptor(media::CONFIG, config.as_bytes()), "layers": [descriptor(media::LAYER, layer)],
            "annotations": {"kept": "as is"}}).to_string();
        (manifest.into_bytes(), config.into_bytes())
    };
    let host = crate::image::Platform::host().architecture;
    let (other_manifest, _) = manifest_for("s390x", b"not here");
    let (manifest, config) = manifest_for(&host, &layer);
    let mut about = descriptor(media::MANIFEST, b"missing attestation");
    about["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": [
        descriptor(media::MANIFEST, &other_manifest), about, descriptor(media::MANIFEST, &manifest)]})
    .to_string();
    let mut named = descriptor(media::INDEX, index.as_bytes());
    named["annotations"] = json!({"io.containerd.image.name": "docker.io/library/multi:1"});
    let mut also = named.clone();
    also["annotations"] = json!({"io.containerd.image.name": "docker.io/library/multi:2"});
    let blobs = [
        layer,
        index.clone().into_bytes(),
        other_manifest.clone(),
        manifest.clone(),
        config,
    ];
    let loaded = ground.load_one(&oci_archive(&blobs, &[named, also]));
    assert_eq!(loaded.id, Digest::of(index.as_bytes()));
    assert_eq!(loaded.names, [reference("multi:1"), reference("multi:2")]);
    let image = ground.store.get(&loaded.id).unwrap();
    assert_eq!(
        (image.manifest.digest, image.platform().architecture),
        (Digest::of(&manifest), host)
    );
    assert!(
        image
            .blobs
            .iter()
            .any(|(digest, _)| *digest == Digest::of(&other_manifest))
    );
    ground.store.remove(&loaded.id).unwrap();
    assert!(ground.is_empty());
}

#[test]
fn names_move_and_vanish() {
    let ground = Ground::new();
    let first = ground.load_one(&docker_archive(&[busybox()])).id;
    let second = ground.load_one(&docker_archive(&[TestImage::new(
        "busybox:latest",
        vec![layer("c", "3")],
    )]));
    assert_eq!(second.moved, [(reference("busybox"), first)]);
    assert!(ground.store.get(&first).unwrap().is_dangling());
    let name = reference("r.io:5000/a/b:t");
    assert_eq!(ground.store.tag(&first, &name).unwrap(), None);
    assert_eq!(ground.store.tag(&first, &name).unwrap(), None);
    assert_eq!(ground.store.tag(&second.id, &name).unwrap(), Some(first));
    let image = ground.store.named(&name).unwrap();
    assert_eq!(image.repo_tags(), ["busybox:latest", "r.io:5000/a/b:t"]);
    let ground = ground.reopen();
    assert_eq!(ground.store.untag(&name).unwrap(), second.id);
    assert_eq!(ground.store.untag(&name).unwrap_err().kind(), Kind::NotFound);
    let ground = ground.reopen();
    assert_eq!(
        ground.store.resolve("r.io:5000/a/b:t").unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(ground.store.list().len(), 2);
    let bare = Reference::parse("x").unwrap();
    assert_eq!(ground.store.tag(&first, &bare).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(
        ground.store.tag(&Digest::of(b""), &name).unwrap_err().kind(),
        Kind::NotFound
    );
    for id in [first, second.id] {
        ground.store.remove(&id).unwrap();
    }
    assert!(ground.is_empty());
    assert_eq!(ground.store.remove(&first).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn texts_mean_images_by_dockers_rules() {
    let ground = Ground::new();
    let id = ground.load_one(&docker_archive(&[busybox()])).id;
    let hex = id.hex();
    for text in [
        "busybox",
        "busybox:latest",
        "library/busybox",
        "docker.io/busybox",
        "index.docker.io/library/busybox:latest",
        &hex,
        &hex[..12],
        &hex[..4],
        &format!("sha256:{hex}"),
        &format!("sha256:{}", &hex[..8]),
        &format!("busybox@sha256:{hex}"),
        &format!("busybox:other@sha256:{hex}"),
    ] {
        assert_eq!(ground.store.resolve(text).unwrap().id, id, "{text}");
    }
    let missing = [
        ("nothing", "No such image: nothing:latest".to_owned()),
        ("busybox:1", "No such image: busybox:1".to_owned()),
        ("r.io/busybox", "No such image: r.io/busybox:latest".to_owned()),
        (
            &format!("alpine@sha256:{hex}"),
            format!("No such image: alpine@sha256:{hex}"),
        ),
        (&"0".repeat(64), format!("No such image: {}", "0".repeat(64))),
        (&format!("{hex}00")[1..], String::new()),
    ];
    for (text, message) in missing {
        let error = ground.store.resolve(text).unwrap_err();
        assert!(
            error.kind() == Kind::NotFound || message.is_empty(),
            "{text}: {error}"
        );
        assert!(
            message.is_empty() || error.message() == message,
            "{text}: {error}"
        );
    }
    for text in ["", "Busybox", "a//b", "../x", "x@sha256:12"] {
        assert_eq!(
            ground.store.resolve(text).unwrap_err().kind(),
            Kind::Invalid,
            "{text}"
        );
    }
    // A name that could be the beginning of an ID is a name.
    let other = ground
        .load_one(&docker_archive(&[TestImage::new("x:1", vec![layer("c", "3")])]))
        .id;
    ground.store.tag(&other, &reference(&hex[..6])).unwrap();
    assert_eq!(ground.store.resolve(&hex[..6]).unwrap().id, other);
    // Of two IDs with the same beginning neither is meant.
    let common: String = hex
        .chars()
        .zip(other.hex().chars())
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a)
        .collect();
    assert_eq!(
        ground
            .store
            .resolve(&format!("sha256:{common}"))
            .unwrap_err()
            .kind(),
        if common.is_empty() {
            Kind::Invalid
        } else {
            Kind::NotFound
        }
    );
}

#[test]
fn held_images_keep_their_content() {
    let ground = Ground::new();
    let id = ground.load_one(&docker_archive(&[busybox()])).id;
    let hold = ground.store.hold(&id).unwrap();
    ground.store.remove(&id).unwrap();
    assert!(ground.store.list().is_empty());
    assert_eq!(
        ground.store.resolve("busybox").unwrap_err().kind(),
        Kind::NotFound
    );
    assert!(ground.store.lower_dirs(hold.image())[0].join("etc/b").exists());
    drop(hold);
    // A new engine holds it again before it lets go of what nobody holds.
    let ground = ground.reopen();
    assert!(ground.store.list().is_empty());
    let hold = ground.store.hold(&id).unwrap();
    ground.store.purge().unwrap();
    assert!(ground.store.lower_dirs(hold.image())[0].join("etc/b").exists());
    // Loaded again, it is an image like any other.
    ground.load_one(&docker_archive(&[busybox()]));
    assert_eq!(ground.store.resolve("busybox").unwrap().id, id);
    ground.store.remove(&id).unwrap();
    drop(hold);
    ground.store.purge().unwrap();
    assert!(ground.is_empty());
    assert_eq!(ground.store.hold(&id).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn what_could_not_be_removed_is_tried_again() {
    let ground = Ground::new();
    let id = ground.load_one(&docker_archive(&[busybox()])).id;
    let (trash, aside) = (ground.dir.path().join("trash"), ground.dir.path().join("aside"));
    std::fs::rename(&trash, &aside).unwrap();
    std::fs::write(&trash, "in the way").unwrap();
    ground.store.remove(&id).unwrap();
    std::fs::remove_file(&trash).unwrap();
    std::fs::rename(&aside, &trash).unwrap();
    assert!(!ground.is_empty());
    ground.store.purge().unwrap();
    assert!(ground.is_empty());
}

#[test]
fn what_no_image_refers_to_is_swept_at_the_start() {
    let ground = Ground::new();
    let id = ground.load_one(&docker_archive(&[busybox()])).id;
    let kept = ground.files();
    let root = ground.dir.path();
    std::fs::write(
        root.join(format!("content/blobs/sha256/{}", Digest::of(b"x").hex())),
        "x",
    )
    .unwrap();
    std::fs::write(root.join("content/ingest/.tmp-x"), "x").unwrap();
    std::fs::create_dir_all(root.join("layers/.tmp-x/fs")).unwrap();
    let orphan = root.join("layers").join(Digest::of(b"orphan").hex());
    std::fs::create_dir_all(orphan.join("fs")).unwrap();
    std::fs::write(
        orphan.join("layer.json"),
        format!(
            r#"{{"diffId":"{}","size":1,"boot":"{}"}}"#,
            Digest::of(b"orphan"),
            disk::boot_id().unwrap()
        ),
    )
    .unwrap();
    std::fs::create_dir_all(root.join("layers").join(Digest::of(b"damaged").hex())).unwrap();
    std::fs::write(root.join("images/.tmp-x"), "{").unwrap();
    std::fs::write(root.join("images/junk.json"), "{").unwrap();
    std::fs::write(root.join("names/junk.json"), "{").unwrap();
    std::fs::write(
        root.join("names/stale.json"),
        json!({"name": "stale:1", "target": Digest::of(b"gone"), "tagged": "2023-11-14T22:13:20Z"})
            .to_string(),
    )
    .unwrap();
    let ground = ground.reopen();
    assert_eq!(ground.files(), kept);
    assert_eq!(ground.store.resolve("busybox").unwrap().id, id);
}

#[test]
fn an_image_without_its_blobs_is_left_out() {
    let ground = Ground::new();
    let damaged = ground.load_one(&docker_archive(&[busybox()])).id;
    let fine = ground
        .load_one(&docker_archive(&[TestImage::new(
            "fine:1",
            vec![layer("c", "3")],
        )]))
        .id;
    let image = ground.store.get(&damaged).unwrap();
    let blobs = ground.dir.path().join("content/blobs/sha256");
    std::fs::remove_file(blobs.join(image.layers[0].diff_id.hex())).unwrap();
    let ground = ground.reopen();
    let left: Vec<_> = ground.store.list().iter().map(|image| image.id).collect();
    assert_eq!(left, [fine]);
    assert_eq!(ground.load_one(&docker_archive(&[busybox()])).id, damaged);
}

#[test]
fn layers_that_cannot_be_trusted_are_made_again() {
    let mut ground = Ground::new();
    let top = Tar::new([Item::file("etc/new", "x")]).finish();
    let base = Tar::new([Item::dir("etc").mode(0o750), Item::file("etc/a", "1")]).finish();
    let id = ground
        .load_one(&docker_archive(&[TestImage::new("x:1", vec![base, top])]))
        .id;
    let before = ground.store.lower_dirs(&ground.store.get(&id).unwrap());
    let damages: [&dyn Fn(&Path); 4] = [
        // Made by another kernel, and not known to be on disk.
        &|dir| {
            let record = std::fs::read_to_string(dir.join("layer.json")).unwrap();
            let mut record: serde_json::Value = serde_json::from_str(&record).unwrap();
            record["boot"] = json!("another");
            std::fs::write(dir.join("layer.json"), record.to_string()).unwrap();
            let _ = std::fs::remove_file(dir.join("flushed"));
            std::fs::write(dir.join("fs/etc/new"), "").unwrap();
        },
        &|dir| std::fs::remove_file(dir.join("layer.json")).unwrap(),
        &|dir| std::fs::write(dir.join("layer.json"), "{").unwrap(),
        &|dir| std::fs::remove_dir_all(dir).unwrap(),
    ];
    for damage in damages {
        ground = ground.reopen_after(|_| damage(before[0].parent().unwrap()));
        let image = ground.store.resolve("x:1").unwrap();
        assert_eq!(ground.store.lower_dirs(&image), before);
        assert_eq!(std::fs::read_to_string(before[0].join("etc/new")).unwrap(), "x");
        assert_eq!(
            std::fs::metadata(before[0].join("etc")).unwrap().mode() & 0o777,
            0o750
        );
    }
}

#[test]
fn an_image_without_layers_has_an_empty_root() {
    let ground = Ground::new();
    let id = ground
        .load_one(&docker_archive(&[TestImage::new("scratch/x:1", vec![])]))
        .id;
    let dirs = ground.store.lower_dirs(&ground.store.get(&id).unwrap());
    // Only what is below every image: places to mount at.
    assert_eq!(dirs.len(), 1);
    let mut names: Vec<_> = std::fs::read_dir(&dirs[0])
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, [".dockerenv", "dev", "etc", "proc", "sys"]);
}

#[test]
fn an_opaque_root_hides_the_layers_below() {
    let ground = Ground::new();
    let top = Tar::new([Item::file(".wh..wh..opq", ""), Item::file("only", "x")]).finish();
    let id = ground
        .load_one(&docker_archive(&[TestImage::new(
            "o:1",
            vec![layer("a", "1"), top, layer("b", "2")],
        )]))
        .id;
    let ground = ground.reopen();
    // The two above, and what is below every image.
    assert_eq!(ground.store.lower_dirs(&ground.store.get(&id).unwrap()).len(), 3);
}

#[test]
fn many_loads_at_once() {
    let ground = Ground::new();
    let archive = docker_archive(&[busybox()]);
    let other = docker_archive(&[TestImage::new("other:1", vec![layer("a", "1"), layer("c", "3")])]);
    thread::scope(|scope| {
        for n in 0..8 {
            let (ground, archive) = (&ground, if n % 2 == 0 { &archive } else { &other });
            scope.spawn(move || {
                for _ in 0..5 {
                    let id = ground.load_one(archive).id;
                    // Whether somebody else was faster to remove it does not matter.
                    let _ = ground.store.remove(&id);
                }
            });
        }
    });
    for image in ground.store.list() {
        ground.store.remove(&image.id).unwrap();
    }
    assert!(ground.is_empty(), "{:?}", ground.files());
    ground.load_one(&archive);
}

#[test]
fn hostile_archives_leave_nothing() {
    let good = busybox();
    let config = good.config_bytes();
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let (a, b) = (layer("a", "1"), layer("b", "2"));
    let manifest = |config: &str, layers: &[&str]| {
        Item::file(
            "manifest.json",
            json!([{"Config": config, "RepoTags": ["x:1"], "Layers": layers}]).to_string(),
        )
    };
    let parts = || {
        Tar::new([
            Item::file(&config_name, &config),
            Item::file("a", &a),
            Item::file("b", &b),
        ])
    };
    let one = json!({"rootfs": {"diff_ids": [Digest::of(&a)]}}).to_string();
    let bad_layer = Tar::new([Item::file("../x", "x")]).finish();
    let many: Vec<String> = (0..600).map(|_| "a".to_owned()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let oci = |blobs: &[Vec<u8>], d: serde_json::Value| oci_archive(blobs, &[d]);
    let lying = {
        let mut d = descriptor(media::MANIFEST, b"{}");
        d["size"] = json!(1);
        d
    };
    let both = json!({"schemaVersion": 2, "config": descriptor("x", b"x"), "layers": [], "manifests": []})
        .to_string();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("noise", vec![7; 4096]),
        ("no documents", parts().finish()),
        (
            "cut off",
            parts().with(manifest(&config_name, &["a", "b"])).finish()[..2000].to_vec(),
        ),
        (
            "manifest is a link",
            parts()
                .with(Item::symlink("manifest.json", "/etc/passwd"))
                .finish(),
        ),
        (
            "manifest is no JSON",
            parts().with(Item::file("manifest.json", "[{")).finish(),
        ),
        (
            "layers outside",
            parts()
                .with(manifest(&config_name, &["../../etc/shadow", "b"]))
                .finish(),
        ),
        (
            "layers outside, absolute",
            parts()
                .with(manifest(&config_name, &["/etc/shadow", "b"]))
                .finish(),
        ),
        (
            "configuration outside",
            parts().with(manifest("../../etc/passwd", &["a", "b"])).finish(),
        ),
        (
            "link outside",
            parts()
                .with(Item::symlink("l", "../../../etc/shadow"))
                .with(manifest(&config_name, &["l", "b"]))
                .finish(),
        ),
        (
            "absolute link",
            parts()
                .with(Item::symlink("l", "/etc/shadow"))
                .with(manifest(&config_name, &["l", "b"]))
                .finish(),
        ),
        (
            "link loop",
            parts()
                .with(Item::symlink("l", "m"))
                .with(Item::symlink("m", "l"))
                .with(manifest(&config_name, &["l", "b"]))
                .finish(),
        ),
        (
            "device",
            parts()
                .with(Item::device(b'4', "d", 8, 0))
                .with(manifest(&config_name, &["a", "b"]))
                .finish(),
        ),
        (
            "layers swapped",
            parts().with(manifest(&config_name, &["b", "a"])).finish(),
        ),
        (
            "one layer too few",
            parts().with(manifest(&config_name, &["a"])).finish(),
        ),
        ("600 layers", parts().with(manifest(&config_name, &many)).finish()),
        (
            "duplicate names",
            parts()
                .with(Item::file("a", &b))
                .with(manifest(&config_name, &["a", "b"]))
                .finish(),
        ),
        (
            "configuration is a layer",
            parts().with(manifest("a", &["a", "b"])).finish(),
        ),
        (
            "layer is a configuration",
            parts()
                .with(Item::file("one", &one))
                .with(manifest("one", &["one"]))
                .finish(),
        ),
        (
            "bad tag",
            parts()
                .with(Item::file(
                    "manifest.json",
                    json!([{"Config": config_name, "RepoTags": ["../x"], "Layers": ["a", "b"]}]).to_string(),
                ))
                .finish(),
        ),
        (
            "tag without one",
            parts()
                .with(Item::file(
                    "manifest.json",
                    json!([{"Config": config_name, "RepoTags": ["x"], "Layers": ["a", "b"]}]).to_string(),
                ))
                .finish(),
        ),
        (
            "bad layer",
            docker_archive(&[TestImage::new("x:1", vec![a.clone(), bad_layer])]),
        ),
        (
            "layer is noise",
            docker_archive(&[TestImage::new("x:1", vec![a.clone(), vec![9; 3000]])]),
        ),
        (
            "wrong blob",
            Tar::new([Item::file(
                format!("blobs/sha256/{}", Digest::of(b"x").hex()),
                "y",
            )])
            .finish(),
        ),
        (
            "blob name outside",
            Tar::new([
                Item::file("blobs/sha256/../../x", "y"),
                Item::file("blobs/sha256/zz", "y"),
            ])
            .finish(),
        ),
        (
            "index without its blob",
            oci(&[], descriptor(media::MANIFEST, b"gone")),
        ),
        ("lying size", oci(&[b"{}".to_vec()], lying)),
        (
            "ambiguous manifest",
            oci(
                &[both.clone().into_bytes()],
                descriptor(media::MANIFEST, both.as_bytes()),
            ),
        ),
        (
            "manifest is an index",
            oci(
                &[br#"{"manifests":[]}"#.to_vec()],
                descriptor(media::MANIFEST, br#"{"manifests":[]}"#),
            ),
        ),
        (
            "unknown algorithm",
            oci(
                &[],
                json!({"digest": "md5:d41d8cd98f00b204e9800998ecf8427e", "size": 1}),
            ),
        ),
        (
            "digest as a path",
            oci(&[], json!({"digest": "sha256:../../../../etc/passwd", "size": 1})),
        ),
    ];
    for (name, archive) in cases {
        let ground = Ground::new();
        let error = ground.load(&archive).err();
        assert!(error.is_some(), "{name} was accepted");
        let kind = error.map(|e| e.kind());
        assert!(
            matches!(kind, Some(Kind::Invalid | Kind::TooLarge)),
            "{name}: {kind:?}"
        );
        assert!(ground.is_empty(), "{name} left {:?}", ground.files());
    }
}

#[test]
fn content_that_is_there_already_is_not_taken_from_elsewhere() {
    let ground = Ground::new();
    let image = busybox();
    let id = ground.load_one(&docker_archive(&[busybox()])).id;
    // Other content of the same size under the name of a layer that is there.
    let mut other = image.layers[0].clone();
    *other.last_mut().unwrap() ^= 1;
    let name = format!("{}/layer.tar", Digest::of(&image.layers[0]).hex());
    let archive = Tar::new([Item::file(&name, &other)]).finish();
    assert_eq!(ground.load(&archive).unwrap_err().kind(), Kind::Invalid);
    let [mut a, b] = [image.layers[0].clone(), image.layers[1].clone()];
    a.extend_from_slice(&[0; 512]);
    let longer = TestImage::new("longer:1", vec![a, b]);
    assert_ne!(ground.load_one(&docker_archive(&[longer])).id, id);
    assert_eq!(ground.load_one(&docker_archive(&[busybox()])).id, id);
}

#[test]
fn a_failed_layer_does_not_stop_a_good_load() {
    let ground = Ground::new();
    let bad = docker_archive(&[TestImage::new("x:1", vec![layer("a", "1"), vec![9; 3000]])]);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| ground.load(&bad).unwrap_err());
        }
    });
    assert!(ground.is_empty());
    ground.load_one(&docker_archive(&[busybox()]));
}

#[test]
fn bombs_are_refused_and_leave_nothing() {
    let limits = Limits {
        expansion_floor: 1 << 20,
        expansion_ratio: 20,
        ..Limits::default()
    };
    let ground = Ground::with(limits);
    let zeros = Tar::new([Item::file("zeros", vec![0; 8 << 20])]).finish();
    let config = json!({"rootfs": {"diff_ids": [Digest::of(&zeros)]}}).to_string();
    let manifest = json!([{"Config": "c", "Layers": ["l"]}]).to_string();
    for bomb in [gzip(&zeros), zstd::encode_all(&zeros[..], 3).unwrap()] {
        let archive = Tar::new([
            Item::file("c", &config),
            Item::file("l", bomb),
            Item::file("manifest.json", &manifest),
        ])
        .finish();
        assert_eq!(ground.load(&archive).unwrap_err().kind(), Kind::TooLarge);
        assert!(ground.is_empty());
    }
}

#[test]
fn a_reader_that_fails_fails_the_load() {
    let ground = Ground::new();
    let archive = docker_archive(&[busybox()]);
    let broken = Cursor::new(archive[..3000].to_vec()).chain(Broken);
    let error = ground.store.load(broken, &()).unwrap_err();
    assert!(error.to_string().contains("connection reset"), "{error}");
    assert!(ground.is_empty());
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::ConnectionReset.into())
    }
}

/// The images of `archive` saved under all their names.
fn saved(ground: &Ground, ids: &[Digest]) -> Vec<u8> {
    let selected: Vec<_> = ids
        .iter()
        .map(|id| {
            let image = ground.store.get(id).unwrap();
            Selected {
                names: image.names.clone(),
                image,
            }
        })
        .collect();
    let mut out = Vec::new();
    ground.store.save(&selected, &mut out).unwrap();
    out
}

#[test]
fn saved_images_come_back_the_same() {
    let ground = Ground::new();
    let mut ids = Vec::new();
    let odd = TestImage::new(
        "r.io:5000/a/b:t",
        vec![layer("a", "1"), Tar::new([Item::file("x/y", "z")]).finish()],
    );
    for loaded in ground.load(&docker_archive(&[busybox(), odd])).unwrap() {
        ids.push(loaded.id);
    }
    ground.store.tag(&ids[0], &reference("more:1")).unwrap();
    let untagged = ground
        .load_one(&docker_archive(&[TestImage::new(
            "gone:1",
            vec![layer("c", "3")],
        )]))
        .id;
    ground.store.untag(&reference("gone:1")).unwrap();
    ids.push(untagged);
    let archive = saved(&ground, &ids);
    assert_eq!(saved(&ground, &ids), archive);
    let other = Ground::new();
    let loaded = other.load(&archive).unwrap();
    assert_eq!(loaded.iter().map(|l| l.id).collect::<Vec<_>>(), ids);
    for id in &ids {
        let (before, after) = (ground.store.get(id).unwrap(), other.store.get(id).unwrap());
        assert_eq!(
            (&before.names, &before.layers, &before.config),
            (&after.names, &after.layers, &after.config)
        );
        assert_eq!(
            ground.store.raw_config(&before).unwrap(),
            other.store.raw_config(&after).unwrap()
        );
    }
    assert_eq!(saved(&other, &ids), archive);
    // A reader that knows only manifest.json finds the same layers.
    let mut tar = tar::Archive::new(&archive[..]);
    let names: Vec<_> = tar
        .entries()
        .unwrap()
        .map(|e| e.unwrap().path().unwrap().display().to_string())
        .collect();
    for name in ["index.json", "manifest.json", "oci-layout", "repositories"] {
        assert!(names.iter().any(|n| n == name), "{name}");
    }
}

#[test]
fn imported_and_composed_images() {
    let ground = Ground::new();
    let config = ImageConfig {
        created: Some("2023-11-14T22:13:20Z".to_owned()),
        comment: "imported".to_owned(),
        config: crate::image::RunConfig {
            cmd: Some(vec!["sh".to_owned()]),
            ..Default::default()
        },
        ..ImageConfig::default()
    };
    let archive = layer("a", "1");
    let plain = ground
        .store
        .import(&archive[..], config.clone(), &[reference("i:1")])
        .unwrap();
    assert_eq!(
        ground.store.import(&archive[..], config.clone(), &[]).unwrap().id,
        plain.id
    );
    let packed = ground
        .store
        .import(&gzip(&archive)[..], config.clone(), &[])
        .unwrap();
    let (plain, packed) = (
        ground.store.get(&plain.id).unwrap(),
        ground.store.get(&packed.id).unwrap(),
    );
    assert_eq!(plain.config, packed.config);
    assert_eq!(ground.store.lower_dirs(&plain), ground.store.lower_dirs(&packed));
    assert_eq!(plain.config.config.cmd, Some(vec!["sh".to_owned()]));
    assert_eq!(plain.platform(), crate::image::Platform::host());
    let mut write =
        |out: &mut dyn std::io::Write| Ok(out.write_all(&Tar::new([Item::file("etc/b", "2")]).finish())?);
    let made = ground
        .store
        .compose(
            Some(&plain),
            Some(LayerFrom::Archive(&mut write)),
            config.clone(),
            &[reference("c:1")],
        )
        .unwrap();
    let made = ground.store.get(&made.id).unwrap();
    assert_eq!(made.layers.len(), 2);
    assert_eq!(made.layers[0], plain.layers[0]);
    let labelled = ground
        .store
        .compose(Some(&made), None, ImageConfig::default(), &[])
        .unwrap();
    assert_eq!(ground.store.get(&labelled.id).unwrap().layers, made.layers);
    let before = ground.files();
    for bad in [
        &b"noise"[..],
        &[7; 4096],
        &Tar::new([Item::file("../x", "x")]).finish(),
    ] {
        assert_eq!(
            ground.store.import(bad, config.clone(), &[]).unwrap_err().kind(),
            Kind::Invalid
        );
    }
    let mut fail = |_: &mut dyn std::io::Write| Err(Error::conflict("given up"));
    let error = ground
        .store
        .compose(None, Some(LayerFrom::Archive(&mut fail)), config, &[])
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert_eq!(ground.files(), before);
    let ground = ground.reopen();
    for image in ground.store.list() {
        ground.store.remove(&image.id).unwrap();
    }
    assert!(ground.is_empty());
}
