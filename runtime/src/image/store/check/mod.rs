//! Whether what is on disk is what it should be, and how it becomes that again.
//!
//! Every blob is hashed, every layer is unpacked once more and compared, every record is compared with what is known,
//! and what belongs to nothing is found. Pulls, builds and removals go on meanwhile: what they have under construction
//! is left alone, and what they take away is not missed.

mod content;
mod layers;
mod records;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use super::{Image, ImageStore};
use crate::{
    Error, Result,
    image::{
        digest::Digest,
        manifest::Descriptor,
        pins::{Lease, Resource},
    },
};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Content of an image has another digest than its name says.
    ContentDamaged,
    /// Content of an image is not there.
    ContentMissing,
    /// An unpacked layer is not what its archive makes.
    LayerDamaged,
    /// A layer could not be compared.
    LayerUnverified,
    /// What is written about an image or a name is not what is known of it.
    RecordDamaged,
    /// Nothing refers to it.
    Orphan,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was to be changed.
    Reported,
    /// Fetched again from a registry.
    Fetched,
    /// Made again of what is here.
    Rebuilt,
    /// Removed; a damaged image with its names.
    Removed,
    /// It stays as it is, because a container needs it or it could not be mended.
    Kept,
}

/// Something that is wrong.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What is wrong.
    pub fault: Fault,
    /// With what: a digest, a name, or a path below the store's root.
    pub subject: String,
    /// The IDs of the images that need it.
    pub images: Vec<Digest>,
    /// More about it.
    pub detail: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// What was looked at and found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Images, those that containers or the build cache keep included.
    pub images: usize,
    /// Names.
    pub names: usize,
    /// Blobs that were hashed.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Layers that were compared.
    pub layers: usize,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Fetches content again.
pub trait Mend: Sync {
    /// Fetches a blob of `image` into the store.
    ///
    /// # Errors
    /// If nobody is known who has it, or what they say.
    fn fetch(&self, image: &Image, blob: &Descriptor) -> Result<()>;
}

/// How to check.
pub struct Check<'a> {
    /// Who fetches content; without, nothing is changed.
    pub mend: Option<&'a dyn Mend>,
    /// Whether a container that runs has the layers of this image mounted.
    pub is_mounted: &'a (dyn Fn(&Digest) -> bool + Sync),
}

impl ImageStore {
    /// Checks everything, and mends it if that is asked for. Reads all content. Blocks.
    ///
    /// # Errors
    /// If the file system fails; [`crate::Kind::Conflict`] if a check is under way.
    pub fn check(&self, how: &Check<'_>) -> Result<Report> {
        let _only_one = self
            .checking
            .try_lock()
            .map_err(|_| Error::conflict("a check is already running"))?;
        let lease = self.pins.lease();
        let mut run = Run {
            store: self,
            how,
            lease: &lease,
            report: Report::default(),
            damaged: BTreeSet::new(),
        };
        let result = run.all();
        let report = run.report;
        // What was kept for the check and belongs to nothing any more goes now.
        self.collect_after(lease);
        result.map(|()| report)
    }
}

struct Run<'a> {
    store: &'a ImageStore,
    how: &'a Check<'a>,
    /// Keeps what is looked at.
    lease: &'a Lease,
    report: Report,
    /// Blobs that are still damaged or missing.
    damaged: BTreeSet<Digest>,
}

impl Run<'_> {
    fn all(&mut self) -> Result<()> {
        let now = self.store.now();
        (self.report.images, self.report.names) = (now.images.len(), now.names.len());
        self.content()?;
        self.layers()?;
        self.records()?;
        self.orphans()
    }

    /// The images that are there now.
    fn images(&self) -> Vec<Arc<Image>> {
        self.store.now().images.values().cloned().collect()
    }

    /// Each of `resources` with the images that need it, all of them kept from now on.
    fn kept(&self, resources: impl Fn(&Image) -> Vec<Resource>) -> BTreeMap<Resource, Vec<Arc<Image>>> {
        for resource in self.images().iter().flat_map(|image| resources(image)) {
            self.lease.pin(resource);
        }
        // Those that were removed before that have taken theirs along, and are not seen any more.
        let mut users: BTreeMap<Resource, Vec<Arc<Image>>> = BTreeMap::new();
        for image in self.images() {
            for resource in resources(&image) {
                self.lease.pin(resource);
                let known = users.entry(resource).or_default();
                if !known.iter().any(|user| user.id == image.id) {
                    known.push(Arc::clone(&image));
                }
            }
        }
        users
    }

    fn repairs(&self) -> bool {
        self.how.mend.is_some()
    }

    fn found(
        &mut self,
        fault: Fault,
        subject: String,
        users: &[Arc<Image>],
        detail: String,
        outcome: Outcome,
    ) {
        self.report.findings.push(Finding {
            fault,
            subject,
            images: users.iter().map(|image| image.id).collect(),
            detail,
            outcome,
        });
    }

    /// What belongs to nothing.
    fn orphans(&mut self) -> Result<()> {
        let mut candidates: Vec<(String, Option<Resource>)> = Vec::new();
        for digest in self.store.blobs.list()? {
            candidates.push((
                format!("content/blobs/sha256/{}", digest.hex()),
                Some(Resource::Blob(digest)),
            ));
        }
        for name in self.store.layers.names()? {
            let key = Digest::from_hex(&name).ok().map(Resource::Layer);
            candidates.push((format!("layers/{name}"), key));
        }
        // Asked after they were seen: what became part of an image meanwhile is used now.
        let used: HashSet<Resource> = self.store.used();
        let pins = &self.store.pins;
        let mut resources = Vec::new();
        for (path, resource) in candidates {
            // What the check keeps itself is collected when it ends.
            let needed = resource
                .is_some_and(|resource| used.contains(&resource) || pins.is_wanted_or_doomed(&resource));
            // It may have been collected since.
            if needed || !self.store.root.join(&path).exists() {
                continue;
            }
            let mut outcome = Outcome::Reported;
            if self.repairs() {
                outcome = Outcome::Removed;
                match resource {
                    Some(resource) => resources.push(resource),
                    None => self.store.layers.discard(path.trim_start_matches("layers/"))?,
                }
            }
            let detail = "no image refers to it".to_owned();
            self.found(Fault::Orphan, path, &[], detail, outcome);
        }
        self.store.collect(resources);
        Ok(())
    }
}
