//! HTTP over the unix socket. Every reply is held to the contract before a test sees it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::{Frame as BodyFrame, Incoming};
use hyper_util::{client::legacy, rt::TokioExecutor};
use hyperlocal::UnixConnector;
use serde_json::Value;

use crate::{
    contract::{Body, Contract, Head, Violations},
    stream::{Decoder, Frame, Output, frames},
};

/// How long a test waits for a reply or a piece of one. Nothing is measured by it: it turns a hanging engine into a
/// failed test.
pub const PATIENCE: Duration = Duration::from_secs(60);

type Pieces = std::pin::Pin<Box<dyn Stream<Item = std::io::Result<BodyFrame<Bytes>>> + Send + Sync>>;
type Outgoing = Either<Full<Bytes>, StreamBody<Pieces>>;

/// A client of one engine.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    prefix: String,
    http: legacy::Client<UnixConnector, Outgoing>,
}

/// A request that is being put together.
#[derive(Debug)]
pub struct Call<'a> {
    client: &'a Client,
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Client {
    /// A client of the engine that listens on `socket`. Paths go without a version.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        let http = legacy::Client::builder(TokioExecutor::new()).build(UnixConnector);
        Self {
            socket: socket.into(),
            prefix: String::new(),
            http,
        }
    }

    /// The same client, asking for one version, such as `1.24`.
    #[must_use]
    pub fn at(&self, version: &str) -> Self {
        Self {
            prefix: format!("/v{version}"),
            ..self.clone()
        }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `path` with the version in front.
    pub(crate) fn target(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// Begins a request.
    pub fn call(&self, method: Method, path: &str) -> Call<'_> {
        Call {
            client: self,
            method,
            target: self.target(path),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Reply {
        self.call(Method::GET, path).send().await
    }

    /// HEAD.
    pub async fn head(&self, path: &str) -> Reply {
        self.call(Method::HEAD, path).send().await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Reply {
        self.call(Method::DELETE, path).send().await
    }

    /// POST without a body.
    pub async fn post(&self, path: &str) -> Reply {
        self.call(Method::POST, path).send().await
    }

    /// POST of a JSON value.
    pub async fn post_json(&self, path: &str, body: &Value) -> Reply {
        self.call(Method::POST, path).json(body).send().await
    }

    /// POST of an archive.
    pub async fn post_tar(&self, path: &str, body: impl Into<Bytes>) -> Reply {
        self.call(Method::POST, path)
            .header("content-type", "application/x-tar")
            .bytes(body)
            .send()
            .await
    }

    async fn transmit(&self, request: Request<Outgoing>) -> http::Response<Incoming> {
        let line = format!("{} {}", request.method(), request.uri().path());
        match tokio::time::timeout(PATIENCE, self.http.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => panic!("{line}: no reply: {error:?}"),
            Err(_) => panic!("{line}: no reply within {PATIENCE:?}"),
        }
    }
}

impl Call<'_> {
    /// Adds a header.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers
            .append(name, value.parse().expect("a header's value"));
        self
    }

    /// A JSON body with its content type.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json")
            .bytes(body.to_string())
    }

    /// A body as it is.
    #[must_use]
    pub fn bytes(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    fn request(&self, body: Outgoing) -> Request<Outgoing> {
        let uri: http::Uri = hyperlocal::Uri::new(&self.client.socket, &self.target).into();
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// Sends it and reads the whole reply.
    ///
    /// # Panics
    /// If there is no reply or it breaks the contract.
    pub async fn send(self) -> Reply {
        self.open().await.finish().await
    }

    /// Sends it and gives the reply as soon as its head has come.
    ///
    /// # Panics
    /// If there is no reply or its head breaks the contract.
    pub async fn open(self) -> Streaming {
        let request = self.request(Either::Left(Full::new(self.body.clone())));
        self.receive(request).await
    }

    /// Sends it to an engine that may die of it; none if there is no whole reply.
    ///
    /// # Panics
    /// If the reply breaks the contract, or neither a reply nor the end of the connection comes.
    pub async fn attempt(self) -> Option<Reply> {
        let contract = Contract::shared();
        let asked = contract.locate(&self.method, &self.target);
        let request = self.request(Either::Left(Full::new(self.body.clone())));
        let exchange = async {
            let (parts, body) = self.client.http.request(request).await.ok()?.into_parts();
            let bytes = body.collect().await.ok()?.to_bytes();
            Some((
                Head {
                    status: parts.status,
                    headers: parts.headers,
                },
                bytes,
            ))
        };
        let line = &asked.line;
        let reply = tokio::time::timeout(PATIENCE, exchange).await;
        let (head, bytes) = reply.unwrap_or_else(|_| panic!("{line}: no reply within {PATIENCE:?}"))?;
        let (rule, violations) = contract.check_head(&asked, &head);
        let what = format!("{line} ({}, {:?})", head.status, String::from_utf8_lossy(&bytes));
        violations.enforce(&what);
        contract.check_body(&rule, &bytes).enforce(&what);
        Some(Reply {
            line: asked.line,
            head,
            bytes,
        })
    }

    /// Sends it and gives what came, whatever it is, and everything that is wrong with it. A body that goes on is left
    /// after `patience`, and then not checked.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn probe(self, patience: Duration) -> Result<(Head, Bytes, Violations), String> {
        let contract = Contract::shared();
        let asked = contract.locate(&self.method, &self.target);
        let request = self.request(Either::Left(Full::new(self.body.clone())));
        let response = match tokio::time::timeout(PATIENCE, self.client.http.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(format!("no reply: {error:?}")),
            Err(_) => return Err(format!("no reply within {PATIENCE:?}")),
        };
        let (parts, mut body) = response.into_parts();
        let head = Head {
            status: parts.status,
            headers: parts.headers,
        };
        let (rule, mut violations) = contract.check_head(&asked, &head);
        let mut bytes = Vec::new();
        let read = async {
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame?.into_data() {
                    bytes.extend_from_slice(&data);
                }
            }
            Ok::<_, hyper::Error>(())
        };
        let ended = tokio::time::timeout(patience, read).await;
        match ended {
            Ok(Ok(())) => violations.0.extend(contract.check_body(&rule, &bytes).0),
            Ok(Err(error)) => violations.add(format!("the body broke: {error:?}")),
            Err(_) => {}
        }
        Ok((head, bytes.into(), violations))
    }

    /// Sends a body in chunks, without a length, as it is produced.
    ///
    /// # Panics
    /// If there is no reply or it breaks the contract.
    pub async fn send_chunks<S>(self, chunks: S) -> Reply
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static,
    {
        use futures_util::StreamExt;
        let pieces: Pieces = Box::pin(chunks.map(|piece| piece.map(BodyFrame::data)));
        let request = self.request(Either::Right(StreamBody::new(pieces)));
        self.receive(request).await.finish().await
    }

    async fn receive(self, request: Request<Outgoing>) -> Streaming {
        let contract = Contract::shared();
        let asked = contract.locate(&self.method, &self.target);
        let (parts, body) = self.client.transmit(request).await.into_parts();
        let head = Head {
            status: parts.status,
            headers: parts.headers,
        };
        let (rule, violations) = contract.check_head(&asked, &head);
        if !violations.is_empty() {
            // A stream may never end; of an error there is a short body.
            let text = match head.status.is_success() {
                true => Bytes::new(),
                false => body
                    .collect()
                    .await
                    .map(|body| body.to_bytes())
                    .unwrap_or_default(),
            };
            violations.fail(&format!(
                "{} ({}, {:?})",
                asked.line,
                head.status,
                String::from_utf8_lossy(&text)
            ));
        }
        Streaming {
            line: asked.line,
            head,
            rule,
            body,
            buffer: Vec::new(),
            decoder: Decoder::default(),
        }
    }
}

/// A whole reply.
#[derive(Clone, Debug)]
pub struct Reply {
    line: String,
    /// Status and headers.
    pub head: Head,
    /// The body.
    pub bytes: Bytes,
}

impl Reply {
    /// Fails unless the reply has this status.
    ///
    /// # Panics
    /// That is what it is for.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert!(
            self.head.status.as_u16() == status,
            "{}: answered {} where {status} is due: {}",
            self.line,
            self.head.status,
            self.text()
        );
        self
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|error| panic!("{}: not JSON: {error}: {}", self.line, self.text()))
    }

    /// The `message` of an error.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn message(&self) -> String {
        match self.json()["message"].as_str() {
            Some(text) => text.to_owned(),
            None => panic!("{}: no message in {}", self.line, self.text()),
        }
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The records of a stream that has ended.
    ///
    /// # Panics
    /// If a record is not JSON.
    #[track_caller]
    pub fn records(&self) -> Vec<Value> {
        serde_json::Deserializer::from_slice(&self.bytes)
            .into_iter()
            .map(|record| record.unwrap_or_else(|error| panic!("{}: {error}: {}", self.line, self.text())))
            .collect()
    }

    /// What processes wrote, out of the frames of a stream that has ended.
    ///
    /// # Panics
    /// If it is not made of frames.
    #[track_caller]
    pub fn output(&self) -> Output {
        Output::of(&frames(&self.bytes).unwrap_or_else(|error| panic!("{}: {error}", self.line)))
    }
}

/// A reply whose body is read bit by bit.
#[derive(Debug)]
pub struct Streaming {
    line: String,
    /// Status and headers.
    pub head: Head,
    rule: Body,
    body: Incoming,
    buffer: Vec<u8>,
    decoder: Decoder,
}

impl Streaming {
    /// Fails unless the reply has this status.
    ///
    /// # Panics
    /// That is what it is for.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert!(
            self.head.status.as_u16() == status,
            "{}: answered {} where {status} is due",
            self.line,
            self.head.status
        );
        self
    }

    /// The next bytes; none at the end.
    ///
    /// # Panics
    /// If the stream breaks, or nothing comes for long.
    pub async fn bytes(&mut self) -> Option<Bytes> {
        loop {
            match tokio::time::timeout(PATIENCE, self.body.frame()).await {
                Err(_) => panic!("{}: nothing came within {PATIENCE:?}", self.line),
                Ok(None) => return None,
                Ok(Some(Err(error))) => panic!("{}: the stream broke: {error:?}", self.line),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Some(data),
                    _ => {}
                },
            }
        }
    }

    /// The next record; none at the end.
    ///
    /// # Panics
    /// If it is not JSON or breaks the contract.
    pub async fn record(&mut self) -> Option<Value> {
        loop {
            let mut values = serde_json::Deserializer::from_slice(&self.buffer).into_iter::<Value>();
            match values.next() {
                Some(Ok(value)) => {
                    let used = values.byte_offset();
                    self.buffer.drain(..used);
                    Contract::shared()
                        .check_record(&self.rule, &value)
                        .enforce(&self.line);
                    return Some(value);
                }
                Some(Err(error)) if !error.is_eof() => panic!("{}: a record is not JSON: {error}", self.line),
                _ => {}
            }
            match self.bytes().await {
                Some(more) => self.buffer.extend_from_slice(&more),
                None if self.buffer.iter().all(u8::is_ascii_whitespace) => return None,
                None => panic!("{}: the stream ends within a record", self.line),
            }
        }
    }

    /// The next frame of process output; none at the end.
    ///
    /// # Panics
    /// If there are no frames.
    pub async fn frame(&mut self) -> Option<Frame> {
        loop {
            match self.decoder.frame() {
                Ok(Some(frame)) => return Some(frame),
                Ok(None) => {}
                Err(error) => panic!("{}: {error}", self.line),
            }
            match self.bytes().await {
                Some(more) => self.decoder.push(&more),
                None if self.decoder.is_empty() => return None,
                None => panic!("{}: the stream ends within a frame", self.line),
            }
        }
    }

    /// Reads to the end and checks the whole.
    ///
    /// # Panics
    /// If the body breaks the contract.
    pub async fn finish(mut self) -> Reply {
        let mut bytes = std::mem::take(&mut self.buffer);
        while let Some(more) = self.bytes().await {
            bytes.extend_from_slice(&more);
        }
        let violations: Violations = Contract::shared().check_body(&self.rule, &bytes);
        violations.enforce(&format!("{} ({})", self.line, self.head.status));
        Reply {
            line: self.line,
            head: self.head,
            bytes: bytes.into(),
        }
    }
}

/// A query string of these pairs, `?` included, escaped.
pub fn query(pairs: &[(&str, &str)]) -> String {
    let escape = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    char::from(byte).to_string()
                }
                other => format!("%{other:02X}"),
            })
            .collect()
    };
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{}={}", escape(name), escape(value)))
        .collect();
    format!("?{}", pairs.join("&"))
}

/// A query string with `filters` as JSON.
pub fn filters(value: &Value) -> String {
    query(&[("filters", &value.to_string())])
}
