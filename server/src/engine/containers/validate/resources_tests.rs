//! Tests of the limits.

use berth_api::models::{ThrottleDevice, WeightDevice};

use super::*;
use berth_runtime::cgroup::Support;

const MB: i64 = 1 << 20;

fn host() -> Host {
    Host {
        cpus: 2,
        cpuset_cpus: CpuList::parse("0-1").unwrap(),
        cpuset_mems: CpuList::parse("0").unwrap(),
        cgroups: Support {
            version: 1,
            memory: true,
            swap: true,
            memory_reservation: true,
            swappiness: true,
            oom_kill_disable: true,
            kernel_memory_tcp: true,
            cpu_shares: true,
            cpu_quota: true,
            cpu_realtime: true,
            cpuset: true,
            pids: true,
            blkio_weight: true,
            blkio_weight_device: true,
            blkio_throttle: true,
            ..Support::default()
        },
        ..Host::default()
    }
}

fn run(host: &Host, change: impl FnOnce(&mut HostConfig)) -> Result<(HostConfig, Vec<String>)> {
    let mut config = HostConfig::default();
    change(&mut config);
    let mut warnings = Vec::new();
    check(&mut config, Purpose::Create, host, &mut warnings)?;
    Ok((config, warnings))
}

type Change = fn(&mut HostConfig);

#[test]
fn what_is_refused() {
    let table: [(Change, &str); 27] = [
        (|c| c.memory = 1, "Minimum memory limit allowed is 6MB"),
        (|c| c.memory = -1, "Minimum memory limit allowed is 6MB"),
        (|c| c.memory = 6 * MB - 1, "Minimum memory limit allowed is 6MB"),
        (
            |c| (c.memory, c.memory_swap) = (8 * MB, 7 * MB),
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ),
        (
            |c| c.memory_swap = 8 * MB,
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ),
        (
            |c| c.memory_swap = -2,
            "invalid MemorySwap -2: it must be -1, 0 or a limit in bytes",
        ),
        (
            |c| c.memory_swappiness = Some(101),
            "Invalid value: 101, valid memory swappiness range is 0-100",
        ),
        (
            |c| c.memory_swappiness = Some(-2),
            "Invalid value: -2, valid memory swappiness range is 0-100",
        ),
        (
            |c| c.memory_reservation = 1,
            "Minimum memory reservation allowed is 6MB",
        ),
        (
            |c| (c.memory, c.memory_reservation) = (8 * MB, 9 * MB),
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ),
        (
            |c| c.cpu_shares = -1,
            "invalid CPU shares (-1): value must be a positive integer",
        ),
        (
            |c| (c.nano_cpus, c.cpu_period) = (1, 1000),
            "Conflicting options: Nano CPUs and CPU Period cannot both be set",
        ),
        (
            |c| (c.nano_cpus, c.cpu_quota) = (1, 1000),
            "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
        ),
        (
            |c| c.nano_cpus = 2_000_000_001,
            "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
        ),
        (
            |c| c.nano_cpus = -1,
            "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
        ),
        (
            |c| c.cpu_period = 999,
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ),
        (
            |c| c.cpu_period = 1_000_001,
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ),
        (
            |c| c.cpu_period = -1,
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ),
        (
            |c| c.cpu_quota = 999,
            "CPU cfs quota can not be less than 1ms (i.e. 1000)",
        ),
        (
            |c| (c.cpu_realtime_period, c.cpu_realtime_runtime) = (10, 11),
            "cpu real-time runtime cannot be higher than cpu real-time period",
        ),
        (
            |c| c.cpuset_cpus = "0-2".into(),
            "Requested CPUs are not available - requested 0-2, available: 0-1",
        ),
        (
            |c| c.cpuset_cpus = "x".into(),
            "Invalid value x for cpuset cpus: invalid format: x",
        ),
        (
            |c| c.cpuset_mems = "1".into(),
            "Requested memory nodes are not available - requested 1, available: 0",
        ),
        (
            |c| c.cpuset_mems = "0,".into(),
            "Invalid value 0, for cpuset mems: invalid format: 0,",
        ),
        (|c| c.blkio_weight = 9, "Range of blkio weight is from 10 to 1000"),
        (
            |c| {
                c.blkio_weight_device = Some(vec![WeightDevice {
                    path: "/dev/sda".into(),
                    weight: 1001,
                }])
            },
            "invalid weight for device: /dev/sda:1001",
        ),
        (
            |c| c.io_maximum_iops = 1,
            "Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps",
        ),
    ];
    for (change, message) in table {
        assert_eq!(run(&host(), change).unwrap_err().to_string(), message);
    }
}

#[test]
fn what_is_accepted_as_it_is() {
    let table: [Change; 8] = [
        |c| (c.memory, c.memory_swap) = (6 * MB, 6 * MB),
        |c| (c.memory, c.memory_swap) = (6 * MB, -1),
        |c| c.memory_swap = -1,
        |c| c.memory_swappiness = Some(0),
        |c| (c.cpu_period, c.cpu_quota) = (1000, 1000),
        |c| c.cpu_quota = -1,
        |c| (c.cpuset_cpus, c.cpuset_mems) = ("0,1".into(), "0".into()),
        |c| c.blkio_weight = 1000,
    ];
    for change in table {
        let mut expected = HostConfig::default();
        change(&mut expected);
        assert_eq!(run(&host(), change).unwrap(), (expected, Vec::new()));
    }
}

#[test]
fn what_is_filled_in() {
    let (config, _) = run(&host(), |c| c.memory = 8 * MB).unwrap();
    assert_eq!(config.memory_swap, 16 * MB);
    let (config, _) = run(&host(), |c| c.memory = i64::MAX).unwrap();
    assert_eq!(config.memory_swap, i64::MAX);
    let (config, _) = run(&host(), |c| c.memory_swappiness = Some(-1)).unwrap();
    assert_eq!(config.memory_swappiness, None);
    let mut update = HostConfig {
        memory: 8 * MB,
        ..HostConfig::default()
    };
    check(&mut update, Purpose::Update, &host(), &mut Vec::new()).unwrap();
    assert_eq!(update.memory_swap, 0, "an update leaves the swap limit alone");
}

#[test]
fn what_the_kernel_lacks_is_dropped_with_a_warning() {
    let bare = Host {
        cgroups: Support {
            cpu_quota: true,
            ..Support::default()
        },
        ..host()
    };
    let device = || {
        Some(vec![ThrottleDevice {
            path: "/dev/sda".into(),
            rate: 1,
        }])
    };
    let (config, warnings) = run(&bare, |c| {
        c.memory = 8 * MB;
        c.memory_reservation = 7 * MB;
        c.memory_swappiness = Some(5);
        c.oom_kill_disable = Some(true);
        c.pids_limit = Some(5);
        c.kernel_memory = 8 * MB;
        c.cpu_shares = 5;
        c.cpuset_cpus = "0".into();
        c.blkio_weight = 10;
        c.blkio_device_read_bps = device();
        c.blkio_device_write_iops = device();
    })
    .unwrap();
    assert_eq!(
        (config.memory, config.memory_swap, config.memory_reservation),
        (0, -1, 0)
    );
    assert_eq!(
        (
            config.memory_swappiness,
            config.oom_kill_disable,
            config.pids_limit
        ),
        (None, None, None)
    );
    assert_eq!(
        (
            config.cpu_shares,
            config.cpuset_cpus.as_str(),
            config.blkio_weight
        ),
        (0, "", 0)
    );
    assert_eq!(
        (config.blkio_device_read_bps, config.blkio_device_write_bps),
        (Some(Vec::new()), None)
    );
    assert_eq!(warnings.len(), 11);
    assert_eq!(
        warnings[0],
        "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded."
    );
    let no_cfs = Host::default();
    assert!(run(&no_cfs, |c| c.nano_cpus = 1).is_err());
    let (config, warnings) = run(&no_cfs, |c| c.cpu_quota = 5000).unwrap();
    assert_eq!((config.cpu_quota, warnings.len()), (0, 1));
}

#[test]
fn warnings_without_a_drop() {
    let (config, warnings) = run(&host(), |c| c.oom_kill_disable = Some(true)).unwrap();
    assert_eq!(config.oom_kill_disable, Some(true));
    assert!(warnings[0].starts_with("OOM killer is disabled for the container, but no memory limit is set"));
    let no_swap = Host {
        cgroups: Support {
            swap: false,
            ..host().cgroups
        },
        ..host()
    };
    let (config, warnings) = run(&no_swap, |c| c.memory = 8 * MB).unwrap();
    assert_eq!(
        (config.memory, config.memory_swap, warnings.len()),
        (8 * MB, -1, 1)
    );
}
