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

use crate::engine::time;

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
    mounted: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Clone, Debug)]
struct Entry {
    record: Record,
    hold: Arc<Hold>,
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
        let bytes = serde_json::to_vec(record).context(|| "cannot describe a step of a build")?;
        let (path, new) = (
            self.path(key),
            self.0
                .records
                .join(format!(".{key}-{:08x}", rand::random::<u32>())),
        );
        hit("build.record")
            .and_then(|()| fs::write(&new, bytes))
            .and_then(|()| hit("build.record-rename"))
            .and_then(|()| fs::rename(&new, &path))
            .context(|| format!("cannot write {}", path.display()))
    }

    fn path(&self, key: &str) -> PathBuf {
        self.0.records.join(format!("{key}.json"))
    }

    /// Held while a step is built, so that of several builds one does the work.
    pub async fn alone(&self, key: &str) -> tokio::sync::OwnedMutexGuard<()> {
        claim(&self.0.busy, key).lock_owned().await
    }

    /// The directory that steps keep under `id`; with `locked` for one step at a time. Blocks until then.
    ///
    /// # Errors
    /// If it cannot be made.
    pub async fn directory(
        &self,
        id: &str,
        locked: bool,
    ) -> Result<(PathBuf, Option<tokio::sync::OwnedMutexGuard<()>>)> {
        let name = key(&[id.as_bytes()]);
        let guard = match locked {
            true => Some(claim(&self.0.mounted, &name).lock_owned().await),
            false => None,
        };
        let path = self.0.mounts.join(&name);
        fs::create_dir_all(path.join("fs")).context(|| format!("cannot make {}", path.display()))?;
        fs::write(path.join("id"), id).context(|| format!("cannot describe {}", path.display()))?;
        Ok((path.join("fs"), guard))
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
            let id = fs::read_to_string(path.join("id")).ok()?;
            let changed = fs::metadata(&path).and_then(|m| m.modified()).ok();
            let created = changed
                .and_then(|time| Timestamp::try_from(time).ok())
                .unwrap_or_default();
            Some(BuildCache {
                id: short(path.file_name()?.to_str()?),
                r#type: BuildCacheType::ExecCachemount,
                description: format!("cached mount {id}"),
                in_use: self.is_mounted(path.file_name()?.to_str()?),
                size: i64::try_from(tree_size(&path.join("fs"))).unwrap_or(i64::MAX),
                created_at: created.to_string(),
                last_used_at: Some(created.to_string()),
                ..BuildCache::default()
            })
        };
        dirs.filter_map(|dir| shown(dir.ok()?.path())).collect()
    }

    fn is_mounted(&self, name: &str) -> bool {
        let mounted = self.0.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        mounted.get(name).is_some_and(|lock| lock.try_lock().is_err())
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
        if record.r#type == BuildCacheType::ExecCachemount {
            let dirs = fs::read_dir(&self.0.mounts).context(|| "cannot read the build cache")?;
            for dir in dirs.filter_map(std::result::Result::ok) {
                if dir.file_name().to_string_lossy().starts_with(&record.id) {
                    let path = dir.path();
                    fs::remove_dir_all(&path).context(|| format!("cannot remove {}", path.display()))?;
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        let key = self
            .lock()
            .keys()
            .find(|key| key.starts_with(&record.id))
            .cloned();
        let Some(key) = key else { return Ok(false) };
        match fs::remove_file(self.path(&key)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::internal("cannot remove a step of a build").caused_by(e));
            }
            _ => {}
        }
        Ok(self.lock().remove(&key).is_some())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lock of `key`; locks that nobody holds any more make room.
fn claim(
    locks: &Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    key: &str,
) -> Arc<tokio::sync::Mutex<()>> {
    let mut locks = locks.lock().unwrap_or_else(PoisonError::into_inner);
    locks.retain(|_, lock| Arc::strong_count(lock) > 1);
    Arc::clone(locks.entry(key.to_owned()).or_default())
}

/// Ids as they are shown.
fn short(key: &str) -> String {
    key.chars().take(25).collect()
}

fn tree_size(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let sizes = entries
        .filter_map(std::result::Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => tree_size(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        });
    sizes.sum()
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
