//! Attach: what goes in and what comes out.

use berth_tests::{
    Engine,
    client::query,
    container::{busybox, interactive, shell},
    hijack::Dialect,
    stream::{Output, STDOUT},
};
use serde_json::json;

#[tokio::test]
async fn attach_carries_input_and_output_in_both_dialects() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    for dialect in [Dialect::Upgrade, Dialect::Plain] {
        let id = engine
            .api
            .create(&interactive(shell("cat; echo done >&2; exit 2"), false))
            .await;
        let path = format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1");
        let mut attached = engine.api.hijack(&path, None, dialect).await;
        let (status, kind) = match dialect {
            Dialect::Upgrade => (101, "application/vnd.docker.multiplexed-stream"),
            Dialect::Plain => (200, "application/vnd.docker.raw-stream"),
        };
        assert_eq!(attached.head.status, status);
        assert_eq!(attached.head.header("content-type"), kind);
        engine.api.start(&id).await;
        attached.write(b"hello\n").await;
        let frame = attached.frame().await.expect("a frame");
        assert_eq!(
            (frame.stream, frame.payload.as_slice()),
            (STDOUT, b"hello\n".as_slice())
        );
        attached.write(b"last words").await;
        // The end of input is the end of cat; its output still comes.
        attached.close_write().await;
        let mut rest = Vec::new();
        while let Some(frame) = attached.frame().await {
            rest.push(frame);
        }
        assert_eq!(
            Output::of(&rest),
            Output {
                out: "last words".into(),
                err: "done\n".into()
            }
        );
        assert_eq!(engine.api.wait(&id).await, 2);
    }
    engine.finish().await;
}

#[tokio::test]
async fn attach_of_an_old_client_gets_the_old_type() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.create(&interactive(busybox(&["cat"]), false)).await;
    let path = format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1");
    let attached = engine
        .api
        .at("1.41")
        .hijack(&path, None, Dialect::Upgrade)
        .await
        .expect(101);
    assert_eq!(
        attached.head.header("content-type"),
        "application/vnd.docker.raw-stream"
    );
    drop(attached);
    engine.finish().await;
}

#[tokio::test]
async fn much_goes_through_without_loss() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine
        .api
        .create(&interactive(busybox(&["sha256sum"]), false))
        .await;
    let path = format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1");
    let mut attached = engine.api.hijack(&path, None, Dialect::Upgrade).await.expect(101);
    engine.api.start(&id).await;
    let input: Vec<u8> = (0..8_000_000_u32)
        .map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for piece in input.chunks(60_000) {
        attached.write(piece).await;
    }
    attached.close_write().await;
    let output = attached.output().await;
    let digest = berth_tests::image::digest(&input);
    assert_eq!(
        output.out,
        format!("{}  -\n", digest.trim_start_matches("sha256:"))
    );
    engine.finish().await;
}

#[tokio::test]
async fn a_terminal_is_raw_and_has_a_size() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = interactive(
        shell("stty size; echo err >&2; read line; echo got $line; stty size; tty; exit 1"),
        true,
    );
    config["HostConfig"]["ConsoleSize"] = json!([31, 91]);
    let id = engine.api.create(&config).await;
    let path = format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1");
    let mut attached = engine.api.hijack(&path, None, Dialect::Upgrade).await.expect(101);
    assert_eq!(
        attached.head.header("content-type"),
        "application/vnd.docker.raw-stream"
    );
    engine.api.start(&id).await;
    attached.until("31 91\r\n").await;
    attached.until("err\r\n").await;
    engine
        .api
        .post(&format!("/containers/{id}/resize?h=40&w=120"))
        .await
        .expect(200);
    attached.write(b"typed\n").await;
    attached.until("got typed\r\n").await;
    attached.until("40 120\r\n").await;
    let rest = attached.read_to_end().await;
    assert!(String::from_utf8_lossy(&rest).contains("/dev/"), "{rest:?}");
    assert_eq!(engine.api.wait(&id).await, 1);
    let logs = engine
        .api
        .get(&format!("/containers/{id}/logs?stdout=1&stderr=1"))
        .await
        .expect(200);
    assert_eq!(
        logs.head.header("content-type"),
        "application/vnd.docker.raw-stream"
    );
    assert!(logs.text().contains("got typed\r\n"), "{}", logs.text());
    engine
        .api
        .post(&format!("/containers/{id}/resize?h=40&w=120"))
        .await
        .expect(409);
    engine.finish().await;
}

#[tokio::test]
async fn detach_keys_leave_the_container_running() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = interactive(shell("echo ready; read line; echo got $line; sleep 1000"), true);
    config["StdinOnce"] = json!(false);
    let id = engine.api.launch(&config).await;
    for (keys, typed) in [("", b"\x10\x11".as_slice()), ("ctrl-a,x", b"\x01x".as_slice())] {
        let path = format!(
            "/containers/{id}/attach{}",
            query(&[
                ("stream", "1"),
                ("stdin", "1"),
                ("stdout", "1"),
                ("logs", "1"),
                ("detachKeys", keys)
            ])
        );
        let mut attached = engine.api.hijack(&path, None, Dialect::Upgrade).await.expect(101);
        attached.until("ready").await;
        attached.write(typed).await;
        attached.read_to_end().await;
        assert_eq!(engine.api.inspect(&id).await["State"]["Running"], true);
    }
    let bad = format!(
        "/containers/{id}/attach{}",
        query(&[("stream", "1"), ("detachKeys", "ctrl-ü")])
    );
    engine.api.hijack(&bad, None, Dialect::Upgrade).await.expect(400);
    // The keys were not passed on.
    let path = format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1");
    let mut attached = engine.api.hijack(&path, None, Dialect::Upgrade).await.expect(101);
    attached.write(b"word\n").await;
    attached.until("got word\r\n").await;
    drop(attached);
    engine.finish().await;
}

#[tokio::test]
async fn several_clients_see_the_same_output() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine
        .api
        .create(&interactive(shell("read x; echo $x; echo $x >&2"), false))
        .await;
    let mut first = engine
        .api
        .hijack(
            &format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1"),
            None,
            Dialect::Upgrade,
        )
        .await
        .expect(101);
    let second = engine
        .api
        .hijack(
            &format!("/containers/{id}/attach?stream=1&stdout=1"),
            None,
            Dialect::Plain,
        )
        .await
        .expect(200);
    let third = engine
        .api
        .hijack(
            &format!("/containers/{id}/attach?stream=1&stderr=1"),
            None,
            Dialect::Upgrade,
        )
        .await
        .expect(101);
    engine.api.start(&id).await;
    first.write(b"word\n").await;
    let both = Output {
        out: "word\n".into(),
        err: "word\n".into(),
    };
    assert_eq!(first.output().await, both);
    assert_eq!(
        second.output().await,
        Output {
            err: String::new(),
            ..both.clone()
        }
    );
    assert_eq!(
        third.output().await,
        Output {
            out: String::new(),
            ..both
        }
    );
    engine.finish().await;
}

#[tokio::test]
async fn attach_replays_the_log() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.launch(&shell("echo out; echo err >&2")).await;
    engine.api.wait(&id).await;
    let path = format!("/containers/{id}/attach?logs=1&stdout=1&stderr=1");
    let replay = engine
        .api
        .hijack(&path, None, Dialect::Upgrade)
        .await
        .expect(101)
        .output()
        .await;
    assert_eq!(
        replay,
        Output {
            out: "out\n".into(),
            err: "err\n".into()
        }
    );
    engine.finish().await;
}

#[tokio::test]
async fn an_attach_that_fails_says_why() {
    let engine = Engine::start().await;
    let connection = engine
        .api
        .hijack("/containers/nothing/attach?stream=1", None, Dialect::Upgrade)
        .await
        .expect(404);
    let text = String::from_utf8(connection.read_to_end().await).expect("text");
    assert!(text.contains("No such container: nothing"), "{text}");
    engine.finish().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nobody_up() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    // The log takes everything even while an attached client sleeps.
    let id = engine
        .api
        .create(&shell("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end"))
        .await;
    let sleeper = engine
        .api
        .hijack(
            &format!("/containers/{id}/attach?stream=1&stdout=1"),
            None,
            Dialect::Upgrade,
        )
        .await
        .expect(101);
    engine.api.start(&id).await;
    engine.api.get("/_ping").await.expect(200);
    engine.api.inspect(&id).await;
    drop(sleeper);
    assert_eq!(engine.api.wait(&id).await, 0);
    assert_eq!(engine.api.logs(&id).await.out.len(), 3_000_005);
    engine.finish().await;
}
