//! The engine dies and comes back: nothing that ran stops, nothing that was written is lost.

use berth_tests::{
    Engine,
    client::query,
    container::{STAY, busybox, shell},
    hijack::Dialect,
};
use http::Method;
use serde_json::{Value, json};

/// A container that stays, and counts on its standard output what it reads.
fn counter() -> Value {
    let mut config = shell(
        "trap 'exit 9' TERM; echo ready; n=0; while read line; do n=$((n+1)); echo $n $line; done; exit 5",
    );
    config["OpenStdin"] = json!(true);
    config
}

#[tokio::test]
async fn what_runs_goes_on_under_the_same_pid() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.create_named("stays", &shell(STAY)).await;
    engine.api.start(&id).await;
    engine.api.await_output(&id, "ready").await;
    let before = engine.api.inspect(&id).await;
    for crash in [true, false, true] {
        if crash {
            engine.crash().await;
        } else {
            engine.restart().await;
        }
        let after = engine.api.inspect("stays").await;
        assert_eq!(after["State"], before["State"]);
        assert_eq!(after["Config"], before["Config"]);
        assert_eq!(after["HostConfig"], before["HostConfig"]);
        assert_eq!(engine.api.names("").await, ["stays"]);
    }
    engine
        .api
        .post(&format!("/containers/{id}/stop?t=30"))
        .await
        .expect(204);
    assert_eq!(engine.api.inspect(&id).await["State"]["ExitCode"], 0);
    engine.finish().await;
}

#[tokio::test]
async fn what_ended_meanwhile_has_its_code_and_its_log() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    // A pipe in a bind tells the container to go on, without any engine.
    let gate = engine.root().join("gate");
    std::fs::create_dir(&gate).expect("a directory");
    rustix::fs::mkfifoat(rustix::fs::CWD, gate.join("pipe"), 0o600.into()).expect("a pipe");
    let mut config = shell("echo before; cat /gate/pipe; echo after; exit 42");
    config["HostConfig"]["Binds"] = json!([format!("{}:/gate", gate.display())]);
    let id = engine.api.launch(&config).await;
    engine.api.await_output(&id, "before").await;
    let pid = engine.api.inspect(&id).await["State"]["Pid"]
        .as_i64()
        .expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid.try_into().expect("a pid")).expect("a pid");
    let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("it runs");

    engine.kill9().await;
    std::fs::write(gate.join("pipe"), "gone\n").expect("the container reads");
    let mut ended = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut ended, None).expect("the container ends");
    engine.launch_again().await;

    assert_eq!(engine.api.wait(&id).await, 42);
    let state = engine.api.inspect(&id).await["State"].clone();
    assert_eq!(state["Status"], "exited");
    assert_eq!(state["ExitCode"], 42);
    assert!(state["FinishedAt"].as_str().expect("a time") > state["StartedAt"].as_str().expect("a time"));
    assert_eq!(engine.api.logs(&id).await.out, "before\ngone\nafter\n");
    engine.api.start(&id).await;
    engine.finish().await;
}

#[tokio::test]
async fn standard_input_and_attach_work_again() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.launch(&counter()).await;
    let path = format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1");
    let mut attached = engine.api.hijack(&path, None, Dialect::Upgrade).await.expect(101);
    attached.write(b"one\n").await;
    attached.until("1 one\n").await;
    engine.crash().await;
    let mut attached = engine.api.hijack(&path, None, Dialect::Upgrade).await.expect(101);
    attached.write(b"two\n").await;
    attached.until("2 two\n").await;
    drop(attached);
    assert_eq!(engine.api.logs(&id).await.out, "ready\n1 one\n2 two\n");
    let mut follow = engine
        .api
        .call(
            Method::GET,
            &format!("/containers/{id}/logs?stdout=1&follow=1&tail=0"),
        )
        .open()
        .await;
    engine
        .api
        .post(&format!("/containers/{id}/kill"))
        .await
        .expect(204);
    assert_eq!(follow.frame().await, None);
    assert_eq!(engine.api.wait(&id).await, 137);
    engine.finish().await;
}

#[tokio::test]
async fn waits_and_ends_are_seen_after_a_crash() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.launch(&shell(STAY)).await;
    engine.api.await_output(&id, "ready").await;
    engine.crash().await;
    let path = format!("/containers/{id}/wait");
    let wait = engine.api.call(Method::POST, &path).open().await.expect(200);
    engine
        .api
        .post(&format!("/containers/{id}/kill?signal=TERM"))
        .await
        .expect(204);
    assert_eq!(wait.finish().await.json(), json!({"StatusCode": 0}));
    engine.finish().await;
}

#[tokio::test]
async fn auto_remove_is_made_good() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = shell(STAY);
    config["HostConfig"]["AutoRemove"] = json!(true);
    let id = engine.api.launch(&config).await;
    engine.api.await_output(&id, "ready").await;
    let pid = engine.api.inspect(&id).await["State"]["Pid"]
        .as_i64()
        .expect("a pid");
    engine.kill9().await;
    let pid = nix::unistd::Pid::from_raw(pid.try_into().expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
    engine.launch_again().await;
    // Whatever moment the engine learns of the end: the container goes.
    let reply = engine
        .api
        .post(&format!("/containers/{id}/wait?condition=removed"))
        .await;
    assert!([200, 404].contains(&reply.status().as_u16()), "{}", reply.text());
    engine
        .api
        .get(&format!("/containers/{id}/json"))
        .await
        .expect(404);
    engine.finish().await;
}

#[tokio::test]
async fn everything_that_was_answered_is_there_after_a_crash() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut ids = Vec::new();
    for number in 0..10 {
        ids.push(
            engine
                .api
                .create_named(&format!("kept{number}"), &busybox(&["true"]))
                .await,
        );
        if number % 3 == 0 {
            engine.crash().await;
        }
    }
    engine
        .api
        .post(&format!("/containers/{}/rename?name=renamed", ids[0]))
        .await
        .expect(204);
    engine.api.remove(&ids[1]).await;
    engine.crash().await;
    let mut names = engine.api.names("?all=1").await;
    names.sort();
    let expected: Vec<String> = (2..10)
        .map(|number| format!("kept{number}"))
        .chain(["renamed".to_owned()])
        .collect();
    assert_eq!(names, expected);
    for id in &ids[2..] {
        engine.api.start(id).await;
        assert_eq!(engine.api.wait(id).await, 0);
    }
    engine.finish().await;
}

#[tokio::test]
async fn a_kill_in_the_middle_leaves_no_half_container() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    // The engine dies while lives are at every stage; each container is then either there and whole, or not there.
    for round in 0..5_u32 {
        let socket = engine.api.socket().to_owned();
        let lives = tokio::spawn(async move {
            let http = berth_tests::Client::new(socket);
            for _ in 0..1000 {
                // The client panics when the engine dies under it; that ends this task.
                let id = http.launch(&shell("exit 0")).await;
                http.wait(&id).await;
                http.remove(&id).await;
            }
        });
        // Let it get going: as many containers as there are rounds.
        let mut events = engine.api.call(Method::GET, "/events").open().await.expect(200);
        for _ in 0..(round * 7 + 3) {
            events.record().await.expect("an event");
        }
        engine.crash().await;
        assert!(lives.await.is_err(), "the engine was killed under its client");
        let list = engine.api.get("/containers/json?all=1").await.expect(200).json();
        for container in list.as_array().expect("a list") {
            let id = container["Id"].as_str().expect("an id");
            let state = engine.api.inspect(id).await["State"].clone();
            if state["Status"] == "created" {
                engine.api.start(id).await;
            }
            assert_eq!(engine.api.wait(id).await, 0, "{state}");
            engine.api.delete(&format!("/containers/{id}")).await.expect(204);
        }
    }
    engine.finish().await;
}

#[tokio::test]
async fn restart_policies_are_kept_over_a_restart_of_the_engine() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    let with = |name: &str| {
        let mut config = shell(STAY);
        config["HostConfig"]["RestartPolicy"] = json!({"Name": name});
        config
    };
    for (name, policy) in [
        ("always", "always"),
        ("unless", "unless-stopped"),
        ("never", "no"),
    ] {
        let reply = engine
            .api
            .post_json(&format!("/containers/create?name={name}"), &with(policy))
            .await;
        if reply.status() == 501 {
            return engine.finish().await;
        }
        assert_eq!(reply.status(), 201, "{}", reply.text());
        engine.api.start(name).await;
        engine.api.await_output(name, "ready").await;
        engine
            .api
            .post(&format!("/containers/{name}/stop?t=30"))
            .await
            .expect(204);
    }
    let before = jiff::Timestamp::now().to_string();
    engine.restart().await;
    // It may take a moment after readiness until it is started again.
    if engine.api.names("").await.is_empty() {
        let wanted = json!({"event": ["start"]}).to_string();
        let path = format!("/events{}", query(&[("since", &before), ("filters", &wanted)]));
        let mut events = engine.api.call(Method::GET, &path).open().await.expect(200);
        events.record().await.expect("a start");
    }
    assert_eq!(engine.api.names("").await, ["always"]);
    engine.finish().await;
}
