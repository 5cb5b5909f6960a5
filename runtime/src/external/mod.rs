//! Containers by another OCI runtime: a program with runc's command line, driven in the place of the sandbox.
//!
//! The caller is a container's supervisor. It takes in the processes that the program leaves behind (as their subreaper)
//! and so sees their ends. Everything that the program keeps lies in the bundle and goes with it.

mod command;
mod terminal;
mod translate;

use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use nix::unistd::Pid;
use oci_spec::runtime::{Process, Spec};
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use self::terminal::ConsoleSocket;
use crate::{
    Error, Kind, Result,
    error::Context,
    sandbox::{Sandbox, StartError, Stdio},
};

/// Bundle that the program is given, inside the supervisor's.
const BUNDLE: &str = "oci";
/// What the program keeps, inside the supervisor's bundle.
const STATE: &str = "oci-state";
/// Where the program writes process ids, inside the supervisor's bundle.
const PID_FILE: &str = "oci.pid";

/// Words in front of errors, as Docker's clients know them.
const CREATE: &str =
    "failed to create task for container: failed to create shim task: OCI runtime create failed";
const EXEC: &str = "OCI runtime exec failed";

/// A program with runc's command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// The program: absolute, or looked for along `PATH`.
    pub path: PathBuf,
    /// Arguments in front of the command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<String>,
}

/// A container of such a program.
#[derive(Clone, Debug)]
pub(crate) struct External {
    runtime: Runtime,
    bundle: PathBuf,
    id: String,
}

impl External {
    /// The container `id` of the supervisor's directory `bundle`.
    pub fn new(runtime: &Runtime, bundle: &Path, id: &str) -> Self {
        Self {
            runtime: runtime.clone(),
            bundle: bundle.to_owned(),
            id: id.to_owned(),
        }
    }

    /// Makes the container, whose program then waits for [`start`](Self::start). The calling process gets a mount
    /// namespace of its own, in which the root is mounted.
    pub fn create(&self, spec: &Spec, stdio: Stdio) -> Result<Sandbox, StartError> {
        self.try_create(spec, stdio).map_err(|e| in_context(CREATE, &e))
    }

    fn try_create(&self, spec: &Spec, stdio: Stdio) -> Result<Sandbox> {
        nix::sys::prctl::set_child_subreaper(true).context(|| "cannot become a subreaper")?;
        let directory = self.bundle.join(BUNDLE);
        fs::create_dir_all(&directory).context(|| format!("cannot make {}", directory.display()))?;
        let translated = translate::spec(spec)?;
        let file = directory.join("config.json");
        let bytes = serde_json::to_vec(&translated).context(|| "cannot write the specification")?;
        fs::write(&file, bytes).context(|| format!("cannot write {}", file.display()))?;
        let bundle = directory.to_string_lossy().into_owned();
        let made = self.spawn(&["create", "--bundle", &bundle], &[], stdio);
        if made.is_err() {
            // What it left behind must not outlive the failure, which is what is told.
            let _ = self.delete();
        }
        made
    }

    /// Has the program of a created container executed.
    pub fn start(&self) -> Result<(), StartError> {
        self.run(&["start", &self.id], None)
            .map_err(|e| in_context(CREATE, &e))
    }

    /// Runs a further process in the container whose first process is `init`.
    pub fn exec(
        &self,
        init: i32,
        spec: &Spec,
        process: &Process,
        stdio: Stdio,
        name: &str,
    ) -> Result<Sandbox, StartError> {
        let try_exec = || -> Result<Sandbox> {
            let root = Path::new("/proc").join(init.to_string()).join("root");
            let process = translate::process(process, spec, &root)?;
            let file = self.bundle.join(format!("oci-exec-{name}.json"));
            let bytes = serde_json::to_vec(&process).context(|| "cannot describe the process")?;
            fs::write(&file, bytes).context(|| format!("cannot write {}", file.display()))?;
            let path = file.to_string_lossy().into_owned();
            let made = self.spawn(&["exec", "--detach", "--process", &path], &[], stdio);
            fs::remove_file(&file).context(|| format!("cannot remove {}", file.display()))?;
            made
        };
        try_exec().map_err(|e| in_context(EXEC, &e))
    }

    /// Has the program remove what it keeps of a container, whatever its state.
    pub fn delete(&self) -> Result<()> {
        self.run(&["delete", "--force", &self.id], None)
    }

    /// Runs a command that leaves a process behind.
    fn spawn(&self, words: &[&str], more: &[&str], stdio: Stdio) -> Result<Sandbox> {
        let pid_file = self.bundle.join(PID_FILE);
        let pid_path = pid_file.to_string_lossy().into_owned();
        let console = match &stdio {
            Stdio::Terminal { .. } => Some(ConsoleSocket::listen()?),
            Stdio::Pipes { .. } => None,
        };
        let socket = console.as_ref().map(|c| c.path().to_string_lossy().into_owned());
        let mut all = words.to_vec();
        all.extend(["--pid-file", &pid_path]);
        if let Some(socket) = &socket {
            all.extend(["--console-socket", socket]);
        }
        all.extend(more);
        all.push(&self.id);
        self.run(&all, Some(&stdio))?;
        let terminal = match (&console, &stdio) {
            (Some(console), Stdio::Terminal { height, width }) => Some(console.receive(*height, *width)?),
            _ => None,
        };
        let (pid, pidfd) = read_pid(&pid_file)?;
        fs::remove_file(&pid_file).context(|| format!("cannot remove {}", pid_file.display()))?;
        let external = (words.first() == Some(&"create")).then(|| self.clone());
        Ok(Sandbox::external(pid, pidfd, terminal, external))
    }
}

/// The process that the program has left behind: a child of the caller, so that its number stays its own.
fn read_pid(file: &Path) -> Result<(Pid, OwnedFd)> {
    let message = || format!("cannot read the process id in {}", file.display());
    let text = fs::read_to_string(file).context(message)?;
    let number: i32 = text.trim().parse().context(message)?;
    let pid = rustix::process::Pid::from_raw(number)
        .ok_or_else(|| Error::internal(format!("{} holds no process id", file.display())))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context(|| format!("cannot open process {number}"))?;
    Ok((Pid::from_raw(number), pidfd))
}

/// An error with Docker's words around it and the exit code that they stand for.
fn in_context(context: &str, error: &Error) -> StartError {
    let text = error.to_string();
    if error.kind() == Kind::NotFound {
        // Users and groups are looked up before anything runs, and reported plainly.
        return StartError::other(text);
    }
    let has = |part: &str| text.contains(part);
    let message = format!("{context}: {text}: unknown");
    // As dockerd tells them apart.
    if has("executable file not found")
        || has("no such file or directory")
        || has("system cannot find the file")
    {
        StartError::not_found(message)
    } else if has("permission denied") || has("is a directory") || has("not a directory") {
        StartError::not_executable(message)
    } else {
        StartError {
            code: 128,
            error: Error::new(error.kind(), message),
        }
    }
}
