//! The engine as a whole: what it says of itself, what takes how much space, what is cleaned up, what is reloaded.

use berth_tests::{
    Engine,
    client::{filters, query},
    container::{busybox, shell},
    image::{Image, Tar},
};
use serde_json::{Value, json};

async fn usage(engine: &Engine, query: &str) -> Value {
    engine
        .api
        .get(&format!("/system/df{query}"))
        .await
        .expect(200)
        .json()
}

#[tokio::test]
async fn disk_usage_counts_each_thing_once() {
    let engine = Engine::start().await;
    let base = Image::busybox().tagged("base:v1");
    let top = base
        .clone()
        .tagged("top:v1")
        .with_layer(Tar::new().file("x", 0o644, [1_u8; 5000]));
    engine.api.load(&base).await;
    engine.api.load(&top).await;
    let mut config = shell("dd if=/dev/zero of=/y bs=1000 count=3 2>/dev/null; ln /y /z");
    config["Image"] = json!("top:v1");
    let id = engine.api.create(&config).await;
    engine.api.start(&id).await;
    engine.api.wait(&id).await;
    let seen = usage(&engine, "").await;
    let image = |name: &str| {
        let list = seen["Images"].as_array().expect("a list");
        list.iter()
            .find(|image| image["RepoTags"] == json!([name]))
            .expect("the image")
            .clone()
    };
    let (base, top) = (image("base:v1"), image("top:v1"));
    let number = |value: &Value| value.as_i64().expect("a number");
    assert_eq!(number(&top["Size"]) - number(&base["Size"]), 5000);
    assert_eq!(
        (&base["SharedSize"], &top["SharedSize"]),
        (&base["Size"], &base["Size"])
    );
    assert_eq!((&base["Containers"], &top["Containers"]), (&json!(0), &json!(1)));
    let container = seen["Containers"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|c| c["Id"] == id.as_str());
    let container = container.expect("the container");
    assert_eq!(container["SizeRw"], 3000);
    assert_eq!(number(&container["SizeRootFs"]), 3000 + number(&top["Size"]));
    assert_eq!((&seen["Volumes"], &seen["BuildCache"]), (&json!([]), &json!([])));
    let hello: i64 = seen["Images"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|image| image["Id"] != base["Id"] && image["Id"] != top["Id"])
        .map(|image| number(&image["Size"]))
        .sum();
    assert_eq!(number(&seen["LayersSize"]), number(&top["Size"]) + hello);
    // Only what is asked for.
    for (kind, fields) in [
        ("container", vec!["Containers"]),
        ("image", vec!["Images", "LayersSize"]),
        ("volume", vec!["Volumes"]),
        ("build-cache", vec!["BuildCache"]),
    ] {
        let seen = usage(&engine, &query(&[("type", kind)])).await;
        let mut named: Vec<_> = seen.as_object().expect("an object").keys().cloned().collect();
        named.sort();
        assert_eq!(named, fields, "{kind}");
    }
    engine.api.get("/system/df?type=nothing").await.expect(400);
    let out = engine.docker(&["system", "df"]).await.ok();
    assert!(out.contains("Build Cache") && out.contains("Images"), "{out}");
    let out = engine.docker(&["system", "df", "-v"]).await.ok();
    assert!(out.contains("top") && out.contains("3kB"), "{out}");
    engine.finish().await;
}

#[tokio::test]
async fn containers_are_pruned_by_filters() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let made = async |name: &str, labels: Value| {
        let mut config = busybox(&["true"]);
        config["Labels"] = labels;
        engine.api.create_named(name, &config).await
    };
    made("plain", json!({})).await;
    made("red", json!({"colour": "red"})).await;
    made("blue", json!({"colour": "blue"})).await;
    let prune = async |filter: Value| {
        let path = format!("/containers/prune{}", filters(&filter));
        let reply = engine.api.post(&path).await.expect(200).json();
        let deleted = reply["ContainersDeleted"].as_array().map_or(0, Vec::len);
        (deleted, engine.api.names("?all=1").await)
    };
    assert_eq!(prune(json!({"until": ["1h"]})).await.0, 0);
    assert_eq!(prune(json!({"label": ["colour=green"]})).await.0, 0);
    let (deleted, mut left) = prune(json!({"label": ["colour=red"]})).await;
    left.sort();
    assert_eq!((deleted, left), (1, vec!["blue".to_owned(), "plain".to_owned()]));
    let (deleted, left) = prune(json!({"label!": ["colour=blue"]})).await;
    assert_eq!((deleted, left), (1, vec!["blue".to_owned()]));
    for wrong in [
        json!({"until": ["yesterday"]}),
        json!({"colour": ["x"]}),
        json!({"until": ["1h", "2h"]}),
    ] {
        engine
            .api
            .post(&format!("/containers/prune{}", filters(&wrong)))
            .await
            .expect(400);
    }
    assert_eq!(prune(json!({})).await, (1, Vec::new()));
    engine.finish().await;
}

#[tokio::test]
async fn images_are_pruned_by_filters() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    engine
        .api
        .load(&Image::small("kept:v1", "kept").with("Labels", json!({"keep": "1"})))
        .await;
    engine.api.load(&Image::small("moved:v1", "one")).await;
    engine.api.load(&Image::small("moved:v1", "two")).await;
    engine.api.create(&busybox(&["true"])).await;
    let prune = async |filter: Value| {
        let path = format!("/images/prune{}", filters(&filter));
        engine.api.post(&path).await.expect(200).json()
    };
    let tags = async || {
        let list = engine.api.get("/images/json").await.expect(200).json();
        let list = list.as_array().expect("a list").clone();
        let mut tags: Vec<_> = list
            .iter()
            .filter_map(|image| image["RepoTags"][0].as_str().map(str::to_owned))
            .collect();
        tags.sort();
        (list.len(), tags)
    };
    let before = tags().await.0;
    // These images say that they are old.
    assert_eq!(
        prune(json!({"label": ["none"]})).await["ImagesDeleted"],
        Value::Null
    );
    assert_eq!(
        prune(json!({"until": ["2020-01-01"]})).await["ImagesDeleted"],
        Value::Null
    );
    let pruned = prune(json!({"dangling": ["true"]})).await;
    assert_eq!(
        pruned["ImagesDeleted"].as_array().expect("a list").len(),
        1,
        "{pruned}"
    );
    assert_eq!(pruned["SpaceReclaimed"], 3);
    assert_eq!(tags().await.0, before - 1);
    prune(json!({"dangling": ["false"], "label!": ["keep"], "until": ["24h"]})).await;
    let (_, left) = tags().await;
    assert!(
        left.contains(&"busybox:latest".to_owned()) && left.contains(&"kept:v1".to_owned()),
        "{left:?}"
    );
    assert!(!left.contains(&"moved:v1".to_owned()), "{left:?}");
    for wrong in [json!({"dangling": ["maybe"]}), json!({"until": ["never"]})] {
        engine
            .api
            .post(&format!("/images/prune{}", filters(&wrong)))
            .await
            .expect(400);
    }
    engine.finish().await;
}

#[tokio::test]
async fn the_command_line_cleans_up() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    engine.api.create(&busybox(&["true"])).await;
    let out = engine.docker(&["system", "prune", "-f"]).await.ok();
    assert!(
        out.contains("Deleted Containers:") && out.contains("Total reclaimed space: 0B"),
        "{out}"
    );
    engine
        .docker(&["system", "prune", "-f", "-a", "--filter", "until=24h"])
        .await
        .ok();
    engine.docker(&["container", "prune", "-f"]).await.ok();
    engine.docker(&["image", "prune", "-f", "-a"]).await.ok();
    engine.docker(&["info"]).await.ok();
    engine.finish().await;
}

#[tokio::test]
async fn one_name_for_the_storage_driver() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.create(&busybox(&["true"])).await;
    let info = engine.api.get("/info").await.expect(200).json();
    let container = engine.api.inspect(&id).await;
    let image = engine.api.get("/images/busybox/json").await.expect(200).json();
    for driver in [
        &info["Driver"],
        &container["Driver"],
        &container["GraphDriver"]["Name"],
        &image["GraphDriver"]["Name"],
    ] {
        assert_eq!(driver, "overlay2");
    }
    engine.finish().await;
}

#[tokio::test]
async fn a_hangup_reads_the_configuration_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("daemon.json");
    std::fs::write(&file, json!({"labels": ["a=1"]}).to_string()).expect("a file");
    let engine = Engine::options()
        .flag(format!("--config-file={}", file.display()))
        .start()
        .await;
    let info = async || engine.api.get("/info").await.expect(200).json();
    assert_eq!(info().await["Labels"], json!(["a=1"]));
    let new = json!({
        "labels": ["b=2"],
        "debug": true,
        "registry-mirrors": ["https://mirror.example"],
        "insecure-registries": ["reg.example:5000"],
        "shutdown-timeout": 3,
        "max-concurrent-downloads": 7,
        "max-concurrent-uploads": 8,
        "default-shm-size": "1m",
        "runtimes": {"other": {"path": "/usr/sbin/runc"}},
        "default-runtime": "other",
    });
    std::fs::write(&file, new.to_string()).expect("a file");
    let mut events = engine
        .api
        .call(
            http::Method::GET,
            &format!("/events{}", filters(&json!({"type": ["daemon"]}))),
        )
        .open()
        .await;
    let hang_up = || {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(engine.pid()),
            nix::sys::signal::Signal::SIGHUP,
        )
    };
    hang_up().expect("a signal");
    let event = events.record().await.expect("an event");
    assert_eq!(
        (&event["Action"], &event["Actor"]["ID"]),
        (&json!("reload"), &info().await["ID"])
    );
    let told = &event["Actor"]["Attributes"];
    assert_eq!(
        (&told["labels"], &told["debug"]),
        (&json!("[\"b=2\"]"), &json!("true"))
    );
    assert_eq!(told["registry-mirrors"], "[\"https://mirror.example\"]");
    assert_eq!(told["shutdown-timeout"], "3");
    assert_eq!(told["max-concurrent-downloads"], "7");
    assert_eq!(told["max-concurrent-uploads"], "8");
    assert_eq!(told["default-runtime"], "other");
    let seen = info().await;
    assert_eq!(seen["DefaultRuntime"], "other");
    assert_eq!(seen["Runtimes"]["other"]["path"], "/usr/sbin/runc");
    let id = engine.api.create(&hello()).await;
    let made = engine.api.inspect(&id).await;
    assert_eq!(
        (&made["HostConfig"]["Runtime"], &made["HostConfig"]["ShmSize"]),
        (&json!("other"), &json!(1 << 20))
    );
    assert_eq!((&seen["Labels"], &seen["Debug"]), (&json!(["b=2"]), &json!(true)));
    assert_eq!(
        seen["RegistryConfig"]["Mirrors"],
        json!(["https://mirror.example"])
    );
    assert_eq!(
        seen["RegistryConfig"]["IndexConfigs"]["reg.example:5000"]["Secure"],
        false
    );
    // A mistake changes nothing; the next one that is right is told again.
    std::fs::write(&file, "{").expect("a file");
    hang_up().expect("a signal");
    while !engine.log().contains("was not reloaded") {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(info().await["Labels"], json!(["b=2"]));
    drop(events);
    engine.finish().await;
}

/// A container of the image that is part of the program.
fn hello() -> Value {
    json!({"Image": "berth/hello", "HostConfig": {"NetworkMode": "none"}})
}

#[tokio::test]
async fn mirrors_that_a_reload_names_are_asked() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("daemon.json");
    std::fs::write(&file, "{}").expect("a file");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a socket");
    let engine = Engine::options()
        .flag(format!("--config-file={}", file.display()))
        .flag("--max-download-attempts=1")
        .start()
        .await;
    let mirror = format!("http://{}", listener.local_addr().expect("an address"));
    std::fs::write(&file, json!({"registry-mirrors": [mirror]}).to_string()).expect("a file");
    let mut events = engine
        .api
        .call(
            http::Method::GET,
            &format!("/events{}", filters(&json!({"event": ["reload"]}))),
        )
        .open()
        .await;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(engine.pid()),
        nix::sys::signal::Signal::SIGHUP,
    )
    .expect("a signal");
    events.record().await.expect("an event");
    drop(events);
    let pull = engine.api.post("/images/create?fromImage=some&tag=thing");
    tokio::select! {
        _ = pull => panic!("the mirror was not asked"),
        asked = listener.accept() => drop(asked.expect("a connection")),
    }
    engine.finish().await;
}
