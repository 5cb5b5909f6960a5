//! Shorthand for the life of a container.

use serde_json::{Value, json};

use crate::{
    client::{Client, query},
    image::Image,
    stream::Output,
};

/// A configuration that runs these words in `busybox`.
pub fn busybox(words: &[&str]) -> Value {
    json!({"Image": "busybox", "Cmd": words, "HostConfig": {"NetworkMode": "none"}})
}

/// A configuration that runs this text in the shell of `busybox`.
pub fn shell(text: &str) -> Value {
    busybox(&["sh", "-c", text])
}

/// A configuration with an open standard input.
pub fn interactive(mut config: Value, tty: bool) -> Value {
    for field in [
        "OpenStdin",
        "StdinOnce",
        "AttachStdin",
        "AttachStdout",
        "AttachStderr",
    ] {
        config[field] = json!(true);
    }
    config["Tty"] = json!(tty);
    config
}

/// A shell text that stays until SIGTERM and then ends with 0. Process 1 gets no signal it has no handler for.
pub const STAY: &str = "trap 'exit 0' TERM; echo ready; while :; do sleep 1 & wait $!; done";

impl Client {
    /// Loads an image.
    ///
    /// # Panics
    /// If the engine does not take it.
    pub async fn load(&self, image: &Image) {
        let reply = self
            .post_tar("/images/load", image.docker_archive())
            .await
            .expect(200);
        let refused = reply.records().iter().any(|record| record.get("error").is_some());
        assert!(!refused, "{}", reply.text());
    }

    /// Loads [`Image::busybox`].
    pub async fn load_busybox(&self) {
        self.load(&Image::busybox()).await;
    }

    /// Creates a container without a name of its own; gives its id.
    ///
    /// # Panics
    /// If the engine refuses.
    pub async fn create(&self, config: &Value) -> String {
        let reply = self.post_json("/containers/create", config).await.expect(201);
        reply.json()["Id"].as_str().expect("an id").to_owned()
    }

    /// Creates a container with a name; gives its id.
    ///
    /// # Panics
    /// If the engine refuses.
    pub async fn create_named(&self, name: &str, config: &Value) -> String {
        let path = format!("/containers/create{}", query(&[("name", name)]));
        let reply = self.post_json(&path, config).await.expect(201);
        reply.json()["Id"].as_str().expect("an id").to_owned()
    }

    /// Starts a container.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(&self, id: &str) {
        self.post(&format!("/containers/{id}/start")).await.expect(204);
    }

    /// Creates and starts a container; gives its id.
    pub async fn launch(&self, config: &Value) -> String {
        let id = self.create(config).await;
        self.start(&id).await;
        id
    }

    /// Waits until a container does not run; gives its exit code.
    ///
    /// # Panics
    /// If there is none.
    pub async fn wait(&self, id: &str) -> i64 {
        let reply = self.post(&format!("/containers/{id}/wait")).await.expect(200);
        reply.json()["StatusCode"].as_i64().expect("a code")
    }

    /// Creates, starts and waits; gives the exit code and the output.
    pub async fn run(&self, config: &Value) -> (i64, Output) {
        let id = self.launch(config).await;
        let code = self.wait(&id).await;
        (code, self.logs(&id).await)
    }

    /// Everything a container has written.
    ///
    /// # Panics
    /// If the logs cannot be read.
    pub async fn logs(&self, id: &str) -> Output {
        self.get(&format!("/containers/{id}/logs?stdout=1&stderr=1"))
            .await
            .expect(200)
            .output()
    }

    /// Waits until a container has written `text` to its standard output; gives all of it so far.
    ///
    /// # Panics
    /// If the container ends without.
    pub async fn await_output(&self, id: &str, text: &str) -> String {
        let path = format!("/containers/{id}/logs?stdout=1&follow=1");
        let mut stream = self.call(http::Method::GET, &path).open().await.expect(200);
        let mut seen = String::new();
        while !seen.contains(text) {
            match stream.frame().await {
                Some(frame) => seen += &String::from_utf8_lossy(&frame.payload),
                None => panic!("the container ended without writing {text:?}: {seen:?}"),
            }
        }
        seen
    }

    /// What inspect says.
    ///
    /// # Panics
    /// If there is no such container.
    pub async fn inspect(&self, id: &str) -> Value {
        self.get(&format!("/containers/{id}/json"))
            .await
            .expect(200)
            .json()
    }

    /// Removes a container, by force.
    ///
    /// # Panics
    /// If the engine refuses.
    pub async fn remove(&self, id: &str) {
        self.delete(&format!("/containers/{id}?force=1&v=1"))
            .await
            .expect(204);
    }

    /// The containers a list with this query shows, by name without the slash.
    ///
    /// # Panics
    /// If the engine refuses.
    pub async fn names(&self, query: &str) -> Vec<String> {
        let list = self
            .get(&format!("/containers/json{query}"))
            .await
            .expect(200)
            .json();
        let name = |container: &Value| {
            container["Names"][0]
                .as_str()
                .map(|name| name.trim_start_matches('/').to_owned())
        };
        list.as_array().expect("a list").iter().filter_map(name).collect()
    }
}
