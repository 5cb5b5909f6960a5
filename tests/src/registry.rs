//! Registries for tests: Debian's docker-registry, and one that answers as it is told.

use std::{
    collections::HashMap,
    fs,
    net::TcpListener as Port,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinHandle,
};

use crate::{
    client::PATIENCE,
    image::{Compression, Image, digest},
};

/// Media type of an OCI manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of Docker's manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A running docker-registry with its own storage; ends when dropped.
#[derive(Debug)]
pub struct DockerRegistry {
    /// `127.0.0.1:port`.
    pub authority: String,
    child: Child,
    root: TempDir,
}

impl DockerRegistry {
    /// Starts one. `settings` are added to its configuration, in YAML, with `{root}` for its directory.
    ///
    /// # Panics
    /// If docker-registry is not installed or does not start.
    pub async fn start(http: &str, settings: &str) -> Self {
        Self::with_files(http, settings, &[]).await
    }

    /// The same, with files in its directory.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn with_files(http: &str, settings: &str, files: &[(&str, &[u8])]) -> Self {
        let root = tempfile::Builder::new()
            .prefix("berth-registry-")
            .tempdir()
            .expect("a directory");
        let port = Port::bind("127.0.0.1:0")
            .and_then(|port| port.local_addr())
            .expect("a port")
            .port();
        let authority = format!("127.0.0.1:{port}");
        let at = root.path().display();
        for (name, bytes) in files {
            fs::write(root.path().join(name), bytes).expect("a file");
        }
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {at}/data}}, delete: {{enabled: true}}}}\n\
             http:\n  addr: {authority}\n{}{}",
            http.replace("{root}", &at.to_string()),
            settings.replace("{root}", &at.to_string())
        );
        let path = root.path().join("config.yml");
        fs::write(&path, text).expect("a configuration");
        let log = fs::File::create(root.path().join("log")).expect("a log");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot run docker-registry: {error}; on Debian: apt-get install docker-registry")
            });
        let registry = Self {
            authority,
            child,
            root,
        };
        registry.await_ready().await;
        registry
    }

    async fn await_ready(&self) {
        let answers = async {
            while TcpStream::connect(&self.authority).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, answers).await.is_err() {
            let log = fs::read_to_string(self.root.path().join("log")).unwrap_or_default();
            panic!("docker-registry does not answer; its log:\n{log}");
        }
    }

    /// The name of a repository there.
    pub fn name(&self, repository: &str) -> String {
        format!("{}/{repository}", self.authority)
    }

    /// Where it keeps things.
    pub fn root(&self) -> PathBuf {
        self.root.path().to_owned()
    }

    /// Ends it.
    ///
    /// # Panics
    /// If it cannot be waited for.
    pub async fn stop(mut self) {
        self.child.kill().await.expect("it can be killed");
    }
}

/// A request that a [`Scripted`] registry has got.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: HashMap<String, String>,
    /// How often the same was asked before.
    pub before: usize,
    /// The body.
    pub body: Vec<u8>,
}

impl Asked {
    /// A header; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Whether a blob is asked for, and which.
    pub fn blob(&self) -> Option<&str> {
        self.path
            .split_once("/blobs/")
            .map(|(_, digest)| digest)
            .filter(|d| d.starts_with("sha256:"))
    }

    /// Whether a manifest is asked for, and which.
    pub fn manifest(&self) -> Option<&str> {
        self.path
            .split_once("/manifests/")
            .map(|(_, reference)| reference)
    }
}

/// How a body is sent.
#[derive(Clone, Copy, Debug, Default)]
pub enum Send {
    /// Whole.
    #[default]
    Whole,
    /// So many bytes of it; then the connection is closed.
    Close(usize),
    /// So many bytes of it; then the connection is reset.
    Reset(usize),
    /// So many bytes of it; then nothing any more.
    Stall(usize),
    /// In chunks, without a length, for ever.
    Endless,
    /// In chunks, without a length.
    Chunked,
}

/// An answer of a [`Scripted`] registry.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Headers besides the length.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// How it is sent.
    pub send: Send,
    /// The length that is told, if it is not the body's.
    pub length: Option<usize>,
}

impl Answer {
    /// An answer with this status and body.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    /// An error of the registry.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        let body = json!({"errors": [{"code": code, "message": message, "detail": null}]});
        Self::new(status, body.to_string()).header("Content-Type", "application/json")
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends the body in another way.
    #[must_use]
    pub fn sent(mut self, send: Send) -> Self {
        self.send = send;
        self
    }
}

/// What a [`Scripted`] registry holds.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// By digest.
    pub blobs: HashMap<String, Vec<u8>>,
    /// By tag and by digest: media type and bytes.
    pub manifests: HashMap<String, (String, Vec<u8>)>,
}

impl Content {
    /// Adds a blob and gives its descriptor.
    pub fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let name = digest(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": name, "size": bytes.len()});
        self.blobs.insert(name, bytes);
        descriptor
    }

    /// Adds a document under a tag and its digest, and gives its descriptor.
    pub fn document(&mut self, tag: &str, media_type: &str, document: &Value) -> Value {
        let bytes = document.to_string().into_bytes();
        let name = digest(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": name, "size": bytes.len()});
        self.manifests
            .insert(name, (media_type.to_owned(), bytes.clone()));
        self.manifests
            .insert(tag.to_owned(), (media_type.to_owned(), bytes));
        descriptor
    }

    /// Adds an image and gives the descriptor of its manifest.
    pub fn image(&mut self, tag: &str, image: &Image, compression: Compression) -> Value {
        let manifest = self.manifest(image, compression);
        self.document(tag, MANIFEST, &manifest)
    }

    /// Adds the parts of an image and gives its manifest.
    pub fn manifest(&mut self, image: &Image, compression: Compression) -> Value {
        let layers: Vec<Value> = image
            .layers
            .iter()
            .map(|layer| {
                let media_type = format!("application/vnd.oci.image.layer.v1.tar{}", compression.suffix());
                self.blob(&media_type, compression.apply(layer))
            })
            .collect();
        let config = self.blob("application/vnd.oci.image.config.v1+json", image.configuration());
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers})
    }
}

type Script = dyn Fn(&Asked, &Content) -> Option<Answer> + std::marker::Send + Sync;

struct Shared {
    content: Content,
    script: Box<Script>,
    asked: Mutex<Vec<Asked>>,
}

/// A registry that answers as its script says, and as a registry does where that says nothing.
pub struct Scripted {
    /// `127.0.0.1:port`.
    pub authority: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Scripted {
    /// Starts one.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start(
        content: Content,
        script: impl Fn(&Asked, &Content) -> Option<Answer> + std::marker::Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let authority = listener.local_addr().expect("an address").to_string();
        let shared = Arc::new(Shared {
            content,
            script: Box::new(script),
            asked: Mutex::default(),
        });
        let of_task = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&of_task)));
            }
        });
        Self {
            authority,
            shared,
            task,
        }
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    while let Some(asked) = read_request(&mut stream).await {
        let asked = {
            let mut log = shared.asked.lock().unwrap_or_else(PoisonError::into_inner);
            let before = log
                .iter()
                .filter(|a| a.path == asked.path && a.method == asked.method)
                .count();
            let asked = Asked { before, ..asked };
            log.push(asked.clone());
            asked
        };
        let answer = (shared.script)(&asked, &shared.content);
        let answer = answer.unwrap_or_else(|| usual(&asked, &shared.content));
        if !write_answer(&mut stream, &asked, answer).await {
            return;
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        // What begins like TLS is none of ours.
        if bytes.first() == Some(&0x16) || bytes.len() > 1 << 16 {
            return None;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(bytes.get(..end)?).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next()?.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = headers
        .get("content-length")
        .and_then(|l| l.parse().ok())
        .unwrap_or(0);
    let mut body = bytes.get(end + 4..)?.to_vec();
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Asked {
        method,
        path,
        headers,
        before: 0,
        body,
    })
}

/// What a registry answers.
pub fn usual(asked: &Asked, content: &Content) -> Answer {
    if asked.path == "/v2/" {
        return Answer::new(200, "{}");
    }
    if let Some(reference) = asked.manifest() {
        return match content.manifests.get(reference) {
            Some((media_type, bytes)) => Answer::new(200, bytes.clone())
                .header("Content-Type", media_type)
                .header("Docker-Content-Digest", &digest(bytes)),
            None => Answer::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        };
    }
    if let Some(bytes) = asked.blob().and_then(|name| content.blobs.get(name)) {
        return ranged(asked, bytes);
    }
    if asked.path.ends_with("/tags/list") {
        let tags: Vec<&String> = content.manifests.keys().filter(|k| !k.contains(':')).collect();
        return Answer::new(200, json!({"name": "x", "tags": tags}).to_string());
    }
    Answer::error(404, "BLOB_UNKNOWN", "blob unknown to registry")
}

/// A blob, or the part of it that is asked for.
pub fn ranged(asked: &Asked, bytes: &[u8]) -> Answer {
    let from = asked
        .header("range")
        .strip_prefix("bytes=")
        .and_then(|range| range.strip_suffix('-')?.parse::<usize>().ok());
    match from {
        None => Answer::new(200, bytes),
        Some(from) if from < bytes.len() => Answer::new(206, &bytes[from..]).header(
            "Content-Range",
            &format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()),
        ),
        Some(_) => Answer::new(416, ""),
    }
}

/// Whether the connection goes on.
async fn write_answer(stream: &mut TcpStream, asked: &Asked, answer: Answer) -> bool {
    let mut head = format!("HTTP/1.1 {} x\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let chunked = matches!(answer.send, Send::Endless | Send::Chunked);
    match chunked {
        true => head.push_str("Transfer-Encoding: chunked\r\n\r\n"),
        false => head.push_str(&format!(
            "Content-Length: {}\r\n\r\n",
            answer.length.unwrap_or(answer.body.len())
        )),
    }
    if stream.write_all(head.as_bytes()).await.is_err() {
        return false;
    }
    if asked.method == "HEAD" {
        return true;
    }
    let part = |n: usize| answer.body.get(..n.min(answer.body.len())).unwrap_or_default();
    match answer.send {
        Send::Whole => stream.write_all(&answer.body).await.is_ok() && answer.length.is_none(),
        Send::Close(n) => {
            let _ = stream.write_all(part(n)).await;
            let _ = stream.shutdown().await;
            false
        }
        Send::Reset(n) => {
            let _ = stream.write_all(part(n)).await;
            let _ = stream.flush().await;
            let _ = rustix::net::sockopt::set_socket_linger(&*stream, Some(Duration::ZERO));
            false
        }
        Send::Stall(n) => {
            let _ = stream.write_all(part(n)).await;
            // Until the other side has had enough.
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            false
        }
        Send::Chunked => {
            for chunk in answer.body.chunks(1000) {
                let head = format!("{:x}\r\n", chunk.len());
                let piece = [head.as_bytes(), chunk, b"\r\n"].concat();
                if stream.write_all(&piece).await.is_err() {
                    return false;
                }
            }
            stream.write_all(b"0\r\n\r\n").await.is_ok()
        }
        Send::Endless => {
            let chunk = [&b"10000\r\n"[..], &vec![b' '; 0x10000], b"\r\n"].concat();
            while stream.write_all(&chunk).await.is_ok() {}
            false
        }
    }
}
