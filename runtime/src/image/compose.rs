//! Makes images here: from an archive of a root file system, or from another image and a layer on top of it.

use std::{
    io::{BufWriter, Write},
    path::Path,
};

use jiff::Timestamp;

use super::{
    compress::Compression,
    config::ImageConfig,
    digest::Digest,
    load::{docker, oci},
    manifest::{Descriptor, Manifest, Platform, media},
    pins::{Lease, Resource},
    store::{Hold, Image, ImageStore},
    upper::UpperDir,
};
use crate::{Error, Result, error::Context};

/// Bytes of an archive that are written at once.
const BUFFER: usize = 256 << 10;

/// Writes the archive of a layer, compressed or not.
pub type WriteLayer<'a> = &'a mut dyn FnMut(&mut dyn Write) -> Result<()>;

/// Where a new layer comes from.
pub enum LayerFrom<'a> {
    /// An archive.
    Archive(WriteLayer<'a>),
    /// The upper directory of an overlayfs. One without changes makes no layer.
    Upper {
        /// Where it is; to be taken, on the file system of the store.
        path: &'a Path,
        /// Whether it is no longer mounted and is taken away; else it is read, and stays as it is.
        taken: bool,
    },
}

/// See [`ImageStore::compose_kept`].
pub fn compose_kept(
    store: &ImageStore,
    base: Option<&Image>,
    layer: Option<LayerFrom<'_>>,
    config: ImageConfig,
) -> Result<Hold> {
    let lease = store.pins().lease();
    let result = make(store, &lease, base, layer, config).and_then(|(target, keys)| {
        let resolved = oci::resolve(&target, store.blobs(), &lease, store.limits())?;
        store.add_kept(resolved, &keys)
    });
    store.collect_after(lease);
    result
}

/// Stores layer, configuration and manifest. Returns the manifest and the keys of all layers.
fn make(
    store: &ImageStore,
    lease: &Lease,
    base: Option<&Image>,
    layer: Option<LayerFrom<'_>>,
    mut config: ImageConfig,
) -> Result<(Descriptor, Vec<Digest>)> {
    let mut layers: Vec<Descriptor> = Vec::new();
    let mut keys = Vec::new();
    config.rootfs.diff_ids.clear();
    if let Some(base) = base {
        for resource in base.resources() {
            lease.pin(resource);
        }
        layers.extend(base.layers.iter().map(|layer| layer.blob.clone()));
        keys.extend(base.layers.iter().map(|layer| layer.key));
        config
            .rootfs
            .diff_ids
            .extend(base.layers.iter().map(|layer| layer.diff_id));
    }
    let made = match layer {
        Some(LayerFrom::Archive(write)) => {
            Some(new_layer(store, lease, write, &config.rootfs.diff_ids, &keys)?)
        }
        Some(LayerFrom::Upper { path, taken }) => {
            let upper = UpperDir::open(path)?;
            let made = match (upper.is_empty()?, taken) {
                (true, _) => None,
                (false, true) => adopt(store, lease, path, &upper)?,
                (false, false) => {
                    let mut write = |out: &mut dyn Write| upper.pack(out).map(drop);
                    Some(new_layer(
                        store,
                        lease,
                        &mut write,
                        &config.rootfs.diff_ids,
                        &keys,
                    )?)
                }
            };
            if made.is_none()
                && let Some(last) = config.history.last_mut()
            {
                // A step that changed nothing made no layer, and its history says so.
                last.empty_layer = true;
            }
            made
        }
        None => None,
    };
    if let Some((descriptor, diff_id, key)) = made {
        layers.push(descriptor);
        keys.push(key);
        config.rootfs.diff_ids.push(diff_id);
    }
    if keys.len() > store.limits().image_layers {
        return Err(Error::invalid(format!(
            "an image of {} layers, more than {} are refused (max depth exceeded)",
            keys.len(),
            store.limits().image_layers
        )));
    }
    complete(&mut config);
    let bytes = serde_json::to_vec(&config).context(|| "cannot write an image configuration")?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::MANIFEST.to_owned(),
        config: docker::store_bytes(media::CONFIG, &bytes, store.blobs(), lease)?,
        layers,
    };
    Ok((docker::store_manifest(&manifest, store.blobs(), lease)?, keys))
}

fn new_layer(
    store: &ImageStore,
    lease: &Lease,
    write: WriteLayer<'_>,
    diff_ids_below: &[Digest],
    keys_below: &[Digest],
) -> Result<(Descriptor, Digest, Digest)> {
    let mut writer = store.blobs().writer()?;
    write(&mut writer)?;
    let blob = writer.finish()?;
    let (digest, size) = (blob.digest(), blob.size());
    lease.pin(Resource::Blob(digest));
    lease.pin(Resource::Layer(digest));
    blob.commit(None)?;
    let open = || store.blobs().open_blob(&digest);
    let pin = |key| lease.pin(Resource::Layer(key));
    let prepared = store.layers().prepare(&digest, Some(&digest), open, pin)?;
    let diff_id = prepared.diff_id();
    let below = diff_ids_below.iter().fold(None, |chain, diff_id| {
        Some(Digest::chain(chain.as_ref(), diff_id))
    });
    let chain_id = Digest::chain(below.as_ref(), &diff_id);
    lease.pin(Resource::Layer(chain_id));
    let layer = store.layers().complete(prepared, keys_below, chain_id)?;
    let compression = Compression::of(store.blobs().open_blob(&digest)?)?;
    Ok((
        docker::layer_descriptor(digest, size, compression),
        diff_id,
        layer.key,
    ))
}

/// Makes a layer of an upper directory: its archive is written, and the directory itself becomes the layer's tree.
fn adopt(
    store: &ImageStore,
    lease: &Lease,
    path: &Path,
    upper: &UpperDir,
) -> Result<Option<(Descriptor, Digest, Digest)>> {
    let mut writer = BufWriter::with_capacity(BUFFER, store.blobs().writer()?);
    let packed = upper.pack(&mut writer)?;
    if packed.entries == 0 {
        return Ok(None);
    }
    let writer = writer
        .into_inner()
        .map_err(|e| Error::internal("cannot write a layer").caused_by(e.into_error()))?;
    let blob = writer.finish()?;
    let (digest, size) = (blob.digest(), blob.size());
    lease.pin(Resource::Blob(digest));
    lease.pin(Resource::Layer(digest));
    blob.commit(None)?;
    let layer = store.layers().adopt(path, digest, packed.bytes)?;
    Ok(Some((
        docker::layer_descriptor(digest, size, Compression::None),
        digest,
        layer.key,
    )))
}

/// Fills in what every configuration has.
fn complete(config: &mut ImageConfig) {
    let host = Platform::host();
    if config.os.is_empty() {
        config.os = host.os;
    }
    if config.architecture.is_empty() {
        config.architecture = host.architecture;
        config.variant = host.variant;
    }
    config.rootfs.kind = "layers".to_owned();
    config.created.get_or_insert_with(|| Timestamp::now().to_string());
}
