//! What became of a container whose supervisor we do not hold: for an engine that has been restarted, and for one that
//! sees a control connection end without an exit event.

use std::{
    fs, io,
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{
    client::connect_control,
    config::{SupervisorConfig, write_json},
    process::{cgroup_path, load_spec, lock},
    protocol::ExitStatus,
    state::State,
};
use crate::{Error, Kind, Result, cgroup::Cgroup, error::Context};

/// How long a supervisor may take to create its sandbox, or to finish with it, before it is said to be stuck.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often to look meanwhile.
const LOOK: Duration = Duration::from_millis(5);

/// How long killed processes may take to go.
const DYING: Duration = Duration::from_secs(5);

/// What became of a container.
#[derive(Debug)]
pub enum Recovered {
    /// Its supervisor lives; the control connection's first line to come is its state.
    Alive(UnixStream),
    /// It has ended, and this is how.
    Exited(ExitStatus),
    /// Its supervisor was killed. What was left of the container has been killed too, and this status written.
    Lost(ExitStatus),
}

/// Finds out what became of the container of `bundle` and leaves it either supervised or ended, with its exit file.
/// Blocks: usually for well under a millisecond, for seconds if processes have to be killed.
///
/// # Errors
/// [`Kind::Unavailable`] if a supervisor holds the bundle and does not answer, [`Kind::Internal`] if the bundle
/// cannot be read.
pub fn recover(bundle: &Path) -> Result<Recovered> {
    let config = SupervisorConfig::load(bundle)?;
    let exit_file = bundle.join(&config.exit_file);
    let socket = bundle.join(&config.socket);
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(_lock) = claim(bundle)? {
            return match read_status(&exit_file)? {
                Some(status) => {
                    clear_away(bundle, &config)?;
                    Ok(Recovered::Exited(status))
                }
                None => bury(bundle, &config, &exit_file).map(Recovered::Lost),
            };
        }
        match connect_control(&socket) {
            Ok(control) => return Ok(Recovered::Alive(control)),
            // It is about to listen, or about to let go of the bundle.
            Err(_) if Instant::now() < deadline => std::thread::sleep(LOOK),
            Err(e) => {
                return Err(Error::new(
                    Kind::Unavailable,
                    format!("the supervisor of container {} does not answer", config.id),
                )
                .caused_by(e));
            }
        }
    }
}

/// The bundle's lock, if nobody holds it.
fn claim(bundle: &Path) -> Result<Option<fs::File>> {
    match lock(bundle) {
        Ok(lock) => Ok(Some(lock)),
        Err(e) if e.kind() == Kind::Conflict => Ok(None),
        Err(e) => Err(e),
    }
}

fn read_status(path: &Path) -> Result<Option<ExitStatus>> {
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.context(|| format!("cannot read {}", path.display()))?,
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .context(|| format!("{} is not an exit status", path.display()))
}

/// Ends what a killed supervisor has left behind and writes the status it could not write.
fn bury(bundle: &Path, config: &SupervisorConfig, exit_file: &Path) -> Result<ExitStatus> {
    let state = State::load(bundle);
    if let Some(state) = &state {
        state.init.kill().context(|| {
            format!(
                "cannot kill process {} of container {}",
                state.init.pid, config.id
            )
        })?;
    }
    let cgroup = cgroup_of(bundle, &config.id, state.as_ref())?;
    let oom_killed = cgroup
        .as_ref()
        .is_some_and(|c| c.oom_kills().is_ok_and(|kills| kills > 0));
    if let Some(cgroup) = cgroup {
        clear(&cgroup)?;
    }
    let status = ExitStatus {
        pid: state.as_ref().map_or(0, |s| s.init.pid),
        exit_code: 128 + libc::SIGKILL,
        signal: Some(libc::SIGKILL),
        oom_killed,
        started_at: state.and_then(|s| s.started_at),
        finished_at: Timestamp::now(),
        error: Some("the container's supervisor was killed".into()),
    };
    write_json(exit_file, &status)?;
    remove_socket(bundle, config)?;
    Ok(status)
}

/// What a supervisor has left that was killed between the writing of the status and its own end.
fn clear_away(bundle: &Path, config: &SupervisorConfig) -> Result<()> {
    if let Some(cgroup) = cgroup_of(bundle, &config.id, State::load(bundle).as_ref())? {
        clear(&cgroup)?;
    }
    remove_socket(bundle, config)
}

/// The container's cgroup, if there still is any of it.
fn cgroup_of(bundle: &Path, id: &str, state: Option<&State>) -> Result<Option<Cgroup>> {
    match state {
        Some(state) => Ok(Some(state.cgroup.clone())),
        None => load_spec(bundle).and_then(|spec| {
            let (parent, name) = cgroup_path(&spec, id);
            Cgroup::open(&parent, &name)
        }),
    }
}

fn remove_socket(bundle: &Path, config: &SupervisorConfig) -> Result<()> {
    match fs::remove_file(bundle.join(&config.socket)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

fn clear(cgroup: &Cgroup) -> Result<()> {
    let deadline = Instant::now() + DYING;
    while !cgroup.pids()?.is_empty() && Instant::now() < deadline {
        cgroup.kill_all()?;
        std::thread::sleep(LOOK);
    }
    cgroup.remove()
}
