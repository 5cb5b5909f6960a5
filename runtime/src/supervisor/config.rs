//! What a supervisor has to know beside the OCI specification: `supervisor.json` in the bundle.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{Result, error::Context, external::Runtime, failpoint::hit, log::JsonFile};

/// Name of the OCI runtime specification in the bundle.
pub const SPEC_FILE: &str = "config.json";
/// Name of the [`SupervisorConfig`] in the bundle.
pub const CONFIG_FILE: &str = "supervisor.json";
/// Name of the supervisor's own record of what it runs, in the bundle; [`recover()`](super::recover()) reads it.
pub const STATE_FILE: &str = "supervisor-state.json";

/// Settings of one supervisor. Whether there is a terminal, its first size, the cgroup and its limits come from the
/// OCI specification (`process.terminal`, `process.consoleSize`, `linux.cgroupsPath`, `linux.resources`).
///
/// Paths may be relative to the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisorConfig {
    /// Container id.
    pub id: String,
    /// Whether standard input can be written to; otherwise it is `/dev/null`.
    #[serde(default)]
    pub open_stdin: bool,
    /// Whether the end of the first attached client's input closes standard input. Without effect on a terminal.
    #[serde(default)]
    pub stdin_once: bool,
    /// Where output is kept.
    #[serde(default)]
    pub log: LogConfig,
    /// Where the [`ExitStatus`](super::ExitStatus) is written, atomically, before anyone is told.
    #[serde(default = "default_exit_file")]
    pub exit_file: PathBuf,
    /// The supervisor's socket, made with mode 0600.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
    /// Directory on a disk for output that attached clients have yet to take (an unlinked file of at most
    /// [`backlog_max`](Self::backlog_max) bytes, there only while one lags); none: the directory of the log, or the bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backlog_dir: Option<PathBuf>,
    /// How far, in bytes, the slowest attached client may lag before the container's writes are held up.
    #[serde(default = "default_backlog_max")]
    pub backlog_max: u64,
    /// Soft and hard `RLIMIT_NOFILE` that processes get unless their specification sets one; for an engine that has
    /// raised its own. None: they inherit the engine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nofile: Option<(u64, u64)>,
    /// Seconds after which an attached client that holds the container up and takes nothing is disconnected; 0: never.
    #[serde(default = "default_stall_timeout")]
    pub stall_timeout: u64,
    /// Another OCI runtime to run the container by; none: the sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
}

/// Where a container's output is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "kebab-case")]
pub enum LogConfig {
    /// Nowhere.
    #[default]
    None,
    /// In Docker's json-file format.
    JsonFile(JsonFile),
}

fn default_exit_file() -> PathBuf {
    "exit.json".into()
}

fn default_socket() -> PathBuf {
    "supervisor.sock".into()
}

fn default_backlog_max() -> u64 {
    16 << 20
}

fn default_stall_timeout() -> u64 {
    60
}

impl SupervisorConfig {
    /// The configuration of container `id` with every default and the given log.
    pub fn new(id: impl Into<String>, log: LogConfig) -> Self {
        Self {
            id: id.into(),
            open_stdin: false,
            stdin_once: false,
            log,
            exit_file: default_exit_file(),
            socket: default_socket(),
            backlog_dir: None,
            nofile: None,
            backlog_max: default_backlog_max(),
            stall_timeout: default_stall_timeout(),
            runtime: None,
        }
    }

    /// Reads it from `bundle`.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) if the file cannot be read or does not hold one.
    pub fn load(bundle: &Path) -> Result<Self> {
        let path = bundle.join(CONFIG_FILE);
        let bytes = fs::read(&path).context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&bytes)
            .context(|| format!("{} is not a supervisor's configuration", path.display()))
    }

    /// Writes it into `bundle`, replacing what is there in one step.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) if the file cannot be written.
    pub fn store(&self, bundle: &Path) -> Result<()> {
        write_json(&bundle.join(CONFIG_FILE), self)
    }
}

/// Writes `value` to `path` in one step: readers see the old content or the new, never a part.
pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let message = || format!("cannot write {}", path.display());
    let bytes = serde_json::to_vec(value).context(message)?;
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    hit("bundle.create").context(message)?;
    let mut file = fs::File::create(&temporary).context(message)?;
    hit("bundle.write").context(message)?;
    file.write_all(&bytes).context(message)?;
    hit("bundle.rename")
        .and_then(|()| fs::rename(&temporary, path))
        .context(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_round_trips_and_has_defaults() {
        let bundle = tempfile::tempdir().unwrap();
        let config = SupervisorConfig::new("abc", LogConfig::JsonFile(JsonFile::new("/logs/abc-json.log")));
        config.store(bundle.path()).unwrap();
        assert_eq!(SupervisorConfig::load(bundle.path()).unwrap(), config);

        let short: SupervisorConfig =
            serde_json::from_str(r#"{"id":"abc","log":{"driver":"json-file","path":"/logs/abc-json.log"}}"#)
                .unwrap();
        assert_eq!(short, config);
    }
}
