//! What the host can do, found out once when the engine starts, and what the engine's own settings are.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use berth_api::models;
use berth_runtime::sandbox::defaults::{MASKED_PATHS, SHM_SIZE, masked_paths};

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
    pub cgroups: Controllers,
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

/// What the control groups of this host can limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Controllers {
    /// Whether all controllers are in the unified hierarchy (version 2).
    pub v2: bool,
    /// `Memory`.
    pub memory: bool,
    /// `MemorySwap`.
    pub swap: bool,
    /// `MemoryReservation`.
    pub memory_reservation: bool,
    /// `MemorySwappiness`; version 1 only.
    pub swappiness: bool,
    /// `OomKillDisable`; version 1 only.
    pub oom_kill_disable: bool,
    /// `KernelMemory`; version 1 only.
    pub kernel_memory: bool,
    /// `KernelMemoryTCP`; version 1 only.
    pub kernel_memory_tcp: bool,
    /// `CpuShares`.
    pub cpu_shares: bool,
    /// `CpuPeriod`, `CpuQuota`, `NanoCpus`.
    pub cpu_cfs: bool,
    /// `CpuRealtimePeriod`, `CpuRealtimeRuntime`; version 1 only.
    pub cpu_realtime: bool,
    /// `CpusetCpus`, `CpusetMems`.
    pub cpuset: bool,
    /// `PidsLimit`.
    pub pids: bool,
    /// `BlkioWeight`.
    pub blkio_weight: bool,
    /// `BlkioWeightDevice`.
    pub blkio_weight_device: bool,
    /// The four lists of `BlkioDevice…`.
    pub blkio_throttle: bool,
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
    /// Whether processes can't gain privileges unless the request says otherwise.
    pub no_new_privileges: bool,
    /// Whether containers run an init unless the request says otherwise.
    pub init: bool,
    /// Parent of the containers' control groups: `/<instance>`.
    pub cgroup_parent: String,
    /// Whether the network `bridge` gives no more than a loopback interface.
    pub bridge_is_loopback: bool,
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
            no_new_privileges: false,
            init: false,
            cgroup_parent: "/berth".to_owned(),
            bridge_is_loopback: false,
        }
    }
}

impl Host {
    /// Looks at the host. What cannot be read counts as not there.
    pub fn probe() -> Self {
        let cgroups = Hierarchies::find();
        let online = read("/sys/devices/system/cpu/online");
        let cpus = std::thread::available_parallelism().map_or(1, |number| number.get() as u32);
        let list = |v1: &str, v2: &str, fallback: &str| {
            let text = cgroups
                .value("cpuset", v1, v2)
                .unwrap_or_else(|| fallback.to_owned());
            CpuList::parse(text.trim()).unwrap_or_default()
        };
        Self {
            cpus,
            cpuset_cpus: list("cpuset.cpus", "cpuset.cpus.effective", &online),
            cpuset_mems: list("cpuset.mems", "cpuset.mems.effective", "0"),
            cgroups: cgroups.facts(),
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

/// Where the control group hierarchies are mounted.
#[derive(Debug, Default)]
struct Hierarchies {
    /// Mount points of the controllers of version 1.
    v1: BTreeMap<String, PathBuf>,
    /// Mount point of version 2.
    v2: Option<PathBuf>,
    /// Controllers of version 2.
    v2_controllers: Vec<String>,
}

impl Hierarchies {
    fn find() -> Self {
        let mut found = Self::default();
        for line in read("/proc/self/mountinfo").lines() {
            found.add(line);
        }
        if let Some(root) = &found.v2 {
            let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
            found.v2_controllers = controllers.split_whitespace().map(str::to_owned).collect();
        }
        found
    }

    /// Takes note of a line of proc_pid_mountinfo(5) if it is a control group hierarchy.
    fn add(&mut self, line: &str) {
        let Some((mount, file_system)) = line.split_once(" - ") else {
            return;
        };
        let Some(point) = mount.split(' ').nth(4) else {
            return;
        };
        let mut fields = file_system.split(' ');
        match (fields.next(), fields.nth(1)) {
            (Some("cgroup2"), _) => {
                self.v2.get_or_insert_with(|| PathBuf::from(point));
            }
            (Some("cgroup"), Some(options)) => {
                for controller in options.split(',') {
                    self.v1
                        .entry(controller.to_owned())
                        .or_insert_with(|| PathBuf::from(point));
                }
            }
            _ => {}
        }
    }

    /// The value of a controller's file in the topmost group.
    fn value(&self, controller: &str, v1: &str, v2: &str) -> Option<String> {
        let path = match self.v1.get(controller) {
            Some(mount) => mount.join(v1),
            None => self.v2.as_ref()?.join(v2),
        };
        fs::read_to_string(path)
            .ok()
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
    }

    fn facts(&self) -> Controllers {
        const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "memory", "pids", "blkio"];
        let v1 = |controller: &str, file: &str| {
            self.v1
                .get(controller)
                .is_some_and(|mount| mount.join(file).exists())
        };
        let v2 = |controller: &str| self.v2_controllers.iter().any(|known| known == controller);
        let weight = ["blkio.weight", "blkio.bfq.weight"]
            .iter()
            .any(|file| v1("blkio", file));
        let weight_device = ["blkio.weight_device", "blkio.bfq.weight_device"]
            .iter()
            .any(|file| v1("blkio", file));
        Controllers {
            v2: self.v2.is_some()
                && !CONTROLLERS
                    .iter()
                    .any(|controller| self.v1.contains_key(*controller)),
            memory: v1("memory", "memory.limit_in_bytes") || v2("memory"),
            swap: v1("memory", "memory.memsw.limit_in_bytes") || v2("memory") && swap_accounting(),
            memory_reservation: v1("memory", "memory.soft_limit_in_bytes") || v2("memory"),
            swappiness: v1("memory", "memory.swappiness"),
            oom_kill_disable: v1("memory", "memory.oom_control"),
            // Limits of kernel memory are accepted and without effect since kernel 5.16; nothing is promised then.
            kernel_memory: false,
            kernel_memory_tcp: v1("memory", "memory.kmem.tcp.limit_in_bytes"),
            cpu_shares: v1("cpu", "cpu.shares") || v2("cpu"),
            cpu_cfs: v1("cpu", "cpu.cfs_quota_us") || v2("cpu"),
            cpu_realtime: v1("cpu", "cpu.rt_period_us"),
            cpuset: self.v1.contains_key("cpuset") || v2("cpuset"),
            pids: self.v1.contains_key("pids") || v2("pids"),
            blkio_weight: weight || v2("io"),
            blkio_weight_device: weight_device || v2("io"),
            blkio_throttle: v1("blkio", "blkio.throttle.read_bps_device") || v2("io"),
        }
    }
}

/// The topmost group of version 2 has no limits; whether swap is counted shows in the first one below it.
fn swap_accounting() -> bool {
    Path::new("/proc/swaps").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_read_from_mountinfo() {
        let mut found = Hierarchies::default();
        for line in [
            "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct",
            "31 25 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate",
            "32 25 0:28 / /proc rw - proc proc rw",
            "garbage",
        ] {
            found.add(line);
        }
        assert_eq!(found.v1["cpuacct"], Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(found.v2.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert!(!found.facts().v2, "a hybrid host counts as version 1");
        found.v1.clear();
        assert!(found.facts().v2);
    }

    #[test]
    fn this_host_has_something() {
        let facts = Host::probe();
        assert!(facts.cpus >= 1);
        assert!(facts.time_namespaces && facts.cgroup_namespaces);
        assert!(!facts.cpuset_cpus.to_string().is_empty());
        assert_eq!(facts.capabilities.without(CapSet::KNOWN), CapSet::default());
    }
}
