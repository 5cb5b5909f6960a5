//! `events`: what a container uses, and when it runs out of memory.

use std::time::{Duration, Instant};

use berth_runtime::{
    Error, Result,
    cgroup::{BlkioEntry, Stats},
    error::Context as _,
};
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use super::{Context, record::Status, show::print_json};

/// `events`.
#[derive(Args, Debug)]
pub(super) struct Events {
    /// Show the figures once and return
    #[arg(long)]
    stats: bool,
    /// Time between figures: a number with s, m or h
    #[arg(long, default_value = "5s", value_name = "TIME")]
    interval: String,
    /// Name of the container
    id: String,
}

impl Events {
    pub fn run(self, context: &Context) -> Result<()> {
        let directory = context.directory(&self.id)?;
        let record = directory.load()?;
        if directory.status(&record) == Status::Stopped {
            return Err(Error::conflict(format!(
                "container with id {} is not running",
                self.id
            )));
        }
        let show = || print_json(&stats(&self.id, &record.cgroup.stats()?), false);
        if self.stats {
            return show();
        }
        let interval = interval(&self.interval)?;
        let gone = || Error::conflict(format!("container with id {} is not running", self.id));
        let process = record
            .init
            .pidfd()
            .context(|| "cannot find the container's process")?
            .ok_or_else(gone)?;
        let watch = record.cgroup.watch_oom()?;
        let mut kills = record.cgroup.oom_kills().unwrap_or(0);
        let mut next = Instant::now() + interval;
        loop {
            let wait = next.saturating_duration_since(Instant::now());
            let limit = Timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: wait.subsec_nanos().into(),
            };
            let mut fds = vec![PollFd::new(&process, PollFlags::IN)];
            if let Some(watch) = &watch {
                fds.push(PollFd::new(watch, watch.interest()));
            }
            poll(&mut fds, Some(&limit)).context(|| "cannot wait")?;
            let ready = |i: usize| fds.get(i).is_some_and(|fd| !fd.revents().is_empty());
            let (ended, told) = (ready(0), ready(1));
            if told && let Some(watch) = &watch {
                watch.clear();
            }
            let now = record.cgroup.oom_kills().unwrap_or(kills);
            if now > kills {
                kills = now;
                print_json(&json!({"type": "oom", "id": self.id}), false)?;
            }
            if ended {
                return Ok(());
            }
            if Instant::now() >= next {
                show()?;
                next = Instant::now() + interval;
            }
        }
    }
}

/// `5s`, `1m`, `500ms`.
fn interval(text: &str) -> Result<Duration> {
    let wrong = || {
        Error::invalid(format!(
            "duration interval must be greater than 0, as in 5s: {text:?}"
        ))
    };
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(split).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    let milliseconds = milliseconds.filter(|n| *n > 0).ok_or_else(wrong)?;
    Ok(Duration::from_millis(milliseconds))
}

fn stats(id: &str, stats: &Stats) -> Value {
    let blkio = |entries: &[BlkioEntry]| -> Vec<Value> {
        let entry =
            |e: &BlkioEntry| json!({"major": e.major, "minor": e.minor, "op": e.op, "value": e.value});
        entries.iter().map(entry).collect()
    };
    let memory = &stats.memory;
    let amount = |usage: u64, max: u64, limit: u64, failcnt: u64| json!({"limit": limit, "usage": usage, "max": max, "failcnt": failcnt});
    let cache = memory.stat.get("cache").or_else(|| memory.stat.get("file"));
    json!({
        "type": "stats",
        "id": id,
        "data": {
            "cpu": {
                "usage": {
                    "total": stats.cpu.total,
                    "percpu": stats.cpu.per_cpu,
                    "kernel": stats.cpu.system,
                    "user": stats.cpu.user,
                },
                "throttling": {
                    "periods": stats.cpu.periods,
                    "throttledPeriods": stats.cpu.throttled_periods,
                    "throttledTime": stats.cpu.throttled_time,
                },
            },
            "cpuset": {},
            "memory": {
                "cache": cache.copied().unwrap_or_default(),
                "usage": amount(memory.usage, memory.max_usage, memory.limit, memory.failcnt),
                "swap": amount(0, 0, 0, 0),
                "kernel": amount(0, 0, 0, 0),
                "kernelTCP": amount(0, 0, 0, 0),
                "raw": memory.stat,
            },
            "pids": {"current": stats.pids.current, "limit": if stats.pids.limit == u64::MAX { 0 } else { stats.pids.limit }},
            "blkio": {
                "ioServiceBytesRecursive": blkio(&stats.blkio_bytes),
                "ioServicedRecursive": blkio(&stats.blkio_operations),
            },
            "hugetlb": {},
            "intel_rdt": {},
            "network_interfaces": null,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals() {
        assert_eq!(interval("5s").unwrap(), Duration::from_secs(5));
        assert_eq!(interval("200ms").unwrap(), Duration::from_millis(200));
        for text in ["", "0s", "5", "x", "-1s", "99999999999999999999s"] {
            assert!(interval(text).is_err(), "{text}");
        }
    }
}
