//! Processes and the host, as `/proc` has them: proc(5). Everything here blocks, for a moment.

use std::{collections::HashMap, fs};

use berth_runtime::{Result, error::Context};
use jiff::{Timestamp, tz::TimeZone};

/// Ticks of the clock in a second, as user space always sees them.
pub(super) const HERTZ: u64 = 100;

/// A process, or a thread of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Process {
    pub pid: i32,
    pub tid: i32,
    pub comm: String,
    pub args: Vec<String>,
    pub state: char,
    pub ppid: i32,
    pub pgrp: i32,
    pub session: i32,
    pub tty: u64,
    pub tpgid: i32,
    pub flags: u64,
    pub minor_faults: u64,
    pub major_faults: u64,
    /// In user mode and in the kernel, in ticks.
    pub time: u64,
    pub priority: i64,
    pub nice: i64,
    pub threads: u64,
    /// After the boot, in ticks.
    pub start: u64,
    /// In bytes.
    pub virtual_size: u64,
    pub processor: u64,
    pub rt_priority: u64,
    pub policy: u64,
    pub uid: u32,
    pub euid: u32,
    pub gid: u32,
    pub egid: u32,
    /// In KiB.
    pub resident: u64,
    /// In KiB; the program's own and that of its data.
    pub text: u64,
    pub data: u64,
    pub locked: bool,
}

/// What all processes have in common.
#[derive(Debug)]
pub(super) struct Host {
    pub now: Timestamp,
    pub zone: TimeZone,
    /// Seconds since 1970.
    pub boot: i64,
    /// In KiB.
    pub memory: u64,
    pub users: HashMap<u32, String>,
    pub groups: HashMap<u32, String>,
}

impl Host {
    pub fn read() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context(|| "cannot read /proc/stat")?;
        let boot = stat.lines().find_map(|line| line.strip_prefix("btime "));
        let names = |path| names(&fs::read_to_string(path).unwrap_or_default());
        Ok(Self {
            now: Timestamp::now(),
            zone: TimeZone::system(),
            boot: boot.and_then(|text| text.trim().parse().ok()).unwrap_or_default(),
            memory: u64::try_from(crate::engine::host::memory() / 1024).unwrap_or_default(),
            users: names("/etc/passwd"),
            groups: names("/etc/group"),
        })
    }
}

/// Names by number, from lines of `name:password:number:…`.
fn names(text: &str) -> HashMap<u32, String> {
    let entry = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        Some((fields.nth(1)?.parse().ok()?, name.to_owned()))
    };
    let mut names = HashMap::new();
    for (number, name) in text.lines().filter_map(entry) {
        names.entry(number).or_insert(name);
    }
    names
}

impl Process {
    /// Reads a process; none if it has ended.
    pub fn read(pid: i32) -> Option<Self> {
        let directory = format!("/proc/{pid}");
        let mut process = Self {
            pid,
            ..Self::read_in(&directory)?
        };
        let words = fs::read(format!("{directory}/cmdline")).unwrap_or_default();
        let words = words.strip_suffix(b"\0").unwrap_or(&words);
        if !words.is_empty() {
            let printable = |word: &[u8]| printable(&String::from_utf8_lossy(word));
            process.args = words.split(|byte| *byte == 0).map(printable).collect();
        }
        Some(process)
    }

    /// The threads of a process, each as a process of its own number.
    pub fn threads(self) -> Vec<Self> {
        let directory = format!("/proc/{}/task", self.pid);
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let mut threads: Vec<_> = entries
            .filter_map(|entry| Self::read_in(&entry.path().to_string_lossy()))
            .map(|thread| Self {
                pid: self.pid,
                args: self.args.clone(),
                ..thread
            })
            .collect();
        threads.sort_unstable_by_key(|thread| thread.tid);
        threads
    }

    fn read_in(directory: &str) -> Option<Self> {
        let stat = fs::read(format!("{directory}/stat")).ok()?;
        let mut process = Self::parse(&String::from_utf8_lossy(&stat))?;
        let status = fs::read(format!("{directory}/status")).ok()?;
        process.add_status(&String::from_utf8_lossy(&status));
        Some(process)
    }

    /// The name is in parentheses and may contain some itself.
    fn parse(stat: &str) -> Option<Self> {
        let (front, rest) = stat.rsplit_once(") ")?;
        let (tid, comm) = front.split_once(" (")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // Field numbers as in proc(5), of which 3 is the first here.
        let text = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
        let unsigned = |number: usize| text(number).parse::<u64>().unwrap_or_default();
        let signed = |number: usize| text(number).parse::<i64>().unwrap_or_default();
        let id = |number: usize| text(number).parse::<i32>().unwrap_or_default();
        Some(Self {
            tid: tid.trim().parse().ok()?,
            comm: printable(comm),
            state: text(3).chars().next()?,
            ppid: id(4),
            pgrp: id(5),
            session: id(6),
            tty: unsigned(7),
            tpgid: id(8),
            flags: unsigned(9),
            minor_faults: unsigned(10),
            major_faults: unsigned(12),
            time: unsigned(14) + unsigned(15),
            priority: signed(18),
            nice: signed(19),
            threads: unsigned(20),
            start: unsigned(22),
            virtual_size: unsigned(23),
            processor: unsigned(39),
            rt_priority: unsigned(40),
            policy: unsigned(41),
            ..Self::default()
        })
    }

    fn add_status(&mut self, status: &str) {
        for line in status.lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let number = |place: usize| -> u64 {
                let word = value.split_whitespace().nth(place);
                word.and_then(|word| word.parse().ok()).unwrap_or_default()
            };
            let id = |place: usize| u32::try_from(number(place)).unwrap_or_default();
            match key {
                "Uid" => (self.uid, self.euid) = (id(0), id(1)),
                "Gid" => (self.gid, self.egid) = (id(0), id(1)),
                "VmRSS" => self.resident = number(0),
                "VmExe" => self.text = number(0),
                "VmData" => self.data = number(0),
                "VmLck" => self.locked = number(0) > 0,
                _ => {}
            }
        }
    }
}

/// Bytes that would act on a terminal are not passed on.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_the_rest() {
        let process = Process::parse("42 (a) S (\u{1b}b) R 7 8 9 34816 8 4194560 1 0 2 0 30 12").unwrap();
        assert_eq!(
            (process.tid, process.comm.as_str(), process.state),
            (42, "a) S (?b", 'R')
        );
        assert_eq!((process.ppid, process.time, process.major_faults), (7, 42, 2));
        assert_eq!(Process::parse("garbage"), None);
    }

    #[test]
    fn this_process_is_there() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let process = Process::read(pid).unwrap();
        assert_eq!(
            (process.pid, process.euid),
            (pid, nix::unistd::geteuid().as_raw())
        );
        assert!(process.resident > 0 && !process.args.is_empty());
        assert!(Process::read(i32::MAX).is_none());
    }

    #[test]
    fn the_first_name_of_a_number_counts() {
        let names = names("root:x:0:0\ntoor:x:0:0\nbroken\nweb:x:33:33\n");
        assert_eq!((names[&0].as_str(), names[&33].as_str()), ("root", "web"));
    }
}
