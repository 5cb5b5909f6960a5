//! Containers by other OCI runtimes that the configuration names.

use std::os::unix::fs::symlink;

use berth_tests::{Engine, engine::berthd};
use serde_json::json;

/// An engine that knows Debian's runc, this program's own command line and one that is not there.
async fn start() -> (Engine, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join("berth-oci");
    symlink(berthd(), &own).unwrap();
    let engine = Engine::options()
        .flag("--add-runtime=other=runc")
        .flag(format!("--add-runtime=same={}", own.display()))
        .flag("--add-runtime=missing=/nothing/like/it")
        .start()
        .await;
    engine.api.load_busybox().await;
    (engine, directory)
}

#[tokio::test]
async fn run_gives_output_and_code() {
    let (engine, _directory) = start().await;
    for runtime in ["other", "same"] {
        let run = |words: &'static [&'static str]| {
            let all = [
                &[
                    "run",
                    "--rm",
                    "--network",
                    "none",
                    "--runtime",
                    runtime,
                    "busybox",
                ][..],
                words,
            ]
            .concat();
            let engine = &engine;
            async move { engine.docker(&all).await }
        };
        let outcome = run(&["sh", "-c", "echo out; echo err >&2; id -u user; exit 4"]).await;
        assert_eq!(outcome.code, 4, "{runtime}: {outcome:?}");
        assert_eq!(
            (outcome.out.as_str(), outcome.err.as_str()),
            ("out\n1000\n", "err\n"),
            "{runtime}"
        );
        let seccomp = run(&["grep", "Seccomp:", "/proc/self/status"]).await.ok();
        assert_eq!(seccomp.split_whitespace().last(), Some("2"), "{runtime}");
        let error = run(&["nothing-like-it"]).await.fails(127);
        assert!(error.contains("executable file not found"), "{runtime}: {error}");
    }
    engine.finish().await;
}

#[tokio::test]
async fn a_container_lives_as_any_other() {
    let (engine, _directory) = start().await;
    for runtime in ["other", "same"] {
        let config = json!({
            "Image": "busybox",
            "Cmd": ["sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"],
            "User": "user",
            "HostConfig": {"NetworkMode": "none", "Runtime": runtime, "Memory": 64 << 20},
        });
        let id = engine.api.launch(&config).await;
        engine.api.await_output(&id, "ready").await;
        let details = engine.api.inspect(&id).await;
        assert_eq!(details["HostConfig"]["Runtime"], runtime);
        let pid = details["State"]["Pid"].as_i64().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("\nUid:\t1000\t1000\t1000\t1000\n"), "{status}");
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(cgroup.contains(&id), "{cgroup}");
        let outcome = engine
            .docker(&[
                "exec",
                "-u",
                "0",
                "-e",
                "A=b",
                &id,
                "sh",
                "-c",
                "id -u; echo $A; exit 9",
            ])
            .await;
        assert_eq!(
            (outcome.code, outcome.out.as_str()),
            (9, "0\nb\n"),
            "{runtime}: {outcome:?}"
        );
        engine.docker(&["pause", &id]).await.ok();
        engine.docker(&["unpause", &id]).await.ok();
        engine.docker(&["stop", &id]).await.ok();
        assert_eq!(engine.api.inspect(&id).await["State"]["ExitCode"], 3);
        engine.docker(&["start", &id]).await.ok();
        engine.docker(&["kill", &id]).await.ok();
        assert_eq!(engine.api.wait(&id).await, 137);
        engine.api.remove(&id).await;
    }
    engine.finish().await;
}

#[tokio::test]
async fn a_terminal_is_handed_over() {
    let (engine, _directory) = start().await;
    for runtime in ["other", "same"] {
        let words = [
            "run",
            "--rm",
            "-it",
            "--network",
            "none",
            "--runtime",
            runtime,
            "busybox",
            "sh",
        ];
        let mut terminal = engine.docker_terminal(&words);
        terminal.enter("test -t 0 && echo is''-a-terminal\n");
        terminal.see("is-a-terminal");
        terminal.enter("exit 6\n");
        assert_eq!(terminal.end().0, 6, "{runtime}");
    }
    engine.finish().await;
}

#[tokio::test]
async fn containers_outlive_the_engine() {
    let (mut engine, _directory) = start().await;
    let config = json!({
        "Image": "busybox",
        "Cmd": ["sleep", "1000"],
        "HostConfig": {"NetworkMode": "none", "Runtime": "other"},
    });
    let id = engine.api.launch(&config).await;
    engine.crash().await;
    assert_eq!(engine.api.inspect(&id).await["State"]["Running"], true);
    engine.docker(&["kill", &id]).await.ok();
    engine.api.remove(&id).await;
    engine.finish().await;
}

#[tokio::test]
async fn what_cannot_be_run_by_is_refused() {
    let (engine, _directory) = start().await;
    let run = |runtime: &'static str| {
        let engine = &engine;
        async move {
            let words = [
                "run",
                "--rm",
                "--network",
                "none",
                "--runtime",
                runtime,
                "busybox",
                "true",
            ];
            engine.docker(&words).await.fails(125)
        }
    };
    assert!(
        run("nope")
            .await
            .contains("unknown or invalid runtime name: nope")
    );
    let words = [
        "create",
        "--network",
        "none",
        "--runtime",
        "missing",
        "busybox",
        "true",
    ];
    let id = engine.docker(&words).await.ok();
    let error = engine.docker(&["start", id.trim()]).await.fails(1);
    assert!(error.contains("/nothing/like/it"), "{error}");
    engine.docker(&["rm", id.trim()]).await.ok();
    let info = engine.api.get("/info").await.json();
    assert_eq!(info["Runtimes"]["missing"]["path"], "/nothing/like/it");
    assert_eq!(info["DefaultRuntime"], "runc");
    engine.finish().await;
}
