//! Connections as clients see them, over a socket pair instead of a listener.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Bytes, routing};
use berth_api::TakeoverSlot;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    task::JoinHandle,
};

use super::{
    Peer, Server,
    connection::{self, Limits},
    guard::Guard,
};

const PEER: Peer = Peer::Local { uid: 0, pid: None };

fn app() -> Router {
    Router::new()
        .route("/echo", routing::post(|body: Bytes| async move { body }))
        .route(
            "/stream",
            routing::get(|| async {
                let endless = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
                axum::body::Body::from_stream(endless)
            }),
        )
        .route(
            "/slow",
            routing::get(|| async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                "done"
            }),
        )
        .route(
            "/slot",
            routing::get(|request: axum::extract::Request| async move {
                format!("{}", request.extensions().get::<TakeoverSlot>().is_some())
            }),
        )
}

fn connect(server: &Server, guard: Guard) -> (UnixStream, JoinHandle<()>) {
    let (client, stream) = UnixStream::pair().unwrap();
    let server = Arc::new(server.clone());
    let limits = Limits { guard, idle: None };
    let task = tokio::spawn(async move { connection::serve(&server, stream, PEER, limits).await });
    (client, task)
}

async fn exchange(guard: Guard, request: &str) -> String {
    let (mut client, task) = connect(&Server::new(app()), guard);
    client.write_all(request.as_bytes()).await.unwrap();
    let answer = response(&mut client).await;
    drop(client);
    task.await.unwrap();
    answer
}

/// Reads one response with `Content-Length`.
async fn response(client: &mut UnixStream) -> String {
    let mut seen = Vec::new();
    loop {
        let mut byte = [0];
        client.read_exact(&mut byte).await.unwrap();
        seen.extend(byte);
        if seen.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    let head = String::from_utf8(seen).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    client.read_exact(&mut body).await.unwrap();
    head + std::str::from_utf8(&body).unwrap()
}

#[tokio::test]
async fn a_connection_serves_request_after_request() {
    let (mut client, task) = connect(&Server::new(app()), Guard::None);
    for text in ["one", "two"] {
        let request = format!("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n{text}");
        client.write_all(request.as_bytes()).await.unwrap();
        let answer = response(&mut client).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(text),
            "{answer}"
        );
        assert!(answer.contains("X-Request-Id: "), "{answer}");
    }
    client
        .write_all(b"GET /slot HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    assert!(response(&mut client).await.ends_with("true"));
    drop(client);
    task.await.unwrap();
}

#[tokio::test]
async fn foreign_pages_get_403_and_no_further() {
    let request =
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\nContent-Length: 0\r\n\r\n";
    let answer = exchange(Guard::OriginAndHost, request).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(answer.contains("Content-Type: application/json\r\n"), "{answer}");
    assert!(answer.contains("{\"message\":\""), "{answer}");
    assert!(exchange(Guard::None, request).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn ambiguous_lengths_are_refused() {
    let both =
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert!(exchange(Guard::None, both).await.starts_with("HTTP/1.1 400 "));
    let two = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd";
    assert!(exchange(Guard::None, two).await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn a_huge_head_is_refused() {
    let request = format!(
        "GET /slot HTTP/1.1\r\nHost: x\r\nX-A: {}\r\n\r\n",
        "a".repeat(65 << 10)
    );
    assert!(exchange(Guard::None, &request).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn an_answer_arrives_though_the_body_is_still_being_sent() {
    let (mut client, _task) = connect(&Server::new(app()), Guard::OriginAndHost);
    let head = "POST /echo HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 10000000\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
    assert!(response(&mut client).await.starts_with("HTTP/1.1 403 "));
}

#[tokio::test]
async fn at_the_end_work_is_finished_and_streams_are_cut() {
    let server = Server::new(app());
    let (mut stream, _task) = connect(&server, Guard::None);
    stream
        .write_all(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut head = [0; 15];
    stream.read_exact(&mut head).await.unwrap();
    let (mut slow, _task) = connect(&server, Guard::None);
    slow.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    while server.requests.is_empty() {
        tokio::task::yield_now().await;
    }
    let answer = tokio::spawn(async move { response(&mut slow).await });
    server
        .finish(Duration::from_secs(60), std::future::pending())
        .await;
    assert!(answer.await.unwrap().ends_with("done"));
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
}

#[tokio::test]
async fn at_the_end_nobody_waits_longer_than_told() {
    let server = Server::new(app());
    let (mut slow, _task) = connect(&server, Guard::None);
    slow.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    while server.requests.is_empty() {
        tokio::task::yield_now().await;
    }
    server
        .finish(Duration::from_secs(60), std::future::ready(()))
        .await;
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}
