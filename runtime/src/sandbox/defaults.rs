//! Docker's default values of a container's specification, as data and as parts of an OCI specification.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use oci_spec::runtime::{
    Capability, LinuxCapabilities, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespace,
    LinuxNamespaceType, Mount,
};

use super::capabilities;
use crate::{Result, error::Context};

/// Capabilities of a container that asks for none in particular.
pub const CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// [`CAPABILITIES`] as the kernel shows them.
pub const CAPABILITY_MASK: u64 = 0xa804_25fb;

/// Paths that nothing can be read from. [`masked_paths`] adds those that depend on the machine.
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths that cannot be written to.
pub const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Size of `/dev/shm` in bytes.
pub const SHM_SIZE: i64 = 64 << 20;

/// Search path of a container whose environment has none.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Kernel parameters of a container with its own network namespace.
pub const NETWORK_SYSCTLS: [(&str, &str); 2] = [
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
];

/// Device nodes that every `/dev` has (type `c`, mode 0666): name, major and minor number.
pub const DEVICES: [(&str, i64, i64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// [`MASKED_PATHS`], and the thermal throttling counters of each processor of this machine.
///
/// # Errors
/// Internal, if the processors cannot be listed.
pub fn masked_paths() -> Result<Vec<String>> {
    const PROCESSORS: &str = "/sys/devices/system/cpu";
    let mut paths: Vec<String> = MASKED_PATHS.map(String::from).to_vec();
    let list = || format!("cannot list {PROCESSORS}");
    let entries = match fs::read_dir(PROCESSORS) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(paths),
        other => other.context(list)?,
    };
    for entry in entries {
        let path = entry.context(list)?.path().join("thermal_throttle");
        if path.is_dir() {
            paths.push(path.to_string_lossy().into_owned());
        }
    }
    paths[MASKED_PATHS.len()..].sort();
    Ok(paths)
}

/// The sets of a process that has `set` and cannot get more: inheritable and ambient are empty.
pub fn capability_sets(set: impl IntoIterator<Item = Capability>) -> LinuxCapabilities {
    let set: HashSet<_> = set.into_iter().collect();
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(set.clone()))
        .set_effective(Some(set.clone()))
        .set_permitted(Some(set))
        .set_inheritable(Some(HashSet::new()))
        .set_ambient(Some(HashSet::new()));
    sets
}

/// The capability `name`, with or without `CAP_`, in any case; none if there is no such one.
pub fn capability(name: &str) -> Option<Capability> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    capabilities::bit(short)?;
    short.parse().ok()
}

/// Every capability that this kernel knows.
pub fn all_capabilities() -> HashSet<Capability> {
    caps::runtime::thread_all_supported()
        .into_iter()
        .filter_map(|c| capability(&c.to_string()))
        .collect()
}

/// New namespaces of a container: everything but user and cgroup namespaces.
pub fn namespaces() -> Vec<LinuxNamespace> {
    use LinuxNamespaceType as Type;
    let mut types = vec![Type::Mount, Type::Network, Type::Uts, Type::Pid, Type::Ipc];
    if Path::new("/proc/self/ns/time").exists() {
        types.push(Type::Time);
    }
    types.into_iter().map(|t| namespace(t, None)).collect()
}

/// A namespace, new or joined.
pub fn namespace(kind: LinuxNamespaceType, path: Option<PathBuf>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(path);
    namespace
}

/// A mount.
pub fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    mount
}

/// The kernel's file systems in every container, in the order in which they are mounted. `shm_size` is in bytes.
pub fn mounts(shm_size: i64) -> Vec<Mount> {
    let shm_size = format!("size={shm_size}");
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["ro", "nosuid", "noexec", "nodev"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", &shm_size],
        ),
    ]
}

/// Mounts whose destination stays writable when the root is read-only.
pub const WRITABLE_MOUNTS: [&str; 5] = ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"];

/// A rule for the devices of a cgroup; `None` stands for every number.
pub fn device_rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(Some(kind))
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}

/// Rules for the devices of a container: nodes of every device may be made, only the harmless ones opened.
pub fn device_rules() -> Vec<LinuxDeviceCgroup> {
    use LinuxDeviceType::{A, B, C};
    const PTS: i64 = 136;
    let mut rules = vec![
        device_rule(false, A, None, None, "rwm"),
        device_rule(true, C, None, None, "m"),
        device_rule(true, B, None, None, "m"),
    ];
    let allow = |major, minor| device_rule(true, C, Some(major), minor, "rwm");
    rules.extend(DEVICES.map(|(_, major, minor)| allow(major, Some(minor))));
    // console, ptmx, pseudo terminals and tun.
    rules.extend([
        allow(5, Some(1)),
        allow(5, Some(2)),
        allow(PTS, None),
        allow(10, Some(200)),
    ]);
    rules
}

/// The rule of a privileged container.
pub fn all_devices_rule() -> LinuxDeviceCgroup {
    device_rule(true, LinuxDeviceType::A, None, None, "rwm")
}

/// Every device node of this machine's `/dev`, for a privileged container.
///
/// # Errors
/// Internal, if `/dev` cannot be listed.
pub fn host_devices() -> Result<Vec<LinuxDevice>> {
    let mut found = Vec::new();
    devices_below(Path::new("/dev"), &mut found).context(|| "cannot list the devices in /dev")?;
    Ok(found)
}

/// The node at `path` as a device of a container; none if it is not a device.
///
/// # Errors
/// Internal, if it cannot be examined.
pub fn device(path: &Path, in_container: &Path) -> Result<Option<LinuxDevice>> {
    let data = fs::metadata(path).context(|| format!("cannot examine the device {}", path.display()))?;
    Ok(describe(&data, in_container))
}

fn describe(data: &fs::Metadata, path: &Path) -> Option<LinuxDevice> {
    let kind = match data.file_type() {
        t if t.is_char_device() => LinuxDeviceType::C,
        t if t.is_block_device() => LinuxDeviceType::B,
        _ => return None,
    };
    let number = data.rdev();
    let mut device = LinuxDevice::default();
    device
        .set_path(path.to_owned())
        .set_typ(kind)
        .set_major(libc::major(number).into())
        .set_minor(libc::minor(number).into())
        .set_file_mode(Some(data.mode() & 0o7777))
        .set_uid(Some(data.uid()))
        .set_gid(Some(data.gid()));
    Some(device)
}

fn devices_below(directory: &Path, found: &mut Vec<LinuxDevice>) -> io::Result<()> {
    /// File systems and links that every container has on its own.
    const OWN: [&str; 7] = ["pts", "shm", "fd", "mqueue", "console", "ptmx", "core"];
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if OWN.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        // A node can vanish while the list is made.
        let Ok(data) = entry.metadata() else { continue };
        if data.is_dir() {
            devices_below(&entry.path(), found)?;
        } else {
            found.extend(describe(&data, &entry.path()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_dockers() {
        assert_eq!(capabilities::mask(&CAPABILITIES), CAPABILITY_MASK);
        assert_eq!(capability("cap_net_admin"), Some(Capability::NetAdmin));
        assert_eq!(capability("ALL"), None);
        assert!(all_capabilities().contains(&Capability::CheckpointRestore));
        let sets = capability_sets(CAPABILITIES);
        assert_eq!(sets.inheritable().as_ref().map(HashSet::len), Some(0));
        assert_eq!(sets.bounding().as_ref().map(HashSet::len), Some(14));
    }

    #[test]
    fn every_default_can_be_written_as_json() {
        let mut spec = oci_spec::runtime::Spec::default();
        spec.set_mounts(Some(mounts(SHM_SIZE)));
        let text = serde_json::to_string(&spec).unwrap();
        assert!(text.contains("size=67108864"), "{text}");
        assert_eq!(
            serde_json::from_str::<oci_spec::runtime::Spec>(&text).unwrap(),
            spec
        );
        assert_eq!(device_rules().len(), 3 + DEVICES.len() + 4);
    }

    #[test]
    fn devices_of_the_machine() {
        let found = host_devices().unwrap();
        let null = found.iter().find(|d| d.path() == Path::new("/dev/null")).unwrap();
        assert_eq!((null.major(), null.minor()), (1, 3));
        assert_eq!(
            device(Path::new("/dev/null"), Path::new("/x"))
                .unwrap()
                .unwrap()
                .path(),
            Path::new("/x")
        );
        assert_eq!(device(Path::new("/etc/passwd"), Path::new("/x")).unwrap(), None);
    }
}
