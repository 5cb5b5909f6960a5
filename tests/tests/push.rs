//! Pushes, and what others find then.

use berth_tests::{
    Engine,
    client::query,
    image::{Compression, Image, Tar},
    registry::{Answer, Content, DockerRegistry, MANIFEST, Scripted},
};
use serde_json::{Value, json};

async fn push(engine: &Engine, name: &str, tag: &str) -> Vec<Value> {
    let path = format!("/images/{name}/push{}", query(&[("tag", tag)]));
    let call = engine.api.call(http::Method::POST, &path);
    call.header("x-registry-auth", "e30=")
        .send()
        .await
        .expect(200)
        .records()
}

fn statuses(records: &[Value]) -> Vec<&str> {
    records
        .iter()
        .filter_map(|record| record["status"].as_str())
        .collect()
}

#[tokio::test]
async fn what_was_pulled_is_pushed_byte_for_byte() {
    let engine = Engine::start().await;
    let mut content = Content::default();
    content.image("t", &Image::small("x", "round trip"), Compression::Zstd);
    let bytes = content.manifests["t"].1.clone();
    let from = Scripted::start(content, |_, _| None).await;
    let source = format!("{}/app", from.authority);
    let path = format!("/images/create{}", query(&[("fromImage", &source), ("tag", "t")]));
    engine.api.post(&path).await.expect(200);
    let registry = DockerRegistry::start("", "").await;
    let name = registry.name("copy/app");
    let path = format!(
        "/images/{source}:t/tag{}",
        query(&[("repo", &name), ("tag", "v1")])
    );
    engine.api.post(&path).await.expect(201);
    let records = push(&engine, &name, "v1").await;
    let said = statuses(&records);
    assert_eq!(said[0], format!("The push refers to repository [{name}]"));
    assert!(
        said.contains(&"Preparing") && said.contains(&"Pushed"),
        "{said:?}"
    );
    let digest = berth_tests::image::digest(&bytes);
    let result = json!({"Tag": "v1", "Digest": digest, "Size": bytes.len()});
    assert_eq!(records.last().expect("a record")["aux"], result);
    let line = format!("v1: digest: {digest} size: {}", bytes.len());
    assert!(said.contains(&line.as_str()), "{said:?}");
    // Again: nothing to send. Elsewhere in the same registry: nothing to send either.
    assert!(statuses(&push(&engine, &name, "v1").await).contains(&"Layer already exists"));
    let other = registry.name("other/app");
    let path = format!(
        "/images/{source}:t/tag{}",
        query(&[("repo", &other), ("tag", "v2")])
    );
    engine.api.post(&path).await.expect(201);
    let records = push(&engine, &other, "").await;
    assert!(
        statuses(&records).contains(&"Mounted from copy/app"),
        "{records:?}"
    );
    let seen = engine
        .api
        .get(&format!("/distribution/{other}:v2/json"))
        .await
        .expect(200)
        .json();
    assert_eq!(seen["Descriptor"]["digest"], digest);
    registry.stop().await;
    engine.finish().await;
}

#[tokio::test]
async fn others_find_what_was_pushed_and_the_other_way_round() {
    let engine = Engine::start().await;
    let registry = DockerRegistry::start("", "").await;
    let name = registry.name("made/here:v1");
    let big = Tar::new().file("big", 0o644, vec![7; 40 << 20]);
    engine
        .api
        .load(&Image::busybox().with_layer(big).tagged(&name))
        .await;
    engine.docker(&["push", &name]).await.ok();
    let dir = tempfile::tempdir().expect("a directory");
    let there = format!("oci:{}:x", dir.path().join("layout").display());
    let copy = registry.name("made/elsewhere:v1");
    for words in [
        [
            "copy",
            "--src-tls-verify=false",
            &format!("docker://{name}"),
            &there,
        ],
        [
            "copy",
            "--dest-tls-verify=false",
            &there,
            &format!("docker://{copy}"),
        ],
    ] {
        let output = tokio::process::Command::new("skopeo").args(words).output().await;
        let output =
            output.unwrap_or_else(|e| panic!("cannot run skopeo: {e}; on Debian: apt-get install skopeo"));
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    engine.docker(&["pull", &copy]).await.ok();
    let said = engine
        .docker(&["run", "--rm", "--network=none", &copy, "wc", "-c", "/big"])
        .await
        .ok();
    assert!(said.starts_with("41943040"), "{said}");
    registry.stop().await;
    engine.finish().await;
}

/// The bytes in the content store of an engine.
fn content(engine: &Engine) -> u64 {
    let blobs = engine.data_root().join("images/content/blobs/sha256");
    let files = std::fs::read_dir(blobs).expect("a directory");
    files
        .map(|file| file.expect("a file").metadata().expect("a file").len())
        .sum()
}

async fn manifest(registry: &DockerRegistry, repository: &str, tag: &str) -> Value {
    let path = format!("http://{}/v2/{repository}/manifests/{tag}", registry.authority);
    let output = tokio::process::Command::new("curl")
        .args(["-sf", "-H", &format!("Accept: {MANIFEST}"), &path])
        .output()
        .await
        .expect("curl runs");
    serde_json::from_slice(&output.stdout).expect("a manifest")
}

#[tokio::test]
async fn layers_without_compression_are_compressed_on_their_way() {
    let mut engines = [Engine::start().await, Engine::start().await];
    let registry = DockerRegistry::start("", "").await;
    let name = registry.name("made/app");
    let text = "much the same again and again\n".repeat(300_000);
    let image = Image::busybox().with_layer(Tar::new().file("text", 0o644, &text));
    let mut digests = Vec::new();
    for engine in &engines {
        engine
            .api
            .load(&image.clone().tagged(&format!("{name}:v1")))
            .await;
        let before = content(engine);
        let records = push(engine, &name, "v1").await;
        let result = &records.last().expect("a record")["aux"];
        digests.push(result["Digest"].as_str().expect("a digest").to_owned());
        // What was compressed is gone again; its manifest stays.
        let more = content(engine) - before;
        assert!(more < 4096, "{more} bytes more than before");
    }
    assert_eq!(digests[0], digests[1], "equal layers have equal digests");
    let stored = manifest(&registry, "made/app", "v1").await;
    let layers = stored["layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 2);
    for layer in layers {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    }
    let size = layers[1]["size"].as_u64().expect("a size");
    assert!(size < text.len() as u64 / 20, "{size}");
    // Known by its digest there, also after a restart; nothing is sent or fetched again.
    let engine = &mut engines[0];
    engine.crash().await;
    let shown = engine
        .api
        .get(&format!("/images/{name}:v1/json"))
        .await
        .expect(200);
    let digest = format!("{name}@{}", digests[0]);
    assert_eq!(shown.json()["RepoDigests"], json!([digest]));
    engine
        .api
        .get(&format!("/images/{digest}/json"))
        .await
        .expect(200);
    let again = push(engine, &name, "v1").await;
    let said = statuses(&again);
    assert_eq!(said.iter().filter(|s| **s == "Layer already exists").count(), 2);
    assert_eq!(again.last().expect("a record")["aux"]["Digest"], digests[0]);
    let path = format!("/images/create{}", query(&[("fromImage", &name), ("tag", "v1")]));
    let pulled = engine.api.post(&path).await.expect(200).records();
    let last = format!("Status: Image is up to date for {name}:v1");
    assert_eq!(*statuses(&pulled).last().expect("a status"), last);
    // In another repository it is not sent again either.
    let other = registry.name("other/app");
    let path = format!(
        "/images/{name}:v1/tag{}",
        query(&[("repo", &other), ("tag", "v2")])
    );
    engine.api.post(&path).await.expect(201);
    let records = push(engine, &other, "").await;
    let said = statuses(&records);
    assert_eq!(
        said.iter().filter(|s| **s == "Mounted from made/app").count(),
        2,
        "{said:?}"
    );
    // The last tag takes the digest along.
    let gone = engine.api.delete(&format!("/images/{name}:v1")).await.expect(200);
    assert_eq!(
        gone.json(),
        json!([{"Untagged": format!("{name}:v1")}, {"Untagged": digest}])
    );
    // And it is what it was.
    let engine = &engines[1];
    engine.api.delete(&format!("/images/{name}:v1")).await.expect(200);
    engine.docker(&["pull", "-q", &digest]).await.ok();
    let said = engine
        .docker(&["run", "--rm", "--network=none", &digest, "wc", "-c", "/text"])
        .await
        .ok();
    assert!(said.starts_with(&text.len().to_string()), "{said}");
    registry.stop().await;
    for engine in engines {
        engine.finish().await;
    }
}

#[tokio::test]
async fn refusals_are_told_in_the_stream() {
    let engine = Engine::start().await;
    let registry = Scripted::start(Content::default(), |asked, _| {
        let closed = asked.method == "POST";
        closed.then(|| Answer::error(403, "DENIED", "requested access to the resource is denied"))
    })
    .await;
    let name = format!("{}/app", registry.authority);
    engine
        .api
        .load(&Image::small(&format!("{name}:t"), "closed"))
        .await;
    let last = push(&engine, &name, "t").await.pop().expect("a record");
    assert_eq!(
        last["error"],
        "denied: requested access to the resource is denied"
    );
    let last = push(&engine, &name, "none").await.pop().expect("a record");
    assert_eq!(
        last["error"],
        format!("An image does not exist locally with the tag: {name}")
    );
    let path = "/images/UPPER/push";
    let call = engine.api.call(http::Method::POST, path);
    call.header("x-registry-auth", "e30=").send().await.expect(400);
    engine.finish().await;
}
