//! Accepting connections, and ending in good order.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use berth_runtime::{Result, error::Context};
use nix::errno::Errno;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Listener, Peer, Security, Socket, connection, connection::Limits, guard::Guard};

/// How long not to accept when the process or the system has run out of descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(50);
/// Longest time for a TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long a TCP connection may rest between requests.
const TCP_IDLE: Duration = Duration::from_secs(300);
/// How long responses that are complete get to reach their clients at the end.
const FLUSH_LIMIT: Duration = Duration::from_millis(250);

/// Serves an application on any number of listeners.
#[derive(Clone)]
pub struct Server {
    pub(super) app: Router,
    /// No new connections and requests.
    pub(super) stop: CancellationToken,
    /// Nothing any more.
    pub(super) abort: CancellationToken,
    /// Requests that are not streams.
    pub(super) requests: TaskTracker,
    connections: TaskTracker,
}

impl Server {
    /// A server of `app`.
    pub fn new(app: Router) -> Self {
        Self {
            app,
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
            requests: TaskTracker::new(),
            connections: TaskTracker::new(),
        }
    }

    /// Starts accepting on `listener`. To be called within the runtime.
    ///
    /// # Errors
    /// Internal, if the system refuses the socket.
    pub fn listen(&self, listener: Listener) -> Result<()> {
        let say = || format!("cannot accept on {}", listener.address);
        match listener.socket {
            Socket::Unix(socket, file) => {
                let socket = UnixListener::from_std(socket).context(say)?;
                let server = self.clone();
                self.connections.spawn(async move {
                    server.accept(|| accept_unix(&socket), Server::serve_unix).await;
                    drop((socket, file));
                });
            }
            Socket::Tcp(socket, security) => {
                let socket = TcpListener::from_std(socket).context(say)?;
                let server = self.clone();
                self.connections.spawn(async move {
                    let serve =
                        |server, (stream, peer)| Server::serve_tcp(server, stream, peer, security.clone());
                    server.accept(|| accept_tcp(&socket), serve).await;
                });
            }
        }
        Ok(())
    }

    /// Stops accepting, lets requests that are being worked on finish within `limit` or until `hurry`, then ends the
    /// streams and returns.
    pub async fn finish(&self, limit: Duration, hurry: impl Future<Output = ()>) {
        self.stop.cancel();
        self.requests.close();
        self.connections.close();
        tokio::select! {
            () = self.requests.wait() => {
                // What they answered may still be on its way.
                let _ = tokio::time::timeout(FLUSH_LIMIT, self.connections.wait()).await;
            }
            () = tokio::time::sleep(limit) => {
                tracing::warn!(requests = self.requests.len(), "requests are cut off: they took too long");
            }
            () = hurry => {
                tracing::warn!(requests = self.requests.len(), "requests are cut off: told to hurry");
            }
        }
        self.abort.cancel();
        self.connections.wait().await;
    }

    /// Accepts until told to stop, and serves each connection in a task of its own.
    async fn accept<T, A, S>(&self, next: impl Fn() -> A, serve: impl Fn(Arc<Self>, T) -> S)
    where
        A: Future<Output = io::Result<T>>,
        S: Future<Output = ()> + Send + 'static,
    {
        let shared = Arc::new(self.clone());
        let mut short = false;
        loop {
            let accepted = tokio::select! {
                accepted = next() => accepted,
                () = self.stop.cancelled() => return,
            };
            match accepted {
                Ok(connection) => {
                    short = false;
                    self.connections.spawn(serve(Arc::clone(&shared), connection));
                }
                Err(e) if is_shortage(&e) => {
                    // Once a shortage, however long it lasts.
                    if !short {
                        tracing::error!(error = %e, "connections have to wait to be accepted");
                    }
                    short = true;
                    tokio::time::sleep(BACK_OFF).await;
                }
                // The client has gone away before its turn.
                Err(e) => tracing::debug!(error = %e, "a connection was lost before it was accepted"),
            }
        }
    }

    async fn serve_unix(server: Arc<Self>, stream: UnixStream) {
        let Ok(credentials) = stream.peer_cred() else {
            return;
        };
        let peer = Peer::Local {
            uid: credentials.uid(),
            pid: credentials.pid(),
        };
        let limits = Limits {
            guard: Guard::None,
            idle: None,
        };
        connection::serve(&server, stream, peer, limits).await;
    }

    async fn serve_tcp(server: Arc<Self>, stream: TcpStream, peer: Peer, security: Security) {
        // Small writes are what an API consists of.
        let _ = stream.set_nodelay(true);
        let limits = Limits {
            guard: security.guard(),
            idle: Some(TCP_IDLE),
        };
        let acceptor = match security {
            Security::Plain => return connection::serve(&server, stream, peer, limits).await,
            Security::Tls(acceptor) => acceptor,
        };
        let handshake = tokio::select! {
            handshake = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)) => handshake,
            () = server.stop.cancelled() => return,
        };
        match handshake {
            Ok(Ok(stream)) => connection::serve(&server, stream, peer, limits).await,
            Ok(Err(e)) => tracing::info!(%peer, error = %e, "a TLS handshake failed"),
            Err(_) => tracing::info!(%peer, "a TLS handshake took too long"),
        }
    }
}

async fn accept_unix(socket: &UnixListener) -> io::Result<UnixStream> {
    socket.accept().await.map(|(stream, _)| stream)
}

async fn accept_tcp(socket: &TcpListener) -> io::Result<(TcpStream, Peer)> {
    socket
        .accept()
        .await
        .map(|(stream, address)| (stream, Peer::Remote(address)))
}

/// Whether accepting again at once would fail again.
fn is_shortage(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
    )
}
