//! Published ports: what a container asks for, and what it gets on the host.
//!
//! Each port is held by a socket, so that no other program of the host takes it. Packets do not come that way: the
//! firewall sends them to the container before. Only where it cannot, from IPv6 to a container without it, does the
//! engine accept connections and relay them.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    os::fd::OwnedFd,
    sync::Arc,
};

use berth_api::models::{PortBinding, PortMap};
use berth_runtime::{
    Error, Result,
    net::{Port, Protocol},
};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, ipproto, listen, socket_with, sockopt,
};
use serde::{Deserialize, Serialize};

/// Connections that may wait to be relayed.
const BACKLOG: i32 = 128;
/// How often another ephemeral port is tried.
const TRIES: usize = 64;

/// What a container wants to be published.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Each container port with what was asked for on the host.
    pub bindings: Vec<(Protocol, u16, PortBinding)>,
    /// All exposed ports, published or not.
    pub exposed: Vec<(Protocol, u16)>,
}

/// A published port of a running container.
#[derive(Clone, Debug)]
pub struct Published {
    /// What is published where.
    pub publication: Publication,
    /// What holds the port on the host.
    pub held: Option<Arc<OwnedFd>>,
}

/// A published port, as it is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Address of the host; none for all addresses of both families.
    pub address: Option<IpAddr>,
    /// Port of the host.
    pub host_port: u16,
    /// Port of the container.
    pub container_port: u16,
    /// The container's IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// The container's IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Families (IPv4, IPv6) over which the port is reached by the container's own address and not by the host's.
    #[serde(default)]
    pub routed: [bool; 2],
    /// Whether it is also reached by the container's own addresses, from some interfaces of the host.
    #[serde(default)]
    pub trusted: bool,
}

/// Where published ports lead, and how.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Where ports are published whose bindings do not say it.
    pub publish_on: IpAddr,
    /// The container's addresses.
    pub addresses: (Option<Ipv4Addr>, Option<Ipv6Addr>),
    /// Families (IPv4, IPv6) over which the container is reached by its own address.
    pub routed: [bool; 2],
    /// Whether it is also reached by its own addresses, from some interfaces of the host.
    pub trusted: bool,
}

/// The ports of the host that containers of this engine have.
#[derive(Debug, Default)]
pub struct Table(HashMap<(Protocol, u16), Vec<Option<IpAddr>>>);

impl Wanted {
    /// Reads a container's bindings and exposed ports.
    ///
    /// # Errors
    /// Invalid, for a malformed port.
    pub fn read(
        bindings: &PortMap,
        exposed: impl Iterator<Item = impl AsRef<str>>,
        publish_all: bool,
    ) -> Result<Self> {
        let mut wanted = Self::default();
        for port in exposed {
            wanted.exposed.push(parse(port.as_ref())?);
        }
        for (port, list) in bindings {
            let (protocol, number) = parse(port)?;
            wanted.exposed.push((protocol, number));
            for binding in list.iter().flatten() {
                wanted.bindings.push((protocol, number, binding.clone()));
            }
            // A port without a binding gets one of the engine's choice.
            if list.as_ref().is_some_and(Vec::is_empty) {
                wanted.bindings.push((protocol, number, PortBinding::default()));
            }
        }
        wanted.exposed.sort_unstable();
        wanted.exposed.dedup();
        if publish_all {
            for (protocol, number) in wanted.exposed.clone() {
                let bound = wanted
                    .bindings
                    .iter()
                    .any(|(p, n, _)| (*p, *n) == (protocol, number));
                if !bound {
                    wanted.bindings.push((protocol, number, PortBinding::default()));
                }
            }
        }
        // What must have one certain port comes before what takes any.
        wanted
            .bindings
            .sort_by_key(|(_, _, binding)| match binding.host_port.as_str() {
                "" | "0" => 2,
                port if port.contains('-') => 1,
                _ => 0,
            });
        Ok(wanted)
    }
}

/// Reads a container's exposed ports.
///
/// # Errors
/// Invalid, for a malformed port.
pub fn exposed(ports: impl Iterator<Item = impl AsRef<str>>) -> Result<Vec<(Protocol, u16)>> {
    ports.map(|port| parse(port.as_ref())).collect()
}

/// `80`, `80/tcp`.
fn parse(text: &str) -> Result<(Protocol, u16)> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let bad = || Error::invalid(format!("invalid port specification: {text:?}"));
    Ok((
        protocol_of(protocol).ok_or_else(bad)?,
        number.parse().map_err(|_| bad())?,
    ))
}

/// The protocol of that name.
pub fn protocol_of(name: &str) -> Option<Protocol> {
    match name.to_ascii_lowercase().as_str() {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        "sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// The name of a protocol.
pub fn name_of(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

impl Publication {
    /// Its protocol.
    pub fn protocol(&self) -> Protocol {
        protocol_of(&self.protocol).unwrap_or(Protocol::Tcp)
    }

    /// What the firewall has to do for it.
    pub fn rules(&self) -> Vec<Port> {
        let rule = |host: IpAddr, container: IpAddr| Port {
            protocol: self.protocol(),
            host: SocketAddr::new(host, self.host_port),
            container: SocketAddr::new(container, self.container_port),
        };
        let (v4, v6) = match self.address {
            None => (Some(Ipv4Addr::UNSPECIFIED), Some(Ipv6Addr::UNSPECIFIED)),
            Some(IpAddr::V4(address)) => (Some(address), None),
            Some(IpAddr::V6(address)) => (None, Some(address)),
        };
        let [routed4, routed6] = self.routed;
        let v4 = v4.zip(self.ipv4).filter(|_| !routed4);
        let v6 = v6.zip(self.ipv6).filter(|_| !routed6);
        let v4 = v4.map(|(host, to)| rule(host.into(), to.into()));
        let v6 = v6.map(|(host, to)| rule(host.into(), to.into()));
        v4.into_iter().chain(v6).collect()
    }

    /// The container's own addresses by which the port is reached from outside.
    pub fn direct(&self) -> Vec<(Protocol, SocketAddr)> {
        let [routed4, routed6] = self.routed;
        let v4 = self.ipv4.filter(|_| routed4 || self.trusted).map(IpAddr::from);
        let v6 = self.ipv6.filter(|_| routed6 || self.trusted).map(IpAddr::from);
        v4.into_iter()
            .chain(v6)
            .map(|address| (self.protocol(), SocketAddr::new(address, self.container_port)))
            .collect()
    }

    /// Whether it has no port of the host.
    fn is_routed_only(&self) -> bool {
        self.host_port == 0
    }

    /// Whether the engine has to relay what comes over IPv6.
    pub fn needs_relay(&self) -> bool {
        let reached_by_ipv6 = self.address.is_none_or(|address| address.is_ipv6());
        let translated = self.routed == [false, false] && !self.is_routed_only();
        let streams = self.protocol() != Protocol::Sctp;
        streams && translated && reached_by_ipv6 && self.ipv6.is_none() && self.ipv4.is_some()
    }

    /// As inspect shows it: one entry for each family.
    pub fn bindings(&self) -> Vec<PortBinding> {
        let port = self.host_port.to_string();
        let binding = |address: IpAddr| PortBinding {
            host_ip: address.to_string(),
            host_port: port.clone(),
        };
        match self.address {
            _ if self.is_routed_only() => Vec::new(),
            Some(address) => vec![binding(address)],
            None => {
                let v6 = self.ipv6.is_some() || self.needs_relay();
                std::iter::once(Ipv4Addr::UNSPECIFIED.into())
                    .chain(v6.then_some(Ipv6Addr::UNSPECIFIED.into()))
                    .map(binding)
                    .collect()
            }
        }
    }
}

/// All ports of a container as inspect shows them.
pub fn port_map<'a>(
    exposed: &[(Protocol, u16)],
    published: impl Iterator<Item = &'a Publication>,
) -> PortMap {
    let key = |protocol, port: u16| format!("{port}/{}", name_of(protocol));
    let mut map: BTreeMap<_, Option<Vec<PortBinding>>> = exposed
        .iter()
        .map(|(protocol, port)| (key(*protocol, *port), None))
        .collect();
    for publication in published {
        let shown = map
            .entry(key(publication.protocol(), publication.container_port))
            .or_default();
        if !publication.is_routed_only() {
            shown.get_or_insert_default().extend(publication.bindings());
        }
    }
    map
}

impl Table {
    /// Takes a port of the host and holds it.
    ///
    /// # Errors
    /// Internal, in the words of Docker, if it is taken by a container or by a program; invalid for a bad request.
    pub fn take(
        &mut self,
        protocol: Protocol,
        container_port: u16,
        binding: &PortBinding,
        target: &Target,
    ) -> Result<Published> {
        let address = host_address(&binding.host_ip, target.publish_on)?;
        let candidates = range(&binding.host_port)?;
        let publication = Publication {
            protocol: name_of(protocol).to_owned(),
            address,
            host_port: 0,
            container_port,
            ipv4: target.addresses.0,
            ipv6: target.addresses.1,
            routed: target.routed,
            trusted: target.trusted,
        };
        let Some(address) = translated(address, target) else {
            return Ok(Published {
                publication,
                held: None,
            });
        };
        let (port, held) = match candidates {
            None => self.any(protocol, address)?,
            Some(ports) => self.first_of(protocol, address, ports)?,
        };
        self.0.entry((protocol, port)).or_default().push(address);
        Ok(Published {
            publication: Publication {
                address,
                host_port: port,
                ..publication
            },
            held,
        })
    }

    /// Takes again what a container had before the engine was restarted.
    pub fn retake(&mut self, publication: Publication) -> Published {
        if publication.is_routed_only() {
            return Published {
                publication,
                held: None,
            };
        }
        let (protocol, address) = (publication.protocol(), publication.address);
        let held = hold(protocol, address, publication.host_port)
            .map(|(_, held)| held)
            .unwrap_or_else(|error| {
                tracing::warn!(
                    port = publication.host_port, %error,
                    "a published port was taken by another program while the engine was away"
                );
                None
            });
        self.0
            .entry((protocol, publication.host_port))
            .or_default()
            .push(address);
        Published { publication, held }
    }

    /// Gives a port back.
    pub fn free(&mut self, publication: &Publication) {
        let key = (publication.protocol(), publication.host_port);
        if let Some(addresses) = self.0.get_mut(&key) {
            addresses.retain(|address| *address != publication.address);
            if addresses.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    fn is_taken(&self, protocol: Protocol, address: Option<IpAddr>, port: u16) -> bool {
        let taken = self.0.get(&(protocol, port));
        taken.is_some_and(|taken| taken.iter().any(|other| touches(*other, address)))
    }

    fn any(&self, protocol: Protocol, address: Option<IpAddr>) -> Result<(u16, Option<Arc<OwnedFd>>)> {
        for _ in 0..TRIES {
            // The kernel's choice is held at once.
            let (port, held) =
                hold(protocol, address, 0).map_err(|error| taken(address, 0, protocol, &error))?;
            if !self.is_taken(protocol, address, port) {
                return Ok((port, held));
            }
        }
        Err(Error::internal("all ports are allocated"))
    }

    fn first_of(
        &self,
        protocol: Protocol,
        address: Option<IpAddr>,
        ports: RangeInclusive<u16>,
    ) -> Result<(u16, Option<Arc<OwnedFd>>)> {
        let mut last = None;
        for port in ports {
            let found = match self.is_taken(protocol, address, port) {
                true => Err(Error::internal(format!(
                    "Bind for {} failed: port is already allocated",
                    shown(address, port)
                ))),
                false => {
                    hold(protocol, address, port).map_err(|error| taken(address, port, protocol, &error))
                }
            };
            match found {
                Ok(found) => return Ok(found),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::internal("all ports are allocated")))
    }
}

/// The address of the host at which a port is published, none for all addresses; nothing at all where the container is
/// reached by its own address only.
fn translated(address: Option<IpAddr>, target: &Target) -> Option<Option<IpAddr>> {
    let [routed4, routed6] = target.routed;
    let without_ipv6 = target.addresses.1.is_none();
    match address {
        None if routed4 && (routed6 || without_ipv6) => None,
        None if routed4 => Some(Some(Ipv6Addr::UNSPECIFIED.into())),
        None if routed6 => Some(Some(Ipv4Addr::UNSPECIFIED.into())),
        Some(IpAddr::V4(_)) if routed4 => None,
        Some(IpAddr::V6(_)) if routed6 || (routed4 && without_ipv6) => None,
        other => Some(other),
    }
}

/// Whether what is bound to one address stands in the way of the other.
fn touches(one: Option<IpAddr>, other: Option<IpAddr>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) if one.is_ipv4() == other.is_ipv4() => {
            one == other || one.is_unspecified() || other.is_unspecified()
        }
        (Some(_), Some(_)) => false,
        _ => true,
    }
}

fn shown(address: Option<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), port)
}

fn taken(address: Option<IpAddr>, port: u16, protocol: Protocol, error: &io::Error) -> Error {
    let place = shown(address, port);
    let words = match error.raw_os_error() {
        Some(code) if code == rustix::io::Errno::ADDRINUSE.raw_os_error() => {
            "address already in use".to_owned()
        }
        Some(code) if code == rustix::io::Errno::ADDRNOTAVAIL.raw_os_error() => {
            "cannot assign requested address".to_owned()
        }
        _ => error.to_string(),
    };
    let family = if place.is_ipv4() { "4" } else { "6" };
    Error::internal(format!(
        "failed to bind host port: listen {}{family} {place}: bind: {words}",
        name_of(protocol)
    ))
}

/// `HostIp`: none for all addresses of both families.
fn host_address(text: &str, default: IpAddr) -> Result<Option<IpAddr>> {
    match text {
        "" if default == IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ok(None),
        "" => Ok(Some(default)),
        _ => text
            .parse()
            .map(Some)
            .map_err(|_| Error::invalid(format!("invalid host IP {text:?} of a published port"))),
    }
}

/// `HostPort`: none for any.
fn range(text: &str) -> Result<Option<RangeInclusive<u16>>> {
    if matches!(text, "" | "0") {
        return Ok(None);
    }
    let bad = || Error::invalid(format!("invalid port specification: {text:?}"));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = first.parse().map_err(|_| bad())?..=last.parse().map_err(|_| bad())?;
    (!range.is_empty() && *range.start() > 0)
        .then_some(Some(range))
        .ok_or_else(bad)
}

/// Takes a port of the host, 0 for any, and answers with it and what holds it. Nothing holds one of a protocol that the
/// kernel does not have.
fn hold(protocol: Protocol, address: Option<IpAddr>, port: u16) -> io::Result<(u16, Option<Arc<OwnedFd>>)> {
    let both = address.is_none();
    let place = SocketAddr::new(address.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)), port);
    match open(protocol, place, both) {
        // Hosts without IPv6.
        Err(error) if both && is_missing(&error) => open(
            protocol,
            SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port),
            false,
        ),
        opened => opened,
    }
    .map(|(port, socket)| (port, Some(Arc::new(socket))))
    .or_else(|error| match protocol {
        Protocol::Sctp if is_missing(&error) && port != 0 => Ok((port, None)),
        Protocol::Sctp if is_missing(&error) => Ok((rand::random_range(32768..=60999), None)),
        _ => Err(error),
    })
}

fn is_missing(error: &io::Error) -> bool {
    let codes = [
        rustix::io::Errno::AFNOSUPPORT,
        rustix::io::Errno::PROTONOSUPPORT,
        rustix::io::Errno::SOCKTNOSUPPORT,
    ];
    codes
        .iter()
        .any(|code| error.raw_os_error() == Some(code.raw_os_error()))
        || (error.raw_os_error() == Some(rustix::io::Errno::ADDRNOTAVAIL.raw_os_error()))
}

fn open(protocol: Protocol, place: SocketAddr, both: bool) -> io::Result<(u16, OwnedFd)> {
    let family = if place.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, kind, flags, Some(number))?;
    if place.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !both)?;
    }
    if protocol == Protocol::Tcp {
        // Connections of an earlier program that wind up are no hindrance.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &place)?;
    if protocol != Protocol::Udp {
        listen(&socket, BACKLOG)?;
    }
    let bound = SocketAddr::try_from(getsockname(&socket)?).map_err(io::Error::from)?;
    Ok((bound.port(), socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(ip: &str, port: &str) -> PortBinding {
        PortBinding {
            host_ip: ip.into(),
            host_port: port.into(),
        }
    }

    const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    const TO: (Option<Ipv4Addr>, Option<Ipv6Addr>) = (Some(Ipv4Addr::new(172, 17, 0, 2)), None);
    const TARGET: Target = Target {
        publish_on: ANY,
        addresses: TO,
        routed: [false, false],
        trusted: false,
    };

    #[test]
    fn ports_of_containers_and_programs_clash() {
        let mut table = Table::default();
        let first = table
            .take(Protocol::Tcp, 80, &binding("127.0.0.1", ""), &TARGET)
            .unwrap();
        let port = first.publication.host_port;
        let mut take = |ip: &str| {
            table
                .take(Protocol::Tcp, 80, &binding(ip, &port.to_string()), &TARGET)
                .map(|_| ())
                .map_err(|error| error.to_string())
        };
        assert_eq!(
            take("").unwrap_err(),
            format!("Bind for 0.0.0.0:{port} failed: port is already allocated")
        );
        assert_eq!(
            take("127.0.0.1").unwrap_err(),
            format!("Bind for 127.0.0.1:{port} failed: port is already allocated")
        );
        take("127.0.0.2").unwrap();
        drop(first);

        let program = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = program.local_addr().unwrap().port();
        let error = table
            .take(Protocol::Tcp, 80, &binding("", &port.to_string()), &TARGET)
            .unwrap_err();
        assert!(error.to_string().ends_with("address already in use"), "{error}");
        let error = table
            .take(Protocol::Tcp, 80, &binding("192.0.2.254", "8080"), &TARGET)
            .unwrap_err();
        assert!(
            error.to_string().ends_with("cannot assign requested address"),
            "{error}"
        );
    }

    #[test]
    fn routed_ports_are_not_the_hosts() {
        let mut table = Table::default();
        let target = Target {
            routed: [true, false],
            ..TARGET
        };
        let port = table
            .take(Protocol::Tcp, 80, &binding("", "8080"), &target)
            .unwrap()
            .publication;
        assert_eq!(
            (port.host_port, port.rules().len(), port.bindings().len()),
            (0, 0, 0)
        );
        assert_eq!(port.direct(), [(Protocol::Tcp, "172.17.0.2:80".parse().unwrap())]);
        assert!(!port.needs_relay());
        let both = Target {
            addresses: (TO.0, Some(Ipv6Addr::LOCALHOST)),
            ..target
        };
        assert_eq!(translated(None, &both), Some(Some(Ipv6Addr::UNSPECIFIED.into())));
        assert_eq!(translated(Some(ANY), &both), None);
        assert_eq!(translated(None, &TARGET), Some(None));
    }

    #[test]
    fn requests_are_read() {
        assert_eq!(range("8000-8010").unwrap(), Some(8000..=8010));
        assert_eq!(range("0").unwrap(), None);
        for bad in ["x", "70000", "9-8", "0-5", "-"] {
            assert!(range(bad).is_err(), "{bad}");
        }
        let bindings = PortMap::from([("80/tcp".to_owned(), Some(vec![binding("", "8080")]))]);
        let wanted = Wanted::read(&bindings, ["53/udp"].iter(), true).unwrap();
        assert_eq!(wanted.exposed.len(), 2);
        assert_eq!(wanted.bindings.len(), 2);
        assert_eq!(wanted.bindings[0].2.host_port, "8080");
    }

    #[test]
    fn a_publication_is_shown_and_becomes_rules() {
        let publication = Publication {
            protocol: "tcp".into(),
            address: None,
            host_port: 8080,
            container_port: 80,
            ipv4: TO.0,
            ipv6: None,
            routed: [false, false],
            trusted: false,
        };
        assert_eq!(publication.rules().len(), 1);
        assert!(publication.needs_relay());
        let map = port_map(
            &[(Protocol::Tcp, 80), (Protocol::Udp, 53)],
            [&publication].into_iter(),
        );
        assert_eq!(map["53/udp"], None);
        assert_eq!(map["80/tcp"].as_ref().unwrap().len(), 2);
    }
}
