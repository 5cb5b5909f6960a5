//! What the engine's configuration says about networks.

use std::net::{IpAddr, Ipv4Addr};

use berth_runtime::{Error, Result};
use ipnet::IpNet;

use crate::config::settings::Settings;

/// Network of the first engine on a host, as users know it.
const BRIDGE: &str = "172.17.0.0/16";
/// Where networks come from whose creator does not choose: about 4,000 of 250 addresses, and more where those are
/// used up.
const POOLS: [(&str, u8); 5] = [
    ("172.18.0.0/15", 24),
    ("172.20.0.0/14", 24),
    ("172.24.0.0/13", 24),
    ("192.168.0.0/16", 24),
    ("10.0.0.0/8", 24),
];
/// Where further engines on a host find their default network.
const FURTHER_BRIDGES: (&str, u8) = ("10.128.0.0/9", 20);

/// A range of addresses and the size of the pieces it is given out in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The whole range.
    pub base: IpNet,
    /// Length of the prefix of each piece.
    pub size: u8,
}

/// The default network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DefaultBridge {
    /// A bridge of the engine's own.
    #[default]
    Own,
    /// A bridge that somebody else has made and looks after.
    Foreign(String),
    /// No default network.
    None,
}

/// Settings of networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSettings {
    /// The default network.
    pub bridge: DefaultBridge,
    /// Address of its bridge, with the length of the prefix.
    pub bip: Option<IpNet>,
    /// Where the addresses of networks come from.
    pub pools: Vec<Pool>,
    /// Where those of the default network come from.
    pub bridge_pools: Vec<Pool>,
    /// Largest packet of the default network, in bytes.
    pub mtu: u32,
    /// Whether containers of the default network may talk to each other.
    pub icc: bool,
    /// Whether what leaves the default network gets an address of the host.
    pub masquerade: bool,
    /// Whether the host's forwarding is switched on where it is needed.
    pub forward: bool,
    /// Address of the host for published ports that do not name one; unspecified for all.
    pub publish_on: IpAddr,
    /// Whether containers of the default network get IPv6 addresses.
    pub ipv6: bool,
    /// Parts of the default network that containers get addresses from, over IPv4 and IPv6.
    pub parts: [Option<IpNet>; 2],
    /// Gateways of the default network, over IPv4 and IPv6, if those are not its bridge.
    pub gateways: [Option<IpAddr>; 2],
    /// Name servers of containers that do not say otherwise; empty for those of the host.
    pub dns: Vec<String>,
    /// Domains that they search names in.
    pub dns_search: Vec<String>,
    /// Options of their resolvers.
    pub dns_options: Vec<String>,
    /// What `host-gateway` stands for, if it is not the default network's bridge.
    pub host_gateway: Option<IpAddr>,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            bridge: DefaultBridge::Own,
            bip: None,
            pools: POOLS
                .iter()
                .filter_map(|(base, size)| pool(base, *size))
                .collect(),
            bridge_pools: [(BRIDGE, 16), FURTHER_BRIDGES]
                .iter()
                .filter_map(|(base, size)| pool(base, *size))
                .collect(),
            mtu: 1500,
            icc: true,
            masquerade: true,
            forward: true,
            publish_on: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            ipv6: false,
            parts: [None, None],
            gateways: [None, None],
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            host_gateway: None,
        }
    }
}

impl NetworkSettings {
    /// Checks what flags and file say.
    ///
    /// # Errors
    /// [`Kind::Invalid`](berth_runtime::Kind::Invalid), naming the setting and its value.
    pub fn resolve(settings: &Settings) -> Result<Self> {
        let mut resolved = Self::default();
        if let Some(pools) = settings.default_address_pools.as_ref().filter(|p| !p.is_empty()) {
            resolved.pools = pools.iter().map(|text| parse_pool(text)).collect::<Result<_>>()?;
            resolved.bridge_pools.clone_from(&resolved.pools);
        }
        if let Some(text) = settings.bip.as_deref().filter(|text| !text.is_empty()) {
            let address = text.parse::<IpNet>().map_err(|_| {
                Error::invalid(format!("invalid bip {text:?}: use an address like 10.1.0.1/24"))
            })?;
            resolved.bip = Some(address);
        }
        resolved.bridge = match settings.bridge.as_deref() {
            None | Some("") => DefaultBridge::Own,
            Some("none") => DefaultBridge::None,
            Some(name) => DefaultBridge::Foreign(name.to_owned()),
        };
        if resolved.bip.is_some() && resolved.bridge != DefaultBridge::Own {
            return Err(Error::invalid("bip and bridge cannot be used together"));
        }
        if let Some(mtu) = settings.mtu.filter(|mtu| *mtu != 0) {
            resolved.mtu = mtu;
        }
        if let Some(address) = settings.ip {
            resolved.publish_on = address;
        }
        resolved.icc = settings.icc.unwrap_or(true);
        resolved.masquerade = settings.ip_masq.unwrap_or(true);
        resolved.forward = settings.ip_forward.unwrap_or(true);
        resolved.resolve_default(settings)?;
        let texts = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        resolved.dns = settings.dns.iter().flatten().map(IpAddr::to_string).collect();
        resolved.dns_search = texts(&settings.dns_search);
        resolved.dns_options = texts(&settings.dns_opts);
        resolved.host_gateway = settings.host_gateway_ip;
        Ok(resolved)
    }

    /// What is said about the default network's subnets.
    fn resolve_default(&mut self, settings: &Settings) -> Result<()> {
        let texts = [&settings.fixed_cidr, &settings.fixed_cidr_v6];
        for (index, (part, text)) in self.parts.iter_mut().zip(texts).enumerate() {
            let Some(text) = text.as_deref().filter(|text| !text.is_empty()) else {
                continue;
            };
            let net = text.parse::<IpNet>().ok().map(|net| net.trunc());
            *part = net.filter(|net| net.addr().is_ipv6() == (index == 1));
            if part.is_none() {
                return Err(Error::invalid(format!(
                    "invalid fixed-cidr {text:?}: use a subnet like 10.1.1.0/24 or fd00:1::/64"
                )));
            }
        }
        if let (Some(bip), [Some(part), _]) = (&self.bip, &self.parts)
            && !bip.trunc().contains(part)
        {
            return Err(Error::invalid(format!(
                "fixed-cidr {part} is not within bip {bip}"
            )));
        }
        self.ipv6 = settings.ipv6.unwrap_or(false);
        self.gateways = [
            settings.default_gateway.map(IpAddr::from),
            settings.default_gateway_v6.map(IpAddr::from),
        ];
        Ok(())
    }
}

fn pool(base: &str, size: u8) -> Option<Pool> {
    Some(Pool {
        base: base.parse().ok()?,
        size,
    })
}

/// `base=10.0.0.0/8,size=24`.
fn parse_pool(text: &str) -> Result<Pool> {
    let bad = || {
        Error::invalid(format!(
            "invalid default-address-pool {text:?}: use base=10.0.0.0/8,size=24"
        ))
    };
    let (mut base, mut size) = (None, None);
    for part in text.split(',') {
        match part.split_once('=').ok_or_else(bad)? {
            ("base", value) => base = Some(value.parse::<IpNet>().map_err(|_| bad())?.trunc()),
            ("size", value) => size = Some(value.parse::<u8>().map_err(|_| bad())?),
            _ => return Err(bad()),
        }
    }
    let (base, size) = base.zip(size).ok_or_else(bad)?;
    let fits = size >= base.prefix_len() && size <= base.max_prefix_len();
    fits.then_some(Pool { base, size }).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_read() {
        let pool = parse_pool("base=10.9.1.0/16,size=24").unwrap();
        assert_eq!((pool.base.to_string().as_str(), pool.size), ("10.9.0.0/16", 24));
        for bad in [
            "",
            "base=10.0.0.0/8",
            "base=10.0.0.0/8,size=7",
            "base=x,size=24",
            "base=10.0.0.0/8,size=33",
        ] {
            assert!(parse_pool(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_default_network_is_set() {
        let settings = |bip: &str, part: &str, part6: &str| {
            NetworkSettings::resolve(&Settings {
                bip: Some(bip.to_owned()),
                fixed_cidr: Some(part.to_owned()),
                fixed_cidr_v6: Some(part6.to_owned()),
                ipv6: Some(true),
                ..Settings::default()
            })
        };
        let resolved = settings("10.9.0.1/16", "10.9.8.0/24", "fd00:9::/64").unwrap();
        assert_eq!(resolved.parts[1].unwrap().to_string(), "fd00:9::/64");
        assert!(resolved.ipv6);
        for (bip, part, part6) in [
            ("10.9.0.1/16", "10.8.0.0/24", ""),
            ("", "fd00::/64", ""),
            ("", "", "10.0.0.0/8"),
            ("", "x", ""),
        ] {
            assert!(settings(bip, part, part6).is_err(), "{bip} {part} {part6}");
        }
    }

    #[test]
    fn there_are_thousands_of_networks() {
        let settings = NetworkSettings::default();
        let count: u64 = settings
            .pools
            .iter()
            .map(|pool| 1 << (pool.size - pool.base.prefix_len()))
            .sum();
        assert!(count > 4000);
    }
}
