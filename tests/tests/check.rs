//! What is on disk: checked, mended, and accounted for.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use berth_tests::{
    Engine,
    client::query,
    container::{STAY, shell},
    image::{Compression, Image, Node, Tar},
    registry::{Content, Scripted},
};
use http::Method;
use serde_json::{Value, json};

async fn check(engine: &Engine, method: Method) -> Value {
    let call = engine.api.call(method, "/system/check");
    call.send().await.expect(200).json()
}

/// What was found, as kind, subject and outcome.
fn findings(report: &Value) -> Vec<(String, String, String)> {
    let text = |finding: &Value, name: &str| finding[name].as_str().expect("a text").to_owned();
    let list = report["Findings"].as_array().expect("a list");
    let mut all: Vec<_> = list
        .iter()
        .map(|f| (text(f, "Kind"), text(f, "Subject"), text(f, "Outcome")))
        .collect();
    all.sort();
    all
}

fn blob(engine: &Engine, digest: &str) -> PathBuf {
    let hex = digest.trim_start_matches("sha256:");
    engine.data_root().join("images/content/blobs/sha256").join(hex)
}

fn layer(engine: &Engine, diff_id: &str) -> PathBuf {
    let hex = diff_id.trim_start_matches("sha256:");
    engine.data_root().join("images/layers").join(hex).join("fs")
}

/// Changes one byte, and nothing that can be seen from outside.
fn flip(path: &Path) {
    let file = fs::File::options().read(true).write(true).open(path);
    let file = file.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let modified = file.metadata().and_then(|m| m.modified()).expect("a time");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 20).expect("a byte");
    byte[0] ^= 1;
    file.write_all_at(&byte, 20).expect("a byte");
    file.set_modified(modified).expect("a time");
}

async fn layers(engine: &Engine, name: &str) -> Vec<String> {
    let image = engine.api.get(&format!("/images/{name}/json")).await.expect(200);
    let layers = image.json()["RootFS"]["Layers"].clone();
    serde_json::from_value(layers).expect("a list of digests")
}

/// An image of which layers hide, replace and link.
fn intricate() -> Image {
    Image::busybox()
        .with_layer(
            Tar::new()
                .directory("d", 0o750)
                .file("d/file", 0o4711, "something that is long enough to be damaged")
                .add("d/same", 0o4711, Node::Hardlink("d/file"))
                .symlink("d/link", "../etc"),
        )
        .with_layer(
            Tar::new()
                .file("d/.wh.file", 0o644, "")
                .directory("etc", 0o755)
                .file("etc/.wh..wh..opq", 0o644, "")
                .file(
                    "lonely/deep/file",
                    0o600,
                    "its directories are not in the archive",
                ),
        )
}

async fn pull(engine: &Engine, name: &str, tag: &str) {
    let path = format!("/images/create{}", query(&[("fromImage", name), ("tag", tag)]));
    let records = engine.api.post(&path).await.expect(200).records();
    assert!(records.iter().all(|r| r["error"].is_null()), "{records:?}");
}

async fn build(engine: &Engine, tag: &str, dockerfile: &str) {
    let path = format!("/build{}", query(&[("t", tag)]));
    let context = Tar::new()
        .file("Dockerfile", 0o644, dockerfile)
        .file("x", 0o644, "x");
    let reply = engine.api.post_tar(&path, context.finish()).await.expect(200);
    assert!(reply.text().contains("Successfully built"), "{}", reply.text());
}

#[tokio::test]
async fn nothing_is_wrong_with_what_was_loaded_pulled_built_and_committed() {
    let mut engine = Engine::start().await;
    let mut content = Content::default();
    for (tag, compression) in [
        ("g", Compression::Gzip),
        ("z", Compression::Zstd),
        ("p", Compression::None),
    ] {
        let image = intricate().with_layer(Tar::new().file("tag", 0o644, tag));
        content.image(tag, &image, compression);
    }
    let registry = Scripted::start(content, |_, _| None).await;
    let name = format!("{}/app", registry.authority);
    for tag in ["g", "z", "p"] {
        pull(&engine, &name, tag).await;
    }
    engine.api.load(&intricate()).await;
    engine
        .api
        .post_tar("/images/load", intricate().oci_archive(Compression::Gzip))
        .await
        .expect(200);
    build(
        &engine,
        "built",
        "FROM busybox\nRUN rm /bin/vi; mkdir -m 700 /made; echo 1 >/made/x; ln /made/x /made/y; \
         touch -d '2001-02-03 04:05:06' /made/x; mkfifo /made/fifo; rm -r /home; mkdir /home\nCOPY x /x\n",
    )
    .await;
    let (code, _) = engine.api.run(&shell("true")).await;
    assert_eq!(code, 0);
    let id = engine
        .api
        .create(&shell("rm -r /home /bin/vi; mkdir /home; echo new >/home/x"))
        .await;
    engine.api.start(&id).await;
    engine.api.wait(&id).await;
    let path = format!("/commit{}", query(&[("container", &id), ("repo", "committed")]));
    engine.api.post_json(&path, &Value::Null).await.expect(201);
    for _ in 0..2 {
        let report = check(&engine, Method::GET).await;
        assert_eq!(report["Findings"], json!([]), "{report:#}");
        assert_eq!(report["Repaired"], false);
        for field in ["Images", "Names", "Blobs", "Bytes", "Layers"] {
            assert!(report[field].as_u64() > Some(4), "{report:#}");
        }
        engine.restart().await;
    }
    let refused = engine.api.get("/system/check?repair=true").await.expect(400);
    assert!(
        refused.message().contains("POST /system/check"),
        "{}",
        refused.message()
    );
    engine.finish().await;
}

#[tokio::test]
async fn damage_is_found_and_mended() {
    let engine = Engine::start().await;
    let mut content = Content::default();
    content.image("t", &intricate(), Compression::Gzip);
    let manifest: Value = serde_json::from_slice(&content.manifests["t"].1).expect("a manifest");
    let target = berth_tests::image::digest(&content.manifests["t"].1);
    let registry = Scripted::start(content, |_, _| None).await;
    let name = format!("{}/app", registry.authority);
    pull(&engine, &name, "t").await;
    let digest = |at: &Value| at["digest"].as_str().expect("a digest").to_owned();
    let (config, first) = (digest(&manifest["config"]), digest(&manifest["layers"][0]));
    let unpacked = layers(&engine, &format!("{name}:t")).await;
    flip(&blob(&engine, &first));
    flip(&blob(&engine, &target));
    fs::remove_file(blob(&engine, &config)).expect("a file");
    flip(&layer(&engine, &unpacked[1]).join("d/file"));
    let stray = "f".repeat(64);
    fs::write(blob(&engine, &stray), "stray").expect("a file");
    fs::create_dir(engine.data_root().join("images/layers/no-layer")).expect("a directory");
    let record = engine
        .data_root()
        .join("images/images")
        .join(format!("{}.json", &target[7..]));
    fs::write(&record, "{}").expect("a file");
    fs::write(engine.data_root().join("images/names/none.json"), "{}").expect("a file");
    let expected = |outcomes: [&str; 8]| {
        let mut all: Vec<(String, String, String)> = [
            ("content-damaged", first.clone()),
            ("content-damaged", target.clone()),
            ("content-missing", config.clone()),
            ("layer-damaged", unpacked[1].clone()),
            ("orphan", format!("content/blobs/sha256/{stray}")),
            ("orphan", "layers/no-layer".to_owned()),
            ("orphan", "names/none.json".to_owned()),
            ("record-damaged", format!("images/{}.json", &target[7..])),
        ]
        .into_iter()
        .zip(outcomes)
        .map(|((kind, subject), outcome)| (kind.to_owned(), subject, outcome.to_owned()))
        .collect();
        all.sort();
        all
    };
    for _ in 0..2 {
        let report = check(&engine, Method::GET).await;
        assert_eq!(findings(&report), expected(["reported"; 8]), "{report:#}");
    }
    let before = registry.asked().len();
    let report = check(&engine, Method::POST).await;
    let outcomes = [
        "fetched", "fetched", "fetched", "rebuilt", "removed", "removed", "removed", "rebuilt",
    ];
    assert_eq!(findings(&report), expected(outcomes), "{report:#}");
    assert_eq!(report["Repaired"], true);
    let asked = registry.asked();
    let fetched = asked[before..]
        .iter()
        .filter(|a| a.method == "GET" && a.path != "/v2/");
    assert_eq!(fetched.count(), 3, "only what was damaged is fetched");
    let report = check(&engine, Method::GET).await;
    assert_eq!(report["Findings"], json!([]), "{report:#}");
    let mut config = shell("cat /d/same /lonely/deep/file; ls /etc");
    config["Image"] = json!(format!("{name}:t"));
    let (code, output) = engine.api.run(&config).await;
    assert_eq!(code, 0, "{output:?}");
    assert!(
        output.out.starts_with("something that is long enough"),
        "{output:?}"
    );
    engine.finish().await;
}

#[tokio::test]
async fn what_runs_is_left_alone_and_what_cannot_be_mended_goes() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    engine
        .api
        .load(&Image::small("lost:v1", "nobody has it any more"))
        .await;
    engine
        .api
        .load(&Image::small("used:v1", "a container needs it"))
        .await;
    let id = engine.api.create(&shell(STAY)).await;
    engine.api.start(&id).await;
    let used = json!({"Image": "used:v1", "HostConfig": {"NetworkMode": "none"}});
    let kept = engine.api.create(&used).await;
    let busybox = layers(&engine, "busybox").await.remove(0);
    let damaged = layer(&engine, &busybox).join("etc/passwd");
    let text = fs::read(&damaged).expect("a file");
    flip(&damaged);
    for name in ["lost:v1", "used:v1"] {
        flip(&blob(&engine, &layers(&engine, name).await[0]));
    }
    let report = check(&engine, Method::POST).await;
    let mut outcomes: Vec<_> = findings(&report)
        .into_iter()
        .map(|(kind, _, outcome)| (kind, outcome))
        .collect();
    outcomes.sort();
    let expected = [
        ("content-damaged", "kept"),
        ("content-damaged", "removed"),
        ("layer-damaged", "kept"),
    ];
    assert_eq!(
        outcomes,
        expected.map(|(a, b)| (a.to_owned(), b.to_owned())),
        "{report:#}"
    );
    let with_layer = report["Findings"].as_array().expect("a list").iter();
    let named = with_layer.filter(|f| f["Containers"] == json!([id]) || f["Containers"] == json!([kept]));
    assert_eq!(named.count(), 2, "{report:#}");
    let state = engine.api.inspect(&id).await["State"].clone();
    assert_eq!(state["Running"], true);
    engine.api.get("/images/lost:v1/json").await.expect(404);
    engine.api.get("/images/used:v1/json").await.expect(200);
    engine
        .api
        .post(&format!("/containers/{id}/stop"))
        .await
        .expect(204);
    let report = check(&engine, Method::POST).await;
    assert!(
        findings(&report).contains(&("layer-damaged".to_owned(), busybox, "rebuilt".to_owned())),
        "{report:#}"
    );
    assert_eq!(fs::read(&damaged).expect("a file"), text);
    engine.api.start(&id).await;
    for id in [&id, &kept] {
        let path = format!("/containers/{id}?force=1");
        engine.api.delete(&path).await.expect(204);
    }
    let report = check(&engine, Method::POST).await;
    assert_eq!(findings(&report).len(), 1, "{report:#}");
    engine.restart().await;
    let report = check(&engine, Method::GET).await;
    assert_eq!(report["Findings"], json!([]), "{report:#}");
    engine.finish().await;
}

/// What `du` says of the data root, and the sum of what the engine says.
async fn measured(engine: &Engine) -> (u64, u64, Value) {
    let usage = engine.api.get("/system/df").await.expect(200).json();
    let parts = usage["Storage"].as_array().expect("a list");
    let sum = parts.iter().filter_map(|part| part["Bytes"].as_u64()).sum();
    let output = tokio::process::Command::new("du")
        .args(["-sx", "--block-size=1"])
        .arg(engine.data_root())
        .output()
        .await
        .expect("du runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let du = text.split_whitespace().next().and_then(|n| n.parse().ok());
    (du.expect("a number"), sum, usage)
}

fn part(usage: &Value, kind: &str) -> u64 {
    let parts = usage["Storage"].as_array().expect("a list");
    let part = parts.iter().find(|part| part["Kind"] == kind);
    part.and_then(|part| part["Bytes"].as_u64())
        .unwrap_or_else(|| panic!("no {kind} in {usage:#}"))
}

#[tokio::test]
async fn data_usage_explains_the_data_root() {
    let mut engine = Engine::start().await;
    let mut content = Content::default();
    content.image("t", &intricate(), Compression::Zstd);
    let registry = Scripted::start(content, |_, _| None).await;
    let name = format!("{}/app", registry.authority);
    let explained = |(du, sum, usage): (u64, u64, Value)| {
        assert!(
            du.abs_diff(sum) * 100 < du,
            "{sum} of {du} bytes explained: {usage:#}"
        );
        assert_eq!(part(&usage, "other"), 0, "{usage:#}");
        usage
    };
    explained(measured(&engine).await);
    pull(&engine, &name, "t").await;
    engine.api.load_busybox().await;
    build(
        &engine,
        "built",
        "FROM busybox\nRUN head -c 3000000 /dev/urandom >/noise\n",
    )
    .await;
    let mut config = shell(
        "head -c 2000000 /dev/urandom >/own; head -c 1000000 /dev/urandom >/v/own; yes | head -n 300000",
    );
    config["Volumes"] = json!({"/v": {}});
    let id = engine.api.create(&config).await;
    engine.api.start(&id).await;
    engine.api.wait(&id).await;
    let path = format!("/commit{}", query(&[("container", &id), ("repo", "committed")]));
    engine.api.post_json(&path, &Value::Null).await.expect(201);
    // The beginning of a blob.
    let partial = engine
        .data_root()
        .join("images/content/partial")
        .join("a".repeat(64));
    fs::write(&partial, vec![1; 1_500_000]).expect("a file");
    let usage = explained(measured(&engine).await);
    for (kind, least) in [
        ("image-content", 4_000_000),
        ("image-layers", 5_000_000),
        ("image-partial", 1_500_000),
        ("container-layers", 2_000_000),
        ("container-logs", 500_000),
        ("volumes", 1_000_000),
        ("build-cache", 4096),
    ] {
        assert!(part(&usage, kind) >= least, "{kind}: {usage:#}");
    }
    let only = engine.api.get("/system/df?type=volume").await.expect(200).json();
    assert!(only.get("Storage").is_none(), "{only:#}");
    engine.restart().await;
    explained(measured(&engine).await);
    engine
        .api
        .delete(&format!("/containers/{id}?v=1&force=1"))
        .await
        .expect(204);
    engine.api.post("/build/prune?all=1").await.expect(200);
    let all = query(&[("filters", r#"{"dangling":["false"]}"#)]);
    engine.api.post(&format!("/images/prune{all}")).await.expect(200);
    let usage = explained(measured(&engine).await);
    for kind in [
        "image-partial",
        "container-layers",
        "container-logs",
        "volumes",
        "trash",
        "building",
    ] {
        assert!(part(&usage, kind) < 100_000, "{kind}: {usage:#}");
    }
    engine.finish().await;
}
