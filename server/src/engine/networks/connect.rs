//! A running container joins one more network, or leaves one.

use std::{cmp::Reverse, sync::Arc};

use berth_api::models::EndpointSettings;
use berth_runtime::{
    Error, Kind, Result,
    net::{Content, Links, Namespace},
};
use tokio_util::sync::CancellationToken;

use super::{
    Networks,
    attach::{Plan, leads_out, names, namespace_of, plan_one, publisher, route_by, wire},
    ports::Wanted,
    record::Record,
    state::Endpoint,
};

/// A running container and the network it joins.
#[derive(Clone, Debug)]
pub struct ConnectRequest<'a> {
    /// Full id.
    pub container: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its host name.
    pub hostname: &'a str,
    /// Its first process.
    pub pid: i32,
    /// The network.
    pub network: &'a str,
    /// What is asked for.
    pub settings: &'a EndpointSettings,
    /// What is published once the container is in a network that can.
    pub wanted: Wanted,
}

impl Networks {
    /// Puts a running container into one more network. Connections that it has are not disturbed.
    ///
    /// # Errors
    /// As [`Networks::join`]; [`Kind::Forbidden`] if it is in the network already. Nothing has changed then.
    pub fn connect(&self, request: &ConnectRequest<'_>) -> Result<EndpointSettings> {
        let plan = {
            let mut state = self.state();
            let record = Arc::clone(&state.find(request.network)?.record);
            let sandbox = state
                .sandboxes
                .get(request.container)
                .ok_or_else(|| Error::conflict(format!("container {} is not running", request.container)))?;
            if sandbox
                .endpoints
                .iter()
                .any(|endpoint| endpoint.network_id == record.id)
            {
                return Err(Error::new(
                    Kind::Forbidden,
                    format!(
                        "endpoint with name {} already exists in network {}",
                        request.name, record.name
                    ),
                ));
            }
            plan_one(
                &mut state,
                request.container,
                request.name,
                request.hostname,
                &record.id,
                request.settings,
                &self.settings.gateways,
            )?
        };
        let connected = self.wire_running(request, &plan);
        if let Err(error) = connected {
            let _ = self.drop_endpoint(request.container, &plan.endpoint);
            if !plan.endpoint.link.is_empty() {
                Links::open()?.delete(&plan.endpoint.link)?;
            }
            return Err(error);
        }
        self.publish(&plan.record, "connect", Some(request.container));
        self.tell_change();
        let mut settings = request.settings.clone();
        plan.endpoint.fill(&mut settings);
        Ok(settings)
    }

    fn wire_running(&self, request: &ConnectRequest<'_>, plan: &Plan) -> Result<()> {
        let mut namespace = Namespace::open(&namespace_of(request.pid))?;
        let alias = self.alias(&format!("container {}", request.container));
        wire(&mut namespace, plan, false, &alias)?;
        let endpoint = &plan.endpoint;
        if plan.record.is_user_defined() {
            self.answer_names_in(request.container, &namespace)?;
        }
        for ipv6 in [false, true] {
            let others = self.ways_out(request.container, ipv6);
            let led = others
                .iter()
                .any(|other| other.id != endpoint.id && other.priority >= endpoint.priority);
            if !led && leads_out(endpoint, &plan.record, &plan.options, plan.driver, ipv6) {
                route_by(&mut namespace, endpoint, ipv6)?;
            }
        }
        let publishes = self.with_sandbox(request.container, |sandbox| {
            if sandbox.gateway.is_empty() && (endpoint.gateway4.is_some() || endpoint.gateway6.is_some()) {
                sandbox.gateway.clone_from(&endpoint.network_id);
            }
            sandbox.exposed.clone_from(&request.wanted.exposed);
            sandbox.ports.is_empty()
        })?;
        match publishes {
            true => self.publish_ports(request.container, request.name, &request.wanted),
            false => Ok(()),
        }
    }

    /// The endpoints of a container that lead out over a family, in the order in which they do.
    fn ways_out(&self, container: &str, ipv6: bool) -> Vec<Arc<Endpoint>> {
        let state = self.state();
        let endpoints = state
            .sandboxes
            .get(container)
            .map(|sandbox| sandbox.endpoints.as_slice());
        let leads = |endpoint: &&Arc<Endpoint>| {
            state.networks.get(&endpoint.network_id).is_some_and(|entry| {
                let record = &entry.record;
                match (record.parsed_options(), record.driver()) {
                    (Ok(options), Ok(driver)) => leads_out(endpoint, record, &options, driver, ipv6),
                    _ => false,
                }
            })
        };
        let mut ways: Vec<_> = endpoints
            .unwrap_or_default()
            .iter()
            .filter(leads)
            .cloned()
            .collect();
        ways.sort_by_key(|endpoint| Reverse(endpoint.priority));
        ways
    }

    /// Takes a running container out of a network.
    ///
    /// # Errors
    /// Conflict if it is not in it; internal.
    pub fn disconnect(&self, container: &str, pid: i32, record: &Record) -> Result<()> {
        let found = self
            .endpoints_of(container)
            .into_iter()
            .find(|endpoint| endpoint.network_id == record.id);
        let endpoint = found.ok_or_else(|| not_connected(container, &record.name))?;
        self.move_ports(container, &endpoint)?;
        if !endpoint.link.is_empty() {
            Links::open()?.delete(&endpoint.link)?;
        } else if !endpoint.interface.is_empty() {
            Namespace::open(&namespace_of(pid))?
                .links
                .delete(&endpoint.interface)?;
        }
        // It is out from here on, and told so whatever else fails.
        let remaining = self.drop_endpoint(container, &endpoint)?;
        if remaining
            && !endpoint.interface.is_empty()
            && let Err(error) = self.lead_elsewhere(container, pid, &endpoint)
        {
            tracing::warn!(container, network = record.name, %error, "a container has no way out after a disconnect");
        }
        self.publish(record, "disconnect", Some(container));
        self.tell_change();
        Ok(())
    }

    /// Gives a container that has left a network by which it led out another way.
    fn lead_elsewhere(&self, container: &str, pid: i32, left: &Endpoint) -> Result<()> {
        let mut namespace = Namespace::open(&namespace_of(pid))?;
        for (ipv6, led) in [(false, left.gateway4), (true, left.gateway6)] {
            let next = self.ways_out(container, ipv6).into_iter().next();
            if let (Some(_), Some(next)) = (led, next) {
                route_by(&mut namespace, &next, ipv6)?;
            }
        }
        Ok(())
    }

    /// Leads the ports of an endpoint that goes to another one, or gives them up.
    fn move_ports(&self, container: &str, leaving: &Endpoint) -> Result<()> {
        let (old, new, relays) = {
            let mut state = self.state();
            let state = &mut *state;
            let Some(sandbox) = state.sandboxes.get_mut(container) else {
                return Ok(());
            };
            let of_leaving = |ipv4: Option<std::net::Ipv4Addr>, ipv6: Option<std::net::Ipv6Addr>| {
                (ipv4, ipv6) == leaving.targets()
            };
            let ports_of = |sandbox: &super::state::Sandbox| Content {
                links: Vec::new(),
                ..sandbox.firewall(&state.networks)
            };
            if !sandbox
                .ports
                .iter()
                .any(|port| of_leaving(port.publication.ipv4, port.publication.ipv6))
            {
                return Ok(());
            }
            let old = ports_of(sandbox);
            let kept: Vec<_> = sandbox
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.id != leaving.id)
                .cloned()
                .collect();
            let all = std::mem::replace(&mut sandbox.endpoints, kept);
            sandbox.gateway = sandbox.next_gateway();
            match publisher(&state.networks, sandbox, self.settings.publish_on) {
                Some((_, target)) => {
                    sandbox.relays.cancel();
                    sandbox.relays = CancellationToken::new();
                    for port in &mut sandbox.ports {
                        (port.publication.ipv4, port.publication.ipv6) = target.addresses;
                    }
                }
                None => {
                    sandbox.relays.cancel();
                    sandbox.relays = CancellationToken::new();
                    for port in sandbox.ports.drain(..) {
                        state.ports.free(&port.publication);
                    }
                }
            }
            let new = ports_of(sandbox);
            sandbox.endpoints = all;
            (old, new, super::relay::wanted(sandbox))
        };
        self.firewall(|firewall| firewall.delete(&old))?;
        self.firewall(|firewall| firewall.add(&new))?;
        self.start_relays(relays);
        Ok(())
    }

    /// Forgets an endpoint; answers whether the container has others.
    fn drop_endpoint(&self, container: &str, endpoint: &Endpoint) -> Result<bool> {
        let mut state = self.state();
        if let Ok(entry) = state.entry(&endpoint.network_id) {
            entry.free(endpoint);
        }
        let Some(sandbox) = state.sandboxes.get_mut(container) else {
            return Ok(false);
        };
        sandbox.endpoints.retain(|other| other.id != endpoint.id);
        if sandbox.gateway == endpoint.network_id {
            sandbox.gateway = sandbox.next_gateway();
        }
        Ok(!sandbox.endpoints.is_empty())
    }

    /// Gives a running container its new name in all its networks.
    pub fn rename(
        &self,
        container: &str,
        name: &str,
        hostname: &str,
        asked: impl Fn(&str) -> EndpointSettings,
    ) {
        let mut state = self.state();
        let state = &mut *state;
        let Some(sandbox) = state.sandboxes.get_mut(container) else {
            return;
        };
        for endpoint in &mut sandbox.endpoints {
            let Some(entry) = state.networks.get_mut(&endpoint.network_id) else {
                continue;
            };
            let settings = asked(&endpoint.network);
            let renamed = Arc::new(Endpoint {
                names: names(&entry.record, container, name, hostname, &settings),
                ..(**endpoint).clone()
            });
            entry.endpoints.insert(renamed.id.clone(), Arc::clone(&renamed));
            *endpoint = renamed;
        }
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// The conflict of a container that is not in a network.
pub fn not_connected(container: &str, network: &str) -> Error {
    Error::conflict(format!(
        "container {container} is not connected to network {network}"
    ))
}
