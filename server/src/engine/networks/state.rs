//! The networks in memory: what there is, who is on it, which addresses are in use. Changed under one lock, which is
//! never held while anything is waited for.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
    sync::Arc,
};

use berth_api::models::EndpointSettings;
use berth_runtime::{
    Error, Kind, Result,
    net::{Content, Namespace, OpenLink, Protocol},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    addresses::Leases,
    ports::{Publication, Published, Table},
    record::Record,
};

/// A container's place in a network while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Id of the network.
    pub network_id: String,
    /// Name of the network.
    pub network: String,
    /// Full id of the container.
    pub container: String,
    /// Name of the interface inside; empty if it has none of its own.
    pub interface: String,
    /// Name of the link on the host; empty if there is none.
    pub link: String,
    /// Hardware address; empty without an interface.
    pub mac: String,
    /// IPv4 address and subnet.
    pub ipv4: Option<IpNet>,
    /// IPv6 address and subnet.
    pub ipv6: Option<IpNet>,
    /// Gateway over IPv4, if the network leads anywhere.
    pub gateway4: Option<IpAddr>,
    /// Gateway over IPv6.
    pub gateway6: Option<IpAddr>,
    /// Names under which the others in the network find the container; empty on predefined networks.
    pub names: Vec<String>,
    /// Names that only the container itself has for others in the network, as pairs of alias and name.
    #[serde(default)]
    pub links: Vec<(String, String)>,
    /// How much this endpoint is to lead out; the one with the highest number does.
    #[serde(default)]
    pub priority: i64,
}

impl Endpoint {
    /// The address of a family.
    pub fn address(&self, ipv6: bool) -> Option<IpAddr> {
        let net = if ipv6 { self.ipv6 } else { self.ipv4 };
        net.map(|net| net.addr())
    }

    /// Both addresses, for publishing ports.
    pub fn targets(&self) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
        let v4 = match self.address(false) {
            Some(IpAddr::V4(address)) => Some(address),
            _ => None,
        };
        let v6 = match self.address(true) {
            Some(IpAddr::V6(address)) => Some(address),
            _ => None,
        };
        (v4, v6)
    }

    /// Fills in what inspect shows of it.
    pub fn fill(&self, settings: &mut EndpointSettings) {
        let text = |address: Option<IpAddr>| address.map(|a| a.to_string()).unwrap_or_default();
        let prefix = |net: Option<IpNet>| net.map_or(0, |net| i64::from(net.prefix_len()));
        settings.network_id.clone_from(&self.network_id);
        settings.endpoint_id.clone_from(&self.id);
        settings.gateway = text(self.gateway4);
        settings.ip_address = text(self.address(false));
        settings.ip_prefix_len = prefix(self.ipv4);
        settings.ipv6_gateway = text(self.gateway6);
        settings.global_ipv6_address = text(self.address(true));
        settings.global_ipv6_prefix_len = prefix(self.ipv6);
        settings.mac_address.clone_from(&self.mac);
        settings.dns_names = (!self.names.is_empty()).then(|| self.names.clone());
    }
}

/// What a running container has in networks, as it is kept beside its bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Its endpoints, in the order in which they were made.
    pub endpoints: Vec<Endpoint>,
    /// Its published ports.
    pub ports: Vec<Publication>,
    /// Its exposed ports, as protocol and number.
    pub exposed: Vec<(String, u16)>,
    /// Id of the network whose endpoint the ports lead to and the default route leads out of; empty if none.
    pub gateway: String,
    /// Name servers of its own; empty for those of the host.
    #[serde(default)]
    pub name_servers: Vec<String>,
    /// What its links open: addresses of others, and ports there as protocol and number.
    #[serde(default)]
    pub links: Vec<(Ipv4Addr, Vec<(String, u16)>)>,
}

/// Ports of another container that a link opens.
pub type Opened = (Ipv4Addr, Vec<(Protocol, u16)>);

/// A running container.
#[derive(Debug, Default)]
pub struct Sandbox {
    /// Its endpoints, in the order in which they were made.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Its published ports.
    pub ports: Vec<Published>,
    /// Its exposed ports.
    pub exposed: Vec<(Protocol, u16)>,
    /// Id of the network that leads out; empty if none.
    pub gateway: String,
    /// Name servers of its own; empty for those of the host.
    pub name_servers: Vec<String>,
    /// What its links open: addresses of others, and ports there.
    pub links: Vec<Opened>,
    /// Ends the name server inside; none if there is none.
    pub names: Option<CancellationToken>,
    /// Keeps its namespace until a process does.
    pub namespace: Option<Namespace>,
    /// Ends the relays of its ports.
    pub relays: CancellationToken,
    /// Sockets that are relayed, until their tasks have them.
    pub to_relay: Vec<(Arc<OwnedFd>, Ipv4Addr, u16)>,
}

/// A network.
#[derive(Debug)]
pub struct Entry {
    /// What it is.
    pub record: Arc<Record>,
    /// Addresses in use.
    pub leases: Vec<Leases>,
    /// Index of its link on the host; 0 without one.
    pub index: u32,
    /// Whether it is being made or removed, and nobody may join.
    pub closed: bool,
    /// Its endpoints by id.
    pub endpoints: BTreeMap<String, Arc<Endpoint>>,
}

impl Entry {
    /// A network nobody may join yet.
    pub fn new(record: Arc<Record>) -> Self {
        Self {
            leases: record.ranges.iter().map(Leases::new).collect(),
            record,
            index: 0,
            closed: true,
            endpoints: BTreeMap::new(),
        }
    }

    /// Takes an address of a family; none if the network has no range of it.
    ///
    /// # Errors
    /// Those of [`Leases::take`]; invalid if `wanted` is in no subnet.
    pub fn lease(&mut self, ipv6: bool, wanted: Option<IpAddr>) -> Result<Option<IpNet>> {
        let mut last = None;
        for leases in &mut self.leases {
            let subnet = leases.range().subnet;
            let fits =
                subnet.addr().is_ipv6() == ipv6 && wanted.is_none_or(|wanted| subnet.contains(&wanted));
            if !fits {
                continue;
            }
            match leases.take(wanted) {
                Ok(address) => {
                    let net = IpNet::new(address, subnet.prefix_len());
                    return net
                        .map(Some)
                        .map_err(|e| Error::internal("a subnet is odd").caused_by(e));
                }
                Err(error) => last = Some(error),
            }
        }
        match (last, wanted) {
            (Some(error), _) => Err(error),
            (None, Some(wanted)) => Err(Error::invalid(format!(
                "invalid address {wanted}: no configured subnet or ip-range contain the IP address {wanted}"
            ))),
            (None, None) => Ok(None),
        }
    }

    /// Gives the addresses of an endpoint back.
    pub fn free(&mut self, endpoint: &Endpoint) {
        for address in [endpoint.address(false), endpoint.address(true)]
            .into_iter()
            .flatten()
        {
            for leases in &mut self.leases {
                if leases.range().subnet.contains(&address) {
                    leases.free(address);
                }
            }
        }
        self.endpoints.remove(&endpoint.id);
    }
}

/// Everything.
#[derive(Debug, Default)]
pub struct State {
    /// Networks by id.
    pub networks: BTreeMap<String, Entry>,
    /// Running containers by id.
    pub sandboxes: HashMap<String, Sandbox>,
    /// Ports of the host.
    pub ports: Table,
}

impl Sandbox {
    /// Id of the network that leads out once the present one is gone; empty if none.
    pub fn next_gateway(&self) -> String {
        self.endpoints
            .iter()
            .filter(|endpoint| endpoint.gateway4.is_some() || endpoint.gateway6.is_some())
            .min_by_key(|endpoint| Reverse(endpoint.priority))
            .map(|endpoint| endpoint.network_id.clone())
            .unwrap_or_default()
    }

    /// What the firewall has to know of the container.
    pub fn firewall(&self, networks: &BTreeMap<String, Entry>) -> Content {
        let mut content = Content::default();
        for port in &self.ports {
            content.ports.extend(port.publication.rules());
            content.direct.extend(port.publication.direct());
        }
        content.direct.sort_unstable();
        content.direct.dedup();
        content.links = self.open_links(networks);
        content
    }

    /// What its links open in the default network, if that keeps containers apart.
    fn open_links(&self, networks: &BTreeMap<String, Entry>) -> Vec<OpenLink> {
        let own = self
            .endpoints
            .iter()
            .find(|endpoint| endpoint.network == "bridge");
        let apart = own.and_then(|own| {
            let options = networks.get(&own.network_id)?.record.parsed_options().ok()?;
            own.targets().0.filter(|_| options.no_icc)
        });
        let Some(from) = apart else {
            return Vec::new();
        };
        let link = |to: Ipv4Addr, (protocol, port): (Protocol, u16)| OpenLink {
            from,
            to,
            protocol,
            port,
        };
        let mut open: Vec<_> = self
            .links
            .iter()
            .flat_map(|(to, ports)| ports.iter().map(|port| link(*to, *port)))
            .collect();
        open.sort_unstable();
        open.dedup();
        open
    }
}

impl State {
    /// The network of this full id, exact name, or unique beginning of an id.
    ///
    /// # Errors
    /// Not found; invalid if several ids begin so.
    pub fn find(&self, term: &str) -> Result<&Entry> {
        if let Some(entry) = self.networks.get(term) {
            return Ok(entry);
        }
        if let Some(entry) = self.networks.values().find(|entry| entry.record.name == term) {
            return Ok(entry);
        }
        let mut begin = self
            .networks
            .values()
            .filter(|entry| !term.is_empty() && entry.record.id.starts_with(term));
        match (begin.next(), begin.next()) {
            (Some(entry), None) => Ok(entry),
            (Some(_), Some(_)) => Err(Error::invalid(format!(
                "network {term} is ambiguous: several ids begin so"
            ))),
            (None, _) => Err(not_found(term)),
        }
    }

    /// The network, to be changed.
    ///
    /// # Errors
    /// Not found, if it has been removed meanwhile.
    pub fn entry(&mut self, id: &str) -> Result<&mut Entry> {
        self.networks.get_mut(id).ok_or_else(|| not_found(id))
    }

    /// Every subnet in use.
    pub fn subnets(&self) -> Vec<IpNet> {
        let records = self.networks.values().flat_map(|entry| &entry.record.ranges);
        records.map(|range| range.subnet).collect()
    }

    /// What the firewall has to know of all networks and containers.
    pub fn firewall(&self) -> Content {
        let networks = self.networks.values().filter(|entry| entry.index != 0);
        let networks = networks
            .filter(|entry| entry.record.driver == "bridge")
            .filter_map(|entry| entry.record.firewall().ok());
        let mut content = Content::networks(networks.collect());
        for sandbox in self.sandboxes.values() {
            let own = sandbox.firewall(&self.networks);
            content.ports.extend(own.ports);
            content.links.extend(own.links);
            content.direct.extend(own.direct);
        }
        content
    }

    /// Puts an endpoint of a running container where it belongs.
    ///
    /// # Errors
    /// Not found if its network is gone; [`Kind::Forbidden`] if an address is taken.
    pub fn restore(&mut self, endpoint: Endpoint) -> Result<Arc<Endpoint>> {
        let entry = self.entry(&endpoint.network_id)?;
        for (ipv6, net) in [(false, endpoint.ipv4), (true, endpoint.ipv6)] {
            if let Some(net) = net {
                entry.lease(ipv6, Some(net.addr()))?;
            }
        }
        let endpoint = Arc::new(endpoint);
        entry.endpoints.insert(endpoint.id.clone(), Arc::clone(&endpoint));
        Ok(endpoint)
    }
}

/// The 404 of a network.
pub fn not_found(term: &str) -> Error {
    Error::not_found(format!("network {term} not found"))
}

/// The refusal of what needs a network without containers.
pub fn has_endpoints(name: &str, id: &str) -> Error {
    Error::new(
        Kind::Forbidden,
        format!("error while removing network: network {name} id {id} has active endpoints"),
    )
}
