//! Links, addresses and routes: rtnetlink(7), one socket for each network namespace.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    message::{Attributes, CREATE, DUMP, EXCLUSIVE, Message, Received, u32_at},
    socket::{Netlink, ROUTE, Refusal},
};
use crate::{Error, Kind, Result, error::Context, failpoint::hit};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;
const IFF_UP: u32 = 1;

/// A link that exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its alias, by which engines mark what is theirs.
    pub alias: String,
    /// Index of the bridge it is a port of; 0 if of none.
    pub master: u32,
    /// What made it: `bridge`, `veth` …; empty for hardware.
    pub kind: String,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Its hardware address.
    pub mac: Vec<u8>,
}

/// Links of one network namespace.
#[derive(Debug)]
pub struct Links {
    pub(super) netlink: Netlink,
}

/// A bridge to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewBridge<'a> {
    /// Name, up to 15 bytes.
    pub name: &'a str,
    /// What marks it.
    pub alias: &'a str,
    /// Largest packet; 0 for the kernel's default.
    pub mtu: u32,
    /// Whether it gets a link-local IPv6 address.
    pub ipv6: bool,
}

/// A pair of links: one end in this namespace, as a port of a bridge, the other in a container's.
#[derive(Clone, Copy, Debug)]
pub struct NewPair<'a> {
    /// Name of this end.
    pub name: &'a str,
    /// What marks this end.
    pub alias: &'a str,
    /// Index of the bridge.
    pub bridge: u32,
    /// Largest packet; 0 for the kernel's default.
    pub mtu: u32,
    /// Whether it can reach the bridge only, and no other port that is isolated.
    pub isolated: bool,
    /// The namespace of the other end.
    pub namespace: i32,
    /// Name of the other end.
    pub peer: &'a str,
    /// Hardware address of the other end.
    pub mac: [u8; 6],
}

/// What kind of link lies upon a parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upon {
    /// `macvlan`, with `enum macvlan_mode`.
    Macvlan(u32),
    /// `ipvlan`, with its mode and flag.
    Ipvlan(u16, u16),
}

/// A link upon another one, made in a container's namespace.
#[derive(Clone, Copy, Debug)]
pub struct NewUpon<'a> {
    /// Name.
    pub name: &'a str,
    /// What it is.
    pub kind: Upon,
    /// Index of the parent.
    pub parent: u32,
    /// Largest packet; 0 for the parent's.
    pub mtu: u32,
    /// Where it is made.
    pub namespace: i32,
    /// Hardware address, for a macvlan.
    pub mac: [u8; 6],
}

impl Links {
    /// Those of the calling thread's namespace.
    ///
    /// # Errors
    /// Internal, if there is no socket to be had.
    pub fn open() -> Result<Self> {
        let netlink =
            Netlink::open(ROUTE).map_err(|e| Error::internal("cannot open a netlink socket").caused_by(e))?;
        Ok(Self { netlink })
    }

    /// All links.
    ///
    /// # Errors
    /// Internal.
    pub fn list(&mut self) -> Result<Vec<Link>> {
        let mut links = Vec::new();
        let request = Message::new(GETLINK, DUMP, &link_header(0, 0, 0));
        self.netlink
            .get(request, |received| links.extend(read_link(received)))
            .map_err(|e| failed("cannot list the network links", e))?;
        Ok(links)
    }

    /// The link of that name, if there is one.
    ///
    /// # Errors
    /// Internal.
    pub fn find(&mut self, name: &str) -> Result<Option<Link>> {
        let mut link = None;
        let request = Message::new(GETLINK, 0, &link_header(0, 0, 0)).text(IFLA_IFNAME, name);
        match self.netlink.get(request, |received| link = read_link(received)) {
            Err(error) if error.code() == libc::ENODEV => Ok(None),
            Err(error) => Err(failed(format!("cannot look for the network link {name}"), error)),
            Ok(()) => Ok(link),
        }
    }

    /// The link of that name.
    ///
    /// # Errors
    /// Not found; internal.
    pub fn get(&mut self, name: &str) -> Result<Link> {
        self.find(name)?
            .ok_or_else(|| Error::not_found(format!("there is no network link {name}")))
    }

    /// Makes a bridge, which is up, and answers with its index.
    ///
    /// # Errors
    /// Conflict if there is a link of that name; internal. Nothing is left behind.
    pub fn add_bridge(&mut self, bridge: &NewBridge<'_>) -> Result<u32> {
        let make =
            Message::new(NEWLINK, CREATE | EXCLUSIVE, &link_header(0, 0, 0)).text(IFLA_IFNAME, bridge.name);
        let make = with_mtu(make, bridge.mtu).nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, |data| {
                // Without a querier snooping would lose multicast after a while.
                data.attribute(IFLA_BR_MCAST_SNOOPING, &[0])
            })
        });
        let mark = named(SETLINK, bridge.name, IFF_UP).text(IFLA_IFALIAS, bridge.alias);
        let mark = if bridge.ipv6 {
            mark
        } else {
            without_link_local(mark)
        };
        hit("link.bridge").context(|| format!("cannot make the bridge {}", bridge.name))?;
        match self.netlink.call(&[make, mark]) {
            Ok(()) => self.get(bridge.name).map(|link| link.index),
            Err(error) if error.index == 0 && error.code() == libc::EEXIST => Err(Error::conflict(format!(
                "there is a network link {} already",
                bridge.name
            ))),
            Err(error) => {
                if error.index > 0 {
                    self.delete(bridge.name)?;
                }
                Err(failed(format!("cannot make the bridge {}", bridge.name), error))
            }
        }
    }

    /// Makes a pair of links.
    ///
    /// # Errors
    /// Internal. Nothing is left behind.
    pub fn add_pair(&mut self, pair: &NewPair<'_>) -> Result<()> {
        let make = Message::new(NEWLINK, CREATE | EXCLUSIVE, &link_header(0, 0, 0))
            .text(IFLA_IFNAME, pair.name)
            .number(IFLA_MASTER, pair.bridge);
        let make = with_mtu(make, pair.mtu).nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    let peer = peer
                        .raw(&link_header(0, 0, 0))
                        .text(IFLA_IFNAME, pair.peer)
                        .number(IFLA_NET_NS_FD, pair.namespace.cast_unsigned())
                        .attribute(IFLA_ADDRESS, &pair.mac);
                    with_mtu(peer, pair.mtu)
                })
            })
        });
        let mark = without_link_local(named(SETLINK, pair.name, IFF_UP).text(IFLA_IFALIAS, pair.alias));
        hit("link.pair").context(|| format!("cannot make the network link {}", pair.name))?;
        self.netlink.call(&[make, mark]).or_else(|error| {
            if error.index > 0 {
                self.delete(pair.name)?;
            }
            Err(failed(
                format!("cannot make the network link {}", pair.name),
                error,
            ))
        })?;
        match pair.isolated {
            true => self.isolate(pair.name),
            false => Ok(()),
        }
    }

    /// Keeps a port of a bridge from reaching other isolated ones. The port is deleted if that fails.
    fn isolate(&mut self, name: &str) -> Result<()> {
        let index = self.get(name)?.index;
        let request = Message::new(SETLINK, 0, &link_header(libc::AF_BRIDGE as u8, index, 0))
            .nest(IFLA_PROTINFO, |port| port.attribute(IFLA_BRPORT_ISOLATED, &[1]));
        self.netlink.call(&[request]).or_else(|error| {
            self.delete(name)?;
            Err(failed(format!("cannot isolate the network link {name}"), error))
        })
    }

    /// Makes a link upon another one in a container's namespace.
    ///
    /// # Errors
    /// Internal.
    pub fn add_upon(&mut self, new: &NewUpon<'_>) -> Result<()> {
        let make = Message::new(NEWLINK, CREATE | EXCLUSIVE, &link_header(0, 0, 0))
            .text(IFLA_IFNAME, new.name)
            .number(IFLA_LINK, new.parent)
            .number(IFLA_NET_NS_FD, new.namespace.cast_unsigned());
        let make = with_mtu(make, new.mtu);
        let make = match new.kind {
            Upon::Macvlan(mode) => make
                .attribute(IFLA_ADDRESS, &new.mac)
                .nest(IFLA_LINKINFO, |info| {
                    info.text(IFLA_INFO_KIND, "macvlan")
                        .nest(IFLA_INFO_DATA, |data| data.number(1, mode))
                }),
            Upon::Ipvlan(mode, flag) => make.nest(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "ipvlan").nest(IFLA_INFO_DATA, |data| {
                    data.attribute(1, &mode.to_ne_bytes())
                        .attribute(2, &flag.to_ne_bytes())
                })
            }),
        };
        self.netlink
            .call(&[make])
            .map_err(|e| failed(format!("cannot make the network link {}", new.name), e))
    }

    /// Makes a parent that exists for macvlan and ipvlan networks alone: a `dummy` link, or a VLAN of another link.
    ///
    /// # Errors
    /// Conflict if there is a link of that name; internal.
    pub fn add_parent(&mut self, name: &str, alias: &str, vlan: Option<(u32, u16)>) -> Result<u32> {
        let made = self.try_add_parent(name, alias, vlan, "dummy");
        match made {
            // A bridge without ports does as well where the kernel has no dummy links.
            Err(error) if vlan.is_none() && error.code() == libc::EOPNOTSUPP => self
                .try_add_parent(name, alias, vlan, "bridge")
                .or_else(|error| self.not_added(name, error)),
            Err(error) => self.not_added(name, error),
            Ok(index) => Ok(index),
        }
    }

    fn not_added(&mut self, name: &str, error: Refusal) -> Result<u32> {
        if error.index > 0 {
            self.delete(name)?;
        }
        Err(failed(format!("cannot make the network link {name}"), error))
    }

    fn try_add_parent(
        &mut self,
        name: &str,
        alias: &str,
        vlan: Option<(u32, u16)>,
        kind: &str,
    ) -> Result<u32, Refusal> {
        let make = Message::new(NEWLINK, CREATE | EXCLUSIVE, &link_header(0, 0, 0)).text(IFLA_IFNAME, name);
        let make = match vlan {
            None => make.nest(IFLA_LINKINFO, |info| info.text(IFLA_INFO_KIND, kind)),
            Some((parent, id)) => make.number(IFLA_LINK, parent).nest(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "vlan").nest(IFLA_INFO_DATA, |data| {
                    data.attribute(IFLA_VLAN_ID, &id.to_ne_bytes())
                })
            }),
        };
        let mark = without_link_local(named(SETLINK, name, IFF_UP).text(IFLA_IFALIAS, alias));
        self.netlink.call(&[make, mark])?;
        let mut index = 0;
        let request = Message::new(GETLINK, 0, &link_header(0, 0, 0)).text(IFLA_IFNAME, name);
        self.netlink.get(request, |received| {
            index = u32_at(received.payload, 4).unwrap_or_default();
        })?;
        Ok(index)
    }

    /// Deletes the link of that name; its absence is fine.
    ///
    /// # Errors
    /// Internal.
    pub fn delete(&mut self, name: &str) -> Result<()> {
        hit("link.delete").context(|| format!("cannot delete the network link {name}"))?;
        let request = Message::new(DELLINK, 0, &link_header(0, 0, 0)).text(IFLA_IFNAME, name);
        match self.netlink.call(&[request]) {
            Err(error) if error.code() != libc::ENODEV => {
                Err(failed(format!("cannot delete the network link {name}"), error))
            }
            _ => Ok(()),
        }
    }

    /// Deletes the links of these names together, in the time that one takes; absent ones are fine.
    ///
    /// # Errors
    /// Internal.
    pub fn delete_all(&mut self, names: &[String]) -> Result<()> {
        match names {
            [] => return Ok(()),
            [name] => return self.delete(name),
            _ => {}
        }
        // A group that nobody else uses: what is in it is deleted at once.
        let group = rand::random_range(0x1000_0000..u32::MAX);
        let mut grouped = false;
        for name in names {
            match self
                .netlink
                .call(&[named(SETLINK, name, 0).number(IFLA_GROUP, group)])
            {
                Ok(()) => grouped = true,
                Err(error) if error.code() == libc::ENODEV => {}
                Err(error) => return Err(failed(format!("cannot delete the network link {name}"), error)),
            }
        }
        if !grouped {
            return Ok(());
        }
        let request = Message::new(DELLINK, 0, &link_header(0, 0, 0)).number(IFLA_GROUP, group);
        match self.netlink.call(&[request]) {
            // They have gone by themselves meanwhile.
            Err(error) if error.code() != libc::ENODEV => Err(failed("cannot delete network links", error)),
            _ => Ok(()),
        }
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// Internal.
    pub fn set_up(&mut self, name: &str) -> Result<()> {
        self.netlink
            .call(&[named(SETLINK, name, IFF_UP)])
            .map_err(|e| failed(format!("cannot set the network link {name} up"), e))
    }

    /// Gives a link an address; one that it has already is fine.
    ///
    /// # Errors
    /// Internal.
    pub fn add_address(&mut self, index: u32, address: IpNet) -> Result<()> {
        hit("link.address").context(|| format!("cannot set the address {address}"))?;
        self.netlink
            .call(&[address_message(NEWADDR, CREATE, index, address)])
            .or_else(|error| match error.code() {
                libc::EEXIST => Ok(()),
                _ => Err(failed(format!("cannot set the address {address}"), error)),
            })
    }

    /// Takes an address away; its absence is fine.
    ///
    /// # Errors
    /// Internal.
    pub fn delete_address(&mut self, index: u32, address: IpNet) -> Result<()> {
        match self.netlink.call(&[address_message(DELADDR, 0, index, address)]) {
            Err(error) if error.code() != libc::EADDRNOTAVAIL => {
                Err(failed(format!("cannot delete the address {address}"), error))
            }
            _ => Ok(()),
        }
    }

    /// All addresses, each with the index of its link.
    ///
    /// # Errors
    /// Internal.
    pub fn addresses(&mut self) -> Result<Vec<(u32, IpNet)>> {
        let mut found = Vec::new();
        let request = Message::new(GETADDR, DUMP, &[0; 8]);
        self.netlink
            .get(request, |received| {
                let prefix = received.payload.get(1).copied().unwrap_or_default();
                let index = u32_at(received.payload, 4).unwrap_or_default();
                let attributes = received.attributes(8);
                // IFA_LOCAL where there is one, else IFA_ADDRESS.
                let address = attributes.find(2).or_else(|| attributes.find(1)).and_then(ip);
                found.extend(
                    address
                        .and_then(|a| IpNet::new(a, prefix).ok())
                        .map(|net| (index, net)),
                );
            })
            .map_err(|e| failed("cannot list the addresses", e))?;
        Ok(found)
    }

    /// Destinations of all routes but default ones, each with the index of the link it leads to.
    ///
    /// # Errors
    /// Internal.
    pub fn routes(&mut self) -> Result<Vec<(u32, IpNet)>> {
        let mut found = Vec::new();
        let request = Message::new(GETROUTE, DUMP, &[0; 12]);
        self.netlink
            .get(request, |received| {
                let prefix = received.payload.get(1).copied().unwrap_or_default();
                let attributes = received.attributes(12);
                let index = attributes.number(4).unwrap_or_default();
                let destination = attributes.find(1).and_then(ip);
                found.extend(
                    destination
                        .and_then(|a| IpNet::new(a, prefix).ok())
                        .filter(|net| net.prefix_len() > 0)
                        .map(|net| (index, net)),
                );
            })
            .map_err(|e| failed("cannot list the routes", e))?;
        Ok(found)
    }

    /// Makes `gateway` the way to everything else, in the place of another one.
    ///
    /// # Errors
    /// Internal.
    pub fn set_default_route(&mut self, index: u32, gateway: Option<IpAddr>, ipv6: bool) -> Result<()> {
        hit("link.route").context(|| format!("cannot set the default route via {gateway:?}"))?;
        self.netlink
            .call(&[default_route(NEWROUTE, CREATE | 0x100, index, gateway, ipv6)])
            .map_err(|e| failed(format!("cannot set the default route via {gateway:?}"), e))
    }

    /// Takes the default routes of a family away.
    ///
    /// # Errors
    /// Internal.
    pub fn delete_default_route(&mut self, ipv6: bool) -> Result<()> {
        let mut header = [0; 12];
        header[0] = family(ipv6);
        match self.netlink.call(&[Message::new(DELROUTE, 0, &header)]) {
            Err(error) if error.code() != libc::ESRCH => {
                Err(failed("cannot delete the default route", error))
            }
            _ => Ok(()),
        }
    }

    /// Sets an interface of a container up with all that it has, in one go.
    ///
    /// # Errors
    /// Internal.
    pub fn set_up_interface(&mut self, index: u32, addresses: &[IpNet], also_loopback: bool) -> Result<()> {
        let mut batch = Vec::with_capacity(addresses.len() + 2);
        if also_loopback {
            batch.push(Message::new(SETLINK, 0, &link_header(0, 1, IFF_UP)));
        }
        for address in addresses {
            batch.push(address_message(NEWADDR, CREATE, index, *address));
        }
        batch.push(Message::new(SETLINK, 0, &link_header(0, index, IFF_UP)));
        hit("link.up").context(|| "cannot set a container's network interface up")?;
        self.netlink
            .call(&batch)
            .map_err(|e| failed("cannot set a container's network interface up", e))
    }

    /// Sets the loopback interface up.
    ///
    /// # Errors
    /// Internal.
    pub fn set_up_loopback(&mut self) -> Result<()> {
        self.netlink
            .call(&[Message::new(SETLINK, 0, &link_header(0, 1, IFF_UP))])
            .map_err(|e| failed("cannot set the loopback interface up", e))
    }
}

fn failed(what: impl Into<String>, refusal: Refusal) -> Error {
    let kind = match refusal.code() {
        libc::EEXIST | libc::EBUSY => Kind::Conflict,
        _ => Kind::Internal,
    };
    let Refusal { error, words, .. } = refusal;
    let what = match words.as_str() {
        "" => what.into(),
        words => format!("{} ({words})", what.into()),
    };
    Error::new(kind, what).caused_by(error)
}

/// `struct ifinfomsg`.
fn link_header(family: u8, index: u32, flags: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    // Which flags are meant.
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

fn named(kind: u16, name: &str, flags: u32) -> Message {
    Message::new(kind, 0, &link_header(0, 0, flags)).text(IFLA_IFNAME, name)
}

fn with_mtu(message: Message, mtu: u32) -> Message {
    match mtu {
        0 => message,
        mtu => message.number(IFLA_MTU, mtu),
    }
}

/// No link-local IPv6 address.
fn without_link_local(message: Message) -> Message {
    message.nest(IFLA_AF_SPEC, |spec| {
        spec.nest(libc::AF_INET6 as u16, |inet6| {
            inet6.attribute(IFLA_INET6_ADDR_GEN_MODE, &[ADDR_GEN_MODE_NONE])
        })
    })
}

fn family(ipv6: bool) -> u8 {
    match ipv6 {
        true => libc::AF_INET6 as u8,
        false => libc::AF_INET as u8,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn address_message(kind: u16, flags: u16, index: u32, address: IpNet) -> Message {
    // struct ifaddrmsg. Nobody else can have the address, so IPv6 need not ask around (IFA_F_NODAD).
    let mut header = [
        family(address.addr().is_ipv6()),
        address.prefix_len(),
        0x02,
        0,
        0,
        0,
        0,
        0,
    ];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let bytes = octets(address.addr());
    let message = Message::new(kind, flags, &header)
        .attribute(2, &bytes)
        .attribute(1, &bytes);
    match address {
        IpNet::V4(net) if net.prefix_len() < 31 => message.attribute(4, &net.broadcast().octets()),
        _ => message,
    }
}

fn default_route(kind: u16, flags: u16, index: u32, gateway: Option<IpAddr>, ipv6: bool) -> Message {
    // struct rtmsg: the main table, made at start-up, of all scopes or of the link's, unicast.
    let scope = if gateway.is_some() { 0 } else { 253 };
    let header = [family(ipv6), 0, 0, 0, 254, 3, scope, 1, 0, 0, 0, 0];
    let message = Message::new(kind, flags, &header).number(4, index);
    match gateway {
        Some(gateway) => message.attribute(5, &octets(gateway)),
        None => message,
    }
}

fn read_link(received: &Received<'_>) -> Option<Link> {
    if received.kind != NEWLINK {
        return None;
    }
    let attributes = received.attributes(16);
    let info = attributes.find(IFLA_LINKINFO).map(Attributes);
    Some(Link {
        index: u32_at(received.payload, 4)?,
        name: attributes.text(IFLA_IFNAME)?,
        alias: attributes.text(IFLA_IFALIAS).unwrap_or_default(),
        master: attributes.number(IFLA_MASTER).unwrap_or_default(),
        kind: info
            .and_then(|info| info.text(IFLA_INFO_KIND))
            .unwrap_or_default(),
        mtu: attributes.number(IFLA_MTU).unwrap_or_default(),
        up: u32_at(received.payload, 8)? & IFF_UP != 0,
        mac: attributes
            .find(IFLA_ADDRESS)
            .map(<[u8]>::to_vec)
            .unwrap_or_default(),
    })
}
