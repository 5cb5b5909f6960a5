//! Images: what they are made of, what they are called, and what may go.
//!
//! On disk below one root:
//!
//! | path | what |
//! |---|---|
//! | `content/` | blobs, see [`super::blobs`], and those that are arriving, see [`super::partial`] |
//! | `layers/` | unpacked layers, see [`super::layers`] |
//! | `images/<hex>.json` | one image each: its ID is the digest of its target, an index or a manifest |
//! | `names/<hex>.json` | one name each; the file is called by the digest of the name |
//! | `base/` | what is below every image, see [`super::base`] |
//! | `work/` | what builds have under construction |
//! | `trash/` | what is being removed, see [`super::trash`] |
//!
//! An image exists when its file in `images` does. It is written after all its blobs are on disk, and is the first thing
//! that goes. Layers that are missing or did not reach the disk are made again from the blobs. So an engine that dies leaves the old or the new state, and [`ImageStore::open`] removes what no
//! image refers to.
//!
//! Readers take a snapshot and never wait. Changes are made one after the other; nothing long happens in between.

mod check;
mod image;
#[cfg(test)]
mod kill_tests;
mod lookup;
mod record;
#[cfg(test)]
mod tests;
mod usage;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use jiff::Timestamp;

use self::record::Records;
pub use self::{
    check::{Check, Fault, Finding, Mend, Outcome, Report},
    image::{Image, ImageLayer},
    usage::Part,
};
use super::{
    base,
    blobs::BlobStore,
    compose::{self, LayerFrom},
    compress,
    config::ImageConfig,
    digest::Digest,
    disk::{self, Scratch},
    layers::{Layer, LayerStore},
    limits::Limits,
    load::{self, Loaded, Progress, oci::Resolved},
    manifest::Descriptor,
    partial::{Partial, Partials},
    pins::{Lease, Pins, Resource},
    reference::Reference,
    save::{self, Selected},
    trash::Trash,
};
use crate::{Error, Result, disk_usage::DiskUsage};

/// How long a removal waits for the disk. What is removed has no name any more by then.
const PATIENCE: Duration = Duration::from_secs(1);

/// All images below one root. Cheap to share by [`Arc`]; every method may be called from many threads.
#[derive(Debug)]
pub struct ImageStore {
    root: PathBuf,
    limits: Limits,
    blobs: BlobStore,
    partials: Partials,
    layers: LayerStore,
    records: Records,
    base: PathBuf,
    /// Directories under construction.
    work: PathBuf,
    pins: Arc<Pins>,
    trash: Arc<Trash>,
    snapshot: RwLock<Arc<Snapshot>>,
    /// Held while a change is written and published, so that disk and memory see changes in one order.
    change: Mutex<()>,
    holds: Arc<Mutex<HashMap<Digest, usize>>>,
    /// What could not be removed; tried again with the next removal.
    left: Mutex<Vec<Resource>>,
    /// What layers take on disk, as far as that was asked.
    measured: Mutex<HashMap<Digest, DiskUsage>>,
    /// Held by the one check there may be.
    checking: Mutex<()>,
}

/// The images at one moment.
#[derive(Clone, Debug, Default)]
struct Snapshot {
    images: BTreeMap<Digest, Arc<Image>>,
    names: BTreeMap<Reference, Digest>,
}

impl ImageStore {
    /// Opens the images below `root`, making it if needed, and removes what an engine that died left behind.
    ///
    /// # Errors
    /// If the file system fails. A damaged image is left out, not an error.
    pub fn open(root: &Path, limits: Limits) -> Result<Self> {
        disk::make_dir(root)?;
        let base = base::open(root)?;
        let work = root.join("work");
        disk::make_dir(&work)?;
        let trash = Arc::new(Trash::open(root)?);
        disk::unmount_below(&work)?;
        trash.sweep(&work)?;
        let blobs = BlobStore::open(root, &trash)?;
        let partials = Partials::open(root, &trash)?;
        partials.expire()?;
        let layers = LayerStore::open(root, limits.clone(), &trash)?;
        let records = Records::open(root, &trash)?;
        let snapshot = records.read(&blobs, &layers, &limits)?;
        let store = Self {
            root: root.to_owned(),
            limits,
            blobs,
            partials,
            layers,
            records,
            base,
            work,
            pins: Arc::default(),
            trash,
            snapshot: RwLock::new(Arc::new(snapshot)),
            change: Mutex::default(),
            holds: Arc::default(),
            left: Mutex::default(),
            measured: Mutex::default(),
            checking: Mutex::default(),
        };
        let blobs = store.blobs.list()?.into_iter().map(Resource::Blob);
        let layers = store
            .layers
            .list()
            .into_iter()
            .map(|layer| Resource::Layer(layer.key));
        store.collect(blobs.chain(layers).collect());
        Ok(store)
    }

    /// Loads an image archive: what `docker save` writes, or an OCI image layout, plain or compressed.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] and [`crate::Kind::TooLarge`] for archives that are refused. Nothing stays of an image that
    /// cannot be loaded; those before it in the archive are loaded.
    pub fn load(&self, input: impl Read, progress: &dyn Progress) -> Result<Vec<Loaded>> {
        load::load(self, input, progress)
    }

    /// Makes an image of `base`, if given, and a layer on top of it, if given. `config` describes it, but for its layers,
    /// which are filled in; what it leaves out of platform and time of creation is this host and now.
    ///
    /// # Errors
    /// What writing the layer gave; [`crate::Kind::Invalid`] if it is no layer.
    pub fn compose(
        &self,
        base: Option<&Image>,
        layer: Option<LayerFrom<'_>>,
        config: ImageConfig,
        names: &[Reference],
    ) -> Result<Loaded> {
        let hold = self.compose_kept(base, layer, config)?;
        self.reveal(&hold, names)
    }

    /// [`Self::compose`] for an image that nobody sees: it is there for who holds it, as if it were removed already.
    /// Nothing waits for the disk; after a power failure it may be gone.
    ///
    /// # Errors
    /// As [`Self::compose`].
    pub fn compose_kept(
        &self,
        base: Option<&Image>,
        layer: Option<LayerFrom<'_>>,
        config: ImageConfig,
    ) -> Result<Hold> {
        compose::compose_kept(self, base, layer, config)
    }

    /// Makes an image that is held one that everybody sees, and names it.
    ///
    /// # Errors
    /// If the file system fails. Then it is seen by nobody, if it was not before; names that were given before stay.
    pub fn reveal(&self, hold: &Hold, names: &[Reference]) -> Result<Loaded> {
        let id = hold.image().id;
        let hidden = |store: &Self| store.now().images.get(&id).is_none_or(|image| image.removed);
        if hidden(self) {
            self.blobs
                .sync(hold.image().blobs.iter().map(|(digest, _)| digest))?;
        }
        let _change = self.change();
        let was_hidden = hidden(self);
        if was_hidden {
            let mut image = Image::clone(hold.image());
            image.removed = false;
            image.names.clear();
            image.added = Timestamp::now();
            self.records.write_image(&image)?;
            self.publish(|next| {
                next.images.insert(id, Arc::new(image));
            });
        }
        let named = self.name_all(&id, names);
        if named.is_err() && was_hidden {
            let mut image = Image::clone(hold.image());
            image.removed = true;
            self.records.write_image(&image)?;
            self.publish(|next| {
                next.names.retain(|_, target| *target != id);
                next.images.insert(id, Arc::new(image));
            });
        }
        named
    }

    /// A directory under construction on the file system of the layers. It vanishes when it is dropped.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn scratch(&self) -> Result<Scratch> {
        Scratch::new(&self.work, &self.trash)
    }

    /// Makes an image of one layer from the archive of a root file system, compressed or not; see [`Self::compose`].
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] and [`crate::Kind::TooLarge`] for archives that are refused.
    pub fn import(&self, archive: impl Read, config: ImageConfig, names: &[Reference]) -> Result<Loaded> {
        let mut archive = compress::portable(archive, &self.limits)?;
        let mut write = |out: &mut dyn Write| {
            std::io::copy(&mut archive, out).map_err(super::tar_reader::read_error)?;
            Ok(())
        };
        self.compose(None, Some(LayerFrom::Archive(&mut write)), config, names)
    }

    /// Writes images to an archive: an OCI image layout that is a `docker save` archive too. The same images make the
    /// same bytes.
    ///
    /// # Errors
    /// What writing gave, or if the file system fails.
    pub fn save(&self, images: &[Selected], out: impl Write) -> Result<()> {
        save::save(self, images, out)
    }

    /// All images, by ID.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.now()
            .images
            .values()
            .filter(|image| !image.removed)
            .cloned()
            .collect()
    }

    /// The image that `text` means: a full ID, a name with tag or digest, or the beginning of an ID.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`] and [`crate::Kind::Invalid`] in Docker's words.
    pub fn resolve(&self, text: &str) -> Result<Arc<Image>> {
        lookup::resolve(&self.now(), text)
    }

    /// The image with this ID.
    pub fn get(&self, id: &Digest) -> Option<Arc<Image>> {
        self.now().images.get(id).filter(|image| !image.removed).cloned()
    }

    /// The image with this name, which must have a tag or digest.
    pub fn named(&self, name: &Reference) -> Option<Arc<Image>> {
        let now = self.now();
        now.names.get(name).and_then(|id| now.images.get(id)).cloned()
    }

    /// The directories that overlayfs stacks for `image`, topmost first; at least one.
    pub fn lower_dirs(&self, image: &Image) -> Vec<PathBuf> {
        let mut dirs = Vec::new();
        for layer in image.layers.iter().rev() {
            dirs.push(self.layers.tree(&layer.key));
            if layer.opaque {
                break;
            }
        }
        dirs.push(self.base.clone());
        dirs
    }

    /// The configuration of `image` as it came.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn raw_config(&self, image: &Image) -> Result<Vec<u8>> {
        self.blobs
            .read(&image.config_descriptor.digest, self.limits.config_bytes)
    }

    /// Keeps the content of an image, even if the image is removed meanwhile: then it is no longer listed or found by
    /// name, and goes when the last hold on it does (at the next [`Self::purge`]).
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`] if there is no content of that ID any more.
    pub fn hold(&self, id: &Digest) -> Result<Hold> {
        let _change = self.change();
        let image = self.now().images.get(id).cloned();
        let image = image.ok_or_else(|| Error::not_found(format!("No such image: {id}")))?;
        *self.lock_holds().entry(*id).or_default() += 1;
        Ok(Hold {
            image,
            holds: Arc::clone(&self.holds),
        })
    }

    /// Names an image. Returns the ID of the image that had this name until now, if another one had.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`] if there is no such image, [`crate::Kind::Invalid`] if the name has no tag and no digest.
    pub fn tag(&self, id: &Digest, name: &Reference) -> Result<Option<Digest>> {
        let _change = self.change();
        self.tag_locked(id, name)
    }

    /// Takes a name away. Returns the ID of the image that had it.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`] if no image has it.
    pub fn untag(&self, name: &Reference) -> Result<Digest> {
        let _change = self.change();
        let now = self.now();
        let id = now.names.get(name).copied();
        let id = id.ok_or_else(|| Error::not_found(format!("No such image: {}", name.familiar())))?;
        self.records.remove_name(name)?;
        self.publish(|next| {
            next.names.remove(name);
            next.rename(&id, None);
        });
        Ok(id)
    }

    /// Removes an image with all its names. What it alone refers to goes too, unless it is held.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`] if there is no such image.
    pub fn remove(&self, id: &Digest) -> Result<()> {
        match self.remove_if(id, |_| true)? {
            true => Ok(()),
            false => Err(Error::not_found(format!("No such image: {id}"))),
        }
    }

    /// [`Self::remove`], if the image is there and `condition` holds, which others cannot change meanwhile. Gives whether
    /// it was removed.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn remove_if(&self, id: &Digest, condition: impl FnOnce(&Image) -> bool) -> Result<bool> {
        let change = self.change();
        let now = self.now();
        let image = now.images.get(id).filter(|image| !image.removed).cloned();
        let Some(image) = image.filter(|image| condition(image)) else {
            return Ok(false);
        };
        let held = self.lock_holds().contains_key(id);
        if held {
            let mut kept = Image::clone(&image);
            kept.removed = true;
            kept.names.clear();
            self.records.write_image(&kept)?;
            self.publish(|next| {
                next.names.retain(|_, target| target != id);
                next.images.insert(*id, Arc::new(kept));
            });
        } else {
            self.records.remove_image(id)?;
            self.publish(|next| {
                next.names.retain(|_, target| target != id);
                next.images.remove(id);
            });
        }
        // Stale if this fails, and then removed at the next start; it keeps neither the other names nor what is theirs.
        let mut failed = Ok(());
        for name in &image.names {
            let removed = self.records.remove_name(name);
            failed = failed.and(removed);
        }
        drop(change);
        if !held {
            self.collect(image.resources());
        }
        failed.map(|()| true)
    }

    /// Lets go of removed images that nobody holds any more, and of content whose removal has failed before. An engine that starts holds what its containers need first.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn purge(&self) -> Result<()> {
        let change = self.change();
        let gone: Vec<_> = {
            let holds = self.lock_holds();
            let now = self.now();
            now.images
                .values()
                .filter(|image| image.removed && !holds.contains_key(&image.id))
                .cloned()
                .collect()
        };
        let (mut resources, mut failed) = (Vec::new(), Ok(()));
        for image in &gone {
            // One that resists keeps neither the others nor what is theirs.
            match self.records.remove_image(&image.id) {
                Ok(()) => {
                    self.publish(|next| {
                        next.images.remove(&image.id);
                    });
                    resources.extend(image.resources());
                }
                Err(error) => failed = Err(error),
            }
        }
        drop(change);
        self.collect(resources);
        failed?;
        self.trash.try_again()
    }

    /// The blobs that are arriving, or whose transfer was broken off, which the next pull of them goes on with.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn partials(&self) -> Result<Vec<Partial>> {
        self.partials.list()
    }

    /// Throws away the beginnings of blobs that nobody has gone on with for a day.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn expire(&self) -> Result<()> {
        self.partials.expire()
    }

    pub(crate) fn arriving(&self) -> &Partials {
        &self.partials
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    pub(super) fn layers(&self) -> &LayerStore {
        &self.layers
    }

    pub(crate) fn pins(&self) -> &Arc<Pins> {
        &self.pins
    }

    /// The diff ID of the layer archive `blob`, if an image knows it.
    pub(crate) fn diff_id_of(&self, blob: &Digest) -> Option<Digest> {
        let now = self.now();
        let mut layers = now.images.values().flat_map(|image| &image.layers);
        layers
            .find(|layer| layer.blob.digest == *blob)
            .map(|layer| layer.diff_id)
    }

    /// Makes an image of what is complete on disk that nobody sees, and holds it.
    pub(super) fn add_kept(&self, resolved: Resolved, keys: &[Digest]) -> Result<Hold> {
        let layers = keys
            .iter()
            .map(|key| self.layer(key))
            .collect::<Result<Vec<_>>>()?;
        let mut image = Image::new(resolved, &layers, Timestamp::now());
        image.removed = true;
        let id = image.id;
        let _change = self.change();
        let known = self.now().images.get(&id).cloned();
        let image = match known {
            Some(known) => known,
            None => {
                self.records.write_image_lazily(&image)?;
                let image = Arc::new(image);
                self.publish(|next| {
                    next.images.insert(id, Arc::clone(&image));
                });
                image
            }
        };
        *self.lock_holds().entry(id).or_default() += 1;
        Ok(Hold {
            image,
            holds: Arc::clone(&self.holds),
        })
    }

    /// Makes an image of what is complete on disk, and names it; `pulled` if a registry has it like this.
    pub(super) fn add(
        &self,
        resolved: Resolved,
        keys: &[Digest],
        names: &[Reference],
        pulled: bool,
    ) -> Result<Loaded> {
        let layers = keys
            .iter()
            .map(|key| self.layer(key))
            .collect::<Result<Vec<_>>>()?;
        let mut image = Image::new(resolved, &layers, Timestamp::now());
        image.pulled = pulled;
        let id = image.id;
        if self
            .now()
            .images
            .get(&id)
            .is_none_or(|known| !known.covers(&image))
        {
            // The blobs are on disk before the record is; layers can be made again.
            self.blobs.sync(image.blobs.iter().map(|(digest, _)| digest))?;
        }
        let _change = self.change();
        let known = self.now().images.get(&id).cloned();
        let is_new = known.is_none();
        if known.as_ref().is_none_or(|known| !known.covers(&image)) {
            if let Some(known) = known {
                image.take_over(&known);
            }
            self.records.write_image(&image)?;
            self.publish(|next| {
                next.images.insert(id, Arc::new(image));
            });
        }
        let named = self.name_all(&id, names);
        if named.is_err() && is_new {
            // Nothing of it stays, not even without its names.
            self.records.remove_image(&id)?;
            self.publish(|next| {
                next.names.retain(|_, target| *target != id);
                next.images.remove(&id);
            });
        }
        named
    }

    /// Names an image that was just added; only while a change is under way.
    fn name_all(&self, id: &Digest, names: &[Reference]) -> Result<Loaded> {
        let mut loaded = Loaded {
            id: *id,
            names: Vec::new(),
            moved: Vec::new(),
        };
        for name in names {
            if let Some(old) = self.tag_locked(id, name)? {
                loaded.moved.push((name.clone(), old));
            }
            loaded.names.push(name.clone());
        }
        Ok(loaded)
    }

    /// Notes the manifest that registries get of the image `id`, which is on disk.
    ///
    /// # Errors
    /// If the file system fails; [`crate::Kind::NotFound`] if there is no such image any more.
    pub(super) fn note_packed(&self, id: &Digest, manifest: &Descriptor) -> Result<()> {
        self.blobs.sync([&manifest.digest])?;
        let _change = self.change();
        let known = self.now().images.get(id).cloned();
        let known = known.ok_or_else(|| Error::not_found(format!("No such image: {id}")))?;
        let mut image = Image::clone(&known);
        if let Some(old) = image.packed.replace(manifest.clone()) {
            image.blobs.retain(|(digest, _)| *digest != old.digest);
        }
        image.blobs.push((manifest.digest, manifest.size));
        self.records.write_image(&image)?;
        self.publish(|next| {
            next.images.insert(*id, Arc::new(image));
        });
        Ok(())
    }

    /// Has the manifest that registries get of the image `id` made anew when it is needed.
    ///
    /// # Errors
    /// If the file system fails.
    fn forget_packed(&self, id: &Digest) -> Result<()> {
        let _change = self.change();
        let Some(known) = self.now().images.get(id).cloned() else {
            return Ok(());
        };
        let mut image = Image::clone(&known);
        if let Some(old) = image.packed.take() {
            image.blobs.retain(|(digest, _)| *digest != old.digest);
        }
        self.records.write_image(&image)?;
        self.publish(|next| {
            next.images.insert(*id, Arc::new(image));
        });
        Ok(())
    }

    /// Gives up a lease and removes what was made under it and belongs to no image.
    pub(crate) fn collect_after(&self, lease: Lease) {
        let resources = lease.resources();
        drop(lease);
        self.collect(resources);
    }

    fn layer(&self, key: &Digest) -> Result<Arc<Layer>> {
        self.layers
            .get(key)
            .ok_or_else(|| Error::internal(format!("the layer {key} has vanished")))
    }

    fn tag_locked(&self, id: &Digest, name: &Reference) -> Result<Option<Digest>> {
        if name.tag().is_none() && name.digest().is_none() {
            return Err(Error::invalid(format!("{} has no tag", name.familiar())));
        }
        let now = self.now();
        if now.images.get(id).is_none_or(|image| image.removed) {
            return Err(Error::not_found(format!("No such image: {id}")));
        }
        let old = now.names.get(name).copied();
        if old == Some(*id) {
            return Ok(None);
        }
        let tagged = Timestamp::now();
        self.records.write_name(name, id, tagged)?;
        self.publish(|next| {
            next.names.insert(name.clone(), *id);
            next.rename(id, Some(tagged));
            if let Some(old) = &old {
                next.rename(old, None);
            }
        });
        Ok(old)
    }

    /// Removes those of `candidates` that no image refers to, and what earlier calls could not remove. Failures leave
    /// garbage for the next call, at the latest for that of the next start.
    fn collect(&self, mut candidates: Vec<Resource>) {
        candidates.append(&mut self.lock_left());
        let doomed = self.pins.doom(candidates, || self.used());
        for resource in &doomed.resources {
            let removed = match resource {
                Resource::Blob(digest) => self.blobs.remove(digest),
                Resource::Layer(key) => self.layers.remove(key),
            };
            if let Err(error) = removed {
                tracing::warn!(%error, ?resource, "cannot remove unused content");
                self.lock_left().push(*resource);
            }
        }
        if !doomed.resources.is_empty() {
            self.trash.settle(PATIENCE);
        }
    }

    fn lock_left(&self) -> MutexGuard<'_, Vec<Resource>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_measured(&self) -> MutexGuard<'_, HashMap<Digest, DiskUsage>> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn used(&self) -> HashSet<Resource> {
        self.now()
            .images
            .values()
            .flat_map(|image| image.resources())
            .collect()
    }

    fn now(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes the next snapshot; only while a change is under way.
    fn publish(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut next = Snapshot::clone(&self.now());
        change(&mut next);
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_holds(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Snapshot {
    /// Gives the image `id` the names that now lead to it.
    fn rename(&mut self, id: &Digest, tagged: Option<Timestamp>) {
        let Some(image) = self.images.get_mut(id) else {
            return;
        };
        let mut renamed = Image::clone(image);
        renamed.names = self
            .names
            .iter()
            .filter(|(_, target)| *target == id)
            .map(|(name, _)| name.clone())
            .collect();
        renamed.tagged = tagged.or(renamed.tagged);
        *image = Arc::new(renamed);
    }
}

/// Keeps an image's content; see [`ImageStore::hold`].
#[derive(Debug)]
pub struct Hold {
    image: Arc<Image>,
    holds: Arc<Mutex<HashMap<Digest, usize>>>,
}

impl Hold {
    /// The image, as it was when the hold was taken.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = holds.get_mut(&self.image.id) {
            *count -= 1;
            if *count == 0 {
                holds.remove(&self.image.id);
            }
        }
    }
}
