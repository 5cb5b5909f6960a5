//! A container joins its networks when it is started, and leaves them when it has ended.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use berth_api::models::EndpointSettings;
use berth_runtime::{
    Error, Kind, Result,
    net::{Content, Links, Namespace, NewPair, NewUpon, Owner, Protocol, Upon},
};
use rustix::net::{Shutdown, shutdown};

use super::{
    Networks, host,
    options::{Driver, GatewayMode, Options},
    ports::{Target, Wanted},
    record::{Record, new_id},
    state::{Attachment, Endpoint, Opened, Sandbox, State},
};

/// How interfaces of containers are named, before their number.
const INTERFACE: &str = "eth";
/// How the links on the host are named, before digits of the endpoint's id.
const LINK: &str = "veth";

/// A container that is about to be started.
#[derive(Clone, Debug)]
pub struct JoinRequest<'a> {
    /// Full id.
    pub container: &'a str,
    /// Its name, without slash.
    pub name: &'a str,
    /// Its host name.
    pub hostname: &'a str,
    /// The network of its `NetworkMode`, which it joins first.
    pub main: &'a str,
    /// Its networks and what was asked for there.
    pub endpoints: &'a BTreeMap<String, EndpointSettings>,
    /// What it wants to be published.
    pub wanted: Wanted,
    /// Name servers of its own; empty for those of the host.
    pub name_servers: &'a [String],
    /// The user namespace that its network namespace is to belong to; none for the host's.
    pub owner: Option<Owner<'a>>,
    /// What its links open.
    pub links: Vec<Opened>,
}

/// What a container has got.
#[derive(Clone, Debug, Default)]
pub struct Joined {
    /// A path of its network namespace, good until [`Networks::started`] or [`Networks::leave`]; none if it is not made
    /// here.
    pub namespace: Option<PathBuf>,
    /// A path of the user namespace that was made with it, good as long.
    pub user: Option<PathBuf>,
    /// Its endpoints, by the name of the network.
    pub endpoints: BTreeMap<String, EndpointSettings>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether it is in a network whose containers know each other by name.
    pub has_names: bool,
    /// What is to be kept beside its bundle.
    pub attachment: Attachment,
}

/// An endpoint that has its addresses, and what its interface is made from.
#[derive(Debug)]
pub(super) struct Plan {
    pub endpoint: Arc<Endpoint>,
    pub record: Arc<Record>,
    pub options: Options,
    pub driver: Driver,
    /// Index of the network's link.
    pub index: u32,
}

impl Networks {
    /// Puts a container into its networks: a namespace with interfaces, addresses and routes, and published ports.
    ///
    /// # Errors
    /// Not found for a network; invalid for addresses and aliases that cannot be had; [`Kind::Forbidden`] for an address
    /// that is taken; internal, in the words of Docker, for a port that is taken. Nothing is left behind then.
    pub fn join(&self, request: &JoinRequest<'_>) -> Result<Joined> {
        let joined = self.try_join(request);
        if joined.is_err() {
            self.part(request.container, false);
        }
        joined
    }

    fn try_join(&self, request: &JoinRequest<'_>) -> Result<Joined> {
        let plans = self.plan(request)?;
        let wired = plans.iter().any(|plan| plan.driver.has_addresses());
        let (mut namespace, mut user) = (None, None);
        let is_null = |plan: &Plan| plan.driver == Driver::Null;
        if !wired && request.owner.is_none() && plans.iter().any(is_null) {
            // It gets a new one either way; without one from the pool its first process makes it.
            if let Some(made) = self.pool.take() {
                namespace = Some(made.path());
                self.with_sandbox(request.container, |sandbox| sandbox.namespace = Some(made))?;
            }
        }
        if wired {
            let mut made = match request.owner {
                None => self.pool.take().map_or_else(Namespace::create, Ok)?,
                Some(owner) => Namespace::create_for(owner)?,
            };
            for (number, plan) in plans.iter().enumerate() {
                wire(
                    &mut made,
                    plan,
                    number == 0,
                    &self.alias(&format!("container {}", request.container)),
                )?;
            }
            set_routes(&mut made, &plans)?;
            (namespace, user) = (Some(made.path()), made.user_path());
            if plans.iter().any(|plan| plan.record.is_user_defined()) {
                self.answer_names_in(request.container, &made)?;
            }
            self.with_sandbox(request.container, |sandbox| sandbox.namespace = Some(made))?;
        }
        self.publish_ports(request.container, request.name, &request.wanted)?;
        for plan in &plans {
            self.publish(&plan.record, "connect", Some(request.container));
        }
        self.tell_change();
        let mut endpoints = request.endpoints.clone();
        for plan in &plans {
            let asked = endpoints
                .remove(&plan.endpoint.network)
                .or_else(|| endpoints.remove(&plan.endpoint.network_id))
                .unwrap_or_default();
            let mut settings = asked;
            plan.endpoint.fill(&mut settings);
            endpoints.insert(plan.endpoint.network.clone(), settings);
        }
        // Networks that were named by the beginning of an id are there under their names now.
        let names: HashSet<_> = plans.iter().map(|plan| plan.endpoint.network.as_str()).collect();
        endpoints.retain(|name, _| names.contains(name.as_str()));
        let addresses = plans.iter().flat_map(|plan| {
            let endpoint = &plan.endpoint;
            [endpoint.address(false), endpoint.address(true)]
                .into_iter()
                .flatten()
        });
        Ok(Joined {
            namespace,
            user,
            endpoints,
            addresses: addresses.collect(),
            has_names: plans.iter().any(|plan| plan.record.is_user_defined()),
            attachment: self.attachment(request.container),
        })
    }

    /// What a running container has in networks, to be kept on disk.
    pub fn attachment(&self, container: &str) -> Attachment {
        let state = self.state();
        let Some(sandbox) = state.sandboxes.get(container) else {
            return Attachment::default();
        };
        Attachment {
            endpoints: sandbox
                .endpoints
                .iter()
                .map(|endpoint| (**endpoint).clone())
                .collect(),
            ports: sandbox
                .ports
                .iter()
                .map(|port| port.publication.clone())
                .collect(),
            exposed: sandbox
                .exposed
                .iter()
                .map(|(protocol, port)| (super::ports::name_of(*protocol).to_owned(), *port))
                .collect(),
            gateway: sandbox.gateway.clone(),
            name_servers: sandbox.name_servers.clone(),
            links: sandbox
                .links
                .iter()
                .map(|(address, ports)| {
                    let ports = ports.iter();
                    let ports =
                        ports.map(|(protocol, port)| (super::ports::name_of(*protocol).to_owned(), *port));
                    (*address, ports.collect())
                })
                .collect(),
        }
    }

    /// A process has the container's namespace, which need not be held any longer.
    pub fn started(&self, container: &str) {
        let namespace = self.with_sandbox(container, |sandbox| sandbox.namespace.take());
        drop(namespace);
        self.pool.refill();
    }

    pub(super) fn with_sandbox<T>(
        &self,
        container: &str,
        change: impl FnOnce(&mut Sandbox) -> T,
    ) -> Result<T> {
        let mut state = self.state();
        state
            .sandboxes
            .get_mut(container)
            .map(change)
            .ok_or_else(|| Error::conflict(format!("container {container} has no network any more")))
    }

    /// Takes addresses for all endpoints, or for none.
    fn plan(&self, request: &JoinRequest<'_>) -> Result<Vec<Plan>> {
        let mut state = self.state();
        let mut names: Vec<&str> = request.endpoints.keys().map(String::as_str).collect();
        // That of the mode is the first: it is eth0 and leads out.
        let is_main = |name: &str| {
            name == request.main
                || state
                    .find(request.main)
                    .is_ok_and(|entry| entry.record.name == name || entry.record.id == name)
        };
        names.sort_by_key(|name| !is_main(name));
        state.sandboxes.insert(
            request.container.to_owned(),
            Sandbox {
                exposed: request.wanted.exposed.clone(),
                name_servers: request.name_servers.to_vec(),
                links: request.links.clone(),
                ..Sandbox::default()
            },
        );
        let mut plans = Vec::with_capacity(names.len());
        for name in names {
            let settings = request.endpoints.get(name).cloned().unwrap_or_default();
            let plan = plan_one(
                &mut state,
                request.container,
                request.name,
                request.hostname,
                name,
                &settings,
                &self.settings.gateways,
            )?;
            plans.push(plan);
        }
        let gateway = leader(&plans, false).or_else(|| leader(&plans, true));
        let gateway = gateway.map(|plan| plan.record.id.clone()).unwrap_or_default();
        if let Some(sandbox) = state.sandboxes.get_mut(request.container) {
            sandbox.gateway = gateway;
        }
        Ok(plans)
    }

    /// Publishes what a container wants, by the endpoint that leads out.
    pub(super) fn publish_ports(&self, container: &str, name: &str, wanted: &Wanted) -> Result<()> {
        let (content, relays) = {
            let mut state = self.state();
            let state: &mut State = &mut state;
            let Some(sandbox) = state.sandboxes.get_mut(container) else {
                return Ok(());
            };
            if wanted.bindings.is_empty() && sandbox.links.is_empty() {
                return Ok(());
            }
            let publisher = publisher(&state.networks, sandbox, self.settings.publish_on)
                .filter(|_| !wanted.bindings.is_empty());
            for (protocol, port, binding) in publisher.iter().flat_map(|_| &wanted.bindings) {
                let Some((endpoint, target)) = &publisher else {
                    break;
                };
                let published = state
                    .ports
                    .take(*protocol, *port, binding, target)
                    .map_err(|error| {
                        Error::new(
                            error.kind(),
                            format!(
                                "driver failed programming external connectivity on endpoint {name} ({}): {error}",
                                endpoint.id
                            ),
                        )
                    })?;
                sandbox.ports.push(published);
            }
            (sandbox.firewall(&state.networks), super::relay::wanted(sandbox))
        };
        self.firewall(|firewall| firewall.add(&content))?;
        self.start_relays(relays);
        Ok(())
    }

    /// Changes what the links of a running container open.
    pub fn link(&self, container: &str, links: Vec<Opened>) {
        let (before, after) = {
            let mut state = self.state();
            let state: &mut State = &mut state;
            let Some(sandbox) = state.sandboxes.get_mut(container) else {
                return;
            };
            let links_of = |sandbox: &Sandbox| Content {
                links: sandbox.firewall(&state.networks).links,
                ..Content::default()
            };
            let before = links_of(sandbox);
            sandbox.links = links;
            (before, links_of(sandbox))
        };
        let changed = self
            .firewall(|firewall| firewall.delete(&before))
            .and_then(|()| self.firewall(|firewall| firewall.add(&after)));
        if let Err(error) = changed {
            tracing::error!(container, %error, "a link does not open what it should");
        }
    }

    /// Takes a container that has ended, or was not started, out of its networks.
    pub fn leave(&self, container: &str) {
        self.part(container, true);
    }

    fn part(&self, container: &str, tell: bool) {
        let removed = {
            let mut state = self.state();
            state.sandboxes.remove(container).map(|sandbox| {
                let content = sandbox.firewall(&state.networks);
                (sandbox, content)
            })
        };
        let Some((mut sandbox, content)) = removed else {
            return;
        };
        sandbox.relays.cancel();
        if let Some(names) = &sandbox.names {
            names.cancel();
        }
        if content != Content::default()
            && let Err(error) = self.firewall(|firewall| firewall.delete(&content))
        {
            tracing::error!(container, %error, "the rules of published ports stay");
        }
        let mut records = Vec::new();
        {
            let mut state = self.state();
            for port in sandbox.ports.drain(..) {
                // A relay may still hold it; nothing listens any more all the same. Datagrams have no listener, and a
                // socket that is shut down would look readable for ever to a relay that has not heard of its end.
                if let Some(held) = port
                    .held
                    .as_ref()
                    .filter(|_| port.publication.protocol() != Protocol::Udp)
                {
                    let _ = shutdown(held, Shutdown::Both);
                }
                state.ports.free(&port.publication);
            }
            for endpoint in &sandbox.endpoints {
                if let Ok(entry) = state.entry(&endpoint.network_id) {
                    entry.free(endpoint);
                    records.push(Arc::clone(&entry.record));
                }
            }
        }
        if tell {
            for record in &records {
                self.publish(record, "disconnect", Some(container));
            }
        }
        self.tell_change();
        // The kernel deletes links with their namespace, unless somebody else is in it.
        self.forget_links(sandbox.endpoints.iter().map(|endpoint| endpoint.link.clone()));
        drop(sandbox);
    }
}

/// The endpoint that ports lead to: in a bridge network that is not internal, that which leads out before others; and
/// where they are published by default.
pub(super) fn publisher(
    networks: &BTreeMap<String, super::state::Entry>,
    sandbox: &Sandbox,
    default: IpAddr,
) -> Option<(Arc<Endpoint>, Target)> {
    let fits = |endpoint: &&Arc<Endpoint>| {
        networks
            .get(&endpoint.network_id)
            .is_some_and(|entry| entry.record.driver == Driver::Bridge.name() && !entry.record.internal)
    };
    let endpoint = sandbox
        .endpoints
        .iter()
        .filter(fits)
        .min_by_key(|endpoint| endpoint.network_id != sandbox.gateway)?;
    let options = networks.get(&endpoint.network_id)?.record.parsed_options().ok()?;
    let target = Target {
        publish_on: options.publish_on.unwrap_or(default),
        addresses: endpoint.targets(),
        routed: options.gateway_modes.map(|mode| mode == GatewayMode::Routed),
        trusted: !options.trusted.is_empty(),
    };
    Some((Arc::clone(endpoint), target))
}

/// Takes what an endpoint needs in memory.
pub(super) fn plan_one(
    state: &mut State,
    container: &str,
    name: &str,
    hostname: &str,
    network: &str,
    settings: &EndpointSettings,
    gateways: &[Option<IpAddr>; 2],
) -> Result<Plan> {
    let entry = match state.find(network) {
        Ok(entry) => entry,
        // It was removed and made again under its name, or the other way round.
        Err(error) => state.find(&settings.network_id).map_err(|_| error)?,
    };
    let record = Arc::clone(&entry.record);
    if entry.closed {
        return Err(super::state::not_found(network));
    }
    if record.config_only {
        return Err(Error::new(
            Kind::Forbidden,
            format!(
                "network {} is a configuration only and cannot be joined",
                record.name
            ),
        ));
    }
    let (driver, options, index) = (record.driver()?, record.parsed_options()?, entry.index);
    if driver.has_addresses() && index == 0 {
        return Err(Error::internal(format!(
            "network {} could not be made on this host; see the engine's log",
            record.name
        )));
    }
    check_settings(&record, settings)?;
    let id = new_id();
    let number = state
        .sandboxes
        .get(container)
        .map_or(0, |sandbox| free_number(sandbox, &options));
    let ipam = settings.ipam_config.clone().unwrap_or_default();
    let entry = state.entry(&record.id)?;
    let mut endpoint = Endpoint {
        network_id: record.id.clone(),
        network: record.name.clone(),
        container: container.to_owned(),
        interface: String::new(),
        link: String::new(),
        mac: String::new(),
        ipv4: None,
        ipv6: None,
        gateway4: None,
        gateway6: None,
        names: names(&record, container, name, hostname, settings),
        links: match record.is_user_defined() {
            true => links(settings)?,
            false => Vec::new(),
        },
        priority: settings.gw_priority,
        id,
    };
    if driver.has_addresses() {
        endpoint.ipv4 = entry.lease(false, wanted(&ipam.ipv4_address)?)?;
        let ipv6 = wanted(&ipam.ipv6_address).and_then(|wanted| match wanted {
            None if !record.ipv6 => Ok(None),
            // Clients of this API version may ask for what a network without IPv6 has no use for.
            Some(address) if record.has_unused(address) => Ok(None),
            wanted => entry.lease(true, wanted),
        });
        endpoint.ipv6 = match ipv6 {
            Ok(ipv6) => ipv6,
            Err(error) => {
                entry.free(&endpoint);
                return Err(error);
            }
        };
        endpoint.interface = format!("{}{number}", prefix(&options));
        if !record.internal && !options.is_routed(driver) {
            let gateway = |net: Option<ipnet::IpNet>| record.range_of(net?.addr())?.gateway;
            let fixed = |ipv6: bool| gateways.get(usize::from(ipv6)).copied().flatten();
            let fixed = |ipv6| fixed(ipv6).filter(|_| record.name == "bridge");
            endpoint.gateway4 = fixed(false).or_else(|| gateway(endpoint.ipv4));
            endpoint.gateway6 = fixed(true).or_else(|| gateway(endpoint.ipv6));
        }
        if driver == Driver::Bridge {
            endpoint.link = format!("{LINK}{}", endpoint.id.get(..10).unwrap_or_default());
        }
        if driver != Driver::Ipvlan {
            endpoint.mac = match settings.mac_address.as_str() {
                "" => own_mac(&endpoint),
                asked => asked.to_ascii_lowercase().replace('-', ":"),
            };
        }
    }
    let endpoint = Arc::new(endpoint);
    entry.endpoints.insert(endpoint.id.clone(), Arc::clone(&endpoint));
    if let Some(sandbox) = state.sandboxes.get_mut(container) {
        sandbox.endpoints.push(Arc::clone(&endpoint));
    }
    Ok(Plan {
        endpoint,
        record,
        options,
        driver,
        index,
    })
}

/// Refuses what only networks of users have.
fn check_settings(record: &Record, settings: &EndpointSettings) -> Result<()> {
    if record.is_user_defined() {
        return Ok(());
    }
    let ipam = settings.ipam_config.clone().unwrap_or_default();
    if !ipam.ipv4_address.is_empty() || !ipam.ipv6_address.is_empty() {
        return Err(Error::invalid(
            "user specified IP address is supported on user defined networks only",
        ));
    }
    if settings
        .aliases
        .as_ref()
        .is_some_and(|aliases| !aliases.is_empty())
    {
        return Err(Error::invalid(
            "network-scoped alias is supported only for containers in user defined networks",
        ));
    }
    Ok(())
}

fn wanted(text: &str) -> Result<Option<IpAddr>> {
    match text {
        "" => Ok(None),
        _ => text
            .parse()
            .map(Some)
            .map_err(|_| Error::invalid(format!("invalid address {text}"))),
    }
}

fn prefix(options: &Options) -> &str {
    match options.interface_prefix.as_str() {
        "" => INTERFACE,
        prefix => prefix,
    }
}

/// The lowest number that no interface of the container has.
fn free_number(sandbox: &Sandbox, options: &Options) -> usize {
    (0..)
        .find(|number| {
            let name = format!("{}{number}", prefix(options));
            !sandbox
                .endpoints
                .iter()
                .any(|endpoint| endpoint.interface == name)
        })
        .unwrap_or_default()
}

/// The names of a container in a network of users: its name, its aliases, its short id, its host name.
pub(super) fn names(
    record: &Record,
    container: &str,
    name: &str,
    hostname: &str,
    settings: &EndpointSettings,
) -> Vec<String> {
    if !record.is_user_defined() {
        return Vec::new();
    }
    let aliases = settings.aliases.iter().flatten().map(String::as_str);
    let short = container.get(..12).unwrap_or(container);
    let mut names: Vec<String> = Vec::new();
    for candidate in std::iter::once(name).chain(aliases).chain([short, hostname]) {
        if !candidate.is_empty() && !names.iter().any(|known| known == candidate) {
            names.push(candidate.to_owned());
        }
    }
    names
}

/// The names that a container itself has for others, as pairs of alias and name.
fn links(settings: &EndpointSettings) -> Result<Vec<(String, String)>> {
    let links = settings.links.iter().flatten();
    links
        .map(|text| {
            let (name, alias) = crate::engine::containers::validate::names::link(text)?;
            Ok((alias.to_owned(), name.to_owned()))
        })
        .collect()
}

/// A locally administered hardware address that is unique where the IP address is.
fn own_mac(endpoint: &Endpoint) -> String {
    let [a, b, c, d] = match endpoint.targets() {
        (Some(address), _) => address.octets(),
        _ => rand::random(),
    };
    format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

fn mac_bytes(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16))
        .collect::<Result<_, _>>()
        .unwrap_or_default();
    <[u8; 6]>::try_from(bytes).map_err(|_| Error::invalid(format!("invalid MAC address: {text}")))
}

/// The endpoint by which a family leads out: of those with the highest priority the first.
pub(super) fn leader(plans: &[Plan], ipv6: bool) -> Option<&Plan> {
    plans
        .iter()
        .filter(|plan| leads_out(&plan.endpoint, &plan.record, &plan.options, plan.driver, ipv6))
        .min_by_key(|plan| Reverse(plan.endpoint.priority))
}

/// Whether an endpoint leads out.
pub(super) fn leads_out(
    endpoint: &Endpoint,
    record: &Record,
    options: &Options,
    driver: Driver,
    ipv6: bool,
) -> bool {
    let gateway = if ipv6 {
        endpoint.gateway6
    } else {
        endpoint.gateway4
    };
    let routed = options.is_routed(driver) && !record.internal && endpoint.address(ipv6).is_some();
    gateway.is_some() || routed
}

/// Makes the interface of an endpoint inside a namespace.
pub(super) fn wire(namespace: &mut Namespace, plan: &Plan, first: bool, alias: &str) -> Result<()> {
    let (endpoint, options) = (&plan.endpoint, &plan.options);
    let mut links = Links::open()?;
    match plan.driver {
        Driver::Host | Driver::Null => return Ok(()),
        Driver::Bridge => links.add_pair(&NewPair {
            name: &endpoint.link,
            alias,
            bridge: plan.index,
            mtu: options.mtu,
            isolated: options.no_icc,
            namespace: namespace.number(),
            peer: &endpoint.interface,
            mac: mac_bytes(&endpoint.mac)?,
        })?,
        driver @ (Driver::Macvlan | Driver::Ipvlan) => {
            let kind = options.upon(driver)?;
            links.add_upon(&NewUpon {
                name: &endpoint.interface,
                kind,
                parent: plan.index,
                mtu: options.mtu,
                namespace: namespace.number(),
                mac: match kind {
                    Upon::Macvlan(_) => mac_bytes(&endpoint.mac)?,
                    Upon::Ipvlan(..) => [0; 6],
                },
            })?;
        }
    }
    if endpoint.ipv6.is_some() && host::has_ipv6() {
        namespace.enable_ipv6(&endpoint.interface)?;
    }
    let index = namespace.links.get(&endpoint.interface)?.index;
    let addresses: Vec<_> = endpoint.ipv4.into_iter().chain(endpoint.ipv6).collect();
    namespace.links.set_up_interface(index, &addresses, first)
}

/// Sets the default routes of a new namespace.
fn set_routes(namespace: &mut Namespace, plans: &[Plan]) -> Result<()> {
    for ipv6 in [false, true] {
        if let Some(plan) = leader(plans, ipv6) {
            route_by(namespace, &plan.endpoint, ipv6)?;
        }
    }
    Ok(())
}

/// Makes an endpoint the way out.
pub(super) fn route_by(namespace: &mut Namespace, endpoint: &Endpoint, ipv6: bool) -> Result<()> {
    let index = namespace.links.get(&endpoint.interface)?.index;
    let gateway = if ipv6 {
        endpoint.gateway6
    } else {
        endpoint.gateway4
    };
    namespace.links.set_default_route(index, gateway, ipv6)
}

/// Where a running process has its network namespace.
pub(super) fn namespace_of(pid: i32) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join("ns/net")
}
