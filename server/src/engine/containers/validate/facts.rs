//! What the host can do, found out once when the engine starts, and what the engine's own settings are.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use berth_api::models;
use berth_runtime::{
    cgroup::{self, Support},
    external::Runtime,
    sandbox::defaults::{MASKED_PATHS, SHM_SIZE, masked_paths},
};

use crate::{config::OWN_RUNTIMES, engine::userns::Remap};

use super::{capabilities::CapSet, cpu_list::CpuList};

/// What this host can do.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// How many CPUs are online.
    pub cpus: u32,
    /// The CPUs that containers may be pinned to.
    pub cpuset_cpus: CpuList,
    /// The memory nodes that containers may be pinned to.
    pub cpuset_mems: CpuList,
    /// What the control groups can limit.
    pub cgroups: Support,
    /// The capabilities that the engine has and so can give.
    pub capabilities: CapSet,
    /// Whether the kernel filters system calls: seccomp(2).
    pub seccomp: bool,
    /// Release of the kernel, as `6.1.0-9-amd64`.
    pub kernel: String,
    /// Whether AppArmor is active.
    pub apparmor: bool,
    /// Whether AppArmor has the profile `docker-default` loaded.
    pub apparmor_default: bool,
    /// Whether there are time namespaces (kernel 5.6).
    pub time_namespaces: bool,
    /// Whether there are control group namespaces (kernel 4.6).
    pub cgroup_namespaces: bool,
    /// Whether groups may be allowed to ping: `net.ipv4.ping_group_range`.
    pub ping_group_range: bool,
    /// Whether the first unprivileged port can be set: `net.ipv4.ip_unprivileged_port_start`.
    pub unprivileged_port_start: bool,
    /// Paths hidden from containers that do not say otherwise.
    pub masked_paths: Vec<String>,
}

/// Settings of the engine that fill in what a request leaves out.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// Directory of the engine's state.
    pub data_root: PathBuf,
    /// `LogConfig` of containers that name no driver.
    pub log_config: models::HostConfigLogConfig,
    /// `Ulimits` of containers that do not set the same one.
    pub ulimits: Vec<models::Ulimit>,
    /// Size of /dev/shm in bytes.
    pub shm_size: i64,
    /// Control group namespace of containers that do not choose one; none: what fits the host's version.
    pub cgroupns_mode: Option<models::HostConfigCgroupnsMode>,
    /// Whether processes can't gain privileges unless the request says otherwise.
    pub no_new_privileges: bool,
    /// Whether containers run an init unless the request says otherwise.
    pub init: bool,
    /// The ids of containers, if they do not have those of the host.
    pub remap: Option<Remap>,
    /// Parent of the containers' control groups: `/<instance>`.
    pub cgroup_parent: String,
    /// Whether the network `bridge` gives no more than a loopback interface.
    pub bridge_is_loopback: bool,
    /// Programs that containers can be run by instead of the engine's own runtime.
    pub runtimes: BTreeMap<String, Runtime>,
    /// Name of the runtime of containers that name none.
    pub default_runtime: String,
    /// Directories with descriptions of devices, those that count more last.
    pub cdi_spec_dirs: Vec<PathBuf>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            data_root: PathBuf::new(),
            log_config: models::HostConfigLogConfig {
                r#type: "json-file".to_owned(),
                config: Some(BTreeMap::new()),
            },
            ulimits: Vec::new(),
            shm_size: SHM_SIZE,
            cgroupns_mode: None,
            no_new_privileges: false,
            init: false,
            remap: None,
            cgroup_parent: "/berth".to_owned(),
            bridge_is_loopback: false,
            runtimes: BTreeMap::new(),
            default_runtime: OWN_RUNTIMES[0].to_owned(),
            cdi_spec_dirs: Vec::new(),
        }
    }
}

impl Defaults {
    /// The ids of a container with these settings; none if it has those of the host.
    pub fn remap(&self, config: &models::HostConfig) -> Option<&Remap> {
        self.remap.as_ref().filter(|_| config.userns_mode != "host")
    }

    /// Whom the engine gives what it makes on the host for containers.
    pub fn owner(&self) -> (u32, u32) {
        self.remap
            .as_ref()
            .map(|remap| remap.map.root())
            .unwrap_or_default()
    }
}

impl Host {
    /// Looks at the host. What cannot be read counts as not there.
    pub fn probe() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |number| number.get());
        let list = |kind: &str| {
            let online = read(&format!("/sys/devices/system/{kind}/online"));
            CpuList::parse(if online.is_empty() { "0" } else { &online }).unwrap_or_default()
        };
        Self {
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            cpuset_cpus: list("cpu"),
            cpuset_mems: list("node"),
            cgroups: cgroup::support().unwrap_or_default(),
            capabilities: own_capabilities(),
            seccomp: Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
            apparmor: read("/sys/module/apparmor/parameters/enabled").starts_with('Y'),
            apparmor_default: read("/sys/kernel/security/apparmor/profiles")
                .lines()
                .any(|line| line.starts_with("docker-default ")),
            kernel: read("/proc/sys/kernel/osrelease"),
            time_namespaces: Path::new("/proc/self/ns/time").exists(),
            cgroup_namespaces: Path::new("/proc/self/ns/cgroup").exists(),
            ping_group_range: Path::new("/proc/sys/net/ipv4/ping_group_range").exists(),
            unprivileged_port_start: Path::new("/proc/sys/net/ipv4/ip_unprivileged_port_start").exists(),
            masked_paths: masked_paths().unwrap_or_else(|_| MASKED_PATHS.map(str::to_owned).to_vec()),
        }
    }
}

impl Host {
    /// Whether all controllers are in the unified hierarchy (version 2).
    pub fn is_unified(&self) -> bool {
        self.cgroups.version == 2
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// The permitted set in `/proc/self/status`: proc_pid_status(5).
fn own_capabilities() -> CapSet {
    let permitted = read("/proc/self/status")
        .lines()
        .find_map(|line| {
            line.strip_prefix("CapPrm:")
                .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        })
        .unwrap_or(0);
    CapSet(permitted).and(CapSet::KNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_something() {
        let host = Host::probe();
        assert!(host.cpus >= 1);
        assert!(host.time_namespaces && host.cgroup_namespaces);
        assert!(!host.cpuset_cpus.to_string().is_empty() && !host.cpuset_mems.to_string().is_empty());
        assert!(matches!(host.cgroups.version, 1 | 2));
        assert_eq!(host.capabilities.without(CapSet::KNOWN), CapSet::default());
        assert!(host.masked_paths.len() >= MASKED_PATHS.len());
    }
}
