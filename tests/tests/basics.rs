//! Ping, versions, paths, headers, and the operations that answer without any container.

use berth_tests::{Client, Engine, contract::Contract};
use http::Method;
use serde_json::json;

#[tokio::test]
async fn ping_announces_the_engine() {
    let engine = Engine::start().await;
    for method in [Method::GET, Method::HEAD] {
        let reply = engine.api.call(method.clone(), "/_ping").send().await.expect(200);
        assert_eq!(reply.head.header("api-version"), "1.43");
        assert_eq!(reply.head.header("ostype"), "linux");
        assert_eq!(reply.head.header("docker-experimental"), "false");
        assert!(
            reply.head.header("server").starts_with("Docker/"),
            "{}",
            reply.head.header("server")
        );
        assert!(reply.head.header("server").ends_with(" (linux)"));
        assert_eq!(
            reply.head.header("cache-control"),
            "no-cache, no-store, must-revalidate"
        );
        assert_eq!(reply.head.header("pragma"), "no-cache");
        assert_eq!(reply.head.header("swarm"), "inactive");
        assert!(reply.head.header("content-type").starts_with("text/plain"));
        let body = if method == Method::GET { "OK" } else { "" };
        assert_eq!(reply.text(), body);
    }
    engine.finish().await;
}

#[tokio::test]
async fn versions_are_negotiated() {
    let engine = Engine::start().await;
    for version in ["1.24", "1.30", "1.40", "1.43", "1.24.0"] {
        let reply = engine.api.at(version).get("/version").await.expect(200).json();
        assert_eq!(reply["ApiVersion"], "1.43");
        assert_eq!(reply["MinAPIVersion"], "1.24");
    }
    for new in ["1.44", "1.99", "2.0"] {
        let message = engine
            .api
            .at(new)
            .get("/containers/json")
            .await
            .expect(400)
            .message();
        assert!(
            message.contains("too new") && message.contains(new) && message.contains("1.43"),
            "{message}"
        );
    }
    let message = engine.api.at("1.23").get("/_ping").await;
    assert_eq!(message.status(), 400);
    assert!(
        message.text().contains("too old") && message.text().contains("1.24"),
        "{}",
        message.text()
    );
    // 1.9 is less than 1.24: parts are numbers.
    assert!(engine.api.at("1.9").get("/info").await.text().contains("too old"));
    engine.finish().await;
}

#[tokio::test]
async fn an_operation_of_a_later_version_says_which() {
    let engine = Engine::start().await;
    let message = engine
        .api
        .at("1.24")
        .post("/containers/prune")
        .await
        .expect(400)
        .message();
    assert!(message.contains("1.25"), "{message}");
    engine.api.at("1.25").post("/containers/prune").await.expect(200);
    engine.finish().await;
}

#[tokio::test]
async fn unknown_paths_are_not_found() {
    let engine = Engine::start().await;
    let calls = [
        (Method::GET, "/"),
        (Method::GET, "/nothing"),
        (Method::GET, "/v1.43/nothing"),
        (Method::GET, "/v1.99/nothing"),
        (Method::GET, "/vx.y/info"),
        (Method::GET, "/v1.43"),
        (Method::POST, "/containers/json"),
        (Method::DELETE, "/info"),
        (Method::PUT, "/containers/create"),
        (Method::GET, "/containers/x/start"),
    ];
    for (method, path) in calls {
        let reply = engine.api.call(method, path).send().await.expect(404);
        assert_eq!(reply.message(), "page not found", "{path}");
    }
    engine.finish().await;
}

#[tokio::test]
async fn every_known_path_answers_with_the_version_headers() {
    let engine = Engine::start().await;
    // The contract check demands the headers of every reply; here it sees one of each plain GET.
    let paths = [
        "/info",
        "/version",
        "/containers/json",
        "/images/json",
        "/networks",
        "/volumes",
        "/plugins",
        "/system/df",
        "/containers/nothing/json",
        "/images/nothing/json",
        "/networks/nothing",
        "/volumes/nothing",
        "/exec/nothing/json",
    ];
    for path in paths {
        let reply = engine.api.get(path).await;
        assert!(
            [200, 404, 501].contains(&reply.status().as_u16()),
            "{path}: {}",
            reply.text()
        );
        assert!(
            reply.bytes.ends_with(b"\n"),
            "{path}: JSON bodies end in a newline"
        );
    }
    engine.finish().await;
}

#[tokio::test]
async fn options_answers_for_any_path() {
    let engine = Engine::start().await;
    for path in ["/info", "/nothing", "/v1.43/containers/x/json"] {
        let reply = engine.api.call(Method::OPTIONS, path).send().await.expect(200);
        assert!(reply.bytes.is_empty());
    }
    engine.finish().await;
}

#[tokio::test]
async fn version_and_info_describe_the_host() {
    let engine = Engine::start().await;
    let version = engine.api.get("/version").await.expect(200).json();
    assert_eq!(version["Os"], "linux");
    assert_eq!(version["Components"][0]["Name"], "Engine");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc");
    assert_eq!(version["KernelVersion"], kernel.trim());

    let info = engine.api.get("/info").await.expect(200).json();
    assert_eq!(info["OSType"], "linux");
    assert_eq!(info["KernelVersion"], kernel.trim());
    assert_eq!(info["DockerRootDir"], engine.data_root().to_str().expect("text"));
    assert_eq!(info["Containers"], 0);
    assert_eq!(info["Swarm"]["LocalNodeState"], "inactive");
    assert!(info["NCPU"].as_i64().expect("a number") > 0);
    assert!(info["MemTotal"].as_i64().expect("a number") > 0);
    assert_eq!(info["DefaultRuntime"], "runc");
    engine.finish().await;
}

#[tokio::test]
async fn the_engine_keeps_its_id() {
    let mut engine = Engine::start().await;
    let before = engine.api.get("/info").await.expect(200).json();
    engine.restart().await;
    let after = engine.api.get("/info").await.expect(200).json();
    assert_eq!(before["ID"], after["ID"]);
    engine.finish().await;
}

#[tokio::test]
async fn the_document_is_served() {
    let engine = Engine::start().await;
    let json = engine.api.get("/openapi.json").await.expect(200).json();
    let yaml = engine.api.get("/openapi.yaml").await.expect(200);
    let served: serde_json::Value = yaml_serde::from_str(&yaml.text()).expect("YAML");
    assert_eq!(served["openapi"], "3.1.0");
    assert_eq!(json["openapi"], "3.1.0");
    // Whatever is left out of a version, the operations of the newest are those of the document.
    let own = Contract::shared();
    for document in [&json, &served] {
        let paths = document["paths"].as_object().expect("paths");
        for operation in own.operations() {
            let method = operation.method.as_str().to_lowercase();
            assert!(
                paths[&operation.path].get(&method).is_some(),
                "{method} {} is not served",
                operation.path
            );
        }
    }
    engine.finish().await;
}

#[tokio::test]
async fn the_document_of_an_old_version_has_no_later_operations() {
    let engine = Engine::start().await;
    let old = engine
        .api
        .at("1.24")
        .get("/openapi.json")
        .await
        .expect(200)
        .json();
    assert!(old["paths"].get("/containers/prune").is_none());
    assert!(old["paths"].get("/containers/json").is_some());
    engine.finish().await;
}

#[tokio::test]
async fn cluster_operations_are_unavailable() {
    let engine = Engine::start().await;
    let get = [
        "/swarm",
        "/swarm/unlockkey",
        "/nodes",
        "/nodes/x",
        "/services",
        "/services/x",
        "/tasks",
        "/tasks/x",
        "/secrets",
        "/secrets/x",
        "/configs",
        "/configs/x",
    ];
    for path in get {
        let message = engine.api.get(path).await.expect(503).message();
        assert!(
            message.starts_with("This node is not a swarm manager."),
            "{path}: {message}"
        );
    }
    let message = engine.api.post("/swarm/leave").await.expect(503).message();
    assert!(message.contains("not part of a swarm"), "{message}");
    engine
        .api
        .post_json("/services/create", &json!({"Name": "x"}))
        .await
        .expect(503);
    engine.finish().await;
}

#[tokio::test]
async fn there_are_no_plugins() {
    let engine = Engine::start().await;
    assert_eq!(engine.api.get("/plugins").await.expect(200).json(), json!([]));
    engine.api.get("/plugins/nothing/json").await.expect(404);
    engine.finish().await;
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let engine = Engine::start().await;
    let request = "GET /_ping HTTP/1.1\r\nHost: whatever.example\r\n\r\n";
    let last = "GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let connection = engine
        .api
        .by_hand(format!("{request}{request}{last}").as_bytes())
        .await
        .expect(200);
    let rest = String::from_utf8(connection.read_to_end().await).expect("text");
    assert_eq!(rest.matches("HTTP/1.1 200 OK").count(), 2, "{rest}");
    assert_eq!(rest.matches("OK").count(), 2 + 3, "{rest}");
    engine.finish().await;
}

#[tokio::test]
async fn two_engines_do_not_see_each_other() {
    let (one, two) = (Engine::start().await, Engine::start().await);
    one.api.load_busybox().await;
    let config = berth_tests::container::shell("exit 0");
    one.api.create_named("mine", &config).await;
    assert_eq!(two.api.names("?all=1").await, Vec::<String>::new());
    two.api.get("/containers/mine/json").await.expect(404);
    let other = Client::new(two.api.socket());
    other
        .post_json("/containers/create?name=mine", &config)
        .await
        .expect(404);
    one.finish().await;
    two.finish().await;
}

#[tokio::test]
async fn a_second_engine_on_the_same_root_is_refused() {
    let engine = Engine::start().await;
    let output = tokio::process::Command::new(berth_tests::engine::berthd())
        .arg("--data-root")
        .arg(engine.data_root())
        .arg("--exec-root")
        .arg(engine.root().join("run2"))
        .arg("--host")
        .arg(format!("unix://{}", engine.root().join("second.sock").display()))
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(berth_tests::client::PATIENCE, output)
        .await
        .expect("it ends")
        .expect("it runs");
    assert!(!output.status.success(), "two engines on one data root");
    engine.api.get("/_ping").await.expect(200);
    engine.finish().await;
}
