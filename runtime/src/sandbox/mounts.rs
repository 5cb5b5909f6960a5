//! The mounts of a specification: sources opened on the host, targets found and made inside the root, one attached to
//! the other by descriptor.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use oci_spec::runtime::{Mount, Spec};
use rustix::{
    fs::{Mode, OFlags},
    mount::{MountAttrFlags as Attr, MountPropagationFlags},
};

use super::{
    StartError, devices, filesystem,
    idmap::{self, Ids},
    options::Options,
    propagation,
    root::{self, Make, Root},
    rootfs,
};
use crate::{
    Error, Result,
    cgroup::Cgroup,
    error::Context,
    failpoint::hit,
    ids::IdMap,
    sys::mount::{Change, mount_setattr},
    userns::UserNamespace,
};

/// Magic number of procfs (statfs(2)).
pub(super) const PROC_MAGIC: u64 = 0x9fa0;
/// Files of `/proc` that something may be mounted on: those that lxcfs and the like provide per container.
const PROC_FILES: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// One mount and how far it has come.
#[derive(Debug)]
pub(super) struct Planned {
    /// Absolute, without `.` and `..`.
    destination: PathBuf,
    /// Type of the file system.
    kind: String,
    options: Options,
    state: State,
    /// Ids of its own that the files of a bind show with.
    ids: Option<IdMap>,
}

#[derive(Debug)]
enum State {
    /// To be made inside, as it belongs to one of the new namespaces.
    New { source: Option<PathBuf> },
    /// A copy of a mount of the host, once it has been handed over.
    Bind { source: PathBuf, tree: Option<OwnedFd> },
    /// `/dev` of a sandbox in another user namespace, made and filled outside, once it has been handed over.
    OuterDev { tree: Option<OwnedFd> },
    /// Made inside.
    Made(OwnedFd),
    /// The container's own directories of the v1 hierarchies (on a hybrid host, of v2 too), and, once made, the tmpfs
    /// that they are gathered in.
    CgroupV1 {
        directories: Vec<CgroupDirectory>,
        tmpfs: Option<OwnedFd>,
    },
}

#[derive(Debug)]
struct CgroupDirectory {
    name: String,
    aliases: Vec<String>,
    path: PathBuf,
    tree: Option<OwnedFd>,
}

/// What the mounts of `spec` come to. Nothing is opened yet. With `outer_dev`, `/dev` is made outside.
pub(super) fn plan(spec: &Spec, cgroup: &Cgroup, outer_dev: bool) -> Result<Vec<Planned>> {
    let skip = usize::from(rootfs::overlay_of(spec).is_some());
    let mounts = spec.mounts().iter().flatten().skip(skip);
    mounts.map(|m| plan_one(m, cgroup, outer_dev)).collect()
}

fn plan_one(mount: &Mount, cgroup: &Cgroup, outer_dev: bool) -> Result<Planned> {
    let destination = clean(mount.destination())?;
    let mut options = Options::of(mount)?;
    let ids = own_ids(mount, &mut options)?;
    let source = mount.source().clone();
    let mut kind = mount.typ().clone().unwrap_or_default();
    let state = if options.bind.is_some() {
        State::Bind {
            source: source.unwrap_or_default(),
            tree: None,
        }
    } else if outer_dev && kind == "tmpfs" && destination == Path::new("/dev") {
        State::OuterDev { tree: None }
    } else if kind == "cgroup" && cgroup.has_v1() {
        State::CgroupV1 {
            directories: cgroup_directories(cgroup),
            tmpfs: None,
        }
    } else {
        if kind == "cgroup" {
            kind = "cgroup2".to_owned();
        }
        State::New { source }
    };
    Ok(Planned {
        destination,
        kind,
        options,
        state,
        ids,
    })
}

/// The ids that `mount` says its files show with; without any, an `idmap` stands for those of the sandbox.
fn own_ids(mount: &Mount, options: &mut Options) -> Result<Option<IdMap>> {
    let place = mount.destination().display();
    let (uids, gids) = (mount.uid_mappings().as_deref(), mount.gid_mappings().as_deref());
    let given = |list: Option<&[_]>| list.is_some_and(|l| !l.is_empty());
    let ids = match (given(uids), given(gids)) {
        (false, false) => None,
        (true, true) => IdMap::of(uids, gids),
        _ => {
            return Err(Error::invalid(format!(
                "mount {place}: uidMappings and gidMappings belong together"
            )));
        }
    };
    if ids.is_some() {
        options.idmap.get_or_insert(false);
    }
    if options.idmap.is_some() && options.bind.is_none() {
        return Err(Error::invalid(format!(
            "mount {place}: only the ids of a bind can be mapped"
        )));
    }
    Ok(ids)
}

/// The container's own cgroup directories, as it is to see them.
fn cgroup_directories(cgroup: &Cgroup) -> Vec<CgroupDirectory> {
    let plan = |d: crate::cgroup::Directory<'_>| CgroupDirectory {
        name: d.name,
        aliases: d.aliases,
        path: d.path.to_owned(),
        tree: None,
    };
    cgroup.directories().map(plan).collect()
}

/// Opens what the mounts of `spec` need from the host, in the caller's mount namespace, for [`hand_over`] elsewhere.
/// `user` is the user namespace of the sandbox, if that is another one.
pub(super) fn open_trees(planned: &[Planned], spec: &Spec, user: Option<Ids<'_>>) -> Result<Vec<OwnedFd>> {
    let mut trees = Vec::new();
    for mount in planned {
        match &mount.state {
            State::OuterDev { .. } => {
                let user = user.ok_or_else(|| Error::internal("there is no user namespace"))?;
                trees.push(devices::outer(spec, &mount.options, user.map)?);
            }
            State::Bind { source, .. } => {
                let tree = filesystem::bind(source, &mount.options)?;
                if let Some(recursive) = mount.options.idmap {
                    map_ids(mount, &tree, source, user, recursive)?;
                } else if let (true, Some(user)) = (mount.options.idmap_if_possible, user) {
                    idmap::map_if_possible(&tree, source, user.namespace)?;
                }
                trees.push(tree);
                if let Some(wanted) = mount.options.propagation {
                    propagation::check(source, wanted)?;
                }
            }
            State::CgroupV1 { directories, .. } => {
                for directory in directories {
                    trees.push(filesystem::clone_tree(&directory.path, false)?);
                }
            }
            State::New { .. } | State::Made(_) => {}
        }
    }
    Ok(trees)
}

/// Maps the ids of a bind by its own map, else by that of the sandbox.
fn map_ids(
    mount: &Planned,
    tree: &OwnedFd,
    source: &Path,
    user: Option<Ids<'_>>,
    recursive: bool,
) -> Result<()> {
    match (&mount.ids, user) {
        (Some(own), Some(user)) if own == user.map => {
            idmap::map_tree(tree, source, user.namespace, recursive)
        }
        (Some(own), _) => idmap::map_tree(tree, source, UserNamespace::create(own)?, recursive),
        (None, Some(user)) => idmap::map_tree(tree, source, user.namespace, recursive),
        (None, None) => Err(Error::invalid(format!(
            "mount {}: without a user namespace, idmap needs uidMappings and gidMappings",
            mount.destination.display()
        ))),
    }
}

/// Whether `spec` shows the sandbox its cgroups as something that it may change.
pub(super) fn has_own_cgroups(spec: &Spec) -> bool {
    let is_cgroup = |m: &&Mount| matches!(m.typ().as_deref(), Some("cgroup" | "cgroup2"));
    let mut shown = spec.mounts().iter().flatten().filter(is_cgroup);
    shown.any(|m| !m.options().iter().flatten().any(|o| o == "ro"))
}

/// How many trees [`open_trees`] opens.
pub(super) fn tree_count(planned: &[Planned]) -> usize {
    let count = |mount: &Planned| match &mount.state {
        State::Bind { .. } | State::OuterDev { .. } => 1,
        State::CgroupV1 { directories, .. } => directories.len(),
        State::New { .. } | State::Made(_) => 0,
    };
    planned.iter().map(count).sum()
}

/// Gives the mounts the trees that [`open_trees`] opened for them.
pub(super) fn hand_over(planned: &mut [Planned], mut trees: impl Iterator<Item = OwnedFd>) {
    for mount in planned {
        match &mut mount.state {
            State::Bind { tree, .. } | State::OuterDev { tree } => *tree = trees.next(),
            State::CgroupV1 { directories, .. } => {
                for directory in directories {
                    directory.tree = trees.next();
                }
            }
            State::New { .. } | State::Made(_) => {}
        }
    }
}

/// A destination without `.` and `..`, which could only mean a place above the root.
fn clean(destination: &Path) -> Result<PathBuf> {
    let mut cleaned = PathBuf::from("/");
    for component in destination.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            _ => {}
        }
    }
    if cleaned == Path::new("/") {
        let name = destination.display();
        return Err(Error::invalid(format!(
            "mount destination {name}: nothing can be mounted on the root"
        )));
    }
    Ok(cleaned)
}

/// Makes the mounts that belong to the sandbox's namespaces. This comes before the old root goes: in a user namespace
/// the kernel gives a new procfs or sysfs only to those who can see one.
pub(super) fn make(planned: &mut [Planned]) -> Result<()> {
    for mount in planned {
        let failed =
            |e| Error::internal(format!("error mounting {}", mount.destination.display())).caused_by(e);
        match &mut mount.state {
            State::New { source } => {
                let made =
                    filesystem::new_mount(&mount.kind, source.as_deref(), &mount.options).map_err(failed)?;
                mount.state = State::Made(made);
            }
            State::CgroupV1 { directories, tmpfs } => {
                *tmpfs = Some(cgroup_tmpfs(directories).map_err(failed)?);
            }
            State::Bind { .. } | State::OuterDev { .. } | State::Made(_) => {}
        }
    }
    Ok(())
}

/// A tmpfs with an empty directory for each hierarchy.
fn cgroup_tmpfs(directories: &[CgroupDirectory]) -> Result<OwnedFd> {
    let filesystem = filesystem::NewFilesystem::open("tmpfs")?;
    filesystem.set("source", Some("cgroup"))?;
    filesystem.set("mode", Some("755"))?;
    let tmpfs =
        filesystem.mount(Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC)?;
    for directory in directories {
        let message = || format!("cannot make the directory of cgroup hierarchy {}", directory.name);
        rustix::fs::mkdirat(&tmpfs, &directory.name, Mode::from_raw_mode(0o755)).context(message)?;
        for alias in &directory.aliases {
            rustix::fs::symlinkat(&directory.name, &tmpfs, alias).context(message)?;
        }
    }
    Ok(tmpfs)
}

/// The mounts that later steps work with.
#[derive(Debug, Default)]
pub(super) struct Attached {
    /// procfs on `/proc`.
    pub proc: Option<OwnedFd>,
    /// sysfs on `/sys`.
    pub sys: Option<OwnedFd>,
    /// tmpfs on `/dev`.
    pub dev: Option<OwnedFd>,
    /// devpts on `/dev/pts`.
    pub pts: Option<OwnedFd>,
}

/// Attaches what was planned and made, in order.
pub(super) fn attach(planned: Vec<Planned>, root: &Root) -> Result<Attached, StartError> {
    let mut attached = Attached::default();
    for mount in planned {
        let at = mount.destination.clone();
        let kind = mount.kind.clone();
        let is_bind = matches!(mount.state, State::Bind { .. });
        let mount = attach_one(mount, root)?;
        let slot = match (at.to_str(), kind.as_str()) {
            _ if is_bind => continue,
            (Some("/proc"), "proc") => &mut attached.proc,
            (Some("/sys"), "sysfs") => &mut attached.sys,
            (Some("/dev"), "tmpfs") => &mut attached.dev,
            (Some("/dev/pts"), "devpts") => &mut attached.pts,
            _ => continue,
        };
        *slot = Some(mount);
    }
    Ok(attached)
}

fn attach_one(mount: Planned, root: &Root) -> Result<OwnedFd, StartError> {
    hit("inside.mount").map_err(Error::from)?;
    let target = target(&mount, root)?;
    hit("inside.mount-found").map_err(Error::from)?;
    let Planned {
        destination,
        options,
        state,
        ..
    } = mount;
    let (tree, source) = match state {
        State::Bind {
            source,
            tree: Some(tree),
        } => (tree, Some(source)),
        State::Made(tree) | State::OuterDev { tree: Some(tree) } => {
            if let Some(propagation) = options.propagation {
                let change = Change {
                    propagation: Some(propagation.flags),
                    ..Change::none()
                };
                mount_setattr(&tree, &change)
                    .context(|| format!("cannot set the propagation of {}", destination.display()))?;
            }
            (tree, None)
        }
        State::CgroupV1 {
            directories,
            tmpfs: Some(tmpfs),
        } => {
            let failed = || format!("cannot show the cgroups on {}", destination.display());
            attach_cgroups(directories, &tmpfs, &target, &options).context(failed)?;
            return Ok(tmpfs);
        }
        State::New { .. }
        | State::Bind { tree: None, .. }
        | State::OuterDev { tree: None }
        | State::CgroupV1 { tmpfs: None, .. } => {
            return Err(StartError::other(format!(
                "{} was not made",
                destination.display()
            )));
        }
    };
    filesystem::attach(&tree, &target).map_err(|e| failure(&destination, source.as_deref(), e))?;
    Ok(tree)
}

fn failure(destination: &Path, source: Option<&Path>, error: io::Error) -> StartError {
    let destination = destination.display();
    let what = source.map_or_else(String::new, |s| format!("{:?} ", s.display().to_string()));
    let message = format!("error mounting {what}to rootfs at {:?}", destination.to_string());
    if error.raw_os_error() == Some(libc::ENOTDIR) {
        return StartError::not_found(format!(
            "{message}: not a directory: Are you trying to mount a directory onto a file (or vice-versa)? Check if the \
            specified host path exists and is the expected type"
        ));
    }
    StartError::other(format!("{message}: {error}"))
}

/// Finds, or makes, what `mount` is attached to.
fn target(mount: &Planned, root: &Root) -> Result<OwnedFd, StartError> {
    let destination = &mount.destination;
    let (last, tree, source) = match &mount.state {
        State::Bind {
            source,
            tree: Some(tree),
        } => {
            let data = rustix::fs::fstat(tree).context(|| format!("cannot examine {}", source.display()))?;
            let is_directory = rustix::fs::FileType::from_raw_mode(data.st_mode).is_dir();
            (
                if is_directory { Make::Directory } else { Make::File },
                Some(tree),
                Some(source.as_path()),
            )
        }
        _ => (Make::Directory, None, None),
    };
    let target = root
        .make(destination, last)
        .map_err(|e| failure(destination, source, e))?;
    let data = rustix::fs::fstat(&target).map_err(|e| failure(destination, source, e.into()))?;
    if rustix::fs::FileType::from_raw_mode(data.st_mode).is_dir() != (last == Make::Directory) {
        return Err(failure(
            destination,
            source,
            io::Error::from_raw_os_error(libc::ENOTDIR),
        ));
    }
    let place = destination.to_str().unwrap_or_default();
    if matches!(place, "/proc" | "/sys" | "/dev") {
        require_plain(mount, root)?;
    }
    match tree {
        Some(tree) => check_bind(place, source, tree, &target)?,
        None if mount.kind == "proc" && !place.starts_with("/proc/") => {}
        None => refuse_proc(place, &target)?,
    }
    Ok(target)
}

/// The kernel's file systems must be where programs look for them: a link in the image could put them elsewhere, and
/// with them what hides parts of them.
fn require_plain(mount: &Planned, root: &Root) -> Result<(), StartError> {
    match root.open_plain(&mount.destination, OFlags::PATH | OFlags::DIRECTORY) {
        Ok(_) => Ok(()),
        Err(e) => Err(StartError::other(format!(
            "filesystem {:?} must be mounted on ordinary directory: {} is not one: {e}",
            mount.kind,
            mount.destination.display()
        ))),
    }
}

/// Nothing of the host may cover a part of the kernel's file systems that the sandbox's isolation rests on.
fn check_bind(place: &str, source: Option<&Path>, tree: &OwnedFd, target: &OwnedFd) -> Result<()> {
    let examine = || format!("cannot examine {place}");
    let source = source.map(|s| s.display().to_string()).unwrap_or_default();
    if place == "/proc" {
        if root::is_on(tree, PROC_MAGIC).context(examine)? {
            return Ok(());
        }
        return Err(Error::internal(format!(
            "{source:?} cannot be mounted to \"/proc\": it is not of type proc"
        )));
    }
    if place == "/sys/fs" {
        return Err(Error::internal(format!(
            "{source:?} cannot be mounted to \"/sys/fs\": it would hide the cgroups"
        )));
    }
    if PROC_FILES.contains(&place) {
        return Ok(());
    }
    refuse_proc(place, target)
}

fn refuse_proc(place: &str, target: &OwnedFd) -> Result<()> {
    if place.starts_with("/proc/")
        || root::is_on(target, PROC_MAGIC).context(|| format!("cannot examine {place}"))?
    {
        return Err(Error::internal(format!(
            "{place:?} cannot be mounted because it is inside /proc"
        )));
    }
    Ok(())
}

fn attach_cgroups(
    directories: Vec<CgroupDirectory>,
    tmpfs: &OwnedFd,
    target: &OwnedFd,
    options: &Options,
) -> io::Result<()> {
    filesystem::attach(tmpfs, target)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for directory in directories {
        let tree = directory.tree.ok_or(io::ErrorKind::NotFound)?;
        let place = rustix::fs::openat(tmpfs, &directory.name, flags, Mode::empty())?;
        filesystem::attach(&tree, &place)?;
    }
    let change = Change {
        set: options.set,
        propagation: Some(MountPropagationFlags::PRIVATE),
        recursive: true,
        ..Change::none()
    };
    mount_setattr(tmpfs, &change)
}

/// Checks at the end that the kernel's file systems are found where programs look for them.
pub(super) fn verify(root: &Root, attached: &Attached) -> Result<()> {
    let places = [
        ("/proc", &attached.proc),
        ("/sys", &attached.sys),
        ("/dev", &attached.dev),
    ];
    for (place, mount) in places {
        let Some(mount) = mount else { continue };
        let message = || format!("cannot find {place} after mounting it");
        let found = root.open_plain(Path::new(place), OFlags::PATH).context(message)?;
        if root::mount_id(&found).context(message)? != root::mount_id(mount).context(message)? {
            return Err(Error::internal(format!(
                "{place} of the container is not what was mounted there"
            )));
        }
    }
    Ok(())
}

/// `/dev/null` of the container as `O_PATH` descriptor, checked to be just that.
pub(super) fn null(root: &Root) -> Result<OwnedFd> {
    let message = || "cannot open /dev/null of the container";
    let null = root
        .open_plain(Path::new("/dev/null"), OFlags::PATH)
        .context(message)?;
    let copy = null.as_fd().try_clone_to_owned().context(message)?;
    if !root::is_character_device(&File::from(copy), 1, 3).context(message)? {
        return Err(Error::internal(
            "/dev/null of the container is not the null device",
        ));
    }
    Ok(null)
}
