//! Where a container is in its life.

use berth_api::models::ContainerStateStatus as Status;
use berth_runtime::{Error, Kind, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::text;

/// What the engine knows of a container's runs. The kernel and the supervisor are asked for nothing when it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// What it is doing.
    pub phase: Phase,
    /// Whether a removal is under way. Not kept: after a restart of the engine another removal may be tried.
    #[serde(skip)]
    pub removing: bool,
    /// Whether a removal failed.
    pub dead: bool,
    /// Process id of the first process on the host; 0 when there is none.
    pub pid: i32,
    /// Exit code of the latest run, or of the latest failed start.
    pub exit_code: i64,
    /// Why the latest start failed; empty if it did not.
    pub error: String,
    /// Whether the kernel killed a process for want of memory in this or the latest run.
    pub oom_killed: bool,
    /// When the latest run began.
    pub started_at: Option<Timestamp>,
    /// When the latest run ended.
    pub finished_at: Option<Timestamp>,
}

/// What a container is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing: it was never started, or has ended.
    #[default]
    Idle,
    /// It runs.
    Running,
    /// It runs, frozen.
    Paused,
    /// It ended and waits to be restarted by its policy.
    Restarting,
}

impl State {
    /// The one word.
    pub fn status(&self) -> Status {
        match self.phase {
            Phase::Paused => Status::Paused,
            Phase::Restarting => Status::Restarting,
            Phase::Running => Status::Running,
            Phase::Idle if self.removing => Status::Removing,
            Phase::Idle if self.dead => Status::Dead,
            Phase::Idle if self.started_at.is_none() => Status::Created,
            Phase::Idle => Status::Exited,
        }
    }

    /// Whether it counts as running: also while paused or waiting for its policy.
    pub fn is_running(&self) -> bool {
        self.phase != Phase::Idle
    }

    /// Whether there is a process.
    pub fn has_process(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Paused)
    }

    /// Whether it can be waited for no more: it is dead or on its way there.
    pub fn is_gone(&self) -> bool {
        self.removing || self.dead
    }

    /// The text of lists, such as `Up 5 minutes (healthy)` or `Exited (0) 3 hours ago`.
    pub fn describe(&self, health: Option<&str>, now: Timestamp) -> String {
        let ago = |since: Option<Timestamp>| since.map_or_else(String::new, |since| text::age(since, now));
        match self.status() {
            Status::Paused => format!("Up {} (Paused)", ago(self.started_at)),
            Status::Restarting => format!("Restarting ({}) {} ago", self.exit_code, ago(self.finished_at)),
            Status::Running => match health {
                None | Some("none") => format!("Up {}", ago(self.started_at)),
                Some("starting") => format!("Up {} (health: starting)", ago(self.started_at)),
                Some(health) => format!("Up {} ({health})", ago(self.started_at)),
            },
            Status::Removing => "Removal In Progress".to_owned(),
            Status::Dead => "Dead".to_owned(),
            Status::Created => "Created".to_owned(),
            Status::Exited if self.finished_at.is_none() => String::new(),
            Status::Exited => format!("Exited ({}) {} ago", self.exit_code, ago(self.finished_at)),
        }
    }

    /// A program was executed: the state of a fresh run. The time of the last end is kept until the next one.
    pub fn run(&mut self, pid: i32, started_at: Timestamp) {
        self.phase = Phase::Running;
        self.pid = pid;
        self.exit_code = 0;
        self.error.clear();
        self.oom_killed = false;
        self.started_at = Some(started_at);
    }

    /// The run ended, for good or until the policy starts it again.
    pub fn end(&mut self, exit_code: i64, finished_at: Timestamp, oom_killed: bool, restarting: bool) {
        self.phase = if restarting {
            Phase::Restarting
        } else {
            Phase::Idle
        };
        self.pid = 0;
        self.exit_code = exit_code;
        self.finished_at = Some(finished_at);
        self.oom_killed |= oom_killed;
    }

    /// A start failed. The container keeps its earlier state, a wait for its policy ends.
    pub fn fail(&mut self, exit_code: i64, error: String) {
        self.phase = Phase::Idle;
        self.pid = 0;
        self.exit_code = exit_code;
        self.error = error;
    }

    /// Whether a start may go ahead.
    ///
    /// # Errors
    /// Conflict if it is paused, being removed or dead; not modified if it runs already.
    pub fn may_start(&self, id: &str) -> Result<()> {
        match self.phase {
            Phase::Paused => Err(Error::conflict(
                "cannot start a paused container, try unpause instead",
            )),
            Phase::Running | Phase::Restarting => Err(Error::new(
                Kind::NotModified,
                format!("container {id} is already running"),
            )),
            Phase::Idle if self.is_gone() => Err(Error::conflict(
                "container is marked for removal and cannot be started",
            )),
            Phase::Idle => Ok(()),
        }
    }

    /// Whether it may be paused.
    ///
    /// # Errors
    /// Conflict if it does not run, is paused or waits for its policy.
    pub fn may_pause(&self, id: &str) -> Result<()> {
        match self.phase {
            Phase::Running => Ok(()),
            Phase::Idle => Err(not_running(id)),
            Phase::Paused => Err(Error::conflict(format!("Container {id} is already paused"))),
            Phase::Restarting => Err(is_restarting(id)),
        }
    }

    /// Whether something may be done inside it: run a command, list its processes, change its terminal.
    ///
    /// # Errors
    /// Conflict if it does not run or waits for its policy.
    pub fn must_run(&self, id: &str) -> Result<()> {
        match self.phase {
            Phase::Running | Phase::Paused => Ok(()),
            Phase::Idle => Err(not_running(id)),
            Phase::Restarting => Err(is_restarting(id)),
        }
    }

    /// Whether its files and logs may be read.
    ///
    /// # Errors
    /// Conflict if it is being removed or dead.
    pub fn must_exist(&self, id: &str) -> Result<()> {
        match self.is_gone() {
            true => Err(Error::conflict(format!(
                "can not get logs from container {id} which is dead or marked for removal"
            ))),
            false => Ok(()),
        }
    }
}

/// The conflict of an operation that needs a running container.
pub fn not_running(id: &str) -> Error {
    Error::conflict(format!("container {id} is not running"))
}

/// What `error` of a container's cgroup means: one that is gone went with the container's last process.
pub fn unless_ended(error: Error, id: &str) -> Error {
    match error.kind() {
        Kind::NotFound => not_running(id),
        _ => error,
    }
}

/// The conflict of an operation that can't be done while a container waits for its policy.
pub fn is_restarting(id: &str) -> Error {
    Error::conflict(format!(
        "Container {id} is restarting, wait until the container is running"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn a_life_goes_through_its_states() {
        let mut state = State::default();
        let now = at(400);
        assert_eq!(state.status(), Status::Created);
        assert_eq!(state.describe(None, now), "Created");

        state.run(77, at(100));
        assert_eq!(state.status(), Status::Running);
        assert_eq!(state.describe(None, now), "Up 5 minutes");
        assert_eq!(
            state.describe(Some("starting"), now),
            "Up 5 minutes (health: starting)"
        );
        assert_eq!(state.describe(Some("unhealthy"), now), "Up 5 minutes (unhealthy)");
        assert_eq!(state.may_start("x").unwrap_err().kind(), Kind::NotModified);

        state.phase = Phase::Paused;
        assert_eq!(state.describe(Some("healthy"), now), "Up 5 minutes (Paused)");
        assert_eq!(state.may_start("x").unwrap_err().kind(), Kind::Conflict);
        assert!(state.is_running());

        state.end(1, at(395), true, true);
        assert_eq!(state.status(), Status::Restarting);
        assert_eq!(state.describe(None, now), "Restarting (1) 5 seconds ago");
        assert!(state.is_running() && !state.has_process() && state.oom_killed);

        state.run(78, at(396));
        assert!(!state.oom_killed);
        assert_eq!((state.exit_code, state.finished_at), (0, Some(at(395))));

        state.end(137, at(399), false, false);
        assert_eq!(state.status(), Status::Exited);
        assert_eq!(state.describe(None, now), "Exited (137) 1 second ago");
        assert!(state.may_start("x").is_ok());

        state.removing = true;
        assert_eq!(state.describe(None, now), "Removal In Progress");
        assert_eq!(state.may_start("x").unwrap_err().kind(), Kind::Conflict);
        state.removing = false;
        state.dead = true;
        assert_eq!(state.describe(None, now), "Dead");
    }

    #[test]
    fn a_failed_start_leaves_it_created() {
        let mut state = State::default();
        state.fail(127, "exec: \"x\": executable file not found in $PATH".to_owned());
        assert_eq!(state.status(), Status::Created);
        assert_eq!(state.exit_code, 127);
        state.run(5, at(1));
        assert!(state.error.is_empty());
    }

    #[test]
    fn only_a_running_container_is_paused() {
        let mut state = State::default();
        assert_eq!(
            state.may_pause("x").unwrap_err().message(),
            "container x is not running"
        );
        state.run(5, at(1));
        assert!(state.may_pause("x").is_ok());
        state.phase = Phase::Paused;
        assert!(state.may_pause("x").is_err());
        state.phase = Phase::Restarting;
        assert!(state.must_run("x").is_err());
    }
}
