//! Attacks that other engines have fallen for, one test each. What counts is that nothing outside the container was
//! read or changed, not which error there was.
//!
//! | test | advisories |
//! |---|---|
//! | working directories | CVE-2024-21626 |
//! | descriptors | CVE-2024-21626, CVE-2016-9962 |
//! | swapped mount targets | CVE-2021-30465, CVE-2024-45310, CVE-2025-31133, CVE-2025-52565, CVE-2025-52881 |
//! | users | CVE-2024-40635, CVE-2026-46680, CVE-2016-3697 |
//! | account files | CVE-2026-47262, CVE-2024-9676 |
//! | kernel file systems | CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2025-54867 |
//! | bombs | CVE-2017-14992 |
//! | digests | CVE-2024-3727, CVE-2014-9356 |
//! | labels | CVE-2026-53488 |
//! | top | CVE-2022-1227 |
//! | sockets | CVE-2020-15257 |
//! | names | paths in names and identifiers |

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use berth_tests::{
    Engine,
    client::query,
    container::{STAY, busybox, shell},
    failpoints::Failpoints,
    image::{Compression, Image, Node, Tar, digest},
};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};

use crate::hostile::Canary;

/// Creates and starts; the output if it ran to its end, else the refusal.
async fn try_run(engine: &Engine, config: &Value) -> Result<String, String> {
    let reply = engine.api.post_json("/containers/create", config).await;
    if reply.status() != 201 {
        return Err(format!("{} {}", reply.status(), reply.text()));
    }
    let id = reply.json()["Id"].as_str().expect("an id").to_owned();
    let started = engine.api.post(&format!("/containers/{id}/start")).await;
    let result = if started.status() == 204 {
        engine.api.wait(&id).await;
        let output = engine.api.logs(&id).await;
        Ok(output.out + &output.err)
    } else {
        Err(format!("{} {}", started.status(), started.text()))
    };
    engine.api.remove(&id).await;
    result
}

#[tokio::test]
async fn working_directories_do_not_lead_out() {
    let engine = Engine::start().await;
    let layer = Tar::new()
        .symlink("out", "/proc/self/fd/7")
        .symlink("up", "/proc/self/fd/8/../..")
        .symlink("cwd", "/proc/self/cwd");
    engine
        .api
        .load(&Image::busybox().tagged("links:v1").with_layer(layer))
        .await;
    let mut places: Vec<String> = [
        "/out",
        "/out/..",
        "/up",
        "/cwd/..",
        "/proc/self/cwd",
        "/proc/1/root/..",
    ]
    .map(str::to_owned)
    .into();
    for number in 3..20 {
        places.push(format!("/proc/self/fd/{number}"));
        places.push(format!("/proc/self/fd/{number}/../../.."));
    }
    for place in places {
        let mut config =
            shell("cat /proc/self/mountinfo >/dev/null; pwd -P; cat ../../../../../../etc/hostname; ls -a");
        config["Image"] = json!("links:v1");
        config["WorkingDir"] = json!(place);
        config["Hostname"] = json!("inside");
        let Ok(output) = try_run(&engine, &config).await else {
            continue;
        };
        // What is reached upwards is the container's own root.
        assert!(output.contains("inside\n"), "{place}: {output}");
        assert!(!output.contains("unreachable"), "{place}: {output}");
    }
    engine.finish().await;
}

#[tokio::test]
async fn processes_have_their_standard_streams_and_nothing_else() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    for init in [false, true] {
        // Without init it is process 1 that lists, which opens one more.
        let mut config = busybox(&["ls", "/proc/1/fd"]);
        config["HostConfig"]["Init"] = json!(init);
        let output = try_run(&engine, &config).await.expect("it runs");
        let numbers = output
            .split_whitespace()
            .filter_map(|word| word.rsplit('/').next()?.parse::<u32>().ok());
        let beyond = numbers.filter(|number| *number > 2).count();
        assert!(beyond <= usize::from(!init), "init {init}: {output}");
    }
    engine.finish().await;
}

/// A directory that a container writes to, and where another one has mounts below: a directory `dir`, and a link `trap`
/// that leads to the canary and takes its place.
struct Shared {
    directory: PathBuf,
}

impl Shared {
    fn new(engine: &Engine, canary: &Canary) -> Self {
        let directory = engine.root().join("shared");
        fs::create_dir_all(directory.join("dir/place")).expect("a directory");
        std::os::unix::fs::symlink(canary.path(), directory.join("trap")).expect("a link");
        Self { directory }
    }

    fn swap(&self) {
        let (one, two) = (self.directory.join("dir"), self.directory.join("trap"));
        renameat_with(CWD, one, CWD, two, RenameFlags::EXCHANGE).expect("both are there");
    }
}

/// The container's process waits at every step of its mounts, and meanwhile what it mounts on is exchanged for a link
/// to the host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mount_targets_that_are_exchanged_meanwhile() {
    let points = Failpoints::new();
    let engine = points.options().start().await;
    let canary = Canary::new();
    engine.api.load_busybox().await;
    let shared = Shared::new(&engine, &canary);
    let own = engine.root().join("own");
    fs::create_dir(&own).expect("a directory");
    fs::write(own.join("own"), "own").expect("a file");
    let mut config = shell(
        "cat /data/dir/place/* /data/dir/file 2>&1; echo broken > /data/dir/place/new; echo broken > /data/dir/file",
    );
    config["HostConfig"]["Binds"] = json!([
        format!("{}:/data", shared.directory.display()),
        format!("{}:/data/dir/place", own.display()),
        format!("{}:/data/dir/file", own.join("own").display()),
    ]);
    config["HostConfig"]["Tmpfs"] = json!({"/data/dir/sub": ""});
    config["WorkingDir"] = json!("/data/dir/work");
    let mut tried = 0;
    for point in ["inside.mount", "inside.mount-found", "inside.cwd", "inside.masks"] {
        for number in 1..20 {
            points.plan(point, number, "pause");
            let id = engine.api.create(&config).await;
            let api = engine.api.clone();
            let path = format!("/containers/{id}/start");
            let start = tokio::spawn(async move { api.post(&path).await });
            while !points.is_paused() && !start.is_finished() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let reached = points.is_paused();
            if reached {
                shared.swap();
                points.release();
            }
            let started = start.await.expect("no panic");
            if started.status() == 204 {
                engine.api.wait(&id).await;
                let output = engine.api.logs(&id).await;
                assert!(
                    !output.out.contains("untouched"),
                    "{point} {number}: {}",
                    output.out
                );
            }
            engine.api.remove(&id).await;
            canary.check(&format!("a target exchanged at {point} {number}"));
            if !reached {
                break;
            }
            tried += 1;
            shared.swap();
        }
    }
    points.clear();
    assert!(tried > 10, "only {tried} steps were come to");
    engine.finish().await;
}

#[tokio::test]
async fn users_are_who_was_asked_for_or_nobody() {
    let engine = Engine::start().await;
    let layer = Tar::new()
        .file(
            "etc/passwd",
            0o644,
            "root:x:0:0::/:/bin/sh\n1000:x:0:0::/:/bin/sh\n:x:0:0::/:/bin/sh\nbig:x:4294967296:0::/:/bin/sh\n\
             neg:x:-1:0::/:/bin/sh\nhex:x:0x10:0::/:/bin/sh\nempty:x:::::\nshort:x\n",
        )
        .file("etc/group", 0o644, "root:x:0:\n5:x:0:\nbig:x:4294967296:\n");
    engine
        .api
        .load(&Image::busybox().tagged("users:v1").with_layer(layer))
        .await;
    let long = "9".repeat(70_000);
    let users = [
        "1",
        "01",
        "007",
        "2147483647",
        "2147483648",
        "4294967294",
        "4294967295",
        "4294967296",
        "4294967297",
        "18446744073709551616",
        "-1",
        "-0",
        "+1",
        "0x0",
        "0x10",
        "1.0",
        "1e3",
        " 1",
        "1 ",
        "1:",
        "1:1",
        "1:-1",
        "1:4294967296",
        "1:big",
        ":5",
        ":",
        "::",
        "a:b:c",
        "\n0",
        "0\n",
        "1\u{0}",
        "1000",
        "1000:5",
        "big",
        "neg",
        "hex",
        "empty",
        "short",
        "nobody",
        "٣",
        &long,
    ];
    for user in users {
        let mut config = shell("id -u; id -g");
        config["Image"] = json!("users:v1");
        config["User"] = json!(user);
        let shown = &user[..user.len().min(20)];
        let Ok(output) = try_run(&engine, &config).await else {
            continue;
        };
        let mut ids = output.lines();
        let (uid, gid) = (ids.next().unwrap_or_default(), ids.next().unwrap_or_default());
        let (name, group) = user.split_once(':').unwrap_or((user, ""));
        match name.parse::<u64>() {
            Ok(number) => assert_eq!(uid, number.to_string(), "{shown:?}: {output}"),
            // Only what names nobody is root.
            Err(_) => assert!(uid != "0" || name.is_empty(), "{shown:?} became root: {output}"),
        }
        if let Ok(number) = group.parse::<u64>() {
            assert_eq!(gid, number.to_string(), "{shown:?}: {output}");
        }
    }
    engine.finish().await;
}

fn memory(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the engine runs");
    let line = text.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .expect("kB")
}

#[tokio::test]
async fn account_files_of_an_image_are_read_with_care() {
    let engine = Engine::start().await;
    let huge = format!("root:x:0:{}\n", "member,".repeat(1 << 20));
    let without = || {
        Tar::new()
            .file("etc/.wh.passwd", 0o644, "")
            .file("etc/.wh.group", 0o644, "")
    };
    let files: Vec<(&str, Tar)> = vec![
        (
            "fifo",
            without()
                .add("etc/passwd", 0o644, Node::Fifo)
                .add("etc/group", 0o644, Node::Fifo),
        ),
        (
            "device",
            without().add("etc/passwd", 0o644, Node::Character(1, 5)).add(
                "etc/group",
                0o644,
                Node::Character(1, 5),
            ),
        ),
        (
            "link to a device",
            without()
                .symlink("etc/passwd", "/dev/zero")
                .symlink("etc/group", "/dev/zero"),
        ),
        (
            "link to itself",
            without()
                .symlink("etc/passwd", "passwd")
                .symlink("etc/group", "group"),
        ),
        (
            "link to the host",
            without().symlink("etc/passwd", "/proc/1/root/etc/passwd"),
        ),
        (
            "directory",
            without()
                .directory("etc/passwd/", 0o755)
                .directory("etc/group/", 0o755),
        ),
        (
            "a member list without end",
            Tar::new().file("etc/group", 0o644, &huge),
        ),
        (
            "one line without end",
            Tar::new().file("etc/passwd", 0o644, "x".repeat(20 << 20)),
        ),
        ("no text", Tar::new().file("etc/passwd", 0o644, [0xff; 4096])),
    ];
    let before = memory(engine.pid());
    for (what, layer) in files {
        engine
            .api
            .load(&Image::busybox().tagged("accounts:v1").with_layer(layer))
            .await;
        for user in ["", "user", "1000:1000", "user:extra"] {
            let mut config = busybox(&["id"]);
            config["Image"] = json!("accounts:v1");
            config["User"] = json!(user);
            config["HostConfig"]["GroupAdd"] = json!(["extra"]);
            // Refused or not, there is an answer.
            let run = tokio::time::timeout(Duration::from_secs(30), try_run(&engine, &config)).await;
            let run = run.unwrap_or_else(|_| panic!("{what}, user {user:?}: no end of it"));
            if let (Ok(output), false) = (run, user.is_empty()) {
                assert!(!output.contains("uid=0"), "{what}, user {user:?}: {output}");
            }
        }
    }
    let grown = memory(engine.pid()).saturating_sub(before);
    assert!(grown < 128 << 10, "the engine has grown by {grown} kB");
    engine.finish().await;
}

#[tokio::test]
async fn nothing_is_mounted_over_the_kernels_file_systems() {
    let engine = Engine::start().await;
    let canary = Canary::new();
    engine.api.load_busybox().await;
    let place = canary.path().to_owned();
    for target in [
        "/proc",
        "/proc/self",
        "/proc/sys/kernel",
        "/proc/../proc",
        "//proc",
        "/proc/1/attr",
    ] {
        for host in [
            json!({"Binds": [format!("{place}:{target}")]}),
            json!({"Mounts": [{"Type": "bind", "Source": place, "Target": target}]}),
            json!({"Tmpfs": {target: ""}}),
        ] {
            let mut config = shell("cat /proc/self/status | grep CapInh; ls /proc/kcore");
            config["HostConfig"] = host.clone();
            config["HostConfig"]["NetworkMode"] = json!("none");
            if let Ok(output) = try_run(&engine, &config).await {
                assert!(output.contains("CapInh"), "{host}: {output}");
            }
            canary.check(target);
        }
    }
    // By the image: a volume there, or a link to there.
    for layer in [
        Tar::new().symlink("data", "/proc"),
        Tar::new().symlink("data", "proc/sys"),
        Tar::new().symlink("data", "/sys/fs/cgroup"),
    ] {
        engine
            .api
            .load(&Image::busybox().tagged("over:v1").with_layer(layer))
            .await;
        let mut config = shell("cat /proc/self/status | grep CapInh; ls /proc/kcore");
        config["Image"] = json!("over:v1");
        config["HostConfig"]["Binds"] = json!([format!("{place}:/data")]);
        if let Ok(output) = try_run(&engine, &config).await {
            assert!(output.contains("CapInh"), "{output}");
        }
        canary.check("a bind on a link");
    }
    engine.finish().await;
}

fn disk(path: &Path) -> u64 {
    let output = std::process::Command::new("du").arg("-sk").arg(path).output();
    let text = String::from_utf8_lossy(&output.expect("du").stdout).into_owned();
    text.split_whitespace()
        .next()
        .and_then(|size| size.parse().ok())
        .expect("kB")
}

/// A file of 4 GiB of zeros as a tar, compressed: members of 64 MiB, one after the other.
fn zeros(compression: Compression) -> Vec<u8> {
    let mut first = Tar::new()
        .pax(&[("size", "4294967296")])
        .file("zeros", 0o644, "")
        .unfinished();
    first.resize(first.len() + (64 << 20), 0);
    let small = |bytes: &[u8]| match compression {
        Compression::Gzip => {
            let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            let written = std::io::Write::write_all(&mut to, bytes);
            written.and_then(|()| to.finish()).expect("compression in memory")
        }
        other => other.apply(bytes),
    };
    let member = small(&vec![0; 64 << 20]);
    let mut all = small(&first);
    all.extend(member.repeat(64));
    all
}

#[tokio::test]
async fn bombs_are_refused_and_leave_nothing() {
    let engine = Engine::start().await;
    let before = disk(&engine.data_root());
    let (memory_before, mut bombs) = (memory(engine.pid()), Vec::new());
    for compression in [Compression::Gzip, Compression::Zstd] {
        bombs.push(("an archive that expands without end", zeros(compression)));
    }
    bombs.push((
        "extended headers without end",
        Tar::new()
            .pax(&[("comment", &"x".repeat(8 << 20))])
            .file("a", 0o644, "")
            .finish(),
    ));
    let mut sparse = Tar::new();
    sparse = sparse.pax(&[
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.realsize", "9223372036854775807"),
        ("GNU.sparse.name", "hole"),
    ]);
    let map = format!("{:<512}", "1\n9223372036854775807\n0\n");
    bombs.push(("a hole of 8 EiB", sparse.file("hole", 0o644, map).finish()));
    bombs.push((
        "a size that is not there",
        Tar::new()
            .pax(&[("size", "9223372036854775807")])
            .file("a", 0o644, "x")
            .finish(),
    ));
    for (what, bomb) in bombs {
        let path = format!("/images/create{}", query(&[("fromSrc", "-"), ("repo", "bomb")]));
        let reply = engine.api.post_tar(&path, bomb).await;
        let refused = reply.status().as_u16() >= 400 || reply.text().contains("errorDetail");
        assert!(refused, "{what}: {} {}", reply.status(), reply.text());
        engine.api.get("/images/bomb/json").await.expect(404);
    }
    let grown = memory(engine.pid()).saturating_sub(memory_before);
    assert!(grown < 256 << 10, "the engine has grown by {grown} kB");
    // What is thrown away goes behind the answer.
    let mut left = 0;
    for _ in 0..500 {
        left = disk(&engine.data_root()).saturating_sub(before);
        if left < 1024 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(left < 1024, "{left} kB were left behind");
    engine.finish().await;
}

#[tokio::test]
async fn digests_are_no_paths() {
    let engine = Engine::start().await;
    let image = Image::small("digest:v1", "some text");
    let config = image.configuration();
    let good = digest(&config);
    let upper = good.to_uppercase();
    for odd in [
        "sha256:../../../../etc/passwd",
        "sha256:",
        "sha256",
        "",
        "/etc/passwd",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "sha512:00",
        &upper,
        &good[..40],
        &format!("{good}00"),
        &format!("{good}/.."),
        &format!("{good}\u{0}"),
    ] {
        for media in [
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.oci.image.index.v1+json",
        ] {
            let index =
                json!({"schemaVersion": 2, "manifests": [{"mediaType": media, "digest": odd, "size": 10}]});
            let archive = Tar::new()
                .file("oci-layout", 0o644, r#"{"imageLayoutVersion":"1.0.0"}"#)
                .file("index.json", 0o644, index.to_string())
                .file(&format!("blobs/sha256/{odd}"), 0o644, &config)
                .finish();
            let reply = engine.api.post_tar("/images/load", archive).await;
            let refused = reply.status() == 400 || reply.text().contains("errorDetail");
            assert!(refused, "{odd:?}: {} {}", reply.status(), reply.text());
        }
        let path = format!("/images/x@{}/json", query(&[("", odd)]).trim_start_matches("?="));
        let status = engine.api.get(&path).await.status().as_u16();
        assert!([400, 404].contains(&status), "{odd:?}: {status}");
    }
    let left = engine.data_root().join("images/content/blobs/sha256");
    assert!(
        fs::read_dir(&left).into_iter().flatten().count() <= 3,
        "blobs were left in {}",
        left.display()
    );
    engine.finish().await;
}

#[tokio::test]
async fn labels_of_an_image_are_only_shown() {
    let engine = Engine::start().await;
    let marker = engine.root().join("marker");
    let hook = json!({"path": "/bin/touch", "args": ["touch", marker.display().to_string()]}).to_string();
    let labels = json!({
        "berth.init": "true",
        "berth.group-add": "0",
        "io.containerd.runc.v2.group": "x",
        "io.containerd.image.unpack": "true",
        "io.container.manager": "libpod",
        "org.opencontainers.image.ref.name": "../../x",
        "cdi.k8s.io/device": "vendor.com/class=name",
        "run.oci.hooks.stderr": "/dev/null",
        "com.docker.hooks": hook,
        "oci.createRuntime": hook,
    });
    engine
        .api
        .load(
            &Image::busybox()
                .tagged("labels:v1")
                .with("Labels", labels.clone()),
        )
        .await;
    let mut config = shell("cat /proc/1/cmdline; id -G");
    config["Image"] = json!("labels:v1");
    config["User"] = json!("1000");
    let output = try_run(&engine, &config).await.expect("it runs");
    assert!(!output.contains("init"), "{output}");
    assert!(output.ends_with("1000 2000\n"), "{output}");
    assert!(!marker.exists(), "a hook was executed");
    let shown = engine.api.get("/images/labels:v1/json").await.expect(200).json();
    assert_eq!(shown["Config"]["Labels"], labels);
    engine.finish().await;
}

#[tokio::test]
async fn nothing_of_the_image_is_executed_by_the_engine() {
    let engine = Engine::start().await;
    let marker = engine.root().join("marker");
    let script = format!(
        "#!/bin/sh\ntouch {}\n/bin/busybox touch /marker\n",
        marker.display()
    );
    let mut layer = Tar::new();
    for name in [
        "bin/ps",
        "bin/gzip",
        "bin/unpigz",
        "bin/xz",
        "bin/bzip2",
        "bin/zstd",
        "bin/tar",
        "usr/bin/ps",
        "usr/bin/unpigz",
    ] {
        layer = layer.file(name, 0o755, &script);
    }
    engine
        .api
        .load(&Image::busybox().tagged("trojan:v1").with_layer(layer))
        .await;
    let mut config = shell(STAY);
    config["Image"] = json!("trojan:v1");
    let id = engine.api.launch(&config).await;
    engine.api.await_output(&id, "ready").await;
    for arguments in ["", "?ps_args=aux", "?ps_args=-ef"] {
        engine
            .api
            .get(&format!("/containers/{id}/top{arguments}"))
            .await
            .expect(200);
    }
    let small = Tar::new().file("small", 0o644, "text").finish();
    for compression in Compression::ALL {
        let call = engine
            .api
            .call(http::Method::PUT, &format!("/containers/{id}/archive?path=/tmp"))
            .header("content-type", "application/x-tar")
            .bytes(compression.apply(&small));
        let status = call.send().await.status().as_u16();
        assert!([200, 501].contains(&status), "{compression:?}: {status}");
    }
    let upper = engine.data_root().join(format!("containers/{id}/upper/marker"));
    assert!(
        !marker.exists() && !upper.exists(),
        "the engine has executed a program of the image"
    );
    engine.finish().await;
}

#[tokio::test]
async fn the_engines_sockets_cannot_be_reached_through_the_network() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let other = engine.api.launch(&shell(STAY)).await;
    engine.api.await_output(&other, "ready").await;
    let mut config = busybox(&["cat", "/proc/net/unix"]);
    config["HostConfig"]["NetworkMode"] = json!("host");
    let output = try_run(&engine, &config).await.expect("it runs");
    let abstract_ones: Vec<&str> = output
        .lines()
        .filter(|line| line.contains(" @") && (line.contains("berth") || line.contains(&engine.name)))
        .collect();
    assert!(abstract_ones.is_empty(), "{abstract_ones:?}");
    for directory in [engine.data_root(), engine.exec_root()] {
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&directory).expect("it is there"));
        assert_eq!(mode & 0o006, 0, "{} is open to others", directory.display());
    }
    engine.finish().await;
}

#[tokio::test]
async fn names_are_no_paths() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let long = "a".repeat(4096);
    let odd = [
        "..", ".", "a/b", "/a/b", "../x", "a\u{0}b", "a\nb", "-a", "_", "é", "a b", "%2e%2e", "", &long,
    ];
    for name in odd.iter().filter(|name| !name.is_empty()) {
        let path = format!("/containers/create{}", query(&[("name", name)]));
        let reply = engine.api.post_json(&path, &busybox(&["true"])).await;
        let fine = *name == long && reply.status() == 201;
        assert!(
            reply.status() == 400 || fine,
            "{name:?}: {} {}",
            reply.status(),
            reply.text()
        );
    }
    let id = engine.api.create_named("fine", &busybox(&["true"])).await;
    for name in odd {
        let path = format!("/containers/{id}/rename{}", query(&[("name", name)]));
        let status = engine.api.post(&path).await.status().as_u16();
        assert!(status == 400 || name == long, "{name:?}: {status}");
    }
    for parent in ["..", "/..", "a/../../..", "/a/../..", "a\u{0}", "/\n"] {
        let mut config = busybox(&["true"]);
        config["HostConfig"]["CgroupParent"] = json!(parent);
        if let Ok(output) = try_run(&engine, &config).await {
            panic!("the parent {parent:?} was taken: {output}");
        }
    }
    for path in ["..%2f..", "a%00", "fine%2f..%2ffine", "..%2fcontainers%2ffine"] {
        let status = engine.api.get(&format!("/containers/{path}/json")).await.status();
        assert!([400, 404].contains(&status.as_u16()), "{path}: {status}");
    }
    engine.finish().await;
}

/// Texts, numbers and sizes of which lengths used to be cut to sixteen bits.
#[tokio::test]
async fn long_values_arrive_whole() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    for length in [65_535, 65_536, 65_537, 100_000] {
        let mut config = shell("echo ${#LONG} ${#1}");
        config["Cmd"] = json!(["sh", "-c", "echo ${#LONG} ${#1}", "sh", "y".repeat(length)]);
        config["Env"] = json!([format!("LONG={}", "x".repeat(length))]);
        config["Labels"] = json!({"long": "z".repeat(length)});
        let output = try_run(&engine, &config).await.expect("it runs");
        assert_eq!(output.trim(), format!("{length} {length}"));
    }
    // More than the kernel takes as one argument.
    let mut config = busybox(&["true"]);
    config["Cmd"] = json!(["true", "x".repeat(1 << 20)]);
    let refusal = try_run(&engine, &config).await.expect_err("the kernel refuses");
    assert!(refusal.contains("argument list too long"), "{refusal}");
    engine.finish().await;
}
