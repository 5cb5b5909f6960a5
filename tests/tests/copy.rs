//! Files into containers and out of them: the API's archives and the command line's `cp`.

use std::{collections::BTreeMap, fs, io::Read, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use berth_tests::{
    Engine,
    client::{Reply, query},
    container::{STAY, shell},
    image::{Compression, Image, Node, Tar},
};
use http::Method;
use serde_json::{Value, json};

fn archive(id: &str, pairs: &[(&str, &str)]) -> String {
    format!("/containers/{id}/archive{}", query(pairs))
}

async fn put(engine: &Engine, id: &str, pairs: &[(&str, &str)], body: Vec<u8>) -> Reply {
    let call = engine.api.call(Method::PUT, &archive(id, pairs));
    call.header("content-type", "application/x-tar")
        .bytes(body)
        .send()
        .await
}

fn stat(reply: &Reply) -> Value {
    let header = &reply.head.headers["x-docker-container-path-stat"];
    let json = BASE64_STANDARD.decode(header.as_bytes()).expect("base64");
    serde_json::from_slice(&json).expect("JSON")
}

/// Names in an archive, with what the files hold.
fn entries(bytes: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(bytes);
    let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.expect("an entry");
        let mut text = String::new();
        let _binary = entry.read_to_string(&mut text);
        if let Ok(Some(link)) = entry.link_name() {
            text = format!("-> {}", link.display());
        }
        (String::from_utf8_lossy(&entry.path_bytes()).into_owned(), text)
    };
    archive.entries().expect("an archive").map(read).collect()
}

fn names(bytes: &[u8]) -> Vec<String> {
    entries(bytes).into_keys().collect()
}

/// An image with one of everything.
fn image() -> Image {
    let layer = Tar::new()
        .directory("d/", 0o755)
        .file("d/a", 0o4750, "A")
        .file("d/b", 0o644, "BB")
        .directory("d/sub/", 0o1777)
        .file("d/sub/c", 0o644, "c")
        .symlink("abs", "/d")
        .symlink("d/up", "../abs/a")
        .symlink("broken", "no/such")
        .directory("ro/", 0o755)
        .directory("rw/", 0o755);
    Image::busybox().tagged("copy:v1").with_layer(layer)
}

fn config(script: &str) -> Value {
    let mut config = shell(script);
    config["Image"] = json!("copy:v1");
    config
}

#[tokio::test]
async fn paths_are_described() {
    let engine = Engine::start().await;
    engine.api.load(&image()).await;
    let created = engine.api.create(&config("true")).await;
    let running = engine.api.launch(&config(STAY)).await;
    for id in [&created, &running] {
        let head =
            async |path: &str| stat(&engine.api.head(&archive(id, &[("path", path)])).await.expect(200));
        let seen = head("/d/a").await;
        assert_eq!(
            (&seen["name"], &seen["size"], &seen["linkTarget"]),
            (&json!("a"), &json!(1), &json!(""))
        );
        assert_eq!(seen["mode"], 1 << 23 | 0o750);
        assert!(seen["mtime"].as_str().expect("text").ends_with('Z'), "{seen}");
        assert_eq!(head("d/sub/").await["mode"], 1_u64 << 31 | 1 << 20 | 0o777);
        assert_eq!(head("/d/up").await["linkTarget"], "/d/a");
        assert_eq!(head("/d/up").await["mode"], 1 << 27 | 0o777);
        assert_eq!(head("/abs").await["linkTarget"], "/d");
        assert_eq!(head("/abs/").await["name"], "abs");
        assert_eq!(head("/abs/.").await["name"], ".");
        assert_eq!(head("/broken").await["linkTarget"], "/no/such");
        assert_eq!(head("/").await["name"], "/");
        assert_eq!(head("../../d/b").await["size"], 2);
        for (path, status) in [
            ("", 400),
            ("/none", 404),
            ("/broken/x", 404),
            ("/d/a/", 400),
            ("/d/a/x", 400),
        ] {
            engine
                .api
                .head(&archive(id, &[("path", path)]))
                .await
                .expect(status);
            engine
                .api
                .get(&archive(id, &[("path", path)]))
                .await
                .expect(status);
        }
        let told = engine.api.get(&archive(id, &[("path", "/none")])).await.message();
        assert_eq!(told, format!("Could not find the file /none in container {id}"));
    }
    engine
        .api
        .head(&archive("nobody", &[("path", "/")]))
        .await
        .expect(404);
    engine
        .api
        .get(&archive("nobody", &[("path", "/")]))
        .await
        .expect(404);
    put(&engine, "nobody", &[("path", "/")], Tar::new().finish())
        .await
        .expect(404);
    // Nothing was written for those who only look.
    assert_eq!(
        engine
            .api
            .get(&format!("/containers/{created}/changes"))
            .await
            .expect(200)
            .json(),
        Value::Null
    );
    engine.api.remove(&running).await;
    engine.finish().await;
}

#[tokio::test]
async fn archives_begin_with_the_last_part_of_the_path() {
    let engine = Engine::start().await;
    engine.api.load(&image()).await;
    let created = engine.api.create(&config("true")).await;
    let running = engine.api.launch(&config(STAY)).await;
    for id in [&created, &running] {
        let get = async |path: &str| engine.api.get(&archive(id, &[("path", path)])).await.expect(200);
        let reply = get("/d").await;
        assert_eq!(reply.head.headers["content-type"], "application/x-tar");
        assert_eq!(stat(&reply)["name"], "d");
        assert_eq!(
            names(&reply.bytes),
            ["d/", "d/a", "d/b", "d/sub/", "d/sub/c", "d/up"]
        );
        assert_eq!(entries(&reply.bytes)["d/up"], "-> ../abs/a");
        assert_eq!(
            names(&get("/d/.").await.bytes),
            ["./", "./a", "./b", "./sub/", "./sub/c", "./up"]
        );
        assert_eq!(names(&get("/d/sub/").await.bytes), ["sub/", "sub/c"]);
        assert_eq!(
            entries(&get("/d/a").await.bytes),
            BTreeMap::from([("a".into(), "A".into())])
        );
        assert_eq!(
            entries(&get("/abs").await.bytes),
            BTreeMap::from([("abs".into(), "-> /d".into())])
        );
        assert_eq!(names(&get("/abs/sub").await.bytes), ["sub/", "sub/c"]);
        assert_eq!(names(&get("/abs/").await.bytes)[..2], ["abs/", "abs/a"]);
        let whole = names(&get("/").await.bytes);
        assert!(whole.iter().any(|name| name == "/d/sub/c"), "{whole:?}");
    }
    engine.api.remove(&running).await;
    engine.finish().await;
}

#[tokio::test]
async fn archives_are_unpacked() {
    let engine = Engine::start().await;
    engine.api.load(&image()).await;
    let idle = engine
        .api
        .create(&config(
            "cat /d/new /d/sub/c; stat -c '%u:%g %a' /d/new; ls -d /d/a/*; cat /rw/x",
        ))
        .await;
    let running = engine.api.launch(&config(STAY)).await;
    let tar = Tar::new()
        .owned("new", 0o640, 7, 8, Node::File(b"new\n"))
        .file("sub/c", 0o644, "changed\n")
        .directory("a/", 0o755)
        .file("a/inside", 0o644, "");
    for id in [&idle, &running] {
        put(&engine, id, &[("path", "/d")], tar.clone().finish())
            .await
            .expect(200);
        // Through a link that is absolute, into another directory.
        put(
            &engine,
            id,
            &[("path", "/abs/../rw/.")],
            Tar::new().file("./x", 0o644, "x\n").finish(),
        )
        .await
        .expect(200);
        let reply = engine
            .api
            .get(&archive(id, &[("path", "/d/.")]))
            .await
            .expect(200);
        assert_eq!(entries(&reply.bytes)["./new"], "new\n");
        assert_eq!(entries(&reply.bytes)["./b"], "BB");
        assert!(entries(&reply.bytes).contains_key("./a/inside"));
    }
    engine.api.start(&idle).await;
    engine.api.wait(&idle).await;
    assert_eq!(
        engine.api.logs(&idle).await.out,
        "new\nchanged\n7:8 640\n/d/a/inside\nx\n"
    );
    for compression in Compression::ALL {
        let body = compression.apply(
            &Tar::new()
                .file("packed", 0o644, format!("{compression:?}"))
                .finish(),
        );
        put(&engine, &running, &[("path", "/rw")], body).await.expect(200);
        let reply = engine
            .api
            .get(&archive(&running, &[("path", "/rw/packed")]))
            .await
            .expect(200);
        assert_eq!(entries(&reply.bytes)["packed"], format!("{compression:?}"));
    }
    engine.api.remove(&running).await;
    engine.finish().await;
}

#[tokio::test]
async fn what_cannot_be_unpacked_is_refused() {
    let engine = Engine::start().await;
    engine.api.load(&image()).await;
    let one = || Tar::new().file("x", 0o644, "x").finish();
    let mut read_only = config(STAY);
    read_only["HostConfig"]["ReadonlyRootfs"] = json!(true);
    let host = tempfile::tempdir().expect("a directory");
    read_only["HostConfig"]["Binds"] = json!([
        format!("{0}:/rw", host.path().display()),
        format!("{0}:/ro:ro", host.path().display())
    ]);
    read_only["HostConfig"]["Tmpfs"] = json!({"/tmp": ""});
    let idle = engine.api.create(&read_only).await;
    let running = engine.api.launch(&read_only).await;
    for id in [&idle, &running] {
        let refused = async |pairs: &[(&str, &str)], body: Vec<u8>, status: u16| {
            put(&engine, id, pairs, body).await.expect(status).message()
        };
        assert_eq!(
            refused(&[("path", "/d")], one(), 403).await,
            "container rootfs is marked read-only"
        );
        assert_eq!(
            refused(&[("path", "/ro")], one(), 403).await,
            "mounted volume is marked read-only"
        );
        assert_eq!(
            refused(&[("path", "/d/b")], one(), 400).await,
            "extraction point is not a directory"
        );
        assert!(
            refused(&[("path", "/d/b/")], one(), 400)
                .await
                .contains("not a directory")
        );
        assert!(
            refused(&[("path", "/none")], one(), 404)
                .await
                .contains("Could not find the file /none")
        );
        refused(&[("path", "")], one(), 400).await;
        refused(
            &[("path", "/rw")],
            b"this is no archive, however long it may be".repeat(30),
            400,
        )
        .await;
        put(&engine, id, &[("path", "/rw")], one()).await.expect(200);
        assert_eq!(fs::read_to_string(host.path().join("x")).expect("a file"), "x");
        fs::remove_file(host.path().join("x")).expect("removal");
        // A link out of what may be written leads to what may not.
        std::os::unix::fs::symlink("/d", host.path().join("out")).expect("a link");
        assert_eq!(
            refused(&[("path", "/rw/out")], one(), 403).await,
            "container rootfs is marked read-only"
        );
        refused(
            &[("path", "/rw")],
            Tar::new().file("out/x", 0o644, "x").finish(),
            403,
        )
        .await;
        fs::remove_file(host.path().join("out")).expect("removal");
        let keep = [("path", "/rw"), ("noOverwriteDirNonDir", "1")];
        fs::create_dir(host.path().join("x")).expect("a directory");
        assert!(
            refused(&keep, one(), 400)
                .await
                .contains("cannot overwrite directory")
        );
        fs::remove_dir(host.path().join("x")).expect("removal");
        fs::write(host.path().join("x"), "").expect("a file");
        let body = Tar::new().directory("x/", 0o755).finish();
        assert!(
            refused(&keep, body.clone(), 400)
                .await
                .contains("cannot overwrite non-directory")
        );
        put(&engine, id, &[("path", "/rw")], body).await.expect(200);
        fs::remove_dir(host.path().join("x")).expect("removal");
    }
    put(&engine, &running, &[("path", "/tmp")], one())
        .await
        .expect(200);
    let seen = engine
        .api
        .get(&archive(&running, &[("path", "/tmp/x")]))
        .await
        .expect(200);
    assert_eq!(entries(&seen.bytes)["x"], "x");
    engine.api.remove(&running).await;
    engine.finish().await;
}

#[tokio::test]
async fn mounts_are_seen_whether_it_runs_or_not() {
    let engine = Engine::start().await;
    engine.api.load(&image()).await;
    let host = tempfile::tempdir().expect("a directory");
    fs::create_dir(host.path().join("dir")).expect("a directory");
    fs::write(host.path().join("dir/f"), "from outside").expect("a file");
    fs::write(host.path().join("file"), "one file").expect("a file");
    let mut bound = config(STAY);
    bound["User"] = json!("7:8");
    bound["HostConfig"]["Binds"] = json!([
        format!("{}:/not/there/yet", host.path().join("dir").display()),
        format!("{}:/d/b:ro", host.path().join("file").display()),
    ]);
    let idle = engine.api.create(&bound).await;
    let running = engine.api.launch(&bound).await;
    for id in [&idle, &running] {
        let get = async |path: &str| {
            engine
                .api
                .get(&archive(id, &[("path", path)]))
                .await
                .expect(200)
                .bytes
        };
        assert_eq!(
            names(&get("/not").await),
            ["not/", "not/there/", "not/there/yet/", "not/there/yet/f"]
        );
        assert_eq!(entries(&get("/d").await)["d/b"], "one file");
        let pairs = [("path", "/not/there/yet"), ("copyUIDGID", "1")];
        put(&engine, id, &pairs, Tar::new().file("mine", 0o644, "").finish())
            .await
            .expect(200);
        let owner = fs::metadata(host.path().join("dir/mine")).expect("a file");
        use std::os::unix::fs::MetadataExt;
        assert_eq!((owner.uid(), owner.gid()), (7, 8));
        fs::remove_file(host.path().join("dir/mine")).expect("removal");
    }
    // An export has the places only.
    for id in [&idle, &running] {
        let reply = engine
            .api
            .get(&format!("/containers/{id}/export"))
            .await
            .expect(200);
        let all = entries(&reply.bytes);
        assert_eq!(all["d/b"], "BB");
        assert!(
            all.contains_key("proc/") && !all.keys().any(|name| name.starts_with("proc/1")),
            "{all:?}"
        );
        assert!(!all.contains_key("not/there/yet/f"));
    }
    engine.api.get("/containers/nobody/export").await.expect(404);
    engine.api.remove(&running).await;
    engine.finish().await;
}

#[tokio::test]
async fn changes_are_listed() {
    let engine = Engine::start().await;
    engine.api.load(&image()).await;
    let changes = async |id: &str| {
        engine
            .api
            .get(&format!("/containers/{id}/changes"))
            .await
            .expect(200)
            .json()
    };
    let untouched = engine.api.create(&config("cat /d/a; touch /d/b -r /d/b")).await;
    assert_eq!(changes(&untouched).await, Value::Null);
    engine.api.start(&untouched).await;
    engine.api.wait(&untouched).await;
    assert_eq!(changes(&untouched).await, Value::Null);
    let script = format!(
        "echo x >/d/sub/new; rm /d/b; chmod 700 /ro; mkdir /n; touch /n/1; rm /abs; echo y >/abs; rm -r /rw; \
         mkdir /rw; touch /rw/z; {STAY}"
    );
    let id = engine.api.launch(&config(&script)).await;
    engine.api.await_output(&id, "ready").await;
    let expected = json!([
        {"Path": "/abs", "Kind": 0}, {"Path": "/d", "Kind": 0}, {"Path": "/d/b", "Kind": 2},
        {"Path": "/d/sub", "Kind": 0}, {"Path": "/d/sub/new", "Kind": 1}, {"Path": "/n", "Kind": 1},
        {"Path": "/n/1", "Kind": 1}, {"Path": "/ro", "Kind": 0}, {"Path": "/rw", "Kind": 0},
        {"Path": "/rw/z", "Kind": 1},
    ]);
    assert_eq!(changes(&id).await, expected);
    engine.api.get("/containers/nobody/changes").await.expect(404);
    let out = engine.docker(&["diff", &id]).await.ok();
    assert!(out.starts_with("C /abs\nC /d\nD /d/b\n"), "{out}");
    engine.api.remove(&id).await;
    engine.finish().await;
}

#[tokio::test]
async fn archives_lead_nowhere_else() {
    let engine = Engine::start().await;
    engine.api.load(&image()).await;
    let host = tempfile::tempdir().expect("a directory");
    let canary = host.path().join("canary");
    fs::create_dir(&canary).expect("a directory");
    fs::write(canary.join("secret"), "secret").expect("a file");
    let outside = canary.display().to_string();
    let idle = engine.api.create(&config("true")).await;
    let running = engine.api.launch(&config(STAY)).await;
    for id in [&idle, &running] {
        for (name, body) in [
            (
                "climbing name",
                Tar::new().file("../../../../../../../x", 0o644, ""),
            ),
            (
                "absolute name",
                Tar::new().file(&format!("{outside}/x"), 0o644, ""),
            ),
            (
                "link, then a file in it",
                Tar::new().symlink("l", &outside).file("l/x", 0o644, ""),
            ),
            (
                "link, then a directory",
                Tar::new().symlink("k", &outside).directory("k/", 0o700),
            ),
            (
                "hard link",
                Tar::new().add("h", 0o644, Node::Hardlink(&format!("{outside}/secret"))),
            ),
            (
                "climbing hard link",
                Tar::new().add(
                    "h",
                    0o644,
                    Node::Hardlink(&format!("../../../..{outside}/secret")),
                ),
            ),
        ] {
            let reply = put(&engine, id, &[("path", "/d")], body.finish()).await;
            assert!(
                [200, 400].contains(&reply.status().as_u16()),
                "{name}: {}",
                reply.text()
            );
        }
        put(
            &engine,
            id,
            &[("path", "/")],
            Tar::new().symlink("esc", &outside).finish(),
        )
        .await
        .expect(200);
        engine
            .api
            .get(&archive(id, &[("path", "/esc/secret")]))
            .await
            .expect(404);
        engine
            .api
            .get(&archive(id, &[("path", "/proc/self/root/etc/hostname")]))
            .await;
        let names: Vec<_> = fs::read_dir(&canary)
            .expect("a directory")
            .map(|e| e.expect("an entry").file_name())
            .collect();
        assert_eq!(names, ["secret"]);
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        assert_eq!(
            fs::metadata(&canary).expect("a directory").permissions().mode() & 0o777,
            0o755
        );
        assert_eq!(fs::metadata(canary.join("secret")).expect("a file").nlink(), 1);
    }
    engine.api.remove(&running).await;
    engine.finish().await;
}

#[tokio::test]
async fn a_container_that_swaps_links_gains_nothing() {
    let engine = Engine::start().await;
    engine.api.load(&image()).await;
    let host = tempfile::tempdir().expect("a directory");
    let canary = host.path().join("canary");
    fs::create_dir(&canary).expect("a directory");
    fs::write(canary.join("a"), "secret").expect("a file");
    let script = format!(
        "mkdir -p /s/real; echo own >/s/real/a; ln -s {0} /s/link; echo ready; \
         while :; do mv -T /s/real /s/x; mv -T /s/link /s/real; mv -T /s/real /s/link; mv -T /s/x /s/real; done",
        canary.display()
    );
    let id = engine.api.launch(&config(&script)).await;
    engine.api.await_output(&id, "ready").await;
    for round in 0..150 {
        for path in ["/s/real/a", "/s/real", "/s/real/"] {
            let reply = engine.api.get(&archive(&id, &[("path", path)])).await;
            assert!(!reply.text().contains("secret"), "round {round}: {path}");
        }
        let body = Tar::new()
            .file("a", 0o644, "own\n")
            .file("real/a", 0o644, "own\n")
            .finish();
        for path in ["/s/real", "/s"] {
            put(&engine, &id, &[("path", path)], body.clone()).await;
        }
    }
    assert_eq!(fs::read_dir(&canary).expect("a directory").count(), 1);
    assert_eq!(fs::read_to_string(canary.join("a")).expect("a file"), "secret");
    engine.api.remove(&id).await;
    engine.finish().await;
}

#[tokio::test]
async fn events_tell_of_copies() {
    let engine = Engine::start().await;
    engine.api.load(&image()).await;
    let id = engine.api.create(&config("true")).await;
    engine.api.get(&archive(&id, &[("path", "/d")])).await.expect(200);
    put(&engine, &id, &[("path", "/d")], Tar::new().finish())
        .await
        .expect(200);
    engine
        .api
        .get(&format!("/containers/{id}/export"))
        .await
        .expect(200);
    let path = format!(
        "/events{}",
        query(&[
            ("since", "1"),
            ("until", &until()),
            ("filters", &json!({"container": [id]}).to_string())
        ])
    );
    let events = engine.api.get(&path).await.expect(200).records();
    let actions: Vec<_> = events
        .iter()
        .map(|event| event["Action"].as_str().expect("text"))
        .collect();
    assert_eq!(actions, ["create", "archive-path", "extract-to-dir", "export"]);
    engine.finish().await;
}

fn until() -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a clock");
    format!("{}.{:09}", now.as_secs(), now.subsec_nanos())
}

/// What is below a directory, as `path=content` or `path/`.
fn tree(dir: &Path) -> Vec<String> {
    fn walk(dir: &Path, prefix: &str, out: &mut Vec<String>) {
        for entry in fs::read_dir(dir).expect("a directory") {
            let entry = entry.expect("an entry");
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().expect("a type");
            if kind.is_dir() {
                out.push(format!("{name}/"));
                walk(&entry.path(), &format!("{name}/"), out);
            } else if kind.is_symlink() {
                out.push(format!(
                    "{name}->{}",
                    fs::read_link(entry.path()).expect("a link").display()
                ));
            } else {
                out.push(format!(
                    "{name}={}",
                    fs::read_to_string(entry.path()).expect("text")
                ));
            }
        }
    }
    let mut out = Vec::new();
    walk(dir, "", &mut out);
    out.sort();
    out
}

#[tokio::test]
async fn the_command_line_copies_out() {
    let engine = Engine::start().await;
    engine.api.load(&image()).await;
    engine.api.create_named("co", &config("true")).await;
    let host = tempfile::tempdir().expect("a directory");
    let at = |name: &str| host.path().join(name).display().to_string();
    let d = ["a=A", "b=BB", "sub/", "sub/c=c", "up->../abs/a"];
    let cases: &[(&str, &str, &[&str], &[&str])] = &[
        // from, to, options, what is there then
        ("co:/d/a", "file", &[], &["file=A"]),
        ("co:/d/a", "dir/", &[], &["dir/", "dir/a=A", "dir/old=old"]),
        ("co:/d/sub", "new", &[], &["new/", "new/c=c"]),
        (
            "co:/d/sub",
            "dir",
            &[],
            &["dir/", "dir/old=old", "dir/sub/", "dir/sub/c=c"],
        ),
        ("co:/d/sub/.", "dir", &[], &["dir/", "dir/c=c", "dir/old=old"]),
        (
            "co:/d/sub/",
            "dir",
            &[],
            &["dir/", "dir/old=old", "dir/sub/", "dir/sub/c=c"],
        ),
        ("co:/d/up", "followed", &["-L"], &["followed=A"]),
        ("co:/abs", "l", &[], &["l->/d"]),
        ("co:abs/sub", "n", &[], &["n/", "n/c=c"]),
        ("co:/d/b", "b", &["-a"], &["b=BB"]),
    ];
    for (from, to, options, expected) in cases {
        let clear = || {
            for entry in fs::read_dir(host.path()).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() && !path.is_symlink() {
                    fs::remove_dir_all(path).expect("removal");
                } else {
                    fs::remove_file(path).expect("removal");
                }
            }
        };
        clear();
        if to.starts_with("dir") {
            fs::create_dir(at("dir")).expect("a directory");
            fs::write(at("dir/old"), "old").expect("a file");
        }
        let to = at(to) + if to.ends_with('/') { "/" } else { "" };
        let words: Vec<&str> = ["cp"]
            .iter()
            .chain(*options)
            .copied()
            .chain([*from, &*to])
            .collect();
        engine.docker(&words).await.ok();
        assert_eq!(tree(host.path()), *expected, "{words:?}");
        clear();
    }
    engine.docker(&["cp", "-L", "co:/abs", &at("all")]).await.ok();
    assert_eq!(tree(Path::new(&at("all"))), d);
    let out = engine.docker(&["cp", "co:/d/sub", "-"]).await.ok();
    assert_eq!(names(out.as_bytes()), ["sub/", "sub/c"]);
    let err = engine.docker(&["cp", "co:/none", &at("x")]).await.fails(1);
    assert!(
        err.contains("Could not find the file /none in container co"),
        "{err}"
    );
    let err = engine.docker(&["cp", "co:/d/a", &at("missing/")]).await.fails(1);
    assert!(
        err.contains("no such directory") || err.contains("not exist"),
        "{err}"
    );
    fs::write(at("plain"), "").expect("a file");
    let err = engine.docker(&["cp", "co:/d", &at("plain")]).await.fails(1);
    assert!(err.contains("cannot copy directory"), "{err}");
    engine.finish().await;
}

#[tokio::test]
async fn the_command_line_copies_in() {
    let engine = Engine::start().await;
    engine.api.load(&image()).await;
    let id = engine.api.create_named("co", &config(STAY)).await;
    engine.api.start(&id).await;
    let host = tempfile::tempdir().expect("a directory");
    let at = |name: &str| host.path().join(name).display().to_string();
    fs::create_dir_all(at("src/in")).expect("a directory");
    fs::write(at("src/f"), "F").expect("a file");
    fs::write(at("src/in/g"), "G").expect("a file");
    std::os::unix::fs::symlink("src/f", at("ln")).expect("a link");
    let show = async |path: &str| {
        let reply = engine.api.get(&archive(&id, &[("path", path)])).await.expect(200);
        entries(&reply.bytes)
    };
    let cp = async |from: &str, to: &str| engine.docker(&["cp", &at(from), &format!("co:{to}")]).await;
    cp("src/f", "/rw").await.ok();
    assert_eq!(show("/rw/f").await["f"], "F");
    cp("src/f", "/rw/renamed").await.ok();
    assert_eq!(show("/rw/renamed").await["renamed"], "F");
    cp("src", "/rw").await.ok();
    assert_eq!(show("/rw/src").await["src/in/g"], "G");
    cp("src", "/rw/other").await.ok();
    assert_eq!(show("/rw/other").await["other/in/g"], "G");
    cp("src/.", "/rw/src").await.ok();
    assert_eq!(show("/rw/src").await.len(), 4);
    cp("src/f", "/abs").await.ok();
    assert_eq!(show("/d/f").await["f"], "F");
    cp("src/f", "/d/up").await.ok();
    assert_eq!(show("/d/a").await["a"], "F");
    cp("src/f", "/broken").await.fails(1);
    cp("ln", "/rw").await.ok();
    assert_eq!(show("/rw/ln").await["ln"], "-> src/f");
    engine.docker(&["cp", "-L", &at("ln"), "co:/rw/ln2"]).await.ok();
    assert_eq!(show("/rw/ln2").await["ln2"], "F");
    engine
        .docker(&["cp", "-a", &at("src"), "co:/rw/archive"])
        .await
        .ok();
    assert_eq!(show("/rw/archive").await["archive/f"], "F");
    let tar = Tar::new().file("piped", 0o644, "P").finish();
    engine.docker_with(&["cp", "-", "co:/rw"], &tar).await.ok();
    assert_eq!(show("/rw/piped").await["piped"], "P");
    let err = engine.docker_with(&["cp", "-", "co:/d/b"], &tar).await.fails(1);
    assert!(
        err.contains("must be a directory") || err.contains("not a directory"),
        "{err}"
    );
    let err = cp("src", "/d/b").await.fails(1);
    assert!(err.contains("cannot copy directory"), "{err}");
    let err = cp("src/f", "/none/f").await.fails(1);
    assert!(
        err.contains("Could not find the file") || err.contains("no such directory"),
        "{err}"
    );
    let err = cp("src/f", "/rw/f/").await.fails(1);
    assert!(
        err.contains("not a directory") || err.contains("no such directory"),
        "{err}"
    );
    engine.docker(&["export", "-o", &at("all.tar"), "co"]).await.ok();
    let all = entries(&fs::read(at("all.tar")).expect("an archive"));
    assert_eq!(all["rw/piped"], "P");
    engine.api.remove(&id).await;
    engine.finish().await;
}
