//! The process that holds a container: its standard streams, terminal, log and exit status; and the spawner that
//! forks it.
//!
//! ```text
//! engine ── SEQPACKET ── spawner ── fork ── supervisor ── clone, exec ── container
//!    └────── control socketpair, pathname socket ──┘
//! ```
//!
//! A supervisor outlives engine and spawner. It creates the sandbox, waits for [`Request::Start`] so that clients
//! can attach first, writes the log itself and puts the exit status on disk before it tells anyone. Bundle files:
//!
//! | file | written by | content |
//! |---|---|---|
//! | `config.json` | engine | OCI runtime specification |
//! | `supervisor.json` | engine | [`SupervisorConfig`] |
//! | `supervisor.sock` | supervisor | its socket, mode 0600, gone once the exit status is on disk |
//! | `supervisor-state.json` | supervisor | what [`recover()`] needs if the supervisor is killed |
//! | `exit.json` | supervisor or [`recover()`] | [`ExitStatus`] |
//!
//! The supervisor holds an exclusive flock(2) on the bundle directory from its first step until the exit status is
//! on disk; whoever holds it decides what happens to the container.

mod backlog;
mod client;
mod config;
mod connection;
mod event_loop;
mod exec;
mod fanout;
mod process;
pub mod protocol;
mod recover;
mod session;
mod spawner;
mod state;
mod stdio;

pub use crate::log::JsonFile;
pub use client::{Attached, Control, LineBuffer, connect_attach, connect_control, connect_exec, send_line};
pub use config::{CONFIG_FILE, LogConfig, SPEC_FILE, STATE_FILE, SupervisorConfig};
pub use protocol::{
    Event, ExecRequest, ExitStatus, Failure, FailureKind, Hello, Request, RequestLine, Snapshot, Status,
    StreamReply, Streams,
};
pub use recover::{Recovered, recover};
pub use spawner::{Launched, Spawner};
pub use state::Identity;
