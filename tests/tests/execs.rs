//! Execs: further processes in a running container.

use berth_tests::{
    Engine,
    client::{Client, filters},
    container::{STAY, busybox, shell},
    hijack::Dialect,
    stream::Output,
};
use http::Method;
use serde_json::{Value, json};

/// A container that stays.
async fn sleeper(api: &Client) -> String {
    api.load_busybox().await;
    api.launch(&busybox(&["sleep", "1000"])).await
}

async fn create(api: &Client, container: &str, config: &Value) -> String {
    let path = format!("/containers/{container}/exec");
    let reply = api.post_json(&path, config).await.expect(201);
    reply.json()["Id"].as_str().expect("an id").to_owned()
}

fn script(text: &str) -> Value {
    json!({"Cmd": ["sh", "-c", text], "AttachStdout": true, "AttachStderr": true})
}

async fn inspect(api: &Client, exec: &str) -> Value {
    api.get(&format!("/exec/{exec}/json")).await.expect(200).json()
}

/// Runs an exec to its end; gives its code and output.
async fn run(api: &Client, container: &str, config: &Value) -> (i64, Output) {
    let exec = create(api, container, config).await;
    let start = format!("/exec/{exec}/start");
    let attached = api.hijack(&start, Some(&json!({})), Dialect::Upgrade).await;
    let output = attached.expect(101).output().await;
    let code = inspect(api, &exec).await["ExitCode"].as_i64();
    (code.expect("a code once the stream is closed"), output)
}

/// Waits for the end of an exec by its event.
async fn ended(api: &Client, exec: &str, since: &str) {
    let path = format!(
        "/events{}&since={since}",
        filters(&json!({"event": ["exec_die"]}))
    );
    let mut events = api.call(Method::GET, &path).open().await.expect(200);
    loop {
        let event = events.record().await.expect("an event");
        if event["Actor"]["Attributes"]["execID"] == exec {
            return;
        }
    }
}

#[tokio::test]
async fn output_input_and_code_in_both_dialects() {
    let engine = Engine::start().await;
    let id = sleeper(&engine.api).await;
    for dialect in [Dialect::Upgrade, Dialect::Plain] {
        let mut config = script("cat; echo err >&2; exit 7");
        config["AttachStdin"] = json!(true);
        let exec = create(&engine.api, &id, &config).await;
        let before = inspect(&engine.api, &exec).await;
        assert_eq!(
            (&before["Running"], &before["ExitCode"], &before["Pid"]),
            (&json!(false), &Value::Null, &json!(0))
        );
        let start = format!("/exec/{exec}/start");
        let mut attached = engine.api.hijack(&start, Some(&json!({})), dialect).await;
        let (status, kind) = match dialect {
            Dialect::Upgrade => (101, "application/vnd.docker.multiplexed-stream"),
            Dialect::Plain => (200, "application/vnd.docker.raw-stream"),
        };
        assert_eq!(attached.head.status, status);
        assert_eq!(attached.head.header("content-type"), kind);
        attached.write(b"in\n").await;
        let frame = attached.frame().await.expect("a frame");
        assert_eq!(frame.payload, b"in\n");
        let during = inspect(&engine.api, &exec).await;
        assert_eq!(during["Running"], true);
        assert!(during["Pid"].as_i64().expect("a pid") > 0);
        let container = engine.api.inspect(&id).await;
        assert_eq!(container["ExecIDs"], json!([exec]));
        // The end of input is the end of cat.
        attached.close_write().await;
        assert_eq!(
            attached.output().await,
            Output {
                out: String::new(),
                err: "err\n".into()
            }
        );
        let after = inspect(&engine.api, &exec).await;
        assert_eq!(
            (&after["Running"], &after["ExitCode"]),
            (&json!(false), &json!(7))
        );
        assert_eq!(after["ContainerID"], id.as_str());
        assert_eq!(after["ProcessConfig"]["entrypoint"], "sh");
        assert_eq!(after["ProcessConfig"]["arguments"][0], "-c");
        assert_eq!(engine.api.inspect(&id).await["ExecIDs"], Value::Null);
    }
    engine.finish().await;
}

#[tokio::test]
async fn user_directory_and_environment() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = busybox(&["sleep", "1000"]);
    config["Env"] = json!(["OWN=container", "BOTH=container"]);
    config["WorkingDir"] = json!("/tmp");
    config["User"] = json!("0:7");
    config["Hostname"] = json!("inside");
    let id = engine.api.launch(&config).await;
    let mut exec = script("id -u; id -g; pwd; echo $OWN $BOTH $NEW $HOSTNAME $HOME; echo \"[$TERM]\"");
    let (code, output) = run(&engine.api, &id, &exec).await;
    assert_eq!(code, 0);
    assert_eq!(output.out, "0\n7\n/tmp\ncontainer container inside /root\n[]\n");
    exec["User"] = json!("1000:50");
    exec["WorkingDir"] = json!("/bin");
    exec["Env"] = json!(["BOTH=exec", "NEW=1"]);
    let (_, output) = run(&engine.api, &id, &exec).await;
    assert_eq!(
        output.out,
        "1000\n50\n/bin\ncontainer exec 1 inside /home/user\n[]\n"
    );
    exec["Env"] = json!(["OWN"]);
    let (_, output) = run(&engine.api, &id, &exec).await;
    assert!(
        output.out.contains("\ncontainer inside /home/user\n"),
        "{}",
        output.out
    );
    engine.finish().await;
}

#[tokio::test]
async fn it_is_confined_like_its_container() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = busybox(&["sleep", "1000"]);
    config["HostConfig"]["SecurityOpt"] = json!(["no-new-privileges"]);
    config["HostConfig"]["Ulimits"] = json!([{"Name": "nofile", "Soft": 77, "Hard": 99}]);
    let id = engine.api.launch(&config).await;
    let look = "grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/$1/status; ulimit -n; cat /proc/$1/cgroup; \
                for n in mnt pid net ipc uts cgroup; do readlink /proc/$1/ns/$n; done; ls /proc/$1/fd | wc -l";
    let words =
        |who: &str| json!({"Cmd": ["sh", "-c", look, "sh", who], "AttachStdout": true, "AttachStderr": true});
    let (_, own) = run(&engine.api, &id, &words("self")).await;
    let (_, first) = run(&engine.api, &id, &words("1")).await;
    assert_eq!(own.err, "");
    let strip = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.pop();
        lines
    };
    assert_eq!(strip(&own.out), strip(&first.out));
    assert!(own.out.contains("CapBnd:\t00000000a80425fb"), "{}", own.out);
    assert!(own.out.contains("CapInh:\t0000000000000000"), "{}", own.out);
    assert!(own.out.contains("Seccomp:\t2"), "{}", own.out);
    assert!(own.out.contains("NoNewPrivs:\t1"), "{}", own.out);
    assert!(own.out.contains("\n77\n"), "{}", own.out);

    let mut privileged = words("self");
    privileged["Privileged"] = json!(true);
    let (_, all) = run(&engine.api, &id, &privileged).await;
    assert!(!all.out.contains("CapEff:\t00000000a80425fb"), "{}", all.out);
    assert!(all.out.contains("Seccomp:\t2"), "{}", all.out);
    let mut user = words("self");
    user["User"] = json!("1000");
    let (_, user) = run(&engine.api, &id, &user).await;
    assert!(user.out.contains("CapEff:\t0000000000000000"), "{}", user.out);
    engine.finish().await;
}

#[tokio::test]
async fn a_terminal_has_a_size_and_detaches() {
    let engine = Engine::start().await;
    let id = sleeper(&engine.api).await;
    let mut config = script("stty size; echo $TERM; read line; echo got $line; stty size; read more; exit 5");
    config["Tty"] = json!(true);
    config["AttachStdin"] = json!(true);
    config["ConsoleSize"] = json!([31, 91]);
    config["DetachKeys"] = json!("ctrl-x,d");
    let exec = create(&engine.api, &id, &config).await;
    assert_eq!(inspect(&engine.api, &exec).await["DetachKeys"], "GGQ=");
    let start = format!("/exec/{exec}/start");
    let begin = json!({"Tty": true});
    let mut attached = engine
        .api
        .hijack(&start, Some(&begin), Dialect::Upgrade)
        .await
        .expect(101);
    assert_eq!(
        attached.head.header("content-type"),
        "application/vnd.docker.raw-stream"
    );
    attached.until("31 91\r\n").await;
    attached.until("xterm\r\n").await;
    let resize = format!("/exec/{exec}/resize?h=40&w=120");
    engine.api.post(&resize).await.expect(200);
    attached.write(b"typed\n").await;
    attached.until("got typed\r\n").await;
    attached.until("40 120\r\n").await;
    let events = format!("/events{}", filters(&json!({"event": ["exec_detach"]})));
    let mut events = engine.api.call(Method::GET, &events).open().await.expect(200);
    attached.write(b"\x18d").await;
    attached.read_to_end().await;
    let detached = events.record().await.expect("an event");
    assert_eq!(detached["Actor"]["Attributes"]["execID"], exec.as_str());
    // It goes on without its client.
    assert_eq!(inspect(&engine.api, &exec).await["Running"], true);
    engine.finish().await;
}

#[tokio::test]
async fn detached_it_runs_by_itself() {
    let engine = Engine::start().await;
    let id = sleeper(&engine.api).await;
    let exec = create(&engine.api, &id, &script("echo written > /made; exit 3")).await;
    let start = format!("/exec/{exec}/start");
    let reply = engine
        .api
        .post_json(&start, &json!({"Detach": true}))
        .await
        .expect(200);
    assert_eq!(reply.text(), "");
    ended(&engine.api, &exec, "0").await;
    assert_eq!(inspect(&engine.api, &exec).await["ExitCode"], 3);
    assert_eq!(
        run(&engine.api, &id, &script("cat /made")).await.1.out,
        "written\n"
    );
    for body in [json!({"Detach": true}), json!({})] {
        let again = engine.api.post_json(&start, &body).await.expect(409);
        assert!(again.message().contains("has already run"), "{}", again.message());
    }
    engine.finish().await;
}

#[tokio::test]
async fn programs_that_cannot_be_run() {
    let engine = Engine::start().await;
    let id = sleeper(&engine.api).await;
    for (program, code, words) in [
        ("nothing-like-it", 126, "executable file not found in $PATH"),
        ("/nothing/like/it", 126, "no such file or directory"),
        ("/etc/passwd", 126, "permission denied"),
        ("/etc", 126, "is a directory"),
    ] {
        let config = json!({"Cmd": [program], "AttachStdout": true, "AttachStderr": true});
        let (found, output) = run(&engine.api, &id, &config).await;
        assert_eq!(found, code, "{program}");
        assert!(
            output.out.contains("OCI runtime exec failed") && output.out.contains(words),
            "{}",
            output.out
        );
        assert!(output.out.ends_with("\r\n"));
        let exec = create(&engine.api, &id, &config).await;
        let start = format!("/exec/{exec}/start");
        let refused = engine
            .api
            .post_json(&start, &json!({"Detach": true}))
            .await
            .expect(400);
        assert!(refused.message().contains(words), "{}", refused.message());
        assert_eq!(inspect(&engine.api, &exec).await["ExitCode"], code);
    }
    let mut elsewhere = script("pwd");
    elsewhere["WorkingDir"] = json!("/not/there");
    let (_, output) = run(&engine.api, &id, &elsewhere).await;
    assert!(
        output.out.contains("chdir to cwd (\"/not/there\")"),
        "{}",
        output.out
    );
    engine.finish().await;
}

#[tokio::test]
async fn what_is_refused() {
    let engine = Engine::start().await;
    let id = sleeper(&engine.api).await;
    let path = format!("/containers/{id}/exec");
    for (config, words) in [
        (json!({"Cmd": []}), "No exec command specified"),
        (json!({"Cmd": null}), "No exec command specified"),
        (
            json!({"Cmd": ["sh"], "User": "nobody-here"}),
            "unable to find user nobody-here",
        ),
        (
            json!({"Cmd": ["sh"], "User": "root:nothing"}),
            "unable to find group nothing",
        ),
        (json!({"Cmd": ["sh"], "DetachKeys": "ab"}), "detach keys"),
    ] {
        let refused = engine.api.post_json(&path, &config).await.expect(400);
        assert!(refused.message().contains(words), "{}", refused.message());
    }
    let sh = json!({"Cmd": ["sh"]});
    let missing = engine
        .api
        .post_json("/containers/nothing/exec", &sh)
        .await
        .expect(404);
    assert_eq!(missing.message(), "No such container: nothing");
    let unknown = "f".repeat(64);
    for id in [&*unknown, "short"] {
        let words = format!("No such exec instance: {id}");
        let start = engine
            .api
            .post_json(&format!("/exec/{id}/start"), &json!({}))
            .await;
        assert_eq!(start.expect(404).message(), words);
        let look = engine.api.get(&format!("/exec/{id}/json")).await.expect(404);
        assert_eq!(look.message(), words);
        let resize = engine.api.post(&format!("/exec/{id}/resize?h=1&w=1")).await;
        assert_eq!(resize.expect(404).message(), words);
    }
    let exec = create(&engine.api, &id, &sh).await;
    engine
        .api
        .post(&format!("/exec/{exec}/resize?w=1"))
        .await
        .expect(400);
    engine
        .api
        .post(&format!("/exec/{exec}/resize?h=x&w=1"))
        .await
        .expect(400);
    let start = format!("/exec/{exec}/start");

    engine
        .api
        .post(&format!("/containers/{id}/pause"))
        .await
        .expect(204);
    let paused = engine.api.post_json(&path, &sh).await.expect(409);
    assert!(paused.message().contains("is paused"), "{}", paused.message());
    engine.api.post_json(&start, &json!({})).await.expect(409);
    engine
        .api
        .post(&format!("/containers/{id}/unpause"))
        .await
        .expect(204);

    // The refused start was none.
    let attached = engine
        .api
        .hijack(&start, Some(&json!({})), Dialect::Upgrade)
        .await;
    attached.expect(101).output().await;
    ended(&engine.api, &exec, "0").await;
    engine
        .api
        .post(&format!("/exec/{exec}/resize?h=1&w=1"))
        .await
        .expect(409);

    let other = create(&engine.api, &id, &sh).await;
    engine
        .api
        .post(&format!("/containers/{id}/kill"))
        .await
        .expect(204);
    engine.api.wait(&id).await;
    let stopped = engine.api.post_json(&path, &sh).await.expect(409);
    assert!(
        stopped.message().contains("is not running"),
        "{}",
        stopped.message()
    );
    // What was never started has gone with the run; what has ended can still be looked at.
    engine
        .api
        .post_json(&format!("/exec/{other}/start"), &json!({}))
        .await
        .expect(404);
    assert_eq!(inspect(&engine.api, &exec).await["ExitCode"], 0);
    engine.api.remove(&id).await;
    engine.api.get(&format!("/exec/{exec}/json")).await.expect(404);
    engine.finish().await;
}

#[tokio::test]
async fn events_tell_of_it() {
    let engine = Engine::start().await;
    let id = sleeper(&engine.api).await;
    let path = format!("/events{}", filters(&json!({"type": ["container"]})));
    let mut events = engine.api.call(Method::GET, &path).open().await.expect(200);
    let config = json!({"Cmd": ["sh", "-c", "exit 4"], "AttachStdout": true});
    run(&engine.api, &id, &config).await;
    for action in [
        "exec_create: sh -c exit 4",
        "exec_start: sh -c exit 4",
        "exec_die",
    ] {
        let event = events.record().await.expect("an event");
        assert_eq!(event["Action"], action);
        assert_eq!(event["Actor"]["ID"], id.as_str());
        let attributes = &event["Actor"]["Attributes"];
        assert_eq!(attributes["execID"].as_str().map(str::len), Some(64));
        assert_eq!(attributes["image"], "busybox");
        assert_eq!(
            attributes["exitCode"].as_str(),
            (action == "exec_die").then_some("4")
        );
    }
    engine.finish().await;
}

#[tokio::test]
async fn many_at_once() {
    let engine = Engine::start().await;
    let id = sleeper(&engine.api).await;
    let runs = (0..40).map(|number| {
        let (api, id) = (engine.api.clone(), id.clone());
        tokio::spawn(async move { run(&api, &id, &script(&format!("echo {number}; exit {number}"))).await })
    });
    for (number, run) in runs.collect::<Vec<_>>().into_iter().enumerate() {
        let (code, output) = run.await.expect("it ends");
        assert_eq!((code, output.out), (number as i64, format!("{number}\n")));
    }
    engine.finish().await;
}

#[tokio::test]
async fn it_outlives_the_engine() {
    let mut engine = Engine::start().await;
    let id = sleeper(&engine.api).await;
    let mut config = script("echo first; while [ ! -e /go ]; do sleep 0.05; done; exit 9");
    config["AttachStdin"] = json!(true);
    let exec = create(&engine.api, &id, &config).await;
    let start = format!("/exec/{exec}/start");
    let mut attached = engine
        .api
        .hijack(&start, Some(&json!({})), Dialect::Upgrade)
        .await
        .expect(101);
    assert_eq!(attached.frame().await.expect("a frame").payload, b"first\n");
    let pid = inspect(&engine.api, &exec).await["Pid"].clone();
    let unstarted = create(&engine.api, &id, &script("exit 2")).await;
    let over = create(&engine.api, &id, &script("exit 6")).await;
    let attach_over = format!("/exec/{over}/start");
    engine
        .api
        .hijack(&attach_over, Some(&json!({})), Dialect::Upgrade)
        .await
        .expect(101)
        .output()
        .await;

    engine.crash().await;
    let running = inspect(&engine.api, &exec).await;
    assert_eq!((&running["Running"], &running["Pid"]), (&json!(true), &pid));
    assert_eq!(inspect(&engine.api, &over).await["ExitCode"], 6);
    assert_eq!(run(&engine.api, &id, &script("touch /go")).await.0, 0);
    ended(&engine.api, &exec, "0").await;
    assert_eq!(inspect(&engine.api, &exec).await["ExitCode"], 9);
    let start = format!("/exec/{unstarted}/start");
    engine
        .api
        .hijack(&start, Some(&json!({})), Dialect::Upgrade)
        .await
        .expect(101)
        .output()
        .await;
    assert_eq!(inspect(&engine.api, &unstarted).await["ExitCode"], 2);
    engine.finish().await;
}

#[tokio::test]
async fn it_ends_with_its_container() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.launch(&shell(STAY)).await;
    engine.api.await_output(&id, "ready").await;
    let exec = create(&engine.api, &id, &script("echo on; sleep 1000")).await;
    let start = format!("/exec/{exec}/start");
    let mut attached = engine
        .api
        .hijack(&start, Some(&json!({})), Dialect::Upgrade)
        .await
        .expect(101);
    assert_eq!(attached.frame().await.expect("a frame").payload, b"on\n");
    engine
        .api
        .post(&format!("/containers/{id}/stop"))
        .await
        .expect(204);
    attached.read_to_end().await;
    let state = inspect(&engine.api, &exec).await;
    assert_eq!(
        (&state["Running"], &state["ExitCode"]),
        (&json!(false), &json!(137))
    );
    engine.finish().await;
}

#[tokio::test]
async fn the_docker_command_line() {
    let engine = Engine::start().await;
    let id = sleeper(&engine.api).await;
    let out = engine.docker(&["exec", &id, "echo", "hi"]).await.ok();
    assert_eq!(out, "hi");
    let words = [
        "exec",
        "-e",
        "A=b",
        "-u",
        "1000",
        "-w",
        "/tmp",
        &*id,
        "sh",
        "-c",
        "echo $A $(id -u) $(pwd)",
    ];
    assert_eq!(engine.docker(&words).await.ok(), "b 1000 /tmp");
    assert_eq!(
        engine
            .docker_with(&["exec", "-i", &id, "wc", "-c"], &[b'x'; 200_000])
            .await
            .ok(),
        "200000"
    );
    assert_eq!(
        engine
            .docker(&["exec", &id, "sh", "-c", "echo no >&2; exit 3"])
            .await
            .fails(3),
        "no\n"
    );
    // The engine tells why in the stream.
    for (program, code, words) in [
        ("nothing-like-it", 126, "not found"),
        ("/etc/passwd", 126, "permission denied"),
    ] {
        let outcome = engine.docker(&["exec", &id, program]).await;
        assert_eq!(outcome.code, code, "{}", outcome.err);
        assert!(outcome.out.contains(words), "{}", outcome.out);
    }
    engine
        .docker(&["exec", "-d", &id, "touch", "/tmp/made"])
        .await
        .ok();
    let made = [
        "exec",
        &id,
        "sh",
        "-c",
        "until [ -e /tmp/made ]; do sleep 0.05; done; echo yes",
    ];
    assert_eq!(engine.docker(&made).await.ok(), "yes");
    let mut terminal = engine.docker_terminal(&["exec", "-it", &id, "sh"]);
    terminal.see("#");
    terminal.enter("stty size; echo m$((40+2))k\n");
    terminal.see("m42k");
    terminal.enter("exit 8\n");
    assert_eq!(terminal.end().0, 8);
    engine.finish().await;
}
