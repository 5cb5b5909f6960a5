//! The firewall table of one engine.
//!
//! Everything that changes while the engine runs are elements of sets and maps, so that a network or a thousand ports
//! are added in one small transaction, and no rule is ever searched. Other tables are not touched. A packet that this
//! table accepts may still be dropped by another one.
//!
//! | chain | what it does |
//! |---|---|
//! | `raw` | a container cannot reach the host's loopback addresses, although its bridge routes them |
//! | `prerouting`, `output`, `ports` | published ports: the destination is changed |
//! | `postrouting` | masquerading; and what reaches a container over a published port from another container, or from a loopback address, comes from its gateway |
//! | `forward` | networks are isolated from each other; nobody outside reaches what is not published; internal networks are closed |

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Mutex, PoisonError},
};

use ipnet::IpNet;
use netlink_sys::Socket;
use tokio::io::unix::AsyncFd;

use super::{
    message::{Message, messages},
    nft::{
        self, Base, CT_STATE, CT_STATUS, DESTINATION_CHANGED, Data, ESTABLISHED_OR_RELATED, Element,
        INTERFACE, IPV4, IPV6, META_IIFNAME, META_L4PROTO, META_OIFNAME, NETWORK_HEADER, PORT, PROTOCOL,
        REGISTER, Rule, Set, TRANSPORT_HEADER, Value, Verdict,
    },
    socket::{NETFILTER, Netlink},
};
use crate::{Error, Result, error::Context, failpoint::hit, sys::readiness::register};

/// `NFNLGRP_NFTABLES`: what changes in any table.
const CHANGES: u32 = 7;

const SETS: [Set; 17] = [
    set("bridges", &[INTERFACE], Data::None, false),
    set("internal", &[INTERFACE], Data::None, false),
    set("same", &[INTERFACE, INTERFACE], Data::Verdicts, false),
    set("trusted", &[INTERFACE, INTERFACE], Data::None, false),
    set("open", &[INTERFACE], Data::None, false),
    set("links", &[IPV4, IPV4, PROTOCOL, PORT], Data::None, false),
    set("direct4", &[IPV4, PROTOCOL, PORT], Data::None, false),
    set("direct6", &[IPV6, PROTOCOL, PORT], Data::None, false),
    set("direct", &[INTERFACE], Data::None, false),
    set("subnets4", &[IPV4], Data::None, true),
    set("subnets6", &[IPV6], Data::None, true),
    set("masquerade4", &[IPV4], Data::None, true),
    set("masquerade6", &[IPV6], Data::None, true),
    set("any4", &[PROTOCOL, PORT], Data::Values(&[IPV4, PORT]), false),
    set("any6", &[PROTOCOL, PORT], Data::Values(&[IPV6, PORT]), false),
    set(
        "ports4",
        &[IPV4, PROTOCOL, PORT],
        Data::Values(&[IPV4, PORT]),
        false,
    ),
    set(
        "ports6",
        &[IPV6, PROTOCOL, PORT],
        Data::Values(&[IPV6, PORT]),
        false,
    ),
];

const fn set(name: &'static str, key: &'static [nft::Type], data: Data, interval: bool) -> Set {
    Set {
        name,
        key,
        data,
        interval,
    }
}

/// A network, as far as packets are concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Name of its bridge.
    pub bridge: String,
    /// Its subnets.
    pub subnets: Vec<IpNet>,
    /// Whether what leaves it gets an address of the host.
    pub masquerade: bool,
    /// Whether its containers may talk to each other.
    pub icc: bool,
    /// Whether it is cut off from everything else.
    pub internal: bool,
    /// Families (IPv4, IPv6) whose addresses are reached from outside without translation: only published ports are.
    pub routed: [bool; 2],
    /// Whether all ports of its containers are reached from outside.
    pub open: bool,
    /// Interfaces of the host from which published ports are reached by the containers' own addresses.
    pub trusted: Vec<String>,
}

/// A port that one container may reach of another although their network keeps containers apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Link {
    /// Who may.
    pub from: Ipv4Addr,
    /// Whom.
    pub to: Ipv4Addr,
    /// Protocol of the port.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// What is added to or taken from the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Networks.
    pub networks: Vec<Network>,
    /// Published ports.
    pub ports: Vec<Port>,
    /// Links.
    pub links: Vec<Link>,
    /// Ports of containers that are reached from outside by the containers' own addresses, where their network
    /// allows that.
    pub direct: Vec<(Protocol, SocketAddr)>,
}

impl Content {
    /// Networks alone.
    pub fn networks(networks: Vec<Network>) -> Self {
        Self {
            networks,
            ..Self::default()
        }
    }
}

/// Transport protocols of published ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its number in IP headers.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// Its protocol.
    pub protocol: Protocol,
    /// Address and port on the host; the unspecified address stands for all of its family.
    pub host: SocketAddr,
    /// Address and port of the container.
    pub container: SocketAddr,
}

/// The table.
#[derive(Debug)]
pub struct Firewall {
    table: String,
    netlink: Mutex<Netlink>,
    port: u32,
}

/// Tells when somebody else has changed the table.
#[derive(Debug)]
pub struct Watch {
    socket: AsyncFd<Socket>,
    table: Vec<u8>,
    own_port: u32,
}

impl Firewall {
    /// The table of that name, which need not exist.
    ///
    /// # Errors
    /// Unavailable, if the kernel has no nftables; internal.
    pub fn open(table: &str) -> Result<Self> {
        let netlink = Netlink::open(NETFILTER)
            .map_err(|e| Error::new(crate::Kind::Unavailable, "the kernel has no netfilter").caused_by(e))?;
        Ok(Self {
            table: table.to_owned(),
            port: netlink.port(),
            netlink: Mutex::new(netlink),
        })
    }

    /// Makes the table anew with what `content` gives, in one step.
    ///
    /// # Errors
    /// Internal; the table is as before then.
    pub fn replace(&self, content: impl FnOnce() -> Content) -> Result<()> {
        hit("firewall.replace").context(|| "cannot make the firewall table")?;
        let mut netlink = self.netlink.lock().unwrap_or_else(PoisonError::into_inner);
        let content = content();
        let mut batch = vec![nft::add_table(&self.table), nft::delete_table(&self.table)];
        batch.extend(skeleton(&self.table));
        batch.extend(self.elements(&content, nft::add_elements));
        commit(&mut netlink, &batch)
    }

    /// Takes the table away.
    ///
    /// # Errors
    /// Internal.
    pub fn remove(&self) -> Result<()> {
        self.change(vec![nft::add_table(&self.table), nft::delete_table(&self.table)])
    }

    /// Adds networks, ports and links.
    ///
    /// # Errors
    /// Internal; nothing has changed then.
    pub fn add(&self, content: &Content) -> Result<()> {
        self.change(self.elements(content, nft::add_elements))
    }

    /// Removes networks, ports and links.
    ///
    /// # Errors
    /// Internal, also if they are not there; nothing has changed then.
    pub fn delete(&self, content: &Content) -> Result<()> {
        self.change(self.elements(content, nft::delete_elements))
    }

    /// Watches the table. To be called in a runtime of tokio.
    ///
    /// # Errors
    /// Internal.
    pub fn watch(&self) -> Result<Watch> {
        let open = || {
            let mut socket = Socket::new(NETFILTER)?;
            socket.bind_auto()?;
            socket.add_membership(CHANGES)?;
            socket.set_non_blocking(true)?;
            register(socket)
        };
        let mut table = self.table.clone().into_bytes();
        table.push(0);
        Ok(Watch {
            socket: open().context(|| "cannot watch the firewall")?,
            table,
            own_port: self.port,
        })
    }

    fn change(&self, batch: Vec<Message>) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        hit("firewall.change").context(|| "cannot change the firewall table")?;
        let mut netlink = self.netlink.lock().unwrap_or_else(PoisonError::into_inner);
        commit(&mut netlink, &batch)
    }

    fn elements(
        &self,
        content: &Content,
        change: fn(&str, &str, &[Element]) -> Vec<Message>,
    ) -> Vec<Message> {
        let mut all: Vec<(&'static str, Element)> = Vec::new();
        for network in &content.networks {
            network_elements(network, &mut all);
        }
        all.extend(content.ports.iter().map(port_element));
        all.extend(content.links.iter().map(link_element));
        all.extend(
            content
                .direct
                .iter()
                .map(|(protocol, address)| direct_element(*protocol, *address)),
        );
        SETS.iter()
            .flat_map(|set| {
                let own: Vec<_> = all
                    .iter()
                    .filter(|(name, _)| *name == set.name)
                    .map(|(_, element)| element.clone())
                    .collect();
                match own.is_empty() {
                    true => Vec::new(),
                    false => change(&self.table, set.name, &own),
                }
            })
            .collect()
    }
}

impl Watch {
    /// Waits until somebody else has changed the table, or may have.
    ///
    /// # Errors
    /// Internal, if the socket fails.
    pub async fn changed(&self) -> Result<()> {
        let failed = || "cannot watch the firewall";
        let mut buffer = Vec::with_capacity(64 << 10);
        loop {
            let mut ready = self.socket.readable().await.context(failed)?;
            buffer.clear();
            let received = ready.try_io(|socket| socket.get_ref().recv(&mut buffer, 0));
            match received {
                // Not ready after all.
                Err(_) => {}
                // More was told than could be kept: it may have been about this table.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Ok(Err(error)) => return Err(error).context(failed),
                Ok(Ok(_)) if self.concerns(&buffer) => return Ok(()),
                Ok(Ok(_)) => {}
            }
        }
    }

    fn concerns(&self, datagram: &[u8]) -> bool {
        messages(datagram).any(|message| {
            // In every message about something in a table the first attribute names it.
            let attributes = message.attributes(4);
            message.port != self.own_port
                && message.kind != (nft::SUBSYSTEM << 8) | nft::NEWGEN
                && attributes.find(1).is_some_and(|name| name == self.table)
        })
    }
}

pub(super) fn commit(netlink: &mut Netlink, batch: &[Message]) -> Result<()> {
    netlink
        .commit(&nft::begin(), batch, &nft::end())
        .map_err(|refusal| {
            Error::internal(format!("cannot change the firewall (message {})", refusal.index))
                .caused_by(refusal)
        })
}

fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn network_elements(network: &Network, all: &mut Vec<(&'static str, Element)>) {
    let bridge = interface(&network.bridge);
    let plain = |key: &[u8]| Element {
        key: key.to_vec(),
        value: Value::None,
    };
    all.push(("bridges", plain(&bridge)));
    if network.internal {
        all.push(("internal", plain(&bridge)));
    }
    if network.open {
        all.push(("open", plain(&bridge)));
    }
    if network.routed != [false, false] {
        all.push(("direct", plain(&bridge)));
    }
    for trusted in &network.trusted {
        all.push(("trusted", plain(&[interface(trusted), bridge.clone()].concat())));
    }
    let verdict = match network.icc {
        true => Verdict::Accept,
        false => Verdict::Drop,
    };
    all.push((
        "same",
        Element {
            key: [&bridge[..], &bridge[..]].concat(),
            value: Value::Verdict(verdict),
        },
    ));
    for subnet in &network.subnets {
        let (subnets, masquerade) = match subnet {
            IpNet::V4(_) => ("subnets4", "masquerade4"),
            IpNet::V6(_) => ("subnets6", "masquerade6"),
        };
        let mut sets = vec![subnets];
        let routed = network.routed.get(usize::from(subnet.addr().is_ipv6()));
        if network.masquerade && !network.internal && routed != Some(&true) {
            sets.push(masquerade);
        }
        for set in sets {
            all.push((set, plain(&octets(subnet.network()))));
            if let Some(end) = following(subnet) {
                all.push((
                    set,
                    Element {
                        key: end,
                        value: Value::End,
                    },
                ));
            }
        }
    }
}

/// The first address behind a subnet, unless it ends where all addresses end.
fn following(subnet: &IpNet) -> Option<Vec<u8>> {
    match subnet.broadcast() {
        IpAddr::V4(last) => Some(u32::from(last).checked_add(1)?.to_be_bytes().to_vec()),
        IpAddr::V6(last) => Some(u128::from(last).checked_add(1)?.to_be_bytes().to_vec()),
    }
}

/// A field of a concatenation.
fn field(bytes: &[u8]) -> Vec<u8> {
    let mut field = bytes.to_vec();
    field.resize(bytes.len().next_multiple_of(4), 0);
    field
}

fn link_element(link: &Link) -> (&'static str, Element) {
    let key = [
        &link.from.octets()[..],
        &link.to.octets(),
        &field(&[link.protocol.number()]),
        &field(&link.port.to_be_bytes()),
    ];
    let element = Element {
        key: key.concat(),
        value: Value::None,
    };
    ("links", element)
}

fn direct_element(protocol: Protocol, address: SocketAddr) -> (&'static str, Element) {
    let key = [
        octets(address.ip()),
        field(&[protocol.number()]),
        field(&address.port().to_be_bytes()),
    ];
    let element = Element {
        key: key.concat(),
        value: Value::None,
    };
    match address.is_ipv6() {
        true => ("direct6", element),
        false => ("direct4", element),
    }
}

fn port_element(port: &Port) -> (&'static str, Element) {
    let any = port.host.ip().is_unspecified();
    let set = match (port.host.is_ipv6(), any) {
        (false, true) => "any4",
        (true, true) => "any6",
        (false, false) => "ports4",
        (true, false) => "ports6",
    };
    let mut key = if any { Vec::new() } else { octets(port.host.ip()) };
    key.extend(field(&[port.protocol.number()]));
    key.extend(field(&port.host.port().to_be_bytes()));
    let mut value = octets(port.container.ip());
    value.extend(field(&port.container.port().to_be_bytes()));
    (
        set,
        Element {
            key,
            value: Value::Bytes(value),
        },
    )
}

/// The table with its chains, empty sets and rules.
fn skeleton(table: &str) -> Vec<Message> {
    let mut batch = vec![nft::add_table(table)];
    for (id, set) in (1..).zip(&SETS) {
        batch.push(nft::add_set(table, set, id));
    }
    let base = |kind, hook, priority| Some(Base { kind, hook, priority });
    for (name, base) in [
        ("raw", base("filter", 0, -300)),
        ("prerouting", base("nat", 0, -100)),
        ("output", base("nat", 3, -100)),
        ("postrouting", base("nat", 4, 100)),
        ("forward", base("filter", 2, 0)),
        ("ports", None),
    ] {
        batch.push(nft::add_chain(table, name, base));
    }
    let mut add = |chain, write: &dyn Fn(Rule) -> Rule| batch.push(nft::add_rule(table, chain, write));
    for ipv6 in [false, true] {
        add("raw", &|rule| {
            rule.meta(META_IIFNAME, REGISTER)
                .in_set("bridges", REGISTER, false)
                .family(ipv6)
                .destination(ipv6)
                .when_loopback(ipv6)
                .verdict(Verdict::Drop)
        });
        // What comes from outside to a loopback address is the kernel's to drop.
        add("prerouting", &|rule| {
            rule.family(ipv6)
                .destination(ipv6)
                .when_loopback(ipv6)
                .verdict(Verdict::Return)
        });
    }
    add("prerouting", &|rule| {
        rule.addressed_to_this_host().verdict(Verdict::Jump("ports"))
    });
    add("output", &|rule| {
        rule.addressed_to_this_host().verdict(Verdict::Jump("ports"))
    });
    for ipv6 in [false, true] {
        let (ports, any) = if ipv6 {
            ("ports6", "any6")
        } else {
            ("ports4", "any4")
        };
        let words = if ipv6 { 4 } else { 1 };
        // Data behind the keys: address, then port.
        let address = REGISTER + 8;
        add("ports", &|rule| {
            rule.family(ipv6)
                .destination(ipv6)
                .meta(META_L4PROTO, REGISTER + words)
                .payload(TRANSPORT_HEADER, 2, 2, REGISTER + words + 1)
                .map(ports, REGISTER, address)
                .change_destination(ipv6, address, address + words)
        });
        add("ports", &|rule| {
            rule.family(ipv6)
                .meta(META_L4PROTO, REGISTER)
                .payload(TRANSPORT_HEADER, 2, 2, REGISTER + 1)
                .map(any, REGISTER, address)
                .change_destination(ipv6, address, address + words)
        });
        let (subnets, masquerade) = match ipv6 {
            true => ("subnets6", "masquerade6"),
            false => ("subnets4", "masquerade4"),
        };
        add("postrouting", &|rule| {
            rule.meta(META_OIFNAME, REGISTER)
                .in_set("bridges", REGISTER, false)
                .family(ipv6)
                .source(ipv6)
                .when_loopback(ipv6)
                .masquerade()
        });
        add("postrouting", &|rule| {
            rule.tracked(CT_STATUS, DESTINATION_CHANGED)
                .meta(META_OIFNAME, REGISTER)
                .in_set("bridges", REGISTER, false)
                .family(ipv6)
                .source(ipv6)
                .in_set(subnets, REGISTER, false)
                .masquerade()
        });
        add("postrouting", &|rule| {
            rule.family(ipv6)
                .source(ipv6)
                .in_set(masquerade, REGISTER, false)
                .meta(META_OIFNAME, REGISTER)
                .in_set("bridges", REGISTER, true)
                .masquerade()
        });
    }
    add("forward", &|rule| {
        rule.tracked(CT_STATE, ESTABLISHED_OR_RELATED)
            .verdict(Verdict::Accept)
    });
    add("forward", &|rule| {
        rule.tracked(CT_STATUS, DESTINATION_CHANGED)
            .meta(META_OIFNAME, REGISTER)
            .in_set("bridges", REGISTER, false)
            .verdict(Verdict::Accept)
    });
    add("forward", &|rule| {
        rule.family(false)
            .source(false)
            .payload(NETWORK_HEADER, 16, 4, REGISTER + 1)
            .meta(META_L4PROTO, REGISTER + 2)
            .payload(TRANSPORT_HEADER, 2, 2, REGISTER + 3)
            .in_set("links", REGISTER, false)
            .verdict(Verdict::Accept)
    });
    add("forward", &|rule| {
        rule.meta(META_IIFNAME, REGISTER)
            .meta(META_OIFNAME, REGISTER + 4)
            .verdict_map("same", REGISTER)
    });
    for ipv6 in [false, true] {
        let (set, words) = if ipv6 { ("direct6", 4) } else { ("direct4", 1) };
        // Out of another network of containers nobody comes this way.
        for direct in [true, false] {
            add("forward", &|rule| {
                let rule = match direct {
                    true => rule
                        .meta(META_IIFNAME, REGISTER)
                        .in_set("bridges", REGISTER, true)
                        .meta(META_OIFNAME, REGISTER)
                        .in_set("direct", REGISTER, false),
                    false => rule
                        .meta(META_IIFNAME, REGISTER)
                        .meta(META_OIFNAME, REGISTER + 4)
                        .in_set("trusted", REGISTER, false),
                };
                rule.family(ipv6)
                    .destination(ipv6)
                    .meta(META_L4PROTO, REGISTER + words)
                    .payload(TRANSPORT_HEADER, 2, 2, REGISTER + words + 1)
                    .in_set(set, REGISTER, false)
                    .verdict(Verdict::Accept)
            });
        }
    }
    add("forward", &|rule| {
        rule.meta(META_IIFNAME, REGISTER)
            .in_set("bridges", REGISTER, true)
            .meta(META_OIFNAME, REGISTER)
            .in_set("open", REGISTER, false)
            .verdict(Verdict::Accept)
    });
    add("forward", &|rule| {
        rule.meta(META_OIFNAME, REGISTER)
            .in_set("bridges", REGISTER, false)
            .verdict(Verdict::Drop)
    });
    add("forward", &|rule| {
        rule.meta(META_IIFNAME, REGISTER)
            .in_set("internal", REGISTER, false)
            .verdict(Verdict::Drop)
    });
    batch
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn networks() -> Vec<Network> {
        vec![
            Network {
                bridge: "br-one".into(),
                subnets: vec!["198.18.0.0/24".parse().unwrap(), "fd00:9::/64".parse().unwrap()],
                masquerade: true,
                icc: true,
                routed: [false, true],
                trusted: vec!["eth7".into()],
                ..Network::default()
            },
            Network {
                bridge: "br-two".into(),
                subnets: vec!["198.18.1.0/24".parse().unwrap()],
                masquerade: true,
                icc: false,
                internal: true,
                ..Network::default()
            },
        ]
    }

    fn port(host: &str, container: &str) -> Port {
        Port {
            protocol: Protocol::Tcp,
            host: host.parse().unwrap(),
            container: container.parse().unwrap(),
        }
    }

    fn listed(table: &str) -> Option<String> {
        let output = Command::new("nft")
            .args(["list", "table", "inet", table])
            .output()
            .unwrap();
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    #[test]
    fn the_table_is_made_changed_and_removed() {
        let table = format!("berth_unit{}", std::process::id());
        let firewall = Firewall::open(&table).unwrap();
        firewall
            .replace(|| Content {
                networks: networks(),
                ports: vec![port("0.0.0.0:8080", "198.18.0.2:80")],
                links: vec![Link {
                    from: Ipv4Addr::new(198, 18, 1, 2),
                    to: Ipv4Addr::new(198, 18, 1, 3),
                    protocol: Protocol::Tcp,
                    port: 6379,
                }],
                direct: vec![(Protocol::Udp, "[fd00:9::2]:53".parse().unwrap())],
            })
            .unwrap();
        let text = listed(&table).unwrap();
        assert!(text.contains("tcp . 8080 : 198.18.0.2 . 80"), "{text}");
        assert!(text.contains("\"br-two\" . \"br-two\" : drop"), "{text}");
        assert!(text.contains("198.18.1.2 . 198.18.1.3 . tcp . 6379"), "{text}");
        assert!(text.contains("fd00:9::2 . udp . 53"), "{text}");
        assert!(text.contains("\"eth7\" . \"br-one\""), "{text}");
        let masqueraded = text.split("set masquerade6").nth(1).unwrap();
        assert!(
            !masqueraded.split('}').next().unwrap().contains("fd00:9::"),
            "{text}"
        );

        let more: Vec<_> = (1..=1000)
            .map(|n| port(&format!("127.0.0.1:{}", 20_000 + n), "198.18.0.2:80"))
            .collect();
        let more = Content {
            ports: more,
            ..Content::default()
        };
        firewall.add(&more).unwrap();
        assert!(listed(&table).unwrap().contains("127.0.0.1 . tcp . 20999"));
        firewall
            .delete(&Content {
                networks: networks()[1..].to_vec(),
                ..more.clone()
            })
            .unwrap();
        let text = listed(&table).unwrap();
        assert!(!text.contains("20999") && !text.contains("br-two"), "{text}");
        assert!(firewall.delete(&more).is_err());

        firewall.remove().unwrap();
        assert_eq!(listed(&table), None);
        assert!(firewall.add(&more).is_err());
    }

    #[tokio::test]
    async fn only_what_others_do_is_told() {
        let table = format!("berth_watch{}", std::process::id());
        let firewall = Firewall::open(&table).unwrap();
        firewall.replace(|| Content::networks(networks())).unwrap();
        let watch = firewall.watch().unwrap();
        firewall
            .add(&Content {
                ports: vec![port("0.0.0.0:1", "198.18.0.2:80")],
                ..Content::default()
            })
            .unwrap();
        assert!(
            tokio::time::timeout(std::time::Duration::from_millis(50), watch.changed())
                .await
                .is_err()
        );
        Command::new("nft")
            .args(["flush", "chain", "inet", &table, "forward"])
            .status()
            .unwrap();
        watch.changed().await.unwrap();
        firewall.remove().unwrap();
    }
}
