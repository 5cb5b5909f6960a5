//! The name server inside containers of user-defined networks: it knows the containers that share such a network with
//! the asker, and asks the servers of the container or of the host about everything else.
//!
//! | module | what it is |
//! |---|---|
//! | [`zone`] | the names and addresses that one container may know |
//! | [`answer`] | what a question is answered with |
//! | [`forward`] | questions that others answer |
//! | [`serve`] | datagrams and connections |

pub mod answer;
pub mod forward;
pub mod serve;
pub mod zone;

use std::{net::Ipv4Addr, path::Path};

use berth_runtime::{
    Result,
    error::Context,
    net::{NameSockets, Namespace},
};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

use self::{
    serve::Server,
    zone::{Alias, Zone},
};
use super::{Networks, attach::namespace_of};

/// Its address inside.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

impl Networks {
    /// Starts the name server of a container that ran before the engine did, if it is to have one. Blocks.
    ///
    /// # Errors
    /// Internal, or not found if the process has ended.
    pub fn answer_names(&self, container: &str, pid: i32) -> Result<()> {
        match self.zone(container) {
            Some(zone) if zone.has_names => {
                self.answer_names_in(container, &Namespace::open(Path::new(&namespace_of(pid)))?)
            }
            _ => Ok(()),
        }
    }

    /// Starts the name server of a container in its namespace, if there is none and there is a runtime to run it.
    ///
    /// # Errors
    /// Internal.
    pub(super) fn answer_names_in(&self, container: &str, namespace: &Namespace) -> Result<()> {
        let running = self.with_sandbox(container, |sandbox| sandbox.names.is_some())?;
        if running || tokio::runtime::Handle::try_current().is_err() {
            return Ok(());
        }
        let sockets = NameSockets::open(namespace, ADDRESS)?;
        let failed = || "cannot serve names in a container";
        let udp = UdpSocket::from_std(sockets.udp).context(failed)?;
        let tcp = TcpListener::from_std(sockets.tcp).context(failed)?;
        let end = CancellationToken::new();
        let servers = self.with_sandbox(container, |sandbox| {
            sandbox.names = Some(end.clone());
            sandbox.name_servers.clone()
        })?;
        let server = Server::new(self.clone(), container, servers);
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = stop.cancelled() => {}
                () = server.run(udp, tcp) => {}
            }
        });
        Ok(())
    }

    /// What a running container may know; none if it does not run.
    fn zone(&self, container: &str) -> Option<Zone> {
        let state = self.state();
        let sandbox = state.sandboxes.get(container)?;
        let mut zone = Zone::default();
        for own in &sandbox.endpoints {
            let Some(entry) = state.networks.get(&own.network_id) else {
                continue;
            };
            zone.leads_out |= !entry.record.internal;
            if entry.record.is_user_defined() {
                zone.has_names = true;
                zone.endpoints.extend(entry.endpoints.values().cloned());
                zone.aliases.extend(own.links.iter().map(|(alias, name)| Alias {
                    alias: alias.clone(),
                    name: name.clone(),
                    network: own.network.clone(),
                }));
            }
        }
        Some(zone)
    }
}
