//! Reading the counters. Everything here blocks, for a moment.

use std::{collections::BTreeMap, fs};

use berth_runtime::{
    Result,
    cgroup::{Cgroup, Stats},
    error::Context,
};
use jiff::Timestamp;

/// Nanoseconds of a tick in `/proc/stat`, of which user space always sees 100 a second.
const TICK: u64 = 10_000_000;

/// The counters of a container at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// When.
    pub read: Timestamp,
    /// Those of its cgroup.
    pub stats: Stats,
    /// Time that all processors of the host have spent, in nanoseconds.
    pub system: u64,
    /// How many processors are online.
    pub cpus: u32,
    /// Those of its interfaces.
    pub networks: BTreeMap<String, Traffic>,
}

/// Counters of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    /// Received: bytes, packets, errors, dropped.
    pub received: [u64; 4],
    /// Sent, likewise.
    pub sent: [u64; 4],
}

impl Sample {
    /// Reads them. `pid` is a process in the container's network namespace, if it has one of its own.
    pub fn read(cgroup: &Cgroup, pid: Option<i32>) -> Result<Self> {
        let stats = cgroup.stats()?;
        let text = fs::read_to_string("/proc/stat").context(|| "cannot read /proc/stat")?;
        let (system, cpus) = processors(&text);
        // A process that has just ended has no interfaces.
        let networks = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/net/dev")).ok());
        Ok(Self {
            read: Timestamp::now(),
            stats,
            system,
            cpus,
            networks: networks.map(|text| interfaces(&text)).unwrap_or_default(),
        })
    }
}

/// Time of all processors and their number, from `/proc/stat`.
fn processors(text: &str) -> (u64, u32) {
    let mut system = 0;
    let mut cpus = 0;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            // User, nice, system, idle, iowait, irq, softirq: what clients' formulas have always been about.
            Some("cpu") => system = words.take(7).filter_map(|word| word.parse::<u64>().ok()).sum(),
            Some(name) if name.starts_with("cpu") => cpus += 1,
            _ => break,
        }
    }
    (system * TICK, cpus)
}

/// The interfaces of `/proc/net/dev`, without the loopback.
fn interfaces(text: &str) -> BTreeMap<String, Traffic> {
    let interface = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters
            .split_whitespace()
            .map(|word| word.parse().unwrap_or_default())
            .collect();
        let four = |from: usize| -> Option<[u64; 4]> { counters.get(from..from + 4)?.try_into().ok() };
        let traffic = Traffic {
            received: four(0)?,
            sent: four(8)?,
        };
        Some((name.trim().to_owned(), traffic))
    };
    text.lines()
        .filter_map(interface)
        .filter(|(name, _)| name != "lo")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_summed_and_counted() {
        let text = "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 1 1 1\ncpu1 1 1 1 1\nintr 1 2\ncpu9 1\n";
        assert_eq!(processors(text), (28 * TICK, 2));
        assert_eq!(processors(""), (0, 0));
    }

    #[test]
    fn interfaces_are_read() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes \
                    packets errs drop fifo colls carrier compressed\n    lo:   9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0\n  \
                    eth0:5338 36 1 2 0 0 0 0 648 8 3 4 0 0 0 0\n broken: 1 2\n";
        let traffic = Traffic {
            received: [5338, 36, 1, 2],
            sent: [648, 8, 3, 4],
        };
        assert_eq!(interfaces(text), BTreeMap::from([("eth0".to_owned(), traffic)]));
    }

    #[test]
    fn the_host_has_processors() {
        let (system, cpus) = processors(&fs::read_to_string("/proc/stat").unwrap());
        assert!(system > 0 && cpus > 0);
    }
}
