//! Ports: keys such as `80/tcp`, and where they are published.

use std::net::IpAddr;

use berth_api::models::{ContainerConfig, PortBinding, PortMap};
use berth_runtime::{Error, Result};

/// The full form `port/protocol` of a port key; without a protocol it is tcp.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) if it is no port from 1 to 65535 or the protocol is unknown.
pub fn key(text: &str) -> Result<String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(Error::invalid(format!(
            "invalid port {text:?}: the protocol must be tcp, udp or sctp"
        )));
    }
    match number(port) {
        Some(port) if port != 0 => Ok(format!("{port}/{protocol}")),
        _ => Err(Error::invalid(format!("invalid port specification: {port:?}"))),
    }
}

fn number(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// The full keys of `ExposedPorts`, which may be written short.
pub fn exposed(config: &ContainerConfig) -> Vec<String> {
    let ports = config.exposed_ports.iter().flat_map(|ports| ports.keys());
    ports.filter_map(|port| key(port).ok()).collect()
}

/// `PortBindings` with full keys; a port without bindings gets one to a free port.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for a malformed key, host address or host port.
pub fn bindings(ports: &PortMap) -> Result<PortMap> {
    let mut full = PortMap::new();
    for (port, bindings) in ports {
        let list = full
            .entry(key(port)?)
            .or_insert_with(|| Some(Vec::new()))
            .get_or_insert_default();
        for binding in bindings.iter().flatten() {
            check_binding(binding)?;
            list.push(binding.clone());
        }
        if list.is_empty() {
            list.push(PortBinding::default());
        }
    }
    Ok(full)
}

fn check_binding(binding: &PortBinding) -> Result<()> {
    if !binding.host_ip.is_empty() && binding.host_ip.parse::<IpAddr>().is_err() {
        return Err(Error::invalid(format!(
            "invalid IP address in port binding: {:?}",
            binding.host_ip
        )));
    }
    let port = &binding.host_port;
    host_ports(port)
        .map(|_| ())
        .ok_or_else(|| Error::invalid(format!("invalid port specification: {port:?}")))
}

/// The host ports a binding may take, first and last; `(0, 0)` is any free one.
pub fn host_ports(text: &str) -> Option<(u16, u16)> {
    if text.is_empty() {
        return Some((0, 0));
    }
    // Some clients repeat the protocol here.
    let text = text.split_once('/').map_or(text, |(port, _)| port);
    match text.split_once('-') {
        None => number(text).map(|port| (port, port)),
        Some((first, last)) => match (number(first)?, number(last)?) {
            (first, last) if first != 0 && first <= last => Some((first, last)),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        for (text, full) in [
            ("80", "80/tcp"),
            ("80/tcp", "80/tcp"),
            ("53/UDP", "53/udp"),
            ("9/sctp", "9/sctp"),
            ("080", "80/tcp"),
        ] {
            assert_eq!(key(text).unwrap(), full);
        }
        for text in [
            "",
            "/tcp",
            "0",
            "65536",
            "80/icmp",
            "80/",
            "80/tcp/udp",
            "80-81",
            "-1",
            "+1",
            " 80",
            "http",
        ] {
            assert!(key(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bindings_are_completed() {
        let binding = |ip: &str, port: &str| PortBinding {
            host_ip: ip.into(),
            host_port: port.into(),
        };
        let ports = PortMap::from([
            ("80".into(), None),
            ("81/tcp".into(), Some(Vec::new())),
            (
                "82/udp".into(),
                Some(vec![binding("127.0.0.1", "8000-8010"), binding("::1", "")]),
            ),
        ]);
        let full = bindings(&ports).unwrap();
        assert_eq!(full["80/tcp"], Some(vec![binding("", "")]));
        assert_eq!(full["81/tcp"], Some(vec![binding("", "")]));
        assert_eq!(full["82/udp"].as_ref().map(Vec::len), Some(2));
        for (ip, port) in [
            ("", "x"),
            ("", "65536"),
            ("", "-1"),
            ("", "9-8"),
            ("", "0-5"),
            ("localhost", "80"),
            ("1.2.3", ""),
        ] {
            let ports = PortMap::from([("80".into(), Some(vec![binding(ip, port)]))]);
            assert!(bindings(&ports).is_err(), "{ip} {port}");
        }
    }

    #[test]
    fn host_port_ranges() {
        for (text, ports) in [
            ("", (0, 0)),
            ("0", (0, 0)),
            ("80", (80, 80)),
            ("80/tcp", (80, 80)),
            ("1-2", (1, 2)),
            ("5-5", (5, 5)),
        ] {
            assert_eq!(host_ports(text), Some(ports), "{text}");
        }
    }
}
