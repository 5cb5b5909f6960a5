//! Events: which, in what order, with what in them; and who gets to see them.

use berth_tests::{
    Engine,
    client::{Client, Streaming, filters, query},
    container::{STAY, busybox, shell},
};
use http::Method;
use serde_json::{Value, json};

async fn follow(api: &Client, filter: Value) -> Streaming {
    api.call(Method::GET, &format!("/events{}", filters(&filter)))
        .open()
        .await
        .expect(200)
}

/// Actions of the events up to and including `last`.
async fn actions(stream: &mut Streaming, last: &str) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let event = stream.record().await.expect("the stream goes on");
        let action = event["Action"].as_str().expect("an action").to_owned();
        seen.push(action.clone());
        if action == last {
            return seen;
        }
    }
}

#[tokio::test]
async fn the_life_of_a_container_in_events() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut stream = follow(&engine.api, json!({"type": ["container"]})).await;
    let mut config = shell(STAY);
    config["Labels"] = json!({"team": "web"});
    let id = engine.api.create_named("life", &config).await;
    let created = stream.record().await.expect("an event");
    assert_eq!(created["Type"], "container");
    assert_eq!(created["Action"], "create");
    assert_eq!(created["Actor"]["ID"], id.as_str());
    assert_eq!(
        created["Actor"]["Attributes"],
        json!({"image": "busybox", "name": "life", "team": "web"})
    );
    assert_eq!(created["scope"], "local");
    assert_eq!(
        (&created["status"], &created["id"], &created["from"]),
        (&json!("create"), &json!(id), &json!("busybox"))
    );
    let (seconds, nanos) = (
        created["time"].as_i64().expect("a time"),
        created["timeNano"].as_i64().expect("a time"),
    );
    assert_eq!(seconds, nanos / 1_000_000_000);

    engine.api.start(&id).await;
    engine.api.await_output(&id, "ready").await;
    assert_eq!(actions(&mut stream, "start").await, ["start"]);
    engine
        .api
        .post(&format!("/containers/{id}/rename?name=other"))
        .await
        .expect(204);
    let renamed = stream.record().await.expect("an event");
    assert_eq!(renamed["Action"], "rename");
    assert_eq!(renamed["Actor"]["Attributes"]["oldName"], "/life");
    assert_eq!(renamed["Actor"]["Attributes"]["name"], "other");
    engine
        .api
        .post(&format!("/containers/{id}/stop"))
        .await
        .expect(204);
    let killed = stream.record().await.expect("an event");
    assert_eq!(killed["Action"], "kill");
    assert_eq!(killed["Actor"]["Attributes"]["signal"], "15");
    let mut end = [
        stream.record().await.expect("an event"),
        stream.record().await.expect("an event"),
    ];
    end.sort_by_key(|event| event["Action"].to_string());
    assert_eq!(
        (&end[0]["Action"], &end[1]["Action"]),
        (&json!("die"), &json!("stop"))
    );
    assert_eq!(end[0]["Actor"]["Attributes"]["exitCode"], "0");
    assert!(end[0]["Actor"]["Attributes"]["execDuration"].is_string());
    engine.api.remove(&id).await;
    assert_eq!(actions(&mut stream, "destroy").await, ["destroy"]);
    engine.finish().await;
}

#[tokio::test]
async fn sequences_clients_rely_on() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut stream = follow(&engine.api, json!({"type": ["container"]})).await;

    let id = engine.api.launch(&shell("exit 3")).await;
    assert_eq!(actions(&mut stream, "die").await, ["create", "start", "die"]);
    engine.api.remove(&id).await;
    assert_eq!(actions(&mut stream, "destroy").await, ["destroy"]);

    let mut config = shell("exit 0");
    config["HostConfig"]["AutoRemove"] = json!(true);
    engine.api.launch(&config).await;
    assert_eq!(
        actions(&mut stream, "destroy").await,
        ["create", "start", "die", "destroy"]
    );

    let id = engine.api.launch(&shell(STAY)).await;
    engine.api.await_output(&id, "ready").await;
    actions(&mut stream, "start").await;
    engine
        .api
        .post(&format!("/containers/{id}/restart"))
        .await
        .expect(204);
    let mut seen = actions(&mut stream, "restart").await;
    assert_eq!(seen[0], "kill");
    seen[1..3].sort();
    assert_eq!(seen[1..], ["die", "stop", "start", "restart"]);
    engine.api.remove(&id).await;
    assert_eq!(actions(&mut stream, "destroy").await, ["kill", "die", "destroy"]);
    engine.finish().await;
}

#[tokio::test]
async fn a_failed_start_is_no_start() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut stream = follow(&engine.api, json!({"type": ["container"]})).await;
    let id = engine.api.create(&busybox(&["nothing"])).await;
    engine
        .api
        .post(&format!("/containers/{id}/start"))
        .await
        .expect(400);
    engine.api.remove(&id).await;
    let seen = actions(&mut stream, "destroy").await;
    assert!(!seen.contains(&"start".to_owned()), "{seen:?}");
    engine.finish().await;
}

#[tokio::test]
async fn events_are_filtered() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let start = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a clock")
        .as_secs()
        - 5;
    let mut config = shell("exit 0");
    config["Labels"] = json!({"team": "web"});
    let one = engine.api.create_named("one", &config).await;
    engine.api.create_named("two", &shell("exit 0")).await;
    engine.api.start(&one).await;
    engine.api.wait(&one).await;
    let seen = async |filter: Value| {
        let text = filter.to_string();
        let since = start.to_string();
        let path = format!(
            "/events{}",
            query(&[("filters", &text), ("since", &since), ("until", &until())])
        );
        let records = engine.api.get(&path).await.expect(200).records();
        let brief = |event: &Value| {
            let name = event["Actor"]["Attributes"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            format!("{} {name}", event["Action"].as_str().expect("an action"))
        };
        records.iter().map(brief).collect::<Vec<_>>()
    };
    let life = ["create one", "start one", "die one"];
    assert_eq!(seen(json!({"container": ["one"]})).await, life);
    assert_eq!(seen(json!({"container": [&one]})).await, life);
    assert_eq!(seen(json!({"label": ["team=web"]})).await, life);
    assert_eq!(
        seen(json!({"event": ["create"], "type": ["container"]})).await,
        ["create one", "create two"]
    );
    assert_eq!(
        seen(json!({"event": ["die", "start"]})).await,
        ["start one", "die one"]
    );
    assert_eq!(
        seen(json!({"image": ["busybox"], "event": ["start"]})).await,
        ["start one"]
    );
    assert_eq!(
        seen(json!({"type": ["network"]})).await,
        ["connect none", "disconnect none"]
    );
    assert_eq!(seen(json!({"scope": ["swarm"]})).await, Vec::<String>::new());
    assert!(
        seen(json!({"type": ["image"]}))
            .await
            .iter()
            .any(|event| event.starts_with("load "))
    );
    engine.finish().await;
}

/// The present moment.
fn until() -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a clock");
    format!("{}.{:09}", now.as_secs(), now.subsec_nanos())
}

#[tokio::test]
async fn replay_and_live_meet_without_a_gap() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    for number in 0..10 {
        engine
            .api
            .create_named(&format!("old{number}"), &busybox(&["true"]))
            .await;
    }
    let path = format!("/events{}&since=1", filters(&json!({"event": ["create"]})));
    let mut stream = engine.api.call(Method::GET, &path).open().await.expect(200);
    for number in 0..10 {
        engine
            .api
            .create_named(&format!("new{number}"), &busybox(&["true"]))
            .await;
    }
    let mut names = Vec::new();
    for _ in 0..20 {
        let event = stream.record().await.expect("an event");
        names.push(
            event["Actor"]["Attributes"]["name"]
                .as_str()
                .expect("a name")
                .to_owned(),
        );
    }
    let expected: Vec<String> = (0..10)
        .map(|number| format!("old{number}"))
        .chain((0..10).map(|number| format!("new{number}")))
        .collect();
    assert_eq!(names, expected);
    engine.finish().await;
}

#[tokio::test]
async fn a_span_that_is_over_ends_the_answer() {
    let engine = Engine::start().await;
    assert_eq!(
        engine
            .api
            .get("/events?since=1&until=2")
            .await
            .expect(200)
            .records(),
        Vec::<Value>::new()
    );
    engine.api.get("/events?since=5&until=2").await.expect(400);
    engine.api.get("/events?since=yesterday").await.expect(400);
    engine.finish().await;
}

#[tokio::test]
async fn images_have_events() {
    let engine = Engine::start().await;
    let mut stream = follow(&engine.api, json!({"type": ["image"]})).await;
    engine.api.load_busybox().await;
    assert_eq!(actions(&mut stream, "load").await, ["load"]);
    engine
        .api
        .post("/images/busybox/tag?repo=other")
        .await
        .expect(201);
    let tagged = stream.record().await.expect("an event");
    assert_eq!(tagged["Action"], "tag");
    assert_eq!(tagged["Actor"]["Attributes"]["name"], "other:latest");
    engine.api.delete("/images/other").await.expect(200);
    assert_eq!(actions(&mut stream, "untag").await, ["untag"]);
    engine.api.delete("/images/busybox").await.expect(200);
    assert_eq!(actions(&mut stream, "delete").await, ["untag", "delete"]);
    engine.finish().await;
}

#[tokio::test]
async fn events_outlive_the_engine() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut live = follow(&engine.api, json!({"type": ["container"]})).await;
    let id = engine.api.create_named("kept", &shell(STAY)).await;
    engine.api.start(&id).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.push(live.record().await.expect("an event"));
    }
    // Another one, so that those before it are certainly written when it is.
    engine.restart().await;
    engine.api.remove(&id).await;
    let filter = query(&[
        ("since", "0"),
        ("until", &far_future()),
        ("filters", &json!({"container": [id]}).to_string()),
    ]);
    let path = format!("/events{filter}");
    let mut all = engine.api.call(Method::GET, &path).open().await.expect(200);
    for event in &seen {
        assert_eq!(&all.record().await.expect("an event"), event);
    }
    let mut rest = actions(&mut all, "destroy").await;
    rest.sort_unstable();
    assert!(rest.contains(&"destroy".to_owned()), "{rest:?}");
    engine.finish().await;
}

/// A moment that does not come during a test.
fn far_future() -> String {
    let seconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a time")
        .as_secs();
    (seconds + 3600).to_string()
}
