//! A container as the engine holds it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::{ArcSwap, Guard};
use berth_api::models::{ContainerConfig, EndpointSettings, Health, HostConfig, PortMap};
use berth_runtime::{Result, image::Hold};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    links::LegacyLink,
    names,
    run::Current,
    state::State,
    validate::{LogSettings, MountPoint, SecurityOptions},
};

/// What never changes in a container's life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// 64 hexadecimal digits.
    pub id: Arc<str>,
    /// When it was made.
    pub created: Timestamp,
    /// Id of its image, with `sha256:`; empty if it has none.
    #[serde(default)]
    pub image: String,
    /// What runs in it, merged with the image's configuration.
    pub config: Arc<ContainerConfig>,
    /// How its output is recorded.
    pub log: LogSettings,
    /// What its `SecurityOpt` says.
    pub security: SecurityOptions,
}

/// What changes, as it is at one moment. Readers get it without waiting and keep it as long as they like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Details {
    /// Its name, without slash.
    pub name: String,
    /// How it is bound to the host.
    pub host_config: Arc<HostConfig>,
    /// Its networks and what was asked for there, by network name.
    #[serde(default)]
    pub networks: Arc<BTreeMap<String, EndpointSettings>>,
    /// Its ports as they are exposed and published while it runs.
    #[serde(default)]
    pub ports: Arc<PortMap>,
    /// Its legacy links to others of the default network.
    #[serde(default)]
    pub links: Arc<Vec<LegacyLink>>,
    /// Its mounts, but those of `HostConfig.Tmpfs`.
    #[serde(default)]
    pub mounts: Arc<Vec<MountPoint>>,
    /// Where it is in its life.
    #[serde(default)]
    pub state: State,
    /// Restarts by the policy since the latest start by hand.
    #[serde(default)]
    pub restart_count: i64,
    /// Whether it was last stopped by hand, which `unless-stopped` remembers over a restart of the engine.
    #[serde(default)]
    pub stopped_by_hand: bool,
    /// What the health check has found out; meaningless without one.
    #[serde(default)]
    pub health: Arc<Health>,
    /// Whether it was ever prepared for a start; its files have paths from then on.
    #[serde(default)]
    pub prepared: bool,
}

impl Details {
    /// Those of a container that was just made.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            host_config: Arc::default(),
            networks: Arc::default(),
            ports: Arc::default(),
            links: Arc::default(),
            mounts: Arc::default(),
            state: State::default(),
            restart_count: 0,
            stopped_by_hand: false,
            health: Arc::default(),
            prepared: false,
        }
    }
}

/// A container's file on disk: everything that a restarted engine needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What never changes.
    pub identity: Identity,
    /// The rest.
    pub details: Details,
}

/// What those who wait for a container are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// How many runs have ended.
    pub ends: u64,
    /// How many removals have failed.
    pub failed_removals: u64,
    /// Exit code of the latest run or failed start.
    pub exit_code: i64,
    /// Why the container could not be started or removed; empty if it could.
    pub error: String,
    /// Whether it is gone.
    pub removed: bool,
}

/// A container.
///
/// Its [`Details`] are published as one value; [`Container::change`] replaces it, in memory and in no time. Operations
/// that take several steps (start, pause, rename …) hold [`Container::operation`]; what may interrupt them (a
/// signal, the end of the process) does not wait for it.
#[derive(Debug)]
pub struct Container {
    /// What never changes.
    pub identity: Identity,
    /// Keeps the files of its image; none if it has no image or that is lost.
    pub image: Option<Hold>,
    /// The program: first word of entrypoint and command.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    details: ArcSwap<Details>,
    changing: Mutex<()>,
    /// Held by operations of several steps.
    pub operation: tokio::sync::Mutex<()>,
    /// Held shared while a process is added to it, and alone while it is frozen: nothing may join what is frozen.
    pub joining: tokio::sync::RwLock<()>,
    /// Held while the file on disk is replaced, so that the latest details win.
    pub saving: tokio::sync::Mutex<()>,
    /// Its present run, and who waits to be attached to the next.
    pub current: Mutex<Current>,
    /// Ends and removal.
    pub progress: watch::Sender<Progress>,
}

impl Container {
    /// The container of a record, with a hold on its image.
    pub fn new(record: Record, image: Option<Hold>) -> Arc<Self> {
        let Record { identity, details } = record;
        let (path, args) = command_of(&identity.config);
        let progress = Progress {
            exit_code: details.state.exit_code,
            ..Progress::default()
        };
        Arc::new(Self {
            identity,
            image,
            path,
            args,
            details: ArcSwap::from_pointee(details),
            changing: Mutex::default(),
            operation: tokio::sync::Mutex::default(),
            joining: tokio::sync::RwLock::default(),
            saving: tokio::sync::Mutex::default(),
            current: Mutex::default(),
            progress: watch::Sender::new(progress),
        })
    }

    /// The full id.
    pub fn id(&self) -> &str {
        &self.identity.id
    }

    /// The first twelve digits of the id.
    pub fn short_id(&self) -> &str {
        names::short_id(&self.identity.id)
    }

    /// Its configuration.
    pub fn config(&self) -> &ContainerConfig {
        &self.identity.config
    }

    /// The details as they are now, for a short look.
    pub fn now(&self) -> Guard<Arc<Details>> {
        self.details.load()
    }

    /// The details as they are now, to keep.
    pub fn details(&self) -> Arc<Details> {
        self.details.load_full()
    }

    /// Publishes changed details.
    pub fn change<R>(&self, change: impl FnOnce(&mut Details) -> R) -> R {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut details = Details::clone(&self.details.load());
        let result = change(&mut details);
        self.details.store(Arc::new(details));
        result
    }

    /// Publishes changed details unless `change` refuses.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn try_change<R>(&self, change: impl FnOnce(&mut Details) -> Result<R>) -> Result<R> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut details = Details::clone(&self.details.load());
        let result = change(&mut details)?;
        self.details.store(Arc::new(details));
        Ok(result)
    }

    /// The present run and the waiting clients. Held for a look only.
    pub fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record to be written.
    pub fn record(&self) -> Record {
        Record {
            identity: self.identity.clone(),
            details: Details::clone(&self.details.load()),
        }
    }

    /// Tells those who wait that a run has ended.
    pub fn tell_end(&self, exit_code: i64) {
        self.progress.send_modify(|progress| {
            progress.ends += 1;
            progress.exit_code = exit_code;
            progress.error.clear();
        });
    }

    /// Forgets, for those who wait, why an earlier start failed.
    pub fn tell_started(&self) {
        self.progress.send_if_modified(|progress| {
            progress.error.clear();
            false
        });
    }

    /// Remembers, for those who wait, why a start failed. It ends no wait: only a run or a removal does.
    pub fn tell_failed_start(&self, exit_code: i64, error: &str) {
        self.progress.send_modify(|progress| {
            progress.exit_code = exit_code;
            error.clone_into(&mut progress.error);
        });
    }

    /// Tells those who wait why a removal failed.
    pub fn tell_failed_removal(&self, error: &str) {
        self.progress.send_modify(|progress| {
            progress.failed_removals += 1;
            error.clone_into(&mut progress.error);
        });
    }

    /// Tells those who wait that it is gone.
    pub fn tell_removed(&self) {
        self.progress.send_modify(|progress| {
            progress.error.clear();
            progress.removed = true;
        });
    }
}

/// The program and its arguments: entrypoint and command as one list.
fn command_of(config: &ContainerConfig) -> (String, Vec<String>) {
    let mut words = config.entrypoint.iter().chain(&config.cmd).flatten().cloned();
    let path = words.next().unwrap_or_default();
    (path, words.collect())
}

/// The identity of a container that was never made, for tests.
#[cfg(test)]
pub fn test_identity(id: &str, config: ContainerConfig) -> Identity {
    use super::validate::{LogDriver, log::LogAttributes};
    Identity {
        id: id.into(),
        created: Timestamp::UNIX_EPOCH,
        image: "sha256:11".into(),
        config: Arc::new(config),
        log: LogSettings {
            driver: LogDriver::None,
            max_size: 0,
            max_file: 1,
            compress: false,
            attributes: LogAttributes::default(),
            remote: None,
        },
        security: SecurityOptions::default(),
    }
}
