//! Reading requests: bodies, sizes, queries, filters; and what is wrong with them.

use berth_tests::{
    Engine,
    client::{filters, query},
    container::{STAY, busybox, shell},
};
use http::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn a_body_must_be_one_json_value_of_the_right_type() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let bad = [
        "{",
        "[]",
        "{\"Image\":5}",
        "{\"Image\":\"busybox\"}{}",
        "{\"Image\":\"busybox\"} x",
        "nonsense",
        "\"text\"",
        "{\"Image\":\"busybox\",\"HostConfig\":{\"Memory\":1.5}}",
        "{\"Image\":\"busybox\",\"Tty\":\"yes\"}",
        "{\"Image\":\"busybox\",\"HostConfig\":{\"Memory\":99999999999999999999}}",
        "{\"Image\":\"busybox\",\"Env\":{}}",
        "\u{feff}{}",
    ];
    for body in bad {
        let call = engine
            .api
            .call(Method::POST, "/containers/create")
            .header("content-type", "application/json");
        let reply = call.bytes(body).send().await.expect(400);
        assert!(!reply.message().is_empty(), "{body}");
    }
    // Invalid UTF-8 and deep nesting are refused as well, and nothing was made by any of it.
    let deep = format!(
        "{{\"Image\":\"busybox\",\"Labels\":{}{}}}",
        "{\"a\":".repeat(5000),
        "}".repeat(5000)
    );
    for body in [b"{\"Image\":\"\xff\"}".to_vec(), deep.into_bytes()] {
        let call = engine
            .api
            .call(Method::POST, "/containers/create")
            .header("content-type", "application/json");
        call.bytes(body).send().await.expect(400);
    }
    assert_eq!(engine.api.names("?all=1").await, Vec::<String>::new());
    engine.finish().await;
}

#[tokio::test]
async fn a_json_body_needs_its_content_type() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let body = busybox(&["true"]).to_string();
    for kind in ["text/plain", "application/x-tar", "application/jsonx", ""] {
        let call = engine
            .api
            .call(Method::POST, "/containers/create")
            .header("content-type", kind);
        call.bytes(body.clone()).send().await.expect(400);
    }
    engine
        .api
        .call(Method::POST, "/containers/create")
        .bytes(body.clone())
        .send()
        .await
        .expect(400);
    for kind in ["application/json; charset=utf-8", "Application/JSON"] {
        let call = engine
            .api
            .call(Method::POST, "/containers/create")
            .header("content-type", kind);
        call.bytes(body.clone()).send().await.expect(201);
    }
    engine.finish().await;
}

#[tokio::test]
async fn no_body_is_no_configuration() {
    let engine = Engine::start().await;
    engine.api.post("/containers/create").await.expect(400);
    engine
        .api
        .post_json("/containers/create", &Value::Null)
        .await
        .expect(400);
    let empty = futures_util::stream::iter(Vec::new());
    let call = engine
        .api
        .call(Method::POST, "/containers/create")
        .header("content-type", "application/json");
    call.send_chunks(empty).await.expect(400);
    engine.finish().await;
}

#[tokio::test]
async fn field_names_match_in_any_case_and_null_is_absent() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let config = json!({
        "image": "busybox", "CMD": ["true"], "hostconfig": {"networkmode": "none", "Memory": null},
        "Labels": null, "Unknown": {"ignored": 1}, "Env": null,
    });
    let id = engine.api.create(&config).await;
    let seen = engine.api.inspect(&id).await;
    assert_eq!(seen["Config"]["Cmd"], json!(["true"]));
    assert_eq!(seen["HostConfig"]["NetworkMode"], "none");
    assert_eq!(seen["Config"]["Labels"], json!({}));
    // A plain text where a list of words belongs, as old clients send it.
    let text = json!({"Image": "busybox", "Cmd": "true", "Entrypoint": "env", "HostConfig": {"NetworkMode": "none"}});
    let id = engine.api.create(&text).await;
    assert_eq!(engine.api.inspect(&id).await["Config"]["Cmd"], json!(["true"]));
    engine.finish().await;
}

#[tokio::test]
async fn too_large_a_body_is_refused() {
    let engine = Engine::start().await;
    let large = format!(
        "{{\"Image\":\"busybox\",\"Labels\":{{\"a\":\"{}\"}}}}",
        "x".repeat(5 << 20)
    );
    let call = engine
        .api
        .call(Method::POST, "/containers/create")
        .header("content-type", "application/json");
    call.bytes(large.clone()).send().await.expect(413);
    // Without a length it is noticed while reading.
    let pieces: Vec<_> = large
        .into_bytes()
        .chunks(64 << 10)
        .map(|piece| Ok(bytes::Bytes::copy_from_slice(piece)))
        .collect();
    let call = engine
        .api
        .call(Method::POST, "/containers/create")
        .header("content-type", "application/json");
    call.send_chunks(futures_util::stream::iter(pieces))
        .await
        .expect(413);
    // A promise of too much is refused before it is kept.
    let request = "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n";
    engine.api.by_hand(request.as_bytes()).await.expect(413);
    for path in [
        "/containers/x/exec",
        "/containers/x/update",
        "/exec/x/start",
        "/auth",
    ] {
        let request = request.replace("/containers/create", path);
        engine.api.by_hand(request.as_bytes()).await.expect(413);
    }
    engine.api.get("/_ping").await.expect(200);
    engine.finish().await;
}

#[tokio::test]
async fn settings_and_states_that_stand_in_the_way_are_conflicts() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = shell(STAY);
    config["HostConfig"]["NanoCpus"] = json!(500_000_000);
    let id = engine.api.launch(&config).await;
    let update = format!("/containers/{id}/update");
    let told = engine
        .api
        .post_json(&update, &json!({"CpuQuota": 20_000}))
        .await
        .expect(409)
        .message();
    let why = "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set";
    assert_eq!(told, format!("Cannot update container {id}: {why}"));
    engine
        .api
        .post(&format!("/containers/{id}/pause"))
        .await
        .expect(204);
    let attach = format!("POST /containers/{id}/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\r\n");
    engine.api.by_hand(attach.as_bytes()).await.expect(409);
    engine
        .api
        .post(&format!("/containers/{id}/unpause"))
        .await
        .expect(204);
    // New names in Docker's words.
    let other = engine.api.create_named("taken", &config).await;
    let rename = |name: &str| format!("/containers/{id}/rename?name={name}");
    let told = engine.api.post(&rename("taken")).await.expect(409).message();
    assert!(
        told.starts_with(
            "Error when allocating new name: Conflict. The container name \"/taken\" is already in use"
        ) && told.contains(&other),
        "{told}"
    );
    let told = engine.api.post(&rename("-")).await.expect(400).message();
    assert!(
        told.starts_with("Error when allocating new name: Invalid container name"),
        "{told}"
    );
    let told = engine
        .api
        .post("/containers/nobody/kill")
        .await
        .expect(404)
        .message();
    assert_eq!(told, "cannot kill container: nobody: No such container: nobody");
    engine.finish().await;
}

#[tokio::test]
async fn what_is_not_http_is_refused_and_the_engine_goes_on() {
    let engine = Engine::start().await;
    let headers: String = (0..500).map(|number| format!("X-{number}: y\r\n")).collect();
    let long = "a".repeat(1 << 20);
    let bad = [
        "nonsense\r\n\r\n".to_owned(),
        "GET /_ping HTTP/9.9\r\n\r\n".to_owned(),
        format!("GET /_ping HTTP/1.1\r\nHost: x\r\n{headers}\r\n"),
        format!("GET /_ping HTTP/1.1\r\nHost: x\r\nX-Long: {long}\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"),
        "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}   "
            .to_owned(),
        "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".to_owned(),
        "POST /containers/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned(),
    ];
    for request in bad {
        let connection = engine.api.by_hand(request.as_bytes()).await;
        let status = connection.head.status.as_u16();
        assert!(
            (400..500).contains(&status) || status == 505,
            "{status} for {}",
            &request[..request.len().min(80)]
        );
    }
    engine.api.get("/_ping").await.expect(200);
    engine.finish().await;
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_keep_others_out() {
    let engine = Engine::start().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(
            tokio::net::UnixStream::connect(engine.api.socket())
                .await
                .expect("a connection"),
        );
    }
    engine.api.get("/_ping").await.expect(200);
    drop(silent);
    engine.finish().await;
}

#[tokio::test]
async fn booleans_in_the_query_are_read_loosely() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    engine.api.create(&busybox(&["true"])).await;
    for yes in ["1", "true", "True", "t", "yes", "anything"] {
        assert_eq!(engine.api.names(&format!("?all={yes}")).await.len(), 1, "{yes}");
    }
    for no in ["", "0", "false", "False", "no", "none", "NONE"] {
        assert_eq!(engine.api.names(&format!("?all={no}")).await.len(), 0, "{no}");
    }
    engine.finish().await;
}

#[tokio::test]
async fn numbers_in_the_query_must_be_numbers() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.launch(&busybox(&["sleep", "1000"])).await;
    for path in ["/containers/json?limit=x", "/containers/json?limit=1.5"] {
        engine.api.get(path).await.expect(400);
    }
    for limit in ["-1", "0", ""] {
        assert_eq!(
            engine.api.names(&format!("?limit={limit}")).await.len(),
            1,
            "limit={limit}"
        );
    }
    for bad in ["h=1", "w=1", "h=x&w=1", "h=-1&w=1", ""] {
        engine
            .api
            .post(&format!("/containers/{id}/resize?{bad}"))
            .await
            .expect(400);
    }
    engine
        .api
        .post(&format!("/containers/{id}/stop?t=soon"))
        .await
        .expect(400);
    engine.finish().await;
}

#[tokio::test]
async fn filters_come_in_two_forms_and_bad_ones_are_refused() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = busybox(&["true"]);
    config["Labels"] = json!({"colour": "red", "size": "big"});
    engine.api.create_named("red", &config).await;
    config["Labels"] = json!({"colour": "blue"});
    engine.api.create_named("blue", &config).await;

    let names = async |value: Value| {
        let query = filters(&value) + "&all=1";
        engine.api.names(&query).await
    };
    assert_eq!(names(json!({"label": ["colour=red"]})).await, ["red"]);
    assert_eq!(names(json!({"label": {"colour=red": true}})).await, ["red"]);
    assert_eq!(names(json!({"label": ["colour=red", "size=big"]})).await, ["red"]);
    assert_eq!(
        names(json!({"label": ["colour=blue", "size"]})).await,
        Vec::<String>::new()
    );
    assert_eq!(names(json!({"name": ["red", "blue"]})).await, ["blue", "red"]);
    assert_eq!(names(json!({"name": ["^r"], "label": ["colour"]})).await, ["red"]);
    assert_eq!(names(json!({})).await, ["blue", "red"]);
    engine.api.get("/containers/json?filters=").await.expect(200);

    for bad in [
        "{",
        "[]",
        "5",
        "{\"label\":5}",
        "{\"label\":[5]}",
        "{\"nothing\":[\"x\"]}",
        "{\"status\":[\"odd\"]}",
        "{\"health\":[\"odd\"]}",
        "{\"exited\":[\"x\"]}",
    ] {
        let reply = engine
            .api
            .get(&format!("/containers/json{}", query(&[("filters", bad)])))
            .await
            .expect(400);
        assert!(!reply.message().is_empty());
    }
    for path in ["/images/json", "/networks", "/volumes"] {
        let reply = engine
            .api
            .get(&format!("{path}{}", filters(&json!({"nothing": ["x"]}))))
            .await;
        assert!([400, 501].contains(&reply.status().as_u16()), "{path}");
    }
    // Events pass over what they do not know.
    let path = format!("/events{}&until=1", filters(&json!({"nothing": ["x"]})));
    engine.api.get(&path).await.expect(200);
    engine.finish().await;
}

#[tokio::test]
async fn what_is_shown_is_what_was_written() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    engine
        .api
        .post_json("/networks/create", &json!({"Name": "own"}))
        .await
        .expect(201);
    let mut config = shell(STAY);
    config["ExposedPorts"] = json!({"8080": {}, "53/udp": {}});
    config["HostConfig"]["NetworkMode"] = json!("own");
    let id = engine.api.create(&config).await;
    let seen = engine.api.inspect(&id).await;
    assert_eq!(seen["Config"]["ExposedPorts"], json!({"8080": {}, "53/udp": {}}));
    // Names in a network are given when the container gets there.
    assert_eq!(seen["NetworkSettings"]["Networks"]["own"]["Aliases"], Value::Null);
    engine.api.start(&id).await;
    let seen = engine.api.inspect(&id).await;
    assert_eq!(
        seen["NetworkSettings"]["Networks"]["own"]["Aliases"],
        json!([id[..12]])
    );
    assert!(seen["NetworkSettings"]["Ports"]["8080/tcp"].is_null());
    let listed = filters(&json!({"expose": ["8080/tcp"]}));
    assert_eq!(engine.api.names(&listed).await.len(), 1);
    engine.api.remove(&id).await;
    engine.api.delete("/networks/own").await.expect(204);
    let told = engine
        .api
        .post("/images/create?fromImage=busybox&tag=latest&platform=foo")
        .await
        .expect(400)
        .message();
    assert_eq!(
        told,
        "\"foo\": unknown operating system or architecture: invalid argument"
    );
    engine.finish().await;
}
