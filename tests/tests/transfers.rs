//! Images that come and go under bad conditions: engines that die, disks that are full, everything at once.

use std::{
    collections::BTreeMap,
    fs,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use berth_tests::{
    Engine,
    client::{Client, query},
    image::{Compression, Image, Tar},
    random::{Random, effort, figure, seed},
    registry::{Answer, Content, Scripted, Send},
};
use http::Method;
use serde_json::{Value, json};

/// What may be fetched twice when an engine dies.
const AGAIN: u64 = 4 << 20;

/// Bytes that do not compress.
fn noise(random: &mut Random, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        bytes.extend_from_slice(&random.number().to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn partials(engine: &Engine) -> BTreeMap<String, u64> {
    let dir = engine.data_root().join("images/content/partial");
    let files = fs::read_dir(dir).expect("a directory");
    files
        .filter_map(|file| {
            let file = file.ok()?;
            let name = file.file_name().into_string().ok()?;
            Some((format!("sha256:{name}"), file.metadata().ok()?.len()))
        })
        .collect()
}

async fn pull(api: &Client, name: &str, tag: &str) -> Vec<Value> {
    let path = format!("/images/create{}", query(&[("fromImage", name), ("tag", tag)]));
    api.post(&path).await.expect(200).records()
}

fn error(records: &[Value]) -> String {
    let errors = records.iter().filter_map(|record| record["error"].as_str());
    errors.collect()
}

async fn findings(engine: &Engine) -> Value {
    let report = engine.api.get("/system/check").await.expect(200).json();
    report["Findings"].clone()
}

/// The part of a blob that is asked for, broken off or slow as the dice fall.
fn unreliable(random: &Mutex<Random>, range: &str, bytes: &[u8]) -> Answer {
    let from: usize = range
        .strip_prefix("bytes=")
        .and_then(|range| range.trim_end_matches('-').parse().ok())
        .unwrap_or(0);
    let rest = bytes[from..].to_vec();
    let length = rest.len();
    let answer = match from {
        0 => Answer::new(200, rest),
        _ => Answer::new(206, rest).header(
            "Content-Range",
            &format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()),
        ),
    };
    let mut random = random.lock().expect("no panic");
    let part = random.below(length + 1);
    match random.below(4) {
        0 => answer,
        1 => answer.sent(Send::Close(part)),
        _ => answer.sent(Send::Stall(part)),
    }
}

#[tokio::test]
async fn engines_that_die_while_they_pull_go_on_and_show_no_broken_image() {
    let rounds = 8 * effort();
    let mut engine = Engine::start().await;
    let mut random = Random::new(seed(), "dying pulls");
    let layers: Vec<Tar> = (0..4)
        .map(|at| {
            let size = (1 << 20) + random.below(3 << 20);
            Tar::new().file(&format!("noise{at}"), 0o644, noise(&mut random, size))
        })
        .collect();
    let mut content = Content::default();
    content.image("t", &Image::new("x", layers), Compression::Gzip);
    let total: u64 = content.blobs.values().map(|blob| blob.len() as u64).sum();
    let dice = Mutex::new(Random::new(seed(), "answers"));
    let healthy = Arc::new(Mutex::new(false));
    let is_healthy = Arc::clone(&healthy);
    let registry = Scripted::start(content, move |asked, content| {
        let bytes = asked.blob().and_then(|name| content.blobs.get(name))?;
        if *is_healthy.lock().expect("no panic") || bytes.len() < 1 << 16 {
            return None;
        }
        Some(unreliable(&dice, asked.header("range"), bytes))
    })
    .await;
    let name = format!("{}/app", registry.authority);
    let path = format!("/images/create{}", query(&[("fromImage", &name), ("tag", "t")]));
    let (mut again, mut whole) = (0, 0);
    for round in 0..rounds {
        let mut left = partials(&engine);
        let seen = registry.asked().len();
        let call = engine.api.call(Method::POST, &path);
        let streaming = call.open().await.expect(200);
        tokio::time::sleep(Duration::from_micros(random.below(600_000) as u64)).await;
        engine.kill9().await;
        drop(streaming);
        // The first request for each blob goes on where the last engine was.
        for asked in &registry.asked()[seen..] {
            let Some(had) = asked.blob().and_then(|blob| left.remove(blob)) else {
                continue;
            };
            let range = asked
                .header("range")
                .trim_start_matches("bytes=")
                .trim_end_matches('-');
            let from: u64 = range.parse().unwrap_or(0);
            assert!(
                had - from <= AGAIN,
                "round {round}: {had} bytes were here, asked from {from}"
            );
            again = again.max(had - from);
        }
        engine.launch_again().await;
        let shown = engine.api.get(&format!("/images/{name}:t/json")).await;
        match shown.status().as_u16() {
            404 => {}
            200 => {
                whole += 1;
                let removed = engine.api.delete(&format!("/images/{name}:t")).await;
                assert_eq!(findings(&engine).await, json!([]));
                removed.expect(200);
            }
            other => panic!("round {round}: {other}"),
        }
        assert_eq!(findings(&engine).await, json!([]), "round {round}");
    }
    *healthy.lock().expect("no panic") = true;
    let here: u64 = partials(&engine).values().sum();
    let seen = registry.asked().len();
    assert_eq!(error(&pull(&engine.api, &name, "t").await), "");
    let asked = registry.asked();
    let ranged = asked[seen..]
        .iter()
        .filter(|asked| !asked.header("range").is_empty());
    assert!(
        here == 0 || here >= total || ranged.count() > 0,
        "{here} bytes were here and nothing went on"
    );
    assert_eq!(findings(&engine).await, json!([]));
    assert!(partials(&engine).is_empty());
    figure(
        "bytes fetched again after SIGKILL in a pull",
        &format!("<= {AGAIN}"),
        &format!("{again}, {whole} times the image was complete"),
        rounds,
    );
    engine.finish().await;
}

fn mount(words: &[&str]) {
    let done = std::process::Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .status()
        .expect("mount runs");
    assert!(done.success(), "{words:?}");
}

#[tokio::test]
async fn a_disk_that_gets_full_keeps_nothing_of_a_pull() {
    let mut engine = Engine::start().await;
    let mut random = Random::new(seed(), "full disk");
    let mut content = Content::default();
    let layers = [12 << 20, 14 << 20, 9 << 20]
        .map(|size| Tar::new().file(&format!("noise{size}"), 0o644, noise(&mut random, size)));
    content.image("large", &Image::new("x", layers), Compression::Gzip);
    content.image(
        "small",
        &Image::small("x", "there is room for this"),
        Compression::Gzip,
    );
    let registry = Scripted::start(content, |_, _| None).await;
    let name = format!("{}/app", registry.authority);
    engine.stop().await;
    let root = engine.data_root().display().to_string();
    mount(&["mount", "-t", "tmpfs", "-o", "size=40m,mode=710", "none", &root]);
    engine.launch_again().await;
    let images = engine.data_root().join("images");
    let used = || {
        let output = std::process::Command::new("du")
            .args(["-s", "--block-size=1"])
            .arg(&images)
            .output();
        let text = String::from_utf8(output.expect("du runs").stdout).expect("text");
        text.split_whitespace()
            .next()
            .and_then(|n| n.parse::<u64>().ok())
            .expect("a number")
    };
    let before = used();
    for _ in 0..3 {
        let records = pull(&engine.api, &name, "large").await;
        let said = error(&records).to_lowercase();
        assert!(said.contains("no space left on device"), "{records:?}");
        engine
            .api
            .get(&format!("/images/{name}:large/json"))
            .await
            .expect(404);
        assert!(partials(&engine).is_empty(), "{:?}", partials(&engine));
        let after = used();
        assert!(after <= before + 65_536, "{before} bytes before, {after} after");
        assert_eq!(findings(&engine).await, json!([]));
    }
    assert_eq!(error(&pull(&engine.api, &name, "small").await), "");
    engine
        .api
        .get(&format!("/images/{name}:small/json"))
        .await
        .expect(200);
    engine.stop().await;
    mount(&["umount", &root]);
    engine.launch_again().await;
    engine.finish().await;
}

/// What the clients of the next test share.
struct Shared {
    api: Client,
    name: String,
    archive: Vec<u8>,
}

const TAGS: [&str; 3] = ["a", "b", "c"];

/// One call of those that may meet. None of them may fail for what others do meanwhile.
async fn call(shared: &Shared, random: &mut Random) {
    let (api, name) = (&shared.api, &shared.name);
    let tag = random.pick(&TAGS);
    match random.below(8) {
        0..=2 => {
            let records = pull(api, name, tag).await;
            assert_eq!(error(&records), "", "pull: {records:?}");
        }
        3 => {
            let gone = api.delete(&format!("/images/{name}:{tag}?force=1")).await;
            let status = gone.status().as_u16();
            assert!(
                matches!(status, 200 | 404 | 409),
                "delete: {status} {}",
                gone.text()
            );
        }
        4 => {
            let all = query(&[("filters", r#"{"dangling":["false"]}"#)]);
            let pruned = api.post(&format!("/images/prune{all}")).await;
            let status = pruned.status().as_u16();
            assert!(matches!(status, 200 | 409), "prune: {status} {}", pruned.text());
        }
        5 => {
            let number = random.below(5);
            let text =
                format!("FROM {name}:{tag}\nCOPY Dockerfile /copied\nENV N={number}\nLABEL l={number}\n");
            let context = Tar::new().file("Dockerfile", 0o644, text).finish();
            let path = format!("/build{}", query(&[("t", &format!("built:{number}"))]));
            let built = api.post_tar(&path, context).await.expect(200);
            assert!(
                built.text().contains("Successfully built"),
                "build: {}",
                built.text()
            );
        }
        6 => {
            let loaded = api
                .post_tar("/images/load", shared.archive.clone())
                .await
                .expect(200);
            assert!(!loaded.text().contains("\"error\""), "load: {}", loaded.text());
        }
        _ => {
            let pruned = api.post("/build/prune?all=1").await;
            assert_eq!(
                pruned.status().as_u16(),
                200,
                "prune of builds: {}",
                pruned.text()
            );
        }
    }
}

#[tokio::test]
async fn pulls_builds_loads_and_removals_at_once_do_not_harm_each_other() {
    let calls = 25 * effort();
    let engine = Engine::start().await;
    let mut random = Random::new(seed(), "shared layers");
    let base = Image::busybox().with_layer(Tar::new().file("noise", 0o644, noise(&mut random, 600_000)));
    let mut content = Content::default();
    for tag in TAGS {
        let image = base.clone().with_layer(Tar::new().file("tag", 0o644, tag));
        content.image(tag, &image, Compression::Gzip);
    }
    let registry = Scripted::start(content, |_, _| None).await;
    let shared = Arc::new(Shared {
        api: engine.api.clone(),
        name: format!("{}/app", registry.authority),
        archive: base.clone().tagged("loaded:v1").docker_archive(),
    });
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..5 {
        let shared = Arc::clone(&shared);
        clients.spawn(async move {
            let mut random = Random::new(seed(), &format!("client {client}"));
            for _ in 0..calls {
                call(&shared, &mut random).await;
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("no call has failed");
    }
    assert_eq!(findings(&engine).await, json!([]));
    // Whatever is there is whole.
    let list = engine.api.get("/images/json").await.expect(200).json();
    for image in list.as_array().expect("a list") {
        let id = image["Id"].as_str().expect("an id");
        let saved = engine.api.get(&format!("/images/{id}/get")).await.expect(200);
        assert!(saved.text().len() > 1024, "{id}");
    }
    // And when all goes, nothing stays.
    engine.api.post("/build/prune?all=1").await.expect(200);
    let all = query(&[("filters", r#"{"dangling":["false"]}"#)]);
    engine.api.post(&format!("/images/prune{all}")).await.expect(200);
    let blobs = engine.data_root().join("images/content/blobs/sha256");
    let layers = engine.data_root().join("images/layers");
    let left = |dir| fs::read_dir(dir).expect("a directory").count();
    let list = engine.api.get("/images/json").await.expect(200).json();
    assert_eq!(list, json!([]));
    assert_eq!((left(blobs), left(layers)), (0, 0));
    figure(
        "pull, build, load, delete and prune at once",
        "0 failures, 0 findings, 0 left",
        "0, 0, 0",
        5 * calls,
    );
    engine.finish().await;
}
