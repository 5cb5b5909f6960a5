//! Blobs that arrive. Each is fetched once, whoever waits for it, into a file that readers follow while it grows.
//!
//! The file is the buffer between the network and whoever unpacks: nothing of a layer is held in memory. What has come
//! stays when a transfer is broken off, and the next one asks for the rest. The blob becomes visible when its size and
//! digest are right, and readers see its end not before.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use reqwest::{Method, Response, StatusCode, header::CONTENT_RANGE};
use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    failure::{Attempt, Failure},
    session::{self, Request, Session},
};
use crate::{
    Error, Kind, Result,
    error::Context,
    image::{Descriptor, Digest, ImageStore, digest::Hasher},
};

/// How many bytes must have come before earlier failures are forgotten.
const FORGET: u64 = 1 << 20;
const BUFFER: usize = 256 << 10;

/// The blobs that are being fetched.
#[derive(Debug, Default)]
pub struct Downloads(Mutex<HashMap<Digest, Entry>>);

#[derive(Debug)]
struct Entry {
    arrival: Weak<Arrival>,
    status: watch::Receiver<Status>,
}

/// A blob that is being fetched. When nobody has it any more the transfer is broken off.
#[derive(Debug)]
pub struct Arrival {
    /// What it is.
    pub blob: Descriptor,
    status: watch::Receiver<Status>,
    _abandon: DropGuard,
}

/// How far a blob is.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Bytes that are here.
    pub here: u64,
    /// The seconds until a failed transfer goes on.
    pub pause: Option<u64>,
    file: Option<Arc<File>>,
    /// How it ended.
    pub end: Option<End>,
}

/// How a transfer ended.
#[derive(Clone, Debug)]
pub enum End {
    /// The blob is here.
    Complete,
    /// What was left of an earlier transfer was not the beginning of this blob. It is gone now.
    Stale,
    /// It failed.
    Failed(Arc<Failure>),
}

/// Where a blob comes from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The places that may have it, the best first.
    pub sessions: Vec<Arc<Session>>,
    /// Where it goes.
    pub store: Arc<ImageStore>,
}

impl Downloads {
    /// The arrival of `blob`, from `source` unless it is under way already.
    pub async fn obtain(self: &Arc<Self>, blob: &Descriptor, source: &Source) -> Arc<Arrival> {
        loop {
            let mut ending = match self.join_or_start(blob, source) {
                Ok(arrival) => return arrival,
                Err(ending) => ending,
            };
            // One that was broken off still has the file; without a sender it has ended too.
            let _ = ending.wait_for(|status| status.end.is_some()).await;
        }
    }

    /// Throws away what has come of `blob`, unless somebody waits for it. Gives how many bytes that were. Blocks.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn forget(&self, blob: &Digest, store: &ImageStore) -> Result<u64> {
        // Whoever starts a transfer meanwhile finds its file, or none.
        let entries = self.lock();
        if entries
            .get(blob)
            .is_some_and(|entry| entry.arrival.strong_count() > 0)
        {
            return Ok(0);
        }
        let size = std::fs::metadata(store.arriving().path(blob)).map_or(0, |metadata| metadata.len());
        store.arriving().remove(blob)?;
        Ok(size)
    }

    fn join_or_start(
        self: &Arc<Self>,
        blob: &Descriptor,
        source: &Source,
    ) -> Result<Arc<Arrival>, watch::Receiver<Status>> {
        let mut entries = self.lock();
        if let Some(entry) = entries.get(&blob.digest) {
            let usable = entry.arrival.upgrade().filter(|a| a.blob.size == blob.size);
            return usable.ok_or_else(|| entry.status.clone());
        }
        let (sender, status) = watch::channel(Status::default());
        let abandoned = CancellationToken::new();
        let arrival = Arc::new(Arrival {
            blob: blob.clone(),
            status: status.clone(),
            _abandon: abandoned.clone().drop_guard(),
        });
        entries.insert(
            blob.digest,
            Entry {
                arrival: Arc::downgrade(&arrival),
                status,
            },
        );
        let transfer = Transfer {
            blob: blob.clone(),
            source: source.clone(),
            status: sender,
            abandoned,
            runtime: Handle::current(),
        };
        let downloads = Arc::clone(self);
        tokio::task::spawn_blocking(move || transfer.run(&downloads));
        Ok(arrival)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Arrival {
    /// How far it is, and how it goes on.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Reads the blob while it arrives; `on_read` hears how far. Blocks, on a thread where that is allowed.
    pub fn follow<F: FnMut(u64) + Send>(self: &Arc<Self>, stop: CancellationToken, on_read: F) -> Follow<F> {
        Follow {
            status: self.status.clone(),
            arrival: Arc::clone(self),
            at: 0,
            stop,
            runtime: Handle::current(),
            on_read,
        }
    }
}

/// A reader of a blob that arrives.
pub struct Follow<F> {
    arrival: Arc<Arrival>,
    status: watch::Receiver<Status>,
    at: u64,
    stop: CancellationToken,
    runtime: Handle,
    on_read: F,
}

impl<F: FnMut(u64)> Read for Follow<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let status = self.status.borrow_and_update().clone();
            if self.stop.is_cancelled() {
                return Err(io::Error::other(Error::internal("the transfer was given up")));
            }
            if let Some(End::Stale | End::Failed(_)) = status.end {
                return Err(io::Error::other(Error::internal("the transfer failed")));
            }
            if let Some(file) = status.file.as_ref().filter(|_| self.at < status.here) {
                let left = usize::try_from(status.here - self.at).unwrap_or(usize::MAX);
                let length = left.min(buffer.len());
                let n = file.read_at(buffer.get_mut(..length).unwrap_or_default(), self.at)?;
                if n == 0 && length > 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.at += n as u64;
                (self.on_read)(self.at);
                return Ok(n);
            }
            if status.end.is_some() && self.at >= self.arrival.blob.size {
                return Ok(0);
            }
            let (status, stop) = (&mut self.status, &self.stop);
            let changed = self.runtime.block_on(async {
                tokio::select! {
                    changed = status.changed() => changed.is_ok(),
                    () = stop.cancelled() => true,
                }
            });
            if !changed && self.status.borrow().end.is_none() {
                return Err(io::Error::other(Error::internal("the transfer has panicked")));
            }
        }
    }
}

/// The work of fetching one blob, on a thread of its own.
struct Transfer {
    blob: Descriptor,
    source: Source,
    status: watch::Sender<Status>,
    abandoned: CancellationToken,
    runtime: Handle,
}

impl Transfer {
    fn run(self, downloads: &Downloads) {
        let lease = self.source.store.pins().lease();
        lease.pin(crate::image::Resource::Blob(self.blob.digest));
        let end = match self.work() {
            Ok(end) => end,
            Err(failure) => End::Failed(Arc::new(failure)),
        };
        let file = match end {
            End::Complete => self.status.borrow().file.clone(),
            _ => None,
        };
        downloads.lock().remove(&self.blob.digest);
        self.status.send_modify(|status| status.end = Some(end));
        if let Some(file) = file {
            // Whoever makes an image of it syncs it too, and finds most of that done.
            if let Err(error) = file.sync_data() {
                tracing::warn!(%error, blob = %self.blob.digest, "cannot write out a blob");
            }
        }
        self.source.store.collect_after(lease);
    }

    fn work(&self) -> Attempt<End> {
        let (store, digest) = (&self.source.store, &self.blob.digest);
        if store.blobs().size(digest)? == Some(self.blob.size) {
            let file = Arc::new(store.blobs().open_blob(digest)?);
            self.status.send_modify(|status| {
                status.here = self.blob.size;
                status.file = Some(file);
            });
            return Ok(End::Complete);
        }
        let file = Arc::new(store.arriving().file(digest)?);
        self.status
            .send_modify(|status| status.file = Some(Arc::clone(&file)));
        match self.fill(&file) {
            Ok((actual, _)) if actual == *digest => {
                store.blobs().adopt(&store.arriving().path(digest), digest)?;
                Ok(End::Complete)
            }
            Ok((actual, resumed)) => {
                store.arriving().remove(digest)?;
                if resumed {
                    return Ok(End::Stale);
                }
                Err(Failure::Other(Error::internal(format!(
                    "filesystem layer verification failed for digest {digest}: the digest of what came is {actual}"
                ))))
            }
            Err(failure) => {
                // What the network broke off is gone on with; nothing else is worth keeping.
                if matches!(&failure, Failure::Other(error) if error.kind() != Kind::Conflict) {
                    store.arriving().remove(digest)?;
                }
                Err(failure)
            }
        }
    }

    /// Fetches what is missing. Gives the digest of all of it, and whether a part of it was there before.
    fn fill(&self, file: &File) -> Attempt<(Digest, bool)> {
        let size = self.blob.size;
        let mut hasher = Hasher::default();
        let mut here = self.already(file, &mut hasher)?;
        let resumed = here > 0;
        let (mut tries, mut since) = (1, here);
        while here < size {
            let Err(failure) = self.receive(file, &mut hasher, &mut here) else {
                continue;
            };
            if here - since >= FORGET {
                tries = 1;
            }
            since = here;
            let most = self
                .source
                .sessions
                .first()
                .map_or(1, |s| s.registry.settings.attempts);
            if !failure.is_passing() || tries >= most {
                return Err(failure);
            }
            let pause = session::pause(&failure, tries);
            tries += 1;
            tracing::debug!(blob = %self.blob.digest, here, reason = failure.text(), "going on with a blob");
            self.status
                .send_modify(|status| status.pause = Some(pause.as_secs().max(1)));
            self.unless_abandoned(tokio::time::sleep(pause))?;
            self.status.send_modify(|status| status.pause = None);
        }
        Ok((hasher.finish(), resumed))
    }

    /// Hashes what an earlier transfer has left, and returns how much that is.
    fn already(&self, mut file: &File, hasher: &mut Hasher) -> Result<u64> {
        let what = || format!("cannot read the beginning of {}", self.blob.digest);
        let length = file.metadata().context(what)?.len();
        if length > self.blob.size {
            file.set_len(0).context(what)?;
            return Ok(0);
        }
        let mut buffer = vec![0; BUFFER];
        let mut at = 0;
        while at < length {
            let n = file.read(&mut buffer).context(what)?;
            if n == 0 {
                break;
            }
            hasher.update(buffer.get(..n).unwrap_or_default());
            at += n as u64;
        }
        self.status.send_modify(|status| status.here = at);
        Ok(at)
    }

    /// Fetches from `here` on until the end, or until something fails.
    fn receive(&self, file: &File, hasher: &mut Hasher, here: &mut u64) -> Attempt<()> {
        let (mut response, mut skip) = self.unless_abandoned(self.open(*here))??;
        let patience = self.source.sessions.first().map(|s| s.registry.settings.patience);
        let patience = patience.unwrap_or_default();
        let url = response.url().clone();
        while *here < self.blob.size {
            let chunk = self.unless_abandoned(tokio::time::timeout(patience, response.chunk()))?;
            let mut chunk = match chunk {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => {
                    return Err(Failure::Broken(format!(
                        "the transfer of {} ended after {here} of {} bytes",
                        self.blob.digest, self.blob.size
                    )));
                }
                Ok(Err(error)) => return Err(Failure::broken(&url, &error)),
                Err(_) => {
                    return Err(Failure::Broken(format!(
                        "nothing of {} has come for {} seconds",
                        self.blob.digest,
                        patience.as_secs()
                    )));
                }
            };
            // The registry has begun at the beginning again.
            let over = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= over as u64;
            let chunk = chunk.split_off(over);
            if *here + chunk.len() as u64 > self.blob.size {
                return Err(too_long(&self.blob));
            }
            file.write_all_at(&chunk, *here)
                .context(|| format!("cannot store {}", self.blob.digest))?;
            hasher.update(&chunk);
            *here += chunk.len() as u64;
            let now = *here;
            self.status.send_modify(|status| status.here = now);
        }
        Ok(())
    }

    /// Asks the places in turn for the blob from `from` on. Gives the answer, and how much of it is here already.
    async fn open(&self, from: u64) -> Attempt<(Response, u64)> {
        let mut request = Request::new(Method::GET);
        if from > 0 {
            request = request.header("Range", &format!("bytes={from}-"));
        }
        let path = format!("blobs/{}", self.blob.digest);
        let mut last = Failure::Unreachable("there is no place to ask".to_owned());
        for session in &self.source.sessions {
            match session.once(&request, &path).await {
                Ok(response) => return self.checked(response, from),
                Err(failure) => last = failure,
            }
        }
        if matches!(&last, Failure::Refused { status, .. } if *status == StatusCode::RANGE_NOT_SATISFIABLE) {
            return Err(Failure::Other(Error::internal(format!(
                "the registry has no more than {from} of {} bytes of {}",
                self.blob.size, self.blob.digest
            ))));
        }
        Err(last)
    }

    fn checked(&self, response: Response, from: u64) -> Attempt<(Response, u64)> {
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let skip = if partial { 0 } else { from };
        if partial {
            let range = session::header(response.headers(), CONTENT_RANGE.as_str());
            let begins = range
                .strip_prefix("bytes ")
                .and_then(|r| r.split_once('-'))
                .and_then(|(start, _)| start.trim().parse::<u64>().ok());
            if begins != Some(from) {
                return Err(Failure::Other(Error::internal(format!(
                    "the registry was asked for bytes from {from} on and sent {range:?}"
                ))));
            }
        }
        let expected = self.blob.size - from + skip;
        if let Some(length) = response.content_length().filter(|length| *length != expected) {
            return Err(Failure::Other(Error::internal(format!(
                "wrong size of {}: expected {expected} bytes, the registry sends {length}",
                self.blob.digest
            ))));
        }
        Ok((response, skip))
    }

    /// Waits for something, but not when nobody wants the blob any more.
    fn unless_abandoned<T>(&self, work: impl Future<Output = T>) -> Attempt<T> {
        self.runtime.block_on(async {
            tokio::select! {
                done = work => Ok(done),
                () = self.abandoned.cancelled() => {
                    Err(Failure::Other(Error::conflict("the transfer was given up")))
                }
            }
        })
    }
}

fn too_long(blob: &Descriptor) -> Failure {
    Failure::Other(Error::internal(format!(
        "wrong size of {}: expected {} bytes, the registry sends more",
        blob.digest, blob.size
    )))
}
