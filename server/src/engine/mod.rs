//! The engine: its objects and what they share. It knows the operations of the API, and nothing of HTTP.

pub mod containers;
pub mod events;
pub mod hello;
pub mod host;
pub mod images;
pub mod networks;
pub mod roots;
pub mod time;

use std::{ops::Deref, sync::Arc};

use arc_swap::ArcSwap;
use berth_runtime::{Result, supervisor::Spawner};
use jiff::Timestamp;

use crate::config::Config;
use events::{Attributes, EventMessageType, Events};
use host::HostFacts;
use images::Images;
use networks::Networks;
use roots::Roots;

/// The engine, as everything that works with it holds it: clones are cheap and are the same engine.
#[derive(Clone, Debug)]
pub struct Engine(Arc<State>);

/// What there is once in an engine. Each part guards its own changes; no lock is held across I/O or an await.
#[derive(Debug)]
pub struct State {
    /// The configuration in force; replaced as a whole by a reload.
    pub config: ArcSwap<Config>,
    /// Directories on the host, held against any other engine.
    pub roots: Roots,
    /// Id of this engine; stays with the data root.
    pub id: String,
    /// What happened.
    pub events: Arc<Events>,
    /// Forks supervisors.
    pub spawner: Spawner,
    /// What the host is and can do.
    pub host: HostFacts,
    /// Images.
    pub images: Images,
    /// Networks.
    pub networks: Networks,
    /// When the engine was opened.
    pub started: Timestamp,
}

impl Deref for Engine {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl Engine {
    /// Opens the engine on `roots`: reads what is there and takes over what still runs.
    ///
    /// # Errors
    /// Internal, if the host or the data root cannot be read.
    pub async fn open(config: Config, roots: Roots, spawner: Spawner) -> Result<Self> {
        let id = roots.engine_id()?;
        let networks = Networks::open(&roots)?;
        let events: Arc<Events> = Arc::default();
        let images = Images::open(&roots.data().join("images"), Arc::clone(&events))?;
        Ok(Self(Arc::new(State {
            config: ArcSwap::from_pointee(config),
            roots,
            id,
            events,
            spawner,
            host: HostFacts::read(),
            images,
            networks,
            started: Timestamp::now(),
        })))
    }

    /// Puts what may change while the engine runs into force: labels and how much is logged. Everything else of
    /// `new` is left alone until the next start.
    pub fn reload(&self, new: &Config) {
        let mut config = Config::clone(&self.config.load());
        config.labels.clone_from(&new.labels);
        config.log_level = new.log_level;
        let labels = serde_json::to_string(&config.labels).unwrap_or_default();
        let attributes = Attributes::from([
            ("debug".to_owned(), config.debug().to_string()),
            ("labels".to_owned(), labels),
            ("name".to_owned(), self.host.name()),
        ]);
        self.config.store(Arc::new(config));
        self.events
            .publish(EventMessageType::Daemon, "reload", &self.id, attributes);
    }
}
