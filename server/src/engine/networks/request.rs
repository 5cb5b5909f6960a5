//! What a request for a network must be.

use std::{collections::BTreeMap, net::IpAddr};

use berth_api::models::{IPAM, IPAMConfig, NetworkCreateRequest};
use berth_runtime::{Error, Kind, Result};
use ipnet::IpNet;

use super::{
    addresses::{Range, first, overlap},
    options::{Driver, Options},
    record::PREDEFINED,
};

/// A request that is right.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The driver.
    pub driver: Driver,
    /// Its options.
    pub options: Options,
    /// The ranges that were asked for.
    pub ranges: Vec<Range>,
    /// IPv6 ranges of a network without IPv6. Clients of this API version may give such; they are kept and not used.
    pub unused: Vec<Range>,
}

/// Checks the name of a new network.
///
/// # Errors
/// Invalid; [`Kind::Forbidden`] for a reserved one.
pub fn check_name(name: &str) -> Result<()> {
    if name.trim().is_empty() {
        return Err(Error::invalid("invalid name: name is empty"));
    }
    if name == "default" || PREDEFINED.iter().any(|(predefined, _)| *predefined == name) {
        return Err(Error::new(
            Kind::Forbidden,
            format!("operation is not permitted on predefined {name} network"),
        ));
    }
    Ok(())
}

/// Checks everything else of a request.
///
/// # Errors
/// Invalid, with a line for each mistake in `IPAM`; not found for the driver; [`Kind::Forbidden`] for what needs a swarm
/// or is there once.
pub fn check(request: &NetworkCreateRequest) -> Result<Checked> {
    let needs_swarm = request.ingress || matches!(request.scope.as_str(), "swarm" | "global");
    if needs_swarm {
        return Err(Error::new(
            Kind::Forbidden,
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node \
             to swarm and try again.",
        ));
    }
    if !matches!(request.scope.as_str(), "" | "local") {
        return Err(Error::invalid(format!(
            "invalid network scope: {}",
            request.scope
        )));
    }
    let driver = Driver::parse(&request.driver)?;
    if matches!(driver, Driver::Host | Driver::Null) {
        return Err(Error::new(
            Kind::Forbidden,
            format!("only one instance of \"{}\" network is allowed", driver.name()),
        ));
    }
    let options = Options::read(&request.options)?;
    if driver != Driver::Bridge {
        options.upon(driver)?;
    }
    let ipam = request.ipam.clone().unwrap_or_default();
    if !matches!(ipam.driver.as_str(), "" | "default") {
        return Err(Error::invalid(format!(
            "could not find plugin {} in v1 plugin registry: plugin not found",
            ipam.driver
        )));
    }
    options.check_gateway_modes(request.internal)?;
    let (ranges, mut unused): (Vec<_>, Vec<_>) = ranges(&ipam)?
        .into_iter()
        .partition(|range| request.enable_ipv6 || range.subnet.addr().is_ipv4());
    for range in &mut unused {
        // What was not asked for is not shown.
        let asked = ipam
            .config
            .iter()
            .flatten()
            .map(|config| config.gateway.parse().ok());
        range.gateway = range
            .gateway
            .filter(|gateway| asked.clone().any(|asked| asked == Some(*gateway)));
    }
    Ok(Checked {
        driver,
        ranges,
        unused,
        options,
    })
}

fn ranges(ipam: &IPAM) -> Result<Vec<Range>> {
    let (mut ranges, mut mistakes) = (Vec::<Range>::new(), Vec::new());
    for config in ipam.config.iter().flatten() {
        match range(config) {
            Ok(Some(range)) => ranges.push(range),
            Ok(None) => {}
            Err(lines) => mistakes.extend(lines),
        }
    }
    if !mistakes.is_empty() {
        return Err(Error::invalid(format!(
            "invalid network config:\n{}",
            mistakes.join("\n")
        )));
    }
    for (index, one) in ranges.iter().enumerate() {
        if ranges
            .iter()
            .skip(index + 1)
            .any(|other| overlap(&one.subnet, &other.subnet))
        {
            return Err(overlaps());
        }
    }
    Ok(ranges)
}

/// The refusal of a subnet that another network has.
pub fn overlaps() -> Error {
    Error::new(
        Kind::Forbidden,
        "Pool overlaps with other one on this address space",
    )
}

/// One range, or nothing where only a preference without a subnet was given, or the mistakes in it.
fn range(config: &IPAMConfig) -> Result<Option<Range>, Vec<String>> {
    let mut mistakes = Vec::new();
    if config.subnet.is_empty() {
        let lonely = [("ip-range", &config.ip_range), ("gateway", &config.gateway)];
        for (what, value) in lonely.iter().filter(|(_, value)| !value.is_empty()) {
            mistakes.push(format!("invalid {what} {value}: a subnet must be given with it"));
        }
        return if mistakes.is_empty() {
            Ok(None)
        } else {
            Err(mistakes)
        };
    }
    let subnet = network("subnet", &config.subnet).map_err(|mistake| vec![mistake])?;
    let family = if subnet.addr().is_ipv6() {
        "an IPv6"
    } else {
        "an IPv4"
    };
    let mut part = None;
    if !config.ip_range.is_empty() {
        match network("ip-range", &config.ip_range) {
            Err(mistake) => mistakes.push(mistake),
            Ok(range) if range.addr().is_ipv6() != subnet.addr().is_ipv6() => {
                mistakes.push(format!(
                    "invalid ip-range {range}: parent subnet is {family} block"
                ));
            }
            Ok(range) if range.prefix_len() < subnet.prefix_len() => mistakes.push(format!(
                "invalid ip-range {range}: CIDR block is bigger than its parent subnet {subnet}"
            )),
            Ok(range) if !subnet.contains(&range) => mistakes.push(format!(
                "invalid ip-range {range}: parent subnet {subnet} doesn't contain ip-range"
            )),
            Ok(range) => part = Some(range),
        }
    }
    let mut member = |what: &str, text: &str| match text.parse::<IpAddr>() {
        Err(_) => {
            mistakes.push(format!("invalid {what} {text}: invalid address"));
            None
        }
        Ok(address) if address.is_ipv6() != subnet.addr().is_ipv6() => {
            mistakes.push(format!("invalid {what} {text}: parent subnet is {family} block"));
            None
        }
        Ok(address) if !subnet.contains(&address) => {
            mistakes.push(format!(
                "invalid {what} {text}: parent subnet {subnet} doesn't contain this address"
            ));
            None
        }
        Ok(address) => Some(address),
    };
    let mut gateway = match config.gateway.as_str() {
        "" => None,
        text => member("gateway", text),
    };
    let reserved: BTreeMap<_, _> = config
        .auxiliary_addresses
        .iter()
        .filter_map(|(name, text)| Some((name.clone(), member("auxiliary address", text)?)))
        .collect();
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    if gateway.is_none() {
        // The first address of the range that containers get theirs from.
        let from = part.as_ref().unwrap_or(&subnet);
        let candidate = if from.network() == subnet.network() {
            first(&subnet)
        } else {
            from.network()
        };
        let mut addresses = std::iter::successors(Some(candidate), |address| following(*address));
        gateway = addresses
            .take_while_contained(&subnet)
            .find(|address| !reserved.values().any(|taken| taken == address));
    }
    Ok(Some(Range {
        subnet,
        range: part,
        gateway,
        reserved,
        chosen: false,
    }))
}

/// Addresses of a subnet only.
trait WithinSubnet: Iterator<Item = IpAddr> + Sized {
    fn take_while_contained(&mut self, subnet: &IpNet) -> impl Iterator<Item = IpAddr> {
        let subnet = *subnet;
        self.take_while(move |address| subnet.contains(address))
    }
}

impl<I: Iterator<Item = IpAddr>> WithinSubnet for I {}

fn following(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(address) => IpAddr::V4(u32::from(address).checked_add(1)?.into()),
        IpAddr::V6(address) => IpAddr::V6(u128::from(address).checked_add(1)?.into()),
    })
}

fn network(what: &str, text: &str) -> Result<IpNet, String> {
    // Clients of this API version may name a network by one of its addresses.
    text.parse::<IpNet>()
        .map(|net| net.trunc())
        .map_err(|_| format!("invalid {what} {text}: invalid CIDR block notation"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(subnet: &str, range: &str, gateway: &str) -> IPAMConfig {
        IPAMConfig {
            subnet: subnet.into(),
            ip_range: range.into(),
            gateway: gateway.into(),
            ..IPAMConfig::default()
        }
    }

    #[test]
    fn gateways_are_filled_in() {
        for (subnet, part, gateway, expected) in [
            ("10.0.0.0/24", "", "", "10.0.0.1"),
            ("10.0.0.0/24", "10.0.0.128/25", "", "10.0.0.128"),
            ("10.0.0.0/24", "", "10.0.0.254", "10.0.0.254"),
            ("fd00::/64", "", "", "fd00::1"),
            ("10.0.0.9/24", "", "", "10.0.0.1"),
        ] {
            let range = range(&config(subnet, part, gateway)).unwrap().unwrap();
            assert_eq!(range.gateway.unwrap().to_string(), expected);
        }
        let mut taken = config("10.0.0.0/24", "", "");
        taken.auxiliary_addresses.insert("x".into(), "10.0.0.1".into());
        assert_eq!(
            range(&taken).unwrap().unwrap().gateway.unwrap().to_string(),
            "10.0.0.2"
        );
    }

    #[test]
    fn each_mistake_is_a_line() {
        for (subnet, part, gateway, mistake) in [
            ("x", "", "", "invalid subnet x: invalid CIDR block notation"),
            (
                "10.0.0.0/24",
                "10.0.0.0/16",
                "",
                "invalid ip-range 10.0.0.0/16: CIDR block is bigger than its parent subnet 10.0.0.0/24",
            ),
            (
                "10.0.0.0/24",
                "10.1.0.0/25",
                "",
                "invalid ip-range 10.1.0.0/25: parent subnet 10.0.0.0/24 doesn't contain ip-range",
            ),
            (
                "10.0.0.0/24",
                "",
                "10.1.0.1",
                "invalid gateway 10.1.0.1: parent subnet 10.0.0.0/24 doesn't contain this address",
            ),
            ("10.0.0.0/24", "", "y", "invalid gateway y: invalid address"),
            (
                "10.0.0.0/24",
                "",
                "fd00::1",
                "invalid gateway fd00::1: parent subnet is an IPv4 block",
            ),
        ] {
            assert_eq!(range(&config(subnet, part, gateway)).unwrap_err(), [mistake]);
        }
        let ipam = IPAM {
            config: Some(vec![config("x", "", ""), config("y", "", "")]),
            ..IPAM::default()
        };
        assert_eq!(ranges(&ipam).unwrap_err().message().lines().count(), 3);
    }

    #[test]
    fn names() {
        for name in ["a_b.c-1", "with blanks", "-a"] {
            check_name(name).unwrap();
        }
        for (name, kind) in [
            ("", Kind::Invalid),
            (" ", Kind::Invalid),
            ("host", Kind::Forbidden),
            ("default", Kind::Forbidden),
        ] {
            assert_eq!(check_name(name).unwrap_err().kind(), kind, "{name:?}");
        }
    }
}
