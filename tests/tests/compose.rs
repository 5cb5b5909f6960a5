//! Compose v2 as its makers build it, with files that nobody has changed for this engine. `$COMPOSE` says where the
//! program is; `tests/compose.sh` fetches it, which not every machine can, so these tests run when they are asked for:
//! `COMPOSE=$(tests/compose.sh) cargo test -p berth-tests --test blackbox -- --ignored compose::`.

use std::{ffi::OsString, path::Path, process::Stdio};

use berth_tests::{Engine, client::PATIENCE};

use super::networks::fetch;

const FILE: &str = r#"
name: demo
services:
  db:
    image: busybox
    command: sh -c 'mkdir -p /data /w; echo db > /w/index.html; echo start >> /data/log; exec httpd -f -p 80 -h /w'
    volumes: [data:/data]
    networks:
      back: {aliases: [database]}
    healthcheck:
      test: ["CMD-SHELL", "wget -q -O- http://127.0.0.1/ | grep -q db"]
      interval: 200ms
      timeout: 5s
      retries: 50
  app:
    image: busybox
    command: sh -c 'mkdir /w; (cat /run/secrets/token /conf; wget -q -O- http://database/) > /w/index.html; exec httpd -f -p 80 -h /w'
    depends_on:
      db: {condition: service_healthy}
    networks: [front, back]
    secrets: [token]
    configs: [{source: conf, target: /conf}]
  web:
    image: busybox
    command: sh -c 'mkdir /w; until wget -q -O /w/index.html http://backend/; do sleep 0.1; done; echo ready; exec httpd -f -p 80 -h /w'
    depends_on: [app]
    links: ["app:backend"]
    networks: [front]
    ports: ["127.0.0.1::80"]
  once:
    build: .
    profiles: [tools]
networks:
  front: {}
  back: {internal: true}
volumes:
  data: {}
secrets:
  token: {file: ./token}
configs:
  conf: {file: ./conf}
"#;

struct Compose<'a> {
    engine: &'a Engine,
    program: OsString,
}

impl<'a> Compose<'a> {
    fn new(engine: &'a Engine) -> Self {
        let program = std::env::var_os("COMPOSE").expect("COMPOSE names the program");
        Self { engine, program }
    }

    fn directory(&self) -> &Path {
        self.engine.root()
    }

    /// Runs a command of Compose and gives all that it prints.
    async fn run(&self, words: &[&str]) -> String {
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(["--ansi", "never"])
            .args(words)
            .current_dir(self.directory())
            .env(
                "DOCKER_HOST",
                format!("unix://{}", self.engine.api.socket().display()),
            )
            .env("DOCKER_CONFIG", self.directory().join("docker"))
            .env("DOCKER_BUILDKIT", "0")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE * 4, command.output()).await;
        let output = output.expect("an end").expect("the program");
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{words:?}: {text}\n{}",
            self.engine.log()
        );
        text
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory().join(name), text).expect("a file");
    }

    /// What the service `web` says to the host.
    async fn answer(&self) -> String {
        let address = self.run(&["port", "web", "80"]).await;
        let mut last = Err(std::io::ErrorKind::NotConnected.into());
        for _ in 0..200 {
            last = fetch(address.trim()).await;
            if last.is_ok() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        last.expect("an answer")
    }
}

#[tokio::test]
#[ignore = "needs Compose: see the top of this file"]
async fn a_project_lives_as_its_file_says() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let compose = Compose::new(&engine);
    for (name, text) in [
        ("compose.yaml", FILE),
        ("token", "s3cret\n"),
        ("conf", "setting\n"),
        (
            "Dockerfile",
            "FROM busybox\nRUN echo made > /made\nCMD cat /made\n",
        ),
    ] {
        compose.write(name, text);
    }
    compose.run(&["up", "-d"]).await;
    let answer = compose.answer().await;
    assert!(answer.ends_with("s3cret\nsetting\ndb\n"), "{answer}");
    let shown = compose
        .run(&["ps", "--format", "{{.Service}} {{.State}} {{.Health}}"])
        .await;
    assert!(
        shown.contains("db running healthy") && shown.contains("web running"),
        "{shown}"
    );
    assert!(compose.run(&["logs", "web"]).await.contains("ready"));
    assert!(
        compose
            .run(&["exec", "-T", "app", "cat", "/conf"])
            .await
            .contains("setting")
    );
    assert!(compose.run(&["top", "web"]).await.contains("httpd"));
    compose.run(&["cp", "token", "web:/tmp/copied"]).await;
    assert!(
        compose
            .run(&["exec", "-T", "web", "cat", "/tmp/copied"])
            .await
            .contains("s3cret")
    );
    assert!(compose.run(&["run", "--rm", "-T", "app", "hostname"]).await.len() > 12);

    compose.run(&["up", "-d", "--scale", "app=3"]).await;
    let found = compose
        .run(&["exec", "-T", "web", "nslookup", "-type=a", "app"])
        .await;
    assert_eq!(found.matches("Name:\tapp").count(), 3, "{found}");
    compose.run(&["pause", "app"]).await;
    compose.run(&["unpause", "app"]).await;
    compose.run(&["restart", "-t", "0", "db"]).await;
    let log = compose.run(&["exec", "-T", "db", "cat", "/data/log"]).await;
    assert_eq!(log.matches("start").count(), 2, "{log}");
    compose.run(&["up", "-d", "--force-recreate", "-t", "0"]).await;
    assert!(compose.answer().await.ends_with("db\n"));

    let built = compose
        .run(&["--profile", "tools", "up", "--no-log-prefix", "once"])
        .await;
    assert!(built.contains("made"), "{built}");
    compose
        .run(&["--profile", "tools", "down", "-v", "-t", "0"])
        .await;
    for path in ["/containers/json?all=1", "/volumes"] {
        let left = engine.api.get(path).await.expect(200).json();
        assert!(
            left == serde_json::json!([]) || left["Volumes"] == serde_json::json!([]),
            "{left}"
        );
    }
    let networks = engine.api.get("/networks").await.expect(200).json();
    assert_eq!(networks.as_array().map(Vec::len), Some(3));
    engine.finish().await;
}

#[tokio::test]
#[ignore = "needs Compose: see the top of this file"]
async fn ten_services_at_once() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let compose = Compose::new(&engine);
    let mut file = "name: many\nservices:\n".to_owned();
    for number in 0..10 {
        file += &format!("  s{number}:\n    image: busybox\n    command: sleep 1000\n    init: true\n");
    }
    compose.write("compose.yaml", &file);
    compose.run(&["up", "-d"]).await;
    for number in 0..10 {
        let next = format!("s{}", (number + 1) % 10);
        compose
            .run(&["exec", "-T", &format!("s{number}"), "ping", "-c1", "-W5", &next])
            .await;
    }
    compose.run(&["down", "-t", "0"]).await;
    engine.finish().await;
}
