//! Networks: what they are, who is on them, and what they are made of on the host.
//!
//! | module | what it is |
//! |---|---|
//! | [`settings`] | what the configuration says |
//! | [`record`], [`state`] | the objects: on disk, in memory |
//! | [`addresses`] | free subnets and addresses |
//! | [`request`], [`options`] | what clients may ask for |
//! | [`create`], [`remove`], [`list`] | the operations |
//! | [`attach`], [`connect`] | containers join and leave |
//! | [`ports`], [`relay`] | published ports |
//! | [`dns`] | the name server inside containers of user-defined networks |
//! | [`host`] | bridges and other links, subnets of the host, kernel parameters |
//! | [`restore`] | what a restarted engine does |
//!
//! Everything but the state in memory blocks: it is to be called where that holds up nobody.

pub mod addresses;
pub mod attach;
pub mod connect;
pub mod create;
pub mod dns;
pub mod host;
pub mod list;
pub mod options;
pub mod ports;
pub mod record;
pub mod relay;
pub mod remove;
pub mod request;
pub mod restore;
pub mod settings;
pub mod state;

use std::{
    collections::HashSet,
    ops::Deref,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use berth_api::models::{EventMessageType, HostConfig};
use berth_runtime::{
    Error, Result,
    net::{Firewall, Pool},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{record::Record, settings::NetworkSettings, state::State};
use super::events::{Attributes, Events};

pub use self::{
    attach::{JoinRequest, Joined},
    state::{Attachment, Endpoint},
};

/// In front of the names of firewall tables, so that an engine never takes a table of somebody else for its own.
const TABLE_PREFIX: &str = "berth_";
/// In front of the aliases of links.
const ALIAS_PREFIX: &str = "berth";

/// The engine's networks. Clones are cheap and are the same networks.
#[derive(Clone, Debug)]
pub struct Networks(Arc<Shared>);

/// What there is once.
#[derive(Debug)]
pub struct Shared {
    settings: NetworkSettings,
    instance: String,
    /// Where the networks are kept.
    directory: PathBuf,
    firewall: Firewall,
    events: Arc<Events>,
    state: Mutex<State>,
    /// Namespaces for the next containers.
    pool: Pool,
    /// Links that are going, and are deleted if they stay.
    leaving: Mutex<HashSet<String>>,
    /// Counts joins and leaves, for those who follow them.
    changes: watch::Sender<u64>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Held by the one clean-up there may be.
    pruning: tokio::sync::Mutex<()>,
}

impl Deref for Networks {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Shared {
    /// The state. Held for a look or a change in memory only.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What marks a link of this engine.
    fn alias(&self, what: &str) -> String {
        format!("{ALIAS_PREFIX} {} {what}", self.instance)
    }

    /// What the alias of every link of this engine begins with.
    fn alias_start(&self) -> String {
        format!("{ALIAS_PREFIX} {} ", self.instance)
    }

    /// Tells that something happened to a network.
    fn publish(&self, record: &Record, action: &str, container: Option<&str>) {
        let mut attributes = Attributes::from([
            ("name".to_owned(), record.name.clone()),
            ("type".to_owned(), record.driver.clone()),
        ]);
        if let Some(container) = container {
            attributes.insert("container".to_owned(), container.to_owned());
        }
        self.events
            .publish(EventMessageType::Network, action, &record.id, attributes);
    }

    /// Changes the firewall, and makes it anew if it is not as it was left.
    fn firewall(&self, change: impl FnOnce(&Firewall) -> Result<()>) -> Result<()> {
        change(&self.firewall).or_else(|error| {
            tracing::debug!(%error, "the firewall table is made anew");
            self.firewall.replace(|| self.state().firewall())
        })
    }
}

impl Networks {
    /// The network of this full id, exact name, or unique beginning of an id.
    ///
    /// # Errors
    /// Not found; invalid if several ids begin so.
    pub fn find(&self, term: &str) -> Result<Arc<Record>> {
        let state = self.state();
        let entry = state.find(term)?;
        Ok(Arc::clone(&entry.record))
    }

    /// The endpoints in a network.
    pub fn endpoints(&self, network_id: &str) -> Vec<Arc<Endpoint>> {
        let state = self.state();
        let entry = state.networks.get(network_id);
        entry
            .map(|entry| entry.endpoints.values().cloned().collect())
            .unwrap_or_default()
    }

    /// The endpoints of a running container, in the order in which they were made.
    pub fn endpoints_of(&self, container: &str) -> Vec<Arc<Endpoint>> {
        let state = self.state();
        state
            .sandboxes
            .get(container)
            .map(|sandbox| sandbox.endpoints.clone())
            .unwrap_or_default()
    }

    /// Changes with every join, leave and change of names: whoever answers names looks again then.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Tells that a container that does not run has left a network.
    pub fn tell_disconnect(&self, record: &Record, container: &str) {
        self.publish(record, "disconnect", Some(container));
    }

    fn tell_change(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// The address by which containers of the default network reach the host.
    pub fn host_gateway(&self) -> Option<std::net::IpAddr> {
        if self.settings.host_gateway.is_some() {
            return self.settings.host_gateway;
        }
        let state = self.state();
        let bridge = state.find("bridge").ok()?;
        bridge.record.range(false).and_then(|range| range.gateway)
    }

    /// A container's host configuration with the engine's name servers, domains and options where it names none.
    pub fn with_resolver(&self, host_config: &HostConfig) -> HostConfig {
        let mut filled = host_config.clone();
        let settings = &self.settings;
        for (own, default) in [
            (&mut filled.dns, &settings.dns),
            (&mut filled.dns_search, &settings.dns_search),
            (&mut filled.dns_options, &settings.dns_options),
        ] {
            if own.as_ref().is_none_or(Vec::is_empty) && !default.is_empty() {
                *own = Some(default.clone());
            }
        }
        filled
    }

    /// Whether the engine has a default network.
    pub fn has_bridge(&self) -> bool {
        self.state().find("bridge").is_ok()
    }
}

/// Runs work that blocks where it holds up nobody.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal("a piece of work was broken off").caused_by(error)),
    }
}
