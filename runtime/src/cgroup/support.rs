//! Which limits this host can enforce.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    Version,
    hierarchy::{self, Hierarchy},
};
use crate::Result;

/// Limits that can be set here. What cannot is dropped with a warning by whoever takes a container's settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Support {
    /// 2 if only the v2 hierarchy is mounted, else 1.
    pub version: u8,
    /// `memory.limit`.
    pub memory: bool,
    /// `memory.swap`.
    pub swap: bool,
    /// `memory.reservation`.
    pub memory_reservation: bool,
    /// `memory.swappiness`.
    pub swappiness: bool,
    /// `memory.disableOOMKiller`.
    pub oom_kill_disable: bool,
    /// `memory.kernelTCP`.
    pub kernel_memory_tcp: bool,
    /// `cpu.shares`.
    pub cpu_shares: bool,
    /// `cpu.quota` and `cpu.period`.
    pub cpu_quota: bool,
    /// `cpu.realtimeRuntime` and `cpu.realtimePeriod`.
    pub cpu_realtime: bool,
    /// `cpu.cpus` and `cpu.mems`.
    pub cpuset: bool,
    /// `pids.limit`.
    pub pids: bool,
    /// `blockIO.weight`.
    pub blkio_weight: bool,
    /// `blockIO.weightDevice`.
    pub blkio_weight_device: bool,
    /// `blockIO.throttle…Device`.
    pub blkio_throttle: bool,
    /// `hugepageLimits`.
    pub hugetlb: bool,
    /// `devices`.
    pub devices: bool,
    /// Whether all processes can be frozen.
    pub freeze: bool,
}

/// Finds out what this host can enforce.
///
/// # Errors
/// Internal, if the host's hierarchies cannot be read.
pub fn support() -> Result<Support> {
    let host = hierarchy::host()?;
    let of = |controller: &str| host.iter().find(|h| h.has(controller));
    let pure_v2 = host.iter().all(|h| h.version == Version::V2);
    let mut support = Support {
        version: if pure_v2 { 2 } else { 1 },
        cpuset: of("cpuset").is_some(),
        pids: of("pids").is_some(),
        hugetlb: of("hugetlb").is_some(),
        devices: of("devices").is_some() || pure_v2,
        freeze: of("freezer").is_some() || host.iter().any(|h| has_below_root(h, "cgroup.freeze")),
        ..Support::default()
    };
    if let Some(memory) = of("memory") {
        memory_support(memory, &mut support);
    }
    if let Some(cpu) = of("cpu") {
        let v2 = cpu.version == Version::V2;
        support.cpu_shares = v2 || has(cpu, "cpu.shares");
        support.cpu_quota = v2 || has(cpu, "cpu.cfs_quota_us");
        support.cpu_realtime = has(cpu, "cpu.rt_runtime_us");
    }
    if let Some(io) = of("blkio").or_else(|| of("io")) {
        let v2 = io.version == Version::V2;
        let weight = |v1: &[&str]| {
            if v2 {
                // Before any cgroup exists below the root, what makes the files has to stand for them: the cost model,
                // which is the root's, or the BFQ scheduler.
                ["io.weight", "io.bfq.weight"]
                    .iter()
                    .any(|f| has_below_root(io, f))
                    || has(io, "io.cost.qos")
                    || has_bfq(Path::new("/sys/block"))
            } else {
                v1.iter().any(|f| has(io, f))
            }
        };
        support.blkio_weight = weight(&["blkio.weight", "blkio.bfq.weight"]);
        support.blkio_weight_device = weight(&["blkio.weight_device", "blkio.bfq.weight_device"]);
        support.blkio_throttle = v2 || has(io, "blkio.throttle.read_bps_device");
    }
    Ok(support)
}

fn memory_support(memory: &Hierarchy, support: &mut Support) {
    let v2 = memory.version == Version::V2;
    support.memory = true;
    support.memory_reservation = true;
    support.swap = if v2 {
        // Before any cgroup exists below the root, the kernel's setting has to stand for the file.
        has_below_root(memory, "memory.swap.max") || Path::new("/proc/swaps").exists()
    } else {
        has(memory, "memory.memsw.limit_in_bytes")
    };
    support.swappiness = has(memory, "memory.swappiness");
    support.oom_kill_disable = has(memory, "memory.oom_control");
    support.kernel_memory_tcp = has(memory, "memory.kmem.tcp.limit_in_bytes");
}

fn has(hierarchy: &Hierarchy, file: &str) -> bool {
    hierarchy.mount.join(file).exists()
}

/// Whether the scheduler BFQ is there for one of the `disks`.
fn has_bfq(disks: &Path) -> bool {
    let knows = |disk: std::io::Result<std::fs::DirEntry>| {
        let path = disk.ok()?.path().join("queue/scheduler");
        Some(std::fs::read_to_string(path).ok()?.contains("bfq"))
    };
    std::fs::read_dir(disks).is_ok_and(|all| all.into_iter().any(|disk| knows(disk) == Some(true)))
}

/// Whether a v2 file that the root does not have is there in the caller's cgroup or a child of the root.
fn has_below_root(hierarchy: &Hierarchy, file: &str) -> bool {
    if hierarchy.version != Version::V2 {
        return false;
    }
    let child = |entry: std::io::Result<std::fs::DirEntry>| entry.is_ok_and(|e| e.path().join(file).exists());
    hierarchy.mount.join(&hierarchy.own).join(file).exists()
        || std::fs::read_dir(&hierarchy.mount).is_ok_and(|entries| entries.into_iter().any(child))
}
