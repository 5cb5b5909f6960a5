//! Connections that stop being HTTP: attach and exec start; and requests written by hand.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use crate::{
    client::{Client, PATIENCE},
    contract::{Body, Contract, Head},
    stream::{Decoder, Frame, Output, frames},
};

/// How a client asks for the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `Connection: Upgrade`; the answer is 101.
    Upgrade,
    /// Nothing; the answer is 200 and the other protocol follows.
    Plain,
}

/// A connection after the engine's answer.
#[derive(Debug)]
pub struct Connection {
    /// Status and headers of the answer.
    pub head: Head,
    /// How the contract has the rest.
    pub rule: Body,
    stream: UnixStream,
    buffer: Vec<u8>,
    decoder: Decoder,
}

impl Client {
    /// Sends a POST whose answer takes the connection over.
    ///
    /// # Panics
    /// If there is no answer or its head breaks the contract.
    pub async fn hijack(&self, path: &str, body: Option<&Value>, dialect: Dialect) -> Connection {
        let target = self.target(path);
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut text = format!(
            "POST {target} HTTP/1.1\r\nHost: docker\r\nContent-Length: {}\r\n",
            body.len()
        );
        if !body.is_empty() {
            text += "Content-Type: application/json\r\n";
        }
        if dialect == Dialect::Upgrade {
            text += "Connection: Upgrade\r\nUpgrade: tcp\r\n";
        }
        let connection = self.by_hand(format!("{text}\r\n{body}").as_bytes()).await;
        let contract = Contract::shared();
        let asked = contract.locate(&Method::POST, &target);
        let (rule, violations) = contract.check_head(&asked, &connection.head);
        violations.enforce(&format!("{} ({})", asked.line, connection.head.status));
        Connection { rule, ..connection }
    }

    /// Sends bytes as they are and reads the head of what comes back. Nothing is checked.
    ///
    /// # Panics
    /// If no HTTP answer comes.
    pub async fn by_hand(&self, request: &[u8]) -> Connection {
        let mut stream = UnixStream::connect(self.socket())
            .await
            .unwrap_or_else(|error| panic!("cannot connect to {}: {error}", self.socket().display()));
        // The engine may refuse and close before it has read everything; its answer is still to be read then.
        let _ = stream.write_all(request).await;
        let mut buffer = Vec::new();
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end;
            }
            let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut buffer)).await;
            match read.unwrap_or_else(|_| panic!("no answer within {PATIENCE:?}")) {
                Ok(length) if length > 0 => {}
                other => panic!("no answer: {other:?}, got {:?}", String::from_utf8_lossy(&buffer)),
            }
        };
        let rest = buffer.split_off(end + 4);
        let head = parse_head(&String::from_utf8_lossy(&buffer));
        Connection {
            head,
            rule: Body::Bytes,
            stream,
            buffer: rest,
            decoder: Decoder::default(),
        }
    }
}

fn parse_head(text: &str) -> Head {
    let mut lines = text.trim_end().split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok());
    let status: StatusCode = status.unwrap_or_else(|| panic!("not an HTTP answer: {text:?}"));
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .unwrap_or_else(|| panic!("not a header: {line:?}"));
        let name: HeaderName = name.parse().unwrap_or_else(|_| panic!("not a header: {line:?}"));
        headers.append(
            name,
            HeaderValue::from_str(value.trim()).expect("a header's value"),
        );
    }
    Head { status, headers }
}

impl Connection {
    /// Fails unless the answer has this status.
    ///
    /// # Panics
    /// That is what it is for.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(
            self.head.status.as_u16(),
            status,
            "{}",
            String::from_utf8_lossy(&self.buffer)
        );
        self
    }

    /// Sends input.
    ///
    /// # Panics
    /// If the engine has gone.
    pub async fn write(&mut self, bytes: &[u8]) {
        self.stream
            .write_all(bytes)
            .await
            .expect("the engine takes input");
    }

    /// Ends the input; output can still come.
    ///
    /// # Panics
    /// If the engine has gone.
    pub async fn close_write(&mut self) {
        self.stream.shutdown().await.expect("the connection is open");
    }

    /// More bytes into the buffer; `false` at the end.
    async fn fill(&mut self) -> bool {
        match tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await {
            Ok(Ok(length)) => length > 0,
            Ok(Err(error)) => panic!("the connection broke: {error}"),
            Err(_) => panic!(
                "nothing came within {PATIENCE:?}; so far {:?}",
                String::from_utf8_lossy(&self.buffer)
            ),
        }
    }

    /// All that comes until the engine closes.
    pub async fn read_to_end(mut self) -> Vec<u8> {
        while self.fill().await {}
        self.buffer
    }

    /// What processes wrote until the engine closes, out of frames.
    ///
    /// # Panics
    /// If it is not made of frames.
    pub async fn output(self) -> Output {
        let bytes = self.read_to_end().await;
        Output::of(
            &frames(&bytes).unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&bytes))),
        )
    }

    /// The next frame; none when the engine has closed.
    ///
    /// # Panics
    /// If there are no frames.
    pub async fn frame(&mut self) -> Option<Frame> {
        loop {
            self.decoder.push(&std::mem::take(&mut self.buffer));
            if let Some(frame) = self.decoder.frame().unwrap_or_else(|error| panic!("{error}")) {
                return Some(frame);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// Raw output up to and including `text`.
    ///
    /// # Panics
    /// If the engine closes before.
    pub async fn until(&mut self, text: &str) -> String {
        loop {
            let found = self
                .buffer
                .windows(text.len())
                .position(|bytes| bytes == text.as_bytes());
            if let Some(start) = found {
                let rest = self.buffer.split_off(start + text.len());
                let front = std::mem::replace(&mut self.buffer, rest);
                return String::from_utf8_lossy(&front).into_owned();
            }
            let more = self.fill().await;
            assert!(
                more,
                "{text:?} did not come, but {:?}",
                String::from_utf8_lossy(&self.buffer)
            );
        }
    }
}
