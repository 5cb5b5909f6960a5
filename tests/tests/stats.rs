//! Stats: what a container uses.

use berth_tests::{
    Engine,
    client::{Client, Streaming},
    container::{busybox, shell},
};
use http::Method;
use serde_json::{Value, json};

async fn follow(api: &Client, path: &str) -> Streaming {
    api.call(Method::GET, path).open().await.expect(200)
}

async fn once(api: &Client, path: &str) -> Value {
    let reply = api.get(path).await.expect(200);
    let mut records = reply.records();
    assert_eq!(records.len(), 1, "{records:?}");
    records.remove(0)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

const NEVER: &str = "0001-01-01T00:00:00Z";

#[tokio::test]
async fn two_samples_make_a_rate() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = shell("echo ready; while :; do :; done");
    config["HostConfig"]["Memory"] = json!(64 << 20);
    config["HostConfig"]["PidsLimit"] = json!(50);
    let id = engine.api.create_named("busy", &config).await;
    engine.api.start(&id).await;
    engine.api.await_output(&id, "ready").await;
    let stats = once(&engine.api, &format!("/containers/{id}/stats?stream=0")).await;
    assert_eq!((&stats["name"], &stats["id"]), (&json!("/busy"), &json!(id)));
    assert!(stats["preread"].as_str() < stats["read"].as_str());
    assert_ne!(stats["preread"], NEVER);
    let growth = |path: &str| {
        let part = |which: &str| number(stats[which].pointer(path).unwrap_or(&Value::Null));
        part("cpu_stats").saturating_sub(part("precpu_stats"))
    };
    assert!(growth("/cpu_usage/total_usage") > 0);
    assert!(growth("/system_cpu_usage") > 0);
    assert!(number(&stats["cpu_stats"]["online_cpus"]) >= 1);
    let memory = &stats["memory_stats"];
    assert_eq!(memory["limit"], 64 << 20);
    assert!(number(&memory["usage"]) > 0 && memory["stats"].as_object().is_some_and(|map| !map.is_empty()));
    assert_eq!(stats["pids_stats"], json!({"current": 1, "limit": 50}));
    assert!(stats.get("networks").is_none());
    engine.finish().await;
}

#[tokio::test]
async fn one_shot_is_one_sample() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.launch(&busybox(&["sleep", "1000"])).await;
    let stats = once(
        &engine.api,
        &format!("/containers/{id}/stats?stream=0&one-shot=1"),
    )
    .await;
    assert_eq!(stats["preread"], NEVER);
    assert_eq!(stats["precpu_stats"]["cpu_usage"]["total_usage"], 0);
    assert!(number(&stats["cpu_stats"]["cpu_usage"]["total_usage"]) > 0);
    let refused = engine
        .api
        .get(&format!("/containers/{id}/stats?stream=1&one-shot=1"))
        .await;
    refused.expect(400);
    engine.api.get("/containers/nothing/stats").await.expect(404);
    engine.finish().await;
}

#[tokio::test]
async fn all_followers_see_the_same_and_the_stream_ends_with_the_container() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.create(&busybox(&["sleep", "1000"])).await;
    let path = format!("/containers/{id}/stats");
    let still = once(&engine.api, &format!("{path}?stream=0")).await;
    assert_eq!(
        (&still["read"], &still["pids_stats"]),
        (&json!(NEVER), &json!({}))
    );
    assert_eq!(still["cpu_stats"]["cpu_usage"]["total_usage"], 0);

    let mut stream = follow(&engine.api, &path).await;
    assert_eq!(stream.record().await.expect("a record")["read"], NEVER);
    engine.api.start(&id).await;
    let first = loop {
        let record = stream.record().await.expect("a record");
        if record["read"] != NEVER {
            break record;
        }
    };
    assert_eq!(first["preread"], NEVER);
    let second = stream.record().await.expect("a record");
    assert_eq!(second["preread"], first["read"]);
    assert_eq!(second["precpu_stats"], first["cpu_stats"]);
    let mut other = follow(&engine.api, &path).await;
    let joined = other.record().await.expect("a record");
    let (mine, theirs) = (stream.record().await, other.record().await);
    let theirs = theirs.expect("a record");
    assert!(joined["read"] == second["read"] || joined["read"] == mine.expect("a record")["read"]);
    assert_eq!(theirs["preread"], joined["read"]);
    engine.api.remove(&id).await;
    while stream.record().await.is_some() {}
    engine.finish().await;
}

#[tokio::test]
async fn the_docker_command_line() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    engine.api.create_named("still", &busybox(&["true"])).await;
    let id = engine.api.create_named("web", &busybox(&["sleep", "1000"])).await;
    engine.api.start(&id).await;
    let words = [
        "stats",
        "--no-stream",
        "--format",
        "{{.Name}} {{.PIDs}} {{.CPUPerc}} {{.MemUsage}}",
    ];
    let out = engine.docker(&words).await.ok();
    assert!(out.starts_with("web 1 ") && out.contains('%'), "{out}");
    let all = engine
        .docker(&["stats", "-a", "--no-stream", "--format", "{{.Name}}"])
        .await
        .ok();
    let mut names: Vec<_> = all.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["still", "web"]);
    engine.finish().await;
}
