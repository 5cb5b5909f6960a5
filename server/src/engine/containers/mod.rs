//! Containers: what they are, how they live, and what can be done with them.
//!
//! | module | what it is |
//! |---|---|
//! | [`model`], [`state`], [`index`], [`store`] | the objects: snapshots that readers take, their states, look-up, files |
//! | [`names`], [`signal`], [`detach`], [`text`] | rules of their own: names, signals, keys, wording |
//! | [`link`], [`run`] | a running container: its supervisor, its clients, its restart policy |
//! | `create`, `start`, `watch`, `stop`, `wait`, `remove`, `restore` | the steps of a life |
//! | `network` | joining and leaving networks |
//! | `list`, `inspect`, [`filter`], [`summary`], `size` | what is shown |
//! | [`health`] | whether a container is well |
//! | [`exec`] | further processes in a container |
//! | [`stats`] | what a container uses |
//! | `files`, `commit`, `logs`, `attach`, `pause`, `rename`, `update`, `top` | what else can be done |
//!
//! Readers never wait: they take a container's [`model::Details`] as they are. Operations of several steps hold the
//! container's own lock; signals and the end of a process do not.

mod attach;
mod commit;
mod create;
pub mod detach;
mod exec;
mod files;
pub mod filter;
mod health;
mod image;
pub mod index;
mod inspect;
pub mod link;
mod links;
mod list;
mod logs;
pub mod model;
pub mod names;
mod network;
mod pause;
mod payload;
mod prepare;
mod remove;
mod rename;
mod restore;
pub mod run;
pub mod signal;
pub mod size;
pub mod spec;
mod start;
pub mod state;
mod stats;
mod stop;
pub mod store;
pub mod summary;
pub mod text;
mod top;
mod update;
pub mod validate;
mod volumes;
mod wait;
mod watch;
mod websocket;

use std::{ops::Deref, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use berth_api::models::EventMessageType;
use berth_runtime::{Error, Result, image::ImageStore, supervisor::Spawner, userns::UserNamespace};
use tokio_util::task::TaskTracker;

use self::{
    exec::Execs,
    index::Index,
    model::Container,
    state::Phase,
    stats::Samplers,
    store::{Store, Sync},
    validate::{Defaults, Host},
};
use super::{
    events::{Attributes, Events},
    networks::Networks,
    volumes::Volumes,
};

pub use self::{
    attach::AttachRequest, commit::CommitRequest, exec::ExecStart, files::ArchiveIn, list::ListRequest,
    logs::LogRequest, remove::Removal, size::Size, stats::Watch, websocket::Messages,
};

/// The engine's containers. Clones are cheap and are the same containers.
#[derive(Clone, Debug)]
pub struct Containers(Arc<Shared>);

/// What there is once.
#[derive(Debug)]
pub struct Shared {
    index: Arc<Index<Container>>,
    store: Store,
    events: Arc<Events>,
    spawner: Spawner,
    images: Arc<ImageStore>,
    volumes: Volumes,
    networks: Networks,
    /// What this host can do.
    host: Host,
    /// What requests leave to the engine.
    defaults: ArcSwap<Defaults>,
    /// Every task that belongs to a container.
    tasks: TaskTracker,
    /// Further processes in containers.
    execs: Execs,
    /// Who is watched.
    samplers: Samplers,
    /// Held by the one clean-up there may be.
    pruning: tokio::sync::Mutex<()>,
}

impl Deref for Containers {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// How many containers there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Altogether.
    pub all: i64,
    /// Of those, running or waiting for their restart policy.
    pub running: i64,
    /// Frozen.
    pub paused: i64,
    /// Not running.
    pub stopped: i64,
}

/// What the containers work with.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Directory of what persists.
    pub data_root: &'a Path,
    /// Directory of what lasts until the next boot.
    pub exec_root: &'a Path,
    /// Where is told what happens.
    pub events: Arc<Events>,
    /// Forks supervisors.
    pub spawner: Spawner,
    /// Where containers get their files from.
    pub images: Arc<ImageStore>,
    /// Where their data is that outlives them.
    pub volumes: Volumes,
    /// What containers are connected by.
    pub networks: Networks,
    /// What this host can do.
    pub host: Host,
    /// What requests leave to the engine.
    pub defaults: Defaults,
}

impl Containers {
    /// Whether containers have user namespaces, unless they say otherwise.
    pub fn has_remap(&self) -> bool {
        self.defaults.load().remap.is_some()
    }

    /// A user namespace with the ids of containers that do not say otherwise, if they have ids of their own.
    pub fn user_namespace(&self) -> Option<Arc<UserNamespace>> {
        let defaults = self.defaults.load();
        defaults.remap.as_ref().map(|remap| Arc::clone(&remap.namespace))
    }

    /// Reads the containers and takes over those that run.
    ///
    /// # Errors
    /// Internal, if the directories can't be read.
    pub async fn open(parts: Parts<'_>) -> Result<Self> {
        let containers = Self(Arc::new(Shared {
            index: Arc::default(),
            store: Store::open(parts.data_root, parts.exec_root)?
                .with_open_roots(parts.defaults.remap.is_some()),
            events: parts.events,
            spawner: parts.spawner,
            images: parts.images,
            volumes: parts.volumes,
            networks: parts.networks,
            host: parts.host,
            defaults: ArcSwap::from_pointee(parts.defaults),
            tasks: TaskTracker::new(),
            execs: Execs::default(),
            samplers: Samplers::default(),
            pruning: tokio::sync::Mutex::default(),
        }));
        containers.restore().await?;
        Ok(containers)
    }

    /// Changes what requests leave to the engine, for all that come from now on. The ids of containers stay.
    pub fn set_defaults(&self, defaults: Defaults) {
        let remap = self.defaults.load().remap.clone();
        self.defaults.store(Arc::new(Defaults { remap, ..defaults }));
    }

    /// The container meant by a full id, a name, or a unique beginning of an id.
    ///
    /// # Errors
    /// Not found; invalid if several ids begin so.
    pub fn find(&self, text: &str) -> Result<Arc<Container>> {
        self.index.find(text)
    }

    /// All containers, newest first.
    pub fn newest_first(&self) -> Vec<Arc<Container>> {
        let mut all = self.index.all();
        all.sort_by(|a, b| {
            b.identity
                .created
                .cmp(&a.identity.created)
                .then_with(|| a.id().cmp(b.id()))
        });
        all
    }

    /// How many there are, and in which states.
    pub fn count(&self) -> Counts {
        let mut counts = Counts::default();
        for container in self.index.all() {
            counts.all += 1;
            match container.now().state.phase {
                Phase::Idle => counts.stopped += 1,
                Phase::Paused => counts.paused += 1,
                Phase::Running | Phase::Restarting => counts.running += 1,
            }
        }
        counts
    }

    /// The containers made from the image of this id, for those who want to remove it.
    pub fn made_from(&self, image: &str) -> Vec<Arc<Container>> {
        self.index
            .all()
            .into_iter()
            .filter(|container| container.identity.image == image)
            .collect()
    }

    /// The ids of containers whose image is lost, and the ids of these images.
    pub fn without_image(&self) -> Vec<(String, String)> {
        let all = self.index.all().into_iter();
        all.filter(|container| container.image.is_none())
            .map(|container| (container.id().to_owned(), container.identity.image.clone()))
            .collect()
    }

    /// Tells that something happened to a container.
    fn publish(&self, container: &Container, action: &str, extra: &[(&str, String)]) {
        let config = container.config();
        let mut attributes: Attributes = config.labels.clone().unwrap_or_default();
        attributes.insert("image".to_owned(), config.image.clone());
        attributes.insert("name".to_owned(), container.now().name.clone());
        for (key, value) in extra {
            attributes.insert((*key).to_owned(), value.clone());
        }
        self.events
            .publish(EventMessageType::Container, action, container.id(), attributes);
    }

    /// Writes a container's file as it is now.
    async fn save(&self, container: &Arc<Container>, sync: Sync) -> Result<()> {
        let _one_at_a_time = container.saving.lock().await;
        let (this, container) = (self.clone(), Arc::clone(container));
        blocking(move || this.store.save(&container.record(), sync)).await
    }

    /// Writes a container's file where a failure can't be told to anyone.
    async fn save_or_warn(&self, container: &Arc<Container>) {
        if let Err(error) = self.save(container, Sync::No).await {
            tracing::error!(container = container.id(), %error, "the state of a container could not be written");
        }
    }
}

/// Runs work that blocks where it holds up nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal("a piece of work was broken off").caused_by(error)),
    }
}
