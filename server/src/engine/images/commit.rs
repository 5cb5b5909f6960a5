//! Images made of an image and what was changed in a container of it: `ImageCommit`, and the steps of a build.

use std::{path::Path, sync::Arc};

use berth_runtime::{
    Error, Result,
    image::{self, History, Image, ImageConfig, Loaded, Reference, RunConfig},
};
use jiff::Timestamp;

use super::{Images, target};

/// An image to be made.
#[derive(Clone, Debug, Default)]
pub struct Commit<'a> {
    /// What it is built upon; nothing for the first image of a line.
    pub base: Option<&'a Image>,
    /// The upper directory of an overlay upon the base, perhaps in use. If it is empty or there is none, the image has
    /// the layers of its base.
    pub upper: Option<&'a Path>,
    /// What a container of it runs.
    pub config: RunConfig,
    /// Who made it.
    pub author: &'a str,
    /// A remark for its history.
    pub comment: &'a str,
    /// The command that made it, for its history.
    pub created_by: &'a str,
    /// The container it is made of and its configuration, if it is made of one.
    pub container: Option<(&'a str, serde_json::Value)>,
    /// The names it gets.
    pub names: &'a [Reference],
}

impl Images {
    /// Makes an image. Blocks while the changed files are read.
    ///
    /// # Errors
    /// Invalid if it would have too many layers; internal if the file system fails. Nothing stays then.
    pub fn commit(&self, commit: &Commit<'_>) -> Result<Arc<Image>> {
        let now = Timestamp::now().to_string();
        let base = commit.base;
        let upper = commit.upper.map(image::UpperDir::open).transpose()?;
        let upper = match upper {
            Some(upper) if !upper.is_empty()? => Some(upper),
            Some(_) | None => None,
        };
        let mut config = base.map(|base| base.config.clone()).unwrap_or_default();
        config = ImageConfig {
            created: Some(now.clone()),
            author: commit.author.to_owned(),
            comment: commit.comment.to_owned(),
            docker_version: env!("CARGO_PKG_VERSION").to_owned(),
            config: commit.config.clone(),
            ..config
        };
        config.forget_origin();
        if let Some((id, container)) = &commit.container {
            config.parent = base.map(|base| base.id.to_string()).unwrap_or_default();
            (*id).clone_into(&mut config.container);
            config.container_config = Some(container.clone());
        }
        config.history.push(History {
            created: Some(now),
            created_by: commit.created_by.to_owned(),
            author: commit.author.to_owned(),
            comment: commit.comment.to_owned(),
            empty_layer: upper.is_none(),
        });
        let loaded = match upper {
            None => self.store.compose(base, None, config, commit.names)?,
            Some(upper) => {
                let mut write = |out: &mut dyn std::io::Write| upper.pack(out);
                self.store.compose(base, Some(&mut write), config, commit.names)?
            }
        };
        self.made(&loaded)
    }

    fn made(&self, loaded: &Loaded) -> Result<Arc<Image>> {
        let image = self
            .store
            .get(&loaded.id)
            .ok_or_else(|| Error::not_found(format!("No such image: {}", loaded.id)))?;
        self.publish("create", &image, &image.id.to_string());
        for name in &loaded.names {
            self.publish("tag", &image, &name.familiar());
        }
        Ok(image)
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
