//! Building images from Dockerfiles (API operation `ImageBuild`), without a session.
//!
//! | module | what it is |
//! |---|---|
//! | [`options`], `context`, `fetch`, `git` | what is asked for, and where files come from |
//! | [`dockerfile`], [`expand`], [`glob`], [`ignore`] | the language, as pure code |
//! | `job`, `state`, `base` | a build, a stage of it, and what it begins with |
//! | `metadata`, `copy`, `owner`, `run`, `mounts` | the instructions |
//! | `cache` | what was built before |
//! | [`progress`] | what the client is told |
//!
//! Each step leads to an image of the image store that nobody sees but those who hold it: the build, and the cache. The
//! last one is then shown and named. A build that is dropped leaves nothing but what the cache keeps.

mod base;
mod cache;
mod context;
mod copy;
pub mod dockerfile;
pub mod expand;
mod fetch;
mod git;
pub mod glob;
pub mod ignore;
mod job;
mod metadata;
mod mounts;
pub mod options;
mod owner;
pub mod progress;
mod run;
mod state;

use std::sync::Arc;

use berth_api::{RawBody, models::BuildInfo};
use berth_runtime::{Error, Kind, Result};
use tokio::sync::mpsc::Receiver;
use tokio_util::io::SyncIoBridge;

pub use self::cache::Cache;
use self::{
    context::Context,
    dockerfile::Dockerfile,
    job::{Job, blocking},
    options::Options,
    progress::{Failed, Out, failure},
};
use super::{Engine, containers::Removal};

impl Engine {
    /// Builds an image. What can be seen to be wrong before anything is carried out is an error; the rest is told. The
    /// build is cancelled when nobody listens any more.
    ///
    /// # Errors
    /// Invalid for a context or a Dockerfile that is wrong.
    pub async fn build(&self, options: Options, body: RawBody) -> Result<Receiver<BuildInfo>> {
        let context = self.build_context(&options, body).await;
        // What is too large to be a context is no context.
        let (context, dockerfile) = context.map_err(|error| match error.kind() {
            Kind::TooLarge => Error::invalid(error.message().to_owned()),
            _ => error,
        })?;
        let quiet = options.quiet;
        let job = Job::new(self.clone(), options, context, &dockerfile)?;
        let (out, records) = Out::new();
        let engine = self.clone();
        tokio::spawn(async move {
            let working = async {
                let result = if quiet {
                    quietly(job, &out).await
                } else {
                    job.run(&out).await.map(drop)
                };
                if let Err(failed) = result {
                    let _client_left = out.record(failure(&failed)).await;
                }
            };
            tokio::select! {
                () = working => {}
                () = out.closed() => tracing::debug!("the client of a build has left"),
            }
            // Steps that led nowhere are let go of.
            let store = Arc::clone(engine.images.store());
            if let Err(error) = blocking(move || store.purge()).await {
                tracing::warn!(%error, "what a build has left could not be removed");
            }
        });
        Ok(records)
    }

    /// Removes the containers of builds that an engine that died has left.
    pub async fn clear_builds(&self) {
        for id in self.build_cache.left() {
            if let Ok(container) = self.containers.find(&id) {
                let removal = Removal {
                    force: true,
                    volumes: true,
                };
                if let Err(error) = self.containers.remove(&container, removal).await {
                    tracing::warn!(container = id, %error, "a container of a build stays");
                    continue;
                }
            }
            self.build_cache.forget(&id);
        }
    }

    async fn build_context(&self, options: &Options, body: RawBody) -> Result<(Context, Dockerfile)> {
        if !options.remote.is_empty() {
            return fetch::context(self, &options.remote, &options.dockerfile).await;
        }
        let (store, name) = (Arc::clone(self.images.store()), options.dockerfile.clone());
        let archive = SyncIoBridge::new(body.into_reader());
        blocking(move || {
            let context = Context::of_archive(&store, archive).map_err(|error| match error.kind() {
                // The archive is at fault, whatever the limit that it breaks.
                Kind::TooLarge => Error::invalid(error.to_string()),
                _ => error,
            })?;
            let dockerfile = context.dockerfile(&name)?;
            Ok((context, dockerfile))
        })
        .await
    }
}

/// Tells the id alone, or after a failure everything.
async fn quietly(job: Arc<Job>, out: &Out) -> Result<(), Failed> {
    let (held, mut records) = Out::new();
    let collect = async {
        let mut all = Vec::new();
        while let Some(record) = records.recv().await {
            all.push(record);
        }
        all
    };
    let build = async move {
        let result = job.run(&held).await;
        drop(held);
        result
    };
    let (result, all) = tokio::join!(build, collect);
    match result {
        Ok(id) => Ok(out.text(format!("{id}\n")).await?),
        Err(failed) => {
            for record in all {
                out.record(record).await?;
            }
            Err(failed)
        }
    }
}

/// Only `1` and `2` are builders, and both are this one.
///
/// # Errors
/// Invalid for a session, which there is none of.
pub fn check_session(session: &str) -> Result<()> {
    match session {
        "" => Ok(()),
        _ => Err(Error::invalid(
            "no active session: this engine builds without one; send secrets with the request (X-Build-Secrets)",
        )),
    }
}
