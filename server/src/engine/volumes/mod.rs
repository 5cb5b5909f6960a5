//! Volumes: data that outlives containers.
//!
//! | module | what it is |
//! |---|---|
//! | [`store`] | their files |
//! | [`plugins`] | drivers that are other programs |
//! | `lifecycle` | making, using, removing |
//! | `show` | what is shown, and clean-up |
//!
//! Readers take what is published and never wait. Whoever changes a volume holds its [`Claim`] meanwhile, one at a
//! time for each name; the work of a claim blocks and so runs on threads for that.

mod lifecycle;
pub mod plugins;
mod show;
pub mod store;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use berth_api::models::EventMessageType;
use berth_runtime::{Error, Kind, Result, volume};

use self::{
    plugins::Plugins,
    store::{Record, Store},
};
use super::events::{Attributes, Events};

pub use self::lifecycle::Wanted;

/// Name of the driver that is part of the engine.
pub const LOCAL: &str = "local";
/// Label of volumes that were made without a name.
pub const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// The engine's volumes. Clones are cheap and are the same volumes.
#[derive(Clone, Debug)]
pub struct Volumes(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    plugins: Plugins,
    events: Arc<Events>,
    /// Held for a look or a change in memory only.
    table: Mutex<Table>,
    /// Told when a claim ends.
    unclaimed: Condvar,
    /// Held by the one clean-up there may be.
    pruning: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Table {
    volumes: BTreeMap<String, Entry>,
    claimed: HashSet<String>,
}

/// A volume and who uses it.
#[derive(Clone, Debug)]
struct Entry {
    record: Arc<Record>,
    /// The containers that refer to it.
    users: BTreeSet<String>,
    /// Those of them that have it mounted.
    mounted: BTreeSet<String>,
    /// Where a plugin has its data.
    mountpoint: PathBuf,
}

/// The right to change the volume of one name, or to make it.
#[derive(Debug)]
struct Claim<'a> {
    volumes: &'a Volumes,
    name: String,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.volumes.table().claimed.remove(&self.name);
        self.volumes.0.unclaimed.notify_all();
    }
}

impl Volumes {
    /// Reads the volumes below `root`. `plugins` are the directories with sockets and addresses of drivers, `owner` is
    /// the user and group of new volumes.
    ///
    /// # Errors
    /// Internal, if they cannot be read.
    pub fn open(
        root: PathBuf,
        plugins: Vec<PathBuf>,
        owner: (u32, u32),
        events: Arc<Events>,
    ) -> Result<Self> {
        let store = Store::new(root, owner);
        let entries = store.load()?.into_iter().map(|record| {
            let entry = Entry {
                mountpoint: PathBuf::new(),
                users: BTreeSet::new(),
                mounted: BTreeSet::new(),
                record: Arc::new(record),
            };
            (entry.record.name.clone(), entry)
        });
        let table = Table {
            volumes: entries.collect(),
            claimed: HashSet::new(),
        };
        Ok(Self(Arc::new(Shared {
            store,
            plugins: Plugins::new(plugins),
            events,
            table: Mutex::new(table),
            unclaimed: Condvar::new(),
            pruning: tokio::sync::Mutex::default(),
        })))
    }

    /// Records, while the engine starts, that a container refers to a volume, and has it mounted if it runs.
    pub fn adopt(&self, name: &str, container: &str, runs: bool) {
        match self.table().volumes.get_mut(name) {
            Some(entry) => {
                entry.users.insert(container.to_owned());
                if runs {
                    entry.mounted.insert(container.to_owned());
                }
            }
            None => tracing::warn!(volume = name, container, "a container's volume is lost"),
        }
    }

    /// Takes away, when it is known which containers run, what an engine that was killed has left mounted.
    pub fn settle(&self) {
        let idle: Vec<_> = {
            let table = self.table();
            let idle = table.volumes.values().filter(|entry| entry.mounted.is_empty());
            idle.map(|entry| Arc::clone(&entry.record)).collect()
        };
        for record in idle {
            if record.driver != LOCAL || record.options.is_empty() {
                continue;
            }
            if let Err(error) = volume::unmount(&self.0.store.data(&record.name)) {
                tracing::warn!(volume = record.name, %error, "a volume that nobody uses stays mounted");
            }
        }
    }

    /// Removes the anonymous volumes made for one of these containers, which are gone, unless others use them.
    pub fn forget(&self, containers: &[String]) {
        let made: Vec<String> = {
            let table = self.table();
            let made = table.volumes.values().filter(|entry| {
                let made_for = entry.record.made_for.as_ref();
                made_for.is_some_and(|id| containers.contains(id))
            });
            made.map(|entry| entry.record.name.clone()).collect()
        };
        self.remove_quietly(&made);
    }

    /// Names of the drivers there are.
    pub fn drivers(&self) -> Vec<String> {
        let mut names = self.0.plugins.names();
        names.push(LOCAL.to_owned());
        names.sort();
        names.dedup();
        names
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the right to change a volume.
    fn claim(&self, name: &str) -> Claim<'_> {
        let mut table = self.table();
        while !table.claimed.insert(name.to_owned()) {
            let waited = self.0.unclaimed.wait(table);
            table = waited.unwrap_or_else(PoisonError::into_inner);
        }
        Claim {
            volumes: self,
            name: name.to_owned(),
        }
    }

    fn entry(&self, name: &str) -> Option<Entry> {
        self.table().volumes.get(name).cloned()
    }

    /// Tells that something happened to a volume.
    pub fn publish(&self, action: &str, name: &str, driver: &str, extra: &[(&str, &str)]) {
        let driver = [("driver", driver)];
        let extra = extra.iter().chain(&driver);
        let attributes: Attributes = extra
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        self.0
            .events
            .publish(EventMessageType::Volume, action, name, attributes);
    }
}

/// The error of a name that no volume has.
fn unknown(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("get {name}: no such volume"))
}
