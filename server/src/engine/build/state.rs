//! A stage while it is built: the image so far and the configuration of the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use berth_runtime::image::{Hold, ImageStore, LayerFrom, RunConfig};

use super::{dockerfile::PROXIES, expand::Variables};
use crate::engine::images::commit::Commit;

/// The search path of images that have none of their own.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A stage while it is built.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The image so far; none at the beginning of an empty one.
    pub image: Option<Arc<Hold>>,
    /// The configuration so far.
    pub config: RunConfig,
    /// Who made it.
    pub author: String,
    /// Arguments that were declared, with their values if they have any.
    pub arguments: BTreeMap<String, Option<String>>,
    /// Whether `CMD` was set in this stage, so that `ENTRYPOINT` keeps it.
    pub command_set: bool,
    /// Key of the latest step in the cache.
    pub key: String,
}

impl State {
    /// The beginning of a stage on an image.
    pub fn on(image: Option<Arc<Hold>>) -> Self {
        let (mut config, author) = image.as_ref().map_or_else(Default::default, |hold| {
            let config = &hold.image().config;
            (config.config.clone(), config.author.clone())
        });
        let env = config.env.get_or_insert_default();
        if !env.iter().any(|entry| entry.starts_with("PATH=")) {
            env.push(format!("PATH={DEFAULT_PATH}"));
        }
        Self {
            image,
            config,
            author,
            ..Self::default()
        }
    }

    /// The id of the image so far; empty if there is none.
    pub fn id(&self) -> String {
        self.image
            .as_ref()
            .map(|hold| hold.image().id.to_string())
            .unwrap_or_default()
    }

    /// The first twelve digits of the id.
    pub fn short_id(&self) -> String {
        self.id().trim_start_matches("sha256:").chars().take(12).collect()
    }

    /// The directories overlayfs stacks for the image so far.
    pub fn lowers(&self, store: &ImageStore) -> Vec<PathBuf> {
        self.image
            .as_ref()
            .map(|hold| store.lower_dirs(hold.image()))
            .unwrap_or_default()
    }

    /// What variables in instructions stand for: the environment, and arguments that it does not have.
    pub fn variables(&self) -> Variables {
        let mut variables: Variables = BTreeMap::new();
        for (name, value) in &self.arguments {
            if let Some(value) = value {
                variables.insert(name.clone(), value.clone());
            }
        }
        for entry in self.config.env.iter().flatten() {
            if let Some((name, value)) = entry.split_once('=') {
                variables.insert(name.to_owned(), value.to_owned());
            }
        }
        variables
    }

    /// The arguments that a command gets as environment: `proxies` are given with the request and recorded nowhere unless
    /// they are declared.
    pub fn build_environment(&self, given: &BTreeMap<String, Option<String>>) -> (Vec<String>, Vec<String>) {
        let known: BTreeSet<&str> = self
            .config
            .env
            .iter()
            .flatten()
            .filter_map(|entry| entry.split_once('='))
            .map(|(name, _)| name)
            .collect();
        let mut recorded: Vec<String> = self
            .arguments
            .iter()
            .filter(|(name, _)| !known.contains(name.as_str()))
            .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}={value}")))
            .collect();
        recorded.sort();
        let proxies = PROXIES
            .iter()
            .filter(|name| !known.contains(**name) && !self.arguments.contains_key(**name));
        let silent = proxies
            .filter_map(|name| given.get(*name)?.as_ref().map(|value| format!("{name}={value}")))
            .collect();
        (recorded, silent)
    }

    /// The shell of commands in shell form.
    pub fn shell(&self) -> Vec<String> {
        let default = || ["/bin/sh", "-c"].map(str::to_owned).to_vec();
        self.config
            .shell
            .clone()
            .filter(|shell| !shell.is_empty())
            .unwrap_or_else(default)
    }

    /// How the history shows a step that runs nothing, in one of Docker's two spellings.
    pub fn remark(&self, comment: &str, tight: bool) -> String {
        let space = if tight { " " } else { "  " };
        format!("{} #(nop){space}{comment}", self.shell().join(" "))
    }

    /// How the step that was recorded as `created_by` would look as a container: what the image has, and its command.
    fn step_config(&self, created_by: &str) -> Option<serde_json::Value> {
        let shell = self.shell();
        let command = match created_by.split_once(&format!("{} ", shell.join(" "))) {
            Some((variables, text)) => variables
                .split_whitespace()
                .map(str::to_owned)
                .chain(shell)
                .chain([text.to_owned()])
                .collect(),
            None => vec![created_by.to_owned()],
        };
        let mut config = serde_json::to_value(&self.config).ok()?;
        config.as_object_mut()?.insert("Cmd".to_owned(), command.into());
        Some(config)
    }

    /// The image of the next step, whose history ends with `created_by`.
    pub fn next<'a>(&'a self, created_by: &'a str, layer: Option<LayerFrom<'a>>) -> Commit<'a> {
        Commit {
            base: self.image.as_ref().map(|hold| &**hold.image()),
            layer,
            config: self.config.clone(),
            author: &self.author,
            comment: "",
            created_by,
            container: self.step_config(created_by).map(|config| ("", config)),
        }
    }
}
