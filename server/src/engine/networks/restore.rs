//! What a restarted engine does: it finds its networks again, and puts away what belongs to none.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use berth_runtime::{
    Result,
    net::{Firewall, Links, Pool},
};
use ipnet::IpNet;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Networks, Shared, TABLE_PREFIX,
    addresses::{Range, overlap},
    host::Choosing,
    ports,
    record::{PREDEFINED, Record, bridge_name, new_id},
    settings::{DefaultBridge, NetworkSettings},
    state::{Attachment, Entry, Sandbox, State},
};
use crate::{
    config::Config,
    engine::{events::Events, roots::Roots},
};

/// How many network namespaces wait for containers, once one has been started.
const POOL: usize = 3;
/// How long links may take to go by themselves.
const GRACE: Duration = Duration::from_millis(300);
/// How long after a change by somebody else the firewall table is made anew; what changes in that time is one change.
const SETTLE: Duration = Duration::from_millis(50);
/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

impl Networks {
    /// Reads the networks and makes what they need on the host. Blocks.
    ///
    /// # Errors
    /// Internal, if they cannot be read; unavailable, if the kernel has no nftables.
    pub fn open(config: &Config, roots: &Roots, events: Arc<Events>) -> Result<Self> {
        let networks = Self(Arc::new(Shared {
            settings: config.networks.clone(),
            instance: config.instance.clone(),
            directory: roots.networks(),
            firewall: Firewall::open(&format!("{TABLE_PREFIX}{}", config.instance))?,
            events,
            pool: Pool::new(POOL)?,
            state: Mutex::default(),
            leaving: Mutex::default(),
            changes: watch::Sender::new(0),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            pruning: tokio::sync::Mutex::default(),
        }));
        let records = Record::load_all(&networks.directory)?;
        let choosing = Choosing::begin()?;
        for (name, driver) in PREDEFINED {
            let known = records.iter().find(|record| record.name == name).cloned();
            let record = known.unwrap_or_else(|| predefined(name, driver));
            networks.open_predefined(record)?;
        }
        for record in records {
            if !record.is_predefined() {
                networks.open_one(record);
            }
        }
        drop(choosing);
        Ok(networks)
    }

    fn open_predefined(&self, mut record: Record) -> Result<()> {
        if record.name == "bridge" {
            if self.settings.bridge == DefaultBridge::None {
                return record.erase(&self.directory);
            }
            self.set_up_default(&mut record)?;
        }
        record.store(&self.directory)?;
        self.open_one(record);
        Ok(())
    }

    /// What the configuration says about the default network.
    fn set_up_default(&self, record: &mut Record) -> Result<()> {
        let settings: &NetworkSettings = &self.settings;
        let mut option = |key: &str, value: String| {
            record.options.insert(format!("com.docker.network.{key}"), value);
        };
        option("bridge.default_bridge", "true".to_owned());
        option("bridge.enable_icc", settings.icc.to_string());
        option("bridge.enable_ip_masquerade", settings.masquerade.to_string());
        option("bridge.host_binding_ipv4", settings.publish_on.to_string());
        option("driver.mtu", settings.mtu.to_string());
        if let DefaultBridge::Foreign(name) = &settings.bridge {
            record.link.clone_from(name);
            record.ranges = self.foreign_ranges(name)?;
        } else {
            let options = super::options::Options {
                bridge: String::new(),
                ..super::options::Options::default()
            };
            record.link = bridge_name(&self.instance, &record.name, &record.id, &options);
            record.ipv6 = settings.ipv6;
            record
                .ranges
                .retain(|range| settings.ipv6 || range.subnet.addr().is_ipv4());
            self.set_ranges(record);
        }
        record
            .options
            .insert("com.docker.network.bridge.name".to_owned(), record.link.clone());
        Ok(())
    }

    /// The subnets of the default network that the configuration fixes.
    fn set_ranges(&self, record: &mut Record) {
        let settings: &NetworkSettings = &self.settings;
        let fixed = [
            settings.bip.or(settings.parts[0]),
            settings.parts[1].filter(|_| settings.ipv6),
        ];
        for (ipv6, fixed) in [false, true].into_iter().zip(fixed) {
            let Some(fixed) = fixed else { continue };
            let chosen = Range::chosen(fixed.trunc());
            let is_bridges_own = !ipv6 && settings.bip.is_some();
            let range = Range {
                gateway: match is_bridges_own {
                    true => Some(fixed.addr()),
                    false => chosen.gateway,
                },
                range: settings.parts[0].filter(|_| is_bridges_own),
                ..chosen
            };
            record
                .ranges
                .retain(|other| other.subnet.addr().is_ipv6() != ipv6);
            record.ranges.push(range);
        }
        record.ranges.sort_by_key(|range| range.subnet.addr().is_ipv6());
    }

    /// Makes a network that is kept on disk what it was. One that cannot be made is there all the same, and nobody can
    /// join it.
    fn open_one(&self, mut record: Record) {
        let opened = self.refresh_ranges(&mut record);
        let record = Arc::new(record);
        let mut entry = Entry::new(Arc::clone(&record));
        entry.closed = false;
        self.state().networks.insert(record.id.clone(), entry);
        if record.config_only {
            return;
        }
        match opened.and_then(|()| self.make_link(&record)) {
            Ok(index) => {
                if let Ok(entry) = self.state().entry(&record.id) {
                    entry.index = index;
                }
            }
            Err(error) => {
                tracing::error!(network = record.name, %error, "a network could not be made; nobody can join it");
            }
        }
    }

    /// Chooses a subnet where there is none, and another one where something else on the host has it by now. Where
    /// containers run in it it stays.
    fn refresh_ranges(&self, record: &mut Record) -> Result<()> {
        if record.driver != "bridge" || record.config_only {
            return Ok(());
        }
        let mut links = Links::open()?;
        let own = links.find(&record.link)?;
        if own.is_none() {
            let routes: Vec<IpNet> = links.routes()?.into_iter().map(|(_, net)| net).collect();
            let before = record.ranges.len();
            let foreign = self.settings.bridge != DefaultBridge::Own && record.is_predefined();
            record.ranges.retain(|range| {
                let fixed = [self.settings.bip, self.settings.parts[0], self.settings.parts[1]];
                let fixed =
                    record.name == "bridge" && fixed.iter().flatten().any(|net| net.trunc() == range.subnet);
                !range.chosen || fixed || foreign || !routes.iter().any(|net| overlap(net, &range.subnet))
            });
            if record.ranges.len() < before {
                tracing::warn!(
                    network = record.name,
                    "the subnet is in use on this host by now; another one is chosen"
                );
            }
        }
        let before = record.ranges.clone();
        if record.name == "bridge" {
            if record.range(false).is_none() {
                let pools: Vec<_> = self
                    .settings
                    .bridge_pools
                    .iter()
                    .chain(&self.settings.pools)
                    .copied()
                    .collect();
                record
                    .ranges
                    .insert(0, Range::chosen(self.choose_subnet(&pools, &[])?));
            }
            if record.ipv6 && record.range(true).is_none() {
                let subnet = self.choose_subnet(&self.ipv6_pool(), &[])?;
                record.ranges.push(Range::chosen(subnet));
            }
        } else {
            self.choose_ranges(record)?;
        }
        match record.ranges == before {
            true => Ok(()),
            false => record.store(&self.directory),
        }
    }

    /// Takes over what a running container has.
    pub fn readopt(&self, container: &str, attachment: Attachment) {
        let mut state = self.state();
        let state: &mut State = &mut state;
        let mut sandbox = Sandbox {
            gateway: attachment.gateway,
            name_servers: attachment.name_servers,
            links: attachment
                .links
                .iter()
                .map(|(address, opened)| {
                    let known = opened.iter();
                    let known =
                        known.filter_map(|(protocol, port)| Some((ports::protocol_of(protocol)?, *port)));
                    (*address, known.collect())
                })
                .collect(),
            exposed: attachment
                .exposed
                .iter()
                .filter_map(|(protocol, port)| Some((ports::protocol_of(protocol)?, *port)))
                .collect(),
            ..Sandbox::default()
        };
        for endpoint in attachment.endpoints {
            let network = endpoint.network.clone();
            match state.restore(endpoint) {
                Ok(endpoint) => sandbox.endpoints.push(endpoint),
                Err(error) => {
                    tracing::error!(container, network, %error, "a running container lost its network")
                }
            }
        }
        for publication in attachment.ports {
            sandbox.ports.push(state.ports.retake(publication));
        }
        state.sandboxes.insert(container.to_owned(), sandbox);
    }

    /// Puts away links that belong to no network and no running container, makes the firewall table, and keeps it. To
    /// be called once every running container has been taken over.
    ///
    /// # Errors
    /// Internal.
    pub fn settle(&self) -> Result<()> {
        let mut links = Links::open()?;
        let known: HashSet<String> = {
            let state = self.state();
            let of_networks = state.networks.values().map(|entry| entry.record.link.clone());
            let endpoints = state.networks.values().flat_map(|entry| entry.endpoints.values());
            of_networks
                .chain(endpoints.map(|endpoint| endpoint.link.clone()))
                .collect()
        };
        let start = self.alias_start();
        let strays: Vec<String> = links
            .list()?
            .into_iter()
            .filter(|link| link.alias.starts_with(&start) && !known.contains(&link.name))
            .map(|link| link.name)
            .collect();
        links.delete_all(&strays)?;
        self.firewall.replace(|| self.state().firewall())?;
        let relays = {
            let state = self.state();
            state.sandboxes.values().flat_map(super::relay::wanted).collect()
        };
        self.start_relays(relays);
        if tokio::runtime::Handle::try_current().is_ok() {
            let (this, stop) = (self.clone(), self.stop.clone());
            self.tasks.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = this.keep_firewall() => {}
                }
            });
        }
        Ok(())
    }

    /// Makes the firewall table anew whenever somebody else has changed it.
    async fn keep_firewall(&self) {
        loop {
            let watch = match self.firewall.watch() {
                Ok(watch) => watch,
                Err(error) => {
                    tracing::error!(%error, "changes of the firewall are not noticed");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            while watch.changed().await.is_ok() {
                tokio::time::sleep(SETTLE).await;
                let this = self.clone();
                let made = super::blocking(move || this.firewall.replace(|| this.state().firewall())).await;
                match made {
                    Ok(()) => tracing::warn!("somebody changed the firewall table; it was made anew"),
                    Err(error) => tracing::error!(%error, "the firewall table could not be made anew"),
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Sees to it that links are gone soon.
    pub(super) fn forget_links(&self, names: impl Iterator<Item = String>) {
        let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
        if names.is_empty() {
            return;
        }
        let first = {
            let mut leaving = self
                .leaving
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let first = leaving.is_empty();
            leaving.extend(names);
            first
        };
        if first && tokio::runtime::Handle::try_current().is_ok() {
            let (this, stop) = (self.clone(), self.stop.clone());
            self.tasks.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(GRACE) => {}
                }
                let swept = super::blocking(move || this.sweep()).await;
                if let Err(error) = swept {
                    tracing::warn!(%error, "links of containers that have ended stay");
                }
            });
        }
    }

    /// Deletes what has not gone by itself.
    fn sweep(&self) -> Result<()> {
        let leaving = {
            let mut leaving = self
                .leaving
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            std::mem::take(&mut *leaving)
        };
        if leaving.is_empty() {
            return Ok(());
        }
        let mut links = Links::open()?;
        let left: Vec<_> = links
            .list()?
            .into_iter()
            .map(|link| link.name)
            .filter(|name| leaving.contains(name))
            .collect();
        links.delete_all(&left)
    }

    /// Takes away what only a running engine needs: everything that no running container uses.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let this = self.clone();
        if let Err(error) = super::blocking(move || this.close_blocking()).await {
            tracing::warn!(%error, "some of the networks' links and rules stay");
        }
    }

    fn close_blocking(&self) -> Result<()> {
        self.sweep()?;
        let (idle, all_idle) = {
            let state = self.state();
            let idle: Vec<_> = state
                .networks
                .values()
                .filter(|entry| entry.endpoints.is_empty() && entry.index != 0)
                .map(|entry| entry.record.link.clone())
                .collect();
            let all = state
                .networks
                .values()
                .all(|entry| entry.endpoints.is_empty() || entry.record.ranges.is_empty());
            (idle, all)
        };
        let mut links = Links::open()?;
        let start = self.alias_start();
        let own: Vec<_> = links
            .list()?
            .into_iter()
            .filter(|link| link.alias.starts_with(&start) && idle.contains(&link.name))
            .map(|link| link.name)
            .collect();
        if all_idle {
            self.firewall.remove()?;
        }
        links.delete_all(&own)
    }
}

fn predefined(name: &str, driver: &str) -> Record {
    Record {
        id: new_id(),
        name: name.to_owned(),
        driver: driver.to_owned(),
        created: Timestamp::now(),
        ranges: Vec::new(),
        ipam_options: None,
        ipv6: false,
        internal: false,
        attachable: false,
        config_only: false,
        config_from: String::new(),
        options: std::collections::BTreeMap::new(),
        labels: std::collections::BTreeMap::new(),
        link: String::new(),
        unused: Vec::new(),
    }
}
