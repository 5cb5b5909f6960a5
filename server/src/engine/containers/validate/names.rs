//! Names and addresses: `ExtraHosts`, `Dns…`, `Links`.

use std::net::IpAddr;

use berth_api::models::HostConfig;
use berth_runtime::{Error, Result};

use super::{Lookup, modes::NetworkMode, mounts::as_invalid};

/// Stands for the host in `ExtraHosts`.
pub const HOST_GATEWAY: &str = "host-gateway";

/// Checks the lists.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for a malformed entry and for a link to a container that does not
/// exist or has no network of its own.
pub fn check(host_config: &HostConfig, lookup: &dyn Lookup) -> Result<()> {
    for entry in host_config.extra_hosts.iter().flatten() {
        extra_host(entry)?;
    }
    for server in host_config.dns.iter().flatten() {
        if server.parse::<IpAddr>().is_err() {
            return Err(Error::invalid(format!(
                "invalid DNS server: IP address is not correctly formatted: {server}"
            )));
        }
    }
    for text in host_config
        .dns_search
        .iter()
        .chain(&host_config.dns_options)
        .flatten()
    {
        if text.is_empty() || text.contains(|letter: char| letter.is_control() || letter == ' ') {
            return Err(Error::invalid(format!(
                "invalid DNS search domain or option: {text:?}"
            )));
        }
    }
    for text in host_config.links.iter().flatten() {
        let (name, _) = link(text)?;
        // Networks of users have links of their own, in the settings of endpoints.
        if let NetworkMode::Named(_) = NetworkMode::parse(&host_config.network_mode)? {
            continue;
        }
        let peer = lookup.peer(name).map_err(|error| {
            as_invalid(Error::new(
                error.kind(),
                format!("could not get container for {name}: {error}"),
            ))
        })?;
        if NetworkMode::parse(&peer.network_mode)? == NetworkMode::Host {
            return Err(Error::invalid(
                "conflicting options: host type networking can't be used with links. This would result in undefined \
                 behavior",
            ));
        }
    }
    Ok(())
}

/// The name and address of an entry of `ExtraHosts`; no address stands for [`HOST_GATEWAY`].
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) if it is malformed.
pub fn extra_host(entry: &str) -> Result<(&str, Option<IpAddr>)> {
    let (name, address) = entry
        .split_once(':')
        .filter(|(name, _)| !name.is_empty() && !name.contains(|letter: char| letter.is_whitespace()))
        .ok_or_else(|| Error::invalid(format!("bad format for add-host: {entry:?}")))?;
    if address == HOST_GATEWAY {
        return Ok((name, None));
    }
    let bare = address
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(address);
    match bare.parse() {
        Ok(address) => Ok((name, Some(address))),
        Err(_) => Err(Error::invalid(format!(
            "invalid IP address in add-host: {address:?}"
        ))),
    }
}

/// The container and alias of an entry of `Links`.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) if it is malformed.
pub fn link(entry: &str) -> Result<(&str, &str)> {
    if entry.is_empty() {
        return Err(Error::invalid("empty string specified for links"));
    }
    // A stored link reads `/child:/parent/alias`.
    let (name, alias) = entry.split_once(':').unwrap_or((entry, entry));
    let (name, alias) = (
        name.trim_start_matches('/'),
        alias.rsplit('/').next().unwrap_or(alias),
    );
    if name.is_empty() || alias.is_empty() || alias.contains(':') {
        return Err(Error::invalid(format!("bad format for links: {entry}")));
    }
    Ok((name, alias))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_hosts() {
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        assert_eq!(extra_host("db:10.0.0.1").unwrap(), ("db", address("10.0.0.1")));
        assert_eq!(extra_host("db:::1").unwrap(), ("db", address("::1")));
        assert_eq!(extra_host("db:[fe80::1]").unwrap(), ("db", address("fe80::1")));
        assert_eq!(extra_host("host:host-gateway").unwrap(), ("host", None));
        for (entry, message) in [
            ("", "bad format for add-host: \"\""),
            ("db", "bad format for add-host: \"db\""),
            (":1.2.3.4", "bad format for add-host: \":1.2.3.4\""),
            ("a\nb:1.2.3.4", "bad format for add-host: \"a\\nb:1.2.3.4\""),
            ("db:", "invalid IP address in add-host: \"\""),
            ("db:1.2.3", "invalid IP address in add-host: \"1.2.3\""),
            (
                "db:1.2.3.4\n6.6.6.6 x",
                "invalid IP address in add-host: \"1.2.3.4\\n6.6.6.6 x\"",
            ),
        ] {
            assert_eq!(extra_host(entry).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn links() {
        assert_eq!(link("db:database").unwrap(), ("db", "database"));
        assert_eq!(link("db").unwrap(), ("db", "db"));
        assert_eq!(link("/db:/web/database").unwrap(), ("db", "database"));
        for entry in ["", ":", ":a", "a:", "a:b:c"] {
            assert!(link(entry).is_err(), "{entry}");
        }
    }
}
