//! Pushes, and what others find then.

use berth_tests::{
    Engine,
    client::query,
    image::{Compression, Image, Tar},
    registry::{Answer, Content, DockerRegistry, Scripted},
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
