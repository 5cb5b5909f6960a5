//! Archives as `docker save` writes them: `manifest.json` names configuration, layers and tags of each image.
//!
//! They have no manifests; each image gets one here, made of nothing but its configuration and layers, so that the same
//! archive always makes the same image.

use std::io::Write;

use serde::Deserialize;

use super::{Candidate, spool::Spool};
use crate::{
    Error, Result,
    error::Context,
    image::{
        blobs::BlobStore,
        compress::Compression,
        config::ImageConfig,
        digest::Digest,
        limits::Limits,
        manifest::{Descriptor, Manifest, media, null_as_default, parse_json},
        pins::{Lease, Resource},
        reference::Reference,
    },
};

/// One image in `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Item {
    pub config: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub layers: Vec<String>,
}

/// Reads `manifest.json`.
///
/// # Errors
/// [`crate::Kind::Invalid`] if it is malformed.
pub fn items(bytes: &[u8], limits: &Limits) -> Result<Vec<Item>> {
    let items: Vec<Item> = parse_json(bytes, "manifest.json")?;
    if items.len() > limits.archive_images {
        return Err(Error::invalid(format!("invalid archive: {} images", items.len())));
    }
    Ok(items)
}

/// The tags of an image in `manifest.json`.
///
/// # Errors
/// [`crate::Kind::Invalid`] if one is no reference with a tag.
pub fn tags(item: &Item) -> Result<Vec<Reference>> {
    item.repo_tags
        .iter()
        .map(|text| {
            let reference = Reference::parse(text)?;
            match (reference.tag(), reference.digest()) {
                (Some(_), None) => Ok(reference),
                _ => Err(Error::invalid(format!("invalid tag {text:?}"))),
            }
        })
        .collect()
}

/// Makes the manifest of an image and stores it.
///
/// # Errors
/// [`crate::Kind::Invalid`] if something that it names is missing or does not fit.
pub fn candidate(
    item: &Item,
    spool: &Spool,
    blobs: &BlobStore,
    lease: &Lease,
    limits: &Limits,
) -> Result<Candidate> {
    let config = spool.member(&item.config)?;
    let bytes = blobs.read(&config.digest, limits.config_bytes)?;
    let diff_ids = ImageConfig::parse(&bytes, limits)?.rootfs.diff_ids.len();
    if diff_ids != item.layers.len() {
        return Err(Error::invalid(format!(
            "invalid manifest, layers length mismatch: expected {}, got {diff_ids}",
            item.layers.len()
        )));
    }
    let layers = item
        .layers
        .iter()
        .map(|name| {
            spool
                .member(name)
                .map(|m| layer_descriptor(m.digest, m.size, m.compression))
        })
        .collect::<Result<Vec<_>>>()?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::MANIFEST.to_owned(),
        config: Descriptor::new(media::CONFIG, config.digest, config.size),
        layers,
    };
    let target = store_manifest(&manifest, blobs, lease)?;
    Ok(Candidate {
        target,
        names: tags(item)?,
    })
}

/// Writes a manifest that was made here, always in the same way.
///
/// # Errors
/// If the file system fails.
pub fn store_manifest(manifest: &Manifest, blobs: &BlobStore, lease: &Lease) -> Result<Descriptor> {
    let bytes = serde_json::to_vec(manifest).context(|| "cannot write a manifest")?;
    store_bytes(&manifest.media_type, &bytes, blobs, lease)
}

/// Stores a small document.
///
/// # Errors
/// If the file system fails.
pub fn store_bytes(media_type: &str, bytes: &[u8], blobs: &BlobStore, lease: &Lease) -> Result<Descriptor> {
    let mut writer = blobs.writer()?;
    writer.write_all(bytes).context(|| "cannot store a document")?;
    let blob = writer.finish()?;
    let digest = blob.digest();
    lease.pin(Resource::Blob(digest));
    blob.commit(None)?;
    Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
}

/// The descriptor of a layer's archive.
pub fn layer_descriptor(digest: Digest, size: u64, compression: Compression) -> Descriptor {
    let media_type = match compression {
        Compression::None => media::LAYER.to_owned(),
        compression => format!("{}+{compression}", media::LAYER),
    };
    Descriptor::new(&media_type, digest, size)
}
