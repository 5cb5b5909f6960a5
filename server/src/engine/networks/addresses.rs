//! Which addresses are free: subnets among those of the host, addresses within a subnet.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use berth_runtime::{Error, Kind, Result};
use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::settings::Pool;

/// One address range of a network, as it is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The subnet.
    pub subnet: IpNet,
    /// The part of it that containers get addresses from; the whole if there is none.
    #[serde(default)]
    pub range: Option<IpNet>,
    /// Address of the gateway.
    pub gateway: Option<IpAddr>,
    /// Addresses that no container gets, by the name of their holder.
    #[serde(default)]
    pub reserved: BTreeMap<String, IpAddr>,
    /// Whether the subnet was chosen by the engine.
    #[serde(default)]
    pub chosen: bool,
}

/// The addresses of a range that are in use.
#[derive(Clone, Debug)]
pub struct Leases {
    range: Range,
    used: BTreeSet<u128>,
}

impl Range {
    /// A range that the engine has chosen; its first address is the gateway.
    pub fn chosen(subnet: IpNet) -> Self {
        Self {
            gateway: Some(first(&subnet)),
            subnet,
            range: None,
            reserved: BTreeMap::new(),
            chosen: true,
        }
    }
}

/// The first address for hosts.
pub fn first(subnet: &IpNet) -> IpAddr {
    let network = number(subnet.network());
    address(
        network + u128::from(subnet.prefix_len() < subnet.max_prefix_len() - 1),
        subnet.addr(),
    )
}

impl Leases {
    /// Those of a range of which nothing is in use but what the network itself needs.
    pub fn new(range: &Range) -> Self {
        let subnet = &range.subnet;
        let mut used = BTreeSet::new();
        // The network's own address and that of all its hosts; small subnets have neither (RFC 3021).
        if subnet.prefix_len() < subnet.max_prefix_len() - 1 {
            used.insert(number(subnet.network()));
            if subnet.addr().is_ipv4() {
                used.insert(number(subnet.broadcast()));
            }
        }
        used.extend(range.gateway.map(number));
        used.extend(range.reserved.values().copied().map(number));
        Self {
            range: range.clone(),
            used,
        }
    }

    /// The range.
    pub fn range(&self) -> &Range {
        &self.range
    }

    /// Takes an address: `wanted`, or the lowest that is free.
    ///
    /// # Errors
    /// [`Kind::Forbidden`] if `wanted` is taken; [`Kind::Conflict`] if none is free.
    pub fn take(&mut self, wanted: Option<IpAddr>) -> Result<IpAddr> {
        if let Some(wanted) = wanted {
            return match self.used.insert(number(wanted)) {
                true => Ok(wanted),
                false => Err(Error::new(Kind::Forbidden, "Address already in use")),
            };
        }
        let range = self.range.range.as_ref().unwrap_or(&self.range.subnet);
        let (first, last) = (number(range.network()), number(range.broadcast()));
        let mut candidate = first;
        for used in self.used.range(first..=last) {
            if *used != candidate {
                break;
            }
            match candidate.checked_add(1) {
                Some(next) => candidate = next,
                None => return Err(exhausted()),
            }
        }
        if candidate > last {
            return Err(exhausted());
        }
        self.used.insert(candidate);
        Ok(address(candidate, range.addr()))
    }

    /// Gives an address back.
    pub fn free(&mut self, address: IpAddr) {
        let needed =
            self.range.gateway == Some(address) || self.range.reserved.values().any(|a| *a == address);
        if !needed {
            self.used.remove(&number(address));
        }
    }
}

fn exhausted() -> Error {
    Error::conflict(
        "no available IPv4 addresses on this network's address pools: remove containers or take a larger subnet",
    )
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The address of that number, of the family of `like`.
fn address(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
        IpAddr::V6(_) => IpAddr::V6(number.into()),
    }
}

/// Whether two subnets have an address in common.
pub fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// The first piece of `pools` that touches none of `taken`.
pub fn free_subnet(pools: &[Pool], taken: &[IpNet]) -> Option<IpNet> {
    pools.iter().find_map(|pool| {
        let ipv6 = pool.base.addr().is_ipv6();
        let mut spans: Vec<(u128, u128)> = taken
            .iter()
            .filter(|net| net.addr().is_ipv6() == ipv6 && overlap(net, &pool.base))
            .map(|net| (number(net.network()), number(net.broadcast())))
            .collect();
        spans.sort_unstable();
        let last = number(pool.base.broadcast());
        let step = 1u128.checked_shl(u32::from(pool.base.max_prefix_len() - pool.size))?;
        let mut start = number(pool.base.network());
        for (from, to) in spans {
            if from >= start.checked_add(step)? {
                break;
            }
            if to >= start {
                // The first piece that begins behind this span.
                let behind = to.checked_add(1)?;
                start = behind.checked_next_multiple_of(step)?;
            }
        }
        (start.checked_add(step - 1)? <= last)
            .then(|| IpNet::new(address(start, pool.base.addr()), pool.size).ok())
            .flatten()
    })
}

/// The pool of unique local IPv6 addresses (RFC 4193) of an engine: its forty bits are made from `seed`.
pub fn local_ipv6(seed: [u8; 5]) -> Option<Pool> {
    let [a, b, c, d, e] = seed;
    let prefix = Ipv6Addr::from([0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    Some(Pool {
        base: IpNet::V6(Ipv6Net::new(prefix, 48).ok()?),
        size: 64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn the_lowest_free_address_is_taken() {
        let mut leases = Leases::new(&Range::chosen(net("10.0.0.0/29")));
        let mut take = |wanted: Option<&str>| {
            leases
                .take(wanted.map(|a| a.parse().unwrap()))
                .map(|address| address.to_string())
                .map_err(|error| error.kind())
        };
        assert_eq!(take(None).unwrap(), "10.0.0.2");
        assert_eq!(take(Some("10.0.0.3")).unwrap(), "10.0.0.3");
        assert_eq!(take(Some("10.0.0.3")).unwrap_err(), Kind::Forbidden);
        assert_eq!(take(Some("10.0.0.1")).unwrap_err(), Kind::Forbidden);
        for expected in ["10.0.0.4", "10.0.0.5", "10.0.0.6"] {
            assert_eq!(take(None).unwrap(), expected);
        }
        assert_eq!(take(None).unwrap_err(), Kind::Conflict);
        leases.free("10.0.0.4".parse().unwrap());
        leases.free("10.0.0.1".parse().unwrap());
        assert_eq!(leases.take(None).unwrap().to_string(), "10.0.0.4");
        assert!(leases.take(None).is_err());
    }

    #[test]
    fn a_range_and_reserved_addresses_are_heeded() {
        let range = Range {
            range: Some(net("10.0.1.0/30")),
            reserved: [("router".to_owned(), "10.0.1.1".parse().unwrap())].into(),
            ..Range::chosen(net("10.0.0.0/16"))
        };
        let mut leases = Leases::new(&range);
        let taken: Vec<_> = std::iter::from_fn(|| leases.take(None).ok())
            .map(|a| a.to_string())
            .collect();
        assert_eq!(taken, ["10.0.1.0", "10.0.1.2", "10.0.1.3"]);
    }

    #[test]
    fn ipv6_and_tiny_subnets() {
        let mut leases = Leases::new(&Range::chosen(net("fd00:1::/64")));
        assert_eq!(leases.take(None).unwrap().to_string(), "fd00:1::2");
        let range = Range {
            gateway: None,
            ..Range::chosen(net("10.0.0.0/31"))
        };
        let mut leases = Leases::new(&range);
        assert_eq!(leases.take(None).unwrap().to_string(), "10.0.0.0");
        assert_eq!(leases.take(None).unwrap().to_string(), "10.0.0.1");
        assert!(leases.take(None).is_err());
    }

    #[test]
    fn free_subnets_touch_nothing() {
        let pools = [
            Pool {
                base: net("10.0.0.0/22"),
                size: 24,
            },
            Pool {
                base: net("10.9.0.0/16"),
                size: 16,
            },
        ];
        let free = |taken: &[&str]| {
            let taken: Vec<_> = taken.iter().map(|text| net(text)).collect();
            free_subnet(&pools, &taken).map(|net| net.to_string())
        };
        assert_eq!(free(&[]).as_deref(), Some("10.0.0.0/24"));
        assert_eq!(free(&["10.0.0.128/32"]).as_deref(), Some("10.0.1.0/24"));
        assert_eq!(
            free(&["10.0.2.0/24", "10.0.0.0/24"]).as_deref(),
            Some("10.0.1.0/24")
        );
        assert_eq!(
            free(&["10.0.0.0/23", "10.0.1.0/24"]).as_deref(),
            Some("10.0.2.0/24")
        );
        assert_eq!(free(&["10.0.0.0/16"]).as_deref(), Some("10.9.0.0/16"));
        assert_eq!(free(&["10.0.0.0/16", "10.9.3.3/32"]), None);
    }
}
