//! Running the program and hearing what it complains about.

use std::{
    ffi::{CString, OsString},
    fs,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::{Path, PathBuf},
};

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use serde::Deserialize;

use super::{External, STATE};
use crate::{
    Error, Kind, Result,
    error::Context,
    sandbox::Stdio,
    sys::{clone, process as own},
};

/// The program's log, inside the supervisor's bundle.
const LOG: &str = "oci.log";

/// What the service manager has told the engine alone.
const OURS: [&str; 4] = ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// A line of the program's log.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
}

impl External {
    /// Runs one command to its end, with the streams of `stdio` if it has any.
    ///
    /// # Errors
    /// What the program has written to its log as an error.
    pub(super) fn run(&self, words: &[&str], stdio: Option<&Stdio>) -> Result<()> {
        let log = self.bundle.join(LOG);
        let state = self.bundle.join(STATE);
        let path = find(&self.runtime.path)?;
        let text =
            |bytes: Vec<u8>| CString::new(bytes).context(|| "an argument of the runtime holds a NUL byte");
        let mut arguments = vec![text(path.clone().into_os_string().into_vec())?];
        for word in &self.runtime.arguments {
            arguments.push(text(word.clone().into_bytes())?);
        }
        for (flag, value) in [("--root", &state), ("--log", &log)] {
            arguments.push(text(flag.into())?);
            arguments.push(text(value.clone().into_os_string().into_vec())?);
        }
        for word in ["--log-format", "json"].iter().chain(words) {
            arguments.push(text((*word).into())?);
        }
        let variable = |(name, value): (OsString, OsString)| {
            let mut both = name.into_vec();
            both.push(b'=');
            both.extend(value.into_vec());
            text(both)
        };
        let environment = std::env::vars_os()
            .filter(|(name, _)| !OURS.iter().any(|ours| name == ours))
            .map(variable)
            .collect::<Result<_>>()?;
        let program = own::Program::new(text(path.into_os_string().into_vec())?, arguments, environment);
        // What an earlier command complained about is not this one's.
        let _ = fs::remove_file(&log);
        let streams = Streams::of(stdio)?;
        let (_, pidfd) =
            clone::clone(0, None, || begin(&program, &streams)).context(|| "cannot run the runtime")?;
        let status = loop {
            match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) {
                Err(nix::errno::Errno::EINTR) => {}
                other => break other.context(|| "cannot wait for the runtime")?,
            }
        };
        match status {
            WaitStatus::Exited(_, 0) => Ok(()),
            status => Err(complaint(&log, self.runtime.path.as_path(), status)),
        }
    }
}

/// The streams of a command, by number.
struct Streams {
    null: fs::File,
    stdin: Option<OwnedFd>,
    outputs: Option<(OwnedFd, OwnedFd)>,
}

impl Streams {
    fn of(stdio: Option<&Stdio>) -> Result<Self> {
        let message = || "cannot prepare the runtime's streams";
        let null = fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .context(message)?;
        let copy = |fd: &OwnedFd| fd.try_clone().context(message);
        let (stdin, outputs) = match stdio {
            Some(Stdio::Pipes {
                stdin,
                stdout,
                stderr,
            }) => (
                stdin.as_ref().map(copy).transpose()?,
                Some((copy(stdout)?, copy(stderr)?)),
            ),
            _ => (None, None),
        };
        Ok(Self { null, stdin, outputs })
    }
}

/// The new process's side.
fn begin(program: &own::Program, streams: &Streams) -> i32 {
    let null = streams.null.as_raw_fd();
    let stdin = streams.stdin.as_ref().map_or(null, AsRawFd::as_raw_fd);
    let outputs = streams.outputs.as_ref();
    let (stdout, stderr) = outputs.map_or((null, null), |(o, e)| (o.as_raw_fd(), e.as_raw_fd()));
    let prepared = own::reset_signals()
        .and_then(|()| own::duplicate_to(stdin, 0))
        .and_then(|()| own::duplicate_to(stdout, 1))
        .and_then(|()| own::duplicate_to(stderr, 2))
        .and_then(|()| own::close_on_exec_from(3));
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    if prepared.is_ok() {
        let _ = program.execute();
    }
    127
}

/// The program's file.
fn find(path: &Path) -> Result<PathBuf> {
    if path.components().count() > 1 {
        return Ok(path.to_owned());
    }
    let search = std::env::var_os("PATH").unwrap_or_else(|| crate::sandbox::defaults::PATH.into());
    std::env::split_paths(&search)
        .map(|directory| directory.join(path))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| {
            let name = path.display();
            Error::internal(format!("fork/exec {name}: no such file or directory"))
        })
}

/// Why the program failed: the last error in its log.
fn complaint(log: &Path, program: &Path, status: WaitStatus) -> Error {
    let text = fs::read_to_string(log).unwrap_or_default();
    let mut lines = text.lines().filter_map(|l| serde_json::from_str::<Line>(l).ok());
    let told = lines.rfind(|l| l.level == "error" || l.level == "fatal");
    let message = match told {
        Some(line) => line.msg,
        None => format!("{} failed: {status:?}", program.display()),
    };
    Error::new(Kind::Internal, message)
}
