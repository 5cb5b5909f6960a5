//! Clients at the standard streams of a container that speak WebSocket: messages of plain bytes in both directions.

use std::{pin::pin, time::Duration};

use berth_api::{
    Framing, Upgraded, WebSocketStream,
    tungstenite::{self, Message},
};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, duplex, split};

use super::{
    attach::{Attachment, BUFFER},
    payload::Payload,
};

/// How long the end of a client's input may take to reach the process.
const FAREWELL: Duration = Duration::from_secs(1);

/// How output is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Messages {
    /// As binary messages.
    Binary,
    /// As text, for which bytes that are none are replaced.
    Text,
}

impl Attachment {
    /// Serves a client until it leaves or the container ends.
    pub async fn serve_websocket(self, client: WebSocketStream<Upgraded>, messages: Messages) {
        let framed = self.framing() == Framing::Multiplexed;
        let (inner, outer): (DuplexStream, DuplexStream) = duplex(BUFFER);
        let (from_container, to_container) = split(outer);
        let (sender, receiver) = client.split();
        let mut serving = pin!(self.serve(Box::new(inner)));
        let output = pass_output(Payload::new(from_container, framed), sender, messages);
        let mut output = pin!(output);
        let mut input = pin!(pass_input(receiver, to_container));
        let mut served = false;
        loop {
            tokio::select! {
                // All has been sent, or nobody reads it.
                () = &mut output => return,
                () = &mut serving, if !served => served = true,
                () = &mut input => break,
            }
        }
        // The client has left.
        if !served {
            let _ = tokio::time::timeout(FAREWELL, serving).await;
        }
    }
}

async fn pass_output(
    mut from: Payload<impl AsyncRead + Unpin>,
    mut to: impl Sink<Message, Error = tungstenite::Error> + Unpin,
    messages: Messages,
) {
    let mut buffer = vec![0u8; BUFFER / 2];
    while let Ok(length) = from.read(&mut buffer).await
        && length > 0
    {
        let bytes = buffer.get(..length).unwrap_or_default();
        let message = match messages {
            Messages::Binary => Message::binary(bytes.to_vec()),
            Messages::Text => Message::text(String::from_utf8_lossy(bytes).into_owned()),
        };
        if to.send(message).await.is_err() {
            return;
        }
    }
    // The client may have gone already.
    let _ = to.close().await;
}

/// Passes messages on until the client leaves.
async fn pass_input(
    mut from: impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin,
    mut to: impl AsyncWrite + Unpin,
) {
    while let Some(Ok(message)) = from.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Close(_) => break,
            _ => continue,
        };
        if to.write_all(&bytes).await.is_err() {
            // Nobody takes input any more; output goes on.
            while let Some(Ok(message)) = from.next().await
                && !message.is_close()
            {}
            return;
        }
    }
    let _ = to.shutdown().await;
}
