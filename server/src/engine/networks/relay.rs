//! Connections that the firewall cannot lead to a container, because it has no IPv6: the engine accepts and relays them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::Arc,
};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{Networks, state::Sandbox};

/// A port whose connections are relayed.
#[derive(Debug)]
pub(super) struct Relay {
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
            let listener = relay
                .held
                .try_clone()
                .and_then(|held| TcpListener::from_std(held.into()));
            match listener {
                Ok(listener) => {
                    let stop = self.stop.clone();
                    self.tasks.spawn(async move {
                        tokio::select! {
                            () = relay.end.cancelled() => {}
                            () = stop.cancelled() => {}
                            () = accept(listener, relay.to, &relay.end) => {}
                        }
                    });
                }
                Err(error) => tracing::warn!(to = %relay.to, %error, "a port is not reached over IPv6"),
            }
        }
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, end: &CancellationToken) {
    let tracker = tokio_util::task::TaskTracker::new();
    while let Ok((client, _)) = listener.accept().await {
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

async fn pass(mut client: TcpStream, to: SocketAddr) -> std::io::Result<()> {
    let mut server = TcpStream::connect(to).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
