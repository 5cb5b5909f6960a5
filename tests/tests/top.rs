//! Top: the processes of a container.

use berth_tests::{
    Engine,
    client::query,
    container::{STAY, busybox, shell},
};
use serde_json::{Value, json};

/// Ready when its child is what it is to be.
const TEXT: &str = "sleep 1000 & until grep -q sleep /proc/$!/comm; do :; done; echo ready; wait";

#[tokio::test]
async fn processes_are_listed_as_ps_does() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = shell(TEXT);
    config["User"] = json!("0");
    let id = engine.api.launch(&config).await;
    engine.api.await_output(&id, "ready").await;
    let top = async |arguments: &str| {
        let path = format!("/containers/{id}/top{}", query(&[("ps_args", arguments)]));
        engine.api.get(&path).await.expect(200).json()
    };
    let all = engine
        .api
        .get(&format!("/containers/{id}/top"))
        .await
        .expect(200)
        .json();
    let titles = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
    assert_eq!(all["Titles"], json!(titles));
    let processes = all["Processes"].as_array().expect("a list");
    let command = |row: &Value| row[7].as_str().expect("a text").to_owned();
    let commands: Vec<_> = processes.iter().map(command).collect();
    assert_eq!(commands, [format!("sh -c {TEXT}").as_str(), "sleep 1000"]);
    let pid = engine.api.inspect(&id).await["State"]["Pid"].to_string();
    assert_eq!(
        (&processes[0][0], &processes[0][1]),
        (&json!("root"), &json!(pid))
    );
    assert_eq!(processes[1][2], json!(pid));

    let aux = top("aux").await;
    assert_eq!(aux["Titles"][2], "%CPU");
    assert_eq!(aux["Processes"][1][10], "sleep 1000");
    let own = top("-o pid,comm=NAME").await;
    assert_eq!(own["Titles"], json!(["PID", "NAME"]));
    assert_eq!(own["Processes"], json!([[pid, "sh"], [processes[1][1], "sleep"]]));
    for (arguments, words) in [
        ("-eo comm", "Couldn't find PID field in ps output"),
        ("-eo nothing", "error running ps"),
        ("--nothing", "error running ps"),
    ] {
        let path = format!("/containers/{id}/top{}", query(&[("ps_args", arguments)]));
        let refused = engine.api.get(&path).await.expect(500);
        assert!(refused.message().contains(words), "{}", refused.message());
    }
    let out = engine.docker(&["top", &id, "-o", "pid,args"]).await.ok();
    assert!(out.contains("COMMAND") && out.contains("sleep 1000"), "{out}");
    engine.finish().await;
}

#[tokio::test]
async fn what_does_not_run_has_no_processes() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.create(&busybox(&["true"])).await;
    engine.api.get(&format!("/containers/{id}/top")).await.expect(409);
    engine.api.get("/containers/nothing/top").await.expect(404);
    let paused = engine.api.launch(&shell(STAY)).await;
    engine
        .api
        .post(&format!("/containers/{paused}/pause"))
        .await
        .expect(204);
    engine
        .api
        .get(&format!("/containers/{paused}/top"))
        .await
        .expect(200);
    engine.finish().await;
}
