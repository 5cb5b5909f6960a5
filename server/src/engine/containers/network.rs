//! Containers and their networks.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
};

use berth_api::models::{EndpointSettings, PortMap};
use berth_runtime::{
    Error, Kind, Result,
    error::Context,
    net::{Owner, Protocol},
};

use super::{
    Containers, blocking,
    model::{Container, Details},
    spec::files::{self, HostsChange},
    store::Sync,
    validate::{self, modes::NetworkMode},
};
use crate::engine::{
    networks::{
        Attachment, Endpoint, JoinRequest, Joined,
        connect::{ConnectRequest, not_connected},
        ports::{self, Wanted, port_map},
        record::Record,
    },
    roots::write_fleeting,
};

/// What a run has in networks, in its bundle.
const FILE: &str = "network.json";

impl Containers {
    /// Puts a container that is about to be started into its networks, with a user namespace that its network namespace
    /// belongs to. Blocks.
    ///
    /// # Errors
    /// Those of [`Networks::join`](crate::engine::networks::Networks::join); nothing is left behind then.
    pub(super) fn join_networks(
        &self,
        container: &Container,
        details: &Details,
        bundle: &Path,
        owner: Option<Owner<'_>>,
        links: Vec<(Ipv4Addr, Vec<(Protocol, u16)>)>,
    ) -> Result<Joined> {
        let mode = NetworkMode::parse(&details.host_config.network_mode)?;
        let Some(main) = mode.network().filter(|_| !container.config().network_disabled) else {
            return Ok(Joined::default());
        };
        let host_config = self.networks.with_resolver(&details.host_config);
        let joined = self.networks.join(&JoinRequest {
            container: container.id(),
            name: &details.name,
            hostname: &container.config().hostname,
            main,
            endpoints: &details.networks,
            wanted: wanted(container, details)?,
            name_servers: host_config.dns.as_deref().unwrap_or_default(),
            owner,
            links,
        })?;
        store(bundle, &joined.attachment)?;
        container.change(|details| {
            details.networks = Arc::new(joined.endpoints.clone());
            details.ports = Arc::new(shown_ports(&joined.attachment));
        });
        Ok(joined)
    }

    /// Takes a container that has ended out of its networks. What was asked for there stays.
    pub(super) async fn leave_networks(&self, container: &Arc<Container>) {
        let (this, of) = (self.clone(), Arc::clone(container));
        let left = blocking(move || {
            this.networks.leave(of.id());
            this.close_links_to(&of);
            Ok(())
        });
        if let Err(error) = left.await {
            tracing::error!(container = container.id(), %error, "a container could not leave its networks");
        }
        container.change(clear);
    }

    /// Takes over the networks of a container that has run on without the engine.
    pub(super) fn readopt_networks(&self, container: &Container, attachment: Attachment) {
        container.change(|details| {
            let mut endpoints = (*details.networks).clone();
            endpoints.retain(|name, _| {
                attachment
                    .endpoints
                    .iter()
                    .any(|endpoint| endpoint.network == *name)
            });
            for endpoint in &attachment.endpoints {
                endpoint.fill(endpoints.entry(endpoint.network.clone()).or_default());
            }
            if !attachment.endpoints.is_empty() {
                details.networks = Arc::new(endpoints);
            }
            details.ports = Arc::new(shown_ports(&attachment));
        });
        self.networks.readopt(container.id(), attachment);
    }

    /// Serves names inside a container that has run on without the engine.
    pub(super) async fn answer_names_again(&self, container: &Container, pid: i32) {
        let (networks, id) = (self.networks.clone(), container.id().to_owned());
        if let Err(error) = blocking(move || networks.answer_names(&id, pid)).await {
            tracing::error!(container = container.id(), %error, "a running container has no name server");
        }
    }

    /// The endpoints of a new container: by the names of networks where there are such.
    pub(super) fn named_endpoints(
        &self,
        asked: BTreeMap<String, EndpointSettings>,
    ) -> BTreeMap<String, EndpointSettings> {
        asked
            .into_iter()
            .map(|(key, mut settings)| match self.networks.find(&key) {
                Ok(record) => {
                    settings.network_id.clone_from(&record.id);
                    (record.name.clone(), settings)
                }
                // It may be made before the start.
                Err(_) => (key, settings),
            })
            .collect()
    }

    /// Names and ids of the networks that containers, running or not, refer to.
    pub fn networks_in_use(&self) -> HashSet<String> {
        let mut used = HashSet::new();
        for container in self.index.all() {
            for (name, endpoint) in container.now().networks.iter() {
                match endpoint.network_id.is_empty() {
                    true => used.insert(name.clone()),
                    false => used.insert(endpoint.network_id.clone()),
                };
            }
        }
        used
    }

    /// Puts a container into one more network: at once if it runs, else at its next start.
    ///
    /// # Errors
    /// Not found for the network; invalid for a container that shares another network, for addresses and aliases that
    /// cannot be had; [`Kind::Forbidden`] if it is there already; conflict if it is being removed.
    pub async fn connect(
        &self,
        container: &Arc<Container>,
        network: &str,
        mut settings: EndpointSettings,
    ) -> Result<()> {
        let _operation = container.operation.lock().await;
        let record = self.networks.find(network)?;
        let details = container.details();
        if details.state.is_gone() {
            return Err(Error::conflict(format!(
                "container {} is marked for removal and cannot be connected or disconnected to the network",
                container.id()
            )));
        }
        may_connect(&details, &record)?;
        super::validate::network::check_endpoint(&record.name, &mut settings)?;
        if !details.state.has_process() {
            settings.network_id.clone_from(&record.id);
            self.change_networks(container, |networks| {
                networks.insert(record.name.clone(), settings);
            });
            return self.save(container, Sync::Yes).await;
        }
        let (this, of) = (self.clone(), Arc::clone(container));
        blocking(move || this.connect_running(&of, &record, &settings)).await?;
        self.save(container, Sync::No).await
    }

    fn connect_running(
        &self,
        container: &Container,
        record: &Record,
        settings: &EndpointSettings,
    ) -> Result<()> {
        let details = container.details();
        let settings = self.networks.connect(&ConnectRequest {
            container: container.id(),
            name: &details.name,
            hostname: &container.config().hostname,
            pid: details.state.pid,
            network: &record.id,
            settings,
            wanted: wanted(container, &details)?,
        })?;
        let addresses = addresses(&settings);
        self.change_networks(container, |networks| {
            networks.insert(record.name.clone(), settings);
        });
        self.keep_attachment(container)?;
        let directory = self.store.directory(container.id());
        let names = files::host_names(container.config());
        let added: Vec<_> = addresses
            .iter()
            .map(|address| HostsChange::Add {
                address: *address,
                names: &names,
            })
            .collect();
        files::change_hosts(&directory, &added)?;
        match record.is_user_defined() {
            true => files::name_server(&directory, &self.networks.with_resolver(&details.host_config)),
            false => Ok(()),
        }
    }

    /// Takes a container out of a network, whether it runs or not.
    ///
    /// # Errors
    /// Not found for the network; invalid for the host's network; conflict if it is not in it.
    pub async fn disconnect(&self, container: &Arc<Container>, network: &str) -> Result<()> {
        let _operation = container.operation.lock().await;
        let details = container.details();
        let record = match self.networks.find(network) {
            Ok(record) => record,
            // A network that is gone can still be left by a container that does not run.
            Err(error) if !details.networks.contains_key(network) || details.state.has_process() => {
                return Err(error);
            }
            Err(_) => {
                self.change_networks(container, |networks| {
                    networks.remove(network);
                });
                return self.save(container, Sync::Yes).await;
            }
        };
        if record.name == "host"
            && NetworkMode::parse(&details.host_config.network_mode)? == NetworkMode::Host
        {
            return Err(host_conflict());
        }
        if !details.networks.contains_key(&record.name) {
            return Err(not_connected(container.id(), &record.name));
        }
        let (this, of) = (self.clone(), Arc::clone(container));
        blocking(move || {
            if details.state.has_process() {
                this.networks.disconnect(of.id(), details.state.pid, &record)?;
            } else {
                this.networks.tell_disconnect(&record, of.id());
            }
            this.change_networks(&of, |networks| {
                networks.remove(&record.name);
            });
            if !details.state.has_process() {
                return Ok(());
            }
            let names = files::host_names(of.config());
            let gone = details
                .networks
                .get(&record.name)
                .map(addresses)
                .unwrap_or_default();
            let gone: Vec<_> = gone
                .iter()
                .map(|address| HostsChange::Remove {
                    address: *address,
                    names: &names,
                })
                .collect();
            files::change_hosts(&this.store.directory(of.id()), &gone)?;
            this.keep_attachment(&of)
        })
        .await?;
        self.save(container, Sync::Yes).await
    }

    fn change_networks(
        &self,
        container: &Container,
        change: impl FnOnce(&mut BTreeMap<String, EndpointSettings>),
    ) {
        container.change(|details| {
            let mut networks = (*details.networks).clone();
            change(&mut networks);
            details.networks = Arc::new(networks);
        });
    }

    /// Writes what a run has in networks where a restarted engine finds it.
    fn keep_attachment(&self, container: &Container) -> Result<()> {
        let attachment = self.networks.attachment(container.id());
        container.change(|details| details.ports = Arc::new(shown_ports(&attachment)));
        store(&self.store.bundle(container.id()), &attachment)
    }
}

/// The addresses of an endpoint.
fn addresses(settings: &EndpointSettings) -> Vec<IpAddr> {
    [&settings.ip_address, &settings.global_ipv6_address]
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect()
}

/// Refuses to mix networks that cannot be.
fn may_connect(details: &Details, record: &Record) -> Result<()> {
    let mode = NetworkMode::parse(&details.host_config.network_mode)?;
    if matches!(mode, NetworkMode::Container(_) | NetworkMode::Host) {
        return Err(Error::invalid(
            "container sharing network namespace with another container or host cannot be connected to any other network",
        ));
    }
    if record.name == "host" {
        return Err(host_conflict());
    }
    let none = details.networks.contains_key("none");
    if none || (record.name == "none" && !details.networks.is_empty()) {
        return Err(Error::invalid(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        ));
    }
    if details.networks.contains_key(&record.name) && details.state.has_process() {
        return Err(Error::new(
            Kind::Forbidden,
            format!(
                "endpoint with name {} already exists in network {}",
                details.name, record.name
            ),
        ));
    }
    Ok(())
}

fn host_conflict() -> Error {
    Error::invalid("container cannot be disconnected from host network or connected to host network")
}

/// What a container wants to be published.
fn wanted(container: &Container, details: &Details) -> Result<Wanted> {
    Wanted::read(
        &details.host_config.port_bindings,
        validate::ports::exposed(container.config()).iter(),
        details.host_config.publish_all_ports,
    )
}

/// The ports as inspect shows them. Only containers with addresses have any.
fn shown_ports(attachment: &Attachment) -> PortMap {
    let has_address = |endpoint: &Endpoint| endpoint.ipv4.is_some() || endpoint.ipv6.is_some();
    if !attachment.endpoints.iter().any(has_address) {
        return PortMap::new();
    }
    let exposed: Vec<_> = attachment
        .exposed
        .iter()
        .filter_map(|(protocol, port)| Some((ports::protocol_of(protocol)?, *port)))
        .collect();
    port_map(&exposed, attachment.ports.iter())
}

/// Takes away what is only known of a running container.
pub(super) fn clear(details: &mut Details) {
    let cleared = details.networks.iter().map(|(name, settings)| {
        let settings = EndpointSettings {
            ipam_config: settings.ipam_config.clone(),
            links: settings.links.clone(),
            aliases: settings.aliases.clone(),
            driver_opts: settings.driver_opts.clone(),
            network_id: settings.network_id.clone(),
            mac_address: settings.mac_address.clone(),
            gw_priority: settings.gw_priority,
            dns_names: settings.dns_names.clone(),
            ..EndpointSettings::default()
        };
        (name.clone(), settings)
    });
    details.networks = Arc::new(cleared.collect());
    details.ports = Arc::default();
}

fn store(bundle: &Path, attachment: &Attachment) -> Result<()> {
    let text = serde_json::to_vec(attachment).context(|| "cannot write a container's networks as JSON")?;
    write_fleeting(&bundle.join(FILE), &text)
}

/// What a run has in networks; nothing for one that has none.
///
/// # Errors
/// Internal, if the file cannot be read.
pub(super) fn load(bundle: &Path) -> Result<Attachment> {
    let path = bundle.join(FILE);
    let failed = || format!("cannot read {}", path.display());
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).context(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Attachment::default()),
        Err(error) => Err(error).context(failed),
    }
}
