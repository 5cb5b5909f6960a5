//! `linux.resources`: the limits that the control groups enforce.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use berth_api::models::{HostConfig, ThrottleDevice};
use berth_runtime::{Error, Result};
use nix::sys::stat::{major, minor};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxPids, LinuxPidsBuilder, LinuxResources,
    LinuxThrottleDevice, LinuxThrottleDeviceBuilder, LinuxWeightDevice, LinuxWeightDeviceBuilder,
};

/// Length of the scheduling period in which `NanoCpus` are counted, in microseconds.
const PERIOD: u64 = 100_000;

/// The limits in `HostConfig`, with the rules for devices. Zero and absent are no limit. Right for updates as well.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for a block device that is not there.
pub fn build(config: &HostConfig, devices: Vec<LinuxDeviceCgroup>) -> Result<LinuxResources> {
    let mut resources = LinuxResources::default();
    resources
        .set_devices(Some(devices))
        .set_memory(Some(memory(config)))
        .set_cpu(Some(cpu(config)))
        .set_pids(pids(config))
        .set_block_io(block_io(config)?);
    Ok(resources)
}

fn memory(config: &HostConfig) -> LinuxMemory {
    let positive = |value: i64| (value > 0).then_some(value);
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(positive(config.memory))
        .set_reservation(positive(config.memory_reservation))
        // -1 is no limit, which has to be said for the limit of memory not to hold for both.
        .set_swap((config.memory_swap != 0).then_some(config.memory_swap))
        .set_kernel(positive(config.kernel_memory))
        .set_kernel_tcp(positive(config.kernel_memory_tcp))
        .set_swappiness(
            config
                .memory_swappiness
                .and_then(|swappiness| u64::try_from(swappiness).ok()),
        )
        .set_disable_oom_killer(config.oom_kill_disable.filter(|disable| *disable));
    memory
}

fn cpu(config: &HostConfig) -> LinuxCpu {
    let unsigned = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let set = |value: i64| (value != 0).then_some(value);
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(unsigned(config.cpu_shares))
        .set_period(unsigned(config.cpu_period))
        .set_quota(set(config.cpu_quota))
        .set_realtime_period(unsigned(config.cpu_realtime_period))
        .set_realtime_runtime(set(config.cpu_realtime_runtime))
        .set_cpus(Some(config.cpuset_cpus.clone()).filter(|list| !list.is_empty()))
        .set_mems(Some(config.cpuset_mems.clone()).filter(|list| !list.is_empty()));
    if config.nano_cpus > 0 {
        let quota = i128::from(config.nano_cpus) * i128::from(PERIOD) / 1_000_000_000;
        cpu.set_period(Some(PERIOD)).set_quota(i64::try_from(quota).ok());
    }
    cpu
}

fn pids(config: &HostConfig) -> Option<LinuxPids> {
    let limit = config.pids_limit?;
    LinuxPidsBuilder::default()
        .limit(if limit > 0 { limit } else { -1 })
        .build()
        .ok()
}

fn block_io(config: &HostConfig) -> Result<Option<LinuxBlockIo>> {
    let weights = config.blkio_weight_device.as_deref().unwrap_or_default();
    let weight_devices = weights
        .iter()
        .map(|device| weight_device(&device.path, device.weight))
        .collect::<Result<Vec<_>>>()?;
    let lists = [
        throttle(config.blkio_device_read_bps.as_deref())?,
        throttle(config.blkio_device_write_bps.as_deref())?,
        throttle(config.blkio_device_read_iops.as_deref())?,
        throttle(config.blkio_device_write_iops.as_deref())?,
    ];
    if config.blkio_weight == 0 && weight_devices.is_empty() && lists.iter().all(Option::is_none) {
        return Ok(None);
    }
    let [read_bps, write_bps, read_iops, write_iops] = lists;
    let mut block_io = LinuxBlockIo::default();
    block_io
        .set_weight(Some(config.blkio_weight).filter(|weight| *weight != 0))
        .set_weight_device(Some(weight_devices).filter(|list| !list.is_empty()))
        .set_throttle_read_bps_device(read_bps)
        .set_throttle_write_bps_device(write_bps)
        .set_throttle_read_iops_device(read_iops)
        .set_throttle_write_iops_device(write_iops);
    Ok(Some(block_io))
}

fn weight_device(path: &str, weight: u16) -> Result<LinuxWeightDevice> {
    let (major, minor) = block_device(path)?;
    LinuxWeightDeviceBuilder::default()
        .major(major)
        .minor(minor)
        .weight(weight)
        .build()
        .map_err(|error| Error::internal(format!("cannot describe the weight of {path}")).caused_by(error))
}

fn throttle(devices: Option<&[ThrottleDevice]>) -> Result<Option<Vec<LinuxThrottleDevice>>> {
    let devices = devices.unwrap_or_default();
    if devices.is_empty() {
        return Ok(None);
    }
    let describe = |device: &ThrottleDevice| {
        let (major, minor) = block_device(&device.path)?;
        LinuxThrottleDeviceBuilder::default()
            .major(major)
            .minor(minor)
            .rate(device.rate)
            .build()
            .map_err(|error| {
                Error::internal(format!("cannot describe the limit of {}", device.path)).caused_by(error)
            })
    };
    devices.iter().map(describe).collect::<Result<Vec<_>>>().map(Some)
}

/// The numbers of the block device at `path`.
fn block_device(path: &str) -> Result<(i64, i64)> {
    let data = std::fs::metadata(path)
        .map_err(|error| Error::invalid(format!("cannot limit the device {path}")).caused_by(error))?;
    if !data.file_type().is_block_device() {
        return Err(Error::invalid(format!(
            "cannot limit the device {path}: it is not a block device"
        )));
    }
    let number = |part: u64| i64::try_from(part).unwrap_or(i64::MAX);
    Ok((number(major(data.rdev())), number(minor(data.rdev()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(change: impl FnOnce(&mut HostConfig)) -> LinuxResources {
        let mut config = HostConfig::default();
        change(&mut config);
        build(&config, Vec::new()).unwrap()
    }

    #[test]
    fn nothing_asked_is_nothing_limited() {
        let resources = built(|_| {});
        assert_eq!(resources.memory(), &Some(LinuxMemory::default()));
        assert_eq!(resources.cpu(), &Some(LinuxCpu::default()));
        assert_eq!((resources.pids(), resources.block_io()), (&None, &None));
        let default = built(|config| config.oom_kill_disable = Some(false));
        assert_eq!(default.memory(), &Some(LinuxMemory::default()));
    }

    #[test]
    fn memory_limits() {
        let resources = built(|config| {
            (config.memory, config.memory_swap, config.memory_reservation) = (100, 200, 50);
            (config.memory_swappiness, config.oom_kill_disable) = (Some(0), Some(true));
        });
        let memory = resources.memory().unwrap();
        assert_eq!(
            (memory.limit(), memory.swap(), memory.reservation()),
            (Some(100), Some(200), Some(50))
        );
        assert_eq!(
            (memory.swappiness(), memory.disable_oom_killer()),
            (Some(0), Some(true))
        );
        let unlimited = built(|config| config.memory_swap = -1);
        assert_eq!(unlimited.memory().as_ref().unwrap().swap(), Some(-1));
    }

    #[test]
    fn cpu_limits() {
        let cpu = |change: fn(&mut HostConfig)| built(change).cpu().clone().unwrap();
        let nano = cpu(|config| config.nano_cpus = 1_500_000_000);
        assert_eq!((nano.period(), nano.quota()), (Some(100_000), Some(150_000)));
        let plain =
            cpu(|config| (config.cpu_period, config.cpu_quota, config.cpu_shares) = (50_000, 25_000, 512));
        assert_eq!(
            (plain.period(), plain.quota(), plain.shares()),
            (Some(50_000), Some(25_000), Some(512))
        );
        let sets = cpu(|config| config.cpuset_cpus = "0-1".into());
        assert_eq!(
            (sets.cpus().as_deref(), sets.mems().as_deref()),
            (Some("0-1"), None)
        );
    }

    #[test]
    fn processes_and_block_devices() {
        assert_eq!(
            built(|config| config.pids_limit = Some(5))
                .pids()
                .as_ref()
                .unwrap()
                .limit(),
            5
        );
        assert_eq!(
            built(|config| config.pids_limit = Some(0))
                .pids()
                .as_ref()
                .unwrap()
                .limit(),
            -1
        );
        assert_eq!(
            built(|config| config.blkio_weight = 300)
                .block_io()
                .as_ref()
                .unwrap()
                .weight(),
            Some(300)
        );
        let device = |path: &str| HostConfig {
            blkio_device_read_bps: Some(vec![ThrottleDevice {
                path: path.into(),
                rate: 1,
            }]),
            ..HostConfig::default()
        };
        let error = |path| build(&device(path), Vec::new()).unwrap_err().to_string();
        assert_eq!(
            error("/dev/null"),
            "cannot limit the device /dev/null: it is not a block device"
        );
        assert!(error("/nowhere").starts_with("cannot limit the device /nowhere: no such file"));
    }
}
