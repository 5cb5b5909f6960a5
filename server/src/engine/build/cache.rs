//! What was built before: steps by what they depend on, and directories that steps keep between builds.
//!
//! A step's key is the digest of the image it began with, its instruction, the configuration it leads to, and the files
//! it takes. Each record is a file, written when its image is complete, and holds that image; an image that is lost takes
//! its record with it.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use berth_api::{
    Filters,
    models::{BuildCache, BuildCacheType},
};
use berth_runtime::{
    Error, Result,
    error::Context,
    failpoint::hit,
    image::{Digest, Hold, Image, ImageStore},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::engine::time;

/// What is written beside a directory that steps keep.
const KEPT_RECORD: &str = "mount.json";

/// The build cache. Clones are the same cache.
#[derive(Clone, Debug)]
pub struct Cache(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Where the records are.
    records: PathBuf,
    /// Where the directories are that steps keep.
    mounts: PathBuf,
    /// Where the containers of steps under way are noted.
    steps: PathBuf,
    store: Arc<ImageStore>,
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Steps that somebody is at, so that others wait for the result.
    busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Kept directories in use.
    mounted: Mutex<HashMap<String, Arc<RwLock<()>>>>,
}

#[derive(Clone, Debug)]
struct Entry {
    record: Record,
    hold: Arc<Hold>,
}

/// Who else may use a kept directory at the same time (`sharing` of `RUN --mount=type=cache`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Everybody.
    #[default]
    Shared,
    /// Nobody; who comes meanwhile gets another directory.
    Private,
    /// Nobody; who comes meanwhile waits.
    Locked,
}

/// A kept directory in use. It is not pruned as long as this lives.
#[derive(Debug)]
pub struct Kept {
    /// Where it is.
    pub path: PathBuf,
    _use: Use,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held until the directory is no longer used")]
enum Use {
    Shared(OwnedRwLockReadGuard<()>),
    Alone(OwnedRwLockWriteGuard<()>),
}

/// What is written beside a kept directory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeptRecord {
    id: String,
    created: Timestamp,
    used: Timestamp,
    uses: i64,
    /// Whether it was fetched by its address.
    #[serde(default)]
    download: bool,
}

/// A step that was built.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    image: Digest,
    /// The record of the step before.
    #[serde(default)]
    parent: String,
    description: String,
    created: Timestamp,
    used: Timestamp,
    uses: i64,
    /// Bytes of its layer.
    size: u64,
}

/// The key of a step.
pub fn key(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Cache {
    /// Reads the records below `root`. Blocks.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn open(root: &Path, store: Arc<ImageStore>) -> Result<Self> {
        let [records, mounts, steps] = ["records", "mounts", "steps"].map(|name| root.join(name));
        for dir in [&records, &mounts, &steps] {
            fs::create_dir_all(dir).context(|| format!("cannot make {}", dir.display()))?;
        }
        let mut entries = BTreeMap::new();
        for file in fs::read_dir(&records).context(|| "cannot read the build cache")? {
            let path = file.context(|| "cannot read the build cache")?.path();
            let key = path
                .file_stem()
                .and_then(|stem| stem.to_str())
                .unwrap_or_default()
                .to_owned();
            let record: Option<Record> = fs::read(&path)
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let entry = record.and_then(|record| {
                let hold = Arc::new(store.hold(&record.image).ok()?);
                Some(Entry { record, hold })
            });
            match entry {
                Some(entry) if key.len() == 64 => drop(entries.insert(key, entry)),
                // Damaged, under construction, or its image is lost: it can be built again.
                _ => {
                    if let Err(error) = fs::remove_file(&path) {
                        tracing::warn!(path = %path.display(), %error, "a leftover of a build could not be removed");
                    }
                }
            }
        }
        Ok(Self(Arc::new(Shared {
            records,
            mounts,
            steps,
            store,
            entries: Mutex::new(entries),
            busy: Mutex::default(),
            mounted: Mutex::default(),
        })))
    }

    /// Notes that a container belongs to a step under way: should the engine die, the next one removes it.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn note(&self, container: &str) -> Result<()> {
        hit("build.note")
            .and_then(|()| fs::write(self.0.steps.join(container), b""))
            .context(|| "cannot note a container of a build")
    }

    /// The container is gone, or stays.
    pub fn forget(&self, container: &str) {
        // One that is not there was forgotten before.
        let _ = fs::remove_file(self.0.steps.join(container));
    }

    /// The containers of steps that were under way when an engine died.
    pub fn left(&self) -> Vec<String> {
        let files = fs::read_dir(&self.0.steps).into_iter().flatten();
        files
            .filter_map(|file| file.ok()?.file_name().into_string().ok())
            .collect()
    }

    /// The result of the step `key`, if there is one.
    pub fn find(&self, key: &str) -> Option<Arc<Hold>> {
        let mut entries = self.lock();
        let entry = entries.get_mut(key)?;
        entry.record.used = Timestamp::now();
        entry.record.uses += 1;
        Some(Arc::clone(&entry.hold))
    }

    /// Keeps the result of a step. Blocks.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn keep(
        &self,
        key: &str,
        parent: &str,
        description: &str,
        hold: &Arc<Hold>,
        size: u64,
    ) -> Result<()> {
        let now = Timestamp::now();
        let record = Record {
            image: hold.image().id,
            parent: parent.to_owned(),
            description: description.to_owned(),
            created: now,
            used: now,
            uses: 1,
            size,
        };
        self.write(key, &record)?;
        let entry = Entry {
            record,
            hold: Arc::clone(hold),
        };
        self.lock().insert(key.to_owned(), entry);
        Ok(())
    }

    fn write(&self, key: &str, record: &Record) -> Result<()> {
        replace(&self.path(key), record)
    }

    fn path(&self, key: &str) -> PathBuf {
        self.0.records.join(format!("{key}.json"))
    }

    /// Held while a step is built, so that of several builds one does the work.
    pub async fn alone(&self, key: &str) -> tokio::sync::OwnedMutexGuard<()> {
        claim(&self.0.busy, key).lock_owned().await
    }

    /// The directory that steps keep under `id`. Waits until it may be used.
    ///
    /// # Errors
    /// If it cannot be made.
    pub async fn directory(&self, id: &str, sharing: Sharing) -> Result<Kept> {
        self.kept(id, sharing, false).await
    }

    /// The directory where what is fetched from `address` is kept, for one at a time.
    ///
    /// # Errors
    /// If it cannot be made.
    pub async fn download(&self, address: &str) -> Result<Kept> {
        // Neither passwords nor what else an address may say are shown.
        let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = host.rsplit('@').next().unwrap_or_default();
        let shown = format!("{scheme}://{host}/{path}\0{}", key(&[address.as_bytes()]));
        self.kept(&shown, Sharing::Locked, true).await
    }

    async fn kept(&self, id: &str, sharing: Sharing, download: bool) -> Result<Kept> {
        let lock = |name: &str| claim(&self.0.mounted, name);
        let name = match download {
            true => key(&[b"download", id.as_bytes()]),
            false => key(&[id.as_bytes()]),
        };
        let (name, used) = match sharing {
            Sharing::Shared => (name.clone(), Use::Shared(lock(&name).read_owned().await)),
            Sharing::Locked => (name.clone(), Use::Alone(lock(&name).write_owned().await)),
            Sharing::Private => {
                let mut found = lock(&name).try_write_owned().map(|guard| (name, guard));
                let mut number = 0_u64;
                while found.is_err() {
                    number += 1;
                    let other = key(&[id.as_bytes(), &number.to_le_bytes()]);
                    found = lock(&other).try_write_owned().map(|guard| (other, guard));
                }
                let (name, guard) =
                    found.map_err(|error| Error::internal("no directory is free").caused_by(error))?;
                (name, Use::Alone(guard))
            }
        };
        let path = self.0.mounts.join(&name);
        fs::create_dir_all(path.join("fs")).context(|| format!("cannot make {}", path.display()))?;
        let now = Timestamp::now();
        let known = kept_record(&path).unwrap_or_else(|| KeptRecord {
            created: now,
            ..KeptRecord::default()
        });
        let record = KeptRecord {
            id: id.to_owned(),
            used: now,
            uses: known.uses + 1,
            download,
            ..known
        };
        replace(&path.join(KEPT_RECORD), &record)?;
        Ok(Kept {
            path: path.join("fs"),
            _use: used,
        })
    }

    /// All records, as `/system/df` shows them. Sizes of kept directories are measured, so it blocks.
    pub fn list(&self) -> Vec<BuildCache> {
        let entries = self.lock().clone();
        let visible = |image: &Image| self.0.store.get(&image.id).is_some();
        let mut list: Vec<BuildCache> = entries
            .iter()
            .map(|(key, entry)| BuildCache {
                id: short(key),
                parent: short(&entry.record.parent),
                parents: (!entry.record.parent.is_empty())
                    .then(|| short(&entry.record.parent))
                    .into_iter()
                    .collect(),
                r#type: BuildCacheType::Regular,
                description: entry.record.description.clone(),
                in_use: Arc::strong_count(&entry.hold) > 2,
                shared: visible(entry.hold.image()),
                size: i64::try_from(entry.record.size).unwrap_or(i64::MAX),
                created_at: entry.record.created.to_string(),
                last_used_at: Some(entry.record.used.to_string()),
                usage_count: entry.record.uses,
            })
            .collect();
        list.extend(self.directories());
        list
    }

    fn directories(&self) -> Vec<BuildCache> {
        let Ok(dirs) = fs::read_dir(&self.0.mounts) else {
            return Vec::new();
        };
        let shown = |path: PathBuf| {
            let record = kept_record(&path)?;
            let name = path.file_name()?.to_str()?;
            let (kind, what) = match record.download {
                true => (BuildCacheType::Regular, "http url"),
                false => (BuildCacheType::ExecCachemount, "cached mount"),
            };
            Some(BuildCache {
                id: short(name),
                r#type: kind,
                description: format!("{what} {}", record.id.split('\0').next().unwrap_or_default()),
                in_use: self.is_mounted(name),
                size: i64::try_from(tree_size(&path.join("fs"))).unwrap_or(i64::MAX),
                created_at: record.created.to_string(),
                last_used_at: Some(record.used.to_string()),
                usage_count: record.uses,
                ..BuildCache::default()
            })
        };
        dirs.filter_map(|dir| shown(dir.ok()?.path())).collect()
    }

    fn is_mounted(&self, name: &str) -> bool {
        let mounted = self.0.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        mounted.get(name).is_some_and(|lock| lock.try_write().is_err())
    }

    /// Removes records that no build uses: with `all` every one, else those whose image nobody sees; the least recently
    /// used first, until no more than `keep` bytes are left. Blocks. Returns ids and bytes.
    ///
    /// # Errors
    /// Invalid for a malformed filter; internal if the file system fails.
    pub fn prune(&self, all: bool, keep: u64, filters: &Filters) -> Result<(Vec<String>, u64)> {
        let selection = Selection::read(filters)?;
        let mut list = self.list();
        list.sort_by(|a, b| a.last_used_at.cmp(&b.last_used_at));
        let mut left: u64 = list
            .iter()
            .map(|record| u64::try_from(record.size).unwrap_or_default())
            .sum();
        let (mut removed, mut bytes) = (Vec::new(), 0);
        for record in list {
            let wanted = !record.in_use
                && (all || !record.shared || selection.asks_shared())
                && selection.takes(&record);
            if !wanted || (keep > 0 && left <= keep) {
                continue;
            }
            if self.remove(&record)? {
                let size = u64::try_from(record.size).unwrap_or_default();
                left = left.saturating_sub(size);
                bytes += if record.shared { 0 } else { size };
                removed.push(record.id);
            }
        }
        self.0.store.purge()?;
        Ok((removed, bytes))
    }

    fn remove(&self, record: &BuildCache) -> Result<bool> {
        let key = self
            .lock()
            .keys()
            .find(|key| key.starts_with(&record.id))
            .cloned();
        let Some(key) = key else {
            return self.remove_directory(&record.id);
        };
        match fs::remove_file(self.path(&key)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::internal("cannot remove a step of a build").caused_by(e));
            }
            _ => {}
        }
        Ok(self.lock().remove(&key).is_some())
    }

    /// Removes a kept directory, unless a step has begun to use it.
    fn remove_directory(&self, id: &str) -> Result<bool> {
        let dirs = fs::read_dir(&self.0.mounts).context(|| "cannot read the build cache")?;
        for dir in dirs.filter_map(std::result::Result::ok) {
            let name = dir.file_name().to_string_lossy().into_owned();
            if name.starts_with(id) {
                let Ok(_alone) = claim(&self.0.mounted, &name).try_write_owned() else {
                    return Ok(false);
                };
                // It goes with the scratch directory, however deep it is.
                let (path, aside) = (dir.path(), self.0.store.scratch()?);
                fs::rename(&path, aside.path().join("removed"))
                    .context(|| format!("cannot remove {}", path.display()))?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lock of `key`; locks that nobody holds any more make room.
fn claim<L: Default>(locks: &Mutex<HashMap<String, Arc<L>>>, key: &str) -> Arc<L> {
    let mut locks = locks.lock().unwrap_or_else(PoisonError::into_inner);
    locks.retain(|_, lock| Arc::strong_count(lock) > 1);
    Arc::clone(locks.entry(key.to_owned()).or_default())
}

/// Writes `record` to `path`, all or nothing.
pub(super) fn replace(path: &Path, record: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(record).context(|| "cannot describe a step of a build")?;
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let new = path.with_file_name(format!(".{name}-{:08x}", rand::random::<u32>()));
    hit("build.record")
        .and_then(|()| fs::write(&new, bytes))
        .and_then(|()| hit("build.record-rename"))
        .and_then(|()| fs::rename(&new, path))
        .context(|| format!("cannot write {}", path.display()))
}

fn kept_record(path: &Path) -> Option<KeptRecord> {
    serde_json::from_slice(&fs::read(path.join(KEPT_RECORD)).ok()?).ok()
}

/// Ids as they are shown.
fn short(key: &str) -> String {
    key.chars().take(25).collect()
}

fn tree_size(path: &Path) -> u64 {
    let (mut size, mut ahead) = (0, vec![path.to_owned()]);
    while let Some(dir) = ahead.pop() {
        // What goes meanwhile has no size.
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(data) if data.is_dir() => ahead.push(entry.path()),
                Ok(data) => size += data.len(),
                Err(_) => {}
            }
        }
    }
    size
}

/// The filters of a prune.
struct Selection<'a> {
    filters: &'a Filters,
    before: Option<Timestamp>,
    id: Option<regex::Regex>,
}

impl<'a> Selection<'a> {
    fn read(filters: &'a Filters) -> Result<Self> {
        let one = |name: &str| filters.one(name).map_err(|reply| Error::invalid(reply.message));
        for name in ["description", "parent", "type"] {
            one(name)?;
        }
        if one("until")?.is_some() && one("unused-for")?.is_some() {
            return Err(Error::invalid(
                "filters until and unused-for cannot be given together",
            ));
        }
        let moment = one("until")?.or(one("unused-for")?);
        let before = moment.map(time::parse_moment_now).transpose()?;
        for name in ["inuse", "private", "shared"] {
            filters
                .boolean(name)
                .map_err(|reply| Error::invalid(reply.message))?;
        }
        let id = one("id")?
            .map(|text| regex::RegexBuilder::new(text).size_limit(1 << 20).build())
            .transpose()
            .map_err(|error| Error::invalid(format!("invalid filter id: {error}")))?;
        Ok(Self { filters, before, id })
    }

    fn asks_shared(&self) -> bool {
        self.filters.values("shared").next().is_some()
    }

    fn takes(&self, record: &BuildCache) -> bool {
        let one = |name: &str| self.filters.values(name).next();
        let is = |name: &str, value: bool| {
            self.filters
                .boolean(name)
                .ok()
                .flatten()
                .is_none_or(|wanted| wanted == value)
        };
        let used = record
            .last_used_at
            .as_deref()
            .and_then(|text| text.parse::<Timestamp>().ok());
        self.before
            .is_none_or(|before| used.is_none_or(|used| used < before))
            && self.id.as_ref().is_none_or(|id| id.is_match(&record.id))
            && one("description").is_none_or(|text| record.description == text)
            && one("parent").is_none_or(|text| record.parent == text)
            && one("type").is_none_or(|text| record.r#type.to_string() == text)
            && is("inuse", record.in_use)
            && is("shared", record.shared)
            && is("private", !record.shared)
    }
}
