//! Archives from before `manifest.json`: `repositories` names the topmost layer of each tag, and every layer has a
//! directory with its archive and a `json` that names its parent. Configuration and manifest are made here.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;

use super::{Candidate, docker, spool::Spool};
use crate::{
    Error, Result,
    error::Context,
    image::{
        blobs::BlobStore,
        compress::{self, Compression},
        config::{History, ImageConfig, RootFs, RunConfig},
        digest::{Digest, HashingReader},
        limits::Limits,
        manifest::{Descriptor, Manifest, media, null_as_default, parse_object},
        pins::Lease,
        reference::Reference,
        tar_reader::read_error,
    },
};

/// The `json` of a layer, which was an image by itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Layer {
    #[serde(deserialize_with = "null_as_default")]
    parent: String,
    created: Option<String>,
    #[serde(deserialize_with = "null_as_default")]
    author: String,
    #[serde(deserialize_with = "null_as_default")]
    comment: String,
    #[serde(deserialize_with = "null_as_default")]
    docker_version: String,
    #[serde(deserialize_with = "null_as_default")]
    architecture: String,
    #[serde(deserialize_with = "null_as_default")]
    os: String,
    #[serde(deserialize_with = "null_as_default")]
    config: RunConfig,
    #[serde(deserialize_with = "null_as_default")]
    container_config: RunConfig,
}

/// The images of a `repositories` document.
///
/// # Errors
/// [`crate::Kind::Invalid`] if something that it names is missing or malformed.
pub fn candidates(
    repositories: &[u8],
    spool: &Spool,
    blobs: &BlobStore,
    lease: &Lease,
    limits: &Limits,
) -> Result<Vec<Candidate>> {
    let repositories: BTreeMap<String, BTreeMap<String, String>> =
        parse_object(repositories, "repositories")?;
    let mut tops: BTreeMap<String, Vec<Reference>> = BTreeMap::new();
    for (name, tags) in repositories {
        let name = Reference::parse(&name)?;
        for (tag, id) in tags {
            tops.entry(id).or_default().push(name.with_tag(&tag)?);
        }
    }
    if tops.len() > limits.archive_images {
        return Err(Error::invalid(format!("invalid archive: {} images", tops.len())));
    }
    tops.into_iter()
        .map(|(id, names)| {
            let stack = stack(&id, spool, blobs, limits)?;
            let target = image(&stack, spool, blobs, lease, limits)?;
            Ok(Candidate { target, names })
        })
        .collect()
}

/// The layers from the lowest to `top`.
fn stack(top: &str, spool: &Spool, blobs: &BlobStore, limits: &Limits) -> Result<Vec<(String, Layer)>> {
    let mut stack = Vec::new();
    let mut seen = HashSet::new();
    let mut id = top.to_owned();
    while !id.is_empty() {
        if !seen.insert(id.clone()) || seen.len() > limits.image_layers {
            return Err(Error::invalid(format!(
                "invalid archive: {top:?} has too many parents"
            )));
        }
        let member = spool.member(&format!("{id}/json"))?;
        let layer: Layer = parse_object(
            &blobs.read(&member.digest, limits.config_bytes)?,
            "layer description",
        )?;
        let parent = layer.parent.clone();
        stack.push((std::mem::replace(&mut id, parent), layer));
    }
    stack.reverse();
    Ok(stack)
}

fn image(
    stack: &[(String, Layer)],
    spool: &Spool,
    blobs: &BlobStore,
    lease: &Lease,
    limits: &Limits,
) -> Result<Descriptor> {
    let mut layers = Vec::new();
    let mut rootfs = RootFs::default();
    let mut history = Vec::new();
    for (id, layer) in stack {
        let member = spool.member(&format!("{id}/layer.tar"))?;
        layers.push(docker::layer_descriptor(
            member.digest,
            member.size,
            member.compression,
        ));
        rootfs.diff_ids.push(match member.compression {
            Compression::None => member.digest,
            _ => diff_id(&member.digest, blobs, limits)?,
        });
        history.push(History {
            created: layer.created.clone(),
            created_by: layer.container_config.cmd.clone().unwrap_or_default().join(" "),
            author: layer.author.clone(),
            comment: layer.comment.clone(),
            empty_layer: false,
        });
    }
    let Some((_, top)) = stack.last() else {
        return Err(Error::invalid("invalid archive: an image without layers"));
    };
    let config = ImageConfig {
        created: top.created.clone(),
        author: top.author.clone(),
        comment: top.comment.clone(),
        docker_version: top.docker_version.clone(),
        architecture: top.architecture.clone(),
        os: if top.os.is_empty() {
            "linux".to_owned()
        } else {
            top.os.clone()
        },
        config: top.config.clone(),
        rootfs,
        history,
        ..ImageConfig::default()
    };
    let bytes = serde_json::to_vec(&config).context(|| "cannot write an image configuration")?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::MANIFEST.to_owned(),
        config: docker::store_bytes(media::CONFIG, &bytes, blobs, lease)?,
        layers,
    };
    docker::store_manifest(&manifest, blobs, lease)
}

fn diff_id(blob: &Digest, blobs: &BlobStore, limits: &Limits) -> Result<Digest> {
    let (_, plain) = compress::expand(blobs.open_blob(blob)?, limits)?;
    Ok(HashingReader::new(plain).drain().map_err(read_error)?.0)
}
