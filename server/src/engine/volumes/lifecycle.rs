//! The life of a volume: made, referred to, filled, mounted, unmounted, removed. Everything here blocks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use berth_runtime::{
    Error, Kind, Result,
    error::Context,
    failpoint::hit,
    ids::IdMap,
    volume::{self, MountOptions},
};
use jiff::Timestamp;

use super::{ANONYMOUS, Claim, Entry, LOCAL, Volumes, store::Record, unknown};

/// A volume that is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Its name; empty for one that is made up.
    pub name: String,
    /// Its driver; empty for that of the volume if there is one, else `local`.
    pub driver: String,
    /// For the driver, if the volume is new.
    pub options: BTreeMap<String, String>,
    /// Its labels, if it is new.
    pub labels: BTreeMap<String, String>,
    /// The container (a full id) it is for, which refers to it from then on.
    pub container: Option<String>,
}

impl Volumes {
    /// The volume that is asked for, and whether it had to be made.
    ///
    /// # Errors
    /// Invalid for a bad name or options; not found for an unknown driver; conflict if a volume of this name has another
    /// driver.
    pub fn create(&self, wanted: Wanted) -> Result<(Arc<Record>, bool)> {
        let wrap =
            |name: String| move |error: Error| Error::new(error.kind(), format!("create {name}: {error}"));
        if !wanted.name.is_empty() {
            check_name(&wanted.name).map_err(wrap(wanted.name.clone()))?;
        }
        let anonymous = wanted.name.is_empty();
        let name = match anonymous {
            true => random_name(),
            false => wanted.name.clone(),
        };
        let claim = self.claim(&name);
        let made = self
            .find_or_make(&claim, anonymous, &wanted)
            .map_err(wrap(name.clone()))?;
        if let Some(container) = wanted.container
            && let Some(entry) = self.table().volumes.get_mut(&name)
        {
            entry.users.insert(container);
        }
        Ok(made)
    }

    fn find_or_make(
        &self,
        claim: &Claim<'_>,
        anonymous: bool,
        wanted: &Wanted,
    ) -> Result<(Arc<Record>, bool)> {
        let name = &claim.name;
        if let Some(entry) = self.entry(name) {
            let driver = &entry.record.driver;
            if !wanted.driver.is_empty() && wanted.driver != *driver {
                return Err(Error::conflict(format!(
                    "driver '{driver}' already has volume '{name}': volume name must be unique"
                )));
            }
            return Ok((entry.record, false));
        }
        let driver = match wanted.driver.as_str() {
            "" => LOCAL,
            driver => driver,
        };
        let mut labels = wanted.labels.clone();
        if anonymous {
            labels.entry(ANONYMOUS.to_owned()).or_default();
        }
        let record = Record {
            name: name.clone(),
            driver: driver.to_owned(),
            options: wanted.options.clone(),
            labels,
            created: Timestamp::now(),
            made_for: wanted.container.clone().filter(|_| anonymous),
        };
        let mountpoint = match driver {
            LOCAL => {
                let size = size(&record.options)?;
                MountOptions::read(&record.options)?;
                self.0.store.add(&record, true, |data| match size {
                    0 => Ok(()),
                    size => volume::quota::limit(data, size),
                })?;
                self.0.store.data(name)
            }
            driver => {
                let plugin = self.0.plugins.find(driver)?;
                plugin.create(name, &record.options)?;
                // What cannot be recorded must not stay with the plugin either.
                if let Err(error) = self.0.store.add(&record, false, |_| Ok(())) {
                    let _ = plugin.remove(name);
                    return Err(error);
                }
                plugin.path(name).unwrap_or_default()
            }
        };
        let record = Arc::new(record);
        let entry = Entry {
            record: Arc::clone(&record),
            users: BTreeSet::new(),
            mounted: BTreeSet::new(),
            mountpoint,
        };
        self.table().volumes.insert(name.clone(), entry);
        self.publish("create", name, driver, &[]);
        Ok((record, true))
    }

    /// Where the data of a volume is on the host; empty if its plugin has not told.
    pub fn path(&self, record: &Record) -> PathBuf {
        match record.driver.as_str() {
            LOCAL => self.0.store.data(&record.name),
            _ => self
                .entry(&record.name)
                .map(|entry| entry.mountpoint)
                .unwrap_or_default(),
        }
    }

    /// Copies `content`, a directory, into a volume if that is empty; with `ids`, files get the outer ones.
    ///
    /// # Errors
    /// Internal. What was copied stays only if the volume has to be mounted first or is used elsewhere.
    pub fn fill(&self, name: &str, container: &str, content: &OwnedFd, ids: Option<&IdMap>) -> Result<()> {
        let path = self.mount(name, container)?;
        let filled = self.fill_mounted(name, container, &path, content, ids);
        self.unmount(name, container)?;
        filled
    }

    fn fill_mounted(
        &self,
        name: &str,
        container: &str,
        path: &Path,
        content: &OwnedFd,
        ids: Option<&IdMap>,
    ) -> Result<()> {
        let claim = self.claim(name);
        let failed = || format!("cannot look into volume {name}");
        if fs::read_dir(path).context(failed)?.next().is_some() {
            return Ok(());
        }
        let copy = |to: &Path| {
            let to: OwnedFd = File::open(to).context(failed)?.into();
            volume::copy_directory(content, &to, ids)
        };
        let in_one_step = self.entry(&claim.name).is_some_and(|entry| {
            let alone = entry.mounted.iter().all(|user| user == container);
            alone && entry.record.driver == LOCAL && entry.record.options.is_empty()
        });
        match in_one_step {
            true => self.0.store.fill(name, copy),
            false => copy(path),
        }
    }

    /// Makes a volume usable for a container that starts; gives where its data is.
    ///
    /// # Errors
    /// Not found if there is no such volume any more; internal with what the kernel or the plugin says.
    pub fn mount(&self, name: &str, container: &str) -> Result<PathBuf> {
        let _claim = self.claim(name);
        let entry = self.entry(name).ok_or_else(|| unknown(name))?;
        let path = match entry.record.driver.as_str() {
            LOCAL => {
                let data = self.0.store.data(name);
                if let Some(options) = MountOptions::read(&entry.record.options)?
                    && (entry.mounted.is_empty() || !volume::is_mount_point(&data)?)
                {
                    hit("volume.mount").context(|| format!("cannot mount volume {name}"))?;
                    volume::unmount(&data)?;
                    options.mount(&data).map_err(|error| {
                        let place = data.display();
                        Error::internal(format!("error while mounting volume '{place}': {error}"))
                    })?;
                }
                data
            }
            driver => self.0.plugins.find(driver)?.mount(name, container)?,
        };
        if let Some(entry) = self.table().volumes.get_mut(name) {
            entry.mounted.insert(container.to_owned());
            entry.mountpoint.clone_from(&path);
        }
        Ok(path)
    }

    /// Undoes [`Volumes::mount`]; false if that was not done.
    ///
    /// # Errors
    /// Internal. The container is not counted as a user of the mount any more all the same.
    pub fn unmount(&self, name: &str, container: &str) -> Result<bool> {
        let _claim = self.claim(name);
        let Some(entry) = self.entry(name) else {
            return Ok(false);
        };
        let (was, last) = match self.table().volumes.get_mut(name) {
            Some(entry) => (entry.mounted.remove(container), entry.mounted.is_empty()),
            None => (false, false),
        };
        if !was {
            return Ok(false);
        }
        match entry.record.driver.as_str() {
            LOCAL if last && !entry.record.options.is_empty() => {
                hit("volume.unmount").context(|| format!("cannot unmount volume {name}"))?;
                volume::unmount(&self.0.store.data(name))?;
            }
            LOCAL => {}
            driver => self.0.plugins.find(driver)?.unmount(name, container)?,
        }
        Ok(true)
    }

    /// A container does not refer to a volume any more.
    pub fn release(&self, name: &str, container: &str) {
        if let Some(entry) = self.table().volumes.get_mut(name) {
            entry.users.remove(container);
        }
    }

    /// Removes a volume with its data.
    ///
    /// # Errors
    /// Not found unless `force`; conflict if a container refers to it; internal.
    pub fn remove(&self, name: &str, force: bool) -> Result<()> {
        let claim = self.claim(name);
        let Some(entry) = self.entry(name) else {
            return self.remove_foreign(&claim, force);
        };
        if !entry.users.is_empty() {
            let users: Vec<&str> = entry.users.iter().map(String::as_str).collect();
            return Err(Error::conflict(format!(
                "remove {name}: volume is in use - [{}]",
                users.join(", ")
            )));
        }
        let driver = entry.record.driver.as_str();
        if driver != LOCAL {
            let removed = self.0.plugins.find(driver).and_then(|plugin| plugin.remove(name));
            match removed {
                Err(error) if force => tracing::warn!(volume = name, %error, "its plugin does not remove it"),
                removed => {
                    removed.map_err(|error| Error::new(error.kind(), format!("remove {name}: {error}")))?
                }
            }
        } else if !entry.record.options.is_empty() {
            volume::unmount(&self.0.store.data(name))?;
        }
        self.0.store.retire(name)?;
        self.table().volumes.remove(name);
        self.publish("destroy", name, driver, &[]);
        // It is gone, whatever remains of its data.
        if let Err(error) = self.0.store.delete(name) {
            tracing::warn!(volume = name, %error, "data of a removed volume stays until volumes are pruned or the engine starts again");
        }
        Ok(())
    }

    /// A volume that only a plugin knows.
    fn remove_foreign(&self, claim: &Claim<'_>, force: bool) -> Result<()> {
        let name = &claim.name;
        for plugin in self.0.plugins.all() {
            if plugin.get(name).is_ok() {
                plugin.remove(name)?;
                self.publish("destroy", name, plugin.name(), &[]);
                return Ok(());
            }
        }
        match force {
            true => Ok(()),
            false => Err(unknown(name)),
        }
    }

    /// Removes volumes where nobody waits for the outcome; those in use stay.
    pub fn remove_quietly(&self, names: &[String]) {
        for name in names {
            match self.remove(name, false) {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), Kind::Conflict | Kind::NotFound) => {}
                Err(error) => tracing::warn!(volume = name, %error, "a volume could not be removed"),
            }
        }
    }
}

/// 64 hexadecimal digits.
fn random_name() -> String {
    let bytes: [u8; 32] = rand::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a text can be the name of a volume, and so of a directory.
fn check_name(name: &str) -> Result<()> {
    if name.len() == 1 {
        return Err(Error::invalid(
            "volume name is too short, names should be at least two alphanumeric characters",
        ));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    let fine = name.bytes().next().is_some_and(plain)
        && name
            .bytes()
            .all(|byte| plain(byte) || matches!(byte, b'_' | b'.' | b'-'));
    if !fine {
        return Err(Error::invalid(format!(
            "{name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are \
             allowed. If you intended to pass a host directory, use absolute path"
        )));
    }
    // Directories in the making have a longer name.
    if name.len() > 240 {
        return Err(Error::invalid(
            "volume name is too long: 240 characters are the most",
        ));
    }
    Ok(())
}

/// The most that a volume may hold, in bytes, which its file system has to see to; 0 for no limit.
fn size(options: &BTreeMap<String, String>) -> Result<u64> {
    let Some(text) = options.get("size") else {
        return Ok(0);
    };
    let size = crate::config::size::parse(text)?;
    u64::try_from(size).map_err(|_| Error::invalid(format!("invalid size: {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["ab", "a.b_c-d", "0x", &"x".repeat(240)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "a",
            ".a",
            "-a",
            "_a",
            "a/b",
            "../x",
            "a b",
            "é1",
            "a\0b",
            &"x".repeat(241),
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert_eq!(random_name().len(), 64);
    }
}
