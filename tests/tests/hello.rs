//! The image that comes with the engine.

use berth_tests::{Engine, stream::Output};
use serde_json::{Value, json};

fn hello(words: &[&str]) -> Value {
    json!({"Image": "berth/hello", "Cmd": words, "HostConfig": {"NetworkMode": "none"}})
}

#[tokio::test]
async fn it_is_there_and_runs() {
    let engine = Engine::start().await;
    let image = engine
        .api
        .get("/images/berth/hello/json")
        .await
        .expect(200)
        .json();
    assert_eq!(image["RepoTags"], json!(["berth/hello:latest"]));
    assert_eq!(image["Config"]["Entrypoint"], json!(["/hello"]));
    let mut config = hello(&[]);
    config["Hostname"] = json!("greeter");
    config["HostConfig"]["Memory"] = json!(64 << 20);
    let id = engine.api.launch(&config).await;
    assert_eq!(engine.api.wait(&id).await, 0);
    let Output { out, err } = engine.api.logs(&id).await;
    assert_eq!(err, "");
    assert!(out.starts_with("Hello from a container run by Berth.\n"), "{out}");
    for text in [
        "process       1 ",
        "host name     greeter\n",
        "uid=0(root)",
        "overlay",
        "seccomp       filter",
    ] {
        assert!(out.contains(text), "{text:?} is not in {out}");
    }
    engine.finish().await;
}

#[tokio::test]
async fn its_commands_work() {
    let engine = Engine::start().await;
    let run = async |words: &[&str]| {
        let (code, output) = engine.api.run(&hello(words)).await;
        (code, output.out)
    };
    assert_eq!(run(&["echo", "a", "b c"]).await, (0, "a b c\n".into()));
    assert_eq!(run(&["exit", "7"]).await, (7, String::new()));
    assert_eq!(run(&["false"]).await.0, 1);
    assert_eq!(
        run(&["id"]).await.1.trim_end(),
        "uid=0(root) gid=0(root) groups=0(root)"
    );
    assert_eq!(run(&["cat", "/etc/passwd"]).await.1.lines().count(), 2);
    let (code, processes) = run(&["ps"]).await;
    let lines: Vec<&str> = processes.lines().collect();
    assert_eq!((code, lines.len()), (0, 2), "{processes}");
    assert_eq!(
        lines[1].split_whitespace().collect::<Vec<_>>(),
        ["1", "root", "/hello", "ps"]
    );
    assert_eq!(run(&["nonsense"]).await.0, 127);
    engine.finish().await;
}

#[tokio::test]
async fn it_is_the_same_in_every_engine() {
    let (one, two) = (Engine::start().await, Engine::start().await);
    let id = async |engine: &Engine| {
        engine
            .api
            .get("/images/berth/hello/json")
            .await
            .expect(200)
            .json()["Id"]
            .clone()
    };
    assert_eq!(id(&one).await, id(&two).await);
    one.finish().await;
    two.finish().await;
}

#[tokio::test]
async fn once_removed_it_stays_removed() {
    let mut engine = Engine::start().await;
    engine.api.delete("/images/berth/hello").await.expect(200);
    engine.restart().await;
    engine.api.get("/images/berth/hello/json").await.expect(404);
    assert_eq!(engine.api.get("/images/json").await.expect(200).json(), json!([]));
    engine.finish().await;
}
