//! Volumes: made, shown, used, kept while they are used, cleaned up.

use std::{fs, path::Path};

use berth_tests::{
    Engine,
    client::{filters, query},
    container::{STAY, shell},
    image::{Image, Tar},
};
use serde_json::{Value, json};

/// A configuration of the shell with these mounts of `HostConfig.Mounts`.
fn mounted(text: &str, mounts: Value) -> Value {
    let mut config = shell(text);
    config["HostConfig"]["Mounts"] = mounts;
    config
}

fn bound(text: &str, binds: &[&str]) -> Value {
    let mut config = shell(text);
    config["HostConfig"]["Binds"] = json!(binds);
    config
}

async fn names(engine: &Engine, wanted: &Value) -> Vec<String> {
    let path = format!("/volumes{}", filters(wanted));
    let list = engine.api.get(&path).await.expect(200).json();
    let volumes = list["Volumes"].as_array().expect("a list");
    let mut names: Vec<String> = volumes
        .iter()
        .map(|volume| volume["Name"].as_str().expect("a name").to_owned())
        .collect();
    names.sort();
    names
}

fn data(engine: &Engine, name: &str) -> std::path::PathBuf {
    engine.data_root().join("volumes").join(name).join("_data")
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc");
    mounts.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

#[tokio::test]
async fn a_whole_life() {
    let mut engine = Engine::start().await;
    let body = json!({"Name": "data", "Labels": {"team": "a"}});
    let made = engine
        .api
        .post_json("/volumes/create", &body)
        .await
        .expect(201)
        .json();
    assert_eq!(
        (&made["Name"], &made["Driver"], &made["Scope"]),
        (&json!("data"), &json!("local"), &json!("local"))
    );
    assert_eq!(made["Options"], Value::Null);
    assert_eq!(made["Mountpoint"], data(&engine, "data").to_str().unwrap());
    assert!(!made["CreatedAt"].as_str().expect("a time").contains('.'));
    // The same again is the same, whatever is asked for.
    let again =
        json!({"Name": "data", "Labels": {"team": "b"}, "DriverOpts": {"type": "tmpfs", "device": "x"}});
    assert_eq!(
        engine
            .api
            .post_json("/volumes/create", &again)
            .await
            .expect(201)
            .json(),
        made
    );
    assert_eq!(engine.api.get("/volumes/data").await.expect(200).json(), made);
    let anonymous = engine
        .api
        .post_json("/volumes/create", &json!({}))
        .await
        .expect(201)
        .json();
    assert_eq!(anonymous["Name"].as_str().unwrap().len(), 64);
    assert_eq!(anonymous["Labels"], json!({"com.docker.volume.anonymous": ""}));

    engine.crash().await;
    assert_eq!(engine.api.get("/volumes/data").await.expect(200).json(), made);
    assert_eq!(names(&engine, &json!({"name": ["^dat"]})).await, ["data"]);
    assert_eq!(names(&engine, &json!({"label": ["team=a"]})).await, ["data"]);
    assert_eq!(names(&engine, &json!({"label": ["team=b"]})).await, [""; 0]);
    assert_eq!(names(&engine, &json!({"driver": ["other"]})).await, [""; 0]);
    assert_eq!(names(&engine, &json!({"dangling": ["true"]})).await.len(), 2);
    assert_eq!(names(&engine, &json!({"dangling": ["false"]})).await.len(), 0);

    engine.api.delete("/volumes/data").await.expect(204);
    let gone = engine.api.delete("/volumes/data").await.expect(404).message();
    assert_eq!(gone, "get data: no such volume");
    engine.api.delete("/volumes/data?force=1").await.expect(204);
    assert_eq!(engine.api.get("/volumes/data").await.expect(404).message(), gone);
    assert!(!data(&engine, "data").exists());
    engine.finish().await;
}

#[tokio::test]
async fn what_is_wrong_is_refused() {
    let engine = Engine::start().await;
    for (body, status, message) in [
        (
            json!({"Name": "a"}),
            400,
            "volume name is too short, names should be at least two alphanumeric characters",
        ),
        (
            json!({"Name": "../x"}),
            400,
            "includes invalid characters for a local volume name",
        ),
        (json!({"Name": ".ab"}), 400, "includes invalid characters"),
        (
            json!({"Name": "vol", "Driver": "none"}),
            404,
            "error looking up volume plugin none: plugin \"none\" not found",
        ),
        (
            json!({"Name": "vol", "DriverOpts": {"colour": "red"}}),
            400,
            "invalid option: \"colour\"",
        ),
        (
            json!({"Name": "vol", "DriverOpts": {"type": "tmpfs"}}),
            400,
            "missing required option: \"device\"",
        ),
        (
            json!({"Name": "vol", "DriverOpts": {"size": "1g"}}),
            400,
            "quota size requested but no quota support",
        ),
        (
            json!({"Name": "vol", "DriverOpts": {"size": "many"}}),
            400,
            "invalid size",
        ),
        (
            json!({"Name": "vol", "ClusterVolumeSpec": {}}),
            503,
            "not a swarm manager",
        ),
    ] {
        let told = engine
            .api
            .post_json("/volumes/create", &body)
            .await
            .expect(status)
            .message();
        assert!(told.contains(message), "{body}: {told}");
    }
    for wanted in [json!({"dangling": ["maybe"]}), json!({"colour": ["red"]})] {
        engine
            .api
            .get(&format!("/volumes{}", filters(&wanted)))
            .await
            .expect(400);
    }
    engine
        .api
        .post(&format!("/volumes/prune{}", filters(&json!({"all": ["maybe"]}))))
        .await
        .expect(400);
    engine
        .api
        .call(http::Method::PUT, "/volumes/vol?version=1")
        .json(&json!({}))
        .send()
        .await
        .expect(503);
    assert_eq!(names(&engine, &json!({})).await, [""; 0]);
    engine.finish().await;
}

#[tokio::test]
async fn data_outlives_containers_and_is_protected() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let writer = engine
        .api
        .create_named("writer", &bound("echo kept > /data/file", &["data:/data"]))
        .await;
    engine.api.start(&writer).await;
    assert_eq!(engine.api.wait(&writer).await, 0);
    let inspect = engine.api.inspect("writer").await;
    let mount = &inspect["Mounts"][0];
    assert_eq!(mount["Type"], "volume");
    assert_eq!(
        (&mount["Name"], &mount["Driver"], &mount["Mode"]),
        (&json!("data"), &json!("local"), &json!("z"))
    );
    assert_eq!(mount["Source"], data(&engine, "data").to_str().unwrap());
    let refused = engine
        .api
        .delete("/volumes/data?force=1")
        .await
        .expect(409)
        .message();
    assert_eq!(refused, format!("remove data: volume is in use - [{writer}]"));
    assert_eq!(names(&engine, &json!({"dangling": ["0"]})).await, ["data"]);

    let mut reader = shell("cat /data/file; echo x > /data/file");
    reader["HostConfig"]["VolumesFrom"] = json!(["writer:ro"]);
    let (code, output) = engine.api.run(&reader).await;
    assert_eq!(output.out, "kept\n");
    assert!(
        code != 0 && output.err.contains("Read-only file system"),
        "{}",
        output.err
    );
    let usage = engine.api.get("/system/df?type=volume").await.expect(200).json();
    assert_eq!(
        usage["Volumes"][0]["UsageData"],
        json!({"Size": 5, "RefCount": 2})
    );
    let list = engine.api.get("/containers/json?all=1").await.expect(200).json();
    for container in list.as_array().unwrap() {
        engine.api.remove(container["Id"].as_str().unwrap()).await;
    }
    engine.api.delete("/volumes/data").await.expect(204);
    engine.finish().await;
}

#[tokio::test]
async fn an_empty_volume_gets_what_the_image_has() {
    let engine = Engine::start().await;
    let layer = Tar::new()
        .directory("srv", 0o755)
        .owned("srv/data", 0o1777, 7, 8, berth_tests::image::Node::Directory)
        .file("srv/data/a", 0o640, "from the image")
        .symlink("srv/data/link", "../../etc/passwd")
        .file("srv/file", 0o644, "x");
    let image = Image::busybox()
        .with_layer(layer)
        .tagged("filled:latest")
        .with("Volumes", json!({"/srv/data": {}}));
    engine.api.load(&image).await;
    let config = |text: &str, binds: Value, mounts: Value| {
        json!({"Image": "filled", "Cmd": ["sh", "-c", text],
            "HostConfig": {"NetworkMode": "none", "Binds": binds, "Mounts": mounts}})
    };
    let look = "cat /srv/data/a; readlink /srv/data/link; stat -c '%a %u %g' /srv/data";
    let seen = "from the image../../etc/passwd\n1777 7 8\n";
    let (_, output) = engine.api.run(&config(look, Value::Null, Value::Null)).await;
    assert_eq!(output.out, seen, "the image's own volume: {}", output.err);
    let (_, output) = engine
        .api
        .run(&config(look, json!(["data:/srv/data"]), Value::Null))
        .await;
    assert_eq!(output.out, seen, "a named one: {}", output.err);
    // What is there stays.
    fs::write(data(&engine, "data").join("a"), "changed").unwrap();
    let (_, output) = engine
        .api
        .run(&config("cat /srv/data/a", json!(["data:/srv/data"]), Value::Null))
        .await;
    assert_eq!(output.out, "changed");
    let (_, output) = engine
        .api
        .run(&config(
            "ls /srv/data | wc -l",
            json!(["bare:/srv/data:nocopy"]),
            Value::Null,
        ))
        .await;
    assert_eq!(output.out, "0\n");
    let no_copy = json!([{"Type": "volume", "Source": "bare2", "Target": "/srv/data", "VolumeOptions": {"NoCopy": true}}]);
    let (_, output) = engine
        .api
        .run(&config("ls /srv/data | wc -l", Value::Null, no_copy))
        .await;
    assert_eq!(output.out, "0\n");
    // A file is in the way.
    let mut in_the_way = config("true", Value::Null, Value::Null);
    in_the_way["Volumes"] = json!({"/srv/file": {}});
    let told = engine
        .api
        .post_json("/containers/create", &in_the_way)
        .await
        .expect(400)
        .message();
    assert_eq!(
        told,
        "cannot mount volume over existing file, file exists /srv/file"
    );
    let list = engine.api.get("/containers/json?all=1").await.expect(200).json();
    for container in list.as_array().unwrap() {
        engine.api.remove(container["Id"].as_str().unwrap()).await;
    }
    // Only the named ones are left: `v=1` took the others, and the failed create left none.
    assert_eq!(names(&engine, &json!({})).await, ["bare", "bare2", "data"]);
    engine.finish().await;
}

#[tokio::test]
async fn anonymous_ones_go_with_their_container_or_by_prune() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = bound("true", &["/a", "kept:/k"]);
    config["Volumes"] = json!({"/b": {}});
    let stays = engine.api.create(&config).await;
    let keeper = {
        let mut config = shell("true");
        config["HostConfig"]["VolumesFrom"] = json!([stays]);
        engine.api.create(&config).await
    };
    assert_eq!(names(&engine, &json!({})).await.len(), 3);
    // Another container has them.
    engine
        .api
        .delete(&format!("/containers/{stays}?v=1"))
        .await
        .expect(204);
    assert_eq!(names(&engine, &json!({})).await.len(), 3);
    engine
        .api
        .delete(&format!("/containers/{keeper}"))
        .await
        .expect(204);
    assert_eq!(names(&engine, &json!({"dangling": ["1"]})).await.len(), 3);
    let goes = engine.api.create(&config).await;
    assert_eq!(names(&engine, &json!({})).await.len(), 5);
    engine.crash().await;
    engine
        .api
        .delete(&format!("/containers/{goes}?v=1"))
        .await
        .expect(204);
    assert_eq!(names(&engine, &json!({})).await.len(), 3);

    config["HostConfig"]["AutoRemove"] = json!(true);
    let id = engine.api.create(&config).await;
    let wait = format!("/containers/{id}/wait?condition=removed");
    let waiting = engine.api.call(http::Method::POST, &wait).open().await;
    engine.api.start(&id).await;
    waiting.finish().await.expect(200);
    assert_eq!(names(&engine, &json!({})).await.len(), 3);

    fs::write(data(&engine, "kept").join("file"), [0; 100]).unwrap();
    let pruned = engine.api.post("/volumes/prune").await.expect(200).json();
    assert_eq!(pruned["VolumesDeleted"].as_array().unwrap().len(), 2);
    let path = format!(
        "/volumes/prune{}",
        filters(&json!({"all": ["true"], "label!": ["none"]}))
    );
    let pruned = engine.api.post(&path).await.expect(200).json();
    assert_eq!(pruned, json!({"VolumesDeleted": ["kept"], "SpaceReclaimed": 100}));
    // Before 1.42 all go.
    engine
        .api
        .post_json("/volumes/create", &json!({"Name": "named"}))
        .await
        .expect(201);
    assert_eq!(
        engine.api.post("/volumes/prune").await.expect(200).json()["VolumesDeleted"],
        json!([])
    );
    let old = engine
        .api
        .at("1.41")
        .post("/volumes/prune")
        .await
        .expect(200)
        .json();
    assert_eq!(old["VolumesDeleted"], json!(["named"]));
    engine.finish().await;
}

#[tokio::test]
async fn options_mount_while_used() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    let body =
        json!({"Name": "ram", "DriverOpts": {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,mode=1755"}});
    let made = engine
        .api
        .post_json("/volumes/create", &body)
        .await
        .expect(201)
        .json();
    assert_eq!(made["Options"], body["DriverOpts"]);
    let path = data(&engine, "ram");
    let text = format!("stat -c %a /ram; df -k /ram | tail -1 | awk '{{print $2}}'; {STAY}");
    let one = engine.api.launch(&bound(&text, &["ram:/ram"])).await;
    let out = engine.api.await_output(&one, "ready").await;
    assert_eq!(out, "1755\n1024\nready\n");
    assert!(is_mounted(&path));
    let two = engine
        .api
        .launch(&bound("echo x > /ram/shared", &["ram:/ram"]))
        .await;
    assert_eq!(engine.api.wait(&two).await, 0);
    assert!(path.join("shared").exists());
    engine.crash().await;
    assert!(is_mounted(&path), "still used");
    engine
        .api
        .post(&format!("/containers/{one}/stop"))
        .await
        .expect(204);
    assert!(!is_mounted(&path));
    // The last user ends while there is no engine.
    engine.api.start(&one).await;
    engine.api.await_output(&one, "ready").await;
    assert!(is_mounted(&path));
    let pid = engine.api.inspect(&one).await["State"]["Pid"].as_i64().unwrap();
    engine.kill9().await;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid as i32),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    engine.launch_again().await;
    // Its supervisor may still be at putting away what it left.
    let wait = format!("/containers/{one}/wait");
    engine.api.post(&wait).await.expect(200);
    assert!(!is_mounted(&path));

    let bad = json!({"Name": "bad", "DriverOpts": {"type": "none", "device": "/none/such", "o": "bind"}});
    engine.api.post_json("/volumes/create", &bad).await.expect(201);
    let mut config = bound("true", &["bad:/x"]);
    config["Image"] = json!("busybox");
    let id = engine.api.create(&config).await;
    let told = engine
        .api
        .post(&format!("/containers/{id}/start"))
        .await
        .expect(500)
        .message();
    assert!(
        told.contains("failed to mount local volume: mount /none/such:"),
        "{told}"
    );
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("file"), "outside").unwrap();
    let bind = json!({"Name": "elsewhere", "DriverOpts": {"type": "none", "device": outside.path(), "o": "bind,ro"}});
    engine.api.post_json("/volumes/create", &bind).await.expect(201);
    let (code, output) = engine
        .api
        .run(&bound("cat /x/file; touch /x/y", &["elsewhere:/x"]))
        .await;
    assert_eq!((code, output.out.as_str()), (1, "outside"));
    let list = engine.api.get("/containers/json?all=1").await.expect(200).json();
    for container in list.as_array().unwrap() {
        engine.api.remove(container["Id"].as_str().unwrap()).await;
    }
    for name in ["ram", "bad", "elsewhere"] {
        engine.api.delete(&format!("/volumes/{name}")).await.expect(204);
    }
    assert!(outside.path().join("file").exists());
    engine.finish().await;
}

#[tokio::test]
async fn part_of_a_volume() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let canary = tempfile::tempdir().unwrap();
    fs::write(canary.path().join("secret"), "host").unwrap();
    engine
        .api
        .post_json("/volumes/create", &json!({"Name": "vol"}))
        .await
        .expect(201);
    let root = data(&engine, "vol");
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(root.join("a/b/file"), "inside").unwrap();
    std::os::unix::fs::symlink("a/b", root.join("link")).unwrap();
    std::os::unix::fs::symlink(canary.path(), root.join("out")).unwrap();
    std::os::unix::fs::symlink("../../../../../../../../etc", root.join("up")).unwrap();
    let at = |subpath: &str| {
        let mounts = json!([{"Type": "volume", "Source": "vol", "Target": "/x", "VolumeOptions": {"Subpath": subpath}}]);
        mounted("ls /x; cat /x/file", mounts)
    };
    for subpath in ["a/b", "link", "./a/./b"] {
        let (_, output) = engine.api.run(&at(subpath)).await;
        assert_eq!(output.out, "file\ninside", "{subpath}: {}", output.err);
    }
    let mut file = at("a/b/file");
    file["Cmd"] = json!(["cat", "/x"]);
    assert_eq!(engine.api.run(&file).await.1.out, "inside");
    for subpath in ["out", "up", "none", "out/secret"] {
        let id = engine.api.create(&at(subpath)).await;
        let told = engine
            .api
            .post(&format!("/containers/{id}/start"))
            .await
            .expect(500)
            .message();
        assert!(told.contains("cannot access path"), "{subpath}: {told}");
    }
    for subpath in ["/a", "../x", "a/../../b"] {
        let told = engine
            .api
            .post_json("/containers/create", &at(subpath))
            .await
            .expect(400)
            .message();
        assert!(
            told.ends_with("subpath must be a relative path within the volume"),
            "{told}"
        );
    }
    let list = engine.api.get("/containers/json?all=1").await.expect(200).json();
    for container in list.as_array().unwrap() {
        engine.api.remove(container["Id"].as_str().unwrap()).await;
    }
    engine.finish().await;
}

#[tokio::test]
async fn events_tell_of_volumes() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let since = jiff::Timestamp::now().as_second() - 1;
    let id = engine.api.launch(&bound("true", &["data:/data:ro"])).await;
    engine.api.wait(&id).await;
    engine.api.remove(&id).await;
    engine.api.delete("/volumes/data").await.expect(204);
    engine.api.post("/volumes/prune").await.expect(200);
    let until = (jiff::Timestamp::now().as_second() + 1).to_string();
    let wanted = json!({"type": ["volume"]}).to_string();
    let path = format!(
        "/events{}",
        query(&[
            ("since", &since.to_string()),
            ("until", &until),
            ("filters", &wanted)
        ])
    );
    let events = engine.api.get(&path).await.expect(200).records();
    let brief: Vec<_> = events
        .iter()
        .map(|event| {
            (
                event["Action"].as_str().unwrap().to_owned(),
                event["Actor"]["ID"].as_str().unwrap().to_owned(),
                event["Actor"]["Attributes"].clone(),
            )
        })
        .collect();
    let expected = [
        ("create", "data", json!({"driver": "local"})),
        (
            "mount",
            "data",
            json!({"driver": "local", "container": id, "destination": "/data", "read/write": "false", "propagation": ""}),
        ),
        ("unmount", "data", json!({"driver": "local", "container": id})),
        ("destroy", "data", json!({"driver": "local"})),
        ("prune", "", json!({"reclaimed": "0"})),
    ];
    let expected = expected.map(|(action, id, attributes)| (action.to_owned(), id.to_owned(), attributes));
    assert_eq!(brief, expected);
    engine.finish().await;
}

#[tokio::test]
async fn the_docker_command_line() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    assert_eq!(
        engine
            .docker(&["volume", "create", "--label", "a=b", "data"])
            .await
            .ok(),
        "data"
    );
    assert_eq!(
        engine
            .docker(&["volume", "ls", "-q", "--filter", "label=a"])
            .await
            .ok(),
        "data"
    );
    let run = |words: &[&str]| {
        let mut all = vec!["run", "--rm", "--network", "none"];
        all.extend(
            words
                .iter()
                .copied()
                .map(|word| Box::leak(word.to_owned().into_boxed_str()) as &str),
        );
        all
    };
    engine
        .docker(&run(&["-v", "data:/d", "busybox", "sh", "-c", "echo 1 > /d/x"]))
        .await
        .ok();
    let out = engine
        .docker(&run(&[
            "--mount",
            "type=volume,src=data,dst=/d,readonly",
            "busybox",
            "cat",
            "/d/x",
        ]))
        .await;
    assert_eq!(out.ok(), "1");
    let out = engine
        .docker(&run(&[
            "--tmpfs",
            "/t:size=1m",
            "busybox",
            "stat",
            "-f",
            "-c",
            "%T",
            "/t",
        ]))
        .await;
    assert_eq!(out.ok(), "tmpfs");
    engine
        .docker(&[
            "create",
            "--name",
            "holder",
            "--network",
            "none",
            "-v",
            "data:/d",
            "-v",
            "/anon",
            "busybox",
        ])
        .await
        .ok();
    let out = engine
        .docker(&run(&[
            "--volumes-from",
            "holder:ro",
            "busybox",
            "sh",
            "-c",
            "cat /d/x; touch /anon/y",
        ]))
        .await;
    assert!(out.out == "1\n" && out.code == 1, "{out:?}");
    assert!(
        engine
            .docker(&["volume", "rm", "data"])
            .await
            .fails(1)
            .contains("volume is in use")
    );
    engine.docker(&["rm", "-v", "holder"]).await.ok();
    let inspected = engine
        .docker(&["volume", "inspect", "-f", "{{.Mountpoint}}", "data"])
        .await
        .ok();
    assert_eq!(inspected, data(&engine, "data").to_str().unwrap());
    assert_eq!(engine.docker(&["volume", "ls", "-q"]).await.ok(), "data");
    let pruned = engine.docker(&["volume", "prune", "-af"]).await.ok();
    assert!(
        pruned.contains("data") && pruned.contains("Total reclaimed space: 2B"),
        "{pruned}"
    );
    engine.finish().await;
}

#[tokio::test]
async fn docker_py() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let script = format!(
        r#"
import docker
client = docker.DockerClient(base_url="unix://{}")
volume = client.volumes.create("data", labels={{"a": "b"}})
assert volume.attrs["Labels"] == {{"a": "b"}}
run = lambda command: client.containers.run("busybox", ["sh", "-c", command], volumes={{"data": {{"bind": "/d", "mode": "rw"}}}}, network_mode="none", remove=True)
run("echo hello > /d/x")
assert run("cat /d/x") == b"hello\n"
assert [v.name for v in client.volumes.list(filters={{"dangling": True}})] == ["data"]
mount = docker.types.Mount("/t", None, type="tmpfs", tmpfs_size="1m")
print(client.containers.run("busybox", ["stat", "-f", "-c", "%T", "/t"], mounts=[mount], network_mode="none", remove=True))
volume.remove()
try:
    client.volumes.get("data")
    raise SystemExit("still there")
except docker.errors.NotFound:
    pass
assert client.volumes.prune()["VolumesDeleted"] == []
"#,
        engine.api.socket().display()
    );
    let output = tokio::process::Command::new("/usr/bin/python3")
        .args(["-c", &script])
        .output()
        .await
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    engine.finish().await;
}

#[tokio::test]
async fn drivers_may_be_programs() {
    let dir = tempfile::tempdir().unwrap();
    let plugins = dir.path().join("plugins");
    fs::create_dir(&plugins).unwrap();
    let plugin = berth_tests::volume_plugin::VolumePlugin::start(
        &plugins.join("shelf.sock"),
        &dir.path().join("shelf"),
    );
    let mut engine = Engine::options()
        .flag("--plugin-dir")
        .flag(plugins.to_str().unwrap())
        .start()
        .await;
    engine.api.load_busybox().await;
    let body = json!({"Name": "book", "Driver": "shelf", "DriverOpts": {"colour": "red"}});
    let made = engine
        .api
        .post_json("/volumes/create", &body)
        .await
        .expect(201)
        .json();
    assert_eq!(
        (&made["Driver"], &made["Options"]),
        (&json!("shelf"), &json!({"colour": "red"}))
    );
    let other = engine
        .api
        .post_json("/volumes/create", &json!({"Name": "book", "Driver": "local"}))
        .await
        .expect(409);
    assert!(
        other.message().contains("volume name must be unique"),
        "{}",
        other.message()
    );
    let told = engine
        .api
        .post_json(
            "/volumes/create",
            &json!({"Name": "bad", "Driver": "shelf", "DriverOpts": {"fail": "no room"}}),
        )
        .await;
    assert!(
        told.message().contains("VolumeDriver.Create: no room"),
        "{}",
        told.message()
    );
    let mut config = bound(&format!("echo x > /b/page; {STAY}"), &["book:/b"]);
    config["HostConfig"]["VolumeDriver"] = json!("shelf");
    let id = engine.api.launch(&config).await;
    engine.api.await_output(&id, "ready").await;
    assert_eq!(
        fs::read_to_string(dir.path().join("shelf/book/page")).unwrap(),
        "x\n"
    );
    assert_eq!(plugin.mounted(), 1);
    engine.crash().await;
    engine.api.remove(&id).await;
    assert_eq!(plugin.mounted(), 0);
    assert_eq!(
        engine.api.get("/volumes/book").await.expect(200).json()["Driver"],
        "shelf"
    );
    assert_eq!(names(&engine, &json!({"driver": ["shelf"]})).await, ["book"]);
    engine.api.delete("/volumes/book").await.expect(204);
    assert!(!dir.path().join("shelf/book").exists());
    // Without its program the driver is not there, and said to be so at once.
    plugin.stop();
    let told = engine
        .api
        .post_json("/volumes/create", &body)
        .await
        .expect(404)
        .message();
    assert!(told.contains("error looking up volume plugin shelf"), "{told}");
    engine.finish().await;
}

#[tokio::test]
async fn nothing_is_mounted_where_the_image_says_otherwise() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let canary = tempfile::tempdir().unwrap();
    let layer = Tar::new()
        .symlink("abs", canary.path().to_str().unwrap())
        .symlink("up", "../../../../../../../../tmp")
        .directory("real", 0o755)
        .symlink("to-real", "/real");
    engine
        .api
        .load(&Image::busybox().with_layer(layer).tagged("linked:latest"))
        .await;
    let config = |text: &str, target: &str| {
        let mut config = bound(text, &[&format!("vol:{target}")]);
        config["Image"] = json!("linked");
        config
    };
    for (target, inside) in [("/abs/x", "x"), ("/up/y", "y"), ("/to-real", "real")] {
        let text = format!("grep -c _data /proc/self/mountinfo; touch {target}/{inside}");
        let (code, output) = engine.api.run(&config(&text, target)).await;
        assert_eq!(
            (code, output.out.as_str()),
            (0, "1\n"),
            "{target}: {}",
            output.err
        );
        assert!(data(&engine, "vol").join(inside).exists());
    }
    assert_eq!(fs::read_dir(canary.path()).unwrap().count(), 0);
    for target in ["/proc", "/proc/self", "/proc/sys", "/sys/../proc/1"] {
        engine
            .api
            .post_json("/containers/create", &config("true", target))
            .await
            .expect(400);
    }
    for bind in [
        "vol:relative",
        "vol:/",
        "vol:/x/..",
        "./vol:/x",
        "a:/x",
        "vol:/x:shared",
        "vol:/x:bogus",
    ] {
        engine
            .api
            .post_json("/containers/create", &bound("true", &[bind]))
            .await
            .expect(400);
    }
    let mut twice = bound("true", &["vol:/x", "vol2:/x/"]);
    twice["Image"] = json!("linked");
    let told = engine
        .api
        .post_json("/containers/create", &twice)
        .await
        .expect(400)
        .message();
    assert_eq!(told, "Duplicate mount point: /x");
    // Neither do refused requests leave volumes.
    assert_eq!(names(&engine, &json!({})).await, ["vol"]);
    let list = engine.api.get("/containers/json?all=1").await.expect(200).json();
    for container in list.as_array().unwrap() {
        engine.api.remove(container["Id"].as_str().unwrap()).await;
    }
    engine.finish().await;
}

#[tokio::test]
async fn read_only_binds_reach_as_far_as_asked() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let body = json!({"Name": "ram", "DriverOpts": {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}});
    engine.api.post_json("/volumes/create", &body).await.expect(201);
    let holder = engine.api.launch(&bound(STAY, &["ram:/ram"])).await;
    engine.api.await_output(&holder, "ready").await;
    let source = engine.data_root().join("volumes/ram");
    let at = |options: Value| {
        mounted(
            "touch /x/top; touch /x/_data/below && echo below",
            json!([{"Type": "bind", "Source": source, "Target": "/x", "ReadOnly": true, "BindOptions": options}]),
        )
    };
    let own = json!({"Propagation": "rslave"});
    for (options, below) in [
        (own.clone(), "below\n"),
        (
            json!({"Propagation": "rslave", "ReadOnlyNonRecursive": true}),
            "below\n",
        ),
    ] {
        let id = engine
            .api
            .post_json("/containers/create", &at(options.clone()))
            .await
            .expect(201)
            .json();
        let id = id["Id"].as_str().unwrap().to_owned();
        // The host's mounts may be private, which rslave needs them not to be.
        if engine.api.post(&format!("/containers/{id}/start")).await.status() == 204 {
            engine.api.wait(&id).await;
            assert_eq!(engine.api.logs(&id).await.out, below, "{options}");
        }
    }
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(outside.path().join("_data")).unwrap();
    let force = json!({"ReadOnlyForceRecursive": true});
    for (options, status) in [
        (
            json!({"ReadOnlyForceRecursive": true, "ReadOnlyNonRecursive": true}),
            400,
        ),
        (
            json!({"ReadOnlyForceRecursive": true, "Propagation": "rslave"}),
            400,
        ),
        (json!({"ReadOnlyForceRecursive": true, "NonRecursive": true}), 400),
        (force, 201),
    ] {
        let mut config = at(options.clone());
        config["HostConfig"]["Mounts"][0]["Source"] = json!(outside.path());
        engine
            .api
            .post_json("/containers/create", &config)
            .await
            .expect(status);
    }
    let list = engine.api.get("/containers/json?all=1").await.expect(200).json();
    for container in list.as_array().unwrap() {
        engine.api.remove(container["Id"].as_str().unwrap()).await;
    }
    engine.api.delete("/volumes/ram").await.expect(204);
    engine.finish().await;
}
