//! From a stored container to the OCI runtime specification of its next run.
//!
//! [`build`] only computes (and looks at the devices that are named); what has to exist on the host before a start is
//! made by [`files`].
//!
//! | module | part of the specification |
//! |---|---|
//! | [`process`] | `process`: command, environment, user, capabilities, limits |
//! | [`mounts`] | `mounts`: the root, the kernel's file systems, what the user mounts |
//! | [`namespaces`] | `linux.namespaces` |
//! | [`sysctls`] | `linux.sysctl` |
//! | [`devices`] | `linux.devices` and their rules |
//! | [`cdi`] | what devices need that vendors describe |
//! | [`resources`] | `linux.resources` |
//! | [`seccomp`] | `linux.seccomp` |
//!
//! Labels of an image or container never influence a specification; annotations are passed on, except those that the
//! sandbox itself acts on.

pub mod cdi;
pub mod devices;
pub mod files;
pub mod mounts;
pub mod namespaces;
pub mod process;
pub mod resources;
pub mod seccomp;
pub mod sysctls;

#[cfg(test)]
mod tests;

use std::{collections::HashMap, path::Path};

use berth_api::models::{ContainerConfig, HostConfig};
use berth_runtime::{
    Error, Result,
    ids::IdMap,
    sandbox::{
        ANNOTATION_GROUP_ADD, ANNOTATION_INIT, ANNOTATION_MAPPED_ROOT, ANNOTATION_SECCOMP, SECCOMP_BUILTIN,
        SECCOMP_UNCONFINED,
    },
};
use oci_spec::runtime::{Linux, Root, Spec};

use super::validate::{
    Defaults, Host, MountPoint, SecurityOptions,
    capabilities::{self, CapSet},
    modes::{self, IpcMode, NetworkMode, PidMode},
};

/// Version of the OCI runtime specification that is written.
const OCI_VERSION: &str = "1.2.0";
/// In front of the names of annotations that the sandbox acts on.
const OWN_ANNOTATIONS: &str = "berth.";

/// A stored container.
#[derive(Clone, Copy, Debug)]
pub struct ContainerView<'a> {
    /// Full id.
    pub id: &'a str,
    /// `Config`, merged with the image's.
    pub config: &'a ContainerConfig,
    /// `HostConfig`, as it was checked and completed.
    pub host_config: &'a HostConfig,
    /// All mounts but those of `HostConfig.Tmpfs`; volumes are resolved.
    pub mounts: &'a [MountPoint],
    /// What `SecurityOpt` says.
    pub security: &'a SecurityOptions,
    /// What legacy links add to the environment.
    pub linked: &'a [String],
}

/// Where a container's root file system comes from.
#[derive(Clone, Copy, Debug)]
pub struct RootView<'a> {
    /// The image's layers, the topmost first. Without any the upper directory is the root.
    pub lowers: &'a [std::path::PathBuf],
    /// The container's own layer.
    pub upper: &'a Path,
    /// The work directory of the overlay, on the same file system as `upper`.
    pub work: &'a Path,
    /// Where the root would be mounted by a runtime that needs a place for it.
    pub rootfs: &'a Path,
}

/// The container's files on the host.
#[derive(Clone, Copy, Debug)]
pub struct Paths<'a> {
    /// The directory with `hosts`, `hostname` and `resolv.conf` ([`files::write`]).
    pub files: &'a Path,
    /// The mount point of its shared memory, if that is shareable ([`files::mount_shm`]).
    pub shm: &'a Path,
}

/// Running containers whose namespaces are joined.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peers<'a> {
    /// The one of `NetworkMode: container:…`.
    pub network: Option<NetworkPeer<'a>>,
    /// The one of `IpcMode: container:…`.
    pub ipc: Option<IpcPeer<'a>>,
    /// Process id of the one of `PidMode: container:…`.
    pub pid: Option<i32>,
    /// The network namespace that was prepared for the container; none for an empty one that the sandbox makes.
    pub namespace: Option<&'a Path>,
    /// The user namespace that the others are in; none for one that the sandbox makes.
    pub user: Option<&'a Path>,
}

/// A running container whose network namespace is joined.
#[derive(Clone, Copy, Debug)]
pub struct NetworkPeer<'a> {
    /// Its process id.
    pub pid: i32,
    /// The directory with its `hosts`, `hostname` and `resolv.conf`, which it shares too.
    pub files: &'a Path,
    /// Its host name, which it shares too.
    pub hostname: &'a str,
    /// Its domain name.
    pub domainname: &'a str,
}

/// A running container whose IPC namespace is joined.
#[derive(Clone, Copy, Debug)]
pub struct IpcPeer<'a> {
    /// Its process id.
    pub pid: i32,
    /// Its shared memory: [`Paths::shm`] of a shareable container, `/dev/shm` of one in the host's namespace.
    pub shm: &'a Path,
}

/// All that a specification is made from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The container.
    pub container: ContainerView<'a>,
    /// Its root file system.
    pub root: RootView<'a>,
    /// Its files.
    pub paths: Paths<'a>,
    /// Those it joins.
    pub peers: Peers<'a>,
    /// Its ids, if it has a user namespace.
    pub ids: Option<&'a IdMap>,
    /// What the host can do.
    pub host: &'a Host,
    /// The engine's settings.
    pub defaults: &'a Defaults,
}

/// The modes of a container, read once.
#[derive(Clone, Copy, Debug)]
struct Modes<'a> {
    network: NetworkMode<'a>,
    ipc: IpcMode<'a>,
    pid: PidMode<'a>,
    uts_host: bool,
}

impl<'a> Modes<'a> {
    fn of(host_config: &'a HostConfig) -> Result<Self> {
        Ok(Self {
            network: NetworkMode::parse(&host_config.network_mode)?,
            ipc: IpcMode::parse(&host_config.ipc_mode)?,
            pid: PidMode::parse(&host_config.pid_mode)?,
            uts_host: modes::is_host("UTS", &host_config.uts_mode)?,
        })
    }
}

/// Builds the specification of a container's next run.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for what only shows at a start: a device that is not there, a
/// kernel parameter that would be the host's. [`Kind::Conflict`](berth_runtime::Kind::Conflict) if a container that is
/// to be joined is not among the peers.
pub fn build(input: &Input<'_>) -> Result<Spec> {
    let container = &input.container;
    let modes = Modes::of(container.host_config)?;
    let capabilities = container_capabilities(container.host_config, input.host);
    let seccomp = seccomp::choose(container, capabilities, input.host)?;

    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces::build(input, &modes)?))
        .set_sysctl(Some(sysctls::build(input, &modes)?))
        .set_resources(Some(resources::build(
            container.host_config,
            devices::rules(container.host_config)?,
        )?))
        .set_devices(Some(devices::nodes(container.host_config)?))
        .set_cgroups_path(Some(cgroups_path(container, input.defaults).into()))
        .set_rootfs_propagation(mounts::root_propagation(container.mounts).map(str::to_owned))
        .set_masked_paths(container.host_config.masked_paths.clone())
        .set_readonly_paths(container.host_config.readonly_paths.clone());
    if let Some(ids) = input.ids {
        let (uids, gids) = ids.to_spec();
        linux.set_uid_mappings(Some(uids)).set_gid_mappings(Some(gids));
    }
    let annotations = annotations(input, &modes, &seccomp);
    if let seccomp::Choice::Custom(profile) = seccomp {
        linux.set_seccomp(Some(*profile));
    }

    let mut root = Root::default();
    let overlay = !input.root.lowers.is_empty();
    root.set_path(
        if overlay {
            input.root.rootfs
        } else {
            input.root.upper
        }
        .to_owned(),
    )
    .set_readonly(Some(container.host_config.readonly_rootfs));

    let names = process::Names::of(input, &modes);
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_process(Some(process::build(input, &names, capabilities)?))
        .set_root(Some(root))
        .set_mounts(Some(mounts::build(input, &modes)?))
        .set_hostname(
            names
                .own
                .then(|| names.hostname.to_owned())
                .filter(|name| !name.is_empty()),
        )
        .set_domainname(
            names
                .own
                .then(|| names.domainname.to_owned())
                .filter(|name| !name.is_empty()),
        )
        .set_annotations(Some(annotations))
        .set_linux(Some(linux));
    let requests = container.host_config.device_requests.as_deref();
    if let Some(requests) = requests.filter(|requests| !requests.is_empty()) {
        cdi::Edits::of(requests, &input.defaults.cdi_spec_dirs)?.apply(&mut spec)?;
    }
    Ok(spec)
}

/// The capabilities of a container's process; `privileged` commands in it get all that the engine has.
pub fn container_capabilities(host_config: &HostConfig, host: &Host) -> CapSet {
    capabilities::effective(
        host_config.cap_add.as_deref().unwrap_or_default(),
        host_config.cap_drop.as_deref().unwrap_or_default(),
        host_config.privileged,
        host.capabilities,
    )
}

/// The user's annotations, without any that the sandbox would act on, and the engine's own.
fn annotations(input: &Input<'_>, modes: &Modes<'_>, seccomp: &seccomp::Choice) -> HashMap<String, String> {
    let host_config = input.container.host_config;
    let mut annotations: HashMap<String, String> = host_config
        .annotations
        .iter()
        .filter(|(name, _)| !name.to_ascii_lowercase().starts_with(OWN_ANNOTATIONS))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let mut set = |name: &str, value: String| annotations.insert(name.to_owned(), value);
    match seccomp {
        seccomp::Choice::Builtin => set(ANNOTATION_SECCOMP, SECCOMP_BUILTIN.to_owned()),
        seccomp::Choice::Unconfined => set(ANNOTATION_SECCOMP, SECCOMP_UNCONFINED.to_owned()),
        seccomp::Choice::Custom(_) => None,
    };
    // An init belongs in a pid namespace of the container's own: elsewhere there is one already.
    if modes.pid == PidMode::Private && host_config.init.unwrap_or(input.defaults.init) {
        set(ANNOTATION_INIT, "true".to_owned());
    }
    if input.ids.is_some() {
        set(ANNOTATION_MAPPED_ROOT, "true".to_owned());
    }
    if let Some(groups) = host_config.group_add.as_ref().filter(|groups| !groups.is_empty()) {
        set(ANNOTATION_GROUP_ADD, groups.join(","));
    }
    annotations
}

/// The container's control group: its id below the parent.
fn cgroups_path(container: &ContainerView<'_>, defaults: &Defaults) -> String {
    let asked = &container.host_config.cgroup_parent;
    let parent = if asked.is_empty() {
        &defaults.cgroup_parent
    } else {
        asked
    };
    format!("{}/{}", parent.trim_end_matches('/'), container.id)
}

/// A container that was to be joined and does not run.
fn not_running(reference: &str) -> Error {
    Error::conflict(format!(
        "cannot join container: container {reference} is not running"
    ))
}
