//! The numbers of a cgroup, unified over v1 and v2.

use std::{collections::BTreeMap, fs};

use serde::{Deserialize, Serialize};

use super::{Cgroup, Dir, Version};
use crate::{Error, Result, error::Context};

/// A reading of all counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Processor time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Processes and threads.
    pub pids: Pids,
    /// Bytes transferred, by device and operation.
    pub blkio_bytes: Vec<BlkioEntry>,
    /// Operations, by device and operation.
    pub blkio_operations: Vec<BlkioEntry>,
}

/// Processor time; times in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Used in all.
    pub total: u64,
    /// Used in user mode.
    pub user: u64,
    /// Used in the kernel.
    pub system: u64,
    /// Used on each processor; only v1 counts it.
    pub per_cpu: Vec<u64>,
    /// Periods in which a quota was in force.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// Time spent held up by the quota.
    pub throttled_time: u64,
}

/// Memory; amounts in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// In use, page cache included.
    pub usage: u64,
    /// Highest use so far; 0 where the kernel does not tell.
    pub max_usage: u64,
    /// Limit; `u64::MAX` without one.
    pub limit: u64,
    /// Times the limit was hit.
    pub failcnt: u64,
    /// Every line of `memory.stat`.
    pub stat: BTreeMap<String, u64>,
}

/// Processes and threads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pids {
    /// Now.
    pub current: u64,
    /// Limit; `u64::MAX` without one.
    pub limit: u64,
}

/// A counter of block input and output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkioEntry {
    /// Device number, major part.
    pub major: u64,
    /// Device number, minor part.
    pub minor: u64,
    /// `read`, `write`, …, in lower case.
    pub op: String,
    /// The count.
    pub value: u64,
}

/// The limit v1 shows where there is none: the largest page-aligned `i64` (for pages up to 64 KiB).
const V1_UNLIMITED: u64 = 0x7FFF_FFFF_FFFF_0000;

impl Cgroup {
    /// What it uses and has used. A controller that is missing leaves its part at zero.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound) if it is gone.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        self.cpu(&mut stats.cpu)?;
        if let Some(dir) = self.find("memory") {
            match dir.version {
                Version::V1 => memory_v1(dir, &mut stats.memory)?,
                Version::V2 => memory_v2(dir, &mut stats.memory)?,
            }
        }
        if let Some(dir) = self.find("pids") {
            stats.pids.current = dir.number("pids.current")?;
            stats.pids.limit = dir.number("pids.max")?;
        }
        if let Some(dir) = self.find("blkio").or_else(|| self.find("io")) {
            match dir.version {
                Version::V1 => io_v1(dir, &mut stats)?,
                Version::V2 => io_v2(&dir.stat("io.stat")?, &mut stats),
            }
        }
        Ok(stats)
    }

    /// How many of its processes the out-of-memory killer has ended so far; 0 if the kernel does not count them.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound) if it is gone, internal if the counter cannot be read.
    pub fn oom_kills(&self) -> Result<u64> {
        let Some(dir) = self.find("memory") else {
            return Ok(0);
        };
        let file = match dir.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        Ok(dir.keys(file)?.get("oom_kill").copied().unwrap_or_default())
    }

    fn cpu(&self, cpu: &mut Cpu) -> Result<()> {
        if let Some(dir) = self.find("cpuacct") {
            cpu.total = dir.number("cpuacct.usage")?;
            cpu.user = dir.number("cpuacct.usage_user")?;
            cpu.system = dir.number("cpuacct.usage_sys")?;
            cpu.per_cpu = numbers(&dir.stat("cpuacct.usage_percpu")?);
        }
        // On v2 `cpu.stat` holds the times even where the cpu controller is not enabled.
        let time = self.v2().filter(|_| self.find("cpuacct").is_none());
        for dir in [self.find("cpu"), time].into_iter().flatten() {
            let keys = dir.keys("cpu.stat")?;
            let key = |name: &str| keys.get(name).copied().unwrap_or_default();
            if dir.version == Version::V2 {
                cpu.total = key("usage_usec") * 1000;
                cpu.user = key("user_usec") * 1000;
                cpu.system = key("system_usec") * 1000;
            }
            cpu.periods = cpu.periods.max(key("nr_periods"));
            cpu.throttled_periods = cpu.throttled_periods.max(key("nr_throttled"));
            let throttled = key("throttled_time").max(key("throttled_usec") * 1000);
            cpu.throttled_time = cpu.throttled_time.max(throttled);
        }
        Ok(())
    }
}

impl Dir {
    /// A file of counters. One that this kernel does not have is empty; a cgroup that is gone is an error.
    fn stat(&self, file: &str) -> Result<String> {
        let path = self.path.join(file);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text),
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)
                ) =>
            {
                if self.path.is_dir() {
                    Ok(String::new())
                } else {
                    Err(Error::not_found(format!(
                        "the cgroup {} is gone",
                        self.path.display()
                    )))
                }
            }
            Err(e) => Err(e).context(|| format!("cannot read {}", path.display())),
        }
    }

    /// A file of one number, where `max` is the largest there is.
    fn number(&self, file: &str) -> Result<u64> {
        Ok(number(self.stat(file)?.trim()))
    }

    /// A file of lines `key value`.
    fn keys(&self, file: &str) -> Result<BTreeMap<String, u64>> {
        Ok(keys(&self.stat(file)?))
    }
}

fn number(text: &str) -> u64 {
    if text == "max" {
        u64::MAX
    } else {
        text.parse().unwrap_or_default()
    }
}

fn numbers(text: &str) -> Vec<u64> {
    text.split_whitespace().map(number).collect()
}

fn keys(text: &str) -> BTreeMap<String, u64> {
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

fn memory_v1(dir: &Dir, memory: &mut Memory) -> Result<()> {
    memory.usage = dir.number("memory.usage_in_bytes")?;
    memory.max_usage = dir.number("memory.max_usage_in_bytes")?;
    memory.failcnt = dir.number("memory.failcnt")?;
    memory.stat = dir.keys("memory.stat")?;
    let limit = dir.number("memory.limit_in_bytes")?;
    memory.limit = if limit >= V1_UNLIMITED { u64::MAX } else { limit };
    Ok(())
}

fn memory_v2(dir: &Dir, memory: &mut Memory) -> Result<()> {
    memory.usage = dir.number("memory.current")?;
    memory.max_usage = dir.number("memory.peak")?;
    memory.limit = dir.number("memory.max")?;
    memory.failcnt = dir.keys("memory.events")?.get("max").copied().unwrap_or_default();
    memory.stat = dir.keys("memory.stat")?;
    Ok(())
}

/// The files of whichever scheduler counts; the throttling layer counts always.
fn io_v1(dir: &Dir, stats: &mut Stats) -> Result<()> {
    for scheduler in ["bfq", "throttle"] {
        let file = |what: &str| format!("blkio.{scheduler}.{what}_recursive");
        stats.blkio_bytes = io_lines(&dir.stat(&file("io_service_bytes"))?);
        stats.blkio_operations = io_lines(&dir.stat(&file("io_serviced"))?);
        if !stats.blkio_bytes.is_empty() {
            break;
        }
    }
    Ok(())
}

/// Lines `8:0 Read 4096`; the grand total, which names no device, is left out.
fn io_lines(text: &str) -> Vec<BlkioEntry> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        Some(BlkioEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            op: words.next()?.to_lowercase(),
            value: words.next()?.parse().ok()?,
        })
    };
    text.lines().filter_map(entry).collect()
}

/// Lines `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
fn io_v2(text: &str, stats: &mut Stats) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let device = words.next().and_then(|w| w.split_once(':'));
        let Some((major, minor)) = device.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?))) else {
            continue;
        };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            let entry = |op: &str| BlkioEntry {
                major,
                minor,
                op: op.to_owned(),
                value,
            };
            match key {
                "rbytes" => stats.blkio_bytes.push(entry("read")),
                "wbytes" => stats.blkio_bytes.push(entry("write")),
                "dbytes" => stats.blkio_bytes.push(entry("discard")),
                "rios" => stats.blkio_operations.push(entry("read")),
                "wios" => stats.blkio_operations.push(entry("write")),
                "dios" => stats.blkio_operations.push(entry("discard")),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(op: &str, value: u64) -> BlkioEntry {
        BlkioEntry {
            major: 254,
            minor: 0,
            op: op.to_owned(),
            value,
        }
    }

    #[test]
    fn block_io_of_both_versions() {
        let v1 = "254:0 Read 4096\n254:0 Write 8\n254:0 Total 4104\nTotal 4104\n";
        assert_eq!(
            io_lines(v1),
            [entry("read", 4096), entry("write", 8), entry("total", 4104)]
        );
        let mut stats = Stats::default();
        io_v2(
            "254:0 rbytes=4096 wbytes=8 rios=1 wios=2 dbytes=0 dios=0\nbad line\n",
            &mut stats,
        );
        assert_eq!(
            stats.blkio_bytes,
            [entry("read", 4096), entry("write", 8), entry("discard", 0)]
        );
        assert_eq!(
            stats.blkio_operations,
            [entry("read", 1), entry("write", 2), entry("discard", 0)]
        );
    }

    #[test]
    fn counters_by_name() {
        let keys = keys("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n");
        assert_eq!(keys["oom_kill"], 3);
    }
}
