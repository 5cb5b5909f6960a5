//! Log drivers: options, files, and the logs of the host.

use std::{
    io::Read,
    net::{TcpListener, UdpSocket},
    os::unix::net::{UnixDatagram, UnixListener},
    time::Duration,
};

use berth_tests::{
    Engine,
    client::query,
    container::{STAY, busybox, shell},
};
use serde_json::{Value, json};

fn logged(mut config: Value, driver: &str, options: Value) -> Value {
    config["HostConfig"]["LogConfig"] = json!({"Type": driver, "Config": options});
    config
}

#[tokio::test]
async fn options_are_checked() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let cases = [
        (
            "fluentbit",
            json!({}),
            "no log driver named 'fluentbit' is registered",
        ),
        (
            "json-file",
            json!({"max-sizes": "1m"}),
            "unknown log opt 'max-sizes' for json-file log driver",
        ),
        (
            "json-file",
            json!({"syslog-format": "rfc3164"}),
            "unknown log opt",
        ),
        ("local", json!({"max-size": "-5"}), "invalid size: '-5'"),
        (
            "json-file",
            json!({"max-file": "0"}),
            "max-file cannot be less than 1",
        ),
        (
            "json-file",
            json!({"compress": "true", "max-file": "1"}),
            "compress cannot be true",
        ),
        (
            "json-file",
            json!({"mode": "sometimes"}),
            "logging mode not supported: sometimes",
        ),
        (
            "json-file",
            json!({"max-buffer-size": "1m"}),
            "only supported with 'mode=non-blocking'",
        ),
        (
            "json-file",
            json!({"mode": "non-blocking", "max-buffer-size": "x"}),
            "max-buffer-size",
        ),
        ("json-file", json!({"labels-regex": "("}), "invalid log pattern"),
        ("json-file", json!({"tag": "{{.Nothing}}"}), "invalid log tag"),
        (
            "syslog",
            json!({"max-size": "1m"}),
            "unknown log opt 'max-size' for syslog log driver",
        ),
        (
            "syslog",
            json!({"syslog-address": "somewhere"}),
            "syslog-address should be in form proto://address",
        ),
        (
            "syslog",
            json!({"syslog-facility": "nobody"}),
            "invalid syslog facility",
        ),
        (
            "syslog",
            json!({"syslog-format": "rfc1"}),
            "Invalid syslog format",
        ),
        ("journald", json!({"syslog-format": "rfc3164"}), "unknown log opt"),
    ];
    for (driver, options, message) in cases {
        let config = logged(busybox(&["true"]), driver, options.clone());
        let told = engine
            .api
            .post_json("/containers/create", &config)
            .await
            .expect(400)
            .message();
        assert!(told.contains(message), "{driver} {options}: {told}");
    }
    engine.finish().await;
}

#[tokio::test]
async fn attributes_are_written_and_shown() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let options = json!({
        "labels": "a", "labels-regex": "^x", "env": "E", "env-regex": "^F", "tag": "{{.Name}}/{{.ImageName}}",
        "mode": "non-blocking", "max-buffer-size": "2m", "max-size": "1m", "max-file": "2", "compress": "true",
    });
    for driver in ["json-file", "local"] {
        let mut config = logged(shell("echo out; echo err >&2"), driver, options.clone());
        config["Labels"] = json!({"a": "1", "b": "2", "x1": "3"});
        config["Env"] = json!(["E=4", "F5=5", "G=6"]);
        let id = engine.api.create_named(driver, &config).await;
        engine.api.start(&id).await;
        engine.api.wait(&id).await;
        let path = format!(
            "/containers/{id}/logs{}",
            query(&[("stdout", "1"), ("details", "1")])
        );
        let output = engine.api.get(&path).await.expect(200).output();
        assert_eq!(
            output.out,
            format!("E=4,F5=5,a=1,tag={driver}%2Fbusybox,x1=3 out\n")
        );
        let inspect = engine.api.inspect(&id).await;
        let log_path = inspect["LogPath"].as_str().expect("text");
        if driver == "json-file" {
            let text = std::fs::read_to_string(log_path).expect("a log");
            let line: Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
            assert_eq!(
                (&line["attrs"]["a"], &line["attrs"]["tag"]),
                (&json!("1"), &json!("json-file/busybox"))
            );
        } else {
            assert_eq!(log_path, "");
        }
    }
    engine.finish().await;
}

#[tokio::test]
async fn nothing_is_kept_of_none() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine
        .api
        .create(&logged(shell("echo x"), "none", json!({})))
        .await;
    engine.api.start(&id).await;
    engine.api.wait(&id).await;
    let path = format!("/containers/{id}/logs?stdout=1");
    let told = engine.api.get(&path).await.expect(501).message();
    assert!(
        told.contains("configured logging driver does not support reading"),
        "{told}"
    );
    let err = engine.docker(&["logs", &id]).await.fails(1);
    assert!(err.contains("does not support reading"), "{err}");
    engine.finish().await;
}

#[tokio::test]
async fn logs_are_bounded() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let options = json!({"max-size": "20k", "max-file": "3"});
    let script = "i=0; while [ $i -lt 2000 ]; do echo line $i of many; i=$((i+1)); done";
    let id = engine
        .api
        .create(&logged(shell(script), "json-file", options))
        .await;
    engine.api.start(&id).await;
    engine.api.wait(&id).await;
    let path = engine.api.inspect(&id).await["LogPath"]
        .as_str()
        .expect("text")
        .to_owned();
    let sizes: Vec<u64> = ["", ".1", ".2", ".3"]
        .iter()
        .filter_map(|suffix| std::fs::metadata(format!("{path}{suffix}")).ok())
        .map(|data| data.len())
        .collect();
    assert_eq!(sizes.len(), 3);
    assert!(sizes.iter().all(|size| *size <= 20 << 10), "{sizes:?}");
    let out = engine.api.logs(&id).await.out;
    assert!(out.ends_with("line 1999 of many\n") && !out.contains("line 0 of many\n"));
    engine.finish().await;
}

#[tokio::test]
async fn syslog_gets_every_line() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let dir = tempfile::tempdir().expect("a directory");
    let stream_path = dir.path().join("stream");
    let stream = UnixListener::bind(&stream_path).expect("a socket");
    let datagram_path = dir.path().join("datagram");
    let datagram = UnixDatagram::bind(&datagram_path).expect("a socket");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    udp.set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    datagram
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    let addresses = [
        format!("unix://{}", stream_path.display()),
        format!("unixgram://{}", datagram_path.display()),
        format!("tcp://{}", tcp.local_addr().expect("an address")),
        format!("udp://{}", udp.local_addr().expect("an address")),
    ];
    for (number, address) in addresses.iter().enumerate() {
        let options = json!({
            "syslog-address": address, "syslog-facility": "local3", "syslog-format": "rfc5424", "tag": "x/{{.Name}}",
        });
        let name = format!("c{number}");
        let id = engine
            .api
            .create_named(
                &name,
                &logged(shell("echo out; echo err >&2; printf last"), "syslog", options),
            )
            .await;
        engine.api.start(&id).await;
        engine.api.wait(&id).await;
        let receive = |socket: &dyn Fn(&mut [u8]) -> usize| {
            let mut all = String::new();
            for _ in 0..3 {
                let mut buffer = [0; 4096];
                let length = socket(&mut buffer);
                all += &String::from_utf8_lossy(&buffer[..length]);
            }
            all
        };
        let mut text = String::new();
        match number {
            0 => drop(stream.accept().expect("a connection").0.read_to_string(&mut text)),
            1 => text = receive(&|buffer| datagram.recv(buffer).expect("a message")),
            2 => drop(tcp.accept().expect("a connection").0.read_to_string(&mut text)),
            _ => text = receive(&|buffer| udp.recv(buffer).expect("a message")),
        }
        let mut ends: Vec<_> = text
            .lines()
            .map(|line| {
                let (priority, rest) = line.split_once('>').expect("a priority");
                assert!(rest.contains(&format!(" x/{name} ")), "{line}");
                (
                    priority.to_owned(),
                    rest.rsplit(' ').next().expect("a word").to_owned(),
                )
            })
            .collect();
        ends.sort();
        let expected =
            [("<155", "err"), ("<158", "last"), ("<158", "out")].map(|(p, t)| (p.to_owned(), t.to_owned()));
        assert_eq!(ends, expected, "{text}");
        // It is kept here, too.
        assert_eq!(engine.api.logs(&id).await.out, "out\nlast");
    }
    engine.finish().await;
}

#[tokio::test]
async fn a_receiver_that_never_reads_holds_up_nobody() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let options = json!({
        "syslog-address": format!("tcp://{}", tcp.local_addr().expect("an address")),
        "mode": "non-blocking", "max-buffer-size": "100k", "cache-disabled": "true",
    });
    let script = "i=0; while [ $i -lt 300 ]; do head -c 60000 /dev/zero | tr '\\0' x; echo; i=$((i+1)); done; echo done >/d";
    let id = engine.api.launch(&logged(shell(script), "syslog", options)).await;
    assert_eq!(engine.api.wait(&id).await, 0);
    engine
        .api
        .get(&format!("/containers/{id}/logs?stdout=1"))
        .await
        .expect(501);
    engine.finish().await;
}

#[tokio::test]
async fn a_receiver_that_is_not_there_fails_the_start() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let options = json!({"syslog-address": "unix:///nothing/like/it"});
    let id = engine.api.create(&logged(shell(STAY), "syslog", options)).await;
    let told = engine
        .api
        .post(&format!("/containers/{id}/start"))
        .await
        .expect(500)
        .message();
    assert!(told.contains("failed to initialize logging driver"), "{told}");
    assert_eq!(engine.api.inspect(&id).await["State"]["Status"], "created");
    if !std::path::Path::new("/run/systemd/journal/socket").exists() {
        let id = engine
            .api
            .create(&logged(shell(STAY), "journald", json!({})))
            .await;
        let told = engine
            .api
            .post(&format!("/containers/{id}/start"))
            .await
            .expect(500)
            .message();
        // Nothing about a file: docker's command line would take it for a missing program.
        assert_eq!(
            told,
            "failed to initialize logging driver: journald is not enabled on this host"
        );
        engine
            .docker(&[
                "run",
                "--network",
                "none",
                "--log-driver",
                "journald",
                "busybox",
                "true",
            ])
            .await
            .fails(125);
    }
    engine.finish().await;
}
