//! What cannot work: the right status, the right code, and nothing left behind.

use berth_tests::{
    Engine,
    container::{STAY, busybox, shell},
};
use serde_json::{Value, json};

#[tokio::test]
async fn commands_that_cannot_run() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let cases: [(&[&str], i64, &[&str]); 5] = [
        (
            &["nothing-like-it"],
            127,
            &["executable file not found", "nothing-like-it"],
        ),
        (&["/nothing/like/it"], 127, &["no such file or directory"]),
        (&["/etc/passwd"], 126, &["permission denied"]),
        (&["/etc"], 126, &["permission denied", "is a directory"]),
        (
            &["/etc/passwd/below"],
            127,
            &["not a directory", "no such file or directory"],
        ),
    ];
    for (words, code, texts) in cases {
        let id = engine.api.create(&busybox(words)).await;
        let message = engine
            .api
            .post(&format!("/containers/{id}/start"))
            .await
            .expect(400)
            .message();
        assert!(
            texts.iter().any(|text| message.contains(text)),
            "{words:?}: {message}"
        );
        let state = engine.api.inspect(&id).await["State"].clone();
        assert_eq!(state["ExitCode"], code, "{words:?}: {state}");
        assert_eq!(state["Status"], "created", "{words:?}: {state}");
        assert_eq!(state["Running"], false);
        assert!(!state["Error"].as_str().expect("text").is_empty(), "{words:?}");
        // It is still a container that can be tried again and removed.
        engine
            .api
            .post(&format!("/containers/{id}/start"))
            .await
            .expect(400);
        engine.api.delete(&format!("/containers/{id}")).await.expect(204);
    }
    engine.finish().await;
}

#[tokio::test]
async fn a_failed_start_removes_a_container_with_auto_remove() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = busybox(&["nothing-like-it"]);
    config["HostConfig"]["AutoRemove"] = json!(true);
    let id = engine.api.create(&config).await;
    let path = format!("/containers/{id}/wait?condition=removed");
    let wait = engine
        .api
        .call(http::Method::POST, &path)
        .open()
        .await
        .expect(200);
    engine
        .api
        .post(&format!("/containers/{id}/start"))
        .await
        .expect(400);
    assert_eq!(wait.finish().await.json()["StatusCode"], 127);
    engine
        .api
        .get(&format!("/containers/{id}/json"))
        .await
        .expect(404);
    engine.finish().await;
}

/// Settings that no engine may take, by what is wrong with them.
fn refused() -> Vec<(&'static str, Value)> {
    let host = |host: Value| json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": host});
    let own = |field: &str, value: Value| {
        let mut config = busybox(&["true"]);
        config[field] = value;
        config
    };
    vec![
        ("memory below 6 MiB", host(json!({"Memory": 1_000_000}))),
        ("negative memory", host(json!({"Memory": -5}))),
        (
            "swap below memory",
            host(json!({"Memory": 100_000_000, "MemorySwap": 50_000_000})),
        ),
        ("swap without memory", host(json!({"MemorySwap": 50_000_000}))),
        (
            "reservation above memory",
            host(json!({"Memory": 100_000_000, "MemoryReservation": 200_000_000})),
        ),
        ("swappiness", host(json!({"MemorySwappiness": 101}))),
        (
            "cpus and quota",
            host(json!({"NanoCpus": 1_000_000_000, "CpuQuota": 50_000})),
        ),
        ("too many cpus", host(json!({"NanoCpus": 10_000_000_000_000_i64}))),
        ("cpu period", host(json!({"CpuPeriod": 10}))),
        ("cpu quota", host(json!({"CpuQuota": 10}))),
        ("negative shares", host(json!({"CpuShares": -1}))),
        ("cpuset beyond the host", host(json!({"CpusetCpus": "99999"}))),
        ("cpuset of words", host(json!({"CpusetCpus": "all"}))),
        ("blkio weight", host(json!({"BlkioWeight": 5}))),
        ("oom score", host(json!({"OomScoreAdj": 1001}))),
        ("shm size", host(json!({"ShmSize": -1}))),
        (
            "restart policy",
            host(json!({"RestartPolicy": {"Name": "sometimes"}})),
        ),
        (
            "retries without on-failure",
            host(json!({"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}})),
        ),
        (
            "negative retries",
            host(json!({"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -1}})),
        ),
        ("capability", host(json!({"CapAdd": ["CAP_MAGIC"]}))),
        ("security option", host(json!({"SecurityOpt": ["magic=on"]}))),
        (
            "log driver",
            host(json!({"LogConfig": {"Type": "carrier-pigeon"}})),
        ),
        (
            "log option",
            host(json!({"LogConfig": {"Type": "json-file", "Config": {"magic": "1"}}})),
        ),
        ("runtime", host(json!({"Runtime": "carrier-pigeon"}))),
        ("pid mode", host(json!({"PidMode": "magic"}))),
        (
            "ipc mode of nothing",
            host(json!({"IpcMode": "container:nothing"})),
        ),
        ("userns mode", host(json!({"UsernsMode": "magic"}))),
        ("cgroupns mode", host(json!({"CgroupnsMode": "magic"}))),
        ("bind to /", host(json!({"Binds": ["/tmp:/"]}))),
        ("bind to a relative path", host(json!({"Binds": ["/tmp:x"]}))),
        ("bind mode", host(json!({"Binds": ["/tmp:/x:magic"]}))),
        (
            "the same place twice",
            host(json!({"Binds": ["/tmp:/x", "/var:/x"]})),
        ),
        (
            "mount of nothing",
            host(json!({"Mounts": [{"Type": "bind", "Source": "/nothing/like/it", "Target": "/x"}]})),
        ),
        (
            "mount type",
            host(json!({"Mounts": [{"Type": "magic", "Target": "/x"}]})),
        ),
        ("volumes of nothing", host(json!({"VolumesFrom": ["nothing"]}))),
        ("extra host", host(json!({"ExtraHosts": ["nothing"]}))),
        ("dns", host(json!({"Dns": ["nothing"]}))),
        (
            "annotation without a name",
            host(json!({"Annotations": {"": "x"}})),
        ),
        ("relative working directory", own("WorkingDir", json!("x"))),
        ("host name", own("Hostname", json!("h".repeat(65)))),
        ("stop signal", own("StopSignal", json!("SIGMAGIC"))),
        ("variable without a name", own("Env", json!(["=x"]))),
        ("port", own("ExposedPorts", json!({"magic": {}}))),
        ("port out of range", own("ExposedPorts", json!({"99999/tcp": {}}))),
        (
            "health interval",
            own("Healthcheck", json!({"Test": ["CMD", "true"], "Interval": 5})),
        ),
        (
            "no command",
            json!({"Image": "busybox", "Entrypoint": [""], "HostConfig": {"NetworkMode": "none"}}),
        ),
        ("a NUL in a word", own("Cmd", json!(["a\u{0}b"]))),
        ("a NUL in a variable", own("Env", json!(["A=a\u{0}b"]))),
    ]
}

#[tokio::test]
async fn bad_settings_are_refused_at_creation_and_leave_nothing() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut taken = Vec::new();
    for (what, config) in refused() {
        let reply = engine.api.post_json("/containers/create?name=bad", &config).await;
        match reply.status().as_u16() {
            400 => assert!(reply.message().len() > 5, "{what}: {}", reply.text()),
            status => {
                taken.push(format!("{what}: {status} {}", reply.text().trim()));
                engine.api.delete("/containers/bad?force=1").await;
            }
        }
    }
    assert!(taken.is_empty(), "400 is due for:\n  {}", taken.join("\n  "));
    assert_eq!(engine.api.names("?all=1").await, Vec::<String>::new());
    let containers = engine.data_root().join("containers");
    let left = std::fs::read_dir(&containers).into_iter().flatten().count();
    assert_eq!(
        left,
        0,
        "refused containers have left files in {}",
        containers.display()
    );
    // The name is free.
    engine.api.create_named("bad", &busybox(&["true"])).await;
    engine.finish().await;
}

#[tokio::test]
async fn a_missing_image_is_the_only_404_of_create() {
    let engine = Engine::start().await;
    let message = engine
        .api
        .post_json("/containers/create", &json!({"Image": "nothing"}))
        .await
        .expect(404)
        .message();
    assert!(message.contains("No such image: nothing:latest"), "{message}");
    for bad in ["UPPER", "a b", "x:"] {
        engine
            .api
            .post_json("/containers/create", &json!({"Image": bad, "Cmd": ["true"]}))
            .await
            .expect(400);
    }
    engine.api.load_busybox().await;
    let path = "/containers/create?platform=linux/s390x";
    let message = engine
        .api
        .post_json(path, &busybox(&["true"]))
        .await
        .expect(404)
        .message();
    assert!(message.contains("platform"), "{message}");
    engine.finish().await;
}

#[tokio::test]
async fn nothing_is_done_to_what_is_not_there() {
    let engine = Engine::start().await;
    for action in [
        "start",
        "stop",
        "restart",
        "kill",
        "wait",
        "pause",
        "unpause",
        "attach",
        "rename?name=xx",
        "resize?h=1&w=1",
    ] {
        let reply = engine
            .api
            .post(&format!("/containers/nothing/{action}"))
            .await
            .expect(404);
        assert!(
            reply.text().contains("No such container: nothing"),
            "{action}: {}",
            reply.text()
        );
    }
    for path in [
        "json",
        "logs?stdout=1",
        "top",
        "changes",
        "export",
        "archive?path=/",
        "stats?stream=0",
    ] {
        let reply = engine.api.get(&format!("/containers/nothing/{path}")).await;
        assert!(
            [404, 501].contains(&reply.status().as_u16()),
            "{path}: {}",
            reply.text()
        );
    }
    engine.api.delete("/containers/nothing").await.expect(404);
    engine.api.delete("/containers/nothing?force=1").await.expect(404);
    engine.finish().await;
}

#[tokio::test]
async fn signals_that_there_are_not_are_refused() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.launch(&shell(STAY)).await;
    for action in ["stop", "restart", "kill"] {
        for signal in ["SIGMAGIC", "9223372036854775807", "-1"] {
            let path = format!("/containers/{id}/{action}?signal={signal}");
            let message = engine.api.post(&path).await.expect(400).message();
            assert!(message.contains(signal), "{action}: {message}");
        }
    }
    assert_eq!(engine.api.inspect(&id).await["State"]["Running"], true);
    engine.finish().await;
}

#[tokio::test]
async fn a_start_with_a_body_is_refused() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.create(&busybox(&["true"])).await;
    let path = format!("/containers/{id}/start");
    engine
        .api
        .post_json(&path, &json!({"Binds": ["/:/host"]}))
        .await
        .expect(400);
    assert_eq!(engine.api.inspect(&id).await["State"]["Status"], "created");
    engine.api.post_json(&path, &json!({})).await.expect(204);
    engine.finish().await;
}

#[tokio::test]
async fn a_clean_host_after_many_failed_starts() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let good = engine.api.launch(&shell(STAY)).await;
    let bad = [
        json!({"Image": "busybox", "Cmd": ["nothing"], "HostConfig": {"NetworkMode": "none"}}),
        json!({"Image": "busybox", "Cmd": ["true"], "User": "nobody-of-that-name", "HostConfig": {"NetworkMode": "none"}}),
        json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none", "Sysctls": {"kernel.nothing": "1"}}}),
        json!({"Image": "busybox", "Cmd": ["true"], "WorkingDir": "/etc/passwd", "HostConfig": {"NetworkMode": "none"}}),
        json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "container:nothing"}}),
    ];
    for config in &bad {
        for _ in 0..3 {
            let reply = engine.api.post_json("/containers/create", config).await;
            if reply.status() != 201 {
                assert_eq!(reply.status(), 400, "{config}: {}", reply.text());
                continue;
            }
            let id = reply.json()["Id"].as_str().expect("an id").to_owned();
            let reply = engine.api.post(&format!("/containers/{id}/start")).await;
            assert!(
                [400, 404, 409, 500].contains(&reply.status().as_u16()),
                "{config}: {}",
                reply.text()
            );
            engine.api.delete(&format!("/containers/{id}")).await.expect(204);
        }
    }
    assert_eq!(engine.api.inspect(&good).await["State"]["Running"], true);
    engine.finish().await;
}
