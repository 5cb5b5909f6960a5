//! Images of containers.

use berth_tests::{
    Engine,
    client::{filters, query},
    container::{STAY, busybox, shell},
    image::{Image, Tar},
};
use serde_json::{Value, json};

/// Seconds since 1970 with nine decimals.
fn now() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("a time after 1970");
    format!("{}.{:09}", now.as_secs(), now.subsec_nanos())
}

async fn commit(engine: &Engine, pairs: &[(&str, &str)], body: &Value) -> String {
    let path = format!("/commit{}", query(pairs));
    let reply = engine.api.post_json(&path, body).await.expect(201);
    reply.json()["Id"].as_str().expect("an id").to_owned()
}

async fn image(engine: &Engine, name: &str) -> Value {
    engine
        .api
        .get(&format!("/images/{name}/json"))
        .await
        .expect(200)
        .json()
}

/// A layer with what containers of these tests change.
fn base() -> Image {
    let layer = Tar::new()
        .directory("d", 0o755)
        .file("d/old", 0o644, "old")
        .file("d/kept", 0o644, "kept")
        .directory("gone", 0o755)
        .file("gone/x", 0o644, "x")
        .directory("anew", 0o755)
        .file("anew/below", 0o644, "below");
    Image::busybox().tagged("base:v1").with_layer(layer)
}

#[tokio::test]
async fn changes_of_files_become_a_layer() {
    let engine = Engine::start().await;
    engine.api.load(&base()).await;
    let script = "echo new >/d/new; rm /d/old; rm -r /gone /anew; mkdir -m 750 /anew; echo 1 >/anew/above; \
        ln /d/new /d/same; ln -s new /d/link; mkfifo -m 600 /d/fifo; chown 7:8 /d/new; chmod 4755 /d/new; \
        touch -d '2001-02-03 04:05:06' /d/kept; \
        dd if=/dev/zero of=/d/hole bs=1 count=1 seek=99999 2>/dev/null";
    let mut config = shell(script);
    config["Image"] = json!("base:v1");
    let (code, output) = engine.api.run(&config).await;
    assert_eq!(code, 0, "{output:?}");
    let id = engine.api.create(&config).await;
    engine.api.start(&id).await;
    engine.api.wait(&id).await;
    let made = commit(
        &engine,
        &[("container", &id), ("repo", "made"), ("tag", "v2")],
        &Value::Null,
    )
    .await;
    let seen = image(&engine, "made:v2").await;
    assert_eq!(seen["Id"], made.as_str());
    let below = image(&engine, "base:v1").await;
    let layers = |image: &Value| image["RootFS"]["Layers"].as_array().expect("a list").clone();
    assert_eq!(layers(&seen)[..layers(&below).len()], layers(&below)[..]);
    assert_eq!(layers(&seen).len(), layers(&below).len() + 1);
    let mut look = shell(
        "cd /; ls d anew; ls -d /gone 2>/dev/null; cat d/new d/same; readlink d/link; \
         stat -c '%n %h %u:%g %a %F' d/new d/fifo anew; stat -c %Y d/kept; stat -c %s d/hole",
    );
    look["Image"] = json!("made:v2");
    let (_, output) = engine.api.run(&look).await;
    assert_eq!(
        output.out,
        "anew:\nabove\n\nd:\nfifo\nhole\nkept\nlink\nnew\nsame\nnew\nnew\nnew\nd/new 2 7:8 4755 regular file\n\
         d/fifo 1 0:0 600 fifo\nanew 2 0:0 750 directory\n981173106\n100000\n"
    );
    // It is an image like any other: it goes out and comes in.
    let archive = engine.api.get("/images/made:v2/get").await.expect(200);
    engine
        .api
        .post_tar("/images/load", archive.bytes.clone())
        .await
        .expect(200);
    engine.finish().await;
}

#[tokio::test]
async fn configuration_is_merged_and_changed() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = busybox(&["one", "two"]);
    config["Env"] = json!(["A=1", "B=2"]);
    config["Labels"] = json!({"l": "own", "m": "own"});
    config["WorkingDir"] = json!("/etc");
    let id = engine.api.create(&config).await;
    let plain = commit(
        &engine,
        &[("container", &id), ("author", "A. U. Thor"), ("comment", "why")],
        &Value::Null,
    )
    .await;
    let seen = image(&engine, &plain).await;
    assert_eq!(seen["RepoTags"], json!([]));
    assert_eq!(seen["Author"], "A. U. Thor");
    assert_eq!(seen["Comment"], "why");
    // Where it comes from is known, too.
    assert_eq!(seen["Container"], id.as_str());
    assert_eq!(seen["ContainerConfig"]["Image"], "busybox");
    assert_eq!(seen["ContainerConfig"]["Hostname"], id[..12]);
    assert_eq!(seen["Parent"], image(&engine, "busybox").await["Id"]);
    assert_eq!(seen["Config"]["Cmd"], json!(["one", "two"]));
    assert_eq!(seen["Config"]["WorkingDir"], "/etc");
    let history = engine
        .api
        .get(&format!("/images/{plain}/history"))
        .await
        .expect(200)
        .json();
    assert_eq!(history[0]["Comment"], "why");
    assert_eq!(history[0]["CreatedBy"], "one two");
    assert_eq!(history[0]["Size"], 0);
    let list = format!("/images/json{}", filters(&json!({"dangling": ["true"]})));
    let dangling = engine.api.get(&list).await.expect(200).json();
    assert_eq!(dangling[0]["Id"], plain.as_str());

    let pairs = [
        ("container", id.as_str()),
        ("repo", "registry.example:5000/changed"),
        ("changes", "ENTRYPOINT [\"e\"]"),
        ("changes", "ENV A=3 C=4\nEXPOSE 80"),
        (
            "changes",
            "LABEL m=\"new one\"\nUSER 5\nVOLUME /v\nSTOPSIGNAL SIGINT\nWORKDIR sub",
        ),
        ("changes", "HEALTHCHECK --interval=5s CMD true\nONBUILD RUN x"),
    ];
    commit(
        &engine,
        &pairs,
        &json!({"Cmd": ["body"], "Env": ["D=5"], "Labels": {"n": "body"}}),
    )
    .await;
    let config = image(&engine, "registry.example:5000/changed:latest").await["Config"].clone();
    assert_eq!(config["Entrypoint"], json!(["e"]));
    assert_eq!(config["Cmd"], Value::Null);
    assert_eq!(
        config["Env"],
        json!(["D=5", "A=3", "C=4", "B=2", "PATH=/bin:/usr/bin"])
    );
    assert_eq!(config["Labels"], json!({"l": "own", "m": "new one", "n": "body"}));
    assert_eq!(config["ExposedPorts"], json!({"80/tcp": {}}));
    assert_eq!(config["Volumes"], json!({"/v": {}}));
    assert_eq!(
        (&config["User"], &config["StopSignal"]),
        (&json!("5"), &json!("SIGINT"))
    );
    assert_eq!(config["WorkingDir"], "/sub");
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD-SHELL", "true"]));
    assert_eq!(config["OnBuild"], json!(["RUN x"]));
    engine.finish().await;
}

#[tokio::test]
async fn a_running_container_is_paused_meanwhile() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.launch(&shell(STAY)).await;
    engine.api.await_output(&id, "ready").await;
    let since = engine.api.inspect(&id).await["State"]["StartedAt"].clone();
    for (pause, expected) in [
        ("true", vec!["pause", "commit", "unpause"]),
        ("0", vec!["commit"]),
    ] {
        let before = now();
        let made = commit(
            &engine,
            &[
                ("container", &id),
                ("repo", "r"),
                ("comment", "c"),
                ("pause", pause),
            ],
            &Value::Null,
        )
        .await;
        let until = now();
        let path = format!(
            "/events{}",
            query(&[
                ("since", &before),
                ("until", &until),
                ("filters", &json!({"container": [id]}).to_string())
            ])
        );
        let events = engine.api.get(&path).await.expect(200).records();
        let mut actions: Vec<_> = events
            .iter()
            .map(|e| e["Action"].as_str().expect("text"))
            .collect();
        actions.sort_by_key(|a| expected.iter().position(|e| e == a));
        assert_eq!(actions, expected);
        let told = events.iter().find(|e| e["Action"] == "commit").expect("a commit");
        assert_eq!(told["Actor"]["Attributes"]["imageID"], made.as_str());
        assert_eq!(told["Actor"]["Attributes"]["imageRef"], "r:latest");
        assert_eq!(told["Actor"]["Attributes"]["comment"], "c");
    }
    let state = engine.api.inspect(&id).await["State"].clone();
    assert_eq!(
        (&state["Status"], &state["StartedAt"]),
        (&json!("running"), &since)
    );
    // Somebody else's pause is left alone.
    engine
        .api
        .post(&format!("/containers/{id}/pause"))
        .await
        .expect(204);
    commit(&engine, &[("container", &id)], &Value::Null).await;
    assert_eq!(engine.api.inspect(&id).await["State"]["Status"], "paused");
    engine.api.remove(&id).await;
    engine.finish().await;
}

#[tokio::test]
async fn wrong_requests_are_refused() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.create(&busybox(&["true"])).await;
    let refused = async |pairs: &[(&str, &str)], status: u16| {
        engine
            .api
            .post(&format!("/commit{}", query(pairs)))
            .await
            .expect(status)
            .message()
    };
    assert!(
        refused(&[("container", "nobody")], 404)
            .await
            .contains("No such container: nobody")
    );
    refused(&[], 400).await;
    assert!(
        refused(&[("container", &id), ("repo", "UPPER")], 400)
            .await
            .contains("must be lowercase")
    );
    refused(&[("container", &id), ("repo", "r"), ("tag", "a b")], 400).await;
    let message = refused(&[("container", &id), ("changes", "RUN x")], 400).await;
    assert!(message.contains("RUN is not a valid change command"), "{message}");
    refused(&[("container", &id), ("changes", "ENV")], 400).await;
    let path = format!("/commit{}", query(&[("container", &id)]));
    engine.api.post_json(&path, &json!({"Cmd": {}})).await.expect(400);
    let images = engine.api.get("/images/json?all=1").await.expect(200).json();
    assert_eq!(images.as_array().expect("a list").len(), 2, "{images}");
    engine.finish().await;
}

#[tokio::test]
async fn the_command_line_commits() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    engine
        .docker(&[
            "run",
            "--name",
            "one",
            "--network",
            "none",
            "busybox",
            "touch",
            "/x",
        ])
        .await
        .ok();
    let id = engine
        .docker(&[
            "commit",
            "-a",
            "me",
            "-m",
            "why",
            "-c",
            "CMD [\"ls\",\"/x\"]",
            "one",
            "made:v1",
        ])
        .await
        .ok();
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(
        engine
            .docker(&["run", "--rm", "--network", "none", "made:v1"])
            .await
            .ok(),
        "/x"
    );
    engine.docker(&["rm", "one"]).await.ok();
    engine.finish().await;
}

/// Short-lived containers are committed at whatever moment of their end that happens to be.
#[tokio::test]
async fn a_container_that_ends_meanwhile_is_committed() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    for number in 0..20 {
        let id = engine.api.create(&shell("echo x > /made")).await;
        engine.api.start(&id).await;
        let path = format!("/commit?container={id}&repo=made&tag=v{number}");
        engine.api.post(&path).await.expect(201);
        engine.api.wait(&id).await;
        engine.api.remove(&id).await;
        engine
            .api
            .delete(&format!("/images/made:v{number}"))
            .await
            .expect(200);
    }
    engine.finish().await;
}
