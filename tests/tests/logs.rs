//! Logs: every line, once, with its time.

use berth_tests::{
    Engine,
    client::query,
    container::{interactive, shell},
    hijack::Dialect,
    stream::Output,
};
use http::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn logs_choose_streams_and_lines() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine
        .api
        .launch(&shell(
            "for i in 1 2 3 4 5; do echo out$i; echo err$i >&2; done; printf end",
        ))
        .await;
    engine.api.wait(&id).await;
    let logs = async |query: &str| {
        engine
            .api
            .get(&format!("/containers/{id}/logs?{query}"))
            .await
            .expect(200)
            .output()
    };
    let all = logs("stdout=1&stderr=1").await;
    assert_eq!(all.out, "out1\nout2\nout3\nout4\nout5\nend");
    assert_eq!(all.err, "err1\nerr2\nerr3\nerr4\nerr5\n");
    assert_eq!(
        logs("stdout=1").await,
        Output {
            out: all.out.clone(),
            err: String::new()
        }
    );
    assert_eq!(
        logs("stderr=true").await,
        Output {
            out: String::new(),
            err: all.err.clone()
        }
    );
    assert_eq!(logs("stdout=1&tail=1").await.out, "end");
    assert_eq!(logs("stdout=1&stderr=1&tail=0").await, Output::default());
    for tail in ["all", "-1", "", "nonsense", "1000"] {
        assert_eq!(
            logs(&format!("stdout=1&stderr=1&tail={tail}")).await,
            all,
            "tail={tail}"
        );
    }
    let message = engine
        .api
        .get(&format!("/containers/{id}/logs"))
        .await
        .expect(400)
        .message();
    assert!(message.contains("choose at least one stream"), "{message}");
    engine
        .api
        .get(&format!("/containers/{id}/logs?stdout=1&since=yesterday"))
        .await
        .expect(400);
    engine.finish().await;
}

#[tokio::test]
async fn logs_know_when_each_line_was_written() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine
        .api
        .launch(&shell("echo one; sleep 1.1; echo two; sleep 1.1; echo three"))
        .await;
    engine.api.wait(&id).await;
    let stamped = engine
        .api
        .get(&format!("/containers/{id}/logs?stdout=1&timestamps=1"))
        .await
        .expect(200)
        .output()
        .out;
    let lines: Vec<(&str, &str)> = stamped.lines().filter_map(|line| line.split_once(' ')).collect();
    assert_eq!(
        lines.iter().map(|(_, text)| *text).collect::<Vec<_>>(),
        ["one", "two", "three"]
    );
    for (time, _) in &lines {
        // RFC 3339 with exactly nine digits of a second.
        assert!(
            time.len() == 30 && time.ends_with('Z') && time.as_bytes()[19] == b'.',
            "{time}"
        );
    }
    let since = async |field: &str, time: &str| {
        // The log tells RFC 3339, the parameter is in seconds.
        let time = match time.parse::<jiff::Timestamp>() {
            Ok(time) => format!("{}.{:09}", time.as_second(), time.subsec_nanosecond()),
            Err(_) => time.to_owned(),
        };
        let time = time.as_str();
        let path = format!(
            "/containers/{id}/logs{}",
            query(&[("stdout", "1"), (field, time)])
        );
        engine.api.get(&path).await.expect(200).output().out
    };
    assert_eq!(since("since", lines[1].0).await, "two\nthree\n");
    assert_eq!(since("until", lines[1].0).await, "one\ntwo\n");
    assert_eq!(since("since", "0").await, "one\ntwo\nthree\n");
    assert_eq!(since("until", "0").await, "one\ntwo\nthree\n");
    assert_eq!(since("since", "99999999999").await, "");
    engine.finish().await;
}

#[tokio::test]
async fn following_logs_end_with_the_container() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine
        .api
        .create(&interactive(
            shell("echo first; read x; echo $x; read x; exit 3"),
            false,
        ))
        .await;
    let mut attached = engine
        .api
        .hijack(
            &format!("/containers/{id}/attach?stream=1&stdin=1"),
            None,
            Dialect::Upgrade,
        )
        .await;
    engine.api.start(&id).await;
    let path = format!("/containers/{id}/logs?stdout=1&stderr=1&follow=1");
    let mut follow = engine.api.call(Method::GET, &path).open().await.expect(200);
    assert_eq!(follow.frame().await.expect("a frame").payload, b"first\n");
    attached.write(b"second\n").await;
    assert_eq!(follow.frame().await.expect("a frame").payload, b"second\n");
    attached.write(b"\n").await;
    assert_eq!(follow.frame().await, None);
    assert_eq!(engine.api.wait(&id).await, 3);
    // On a stopped one it gives what there is and ends.
    assert_eq!(
        engine.api.get(&path).await.expect(200).output().out,
        "first\nsecond\n"
    );
    engine.finish().await;
}

#[tokio::test]
async fn logs_keep_every_byte() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    // Lines longer than any buffer, odd bytes, and much of it.
    let script = "i=0; while [ $i -lt 200 ]; do printf '%03d ' $i; head -c 40000 /dev/zero | tr '\\0' x; echo; i=$((i+1)); done; printf '\\001\\377\\t\"\\\\'";
    let id = engine.api.launch(&shell(script)).await;
    assert_eq!(engine.api.wait(&id).await, 0);
    let reply = engine
        .api
        .get(&format!("/containers/{id}/logs?stdout=1"))
        .await
        .expect(200);
    let frames = berth_tests::stream::frames(&reply.bytes).expect("frames");
    let bytes: Vec<u8> = frames.into_iter().flat_map(|frame| frame.payload).collect();
    let mut expected = Vec::new();
    for number in 0..200 {
        expected.extend(format!("{number:03} {}\n", "x".repeat(40_000)).into_bytes());
    }
    // What is not UTF-8 becomes U+FFFD, three bytes, as in any JSON text.
    assert_eq!(bytes.len(), expected.len() + 7);
    assert!(bytes.starts_with(&expected));
    // What is not UTF-8 cannot be kept in a log of JSON lines; the rest of the line is.
    let last = String::from_utf8_lossy(&bytes[expected.len()..]).into_owned();
    assert!(last.starts_with('\u{1}') && last.ends_with("\t\"\\"), "{last:?}");
    engine.finish().await;
}

#[tokio::test]
async fn the_log_file_is_what_others_read() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.create(&shell("echo out; echo err >&2")).await;
    assert_eq!(engine.api.inspect(&id).await["LogPath"], "");
    engine.api.start(&id).await;
    engine.api.wait(&id).await;
    let path = engine.api.inspect(&id).await["LogPath"]
        .as_str()
        .expect("a path")
        .to_owned();
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    lines.sort_by_key(|line| line["stream"].to_string());
    assert_eq!(
        (&lines[0]["log"], &lines[0]["stream"]),
        (&json!("err\n"), &json!("stderr"))
    );
    assert_eq!(
        (&lines[1]["log"], &lines[1]["stream"]),
        (&json!("out\n"), &json!("stdout"))
    );
    assert!(lines[0]["time"].as_str().expect("a time").ends_with('Z'));
    engine.finish().await;
}

#[tokio::test]
async fn a_driver_that_keeps_nothing_cannot_be_read() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = shell("echo lost");
    config["HostConfig"]["LogConfig"] = json!({"Type": "none"});
    let id = engine.api.launch(&config).await;
    engine.api.wait(&id).await;
    let message = engine
        .api
        .get(&format!("/containers/{id}/logs?stdout=1"))
        .await
        .expect(501)
        .message();
    assert!(
        message.contains("configured logging driver does not support reading"),
        "{message}"
    );
    engine.finish().await;
}

#[tokio::test]
async fn logs_rotate_within_their_limits() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = shell("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done");
    config["HostConfig"]["LogConfig"] =
        json!({"Type": "json-file", "Config": {"max-size": "20k", "max-file": "3"}});
    let id = engine.api.launch(&config).await;
    engine.api.wait(&id).await;
    let path = engine.api.inspect(&id).await["LogPath"]
        .as_str()
        .expect("a path")
        .to_owned();
    let directory = std::path::Path::new(&path)
        .parent()
        .expect("a directory")
        .to_owned();
    let base = std::path::Path::new(&path)
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    let sizes: Vec<u64> = std::fs::read_dir(directory)
        .expect("the log's directory")
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&base))
        .map(|entry| entry.metadata().expect("a file").len())
        .collect();
    assert_eq!(sizes.len(), 3, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= 21_000), "{sizes:?}");
    let out = engine.api.logs(&id).await.out;
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.last(), Some(&"line 2999"));
    let first: usize = lines[0].trim_start_matches("line ").parse().expect("a number");
    // No line is missing between the oldest kept and the last.
    assert!(
        lines
            .iter()
            .enumerate()
            .all(|(index, line)| *line == format!("line {}", first + index))
    );
    engine.finish().await;
}
