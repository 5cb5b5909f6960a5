//! What engine and supervisor say to each other: one JSON value a line, over a stream socket.
//!
//! A connection to the supervisor's pathname socket begins with one [`Hello`] line. The socketpair end that a
//! launch hands out is a control connection from its first byte and takes no hello.
//!
//! | hello | afterwards, supervisor → engine | engine → supervisor |
//! |---|---|---|
//! | [`Hello::Control`] | [`Event`] lines, the first is [`Event::State`] | [`RequestLine`] lines |
//! | [`Hello::Attach`] | one [`StreamReply`] line, then output | raw standard input; half-close is its end |
//! | [`Hello::Exec`] | one [`StreamReply`] line, then output | raw standard input; half-close is its end |
//!
//! Output is Docker's multiplexed stream (eight bytes of header, then the payload) or, with a terminal, raw bytes.
//! Unknown fields are ignored and missing ones have defaults, so that an engine can be newer than its supervisors.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Kind, Result,
    error::{Context, Error},
};

/// Version of this protocol, told in [`Snapshot::protocol`].
pub const PROTOCOL: u32 = 1;

/// Longest line either side accepts, in bytes, newline included. An exec request with its environment is the largest.
pub const MAX_LINE: usize = 1 << 20;

/// First line of a connection to the supervisor's socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hello {
    /// Requests and events.
    Control {},
    /// The container's own standard streams.
    Attach(Streams),
    /// A further process in the container.
    Exec(Box<ExecRequest>),
}

/// Which standard streams a connection carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Streams {
    /// Bytes of the connection go to standard input.
    pub stdin: bool,
    /// Standard output is sent.
    pub stdout: bool,
    /// Standard error is sent. A terminal has none.
    pub stderr: bool,
}

/// A process to run inside a running container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Name of the exec, unique within the container; used by [`Request::Signal`] and [`Request::Resize`].
    pub id: String,
    /// The process as the OCI runtime specification describes it, `terminal` and `consoleSize` included.
    pub process: oci_spec::runtime::Process,
    /// Whether standard input is a pipe (or the terminal) rather than `/dev/null`.
    #[serde(default)]
    pub open_stdin: bool,
    /// Streams this connection carries. All false: detached, the connection may be closed at once.
    #[serde(default)]
    pub streams: Streams,
}

/// First line on an attach or exec connection, sent by the supervisor. Output follows directly behind its newline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamReply {
    /// Every byte the container writes from now on reaches this connection.
    Attached {
        /// Whether the output is raw terminal bytes instead of frames.
        tty: bool,
    },
    /// The exec's process runs and is attached.
    Started {
        /// Its process id on the host.
        pid: i32,
        /// Whether the output is raw terminal bytes instead of frames.
        tty: bool,
    },
    /// Refused; the connection is closed.
    Failed(Failure),
}

/// One line of a control connection from the engine: a request and the number its answer carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestLine {
    /// Chosen by the engine, repeated in the answer.
    pub id: u64,
    /// What is asked.
    #[serde(flatten)]
    pub request: Request,
}

/// What a control connection can ask. Each is answered by exactly one [`Event::Started`] (for start),
/// [`Event::Done`] or [`Event::Failed`] with the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Lets a created container execute its program.
    Start {},
    /// Ends a created container that is not to be started. Its exit status says so in `error`.
    Abort {},
    /// Sends a signal, by pidfd.
    Signal {
        /// Signal number, 1–64.
        number: i32,
        /// The exec to signal; none: the container's first process.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exec: Option<String>,
    },
    /// Kills every process of the container's cgroup with SIGKILL, also when it is frozen.
    KillAll {},
    /// Sets the terminal's size; without a terminal it fails with [`Kind::Invalid`].
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
        /// The exec whose terminal is meant; none: the container's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exec: Option<String>,
    },
    /// Closes standard input once what was received for it has been written.
    CloseStdin {},
}

/// What a supervisor tells its control connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Where things stand; first line of a connection opened through the socket.
    State(Snapshot),
    /// The sandbox is ready, its program not yet executed; attach now. Only on the launch's own connection.
    Created {
        /// Process id of the container's first process on the host.
        pid: i32,
    },
    /// The program was executed. Sent to every control connection.
    Started {
        /// The request answered, on the connection that asked; 0 on others.
        #[serde(default)]
        id: u64,
        /// When.
        started_at: Timestamp,
    },
    /// A request was carried out.
    Done {
        /// The request answered.
        id: u64,
    },
    /// A request failed, or (`id` 0) the creation of the sandbox did.
    Failed {
        /// The request answered; 0 for the creation.
        #[serde(default)]
        id: u64,
        /// What went wrong.
        #[serde(flatten)]
        failure: Failure,
    },
    /// The kernel killed a process of the container for want of memory.
    Oom {},
    /// Output could not be written to the log; the container was not held up.
    LogDropped {
        /// Bytes of output lost since the last such event.
        bytes: u64,
        /// The system's reason.
        message: String,
    },
    /// An exec's process ended. Its status is already on disk.
    ExecExit {
        /// The exec's name.
        exec: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// The container ended; the exit file is written, the cgroup gone. Last line of the connection.
    Exit(ExitStatus),
}

/// State of a container as its supervisor sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`PROTOCOL`] of the supervisor.
    pub protocol: u32,
    /// Container id.
    pub container: String,
    /// What it is doing.
    pub status: Status,
    /// Process id of the container's first process on the host; 0 when there is none.
    #[serde(default)]
    pub pid: i32,
    /// When its program was executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// How it ended, in [`Status::Exited`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitStatus>,
    /// Names of the execs whose processes run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub execs: Vec<String>,
    /// Their process ids on the host.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exec_pids: BTreeMap<String, i32>,
}

/// The stages of a container's life that a supervisor knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Ready, waiting for [`Request::Start`].
    Created,
    /// The program runs.
    Running,
    /// The program ended.
    Exited,
}

/// How a process ended; the content of the exit file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Process id it had on the host; 0 if it never had one.
    pub pid: i32,
    /// The code it returned, or 128 plus the number of the signal that ended it.
    pub exit_code: i32,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of the container for want of memory during this run.
    #[serde(default)]
    pub oom_killed: bool,
    /// When its program was executed; none if it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Why it never ran, or that its supervisor was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For the engine to decide by.
    pub kind: FailureKind,
    /// Exit code that Docker's API reports for a program that could not be started: 127 not found, 126 not
    /// executable, 128 anything else; 0 where there is no program involved.
    #[serde(default)]
    pub code: i32,
    /// For people.
    pub message: String,
}

/// [`Kind`] as it travels; kinds this side does not know read as internal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// [`Kind::Invalid`].
    Invalid,
    /// [`Kind::Forbidden`].
    Forbidden,
    /// [`Kind::NotFound`].
    NotFound,
    /// [`Kind::Conflict`].
    Conflict,
    /// [`Kind::NotImplemented`].
    NotImplemented,
    /// [`Kind::Unavailable`].
    Unavailable,
    /// [`Kind::Internal`] and every other.
    #[serde(other)]
    Internal,
}

impl From<Kind> for FailureKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Invalid => Self::Invalid,
            Kind::Forbidden => Self::Forbidden,
            Kind::NotFound => Self::NotFound,
            Kind::Conflict => Self::Conflict,
            Kind::NotImplemented => Self::NotImplemented,
            Kind::Unavailable => Self::Unavailable,
            _ => Self::Internal,
        }
    }
}

impl From<FailureKind> for Kind {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Invalid => Self::Invalid,
            FailureKind::Forbidden => Self::Forbidden,
            FailureKind::NotFound => Self::NotFound,
            FailureKind::Conflict => Self::Conflict,
            FailureKind::NotImplemented => Self::NotImplemented,
            FailureKind::Unavailable => Self::Unavailable,
            FailureKind::Internal => Self::Internal,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.kind.into(), failure.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            kind: error.kind().into(),
            code: 0,
            message: error.to_string(),
        }
    }
}

/// Appends `message` as one line to `out`.
///
/// # Errors
/// [`Kind::Internal`] if it cannot be written as JSON.
pub fn encode_line<T: Serialize>(message: &T, out: &mut Vec<u8>) -> Result<()> {
    serde_json::to_writer(&mut *out, message).context(|| "cannot encode a line for the supervisor")?;
    out.push(b'\n');
    Ok(())
}

/// Reads one line, with or without its newline.
///
/// # Errors
/// [`Kind::Invalid`] if it is not the JSON of a `T`.
pub fn decode_line<T: DeserializeOwned>(line: &[u8]) -> Result<T> {
    serde_json::from_slice(line)
        .map_err(|e| Error::invalid("malformed line on a supervisor's socket").caused_by(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<T: Serialize>(value: &T) -> String {
        let mut out = Vec::new();
        encode_line(value, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn hellos_read_as_documented() {
        let attach = Hello::Attach(Streams {
            stdin: true,
            stdout: true,
            stderr: false,
        });
        assert_eq!(
            text(&attach),
            "{\"attach\":{\"stdin\":true,\"stdout\":true,\"stderr\":false}}\n"
        );
        assert_eq!(text(&Hello::Control {}), "{\"control\":{}}\n");
        let partial: Hello = decode_line(b"{\"attach\":{\"stdout\":true,\"later\":1}}").unwrap();
        assert_eq!(
            partial,
            Hello::Attach(Streams {
                stdout: true,
                ..Streams::default()
            })
        );
    }

    #[test]
    fn requests_and_events_round_trip() {
        let line = RequestLine {
            id: 7,
            request: Request::Signal {
                number: 15,
                exec: None,
            },
        };
        assert_eq!(text(&line), "{\"id\":7,\"signal\":{\"number\":15}}\n");
        assert_eq!(decode_line::<RequestLine>(text(&line).as_bytes()).unwrap(), line);

        let start: RequestLine = decode_line(b"{\"id\":1,\"start\":{}}").unwrap();
        assert_eq!(start.request, Request::Start {});

        let failed = Event::Failed {
            id: 3,
            failure: Failure {
                kind: FailureKind::NotFound,
                code: 127,
                message: "exec: \"x\"".into(),
            },
        };
        assert_eq!(decode_line::<Event>(text(&failed).as_bytes()).unwrap(), failed);
    }

    #[test]
    fn unknown_kinds_are_internal() {
        let failure: Failure = decode_line(b"{\"kind\":\"from_the_future\",\"message\":\"m\"}").unwrap();
        assert_eq!(failure.kind, FailureKind::Internal);
    }

    #[test]
    fn exit_status_writes_times_as_rfc3339() {
        let status = ExitStatus {
            pid: 5,
            exit_code: 137,
            signal: Some(9),
            oom_killed: true,
            started_at: None,
            finished_at: "2026-01-02T03:04:05.000000006Z".parse().unwrap(),
            error: None,
        };
        assert_eq!(
            text(&status),
            "{\"pid\":5,\"exit_code\":137,\"signal\":9,\"oom_killed\":true,\
             \"finished_at\":\"2026-01-02T03:04:05.000000006Z\"}\n"
        );
    }
}
