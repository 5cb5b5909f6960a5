//! What is shown of volumes, and the clean-up of those that nobody uses.

use std::collections::HashSet;

use berth_api::{
    Filters,
    models::{
        EventMessageType, Volume, VolumeListResponse, VolumePruneResponse, VolumeScope, VolumeUsageData,
    },
};
use berth_runtime::{Error, Result, error::Context};
use jiff::{Timestamp, tz::TimeZone};
use regex::Regex;

use super::{
    ANONYMOUS, Entry, LOCAL, Volumes,
    plugins::{PluginVolume, Plugins},
    store::Record,
    unknown,
};
use crate::engine::{containers::size::tree_size, events::Attributes};

/// The filters of a list, read once.
struct Selection<'a> {
    filters: &'a Filters,
    dangling: Option<bool>,
    names: Vec<Result<Regex, String>>,
}

impl<'a> Selection<'a> {
    fn read(filters: &'a Filters) -> Result<Self> {
        let dangling = filters
            .boolean("dangling")
            .map_err(|reply| Error::invalid(reply.message))?;
        let names = filters.values("name");
        Ok(Self {
            filters,
            dangling,
            // A bad expression stands for itself.
            names: names
                .map(|text| Regex::new(text).map_err(|_| text.to_owned()))
                .collect(),
        })
    }

    fn fits(&self, volume: &Volume, used: bool) -> bool {
        let name = |pattern: &Result<Regex, String>| match pattern {
            Ok(expression) => expression.is_match(&volume.name),
            Err(text) => *text == volume.name,
        };
        let labels = volume.labels.as_ref();
        self.dangling.is_none_or(|dangling| dangling != used)
            && self.filters.exact("driver", &volume.driver)
            && (self.names.is_empty() || self.names.iter().any(name))
            && self
                .filters
                .labels(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str))
    }
}

impl Volumes {
    /// The volumes that fit `filters`, those that only plugins know included. Blocks when there are plugins.
    ///
    /// # Errors
    /// Invalid for a bad filter.
    pub fn list(&self, filters: &Filters) -> Result<VolumeListResponse> {
        let selection = Selection::read(filters)?;
        let entries: Vec<Entry> = self.table().volumes.values().cloned().collect();
        let (found, warnings) = list_plugins(&self.0.plugins);
        let mut response = VolumeListResponse {
            volumes: Vec::with_capacity(entries.len()),
            warnings: (!warnings.is_empty()).then_some(warnings),
        };
        for entry in &entries {
            let volume = self.model(entry);
            if selection.fits(&volume, !entry.users.is_empty()) {
                response.volumes.push(volume);
            }
        }
        let known: HashSet<&str> = entries.iter().map(|entry| entry.record.name.as_str()).collect();
        for (driver, volume) in found {
            if known.contains(volume.name.as_str()) {
                continue;
            }
            let volume = foreign(driver, volume);
            if selection.fits(&volume, false) {
                response.volumes.push(volume);
            }
        }
        Ok(response)
    }

    /// One volume. Blocks if a plugin has it.
    ///
    /// # Errors
    /// Not found.
    pub fn inspect(&self, name: &str) -> Result<Volume> {
        if let Some(entry) = self.entry(name) {
            let mut volume = self.model(&entry);
            if entry.record.driver != LOCAL {
                match self
                    .0
                    .plugins
                    .find(&entry.record.driver)
                    .and_then(|plugin| plugin.get(name))
                {
                    Ok(told) => {
                        volume.mountpoint = told.mountpoint;
                        volume.status = objects(told.status);
                    }
                    Err(error) => tracing::warn!(volume = name, %error, "its plugin does not tell of it"),
                }
            }
            return Ok(volume);
        }
        let found = self.0.plugins.all().into_iter().find_map(|plugin| {
            let volume = plugin.get(name).ok()?;
            Some(foreign(plugin.name().to_owned(), volume))
        });
        found.ok_or_else(|| unknown(name))
    }

    /// All volumes with their sizes, each read through, and how many containers refer to them. Blocks.
    ///
    /// # Errors
    /// Internal.
    pub fn usage(&self) -> Result<Vec<Volume>> {
        let entries: Vec<Entry> = self.table().volumes.values().cloned().collect();
        let mut volumes = Vec::with_capacity(entries.len());
        for entry in &entries {
            let size = match entry.record.driver.as_str() {
                LOCAL => self.size(&entry.record)?,
                _ => -1,
            };
            let mut volume = self.model(entry);
            volume.usage_data = Some(VolumeUsageData {
                ref_count: i64::try_from(entry.users.len()).unwrap_or(i64::MAX),
                size,
            });
            volumes.push(volume);
        }
        Ok(volumes)
    }

    /// How many containers refer to a volume, by name.
    pub fn users(&self, name: &str) -> usize {
        self.table()
            .volumes
            .get(name)
            .map_or(0, |entry| entry.users.len())
    }

    fn size(&self, record: &Record) -> Result<i64> {
        let path = self.0.store.data(&record.name);
        tree_size(&path, &mut HashSet::new()).context(|| format!("cannot measure {}", path.display()))
    }

    /// Removes the local volumes without options that nobody refers to and that fit the filters `label` and `label!`:
    /// only anonymous ones, unless `all` says otherwise.
    ///
    /// # Errors
    /// Conflict if another clean-up is under way; invalid for a bad filter.
    pub async fn prune(&self, filters: Filters) -> Result<VolumePruneResponse> {
        let _the_only_one = self
            .0
            .pruning
            .try_lock()
            .map_err(|_| Error::conflict("a prune operation is already running"))?;
        let all = filters
            .boolean("all")
            .map_err(|reply| Error::invalid(reply.message))?
            .unwrap_or(false);
        let this = self.clone();
        let work = tokio::task::spawn_blocking(move || this.prune_blocking(&filters, all));
        work.await
            .map_err(|error| Error::internal("the clean-up was broken off").caused_by(error))
    }

    fn prune_blocking(&self, filters: &Filters, all: bool) -> VolumePruneResponse {
        self.0.store.sweep();
        let candidates: Vec<_> = {
            let table = self.table();
            let idle = table.volumes.values().filter(|entry| entry.users.is_empty());
            idle.map(|entry| std::sync::Arc::clone(&entry.record)).collect()
        };
        let mut response = VolumePruneResponse::default();
        for record in candidates {
            let fits = record.driver == LOCAL
                && record.options.is_empty()
                && (all || record.labels.contains_key(ANONYMOUS))
                && filters.label_map(&record.labels);
            if !fits {
                continue;
            }
            let size = self.size(&record).unwrap_or_default();
            match self.remove(&record.name, false) {
                Ok(()) => {
                    response.space_reclaimed += size;
                    response.volumes_deleted.push(record.name.clone());
                }
                // Used or removed by someone else meanwhile.
                Err(error) => tracing::debug!(volume = record.name, %error, "a volume was not pruned"),
            }
        }
        let reclaimed = response.space_reclaimed.to_string();
        let attributes = Attributes::from([("reclaimed".to_owned(), reclaimed)]);
        self.0
            .events
            .publish(EventMessageType::Volume, "prune", "", attributes);
        response
    }

    /// The volume of a record, as it is answered.
    pub fn model_of(&self, record: &Record) -> Volume {
        Volume {
            created_at: created_at(record.created),
            driver: record.driver.clone(),
            labels: Some(record.labels.clone()).filter(|labels| !labels.is_empty()),
            mountpoint: self.path(record).to_string_lossy().into_owned(),
            name: record.name.clone(),
            options: Some(record.options.clone()).filter(|options| !options.is_empty()),
            scope: VolumeScope::Local,
            ..Volume::default()
        }
    }

    fn model(&self, entry: &Entry) -> Volume {
        self.model_of(&entry.record)
    }
}

/// What the plugins know, and what they could not be asked.
fn list_plugins(plugins: &Plugins) -> (Vec<(String, PluginVolume)>, Vec<String>) {
    let (mut found, mut warnings) = (Vec::new(), Vec::new());
    for plugin in plugins.all() {
        match plugin.list() {
            Ok(volumes) => found.extend(
                volumes
                    .into_iter()
                    .map(|volume| (plugin.name().to_owned(), volume)),
            ),
            Err(error) => warnings.push(format!("{}: {error}", plugin.name())),
        }
    }
    (found, warnings)
}

/// A volume that only a plugin knows.
fn foreign(driver: String, volume: PluginVolume) -> Volume {
    Volume {
        created_at: volume.created_at,
        driver,
        mountpoint: volume.mountpoint,
        name: volume.name,
        scope: VolumeScope::Local,
        status: objects(volume.status),
        ..Volume::default()
    }
}

/// The entries of a plugin's status that are objects: others have no place in the answer.
fn objects(
    status: serde_json::Map<String, serde_json::Value>,
) -> std::collections::BTreeMap<String, serde_json::Map<String, serde_json::Value>> {
    status
        .into_iter()
        .filter_map(|(name, value)| match value {
            serde_json::Value::Object(object) => Some((name, object)),
            _ => None,
        })
        .collect()
}

/// Whole seconds, with the offset of the host's zone.
fn created_at(created: Timestamp) -> String {
    let zoned = created.to_zoned_datetime(TimeZone::system());
    let offset = zoned.offset();
    let text = zoned.strftime("%Y-%m-%dT%H:%M:%S").to_string();
    match offset.seconds() {
        0 => format!("{text}Z"),
        seconds => {
            let minutes = seconds.abs() / 60;
            let sign = if seconds < 0 { '-' } else { '+' };
            format!("{text}{sign}{:02}:{:02}", minutes / 60, minutes % 60)
        }
    }
}
