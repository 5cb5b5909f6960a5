//! A bundle to launch, a container to talk to.

use std::{
    fs,
    io::Read,
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use berth_runtime::{
    cgroup::Cgroup,
    log::{Format, JsonFile, Progress, Query, Reader},
    sandbox::defaults,
    supervisor::{
        Control, Event, ExitStatus, Launched, LogConfig, Request, Spawner, Streams, SupervisorConfig,
        connect_attach, connect_control,
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::SPAWNER;

/// Nothing here takes long; who waits longer than this waits in vain.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const OUTPUT: Streams = Streams {
    stdin: false,
    stdout: true,
    stderr: true,
};
pub const ALL: Streams = Streams {
    stdin: true,
    ..OUTPUT
};

/// The root file system that all containers share, read-only.
fn root() -> &'static Path {
    static ROOT: OnceLock<TempDir> = OnceLock::new();
    let root = ROOT.get_or_init(|| {
        let root = tempfile::tempdir().unwrap();
        for directory in ["bin", "dev", "proc", "sys", "tmp", "etc"] {
            fs::create_dir(root.path().join(directory)).unwrap();
        }
        let bin = root.path().join("bin");
        fs::copy("/bin/busybox", bin.join("busybox")).expect("a static busybox at /bin/busybox");
        for applet in "cat dd echo head kill mkdir seq sh sleep stty tr true tty wc yes".split(' ') {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        let script = bin.join("orphan");
        fs::write(&script, "#!/nonexistent\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        root
    });
    root.path()
}

/// The parent of all cgroups of this run.
fn cgroups() -> String {
    format!("berth-supervisor-test-{}", std::process::id())
}

/// Removes what the tests share.
pub fn clean_up() {
    if let Ok(Some(parent)) = Cgroup::open("/", &cgroups()) {
        parent.remove().unwrap();
    }
    let _ = fs::remove_dir_all(root());
}

/// Waits for something that is about to happen and has no event of its own.
pub fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What to run and how.
pub struct Bundle {
    pub directory: TempDir,
    pub spec: Value,
    pub config: SupervisorConfig,
    id: String,
}

impl Bundle {
    /// `sh -c script`, with a log.
    pub fn shell(script: &str) -> Self {
        Self::command(&["/bin/sh", "-c", script])
    }

    pub fn command(command: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::tempdir().unwrap();
        let mounts: Vec<Value> = defaults::mounts(1 << 20)
            .into_iter()
            .filter(|m| m.destination() != Path::new("/sys/fs/cgroup"))
            .map(|m| serde_json::to_value(m).unwrap())
            .collect();
        let spec = json!({
            "ociVersion": "1.2.0",
            "process": {
                "terminal": false,
                "user": { "uid": 0, "gid": 0 },
                "args": command,
                "env": ["PATH=/bin"],
                "cwd": "/",
            },
            "root": { "path": root(), "readonly": true },
            "mounts": mounts,
            "linux": {
                "namespaces": defaults::namespaces(),
                "cgroupsPath": format!("/{}/{id}", cgroups()),
                "resources": { "devices": defaults::device_rules() },
            },
        });
        let log = LogConfig::JsonFile(JsonFile::new("container.log"));
        Self {
            directory,
            spec,
            config: SupervisorConfig::new(&id, log),
            id,
        }
    }

    pub fn terminal(mut self, height: u16, width: u16) -> Self {
        self.spec["process"]["terminal"] = true.into();
        self.spec["process"]["consoleSize"] = json!({ "height": height, "width": width });
        self
    }

    /// Standard input is open; `once`: until the first client's input ends.
    pub fn stdin(mut self, once: bool) -> Self {
        self.config.open_stdin = true;
        self.config.stdin_once = once;
        self
    }

    /// With an init in front of the command.
    pub fn init(mut self) -> Self {
        self.spec["annotations"] = json!({ "berth.init": "true" });
        self
    }

    pub fn log(mut self, change: impl FnOnce(&mut JsonFile)) -> Self {
        if let LogConfig::JsonFile(log) = &mut self.config.log {
            change(log);
        }
        self
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn write(&self) {
        fs::write(self.path().join("config.json"), self.spec.to_string()).unwrap();
        self.config.store(self.path()).unwrap();
    }

    /// Launches it with the common spawner.
    pub fn launch_raw(&self) -> Control {
        self.write();
        let launched = SPAWNER.get().unwrap().launch(self.path()).unwrap();
        launched.control.set_read_timeout(Some(PATIENCE)).unwrap();
        Control::new(launched.control)
    }

    /// Launches it with the common spawner and waits until it is created.
    pub fn launch(self) -> Container {
        self.launch_with(SPAWNER.get().unwrap())
    }

    pub fn launch_with(self, spawner: &Spawner) -> Container {
        self.write();
        let launched = spawner.launch(self.path()).unwrap();
        launched.control.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut container = Container {
            supervisor: launched.supervisor_pid,
            control: Control::new(launched.control.try_clone().unwrap()),
            launched,
            pid: 0,
            bundle: self,
        };
        match container.event() {
            Event::Created { pid } => container.pid = pid,
            other => panic!("{other:?}"),
        }
        container
    }

    /// Launches and starts it.
    pub fn start(self) -> Container {
        let mut container = self.launch();
        container.start();
        container
    }
}

/// A launched container.
pub struct Container {
    pub bundle: Bundle,
    pub launched: Launched,
    pub control: Control,
    pub supervisor: i32,
    pub pid: i32,
}

impl Container {
    pub fn start(&mut self) {
        match self.control.call(Request::Start {}).unwrap() {
            Event::Started { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    /// Closes all connections to it and leaves it alone.
    pub fn leave(mut self) -> Bundle {
        std::mem::replace(&mut self.bundle, Bundle::command(&[]))
    }

    pub fn event(&mut self) -> Event {
        self.control.next_event().unwrap().expect("an event")
    }

    pub fn socket(&self) -> PathBuf {
        self.bundle.path().join("supervisor.sock")
    }

    pub fn attach(&self, streams: Streams) -> UnixStream {
        let attached = connect_attach(&self.socket(), streams).unwrap();
        attached.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        attached.stream
    }

    /// A further control connection.
    pub fn connect(&self) -> Control {
        let stream = connect_control(&self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Control::new(stream)
    }

    pub fn signal(&mut self, number: i32) {
        self.control.call(Request::Signal { number, exec: None }).unwrap();
    }

    /// Waits for the exit event, checks it against the exit file and the end of the connection.
    pub fn exit(&mut self) -> ExitStatus {
        self.exit_and(|_| {})
    }

    /// As [`exit`](Self::exit), and shows `see` the events before.
    pub fn exit_and(&mut self, mut see: impl FnMut(&Event)) -> ExitStatus {
        let status = loop {
            match self.event() {
                Event::Exit(status) => break status,
                other => see(&other),
            }
        };
        assert_eq!(self.exit_file(), status);
        assert!(self.control.next_event().unwrap().is_none());
        assert!(!self.socket().exists());
        assert!(self.cgroup().is_none());
        status
    }

    pub fn exit_file(&self) -> ExitStatus {
        serde_json::from_slice(&fs::read(self.bundle.path().join("exit.json")).unwrap()).unwrap()
    }

    pub fn cgroup(&self) -> Option<Cgroup> {
        Cgroup::open(&format!("/{}", cgroups()), &self.bundle.id).unwrap()
    }

    /// All that is in the log, as plain text.
    pub fn logged(&self) -> String {
        let query = Query {
            stdout: true,
            stderr: true,
            ..Query::default()
        };
        let mut reader = Reader::open(&self.bundle.path().join("container.log"), query).unwrap();
        let mut out = Vec::new();
        let progress = reader.fill(&Format::default(), &mut out, usize::MAX).unwrap();
        assert_eq!(progress, Progress::End);
        String::from_utf8(out).unwrap()
    }

    /// Waits until the supervisor is gone.
    pub fn wait_for_supervisor(&self) {
        eventually("the supervisor has ended", || !alive(self.supervisor));
    }

    /// A line of the supervisor's `/proc/…/smaps_rollup`, in KiB; 0 if it has ended.
    pub fn memory(&self, line: &str) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.supervisor);
        let rollup = fs::read_to_string(path).unwrap_or_default();
        let Some(line) = rollup.lines().find_map(|l| l.strip_prefix(line)) else {
            return 0;
        };
        let number = line.trim_start_matches(':').trim().trim_end_matches(" kB");
        number.parse().unwrap()
    }
}

impl Drop for Container {
    /// A test that has failed leaves nothing behind either.
    fn drop(&mut self) {
        if let Ok(mut control) = connect_control(&self.socket()).map(Control::new) {
            let _ = control.send(Request::KillAll {});
            while let Ok(Some(_)) = control.next_event() {}
        }
    }
}

/// Whether process `pid` exists and is not a zombie.
pub fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Reads frames to the end; gives what standard output and standard error carried.
pub fn frames(stream: &mut UnixStream) -> (String, String) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    demultiplex(&bytes)
}

pub fn demultiplex(mut bytes: &[u8]) -> (String, String) {
    let mut streams = [Vec::new(), Vec::new()];
    while let Some((header, rest)) = bytes.split_at_checked(8) {
        let [number, 0, 0, 0, length @ ..] = header else {
            panic!("{header:?} is no frame header");
        };
        let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
        let (payload, rest) = rest.split_at(length);
        streams[usize::from(*number) - 1].extend_from_slice(payload);
        bytes = rest;
    }
    assert!(bytes.is_empty());
    let [out, err] = streams.map(|s| String::from_utf8(s).unwrap());
    (out, err)
}
