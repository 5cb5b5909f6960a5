//! The life of containers: create, start, look, name, list.

use berth_tests::{
    Engine,
    client::{filters, query},
    container::{STAY, busybox, shell},
    image::{Image, Tar},
};
use serde_json::{Value, json};

#[tokio::test]
async fn a_whole_life() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine
        .api
        .create_named("life", &shell("echo out; echo err >&2; exit 3"))
        .await;
    assert!(
        id.len() == 64
            && id
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)),
        "{id}"
    );

    let created = engine.api.inspect(&id).await;
    assert_eq!(created["Id"], id.as_str());
    assert_eq!(created["Name"], "/life");
    assert_eq!(created["State"]["Status"], "created");
    assert_eq!(created["State"]["Running"], false);
    assert_eq!(created["State"]["StartedAt"], "0001-01-01T00:00:00Z");
    assert_eq!(created["State"]["FinishedAt"], "0001-01-01T00:00:00Z");
    assert_eq!(created["Config"]["Image"], "busybox");
    assert_eq!(created["Path"], "sh");
    assert_eq!(created["Args"], json!(["-c", "echo out; echo err >&2; exit 3"]));
    assert_eq!(created["Config"]["Hostname"], &id[..12]);
    assert_eq!(created["RestartCount"], 0);

    engine.api.start(&id).await;
    assert_eq!(engine.api.wait(&id).await, 3);
    let ended = engine.api.inspect(&id).await;
    assert_eq!(ended["State"]["Status"], "exited");
    assert_eq!(ended["State"]["ExitCode"], 3);
    assert_eq!(ended["State"]["Pid"], 0);
    assert_eq!(ended["State"]["Error"], "");
    let time = |field: &str| ended["State"][field].as_str().expect("a time").to_owned();
    assert!(time("StartedAt").as_str() > "2020" && time("FinishedAt") >= time("StartedAt"));
    let output = engine.api.logs(&id).await;
    assert_eq!((output.out.as_str(), output.err.as_str()), ("out\n", "err\n"));

    engine.api.delete("/containers/life").await.expect(204);
    let message = engine
        .api
        .get("/containers/life/json")
        .await
        .expect(404)
        .message();
    assert_eq!(message, "No such container: life");
    engine.finish().await;
}

#[tokio::test]
async fn a_running_container_shows_its_process() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.launch(&shell(STAY)).await;
    engine.api.await_output(&id, "ready").await;
    let seen = engine.api.inspect(&id).await;
    assert_eq!(seen["State"]["Status"], "running");
    assert_eq!(seen["State"]["Running"], true);
    let pid = seen["State"]["Pid"].as_i64().expect("a pid");
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).expect("the process exists");
    assert!(line.starts_with(b"sh\0-c\0"), "{line:?}");
    for namespace in ["pid", "mnt", "uts", "ipc", "net"] {
        let link =
            |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).expect("a namespace");
        assert_ne!(link(&pid.to_string()), link("self"), "{namespace} is the host's");
    }
    engine
        .api
        .post(&format!("/containers/{id}/start"))
        .await
        .expect(304);
    let message = engine
        .api
        .delete(&format!("/containers/{id}"))
        .await
        .expect(409)
        .message();
    assert!(message.contains("force"), "{message}");
    engine
        .api
        .post(&format!("/containers/{id}/stop?t=10"))
        .await
        .expect(204);
    assert_eq!(engine.api.inspect(&id).await["State"]["ExitCode"], 0);
    engine
        .api
        .post(&format!("/containers/{id}/stop"))
        .await
        .expect(304);
    engine.finish().await;
}

#[tokio::test]
async fn a_container_sees_its_own_world() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = shell(
        "hostname; echo $$; pwd; id -u; id -g; echo $A-$B-$HOME; ls /proc | grep -c '^[0-9]'; cat /etc/hostname",
    );
    config["Hostname"] = json!("inside");
    config["Env"] = json!(["A=1", "B=two words"]);
    config["WorkingDir"] = json!("/made/here");
    config["User"] = json!("user");
    let (code, output) = engine.api.run(&config).await;
    let lines: Vec<&str> = output.out.lines().collect();
    assert_eq!(code, 0, "{output:?}");
    assert_eq!(
        lines[..6],
        [
            "inside",
            "1",
            "/made/here",
            "1000",
            "1000",
            "1-two words-/home/user"
        ]
    );
    assert!(lines[6].parse::<u32>().expect("a number") <= 4, "{lines:?}");
    assert_eq!(lines[7], "inside");
    engine.finish().await;
}

#[tokio::test]
async fn images_fill_in_what_the_request_leaves_out() {
    let engine = Engine::start().await;
    let image = Image::busybox()
        .tagged("defaults:v1")
        .with("Entrypoint", json!(["sh", "-c"]))
        .with("Cmd", json!(["echo $A $B; pwd"]))
        .with("Env", json!(["PATH=/bin", "A=image", "B=image"]))
        .with("WorkingDir", json!("/tmp"))
        .with("Labels", json!({"from": "image", "both": "image"}));
    engine.api.load(&image).await;
    let config = |more: Value| {
        let mut config = json!({"Image": "defaults:v1", "HostConfig": {"NetworkMode": "none"}});
        config
            .as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        config
    };
    let (_, output) = engine.api.run(&config(json!({}))).await;
    assert_eq!(output.out, "image image\n/tmp\n");
    let (_, output) = engine
        .api
        .run(&config(json!({"Env": ["A=mine"], "WorkingDir": "/"})))
        .await;
    assert_eq!(output.out, "mine image\n/\n");
    let (_, output) = engine.api.run(&config(json!({"Cmd": ["echo cmd"]}))).await;
    assert_eq!(output.out, "cmd\n");
    // The image's Cmd does not go with another Entrypoint.
    let (_, output) = engine
        .api
        .run(&config(json!({"Entrypoint": ["echo", "entry"]})))
        .await;
    assert_eq!(output.out, "entry\n");
    let id = engine
        .api
        .create(&config(json!({"Labels": {"both": "mine", "own": "x"}})))
        .await;
    let seen = engine.api.inspect(&id).await;
    assert_eq!(
        seen["Config"]["Labels"],
        json!({"from": "image", "both": "mine", "own": "x"})
    );
    assert_eq!(seen["Config"]["Env"], json!(["PATH=/bin", "A=image", "B=image"]));
    engine.finish().await;
}

#[tokio::test]
async fn names_are_checked_and_unique() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let config = busybox(&["true"]);
    let id = engine.api.create_named("taken", &config).await;
    let path = |name: &str| format!("/containers/create{}", query(&[("name", name)]));
    for name in ["taken", "/taken"] {
        let message = engine
            .api
            .post_json(&path(name), &config)
            .await
            .expect(409)
            .message();
        let form =
            format!("Conflict. The container name \"/taken\" is already in use by container \"{id}\".");
        assert!(message.starts_with(&form), "{message}");
    }
    for bad in [
        "x",
        "-x",
        "_x",
        ".x",
        "a b",
        "a/b",
        "../x",
        "a\nb",
        "a\u{0}b",
        "ä",
        "//x",
        &"n".repeat(4096),
    ] {
        let reply = engine.api.post_json(&path(bad), &config).await;
        // A name of any length made of good characters may be taken as well.
        let good = bad.len() == 4096 && reply.status() == 201;
        assert!(reply.status() == 400 || good, "{bad:?}: {}", reply.text());
    }
    for good in ["ab", "A.b_c-d", "/slash", "0x"] {
        engine.api.post_json(&path(good), &config).await.expect(201);
    }
    let unnamed = engine.api.create(&config).await;
    let name = engine.api.inspect(&unnamed).await["Name"]
        .as_str()
        .expect("a name")
        .to_owned();
    assert!(name.len() > 3 && name.contains('_'), "{name}");
    engine.finish().await;
}

#[tokio::test]
async fn of_parallel_creates_of_one_name_one_succeeds() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let config = busybox(&["true"]);
    let calls = (0..12).map(|_| engine.api.post_json("/containers/create?name=race", &config));
    let replies = futures_util::future::join_all(calls).await;
    let made = replies.iter().filter(|reply| reply.status() == 201).count();
    let refused = replies.iter().filter(|reply| reply.status() == 409).count();
    assert_eq!((made, refused), (1, 11));
    assert_eq!(engine.api.names("?all=1").await, ["race"]);
    engine.finish().await;
}

#[tokio::test]
async fn containers_are_found_by_id_name_and_prefix() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.create_named("findme", &busybox(&["true"])).await;
    for name in [id.as_str(), &id[..12], &id[..20], "findme", "%2Ffindme"] {
        let seen = engine
            .api
            .get(&format!("/containers/{name}/json"))
            .await
            .expect(200)
            .json();
        assert_eq!(seen["Id"], id.as_str(), "{name}");
    }
    // A name wins over a prefix of another's id.
    let other = engine.api.create_named(&id[..8], &busybox(&["true"])).await;
    assert_eq!(engine.api.inspect(&id[..8]).await["Id"], other.as_str());

    for _ in 0..17 {
        engine.api.create(&busybox(&["true"])).await;
    }
    // Of 19 ids two begin with the same digit.
    let list = engine.api.get("/containers/json?all=1").await.expect(200).json();
    let ids: Vec<&str> = list
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|c| c["Id"].as_str())
        .collect();
    let digit = "0123456789abcdef"
        .chars()
        .find(|digit| ids.iter().filter(|id| id.starts_with(*digit)).count() > 1)
        .expect("one digit is used twice");
    let message = engine
        .api
        .get(&format!("/containers/{digit}/json"))
        .await
        .expect(400)
        .message();
    assert!(
        message.contains("multiple IDs found with provided prefix"),
        "{message}"
    );
    engine.api.get("/containers/nothing/json").await.expect(404);
    engine.finish().await;
}

#[tokio::test]
async fn the_list_is_filtered_and_ordered() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    engine
        .api
        .load(
            &Image::busybox()
                .tagged("child:v1")
                .with_layer(Tar::new().file("x", 0o644, "x")),
        )
        .await;
    let first = engine.api.create_named("first", &busybox(&["true"])).await;
    let ended = engine.api.create_named("ended", &shell("exit 7")).await;
    engine.api.start(&ended).await;
    engine.api.wait(&ended).await;
    let mut config = shell(STAY);
    config["Image"] = json!("child:v1");
    config["ExposedPorts"] = json!({"80/tcp": {}});
    let running = engine.api.create_named("running", &config).await;
    engine.api.start(&running).await;

    assert_eq!(engine.api.names("").await, ["running"]);
    assert_eq!(engine.api.names("?all=1").await, ["running", "ended", "first"]);
    assert_eq!(engine.api.names("?limit=2").await, ["running", "ended"]);
    let names = async |value: Value| engine.api.names(&(filters(&value) + "&all=1")).await;
    assert_eq!(names(json!({"status": ["created"]})).await, ["first"]);
    assert_eq!(
        names(json!({"status": ["exited", "running"]})).await,
        ["running", "ended"]
    );
    assert_eq!(names(json!({"exited": ["7"]})).await, ["ended"]);
    assert_eq!(names(json!({"exited": ["0"]})).await, Vec::<String>::new());
    assert_eq!(names(json!({"id": [&first[..10]]})).await, ["first"]);
    assert_eq!(names(json!({"name": ["^/?r"]})).await, ["running"]);
    assert_eq!(names(json!({"name": ["["]})).await, Vec::<String>::new());
    assert_eq!(names(json!({"ancestor": ["child:v1"]})).await, ["running"]);
    assert_eq!(
        names(json!({"ancestor": ["nothing"]})).await,
        Vec::<String>::new()
    );
    assert_eq!(names(json!({"before": ["ended"]})).await, ["first"]);
    assert_eq!(names(json!({"since": [&ended]})).await, ["running"]);
    assert_eq!(names(json!({"expose": ["80"]})).await, ["running"]);
    assert_eq!(names(json!({"expose": ["70-90/tcp"]})).await, ["running"]);
    assert_eq!(names(json!({"network": ["none"]})).await.len(), 3);
    assert_eq!(
        engine.api.names(&filters(&json!({"status": ["created"]}))).await,
        ["first"],
        "status implies all"
    );
    engine
        .api
        .get(&format!(
            "/containers/json{}",
            filters(&json!({"before": ["nothing"]}))
        ))
        .await
        .expect(404);

    let list = engine
        .api
        .get("/containers/json?all=1&size=1")
        .await
        .expect(200)
        .json();
    let entry = &list[1];
    assert_eq!(entry["State"], "exited");
    assert!(
        entry["Status"].as_str().expect("text").starts_with("Exited (7) "),
        "{}",
        entry["Status"]
    );
    assert_eq!(entry["Command"], "sh -c 'exit 7'");
    assert_eq!(entry["Image"], "busybox");
    assert_eq!(entry["HostConfig"]["NetworkMode"], "none");
    assert!(
        list[0]["Status"].as_str().expect("text").starts_with("Up "),
        "{}",
        list[0]["Status"]
    );
    assert_eq!(list[2]["Status"], "Created");
    assert!(
        entry["SizeRootFs"].as_i64().expect("a number") > 100_000,
        "{entry}"
    );
    engine.finish().await;
}

#[tokio::test]
async fn rename_changes_the_name_and_nothing_else() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.create_named("before", &shell(STAY)).await;
    engine.api.create_named("taken", &busybox(&["true"])).await;
    engine.api.start(&id).await;
    let rename = async |name: &str| {
        engine
            .api
            .post(&format!("/containers/{id}/rename{}", query(&[("name", name)])))
            .await
    };
    rename("after").await.expect(204);
    assert_eq!(engine.api.inspect("after").await["Id"], id.as_str());
    engine.api.get("/containers/before/json").await.expect(404);
    rename("taken").await.expect(409);
    for bad in ["", "after", "-x", "a b"] {
        rename(bad).await.expect(400);
    }
    assert_eq!(engine.api.inspect(&id).await["Name"], "/after");
    engine.api.create_named("before", &busybox(&["true"])).await;
    engine.finish().await;
}

#[tokio::test]
async fn many_containers_at_once() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let lives = (0..20).map(|number| {
        let api = &engine.api;
        async move {
            let id = api.launch(&shell(&format!("echo {number}; exit {number}"))).await;
            let code = api.wait(&id).await;
            let output = api.logs(&id).await;
            api.remove(&id).await;
            (code, output.out)
        }
    });
    for (number, (code, out)) in futures_util::future::join_all(lives)
        .await
        .into_iter()
        .enumerate()
    {
        assert_eq!(
            (code, out),
            (i64::try_from(number).expect("small"), format!("{number}\n"))
        );
    }
    engine.finish().await;
}
