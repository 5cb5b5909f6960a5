//! An engine for one test: its own data root, run root, socket and instance name.

use std::{
    fs::{self, File},
    os::unix::{ffi::OsStrExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    net::UnixDatagram,
    process::{Child, Command},
};

use crate::{
    census::{self, Census},
    client::{Client, PATIENCE},
};

/// How to start an engine.
#[derive(Clone, Debug, Default)]
pub struct Options {
    flags: Vec<String>,
    env: Vec<(String, String)>,
}

/// A running engine. [`Engine::finish`] ends it and takes the census; a test that forgets it fails.
#[derive(Debug)]
pub struct Engine {
    /// The client of its socket.
    pub api: Client,
    /// The instance name, which everything it makes on the host carries.
    pub name: String,
    root: TempDir,
    options: Options,
    child: Option<Child>,
    before: Census,
    finished: bool,
}

impl Options {
    /// Adds a flag of berthd.
    #[must_use]
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the engine and waits until it is ready.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(self) -> Engine {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(
            geteuid().is_root(),
            "the black-box tests make namespaces, mounts and cgroups: run them as root"
        );
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // None is the beginning of another: what belongs to an engine is found by its name.
        let name = format!("t{}x{number:03}", std::process::id());
        let root = tempfile::Builder::new()
            .prefix(&format!("berth-{name}-"))
            .tempdir();
        let root = root.expect("a directory for temporary files");
        let before = Census::take(&name, root.path());
        let mut engine = Engine {
            api: Client::new(root.path().join("api.sock")),
            name,
            root,
            options: self,
            child: None,
            before,
            finished: false,
        };
        engine.launch().await;
        engine
    }
}

/// The binary under test: `$BERTHD`, else the one beside the test's own binary.
///
/// # Panics
/// If there is none.
pub fn berthd() -> PathBuf {
    if let Some(path) = std::env::var_os("BERTHD") {
        return path.into();
    }
    let own = std::env::current_exe().expect("/proc/self/exe");
    let path = own
        .parent()
        .and_then(Path::parent)
        .map(|target| target.join("berthd"))
        .unwrap_or_default();
    assert!(
        path.is_file(),
        "{} does not exist; build it first: cargo build -p berth-server --bin berthd (or set BERTHD)",
        path.display()
    );
    path
}

impl Engine {
    /// Starts an engine with nothing special.
    pub async fn start() -> Self {
        Options::default().start().await
    }

    /// To start one with flags.
    pub fn options() -> Options {
        Options::default()
    }

    /// The directory below which the engine keeps everything.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Where it keeps what persists.
    pub fn data_root(&self) -> PathBuf {
        self.root().join("data")
    }

    /// Where it keeps what lasts until the next boot.
    pub fn exec_root(&self) -> PathBuf {
        self.root().join("run")
    }

    /// Its process.
    ///
    /// # Panics
    /// If it does not run.
    pub fn pid(&self) -> i32 {
        let id = self.child.as_ref().and_then(Child::id).expect("the engine runs");
        i32::try_from(id).expect("a pid")
    }

    /// Whether it has been started and not been waited for.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.root().join("berthd.log")).unwrap_or_default()).into_owned()
    }

    async fn launch(&mut self) {
        if let Err(error) = self.begin().await {
            panic!("{error}; its log:\n{}", self.log());
        }
    }

    /// Starts it again after it has ended, where it may end at once. Gives whether it is ready.
    pub async fn try_launch(&mut self) -> bool {
        assert!(self.child.is_none(), "the engine still runs");
        let begun = self.begin().await;
        if begun.is_err() {
            self.child = None;
        }
        begun.is_ok()
    }

    async fn begin(&mut self) -> Result<(), String> {
        let notify = self.root().join("notify.sock");
        let _ = fs::remove_file(&notify);
        let ready = UnixDatagram::bind(&notify).expect("a socket for readiness");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.root().join("berthd.log"))
            .expect("a log");
        let mut command = Command::new(berthd());
        command
            .arg("--data-root")
            .arg(self.data_root())
            .arg("--exec-root")
            .arg(self.exec_root())
            .arg("--instance")
            .arg(&self.name)
            .arg("--host")
            .arg(format!("unix://{}", self.api.socket().display()))
            .args(&self.options.flags)
            .envs(self.options.env.iter().map(|(name, value)| (name, value)))
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {:?}: {error}", berthd()));
        let outcome = tokio::select! {
            came = wait_ready(&ready) => came,
            status = child.wait() => Err(format!("berthd ended: {}", status.expect("a status"))),
            () = tokio::time::sleep(PATIENCE) => Err(format!("berthd was not ready within {PATIENCE:?}")),
        };
        self.child = Some(child);
        // Connections of an earlier process are of no use.
        self.api = Client::new(self.api.socket());
        outcome
    }

    /// Starts it again after it has ended.
    pub async fn launch_again(&mut self) {
        assert!(self.child.is_none(), "the engine still runs");
        self.launch().await;
    }

    /// Ends it with SIGTERM, as an init system does. Containers go on.
    ///
    /// # Panics
    /// If it does not end, or not with success.
    pub async fn stop(&mut self) {
        let status = self.end(Signal::SIGTERM).await;
        assert!(
            status.success(),
            "berthd ended with {status} on SIGTERM; its log:\n{}",
            self.log()
        );
    }

    /// Asks it to end by SIGTERM and waits until it has, however it did.
    pub async fn terminate(&mut self) {
        self.end(Signal::SIGTERM).await;
    }

    /// Every process of it: its own, the spawner, supervisors, and those of containers.
    pub fn processes(&self) -> Vec<(i32, String)> {
        census::processes(&self.name, self.root.path())
    }

    /// Ends it with SIGKILL. Containers go on.
    ///
    /// # Panics
    /// If it had already ended by itself.
    pub async fn kill9(&mut self) {
        let status = self.end(Signal::SIGKILL).await;
        assert_eq!(
            status.signal(),
            Some(9),
            "berthd had ended with {status}; its log:\n{}",
            self.log()
        );
    }

    /// Whether it has ended, within `patience`. Then it can be started again.
    pub async fn has_died(&mut self, patience: Duration) -> bool {
        let Some(child) = &mut self.child else { return true };
        if tokio::time::timeout(patience, child.wait()).await.is_err() {
            return false;
        }
        self.child = None;
        true
    }

    /// Ends it and starts it again.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.launch().await;
    }

    /// Kills it and starts it again.
    pub async fn crash(&mut self) {
        self.kill9().await;
        self.launch().await;
    }

    async fn end(&mut self, signal: Signal) -> ExitStatus {
        let mut child = self.child.take().expect("the engine runs");
        if let Some(id) = child.id() {
            kill(Pid::from_raw(i32::try_from(id).expect("a pid")), signal).expect("the engine is ours");
        }
        match tokio::time::timeout(PATIENCE, child.wait()).await {
            Ok(status) => status.expect("a status"),
            Err(_) => panic!(
                "berthd did not end within {PATIENCE:?} of {signal}; its log:\n{}",
                self.log()
            ),
        }
    }

    /// Removes everything through the API, ends the engine and compares the host with what it was before.
    ///
    /// # Panics
    /// If anything is left behind, or the engine has panicked meanwhile.
    pub async fn finish(mut self) {
        if self.child.is_none() {
            self.launch().await;
        }
        let ids = self.remove_all().await;
        let traces = census::traces(&[self.data_root(), self.exec_root()], &ids);
        self.stop().await;
        let log = self.log();
        assert!(
            !log.contains("panicked at"),
            "the engine panicked; its log:\n{log}"
        );
        assert!(
            traces.is_empty(),
            "removed containers have left files: {traces:#?}"
        );
        self.before.await_return(&self.name, self.root.path());
        self.finished = true;
        let path = self.root.path().to_owned();
        // The directory goes by an ordinary removal: what is still mounted or immutable shows here.
        fs::remove_dir_all(&path).unwrap_or_else(|error| panic!("cannot remove {}: {error}", path.display()));
    }

    /// What of it is on the host and on disk: the census without its own process, and the names of its files. Two of them
    /// are the same if nothing was left behind in between.
    pub fn traces(&self) -> Vec<String> {
        let mut all = Census::take(&self.name, self.root.path()).lines();
        all.retain(|line| !line.contains("berthd --data-root"));
        for line in &mut all {
            // Whether it runs or sleeps at this moment tells nothing.
            if line.starts_with("process")
                && !line.contains("(Z ")
                && let Some(end) = line.rfind(" (")
                && let Some(text) = line.get(..end)
            {
                *line = text.trim_end_matches('(').to_owned();
            }
            // A process that has been replaced has another width for its title.
            if line.starts_with("process") {
                *line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            }
        }
        for root in [self.data_root(), self.exec_root()] {
            all.extend(census::tree(&root));
        }
        all.sort();
        all
    }

    /// Removes containers, and the networks and volumes of this engine; gives the ids of the containers.
    async fn remove_all(&self) -> Vec<String> {
        let list = self.api.get("/containers/json?all=1").await.expect(200).json();
        let mut ids = Vec::new();
        for container in list.as_array().into_iter().flatten() {
            let id = container["Id"].as_str().expect("an id").to_owned();
            let reply = self.api.delete(&format!("/containers/{id}?force=1&v=1")).await;
            // One with AutoRemove may be going by itself.
            assert!(
                [204, 404, 409].contains(&reply.status().as_u16()),
                "{}",
                reply.text()
            );
            ids.push(id);
        }
        let volumes = self.api.get("/volumes").await;
        if volumes.status() == 200 {
            for name in volumes.json()["Volumes"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|v| v["Name"].as_str())
            {
                self.api
                    .delete(&format!("/volumes/{name}?force=1"))
                    .await
                    .expect(204);
            }
        }
        let networks = self.api.get("/networks").await;
        if networks.status() == 200 {
            let builtin = ["bridge", "host", "none"].map(Value::from);
            for network in networks.json().as_array().into_iter().flatten() {
                if !builtin.contains(&network["Name"]) {
                    let id = network["Id"].as_str().expect("an id");
                    self.api.delete(&format!("/networks/{id}")).await.expect(204);
                }
            }
        }
        ids
    }
}

async fn wait_ready(socket: &UnixDatagram) -> Result<(), String> {
    let mut buffer = [0; 4096];
    loop {
        let length = socket
            .recv(&mut buffer)
            .await
            .map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
        if text.lines().any(|line| line == "READY=1") {
            return Ok(());
        }
    }
}

impl Drop for Engine {
    /// After a failed test: nothing is checked any more, everything is removed by force.
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let failing = std::thread::panicking();
        if failing {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines
                .get(lines.len().saturating_sub(60)..)
                .unwrap_or_default()
                .join("\n");
            let tests = std::thread::current().name().unwrap_or_default().to_owned();
            #[allow(clippy::print_stderr, reason = "shown with the failed test")]
            {
                eprintln!("--- last lines of berthd's log ({tests}) ---\n{last}\n---");
            }
        }
        if let Some(id) = self.child.as_ref().and_then(Child::id) {
            let _ = kill(
                Pid::from_raw(i32::try_from(id).unwrap_or(0).max(1)),
                Signal::SIGKILL,
            );
        }
        census::clear(&self.name, self.root.path());
        if let Some(mut child) = self.child.take() {
            // The pid stays reserved until the child has been waited for.
            while matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        assert!(
            failing,
            "this test did not call Engine::finish, so its census was not taken"
        );
    }
}

/// Whether `bytes` contain `text`.
pub(crate) fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len().max(1))
        .any(|window| window == text.as_bytes())
}

/// Whether a path mentions `text`.
pub(crate) fn mentions(path: &Path, text: &str) -> bool {
    contains(path.as_os_str().as_bytes(), text)
}
