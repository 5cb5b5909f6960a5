//! The networks of a create request: conflicts with the rest of it, and the endpoints that inspect shows.

use std::net::{Ipv4Addr, Ipv6Addr};

use berth_api::models::{ContainerConfig, EndpointSettings, HostConfig, NetworkingConfig};
use berth_runtime::{Error, Result};

use super::modes::NetworkMode;

/// The key under which clients send settings of the default network.
const DEFAULT: &str = "default";

/// Refuses settings that the network mode makes meaningless.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) with the conflict.
pub fn check_conflicts(config: &ContainerConfig, host_config: &HostConfig) -> Result<()> {
    let conflict = |what: &str| Err(Error::invalid(format!("conflicting options: {what}")));
    let given = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let mode = NetworkMode::parse(&host_config.network_mode)?;
    if host_config.uts_mode == "host" && !config.hostname.is_empty() {
        return conflict("hostname and the UTS mode");
    }
    if mode == NetworkMode::Host && given(&host_config.links) {
        return conflict(
            "host type networking can't be used with links. This would result in undefined behavior",
        );
    }
    if !matches!(mode, NetworkMode::Container(_)) {
        return Ok(());
    }
    if !config.hostname.is_empty() {
        return conflict("hostname and the network mode");
    }
    if given(&host_config.links) {
        return conflict(
            "container type network can't be used with links. This would result in undefined behavior",
        );
    }
    if given(&host_config.dns) {
        return conflict("dns and the network mode");
    }
    if given(&host_config.extra_hosts) {
        return conflict("custom host-to-IP mapping and the network mode");
    }
    if !config.mac_address.is_empty() {
        return conflict("mac-address and the network mode");
    }
    if !host_config.port_bindings.is_empty() || host_config.publish_all_ports {
        return conflict("port publishing and the container type network mode");
    }
    if config
        .exposed_ports
        .as_ref()
        .is_some_and(|ports| !ports.is_empty())
    {
        return conflict("port exposing and the container type network mode");
    }
    Ok(())
}

/// Checks the endpoints and brings them into the stored form: the key `default` becomes `bridge`, and the network of
/// the mode is there even if the request has no settings for it.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for a malformed address.
pub fn endpoints(
    config: &ContainerConfig,
    host_config: &HostConfig,
    networking: &mut NetworkingConfig,
) -> Result<()> {
    check_mac(&config.mac_address)?;
    let mode = NetworkMode::parse(&host_config.network_mode)?;
    let Some(main) = mode.network() else {
        networking.endpoints_config.clear();
        return Ok(());
    };
    let endpoints = &mut networking.endpoints_config;
    if let Some(settings) = endpoints.remove(DEFAULT) {
        endpoints.entry("bridge".to_owned()).or_insert(settings);
    }
    if endpoints.is_empty() {
        endpoints.insert(main.to_owned(), EndpointSettings::default());
    }
    for (name, endpoint) in endpoints.iter_mut() {
        check_endpoint(name, endpoint)?;
        if name == main && endpoint.mac_address.is_empty() {
            endpoint.mac_address.clone_from(&config.mac_address);
        }
    }
    Ok(())
}

/// Checks what is asked for in a network and takes away what is not the client's to set.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for a malformed address.
pub fn check_endpoint(name: &str, endpoint: &mut EndpointSettings) -> Result<()> {
    check_mac(&endpoint.mac_address)?;
    for text in endpoint.links.iter().flatten() {
        super::names::link(text)?;
    }
    if let Some(ipam) = &endpoint.ipam_config {
        if !ipam.ipv4_address.is_empty() && ipam.ipv4_address.parse::<Ipv4Addr>().is_err() {
            return Err(Error::invalid(format!(
                "invalid IPv4 address: {}",
                ipam.ipv4_address
            )));
        }
        if !ipam.ipv6_address.is_empty() && ipam.ipv6_address.parse::<Ipv6Addr>().is_err() {
            return Err(Error::invalid(format!(
                "invalid IPv6 address: {}",
                ipam.ipv6_address
            )));
        }
        let local = |text: &&String| {
            !text
                .parse::<Ipv4Addr>()
                .is_ok_and(|address| address.is_link_local())
                && !text
                    .parse::<Ipv6Addr>()
                    .is_ok_and(|address| address.is_unicast_link_local())
        };
        if let Some(address) = ipam.link_local_ips.iter().find(local) {
            return Err(Error::invalid(format!(
                "invalid link-local address for network {name}: {address}"
            )));
        }
    }
    // What the engine fills in is not the client's to set.
    *endpoint = EndpointSettings {
        ipam_config: endpoint.ipam_config.take(),
        links: endpoint.links.take(),
        aliases: endpoint.aliases.take(),
        mac_address: std::mem::take(&mut endpoint.mac_address),
        driver_opts: endpoint.driver_opts.take(),
        gw_priority: endpoint.gw_priority,
        ..EndpointSettings::default()
    };
    Ok(())
}

fn check_mac(address: &str) -> Result<()> {
    let octet = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let separator = if address.contains('-') { '-' } else { ':' };
    let fine = address.split(separator).count() == 6 && address.split(separator).all(octet);
    if address.is_empty() || fine {
        return Ok(());
    }
    Err(Error::invalid(format!("invalid MAC address: {address}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use berth_api::{
        EmptyObject,
        models::{EndpointIPAMConfig, PortMap},
    };

    use super::*;

    fn settings(mode: &str) -> (ContainerConfig, HostConfig) {
        (
            ContainerConfig::default(),
            HostConfig {
                network_mode: mode.into(),
                ..HostConfig::default()
            },
        )
    }

    #[test]
    fn conflicts() {
        type Change = fn(&mut ContainerConfig, &mut HostConfig);
        let table: [(&str, Change, &str); 10] = [
            (
                "",
                |c, h| (c.hostname, h.uts_mode) = ("x".into(), "host".into()),
                "hostname and the UTS mode",
            ),
            (
                "host",
                |_, h| h.links = Some(vec!["x".into()]),
                "host type networking can't be used with links. This would result in undefined behavior",
            ),
            (
                "container:a",
                |c, _| c.hostname = "x".into(),
                "hostname and the network mode",
            ),
            (
                "container:a",
                |_, h| h.links = Some(vec!["x".into()]),
                "container type network can't be used with links. This would result in undefined behavior",
            ),
            (
                "container:a",
                |_, h| h.dns = Some(vec!["x".into()]),
                "dns and the network mode",
            ),
            (
                "container:a",
                |_, h| h.extra_hosts = Some(vec!["x".into()]),
                "custom host-to-IP mapping and the network mode",
            ),
            (
                "container:a",
                |c, _| c.mac_address = "x".into(),
                "mac-address and the network mode",
            ),
            (
                "container:a",
                |_, h| h.publish_all_ports = true,
                "port publishing and the container type network mode",
            ),
            (
                "container:a",
                |_, h| h.port_bindings = PortMap::from([("80".into(), None)]),
                "port publishing and the container type network mode",
            ),
            (
                "container:a",
                |c, _| c.exposed_ports = Some(BTreeMap::from([("80".into(), EmptyObject {})])),
                "port exposing and the container type network mode",
            ),
        ];
        for (mode, change, message) in table {
            let (mut config, mut host_config) = settings(mode);
            check_conflicts(&config, &host_config).unwrap();
            change(&mut config, &mut host_config);
            let error = check_conflicts(&config, &host_config).unwrap_err();
            assert_eq!(error.to_string(), format!("conflicting options: {message}"));
            let (_, other) = settings("bridge");
            host_config.network_mode = other.network_mode;
            host_config.uts_mode.clear();
            check_conflicts(&config, &host_config).unwrap();
        }
    }

    fn names(mode: &str, given: &[&str]) -> Vec<String> {
        let (config, host_config) = settings(mode);
        let mut networking = NetworkingConfig {
            endpoints_config: given
                .iter()
                .map(|name| ((*name).to_owned(), EndpointSettings::default()))
                .collect(),
        };
        endpoints(&config, &host_config, &mut networking).unwrap();
        networking.endpoints_config.into_keys().collect()
    }

    #[test]
    fn the_modes_network_is_there() {
        for (mode, given, expected) in [
            ("bridge", &[][..], &["bridge"][..]),
            ("bridge", &["default"], &["bridge"]),
            ("host", &[], &["host"]),
            ("none", &["default"], &["bridge"]),
            ("front", &[], &["front"]),
            ("front", &["front"], &["front"]),
            ("container:x", &["default"], &[]),
        ] {
            assert_eq!(names(mode, given), expected, "{mode} {given:?}");
        }
    }

    #[test]
    fn addresses() {
        let (mut config, host_config) = settings("front");
        config.mac_address = "02:42:ac:11:00:05".into();
        let with = |ipam: EndpointIPAMConfig| {
            let endpoint = EndpointSettings {
                ipam_config: Some(ipam),
                gateway: "6.6.6.6".into(),
                ..EndpointSettings::default()
            };
            let mut networking = NetworkingConfig {
                endpoints_config: BTreeMap::from([("front".into(), endpoint)]),
            };
            endpoints(&config, &host_config, &mut networking)?;
            Ok::<_, Error>(networking.endpoints_config["front"].clone())
        };
        let endpoint = with(EndpointIPAMConfig {
            ipv4_address: "10.0.0.5".into(),
            ..Default::default()
        })
        .unwrap();
        assert_eq!(
            (endpoint.mac_address.as_str(), endpoint.gateway.as_str()),
            ("02:42:ac:11:00:05", "")
        );
        for bad in [
            EndpointIPAMConfig {
                ipv4_address: "::1".into(),
                ..Default::default()
            },
            EndpointIPAMConfig {
                ipv6_address: "1.2.3.4".into(),
                ..Default::default()
            },
            EndpointIPAMConfig {
                link_local_ips: vec!["10.0.0.1".into()],
                ..Default::default()
            },
        ] {
            assert!(with(bad).is_err());
        }
        for mac in ["x", "02:42:ac:11:00", "02:42:ac:11:00:0g", "02-42:ac:11:00:05"] {
            assert!(check_mac(mac).is_err(), "{mac}");
        }
    }
}
