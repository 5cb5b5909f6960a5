//! Health checks: what the probes find, and who is told.

use berth_tests::{
    Engine,
    client::{Client, Streaming, filters},
    container::{STAY, busybox, shell},
    image::Image,
};
use http::Method;
use serde_json::{Value, json};

/// Nanoseconds.
const MS: i64 = 1_000_000;

/// A container that stays, with this check.
fn checked(check: Value) -> Value {
    let mut config = shell(STAY);
    config["Healthcheck"] = check;
    config
}

/// A check that asks for a file.
fn file(retries: i64) -> Value {
    json!({"Test": ["CMD-SHELL", "echo looked; test -e /well"], "Interval": 20 * MS, "Retries": retries})
}

async fn follow(api: &Client, filter: Value) -> Streaming {
    let path = format!("/events{}", filters(&filter));
    api.call(Method::GET, &path).open().await.expect(200)
}

/// Waits until the health is said to have changed to `status`.
async fn changed(events: &mut Streaming, status: &str) {
    let event = events.record().await.expect("an event");
    assert_eq!(event["Action"], format!("health_status: {status}"));
}

async fn health(api: &Client, id: &str) -> Value {
    api.inspect(id).await["State"]["Health"].clone()
}

async fn touch(api: &Client, id: &str, words: &[&str]) {
    let config = json!({"Cmd": words});
    let exec = api
        .post_json(&format!("/containers/{id}/exec"), &config)
        .await
        .expect(201);
    let exec = exec.json()["Id"].as_str().expect("an id").to_owned();
    let start = format!("/exec/{exec}/start");
    api.post_json(&start, &json!({"Detach": true})).await.expect(200);
}

#[tokio::test]
async fn it_becomes_healthy_and_unhealthy() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut events = follow(&engine.api, json!({"event": ["health_status"]})).await;
    let id = engine.api.create_named("web", &checked(file(2))).await;
    assert_eq!(health(&engine.api, &id).await, Value::Null);
    engine.api.start(&id).await;
    let fresh = health(&engine.api, &id).await;
    assert!(
        fresh["Status"] == "starting" || fresh["Status"] == "unhealthy",
        "{fresh}"
    );
    changed(&mut events, "unhealthy").await;
    let ill = health(&engine.api, &id).await;
    assert!(ill["FailingStreak"].as_i64().expect("a number") >= 2);
    let probe = &ill["Log"][0];
    assert_eq!(
        (&probe["ExitCode"], &probe["Output"]),
        (&json!(1), &json!("looked\n"))
    );
    assert!(probe["Start"].as_str() < probe["End"].as_str());
    let list = engine
        .api
        .names(&filters(&json!({"health": ["unhealthy"]})))
        .await;
    assert_eq!(list, ["web"]);

    touch(&engine.api, &id, &["touch", "/well"]).await;
    changed(&mut events, "healthy").await;
    assert_eq!(health(&engine.api, &id).await["FailingStreak"], 0);
    let path = format!("/containers/json{}", filters(&json!({"health": ["healthy"]})));
    let list = engine.api.get(&path).await.expect(200).json();
    let status = list[0]["Status"].as_str().expect("a text");
    assert!(
        status.starts_with("Up ") && status.ends_with(" (healthy)"),
        "{status}"
    );

    // A stop ends it; a start begins anew.
    engine
        .api
        .post(&format!("/containers/{id}/stop"))
        .await
        .expect(204);
    assert_eq!(health(&engine.api, &id).await["Status"], "unhealthy");
    engine.api.start(&id).await;
    changed(&mut events, "healthy").await;
    assert!(
        health(&engine.api, &id).await["Log"]
            .as_array()
            .expect("a list")
            .len()
            <= 5
    );
    engine.finish().await;
}

#[tokio::test]
async fn probes_are_execs_in_the_events() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let filter = json!({"event": ["exec_create", "exec_start", "exec_die"]});
    let mut events = follow(&engine.api, filter).await;
    let check = json!({"Test": ["CMD", "true"], "Interval": 20 * MS});
    let id = engine.api.launch(&checked(check)).await;
    let mut probe = None;
    for action in [
        "exec_create: true ",
        "exec_start: true ",
        "exec_die",
        "exec_create: true ",
    ] {
        let event = events.record().await.expect("an event");
        assert_eq!(event["Action"], action);
        let exec = event["Actor"]["Attributes"]["execID"]
            .as_str()
            .expect("an id")
            .to_owned();
        probe.get_or_insert(exec);
    }
    let probe = probe.expect("an id");
    engine.api.get(&format!("/exec/{probe}/json")).await.expect(404);
    engine.api.remove(&id).await;
    engine.finish().await;
}

#[tokio::test]
async fn a_probe_that_takes_too_long_is_killed() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut events = follow(&engine.api, json!({"event": ["health_status"]})).await;
    let check = json!({
        "Test": ["CMD-SHELL", "echo working; sleep 1000; true"],
        "Interval": 20 * MS, "Timeout": 300 * MS, "Retries": 1,
    });
    let id = engine.api.launch(&checked(check)).await;
    changed(&mut events, "unhealthy").await;
    let log = health(&engine.api, &id).await["Log"][0].clone();
    assert_eq!(log["ExitCode"], -1);
    assert_eq!(log["Output"], "Health check exceeded timeout (300ms): working\n");
    engine.finish().await;
}

#[tokio::test]
async fn output_is_cut_and_bad_programs_are_told() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut events = follow(&engine.api, json!({"event": ["health_status"]})).await;
    let check = json!({
        "Test": ["CMD-SHELL", "head -c 100000 /dev/zero | tr '\\0' x"], "Interval": 20 * MS,
    });
    let id = engine.api.launch(&checked(check)).await;
    changed(&mut events, "healthy").await;
    let log = health(&engine.api, &id).await["Log"][0].clone();
    let output = log["Output"].as_str().expect("a text");
    assert_eq!(output.len(), 4096 + 3);
    assert!(output.ends_with("xx..."));
    engine.api.remove(&id).await;

    let check = json!({"Test": ["CMD", "/nothing/like/it"], "Interval": 20 * MS, "Retries": 1});
    let id = engine.api.launch(&checked(check)).await;
    changed(&mut events, "unhealthy").await;
    let log = health(&engine.api, &id).await["Log"][0].clone();
    assert_eq!(log["ExitCode"], -1);
    assert!(
        log["Output"]
            .as_str()
            .expect("a text")
            .contains("no such file or directory"),
        "{log}"
    );
    engine.finish().await;
}

#[tokio::test]
async fn the_start_period_forgives() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let filter = json!({"event": ["health_status", "exec_die"]});
    let mut events = follow(&engine.api, filter).await;
    let check = json!({
        "Test": ["CMD-SHELL", "test -e /well"], "Interval": 3_600_000 * MS, "Retries": 1,
        "StartPeriod": 3_600_000 * MS, "StartInterval": 20 * MS,
    });
    let id = engine.api.launch(&checked(check)).await;
    for _ in 0..3 {
        assert_eq!(events.record().await.expect("an event")["Action"], "exec_die");
    }
    let forgiven = health(&engine.api, &id).await;
    assert_eq!(
        (&forgiven["Status"], &forgiven["FailingStreak"]),
        (&json!("starting"), &json!(0))
    );
    touch(&engine.api, &id, &["touch", "/well"]).await;
    loop {
        let event = events.record().await.expect("an event");
        if event["Action"] == "health_status: healthy" {
            break;
        }
    }
    engine.finish().await;
}

#[tokio::test]
async fn probes_rest_while_the_container_is_paused() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut events = follow(&engine.api, json!({"event": ["health_status"]})).await;
    let check = json!({"Test": ["CMD", "true"], "Interval": 10 * MS});
    let id = engine.api.launch(&checked(check)).await;
    changed(&mut events, "healthy").await;
    engine
        .api
        .post(&format!("/containers/{id}/pause"))
        .await
        .expect(204);
    let before = health(&engine.api, &id).await;
    assert_eq!(before["Status"], "healthy");
    engine
        .api
        .post(&format!("/containers/{id}/unpause"))
        .await
        .expect(204);
    let mut events = follow(&engine.api, json!({"event": ["exec_die"]})).await;
    events.record().await.expect("probes go on");
    assert_eq!(health(&engine.api, &id).await["Status"], "healthy");
    engine.finish().await;
}

#[tokio::test]
async fn it_goes_on_after_the_engine_was_killed() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut events = follow(&engine.api, json!({"event": ["health_status"]})).await;
    let id = engine.api.launch(&checked(file(1))).await;
    changed(&mut events, "unhealthy").await;
    engine.crash().await;
    assert_eq!(health(&engine.api, &id).await["Status"], "unhealthy");
    let mut events = follow(&engine.api, json!({"event": ["health_status"]})).await;
    touch(&engine.api, &id, &["touch", "/well"]).await;
    changed(&mut events, "healthy").await;
    engine.finish().await;
}

#[tokio::test]
async fn the_image_has_a_check_and_none_switches_it_off() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let image = Image::busybox().tagged("checked:latest").with(
        "Healthcheck",
        json!({"Test": ["CMD", "true"], "Interval": 20 * MS, "Timeout": 1000 * MS}),
    );
    engine.api.load(&image).await;
    let mut config = busybox(&["sleep", "1000"]);
    config["Image"] = json!("checked");
    let mut events = follow(&engine.api, json!({"event": ["health_status"]})).await;
    engine.api.launch(&config).await;
    changed(&mut events, "healthy").await;
    config["Healthcheck"] = json!({"Test": ["NONE"]});
    let id = engine.api.launch(&config).await;
    let container = engine.api.inspect(&id).await;
    assert_eq!(container["State"]["Health"], Value::Null);
    engine.finish().await;
}

#[tokio::test]
async fn the_docker_command_line() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut events = follow(&engine.api, json!({"event": ["health_status"]})).await;
    let words = [
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "none",
        "--health-cmd",
        "true",
        "--health-interval",
        "20ms",
        "--health-retries",
        "2",
        "--health-timeout",
        "5s",
        "--health-start-period",
        "1s",
        "busybox",
        "sleep",
        "1000",
    ];
    engine.docker(&words).await.ok();
    changed(&mut events, "healthy").await;
    let status = engine.docker(&["ps", "--format", "{{.Status}}"]).await.ok();
    assert!(status.ends_with("(healthy)"), "{status}");
    let status = ["inspect", "-f", "{{.State.Health.Status}}", "web"];
    assert_eq!(engine.docker(&status).await.ok(), "healthy");
    engine.finish().await;
}
