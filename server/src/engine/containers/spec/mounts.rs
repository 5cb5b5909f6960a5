//! `mounts`: the root, the kernel's file systems, the container's own files, and what the user mounts.

use std::{fs, path::Path};

use berth_api::models::HostConfigCgroupnsMode;
use berth_runtime::{
    Error, Result,
    error::Context,
    sandbox::{
        IDMAP_IF_POSSIBLE, SUBPATH,
        defaults::{self, mount},
    },
};
use oci_spec::runtime::Mount;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::{
    super::validate::{
        BindSource, MountPoint, MountSource, Propagation,
        modes::{IpcMode, NetworkMode},
        path, tmpfs,
    },
    Input, Modes, not_running,
};

/// Where the kernel's own file systems would be mounted and the host's are not to show.
const SHM: &str = "/dev/shm";
/// Where POSIX message queues are.
const QUEUES: &str = "/dev/mqueue";
/// The files that come from the container's directory: name there, place in the container.
const FILES: [(&str, &str); 3] = [
    ("resolv.conf", "/etc/resolv.conf"),
    ("hostname", "/etc/hostname"),
    ("hosts", "/etc/hosts"),
];

/// All mounts, in the order in which they are made.
pub(super) fn build(input: &Input<'_>, modes: &Modes<'_>) -> Result<Vec<Mount>> {
    let user = user_mounts(input, modes)?;
    let mut mounts = Vec::with_capacity(user.len() + 8);
    mounts.extend(overlay(input)?);
    mounts.extend(kernel_mounts(input, modes, &user));
    mounts.extend(user);
    Ok(mounts)
}

/// The root: an overlay of the container's layer on the image's.
fn overlay(input: &Input<'_>) -> Result<Option<Mount>> {
    let root = &input.root;
    if root.lowers.is_empty() {
        return Ok(None);
    }
    let lowers = root
        .lowers
        .iter()
        .map(|lower| escaped(lower))
        .collect::<Result<Vec<_>>>()?
        .join(":");
    let options = [
        format!("lowerdir={lowers}"),
        format!("upperdir={}", text(root.upper)?),
        format!("workdir={}", text(root.work)?),
        // Every change is whole in the upper directory, whatever the kernel's defaults: layers are made from it.
        "redirect_dir=off".to_owned(),
        "metacopy=off".to_owned(),
    ];
    Ok(Some(mount(
        "/",
        "overlay",
        "overlay",
        &options.each_ref().map(String::as_str),
    )))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        Error::internal(format!(
            "{} is not UTF-8: choose another data root",
            path.display()
        ))
    })
}

/// A path in a list of layers, in which colons separate and backslashes escape.
fn escaped(path: &Path) -> Result<String> {
    let path = text(path)?;
    if !path.contains(['\\', ':']) {
        return Ok(path.to_owned());
    }
    Ok(path.replace('\\', "\\\\").replace(':', "\\:"))
}

/// The kernel's file systems, without those that the user puts something else in the place of.
fn kernel_mounts(input: &Input<'_>, modes: &Modes<'_>, user: &[Mount]) -> Vec<Mount> {
    let container = &input.container;
    // Control groups of version 2 can be given to the root of a user namespace.
    let own_cgroups = input.ids.is_some()
        && input.host.is_unified()
        && container.host_config.cgroupns_mode == HostConfigCgroupnsMode::Private;
    let host_config = container.host_config;
    let covered = |place: &Path| user.iter().any(|mount| mount.destination() == place);
    let own_dev = covered(Path::new("/dev"));
    let mut mounts = defaults::mounts(host_config.shm_size);
    mounts.retain(|mount| {
        let place = mount.destination();
        let no_shm = place == Path::new(SHM) && modes.ipc == IpcMode::None;
        let in_own_dev = own_dev && place.starts_with("/dev");
        // In a user namespace there are no message queues but those of an IPC namespace that belongs to it.
        let no_queues = place == Path::new(QUEUES) && modes.ipc == IpcMode::Host && input.ids.is_some();
        !(covered(place) || no_shm || in_own_dev || no_queues)
    });
    for mount in &mut mounts {
        let place = mount.destination().to_string_lossy().into_owned();
        let writable = match place.as_str() {
            "/sys" => host_config.privileged,
            "/sys/fs/cgroup" => host_config.privileged || container.security.writable_cgroups || own_cgroups,
            _ => false,
        };
        let read_only = host_config.readonly_rootfs
            && !host_config.privileged
            && !defaults::WRITABLE_MOUNTS.contains(&place.as_str());
        let options = mount.options_mut().get_or_insert_default();
        if writable {
            options.retain(|option| option != "ro");
        } else if read_only && !options.iter().any(|option| option == "ro") {
            options.push("ro".to_owned());
        }
    }
    mounts
}

/// What comes from the user and from the container's directory, from the top down.
fn user_mounts(input: &Input<'_>, modes: &Modes<'_>) -> Result<Vec<Mount>> {
    let container = &input.container;
    let mut mounts = container
        .mounts
        .iter()
        .map(|point| user_mount(input, point))
        .collect::<Result<Vec<_>>>()?;
    for (destination, options) in &container.host_config.tmpfs {
        mounts.push(tmpfs_mount(&path::clean(destination), options)?);
    }
    files(input, modes, &mut mounts)?;
    shared_memory(input, modes, &mut mounts)?;
    mounts.sort_by_cached_key(|mount| {
        let destination = mount.destination().to_string_lossy().into_owned();
        (path::depth(&destination), destination)
    });
    Ok(mounts)
}

fn user_mount(input: &Input<'_>, point: &MountPoint) -> Result<Mount> {
    match &point.source {
        MountSource::Bind(bind) => {
            let mut options = vec![if bind.recursive { "rbind" } else { "bind" }];
            if point.read_only {
                options.push(if bind.recursive_read_only { "rro" } else { "ro" });
            }
            options.push(propagation(bind)?.as_str());
            if bind.mapped {
                options.push("idmap");
            } else if input.ids.is_some() && has_inner_ids(input, &bind.path) {
                options.push(IDMAP_IF_POSSIBLE);
            }
            Ok(mount(&point.destination, "bind", &bind.path, &options))
        }
        MountSource::Volume(volume) => {
            let path = volume.path.as_deref().ok_or_else(|| {
                Error::internal(format!(
                    "the volume at {} was not made with its container",
                    point.destination
                ))
            })?;
            let mut mount = bind_mount(&point.destination, text(path)?, point.read_only);
            if let Some(subpath) = &volume.subpath {
                let option = format!("{SUBPATH}{subpath}");
                mount.options_mut().get_or_insert_default().push(option);
            }
            Ok(mount)
        }
        MountSource::Tmpfs { options } => tmpfs_mount(&point.destination, options),
    }
}

/// The propagation of a bind: as asked, unless that is impossible and the user did not ask.
fn propagation(bind: &BindSource) -> Result<Propagation> {
    if bind.fallback && !passes_on(Path::new(&bind.path))? {
        return Ok(Propagation::default());
    }
    Ok(bind.propagation)
}

/// Whether the mount that `path` is on passes mounts on: proc_pid_mountinfo(5), optional fields.
fn passes_on(path: &Path) -> Result<bool> {
    let failed = || format!("cannot find the mount of {}", path.display());
    let data = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).context(failed)?;
    let id = data.stx_mnt_id.to_string();
    let mounts = fs::read_to_string("/proc/self/mountinfo").context(failed)?;
    let line = mounts.lines().find(|line| line.split(' ').next() == Some(&id));
    Ok(line.is_some_and(|line| {
        let mut fields = line.split(' ').skip(6).take_while(|field| *field != "-");
        fields.any(|field| field.starts_with("shared:") || field.starts_with("master:"))
    }))
}

fn tmpfs_mount(destination: &str, options: &str) -> Result<Mount> {
    let merged = tmpfs::merge(options)?;
    let options: Vec<&str> = merged.iter().map(String::as_str).collect();
    Ok(mount(destination, "tmpfs", "tmpfs", &options))
}

fn bind_mount(destination: &str, source: &str, read_only: bool) -> Mount {
    let options: &[&str] = if read_only {
        &["rbind", "ro", "rprivate"]
    } else {
        &["rbind", "rprivate"]
    };
    mount(destination, "bind", source, options)
}

/// Whether the files at `source` have the ids of containers, as what the engine keeps for builds does.
fn has_inner_ids(input: &Input<'_>, source: &str) -> bool {
    let root = &input.defaults.data_root;
    ["images", "build", "tmp"]
        .iter()
        .any(|own| Path::new(source).starts_with(root.join(own)))
}

/// /etc/hosts and its like, from the container's directory or that of the container whose network it shares.
fn files(input: &Input<'_>, modes: &Modes<'_>, mounts: &mut Vec<Mount>) -> Result<()> {
    let directory = match modes.network {
        NetworkMode::Container(name) => input.peers.network.ok_or_else(|| not_running(name))?.files,
        _ => input.paths.files,
    };
    for (name, place) in FILES {
        if mounts.iter().all(|mount| mount.destination() != Path::new(place)) {
            let source = directory.join(name);
            mounts.push(bind_mount(
                place,
                text(&source)?,
                input.container.host_config.readonly_rootfs,
            ));
        }
    }
    Ok(())
}

/// /dev/shm, where it is not the container's alone.
fn shared_memory(input: &Input<'_>, modes: &Modes<'_>, mounts: &mut Vec<Mount>) -> Result<()> {
    let source = match modes.ipc {
        IpcMode::Private | IpcMode::None => return Ok(()),
        IpcMode::Host => Path::new(SHM),
        IpcMode::Shareable => input.paths.shm,
        IpcMode::Container(name) => joined(name, input.peers.ipc.ok_or_else(|| not_running(name))?.shm)?,
    };
    let free = |mounts: &[Mount], place: &str| mounts.iter().all(|m| m.destination() != Path::new(place));
    if free(mounts, SHM) {
        mounts.push(bind_mount(SHM, text(source)?, false));
    }
    if modes.ipc == IpcMode::Host && input.ids.is_some() && free(mounts, QUEUES) && Path::new(QUEUES).exists()
    {
        mounts.push(bind_mount(QUEUES, QUEUES, false));
    }
    Ok(())
}

/// The shared memory of a container that is joined; only a shareable one has any that others can reach.
fn joined<'a>(name: &str, shm: &'a Path) -> Result<&'a Path> {
    if shm.is_dir() {
        return Ok(shm);
    }
    Err(Error::invalid(format!(
        "can't join IPC of container {name}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
    )))
}

/// How mounts pass between the root and the host: as far as the mounts in it need.
pub(super) fn root_propagation(mounts: &[MountPoint]) -> Option<&'static str> {
    let mut propagations = mounts.iter().filter_map(|point| match &point.source {
        MountSource::Bind(bind) => Some(bind.propagation),
        _ => None,
    });
    if propagations.clone().any(|propagation| propagation.is_shared()) {
        return Some("shared");
    }
    propagations
        .any(|propagation| propagation.is_slave())
        .then_some("rslave")
}
