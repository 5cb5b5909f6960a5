//! Images to registries: blobs that are not there yet, then manifests. What was pulled is sent as it is stored, so that it
//! has the same digests again; layers that were made or loaded without compression are compressed, see
//! [`crate::image::packed`].

use std::{
    collections::{HashMap, HashSet},
    io::{Seek, SeekFrom},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use reqwest::{Body, Method, Response, StatusCode, Url};
use tokio::{io::AsyncReadExt as _, task::JoinSet};
use tokio_util::io::ReaderStream;

use super::{
    Credentials, Event, Listener, Registry, State, blocking,
    failure::{Attempt, Failure},
    lookup::tag_or_digest,
    session::{self, Request, Session},
};
use crate::{
    Error, Kind, Result,
    image::{
        Descriptor, Digest, Image, ImageStore, Reference,
        incoming::Incoming,
        manifest::{Document, media},
    },
};

/// Blobs larger than this are sent in pieces of this size, each of which can be sent again.
const PIECE: u64 = 16 << 20;
const BUFFER: usize = 128 << 10;
/// A registry that takes less in a second has stalled.
const SLOWEST: u64 = 16 << 10;
/// How often progress of one blob is told at most.
const PACE: Duration = Duration::from_millis(100);
/// Other repositories that are named as having a blob.
const MOUNTS: usize = 3;

/// An image that was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The tag.
    pub tag: String,
    /// The digest of the manifest or index that the registry has now.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// What has to be there, in this order: blobs, then manifests, the last of which gets the tag.
#[derive(Default)]
struct Plan {
    blobs: Vec<Descriptor>,
    manifests: Vec<Descriptor>,
    /// Blobs that need not be here, and the archives that they are made of.
    made_of: HashMap<Digest, Digest>,
}

struct Push {
    session: Arc<Session>,
    listener: Arc<dyn Listener>,
    /// What layers are called, by their blobs.
    diff_ids: HashMap<Digest, Digest>,
    /// Repositories of the same registry that may have a blob.
    elsewhere: HashMap<Digest, Vec<String>>,
    made_of: HashMap<Digest, Digest>,
    /// Keeps everything while it is sent.
    incoming: Arc<Incoming>,
}

impl Registry {
    /// Sends `image` to the registry of `name`, under its tag. Of an index of which platforms are missing here only the
    /// image of this host is sent.
    ///
    /// # Errors
    /// What the registry says if it refuses.
    pub async fn push(
        self: &Arc<Self>,
        store: &Arc<ImageStore>,
        image: &Arc<Image>,
        name: &Reference,
        credentials: &Credentials,
        listener: Arc<dyn Listener>,
    ) -> Result<Pushed> {
        let incoming = Arc::new(Incoming::new(Arc::clone(store)));
        let mut pushed = Err(Error::internal("nothing was sent"));
        for anew in [false, true] {
            pushed = self
                .push_once(&incoming, image, name, credentials, &listener, anew)
                .await;
            // Layers that are compressed to something else than before are described anew.
            let stale = matches!(&pushed, Err(error) if error.kind() == Kind::Conflict);
            if !stale || !image.is_packed_for_registries() {
                break;
            }
        }
        let cleared =
            tokio::task::spawn_blocking(move || drop(Arc::try_unwrap(incoming).map(Incoming::close)));
        if let Err(error) = cleared.await {
            tracing::warn!(%error, "what a push has made stays until the next start");
        }
        pushed
    }

    async fn push_once(
        self: &Arc<Self>,
        incoming: &Arc<Incoming>,
        image: &Arc<Image>,
        name: &Reference,
        credentials: &Credentials,
        listener: &Arc<dyn Listener>,
        anew: bool,
    ) -> Result<Pushed> {
        for layer in &image.layers {
            listener.hear(Event::Layer {
                digest: layer.diff_id,
                state: State::Preparing,
                done: (0, 0),
            });
        }
        let plan = {
            let (incoming, image) = (Arc::clone(incoming), Arc::clone(image));
            blocking(move || plan(&incoming, &image, anew)).await?
        };
        let elsewhere = elsewhere(incoming.store(), name, &plan);
        let others: HashSet<String> = elsewhere.values().flatten().cloned().collect();
        let others: Vec<String> = others.into_iter().collect();
        let place = {
            let (registry, name) = (Arc::clone(self), name.clone());
            blocking(move || registry.origin(name.domain(), name.path())).await?
        };
        let session = Session::new(Arc::clone(self), place, credentials, "pull,push", &others);
        let own = image.layers.iter().map(|l| (l.blob.digest, l.diff_id));
        let diff_ids = own.chain(plan.made_of.iter().map(|(blob, plain)| (*blob, *plain)));
        let push = Arc::new(Push {
            session: Arc::new(session),
            listener: Arc::clone(listener),
            diff_ids: diff_ids.collect(),
            elsewhere,
            made_of: plan.made_of,
            incoming: Arc::clone(incoming),
        });
        push.blobs(&plan.blobs).await?;
        let tag = tag_or_digest(name);
        let mut last = None;
        for (at, manifest) in plan.manifests.iter().enumerate() {
            let is_top = at + 1 == plan.manifests.len();
            let under = if is_top {
                tag.clone()
            } else {
                manifest.digest.to_string()
            };
            push.manifest(manifest, &under)
                .await
                .map_err(Failure::into_error)?;
            last = Some(manifest);
        }
        let top = last.ok_or_else(|| Error::internal("the image has no manifest"))?;
        Ok(Pushed {
            tag,
            digest: top.digest,
            size: top.size,
        })
    }
}

/// Everything that an image refers to; of an incomplete index what its own manifest refers to.
fn plan(incoming: &Incoming, image: &Image, anew: bool) -> Result<Plan> {
    incoming.keep(image)?;
    let store = incoming.store();
    let mut whole = Plan::default();
    let mut target = &image.target;
    let packed = incoming.packed(image, anew)?;
    if let Some(packed) = &packed {
        target = &packed.manifest;
        let made_of = packed.layers.iter().map(|(blob, plain)| (blob.digest, *plain));
        whole.made_of = made_of.collect();
    }
    if walk(store, target, &mut whole, 0)? {
        return Ok(whole);
    }
    let mut own = Plan::default();
    match walk(store, &image.manifest, &mut own, 0)? {
        true => Ok(own),
        false => Err(Error::internal(format!(
            "content of {} is missing: remove the image and pull or load it again",
            image.id
        ))),
    }
}

/// Adds `descriptor` and what it refers to; `false` if some of that is not here.
fn walk(store: &ImageStore, descriptor: &Descriptor, plan: &mut Plan, depth: usize) -> Result<bool> {
    const DEPTH: usize = 4;
    if depth > DEPTH || store.blobs().size(&descriptor.digest)?.is_none() {
        return Ok(false);
    }
    if plan
        .manifests
        .iter()
        .any(|known| known.digest == descriptor.digest)
    {
        return Ok(true);
    }
    let bytes = store
        .blobs()
        .read(&descriptor.digest, store.limits().config_bytes)?;
    match Document::parse(&bytes, store.limits())? {
        Document::Index(index) => {
            for child in &index.manifests {
                if !walk(store, child, plan, depth + 1)? {
                    return Ok(false);
                }
            }
        }
        Document::Manifest(manifest) => {
            for part in manifest.layers.iter().chain([&manifest.config]) {
                let can_be_made = plan.made_of.contains_key(&part.digest);
                if !can_be_made && store.blobs().size(&part.digest)? != Some(part.size) {
                    return Ok(false);
                }
                if !plan.blobs.iter().any(|known| known.digest == part.digest) {
                    plan.blobs.push(part.clone());
                }
            }
        }
    }
    plan.manifests.push(descriptor.clone());
    Ok(true)
}

/// Which other repositories of the same registry may have the blobs, as far as is known here.
fn elsewhere(store: &ImageStore, name: &Reference, plan: &Plan) -> HashMap<Digest, Vec<String>> {
    let wanted: HashSet<Digest> = plan.blobs.iter().map(|blob| blob.digest).collect();
    let by_plain: HashMap<Digest, Digest> =
        plan.made_of.iter().map(|(blob, plain)| (*plain, *blob)).collect();
    let mut found: HashMap<Digest, Vec<String>> = HashMap::new();
    for image in store.list() {
        let repositories: HashSet<&str> = image
            .names
            .iter()
            .filter(|other| other.domain() == name.domain() && other.path() != name.path())
            .map(Reference::path)
            .collect();
        let layers = image.layers.iter().map(|layer| layer.blob.digest);
        let made = image
            .layers
            .iter()
            .filter_map(|layer| by_plain.get(&layer.diff_id));
        for blob in layers.chain(made.copied()).filter(|blob| wanted.contains(blob)) {
            let known = found.entry(blob).or_default();
            for repository in &repositories {
                if known.len() < MOUNTS && !known.iter().any(|k| k == repository) {
                    known.push((*repository).to_owned());
                }
            }
        }
    }
    found
}

impl Push {
    /// Sends the blobs that the registry does not have, several at a time.
    async fn blobs(self: &Arc<Self>, blobs: &[Descriptor]) -> Result<()> {
        let mut tasks = JoinSet::new();
        let turns = Arc::clone(&self.session.registry.uploading);
        for blob in blobs {
            let (push, blob, turns) = (Arc::clone(self), blob.clone(), Arc::clone(&turns));
            tasks.spawn(async move {
                let _turn = match turns.try_acquire() {
                    Ok(turn) => Ok(turn),
                    Err(_) => {
                        push.tell(&blob, State::Waiting, (0, 0));
                        turns.acquire().await
                    }
                };
                push.blob(&blob).await
            });
        }
        // The first that fails ends the others, which are dropped.
        while let Some(result) = tasks.join_next().await {
            match result {
                Ok(result) => result.map_err(Failure::into_error)?,
                Err(error) => return Err(Error::internal(format!("a transfer was broken off: {error}"))),
            }
        }
        Ok(())
    }

    async fn blob(&self, blob: &Descriptor) -> Attempt<()> {
        let path = format!("blobs/{}", blob.digest);
        match self.session.ask(&Request::new(Method::HEAD), &path).await {
            Ok(_) => {
                self.tell(blob, State::Known, (0, 0));
                return Ok(());
            }
            Err(failure) if failure.is_not_found() => {}
            Err(failure) => return Err(failure),
        }
        for repository in self.elsewhere.get(&blob.digest).into_iter().flatten() {
            let path = format!("blobs/uploads/?mount={}&from={repository}", blob.digest);
            match self
                .session
                .ask(&Request::new(Method::POST).bytes(""), &path)
                .await
            {
                Ok(response) if response.status() == StatusCode::CREATED => {
                    self.tell(blob, State::Mounted(repository.clone()), (0, 0));
                    return Ok(());
                }
                // It does not have the blob there, and has begun an upload instead.
                Ok(response) => {
                    self.cancel(&response).await;
                }
                // Another repository may be closed to us.
                Err(failure) => {
                    tracing::debug!(reason = failure.text(), repository, "a blob cannot be mounted")
                }
            }
        }
        if let Some(plain) = self.made_of.get(&blob.digest).copied() {
            let (incoming, blob) = (Arc::clone(&self.incoming), blob.clone());
            blocking(move || incoming.make_packed(&blob, &plain)).await?;
        }
        self.sent(blob).await?;
        self.tell(blob, State::Pushed, (0, 0));
        Ok(())
    }

    /// Ends an upload that is not needed.
    async fn cancel(&self, response: &Response) {
        if let Some(location) = session::location(response) {
            let request = Request::new(Method::DELETE);
            // If the registry does not take it, it forgets the upload by itself.
            let _ = self.session.follow(&request, response.url(), &location).await;
        }
    }

    /// Sends a blob and tells how far that is.
    async fn sent(&self, blob: &Descriptor) -> Attempt<()> {
        let count = Arc::new(AtomicU64::new(0));
        let work = self.session.persist(|| self.upload(blob, &count));
        tokio::pin!(work);
        let mut pace = tokio::time::interval(PACE);
        let mut told = u64::MAX;
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = pace.tick() => {}
            }
            let now = count.load(Ordering::Relaxed).min(blob.size);
            if now != told {
                self.tell(blob, State::Pushing, (now, blob.size));
                told = now;
            }
        }
    }

    async fn upload(&self, blob: &Descriptor, count: &Arc<AtomicU64>) -> Attempt<()> {
        let mut upload = self.begin().await?;
        if blob.size > PIECE {
            match self.pieces(blob, count, &mut upload).await {
                Ok(()) => return self.finish(blob, count, upload, blob.size).await,
                // Some registries take no pieces. Then all of it goes at once.
                Err(Failure::Refused { status, .. })
                    if status.is_client_error()
                        && !matches!(
                            status,
                            StatusCode::UNAUTHORIZED
                                | StatusCode::FORBIDDEN
                                | StatusCode::TOO_MANY_REQUESTS
                                | StatusCode::REQUEST_TIMEOUT
                        ) =>
                {
                    upload = self.begin().await?;
                }
                Err(failure) => return Err(failure),
            }
        }
        self.finish(blob, count, upload, 0).await
    }

    async fn begin(&self) -> Attempt<(Url, String)> {
        let request = Request::new(Method::POST).bytes("");
        let response = self.session.once(&request, "blobs/uploads/").await?;
        self.continued(&response)
    }

    /// Where an upload goes on.
    fn continued(&self, response: &Response) -> Attempt<(Url, String)> {
        let location = session::location(response).ok_or_else(|| {
            Error::internal(format!(
                "the registry {} does not say where an upload goes",
                self.session.place.site.authority
            ))
        })?;
        Ok((response.url().clone(), location))
    }

    async fn pieces(
        &self,
        blob: &Descriptor,
        count: &Arc<AtomicU64>,
        upload: &mut (Url, String),
    ) -> Attempt<()> {
        let mut at = 0;
        while at < blob.size {
            let length = PIECE.min(blob.size - at);
            count.store(at, Ordering::Relaxed);
            let request = self
                .body(Method::PATCH, blob, at, length, count)
                .header("Content-Range", &format!("{at}-{}", at + length - 1));
            let response = self.session.follow(&request, &upload.0, &upload.1).await?;
            *upload = self.continued(&response)?;
            at += length;
        }
        Ok(())
    }

    /// Sends what is left from `from` on, and has the registry check all of it.
    async fn finish(
        &self,
        blob: &Descriptor,
        count: &Arc<AtomicU64>,
        (base, location): (Url, String),
        from: u64,
    ) -> Attempt<()> {
        count.store(from, Ordering::Relaxed);
        let separator = if location.contains('?') { '&' } else { '?' };
        let location = format!("{location}{separator}digest={}", blob.digest);
        let request = self.body(Method::PUT, blob, from, blob.size - from, count);
        self.session.follow(&request, &base, &location).await?;
        Ok(())
    }

    /// A request with a part of a blob, read while it is sent.
    fn body(
        &self,
        method: Method,
        blob: &Descriptor,
        from: u64,
        length: u64,
        count: &Arc<AtomicU64>,
    ) -> Request {
        let (store, digest, count) = (Arc::clone(self.incoming.store()), blob.digest, Arc::clone(count));
        let patience = self.session.registry.settings.patience + Duration::from_secs(length / SLOWEST);
        let make = move || {
            let opened = store.blobs().open_blob(&digest).and_then(|mut file| {
                file.seek(SeekFrom::Start(from))?;
                Ok(tokio::fs::File::from_std(file).take(length))
            });
            match opened {
                Ok(file) => {
                    let count = Arc::clone(&count);
                    let bytes = ReaderStream::with_capacity(file, BUFFER).inspect(move |chunk| {
                        if let Ok(chunk) = chunk {
                            count.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                        }
                    });
                    Body::wrap_stream(bytes)
                }
                Err(error) => Body::wrap_stream(stream::iter([Err::<bytes::Bytes, _>(
                    std::io::Error::other(error),
                )])),
            }
        };
        let mut request = Request::new(method)
            .header("Content-Type", "application/octet-stream")
            .header("Content-Length", &length.to_string())
            .body(Arc::new(make));
        request.patience = Some(patience);
        request
    }

    async fn manifest(&self, manifest: &Descriptor, under: &str) -> Attempt<()> {
        let (store, digest) = (Arc::clone(self.incoming.store()), manifest.digest);
        let bytes = blocking(move || store.blobs().read(&digest, store.limits().config_bytes)).await?;
        let media_type = match manifest.media_type.as_str() {
            "" => media::MANIFEST,
            own => own,
        };
        let request = Request::new(Method::PUT)
            .header("Content-Type", media_type)
            .bytes(bytes);
        let response = self.session.ask(&request, &format!("manifests/{under}")).await?;
        let stored = session::header(response.headers(), "docker-content-digest");
        if !stored.is_empty() && stored != digest.to_string() {
            return Err(Failure::Other(Error::internal(format!(
                "the registry has stored {stored} instead of {digest}"
            ))));
        }
        Ok(())
    }

    fn tell(&self, blob: &Descriptor, state: State, done: (u64, u64)) {
        // What is no layer is not spoken of.
        if let Some(diff_id) = self.diff_ids.get(&blob.digest) {
            self.listener.hear(Event::Layer {
                digest: *diff_id,
                state,
                done,
            });
        }
    }
}
