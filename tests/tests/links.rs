//! Links: legacy ones of the default network, and those of endpoints in networks of users.

use berth_tests::Engine;
use serde_json::{Value, json};

use super::networks::{SERVE, ask, fetch, on};

/// A server that stays, and exposes ports.
async fn child(engine: &Engine, name: &str) -> String {
    let mut config = on("bridge", SERVE);
    config["Hostname"] = json!("inner");
    config["Env"] = json!(["SECRET=gordon", "PATH=/bin:/sbin:/usr/bin:/usr/sbin"]);
    config["ExposedPorts"] = json!({"80/tcp": {}, "53/udp": {}});
    let id = engine.api.create_named(name, &config).await;
    engine.api.start(&id).await;
    engine.api.await_output(&id, "ready").await;
    id
}

fn linking(links: &[&str], text: &str) -> Value {
    let mut config = on("bridge", text);
    config["HostConfig"]["Links"] = json!(links);
    config
}

async fn address(engine: &Engine, id: &str) -> String {
    let shown = engine.api.inspect(id).await;
    let address = shown["NetworkSettings"]["IPAddress"].as_str();
    address.expect("an address").to_owned()
}

/// What a command in a running container prints.
async fn inside(engine: &Engine, id: &str, text: &str) -> String {
    engine.docker(&["exec", id, "sh", "-c", text]).await.ok()
}

#[tokio::test]
async fn a_linked_container_is_known_by_variables_files_and_names() {
    let mut engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = child(&engine, "store").await;
    let parent = engine
        .api
        .create_named(
            "web",
            &linking(&["store:my-db", "store"], "env; echo ready; sleep 1000"),
        )
        .await;
    engine.api.start(&parent).await;
    let env = engine.api.await_output(&parent, "ready").await;
    let at = address(&engine, &id).await;
    for line in [
        format!("MY_DB_PORT=udp://{at}:53"),
        format!("MY_DB_PORT_80_TCP=tcp://{at}:80"),
        format!("MY_DB_PORT_80_TCP_ADDR={at}"),
        "MY_DB_PORT_80_TCP_PORT=80".to_owned(),
        "MY_DB_PORT_53_UDP_PROTO=udp".to_owned(),
        "MY_DB_NAME=/web/my-db".to_owned(),
        "MY_DB_ENV_SECRET=gordon".to_owned(),
        "STORE_NAME=/web/store".to_owned(),
    ] {
        assert!(env.lines().any(|one| one == line), "{line}:\n{env}");
    }
    assert!(!env.contains("MY_DB_ENV_PATH"), "{env}");
    let hosts = inside(&engine, &parent, "cat /etc/hosts; echo $MY_DB_NAME").await;
    assert!(hosts.contains(&format!("{at}\tmy-db inner store\n")), "{hosts}");
    assert!(hosts.contains(&format!("{at}\tstore inner\n")), "{hosts}");
    assert!(hosts.ends_with("/web/my-db"), "{hosts}");
    inside(&engine, &parent, &ask("my-db")).await;

    let shown = engine.api.inspect(&parent).await["HostConfig"]["Links"].clone();
    assert_eq!(shown, json!(["/store:/web/my-db", "/store:/web/store"]));
    let names = json!(["/store", "/web/my-db", "/web/store"]);
    let listed = async |engine: &Engine| {
        let list = engine.api.get("/containers/json").await.expect(200).json();
        let own = list
            .as_array()
            .and_then(|list| list.iter().find(|one| one["Id"] == json!(id)));
        own.expect("the child")["Names"].clone()
    };
    assert_eq!(listed(&engine).await, names);
    assert_eq!(engine.api.inspect("web/my-db").await["Id"], json!(id));

    // The child comes back with another address, and the parent finds it there. What users wrote stays.
    inside(&engine, &parent, "echo '192.0.2.1 mine' >> /etc/hosts").await;
    engine.api.post("/containers/store/stop?t=0").await.expect(204);
    let other = engine.api.launch(&on("bridge", "sleep 1000")).await;
    engine.api.start("store").await;
    assert_eq!(address(&engine, &other).await, at);
    let moved = address(&engine, &id).await;
    assert_ne!(moved, at);
    let hosts = inside(&engine, &parent, "cat /etc/hosts").await;
    assert!(
        hosts.contains(&format!("{moved}\tmy-db inner store\n")),
        "{hosts}"
    );
    assert!(hosts.contains("192.0.2.1 mine"), "{hosts}");

    // All of that outlives the engine, and goes along with the parent's name.
    engine.crash().await;
    assert_eq!(listed(&engine).await, names);
    engine
        .api
        .post("/containers/web/rename?name=site")
        .await
        .expect(204);
    assert_eq!(
        listed(&engine).await,
        json!(["/store", "/site/my-db", "/site/store"])
    );
    engine
        .api
        .delete("/containers/site/my-db?link=1")
        .await
        .expect(204);
    engine
        .api
        .delete("/containers/site/my-db?link=1")
        .await
        .expect(404);
    engine.api.delete("/containers/site?link=1").await.expect(409);
    assert_eq!(listed(&engine).await, json!(["/store", "/site/store"]));
    let hosts = inside(&engine, &parent, "cat /etc/hosts").await;
    assert!(!hosts.contains("my-db") && hosts.contains("mine"), "{hosts}");
    engine.docker(&["rm", "--link", "/site/store"]).await.ok();
    assert_eq!(
        engine.api.inspect(&parent).await["HostConfig"]["Links"],
        Value::Null
    );

    engine
        .api
        .post_json("/containers/create", &linking(&["nobody"], "true"))
        .await
        .expect(400);
    engine.api.post("/containers/store/stop?t=0").await.expect(204);
    let late = engine
        .api
        .create_named("late", &linking(&["store:x"], "true"))
        .await;
    let refused = engine
        .api
        .post(&format!("/containers/{late}/start"))
        .await
        .expect(409);
    assert_eq!(
        refused.message(),
        "Cannot link to a non running container: /store AS /late/x"
    );
    engine.api.remove("store").await;
    assert_eq!(
        engine.api.inspect(&late).await["HostConfig"]["Links"],
        Value::Null
    );
    engine.api.start(&late).await;
    engine.finish().await;
}

#[tokio::test]
async fn links_open_ports_where_containers_are_kept_apart() {
    let mut engine = Engine::options().flag("--icc=false").start().await;
    engine.api.load_busybox().await;
    let id = child(&engine, "store").await;
    let at = address(&engine, &id).await;
    let elsewhere = "httpd -p 81 -h /w";
    inside(&engine, &id, elsewhere).await;
    assert!(
        fetch(&format!("{at}:81"))
            .await
            .expect("an answer")
            .contains("hello")
    );
    let (code, _) = engine.api.run(&on("bridge", &ask(&at))).await;
    assert_ne!(code, 0);
    let parent = engine
        .api
        .launch(&linking(&["store:db"], "echo ready; sleep 1000"))
        .await;
    engine.api.await_output(&parent, "ready").await;
    inside(&engine, &parent, &ask("db")).await;
    let refused = format!("! {}", super::networks::ask_port("db", 81));
    inside(&engine, &parent, &refused).await;
    engine.crash().await;
    inside(&engine, &parent, &ask("db")).await;
    let (code, _) = engine.api.run(&on("bridge", &ask(&at))).await;
    assert_ne!(code, 0);
    // A child that comes back elsewhere is reached there; who has its old address is not.
    engine.api.post("/containers/store/stop?t=0").await.expect(204);
    let other = engine.api.launch(&on("bridge", SERVE)).await;
    engine.api.await_output(&other, "ready").await;
    assert_eq!(address(&engine, &other).await, at);
    engine.api.start("store").await;
    inside(
        &engine,
        &parent,
        &format!("until {}; do sleep 0.1; done", ask("db")),
    )
    .await;
    inside(&engine, &parent, &format!("! {}", ask(&at))).await;
    engine.api.remove(&parent).await;
    let (code, _) = engine.api.run(&on("bridge", &ask(&at))).await;
    assert_ne!(code, 0);
    engine.finish().await;
}

#[tokio::test]
async fn links_in_networks_of_users_are_names_for_one_alone() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    engine
        .api
        .post_json("/networks/create", &json!({"Name": "front"}))
        .await
        .expect(201);
    let id = engine.api.create_named("store", &on("front", SERVE)).await;
    engine.api.start(&id).await;
    engine.api.await_output(&id, "ready").await;
    let mut config = on("front", &format!("{} && {}", ask("db"), ask("db.front")));
    config["NetworkingConfig"] = json!({"EndpointsConfig": {"front": {"Links": ["store:db"]}}});
    let linked = engine.api.create(&config).await;
    engine.api.start(&linked).await;
    assert_eq!(engine.api.wait(&linked).await, 0);
    let shown = engine.api.inspect(&linked).await;
    assert_eq!(
        shown["NetworkSettings"]["Networks"]["front"]["Links"],
        json!(["store:db"])
    );
    let (code, _) = engine.api.run(&on("front", &ask("db"))).await;
    assert_ne!(code, 0);
    engine
        .docker(&[
            "run",
            "--rm",
            "--network",
            "front",
            "--link",
            "store:data",
            "busybox",
            "sh",
            "-c",
            &ask("data"),
        ])
        .await
        .ok();
    config["NetworkingConfig"] = json!({"EndpointsConfig": {"front": {"Links": ["a:b:c"]}}});
    engine
        .api
        .post_json("/containers/create", &config)
        .await
        .expect(400);
    engine.finish().await;
}
