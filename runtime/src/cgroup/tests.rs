//! Against the hierarchies of the machine, each test in a directory of its own. They need root.

use std::{
    io::Write,
    process::{Child, Command, Stdio},
};

use oci_spec::runtime::LinuxResources;
use serde_json::json;

use super::*;

/// A parent cgroup of this test alone, removed with all that is in it at the end.
struct Parent(String);

impl Parent {
    fn new(test: &str) -> Self {
        Self(format!("berth-test-{test}-{}", std::process::id()))
    }

    fn create(&self, name: &str, limits: serde_json::Value) -> Result<Cgroup> {
        let resources: LinuxResources = serde_json::from_value(limits).unwrap();
        Cgroup::create(&self.0, name, &resources)
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        if let Ok(Some(cgroup)) = Cgroup::open("", &self.0) {
            cgroup.kill_all().unwrap();
            cgroup.remove().unwrap();
        }
    }
}

/// A process that ends at the end of its standard input.
fn process_in(cgroup: &Cgroup, script: &str) -> Child {
    let mut child = Command::new("/bin/sh")
        .args(["-c", &format!("read go; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    for dir in &cgroup.dirs {
        dir.write("cgroup.procs", &child.id().to_string()).unwrap();
    }
    child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    child
}

fn read(cgroup: &Cgroup, controller: &str, v1: &str, v2: &str) -> String {
    let dir = cgroup.dir(controller).unwrap();
    let file = if dir.version == Version::V1 { v1 } else { v2 };
    dir.read(file).unwrap().trim().to_owned()
}

#[test]
fn limits_reach_the_kernel_and_change() {
    let parent = Parent::new("limits");
    let limits = json!({
        "memory": {"limit": 64 << 20, "reservation": 32 << 20},
        "cpu": {"quota": 50_000, "period": 100_000, "cpus": "0"},
        "pids": {"limit": 17},
        "devices": [{"allow": false, "type": "a", "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}],
    });
    let cgroup = parent.create("a", limits).unwrap();
    assert_eq!(
        read(&cgroup, "memory", "memory.limit_in_bytes", "memory.max"),
        (64 << 20).to_string()
    );
    assert_eq!(read(&cgroup, "pids", "pids.max", "pids.max"), "17");
    assert_eq!(read(&cgroup, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    assert!(read(&cgroup, "cpu", "cpu.cfs_quota_us", "cpu.max").starts_with("50000"));
    if let Ok(devices) = cgroup.dir("devices") {
        assert_eq!(devices.read("devices.list").unwrap(), "c 1:3 rw\n");
    }

    let change = json!({"memory": {"limit": 128 << 20}, "pids": {"limit": -1}, "cpu": {"quota": -1}});
    cgroup.update(&serde_json::from_value(change).unwrap()).unwrap();
    assert_eq!(
        read(&cgroup, "memory", "memory.limit_in_bytes", "memory.max"),
        (128 << 20).to_string()
    );
    assert_eq!(cgroup.stats().unwrap().memory.limit, 128 << 20);
    assert_eq!(cgroup.stats().unwrap().pids.limit, u64::MAX);
    assert_eq!(read(&cgroup, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");

    let again = Cgroup::open(&parent.0, "a").unwrap().unwrap();
    assert_eq!(again, cgroup);
    cgroup.remove().unwrap();
    cgroup.remove().unwrap();
    assert_eq!(Cgroup::open(&parent.0, "a").unwrap(), None);
    assert_eq!(cgroup.stats().unwrap_err().kind(), Kind::NotFound);
    assert_eq!(cgroup.pids().unwrap(), Vec::<i32>::new());
}

#[test]
fn a_refused_limit_leaves_nothing() {
    let parent = Parent::new("refused");
    let error = parent.create("a", json!({"cpu": {"cpus": "4000"}})).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert!(error.to_string().contains("cpuset.cpus"), "{error}");
    assert_eq!(Cgroup::open(&parent.0, "a").unwrap(), None);
}

#[test]
fn names_stay_inside_the_hierarchy() {
    for (parent, name) in [
        ("a/../../b", "x"),
        ("a", ".."),
        ("a", "b/c"),
        ("a", ""),
        ("a\0", "b"),
    ] {
        let error = Cgroup::create(parent, name, &LinuxResources::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{parent} {name}");
    }
}

#[test]
fn freeze_count_and_kill() {
    let parent = Parent::new("kill");
    let cgroup = parent.create("a", json!({})).unwrap();
    let mut child = process_in(&cgroup, "sleep 1000 & sleep 1001 & echo ready; wait");
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    assert_eq!(cgroup.pids().unwrap().len(), 3);
    assert_eq!(cgroup.stats().unwrap().pids.current, 3);
    assert!(cgroup.stats().unwrap().cpu.total > 0);
    assert!(cgroup.stats().unwrap().memory.usage > 0);
    assert_eq!(cgroup.oom_kills().unwrap(), 0);

    cgroup.freeze().unwrap();
    assert!(cgroup.is_frozen().unwrap());
    cgroup.thaw().unwrap();
    assert!(!cgroup.is_frozen().unwrap());

    cgroup.freeze().unwrap();
    cgroup.kill_all().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()),
        Some(9)
    );
    cgroup.remove().unwrap();
}

#[test]
fn killing_one_by_one_reaches_all() {
    let parent = Parent::new("each");
    let cgroup = parent.create("a", json!({})).unwrap();
    let mut child = process_in(&cgroup, "while :; do sleep 1000 & sleep 0.001; done");
    cgroup.kill_each().unwrap();
    child.wait().unwrap();
    cgroup.remove().unwrap();
}

#[test]
fn removal_takes_the_children_along() {
    let parent = Parent::new("tree");
    let cgroup = parent.create("a", json!({})).unwrap();
    for dir in &cgroup.dirs {
        std::fs::create_dir_all(dir.path.join("b/c")).unwrap();
        std::fs::create_dir_all(dir.path.join("d")).unwrap();
    }
    cgroup.remove().unwrap();
    assert!(!cgroup.exists());
}

#[test]
fn the_oom_killer_is_counted() {
    let parent = Parent::new("oom");
    let cgroup = parent.create("a", json!({"memory": {"limit": 8 << 20}})).unwrap();
    if support().unwrap().swap {
        let swap = json!({"memory": {"limit": 8 << 20, "swap": 8 << 20}});
        cgroup.update(&serde_json::from_value(swap).unwrap()).unwrap();
    }
    let mut child = process_in(&cgroup, "exec tail /dev/zero");
    assert!(!child.wait().unwrap().success());
    assert!(cgroup.oom_kills().unwrap() >= 1);
}

#[test]
fn device_program_of_version_2() {
    let parent = Parent::new("bpf");
    let cgroup = parent.create("a", json!({})).unwrap();
    let Some(dir) = cgroup.v2().cloned() else { return };
    let only_v2 = Cgroup { dirs: vec![dir] };
    let rules = json!([
        {"allow": false, "type": "a", "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "r"},
    ]);
    let rules: Vec<oci_spec::runtime::LinuxDeviceCgroup> = serde_json::from_value(rules).unwrap();
    devices::apply(&only_v2, &rules).unwrap();
    let script = "cat /dev/null 2>/dev/null && echo null; head -c1 /dev/zero >/dev/full && echo full; head -c1 /dev/zero | wc -c";
    let output = process_in(&only_v2, script).wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1");
    // A second list replaces the first.
    let open: Vec<_> =
        serde_json::from_value(json!([{"allow": true, "type": "a", "access": "rwm"}])).unwrap();
    devices::apply(&only_v2, &open).unwrap();
    let output = process_in(&only_v2, script).wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("null"));
}

#[test]
fn support_matches_what_is_mounted() {
    let support = support().unwrap();
    assert!(
        support.memory && support.pids && support.cpu_shares && support.devices && support.freeze,
        "{support:?}"
    );
}

/// A directory that looks like one of version 2, as this machine may have none with controllers.
struct Fake {
    directory: tempfile::TempDir,
    cgroup: Cgroup,
}

impl Fake {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(directory.path().join(name), content).unwrap();
        }
        let controllers = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"]
            .map(String::from)
            .to_vec();
        let dir = Dir {
            version: Version::V2,
            controllers,
            path: directory.path().to_owned(),
        };
        Self {
            cgroup: Cgroup { dirs: vec![dir] },
            directory,
        }
    }

    fn update(&self, limits: serde_json::Value) -> Result<()> {
        self.cgroup.update(&serde_json::from_value(limits).unwrap())
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).unwrap()
    }
}

#[test]
fn limits_in_the_words_of_version_2() {
    let names = [
        "memory.max",
        "memory.swap.max",
        "memory.low",
        "cpu.weight",
        "cpuset.cpus",
        "pids.max",
        "io.weight",
        "io.max",
        "hugetlb.2MB.max",
        "cpu.idle",
    ];
    let mut files: Vec<_> = names.map(|n| (n, "")).to_vec();
    files.push(("cpu.max", "max 100000\n"));
    let fake = Fake::new(&files);
    fake.update(json!({
        "memory": {"limit": 1000, "swap": 3000, "reservation": 500},
        "cpu": {"shares": 1024, "quota": 50_000_000, "cpus": "0-1"},
        "pids": {"limit": 0},
        "blockIO": {"weight": 10, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 4096}]},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 77}],
        "unified": {"cpu.idle": "1"},
    }))
    .unwrap();
    let expected = [
        ("memory.max", "1000"),
        ("memory.swap.max", "2000"),
        ("memory.low", "500"),
        ("cpu.weight", "100"),
        ("cpu.max", "50000000 100000"),
        ("cpuset.cpus", "0-1"),
        ("pids.max", "max"),
        ("io.weight", "1"),
        ("io.max", "8:0 rbps=4096"),
        ("hugetlb.2MB.max", "77"),
        ("cpu.idle", "1"),
    ];
    for (name, content) in expected {
        assert_eq!(fake.read(name), content, "{name}");
    }
    let outside = fake
        .update(json!({"unified": {"../cgroup.procs": "1"}}))
        .unwrap_err();
    assert_eq!(outside.kind(), Kind::Invalid);
    let missing = fake
        .update(json!({"memory": {"swappiness": 10}, "unified": {"no.such": "1"}}))
        .unwrap_err();
    assert_eq!(missing.kind(), Kind::Invalid);
}

#[test]
fn numbers_of_version_2() {
    let fake = Fake::new(&[
        (
            "cpu.stat",
            "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 5\nnr_throttled 4\nthrottled_usec 3\n",
        ),
        ("memory.current", "4096\n"),
        ("memory.max", "max\n"),
        ("memory.events", "low 0\nhigh 0\nmax 6\noom 2\noom_kill 1\n"),
        ("memory.stat", "anon 1\nfile 2\n"),
        ("pids.current", "3\n"),
        ("pids.max", "max\n"),
        ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n"),
    ]);
    let stats = fake.cgroup.stats().unwrap();
    assert_eq!(
        (stats.cpu.total, stats.cpu.user, stats.cpu.system),
        (30_000, 20_000, 10_000)
    );
    assert_eq!(
        (
            stats.cpu.periods,
            stats.cpu.throttled_periods,
            stats.cpu.throttled_time
        ),
        (5, 4, 3000)
    );
    assert_eq!(
        (stats.memory.usage, stats.memory.limit, stats.memory.failcnt),
        (4096, u64::MAX, 6)
    );
    assert_eq!(stats.memory.stat["file"], 2);
    assert_eq!((stats.pids.current, stats.pids.limit), (3, u64::MAX));
    assert_eq!(stats.blkio_bytes.len(), 3);
    assert_eq!(fake.cgroup.oom_kills().unwrap(), 1);
}
