//! Images as registries get them: layers that were made or loaded without compression are compressed.
//!
//! The manifest of that form is made once and kept with the image; the compressed layers are not, for they are made
//! again exactly where a registry does not have them yet.

use std::io::BufWriter;

use serde_json::{Value, json};

use super::{
    compress::BUFFER,
    digest::Digest,
    gzip,
    load::docker,
    manifest::{Descriptor, Document, media},
    pins::{Lease, Resource},
    store::{Image, ImageStore},
};
use crate::{Error, Kind, Result, error::Context};

/// An image in that form.
#[derive(Clone, Debug)]
pub struct Packed {
    /// Its manifest.
    pub manifest: Descriptor,
    /// Its compressed layers, each with the digest of the archive it is made of.
    pub layers: Vec<(Descriptor, Digest)>,
}

/// The image in the form that registries get; `None` if that is the one it has. With `anew` what was noted before does
/// not count.
///
/// # Errors
/// If content is missing or the file system fails.
pub fn packed(store: &ImageStore, image: &Image, lease: &Lease, anew: bool) -> Result<Option<Packed>> {
    if !image.is_packed_for_registries() {
        return Ok(None);
    }
    if let Some(manifest) = image.packed.as_ref().filter(|_| !anew) {
        return known(store, image, manifest).map(Some);
    }
    let limits = store.limits();
    let bytes = store.blobs().read(&image.manifest.digest, limits.config_bytes)?;
    let mut document: Value =
        serde_json::from_slice(&bytes).context(|| "cannot read the manifest of an image")?;
    let mut layers = Vec::new();
    for (at, layer) in image.layers.iter().enumerate() {
        if layer.blob.digest != layer.diff_id {
            continue;
        }
        let (digest, size) = compressed(store, &layer.diff_id, lease)?;
        let media_type = gzip_type(&layer.blob.media_type);
        let described = document.get_mut("layers").and_then(|layers| layers.get_mut(at));
        let described =
            described.ok_or_else(|| Error::internal("the manifest of an image has lost a layer"))?;
        described["mediaType"] = json!(media_type);
        described["digest"] = json!(digest.to_string());
        described["size"] = json!(size);
        layers.push((Descriptor::new(media_type, digest, size), layer.diff_id));
    }
    let bytes = serde_json::to_vec(&document).context(|| "cannot write a manifest")?;
    let manifest = docker::store_bytes(&image.manifest.media_type, &bytes, store.blobs(), lease)?;
    store.note_packed(&image.id, &manifest)?;
    Ok(Some(Packed { manifest, layers }))
}

fn known(store: &ImageStore, image: &Image, manifest: &Descriptor) -> Result<Packed> {
    let limits = store.limits();
    let bytes = store.blobs().read(&manifest.digest, limits.config_bytes)?;
    let Document::Manifest(document) = Document::parse(&bytes, limits)? else {
        return Err(Error::internal(format!("{} is no manifest", manifest.digest)));
    };
    let plain = document.layers.into_iter().zip(&image.layers);
    let layers = plain
        .filter(|(_, layer)| layer.blob.digest == layer.diff_id)
        .map(|(blob, layer)| (blob, layer.diff_id));
    Ok(Packed {
        manifest: manifest.clone(),
        layers: layers.collect(),
    })
}

/// Makes the compressed layer `blob` of the archive `plain` be here, as long as the lease lasts.
///
/// # Errors
/// [`Kind::Conflict`] if the compressor makes another one of it than before; if the file system fails.
pub fn make(store: &ImageStore, blob: &Descriptor, plain: &Digest, lease: &Lease) -> Result<()> {
    lease.pin(Resource::Blob(blob.digest));
    if store.blobs().size(&blob.digest)? == Some(blob.size) {
        return Ok(());
    }
    let (digest, _) = compressed(store, plain, lease)?;
    if digest == blob.digest {
        return Ok(());
    }
    Err(Error::new(
        Kind::Conflict,
        format!(
            "the layer {plain} is compressed to {digest}, and not to {} any more",
            blob.digest
        ),
    ))
}

fn compressed(store: &ImageStore, plain: &Digest, lease: &Lease) -> Result<(Digest, u64)> {
    let input = store.blobs().open_blob(plain)?;
    let mut out = BufWriter::with_capacity(BUFFER, store.blobs().writer()?);
    let what = || format!("cannot compress the layer {plain}");
    gzip::compress(input, &mut out).context(what)?;
    let writer = out.into_inner().map_err(|e| e.into_error()).context(what)?;
    let blob = writer.finish()?;
    let (digest, size) = (blob.digest(), blob.size());
    lease.pin(Resource::Blob(digest));
    blob.commit(None)?;
    Ok((digest, size))
}

fn gzip_type(plain: &str) -> &'static str {
    match plain {
        "application/vnd.docker.image.rootfs.diff.tar" => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar" => {
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        }
        _ => media::LAYER_GZIP,
    }
}
