//! What every sandbox is: namespaces, streams, exit codes, start errors, init, terminals.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

use crate::support::Case;

crate::tests!(
    program_runs,
    exit_codes,
    namespaces_are_new,
    host_namespaces_stay,
    namespaces_are_joined,
    names,
    loopback_is_up,
    only_standard_streams_are_open,
    standard_input,
    signals_are_reset,
    environment,
    start_errors,
    missing_parts_are_refused,
    working_directory,
    limits,
    score_of_the_oom_killer,
    init_reaps_and_forwards,
    init_forwards_realtime_signals,
    init_tells_the_exit_code,
    terminal,
    terminal_of_init,
    cgroup,
    the_root_can_be_a_directory,
    user_namespace,
);

fn program_runs() {
    let output = Case::new(&["echo", "hello"]).run().ok();
    assert_eq!(output.stdout, "hello\n");
    assert_eq!(output.stderr, "");
}

fn exit_codes() {
    assert_eq!(Case::script("exit 7").run().code, 7);
    assert_eq!(Case::new(&["false"]).run().code, 1);
    let mut case = Case::script("kill -KILL $$; sleep 5");
    // The first process of a pid namespace cannot kill itself.
    case.annotate("berth.init", "true");
    assert_eq!(case.run().code, 128 + 9);
}

const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

fn inside(case: &Case) -> Vec<String> {
    let output = case.run().ok();
    output.lines().iter().map(|l| (*l).to_owned()).collect()
}

fn links() -> Case {
    let list = NAMESPACES.map(|n| format!("readlink /proc/self/ns/{n};"));
    Case::script(&list.concat())
}

fn host() -> Vec<String> {
    let read = |n: &str| {
        fs::read_link(format!("/proc/self/ns/{n}"))
            .unwrap()
            .display()
            .to_string()
    };
    NAMESPACES.map(read).to_vec()
}

fn namespaces_are_new() {
    let (inside, host) = (inside(&links()), host());
    for (name, (inside, host)) in NAMESPACES.iter().zip(inside.iter().zip(&host)) {
        // Docker's defaults: no user namespace; a cgroup namespace on v2 only, which the engine decides.
        assert_eq!(
            inside == host,
            matches!(*name, "user" | "cgroup"),
            "{name}: {inside} {host}"
        );
    }
    assert_eq!(
        Case::script("echo $$; ls -d /proc/[0-9]* | wc -l")
            .run()
            .ok()
            .lines()[0],
        "1"
    );
}

fn host_namespaces_stay() {
    let mut case = links();
    for kind in ["ipc", "network", "pid", "uts", "time"] {
        case.namespace(kind, None);
    }
    case.spec["linux"]["sysctl"] = serde_json::json!({});
    case.spec.as_object_mut().unwrap().remove("hostname");
    let inside = inside(&case);
    for (name, (inside, host)) in NAMESPACES.iter().zip(inside.iter().zip(&host())) {
        assert_eq!(inside != host, *name == "mnt", "{name}");
    }
}

fn namespaces_are_joined() {
    let neighbour = Case::script("echo ready; read line");
    let mut other = neighbour.command(&[]);
    let mut other = other
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(other.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    let first = children(other.id()).remove(0);
    let mut case = links();
    case.spec["process"]["args"][2] = format!(
        "{} echo $$; hostname other; ls -d /proc/[0-9]*",
        case.spec["process"]["args"][2].as_str().unwrap()
    )
    .into();
    let joined = ["ipc", "net", "pid", "uts"];
    for (kind, file) in [("ipc", "ipc"), ("network", "net"), ("pid", "pid"), ("uts", "uts")] {
        case.namespace(kind, Some(format!("/proc/{first}/ns/{file}").as_ref()));
    }
    case.spec.as_object_mut().unwrap().remove("hostname");
    let output = case.run().ok();
    for (i, name) in NAMESPACES.iter().enumerate().filter(|(_, n)| joined.contains(n)) {
        let theirs = fs::read_link(format!("/proc/{first}/ns/{name}")).unwrap();
        assert_eq!(output.lines()[i], theirs.to_str().unwrap());
    }
    assert_ne!(output.lines()[NAMESPACES.len()], "1");
    assert!(output.lines().contains(&"/proc/1"), "{output:?}");
    other.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(other.wait().unwrap().success());
}

/// Process ids of the children of `pid`.
fn children(pid: u32) -> Vec<i32> {
    let parent = |process: i32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
    };
    let processes = fs::read_dir("/proc").unwrap();
    let numbers = processes.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    numbers.filter(|p| parent(*p) == Some(pid)).collect()
}

fn names() {
    let mut case = Case::script("hostname; cat /proc/sys/kernel/domainname");
    case.spec["domainname"] = "example.org".into();
    assert_eq!(case.run().ok().stdout, "box\nexample.org\n");
    case.namespace("uts", None);
    case.run().refused(128, "hostname");
}

fn loopback_is_up() {
    let output = Case::script("ip -o addr show lo; ping -c1 -w2 127.0.0.1 >/dev/null && echo pong")
        .run()
        .ok();
    assert!(output.stdout.contains("127.0.0.1/8"), "{output:?}");
    assert!(output.stdout.ends_with("pong\n"), "{output:?}");
}

fn only_standard_streams_are_open() {
    let output = Case::script("exec 9</proc/self/fd; ls /proc/$$/fd; true")
        .run()
        .ok();
    assert_eq!(output.lines(), ["0", "1", "2", "9"]);
    let mut case = Case::script("ls /proc/1/fd");
    case.annotate("berth.init", "true");
    assert_eq!(case.run().ok().lines(), ["0", "1", "2"]);
}

fn standard_input() {
    let case = Case::script("cat; echo done >&2");
    let mut child = case
        .command(&[])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice()),
        (&b"through"[..], &b"done\n"[..])
    );
}

fn signals_are_reset() {
    let output = Case::new(&["cat", "/proc/self/status"]).run().ok();
    for set in ["SigBlk", "SigIgn", "SigCgt"] {
        assert_eq!(output.value(set), "0000000000000000", "{set}");
    }
}

fn environment() {
    let mut case = Case::new(&["env"]);
    case.spec["process"]["env"] = serde_json::json!(["PATH=/bin", "A=b", "EMPTY="]);
    let output = case.run().ok();
    let mut lines = output.lines();
    lines.sort_unstable();
    assert_eq!(lines, ["A=b", "EMPTY=", "HOME=/root", "PATH=/bin"]);
}

fn start_errors() {
    let nowhere = Case::new(&["nonsense"]).run();
    nowhere.refused(127, "exec: \"nonsense\": executable file not found in $PATH");
    nowhere.refused(127, "OCI runtime create failed");
    Case::new(&["/nonsense"])
        .run()
        .refused(127, "stat /nonsense: no such file or directory");
    Case::new(&["/etc"])
        .run()
        .refused(126, "exec: \"/etc\": is a directory");
    Case::new(&["/etc/passwd"])
        .run()
        .refused(126, "exec: \"/etc/passwd\": permission denied");
    Case::new(&[]).run().refused(128, "no command specified");
    let case = Case::new(&["/interpreted"]);
    fs::write(case.layer("interpreted"), "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(
        case.layer("interpreted"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    case.run()
        .refused(127, "exec /interpreted: no such file or directory");
    fs::write(case.layer("interpreted"), "neither program nor script\0").unwrap();
    case.run().refused(126, "exec /interpreted: exec format error");
    let mut case = Case::new(&["nonsense"]);
    case.annotate("berth.init", "true");
    case.run().refused(127, "executable file not found in $PATH");
}

fn missing_parts_are_refused() {
    let mut case = Case::new(&["true"]);
    case.namespace("mount", None);
    case.run().refused(128, "mount namespace");
    let mut case = Case::new(&["true"]);
    case.spec["hooks"] = serde_json::json!({"prestart": [{"path": "/bin/true"}]});
    case.run().refused(128, "hooks");
    let mut case = Case::new(&["true"]);
    case.annotate("berth.seccomp", "default");
    case.run().refused(128, "berth.seccomp");
    let mut case = Case::new(&["echo", "a\0b"]);
    case.run().refused(128, "NUL");
    case.spec["process"]["args"] = serde_json::json!(["echo", "x".repeat(1 << 18)]);
    case.run().refused(128, "argument list too long");
}

fn working_directory() {
    let mut case = Case::script("pwd; stat -c '%u %g %a' .");
    case.spec["process"]["cwd"] = "/made/for/it".into();
    assert_eq!(case.run().ok().lines(), ["/made/for/it", "0 0 755"]);
    case.spec["process"]["cwd"] = "/etc/passwd".into();
    case.run().refused(127, "not a directory");
    case.spec["process"]["cwd"] = "/home/bob".into();
    assert_eq!(case.run().ok().lines(), ["/home/bob", "1000 1000 700"]);
}

fn limits() {
    let mut case = Case::script("ulimit -n; ulimit -Hn; ulimit -c");
    case.spec["process"]["rlimits"] = serde_json::json!([
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]);
    assert_eq!(case.run().ok().lines(), ["100", "200", "0"]);
}

fn score_of_the_oom_killer() {
    let mut case = Case::script("cat /proc/self/oom_score_adj");
    assert_eq!(case.run().ok().stdout, "0\n");
    case.spec["process"]["oomScoreAdj"] = 500.into();
    assert_eq!(case.run().ok().stdout, "500\n");
}

fn init_reaps_and_forwards() {
    let script = "trap 'echo got it; exit 3' TERM; \
        (sh -c 'sleep 0.01 & echo orphan') ; \
        echo $$; cat /proc/1/comm; \
        while ls /proc/*/status | grep -q . && grep -l '^State:.Z' /proc/[0-9]*/status >/dev/null 2>&1; do :; done; \
        kill -TERM 1; while :; do :; done";
    let mut case = Case::script(script);
    case.annotate("berth.init", "true");
    let output = case.run();
    assert_eq!(output.code, 3, "{output:?}");
    assert_eq!(output.lines(), ["orphan", "2", "docker-init", "got it"]);
}

fn init_forwards_realtime_signals() {
    let mut case = Case::script("trap 'echo got it; exit 3' 35; kill -35 1; while :; do :; done");
    case.annotate("berth.init", "true");
    let output = case.run();
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (3, "got it\n"),
        "{output:?}"
    );
}

fn init_tells_the_exit_code() {
    let mut case = Case::script("exit 42");
    case.annotate("berth.init", "true");
    assert_eq!(case.run().code, 42);
    let mut case = Case::script("kill -TERM $$");
    case.annotate("berth.init", "true");
    assert_eq!(case.run().code, 128 + 15);
}

fn terminal() {
    let output = Case::script(
        "tty; stty size; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all; echo x >/dev/tty; \
        stat -c '%t:%T %g %a' /dev/console /dev/pts/0; ls -1 /dev/pts; ps -o pid,tty",
    )
    .run_with_terminal()
    .ok();
    let lines: Vec<_> = output.lines().iter().map(|l| l.trim_end()).collect();
    assert_eq!(lines[..4], ["/dev/pts/0", "24 80", "all", "x"], "{lines:?}");
    assert_eq!(lines[4..6], ["88:0 5 620", "88:0 5 620"], "{lines:?}");
    assert_eq!(lines[6..8], ["0", "ptmx"], "{lines:?}");
    assert!(lines[9].contains("136,0"), "{lines:?}");
}

fn terminal_of_init() {
    let mut case = Case::script("ps -o pid,pgid,sid,tty,stat; exit 5");
    case.annotate("berth.init", "true");
    let output = case.run_with_terminal();
    assert_eq!(output.code, 5, "{output:?}");
    assert!(output.lines()[2].contains("136,0"), "{output:?}");
}

fn cgroup() {
    let mut case = Case::script(
        "cat /proc/self/cgroup; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; true",
    );
    case.spec["linux"]["resources"]["pids"] = serde_json::json!({"limit": 33});
    let output = case.run().ok();
    assert!(output.lines().contains(&"33"), "{output:?}");
    let elsewhere = output
        .lines()
        .iter()
        .filter(|l| l.contains(':') && !l.contains("/run-"))
        .count();
    assert_eq!(elsewhere, 0, "{output:?}");
    case.namespace("cgroup", None);
    case.spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(serde_json::json!({"type": "cgroup"}));
    let output = case.run().ok();
    assert!(
        output
            .lines()
            .iter()
            .filter(|l| l.contains(':'))
            .all(|l| l.ends_with(":/")),
        "{output:?}"
    );
}

fn the_root_can_be_a_directory() {
    let mut case = Case::script("echo here > /written; ls /");
    let image = case.spec["mounts"][0]["options"][0]
        .as_str()
        .unwrap()
        .rsplit(':')
        .next()
        .unwrap()
        .to_owned();
    case.spec["mounts"].as_array_mut().unwrap().remove(0);
    let root = case.path("rootfs");
    fs::create_dir_all(root.join("bin")).unwrap();
    for name in ["busybox", "sh", "ls"] {
        fs::copy(format!("{image}/bin/busybox"), root.join("bin").join(name)).unwrap();
    }
    case.spec["root"]["path"] = root.to_str().unwrap().into();
    let output = case.run().ok();
    assert!(output.lines().contains(&"written"), "{output:?}");
    assert_eq!(fs::read_to_string(root.join("written")).unwrap(), "here\n");
    case.spec["root"]["readonly"] = true.into();
    case.spec["process"]["args"][2] = "echo x > /second".into();
    assert_ne!(case.run().code, 0);
    assert!(!root.join("second").exists());
}

/// Maps the sandbox's ids to 100000 and up.
pub fn in_user_namespace(case: &mut Case) {
    let mappings = serde_json::json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    case.spec["linux"]["uidMappings"] = mappings.clone();
    case.spec["linux"]["gidMappings"] = mappings;
    case.spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(serde_json::json!({"type": "user"}));
    case.spec["linux"]["sysctl"]
        .as_object_mut()
        .unwrap()
        .remove("net.ipv4.ping_group_range");
    for part in ["upper", "work"] {
        std::os::unix::fs::chown(case.path(part), Some(100_000), Some(100_000)).unwrap();
    }
}

fn user_namespace() {
    let mut case = Case::script(
        "id -u; cat /proc/self/uid_map; touch /made && echo made; ls -l /dev/null; echo x > /dev/null; cat /proc/timer_list",
    );
    in_user_namespace(&mut case);
    let output = case.run().ok();
    assert_eq!(output.lines()[0], "0", "{output:?}");
    assert!(
        output.lines()[1].split_whitespace().eq(["0", "100000", "65536"]),
        "{output:?}"
    );
    assert_eq!(output.lines()[2], "made", "{output:?}");
}
