//! What a container may not do, tried from inside.

use std::fs;

use crate::support::Case;

crate::tests!(
    masked_paths_show_nothing,
    readonly_paths_cannot_be_written,
    masks_listed_twice,
    unmasked_on_request,
    kernel_file_systems,
    devices,
    device_nodes_can_be_made_and_not_opened,
    devices_of_the_specification,
    system_calls,
    system_calls_with_capabilities,
    custom_profile,
    unconfined,
    profile_that_forbids_nearly_everything,
    no_new_privileges,
    capabilities,
    ambient_capabilities,
    sysctls,
    foreign_sysctls,
    cgroups_are_read_only,
    privileged,
    own_session_keyring,
);

fn masked_paths_show_nothing() {
    let case = Case::script(
        "for p in /proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug \
        /proc/scsi /proc/timer_list /proc/timer_stats /sys/devices/virtual/powercap /sys/firmware; do \
            [ -e $p ] || continue; \
            if [ -d $p ]; then echo $(ls $p | wc -l); touch $p/x 2>&1 | grep -c Read-only; \
            else wc -c <$p; echo 0; fi; umount $p 2>&1 | grep -c 'not permitted' ; done",
    );
    let output = case.run();
    let lines = output.lines();
    assert!(lines.len() >= 3, "{output:?}");
    for three in lines.chunks(3) {
        assert_eq!((three[0], three[2]), ("0", "1"), "{output:?}");
    }
    assert!(
        lines.chunks(3).any(|three| three[1] == "1"),
        "no directory was tried: {output:?}"
    );
}

fn readonly_paths_cannot_be_written() {
    let output = Case::script(
        "for p in hostname shmmax pid_max; do echo x > /proc/sys/kernel/$p; done; mount -o remount,rw /proc/sys; \
        cat /proc/self/mounts; for p in bus fs irq sys sysrq-trigger; do [ -e /proc/$p ] && echo \"exists $p\"; done; true",
    )
    .run()
    .ok();
    assert_eq!(output.stderr.matches("Read-only").count(), 3, "{output:?}");
    let existing: Vec<_> = output
        .stdout
        .lines()
        .filter_map(|l| l.strip_prefix("exists "))
        .collect();
    assert!(existing.contains(&"sys") && existing.len() >= 3, "{output:?}");
    for name in existing {
        assert!(
            output.stdout.contains(&format!("proc /proc/{name} proc ro,")),
            "{name}: {output:?}"
        );
    }
}

fn masks_listed_twice() {
    let mut case = Case::script("cat /proc/self/mounts");
    for list in ["maskedPaths", "readonlyPaths"] {
        let paths = case.spec["linux"][list].as_array_mut().unwrap();
        let again: Vec<_> = paths
            .iter()
            .map(|p| format!("{}/", p.as_str().unwrap()).into())
            .collect();
        paths.extend(again);
    }
    let output = case.run().ok();
    let mut places: Vec<_> = output
        .stdout
        .lines()
        .filter_map(|l| l.split(' ').nth(1))
        .collect();
    places.sort_unstable();
    let all = places.len();
    places.dedup();
    assert_eq!(places.len(), all, "{output:?}");
}

fn unmasked_on_request() {
    let mut case = Case::script(
        "[ $(head -c1 /proc/timer_list | wc -c) = 1 ] && echo full; echo 77 > /proc/sys/kernel/shmmax && echo written",
    );
    case.spec["linux"]["maskedPaths"] = serde_json::json!([]);
    case.spec["linux"]["readonlyPaths"] = serde_json::json!([]);
    assert_eq!(case.run().ok().lines(), ["full", "written"]);
}

fn kernel_file_systems() {
    let output = Case::script("cat /proc/self/mounts").run().ok();
    let options = |place: &str| -> Vec<String> {
        let line = output
            .lines()
            .into_iter()
            .find(|l| l.split(' ').nth(1) == Some(place));
        let line = line.unwrap_or_else(|| panic!("{place} is not mounted: {output:?}"));
        line.split(' ')
            .nth(3)
            .unwrap()
            .split(',')
            .map(String::from)
            .collect()
    };
    let has = |place: &str, wanted: &[&str], unwanted: &[&str]| {
        let options = options(place);
        assert!(
            wanted.iter().all(|w| options.iter().any(|o| o == w)),
            "{place}: {options:?}"
        );
        assert!(
            unwanted.iter().all(|w| options.iter().all(|o| o != w)),
            "{place}: {options:?}"
        );
    };
    has("/proc", &["rw", "nosuid", "noexec", "nodev"], &[]);
    has(
        "/dev",
        &["rw", "nosuid", "mode=755", "size=65536k"],
        &["noexec", "nodev", "relatime"],
    );
    has(
        "/dev/pts",
        &["nosuid", "noexec", "gid=5", "mode=620", "ptmxmode=666"],
        &[],
    );
    has("/sys", &["ro", "nosuid", "noexec", "nodev"], &[]);
    has("/sys/fs/cgroup", &["ro", "nosuid", "noexec", "nodev"], &[]);
    has("/dev/shm", &["nosuid", "noexec", "nodev", "size=65536k"], &[]);
    has("/dev/mqueue", &["nosuid", "noexec", "nodev"], &[]);
    let info = Case::script("cat /proc/self/mountinfo").run().ok();
    for line in info.lines() {
        assert!(!line.contains("shared:") && !line.contains("master:"), "{line}");
    }
    let exec = Case::script(
        "cp /bin/busybox /dev/true; /dev/true && echo dev; cp /bin/busybox /dev/shm/true; /dev/shm/true",
    );
    fs::copy("/bin/busybox", exec.layer("bin/cp")).unwrap();
    let output = exec.run();
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (126, "dev\n"),
        "{output:?}"
    );
}

fn devices() {
    let output = Case::script(
        "for d in null zero full random urandom tty; do stat -c '%n %t:%T %a %u' /dev/$d; done; \
        for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done; head -c4 /dev/zero | wc -c; echo x >/dev/null",
    )
    .run()
    .ok();
    let expected = [
        "/dev/null 1:3 666 0",
        "/dev/zero 1:5 666 0",
        "/dev/full 1:7 666 0",
        "/dev/random 1:8 666 0",
        "/dev/urandom 1:9 666 0",
        "/dev/tty 5:0 666 0",
        "/proc/self/fd",
        "/proc/self/fd/0",
        "/proc/self/fd/1",
        "/proc/self/fd/2",
        "pts/ptmx",
        "4",
    ];
    assert_eq!(output.lines(), expected);
}

fn device_nodes_can_be_made_and_not_opened() {
    let output = Case::script(
        "mknod /dev/disk b 8 0 && echo made; head -c1 /dev/disk; mknod /tmp/tun c 10 200 && echo made",
    )
    .run();
    assert_eq!(output.lines(), ["made", "made"], "{output:?}");
    assert!(output.stderr.contains("not permitted"), "{output:?}");
}

fn devices_of_the_specification() {
    let mut case =
        Case::script("stat -c '%t:%T %a %u:%g' /dev/sub/kmsg; true < /dev/sub/kmsg && echo opened");
    case.spec["linux"]["devices"] = serde_json::json!([
        {"path": "/dev/sub/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o640, "uid": 3, "gid": 4},
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666, "uid": 0, "gid": 0},
    ]);
    case.capabilities(&[&DEFAULT[..], &["SYSLOG"]].concat());
    let output = case.run();
    assert_eq!(output.lines(), ["1:b 640 3:4"], "{output:?}");
    let rules = case.spec["linux"]["resources"]["devices"].as_array_mut().unwrap();
    rules.push(serde_json::json!({"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rwm"}));
    assert_eq!(case.run().ok().lines(), ["1:b 640 3:4", "opened"]);
}

fn system_calls() {
    let output = Case::script(
        "cat /proc/self/status; unshare -U true; unshare -m true; mount -t tmpfs x /tmp; ping -c1 -w2 127.0.0.1 >/dev/null || echo no ping",
    )
    .run()
    .ok();
    assert_eq!(output.value("Seccomp"), "2");
    assert_eq!(output.value("NoNewPrivs"), "0");
    assert_eq!(
        output.stderr.matches("not permitted").count() + output.stderr.matches("denied").count(),
        3,
        "{output:?}"
    );
}

const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

fn system_calls_with_capabilities() {
    let mut case = Case::script("unshare -U true && mount -t tmpfs x /tmp && echo mounted");
    case.capabilities(&[&DEFAULT[..], &["SYS_ADMIN"]].concat());
    assert_eq!(case.run().ok().stdout, "mounted\n");
}

fn custom_profile() {
    let mut case = Case::script("mkdir /made; chmod 700 /tmp && echo changed; cat /proc/self/status");
    case.spec["linux"]["seccomp"] = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    });
    let output = case.run().ok();
    assert!(output.stderr.contains("No space left"), "{output:?}");
    assert!(output.stdout.starts_with("changed"), "{output:?}");
    assert_eq!(output.value("Seccomp"), "2");
}

fn unconfined() {
    let mut case = Case::script("cat /proc/self/status");
    case.annotate("berth.seccomp", "unconfined");
    assert_eq!(case.run().ok().value("Seccomp"), "0");
}

fn profile_that_forbids_nearly_everything() {
    let mut case = Case::new(&["true"]);
    let profile = |default: &str, allowed: &[&str]| {
        serde_json::json!({
            "defaultAction": default,
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": allowed, "action": "SCMP_ACT_ALLOW"}],
        })
    };
    // The program cannot be executed, and the reason is still told, though no call can tell it.
    case.spec["linux"]["seccomp"] = profile("SCMP_ACT_ERRNO", &["capset", "exit_group"]);
    case.run().refused(126, "operation not permitted");
    // Not even ending is possible: the kernel ends it.
    case.spec["linux"]["seccomp"] = profile("SCMP_ACT_KILL_PROCESS", &["capset"]);
    let output = case.run();
    assert!(output.code == 125 || output.code == 128 + 31, "{output:?}");
}

fn no_new_privileges() {
    let mut case = Case::script("cat /proc/self/status");
    case.spec["process"]["noNewPrivileges"] = true.into();
    let output = case.run().ok();
    assert_eq!(output.value("NoNewPrivs"), "1");
    assert_eq!(output.value("Seccomp"), "2");
    assert_eq!(output.value("CapEff"), "00000000a80425fb");
}

fn capabilities() {
    let mut case = Case::script("cat /proc/self/status");
    case.capabilities(&["NET_ADMIN", "CHOWN"]);
    let output = case.run().ok();
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(output.value(set), "0000000000001001", "{set}");
    }
    case.spec["process"]
        .as_object_mut()
        .unwrap()
        .remove("capabilities");
    let output = case.run().ok();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(output.value(set), "0000000000000000", "{set}");
    }
}

fn ambient_capabilities() {
    let mut case = Case::script("cat /proc/self/status");
    case.user("bob").capabilities(&["NET_ADMIN", "CHOWN"]);
    for set in ["inheritable", "ambient"] {
        case.spec["process"]["capabilities"][set] = serde_json::json!(["CAP_NET_ADMIN"]);
    }
    let output = case.run().ok();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(output.value(set), "0000000000001000", "{set}");
    }
}

fn sysctls() {
    let mut case = Case::script(
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range /proc/sys/kernel/shmmax",
    );
    case.spec["linux"]["sysctl"]["kernel.shmmax"] = "12345678".into();
    assert_eq!(case.run().ok().lines(), ["0", "0\t2147483647", "12345678"]);
    assert_ne!(
        fs::read_to_string("/proc/sys/kernel/shmmax").unwrap().trim(),
        "12345678"
    );
}

fn foreign_sysctls() {
    for name in [
        "kernel.core_pattern",
        "vm.swappiness",
        "kernel.hostname",
        "net/../kernel/core_pattern",
    ] {
        let before = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        let mut case = Case::new(&["true"]);
        case.spec["linux"]["sysctl"][name] = "60".into();
        case.run().refused(128, "sysctl");
        assert_eq!(
            fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(),
            before
        );
    }
    let mut case = Case::new(&["true"]);
    case.namespace("network", None);
    case.run().refused(128, "network namespace");
    let mut case = Case::new(&["true"]);
    case.spec["linux"]["sysctl"]["net.no.such"] = "1".into();
    case.run().refused(128, "net.no.such");
}

fn cgroups_are_read_only() {
    let script = "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do mkdir $d/x && echo made $d; done; \
        echo 1 > /sys/fs/cgroup/pids/pids.max; true";
    for cgroup_namespace in [false, true] {
        let mut case = Case::script(script);
        if cgroup_namespace {
            case.spec["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .push(serde_json::json!({"type": "cgroup"}));
        }
        let output = case.run().ok();
        assert_eq!(output.stdout, "", "{output:?}");
        assert!(output.stderr.matches("Read-only").count() >= 2, "{output:?}");
    }
}

fn privileged() {
    let mut case = Case::script(
        "cat /proc/self/status; mount -t tmpfs x /tmp && mkdir /sys/fs/cgroup/pids/x && rmdir /sys/fs/cgroup/pids/x && echo fine; echo 1 > /proc/sys/net/ipv4/ip_forward",
    );
    fs::copy("/bin/busybox", case.layer("bin/rmdir")).unwrap();
    let all: Vec<String> = berth_runtime::sandbox::defaults::all_capabilities()
        .iter()
        .map(|c| format!("CAP_{c}"))
        .collect();
    for set in ["bounding", "effective", "permitted"] {
        case.spec["process"]["capabilities"][set] = serde_json::json!(all);
    }
    case.annotate("berth.seccomp", "unconfined");
    case.spec["linux"]["maskedPaths"] = serde_json::Value::Null;
    case.spec["linux"]["readonlyPaths"] = serde_json::Value::Null;
    for mount in case.spec["mounts"].as_array_mut().unwrap() {
        mount["options"].as_array_mut().unwrap().retain(|o| o != "ro");
    }
    case.spec["linux"]["devices"] =
        serde_json::to_value(berth_runtime::sandbox::defaults::host_devices().unwrap()).unwrap();
    case.spec["linux"]["resources"]["devices"] =
        serde_json::json!([berth_runtime::sandbox::defaults::all_devices_rule()]);
    let output = case.run().ok();
    assert!(output.stdout.ends_with("fine\n"), "{output:?}");
    // All that the engine itself has.
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let permitted = own
        .lines()
        .find_map(|l| l.strip_prefix("CapPrm:"))
        .unwrap()
        .trim();
    assert_eq!(output.value("CapEff"), permitted);
}

fn own_session_keyring() {
    let mut case = Case::script("cat /proc/keys /proc/self/cgroup");
    case.spec["linux"]["maskedPaths"] = serde_json::json!([]);
    let output = case.run().ok();
    let run = output
        .stdout
        .split('/')
        .find(|p| p.starts_with("run-"))
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();
    assert!(output.stdout.contains(&format!("_ses.{run}:")), "{output:?}");
}
