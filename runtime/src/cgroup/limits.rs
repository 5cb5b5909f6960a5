//! `LinuxResources` as writes to the files of a cgroup.

use std::{fs::File, io::Write};

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::{Cgroup, Dir, Version};
use crate::{Error, Kind, Result, error::Context};

/// Applies every limit that is given and leaves the others.
pub(super) fn apply(cgroup: &Cgroup, resources: &LinuxResources) -> Result<()> {
    if let Some(memory) = resources.memory() {
        memory_limits(cgroup, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu_limits(cgroup, cpu)?;
    }
    if let Some(pids) = resources.pids() {
        // Docker's 0 and -1 both mean no limit (OCI runtime specification, linux.resources.pids).
        let value = if pids.limit() > 0 {
            pids.limit().to_string()
        } else {
            "max".to_owned()
        };
        cgroup.dir("pids")?.write("pids.max", &value)?;
    }
    if let Some(io) = resources.block_io() {
        io_limits(cgroup, io)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let dir = cgroup.dir("hugetlb")?;
        let file = match dir.version {
            Version::V1 => format!("hugetlb.{}.limit_in_bytes", limit.page_size()),
            Version::V2 => format!("hugetlb.{}.max", limit.page_size()),
        };
        dir.write(&file, &amount(limit.limit(), dir.version))?;
    }
    for (file, value) in resources.unified().iter().flatten() {
        unified(cgroup, file, value)?;
    }
    if let Some(rules) = resources.devices() {
        super::devices::apply(cgroup, rules)?;
    }
    Ok(())
}

/// A limit where -1 stands for none.
fn amount(value: i64, version: Version) -> String {
    match version {
        Version::V2 if value < 0 => "max".to_owned(),
        _ => value.to_string(),
    }
}

fn memory_limits(cgroup: &Cgroup, memory: &LinuxMemory) -> Result<()> {
    if *memory == LinuxMemory::default() {
        return Ok(());
    }
    let dir = cgroup.dir("memory")?;
    match dir.version {
        Version::V1 => memory_v1(dir, memory),
        Version::V2 => memory_v2(dir, memory),
    }
}

fn memory_v1(dir: &Dir, memory: &LinuxMemory) -> Result<()> {
    const LIMIT: &str = "memory.limit_in_bytes";
    const SWAP: &str = "memory.memsw.limit_in_bytes";
    match (memory.limit(), memory.swap()) {
        (Some(limit), Some(swap)) => {
            // The kernel wants limit <= memory+swap at each step: lower the limit first, or raise memory+swap first.
            if dir.write(LIMIT, &limit.to_string()).is_ok() {
                dir.write(SWAP, &swap.to_string())?;
            } else {
                dir.write(SWAP, &swap.to_string())?;
                dir.write(LIMIT, &limit.to_string())?;
            }
        }
        (Some(limit), None) => dir.write(LIMIT, &limit.to_string())?,
        (None, Some(swap)) => dir.write(SWAP, &swap.to_string())?,
        (None, None) => {}
    }
    if let Some(reservation) = memory.reservation() {
        dir.write("memory.soft_limit_in_bytes", &reservation.to_string())?;
    }
    if let Some(tcp) = memory.kernel_tcp() {
        dir.write("memory.kmem.tcp.limit_in_bytes", &tcp.to_string())?;
    }
    if let Some(swappiness) = memory.swappiness().filter(|s| *s <= 100) {
        dir.write("memory.swappiness", &swappiness.to_string())?;
    }
    if let Some(disable) = memory.disable_oom_killer() {
        // Writing the value that is in force anyway is refused on kernels without the switch.
        if disable {
            dir.write("memory.oom_control", "1")?;
        }
    }
    Ok(())
}

fn memory_v2(dir: &Dir, memory: &LinuxMemory) -> Result<()> {
    if let Some(swap) = swap_v2(memory)? {
        dir.write("memory.swap.max", &swap)?;
    }
    if let Some(limit) = memory.limit() {
        dir.write("memory.max", &amount(limit, Version::V2))?;
    }
    if let Some(reservation) = memory.reservation() {
        dir.write("memory.low", &amount(reservation, Version::V2))?;
    }
    Ok(())
}

/// v2 limits swap alone, OCI (like v1) limits memory and swap together.
fn swap_v2(memory: &LinuxMemory) -> Result<Option<String>> {
    Ok(match (memory.swap(), memory.limit()) {
        (None, _) => None,
        (Some(swap), _) if swap < 0 => Some("max".to_owned()),
        (Some(0), None | Some(0)) => Some("max".to_owned()),
        (Some(swap), Some(limit)) if limit > 0 && swap >= limit => Some((swap - limit).to_string()),
        (Some(swap), limit) => {
            let limit = limit.map_or_else(|| "no memory limit".to_owned(), |l| format!("memory limit {l}"));
            return Err(Error::invalid(format!(
                "memory+swap limit {swap} with {limit}: it has to be at least the memory limit"
            )));
        }
    })
}

fn cpu_limits(cgroup: &Cgroup, cpu: &LinuxCpu) -> Result<()> {
    let wants_cpu = cpu.shares().is_some_and(|s| s != 0)
        || cpu.quota().is_some()
        || cpu.period().is_some()
        || cpu.realtime_period().is_some()
        || cpu.realtime_runtime().is_some()
        || cpu.idle().is_some()
        || cpu.burst().is_some();
    if wants_cpu {
        let dir = cgroup.dir("cpu")?;
        match dir.version {
            Version::V1 => cpu_v1(dir, cpu)?,
            Version::V2 => cpu_v2(dir, cpu)?,
        }
    }
    for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(list) = list.as_deref().filter(|l| !l.is_empty()) {
            cgroup.dir("cpuset")?.write(file, list)?;
        }
    }
    Ok(())
}

/// The kernel silently takes the nearest number of shares that it allows.
fn check_shares(asked: u64, taken: &str) -> Result<()> {
    match taken.parse::<u64>() {
        Ok(least) if asked < least => Err(Error::invalid(format!(
            "the minimum allowed cpu-shares is {least}, not {asked}"
        ))),
        Ok(most) if asked > most => Err(Error::invalid(format!(
            "the maximum allowed cpu-shares is {most}, not {asked}"
        ))),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn cpu_v1(dir: &Dir, cpu: &LinuxCpu) -> Result<()> {
    if let Some(shares) = cpu.shares().filter(|s| *s != 0) {
        dir.write("cpu.shares", &shares.to_string())?;
        check_shares(shares, dir.read("cpu.shares")?.trim())?;
    }
    if let Some(period) = cpu.realtime_period().filter(|p| *p != 0) {
        dir.write("cpu.rt_period_us", &period.to_string())?;
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|r| *r != 0) {
        dir.write("cpu.rt_runtime_us", &runtime.to_string())?;
    }
    let quota = cpu.quota().filter(|q| *q != 0).map(|q| q.to_string());
    if let Some(period) = cpu.period().filter(|p| *p != 0) {
        let period = period.to_string();
        // A period that makes the old quota too small is refused: the new quota has to come first then.
        if dir.write("cpu.cfs_period_us", &period).is_err() {
            if let Some(quota) = &quota {
                dir.write("cpu.cfs_quota_us", quota)?;
            }
            dir.write("cpu.cfs_period_us", &period)?;
        }
    }
    if let Some(quota) = quota {
        dir.write("cpu.cfs_quota_us", &quota)?;
    }
    if let Some(burst) = cpu.burst() {
        dir.write("cpu.cfs_burst_us", &burst.to_string())?;
    }
    if let Some(idle) = cpu.idle() {
        dir.write("cpu.idle", &idle.to_string())?;
    }
    Ok(())
}

fn cpu_v2(dir: &Dir, cpu: &LinuxCpu) -> Result<()> {
    if let Some(idle) = cpu.idle() {
        dir.write("cpu.idle", &idle.to_string())?;
    }
    if let Some(shares) = cpu.shares().filter(|s| *s != 0) {
        dir.write("cpu.weight", &weight_of_shares(shares).to_string())?;
    }
    let quota = cpu.quota().filter(|q| *q != 0);
    let period = cpu.period().filter(|p| *p != 0);
    if quota.is_some() || period.is_some() {
        let (old_quota, old_period) = split_max(&dir.read("cpu.max")?);
        let quota = quota.map_or(old_quota, |q| amount(q, Version::V2));
        let period = period.map_or(old_period, |p| p.to_string());
        dir.write("cpu.max", &format!("{quota} {period}"))?;
    }
    if let Some(burst) = cpu.burst() {
        dir.write("cpu.max.burst", &burst.to_string())?;
    }
    Ok(())
}

fn split_max(text: &str) -> (String, String) {
    let mut words = text.split_whitespace().map(String::from);
    let quota = words.next().unwrap_or_else(|| "max".to_owned());
    (quota, words.next().unwrap_or_else(|| "100000".to_owned()))
}

/// v1 shares (2–262144, default 1024) as a v2 weight (1–10000, default 100), keeping both ends and both defaults; the
/// curve through them is the one the OCI runtimes agreed on.
fn weight_of_shares(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let bits = (shares as f64).log2();
    let exponent = (bits * bits + 125.0 * bits) / 612.0 - 7.0 / 34.0;
    (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
}

fn io_limits(cgroup: &Cgroup, io: &LinuxBlockIo) -> Result<()> {
    if *io == LinuxBlockIo::default() {
        return Ok(());
    }
    let dir = cgroup.dir("blkio").or_else(|_| cgroup.dir("io"))?;
    if let Some(weight) = io.weight().filter(|w| *w != 0) {
        dir.write_weight("", weight)?;
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight() {
            dir.write_weight(&format!("{}:{}", device.major(), device.minor()), weight)?;
        }
    }
    let lists = [
        (
            io.throttle_read_bps_device(),
            "blkio.throttle.read_bps_device",
            "rbps",
        ),
        (
            io.throttle_write_bps_device(),
            "blkio.throttle.write_bps_device",
            "wbps",
        ),
        (
            io.throttle_read_iops_device(),
            "blkio.throttle.read_iops_device",
            "riops",
        ),
        (
            io.throttle_write_iops_device(),
            "blkio.throttle.write_iops_device",
            "wiops",
        ),
    ];
    for (devices, v1_file, v2_key) in lists {
        for device in devices.iter().flatten() {
            throttle(dir, device, v1_file, v2_key)?;
        }
    }
    Ok(())
}

fn throttle(dir: &Dir, device: &LinuxThrottleDevice, v1_file: &str, v2_key: &str) -> Result<()> {
    let (major, minor, rate) = (device.major(), device.minor(), device.rate());
    match dir.version {
        Version::V1 => dir.write(v1_file, &format!("{major}:{minor} {rate}")),
        Version::V2 => {
            let rate = if rate == 0 {
                "max".to_owned()
            } else {
                rate.to_string()
            };
            dir.write("io.max", &format!("{major}:{minor} {v2_key}={rate}"))
        }
    }
}

impl Dir {
    /// Sets the weight (10–1000) of a device, or of all devices if `device` is empty, by whichever scheduler's file
    /// there is.
    fn write_weight(&self, device: &str, weight: u16) -> Result<()> {
        let line = |w: u64| {
            if device.is_empty() {
                w.to_string()
            } else {
                format!("{device} {w}")
            }
        };
        let files: &[&str] = match (self.version, device.is_empty()) {
            (Version::V1, true) => &["blkio.bfq.weight", "blkio.weight"],
            (Version::V1, false) => &["blkio.bfq.weight_device", "blkio.weight_device"],
            (Version::V2, _) => &["io.bfq.weight"],
        };
        if let Some(file) = files.iter().find(|f| self.path.join(f).exists()) {
            return self.write(file, &line(weight.into()));
        }
        if self.version == Version::V1 {
            return Err(Error::invalid(
                "the kernel cannot weigh block input and output here (no BFQ scheduler)",
            ));
        }
        // 10–1000 to the 1–10000 of the v2 interface.
        let weight = 1 + (u64::from(weight).max(10) - 10) * 9999 / 990;
        self.write("io.weight", &line(weight))
    }
}

/// A raw v2 file; its controller is the part of the name before the first dot.
fn unified(cgroup: &Cgroup, file: &str, value: &str) -> Result<()> {
    if file.contains('/') {
        return Err(Error::invalid(format!(
            "unified resource {file:?} is not the name of a cgroup file"
        )));
    }
    let dir = cgroup
        .v2()
        .ok_or_else(|| Error::invalid(format!("unified resource {file:?} needs cgroup version 2")))?;
    dir.write(file, value)
}

/// Turns the kernel's refusal of a value into an error of the right kind.
pub(super) fn refused(file: &str, value: &str, error: std::io::Error) -> Error {
    let kind = match error.raw_os_error() {
        Some(libc::EINVAL | libc::ERANGE | libc::ENOENT | libc::EBUSY | libc::EOPNOTSUPP | libc::ENODEV) => {
            Kind::Invalid
        }
        _ => Kind::Internal,
    };
    Error::new(kind, format!("cannot write {value:?} to cgroup file {file}")).caused_by(error)
}

/// A file of a cgroup to which more than one value is written.
pub(super) struct Values<'a> {
    dir: &'a Dir,
    name: &'static str,
    file: Option<File>,
}

impl Values<'_> {
    /// Writes one more value.
    ///
    /// # Errors
    /// As those of [`Dir::write`].
    pub fn write(&mut self, value: &str) -> Result<()> {
        let explain = |e| self.dir.explain(self.name, value, e);
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(super::open_write(&self.dir.path.join(self.name)).map_err(explain)?),
        };
        file.write_all(value.as_bytes()).map_err(explain)
    }
}

impl Dir {
    pub(super) fn write(&self, file: &str, value: &str) -> Result<()> {
        super::write_file(&self.path.join(file), value).map_err(|e| self.explain(file, value, e))
    }

    /// For several values of one file, which is opened with the first.
    pub(super) fn values(&self, name: &'static str) -> Values<'_> {
        Values {
            dir: self,
            name,
            file: None,
        }
    }

    fn explain(&self, file: &str, value: &str, error: std::io::Error) -> Error {
        match self.is_gone() {
            true => self.gone(error),
            false => refused(file, value, error),
        }
    }

    pub(super) fn read(&self, file: &str) -> Result<String> {
        let path = self.path.join(file);
        match std::fs::read_to_string(&path) {
            Err(e) if self.is_gone() => Err(self.gone(e)),
            text => text.context(|| format!("cannot read {}", path.display())),
        }
    }

    /// It was removed, as happens when its last process ends.
    fn is_gone(&self) -> bool {
        !self.path.exists()
    }

    fn gone(&self, error: std::io::Error) -> Error {
        Error::not_found(format!("cgroup {} is gone", self.path.display())).caused_by(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_keep_ends_and_defaults() {
        let pairs = [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (1 << 40, 10_000)];
        for (shares, weight) in pairs {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        assert!((2..262_144).step_by(97).map(weight_of_shares).is_sorted());
    }

    #[test]
    fn swap_is_memory_and_swap_together() {
        let mut memory = LinuxMemory::default();
        assert_eq!(swap_v2(&memory).unwrap(), None);
        memory.set_limit(Some(100)).set_swap(Some(300));
        assert_eq!(swap_v2(&memory).unwrap().as_deref(), Some("200"));
        memory.set_swap(Some(-1));
        assert_eq!(swap_v2(&memory).unwrap().as_deref(), Some("max"));
        memory.set_swap(Some(50));
        assert_eq!(swap_v2(&memory).unwrap_err().kind(), Kind::Invalid);
    }
}
