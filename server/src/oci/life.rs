//! `start`, `kill`, `delete`, `pause` and `resume`.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use berth_runtime::{
    Error, Kind, Result,
    error::Context as _,
    sandbox::{self, Gate, Point},
};
use clap::Args;
use nix::sys::signal::Signal;
use oci_spec::runtime::ContainerState;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    Context,
    record::{Directory, Record, Status},
};

/// How long a killed container may take to end, in seconds.
const PATIENCE: i64 = 10;

/// `start`.
#[derive(Args, Debug)]
pub(super) struct Start {
    /// Name of the container
    id: String,
}

/// `kill`.
#[derive(Args, Debug)]
pub(super) struct Kill {
    /// Send the signal to all processes of the container
    #[arg(short, long)]
    all: bool,
    /// Name of the container
    id: String,
    /// Name or number of the signal
    #[arg(default_value = "SIGTERM", allow_hyphen_values = true)]
    signal: String,
}

/// `delete`.
#[derive(Args, Debug)]
pub(super) struct Delete {
    /// End the container first, if it runs; fine if there is none
    #[arg(short, long)]
    force: bool,
    /// Name of the container
    id: String,
}

/// `pause`.
#[derive(Args, Debug)]
pub(super) struct Pause {
    /// Name of the container
    id: String,
}

/// `resume`.
#[derive(Args, Debug)]
pub(super) struct Resume {
    /// Name of the container
    id: String,
}

impl Start {
    pub fn run(self, context: &Context) -> Result<()> {
        let directory = context.directory(&self.id)?;
        let record = directory.load()?;
        start(&directory, &record)
    }
}

/// Lets a created container execute its program.
pub(super) fn start(directory: &Directory, record: &Record) -> Result<()> {
    let _lock = directory.lock()?;
    match directory.status(record) {
        Status::Created => {}
        Status::Stopped => return Err(Error::conflict("cannot start a container that has stopped")),
        Status::Running | Status::Paused => {
            return Err(Error::conflict("cannot start an already running container"));
        }
    }
    let spec = directory.spec()?;
    let opened = Gate::open(&directory.gate());
    // Whatever came of it, nobody waits there any more.
    let removed = std::fs::remove_file(directory.gate());
    opened?;
    removed.context(|| "cannot remove the container's gate")?;
    let hooks = record.hooks(&spec);
    let ran = hooks.run(Point::Poststart, ContainerState::Running, Some(record.init.pid));
    if ran.is_err() {
        // A failed hook is the end of the container.
        let _ = record.init.kill();
    }
    ran
}

impl Kill {
    pub fn run(self, context: &Context) -> Result<()> {
        let number = number(&self.signal)?;
        let directory = context.directory(&self.id)?;
        let record = directory.load()?;
        if self.all {
            return kill_all(&record, number);
        }
        let not_running = || Error::conflict("container not running");
        if directory.status(&record) == Status::Stopped {
            return Err(not_running());
        }
        let pidfd = process(&record)?.ok_or_else(not_running)?;
        if number == 0 {
            return Ok(());
        }
        sandbox::signal(pidfd.as_fd(), number).map_err(|e| match e.kind() {
            Kind::NotFound => not_running(),
            _ => e,
        })?;
        // A frozen process acts on it only when it goes on; the last signal is not to wait.
        if number == libc_kill() && record.cgroup.is_frozen().unwrap_or(false) {
            record.cgroup.thaw()?;
        }
        Ok(())
    }
}

fn libc_kill() -> i32 {
    Signal::SIGKILL as i32
}

fn process(record: &Record) -> Result<Option<OwnedFd>> {
    record
        .init
        .pidfd()
        .context(|| "cannot find the container's process")
}

/// Signals every process of the container.
fn kill_all(record: &Record, number: i32) -> Result<()> {
    if number == libc_kill() {
        return record.cgroup.kill_all();
    }
    record.cgroup.signal_all(number)
}

/// The number of a signal: `SIGTERM`, `TERM` or `15`.
fn number(text: &str) -> Result<i32> {
    let unknown = || Error::invalid(format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<i32>() {
        return (0..=64).contains(&number).then_some(number).ok_or_else(unknown);
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    if let Some(offset) = name.strip_prefix("SIGRTMIN") {
        let offset = if offset.is_empty() {
            Ok(0)
        } else {
            offset.parse::<i32>()
        };
        return offset
            .ok()
            .map(|n| 34 + n)
            .filter(|n| (34..=64).contains(n))
            .ok_or_else(unknown);
    }
    name.parse::<Signal>().map(|s| s as i32).map_err(|_| unknown())
}

impl Delete {
    pub fn run(self, context: &Context) -> Result<()> {
        let directory = context.directory(&self.id)?;
        let lock = directory.lock();
        let record = match lock.and_then(|lock| Ok((directory.load()?, lock))) {
            Ok((record, _lock)) => record,
            Err(e) if e.kind() == Kind::NotFound && self.force => {
                // What a create that was killed has left.
                return if directory.exists() {
                    directory.remove()
                } else {
                    Ok(())
                };
            }
            Err(e) => return Err(e),
        };
        match directory.status(&record) {
            Status::Stopped => {}
            Status::Created => end(&record)?,
            _ if self.force => end(&record)?,
            status => {
                return Err(Error::conflict(format!(
                    "cannot delete container {} that is not stopped: {}",
                    self.id,
                    status.name()
                )));
            }
        }
        destroy(&directory, &record)
    }
}

/// Kills a container and waits for its end.
fn end(record: &Record) -> Result<()> {
    let process = process(record)?;
    record.cgroup.kill_all()?;
    let Some(pidfd) = process else { return Ok(()) };
    match sandbox::signal(pidfd.as_fd(), libc_kill()) {
        Err(e) if e.kind() != Kind::NotFound => return Err(e),
        _ => {}
    }
    let end = Instant::now() + Duration::from_secs(PATIENCE.unsigned_abs());
    let limit = Timespec {
        tv_sec: PATIENCE,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&limit)).context(|| "cannot wait for the container's end")?;
    if Instant::now() > end {
        return Err(Error::internal("container init still running"));
    }
    Ok(())
}

/// Removes what is left of a container that has ended.
pub(super) fn destroy(directory: &Directory, record: &Record) -> Result<()> {
    let spec = directory.spec();
    // Without a pid namespace of its own, others may outlive the first process.
    record.cgroup.kill_all()?;
    record.cgroup.remove()?;
    directory.remove()?;
    record
        .hooks(&spec?)
        .run(Point::Poststop, ContainerState::Stopped, None)
}

impl Pause {
    pub fn run(self, context: &Context) -> Result<()> {
        let directory = context.directory(&self.id)?;
        let record = directory.load()?;
        match directory.status(&record) {
            Status::Running | Status::Created => record.cgroup.freeze(),
            Status::Paused => Ok(()),
            Status::Stopped => Err(Error::conflict("container not running")),
        }
    }
}

impl Resume {
    pub fn run(self, context: &Context) -> Result<()> {
        let directory = context.directory(&self.id)?;
        let record = directory.load()?;
        if !record.cgroup.is_frozen().unwrap_or(false) {
            return Err(Error::conflict("container not paused"));
        }
        record.cgroup.thaw()
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn signals_by_name_and_number() {
        for (text, expected) in [
            ("SIGTERM", 15),
            ("TERM", 15),
            ("kill", 9),
            ("9", 9),
            ("0", 0),
            ("SIGRTMIN", 34),
            ("RTMIN+3", 37),
            ("64", 64),
        ] {
            assert_eq!(number(text).unwrap(), expected, "{text}");
        }
        for text in ["", "SIG", "NOPE", "65", "-1", "RTMIN+99"] {
            assert!(number(text).is_err(), "{text}");
        }
    }
}
