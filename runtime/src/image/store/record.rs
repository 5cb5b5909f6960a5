//! The files that say which images there are.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Image, ImageLayer, Snapshot};
use crate::{
    Error, Result,
    error::Context,
    image::{
        blobs::BlobStore, config::ImageConfig, digest::Digest, disk, layers::LayerStore, limits::Limits,
        manifest::Descriptor, reference::Reference, trash::Trash,
    },
};

const SUFFIX: &str = ".json";

/// The directories `images` and `names`.
#[derive(Debug)]
pub struct Records {
    pub(super) images: PathBuf,
    pub(super) names: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ImageRecord {
    target: Descriptor,
    manifest: Descriptor,
    config: Descriptor,
    layers: Vec<LayerRecord>,
    blobs: Vec<(Digest, u64)>,
    added: Timestamp,
    #[serde(default)]
    removed: bool,
    #[serde(default)]
    pulled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    packed: Option<Descriptor>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayerRecord {
    blob: Descriptor,
    key: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NameRecord {
    name: String,
    target: Digest,
    tagged: Timestamp,
}

impl Records {
    pub fn open(root: &Path, trash: &Trash) -> Result<Self> {
        let records = Self {
            images: root.join("images"),
            names: root.join("names"),
        };
        for dir in [&records.images, &records.names] {
            disk::make_dir(dir)?;
            trash.sweep(dir)?;
        }
        Ok(records)
    }

    /// Reads everything. What is damaged is reported and left out: an image with a missing part cannot be used, and a
    /// name without its image means nothing and is removed.
    pub fn read(&self, blobs: &BlobStore, layers: &LayerStore, limits: &Limits) -> Result<Snapshot> {
        let mut snapshot = Snapshot::default();
        for file in disk::list(&self.images)? {
            match read_image(&self.images.join(&file), blobs, layers, limits) {
                Ok(image) => {
                    snapshot.images.insert(image.id, Arc::new(image));
                }
                Err(error) => {
                    tracing::error!(%error, file, "removing a damaged image: load or pull it again");
                    disk::remove_file(&self.images, &file)?;
                }
            }
        }
        for file in disk::list(&self.names)? {
            let known = read_name(&self.names.join(&file))
                .map_err(|error| tracing::error!(%error, file, "removing a damaged image name"))
                .ok()
                .filter(|(_, id, _)| snapshot.images.get(id).is_some_and(|image| !image.removed));
            match known {
                Some((name, id, tagged)) => {
                    snapshot.names.insert(name, id);
                    let latest = snapshot.images.get(&id).and_then(|image| image.tagged);
                    snapshot.rename(&id, latest.max(Some(tagged)));
                }
                None => disk::remove_file(&self.names, &file)?,
            }
        }
        Ok(snapshot)
    }

    pub fn write_image(&self, image: &Image) -> Result<()> {
        disk::write_file(&self.images, &file_name(&image.id), &image_bytes(image)?)
    }

    /// [`Self::write_image`] without waiting for the disk, for images that can be made again.
    pub fn write_image_lazily(&self, image: &Image) -> Result<()> {
        disk::write_file_lazily(&self.images, &file_name(&image.id), &image_bytes(image)?)
    }

    pub fn remove_image(&self, id: &Digest) -> Result<()> {
        disk::remove_file(&self.images, &file_name(id))
    }

    pub fn write_name(&self, name: &Reference, target: &Digest, tagged: Timestamp) -> Result<()> {
        let name = name.to_string();
        let file = file_name(&Digest::of(name.as_bytes()));
        write(
            &self.names,
            &file,
            &NameRecord {
                name,
                target: *target,
                tagged,
            },
        )
    }

    pub fn remove_name(&self, name: &Reference) -> Result<()> {
        disk::remove_file(&self.names, &file_name(&Digest::of(name.to_string().as_bytes())))
    }
}

pub(super) fn image_bytes(image: &Image) -> Result<Vec<u8>> {
    let record = ImageRecord {
        target: image.target.clone(),
        manifest: image.manifest.clone(),
        config: image.config_descriptor.clone(),
        layers: image
            .layers
            .iter()
            .map(|layer| LayerRecord {
                blob: layer.blob.clone(),
                key: layer.key,
            })
            .collect(),
        blobs: image.blobs.clone(),
        added: image.added,
        removed: image.removed,
        pulled: image.pulled,
        packed: image.packed.clone(),
    };
    serde_json::to_vec(&record).context(|| "cannot describe an image")
}

pub(super) fn file_name(digest: &Digest) -> String {
    format!("{}{SUFFIX}", digest.hex())
}

fn write(dir: &Path, name: &str, record: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(record).context(|| format!("cannot write {name}"))?;
    disk::write_file(dir, name, &bytes)
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).context(|| format!("cannot read {}", path.display()))
}

fn read_image(path: &Path, blobs: &BlobStore, layers: &LayerStore, limits: &Limits) -> Result<Image> {
    let record: ImageRecord = read(path)?;
    for (digest, _) in &record.blobs {
        if blobs.size(digest)?.is_none() {
            return Err(Error::internal(format!("its content {digest} is missing")));
        }
    }
    let config = ImageConfig::parse(&blobs.read(&record.config.digest, limits.config_bytes)?, limits)?;
    let layers = read_layers(record.layers, &config, blobs, layers)?;
    Ok(Image {
        id: record.target.digest,
        target: record.target,
        manifest: record.manifest,
        config_descriptor: record.config,
        config,
        layers,
        names: Vec::new(),
        tagged: None,
        added: record.added,
        blobs: record.blobs,
        removed: record.removed,
        pulled: record.pulled,
        packed: record.packed,
    })
}

/// The layers of an image, unpacked again from their blobs where that is needed.
fn read_layers(
    records: Vec<LayerRecord>,
    config: &ImageConfig,
    blobs: &BlobStore,
    layers: &LayerStore,
) -> Result<Vec<ImageLayer>> {
    let mut all: Vec<ImageLayer> = Vec::new();
    let mut chain = None;
    for (LayerRecord { blob, key }, diff_id) in records.into_iter().zip(&config.rootfs.diff_ids) {
        let chain_id = Digest::chain(chain.as_ref(), diff_id);
        chain = Some(chain_id);
        let layer = match layers.get(&key) {
            Some(layer) => layer,
            None => {
                tracing::warn!(layer = %key, "unpacking a layer again");
                let open = || blobs.open_blob(&blob.digest);
                let prepared = layers.prepare(&blob.digest, Some(diff_id), open, |_| ())?;
                if prepared.diff_id() != *diff_id {
                    return Err(Error::internal(format!("the blob {} is damaged", blob.digest)));
                }
                let below: Vec<_> = all.iter().map(|layer| layer.key).collect();
                layers.complete(prepared, &below, chain_id)?
            }
        };
        all.push(ImageLayer {
            diff_id: layer.diff_id,
            blob,
            size: layer.size,
            key: layer.key,
            opaque: layer.opaque,
        });
    }
    Ok(all)
}

pub(super) fn read_name(path: &Path) -> Result<(Reference, Digest, Timestamp)> {
    let record: NameRecord = read(path)?;
    Ok((Reference::parse(&record.name)?, record.target, record.tagged))
}
