//! What the host is and can do, for `info` and `version`. Read once, but for what may change.

use std::{collections::BTreeMap, fs, path::Path};

use nix::{
    sched::{CpuSet, sched_getaffinity},
    sys::utsname::uname,
    unistd::Pid,
};

/// Facts about the host that hold until the next boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Release of the kernel.
    pub kernel: String,
    /// Processor architecture as the kernel names it.
    pub machine: String,
    /// Name of the operating system for people.
    pub os: String,
    /// Version of the operating system; empty if it has none.
    pub os_version: String,
    /// CPUs that may be used.
    pub cpus: i64,
    /// Memory in bytes.
    pub memory: i64,
    /// Which cgroups there are.
    pub cgroups: CgroupFacts,
    /// Whether AppArmor is on.
    pub apparmor: bool,
    /// Whether the kernel can filter system calls.
    pub seccomp: bool,
}

/// What the cgroup controllers of the host can limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupFacts {
    /// Whether there is version 2 alone; hybrid hosts count as version 1.
    pub unified: bool,
    /// Memory.
    pub memory: bool,
    /// Memory and swap.
    pub swap: bool,
    /// CPU weight.
    pub cpu_shares: bool,
    /// CPU time within a period.
    pub cpu_quota: bool,
    /// Which CPUs.
    pub cpuset: bool,
    /// Number of processes.
    pub pids: bool,
    /// Keeping the out-of-memory killer away.
    pub oom_kill_disable: bool,
}

impl HostFacts {
    /// Reads them; what cannot be read stays empty, as no request may fail for it.
    pub fn read() -> Self {
        let name = uname().ok();
        let text = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
        let (os, os_version) = operating_system(
            &["/etc/os-release", "/usr/lib/os-release"]
                .map(|path| fs::read_to_string(path).unwrap_or_default()),
        );
        Self {
            kernel: name.as_ref().map(|n| text(n.release())).unwrap_or_default(),
            machine: name.as_ref().map(|n| text(n.machine())).unwrap_or_default(),
            os,
            os_version,
            cpus: cpus(),
            memory: memory(),
            cgroups: CgroupFacts::read(Path::new("/sys/fs/cgroup")),
            apparmor: fs::read_to_string("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|text| text.trim() == "Y"),
            seccomp: Path::new("/proc/sys/kernel/seccomp").exists(),
        }
    }

    /// The host's name now.
    pub fn name(&self) -> String {
        nix::unistd::gethostname()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    /// Whether IPv4 packets are forwarded now.
    pub fn ipv4_forwarding(&self) -> bool {
        is_one("/proc/sys/net/ipv4/ip_forward")
    }

    /// Whether bridged packets pass the packet filter now: IPv4 and IPv6.
    pub fn bridge_filtering(&self) -> (bool, bool) {
        (
            is_one("/proc/sys/net/bridge/bridge-nf-call-iptables"),
            is_one("/proc/sys/net/bridge/bridge-nf-call-ip6tables"),
        )
    }

    /// The architecture as images and `/version` name it.
    pub fn arch(&self) -> &str {
        match self.machine.as_str() {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "i386" | "i686" => "386",
            "armv7l" | "armv6l" => "arm",
            other => other,
        }
    }
}

impl CgroupFacts {
    fn read(root: &Path) -> Self {
        if let Ok(controllers) = fs::read_to_string(root.join("cgroup.controllers")) {
            let has = |name: &str| controllers.split_whitespace().any(|c| c == name);
            return Self {
                unified: true,
                memory: has("memory"),
                // The files of the root cgroup do not tell; the kernel does.
                swap: has("memory") && Path::new("/proc/swaps").exists(),
                cpu_shares: has("cpu"),
                cpu_quota: has("cpu"),
                cpuset: has("cpuset"),
                pids: has("pids"),
                oom_kill_disable: false,
            };
        }
        let has = |file: &str| root.join(file).exists();
        Self {
            unified: false,
            memory: has("memory/memory.limit_in_bytes"),
            swap: has("memory/memory.memsw.limit_in_bytes"),
            cpu_shares: has("cpu/cpu.shares"),
            cpu_quota: has("cpu/cpu.cfs_quota_us"),
            cpuset: has("cpuset/cpuset.cpus"),
            pids: has("pids/cgroup.procs"),
            oom_kill_disable: has("memory/memory.oom_control"),
        }
    }

    /// A warning for each limit that cannot be set here, as `info` lists them.
    pub fn warnings(&self) -> Vec<String> {
        [
            (self.memory, "memory limit"),
            (self.swap, "swap limit"),
            (self.cpu_quota, "cpu cfs quota"),
            (self.cpu_shares, "cpu shares"),
            (self.cpuset, "cpuset"),
            (self.pids, "pids limit"),
        ]
        .into_iter()
        .filter(|(can, _)| !can)
        .map(|(_, what)| format!("WARNING: No {what} support"))
        .collect()
    }
}

/// Open file descriptors of this process.
pub fn open_files() -> i64 {
    fs::read_dir("/proc/self/fd").map_or(0, |dir| i64::try_from(dir.count()).unwrap_or_default())
}

/// A proxy setting from the environment, in either case, with a password hidden.
pub fn proxy(name: &str) -> String {
    let value =
        std::env::var(name.to_ascii_uppercase()).or_else(|_| std::env::var(name.to_ascii_lowercase()));
    hide_password(&value.unwrap_or_default())
}

fn hide_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://xxxxx:xxxxx@{host}{path}"),
        None => url.to_owned(),
    }
}

fn is_one(path: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

fn cpus() -> i64 {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else {
        return 1;
    };
    let count = (0..CpuSet::count())
        .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
        .count();
    i64::try_from(count.max(1)).unwrap_or(1)
}

/// Name and version from the first file that has a name (os-release(5)).
fn operating_system(files: &[String]) -> (String, String) {
    for file in files {
        let fields: BTreeMap<_, _> = file
            .lines()
            .filter_map(|line| line.trim().split_once('='))
            .map(|(key, value)| (key, value.trim_matches(['"', '\''])))
            .collect();
        let version = fields.get("VERSION_ID").copied().unwrap_or_default();
        if let Some(name) = fields.get("PRETTY_NAME").or_else(|| fields.get("NAME")) {
            return ((*name).to_owned(), version.to_owned());
        }
    }
    ("Linux".to_owned(), String::new())
}

/// Memory of the host in bytes, read once.
pub fn memory() -> i64 {
    static MEMORY: std::sync::OnceLock<i64> = std::sync::OnceLock::new();
    *MEMORY.get_or_init(|| memory_total(&fs::read_to_string("/proc/meminfo").unwrap_or_default()))
}

/// `MemTotal` in bytes.
fn memory_total(meminfo: &str) -> i64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<i64>().ok());
    kib.unwrap_or_default() << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_os_release() {
        let debian =
            "NAME=\"Debian GNU/Linux\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\n";
        let expected = ("Debian GNU/Linux 12 (bookworm)".to_owned(), "12".to_owned());
        assert_eq!(operating_system(&[debian.to_owned()]), expected);
        assert_eq!(
            operating_system(&["X=1".into(), "NAME=Arch".into()]),
            ("Arch".into(), String::new())
        );
        assert_eq!(operating_system(&[]), ("Linux".into(), String::new()));
    }

    #[test]
    fn reads_meminfo() {
        assert_eq!(
            memory_total("MemTotal:       1000 kB\nMemFree: 5 kB\n"),
            1_024_000
        );
        assert_eq!(memory_total(""), 0);
    }

    #[test]
    fn tells_cgroup_versions_apart() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("pids")).unwrap();
        fs::write(dir.path().join("pids/cgroup.procs"), "").unwrap();
        let v1 = CgroupFacts::read(dir.path());
        assert!(!v1.unified && v1.pids && !v1.memory);
        assert!(
            v1.warnings()
                .contains(&"WARNING: No memory limit support".to_owned())
        );
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        let v2 = CgroupFacts::read(dir.path());
        assert!(v2.unified && v2.memory && v2.cpu_quota && !v2.pids);
    }

    #[test]
    fn hides_passwords_of_proxies() {
        assert_eq!(
            hide_password("http://u:p@proxy:3128/x"),
            "http://xxxxx:xxxxx@proxy:3128/x"
        );
        assert_eq!(hide_password("http://proxy:3128"), "http://proxy:3128");
        assert_eq!(hide_password("proxy"), "proxy");
    }

    #[test]
    fn this_host_is_read() {
        let host = HostFacts::read();
        assert!(!host.kernel.is_empty() && host.cpus > 0 && host.memory > 0 && !host.name().is_empty());
    }
}
