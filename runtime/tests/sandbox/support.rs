//! A root to run things in, and what comes of running them.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use berth_runtime::sandbox::defaults;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Set in the environment of this program when it is to drive one sandbox.
pub const DRIVER: &str = "BERTH_SANDBOX_DRIVER";

const APPLETS: &str = "[ cat chmod chown dd echo env false grep head hostname id ip kill ln ls mkdir mknod mount mv ping ps \
    pwd readlink rm setsid sh sleep stat stty sync sysctl tail test touch true tty umount uname unshare wc nc od ulimit";

/// The image of all tests.
static IMAGE: OnceLock<TempDir> = OnceLock::new();

/// Removes what all tests share; what is static is never dropped.
pub fn clean_up() -> io::Result<()> {
    if let Some(image) = IMAGE.get() {
        fs::remove_dir_all(image.path())?;
    }
    // Others that run the same tests may still need it; the last one takes it away.
    berth_runtime::cgroup::Cgroup::remove_if_empty(crate::driver::PARENT).map_err(io::Error::other)
}

/// Makes the image, once: busybox and two users.
fn image() -> &'static Path {
    let make = || {
        let image = tempfile::Builder::new()
            .prefix("berth-sandbox-image")
            .tempdir()
            .unwrap();
        let at = |path: &str| image.path().join(path);
        for directory in [
            "bin", "etc", "proc", "sys", "dev", "tmp", "root", "data", "home/bob", "run",
        ] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        fs::copy("/bin/busybox", at("bin/busybox")).unwrap();
        for applet in APPLETS.split_whitespace() {
            symlink("busybox", at("bin").join(applet)).unwrap();
        }
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n1234:x:0:0::/:/bin/sh\n";
        fs::write(at("etc/passwd"), passwd).unwrap();
        fs::write(
            at("etc/group"),
            "root:x:0:root\nbin:x:1:root\nbob:x:1000:\naudio:x:29:bob\nvideo:x:44:\n",
        )
        .unwrap();
        fs::set_permissions(
            at("home/bob"),
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )
        .unwrap();
        std::os::unix::fs::chown(at("home/bob"), Some(1000), Some(1000)).unwrap();
        image
    };
    IMAGE.get_or_init(make).path()
}

/// What a sandbox left.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Lines of the output.
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }

    /// The value of the line `name: value`.
    pub fn value(&self, name: &str) -> &str {
        let value = self
            .stdout
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_else(|| panic!("no {name} in {self:?}")).trim()
    }

    /// Asserts that the program ran and succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// Asserts that the start failed with `code` and a message that contains `fragment`.
    #[track_caller]
    pub fn refused(&self, code: i32, fragment: &str) {
        assert_eq!(self.code, 125, "{self:?}");
        assert!(
            self.stderr.starts_with(&format!("start error {code}: ")),
            "{self:?}"
        );
        assert!(self.stderr.contains(fragment), "{self:?} lacks {fragment:?}");
    }
}

/// One sandbox: its specification, a layer of its own above the image, its upper directory, all in one directory.
pub struct Case {
    pub directory: TempDir,
    /// The specification, to be changed before it is run.
    pub spec: Value,
}

impl Case {
    /// A sandbox as Docker would make it by default, running `args`.
    pub fn new(args: &[&str]) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("berth-sandbox-case")
            .tempdir()
            .unwrap();
        for part in ["layer", "upper", "work"] {
            fs::create_dir(directory.path().join(part)).unwrap();
        }
        let mut case = Self {
            spec: specification(args),
            directory,
        };
        let at = |part: &str| case.directory.path().join(part).display().to_string();
        let overlay = json!({"destination": "/", "type": "overlay", "source": "overlay", "options": [
            format!("lowerdir={}:{}", at("layer"), image().display()),
            format!("upperdir={}", at("upper")),
            format!("workdir={}", at("work")),
        ]});
        case.spec["mounts"].as_array_mut().unwrap().insert(0, overlay);
        case
    }

    /// The same, running a shell script.
    pub fn script(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    /// A place in the directory of this case, outside of the root.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The layer above the image, to be filled before the run.
    pub fn layer(&self, path: &str) -> PathBuf {
        let path = self.path("layer").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// Adds a mount.
    pub fn mount(
        &mut self,
        destination: &str,
        kind: &str,
        source: impl AsRef<Path>,
        options: &[&str],
    ) -> &mut Self {
        let mount =
            json!({"destination": destination, "type": kind, "source": source.as_ref(), "options": options});
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    /// Removes the default mount on `destination`.
    pub fn without_mount(&mut self, destination: &str) -> &mut Self {
        self.spec["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|m| m["destination"] != destination);
        self
    }

    /// Sets what Docker calls `User`.
    pub fn user(&mut self, user: &str) -> &mut Self {
        self.spec["process"]["user"]["username"] = user.into();
        self
    }

    /// Sets an annotation.
    pub fn annotate(&mut self, name: &str, value: &str) -> &mut Self {
        self.spec["annotations"][name] = value.into();
        self
    }

    /// Replaces all capability sets.
    pub fn capabilities(&mut self, names: &[&str]) -> &mut Self {
        let names: Vec<_> = names.iter().map(|n| format!("CAP_{n}")).collect();
        for set in ["bounding", "effective", "permitted"] {
            self.spec["process"]["capabilities"][set] = json!(names);
        }
        self
    }

    /// Leaves a namespace to the host, or joins one.
    pub fn namespace(&mut self, kind: &str, path: Option<&Path>) -> &mut Self {
        let list = self.spec["linux"]["namespaces"].as_array_mut().unwrap();
        list.retain(|n| n["type"] != kind);
        if let Some(path) = path {
            list.push(json!({"type": kind, "path": path}));
        }
        self
    }

    /// A process for [`exec`](Self::exec): that of the sandbox with other arguments.
    pub fn process(&self, args: &[&str]) -> Value {
        let mut process = self.spec["process"].clone();
        process["args"] = json!(args);
        process
    }

    fn write_spec(&self) -> PathBuf {
        let path = self.path("config.json");
        fs::write(&path, serde_json::to_vec(&self.spec).unwrap()).unwrap();
        path
    }

    /// The driver of this sandbox, ready to be spawned.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .arg("run")
            .arg(self.write_spec())
            .args(arguments)
            .env_clear()
            .env(DRIVER, "1")
            .stdin(Stdio::null());
        command
    }

    fn finish(&self, mut command: Command) -> Output {
        let output = command.output().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let place = self.directory.path().to_str().unwrap();
        assert!(!mounts.contains(place), "a mount of {place} is left on the host");
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs it.
    pub fn run(&self) -> Output {
        self.finish(self.command(&[]))
    }

    /// Runs it with a terminal.
    pub fn run_with_terminal(&self) -> Output {
        self.finish(self.command(&["--tty"]))
    }

    /// Runs `process` inside it; it should be running something that lasts.
    pub fn exec(&self, process: &Value, more: &[&str]) -> Output {
        let path = self.path("process.json");
        fs::write(&path, serde_json::to_vec(process).unwrap()).unwrap();
        let mut arguments = vec!["--exec", path.to_str().unwrap()];
        arguments.extend(more);
        self.finish(self.command(&arguments))
    }
}

fn specification(args: &[&str]) -> Value {
    let mut spec = Spec::default();
    spec.set_mounts(Some(defaults::mounts(defaults::SHM_SIZE)));
    let mut spec = serde_json::to_value(spec).unwrap();
    spec["root"] = json!({"path": "", "readonly": false});
    spec["hostname"] = "box".into();
    spec["annotations"] = json!({"berth.seccomp": "builtin"});
    spec["process"] = json!({
        "terminal": false,
        "user": {"uid": 0, "gid": 0, "username": ""},
        "args": args,
        "env": [format!("PATH={}", defaults::PATH)],
        "cwd": "/",
        "capabilities": defaults::capability_sets(defaults::CAPABILITIES),
        "oomScoreAdj": 0,
    });
    let namespaces: Vec<_> = defaults::namespaces();
    assert!(namespaces.iter().any(|n| n.typ() == LinuxNamespaceType::Time));
    let sysctls: serde_json::Map<_, _> = defaults::NETWORK_SYSCTLS
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).into()))
        .collect();
    spec["linux"] = json!({
        "namespaces": namespaces,
        "maskedPaths": defaults::masked_paths().unwrap(),
        "readonlyPaths": defaults::READONLY_PATHS,
        "sysctl": sysctls,
        "resources": {"devices": defaults::device_rules()},
    });
    spec
}

/// Everything below `path`: names, kinds, modes, owners, contents.
pub fn fingerprint(path: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    let data = fs::symlink_metadata(path).unwrap();
    let content = if data.is_file() {
        fs::read(path).unwrap()
    } else {
        Vec::new()
    };
    found.push(format!(
        "{} {:o} {}:{} {} {}.{} {content:?}",
        path.display(),
        data.mode(),
        data.uid(),
        data.gid(),
        data.ino(),
        data.mtime(),
        data.mtime_nsec(),
    ));
    if data.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        found.extend(entries.iter().flat_map(|e| fingerprint(e)));
    }
    found
}
