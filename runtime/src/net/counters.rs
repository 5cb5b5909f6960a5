//! What went through the interfaces of a container.

use std::{collections::BTreeMap, fs, path::Path};

use crate::{Result, error::Context};

/// Counters of one interface since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Packets received and dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Send errors.
    pub tx_errors: u64,
    /// Packets dropped instead of being sent.
    pub tx_dropped: u64,
}

/// The counters of every interface but the loopback in the network namespace of a process, by name: proc_pid_net(5).
///
/// # Errors
/// Internal, if the process is gone.
pub fn counters(pid: i32) -> Result<BTreeMap<String, Counters>> {
    let path = format!("/proc/{pid}/net/dev");
    let text = fs::read_to_string(Path::new(&path)).context(|| format!("cannot read {path}"))?;
    Ok(parse(&text))
}

fn parse(text: &str) -> BTreeMap<String, Counters> {
    text.lines()
        .filter_map(line)
        .filter(|(name, _)| name != "lo")
        .collect()
}

fn line(line: &str) -> Option<(String, Counters)> {
    let (name, numbers) = line.split_once(':')?;
    let numbers: Vec<u64> = numbers
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let number = |at: usize| numbers.get(at).copied();
    Some((
        name.trim().to_owned(),
        Counters {
            rx_bytes: number(0)?,
            rx_packets: number(1)?,
            rx_errors: number(2)?,
            rx_dropped: number(3)?,
            tx_bytes: number(8)?,
            tx_packets: number(9)?,
            tx_errors: number(10)?,
            tx_dropped: number(11)?,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs|bytes\n    \
                    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n  \
                    eth0: 100 2 3 4 5 6 7 8 900 10 11 12 13 14 15 16\n";
        let all = parse(text);
        assert_eq!(all.len(), 1);
        let eth0 = all["eth0"];
        assert_eq!(
            (eth0.rx_bytes, eth0.rx_packets, eth0.rx_errors, eth0.rx_dropped),
            (100, 2, 3, 4)
        );
        assert_eq!(
            (eth0.tx_bytes, eth0.tx_packets, eth0.tx_errors, eth0.tx_dropped),
            (900, 10, 11, 12)
        );
    }
}
