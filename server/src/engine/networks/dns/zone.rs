//! The names and addresses that one container may know.

use std::{net::IpAddr, sync::Arc};

use super::super::state::Endpoint;

/// A name that one container alone has for another in one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The name.
    pub alias: String,
    /// One that the other goes by.
    pub name: String,
    /// Name of the network.
    pub network: String,
}

/// The containers that share a user-defined network with one.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    /// Their endpoints in these networks, its own among them.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Names that it alone has for others.
    pub aliases: Vec<Alias>,
    /// Whether it is in a user-defined network.
    pub has_names: bool,
    /// Whether it is in a network that leads anywhere.
    pub leads_out: bool,
}

impl Zone {
    /// The addresses, each once, of all who go by a name, which may end in a dot and the name of the network; none if
    /// nobody does.
    pub fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        let mut known = false;
        let mut found = Vec::new();
        let aliased: Vec<&Alias> = self
            .aliases
            .iter()
            .filter(|alias| is_one(&[&alias.alias], name, &alias.network))
            .collect();
        let is_meant = |endpoint: &&Arc<Endpoint>| match aliased.is_empty() {
            true => goes_by(endpoint, name),
            false => aliased
                .iter()
                .any(|alias| alias.network == endpoint.network && goes_by(endpoint, &alias.name)),
        };
        for endpoint in self.endpoints.iter().filter(is_meant) {
            known = true;
            for address in [endpoint.address(false), endpoint.address(true)]
                .into_iter()
                .flatten()
            {
                if !found.contains(&address) {
                    found.push(address);
                }
            }
        }
        known.then_some(found)
    }

    /// The name of the container that has an address, with that of the network.
    pub fn name_of(&self, address: IpAddr) -> Option<String> {
        let has = |endpoint: &&Arc<Endpoint>| {
            endpoint.address(false) == Some(address) || endpoint.address(true) == Some(address)
        };
        let endpoint = self.endpoints.iter().find(has)?;
        Some(format!("{}.{}", endpoint.names.first()?, endpoint.network))
    }
}

fn goes_by(endpoint: &Endpoint, name: &str) -> bool {
    is_one(&endpoint.names, name, &endpoint.network)
}

/// Whether a name is one of `own`, which may end in a dot and the name of the network.
fn is_one(own: &[impl AsRef<str>], name: &str, network: &str) -> bool {
    let is = |name: &str| own.iter().any(|own| own.as_ref().eq_ignore_ascii_case(name));
    let within = || {
        let cut = name.len().checked_sub(network.len())?;
        let (start, end) = name.split_at_checked(cut)?;
        let start = start.strip_suffix('.')?;
        end.eq_ignore_ascii_case(network).then_some(start)
    };
    is(name) || within().is_some_and(is)
}
