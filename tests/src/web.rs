//! Web servers with little on them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::image::digest;

/// When what is served was last changed, as servers say it.
pub const LAST_MODIFIED: &str = "Wed, 21 Oct 2015 07:28:00 GMT";

/// Answers as long as it lives.
#[derive(Debug)]
pub struct Web {
    address: SocketAddr,
    content: Arc<Mutex<Content>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Content {
    /// By path; without any everything is `whatever`.
    files: BTreeMap<String, Vec<u8>>,
    whatever: Vec<u8>,
    /// Status and path of each answer.
    answers: Vec<(u16, String)>,
}

impl Web {
    /// Serves `body` on a free port of the loopback, whatever is asked for.
    ///
    /// # Panics
    /// If there is none.
    pub async fn serve(body: Vec<u8>) -> Self {
        Self::start(Content {
            whatever: body,
            ..Content::default()
        })
        .await
    }

    /// Serves files by their paths, with a tag and a date each. Those below `private/` are for the bearer of "pass-word".
    ///
    /// # Panics
    /// As [`Self::serve`].
    pub async fn files<N: Into<String>>(files: impl IntoIterator<Item = (N, Vec<u8>)>) -> Self {
        Self::start(Content {
            files: files
                .into_iter()
                .map(|(name, bytes)| (name.into(), bytes))
                .collect(),
            ..Content::default()
        })
        .await
    }

    async fn start(content: Content) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let content = Arc::new(Mutex::new(content));
        let served = Arc::clone(&content);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A client that breaks off is no matter of the server's.
                let _ = answer(client, &served).await;
            }
        });
        Self {
            address,
            content,
            task,
        }
    }

    /// The address of `name` on it.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// Puts another file in the place of one.
    pub fn change(&self, name: &str, bytes: &[u8]) {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        content.files.insert(name.to_owned(), bytes.to_vec());
    }

    /// Status and path of each answer so far.
    pub fn answers(&self) -> Vec<(u16, String)> {
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        content.answers.clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut client: TcpStream, content: &Mutex<Content>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 64 << 10 {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let (head, body) = {
        let mut content = content.lock().unwrap_or_else(PoisonError::into_inner);
        reply(&mut content, &head)
    };
    client.write_all(head.as_bytes()).await?;
    client.write_all(&body).await?;
    client.shutdown().await
}

fn reply(content: &mut Content, asked: &str) -> (String, Vec<u8>) {
    let path = asked.split(' ').nth(1).unwrap_or_default();
    let path = path
        .split('?')
        .next()
        .unwrap_or_default()
        .trim_start_matches('/')
        .to_owned();
    let known = asked.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("if-none-match: ")
            .map(str::to_owned)
    });
    let mut more = String::new();
    let (status, body) = match content.files.get(&path) {
        _ if content.files.is_empty() => (200, content.whatever.clone()),
        None => (404, Vec::new()),
        Some(_) if path.starts_with("private/") && !asked.contains("Bearer pass-word") => (401, Vec::new()),
        Some(bytes) => {
            let tag = format!("\"{}\"", digest(bytes));
            more = format!("ETag: {tag}\r\nLast-Modified: {LAST_MODIFIED}\r\n");
            match known {
                Some(known) if known == tag => (304, Vec::new()),
                _ => (200, bytes.clone()),
            }
        }
    };
    content.answers.push((status, path));
    let head = format!(
        "HTTP/1.1 {status} OK\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    (head, body)
}
