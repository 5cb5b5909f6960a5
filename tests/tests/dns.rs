//! Containers of a user-defined network know each other by name.

use berth_tests::Engine;
use serde_json::{Value, json};

use super::networks::on;

async fn network(engine: &Engine, body: &Value) {
    engine.api.post_json("/networks/create", body).await.expect(201);
}

/// A container that stays, is on `network`, and has an alias there.
async fn named(engine: &Engine, name: &str, network: &str) -> String {
    let mut config = on(network, "echo ready; exec sleep 1000");
    config["NetworkingConfig"] = json!({"EndpointsConfig": {network: {"Aliases": [format!("also-{name}")]}}});
    let id = engine.api.create_named(name, &config).await;
    engine.api.start(&id).await;
    engine.api.await_output(&id, "ready").await;
    id
}

async fn address(engine: &Engine, id: &str, network: &str) -> String {
    let inspected = engine.api.inspect(id).await;
    let address = &inspected["NetworkSettings"]["Networks"][network]["IPAddress"];
    address.as_str().expect("an address").to_owned()
}

async fn succeeds(engine: &Engine, network: &str, text: &str) {
    let (code, output) = engine.api.run(&on(network, text)).await;
    assert_eq!(code, 0, "{text}: {output:?}");
}

#[tokio::test]
async fn containers_know_each_other_by_name_also_after_a_crash() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    network(&engine, &json!({"Name": "front"})).await;
    network(&engine, &json!({"Name": "back", "Internal": true})).await;
    let id = named(&engine, "server", "front").await;
    named(&engine, "other", "back").await;
    let at = address(&engine, &id, "front").await;
    // Asks whenever a file of this name appears in the bind, and says so.
    let gate = engine.root().join("gate");
    std::fs::create_dir(&gate).expect("a directory");
    rustix::fs::mkfifoat(rustix::fs::CWD, gate.join("pipe"), 0o600.into()).expect("a pipe");
    let mut config = on(
        "front",
        "cat /gate/pipe; ping -c1 -W5 also-SERVER && echo found; exec sleep 1000",
    );
    config["HostConfig"]["Binds"] = json!([format!("{}:/gate", gate.display())]);
    let asker = engine.api.launch(&config).await;

    let short = &id[..12];
    succeeds(
        &engine,
        "front",
        "grep -q 'nameserver 127.0.0.11' /etc/resolv.conf",
    )
    .await;
    for name in ["server", "also-server", "SERVER.front", short] {
        succeeds(
            &engine,
            "front",
            &format!("nslookup -type=a {name} | grep -q {at}"),
        )
        .await;
        succeeds(&engine, "front", &format!("ping -c1 -W5 {name}")).await;
    }
    succeeds(
        &engine,
        "front",
        &format!("nslookup {at} | grep -q 'server.front'"),
    )
    .await;
    succeeds(&engine, "back", "nslookup -type=a other").await;
    // Nobody is asked about names that an internal network does not know.
    succeeds(&engine, "back", "nslookup -type=a server 2>&1 | grep -q NXDOMAIN").await;

    engine.crash().await;
    std::fs::write(gate.join("pipe"), "go\n").expect("the container reads");
    engine.api.await_output(&asker, "found").await;
    succeeds(&engine, "front", "ping -c1 -W5 server").await;
    engine.finish().await;
}
