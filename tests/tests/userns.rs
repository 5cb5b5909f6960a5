//! User namespaces: containers whose ids are not those of the host (`--userns-remap`).
//!
//! The engine is told to use the ids of `default`; where the host has none for it, it adds them to /etc/subuid and
//! /etc/subgid, as dockerd does. They stay there.

use std::{
    fs,
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Stdio,
};

use berth_tests::{
    Engine,
    client::query,
    container::{STAY, shell},
    engine::berthd,
    image::{Image, Tar},
};
use http::Method;
use serde_json::{Value, json};

async fn start() -> Engine {
    Engine::options().flag("--userns-remap=default").start().await
}

/// The host's id of the containers' root.
fn root_id() -> u32 {
    let text = fs::read_to_string("/etc/subuid").expect("/etc/subuid");
    let first = |line: &str| line.strip_prefix("dockremap:")?.split(':').next()?.parse().ok();
    text.lines().filter_map(first).min().expect("a range")
}

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let data = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()));
    (data.uid(), data.gid())
}

/// Runs a script in busybox; gives what it wrote.
async fn out(engine: &Engine, config: &Value) -> String {
    let (code, output) = engine.api.run(config).await;
    assert_eq!(code, 0, "{output:?}");
    output.out.trim().to_owned()
}

async fn exec(engine: &Engine, id: &str, words: &[&str]) -> String {
    let all = [&["exec", id][..], words].concat();
    engine.docker(&all).await.ok()
}

#[tokio::test]
async fn ids_inside_and_outside() {
    let engine = start().await;
    engine.api.load_busybox().await;
    let info = engine.api.get("/info").await.expect(200).json();
    let options = info["SecurityOptions"].as_array().expect("a list");
    assert!(options.contains(&json!("name=userns")), "{options:?}");
    let root = root_id();
    let script = "set -e; id -u; id -g; cat /proc/self/uid_map; cat /proc/self/gid_map; stat -c %u:%g /bin/busybox; \
        touch /made; stat -c %u:%g /made; stat -c %u:%g:%a /etc/hosts; echo '# x' >> /etc/hosts; \
        stat -c '%u:%g %F' /dev/null /dev/pts /dev/shm /dev/mqueue /proc/self /sys | sort -u; echo x > /dev/null; \
        head -c 4 /dev/urandom | wc -c; touch /dev/shm/x; hostname";
    let mut config = shell(script);
    config["Hostname"] = json!("inside");
    let seen = out(&engine, &config).await;
    let lines: Vec<_> = seen.lines().collect();
    assert_eq!(lines[..2], ["0", "0"], "{seen}");
    for line in &lines[2..4] {
        let map: Vec<_> = line.split_whitespace().collect();
        assert_eq!(map, ["0", &root.to_string(), "65536"], "{seen}");
    }
    assert_eq!(lines[4..7], ["0:0", "0:0", "0:0:644"], "{seen}");
    assert_eq!(lines.last(), Some(&"inside"), "{seen}");
    assert!(lines.contains(&"0:0 character special file"), "{seen}");
    let id = engine.api.launch(&shell(STAY)).await;
    let details = engine.api.inspect(&id).await;
    let pid = details["State"]["Pid"].as_i64().expect("a number");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    assert!(
        status.contains(&format!("\nUid:\t{root}\t{root}\t{root}\t{root}\n")),
        "{status}"
    );
    assert_ne!(
        fs::read_link(format!("/proc/{pid}/ns/user")).unwrap(),
        fs::read_link("/proc/self/ns/user").unwrap()
    );
    // Further processes are no more than that either, also those with every capability.
    for words in [
        &["exec"][..],
        &["exec", "--privileged"],
        &["exec", "-u", "7:8"],
        &["exec", "-t"],
    ] {
        let all = [words, &[&id, "cat", "/proc/self/uid_map", "/proc/self/status"]].concat();
        let seen = engine.docker(&all).await.ok();
        assert!(seen.contains(&format!("{root}      65536")), "{words:?}: {seen}");
        let uid = if words.contains(&"7:8") { 7 } else { 0 };
        assert!(
            seen.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}")),
            "{words:?}: {seen}"
        );
    }
    // As the host names them.
    let top = engine
        .api
        .get(&format!("/containers/{id}/top?ps_args=-eo%20pid,uid,args"))
        .await
        .expect(200);
    assert_eq!(top.json()["Processes"][0][1], root.to_string(), "{}", top.text());
    // A user who is not root gets his streams.
    let mut config =
        shell("echo out > /dev/stdout; echo err > /dev/stderr; id -u; cat /proc/self/uid_map > /dev/null");
    config["User"] = json!("1000");
    assert_eq!(out(&engine, &config).await, "out\n1000");
    engine.finish().await;
}

#[tokio::test]
async fn what_the_host_keeps_is_refused() {
    let engine = start().await;
    engine.api.load_busybox().await;
    let create = async |host_config: Value| {
        let config = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": host_config});
        engine.api.post_json("/containers/create", &config).await
    };
    let privileged = "privileged mode is incompatible with user namespaces.  You must run the container in the host \
        namespace when running privileged mode";
    for (host_config, words) in [
        (json!({"Privileged": true, "NetworkMode": "none"}), privileged),
        (
            json!({"NetworkMode": "host"}),
            "cannot share the host's network namespace when user namespaces are enabled",
        ),
        (
            json!({"NetworkMode": "none", "PidMode": "host"}),
            "cannot share the host PID namespace when user namespaces are enabled",
        ),
    ] {
        assert_eq!(create(host_config.clone()).await.expect(400).message(), words);
        let mut host_config = host_config;
        host_config["UsernsMode"] = json!("host");
        create(host_config).await.expect(201);
    }
    let mut config = shell("cat /proc/self/uid_map; stat -c %u /bin/busybox");
    config["HostConfig"]["UsernsMode"] = json!("host");
    let seen = out(&engine, &config).await;
    assert!(
        seen.split_whitespace().eq(["0", "0", "4294967295", "0"]),
        "{seen}"
    );
    // What the kernel would let root do.
    let script = "for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/uevent_helper; do \
        (echo x > $f) 2>/dev/null && echo wrote $f; done; mknod /d b 8 0 2>/dev/null && echo made; \
        chown 70000 /bin/busybox 2>/dev/null && echo chowned; mount -t tmpfs x /tmp 2>/dev/null && echo mounted; \
        dmesg >/dev/null 2>&1; echo done";
    assert_eq!(out(&engine, &shell(script)).await, "done");
    // Nor with every capability there is in its namespace: what is the host's stays the host's.
    let id = engine.api.launch(&shell(STAY)).await;
    let script = "mount -o remount,rw /proc/sys 2>/dev/null; umount /proc/sys 2>/dev/null; \
        (echo x > /proc/sys/kernel/core_pattern) 2>/dev/null && echo wrote; mknod /d c 1 3 2>/dev/null && echo made; \
        (echo c > /proc/sysrq-trigger) 2>/dev/null && echo triggered; \
        nsenter --net=/proc/1/ns/net true 2>/dev/null; echo done";
    let all = ["exec", "--privileged", &id, "sh", "-c", script];
    assert_eq!(engine.docker(&all).await.ok(), "done");
    assert!(
        !fs::read_to_string("/proc/sys/kernel/core_pattern")
            .unwrap()
            .starts_with('x')
    );
    engine.finish().await;
}

#[tokio::test]
async fn volumes_and_binds_have_the_hosts_ids() {
    let engine = start().await;
    let layer = Tar::new()
        .directory("data/", 0o755)
        .file("data/own", 0o4755, "x")
        .directory("keep/", 0o755);
    let image = Image::busybox().tagged("mapped:v1").with_layer(layer);
    engine.api.load(&image).await;
    let root = root_id();
    let host = tempfile::tempdir().unwrap();
    fs::set_permissions(host.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(host.path().join("secret"), "s").unwrap();
    fs::set_permissions(host.path().join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let bind = host.path().display();
    let mut config = shell(
        "set -e; stat -c %u:%g /data /data/own; touch /data/new; chown 5:6 /data/new; cp /bin/busybox /data/su; \
         chmod 4755 /data/su; stat -c %u:%g /host/secret; cat /host/secret 2>/dev/null && exit 1; \
         touch /host/x 2>/dev/null && exit 1; stat -c %u:%g /made; touch /made/x; touch /mem/x; \
         stat -c %u:%g /mem/x; stat -c %u:%g /as-it-is/secret; touch /as-it-is/y",
    );
    config["Image"] = json!("mapped:v1");
    config["HostConfig"]["Binds"] = json!([
        "vol:/data",
        format!("{bind}:/host"),
        format!("{bind}/new/dir:/made"),
        format!("{bind}:/as-it-is:idmap")
    ]);
    config["HostConfig"]["Tmpfs"] = json!({"/mem": ""});
    assert_eq!(
        out(&engine, &config).await.lines().collect::<Vec<_>>(),
        ["0:0", "0:0", "65534:65534", "0:0", "0:0", "0:0"]
    );
    let data = engine.data_root().join("volumes/vol/_data");
    assert_eq!(owner(&data), (root, root));
    assert_eq!(owner(data.join("own")), (root, root));
    assert_eq!(owner(data.join("new")), (root + 5, root + 6));
    // Who runs it on the host becomes nobody that matters.
    assert_eq!(owner(data.join("su")), (root, root));
    assert_eq!(owner(host.path().join("new/dir")), (root, root));
    assert_eq!(owner(host.path().join("new/dir/x")), (root, root));
    assert_eq!(owner(host.path().join("y")), (0, 0));
    // Without a user namespace there is nothing to be mapped.
    config["HostConfig"]["UsernsMode"] = json!("host");
    let refused = engine
        .api
        .post_json("/containers/create", &config)
        .await
        .expect(400);
    assert!(
        refused.message().contains("no user namespace"),
        "{}",
        refused.message()
    );
    engine.finish().await;
}

/// Names and owners in an archive.
fn owners(bytes: &[u8]) -> Vec<(String, u64, u64)> {
    let mut archive = tar::Archive::new(bytes);
    let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.expect("an entry");
        std::io::copy(&mut entry.by_ref(), &mut std::io::sink()).expect("content");
        let header = entry.header();
        let ids = (header.uid().expect("uid"), header.gid().expect("gid"));
        (
            String::from_utf8_lossy(&entry.path_bytes()).into_owned(),
            ids.0,
            ids.1,
        )
    };
    archive.entries().expect("an archive").map(read).collect()
}

/// An archive with a file of another owner.
fn owned(name: &str, uid: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_size(1);
    header.set_mode(0o640);
    header.set_uid(uid);
    header.set_gid(uid + 1);
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, &b"x"[..]).unwrap();
    builder.into_inner().unwrap()
}

#[tokio::test]
async fn copies_have_the_containers_ids() {
    let engine = start().await;
    engine.api.load_busybox().await;
    let root = root_id();
    let mut config =
        shell("mkdir -p /d/sub; touch /d/f; chown 5:6 /d/f; touch /vol/v; chown 7:8 /vol/v; sh -c \"$0\"");
    config["Cmd"].as_array_mut().unwrap().push(json!(STAY));
    config["HostConfig"]["Binds"] = json!(["copies:/vol"]);
    let id = engine.api.launch(&config).await;
    engine.api.await_output(&id, "ready").await;
    let path = |path: &str| format!("/containers/{id}/archive{}", query(&[("path", path)]));
    for stopped in [false, true] {
        if stopped {
            engine
                .api
                .post(&format!("/containers/{id}/stop?t=10"))
                .await
                .expect(204);
        }
        let name = if stopped { "late" } else { "early" };
        for (place, uid) in [("/d", 11), ("/vol", 12)] {
            let call = engine.api.call(Method::PUT, &path(place));
            let call = call.header("content-type", "application/x-tar");
            call.bytes(owned(name, uid)).send().await.expect(200);
            // An owner whom the namespace does not know.
            let call = engine.api.call(Method::PUT, &path(place));
            let call = call.header("content-type", "application/x-tar");
            let refused = call.bytes(owned("strange", 70_000)).send().await.expect(400);
            assert!(refused.message().contains("has no id"), "{}", refused.message());
        }
        let got = owners(&engine.api.get(&path("/d")).await.expect(200).bytes);
        let find = |name: &str| got.iter().find(|(n, ..)| n == name).map(|(_, u, g)| (*u, *g));
        assert_eq!(find("d/f"), Some((5, 6)), "{got:?}");
        assert_eq!(find("d/sub/"), Some((0, 0)), "{got:?}");
        assert_eq!(find(&format!("d/{name}")), Some((11, 12)), "{got:?}");
        let got = owners(&engine.api.get(&path("/vol/v")).await.expect(200).bytes);
        assert_eq!(got, [("v".to_owned(), 7, 8)]);
        let data = engine.data_root().join("volumes/copies/_data");
        assert_eq!(owner(data.join(name)), (root + 12, root + 13));
        let exported = owners(
            &engine
                .api
                .get(&format!("/containers/{id}/export"))
                .await
                .expect(200)
                .bytes,
        );
        assert!(exported.contains(&("d/f".to_owned(), 5, 6)), "{exported:?}");
        assert!(
            exported.iter().all(|(_, u, g)| *u < 65_536 && *g < 65_536),
            "{exported:?}"
        );
    }
    // With the command line, both ways.
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("in"), "content").unwrap();
    let (from, to) = (host.path().join("in"), host.path().join("out"));
    let into = format!("{id}:/new");
    engine.docker(&["cp", from.to_str().unwrap(), &into]).await.ok();
    engine.docker(&["cp", &into, to.to_str().unwrap()]).await.ok();
    assert_eq!(fs::read_to_string(&to).unwrap(), "content");
    let changes = engine.docker(&["diff", &id]).await.ok();
    assert!(
        changes.contains("A /d") && changes.contains("A /new"),
        "{changes}"
    );
    // A layer has the ids of the image: whoever runs it next, in whatever namespace.
    engine.docker(&["commit", &id, "committed"]).await.ok();
    for mode in ["", "host"] {
        let mut config = shell("stat -c %u:%g /d /d/f /d/early /new");
        config["Image"] = json!("committed");
        config["HostConfig"]["UsernsMode"] = json!(mode);
        assert_eq!(out(&engine, &config).await, "0:0\n5:6\n11:12\n0:0");
    }
    engine.finish().await;
}

#[tokio::test]
async fn networks_and_shared_namespaces() {
    let engine = start().await;
    engine.api.load_busybox().await;
    let mut config = shell(STAY);
    config["HostConfig"] = json!({"NetworkMode": "bridge", "IpcMode": "shareable", "CapAdd": ["NET_ADMIN"]});
    let first = engine.api.launch(&config).await;
    let link = |id: &str, kind: &str| {
        let (id, kind) = (id.to_owned(), kind.to_owned());
        let engine = &engine;
        async move {
            let pid = engine.api.inspect(&id).await["State"]["Pid"]
                .as_i64()
                .expect("a number");
            fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace")
        }
    };
    // The network is its own to change.
    let seen = exec(
        &engine,
        &first,
        &[
            "sh",
            "-c",
            "ip link set lo mtu 1400 && ip link show lo; ip addr show eth0",
        ],
    )
    .await;
    assert!(seen.contains("mtu 1400") && seen.contains("inet "), "{seen}");
    let shared = format!("container:{first}");
    let mut second = shell(STAY);
    second["HostConfig"] = json!({"NetworkMode": shared, "IpcMode": shared, "PidMode": shared});
    let second = engine.api.launch(&second).await;
    for kind in ["user", "net", "ipc", "pid"] {
        assert_eq!(link(&first, kind).await, link(&second, kind).await, "{kind}");
    }
    assert!(exec(&engine, &second, &["ps"]).await.contains("ready"));
    // A network of its own, in the user namespace of the one whose processes it sees.
    let mut third = shell(STAY);
    third["HostConfig"] = json!({"NetworkMode": "bridge", "PidMode": shared});
    let third = engine.api.launch(&third).await;
    assert_eq!(link(&first, "user").await, link(&third, "user").await);
    assert_ne!(link(&first, "net").await, link(&third, "net").await);
    assert!(
        exec(&engine, &third, &["ip", "addr", "show", "eth0"])
            .await
            .contains("inet ")
    );
    // Others have one of their own.
    let other = engine.api.launch(&shell(STAY)).await;
    assert_ne!(link(&first, "user").await, link(&other, "user").await);
    // Nobody can be in two.
    let mut both = shell("true");
    both["HostConfig"] = json!({"NetworkMode": shared, "PidMode": format!("container:{other}")});
    let both = engine.api.create(&both).await;
    let refused = engine
        .api
        .post(&format!("/containers/{both}/start"))
        .await
        .expect(409);
    assert!(
        refused.message().contains("another user namespace"),
        "{}",
        refused.message()
    );
    let mut host = shell(STAY);
    host["HostConfig"]["UsernsMode"] = json!("host");
    let host = engine.api.launch(&host).await;
    let mut with = shell("true");
    with["HostConfig"] = json!({"NetworkMode": "none", "PidMode": format!("container:{host}")});
    let with = engine.api.create(&with).await;
    engine
        .api
        .post(&format!("/containers/{with}/start"))
        .await
        .expect(409);
    // Networks come and go while it runs.
    engine.docker(&["network", "create", "later"]).await.ok();
    engine.docker(&["network", "connect", "later", &third]).await.ok();
    assert!(
        exec(&engine, &third, &["ip", "addr", "show", "eth1"])
            .await
            .contains("inet ")
    );
    engine
        .docker(&["network", "disconnect", "later", &third])
        .await
        .ok();
    for id in [&third, &second, &first, &other, &host] {
        engine.api.remove(id).await;
    }
    engine.docker(&["network", "rm", "later"]).await.ok();
    engine.finish().await;
}

#[tokio::test]
async fn an_engine_that_dies_finds_them_again() {
    let mut engine = start().await;
    engine.api.load_busybox().await;
    let mut config = shell(STAY);
    config["HostConfig"] = json!({"NetworkMode": "bridge", "RestartPolicy": {"Name": "always"}});
    config["Healthcheck"] = json!({"Test": ["CMD", "true"], "Interval": 100_000_000});
    let id = engine.api.launch(&config).await;
    let before = engine.api.inspect(&id).await["State"]["Pid"].clone();
    engine.crash().await;
    let details = engine.api.inspect(&id).await;
    assert_eq!(
        (&details["State"]["Running"], &details["State"]["Pid"]),
        (&json!(true), &before)
    );
    assert_eq!(exec(&engine, &id, &["id", "-u"]).await, "0");
    // What was given to it stays its own also where it is made anew.
    engine.docker(&["restart", "-t", "5", &id]).await.ok();
    assert_eq!(
        exec(
            &engine,
            &id,
            &["sh", "-c", "stat -c %u /etc/hostname; touch /x; stat -c %u /x"]
        )
        .await,
        "0\n0"
    );
    engine.api.remove(&id).await;
    engine.finish().await;
}

#[tokio::test]
async fn builds_have_the_containers_ids() {
    let engine = start().await;
    engine.api.load_busybox().await;
    let dockerfile = "FROM busybox\nCOPY --chown=5:6 f /f\nRUN --mount=type=cache,target=/cache touch /cache/x && \
        stat -c %u:%g /f /cache /cache/x > /seen && touch /run && chown 9 /run\nRUN --mount=type=cache,target=/cache \
        stat -c %u:%g /cache/x >> /seen\nUSER 1000\nCMD [\"cat\", \"/seen\"]\n";
    let context = Tar::new()
        .file("Dockerfile", 0o644, dockerfile)
        .file("f", 0o644, "f")
        .finish();
    let reply = engine.api.post_tar("/build?t=built", context).await.expect(200);
    assert!(reply.text().contains("Successfully built"), "{}", reply.text());
    for mode in ["", "host"] {
        let config = json!({"Image": "built", "HostConfig": {"NetworkMode": "none", "UsernsMode": mode}});
        assert_eq!(out(&engine, &config).await, "5:6\n0:0\n0:0\n0:0");
        let mut config = shell("stat -c %u:%g /run /f");
        config["Image"] = json!("built");
        config["HostConfig"]["UsernsMode"] = json!(mode);
        assert_eq!(out(&engine, &config).await, "9:0\n5:6");
    }
    engine.finish().await;
}

#[tokio::test]
async fn other_runtimes_get_the_ids_too() {
    let engine = Engine::options()
        .flag("--userns-remap=default")
        .flag("--add-runtime=other=runc")
        .start()
        .await;
    // Such a runtime goes to the root of the container by its path.
    fs::set_permissions(engine.root(), fs::Permissions::from_mode(0o711)).unwrap();
    engine.api.load_busybox().await;
    for network in ["none", "bridge"] {
        let words = [
            "run",
            "--rm",
            "--runtime",
            "other",
            "--network",
            network,
            "-v",
            "others:/v",
            "busybox",
            "sh",
            "-c",
            "cat /proc/self/uid_map; touch /x /v/x; stat -c %u /x /v/x /bin/busybox",
        ];
        let seen = engine.docker(&words).await.ok();
        let root = root_id().to_string();
        assert!(
            seen.split_whitespace().eq(["0", &root, "65536", "0", "0", "0"]),
            "{network}: {seen}"
        );
    }
    engine.docker(&["volume", "rm", "others"]).await.ok();
    engine.finish().await;
}

#[test]
fn a_setting_that_cannot_be_is_told_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    for (setting, words) in [
        ("nobody-like-it", "no subuid ranges found for \"nobody-like-it\""),
        ("a:b:c", "invalid user/group specification in --userns-remap"),
    ] {
        let output = std::process::Command::new(berthd())
            .arg(format!("--userns-remap={setting}"))
            .arg(format!("--data-root={}", dir.path().join("data").display()))
            .arg(format!("--exec-root={}", dir.path().join("run").display()))
            .arg(format!("--host=unix://{}", dir.path().join("sock").display()))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(!output.status.success(), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains(words), "{setting}: {told}");
    }
}
