//! Building images, and what a build told.

use serde_json::Value;

use crate::{Engine, client::query, image::Tar};

/// What a build told: its text, its error, the code of a failed command, and the ids of images.
#[derive(Debug)]
pub struct Told {
    /// All text.
    pub text: String,
    /// What went wrong, if something did.
    pub error: String,
    /// The exit code of the command that failed.
    pub code: i64,
    /// The images of the stages; the last one is the result.
    pub ids: Vec<String>,
}

impl Told {
    /// Reads the records of a build.
    pub fn of(records: &[Value]) -> Self {
        let text = |name: &str| {
            records
                .iter()
                .filter_map(|r| r[name].as_str())
                .collect::<String>()
        };
        let last = records.last().cloned().unwrap_or_default();
        let ids = records.iter().filter_map(|r| r["aux"]["ID"].as_str());
        Self {
            text: text("stream"),
            error: text("error"),
            code: last["errorDetail"]["code"].as_i64().unwrap_or_default(),
            ids: ids.map(str::to_owned).collect(),
        }
    }

    /// The text of a build that went well.
    ///
    /// # Panics
    /// If it did not.
    pub fn ok(self) -> String {
        assert_eq!(self.error, "", "{}", self.text);
        assert!(self.text.contains("Successfully built "), "{}", self.text);
        self.text
    }

    /// The error of a build that went wrong.
    ///
    /// # Panics
    /// If it went well.
    pub fn fails(self) -> String {
        assert!(!self.error.is_empty(), "{}", self.text);
        self.error
    }
}

/// A context with this Dockerfile.
pub fn dockerfile(text: &str) -> Tar {
    Tar::new().file("Dockerfile", 0o644, text)
}

/// An engine with busybox.
pub async fn started() -> Engine {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    engine
}

impl Engine {
    /// Builds an image; what is told is text, not a status.
    ///
    /// # Panics
    /// If the request is refused.
    pub async fn build(&self, parameters: &[(&str, &str)], context: Tar) -> Told {
        let path = format!("/build{}", query(parameters));
        let reply = self.api.post_tar(&path, context.finish()).await.expect(200);
        Told::of(&reply.records())
    }

    /// The message of a build that is refused.
    ///
    /// # Panics
    /// If it is not.
    pub async fn build_refused(
        &self,
        parameters: &[(&str, &str)],
        context: impl Into<bytes::Bytes>,
    ) -> String {
        let path = format!("/build{}", query(parameters));
        self.api.post_tar(&path, context).await.expect(400).message()
    }

    /// What `command` writes in a container of the image.
    ///
    /// # Panics
    /// If it fails.
    pub async fn read_in(&self, image: &str, command: &str) -> String {
        let mut config = crate::container::shell(command);
        config["Image"] = image.into();
        config["User"] = "0".into();
        config["Entrypoint"] = serde_json::json!([]);
        let id = self.api.launch(&config).await;
        let code = self.api.wait(&id).await;
        let output = self.api.logs(&id).await;
        self.api.remove(&id).await;
        assert_eq!(code, 0, "{command}: {output:?}");
        output.out
    }
}
