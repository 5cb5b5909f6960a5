//! An image of a container.

use std::sync::Arc;

use berth_api::{ApiVersion, models, read};
use berth_runtime::{
    Error, Kind, Result,
    error::Context,
    failpoint::hit,
    image::{LayerFrom, RunConfig},
};

use super::{Containers, blocking, model::Container, pause, state::Phase, validate};
use crate::engine::images::{Images, changes, commit};

/// What an image of a container is to be like (API operation `ImageCommit`).
#[derive(Clone, Debug, Default)]
pub struct CommitRequest {
    /// Its name, perhaps with a tag; empty for an image without a name.
    pub repository: String,
    /// Its tag, if that is not in `repository`.
    pub tag: String,
    /// Who made it.
    pub author: String,
    /// A remark for its history.
    pub comment: String,
    /// Freeze the container while its files are read.
    pub pause: bool,
    /// Dockerfile instructions that change how it is run.
    pub changes: Vec<String>,
    /// What is said of how it is run; the container says the rest.
    pub config: models::ContainerConfig,
}

impl Containers {
    /// Makes an image of a container's image and what the container has changed in its files. Gives its id.
    ///
    /// # Errors
    /// Invalid for a malformed name or instruction; conflict if the container is dead or being removed.
    pub async fn commit(
        &self,
        images: &Images,
        container: &Arc<Container>,
        request: CommitRequest,
    ) -> Result<String> {
        may_read(container, "commit")?;
        commit::names(&request.repository, &request.tag)?;
        let (this, images, container) = (self.clone(), images.clone(), Arc::clone(container));
        // Whoever asked may leave; the container is let go on all the same.
        let task = self.tasks.spawn(async move {
            let paused = request.pause && this.pause_for_a_while(&container).await?;
            let _ = hit("commit.paused");
            let (reader, source) = (this.clone(), Arc::clone(&container));
            let committed = blocking(move || reader.commit_blocking(&images, &source, &request)).await;
            let _ = hit("commit.made");
            if paused {
                this.unpause_if_paused(&container).await;
                this.forget_pause(&container);
            }
            committed
        });
        task.await
            .unwrap_or_else(|error| Err(Error::internal("a commit was broken off").caused_by(error)))
    }

    /// Freezes the container if it runs and nobody has done so, in such a way that an engine that is killed meanwhile lets
    /// it go on when it starts again. Gives whether it did.
    async fn pause_for_a_while(&self, container: &Arc<Container>) -> Result<bool> {
        if !container.now().state.has_process() {
            return Ok(false);
        }
        pause::note(&self.store.bundle(container.id()))?;
        let paused = self.pause_if_running(container).await;
        if !matches!(paused, Ok(true)) {
            self.forget_pause(container);
        }
        paused
    }

    fn forget_pause(&self, container: &Container) {
        if let Err(error) = pause::forget(&self.store.bundle(container.id())) {
            tracing::warn!(container = container.id(), %error, "the note of a pause stays");
        }
    }

    /// Freezes the container if it runs and nobody has done so. Gives whether it did.
    async fn pause_if_running(&self, container: &Arc<Container>) -> Result<bool> {
        match self.pause(container).await {
            Ok(()) => Ok(true),
            // It does not run, it ends at this moment, or it is paused already.
            Err(error) if error.kind() == Kind::Conflict => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn unpause_if_paused(&self, container: &Arc<Container>) {
        if let Err(error) = self.unpause(container).await
            && container.now().state.phase == Phase::Paused
        {
            tracing::error!(container = container.id(), %error, "a container stays paused after a commit");
        }
    }

    fn commit_blocking(
        &self,
        images: &Images,
        container: &Container,
        request: &CommitRequest,
    ) -> Result<String> {
        let base = container.image.as_ref().map(|hold| hold.image());
        let own = run_config(container.config())?;
        let mut config = match request.config == models::ContainerConfig::default() {
            true => own.clone(),
            false => run_config(&request.config)?,
        };
        changes::apply(&mut config, &request.changes)?;
        let names = commit::names(&request.repository, &request.tag)?;
        let upper = self.store.writable_layer(container.id()).upper;
        let of = serde_json::to_value(container.config()).context(|| "cannot write down a configuration")?;
        let commit = commit::Commit {
            base: base.map(|image| &**image),
            layer: Some(LayerFrom::Upper {
                path: &upper,
                taken: false,
            }),
            config: merged(&config, &own)?,
            author: &request.author,
            comment: &request.comment,
            created_by: &container.config().cmd.as_deref().unwrap_or_default().join(" "),
            container: Some((container.id(), of)),
        };
        let image = images.commit(commit, &names)?;
        self.publish(
            container,
            "commit",
            &[
                ("comment", request.comment.clone()),
                ("imageID", image.id.to_string()),
                (
                    "imageRef",
                    names.first().map_or_else(String::new, |name| name.familiar()),
                ),
            ],
        );
        Ok(image.id.to_string())
    }
}

/// Refuses to read the files of a container that goes away.
///
/// # Errors
/// Conflict.
pub(super) fn may_read(container: &Container, action: &str) -> Result<()> {
    let details = container.now();
    let why = match (details.state.removing, details.state.dead) {
        (true, _) => "being removed",
        (false, true) => "Dead",
        (false, false) => return Ok(()),
    };
    Err(Error::conflict(format!(
        "You cannot {action} container {} which is {why}",
        container.id()
    )))
}

/// The part of a container's configuration that its image gets.
fn run_config(config: &models::ContainerConfig) -> Result<RunConfig> {
    let message = || "cannot write down a configuration";
    let value = serde_json::to_value(config).context(message)?;
    let mut config: RunConfig = serde_json::from_value(value).context(message)?;
    config.stop_signal = config.stop_signal.filter(|signal| !signal.is_empty());
    config.stop_timeout = config.stop_timeout.filter(|timeout| *timeout != 0);
    Ok(config)
}

/// `config` with what `own` says where it says nothing, as a container inherits from its image.
fn merged(config: &RunConfig, own: &RunConfig) -> Result<RunConfig> {
    let message = || "cannot merge configurations";
    let value = serde_json::to_value(config).context(message)?;
    let mut config = read::read_value(value, ApiVersion::NEWEST).context(message)?;
    let value = serde_json::to_value(own).context(message)?;
    validate::inherit(
        &mut config,
        &read::read_value(value, ApiVersion::NEWEST).context(message)?,
    );
    run_config(&config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &Option<Vec<String>>) -> Vec<&str> {
        list.iter().flatten().map(String::as_str).collect()
    }

    #[test]
    fn what_is_said_wins_and_the_rest_is_inherited() {
        let own = run_config(&models::ContainerConfig {
            user: "me".into(),
            hostname: "host".into(),
            env: Some(vec!["A=1".into(), "B=2".into()]),
            cmd: Some(vec!["own".into()]),
            entrypoint: Some(vec!["first".into()]),
            labels: Some([("l".to_owned(), "own".to_owned())].into()),
            ..Default::default()
        })
        .unwrap();
        let asked = RunConfig {
            env: Some(vec!["A=3".into()]),
            cmd: Some(vec!["new".into()]),
            ..RunConfig::default()
        };
        let config = merged(&asked, &own).unwrap();
        assert_eq!(config.user, "me");
        assert_eq!(words(&config.env), ["A=3", "B=2"]);
        assert_eq!(
            (words(&config.entrypoint), words(&config.cmd)),
            (vec!["first"], vec!["new"])
        );
        assert_eq!(config.labels.unwrap()["l"], "own");
        assert_eq!(merged(&own, &own).unwrap(), own);
    }
}
