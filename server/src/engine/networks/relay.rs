//! Connections and datagrams that the firewall cannot lead to a container, because it has no IPv6: the engine relays
//! them.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use berth_runtime::net::Protocol;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Networks, state::Sandbox};

/// How long an exchange of datagrams may pause.
const IDLE: Duration = Duration::from_secs(90);
/// Exchanges of datagrams of one port at a time.
const MOST_PEERS: usize = 1024;
/// The longest datagram.
const LONGEST: usize = 65_535;
/// After an error that may last.
const PAUSE: Duration = Duration::from_millis(50);

/// A port whose connections or datagrams are relayed.
#[derive(Debug)]
pub(super) struct Relay {
    protocol: Protocol,
    held: Arc<OwnedFd>,
    to: SocketAddr,
    end: CancellationToken,
}

/// The ports of a container that need a relay.
pub(super) fn wanted(sandbox: &Sandbox) -> Vec<Relay> {
    let relay = |port: &super::ports::Published| {
        let publication = &port.publication;
        let to: Ipv4Addr = publication.ipv4.filter(|_| publication.needs_relay())?;
        Some(Relay {
            protocol: publication.protocol(),
            held: Arc::clone(port.held.as_ref()?),
            to: SocketAddr::new(to.into(), publication.container_port),
            end: sandbox.relays.clone(),
        })
    };
    sandbox.ports.iter().filter_map(relay).collect()
}

impl Networks {
    /// Starts relays, if there is a runtime to run them.
    pub(super) fn start_relays(&self, relays: Vec<Relay>) {
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        for relay in relays {
            let (to, end) = (relay.to, relay.end.clone());
            let opened = relay.held.try_clone().and_then(|held| match relay.protocol {
                Protocol::Udp => UdpSocket::from_std(held.into()).map(Front::Datagrams),
                _ => TcpListener::from_std(held.into()).map(Front::Connections),
            });
            match opened {
                Ok(front) => {
                    let stop = self.stop.clone();
                    self.tasks.spawn(async move {
                        tokio::select! {
                            () = end.cancelled() => {}
                            () = stop.cancelled() => {}
                            () = front.relay(to, &end) => {}
                        }
                    });
                }
                Err(error) => tracing::warn!(%to, %error, "a port is not reached over IPv6"),
            }
        }
    }
}

/// What clients reach.
enum Front {
    Connections(TcpListener),
    Datagrams(UdpSocket),
}

impl Front {
    async fn relay(self, to: SocketAddr, end: &CancellationToken) {
        match self {
            Self::Connections(listener) => accept(listener, to, end).await,
            Self::Datagrams(socket) => datagrams(Arc::new(socket), to, end).await,
        }
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, end: &CancellationToken) {
    let tracker = TaskTracker::new();
    loop {
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) if is_over(&error) => return,
            Err(_) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let end = end.clone();
        tracker.spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                // The end of either side is all there is to say.
                _ = pass(client, to) => {}
            }
        });
    }
}

/// Whether nobody listens any more. Other errors, as of too many open files, pass.
fn is_over(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
}

async fn pass(mut client: TcpStream, to: SocketAddr) -> io::Result<()> {
    let mut server = TcpStream::connect(to).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// The sockets that speak to the container, by the client they speak for.
type Peers = Arc<Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>>;

async fn datagrams(front: Arc<UdpSocket>, to: SocketAddr, end: &CancellationToken) {
    let peers = Peers::default();
    let mut buffer = vec![0; LONGEST];
    loop {
        let (length, client) = match front.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(_) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let known = lock(&peers).get(&client).cloned();
        let socket = match known {
            Some(socket) => socket,
            None if lock(&peers).len() >= MOST_PEERS => continue,
            None => {
                let Ok(socket) = speak_to(to).await else {
                    continue;
                };
                lock(&peers).insert(client, Arc::clone(&socket));
                let (front, socket, peers, end) = (
                    Arc::clone(&front),
                    Arc::clone(&socket),
                    Arc::clone(&peers),
                    end.clone(),
                );
                tokio::spawn({
                    let socket = Arc::clone(&socket);
                    async move {
                        tokio::select! {
                            () = end.cancelled() => {}
                            () = answers(&front, client, &socket) => {}
                        }
                        lock(&peers).remove(&client);
                    }
                });
                socket
            }
        };
        // What cannot be delivered is lost, as datagrams are.
        let _ = socket.send(buffer.get(..length).unwrap_or_default()).await;
    }
}

fn lock(
    peers: &Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>,
) -> std::sync::MutexGuard<'_, HashMap<SocketAddr, Arc<UdpSocket>>> {
    peers.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn speak_to(to: SocketAddr) -> io::Result<Arc<UdpSocket>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(to).await?;
    Ok(Arc::new(socket))
}

/// Passes what the container says to a client on, until it is silent for long.
async fn answers(front: &UdpSocket, client: SocketAddr, socket: &UdpSocket) {
    let mut buffer = vec![0; LONGEST];
    while let Ok(received) = timeout(IDLE, socket.recv(&mut buffer)).await {
        match received {
            Ok(length) => {
                let _ = front
                    .send_to(buffer.get(..length).unwrap_or_default(), client)
                    .await;
            }
            // Nobody listens there yet, or not any more.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(_) => return,
        }
    }
}
