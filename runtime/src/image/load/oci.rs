//! OCI image layouts: `index.json` names manifests and indexes, which are kept as they came.

use std::collections::HashSet;

use super::{Candidate, docker};
use crate::{
    Error, Result,
    image::{
        blobs::BlobStore,
        config::ImageConfig,
        digest::Digest,
        limits::Limits,
        manifest::{Descriptor, Document, Manifest, Platform, media},
        pins::{Lease, Resource},
        reference::Reference,
    },
};

/// The full name of an image.
pub const NAME: &str = "io.containerd.image.name";
/// A name or only a tag of an image.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Marks a manifest that is about another one.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// Indexes within indexes.
const MAX_DEPTH: usize = 4;

/// The images of an `index.json`.
///
/// # Errors
/// [`crate::Kind::Invalid`] if it is malformed or a name in it is.
pub fn candidates(
    index: &[u8],
    items: &[docker::Item],
    blobs: &BlobStore,
    limits: &Limits,
) -> Result<Vec<Candidate>> {
    let Document::Index(index) = Document::parse(index, limits)? else {
        return Err(Error::invalid("invalid archive: index.json is not an index"));
    };
    let mut found: Vec<Candidate> = Vec::new();
    for descriptor in index.manifests {
        if is_about_another(&descriptor) {
            continue;
        }
        let mut names = names(&descriptor)?;
        if names.is_empty() {
            names = names_by_config(&descriptor, items, blobs, limits)?;
        }
        let target = Descriptor::new(&descriptor.media_type, descriptor.digest, descriptor.size);
        match found.iter_mut().find(|c| c.target.digest == target.digest) {
            Some(known) => known.names.append(&mut names),
            None => found.push(Candidate { target, names }),
        }
    }
    Ok(found)
}

fn names(descriptor: &Descriptor) -> Result<Vec<Reference>> {
    if let Some(name) = descriptor.annotations.get(NAME) {
        return Ok(vec![Reference::parse(name)?.normalized()]);
    }
    match descriptor.annotations.get(REF_NAME) {
        // Most writers put only a tag there, which names nothing without a repository.
        Some(name) if name.contains(['/', ':']) => Ok(vec![Reference::parse(name)?.normalized()]),
        _ => Ok(Vec::new()),
    }
}

/// The tags that a `manifest.json` beside the index has for the same configuration.
fn names_by_config(
    descriptor: &Descriptor,
    items: &[docker::Item],
    blobs: &BlobStore,
    limits: &Limits,
) -> Result<Vec<Reference>> {
    if items.is_empty() || blobs.size(&descriptor.digest)?.is_none() {
        return Ok(Vec::new());
    }
    let bytes = blobs.read(&descriptor.digest, limits.config_bytes)?;
    let Document::Manifest(manifest) = Document::parse(&bytes, limits)? else {
        return Ok(Vec::new());
    };
    let hex = manifest.config.digest.hex();
    match items.iter().find(|item| item.config.contains(&hex)) {
        Some(item) => docker::tags(item),
        None => Ok(Vec::new()),
    }
}

fn is_about_another(descriptor: &Descriptor) -> bool {
    descriptor.annotations.contains_key(REFERENCE_TYPE)
        || descriptor
            .platform
            .as_ref()
            .is_some_and(|p| p.os == "unknown" && p.architecture == "unknown")
}

/// A target followed to the image in it that this host runs.
#[derive(Debug)]
pub struct Resolved {
    pub target: Descriptor,
    pub manifest: Descriptor,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    pub parsed_config: ImageConfig,
    /// Everything of the target that is here, itself included: digest and size.
    pub blobs: Vec<(Digest, u64)>,
}

/// Follows `target` to its manifest and configuration; of several platforms the host's is taken, or else the first that
/// is complete. All blobs found are pinned.
///
/// # Errors
/// [`crate::Kind::Invalid`] if the target or what it needs is missing or malformed.
pub fn resolve(target: &Descriptor, blobs: &BlobStore, lease: &Lease, limits: &Limits) -> Result<Resolved> {
    let mut walk = Walk {
        blobs,
        lease,
        limits,
        found: Vec::new(),
        seen: HashSet::new(),
        images: Vec::new(),
        first_error: None,
    };
    walk.visit(target, 0)?;
    let host = Platform::host();
    let best = walk
        .images
        .iter()
        .enumerate()
        .min_by_key(|(at, image)| (host.preference(&image.platform).unwrap_or(u32::MAX), *at))
        .map(|(at, _)| at);
    let Some(at) = best else {
        return Err(walk.first_error.unwrap_or_else(|| {
            Error::invalid(format!(
                "invalid archive: {} holds no complete image",
                target.digest
            ))
        }));
    };
    let image = walk.images.swap_remove(at);
    Ok(Resolved {
        target: target.clone(),
        manifest: image.descriptor,
        config: image.manifest.config,
        layers: image.manifest.layers,
        parsed_config: image.config,
        blobs: walk.found,
    })
}

struct Walk<'a> {
    blobs: &'a BlobStore,
    lease: &'a Lease,
    limits: &'a Limits,
    found: Vec<(Digest, u64)>,
    seen: HashSet<Digest>,
    images: Vec<Complete>,
    first_error: Option<Error>,
}

/// An image all of whose parts are here.
struct Complete {
    descriptor: Descriptor,
    manifest: Manifest,
    config: ImageConfig,
    platform: Platform,
}

impl Walk<'_> {
    fn visit(&mut self, descriptor: &Descriptor, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::invalid(
                "invalid archive: indexes within indexes within indexes",
            ));
        }
        if self.seen.contains(&descriptor.digest) {
            return Ok(());
        }
        if !self.have(descriptor)? {
            return Err(Error::invalid(format!(
                "invalid archive: content {} is not in it",
                descriptor.digest
            )));
        }
        let bytes = self.blobs.read(&descriptor.digest, self.limits.config_bytes)?;
        match Document::parse(&bytes, self.limits)? {
            Document::Index(index) => {
                for child in &index.manifests {
                    // Of the platforms that are not needed anything may be missing.
                    if let Err(error) = self.visit(child, depth + 1)
                        && !is_about_another(child)
                    {
                        self.first_error.get_or_insert(error);
                    }
                }
                Ok(())
            }
            Document::Manifest(manifest) => self.manifest(descriptor, manifest),
        }
    }

    fn manifest(&mut self, descriptor: &Descriptor, manifest: Manifest) -> Result<()> {
        let mut missing = None;
        for part in std::iter::once(&manifest.config).chain(&manifest.layers) {
            if !self.have(part)? {
                missing = Some(part.digest);
            }
        }
        if let Some(digest) = missing {
            return Err(Error::invalid(format!(
                "invalid archive: content {digest} is not in it"
            )));
        }
        if is_about_another(descriptor) || !is_image(&manifest) {
            return Ok(());
        }
        let bytes = self
            .blobs
            .read(&manifest.config.digest, self.limits.config_bytes)?;
        let config = ImageConfig::parse(&bytes, self.limits)?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(Error::invalid(format!(
                "invalid manifest, layers length mismatch: expected {}, got {}",
                manifest.layers.len(),
                config.rootfs.diff_ids.len()
            )));
        }
        self.images.push(Complete {
            descriptor: Descriptor::new(&descriptor.media_type, descriptor.digest, descriptor.size),
            platform: config.platform(),
            manifest,
            config,
        });
        Ok(())
    }

    /// Pins a blob if it is here with the size that is claimed.
    fn have(&mut self, descriptor: &Descriptor) -> Result<bool> {
        if self.seen.contains(&descriptor.digest) {
            return Ok(true);
        }
        self.lease.pin(Resource::Blob(descriptor.digest));
        match self.blobs.size(&descriptor.digest)? {
            None => return Ok(false),
            Some(size) if size != descriptor.size => {
                return Err(Error::invalid(format!(
                    "invalid archive: {} has {size} bytes, its descriptor says {}",
                    descriptor.digest, descriptor.size
                )));
            }
            Some(size) => self.found.push((descriptor.digest, size)),
        }
        self.seen.insert(descriptor.digest);
        Ok(true)
    }
}

/// Whether a manifest is of an image and not of some other artifact.
fn is_image(manifest: &Manifest) -> bool {
    let kind = manifest.config.media_type.as_str();
    matches!(
        kind,
        "" | media::CONFIG | "application/vnd.docker.container.image.v1+json"
    )
}
