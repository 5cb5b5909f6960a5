//! Unpacked layers: each a directory that overlayfs takes as a lower one.
//!
//! `<root>/layers/<key>/{fs/, layer.json}`. A layer whose archive describes all it makes is the same tree on top of
//! whatever: its key is its *diff ID*, and all images share it. An archive that leaves out directories or links to
//! files of lower layers (see [`super::unpack::settle`]) makes another tree on each stack of lower layers: its key is
//! the *chain ID*. A directory of this name is complete: it is built under a temporary name and renamed.
//!
//! Nobody waits until a layer is on disk, for it can be made again from its blob. When it is, a thread notes so with a
//! file `flushed`; a layer without one is only trusted by the kernel that made it.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, DirBuilder, File},
    io::{BufRead, BufReader, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::{
    ahead, compare,
    compress::{self, Compression},
    digest::{Digest, HashingReader},
    disk::{self, Scratch},
    limits::Limits,
    trash::Trash,
    unpack::{self, Options, Outcome},
    worker::Worker,
};
use crate::{Error, Result, error::Context, failpoint::hit};

const RECORD: &str = "layer.json";
const TREE: &str = "fs";
const FLUSHED: &str = "flushed";
/// The mode of a layer's root when the archive says nothing about it.
const ROOT_MODE: u32 = 0o755;

/// An unpacked layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// What it is called on disk: its diff ID or its chain ID.
    pub key: Digest,
    /// The digest of its uncompressed archive.
    pub diff_id: Digest,
    /// Bytes of all its files.
    pub size: u64,
    /// It hides everything below it.
    pub opaque: bool,
}

/// What is written beside an unpacked layer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    diff_id: Digest,
    size: u64,
    #[serde(default)]
    opaque: bool,
    /// The kernel that ran when it was made.
    boot: String,
}

/// The layers below one root.
#[derive(Debug)]
pub struct LayerStore {
    dir: PathBuf,
    limits: Limits,
    boot: String,
    trash: Arc<Trash>,
    flusher: Worker<Digest>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: HashMap<Digest, Arc<Layer>>,
    /// Blobs that somebody is unpacking.
    busy: HashSet<Digest>,
}

/// A layer that is unpacked, if need be up to what only the layers below it know.
#[derive(Debug)]
pub enum Prepared {
    /// It is complete.
    Ready(Arc<Layer>),
    /// It depends on the layers below; [`LayerStore::complete`] completes it.
    Pending(Unpacked),
}

impl Prepared {
    /// The digest of the uncompressed archive.
    pub fn diff_id(&self) -> Digest {
        match self {
            Self::Ready(layer) => layer.diff_id,
            Self::Pending(unpacked) => unpacked.diff_id,
        }
    }
}

/// A layer that is unpacked and not visible yet; dropped, it is removed.
#[derive(Debug)]
pub struct Unpacked {
    scratch: Scratch,
    outcome: Outcome,
    diff_id: Digest,
}

impl LayerStore {
    /// Opens the layers below `root` and removes what was being unpacked when an engine died.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn open(root: &Path, limits: Limits, trash: &Arc<Trash>) -> Result<Self> {
        let dir = root.join("layers");
        disk::make_dir(&dir)?;
        trash.sweep(&dir)?;
        let of_flusher = dir.clone();
        let store = Self {
            flusher: Worker::start("image-flush", usize::MAX, move |keys| flush(&of_flusher, keys))?,
            dir,
            limits,
            boot: disk::boot_id()?,
            trash: Arc::clone(trash),
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        for name in disk::list(&store.dir)? {
            match store.read(&name) {
                Ok(layer) => {
                    store.lock().ready.insert(layer.key, Arc::new(layer));
                }
                Err(error) => {
                    tracing::warn!(%error, layer = name, "removing a layer that cannot be trusted");
                    trash.discard(&store.dir.join(&name))?;
                }
            }
        }
        Ok(store)
    }

    /// The layer `diff_id` on top of the stack whose chain ID with it is `chain_id`, if it is unpacked.
    pub fn find(&self, diff_id: &Digest, chain_id: &Digest) -> Option<Arc<Layer>> {
        let state = self.lock();
        state
            .ready
            .get(chain_id)
            .or_else(|| state.ready.get(diff_id))
            .cloned()
    }

    /// The layer called `key`.
    pub fn get(&self, key: &Digest) -> Option<Arc<Layer>> {
        self.lock().ready.get(key).cloned()
    }

    /// All layers.
    pub fn list(&self) -> Vec<Arc<Layer>> {
        self.lock().ready.values().cloned().collect()
    }

    /// The directory that overlayfs takes.
    pub fn tree(&self, key: &Digest) -> PathBuf {
        self.dir.join(key.hex()).join(TREE)
    }

    /// Unpacks the archive `blob` unless it is unpacked already. Of several at the same time one works and the others
    /// wait; should it fail, the next one tries.
    ///
    /// `known` is the diff ID if it is known; `open` opens the archive, compressed or not; `pin` is called with the
    /// key before the layer becomes visible, so that it is not collected.
    ///
    /// # Errors
    /// As [`unpack::unpack`].
    pub fn prepare<R: Read + Send>(
        &self,
        blob: &Digest,
        known: Option<&Digest>,
        open: impl FnOnce() -> Result<R>,
        pin: impl Fn(Digest),
    ) -> Result<Prepared> {
        let mut state = self.lock();
        loop {
            if let Some(layer) = known.and_then(|diff_id| state.ready.get(diff_id)) {
                return Ok(Prepared::Ready(Arc::clone(layer)));
            }
            if state.busy.insert(*blob) {
                break;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        let _busy = Busy { store: self, blob };
        let unpacked = self.unpack(blob, open()?)?;
        if unpacked.outcome.is_self_contained() {
            let key = unpacked.diff_id;
            pin(key);
            return self.make_visible(unpacked, key).map(Prepared::Ready);
        }
        Ok(Prepared::Pending(unpacked))
    }

    /// Makes a prepared layer visible; one that depends on the layers `below` it, lowest first, is completed with what
    /// they know and called by its chain ID.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] if it links to files that are not there.
    pub fn complete(&self, prepared: Prepared, below: &[Digest], chain_id: Digest) -> Result<Arc<Layer>> {
        let unpacked = match prepared {
            Prepared::Ready(layer) => return Ok(layer),
            Prepared::Pending(unpacked) => unpacked,
        };
        let root = open_dir(&unpacked.scratch.path().join(TREE))?;
        let below = below
            .iter()
            .rev()
            .map(|key| open_dir(&self.tree(key)))
            .collect::<Result<Vec<_>>>()?;
        unpack::settle(root.as_fd(), &unpacked.outcome, &below)?;
        self.make_visible(unpacked, chain_id)
    }

    /// Takes the directory `tree`, which is on the same file system, as the layer `diff_id` whose archive was made of it.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn adopt(&self, tree: &Path, diff_id: Digest, size: u64) -> Result<Arc<Layer>> {
        if let Some(layer) = self.get(&diff_id) {
            return Ok(layer);
        }
        let scratch = Scratch::new(&self.dir, &self.trash)?;
        fs::rename(tree, scratch.path().join(TREE))
            .context(|| format!("cannot take {} over", tree.display()))?;
        let outcome = Outcome {
            size,
            ..Outcome::default()
        };
        let unpacked = Unpacked {
            scratch,
            outcome,
            diff_id,
        };
        self.make_visible(unpacked, diff_id)
    }

    /// Unpacks the archive `blob` of the layer `key` upon the layers `below` it once more, and compares. Gives what it
    /// should be, and where it is not that.
    ///
    /// # Errors
    /// As [`unpack::unpack`]; if the file system fails.
    pub fn verify(
        &self,
        key: &Digest,
        blob: &Digest,
        archive: impl Read + Send,
        below: &[Digest],
    ) -> Result<(Unpacked, Option<String>)> {
        let unpacked = self.unpack(blob, archive)?;
        let fresh = open_dir(&unpacked.scratch.path().join(TREE))?;
        if !unpacked.outcome.is_self_contained() {
            let below = below
                .iter()
                .rev()
                .map(|key| open_dir(&self.tree(key)))
                .collect::<Result<Vec<_>>>()?;
            unpack::settle(fresh.as_fd(), &unpacked.outcome, &below)?;
        }
        let record = self.read(&key.hex());
        let differs = match (record, File::open(self.tree(key))) {
            (_, Err(e)) if e.kind() == std::io::ErrorKind::NotFound => Some("it is not there".to_owned()),
            (_, Err(e)) => Some(format!("it cannot be opened: {e}")),
            (Err(error), _) => Some(error.to_string()),
            (Ok(layer), _) if layer.diff_id != unpacked.diff_id => {
                Some("its record is of another layer".to_owned())
            }
            (Ok(_), Ok(there)) => compare::difference(fresh.as_fd(), there.as_fd())?,
        };
        Ok((unpacked, differs))
    }

    /// Puts a layer in the place of the one called `key`, which nothing has mounted.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn replace(&self, unpacked: Unpacked, key: Digest) -> Result<()> {
        let path = self.dir.join(key.hex());
        self.describe(&unpacked)?;
        let exchange = || {
            rustix::fs::renameat_with(
                rustix::fs::CWD,
                unpacked.scratch.path(),
                rustix::fs::CWD,
                &path,
                rustix::fs::RenameFlags::EXCHANGE,
            )
        };
        let layer = layer_of(&unpacked, key);
        match exchange() {
            // The old one is thrown away under the scratch's name.
            Ok(()) => drop(unpacked),
            Err(rustix::io::Errno::NOENT) => drop(unpacked.scratch.keep(&key.hex())?),
            Err(e) => return Err(e).context(|| format!("cannot replace {}", path.display())),
        }
        self.lock().ready.insert(key, Arc::new(layer));
        self.flusher.push(key);
        Ok(())
    }

    /// The names in the directory of layers, those under construction left out.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn names(&self) -> Result<Vec<String>> {
        disk::list(&self.dir)
    }

    /// Throws away what is in the directory of layers and is none.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn discard(&self, name: &str) -> Result<()> {
        self.trash.discard(&self.dir.join(name))
    }

    /// Removes a layer; its mounts, if any, keep working.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn remove(&self, key: &Digest) -> Result<()> {
        self.lock().ready.remove(key);
        self.trash.discard(&self.dir.join(key.hex()))
    }

    fn unpack(&self, blob: &Digest, archive: impl Read + Send) -> Result<Unpacked> {
        let scratch = Scratch::new(&self.dir, &self.trash)?;
        let tree = scratch.path().join(TREE);
        hit("layer.tree")
            .and_then(|()| DirBuilder::new().create(&tree))
            .and_then(|()| fs::set_permissions(&tree, fs::Permissions::from_mode(ROOT_MODE)))
            .context(|| format!("cannot make {}", tree.display()))?;
        let root = open_dir(&tree)?;
        let options = Options {
            limits: self.limits.clone(),
            ..Options::default()
        };
        let work = |compression, plain: &mut dyn BufRead| {
            if compression == Compression::None {
                // Its digest is the diff ID already, and was checked when it came in, or is at the end of what is coming.
                let outcome = unpack::unpack(&mut *plain, root.as_fd(), &options)?;
                std::io::copy(plain, &mut std::io::sink()).map_err(super::tar_reader::read_error)?;
                return Ok((outcome, *blob));
            }
            let mut hashing = HashingReader::new(plain);
            let buffered = BufReader::with_capacity(compress::BUFFER, &mut hashing);
            let outcome = unpack::unpack(buffered, root.as_fd(), &options)?;
            let (diff_id, _) = hashing.drain().map_err(super::tar_reader::read_error)?;
            Ok((outcome, diff_id))
        };
        let (outcome, diff_id) = ahead::expanded(archive, &self.limits, work)?;
        Ok(Unpacked {
            scratch,
            outcome,
            diff_id,
        })
    }

    fn make_visible(&self, unpacked: Unpacked, key: Digest) -> Result<Arc<Layer>> {
        self.describe(&unpacked)?;
        let layer = Arc::new(layer_of(&unpacked, key));
        // Somebody else may have been faster; then ours vanishes and theirs, which is the same, is used.
        if unpacked.scratch.keep(&key.hex())? {
            self.flusher.push(key);
        }
        self.lock().ready.insert(key, Arc::clone(&layer));
        Ok(layer)
    }

    /// Writes down what a layer is, beside it.
    fn describe(&self, unpacked: &Unpacked) -> Result<()> {
        let record = Record {
            diff_id: unpacked.diff_id,
            size: unpacked.outcome.size,
            opaque: unpacked.outcome.root_opaque,
            boot: self.boot.clone(),
        };
        let bytes = serde_json::to_vec(&record).context(|| "cannot describe a layer")?;
        hit("layer.record")
            .and_then(|()| fs::write(unpacked.scratch.path().join(RECORD), bytes))
            .context(|| "cannot describe a layer")
    }

    fn read(&self, name: &str) -> Result<Layer> {
        let key = Digest::from_hex(name)?;
        let dir = self.dir.join(name);
        let path = dir.join(RECORD);
        let bytes = fs::read(&path).context(|| format!("cannot read {}", path.display()))?;
        let record: Record =
            serde_json::from_slice(&bytes).context(|| format!("cannot read {}", path.display()))?;
        if !dir.join(FLUSHED).exists() {
            if record.boot != self.boot {
                return Err(Error::internal(format!(
                    "{name} may not have reached the disk before a power failure"
                )));
            }
            self.flusher.push(key);
        }
        Ok(Layer {
            key,
            diff_id: record.diff_id,
            size: record.size,
            opaque: record.opaque,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn layer_of(unpacked: &Unpacked, key: Digest) -> Layer {
    Layer {
        key,
        diff_id: unpacked.diff_id,
        size: unpacked.outcome.size,
        opaque: unpacked.outcome.root_opaque,
    }
}

/// Marks a blob as being unpacked.
struct Busy<'a> {
    store: &'a LayerStore,
    blob: &'a Digest,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.store.lock().busy.remove(self.blob);
        self.store.changed.notify_all();
    }
}

/// Notes that layers are on disk as soon as they are.
fn flush(dir: &Path, keys: Vec<Digest>) {
    let flushed = disk::sync_file_system(dir).and_then(|()| {
        keys.iter().try_for_each(|key| {
            let path = dir.join(key.hex()).join(FLUSHED);
            match hit("layer.flushed").and_then(|()| File::create(&path)) {
                // It was removed meanwhile.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
                result => result
                    .map(drop)
                    .context(|| format!("cannot make {}", path.display())),
            }
        })
    });
    if let Err(error) = flushed {
        // They are made again after a power failure, and noted at the next start.
        tracing::warn!(%error, "cannot write out layers");
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd> {
    let dir = File::open(path).context(|| format!("cannot open {}", path.display()))?;
    Ok(dir.into())
}
