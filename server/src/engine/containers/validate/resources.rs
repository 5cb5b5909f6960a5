//! Limits: what is accepted, and what this host can enforce. Used by create and update.

use berth_api::models::HostConfig;
use berth_runtime::{Error, Result};

use super::{cpu_list::CpuList, facts::Host};

/// The least memory a container can be limited to, in bytes.
const MIN_MEMORY: i64 = 6 << 20;

/// Which request is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A new container.
    Create,
    /// A change of limits; what is 0 stays as it is.
    Update,
}

/// Checks the limits in `resources`, fills in what follows from them, and drops those that the host cannot enforce,
/// with a warning for each.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for a value out of range or in conflict with another.
pub fn check(
    resources: &mut HostConfig,
    purpose: Purpose,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<()> {
    memory(resources, purpose, host, warnings)?;
    oom(resources, host, warnings);
    pids(resources, host, warnings);
    cpu(resources, host, warnings)?;
    cpuset(resources, host, warnings)?;
    blkio(resources, host, warnings)
}

fn refuse<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::invalid(message))
}

/// Drops a limit with the warning that the kernel has no `what`.
fn unsupported(what: &str, consequence: &str) -> String {
    format!("Your kernel does not support {what} or the cgroup is not mounted. {consequence}")
}

fn memory(
    resources: &mut HostConfig,
    purpose: Purpose,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let can = &host.cgroups;
    if resources.memory_swappiness == Some(-1) {
        resources.memory_swappiness = None;
    }
    if resources.memory != 0 && resources.memory < MIN_MEMORY {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if resources.memory_swap < -1 {
        return refuse(format!(
            "invalid MemorySwap {}: it must be -1, 0 or a limit in bytes",
            resources.memory_swap
        ));
    }
    if purpose == Purpose::Create && resources.memory > 0 && resources.memory_swap == 0 {
        resources.memory_swap = resources.memory.saturating_mul(2);
    }
    if resources.memory > 0 && !can.memory {
        warnings.push(unsupported("memory limit capabilities", "Limitation discarded."));
        resources.memory = 0;
        resources.memory_swap = -1;
    }
    if resources.memory > 0 && resources.memory_swap != -1 && !can.swap {
        warnings.push(unsupported(
            "swap limit capabilities",
            "Memory limited without swap.",
        ));
        resources.memory_swap = -1;
    }
    if resources.memory > 0 && resources.memory_swap > 0 && resources.memory_swap < resources.memory {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if resources.memory == 0 && resources.memory_swap > 0 && purpose == Purpose::Create {
        return refuse("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    swappiness(resources, host, warnings)?;
    reservation(resources, host, warnings)?;
    kernel_memory(resources, host, warnings);
    Ok(())
}

fn swappiness(resources: &mut HostConfig, host: &Host, warnings: &mut Vec<String>) -> Result<()> {
    let Some(swappiness) = resources.memory_swappiness else {
        return Ok(());
    };
    if !(0..=100).contains(&swappiness) {
        return refuse(format!(
            "Invalid value: {swappiness}, valid memory swappiness range is 0-100"
        ));
    }
    if !host.cgroups.swappiness {
        warnings.push(unsupported(
            "memory swappiness capabilities",
            "Memory swappiness discarded.",
        ));
        resources.memory_swappiness = None;
    }
    Ok(())
}

fn reservation(resources: &mut HostConfig, host: &Host, warnings: &mut Vec<String>) -> Result<()> {
    if resources.memory_reservation != 0 && resources.memory_reservation < MIN_MEMORY {
        return refuse("Minimum memory reservation allowed is 6MB");
    }
    if resources.memory_reservation > 0 && !host.cgroups.memory_reservation {
        warnings.push(unsupported(
            "memory soft limit capabilities",
            "Limitation discarded.",
        ));
        resources.memory_reservation = 0;
    }
    if resources.memory > 0 && resources.memory < resources.memory_reservation {
        return refuse("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    Ok(())
}

fn kernel_memory(resources: &mut HostConfig, host: &Host, warnings: &mut Vec<String>) {
    if resources.kernel_memory > 0 {
        // Kernels accept it since 5.16 without doing anything, and version 2 never had it: nothing is promised.
        warnings.push(unsupported(
            "kernel memory limit capabilities",
            "Limitation discarded.",
        ));
        resources.kernel_memory = 0;
    }
    if resources.kernel_memory_tcp > 0 && !host.cgroups.kernel_memory_tcp {
        warnings.push(unsupported(
            "kernel memory TCP limit capabilities",
            "Limitation discarded.",
        ));
        resources.kernel_memory_tcp = 0;
    }
}

fn oom(resources: &mut HostConfig, host: &Host, warnings: &mut Vec<String>) {
    let disable = resources.oom_kill_disable == Some(true);
    if !host.cgroups.oom_kill_disable {
        if disable {
            warnings
                .push("Your kernel does not support OomKillDisable. OomKillDisable discarded.".to_owned());
        }
        resources.oom_kill_disable = None;
    } else if disable && resources.memory == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system \
             running out of resources."
                .to_owned(),
        );
    }
}

fn pids(resources: &mut HostConfig, host: &Host, warnings: &mut Vec<String>) {
    if resources.pids_limit.is_some_and(|limit| limit > 0) && !host.cgroups.pids {
        warnings.push(unsupported("PIDs limit capabilities", "PIDs limit discarded."));
        resources.pids_limit = None;
    }
}

fn cpu(resources: &mut HostConfig, host: &Host, warnings: &mut Vec<String>) -> Result<()> {
    let can = &host.cgroups;
    if resources.cpu_shares < 0 {
        return refuse(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            resources.cpu_shares
        ));
    }
    if resources.nano_cpus > 0 && resources.cpu_period > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    if resources.nano_cpus > 0 && resources.cpu_quota > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    if resources.nano_cpus > 0 && !can.cpu_quota {
        return refuse(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted",
        );
    }
    let cpus = host.cpus;
    if resources.nano_cpus < 0 || resources.nano_cpus > i64::from(cpus) * 1_000_000_000 {
        return refuse(format!(
            "Range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        ));
    }
    if resources.cpu_shares > 0 && !can.cpu_shares {
        warnings.push(unsupported("CPU shares", "Shares discarded."));
        resources.cpu_shares = 0;
    }
    if resources.cpu_period != 0 && !(1000..=1_000_000).contains(&resources.cpu_period) {
        return refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if resources.cpu_quota > 0 && resources.cpu_quota < 1000 {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if (resources.cpu_period != 0 || resources.cpu_quota != 0) && !can.cpu_quota {
        warnings
            .push("Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.".to_owned());
        resources.cpu_period = 0;
        resources.cpu_quota = 0;
    }
    if resources.cpu_percent > 0 {
        warnings.push("linux does not support CPU percent. Percent discarded.".to_owned());
        resources.cpu_percent = 0;
    }
    real_time(resources, host)
}

fn real_time(resources: &HostConfig, host: &Host) -> Result<()> {
    let (period, runtime) = (resources.cpu_realtime_period, resources.cpu_realtime_runtime);
    if (period != 0 || runtime != 0) && !host.cgroups.cpu_realtime {
        return refuse("kernel does not support CPU real-time scheduler");
    }
    if period < 0 || runtime < -1 {
        return refuse(format!(
            "invalid CPU real-time period {period} or runtime {runtime}: they must not be negative"
        ));
    }
    if period != 0 && runtime > period {
        return refuse("cpu real-time runtime cannot be higher than cpu real-time period");
    }
    Ok(())
}

fn cpuset(resources: &mut HostConfig, host: &Host, warnings: &mut Vec<String>) -> Result<()> {
    let Some(cpus) = CpuList::parse(&resources.cpuset_cpus) else {
        let value = &resources.cpuset_cpus;
        return refuse(format!(
            "Invalid value {value} for cpuset cpus: invalid format: {value}"
        ));
    };
    let Some(mems) = CpuList::parse(&resources.cpuset_mems) else {
        let value = &resources.cpuset_mems;
        return refuse(format!(
            "Invalid value {value} for cpuset mems: invalid format: {value}"
        ));
    };
    if resources.cpuset_cpus.is_empty() && resources.cpuset_mems.is_empty() {
        return Ok(());
    }
    if !host.cgroups.cpuset {
        warnings.push(unsupported("cpuset", "Cpuset discarded."));
        resources.cpuset_cpus.clear();
        resources.cpuset_mems.clear();
        return Ok(());
    }
    if !cpus.is_subset(&host.cpuset_cpus) {
        return refuse(format!(
            "Requested CPUs are not available - requested {}, available: {}",
            resources.cpuset_cpus, host.cpuset_cpus,
        ));
    }
    if !mems.is_subset(&host.cpuset_mems) {
        return refuse(format!(
            "Requested memory nodes are not available - requested {}, available: {}",
            resources.cpuset_mems, host.cpuset_mems,
        ));
    }
    Ok(())
}

fn blkio(resources: &mut HostConfig, host: &Host, warnings: &mut Vec<String>) -> Result<()> {
    let can = &host.cgroups;
    let in_range = |weight: u16| weight == 0 || (10..=1000).contains(&weight);
    if !in_range(resources.blkio_weight) {
        return refuse("Range of blkio weight is from 10 to 1000");
    }
    if let Some(device) = resources
        .blkio_weight_device
        .iter()
        .flatten()
        .find(|device| !in_range(device.weight))
    {
        return refuse(format!(
            "invalid weight for device: {}:{}",
            device.path, device.weight
        ));
    }
    if resources.io_maximum_bandwidth != 0 || resources.io_maximum_iops != 0 {
        return refuse(
            "Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps",
        );
    }
    if resources.blkio_weight > 0 && !can.blkio_weight {
        warnings.push(unsupported("Block I/O weight", "Weight discarded."));
        resources.blkio_weight = 0;
    }
    if !can.blkio_weight_device {
        let what = ("Block I/O weight_device", "Weight-device discarded.");
        discard(&mut resources.blkio_weight_device, what, warnings);
    }
    if !can.blkio_throttle {
        let lists = [
            (
                &mut resources.blkio_device_read_bps,
                "BPS Block I/O read limit",
                "Block I/O BPS read limit discarded.",
            ),
            (
                &mut resources.blkio_device_write_bps,
                "BPS Block I/O write limit",
                "Block I/O BPS write limit discarded.",
            ),
            (
                &mut resources.blkio_device_read_iops,
                "IOPS Block read limit",
                "Block I/O IOPS read limit discarded.",
            ),
            (
                &mut resources.blkio_device_write_iops,
                "IOPS Block write limit",
                "Block I/O IOPS write limit discarded.",
            ),
        ];
        for (list, what, consequence) in lists {
            discard(list, (what, consequence), warnings);
        }
    }
    Ok(())
}

fn discard<T>(list: &mut Option<Vec<T>>, (what, consequence): (&str, &str), warnings: &mut Vec<String>) {
    if list.as_ref().is_some_and(|list| !list.is_empty()) {
        warnings.push(unsupported(what, consequence));
        *list = Some(Vec::new());
    }
}

#[cfg(test)]
#[path = "resources_tests.rs"]
mod tests;
