//! The engine: its objects and what they share. It knows the operations of the API, and nothing of HTTP.

pub mod build;
pub mod check;
pub mod containers;
pub mod download;
pub mod events;
pub mod hello;
pub mod host;
pub mod images;
pub mod networks;
pub mod roots;
pub mod shared;
pub mod storage;
pub mod time;
pub mod userns;
pub mod volumes;

use std::{ops::Deref, sync::Arc};

use arc_swap::ArcSwap;
use berth_api::models;
use berth_runtime::{Result, cgroup::Cgroup, error::Context, failpoint::hit, supervisor::Spawner};
use jiff::Timestamp;

use crate::config::Config;
use containers::{Containers, validate::Defaults};
use events::{Attributes, EventMessageType, Events};
use host::HostFacts;
use images::Images;
use networks::Networks;
use roots::Roots;
use shared::OneAtATime;
use userns::Remap;
use volumes::Volumes;

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
    /// Containers.
    pub containers: Containers,
    /// What the host is and can do.
    pub host: HostFacts,
    /// Images.
    pub images: Images,
    /// What was built before.
    pub build_cache: build::Cache,
    /// Networks.
    pub networks: Networks,
    /// Volumes.
    pub volumes: Volumes,
    /// The volumes with their sizes, being measured.
    pub volume_usage: OneAtATime<Vec<models::Volume>>,
    /// The containers with their sizes, being measured.
    pub disk_usage: OneAtATime<Vec<models::ContainerSummary>>,
    /// The data root, being measured.
    pub storage: OneAtATime<Vec<models::StorageUsage>>,
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
        let failed = || "cannot open the engine";
        let id = roots.engine_id()?;
        let remap = match &config.containers.userns_remap {
            Some(setting) => Remap::open(setting, &roots.tmp())?,
            None => None,
        };
        let defaults = container_defaults(&config, remap);
        let events = Events::open(roots.run())?;
        hit("open.networks").context(failed)?;
        let networks = Networks::open(&config, &roots, Arc::clone(&events))?;
        hit("open.images").context(failed)?;
        let images = Images::open(&roots.images(), Arc::clone(&events), registries(&config))?;
        hello::install(images.store(), &roots)?;
        let build_cache = build::Cache::open(&roots.build(), Arc::clone(images.store()))?;
        hit("open.volumes").context(failed)?;
        let volumes = Volumes::open(
            roots.volumes(),
            config.plugin_dirs.clone(),
            defaults.owner(),
            Arc::clone(&events),
        )?;
        hit("open.containers").context(failed)?;
        let containers = Containers::open(containers::Parts {
            data_root: roots.data(),
            exec_root: roots.run(),
            events: Arc::clone(&events),
            spawner,
            images: Arc::clone(images.store()),
            volumes: volumes.clone(),
            networks: networks.clone(),
            host: containers::validate::Host::probe(),
            defaults,
        })
        .await?;
        let engine = Self(Arc::new(State {
            config: ArcSwap::from_pointee(config),
            roots,
            id,
            events,
            containers,
            host: HostFacts::read(),
            images,
            build_cache,
            networks,
            volumes,
            volume_usage: OneAtATime::default(),
            disk_usage: OneAtATime::default(),
            storage: OneAtATime::default(),
            started: Timestamp::now(),
        }));
        hit("open.builds").context(failed)?;
        engine.clear_builds().await;
        Ok(engine)
    }

    /// Takes away what only a running engine needs. Containers that run keep all that is theirs.
    pub async fn close(&self) {
        let _ = hit("close.networks");
        self.networks.close().await;
        let _ = hit("close.cgroup");
        let config = self.config.load();
        if config.cgroup_parent == format!("/{}", config.instance)
            && let Err(error) = Cgroup::remove_if_empty(&config.cgroup_parent)
        {
            tracing::warn!(%error, "the parent of the containers' cgroups stays");
        }
    }

    /// Puts what may change while the engine runs into force: labels, how much is logged, how registries are spoken to,
    /// how long an end may take, the runtimes there are, and what containers get that do not say otherwise. Everything
    /// else of `new` is left alone until the next start.
    pub fn reload(&self, new: &Config) {
        let mut config = Config::clone(&self.config.load());
        config.labels.clone_from(&new.labels);
        config.log_level = new.log_level;
        config.shutdown_timeout = new.shutdown_timeout;
        config.runtimes.clone_from(&new.runtimes);
        config.default_runtime.clone_from(&new.default_runtime);
        config.containers.shm_size = new.containers.shm_size;
        config.cdi_spec_dirs.clone_from(&new.cdi_spec_dirs);
        if config.registries != new.registries {
            config.registries.clone_from(&new.registries);
            self.images.set_registries(registries(&config));
        }
        self.containers.set_defaults(container_defaults(&config, None));
        let mut attributes: Attributes = reloadable(&config)
            .map(|(key, value)| (key.to_owned(), value))
            .into();
        attributes.insert("name".to_owned(), self.host.name());
        self.config.store(Arc::new(config));
        self.events
            .publish(EventMessageType::Daemon, "reload", &self.id, attributes);
    }
}

/// What may change while the engine runs, as the event of a reload has it.
fn reloadable(config: &Config) -> [(&'static str, String); 14] {
    let list = |texts: &[String]| serde_json::to_string(texts).unwrap_or_default();
    let runtimes = config.runtimes.iter().map(|(name, runtime)| {
        let path = runtime.path.display();
        format!("{name}:{{{path} {}}}", serde_json::json!(runtime.arguments))
    });
    let registries = &config.registries;
    [
        ("allow-nondistributable-artifacts", list(&[])),
        ("debug", config.debug().to_string()),
        ("default-ipc-mode", "private".to_owned()),
        ("default-runtime", config.default_runtime.clone()),
        ("default-shm-size", config.containers.shm_size.to_string()),
        ("insecure-registries", list(&registries.insecure)),
        ("labels", list(&config.labels)),
        ("live-restore", "true".to_owned()),
        ("max-concurrent-downloads", registries.downloads.to_string()),
        ("max-concurrent-uploads", registries.uploads.to_string()),
        ("max-download-attempts", registries.attempts.to_string()),
        ("registry-mirrors", list(&registries.mirrors)),
        ("runtimes", runtimes.collect::<Vec<_>>().join(" ")),
        ("shutdown-timeout", config.shutdown_timeout.as_secs().to_string()),
    ]
}

/// What the configuration says about registries.
fn registries(config: &Config) -> berth_runtime::registry::Settings {
    let registries = &config.registries;
    berth_runtime::registry::Settings {
        insecure: registries.insecure.clone(),
        mirrors: registries.mirrors.clone(),
        certificates: registries.certificates.clone(),
        patience: registries.timeout,
        attempts: registries.attempts,
        downloads: registries.downloads,
        uploads: registries.uploads,
    }
}

/// What the configuration says about containers that do not say it themselves.
fn container_defaults(config: &Config, remap: Option<Remap>) -> Defaults {
    let containers = &config.containers;
    let ulimits = containers.ulimits.iter().map(|limit| models::Ulimit {
        name: limit.name.clone(),
        soft: limit.soft,
        hard: limit.hard,
    });
    Defaults {
        data_root: config.data_root.clone(),
        log_config: models::HostConfigLogConfig {
            r#type: containers.log_driver.clone(),
            config: Some(containers.log_opts.clone()),
        },
        ulimits: ulimits.collect(),
        shm_size: containers.shm_size,
        cgroupns_mode: containers
            .cgroupns_mode
            .as_deref()
            .and_then(|mode| mode.parse().ok()),
        no_new_privileges: containers.no_new_privileges,
        init: containers.init,
        remap,
        cgroup_parent: config.cgroup_parent.clone(),
        runtimes: config.runtimes.clone(),
        default_runtime: config.default_runtime.clone(),
        bridge_is_loopback: false,
        cdi_spec_dirs: config.cdi_spec_dirs.clone(),
    }
}
