//! Images made of an image and what was changed upon it: `ImageCommit`, and the steps of a build.

use std::sync::Arc;

use berth_runtime::{
    Error, Result,
    image::{History, Hold, Image, ImageConfig, LayerFrom, Reference, RunConfig},
};
use jiff::Timestamp;

use super::{Images, target};

/// An image to be made.
#[derive(Default)]
pub struct Commit<'a> {
    /// What it is built upon; nothing for the first image of a line.
    pub base: Option<&'a Image>,
    /// What was changed upon the base. Without changes the image has the layers of its base.
    pub layer: Option<LayerFrom<'a>>,
    /// What a container of it runs.
    pub config: RunConfig,
    /// Who made it.
    pub author: &'a str,
    /// A remark for its history.
    pub comment: &'a str,
    /// The command that made it, for its history.
    pub created_by: &'a str,
    /// The container it is made of, if it is one that lasts, and the configuration that it has or would have.
    pub container: Option<(&'a str, serde_json::Value)>,
}

impl Commit<'_> {
    /// The configuration of the image: that of its base with one more step in its history.
    pub fn image_config(&self) -> ImageConfig {
        let now = Timestamp::now().to_string();
        let mut config = ImageConfig {
            created: Some(now.clone()),
            author: self.author.to_owned(),
            comment: self.comment.to_owned(),
            docker_version: env!("CARGO_PKG_VERSION").to_owned(),
            config: self.config.clone(),
            ..self.base.map(|base| base.config.clone()).unwrap_or_default()
        };
        config.forget_origin();
        if let Some((id, container)) = &self.container {
            if !id.is_empty() {
                config.parent = self.base.map(|base| base.id.to_string()).unwrap_or_default();
                (*id).clone_into(&mut config.container);
            }
            config.container_config = Some(container.clone());
        }
        config.history.push(History {
            created: Some(now),
            created_by: self.created_by.to_owned(),
            author: self.author.to_owned(),
            comment: self.comment.to_owned(),
            empty_layer: self.layer.is_none(),
        });
        config
    }
}

impl Images {
    /// Makes an image and names it. Blocks while the changed files are read.
    ///
    /// # Errors
    /// Invalid if it would have too many layers; internal if the file system fails. Nothing stays then.
    pub fn commit(&self, commit: Commit<'_>, names: &[Reference]) -> Result<Arc<Image>> {
        let hold = self.commit_kept(commit)?;
        self.reveal(&hold, names)?;
        let id = hold.image().id;
        self.store
            .get(&id)
            .ok_or_else(|| Error::not_found(format!("No such image: {id}")))
    }

    /// Makes an image that nobody sees but who holds it. Blocks while the changed files are read.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn commit_kept(&self, commit: Commit<'_>) -> Result<Hold> {
        let config = commit.image_config();
        self.store.compose_kept(commit.base, commit.layer, config)
    }
}

/// The name that a commit asks for, if it asks for one.
///
/// # Errors
/// Invalid if it is malformed.
pub fn names(repository: &str, tag: &str) -> Result<Vec<Reference>> {
    match repository {
        "" => Ok(Vec::new()),
        repository => Ok(vec![target(repository, tag)?]),
    }
}
