//! The mounts of a create request, whichever way they were asked for, as one list of [`MountPoint`]s.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use berth_api::models::{
    ContainerConfig, HostConfig, Mount, MountBindOptions, MountBindOptionsPropagation, MountType,
};
use berth_runtime::{Error, Kind, Result, error::Context};

use super::{
    Lookup, bind,
    facts::Defaults,
    mount_point::{BindSource, MountPoint, MountSource, Propagation, VolumeSource},
    path, tmpfs,
};

/// Files below /proc that may be covered by a mount: those that tools such as lxcfs imitate.
const PROC_FILES: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// The mounts under construction, by destination; later sources replace `VolumesFrom`, else nothing may meet.
struct Collector<'a> {
    points: BTreeMap<String, MountPoint>,
    /// Destinations that are taken for good.
    taken: BTreeSet<String>,
    /// Directory of the engine's state.
    data_root: &'a Path,
}

/// The mount points that `VolumesFrom`, `Binds`, `Mounts` and `Config.Volumes` ask for, sorted by destination.
/// `Tmpfs` stays a setting of its own, but is checked here and takes part in finding duplicates.
///
/// # Errors
/// [`Kind::Invalid`] for anything malformed, for two mounts at one place, and for a bind source of `Mounts` that does
/// not exist.
pub fn collect(
    config: &ContainerConfig,
    host_config: &HostConfig,
    defaults: &Defaults,
    lookup: &dyn Lookup,
) -> Result<Vec<MountPoint>> {
    let mut collector = Collector {
        points: volumes_from(host_config, lookup)?,
        taken: BTreeSet::new(),
        data_root: &defaults.data_root,
    };
    for (destination, options) in &host_config.tmpfs {
        let destination = check_destination(destination)?;
        check_proc(&destination, false)?;
        tmpfs::merge(options)?;
        collector.take(&destination)?;
        collector.points.remove(&destination);
    }
    for text in host_config.binds.iter().flatten() {
        let (point, explicit) = bind::parse(text, &host_config.volume_driver)?;
        collector.add(point, explicit)?;
    }
    for mount in &host_config.mounts {
        let (point, explicit) = of_mount(mount)?;
        collector.add(point, explicit)?;
    }
    let volumes = config
        .volumes
        .iter()
        .flatten()
        .map(|(destination, _)| destination.as_str());
    collector.anonymous(volumes, &host_config.volume_driver)?;
    Ok(collector.points.into_values().collect())
}

/// Adds anonymous volumes for those `destinations` (an image's `Volumes`) that no mount covers yet.
///
/// # Errors
/// [`Kind::Invalid`] for a destination that cannot be one.
pub fn add_image_volumes<'a>(
    points: &mut Vec<MountPoint>,
    destinations: impl Iterator<Item = &'a str>,
    host_config: &HostConfig,
) -> Result<()> {
    let mut collector = Collector {
        points: points
            .drain(..)
            .map(|point| (point.destination.clone(), point))
            .collect(),
        taken: host_config
            .tmpfs
            .keys()
            .map(|destination| path::clean(destination))
            .collect(),
        data_root: Path::new(""),
    };
    let added = collector.anonymous(destinations, &host_config.volume_driver);
    *points = collector.points.into_values().collect();
    added
}

impl Collector<'_> {
    fn take(&mut self, destination: &str) -> Result<()> {
        if self.taken.insert(destination.to_owned()) {
            return Ok(());
        }
        Err(Error::invalid(format!("Duplicate mount point: {destination}")))
    }

    fn add(&mut self, mut point: MountPoint, explicit_propagation: bool) -> Result<()> {
        if let MountSource::Bind(bind) = &mut point.source {
            self.guard_root(bind, explicit_propagation)?;
        }
        self.take(&point.destination)?;
        self.points.insert(point.destination.clone(), point);
        Ok(())
    }

    /// A bind that contains the engine's own directories must not keep its mounts busy, so it gets their unmounting:
    /// `rslave` unless the request says otherwise.
    fn guard_root(&self, bind: &mut BindSource, explicit: bool) -> Result<()> {
        let root = self.data_root.to_string_lossy();
        if root.is_empty() || !path::is_below(&root, &bind.path) && !path::is_below(&bind.path, &root) {
            return Ok(());
        }
        match bind.propagation {
            Propagation::Rslave | Propagation::Rshared => Ok(()),
            propagation if explicit => Err(Error::invalid(format!(
                "invalid mount config: must use either propagation mode \"rslave\" or \"rshared\" when mount source is \
                 within the daemon root, daemon root: {root:?}, bind mount source: {:?}, propagation: {:?}",
                bind.path,
                propagation.as_str(),
            ))),
            _ => {
                bind.propagation = Propagation::Rslave;
                bind.fallback = true;
                Ok(())
            }
        }
    }

    fn anonymous<'a>(&mut self, destinations: impl Iterator<Item = &'a str>, driver: &str) -> Result<()> {
        for destination in destinations {
            let destination = check_destination(destination)?;
            if self.taken.contains(&destination) || self.points.contains_key(&destination) {
                continue;
            }
            check_proc(&destination, false)?;
            let volume = VolumeSource {
                driver: driver.to_owned(),
                copy_up: true,
                anonymous: true,
                ..VolumeSource::default()
            };
            self.points.insert(
                destination.clone(),
                MountPoint {
                    destination,
                    source: MountSource::Volume(volume),
                    read_only: false,
                    mode: String::new(),
                },
            );
        }
        Ok(())
    }
}

/// The mounts of the containers named in `VolumesFrom`.
fn volumes_from(host_config: &HostConfig, lookup: &dyn Lookup) -> Result<BTreeMap<String, MountPoint>> {
    let mut points = BTreeMap::new();
    for text in host_config.volumes_from.iter().flatten() {
        if text.is_empty() {
            return Err(Error::invalid(
                "volumes-from specification cannot be an empty string",
            ));
        }
        let (name, mode) = text.split_once(':').unwrap_or((text, ""));
        let modes = bind::Modes::parse(mode)?;
        if modes.propagation.is_some() || modes.no_copy {
            return Err(Error::invalid(format!("invalid mode: {mode}")));
        }
        let other = lookup.mounts(name).map_err(as_invalid)?;
        for mut point in other {
            point.read_only |= modes.read_only;
            if let MountSource::Volume(volume) = &mut point.source {
                // The volume has its content already.
                volume.copy_up = false;
            }
            points.insert(point.destination.clone(), point);
        }
    }
    Ok(points)
}

/// A missing container is no missing image: clients take 404 for the latter.
pub fn as_invalid(error: Error) -> Error {
    match error.kind() {
        Kind::NotFound => Error::invalid(error.to_string()),
        _ => error,
    }
}

/// Checks a destination and cleans it.
pub fn check_destination(destination: &str) -> Result<String> {
    if !destination.starts_with('/') {
        return Err(Error::invalid(format!(
            "invalid mount path: '{destination}' mount path must be absolute"
        )));
    }
    if destination.contains(['\0', '\n']) || destination.len() > 4095 {
        return Err(Error::invalid(
            "invalid mount path: it is too long or contains a line break or null character",
        ));
    }
    let clean = path::clean(destination);
    if clean == "/" {
        return Err(Error::invalid("invalid specification: destination can't be '/'"));
    }
    Ok(clean)
}

/// Refuses what would replace or cover the container's /proc, on which its confinement rests.
pub fn check_proc(destination: &str, is_bind: bool) -> Result<()> {
    if destination == "/proc" && !is_bind {
        return Err(Error::invalid(
            "\"/proc\" cannot be mounted because it is not of type proc",
        ));
    }
    if destination != "/proc" && path::is_below(destination, "/proc") && !PROC_FILES.contains(&destination) {
        return Err(Error::invalid(format!(
            "{destination:?} cannot be mounted because it is inside /proc"
        )));
    }
    Ok(())
}

/// A mount object, and whether it names a propagation.
fn of_mount(mount: &Mount) -> Result<(MountPoint, bool)> {
    let kind = mount.r#type.map_or("", MountType::as_str);
    read_mount(mount).map_err(|error| match error.kind() {
        Kind::Invalid => Error::invalid(format!("invalid mount config for type {kind:?}: {error}")),
        _ => error,
    })
}

fn read_mount(mount: &Mount) -> Result<(MountPoint, bool)> {
    if mount.target.is_empty() {
        return Err(Error::invalid("field Target must not be empty"));
    }
    let destination = check_destination(&mount.target)?;
    let (source, explicit) = match mount.r#type {
        Some(MountType::Bind) => {
            let bind = read_bind(mount)?;
            let explicit = mount
                .bind_options
                .as_ref()
                .is_some_and(|options| options.propagation != MountBindOptionsPropagation::Empty);
            (MountSource::Bind(bind), explicit)
        }
        Some(MountType::Volume) => (MountSource::Volume(read_volume(mount)?), false),
        Some(MountType::Tmpfs) => {
            forbid(mount.bind_options.is_some(), "BindOptions")?;
            forbid(mount.volume_options.is_some(), "VolumeOptions")?;
            forbid(!mount.source.is_empty(), "Source")?;
            let options = tmpfs::of_mount(mount.tmpfs_options.as_ref(), mount.read_only)?;
            (MountSource::Tmpfs { options }, false)
        }
        _ => return Err(Error::invalid("mount type unknown")),
    };
    check_proc(&destination, matches!(source, MountSource::Bind(_)))?;
    let mode = match &source {
        MountSource::Volume(_) => bind::VOLUME_MODE.to_owned(),
        _ => String::new(),
    };
    let point = MountPoint {
        destination,
        source,
        read_only: mount.read_only,
        mode,
    };
    Ok((point, explicit))
}

fn forbid(given: bool, field: &str) -> Result<()> {
    if given {
        Err(Error::invalid(format!("field {field} must not be specified")))
    } else {
        Ok(())
    }
}

fn read_bind(mount: &Mount) -> Result<BindSource> {
    if mount.source.is_empty() {
        return Err(Error::invalid("field Source must not be empty"));
    }
    forbid(mount.volume_options.is_some(), "VolumeOptions")?;
    forbid(mount.tmpfs_options.is_some(), "TmpfsOptions")?;
    if !mount.source.starts_with('/') {
        let source = &mount.source;
        return Err(Error::invalid(format!(
            "invalid mount path: '{source}' mount path must be absolute"
        )));
    }
    let options = mount.bind_options.clone().unwrap_or_default();
    let path = path::clean(&mount.source);
    if !options.create_mountpoint && !exists(&path)? {
        return Err(Error::invalid(format!(
            "bind source path does not exist: {}",
            mount.source
        )));
    }
    Ok(BindSource {
        path,
        propagation: Propagation::parse(options.propagation.as_str()).unwrap_or_default(),
        recursive: !options.non_recursive,
        recursive_read_only: read_recursion(mount, &options)?,
        create: options.create_mountpoint,
        fallback: false,
        mapped: false,
    })
}

/// Whether the mounts below a bind are read-only as well: only if that is asked for, and can be.
fn read_recursion(mount: &Mount, options: &MountBindOptions) -> Result<bool> {
    let (not, force) = (options.read_only_non_recursive, options.read_only_force_recursive);
    let refuse = |what: &str| Err(Error::invalid(what));
    match () {
        () if not && force => refuse(
            "BindOptions.ReadOnlyNonRecursive and BindOptions.ReadOnlyForceRecursive exclude each other",
        ),
        () if (not || force) && !mount.read_only => {
            refuse("BindOptions.ReadOnlyNonRecursive and BindOptions.ReadOnlyForceRecursive need ReadOnly")
        }
        () if force && options.non_recursive => {
            refuse("BindOptions.ReadOnlyForceRecursive and BindOptions.NonRecursive exclude each other")
        }
        () if force && !matches!(options.propagation.as_str(), "" | "rprivate") => {
            refuse("BindOptions.ReadOnlyForceRecursive needs propagation rprivate")
        }
        () => Ok(force),
    }
}

/// What of a volume is mounted. It must not lead out of the volume, which links in it are kept from at the start.
fn read_subpath(subpath: &str) -> Result<Option<String>> {
    if subpath.is_empty() {
        return Ok(None);
    }
    let mut depth = 0_i64;
    let mut local = !subpath.starts_with('/') && !subpath.contains(['\0', '\n']);
    for part in subpath.split('/') {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        local &= depth >= 0;
    }
    match local {
        true => Ok(Some(subpath.to_owned())),
        false => Err(Error::invalid(
            "subpath must be a relative path within the volume",
        )),
    }
}

fn exists(path: &str) -> Result<bool> {
    match fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(false)
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            Err(Error::invalid("bind source path contains a null character"))
        }
        Err(error) => Err(error).context(|| format!("cannot look at bind source path {path}")),
    }
}

fn read_volume(mount: &Mount) -> Result<VolumeSource> {
    forbid(mount.bind_options.is_some(), "BindOptions")?;
    forbid(mount.tmpfs_options.is_some(), "TmpfsOptions")?;
    let options = mount.volume_options.clone().unwrap_or_default();
    let driver = options.driver_config.unwrap_or_default();
    Ok(VolumeSource {
        anonymous: mount.source.is_empty(),
        name: mount.source.clone(),
        driver: driver.name,
        driver_options: driver.options,
        labels: options.labels,
        subpath: read_subpath(&options.subpath)?,
        copy_up: !options.no_copy,
        path: None,
    })
}
