//! Attacks on the API itself: web pages that drive it, requests that two readers take for different ones, numbers and
//! names that are out of bounds.
//!
//! | test | what it replays |
//! |---|---|
//! | pages | DNS rebinding and requests that other sites cause, which dockerd only warns of |
//! | listeners | CVE-2025-9074: an API that containers reach |
//! | smuggling | two lengths, bare line ends, requests behind an upgrade |
//! | policies | CVE-2024-41110: a body that one reader drops and another takes |
//! | numbers, names | values out of bounds, `..`, NUL, newlines |

use std::{collections::HashSet, fs, net::TcpListener};

use berth_tests::{
    Client, Engine,
    client::query,
    container::{STAY, busybox, shell},
};
use http::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

/// How long something that keeps a connection open is read.
const READ: std::time::Duration = std::time::Duration::from_secs(2);

async fn exchange(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, request: &[u8]) -> String {
    // The engine may close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(READ, stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn over_unix(api: &Client, request: &[u8]) -> String {
    exchange(
        UnixStream::connect(api.socket()).await.expect("a socket"),
        request,
    )
    .await
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[tokio::test]
async fn pages_do_not_drive_the_engine() {
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("a port")
        .port();
    let engine = Engine::options()
        .flag("--host")
        .flag(format!("tcp://127.0.0.1:{port}"))
        .flag("--allow-plain-tcp")
        .start()
        .await;
    engine.api.load_busybox().await;
    let id = engine.api.launch(&shell(STAY)).await;
    let attempt = |method: &str, path: &str, headers: &str| {
        let request =
            format!("{method} {path} HTTP/1.1\r\nContent-Length: 0\r\nConnection: close\r\n{headers}\r\n");
        async move {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a listener");
            exchange(stream, request.as_bytes()).await
        }
    };
    let own = format!("Host: localhost:{port}\r\n");
    let kill = format!("/containers/{id}/kill");
    let remove = format!("/containers/{id}?force=1");
    // The check can fail: a request of no page is obeyed.
    assert_eq!(status(&attempt("GET", "/_ping", &own).await), "200");
    for headers in [
        "Host: evil.example\r\n".to_owned(),
        format!("Host: evil.example:{port}\r\n"),
        format!("Host: localhost:{port}\r\nHost: evil.example\r\n"),
        String::new(),
        format!("{own}Origin: http://evil.example\r\n"),
        format!("{own}Origin: null\r\n"),
        format!("{own}Origin: http://localhost:{port}\r\nOrigin: http://evil.example\r\n"),
        format!("{own}Origin: http://localhost:1\r\n"),
        format!("{own}Sec-Fetch-Site: cross-site\r\n"),
        format!("{own}Sec-Fetch-Site: same-site\r\n"),
        format!("{own}Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site\r\n"),
    ] {
        for (method, path) in [
            ("POST", kill.as_str()),
            ("POST", "/containers/prune"),
            ("POST", "/build?remote=http://127.0.0.1:1/x"),
            ("DELETE", &remove),
            ("GET", "/info"),
            ("OPTIONS", "/containers/create"),
        ] {
            let answer = attempt(method, path, &headers).await;
            // hyper refuses some of them itself.
            assert!(
                ["400", "403"].contains(&status(&answer)),
                "{method} {path} {headers:?}: {answer}"
            );
            assert!(
                !answer.to_lowercase().contains("access-control"),
                "{method} {path} {headers:?}: {answer}"
            );
        }
        let upgrade = format!(
            "{headers}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        );
        let path = format!("/containers/{id}/attach/ws?stream=1&stdin=1");
        let request = format!("GET {path} HTTP/1.1\r\n{upgrade}\r\n");
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a listener");
        let answer = exchange(stream, request.as_bytes()).await;
        assert!(["400", "403"].contains(&status(&answer)), "{headers:?}: {answer}");
    }
    assert_eq!(engine.api.inspect(&id).await["State"]["Running"], true);
    engine.finish().await;
}

/// The inodes of the sockets that a process holds.
fn sockets(pid: i32) -> HashSet<String> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    links
        .filter_map(|link| fs::read_link(link.ok()?.path()).ok())
        .filter_map(|target| {
            let text = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(text.to_owned())
        })
        .collect()
}

/// The inodes of listening TCP sockets of the host.
fn listening() -> HashSet<String> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .flat_map(|path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines
        })
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            // State 0A is TCP_LISTEN.
            (words.get(3) == Some(&"0A")).then(|| words.get(9).map(|word| (*word).to_owned()))?
        })
        .collect()
}

#[tokio::test]
async fn containers_do_not_reach_the_engine() {
    let probe = TcpListener::bind("127.0.0.1:0").expect("a port");
    let own = i32::try_from(std::process::id()).expect("a pid");
    assert!(
        !sockets(own).is_disjoint(&listening()),
        "the check finds no listener where there is one"
    );
    drop(probe);
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    engine
        .api
        .post_json("/networks/create", &json!({"Name": "inner", "Internal": true}))
        .await
        .expect(201);
    for network in ["bridge", "inner", "host", "none"] {
        // Its sockets have names in the file system only, which is not the container's.
        let text = "cat /proc/net/unix; ls /run /var/run /tmp; find / -xdev -type s";
        let mut config = shell(text);
        config["HostConfig"]["NetworkMode"] = json!(network);
        let id = engine.api.launch(&config).await;
        engine.api.wait(&id).await;
        let said = engine.api.logs(&id).await.out;
        let abstract_sockets = said
            .lines()
            .filter(|line| line.contains(" @") && line.to_lowercase().contains("berth"));
        assert_eq!(abstract_sockets.count(), 0, "{network}: {said}");
        // No process of the engine listens on TCP, neither on loopback nor on a bridge.
        for (pid, line) in engine.processes() {
            let found = sockets(pid).intersection(&listening()).count();
            assert_eq!(found, 0, "{network}: {line} listens");
        }
        engine.api.remove(&id).await;
    }
    engine.finish().await;
}

#[tokio::test]
async fn requests_are_what_they_seem() {
    let engine = Engine::start().await;
    let smuggled = "GET /_ping HTTP/1.1\r\nHost: x\r\nX-Smuggled: yes\r\n\r\n";
    let head = "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    for (what, request) in [
        (
            "both lengths",
            format!("{head}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
        ),
        (
            "both lengths, the other way",
            format!("{head}Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n{smuggled}"),
        ),
        (
            "a blank before the colon",
            format!("{head}Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{smuggled}"),
        ),
        (
            "two lengths",
            format!("{head}Content-Length: 0\r\nContent-Length: 60\r\n\r\n{smuggled}"),
        ),
        (
            "a list of lengths",
            format!("{head}Content-Length: 0, 0\r\n\r\n{smuggled}"),
        ),
        (
            "a signed length",
            format!("{head}Content-Length: +0\r\n\r\n{smuggled}"),
        ),
        (
            "a negative length",
            format!("{head}Content-Length: -1\r\n\r\n{smuggled}"),
        ),
        (
            "a length beyond all numbers",
            format!("{head}Content-Length: 99999999999999999999999\r\n\r\n{smuggled}"),
        ),
        (
            "an unknown encoding",
            format!("{head}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{smuggled}"),
        ),
        (
            "an encoding after chunked",
            format!("{head}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{smuggled}"),
        ),
        (
            "a negative chunk",
            format!("{head}Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n{smuggled}"),
        ),
        (
            "a chunk beyond all numbers",
            format!("{head}Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n\r\n{smuggled}"),
        ),
        (
            "a folded header",
            format!("{head}X: a\r\n Content-Length: 0\r\n\r\n{smuggled}"),
        ),
        ("a NUL in a header", format!("{head}X: a\0b\r\n\r\n{smuggled}")),
    ] {
        let answer = over_unix(&engine.api, request.as_bytes()).await;
        assert_eq!(status(&answer), "400", "{what}: {answer}");
        assert_eq!(
            answer.matches("HTTP/1.1 ").count(),
            1,
            "{what}: what follows was taken for a request: {answer}"
        );
    }
    // The check can fail: two plain requests get two answers.
    let two = "GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2);
    let answer = over_unix(&engine.api, two.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    engine.finish().await;
}

/// What follows the request of a stream belongs to the stream.
#[tokio::test]
async fn what_follows_an_upgrade_is_input() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = shell("cat");
    for field in ["OpenStdin", "StdinOnce"] {
        config[field] = json!(true);
    }
    let id = engine.api.launch(&config).await;
    let victim = engine.api.launch(&shell(STAY)).await;
    let request = format!(
        "POST /containers/{id}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
         Upgrade: tcp\r\n\r\nPOST /containers/{victim}/kill HTTP/1.1\r\nHost: x\r\n\r\n"
    );
    let answer = over_unix(&engine.api, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(answer.contains("/kill HTTP/1.1"), "cat gives it back: {answer}");
    assert_eq!(engine.api.inspect(&victim).await["State"]["Running"], true);
    engine.finish().await;
}

/// However a body is sent, what is made is what a reader of the whole body sees, or nothing.
#[tokio::test]
async fn no_part_of_a_body_is_dropped() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let plain = busybox(&["true"]).to_string();
    let padded = |size: usize| {
        let mut config = busybox(&["true"]);
        config["Labels"] = json!({"padding": "x".repeat(size)});
        config["HostConfig"]["Privileged"] = json!(true);
        config.to_string()
    };
    let head = "POST /containers/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let json_type = "Content-Type: application/json\r\n";
    let sized =
        |headers: &str, body: &str| format!("{head}{headers}Content-Length: {}\r\n\r\n{body}", body.len());
    let chunked = |body: &str| {
        format!(
            "{head}{json_type}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        )
    };
    for (what, request, wanted) in [
        ("plain", sized(json_type, &plain), "201"),
        ("in chunks", chunked(&plain), "201"),
        ("over 1 MiB", sized(json_type, &padded(1 << 20)), "201"),
        ("over 1 MiB in chunks", chunked(&padded(1 << 20)), "201"),
        ("over 4 MiB", sized(json_type, &padded(4 << 20)), "413"),
        ("over 4 MiB in chunks", chunked(&padded(4 << 20)), "413"),
        (
            "no length",
            format!("{head}{json_type}Content-Length: 0\r\n\r\n{plain}"),
            "400",
        ),
        (
            "of another type",
            sized("Content-Type: text/plain\r\n", &plain),
            "400",
        ),
        ("two values", sized(json_type, &format!("{plain}{plain}")), "400"),
        (
            "said to be compressed",
            sized(&format!("{json_type}Content-Encoding: gzip\r\n"), &plain),
            "201",
        ),
    ] {
        let answer = over_unix(&engine.api, request.as_bytes()).await;
        assert_eq!(
            status(&answer),
            wanted,
            "{what}: {}",
            answer.chars().take(400).collect::<String>()
        );
        let Some(at) = answer.find("{\"Id\":\"").filter(|_| wanted == "201") else {
            continue;
        };
        let id = answer.get(at + 7..at + 71).expect("an id");
        let seen = engine.api.inspect(id).await;
        let privileged = request.contains("\"Privileged\":true");
        assert_eq!(seen["HostConfig"]["Privileged"], privileged, "{what}");
    }
    engine.finish().await;
}

/// Settings whose numbers are at the edge of their type or beyond: refused, or kept as they are, and never a 500.
#[tokio::test]
async fn numbers_out_of_bounds() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let numbers = [
        json!(-1),
        json!(0),
        json!(1),
        json!(65535),
        json!(65536),
        json!(i64::from(i32::MAX) + 1),
        json!(i64::from(u32::MAX) + 1),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e18),
        json!(1e300),
        json!("1"),
    ];
    let fields = [
        "Memory",
        "MemorySwap",
        "MemoryReservation",
        "MemorySwappiness",
        "KernelMemory",
        "CpuShares",
        "CpuPeriod",
        "CpuQuota",
        "CpuRealtimePeriod",
        "CpuRealtimeRuntime",
        "NanoCpus",
        "CpuCount",
        "CpuPercent",
        "PidsLimit",
        "BlkioWeight",
        "OomScoreAdj",
        "ShmSize",
        "IOMaximumIOps",
    ];
    for field in fields {
        for number in &numbers {
            let mut config = busybox(&["true"]);
            config["HostConfig"][field] = number.clone();
            try_to_run(&engine, &config, &format!("{field}={number}")).await;
        }
    }
    for number in &numbers {
        for (what, config) in [
            ("StopTimeout", json!({"StopTimeout": number})),
            (
                "restart",
                json!({"HostConfig": {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": number}}}),
            ),
            (
                "ulimit",
                json!({"HostConfig": {"Ulimits": [{"Name": "nofile", "Soft": number, "Hard": number}]}}),
            ),
            (
                "console",
                json!({"Tty": true, "HostConfig": {"ConsoleSize": [number, number]}}),
            ),
            (
                "interval",
                json!({"Healthcheck": {"Test": ["CMD", "true"], "Interval": number, "Retries": number}}),
            ),
            (
                "tmpfs",
                json!({"HostConfig": {"Mounts": [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": number, "Mode": number}}]}}),
            ),
            (
                "port",
                json!({"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": number.to_string()}]}}}),
            ),
            ("exposed", json!({"ExposedPorts": {format!("{number}/tcp"): {}}})),
            (
                "rate",
                json!({"HostConfig": {"BlkioDeviceReadBps": [{"Path": "/dev/null", "Rate": number}]}}),
            ),
        ] {
            let mut whole = busybox(&["true"]);
            for (key, value) in config.as_object().into_iter().flatten() {
                match (key.as_str(), value.as_object()) {
                    ("HostConfig", Some(fields)) => {
                        for (key, value) in fields {
                            whole["HostConfig"][key] = value.clone();
                        }
                    }
                    _ => whole[key] = value.clone(),
                }
            }
            try_to_run(&engine, &whole, &format!("{what} {number}")).await;
        }
    }
    let id = engine.api.launch(&shell(STAY)).await;
    for text in [
        "-1",
        "0",
        "65535",
        "65536",
        "4294967296",
        "99999999999999999999",
        "1e3",
        "0x10",
        "",
        " 1",
    ] {
        for path in [
            format!("/containers/{id}/resize{}", query(&[("h", text), ("w", text)])),
            format!(
                "/containers/{id}/kill{}",
                query(&[("signal", &format!("{text}9999"))])
            ),
        ] {
            let reply = engine.api.post(&path).await;
            assert!(
                reply.status().is_client_error() || reply.status() == 200,
                "{path}: {}",
                reply.text()
            );
        }
        for path in [
            format!(
                "/containers/{id}/logs{}",
                query(&[("stdout", "1"), ("tail", text), ("since", text)])
            ),
            format!("/containers/json{}", query(&[("limit", text)])),
            format!(
                "/events{}",
                query(&[
                    ("since", "1"),
                    ("until", if text.is_empty() { "1" } else { text })
                ])
            ),
        ] {
            if path.starts_with("/events") && ["65536", "4294967296", "99999999999999999999"].contains(&text)
            {
                continue;
            }
            let reply = engine.api.get(&path).await;
            assert!(
                reply.status().is_client_error() || reply.status() == 200,
                "{path}: {}",
                reply.text()
            );
        }
    }
    assert_eq!(engine.api.inspect(&id).await["State"]["Running"], true);
    engine.finish().await;
}

/// Creates, starts and removes; each may be refused, but by no failure of the engine's own.
async fn try_to_run(engine: &Engine, config: &Value, what: &str) {
    let made = engine.api.post_json("/containers/create", config).await;
    if made.status() != 201 {
        assert_eq!(made.status(), 400, "{what}: {}", made.text());
        return;
    }
    let id = made.json()["Id"].as_str().expect("an id").to_owned();
    let started = engine.api.post(&format!("/containers/{id}/start")).await;
    // What only the kernel can tell is refused by the start: a limit that is too small to live with.
    let told = started.text();
    assert!(
        started.status() == 204 || started.status().is_client_error() || told.contains("message"),
        "{what}: {} {told}",
        started.status()
    );
    engine.api.inspect(&id).await;
    let removed = engine
        .api
        .call(Method::DELETE, &format!("/containers/{id}?force=1"))
        .send()
        .await;
    assert_eq!(removed.status(), 204, "{what}: {}", removed.text());
}

/// Names that are paths, that end a line or a text, or that no file can have.
#[tokio::test]
async fn names_out_of_bounds() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let before = engine.traces();
    let hostile = [
        "..",
        ".",
        "../x",
        "a/../../x",
        "a/b",
        "a\0b",
        "a\nb",
        "a\rb",
        "a b",
        "é",
        "\u{202e}a",
        "%2e%2e",
        "-x",
        "a\\b",
        "a:b",
        "${x}",
        "{{.ID}}",
        "a;b",
        "\u{feff}a",
    ];
    for name in hostile {
        let path = format!("/containers/create{}", query(&[("name", name)]));
        let reply = engine.api.post_json(&path, &busybox(&["true"])).await;
        assert_eq!(reply.status(), 400, "container {name:?}: {}", reply.text());
        let reply = engine
            .api
            .post_json("/volumes/create", &json!({"Name": name}))
            .await;
        assert_eq!(reply.status(), 400, "volume {name:?}: {}", reply.text());
        for path in ["containers", "volumes", "networks", "images", "exec"] {
            // Such a path is another one, which the engine says as Go's servers do.
            if [".", ".."].contains(&name) {
                continue;
            }
            let text = query(&[("x", name)]);
            let escaped = text.strip_prefix("?x=").unwrap_or_default();
            let suffix = if ["containers", "images", "exec"].contains(&path) {
                "/json"
            } else {
                ""
            };
            let reply = engine.api.get(&format!("/{path}/{escaped}{suffix}")).await;
            // A reference to an image may be malformed.
            assert!(
                [301, 400, 404].contains(&reply.status().as_u16()),
                "{path} {name:?}: {} {}",
                reply.status(),
                reply.text()
            );
        }
        let mut config = busybox(&["true"]);
        config["HostConfig"]["Binds"] = json!([format!("{name}:/data")]);
        let reply = engine.api.post_json("/containers/create", &config).await;
        assert!(reply.status() == 400, "bind {name:?}: {}", reply.text());
        let mut config = busybox(&["true"]);
        config["HostConfig"]["CgroupParent"] = json!(name);
        let reply = engine.api.post_json("/containers/create", &config).await;
        assert!(
            [201, 400].contains(&reply.status().as_u16()),
            "cgroup {name:?}: {}",
            reply.text()
        );
        if reply.status() == 201 {
            let id = reply.json()["Id"].as_str().expect("an id").to_owned();
            let started = engine.api.post(&format!("/containers/{id}/start")).await;
            if started.status() == 204 {
                let pid = engine.api.inspect(&id).await["State"]["Pid"].clone();
                let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
                assert!(!groups.contains("/../"), "cgroup {name:?}: {groups}");
            }
        }
        let reply = engine.api.get("/containers/json?all=1").await.expect(200).json();
        for container in reply.as_array().into_iter().flatten() {
            engine.api.remove(container["Id"].as_str().expect("an id")).await;
        }
        // Labels and variables may hold anything but what ends a text of C.
        let mut config = busybox(&["env"]);
        config["Labels"] = json!({(name): name});
        config["Env"] = json!([format!("NAME={name}")]);
        let made = engine.api.post_json("/containers/create", &config).await;
        match name.contains('\0') {
            true => assert_eq!(made.status(), 400, "label {name:?}: {}", made.text()),
            false => {
                let id = made.expect(201).json()["Id"].as_str().expect("an id").to_owned();
                assert_eq!(engine.api.inspect(&id).await["Config"]["Labels"][name], name);
                engine.api.remove(&id).await;
            }
        }
    }
    let after = engine.traces();
    let more: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    assert!(more.is_empty(), "left behind: {more:#?}");
    engine.finish().await;
}
