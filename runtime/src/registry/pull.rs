//! Images from registries: manifests first, then everything they name, unpacked while it arrives.

use std::{collections::HashMap, sync::Arc, time::Duration};

use reqwest::{Method, header::CONTENT_TYPE};
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Credentials, Event, Listener, Registry, State, blocking,
    download::{Arrival, End, Source},
    failure::Failure,
    lookup::{ACCEPT, SCHEMA_1, manifest_of, manifest_path, tag_or_digest},
    session::{self, Request, Session},
};
use crate::{
    Error, Kind, Result,
    image::{
        Descriptor, Digest, ImageConfig, ImageStore, Loaded, Platform, Reference,
        incoming::{Arrived, Incoming, Place, places},
        manifest::{Document, Index, Manifest, media},
    },
};

/// How often progress of one layer is told at most.
const PACE: Duration = Duration::from_millis(100);
/// Indexes within indexes.
const DEPTH: usize = 3;
/// An image that was pulled.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The image, and which names have moved.
    pub loaded: Loaded,
    /// What the registry has under the name: a manifest or an index.
    pub digest: Digest,
    /// Whether the name meant something else before.
    pub is_newer: bool,
}

/// What a pull needs.
struct Pull {
    registry: Arc<Registry>,
    sessions: Vec<Arc<Session>>,
    incoming: Arc<Incoming>,
    listener: Arc<dyn Listener>,
    stop: CancellationToken,
}

/// An image in a registry, all but its layers.
struct Plan {
    target: Descriptor,
    /// What the registry has under the name.
    digest: Digest,
    places: Vec<Place>,
}

impl Registry {
    /// Fetches the image `reference`, for `platform` or this host, and names it. Dropped, it stops; what has come stays
    /// for the next time.
    ///
    /// # Errors
    /// [`Kind::NotFound`] in Docker's words if the registry does not have or show it; [`Kind::Internal`] with the
    /// registry's words otherwise.
    pub async fn pull(
        self: &Arc<Self>,
        store: &Arc<ImageStore>,
        reference: &Reference,
        platform: Option<&Platform>,
        credentials: &Credentials,
        listener: Arc<dyn Listener>,
    ) -> Result<Pulled> {
        let reference = reference.clone().normalized();
        let sessions = self.sessions(&reference, credentials).await?;
        let known = store.named(&reference);
        if let (Some(image), None) = (&known, platform)
            && let Some(digest) = current(&sessions, &reference).await
        {
            // It may have been pushed from here in another form.
            let pushed = store.named(&reference.with_digest(digest));
            if digest == image.id || pushed.is_some_and(|pushed| pushed.id == image.id) {
                begin(&*listener, &reference);
                return Ok(unchanged(image.id, digest, &reference));
            }
        }
        let stop = CancellationToken::new();
        let _stop: DropGuard = stop.clone().drop_guard();
        let mut pull = Pull {
            registry: Arc::clone(self),
            sessions,
            incoming: Arc::new(Incoming::new(Arc::clone(store))),
            listener,
            stop,
        };
        let result = pull.run(&reference, platform).await;
        pull.stop.cancel();
        let Pull { incoming, .. } = pull;
        // What failed leaves nothing, and that is so when it is told.
        let cleared =
            tokio::task::spawn_blocking(move || drop(Arc::try_unwrap(incoming).map(Incoming::close)));
        if let Err(error) = cleared.await {
            tracing::warn!(%error, "what a pull has left stays until the next start");
        }
        let (loaded, digest) = result?;
        Ok(Pulled {
            is_newer: known.is_none_or(|image| image.id != loaded.id),
            loaded,
            digest,
        })
    }
}

/// What the first place says that it has under this name. If it does not say, that is found out otherwise.
async fn current(sessions: &[Arc<Session>], reference: &Reference) -> Option<Digest> {
    let request = Request::new(Method::HEAD).accept(&ACCEPT);
    let response = sessions.first()?.once(&request, &manifest_path(reference)).await;
    session::header(response.ok()?.headers(), "docker-content-digest")
        .parse()
        .ok()
}

fn unchanged(id: Digest, digest: Digest, reference: &Reference) -> Pulled {
    Pulled {
        loaded: Loaded {
            id,
            names: vec![reference.clone()],
            moved: Vec::new(),
        },
        digest,
        is_newer: false,
    }
}

fn begin(listener: &dyn Listener, reference: &Reference) {
    listener.hear(Event::Pulling {
        id: tag_or_digest(reference),
        repository: reference.path().to_owned(),
    });
}

impl Pull {
    async fn run(&mut self, reference: &Reference, platform: Option<&Platform>) -> Result<(Loaded, Digest)> {
        let plan = self.plan(reference, platform).await?;
        begin(&*self.listener, reference);
        let arrived = match self.layers(&plan.places).await {
            Err(error) if is_of_full_disk(&error) => {
                self.forget(plan.places).await;
                return Err(error);
            }
            result => result?,
        };
        let incoming = Arc::clone(&self.incoming);
        let (target, names) = (plan.target, vec![reference.clone()]);
        let loaded = blocking(move || incoming.install(&target, arrived, &names)).await?;
        Ok((loaded, plan.digest))
    }

    /// Throws away what has come of layers: on a full disk nothing is kept for later.
    async fn forget(&self, places: Vec<Place>) {
        let (registry, store) = (Arc::clone(&self.registry), Arc::clone(self.incoming.store()));
        let forgotten = blocking(move || {
            places
                .iter()
                .try_for_each(|place| registry.downloads.forget(&place.blob.digest, &store).map(drop))
        });
        if let Err(error) = forgotten.await {
            tracing::warn!(%error, "what has come of an image stays until it expires");
        }
    }

    /// Fetches all documents. The place that has the manifest is asked first from now on.
    async fn plan(&mut self, reference: &Reference, platform: Option<&Platform>) -> Result<Plan> {
        let max = self.incoming.store().limits().config_bytes;
        let (first, document) = manifest_of(&self.sessions, reference, max)
            .await
            .map_err(|(failure, anonymous)| failure.of_pull(reference, anonymous))?;
        let first = self
            .sessions
            .iter()
            .position(|session| Arc::ptr_eq(session, first));
        self.sessions.swap(0, first.unwrap_or_default());
        let top = describe(&document, reference)?;
        self.put(&top, document.bytes).await?;
        self.choose(top, reference, platform).await
    }

    /// Follows an index to the manifest of the platform, and reads that and its configuration.
    async fn choose(
        &self,
        top: Descriptor,
        reference: &Reference,
        platform: Option<&Platform>,
    ) -> Result<Plan> {
        let digest = top.digest;
        let mut target = top.clone();
        let mut current = top;
        for _ in 0..DEPTH {
            match self.read(&current).await? {
                Document::Manifest(manifest) => {
                    let places = self.configuration(&manifest, reference, platform).await?;
                    return Ok(Plan {
                        target,
                        digest,
                        places,
                    });
                }
                Document::Index(index) => {
                    let chosen = pick(&index, platform)?;
                    let is_default = pick(&index, None).is_ok_and(|d| d.digest == chosen.digest);
                    self.fetch_document(&chosen, reference).await?;
                    // An image of another platform than the host's is an image of its own.
                    if !is_default {
                        target = Descriptor::new(&chosen.media_type, chosen.digest, chosen.size);
                    }
                    current = chosen;
                }
            }
        }
        Err(Error::internal("the image is an index of indexes of indexes"))
    }

    /// Reads the configuration, and says where the layers belong.
    async fn configuration(
        &self,
        manifest: &Manifest,
        reference: &Reference,
        platform: Option<&Platform>,
    ) -> Result<Vec<Place>> {
        check_types(manifest)?;
        let limits = self.incoming.store().limits();
        if manifest.config.size > limits.config_bytes {
            return Err(Error::internal(format!(
                "the configuration of {} has {} bytes, more than {} are refused",
                reference.familiar(),
                manifest.config.size,
                limits.config_bytes
            )));
        }
        self.fetch_document(&manifest.config, reference).await?;
        let bytes = self.bytes(&manifest.config).await?;
        let config = ImageConfig::parse(&bytes, limits).map_err(unusable)?;
        if config.os == "windows" {
            return Err(Error::internal(
                "image operating system \"windows\" cannot be used on this platform",
            ));
        }
        let actual = config.platform();
        if let Some(wanted) = platform.filter(|wanted| rank(wanted, &actual).is_none()) {
            return Err(Error::not_found(format!(
                "image with reference {} was found but does not match the specified platform: wanted {wanted}, \
                 actual: {actual}",
                reference.familiar()
            )));
        }
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(Error::internal(format!(
                "invalid manifest, layers length mismatch: expected {}, got {}",
                manifest.layers.len(),
                diff_ids.len()
            )));
        }
        Ok(places(&manifest.layers, diff_ids))
    }

    /// Makes a manifest or a configuration be here.
    async fn fetch_document(&self, descriptor: &Descriptor, reference: &Reference) -> Result<()> {
        let incoming = Arc::clone(&self.incoming);
        let wanted = descriptor.clone();
        if blocking(move || incoming.has(&wanted)).await.map_err(unusable)? {
            return Ok(());
        }
        let max = self.incoming.store().limits().config_bytes;
        let is_manifest = ACCEPT.contains(&descriptor.media_type.as_str());
        let (path, accept): (_, &[&str]) = match is_manifest {
            true => (format!("manifests/{}", descriptor.digest), &ACCEPT),
            false => (format!("blobs/{}", descriptor.digest), &[]),
        };
        let mut last = None;
        for session in &self.sessions {
            match session
                .document(&path, accept, max, Some(&descriptor.digest))
                .await
            {
                Ok(document) if document.bytes.len() as u64 != descriptor.size => {
                    return Err(Error::internal(format!(
                        "wrong size of {}: expected {} bytes, got {}",
                        descriptor.digest,
                        descriptor.size,
                        document.bytes.len()
                    )));
                }
                Ok(document) => return self.put(descriptor, document.bytes).await,
                Err(failure) => last = Some(failure.of_pull(reference, session.is_anonymous())),
            }
        }
        Err(last.unwrap_or_else(|| Error::internal("there is no registry to ask")))
    }

    async fn put(&self, descriptor: &Descriptor, bytes: bytes::Bytes) -> Result<()> {
        let incoming = Arc::clone(&self.incoming);
        let media_type = descriptor.media_type.clone();
        blocking(move || incoming.put(&media_type, &bytes).map(drop)).await
    }

    async fn bytes(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let store = Arc::clone(self.incoming.store());
        let digest = descriptor.digest;
        blocking(move || store.blobs().read(&digest, store.limits().config_bytes)).await
    }

    async fn read(&self, descriptor: &Descriptor) -> Result<Document> {
        let bytes = self.bytes(descriptor).await?;
        Document::parse(&bytes, self.incoming.store().limits()).map_err(unusable)
    }

    /// Fetches and unpacks the layers, several at a time.
    async fn layers(&self, places: &[Place]) -> Result<HashMap<Digest, Arrived>> {
        let mut tasks: JoinSet<Result<Option<(Digest, Arrived)>>> = JoinSet::new();
        let mut seen = std::collections::HashSet::new();
        for place in places {
            if !seen.insert(place.blob.digest) {
                continue;
            }
            let (incoming, asked) = (Arc::clone(&self.incoming), place.clone());
            let here =
                blocking(move || Ok(incoming.has(&asked.blob)? && incoming.is_unpacked(&asked)?)).await?;
            if here {
                self.tell(place, State::Exists);
                continue;
            }
            self.tell(place, State::Pulling);
            let layer = Layer {
                registry: Arc::clone(&self.registry),
                source: Source {
                    sessions: self.sessions.clone(),
                    store: Arc::clone(self.incoming.store()),
                },
                incoming: Arc::clone(&self.incoming),
                listener: Arc::clone(&self.listener),
                stop: self.stop.clone(),
                place: place.clone(),
            };
            tasks.spawn(layer.run());
        }
        let mut arrived = HashMap::new();
        let mut failed = None;
        while let Some(result) = tasks.join_next().await {
            match result {
                Ok(Ok(layer)) => arrived.extend(layer),
                Ok(Err(error)) => {
                    // The others end too, and what they say then does not matter.
                    self.stop.cancel();
                    failed.get_or_insert(error);
                }
                Err(error) => {
                    self.stop.cancel();
                    failed.get_or_insert_with(|| {
                        Error::internal(format!("a transfer was broken off: {error}"))
                    });
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(arrived),
        }
    }

    fn tell(&self, place: &Place, state: State) {
        self.listener.hear(Event::Layer {
            digest: place.blob.digest,
            state,
            done: (0, 0),
        });
    }
}

/// One layer on its way.
struct Layer {
    registry: Arc<Registry>,
    source: Source,
    incoming: Arc<Incoming>,
    listener: Arc<dyn Listener>,
    stop: CancellationToken,
    place: Place,
}

impl Layer {
    async fn run(self) -> Result<Option<(Digest, Arrived)>> {
        let turn = Arc::clone(&self.registry.downloading);
        let _turn = match turn.try_acquire() {
            Ok(turn) => turn,
            Err(_) => {
                self.tell(State::Waiting, (0, 0));
                let given_up = || Error::internal("the transfer was given up");
                tokio::select! {
                    turn = turn.acquire() => turn.map_err(|_| given_up())?,
                    () = self.stop.cancelled() => return Err(given_up()),
                }
            }
        };
        let mut again = true;
        loop {
            let arrival = self
                .registry
                .downloads
                .obtain(&self.place.blob, &self.source)
                .await;
            let unpacked = self.unpack(&arrival).await;
            if unpacked.as_ref().is_err_and(|e| e.kind() == Kind::Invalid) {
                // Whether it was damaged on its way is known when all of it has come.
                let mut status = arrival.status();
                tokio::select! {
                    _ = status.wait_for(|status| status.end.is_some()) => {}
                    () = self.stop.cancelled() => {}
                }
            }
            match arrival.status().borrow().end.clone() {
                // Damaged since it came, or fetched for somebody whose registry failed: once more from the beginning.
                Some(End::Stale) if again => again = false,
                Some(End::Failed(failure)) => {
                    let passing =
                        matches!(&*failure, Failure::Other(error) if error.kind() == Kind::Conflict);
                    if !passing || !again || self.stop.is_cancelled() {
                        return Err(Error::internal(failure.text()));
                    }
                    again = false;
                }
                Some(End::Stale) => return Err(Error::internal("what came was damaged twice")),
                Some(End::Complete) | None => {
                    let unpacked = unpacked?;
                    self.tell(State::Pulled, (0, 0));
                    return Ok(Some((self.place.blob.digest, unpacked)));
                }
            }
        }
    }

    /// Unpacks the layer while it arrives, and tells of both.
    async fn unpack(&self, arrival: &Arc<Arrival>) -> Result<Arrived> {
        let (place, incoming) = (self.place.clone(), Arc::clone(&self.incoming));
        let total = place.blob.size;
        let (position, positions) = tokio::sync::watch::channel(0);
        let follow = arrival.follow(self.stop.clone(), move |at| {
            position.send_replace(at);
        });
        let work = blocking(move || incoming.unpack(&place, || Ok(follow)));
        tokio::pin!(work);
        let mut status = arrival.status();
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut downloaded = false;
        let mut told = (State::Waiting, u64::MAX);
        loop {
            tokio::select! {
                done = &mut work => {
                    if !downloaded && done.is_ok() {
                        self.downloaded();
                    }
                    return done;
                }
                _ = pace.tick() => {}
            }
            let now = status.borrow_and_update().clone();
            let complete = matches!(now.end, Some(End::Complete));
            if complete && !downloaded {
                downloaded = true;
                self.downloaded();
            }
            let (state, at) = match (complete, now.pause) {
                (true, _) => (State::Extracting, *positions.borrow()),
                (false, Some(pause)) => (State::Retrying(pause), 0),
                (false, None) => (State::Downloading, now.here),
            };
            if told != (state.clone(), at) {
                self.tell(state.clone(), (at, total));
                told = (state, at);
            }
        }
    }

    fn downloaded(&self) {
        self.tell(State::Verifying, (0, 0));
        self.tell(State::Downloaded, (0, 0));
    }

    fn tell(&self, state: State, done: (u64, u64)) {
        self.listener.hear(Event::Layer {
            digest: self.place.blob.digest,
            state,
            done,
        });
    }
}

/// What a document is, by its own word and the registry's. Old ones and others are refused with words.
pub fn describe(document: &session::Document, reference: &Reference) -> Result<Descriptor> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Head {
        schema_version: u32,
        media_type: String,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let head: Head = serde_json::from_slice(&document.bytes).map_err(|e| {
        Error::internal(format!(
            "the manifest of {} is malformed: {e}",
            reference.familiar()
        ))
    })?;
    if head.schema_version == 1 || SCHEMA_1.contains(&document.media_type.as_str()) {
        return Err(Error::internal(format!(
            "the image {} has a manifest of version 2, schema 1, which is out of use: push it again with a newer tool \
             to have one of schema 2",
            reference.familiar()
        )));
    }
    let said = document.media_type.as_str();
    let generic = !ACCEPT.contains(&said);
    if !head.media_type.is_empty() && !generic && head.media_type != said {
        return Err(Error::internal(format!(
            "the manifest of {} says it is {:?}, and its registry says it is {said:?} ({CONTENT_TYPE})",
            reference.familiar(),
            head.media_type
        )));
    }
    let media_type = match (head.media_type.as_str(), generic) {
        ("", false) => said,
        ("", true) if head.manifests.is_some() => media::INDEX,
        ("", true) => media::MANIFEST,
        (own, _) => own,
    };
    let digest = Digest::of(&document.bytes);
    Ok(Descriptor::new(media_type, digest, document.bytes.len() as u64))
}

/// Refuses what is no image.
fn check_types(manifest: &Manifest) -> Result<()> {
    let config = manifest.config.media_type.as_str();
    if !matches!(
        config,
        "" | media::CONFIG | "application/vnd.docker.container.image.v1+json" | "application/octet-stream"
    ) {
        return Err(Error::internal(format!(
            "unsupported media type {config}: this is an artifact and not an image"
        )));
    }
    let is_layer = |media_type: &str| {
        let known = [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
        ];
        let base = media_type
            .strip_suffix("+gzip")
            .or_else(|| media_type.strip_suffix("+zstd"))
            .or_else(|| media_type.strip_suffix(".gzip"))
            .or_else(|| media_type.strip_suffix(".zstd"))
            .unwrap_or(media_type);
        media_type.is_empty() || known.contains(&base)
    };
    match manifest.layers.iter().find(|layer| !is_layer(&layer.media_type)) {
        None => Ok(()),
        Some(layer) => Err(Error::internal(format!(
            "unsupported media type {}: this is an artifact and not an image",
            layer.media_type
        ))),
    }
}

/// The manifest for a platform, or for this host.
fn pick(index: &Index, platform: Option<&Platform>) -> Result<Descriptor> {
    let host = Platform::host();
    let rated = index.manifests.iter().enumerate().filter_map(|(at, descriptor)| {
        let Some(offered) = descriptor.platform.as_ref() else {
            return Some((u32::MAX, at, descriptor));
        };
        let rank = match platform {
            Some(wanted) => rank(wanted, offered)?,
            None => host.preference(offered)?,
        };
        Some((rank, at, descriptor))
    });
    let best = rated.min_by_key(|(rank, at, _)| (*rank, *at));
    best.map(|(_, _, descriptor)| descriptor.clone()).ok_or_else(|| {
        Error::not_found(format!(
            "no matching manifest for {} in the manifest list entries",
            platform.unwrap_or(&host)
        ))
    })
}

/// How well an image for `offered` is what was asked for: the lower the better, `None` if not at all.
fn rank(wanted: &Platform, offered: &Platform) -> Option<u32> {
    if wanted.os != offered.os || wanted.architecture != offered.architecture {
        return None;
    }
    let default = match wanted.architecture.as_str() {
        "arm64" => "v8",
        "arm" => "v7",
        "amd64" => "v1",
        _ => "",
    };
    let of = |platform: &Platform| platform.variant.clone().unwrap_or_else(|| default.to_owned());
    let (own, theirs) = (of(wanted), of(offered));
    let level = |text: &str| text.strip_prefix('v').and_then(|n| n.parse::<u32>().ok());
    match (level(&own), level(&theirs)) {
        _ if own == theirs => Some(0),
        // Processors run what was made for the ones before them.
        (Some(own), Some(theirs)) if theirs < own => Some(own - theirs),
        _ => None,
    }
}

/// Whether there was no room for something.
fn is_of_full_disk(error: &Error) -> bool {
    let text = error.to_string().to_ascii_lowercase();
    text.contains("no space left on device") || text.contains("quota exceeded")
}

/// An error in what a registry gave is the registry's, not the caller's.
fn unusable(error: Error) -> Error {
    match error.kind() {
        Kind::Invalid | Kind::TooLarge => Error::internal(error.to_string()),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        Platform {
            os: parts.next().unwrap_or_default(),
            architecture: parts.next().unwrap_or_default(),
            variant: parts.next(),
            os_version: None,
        }
    }

    #[test]
    fn variants_count_downwards() {
        for (wanted, offered, fits) in [
            ("linux/arm/v7", "linux/arm/v7", Some(0)),
            ("linux/arm", "linux/arm/v7", Some(0)),
            ("linux/arm/v7", "linux/arm/v6", Some(1)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/arm64", "linux/arm64/v8", Some(0)),
            ("linux/amd64", "linux/amd64/v3", None),
            ("linux/amd64", "linux/386", None),
            ("windows/amd64", "linux/amd64", None),
        ] {
            assert_eq!(
                rank(&platform(wanted), &platform(offered)),
                fits,
                "{wanted} {offered}"
            );
        }
    }

    #[test]
    fn the_best_of_an_index() {
        let mut index = Index {
            schema_version: 2,
            media_type: media::INDEX.to_owned(),
            manifests: Vec::new(),
        };
        for (at, text) in ["linux/arm/v6", "unknown/unknown", "linux/arm/v7"]
            .iter()
            .enumerate()
        {
            let mut descriptor = Descriptor::new(media::MANIFEST, Digest::of(&[at as u8]), 1);
            descriptor.platform = Some(platform(text));
            index.manifests.push(descriptor);
        }
        let picked = pick(&index, Some(&platform("linux/arm"))).unwrap();
        assert_eq!(picked.digest, Digest::of(&[2]));
        let none = pick(&index, Some(&platform("linux/s390x"))).unwrap_err();
        assert_eq!(
            (none.kind(), none.message()),
            (
                Kind::NotFound,
                "no matching manifest for linux/s390x in the manifest list entries"
            )
        );
    }
}
