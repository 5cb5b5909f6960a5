//! Options of the network drivers.

use std::{collections::BTreeMap, net::IpAddr};

use berth_runtime::{Error, Kind, Result, net::Upon};

/// Longest name of a link.
const NAME_MAX: usize = 15;

/// What makes a network of containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// A bridge on this host.
    Bridge,
    /// The host's own interfaces.
    Host,
    /// Nothing.
    Null,
    /// Interfaces with addresses of their own upon an interface of the host.
    Macvlan,
    /// Interfaces that share the hardware address of an interface of the host.
    Ipvlan,
}

impl Driver {
    /// The driver of that name; an empty one is `bridge`.
    ///
    /// # Errors
    /// Not found; [`Kind::Forbidden`] for one that needs a swarm.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "" | "bridge" => Ok(Self::Bridge),
            "host" => Ok(Self::Host),
            "null" => Ok(Self::Null),
            "macvlan" => Ok(Self::Macvlan),
            "ipvlan" => Ok(Self::Ipvlan),
            "overlay" => Err(Error::new(
                Kind::Forbidden,
                "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this \
                 node to swarm and try again.",
            )),
            _ => Err(Error::not_found(format!(
                "could not find plugin {name} in v1 plugin registry: plugin not found"
            ))),
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Host => "host",
            Self::Null => "null",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
        }
    }

    /// Whether its containers have addresses of their own.
    pub fn has_addresses(self) -> bool {
        matches!(self, Self::Bridge | Self::Macvlan | Self::Ipvlan)
    }
}

/// How containers of a network are reached from outside over one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GatewayMode {
    /// By published ports of the host.
    #[default]
    Nat,
    /// By published ports of the host, and by all ports of their own addresses.
    Unprotected,
    /// By published ports of their own addresses, which leave the host as they are.
    Routed,
    /// Not at all, and the host has no address in the network.
    Isolated,
}

impl GatewayMode {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "nat" => Some(Self::Nat),
            "nat-unprotected" => Some(Self::Unprotected),
            "routed" => Some(Self::Routed),
            "isolated" => Some(Self::Isolated),
            _ => None,
        }
    }
}

/// The options of a network, read once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Name of the bridge; empty for one made from the network's id.
    pub bridge: String,
    /// Largest packet in bytes; 0 for the default.
    pub mtu: u32,
    /// Whether containers are kept from talking to each other.
    pub no_icc: bool,
    /// Whether what leaves the network keeps its addresses.
    pub no_masquerade: bool,
    /// Address of the host for published ports that do not name one.
    pub publish_on: Option<IpAddr>,
    /// Whether the bridge gets no IPv4 address.
    pub inhibit_ipv4: bool,
    /// How containers are reached from outside, over IPv4 and IPv6.
    pub gateway_modes: [GatewayMode; 2],
    /// Interfaces of the host from which published ports are reached by the containers' own addresses.
    pub trusted: Vec<String>,
    /// How interfaces of containers are named, without their number.
    pub interface_prefix: String,
    /// The interface of the host that macvlan and ipvlan interfaces lie upon.
    pub parent: String,
    /// `macvlan_mode` or `ipvlan_mode`.
    pub mode: String,
    /// `ipvlan_flag`.
    pub flag: String,
}

impl Options {
    /// Reads options. Those that no driver knows are kept for whoever set them.
    ///
    /// # Errors
    /// Invalid, naming the option and its value.
    pub fn read(options: &BTreeMap<String, String>) -> Result<Self> {
        let mut read = Self::default();
        for (key, value) in options {
            let bad = |why: &str| Error::invalid(format!("failed to parse {key} value: {value} ({why})"));
            let boolean = || parse_bool(value).ok_or_else(|| bad("use true or false"));
            match key.as_str() {
                "com.docker.network.bridge.name" => value.clone_into(&mut read.bridge),
                "com.docker.network.driver.mtu" | "mtu" => {
                    read.mtu = value.parse().map_err(|_| bad("use a number of bytes"))?;
                }
                "com.docker.network.bridge.enable_icc" => read.no_icc = !boolean()?,
                "com.docker.network.bridge.enable_ip_masquerade" => read.no_masquerade = !boolean()?,
                "com.docker.network.bridge.inhibit_ipv4" => read.inhibit_ipv4 = boolean()?,
                "com.docker.network.bridge.gateway_mode_ipv4"
                | "com.docker.network.bridge.gateway_mode_ipv6" => {
                    let mode = GatewayMode::parse(value)
                        .ok_or_else(|| bad(&format!("unknown gateway mode {value}")))?;
                    read.gateway_modes[usize::from(key.ends_with('6'))] = mode;
                }
                "com.docker.network.bridge.trusted_host_interfaces" => {
                    let names = value.split(':').filter(|name| !name.is_empty());
                    read.trusted = names.map(str::to_owned).collect();
                    read.trusted.iter().try_for_each(|name| check_name(name))?;
                }
                "com.docker.network.bridge.default_bridge" => drop(boolean()?),
                "com.docker.network.bridge.host_binding_ipv4" => {
                    read.publish_on = Some(value.parse().map_err(|_| bad("use an IP address"))?);
                }
                "com.docker.network.container_iface_prefix" => {
                    value.clone_into(&mut read.interface_prefix);
                    check_name(&format!("{value}00"))?;
                }
                "parent" | "-o parent" => value.clone_into(&mut read.parent),
                "macvlan_mode" | "ipvlan_mode" => value.clone_into(&mut read.mode),
                "ipvlan_flag" => value.clone_into(&mut read.flag),
                _ => {}
            }
        }
        if !read.bridge.is_empty() {
            check_name(&read.bridge)?;
        }
        if !read.parent.is_empty() {
            check_name(&read.parent)?;
        }
        Ok(read)
    }

    /// How the interface of a macvlan or ipvlan network is made.
    ///
    /// # Errors
    /// Invalid for an unknown mode or flag.
    pub fn upon(&self, driver: Driver) -> Result<Upon> {
        let unknown =
            |what: &str, value: &str| Error::invalid(format!("requested {what} '{value}' is not valid"));
        if driver == Driver::Macvlan {
            return Ok(Upon::Macvlan(match self.mode.as_str() {
                "" | "bridge" => 4,
                "private" => 1,
                "vepa" => 2,
                "passthru" => 8,
                mode => return Err(unknown("macvlan mode", mode)),
            }));
        }
        let mode = match self.mode.as_str() {
            "" | "l2" => 0,
            "l3" => 1,
            "l3s" => 2,
            mode => return Err(unknown("ipvlan mode", mode)),
        };
        let flag = match self.flag.as_str() {
            "" | "bridge" => 0,
            "private" => 1,
            "vepa" => 2,
            flag => return Err(unknown("ipvlan flag", flag)),
        };
        Ok(Upon::Ipvlan(mode, flag))
    }

    /// Refuses gateway modes that do not fit the network.
    ///
    /// # Errors
    /// Invalid.
    pub fn check_gateway_modes(&self, internal: bool) -> Result<()> {
        match self.gateway_modes.contains(&GatewayMode::Isolated) && !internal {
            true => Err(Error::invalid(
                "gateway mode 'isolated' can only be used for an internal network",
            )),
            false => Ok(()),
        }
    }

    /// Whether the host has no address in the network over a family.
    pub fn is_isolated(&self, ipv6: bool) -> bool {
        let inhibited = self.inhibit_ipv4 && !ipv6;
        let mode = self.gateway_modes.get(usize::from(ipv6));
        inhibited || mode == Some(&GatewayMode::Isolated)
    }

    /// Whether interfaces route by themselves and need no gateway.
    pub fn is_routed(&self, driver: Driver) -> bool {
        driver == Driver::Ipvlan && matches!(self.mode.as_str(), "l3" | "l3s")
    }
}

fn check_name(name: &str) -> Result<()> {
    let fine = name.len() <= NAME_MAX
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0');
    fine.then_some(()).ok_or_else(|| {
        Error::invalid(format!(
            "invalid interface name {name:?}: use up to {NAME_MAX} bytes without '/', ':' and spaces"
        ))
    })
}

/// As Go reads booleans.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: &str, value: &str) -> Result<Options> {
        Options::read(&[(key.to_owned(), value.to_owned())].into())
    }

    #[test]
    fn options_are_read_and_mistakes_named() {
        assert!(
            read("com.docker.network.bridge.enable_icc", "false")
                .unwrap()
                .no_icc
        );
        assert_eq!(read("com.docker.network.driver.mtu", "1450").unwrap().mtu, 1450);
        let routed = read("com.docker.network.bridge.gateway_mode_ipv6", "routed").unwrap();
        assert_eq!(routed.gateway_modes, [GatewayMode::Nat, GatewayMode::Routed]);
        let isolated = read("com.docker.network.bridge.gateway_mode_ipv4", "isolated").unwrap();
        assert!(isolated.check_gateway_modes(true).is_ok() && isolated.check_gateway_modes(false).is_err());
        assert!(isolated.is_isolated(false) && !isolated.is_isolated(true));
        assert_eq!(read("unheard.of", "x").unwrap(), Options::default());
        for (key, value) in [
            ("com.docker.network.bridge.enable_icc", "perhaps"),
            ("com.docker.network.driver.mtu", "-1"),
            ("com.docker.network.bridge.host_binding_ipv4", "here"),
            ("com.docker.network.bridge.name", "far-too-long-for-a-link"),
            ("parent", "a/b"),
            ("com.docker.network.bridge.gateway_mode_ipv4", "bridged"),
            ("com.docker.network.bridge.trusted_host_interfaces", "eth0:a/b"),
        ] {
            assert_eq!(
                read(key, value).unwrap_err().kind(),
                Kind::Invalid,
                "{key}={value}"
            );
        }
    }

    #[test]
    fn modes() {
        let mode = |key, value, driver| read(key, value).unwrap().upon(driver);
        assert_eq!(
            mode("macvlan_mode", "vepa", Driver::Macvlan).unwrap(),
            Upon::Macvlan(2)
        );
        assert_eq!(
            mode("ipvlan_mode", "l3", Driver::Ipvlan).unwrap(),
            Upon::Ipvlan(1, 0)
        );
        assert!(mode("macvlan_mode", "l3", Driver::Macvlan).is_err());
        assert!(Driver::parse("overlay").is_err_and(|e| e.kind() == Kind::Forbidden));
        assert!(Driver::parse("weave").is_err_and(|e| e.kind() == Kind::NotFound));
    }
}
