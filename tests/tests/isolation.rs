//! What a container may not do, and the limits it is held to. Seen from inside with busybox.

use berth_tests::{
    Engine,
    container::{STAY, busybox, shell},
};
use serde_json::{Value, json};

/// What `/proc/self/status` says under `key`.
fn status<'a>(text: &'a str, key: &str) -> &'a str {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"))
        .unwrap_or("missing")
}

#[tokio::test]
async fn capabilities_are_few_and_never_inherited() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let see = async |config: Value| engine.api.run(&config).await.1.out;
    let root = see(busybox(&["cat", "/proc/self/status"])).await;
    for (key, value) in [
        ("CapInh", "0000000000000000"),
        ("CapPrm", "00000000a80425fb"),
        ("CapEff", "00000000a80425fb"),
        ("CapBnd", "00000000a80425fb"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "0"),
        ("Seccomp", "2"),
    ] {
        assert_eq!(status(&root, key), value, "{key}");
    }
    let mut config = busybox(&["cat", "/proc/self/status"]);
    config["User"] = json!("1000");
    let user = see(config.clone()).await;
    for (key, value) in [
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "00000000a80425fb"),
    ] {
        assert_eq!(status(&user, key), value, "{key} of a user");
    }
    config["User"] = json!("");
    config["HostConfig"]["CapDrop"] = json!(["ALL"]);
    config["HostConfig"]["CapAdd"] = json!(["net_bind_service", "CAP_CHOWN"]);
    config["HostConfig"]["SecurityOpt"] = json!(["no-new-privileges"]);
    let few = see(config).await;
    assert_eq!(status(&few, "CapEff"), "0000000000000401");
    assert_eq!(status(&few, "NoNewPrivs"), "1");
    engine.finish().await;
}

#[tokio::test]
async fn privileged_has_all_and_no_filter() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = busybox(&["cat", "/proc/self/status"]);
    config["HostConfig"]["Privileged"] = json!(true);
    let text = engine.api.run(&config).await.1.out;
    let own = std::fs::read_to_string("/proc/self/status").expect("/proc");
    assert_eq!(status(&text, "CapEff"), status(&own, "CapBnd"));
    assert_eq!(status(&text, "Seccomp"), "0");
    engine.finish().await;
}

#[tokio::test]
async fn groups_of_the_user_are_exact() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    for (user, add, groups) in [
        ("user", json!([]), "1000 2000"),
        ("1000", json!([]), "1000 2000"),
        ("user", json!(["3000"]), "1000 2000 3000"),
        ("1234", json!([]), "0"),
        ("1234:5678", json!(["extra"]), "2000 5678"),
        ("root", json!([]), "0"),
    ] {
        let mut config = shell("grep ^Groups /proc/self/status");
        config["User"] = json!(user);
        config["HostConfig"]["GroupAdd"] = add;
        let out = engine.api.run(&config).await.1.out;
        let mut seen: Vec<u32> = out
            .split_whitespace()
            .skip(1)
            .map(|word| word.parse().expect("a group"))
            .collect();
        seen.sort_unstable();
        seen.dedup();
        let seen: Vec<String> = seen.iter().map(u32::to_string).collect();
        assert_eq!(seen.join(" "), groups, "{user}");
    }
    engine.finish().await;
}

#[tokio::test]
async fn the_kernel_is_out_of_reach() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    for forbidden in [
        "mount -t tmpfs none /tmp",
        "mount -t proc proc /tmp",
        "umount /proc",
        "unshare -Urm true",
        "mknod /dev/x b 8 0",
        "echo x > /proc/sys/kernel/hostname",
        "echo b > /proc/sysrq-trigger",
        "mkdir /sys/fs/cgroup/x",
        "echo 1 > /sys/kernel/uevent_seqnum",
        "sysctl -w kernel.core_pattern=x",
        "hostname other",
        "cat /dev/mem",
        "cat /dev/kmsg",
        "dd if=/dev/sda of=/dev/null count=1",
        "hwclock -w",
        "swapon /tmp",
    ] {
        let mut config = shell(&format!("{forbidden} && echo done"));
        config["HostConfig"]["CapDrop"] = json!(["MKNOD"]);
        let (_, output) = engine.api.run(&config).await;
        assert_eq!(output.out, "", "{forbidden}");
    }
    engine.finish().await;
}

#[tokio::test]
async fn sensitive_paths_are_masked() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let files = [
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/sched_debug",
        "/proc/interrupts",
    ];
    let directories = [
        "/proc/acpi",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ];
    let script = files
        .map(|path| format!("[ -e {path} ] && head -c 1 {path}"))
        .join("; ")
        + "; "
        + &directories
            .map(|path| format!("[ -e {path} ] && ls -A {path}"))
            .join("; ");
    let (_, output) = engine.api.run(&shell(&script)).await;
    assert_eq!(output.out, "");
    let mut bare = busybox(&["head", "-c", "1", "/proc/timer_list"]);
    let masked =
        engine.api.inspect(&engine.api.create(&bare).await).await["HostConfig"]["MaskedPaths"].clone();
    assert!(masked.as_array().expect("a list").len() > 8, "{masked}");
    bare["HostConfig"]["MaskedPaths"] = json!([]);
    let seen = engine.api.inspect(&engine.api.create(&bare).await).await;
    assert_eq!(seen["HostConfig"]["MaskedPaths"], json!([]));
    engine.finish().await;
}

#[tokio::test]
async fn nothing_of_the_host_leaks_in() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let script = "ls /proc/self/fd | tr '\\n' ' '; echo; cat /proc/1/environ | tr '\\0' '\\n' | sort; ls /dev | tr '\\n' ' '";
    let (_, output) = engine.api.run(&shell(script)).await;
    let lines: Vec<&str> = output.out.lines().collect();
    // The fourth is the directory that ls reads.
    assert_eq!(lines[0].trim(), "0 1 2 3", "{output:?}");
    assert!(
        lines[1].starts_with("HOME=/root")
            && lines[2].starts_with("HOSTNAME=")
            && lines[3].starts_with("PATH="),
        "{lines:?}"
    );
    assert_eq!(lines.len(), 5, "{lines:?}");
    // The link to the kernel's memory is there where the kernel shows that.
    let core = std::path::Path::new("/proc/kcore").exists();
    let devices: Vec<&str> = lines[4]
        .split_whitespace()
        .filter(|name| !core || *name != "core")
        .collect();
    assert_eq!(
        devices,
        [
            "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout",
            "tty", "urandom", "zero"
        ]
    );
    let sockets = engine
        .api
        .run(&shell(
            "cat /proc/net/unix | wc -l; ls /proc/net/dev && grep -c : /proc/net/dev",
        ))
        .await
        .1
        .out;
    assert!(
        sockets.starts_with("1\n") && sockets.ends_with("\n1\n"),
        "{sockets}"
    );
    engine.finish().await;
}

#[tokio::test]
async fn limits_hold() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = shell("head -c 200000000 /dev/zero | tail -c 150000000 | wc -c");
    config["HostConfig"]["Memory"] = json!(32 << 20);
    config["HostConfig"]["MemorySwap"] = json!(32 << 20);
    let (_, output) = engine.api.run(&config).await;
    assert_ne!(output.out.trim(), "150000000", "150 MB in 32 MiB");

    let mut config = shell("for i in $(seq 1 200); do sleep 100 & done; true");
    config["HostConfig"]["PidsLimit"] = json!(20);
    let (code, output) = engine.api.run(&config).await;
    assert!(
        code != 0 || output.err.contains("fork"),
        "200 processes within 20: {output:?}"
    );

    let mut config = shell("ulimit -n; ulimit -c");
    config["HostConfig"]["Ulimits"] =
        json!([{"Name": "nofile", "Soft": 100, "Hard": 200}, {"Name": "core", "Soft": 0, "Hard": 0}]);
    assert_eq!(engine.api.run(&config).await.1.out, "100\n0\n");

    let mut config = shell("df -k /dev/shm | tail -1 | awk '{print $2}'");
    config["HostConfig"]["ShmSize"] = json!(16 << 20);
    assert_eq!(engine.api.run(&config).await.1.out.trim(), "16384");
    engine.finish().await;
}

#[tokio::test]
async fn memory_that_runs_out_is_told() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = busybox(&["tail", "/dev/zero"]);
    config["HostConfig"]["Memory"] = json!(16 << 20);
    config["HostConfig"]["MemorySwap"] = json!(16 << 20);
    let id = engine.api.launch(&config).await;
    assert_eq!(engine.api.wait(&id).await, 137);
    let state = engine.api.inspect(&id).await["State"].clone();
    assert_eq!(state["OOMKilled"], true, "{state}");
    engine.finish().await;
}

#[tokio::test]
async fn roots_can_be_read_only_and_have_mounts() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let host = engine.root().join("shared");
    std::fs::create_dir(&host).expect("a directory");
    std::fs::write(host.join("file"), "from the host\n").expect("a file");
    let bind = host.display();
    let mut config = shell(
        "touch /x && echo root is writable; touch /run/x && echo tmpfs works; cat /rw/file; echo inside > /rw/new; touch /ro/x && echo ro is writable; mount | grep -c ' /run '; ls /ro",
    );
    config["HostConfig"]["ReadonlyRootfs"] = json!(true);
    config["HostConfig"]["Tmpfs"] = json!({"/run": "size=1m,mode=755"});
    config["HostConfig"]["Binds"] = json!([format!("{bind}:/rw"), format!("{bind}:/ro:ro")]);
    let (_, output) = engine.api.run(&config).await;
    assert_eq!(
        output.out, "tmpfs works\nfrom the host\n1\nfile\nnew\n",
        "{output:?}"
    );
    assert_eq!(
        std::fs::read_to_string(host.join("new")).expect("a file"),
        "inside\n"
    );

    let missing = engine.root().join("made/by/engine");
    let mut config = shell("ls -d /m");
    config["HostConfig"]["Binds"] = json!([format!("{}:/m", missing.display())]);
    assert_eq!(engine.api.run(&config).await.1.out, "/m\n");
    assert!(missing.is_dir(), "a missing source of a bind is made");
    engine.finish().await;
}

#[tokio::test]
async fn containers_do_not_see_each_other() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let one = engine
        .api
        .launch(&shell(&format!("echo secret > /tmp/file; hostname; {STAY}")))
        .await;
    engine.api.await_output(&one, "ready").await;
    let (_, output) = engine
        .api
        .run(&shell("ls /tmp; ps | grep -c STAY; ls /proc | grep -c '^[0-9]'"))
        .await;
    let lines: Vec<&str> = output.out.lines().collect();
    assert_eq!(lines.len(), 2, "{output:?}");
    assert_eq!(engine.api.run(&busybox(&["cat", "/tmp/file"])).await.0, 1);

    // Unless asked to share.
    let mut config = shell("ps | grep -v grep | grep -c secret");
    config["HostConfig"]["PidMode"] = json!(format!("container:{one}"));
    let (code, output) = engine.api.run(&config).await;
    assert_eq!((code, output.out.trim()), (0, "1"), "{output:?}");
    engine.finish().await;
}

#[tokio::test]
async fn sysctls_devices_and_host_modes() {
    let engine = Engine::start().await;
    engine.api.load_busybox().await;
    let mut config = shell("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced");
    config["HostConfig"]["Sysctls"] = json!({"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"});
    assert_eq!(engine.api.run(&config).await.1.out, "1\n1\n");
    config["HostConfig"]["Sysctls"] = json!({"kernel.core_pattern": "x"});
    let reply = engine.api.post_json("/containers/create", &config).await;
    if reply.status() == 201 {
        let id = reply.json()["Id"].as_str().expect("an id").to_owned();
        let reply = engine.api.post(&format!("/containers/{id}/start")).await;
        assert!(reply.status().as_u16() >= 400, "a setting of the host was taken");
    }

    let mut config = shell("head -c 2 /dev/mine | wc -c");
    config["HostConfig"]["Devices"] =
        json!([{"PathOnHost": "/dev/zero", "PathInContainer": "/dev/mine", "CgroupPermissions": "rwm"}]);
    assert_eq!(engine.api.run(&config).await.1.out.trim(), "2");

    let link = |name: &str| {
        std::fs::read_link(format!("/proc/self/ns/{name}"))
            .expect("a namespace")
            .display()
            .to_string()
    };
    let mut config = shell(
        "readlink /proc/self/ns/net; readlink /proc/self/ns/pid; readlink /proc/self/ns/uts; readlink /proc/self/ns/ipc",
    );
    config["HostConfig"] =
        json!({"NetworkMode": "host", "PidMode": "host", "UTSMode": "host", "IpcMode": "host"});
    let out = engine.api.run(&config).await.1.out;
    assert_eq!(
        out,
        format!(
            "{}\n{}\n{}\n{}\n",
            link("net"),
            link("pid"),
            link("uts"),
            link("ipc")
        )
    );
    engine.finish().await;
}

#[tokio::test]
async fn the_engines_program_cannot_be_written_through_its_processes() {
    let engine = Engine::start().await;
    let program = std::fs::File::open(format!("/proc/{}/exe", engine.pid())).expect("the engine's program");
    let mount = nix::sys::statvfs::fstatvfs(&program).expect("its file system");
    assert!(mount.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
    engine.finish().await;
}
