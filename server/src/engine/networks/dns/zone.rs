//! The names and addresses that one container may know.

use std::{net::IpAddr, sync::Arc};

use super::super::state::Endpoint;

/// The containers that share a user-defined network with one.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    /// Their endpoints in these networks, its own among them.
    pub endpoints: Vec<Arc<Endpoint>>,
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
        for endpoint in self.endpoints.iter().filter(|endpoint| goes_by(endpoint, name)) {
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
    let is = |name: &str| endpoint.names.iter().any(|own| own.eq_ignore_ascii_case(name));
    let within = || {
        let cut = name.len().checked_sub(endpoint.network.len())?;
        let (start, network) = name.split_at_checked(cut)?;
        let start = start.strip_suffix('.')?;
        network.eq_ignore_ascii_case(&endpoint.network).then_some(start)
    };
    is(name) || within().is_some_and(is)
}
