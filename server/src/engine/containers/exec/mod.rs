//! Execs: further processes in a running container.
//!
//! | module | what it does |
//! |---|---|
//! | [`table`] | which execs there are, and for how long |
//! | `create`, `start`, `serve`, `inspect` | the operations of the API |
//! | `events` | what the supervisors tell of them, and the restart of the engine |
//! | `files` | their records in the bundle of their container |
//!
//! The process of an exec belongs to the container's supervisor, like all of it, so it outlives the engine. The engine
//! writes down what an exec is when it is created, the supervisor how it ended; a restarted engine reads both.

mod create;
mod events;
mod files;
mod inspect;
mod serve;
mod start;
mod table;

use std::sync::Arc;

use berth_runtime::supervisor::Streams;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use self::{
    serve::ExecSession,
    start::{ExecStart, Launched},
    table::Execs,
};

/// What a client asked for when it created an exec. What it left out is filled in from the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// The program and its arguments; never empty.
    pub args: Vec<String>,
    /// Variables on top of the container's, as `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// Whether it has a terminal.
    #[serde(default)]
    pub tty: bool,
    /// User as text; empty: root.
    #[serde(default)]
    pub user: String,
    /// Directory to begin in; empty: `/`.
    #[serde(default)]
    pub working_dir: String,
    /// Whether it has all capabilities.
    #[serde(default)]
    pub privileged: bool,
    /// Streams that are connected when it is started.
    #[serde(default)]
    pub streams: Streams,
    /// The keys that detach, as the client wrote them.
    #[serde(default)]
    pub detach_keys: String,
    /// First size of the terminal, height and width.
    #[serde(default)]
    pub console_size: Option<(u64, u64)>,
}

/// Where an exec is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It has not been started.
    Created,
    /// Its process is being made.
    Starting,
    /// It runs.
    Running,
    /// It has ended, or could not be run.
    Ended {
        /// Its exit code; 126 or 127 for a program that could not be run.
        exit_code: i64,
    },
}

/// The state of an exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Where it is in its life.
    pub phase: Phase,
    /// Process id on the host, kept after the end; 0 before it is known.
    pub pid: i32,
}

/// A further process in a container.
#[derive(Debug)]
pub struct Exec {
    /// 64 hexadecimal digits.
    pub id: Arc<str>,
    /// Id of its container.
    pub container: Arc<str>,
    /// What was asked for.
    pub setup: Setup,
    /// Whether it is a probe of a health check, which no client knows of and no restart finds again.
    pub probe: bool,
    /// Its state.
    pub state: watch::Sender<State>,
}

impl Exec {
    fn new(id: Arc<str>, container: Arc<str>, setup: Setup, probe: bool) -> Arc<Self> {
        let state = State {
            phase: Phase::Created,
            pid: 0,
        };
        Arc::new(Self {
            id,
            container,
            setup,
            probe,
            state: watch::Sender::new(state),
        })
    }

    /// Its words, joined by blanks, as events show them.
    pub fn command(&self) -> String {
        match self.setup.args.split_first() {
            Some((program, arguments)) => format!("{program} {}", arguments.join(" ")),
            None => String::new(),
        }
    }

    /// Its state as it is now.
    pub fn now(&self) -> State {
        *self.state.borrow()
    }

    /// Whether it is over.
    pub fn has_ended(&self) -> bool {
        matches!(self.now().phase, Phase::Ended { .. })
    }

    /// Takes the one start there may be.
    pub(super) fn begin(&self) -> bool {
        self.state.send_if_modified(|state| {
            let first = state.phase == Phase::Created;
            if first {
                state.phase = Phase::Starting;
            }
            first
        })
    }

    /// Takes back the start if no process has been made.
    fn not_begun(&self) {
        self.state.send_if_modified(|state| {
            let begun = state.phase == Phase::Starting;
            if begun {
                state.phase = Phase::Created;
            }
            begun
        });
    }

    /// Gives it up if it was never started; from then on it cannot be.
    fn give_up(&self) -> bool {
        self.state.send_if_modified(|state| {
            let unstarted = state.phase == Phase::Created;
            if unstarted {
                state.phase = Phase::Ended {
                    exit_code: table::UNKNOWN_EXIT,
                };
            }
            unstarted
        })
    }

    /// Its process runs, unless that has ended already.
    fn running(&self, pid: i32) {
        self.state.send_if_modified(|state| {
            state.pid = pid;
            let starting = state.phase == Phase::Starting;
            if starting {
                state.phase = Phase::Running;
            }
            starting
        });
    }

    /// It is over; false if it was before.
    fn end(&self, exit_code: i64) -> bool {
        self.state.send_if_modified(|state| {
            let first = !matches!(state.phase, Phase::Ended { .. });
            if first {
                state.phase = Phase::Ended { exit_code };
            }
            first
        })
    }

    /// Waits for its end; gives the exit code.
    pub async fn ended(&self) -> i64 {
        let mut states = self.state.subscribe();
        // The sender is a part of `self`, so it is never dropped meanwhile.
        match states
            .wait_for(|state| matches!(state.phase, Phase::Ended { .. }))
            .await
            .map(|state| state.phase)
        {
            Ok(Phase::Ended { exit_code }) => exit_code,
            _ => table::UNKNOWN_EXIT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec() -> Arc<Exec> {
        Exec::new("e".into(), "c".into(), Setup::default(), false)
    }

    #[test]
    fn there_is_one_start_and_one_end() {
        let exec = exec();
        assert!(exec.begin() && !exec.begin());
        exec.not_begun();
        assert!(exec.begin() && !exec.begin());
        exec.running(7);
        exec.not_begun();
        assert_eq!((exec.now().phase, exec.now().pid), (Phase::Running, 7));
        assert!(exec.end(3) && !exec.end(4));
        assert_eq!(exec.now().phase, Phase::Ended { exit_code: 3 });
    }

    #[tokio::test]
    async fn an_end_that_is_told_before_the_start_stays_the_end() {
        let exec = exec();
        exec.begin();
        exec.end(0);
        exec.running(9);
        assert_eq!(exec.now().pid, 9);
        assert_eq!(exec.ended().await, 0);
    }
}
