//! Further processes in a sandbox that runs.

use std::fs;

use serde_json::json;

use crate::support::Case;

crate::tests!(
    joins_everything,
    streams_and_exit_code,
    start_errors,
    users,
    capabilities_and_filter,
    custom_profile,
    terminal,
    working_directory,
    only_standard_streams_are_open,
    environment_and_score,
    joins_a_user_namespace,
    ended_sandbox,
    invisible_until_it_executes,
);

/// A sandbox that lasts.
fn lasting() -> Case {
    Case::new(&["sleep", "1000"])
}

fn joins_everything() {
    let case = lasting();
    let script = "for n in cgroup ipc mnt net pid time user uts; do \
        [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo $n; done; \
        cmp /proc/1/cgroup /proc/self/cgroup; hostname; cat /proc/1/comm; echo $$";
    fs::copy("/bin/busybox", case.layer("bin/cmp")).unwrap();
    let output = case.exec(&case.process(&["sh", "-c", script]), &[]).ok();
    let lines = output.lines();
    assert_eq!(lines[..2], ["box", "sleep"], "{output:?}");
    assert!(lines[2].parse::<i32>().unwrap() > 1);
}

fn streams_and_exit_code() {
    let case = lasting();
    let output = case.exec(
        &case.process(&["sh", "-c", "echo out; echo err >&2; cat; exit 9"]),
        &[],
    );
    assert_eq!(
        (output.code, output.stdout.as_str(), output.stderr.as_str()),
        (9, "out\n", "err\n")
    );
    assert_eq!(
        case.exec(&case.process(&["sh", "-c", "kill -9 $$"]), &[]).code,
        128 + 9
    );
}

fn start_errors() {
    let case = lasting();
    let output = case.exec(&case.process(&["nonsense"]), &[]);
    output.refused(127, "exec: \"nonsense\": executable file not found in $PATH");
    output.refused(127, "OCI runtime exec failed");
    case.exec(&case.process(&["/etc"]), &[])
        .refused(126, "is a directory");
    let interpreted = case.layer("interpreted");
    fs::write(&interpreted, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&interpreted, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    case.exec(&case.process(&["/interpreted"]), &[])
        .refused(127, "no such file or directory");
}

fn users() {
    let case = lasting();
    let mut process = case.process(&["cat", "/proc/self/status"]);
    process["user"]["username"] = "bob".into();
    let output = case.exec(&process, &[]).ok();
    assert_eq!(output.value("Uid"), "1000\t1000\t1000\t1000");
    assert_eq!(output.value("Groups"), "29 1000");
    assert_eq!(output.value("CapEff"), "0000000000000000");
    process["user"]["username"] = "nobody".into();
    case.exec(&process, &[]).refused(
        128,
        "unable to find user nobody: no matching entries in passwd file",
    );
}

fn capabilities_and_filter() {
    let case = lasting();
    let mut process = case.process(&["cat", "/proc/self/status"]);
    let output = case.exec(&process, &[]).ok();
    assert_eq!(output.value("CapInh"), "0000000000000000");
    assert_eq!(output.value("CapAmb"), "0000000000000000");
    assert_eq!(output.value("CapEff"), "00000000a80425fb");
    assert_eq!(output.value("Seccomp"), "2");
    assert_eq!(output.value("SigIgn"), "0000000000000000");
    // A privileged one keeps the filter of its container.
    let all: Vec<String> = berth_runtime::sandbox::defaults::all_capabilities()
        .iter()
        .map(|c| format!("CAP_{c}"))
        .collect();
    for set in ["bounding", "effective", "permitted"] {
        process["capabilities"][set] = json!(all);
    }
    process["noNewPrivileges"] = true.into();
    let output = case.exec(&process, &[]).ok();
    assert_ne!(output.value("CapEff"), "00000000a80425fb");
    assert_eq!(output.value("Seccomp"), "2");
    assert_eq!(output.value("NoNewPrivs"), "1");
}

fn custom_profile() {
    let mut case = lasting();
    case.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["clone", "clone3", "fork", "vfork"], "action": "SCMP_ACT_ERRNO"}],
    });
    let output = case.exec(&case.process(&["cat", "/proc/self/status"]), &[]).ok();
    assert_eq!(output.value("Seccomp"), "2");
}

fn terminal() {
    let case = lasting();
    let script = "tty; stty size; ps -o pid,sid,tty; trap 'echo interrupted' INT; kill -INT 0; exit 4";
    let output = case.exec(&case.process(&["sh", "-c", script]), &["--tty"]);
    assert_eq!(output.code, 4, "{output:?}");
    let lines: Vec<_> = output.lines().iter().map(|l| l.trim()).collect();
    assert_eq!(lines[..2], ["/dev/pts/0", "24 80"]);
    assert!(output.stdout.contains("136,0"), "{output:?}");
    assert!(output.stdout.contains("interrupted"), "{output:?}");
}

fn working_directory() {
    let case = lasting();
    let mut process = case.process(&["pwd"]);
    process["cwd"] = "/home/bob".into();
    assert_eq!(case.exec(&process, &[]).ok().stdout, "/home/bob\n");
    process["cwd"] = "/nonsense".into();
    case.exec(&process, &[])
        .refused(127, "chdir to cwd (\"/nonsense\")");
}

fn only_standard_streams_are_open() {
    let case = lasting();
    let output = case
        .exec(&case.process(&["sh", "-c", "ls /proc/$$/fd; true"]), &[])
        .ok();
    assert_eq!(output.lines(), ["0", "1", "2"]);
}

fn environment_and_score() {
    let case = lasting();
    let mut process = case.process(&["sh", "-c", "echo $A $HOME; cat /proc/self/oom_score_adj; umask"]);
    process["env"] = json!(["PATH=/bin", "A=b"]);
    process["oomScoreAdj"] = 321.into();
    process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 55, "hard": 66}]);
    assert_eq!(case.exec(&process, &[]).ok().lines(), ["b /root", "321", "0022"]);
}

fn joins_a_user_namespace() {
    let mut case = lasting();
    crate::basics::in_user_namespace(&mut case);
    let output = case
        .exec(
            &case.process(&["sh", "-c", "id -u; cat /proc/self/uid_map; cat /proc/self/status"]),
            &[],
        )
        .ok();
    assert_eq!(output.lines()[0], "0");
    assert!(
        output.lines()[1].split_whitespace().eq(["0", "100000", "65536"]),
        "{output:?}"
    );
    assert_eq!(output.value("CapEff"), "00000000a80425fb");
}

fn ended_sandbox() {
    let case = Case::new(&["true"]);
    // It may or may not have ended yet; it never hangs, and a failure is told as one.
    let output = case.exec(&case.process(&["true"]), &[]);
    assert!(
        output.code == 0 || output.stderr.starts_with("start error 128") || output.code == 137,
        "{output:?}"
    );
}

/// Whoever watches the sandbox's processes from inside, with every right to examine them, sees no copy of the engine.
fn invisible_until_it_executes() {
    let watch = "while :; do for p in /proc/[0-9]*; do l=$(readlink $p/exe 2>/dev/null) && case $l in /bin/busybox) ;; \
        *) echo $p $l >> /seen ;; esac; ls $p/fd >/dev/null 2>&1; done; done";
    let mut case = Case::script(watch);
    case.capabilities(&["SYS_PTRACE", "DAC_OVERRIDE", "DAC_READ_SEARCH"]);
    for _ in 0..10 {
        let output = case
            .exec(
                &case.process(&["sh", "-c", "sleep 0.01; cat /proc/self/status"]),
                &[],
            )
            .ok();
        assert_eq!(output.value("CapPrm"), "0000000000080006");
    }
}
