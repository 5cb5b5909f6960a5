//! One image as the store knows it.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;

use crate::image::{
    config::ImageConfig,
    digest::Digest,
    layers::Layer,
    load::oci::Resolved,
    manifest::{Descriptor, Platform},
    pins::Resource,
    reference::Reference,
};

/// An image. Values never change; a changed image is another value.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of the target.
    pub id: Digest,
    /// What a registry or an archive gave for the name: a manifest, or an index of several platforms.
    pub target: Descriptor,
    /// The manifest of the platform that was chosen from it.
    pub manifest: Descriptor,
    /// Its configuration as stored.
    pub config_descriptor: Descriptor,
    /// Its configuration.
    pub config: ImageConfig,
    /// Its layers, lowest first.
    pub layers: Vec<ImageLayer>,
    /// Its names, sorted; each has a tag or a digest.
    pub names: Vec<Reference>,
    /// When it got its latest name.
    pub tagged: Option<Timestamp>,
    /// When it came here.
    pub added: Timestamp,
    /// All blobs of the target that are here, with their sizes in bytes; those of other platforms too.
    pub(in crate::image) blobs: Vec<(Digest, u64)>,
    /// It was removed while something held it.
    pub(super) removed: bool,
    /// A registry has it as it is.
    pub(super) pulled: bool,
    /// The manifest that registries get of it, if that is another one: see [`crate::image::packed`]. It is one of the
    /// blobs.
    pub(in crate::image) packed: Option<Descriptor>,
}

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageLayer {
    /// The digest of its uncompressed archive.
    pub diff_id: Digest,
    /// Its archive as it came, perhaps compressed.
    pub blob: Descriptor,
    /// Bytes of its files.
    pub size: u64,
    /// What it is called in the layer store.
    pub(in crate::image) key: Digest,
    /// It hides everything below it.
    pub(super) opaque: bool,
}

impl Image {
    pub(super) fn new(resolved: Resolved, layers: &[Arc<Layer>], added: Timestamp) -> Self {
        let layers = resolved
            .layers
            .into_iter()
            .zip(layers)
            .map(|(blob, layer)| ImageLayer {
                diff_id: layer.diff_id,
                blob,
                size: layer.size,
                key: layer.key,
                opaque: layer.opaque,
            })
            .collect();
        Self {
            id: resolved.target.digest,
            target: resolved.target,
            manifest: resolved.manifest,
            config_descriptor: resolved.config,
            config: resolved.parsed_config,
            layers,
            names: Vec::new(),
            tagged: None,
            added,
            blobs: resolved.blobs,
            removed: false,
            pulled: false,
            packed: None,
        }
    }

    /// Whether registries get it in another form than it has here: with layers compressed that were made or loaded
    /// without. What a registry gave goes to others as it came.
    pub(crate) fn is_packed_for_registries(&self) -> bool {
        !self.pulled
            && self.target.digest == self.manifest.digest
            && self.layers.iter().any(|layer| layer.blob.digest == layer.diff_id)
    }

    /// Bytes of all its files.
    pub fn size(&self) -> u64 {
        // Sizes come from files that somebody may have changed.
        self.layers
            .iter()
            .fold(0, |all, layer| all.saturating_add(layer.size))
    }

    /// The same with its lowest `count` layers only, to build upon.
    #[must_use]
    pub fn up_to(&self, count: usize) -> Self {
        let mut image = self.clone();
        image.layers.truncate(count);
        image
    }

    /// Bytes of all its blobs.
    pub fn content_size(&self) -> u64 {
        self.blobs
            .iter()
            .fold(0, |all, (_, size)| all.saturating_add(*size))
    }

    /// When it was made, if that is known.
    pub fn created(&self) -> Option<Timestamp> {
        self.config.created()
    }

    /// The platform it is for.
    pub fn platform(&self) -> Platform {
        self.config.platform()
    }

    /// Its names with a tag, as people write them: `busybox:latest`.
    pub fn repo_tags(&self) -> Vec<String> {
        self.names
            .iter()
            .filter(|name| name.digest().is_none())
            .map(Reference::familiar)
            .collect()
    }

    /// Its repositories with its digest, as people write them: `busybox@sha256:…`.
    pub fn repo_digests(&self) -> Vec<String> {
        let all: BTreeSet<_> = self
            .names
            .iter()
            .filter_map(|name| self.repo_digest(name))
            .collect();
        all.into_iter().collect()
    }

    /// What a name says about the image's digest in a registry. One that registries get in another form has none
    /// there until it was pushed.
    pub fn repo_digest(&self, name: &Reference) -> Option<String> {
        match name.digest() {
            Some(_) => Some(name.familiar()),
            None if self.is_packed_for_registries() => None,
            None => Some(name.with_digest(self.id).familiar()),
        }
    }

    /// Whether a registry has it as it is here.
    pub fn was_pulled(&self) -> bool {
        self.pulled
    }

    /// Whether it has no tag.
    pub fn is_dangling(&self) -> bool {
        self.names.iter().all(|name| name.tag().is_none())
    }

    /// Whether `other`, which has the same ID, brings nothing new.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let blobs = other.blobs.iter().all(|blob| self.blobs.contains(blob));
        !self.removed && blobs && self.pulled >= other.pulled
    }

    /// Keeps what was known of the same image before: it may come again with other platforms than the first time.
    pub(super) fn take_over(&mut self, known: &Self) {
        for blob in &known.blobs {
            if !self.blobs.contains(blob) {
                self.blobs.push(*blob);
            }
        }
        self.pulled |= known.pulled;
        self.packed.clone_from(&known.packed);
        if !known.removed {
            self.names.clone_from(&known.names);
            (self.tagged, self.added) = (known.tagged, known.added);
        }
    }

    /// Everything on disk that it refers to.
    pub(crate) fn resources(&self) -> Vec<Resource> {
        let blobs = self.blobs.iter().map(|(digest, _)| Resource::Blob(*digest));
        blobs
            .chain(self.layers.iter().map(|layer| Resource::Layer(layer.key)))
            .collect()
    }
}
