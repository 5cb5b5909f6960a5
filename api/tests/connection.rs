//! What only shows on a connection: takeovers, early heads, and clients that go away.

#[allow(dead_code)]
mod support;

use berth_api::{TakeoverSlot, router};
use futures_util::StreamExt;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use support::Fake;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::JoinHandle,
};
use tower::{ServiceBuilder, ServiceExt, util::MapRequestLayer};

/// Serves one connection as the server does; the other end is the client's.
fn connect(engine: &Fake) -> (DuplexStream, JoinHandle<()>) {
    let (client, server) = tokio::io::duplex(64 << 10);
    let app = router(engine.clone());
    let served = tokio::spawn(async move {
        let slot = TakeoverSlot::default();
        let for_requests = slot.clone();
        let service = ServiceBuilder::new()
            .layer(MapRequestLayer::new(
                move |mut request: http::Request<hyper::body::Incoming>| {
                    request.extensions_mut().insert(for_requests.clone());
                    request.map(axum::body::Body::new)
                },
            ))
            .service(app.into_service());
        let connection = http1::Builder::new().serve_connection(
            TokioIo::new(server),
            TowerToHyperService::new(service.boxed_clone()),
        );
        let Ok(parts) = connection.without_shutdown().await else {
            return;
        };
        if let Some(taker) = slot.take() {
            taker.run(parts.io.into_inner(), parts.read_buf).await;
        }
    });
    (client, served)
}

async fn read_head(client: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.expect("the head goes on"));
    }
    String::from_utf8(head).expect("text")
}

async fn read_rest(client: &mut DuplexStream) -> String {
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.expect("text");
    rest
}

const ATTACH: &str = "POST /v1.43/containers/x/attach?stream=1 HTTP/1.1\r\nHost: docker\r\n";

#[tokio::test]
async fn an_upgrade_takes_the_connection_over() {
    let (mut client, served) = connect(&Fake::default());
    // Input in the same packet as the request is not lost.
    let request = format!("{ATTACH}Connection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly ");
    client.write_all(request.as_bytes()).await.expect("sent");
    let head = read_head(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 101 UPGRADED\r\n"), "{head}");
    let lower = head.to_lowercase();
    assert!(
        lower.contains("\r\nconnection: upgrade\r\n") && lower.contains("\r\nupgrade: tcp\r\n"),
        "{head}"
    );
    assert!(
        lower.contains("\r\ncontent-type: application/vnd.docker.multiplexed-stream\r\n"),
        "{head}"
    );
    assert!(
        !lower.contains("content-length") && !lower.contains("transfer-encoding"),
        "{head}"
    );
    client.write_all(b"late").await.expect("sent");
    client.shutdown().await.expect("half closed");
    assert_eq!(read_rest(&mut client).await, "EARLY LATE");
    served.await.expect("ended");
}

#[tokio::test]
async fn without_an_upgrade_the_answer_is_a_bare_200() {
    let (mut client, _served) = connect(&Fake::default());
    // The connection is used before.
    client
        .write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n")
        .await
        .expect("sent");
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 200 OK\r\n"));
    let mut ok = [0; 2];
    client.read_exact(&mut ok).await.expect("OK");
    client
        .write_all(format!("{ATTACH}\r\ninput").as_bytes())
        .await
        .expect("sent");
    let head = read_head(&mut client).await;
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
    let lower = head.to_lowercase();
    assert!(
        lower.contains("\r\ncontent-type: application/vnd.docker.raw-stream\r\n"),
        "{head}"
    );
    assert!(
        !lower.contains("content-length") && !lower.contains("transfer-encoding"),
        "{head}"
    );
    client.shutdown().await.expect("half closed");
    assert_eq!(read_rest(&mut client).await, "INPUT");
}

#[tokio::test]
async fn a_failed_attach_ends_the_connection() {
    let (mut client, _served) = connect(&Fake::default());
    let request = "POST /containers/gone/attach HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    client.write_all(request.as_bytes()).await.expect("sent");
    let head = read_head(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 404 Not Found\r\n"), "{head}");
    assert!(
        head.to_lowercase().contains("\r\nconnection: close\r\n"),
        "{head}"
    );
    // Who waits for a raw stream reads to the end.
    let mut body = String::new();
    client.read_to_string(&mut body).await.expect("a body");
    assert_eq!(body, "{\"message\":\"No such container: gone\"}\n");
}

#[tokio::test]
async fn a_websocket_is_shaken_hands_with() {
    let (mut client, _served) = connect(&Fake::default());
    let request = "GET /containers/x/attach/ws HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(request.as_bytes()).await.expect("sent");
    let head = read_head(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    // The sample of RFC 6455, 1.3.
    assert!(
        head.to_lowercase()
            .contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"),
        "{head}"
    );
    let mut socket = berth_api::WebSocketStream::from_raw_socket(
        client,
        berth_api::tungstenite::protocol::Role::Client,
        None,
    )
    .await;
    let _ = socket.close(None).await;
    assert!(
        socket.next().await.is_none_or(|message| message.is_err()),
        "the handler has left"
    );
}

#[tokio::test]
async fn the_head_of_a_stream_goes_out_before_its_first_record() {
    let engine = Fake::default();
    let (mut client, _served) = connect(&engine);
    client
        .write_all(b"POST /containers/x/wait HTTP/1.1\r\nHost: docker\r\n\r\n")
        .await
        .expect("sent");
    let head = read_head(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(
        head.to_lowercase().contains("\r\ntransfer-encoding: chunked\r\n"),
        "{head}"
    );
    engine.go.notify_one();
    let mut body = [0; 26];
    client.read_exact(&mut body).await.expect("a record");
    assert_eq!(&body, b"11\r\n{\"StatusCode\":7}\n\r\n0\r\n");
}

#[tokio::test]
async fn what_changes_something_goes_on_without_its_client() {
    let engine = Fake::default();
    let (mut client, served) = connect(&engine);
    client
        .write_all(b"POST /containers/x/kill HTTP/1.1\r\nHost: docker\r\n\r\n")
        .await
        .expect("sent");
    engine.at.notified().await;
    drop(client);
    served.await.expect("the connection is over");
    assert!(engine.seen().is_empty());
    engine.go.notify_one();
    engine.at.notified().await;
    assert_eq!(engine.seen(), ["killed x"]);
}
