//! The columns of ps: ps(1), "standard format specifiers".

use std::fs;

use jiff::{Timestamp, civil::DateTime};

use super::process::{HERTZ, Host, Process};

/// Longest name of a user or group that is shown whole.
const NAME_MAX: usize = 8;
const PAGE: u64 = 4096;
/// First and last major number of pseudo terminals, each of which has 256.
const PTS: std::ops::RangeInclusive<u64> = 136..=143;

type Value = fn(&Row<'_>) -> String;

/// A process to be shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub process: &'a Process,
    pub host: &'a Host,
}

/// A column with its title.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub title: String,
    value: Value,
}

impl Column {
    /// What it shows of a process.
    pub fn cell(&self, row: &Row<'_>) -> String {
        (self.value)(row)
    }
}

/// The column that ps knows by `name`.
pub(super) fn find(name: &str) -> Option<Column> {
    let (_, title, value) = COLUMNS
        .iter()
        .find(|(names, ..)| names.split(' ').any(|known| known == name))?;
    Some(Column {
        title: (*title).to_owned(),
        value: *value,
    })
}

/// Names, title and value of each; `uid-name` is the one that only predefined formats have.
const COLUMNS: &[(&str, &str, Value)] = &[
    ("pid tgid", "PID", |r| r.process.pid.to_string()),
    ("ppid", "PPID", |r| r.process.ppid.to_string()),
    ("lwp tid", "LWP", |r| r.process.tid.to_string()),
    ("spid", "SPID", |r| r.process.tid.to_string()),
    ("nlwp thcount", "NLWP", |r| r.process.threads.to_string()),
    ("pgid pgrp", "PGID", |r| r.process.pgrp.to_string()),
    ("sid sess session", "SID", |r| r.process.session.to_string()),
    ("tpgid", "TPGID", |r| r.process.tpgid.to_string()),
    ("uid-name", "UID", |r| r.user(r.process.euid)),
    ("uid", "UID", |r| r.process.euid.to_string()),
    ("euid", "EUID", |r| r.process.euid.to_string()),
    ("ruid", "RUID", |r| r.process.uid.to_string()),
    ("gid", "GID", |r| r.process.egid.to_string()),
    ("egid", "EGID", |r| r.process.egid.to_string()),
    ("rgid", "RGID", |r| r.process.gid.to_string()),
    ("user uname", "USER", |r| r.user(r.process.euid)),
    ("euser", "EUSER", |r| r.user(r.process.euid)),
    ("ruser", "RUSER", |r| r.user(r.process.uid)),
    ("group", "GROUP", |r| r.group(r.process.egid)),
    ("egroup", "EGROUP", |r| r.group(r.process.egid)),
    ("rgroup", "RGROUP", |r| r.group(r.process.gid)),
    ("comm ucomm", "COMMAND", |r| r.name()),
    ("ucmd", "CMD", |r| r.name()),
    ("args command", "COMMAND", |r| r.command()),
    ("cmd", "CMD", |r| r.command()),
    ("exe", "EXE", |r| r.link("exe")),
    ("c util", "C", |r| (r.cpu_permille() / 10).min(99).to_string()),
    ("cp", "CP", |r| r.cpu_permille().to_string()),
    ("pcpu %cpu", "%CPU", |r| tenths(r.cpu_permille())),
    ("pmem %mem", "%MEM", |r| {
        tenths(
            (r.process.resident * 1000)
                .checked_div(r.host.memory)
                .unwrap_or_default()
                .min(999),
        )
    }),
    ("vsz vsize", "VSZ", |r| {
        (r.process.virtual_size / 1024).to_string()
    }),
    ("sz", "SZ", |r| (r.process.virtual_size / PAGE).to_string()),
    ("rss rssize rsz", "RSS", |r| r.process.resident.to_string()),
    ("trs", "TRS", |r| r.process.text.to_string()),
    ("drs", "DRS", |r| r.process.data.to_string()),
    ("min_flt minflt", "MINFL", |r| r.process.minor_faults.to_string()),
    ("maj_flt majflt", "MAJFL", |r| r.process.major_faults.to_string()),
    ("majfl", "MAJFL", |r| r.process.major_faults.to_string()),
    ("tname tty tty4 tty8", "TTY", |r| r.terminal()),
    ("tt", "TT", |r| r.terminal()),
    ("s state", "S", |r| r.process.state.to_string()),
    ("stat", "STAT", |r| r.status()),
    ("time cputime", "TIME", |r| clock(r.seconds())),
    ("times cputimes", "TIME", |r| r.seconds().to_string()),
    ("bsdtime", "TIME", |r| {
        format!("{}:{:02}", r.seconds() / 60, r.seconds() % 60)
    }),
    ("stime", "STIME", |r| r.start_short()),
    ("start_time bsdstart", "START", |r| r.start_short()),
    ("start", "STARTED", |r| r.start_text()),
    ("lstart", "STARTED", |r| r.start("%a %b %e %H:%M:%S %Y")),
    ("etime", "ELAPSED", |r| elapsed(r.age())),
    ("etimes", "ELAPSED", |r| r.age().to_string()),
    ("pri", "PRI", |r| (39 - r.process.priority).to_string()),
    ("opri", "PRI", |r| (60 + r.process.priority).to_string()),
    ("priority", "PRI", |r| r.process.priority.to_string()),
    ("ni nice", "NI", |r| match r.process.policy {
        1 | 2 | 6 => "-".to_owned(),
        _ => r.process.nice.to_string(),
    }),
    ("rtprio", "RTPRIO", |r| match r.process.policy {
        1 | 2 => r.process.rt_priority.to_string(),
        _ => "-".to_owned(),
    }),
    ("cls class policy", "CLS", |r| {
        let name = match r.process.policy {
            0 => "TS",
            1 => "FF",
            2 => "RR",
            3 => "B",
            5 => "IDL",
            6 => "DLN",
            _ => "?",
        };
        name.to_owned()
    }),
    ("psr", "PSR", |r| r.process.processor.to_string()),
    ("f flag flags", "F", |r| ((r.process.flags >> 6) & 7).to_string()),
    ("addr", "ADDR", |_| "-".to_owned()),
    ("wchan", "WCHAN", |r| match r.file("wchan").as_str() {
        "" | "0" => "-".to_owned(),
        place => place.to_owned(),
    }),
    ("label context", "LABEL", |r| {
        match r.file("attr/current").as_str() {
            "" => "-".to_owned(),
            label => label.to_owned(),
        }
    }),
    ("cgroup", "CGROUP", |r| {
        r.file("cgroup").lines().collect::<Vec<_>>().join(",")
    }),
    ("oom", "OOM", |r| r.file("oom_score")),
    ("oomadj", "OOMADJ", |r| r.file("oom_score_adj")),
    ("pidns", "PIDNS", |r| r.namespace("pid")),
    ("mntns", "MNTNS", |r| r.namespace("mnt")),
    ("netns", "NETNS", |r| r.namespace("net")),
    ("ipcns", "IPCNS", |r| r.namespace("ipc")),
    ("utsns", "UTSNS", |r| r.namespace("uts")),
    ("userns", "USERNS", |r| r.namespace("user")),
    ("cgroupns", "CGROUPNS", |r| r.namespace("cgroup")),
];

impl Row<'_> {
    /// The host's name of a user, or the number.
    pub fn user(&self, uid: u32) -> String {
        short(self.host.users.get(&uid), uid)
    }

    fn group(&self, gid: u32) -> String {
        short(self.host.groups.get(&gid), gid)
    }

    fn name(&self) -> String {
        match self.process.state {
            'Z' => format!("{} <defunct>", self.process.comm),
            _ => self.process.comm.clone(),
        }
    }

    fn command(&self) -> String {
        match (self.process.args.is_empty(), self.process.state) {
            (true, 'Z') => format!("[{}] <defunct>", self.process.comm),
            (true, _) => format!("[{}]", self.process.comm),
            (false, _) => self.process.args.join(" "),
        }
    }

    fn file(&self, name: &str) -> String {
        let text = fs::read_to_string(format!("/proc/{}/{name}", self.process.pid)).unwrap_or_default();
        text.trim_end_matches(['\n', '\0']).to_owned()
    }

    fn link(&self, name: &str) -> String {
        let target = fs::read_link(format!("/proc/{}/{name}", self.process.pid));
        target.map_or_else(|_| "-".to_owned(), |path| path.display().to_string())
    }

    fn namespace(&self, name: &str) -> String {
        let link = self.link(&format!("ns/{name}"));
        let number = link.split_once('[').map(|(_, rest)| rest.trim_end_matches(']'));
        number.unwrap_or("-").to_owned()
    }

    /// Seconds of processor time.
    fn seconds(&self) -> u64 {
        self.process.time / HERTZ
    }

    /// Seconds since 1970 at which it began.
    fn started(&self) -> i64 {
        let after_boot = i64::try_from(self.process.start / HERTZ).unwrap_or_default();
        self.host.boot.saturating_add(after_boot)
    }

    /// Seconds that it is there.
    fn age(&self) -> u64 {
        u64::try_from(self.host.now.as_second() - self.started()).unwrap_or_default()
    }

    /// Processor time by time, in thousandths.
    fn cpu_permille(&self) -> u64 {
        (self.process.time * 1000 / HERTZ)
            .checked_div(self.age())
            .unwrap_or_default()
    }

    fn local(&self) -> (DateTime, DateTime) {
        let start = Timestamp::from_second(self.started()).unwrap_or(self.host.now);
        let local = |at: Timestamp| self.host.zone.to_datetime(at);
        (local(start), local(self.host.now))
    }

    fn start(&self, format: &str) -> String {
        self.local().0.strftime(format).to_string()
    }

    /// The time of today, else the day of this year, else the year.
    fn start_short(&self) -> String {
        let (start, now) = self.local();
        self.start(match () {
            () if start.date() == now.date() => "%H:%M",
            () if start.year() == now.year() => "%b%d",
            () => "%Y",
        })
    }

    fn start_text(&self) -> String {
        self.start(match self.age() {
            0..86_400 => "%H:%M:%S",
            _ => "%b %d",
        })
    }

    /// The terminal by the number that the kernel packs into 20 bits of minor and 12 of major.
    fn terminal(&self) -> String {
        let device = self.process.tty;
        let (major, minor) = (
            (device >> 8) & 0xfff,
            (device & 0xff) | ((device >> 12) & 0xf_ff00),
        );
        match (major, minor) {
            (4, 0..64) => format!("tty{minor}"),
            (4, _) => format!("ttyS{}", minor - 64),
            (5, 1) => "console".to_owned(),
            (major, minor) if PTS.contains(&major) => format!("pts/{}", (major - PTS.start()) * 256 + minor),
            _ => "?".to_owned(),
        }
    }

    fn status(&self) -> String {
        let process = self.process;
        let marks = [
            (process.nice < 0, '<'),
            (process.nice > 0, 'N'),
            (process.locked, 'L'),
            (process.session == process.pid, 's'),
            (process.threads > 1, 'l'),
            (process.tpgid > 0 && process.tpgid == process.pgrp, '+'),
        ];
        let marks = marks.iter().filter(|(set, _)| *set).map(|(_, mark)| *mark);
        std::iter::once(process.state).chain(marks).collect()
    }
}

/// A name as far as it fits, or the number.
fn short(name: Option<&String>, number: u32) -> String {
    match name {
        Some(name) if name.len() > NAME_MAX => {
            let front: String = name.chars().take(NAME_MAX - 1).collect();
            format!("{front}+")
        }
        Some(name) => name.clone(),
        None => number.to_string(),
    }
}

fn tenths(permille: u64) -> String {
    match permille {
        0..1000 => format!("{}.{}", permille / 10, permille % 10),
        _ => (permille / 10).to_string(),
    }
}

/// `[days-]hours:minutes:seconds`.
fn clock(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let time = format!("{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    match days {
        0 => time,
        days => format!("{days}-{time}"),
    }
}

/// `[[days-]hours:]minutes:seconds`.
fn elapsed(seconds: u64) -> String {
    match seconds {
        0..3600 => format!("{:02}:{:02}", seconds / 60, seconds % 60),
        _ => clock(seconds),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use jiff::tz::TimeZone;

    use super::*;

    fn host() -> Host {
        Host {
            now: Timestamp::from_second(1_700_000_000).unwrap(),
            zone: TimeZone::UTC,
            boot: 1_699_990_000,
            memory: 1000,
            users: HashMap::from([(0, "root".to_owned()), (7, "a-long-name".to_owned())]),
            groups: HashMap::new(),
        }
    }

    fn cell(name: &str, process: &Process) -> String {
        find(name).unwrap().cell(&Row {
            process,
            host: &host(),
        })
    }

    #[test]
    fn values() {
        let process = Process {
            pid: 10,
            session: 10,
            state: 'S',
            comm: "sh".to_owned(),
            tty: (136 << 8) | 3,
            tpgid: 10,
            pgrp: 10,
            time: 90_061 * HERTZ,
            start: 9_000 * HERTZ,
            resident: 55,
            euid: 7,
            priority: 20,
            ..Process::default()
        };
        for (name, text) in [
            ("tty", "pts/3"),
            ("stat", "Ss+"),
            ("time", "1-01:01:01"),
            ("bsdtime", "1501:01"),
            ("etime", "16:40"),
            ("stime", "21:56"),
            ("lstart", "Tue Nov 14 21:56:40 2023"),
            ("%mem", "5.5"),
            ("user", "a-long-+"),
            ("group", "0"),
            ("pri", "19"),
            ("args", "[sh]"),
        ] {
            assert_eq!(cell(name, &process), text, "{name}");
        }
        assert!(find("nothing").is_none());
    }
}
