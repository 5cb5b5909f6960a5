//! The numbers of a cgroup, unified over v1 and v2.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
