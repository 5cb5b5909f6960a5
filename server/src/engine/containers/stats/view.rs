//! Samples as clients know them.

use berth_api::models::{
    ContainerBlkioStatEntry, ContainerBlkioStats, ContainerCPUStats, ContainerCPUUsage, ContainerMemoryStats,
    ContainerNetworkStats, ContainerPidsStats, ContainerStatsResponse, ContainerThrottlingData,
};
use berth_runtime::cgroup::{BlkioEntry, Memory};

use super::{
    super::{model::Container, validate::modes::NetworkMode},
    sample::{Sample, Traffic},
};
use crate::engine::time;

/// Whether a container has interfaces that are not the host's.
pub(super) fn has_own_network(container: &Container) -> bool {
    let details = container.now();
    !matches!(
        NetworkMode::parse(&details.host_config.network_mode),
        Ok(NetworkMode::Host) | Err(_)
    )
}

/// What is said of a container that does not run.
pub(super) fn empty(container: &Container) -> ContainerStatsResponse {
    ContainerStatsResponse {
        name: format!("/{}", container.now().name),
        id: container.id().to_owned(),
        read: time::NEVER.to_owned(),
        preread: time::NEVER.to_owned(),
        ..ContainerStatsResponse::default()
    }
}

/// A sample and the one before.
pub(super) fn response(
    container: &Container,
    sample: &Sample,
    before: Option<&Sample>,
) -> ContainerStatsResponse {
    let stats = &sample.stats;
    // Only version 1 counts by processor.
    let v1 = !stats.cpu.per_cpu.is_empty();
    ContainerStatsResponse {
        read: time::rfc3339(sample.read),
        preread: time::rfc3339_or_never(before.map(|before| before.read)),
        pids_stats: ContainerPidsStats {
            current: stats.pids.current,
            limit: match stats.pids.limit {
                u64::MAX if v1 => 0,
                limit => limit,
            },
        },
        blkio_stats: blkio(v1, &stats.blkio_bytes, &stats.blkio_operations),
        cpu_stats: cpu(sample),
        precpu_stats: before.map(cpu).unwrap_or_default(),
        memory_stats: memory(&stats.memory),
        networks: sample
            .networks
            .iter()
            .map(|(name, traffic)| (name.clone(), network(traffic)))
            .collect(),
        ..empty(container)
    }
}

fn cpu(sample: &Sample) -> ContainerCPUStats {
    let cpu = &sample.stats.cpu;
    ContainerCPUStats {
        cpu_usage: ContainerCPUUsage {
            total_usage: cpu.total,
            percpu_usage: cpu.per_cpu.clone(),
            usage_in_kernelmode: cpu.system,
            usage_in_usermode: cpu.user,
        },
        system_cpu_usage: sample.system,
        online_cpus: sample.cpus,
        throttling_data: ContainerThrottlingData {
            periods: cpu.periods,
            throttled_periods: cpu.throttled_periods,
            throttled_time: cpu.throttled_time,
        },
    }
}

/// Without a limit of its own the limit is what the host has.
fn memory(memory: &Memory) -> ContainerMemoryStats {
    let host = u64::try_from(crate::engine::host::memory()).unwrap_or(u64::MAX);
    ContainerMemoryStats {
        usage: memory.usage,
        max_usage: memory.max_usage,
        stats: memory.stat.clone(),
        failcnt: memory.failcnt,
        limit: memory.limit.min(host),
        ..ContainerMemoryStats::default()
    }
}

fn blkio(v1: bool, bytes: &[BlkioEntry], operations: &[BlkioEntry]) -> ContainerBlkioStats {
    let none = || v1.then(Vec::new);
    let entries = |entries: &[BlkioEntry]| -> Option<Vec<ContainerBlkioStatEntry>> {
        let entry = |entry: &BlkioEntry| ContainerBlkioStatEntry {
            major: entry.major,
            minor: entry.minor,
            op: match v1 {
                true => capitalised(&entry.op),
                false => entry.op.clone(),
            },
            value: entry.value,
        };
        (v1 || !entries.is_empty()).then(|| entries.iter().map(entry).collect())
    };
    ContainerBlkioStats {
        io_service_bytes_recursive: entries(bytes),
        io_serviced_recursive: match v1 {
            true => entries(operations),
            false => None,
        },
        io_queue_recursive: none(),
        io_service_time_recursive: none(),
        io_wait_time_recursive: none(),
        io_merged_recursive: none(),
        io_time_recursive: none(),
        sectors_recursive: none(),
    }
}

/// As version 1 writes its operations.
fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}

fn network(traffic: &Traffic) -> ContainerNetworkStats {
    let ([rx_bytes, rx_packets, rx_errors, rx_dropped], [tx_bytes, tx_packets, tx_errors, tx_dropped]) =
        (traffic.received, traffic.sent);
    ContainerNetworkStats {
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
        ..ContainerNetworkStats::default()
    }
}

#[cfg(test)]
mod tests {
    use berth_runtime::cgroup::Stats;

    use super::*;

    #[test]
    fn without_a_limit_the_host_is_the_limit() {
        let unlimited = Memory {
            limit: u64::MAX,
            ..Memory::default()
        };
        assert!(memory(&unlimited).limit < u64::MAX);
        let limited = Memory {
            limit: 4096,
            ..Memory::default()
        };
        assert_eq!(memory(&limited).limit, 4096);
    }

    #[test]
    fn each_version_has_its_own_words() {
        let entries = [BlkioEntry {
            major: 8,
            minor: 0,
            op: "read".to_owned(),
            value: 5,
        }];
        let v1 = blkio(true, &entries, &entries);
        assert_eq!(v1.io_service_bytes_recursive.unwrap()[0].op, "Read");
        assert_eq!(v1.io_time_recursive, Some(Vec::new()));
        let v2 = blkio(false, &entries, &entries);
        assert_eq!(v2.io_service_bytes_recursive.unwrap()[0].op, "read");
        assert_eq!((v2.io_serviced_recursive, v2.io_time_recursive), (None, None));
        assert_eq!(blkio(false, &[], &[]).io_service_bytes_recursive, None);
    }

    #[test]
    fn the_counters_are_where_clients_look() {
        let mut stats = Stats::default();
        stats.cpu.total = 7;
        stats.cpu.user = 4;
        let sample = Sample {
            stats,
            system: 100,
            cpus: 2,
            ..Sample::default()
        };
        let cpu = cpu(&sample);
        assert_eq!(
            (cpu.cpu_usage.total_usage, cpu.cpu_usage.usage_in_usermode),
            (7, 4)
        );
        assert_eq!((cpu.system_cpu_usage, cpu.online_cpus), (100, 2));
    }
}
