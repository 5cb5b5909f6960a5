//! Legacy links of the default network (`--link child:alias`): the parent finds the child in its hosts file and its
//! environment, and the child is also found by the name `/parent/alias`.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use berth_api::models::HostConfig;
use berth_runtime::{Error, Result, net::Protocol};
use serde::{Deserialize, Serialize};

use super::{
    Containers, blocking,
    model::{Container, Details},
    spec::files::{HostsChange, change_hosts},
    store::Sync,
    validate::{modes::NetworkMode, names},
};
use crate::engine::networks::ports::{exposed, name_of};

/// Variables of a child that its parents do not get.
const OWN_VARIABLES: [&str; 2] = ["HOME", "PATH"];
/// The network that has links.
const NETWORK: &str = "bridge";

/// A link of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegacyLink {
    /// The name that the child has for the parent.
    pub alias: String,
    /// Full id of the child.
    pub child: Arc<str>,
}

/// What a start needs to know of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Linked {
    /// The child's address.
    pub address: Option<IpAddr>,
    /// Its names for the hosts file, the alias first.
    pub names: String,
    /// What it exposes, in order.
    pub ports: Vec<(Protocol, u16)>,
    /// What the parent's environment gets.
    pub env: Vec<String>,
}

impl Containers {
    /// Takes the links of a new container out of its host configuration, where the network mode has such.
    ///
    /// # Errors
    /// Invalid for a container that is not there.
    pub(super) fn take_links(&self, host_config: &mut HostConfig) -> Result<Vec<LegacyLink>> {
        if let NetworkMode::Named(_) = NetworkMode::parse(&host_config.network_mode)? {
            return Ok(Vec::new());
        }
        let mut taken: Vec<LegacyLink> = Vec::new();
        for text in host_config.links.take().iter().flatten() {
            let (name, alias) = names::link(text)?;
            let child = self.sharing(name)?;
            // The first of a name counts.
            if !taken.iter().any(|link| link.alias == alias) {
                taken.push(LegacyLink {
                    alias: alias.to_owned(),
                    child: Arc::clone(&child.identity.id),
                });
            }
        }
        Ok(taken)
    }

    /// The container of that name, or the one whose network it shares.
    fn sharing(&self, name: &str) -> Result<Arc<Container>> {
        let mut child = self.find(name).map_err(super::validate::mounts::as_invalid)?;
        // A container cannot share its own network, so this comes to an end.
        while let NetworkMode::Container(other) = NetworkMode::parse(&child.now().host_config.network_mode)? {
            child = self.find(other).map_err(super::validate::mounts::as_invalid)?;
        }
        Ok(child)
    }

    /// Makes the children of a container known by the names that it has for them.
    pub(super) fn publish_links(&self, container: &Container) {
        let details = container.now();
        for link in details.links.iter() {
            if !self.index.link(&details.name, &link.alias, &link.child) {
                tracing::warn!(
                    container = container.id(),
                    alias = link.alias,
                    "this link's name is taken"
                );
            }
        }
    }

    /// The links of a container to others that are there.
    fn children<'a>(
        &'a self,
        details: &'a Details,
    ) -> impl Iterator<Item = (&'a LegacyLink, Arc<Container>)> + 'a {
        details
            .links
            .iter()
            .filter_map(|link| Some((link, self.index.get(&link.child)?)))
    }

    /// `HostConfig.Links`, as inspect shows it.
    pub(super) fn shown_links(&self, details: &Details) -> Option<Vec<String>> {
        if details.links.is_empty() {
            return details.host_config.links.clone();
        }
        let shown: Vec<_> = self
            .children(details)
            .map(|(link, child)| format!("/{}:/{}/{}", child.now().name, details.name, link.alias))
            .collect();
        (!shown.is_empty()).then_some(shown)
    }

    /// What a container that is started gets of those it is linked to, all of which have to run.
    ///
    /// # Errors
    /// Conflict, if one does not run or is not in the default network.
    pub(super) fn linked(&self, container: &Container, details: &Details) -> Result<Vec<Linked>> {
        if !self.has_default_network(container, details)? {
            return Ok(Vec::new());
        }
        self.children(details)
            .map(|(link, child)| self.linked_to(link, &child, &details.name))
            .collect()
    }

    fn has_default_network(&self, container: &Container, details: &Details) -> Result<bool> {
        let mode = NetworkMode::parse(&details.host_config.network_mode)?;
        Ok(mode == NetworkMode::Bridge && !container.config().network_disabled)
    }

    fn linked_to(&self, link: &LegacyLink, child: &Container, parent: &str) -> Result<Linked> {
        let details = child.now();
        let alias = &link.alias;
        if !details.networks.contains_key(NETWORK) {
            return Err(Error::conflict(format!(
                "Cannot link to /{}, as it does not belong to the default network",
                details.name
            )));
        }
        let endpoints = self.networks.endpoints_of(child.id());
        let endpoint = endpoints.iter().find(|endpoint| endpoint.network == NETWORK);
        // It has one from its start to its end.
        let Some(endpoint) = endpoint else {
            return Err(Error::conflict(format!(
                "Cannot link to a non running container: /{} AS /{parent}/{alias}",
                details.name
            )));
        };
        let mut names = vec![alias.as_str(), child.config().hostname.as_str()];
        if details.name != *alias {
            names.push(&details.name);
        }
        let mut ports = exposed(
            child
                .config()
                .exposed_ports
                .iter()
                .flatten()
                .map(|(port, _)| port),
        )?;
        ports.sort_by_key(|(protocol, port)| (*port, *protocol));
        let address = endpoint.address(false);
        let env = match address {
            Some(IpAddr::V4(address)) => environment(
                &format!("/{parent}/{alias}"),
                address,
                &ports,
                child.config().env.as_deref().unwrap_or_default(),
            ),
            _ => Vec::new(),
        };
        Ok(Linked {
            address,
            names: names.join(" "),
            ports,
            env,
        })
    }

    /// Tells the running parents of a container that has just been given its addresses where it is now. Blocks.
    pub(super) fn tell_parents(&self, child: &Container) {
        let endpoints = self.networks.endpoints_of(child.id());
        let address = endpoints
            .iter()
            .find(|endpoint| endpoint.network == NETWORK)
            .and_then(|endpoint| endpoint.address(false));
        let Some(address) = address else {
            return;
        };
        for (parent, alias) in self.running_parents(child) {
            let change = HostsChange::Move {
                name: &alias,
                to: address,
            };
            if let Err(error) = change_hosts(&self.store.directory(parent.id()), &[change]) {
                tracing::warn!(container = parent.id(), %error, "a link leads where nobody is any more");
            }
            self.networks.link(parent.id(), self.opened(&parent.now()));
        }
    }

    /// Closes what links to a container that has ended had opened. Blocks.
    pub(super) fn close_links_to(&self, child: &Container) {
        for (parent, _) in self.running_parents(child) {
            self.networks.link(parent.id(), self.opened(&parent.now()));
        }
    }

    /// The running containers that are linked to one, and their names for it.
    fn running_parents(&self, child: &Container) -> Vec<(Arc<Container>, String)> {
        let parents = self.index.parents(child.id()).into_iter();
        parents
            .filter_map(|(parent, alias)| Some((self.index.find_exact(&parent)?, alias)))
            .filter(|(parent, _)| parent.now().state.has_process())
            .collect()
    }

    /// What the links of a container open where containers are kept from talking to each other.
    fn opened(&self, details: &Details) -> Vec<(Ipv4Addr, Vec<(Protocol, u16)>)> {
        let linked = self
            .children(details)
            .filter_map(|(link, child)| self.linked_to(link, &child, &details.name).ok());
        linked.filter_map(Linked::opens).collect()
    }

    /// Containers in the order in which they can be started: those that are linked to others come after them.
    pub(super) fn children_first(&self, containers: Vec<Arc<Container>>) -> Vec<Vec<Arc<Container>>> {
        let mut left = containers;
        let mut generations = Vec::new();
        while !left.is_empty() {
            let waits = |container: &Arc<Container>| {
                let details = container.now();
                let mut children = details.links.iter().map(|link| &*link.child);
                children.any(|child| {
                    left.iter()
                        .any(|other| other.id() == child && child != container.id())
                })
            };
            let (waiting, ready): (Vec<_>, Vec<_>) = left.iter().cloned().partition(waits);
            // Those that wait for each other have to find out for themselves.
            let stuck = ready.is_empty();
            generations.push(if stuck { waiting.clone() } else { ready });
            left = if stuck { Vec::new() } else { waiting };
        }
        generations
    }

    /// Removes a legacy link, `parent/alias`.
    ///
    /// # Errors
    /// Not found; conflict for a text that is no link.
    pub async fn remove_link(&self, link: &str) -> Result<()> {
        let bare = link.trim_start_matches('/');
        let Some((parent, alias)) = bare.split_once('/').filter(|(_, alias)| !alias.is_empty()) else {
            self.find(link)?;
            return Err(Error::conflict(
                "Conflict, cannot remove the default link name of the container",
            ));
        };
        let parent = self
            .index
            .find_exact(parent)
            .filter(|parent| parent.now().links.iter().any(|link| link.alias == alias))
            .ok_or_else(|| super::index::no_such(link))?;
        let _operation = parent.operation.lock().await;
        parent.change(|details| {
            let mut links = (*details.links).clone();
            links.retain(|link| link.alias != alias);
            details.links = Arc::new(links);
        });
        self.index.unlink(&parent.now().name, alias);
        if parent.now().state.has_process() {
            let (this, of, alias) = (self.clone(), Arc::clone(&parent), alias.to_owned());
            blocking(move || {
                this.networks.link(of.id(), this.opened(&of.now()));
                change_hosts(
                    &this.store.directory(of.id()),
                    &[HostsChange::Forget { name: &alias }],
                )
            })
            .await?;
        }
        self.save(&parent, Sync::Yes).await
    }
}

impl Linked {
    /// The address and ports that the parent may reach.
    pub fn opens(self) -> Option<(Ipv4Addr, Vec<(Protocol, u16)>)> {
        match self.address {
            Some(IpAddr::V4(address)) => Some((address, self.ports)),
            _ => None,
        }
    }
}

/// The variables of a link. `name` is `/parent/alias`, `ports` are in order of their numbers.
fn environment(name: &str, address: Ipv4Addr, ports: &[(Protocol, u16)], own: &[String]) -> Vec<String> {
    let alias = name
        .rsplit('/')
        .next()
        .unwrap_or(name)
        .to_uppercase()
        .replace('-', "_");
    let mut env = Vec::new();
    let key = |(protocol, port): (Protocol, u16)| {
        format!("{alias}_PORT_{port}_{}", name_of(protocol).to_uppercase())
    };
    let url = |(protocol, port): (Protocol, u16)| format!("{}://{address}:{port}", name_of(protocol));
    if let Some(first) = ports.first() {
        env.push(format!("{alias}_PORT={}", url(*first)));
    }
    let mut index = 0;
    while let Some(first) = ports.get(index) {
        let end = last_in_a_row(ports, index);
        let Some(last) = ports.get(end).filter(|_| end > index + 1) else {
            index += 1;
            continue;
        };
        let start = key(*first);
        env.push(format!("{start}_START={}", url(*first)));
        env.push(format!("{start}_ADDR={address}"));
        env.push(format!("{start}_PROTO={}", name_of(first.0)));
        env.push(format!("{start}_PORT_START={}", first.1));
        let end_key = format!("{alias}_PORT_{}_{}", first.1, name_of(last.0).to_uppercase());
        env.push(format!("{end_key}_END={}", url(*last)));
        env.push(format!("{end_key}_PORT_END={}", last.1));
        index = end + 1;
    }
    for port in ports {
        let key = key(*port);
        env.push(format!("{key}={}", url(*port)));
        env.push(format!("{key}_ADDR={address}"));
        env.push(format!("{key}_PORT={}", port.1));
        env.push(format!("{key}_PROTO={}", name_of(port.0)));
    }
    env.push(format!("{alias}_NAME={name}"));
    env.extend(own.iter().filter_map(|entry| {
        let (key, value) = entry.split_once('=')?;
        (!OWN_VARIABLES.contains(&key)).then(|| format!("{alias}_ENV_{key}={value}"))
    }));
    env
}

/// The last of the ports whose numbers follow each other, from `index` on.
fn last_in_a_row(ports: &[(Protocol, u16)], index: usize) -> usize {
    let row = ports.get(index..).unwrap_or_default();
    let breaks = row
        .windows(2)
        .position(|pair| matches!(pair, [one, two] if two.1 > one.1.saturating_add(1)));
    index + breaks.unwrap_or_else(|| row.len().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_of_a_link() {
        let tcp = |port| (Protocol::Tcp, port);
        let own = [
            "PATH=/bin".to_owned(),
            "PASSWORD=gordon".to_owned(),
            "x".to_owned(),
        ];
        let env = environment("/web/my-db", Ipv4Addr::new(172, 17, 0, 2), &[tcp(6379)], &own);
        assert_eq!(
            env,
            [
                "MY_DB_PORT=tcp://172.17.0.2:6379",
                "MY_DB_PORT_6379_TCP=tcp://172.17.0.2:6379",
                "MY_DB_PORT_6379_TCP_ADDR=172.17.0.2",
                "MY_DB_PORT_6379_TCP_PORT=6379",
                "MY_DB_PORT_6379_TCP_PROTO=tcp",
                "MY_DB_NAME=/web/my-db",
                "MY_DB_ENV_PASSWORD=gordon",
            ]
        );
        let env = environment(
            "/web/db",
            Ipv4Addr::new(172, 17, 0, 2),
            &[tcp(6379), tcp(6380), tcp(6381), (Protocol::Udp, 9000)],
            &[],
        );
        assert!(env.contains(&"DB_PORT_6379_TCP_START=tcp://172.17.0.2:6379".to_owned()));
        assert!(env.contains(&"DB_PORT_6379_TCP_END=tcp://172.17.0.2:6381".to_owned()));
        assert!(env.contains(&"DB_PORT_6379_TCP_PORT_END=6381".to_owned()));
        assert!(env.contains(&"DB_PORT_9000_UDP_PROTO=udp".to_owned()));
        assert_eq!(env.len(), 1 + 6 + 16 + 1);
        assert_eq!(
            environment("/a/b", Ipv4Addr::LOCALHOST, &[], &[]),
            ["B_NAME=/a/b"]
        );
    }
}
