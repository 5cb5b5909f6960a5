//! `berthd oci`: the runtime by its command line, and podman on top of it.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use berth_tests::engine::berthd;
use serde_json::{Value, json};

/// A bundle and a runtime with a root of its own; what is left over is removed at the end.
struct Runtime {
    directory: tempfile::TempDir,
    name: String,
}

impl Runtime {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let name = directory
            .path()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .replace('.', "");
        let bin = directory.path().join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        let busybox = ["/bin/busybox", "/usr/bin/busybox"]
            .into_iter()
            .find(|p| Path::new(p).exists());
        fs::copy(busybox.expect("busybox-static is needed"), bin.join("busybox")).unwrap();
        for applet in ["sh", "cat", "id", "sleep", "echo", "true", "hostname"] {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        Self { directory, name }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(berthd());
        command
            .args(["oci", "--root"])
            .arg(self.path("run"))
            .args(words)
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Writes a specification that runs `script`, changed by `change`.
    fn bundle(&self, script: &str, change: impl FnOnce(&mut Value)) {
        let file = self.path("config.json");
        let _ = fs::remove_file(&file);
        self.ok(&["spec"]);
        let mut spec: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(["sh", "-c", script]);
        spec["process"]["rlimits"] = json!([]);
        spec["linux"]["cgroupsPath"] = json!(format!("/{}/c", self.name));
        change(&mut spec);
        fs::write(&file, spec.to_string()).unwrap();
    }

    /// Creates the container; its streams are not the test's.
    fn create(&self, id: &str) {
        let status = self
            .command(&["create", "--pid-file", "pid", id])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
    }

    fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["state", id])).unwrap()
    }

    fn await_status(&self, id: &str, status: &str) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while self.state(id)["status"] != status {
            assert!(std::time::Instant::now() < end, "{id} did not become {status}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Directories of the container's control groups.
    fn cgroups(&self) -> Vec<PathBuf> {
        let roots = fs::read_dir("/sys/fs/cgroup").unwrap().map(|e| e.unwrap().path());
        let roots = roots.chain([PathBuf::from("/sys/fs/cgroup")]);
        roots.map(|r| r.join(&self.name)).filter(|p| p.is_dir()).collect()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = self.run(&["delete", "--force", "c"]);
        for directory in self.cgroups() {
            let _ = fs::remove_dir(directory);
        }
    }
}

#[test]
fn run_gives_output_and_code() {
    let runtime = Runtime::new();
    runtime.bundle("echo out; echo err >&2; id -u; hostname; exit 7", |_| {});
    let output = runtime.run(&["run", "c"]);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n0\nberth\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "err\n");
    assert_eq!(runtime.ok(&["list", "-q"]), "");
    assert!(runtime.cgroups().iter().all(|c| !c.join("c").exists()));
}

#[test]
fn a_container_step_by_step() {
    let runtime = Runtime::new();
    runtime.bundle("trap 'exit 3' TERM; while :; do sleep 0.05; done", |_| {});
    runtime.create("c");
    let state = runtime.state("c");
    assert_eq!(state["status"], "created");
    assert_eq!(
        state["bundle"],
        runtime.directory.path().canonicalize().unwrap().to_str().unwrap()
    );
    assert_eq!(
        fs::read_to_string(runtime.path("pid")).unwrap(),
        state["pid"].to_string()
    );
    assert!(
        runtime
            .fails(&["create", "c"])
            .contains("container with given ID already exists")
    );
    runtime.ok(&["start", "c"]);
    assert_eq!(runtime.state("c")["status"], "running");
    assert!(
        runtime
            .fails(&["start", "c"])
            .contains("cannot start an already running container")
    );

    let output = runtime.run(&[
        "exec",
        "-e",
        "A=b",
        "-u",
        "7:8",
        "c",
        "sh",
        "-c",
        "echo $A; id -u; exit 5",
    ]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "b\n7\n");
    let pids: Vec<i64> = serde_json::from_str(&runtime.ok(&["ps", "-f", "json", "c"])).unwrap();
    assert!(pids.contains(&state["pid"].as_i64().unwrap()));

    runtime.ok(&["pause", "c"]);
    assert_eq!(runtime.state("c")["status"], "paused");
    assert!(runtime.fails(&["exec", "c", "true"]).contains("paused"));
    runtime.ok(&["resume", "c"]);
    assert!(runtime.fails(&["resume", "c"]).contains("container not paused"));
    runtime.ok(&["update", "--memory", "64m", "--pids-limit", "50", "c"]);
    let stats: Value = serde_json::from_str(&runtime.ok(&["events", "--stats", "c"])).unwrap();
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], 64 << 20);
    assert_eq!(stats["data"]["pids"]["limit"], 50);

    assert!(runtime.fails(&["delete", "c"]).contains("is not stopped"));
    runtime.ok(&["kill", "c", "TERM"]);
    runtime.await_status("c", "stopped");
    assert!(runtime.fails(&["kill", "c"]).contains("container not running"));
    assert!(
        runtime
            .fails(&["exec", "c", "true"])
            .contains("stopped container")
    );
    runtime.ok(&["delete", "c"]);
    assert!(
        runtime
            .fails(&["state", "c"])
            .contains("container does not exist")
    );
    runtime.ok(&["delete", "--force", "c"]);
}

/// Maps the ids of a container to 100000 and up.
fn own_ids(spec: &mut Value) {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    spec["linux"]["uidMappings"] = map.clone();
    spec["linux"]["gidMappings"] = map;
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "user"}));
}

#[test]
fn user_namespaces_are_made_and_joined() {
    let runtime = Runtime::new();
    let data = runtime.path("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "x").unwrap();
    runtime.bundle("id -u; cat /proc/self/uid_map; ls -ln /data/file /plain/file /dev/null; echo x > /data/new; sleep 1000", |spec| {
        own_ids(spec);
        let mounts = spec["mounts"].as_array_mut().unwrap();
        for (place, options) in [("/data", json!(["rbind", "idmap"])), ("/plain", json!(["rbind"]))] {
            mounts.push(json!({"destination": place, "type": "bind", "source": data, "options": options}));
        }
    });
    // So that mount points can be made in it.
    std::os::unix::fs::chown(runtime.path("rootfs"), Some(100_000), Some(100_000)).unwrap();
    let out = fs::File::create(runtime.path("out")).unwrap();
    let status = runtime.command(&["create", "c"]).stdout(out).status().unwrap();
    assert!(status.success());
    runtime.ok(&["start", "c"]);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !data.join("new").exists() {
        assert!(
            std::time::Instant::now() < end,
            "{:?}",
            fs::read_to_string(runtime.path("out"))
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let seen = fs::read_to_string(runtime.path("out")).unwrap();
    let words: Vec<Vec<&str>> = seen.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["0"], "{seen}");
    assert_eq!(words[1], ["0", "100000", "65536"], "{seen}");
    assert_eq!(words[2][2..4], ["0", "0"], "{seen}");
    assert_eq!(words[3][2..4], ["0", "0"], "{seen}");
    assert_eq!(words[4][2..4], ["65534", "65534"], "{seen}");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(data.join("new")).unwrap().uid(), 0);
    assert!(
        runtime
            .ok(&["exec", "c", "cat", "/proc/self/status"])
            .contains("Uid:\t0\t0\t0\t0")
    );

    // A second one in its user namespace and its network.
    let pid = runtime.state("c")["pid"].as_i64().unwrap();
    runtime.bundle("cat /proc/self/uid_map; hostname; id -u", |spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|n| n["type"] != "network");
        for (kind, file) in [("user", "user"), ("network", "net")] {
            namespaces.push(json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}));
        }
        spec["linux"]["cgroupsPath"] = json!(format!("/{}/d", runtime.name));
    });
    let output = runtime.run(&["run", "d"]);
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(
        seen.split_whitespace().eq(["0", "100000", "65536", "berth", "0"]),
        "{seen}"
    );
    runtime.ok(&["delete", "--force", "c"]);
}

#[test]
fn ids_of_a_mount_are_mapped() {
    use std::os::unix::fs::{MetadataExt, chown};
    let runtime = Runtime::new();
    let data = runtime.path("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "x").unwrap();
    chown(data.join("file"), Some(5), Some(6)).unwrap();
    chown(&data, Some(5), Some(6)).unwrap();
    let mount = |extra: Value| {
        let mut mount = json!({"destination": "/data", "type": "bind", "source": data, "options": ["rbind"]});
        for (key, value) in extra.as_object().unwrap() {
            mount[key] = value.clone();
        }
        mount
    };
    let map = |to: u32| json!([{"containerID": 5, "hostID": to, "size": 2}]);
    let (uids, gids) = (map(1000), map(2000));
    runtime.bundle("ls -ln /data/file", |spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.push(mount(json!({"uidMappings": uids, "gidMappings": gids})));
    });
    let seen = runtime.ok(&["run", "c"]);
    let words: Vec<_> = seen.split_whitespace().collect();
    assert_eq!(words[2..4], ["1000", "2001"], "{seen}");
    assert_eq!(fs::metadata(data.join("file")).unwrap().uid(), 5);
    for (extra, words) in [
        (json!({"uidMappings": map(1)}), "belong together"),
        (json!({"options": ["rbind", "ridmap"]}), "needs uidMappings"),
        (
            json!({"type": "tmpfs", "options": ["idmap"]}),
            "only the ids of a bind",
        ),
    ] {
        runtime.bundle("true", |spec| {
            spec["mounts"].as_array_mut().unwrap().push(mount(extra.clone()))
        });
        let told = runtime.fails(&["run", "c"]);
        assert!(told.contains(words), "{extra}: {told}");
    }
}

#[test]
fn hooks_run_in_their_places() {
    let runtime = Runtime::new();
    let log = runtime.path("log");
    let hook = |name: &str, log: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo {name} $(cat) >> {log}")]}]);
    let ours = log.to_str().unwrap();
    runtime.bundle("sleep 1000", |spec| {
        spec["root"]["readonly"] = json!(false);
        spec["hooks"] = json!({
            "prestart": hook("prestart", ours),
            "createRuntime": hook("createRuntime", ours),
            "createContainer": hook("createContainer", ours),
            "startContainer": hook("startContainer", "/inside"),
            "poststart": hook("poststart", ours),
            "poststop": hook("poststop", ours),
        });
    });
    runtime.create("c");
    let names = |path: &Path| -> Vec<(String, Value)> {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = |line: &str| {
            let (name, state) = line.split_once(' ').unwrap();
            (name.to_owned(), serde_json::from_str(state).unwrap())
        };
        text.lines().map(line).collect()
    };
    let status = |of: &[(String, Value)]| -> Vec<String> {
        of.iter()
            .map(|(n, s)| format!("{n}:{}", s["status"].as_str().unwrap()))
            .collect()
    };
    assert_eq!(
        status(&names(&log)),
        [
            "prestart:creating",
            "createRuntime:creating",
            "createContainer:creating"
        ]
    );
    assert_eq!(names(&runtime.path("rootfs/inside")), []);
    runtime.ok(&["start", "c"]);
    assert_eq!(
        status(&names(&runtime.path("rootfs/inside"))),
        ["startContainer:created"]
    );
    assert_eq!(names(&log)[3].1["pid"], runtime.state("c")["pid"]);
    runtime.ok(&["delete", "--force", "c"]);
    assert_eq!(
        status(&names(&log))[3..],
        ["poststart:running", "poststop:stopped"]
    );
}

#[test]
fn a_failing_hook_leaves_nothing() {
    let runtime = Runtime::new();
    runtime.bundle("true", |spec| {
        spec["hooks"] =
            json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "echo because; exit 1"]}]});
    });
    let error = runtime.fails(&["create", "c"]);
    assert!(
        error.contains("error running createRuntime hook #0") && error.contains("because"),
        "{error}"
    );
    assert_eq!(fs::read_dir(runtime.path("run")).unwrap().count(), 0);
    assert!(runtime.cgroups().iter().all(|c| !c.join("c").exists()));
}

#[test]
fn errors_go_to_the_log_file() {
    let runtime = Runtime::new();
    runtime.bundle("true", |spec| {
        spec["process"]["args"] = json!(["/bin/nothing-like-it"])
    });
    let words = ["--log", "errors", "--log-format", "json", "create", "c"];
    let told = runtime.fails(&words);
    let logged: Value = serde_json::from_slice(&fs::read(runtime.path("errors")).unwrap()).unwrap();
    assert_eq!(logged["level"], "error");
    let message = logged["msg"].as_str().unwrap();
    assert!(
        message.starts_with("unable to start container process: exec: \"/bin/nothing-like-it\""),
        "{message}"
    );
    assert!(told.contains(message));

    runtime.bundle("true", |spec| spec["process"]["terminal"] = json!(true));
    assert!(
        runtime
            .fails(&["create", "c"])
            .contains("without setting console socket")
    );
    for (words, expected) in [
        (&["state", "c"][..], "container does not exist"),
        (&["state", "../x"], "invalid container ID format"),
        (&["kill", "c", "NOPE"], "unknown signal"),
        (&["checkpoint", "c"], "not supported"),
        (&["restore", "c"], "not supported"),
        (&["--systemd-cgroup", "create", "c"], "not supported"),
        (
            &["create", "--bundle", "/nonexistent", "c"],
            "cannot enter the bundle",
        ),
    ] {
        let error = runtime.fails(words);
        assert!(error.contains(expected), "{words:?}: {error}");
    }
    let features: Value = serde_json::from_str(&runtime.ok(&["features"])).unwrap();
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
}

#[test]
fn podman_runs_containers_by_it() {
    let runtime = Runtime::new();
    let link = runtime.path("berth-oci");
    symlink(berthd(), &link).unwrap();
    let podman = |words: &[&str]| -> (Option<i32>, String) {
        let mut command = Command::new("podman");
        for (flag, value) in [
            ("--root", "storage"),
            ("--runroot", "podman"),
            ("--tmpdir", "tmp"),
        ] {
            command.arg(flag).arg(runtime.path(value));
        }
        let output = command
            .args([
                "--storage-driver",
                "vfs",
                "--cgroup-manager",
                "cgroupfs",
                "--events-backend",
                "file",
                "--runtime",
            ])
            .arg(&link)
            .args(words)
            .stdin(Stdio::null())
            .output()
            .expect("podman is needed");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    let archive = runtime.path("image.tar");
    let packed = Command::new("tar")
        .arg("-C")
        .arg(runtime.path("rootfs"))
        .arg("-cf")
        .arg(&archive)
        .arg(".")
        .status();
    assert!(packed.unwrap().success());
    let (code, text) = podman(&["import", archive.to_str().unwrap(), "small"]);
    assert_eq!(code, Some(0), "{text}");
    let parent = format!("/{}", runtime.name);
    let limits = [
        "--ulimit",
        "nofile=512:512",
        "--ulimit",
        "nproc=512:512",
        "--network",
        "none",
        "--cgroup-parent",
        &parent,
    ];

    let words = [
        &["run", "--rm"][..],
        &limits,
        &["small", "sh", "-c", "echo here; exit 4"],
    ]
    .concat();
    let (code, text) = podman(&words);
    assert_eq!((code, text.as_str()), (Some(4), "here\n"));
    let words = [
        &["run", "-d", "--name", "c"][..],
        &limits,
        &[
            "small",
            "sh",
            "-c",
            "trap 'exit 0' TERM; while :; do sleep 0.05; done",
        ],
    ]
    .concat();
    assert_eq!(podman(&words).0, Some(0));
    assert_eq!(
        podman(&["exec", "c", "sh", "-c", "echo again; exit 9"]),
        (Some(9), "again\n".to_owned())
    );
    let terminal = podman(&["exec", "-t", "c", "sh", "-c", "test -t 1 && echo terminal"]);
    assert!(terminal.1.contains("terminal"), "{terminal:?}");
    assert_eq!(podman(&["stop", "-t", "20", "c"]).0, Some(0));
    assert_eq!(podman(&["inspect", "-f", "{{.State.ExitCode}}", "c"]).1, "0\n");
    assert_eq!(podman(&["rm", "c"]).0, Some(0));
}
