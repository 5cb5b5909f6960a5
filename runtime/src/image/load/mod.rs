//! Image archives become images.
//!
//! The archive is read once. Its blobs go to the content store as they come, and while the next one is read the last
//! one is unpacked and written out already, for most blobs of an archive are layers. When the archive is read its documents are known,
//! and images are put together from what is there.

pub mod docker;
mod legacy;
pub mod oci;
mod queue;
mod spool;

use std::{
    fs::File,
    io::Read,
    sync::{Mutex, PoisonError, mpsc},
    thread,
};

use self::{
    queue::Unpacker,
    spool::{Arrival, Spool},
};

use super::{
    compress,
    digest::Digest,
    manifest::Descriptor,
    pins::{Lease, Resource},
    reference::Reference,
    store::ImageStore,
};
use crate::{Error, Result, error::Context};

/// An image that an archive offers.
#[derive(Debug)]
pub struct Candidate {
    pub target: Descriptor,
    pub names: Vec<Reference>,
}

/// An image that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its ID.
    pub id: Digest,
    /// The names that it has got from the archive.
    pub names: Vec<Reference>,
    /// Names that another image had until now, and that image's ID.
    pub moved: Vec<(Reference, Digest)>,
}

/// Hears how far a long operation is.
pub trait Progress: Sync {
    /// Of the layer archive `blob` `current` bytes of `total` are unpacked.
    fn layer(&self, blob: &Digest, current: u64, total: u64);
}

/// Nobody listens.
impl Progress for () {
    fn layer(&self, _: &Digest, _: u64, _: u64) {}
}

/// See [`ImageStore::load`].
pub fn load(store: &ImageStore, input: impl Read, progress: &dyn Progress) -> Result<Vec<Loaded>> {
    let lease = store.pins().lease();
    let result = read(store, &lease, input, progress).and_then(|(candidates, unpacker)| {
        candidates
            .iter()
            .map(|candidate| install(store, &lease, candidate, &unpacker))
            .collect()
    });
    store.collect_after(lease);
    result
}

fn read<'s>(
    store: &'s ImageStore,
    lease: &'s Lease,
    input: impl Read,
    progress: &'s dyn Progress,
) -> Result<(Vec<Candidate>, Unpacker<'s>)> {
    let (_, plain) = compress::expand(input, store.limits())?;
    let unpacker = Unpacker::new(store, lease, progress);
    let (layers, to_unpack) = mpsc::channel();
    let to_unpack = Mutex::new(to_unpack);
    let (files, to_sync) = mpsc::channel::<File>();
    let spool = thread::scope(|scope| {
        // Both end when the archive is read and the senders are gone.
        scope.spawn(|| unpack_all(&to_unpack, &unpacker));
        let sync = scope.spawn(|| to_sync.into_iter().try_for_each(|file| file.sync_data()));
        let on_blob = move |arrival: Arrival| {
            // A receiver that is gone has failed, which is seen below.
            let _ = files.send(arrival.file);
            if arrival.looks_like_layer {
                let _ = layers.send(arrival.digest);
            }
        };
        let spool = Spool::read(plain, store.blobs(), lease, store.limits(), on_blob);
        match &spool {
            // This thread has nothing else to do from now on.
            Ok(_) => unpack_all(&to_unpack, &unpacker),
            Err(_) => unpacker.stop(),
        }
        match sync.join() {
            Ok(synced) => synced.context(|| "cannot write out an image").and(spool),
            Err(_) => Err(Error::internal("a thread that loads an image has panicked")),
        }
    })?;
    let candidates = candidates(store, lease, &spool)?;
    Ok((candidates, unpacker))
}

/// Unpacks what comes, until nothing more does. Of several threads one waits and the others wait for it.
fn unpack_all(blobs: &Mutex<mpsc::Receiver<Digest>>, unpacker: &Unpacker<'_>) {
    loop {
        let next = blobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(blob) => unpacker.prepare(&blob),
            Err(mpsc::RecvError) => return,
        }
    }
}

fn candidates(store: &ImageStore, lease: &Lease, spool: &Spool) -> Result<Vec<Candidate>> {
    let limits = store.limits();
    let items = match spool.document("manifest.json") {
        Some(bytes) => docker::items(bytes, limits)?,
        None => Vec::new(),
    };
    if let (Some(_), Some(index)) = (spool.document("oci-layout"), spool.document("index.json")) {
        return oci::candidates(index, &items, store.blobs(), limits);
    }
    if spool.document("manifest.json").is_none() {
        if let Some(repositories) = spool.document("repositories") {
            return legacy::candidates(repositories, spool, store.blobs(), lease, limits);
        }
        return Err(Error::invalid(
            "invalid archive: does not contain a manifest.json",
        ));
    }
    items
        .iter()
        .map(|item| docker::candidate(item, spool, store.blobs(), lease, limits))
        .collect()
}

/// Unpacks the layers of a candidate and makes it an image.
fn install(
    store: &ImageStore,
    lease: &Lease,
    candidate: &Candidate,
    unpacker: &Unpacker<'_>,
) -> Result<Loaded> {
    let resolved = oci::resolve(&candidate.target, store.blobs(), lease, store.limits())?;
    let mut keys = Vec::new();
    let mut chain = None;
    for (at, (blob, diff_id)) in resolved
        .layers
        .iter()
        .zip(&resolved.parsed_config.rootfs.diff_ids)
        .enumerate()
    {
        let chain_id = Digest::chain(chain.as_ref(), diff_id);
        chain = Some(chain_id);
        lease.pin(Resource::Layer(*diff_id));
        lease.pin(Resource::Layer(chain_id));
        let layer = match store.layers().find(diff_id, &chain_id) {
            Some(layer) => {
                unpacker.check(&blob.digest, at, diff_id)?;
                layer
            }
            None => unpacker.obtain(&blob.digest, at, diff_id, &keys, chain_id)?,
        };
        keys.push(layer.key);
    }
    store.add(resolved, &keys, &candidate.names, false)
}
