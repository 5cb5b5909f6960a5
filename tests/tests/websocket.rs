//! Attach by WebSocket.

use berth_tests::{
    Engine,
    container::{busybox, interactive, shell},
};
use futures_util::{SinkExt, StreamExt};
use tokio::net::UnixStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message},
};

async fn open(engine: &Engine, path: &str) -> Result<WebSocketStream<UnixStream>, Error> {
    let stream = UnixStream::connect(engine.api.socket())
        .await
        .expect("the engine listens");
    let (socket, reply) = client_async(format!("ws://docker{path}"), stream).await?;
    assert_eq!(reply.status(), 101);
    Ok(socket)
}

/// The status of a handshake that is refused.
async fn refused(engine: &Engine, path: &str) -> u16 {
    match open(engine, path).await {
        Err(Error::Http(reply)) => reply.status().as_u16(),
        other => panic!("{other:?}"),
    }
}

/// What comes up to and including `text`, all in messages of one kind.
async fn until(socket: &mut WebSocketStream<UnixStream>, text: &str, is_text: bool) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        let message = socket.next().await.expect("a message").expect("a message");
        assert_eq!(message.is_text(), is_text);
        seen += &String::from_utf8_lossy(&message.into_data());
    }
    seen
}

#[tokio::test]
async fn it_carries_plain_bytes_both_ways() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine
        .api
        .create(&interactive(shell("cat; echo bye >&2"), false))
        .await;
    let path = format!("/v1.43/containers/{id}/attach/ws?stream=1&stdin=1&stdout=1&stderr=1");
    let mut socket = open(&engine, &path).await.expect("a WebSocket");
    engine.api.start(&id).await;
    socket
        .send(Message::binary(b"hello\n".to_vec()))
        .await
        .expect("it is taken");
    assert_eq!(until(&mut socket, "hello\n", false).await, "hello\n");
    socket.send(Message::text("text\n")).await.expect("it is taken");
    until(&mut socket, "text\n", false).await;
    // Leaving ends standard input, as the container wants it once.
    socket.close(None).await.expect("it closes");
    assert_eq!(engine.api.wait(&id).await, 0);
    assert_eq!(engine.api.logs(&id).await.err, "bye\n");
    engine.finish().await;
}

#[tokio::test]
async fn logs_come_first_and_the_end_closes() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine
        .api
        .launch(&interactive(shell("echo first; read line; echo second"), false))
        .await;
    engine.api.await_output(&id, "first").await;
    // Before 1.28 as text, before 1.42 all streams.
    let path = format!("/v1.27/containers/{id}/attach/ws?logs=1&stream=1");
    let mut socket = open(&engine, &path).await.expect("a WebSocket");
    until(&mut socket, "first\n", true).await;
    socket.send(Message::text("go\n")).await.expect("it is taken");
    until(&mut socket, "second\n", true).await;
    while let Some(Ok(message)) = socket.next().await {
        assert!(message.is_close(), "{message:?}");
    }
    engine.finish().await;
}

#[tokio::test]
async fn what_is_refused() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let id = engine.api.launch(&busybox(&["sleep", "1000"])).await;
    let path = format!("/containers/{id}/attach/ws");
    engine.api.get(&path).await.expect(400);
    assert_eq!(refused(&engine, "/containers/nothing/attach/ws").await, 404);
    assert_eq!(refused(&engine, &format!("{path}?detachKeys=ab")).await, 400);
    engine
        .api
        .post(&format!("/containers/{id}/pause"))
        .await
        .expect(204);
    assert_eq!(refused(&engine, &path).await, 409);
    engine.finish().await;
}
