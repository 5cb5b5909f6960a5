//! An image that arrives piece by piece: documents and blobs first, in any order, then the image.

use std::{collections::HashMap, io::Read, sync::Arc};

use super::{
    compress,
    digest::{Digest, HashingReader},
    layers::Prepared,
    load::{Loaded, docker, oci},
    manifest::Descriptor,
    packed::{self, Packed},
    pins::{Lease, Resource},
    reference::Reference,
    store::{Image, ImageStore},
    tar_reader::read_error,
};
use crate::{Error, Result};

/// Keeps what has arrived until the image is there. What belongs to no image goes when this is dropped.
#[derive(Debug)]
pub struct Incoming {
    store: Arc<ImageStore>,
    /// There until this is dropped.
    lease: Option<Lease>,
}

/// Where a layer of the image belongs.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its number, from 0 for the lowest.
    pub at: usize,
    /// Its archive.
    pub blob: Descriptor,
    /// What the image's configuration says that its uncompressed archive is.
    pub diff_id: Digest,
    /// The layer with all below it.
    pub chain_id: Digest,
}

/// A layer that is unpacked.
#[derive(Debug)]
pub struct Arrived(Prepared);

impl Incoming {
    /// Nothing has arrived.
    pub fn new(store: Arc<ImageStore>) -> Self {
        let lease = store.pins().lease();
        Self {
            store,
            lease: Some(lease),
        }
    }

    /// Where it goes to.
    pub fn store(&self) -> &Arc<ImageStore> {
        &self.store
    }

    /// Stores a document.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn put(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
        docker::store_bytes(media_type, bytes, self.store.blobs(), self.lease()?)
    }

    /// Whether the blob is here already; it stays from now on.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] if it is here with another size than the descriptor says.
    pub fn has(&self, blob: &Descriptor) -> Result<bool> {
        self.lease()?.pin(Resource::Blob(blob.digest));
        match self.store.blobs().size(&blob.digest)? {
            None => Ok(false),
            Some(size) if size == blob.size => Ok(true),
            Some(size) => Err(Error::invalid(format!(
                "wrong size of {}: its descriptor says {} bytes, it has {size}",
                blob.digest, blob.size
            ))),
        }
    }

    /// Whether the layer is here, unpacked, and known to be that of its blob.
    ///
    /// # Errors
    /// If this has ended.
    pub fn is_unpacked(&self, place: &Place) -> Result<bool> {
        let lease = self.lease()?;
        lease.pin(Resource::Layer(place.diff_id));
        lease.pin(Resource::Layer(place.chain_id));
        let known = place.blob.digest == place.diff_id
            || self.store.diff_id_of(&place.blob.digest) == Some(place.diff_id);
        Ok(known
            && self
                .store
                .layers()
                .find(&place.diff_id, &place.chain_id)
                .is_some())
    }

    /// Unpacks a layer while `open` gives its archive, or only checks it if the layer is here.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] if it is no layer, or another one than the configuration says; what reading gave.
    pub fn unpack<R: Read + Send>(&self, place: &Place, open: impl FnOnce() -> Result<R>) -> Result<Arrived> {
        let lease = self.lease()?;
        let Place {
            at,
            blob,
            diff_id,
            chain_id,
        } = place;
        lease.pin(Resource::Layer(*diff_id));
        lease.pin(Resource::Layer(*chain_id));
        if let Some(layer) = self.store.layers().find(diff_id, chain_id) {
            let (_, plain) = compress::expand(open()?, self.store.limits())?;
            let (actual, _) = HashingReader::new(plain).drain().map_err(read_error)?;
            same(*at, diff_id, &actual)?;
            return Ok(Arrived(Prepared::Ready(layer)));
        }
        let pin = |key| lease.pin(Resource::Layer(key));
        let prepared = self
            .store
            .layers()
            .prepare(&blob.digest, Some(diff_id), open, pin)?;
        same(*at, diff_id, &prepared.diff_id())?;
        Ok(Arrived(prepared))
    }

    /// Makes the image and names it. `arrived` has unpacked layers by their blobs' digests; others are found or
    /// unpacked from their blobs.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] if something is missing or does not fit.
    pub fn install(
        &self,
        target: &Descriptor,
        mut arrived: HashMap<Digest, Arrived>,
        names: &[Reference],
    ) -> Result<Loaded> {
        let resolved = oci::resolve(target, self.store.blobs(), self.lease()?, self.store.limits())?;
        let mut keys = Vec::new();
        for place in places(&resolved.layers, &resolved.parsed_config.rootfs.diff_ids) {
            let digest = place.blob.digest;
            let prepared = match arrived.remove(&digest) {
                Some(Arrived(prepared)) => prepared,
                None if self.is_unpacked(&place)? => {
                    match self.store.layers().find(&place.diff_id, &place.chain_id) {
                        Some(layer) => Prepared::Ready(layer),
                        None => {
                            return Err(Error::internal(format!(
                                "the layer {} has vanished",
                                place.diff_id
                            )));
                        }
                    }
                }
                None => self.unpack(&place, || self.store.blobs().open_blob(&digest))?.0,
            };
            let layer = self.store.layers().complete(prepared, &keys, place.chain_id)?;
            keys.push(layer.key);
        }
        self.store.add(resolved, &keys, names, true)
    }

    /// Keeps everything of `image` until this ends.
    ///
    /// # Errors
    /// If this has ended.
    pub fn keep(&self, image: &Image) -> Result<()> {
        let lease = self.lease()?;
        image
            .resources()
            .into_iter()
            .for_each(|resource| lease.pin(resource));
        Ok(())
    }

    /// See [`packed::packed`].
    ///
    /// # Errors
    /// As there.
    pub fn packed(&self, image: &Image, anew: bool) -> Result<Option<Packed>> {
        packed::packed(&self.store, image, self.lease()?, anew)
    }

    /// See [`packed::make`].
    ///
    /// # Errors
    /// As there.
    pub fn make_packed(&self, blob: &Descriptor, plain: &Digest) -> Result<()> {
        packed::make(&self.store, blob, plain, self.lease()?)
    }

    /// Removes what belongs to no image, now.
    pub fn close(mut self) {
        if let Some(lease) = self.lease.take() {
            self.store.collect_after(lease);
        }
    }

    fn lease(&self) -> Result<&Lease> {
        self.lease
            .as_ref()
            .ok_or_else(|| Error::internal("the transfer of this image has ended"))
    }
}

impl Drop for Incoming {
    /// Removes what belongs to no image; where tasks run, beside them.
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else {
            return;
        };
        let store = Arc::clone(&self.store);
        let collect = move || store.collect_after(lease);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(collect)),
            Err(_) => collect(),
        }
    }
}

/// The layers of a manifest in their places, lowest first.
pub fn places(blobs: &[Descriptor], diff_ids: &[Digest]) -> Vec<Place> {
    let mut chain = None;
    let mut places = Vec::new();
    for (at, (blob, diff_id)) in blobs.iter().zip(diff_ids).enumerate() {
        let chain_id = Digest::chain(chain.as_ref(), diff_id);
        chain = Some(chain_id);
        places.push(Place {
            at,
            blob: blob.clone(),
            diff_id: *diff_id,
            chain_id,
        });
    }
    places
}

fn same(at: usize, expected: &Digest, got: &Digest) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "invalid diffID for layer {at}: expected \"{expected}\", got \"{got}\""
    )))
}
