//! Images: what can be asked of them and done with them.
//!
//! | module | what it is |
//! |---|---|
//! | `views` | images as the API shows them |
//! | `selection` | filters of lists and prunes |
//! | `removal` | what a removal takes away, and when it is refused |
//! | `transfer` | archives in and out, with progress |
//! | `registry` | images from and to registries |
//! | [`commit`] | images made of what was changed in a container |
//! | [`changes`], `words` | Dockerfile instructions applied to a configuration |
//!
//! The content is kept by [`berth_runtime::image::ImageStore`], whose look-ups never wait; everything here that touches
//! the disk blocks, and handlers call it where it may.

pub mod changes;
pub mod commit;
mod registry;
mod removal;
mod selection;
mod transfer;
mod views;
mod words;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, Mutex, TryLockError},
    time::Duration,
};

use arc_swap::ArcSwap;
use berth_api::{
    ApiVersion, Filters,
    models::{
        EventMessageType, ImageDeleteResponseItem, ImageHistoryResponseItem, ImageInspect, ImageSummary,
    },
};
use berth_runtime::{
    Error, Result,
    image::{Digest, Hold, Image, ImageStore, Limits, Reference},
    registry::{Registry, Settings},
};
use jiff::Timestamp;

pub use self::{registry::platform, removal::User, transfer::Import, views::STORAGE_DRIVER};
use self::{
    removal::Named,
    selection::{Facts, Selection},
    transfer::set_platform,
    views::Shown,
};
use super::events::{Attributes, Events};

/// How often it is looked for what has expired.
const EXPIRY: Duration = Duration::from_secs(60 * 60);

/// The engine's images. Clones are cheap and are the same images.
#[derive(Clone, Debug)]
pub struct Images {
    store: Arc<ImageStore>,
    /// Replaced as a whole when the settings of registries change.
    registry: Arc<ArcSwap<Registry>>,
    events: Arc<Events>,
    /// Held by the one clean-up there may be.
    pruning: Arc<Mutex<()>>,
    /// Ends when the last clone goes.
    _expiry: Arc<Expiry>,
}

/// The task that throws away what nobody goes on with.
#[derive(Debug)]
struct Expiry(tokio::task::JoinHandle<()>);

impl Drop for Expiry {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Looks once an hour for the beginnings of blobs that are too old.
async fn expire(store: Arc<ImageStore>) {
    let mut hours = tokio::time::interval(EXPIRY);
    loop {
        hours.tick().await;
        let store = Arc::clone(&store);
        match tokio::task::spawn_blocking(move || store.expire()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "old partial downloads stay"),
            Err(error) => tracing::warn!(%error, "the expiry of partial downloads was broken off"),
        }
    }
}

/// Tells which containers use the image of an id.
pub type Users<'a> = dyn Fn(&str) -> Vec<User> + 'a;

/// What an image list is asked for (API operation `ImageList`).
#[derive(Debug)]
pub struct ListRequest<'a> {
    /// Which images.
    pub filters: &'a Filters,
    /// Also tell how many bytes of each image others share.
    pub shared_size: bool,
    /// The version that the client speaks.
    pub version: ApiVersion,
}

/// What a prune took away.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Names and ids in the order they went.
    pub items: Vec<ImageDeleteResponseItem>,
    /// Bytes that are free again.
    pub reclaimed: u64,
}

impl Images {
    /// Opens the images below `root`. To be called where tasks run.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn open(root: &Path, events: Arc<Events>, registries: Settings) -> Result<Self> {
        let store = Arc::new(ImageStore::open(root, Limits::default())?);
        Ok(Self {
            _expiry: Arc::new(Expiry(tokio::spawn(expire(Arc::clone(&store))))),
            store,
            registry: Arc::new(ArcSwap::from_pointee(Registry::new(registries))),
            events,
            pruning: Arc::default(),
        })
    }

    /// Has registries spoken to in another way from now on.
    pub fn set_registries(&self, settings: Settings) {
        let renewed = self.registry.load().renewed(settings);
        self.registry.store(Arc::new(renewed));
    }

    /// The client of registries as it is now.
    fn registry(&self) -> Arc<Registry> {
        self.registry.load_full()
    }

    /// The content behind the images.
    pub fn store(&self) -> &Arc<ImageStore> {
        &self.store
    }

    /// The image that `text` means: a full id, a name with tag or digest, or the beginning of an id.
    ///
    /// # Errors
    /// Not found and invalid in Docker's words.
    pub fn resolve(&self, text: &str) -> Result<Arc<Image>> {
        self.store.resolve(text)
    }

    /// How many images there are.
    pub fn count(&self) -> usize {
        self.store.list().len()
    }

    /// The images that fit, newest first.
    ///
    /// # Errors
    /// Invalid for a filter value that does not parse; not found for an image that a filter names and is not there.
    pub fn list(&self, request: &ListRequest<'_>) -> Result<Vec<ImageSummary>> {
        let selection = self.selection(request.filters)?;
        let all = self.store.list();
        let shared = request.shared_size.then(|| shared_bytes(&all));
        let mut images: Vec<_> = all.iter().filter(|image| takes(&selection, image)).collect();
        images.sort_by(|a, b| created(b).cmp(&created(a)).then_with(|| a.id.cmp(&b.id)));
        let summaries = images.into_iter().map(|image| {
            let mut shown = shown(image);
            shown.tags.retain(|tag| selection.shows(tag));
            shown.digests = image
                .names
                .iter()
                .filter(|name| selection.shows(name))
                .filter_map(|name| image.repo_digest(name))
                .collect();
            shown.digests.sort();
            shown.digests.dedup();
            let shared = shared
                .as_ref()
                .map_or(-1, |shared| shared.get(&image.id).copied().unwrap_or(0));
            views::summary(&shown, shared, -1, request.version)
        });
        Ok(summaries.collect())
    }

    /// Bytes of all unpacked layers, shared ones once.
    pub fn layers_size(&self) -> u64 {
        let images = self.store.list();
        let layers = images.iter().flat_map(|image| &image.layers);
        let sizes: HashMap<Digest, u64> = layers.map(|layer| (layer.diff_id, layer.size)).collect();
        sizes.into_values().fold(0, u64::saturating_add)
    }

    /// All about one image.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn inspect(&self, name: &str) -> Result<ImageInspect> {
        let image = self.resolve(name)?;
        let mut shown = shown(&image);
        let parent = image.config.parent.parse().ok();
        if parent.is_some_and(|parent| self.store.get(&parent).is_some()) {
            shown.parent.clone_from(&image.config.parent);
        }
        Ok(views::inspect(&shown))
    }

    /// The steps that made an image, newest first.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn history(&self, name: &str) -> Result<Vec<ImageHistoryResponseItem>> {
        let image = self.resolve(name)?;
        let sizes: Vec<u64> = image.layers.iter().map(|layer| layer.size).collect();
        Ok(views::history(&shown(&image), &sizes))
    }

    /// Gives an image another name: `repository` may hold a tag, which `tag` replaces.
    ///
    /// # Errors
    /// Not found if there is no such image; invalid if the name is malformed.
    pub fn tag(&self, name: &str, repository: &str, tag: &str) -> Result<()> {
        let image = self.resolve(name)?;
        let reference = target(repository, tag)?;
        self.store.tag(&image.id, &reference)?;
        self.publish("tag", &image, &reference.familiar());
        Ok(())
    }

    /// Makes an image that somebody holds one that everybody sees, and names it.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn reveal(&self, hold: &Hold, names: &[Reference]) -> Result<()> {
        let is_new = self.store.get(&hold.image().id).is_none();
        self.store.reveal(hold, names)?;
        if is_new {
            self.publish("create", hold.image(), &hold.image().id.to_string());
        }
        for name in names {
            self.publish("tag", hold.image(), &name.familiar());
        }
        Ok(())
    }

    /// Removes a name of an image, or the image with all its names; `users` are asked whether they need it.
    ///
    /// # Errors
    /// Not found and invalid as [`Self::resolve`]; conflict if the image is used or has several names.
    pub fn remove(&self, name: &str, force: bool, users: &Users<'_>) -> Result<Vec<ImageDeleteResponseItem>> {
        let image = self.resolve(name)?;
        let reference = named(name, &image);
        let named = reference.as_ref().map_or(Named::Id, Named::Reference);
        let id = image.id.to_string();
        let plan = removal::plan(&id, &image.names, named, &users(&id), force)?;
        self.carry_out(&image, &plan)
    }

    /// Removes images that no container uses: those without a tag, or with the filter `dangling=false` all.
    ///
    /// # Errors
    /// Invalid for a filter value that does not parse; conflict if another prune is under way.
    pub fn prune(&self, filters: &Filters, users: &Users<'_>) -> Result<Pruned> {
        let _only_one = match self.pruning.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(guard)) => guard.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::conflict("a prune operation is already running"));
            }
        };
        let selection = self.selection(filters)?;
        let only_dangling = selection.dangling().unwrap_or(true);
        let before = self.layers_size();
        let mut pruned = Pruned::default();
        for image in self.store.list() {
            let id = image.id.to_string();
            let unwanted = image.is_dangling() || !only_dangling;
            if unwanted && Self::fits_prune(&selection, &image) && users(&id).is_empty() {
                // One that was named or taken away since it was looked at is somebody else's affair.
                if self.store.remove_if(&image.id, |now| now.names == image.names)? {
                    pruned.items.extend(self.tell_removed(&image, &image.names, true));
                }
            }
        }
        self.store.purge()?;
        pruned.reclaimed = before.saturating_sub(self.layers_size());
        if !only_dangling {
            // Whoever wants nothing but what is in use does not wait for the rest of broken transfers either.
            pruned.reclaimed += self.registry().forget_partials(&self.store)?;
        }
        let reclaimed = Attributes::from([("reclaimed".to_owned(), pruned.reclaimed.to_string())]);
        self.events
            .publish(EventMessageType::Image, "prune", "", reclaimed);
        Ok(pruned)
    }

    /// `dangling` of a prune says how far it goes; it does not choose among images.
    fn fits_prune(selection: &Selection<'_>, image: &Image) -> bool {
        selection.takes_whether_dangling_or_not(&facts(image, &tags(image)))
    }

    fn selection<'a>(&self, filters: &'a Filters) -> Result<Selection<'a>> {
        Selection::new(filters, |name| Ok(created(&*self.resolve(name)?)))
    }

    fn carry_out(&self, image: &Image, plan: &removal::Plan) -> Result<Vec<ImageDeleteResponseItem>> {
        if plan.delete && plan.untag.len() == image.names.len() {
            // All at once, unless it was named once more meanwhile.
            if self.store.remove_if(&image.id, |now| now.names == image.names)? {
                return Ok(self.tell_removed(image, &plan.untag, true));
            }
        }
        let mut gone = Vec::new();
        for name in &plan.untag {
            match self.store.untag(name) {
                Ok(_) => gone.push(name.clone()),
                // Somebody else was faster.
                Err(error) if error.kind() == berth_runtime::Kind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let deleted = plan.delete && self.store.remove_if(&image.id, |now| now.names.is_empty())?;
        if gone.is_empty() && !deleted {
            return Err(Error::not_found(format!("No such image: {}", image.id)));
        }
        Ok(self.tell_removed(image, &gone, deleted))
    }

    /// Tells that names of an image have gone, and perhaps the image itself.
    fn tell_removed(&self, image: &Image, gone: &[Reference], deleted: bool) -> Vec<ImageDeleteResponseItem> {
        let mut items = Vec::new();
        for (at, name) in gone.iter().enumerate() {
            self.publish("untag", image, &image.id.to_string());
            items.push(untagged(name.familiar()));
            // With its last tag a repository loses the digest that it is known by there.
            let later = gone.iter().skip(at + 1);
            let stays = image.names.iter().filter(|name| !gone.contains(name));
            let mut others = later.chain(stays);
            if image.was_pulled()
                && name.digest().is_none()
                && !others.any(|other| other.same_repository(name))
            {
                items.extend(image.repo_digest(name).map(untagged));
            }
        }
        if deleted {
            self.publish("delete", image, &image.id.to_string());
            items.push(ImageDeleteResponseItem {
                deleted: image.id.to_string(),
                ..ImageDeleteResponseItem::default()
            });
        }
        items
    }

    /// Tells that something happened to an image; `name` is what the event calls it.
    fn publish(&self, action: &str, image: &Image, name: &str) {
        let mut attributes: Attributes = image.config.config.labels.clone().unwrap_or_default();
        attributes.insert("name".to_owned(), name.to_owned());
        self.events
            .publish(EventMessageType::Image, action, image.id.to_string(), attributes);
    }
}

fn untagged(name: String) -> ImageDeleteResponseItem {
    ImageDeleteResponseItem {
        untagged: name,
        ..ImageDeleteResponseItem::default()
    }
}

/// The reference that `text` is, if it names `image` by one and not by its id.
fn named(text: &str, image: &Image) -> Option<Reference> {
    let reference = Reference::parse(text).ok()?.normalized();
    let by_digest =
        reference.digest() == Some(&image.id) && image.names.iter().any(|n| n.same_repository(&reference));
    (by_digest || image.names.contains(&reference)).then_some(reference)
}

/// The name that a tag or an import asks for. None of it may be a digest.
///
/// # Errors
/// Invalid if it is malformed.
fn target(repository: &str, tag: &str) -> Result<Reference> {
    let reference = Reference::parse(repository)?;
    if reference.digest().is_some() {
        return Err(Error::invalid(format!(
            "refusing to create a tag with a digest reference: {repository:?} must not hold a digest"
        )));
    }
    if reference.path() == "library/sha256" {
        return Err(Error::invalid(
            "refusing to create an ambiguous tag using digest algorithm as name: choose another repository than sha256",
        ));
    }
    match tag {
        "" => Ok(reference.normalized()),
        tag => reference.with_tag(tag),
    }
}

fn created(image: &Image) -> Timestamp {
    image.created().unwrap_or(Timestamp::UNIX_EPOCH)
}

fn tags(image: &Image) -> Vec<Reference> {
    image
        .names
        .iter()
        .filter(|name| name.digest().is_none())
        .cloned()
        .collect()
}

fn facts<'a>(image: &'a Image, tags: &'a [Reference]) -> Facts<'a> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    Facts {
        created: created(image),
        labels: image.config.config.labels.as_ref().unwrap_or(&NONE),
        tags,
    }
}

fn takes(selection: &Selection<'_>, image: &Image) -> bool {
    selection.takes(&facts(image, &tags(image)))
}

fn shown(image: &Image) -> Shown<'_> {
    Shown {
        id: image.id.to_string(),
        config: &image.config,
        size: image.size(),
        tags: tags(image),
        digests: image.repo_digests(),
        last_tagged: image.tagged,
        parent: String::new(),
    }
}

/// Of each image, the bytes of the layers that another image has too.
fn shared_bytes(images: &[Arc<Image>]) -> HashMap<Digest, i64> {
    let mut users: HashMap<Digest, usize> = HashMap::new();
    for layer in images.iter().flat_map(|image| &image.layers) {
        *users.entry(layer.diff_id).or_default() += 1;
    }
    let shared = |image: &Image| -> u64 {
        let layers = image
            .layers
            .iter()
            .filter(|layer| users.get(&layer.diff_id).is_some_and(|n| *n > 1));
        layers.map(|layer| layer.size).fold(0, u64::saturating_add)
    };
    images
        .iter()
        .map(|image| (image.id, i64::try_from(shared(image)).unwrap_or(i64::MAX)))
        .collect()
}
