//! Images as the API shows them.

use std::collections::BTreeMap;

use berth_api::{
    ApiVersion,
    models::{
        ContainerConfig, EmptyObject, GraphDriverData, HealthConfig, ImageConfig as ShownConfig,
        ImageHistoryResponseItem, ImageInspect, ImageInspectMetadata, ImageInspectRootFS, ImageSummary,
    },
    read,
};
use berth_runtime::image::{Empty, Healthcheck, ImageConfig, Reference, RunConfig};
use jiff::Timestamp;

use crate::engine::time;

/// What the API calls the way layers are kept and stacked.
pub const STORAGE_DRIVER: &str = "overlay2";

/// An image as the store has it, in the form all answers are made from.
pub(super) struct Shown<'a> {
    pub(super) id: String,
    pub(super) config: &'a ImageConfig,
    /// Bytes of all unpacked layers.
    pub(super) size: u64,
    pub(super) tags: Vec<Reference>,
    /// `repository@digest` of each repository that has the image.
    pub(super) digests: Vec<String>,
    pub(super) last_tagged: Option<Timestamp>,
    /// The ID of the image it was made of, if that is here.
    pub(super) parent: String,
}

/// Seconds since 1970; 0 if the image does not say when it was made.
fn created_seconds(config: &ImageConfig) -> i64 {
    config.created().map_or(0, Timestamp::as_second)
}

fn texts(references: &[Reference]) -> Vec<String> {
    references.iter().map(Reference::familiar).collect()
}

/// Sizes fit: no file system holds 2^63 bytes.
fn bytes(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// A line of the image list (API operation `ImageList`); `shared` and `containers` are -1 when not asked for.
pub(super) fn summary(image: &Shown<'_>, shared: i64, containers: i64, version: ApiVersion) -> ImageSummary {
    let placeholder =
        |list: Vec<String>, text: &str| match list.is_empty() && version < ApiVersion::new(1, 43) {
            true => vec![text.to_owned()],
            false => list,
        };
    ImageSummary {
        containers,
        created: created_seconds(image.config),
        id: image.id.clone(),
        labels: image.config.config.labels.clone(),
        parent_id: String::new(),
        repo_digests: placeholder(image.digests.clone(), "<none>@<none>"),
        repo_tags: placeholder(texts(&image.tags), "<none>:<none>"),
        shared_size: shared,
        size: bytes(image.size),
        virtual_size: bytes(image.size),
    }
}

/// All about one image (API operation `ImageInspect`).
pub(super) fn inspect(image: &Shown<'_>) -> ImageInspect {
    let config = image.config;
    ImageInspect {
        architecture: config.architecture.clone(),
        author: config.author.clone(),
        comment: comment(config),
        config: shown_config(&config.config),
        container: config.container.clone(),
        container_config: container_config(config),
        created: config
            .created
            .clone()
            .unwrap_or_else(|| time::rfc3339_or_never(None)),
        docker_version: config.docker_version.clone(),
        graph_driver: GraphDriverData {
            name: STORAGE_DRIVER.to_owned(),
            data: None,
        },
        id: image.id.clone(),
        metadata: ImageInspectMetadata {
            last_tag_time: time::rfc3339_or_never(image.last_tagged),
        },
        os: config.os.clone(),
        os_version: config.os_version.clone().unwrap_or_default(),
        parent: image.parent.clone(),
        repo_digests: image.digests.clone(),
        repo_tags: texts(&image.tags),
        root_fs: ImageInspectRootFS {
            layers: config.rootfs.diff_ids.iter().map(ToString::to_string).collect(),
            r#type: "layers".to_owned(),
        },
        size: bytes(image.size),
        variant: config.variant.clone().unwrap_or_default(),
        virtual_size: bytes(image.size),
    }
}

/// The configuration of the container that an image was made of. What is stored may be from anywhere; what makes no sense
/// is left out.
fn container_config(config: &ImageConfig) -> ContainerConfig {
    let stored = config.container_config.clone();
    stored
        .and_then(|value| read::read_value(value, ApiVersion::NEWEST).ok())
        .unwrap_or_default()
}

/// The image's own comment, or the one of its last step.
fn comment(config: &ImageConfig) -> String {
    match (config.comment.is_empty(), config.history.last()) {
        (true, Some(last)) => last.comment.clone(),
        _ => config.comment.clone(),
    }
}

/// The steps that made an image, newest first (API operation `ImageHistory`); `layer_sizes` is lowest first.
pub(super) fn history(image: &Shown<'_>, layer_sizes: &[u64]) -> Vec<ImageHistoryResponseItem> {
    let mut sizes = layer_sizes.iter().copied();
    let mut steps: Vec<_> = image
        .config
        .history
        .iter()
        .map(|step| ImageHistoryResponseItem {
            comment: step.comment.clone(),
            created: step.created().map_or(0, Timestamp::as_second),
            created_by: step.created_by.clone(),
            id: "<missing>".to_owned(),
            size: if step.empty_layer {
                0
            } else {
                bytes(sizes.next().unwrap_or(0))
            },
            tags: None,
        })
        .collect();
    // An image without a history still has its layers.
    steps.extend(sizes.map(|size| ImageHistoryResponseItem {
        created: created_seconds(image.config),
        id: "<missing>".to_owned(),
        size: bytes(size),
        ..ImageHistoryResponseItem::default()
    }));
    steps.reverse();
    if let Some(newest) = steps.first_mut() {
        newest.id = image.id.clone();
        newest.tags = (!image.tags.is_empty()).then(|| texts(&image.tags));
    }
    steps
}

fn shown_config(config: &RunConfig) -> ShownConfig {
    let config = config.clone();
    ShownConfig {
        args_escaped: config.args_escaped.unwrap_or_default(),
        cmd: config.cmd,
        entrypoint: config.entrypoint,
        env: config.env,
        exposed_ports: config.exposed_ports.map(keys).unwrap_or_default(),
        healthcheck: config.healthcheck.map(shown_health),
        labels: config.labels,
        on_build: config.on_build,
        shell: config.shell.unwrap_or_default(),
        stop_signal: config.stop_signal.unwrap_or_default(),
        stop_timeout: config.stop_timeout.unwrap_or_default(),
        user: config.user,
        volumes: config.volumes.map(keys),
        working_dir: config.working_dir,
        ..ShownConfig::default()
    }
}

fn shown_health(health: Healthcheck) -> HealthConfig {
    HealthConfig {
        test: health.test.unwrap_or_default(),
        interval: health.interval,
        timeout: health.timeout,
        start_period: health.start_period,
        start_interval: health.start_interval,
        retries: health.retries,
    }
}

fn keys(map: BTreeMap<String, Empty>) -> BTreeMap<String, EmptyObject> {
    map.into_keys().map(|key| (key, EmptyObject {})).collect()
}
