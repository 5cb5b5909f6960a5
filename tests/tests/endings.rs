//! How containers end, wait, come back and go.

use berth_tests::{
    Engine,
    client::filters,
    container::{STAY, busybox, shell},
};
use serde_json::{Value, json};

#[tokio::test]
async fn kill_and_stop_give_the_codes_of_their_signals() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    // A command under an init has no special standing: every signal ends it.
    let mut plain = busybox(&["sleep", "1000"]);
    plain["HostConfig"]["Init"] = json!(true);
    for (query, code) in [
        ("", 137),
        ("?signal=TERM", 143),
        ("?signal=sigint", 130),
        ("?signal=15", 143),
        ("?signal=SIGQUIT", 131),
    ] {
        let id = engine.api.launch(&plain).await;
        engine
            .api
            .post(&format!("/containers/{id}/kill{query}"))
            .await
            .expect(204);
        assert_eq!(engine.api.wait(&id).await, code, "{query}");
        let message = engine
            .api
            .post(&format!("/containers/{id}/kill"))
            .await
            .expect(409)
            .message();
        assert!(message.contains("is not running"), "{message}");
    }
    let id = engine
        .api
        .launch(&shell("trap '' TERM; echo ready; sleep 1000"))
        .await;
    engine.api.await_output(&id, "ready").await;
    engine
        .api
        .post(&format!("/containers/{id}/stop?t=0"))
        .await
        .expect(204);
    assert_eq!(engine.api.wait(&id).await, 137);

    let id = engine
        .api
        .launch(&shell(
            "trap 'echo usr1; exit 9' USR1; echo ready; while :; do sleep 1 & wait $!; done",
        ))
        .await;
    engine.api.await_output(&id, "ready").await;
    for bad in ["NOTHING", "999", "-1", "SIG"] {
        engine
            .api
            .post(&format!("/containers/{id}/kill?signal={bad}"))
            .await
            .expect(400);
    }
    engine
        .api
        .post(&format!("/containers/{id}/stop?signal=SIGUSR1"))
        .await
        .expect(204);
    assert_eq!(engine.api.wait(&id).await, 9);
    assert_eq!(engine.api.logs(&id).await.out, "ready\nusr1\n");
    engine.finish().await;
}

#[tokio::test]
async fn stop_uses_the_configured_signal() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = shell("trap 'exit 5' USR2; echo ready; while :; do sleep 1 & wait $!; done");
    config["StopSignal"] = json!("SIGUSR2");
    config["StopTimeout"] = json!(60);
    let id = engine.api.launch(&config).await;
    engine.api.await_output(&id, "ready").await;
    engine
        .api
        .post(&format!("/containers/{id}/stop"))
        .await
        .expect(204);
    assert_eq!(engine.api.inspect(&id).await["State"]["ExitCode"], 5);
    engine.finish().await;
}

#[tokio::test]
async fn restart_runs_it_again() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine
        .api
        .launch(&shell(&format!("echo x >> /count; cat /count; {STAY}")))
        .await;
    engine.api.await_output(&id, "ready").await;
    let first = engine.api.inspect(&id).await["State"]["Pid"].clone();
    engine
        .api
        .post(&format!("/containers/{id}/restart?t=10"))
        .await
        .expect(204);
    let again = engine.api.inspect(&id).await;
    assert_ne!(again["State"]["Pid"], first);
    assert_eq!(again["State"]["Running"], true);
    engine
        .api
        .post(&format!("/containers/{id}/stop"))
        .await
        .expect(204);
    // The root file system and the log go on.
    assert_eq!(engine.api.logs(&id).await.out, "x\nready\nx\nx\nready\n");
    engine
        .api
        .post(&format!("/containers/{id}/restart"))
        .await
        .expect(204);
    engine.finish().await;
}

#[tokio::test]
async fn wait_has_three_conditions() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.create(&shell("read x; exit 4")).await;
    // Not running yet: the default answers at once.
    assert_eq!(engine.api.wait(&id).await, 0);
    engine
        .api
        .post(&format!("/containers/{id}/wait?condition=whenever"))
        .await
        .expect(400);
    engine.api.post("/containers/nothing/wait").await.expect(404);

    let open = async |condition: &str| {
        let path = format!("/containers/{id}/wait?condition={condition}");
        // The head comes at once, so the wait is registered when this returns.
        engine
            .api
            .call(http::Method::POST, &path)
            .open()
            .await
            .expect(200)
    };
    let next = open("next-exit").await;
    let removed = open("removed").await;
    engine.api.start(&id).await;
    assert_eq!(next.finish().await.json(), json!({"StatusCode": 4}));
    assert_eq!(engine.api.wait(&id).await, 4);
    let next = open("next-exit").await;
    engine.api.delete(&format!("/containers/{id}")).await.expect(204);
    assert_eq!(removed.finish().await.json()["StatusCode"], 4);
    // Removal ends every wait.
    next.finish().await;
    engine.finish().await;
}

#[tokio::test]
async fn auto_remove_takes_it_away() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = shell("exit 6");
    config["HostConfig"]["AutoRemove"] = json!(true);
    let id = engine.api.create(&config).await;
    let path = format!("/containers/{id}/wait?condition=removed");
    let removed = engine
        .api
        .call(http::Method::POST, &path)
        .open()
        .await
        .expect(200);
    engine.api.start(&id).await;
    assert_eq!(removed.finish().await.json()["StatusCode"], 6);
    engine
        .api
        .get(&format!("/containers/{id}/json"))
        .await
        .expect(404);

    config["HostConfig"]["RestartPolicy"] = json!({"Name": "always"});
    engine
        .api
        .post_json("/containers/create", &config)
        .await
        .expect(400);
    engine.finish().await;
}

#[tokio::test]
async fn prune_removes_what_does_not_run() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let ended = engine.api.launch(&busybox(&["true"])).await;
    engine.api.wait(&ended).await;
    let created = engine.api.create(&busybox(&["true"])).await;
    let mut labelled = busybox(&["true"]);
    labelled["Labels"] = json!({"keep": "yes"});
    let kept = engine.api.create_named("kept", &labelled).await;
    let running = engine.api.create_named("running", &shell(STAY)).await;
    engine.api.start(&running).await;

    let path = format!("/containers/prune{}", filters(&json!({"label!": ["keep"]})));
    let pruned = engine.api.post(&path).await.expect(200).json();
    let mut ids: Vec<&str> = pruned["ContainersDeleted"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    ids.sort_unstable();
    let mut expected = [ended.as_str(), created.as_str()];
    expected.sort_unstable();
    assert_eq!(ids, expected);
    assert_eq!(engine.api.names("?all=1").await, ["running", "kept"]);
    let old = format!("/containers/prune{}", filters(&json!({"until": ["24h"]})));
    assert_eq!(
        engine.api.post(&old).await.expect(200).json()["ContainersDeleted"],
        Value::Null
    );
    let pruned = engine.api.post("/containers/prune").await.expect(200).json();
    assert_eq!(pruned["ContainersDeleted"], json!([kept]));
    engine
        .api
        .post(&format!(
            "/containers/prune{}",
            filters(&json!({"nothing": ["x"]}))
        ))
        .await
        .expect(400);
    engine.finish().await;
}

#[tokio::test]
async fn pause_stops_the_clock_of_a_container() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.launch(&shell(STAY)).await;
    engine.api.await_output(&id, "ready").await;
    let reply = engine.api.post(&format!("/containers/{id}/pause")).await;
    if reply.status() == 501 {
        // An engine that cannot pause says so and leaves the container alone.
        assert_eq!(engine.api.inspect(&id).await["State"]["Status"], "running");
        return engine.finish().await;
    }
    assert_eq!(reply.status(), 204, "{}", reply.text());
    let paused = engine.api.inspect(&id).await;
    assert_eq!(paused["State"]["Status"], "paused");
    assert_eq!(paused["State"]["Running"], true);
    engine
        .api
        .post(&format!("/containers/{id}/pause"))
        .await
        .expect(409);
    assert_eq!(
        engine
            .api
            .names(&filters(&json!({"status": ["paused"]})))
            .await
            .len(),
        1
    );
    engine
        .api
        .post(&format!("/containers/{id}/unpause"))
        .await
        .expect(204);
    assert_eq!(engine.api.inspect(&id).await["State"]["Status"], "running");
    engine
        .api
        .post(&format!("/containers/{id}/stop"))
        .await
        .expect(204);
    engine
        .api
        .post(&format!("/containers/{id}/pause"))
        .await
        .expect(409);
    engine.finish().await;
}
