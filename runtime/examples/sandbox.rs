//! Runs an OCI runtime specification without an engine, for tests and measurements. Needs root.
//!
//! ```text
//! sandbox run SPEC.json [--tty] [--exec PROCESS.json]
//! sandbox time SPEC.json COUNT
//! ```
//!
//! `run` connects the standard streams (with `--tty`, copies the terminal's output to standard output) and ends with the
//! program's exit code, or 128 and the signal. With `--exec`, the streams and the exit code are those of a second
//! process, after which the sandbox is ended. A failed start is told on standard error as `start error CODE: MESSAGE`,
//! with exit code 125. `time` starts it COUNT times and prints how long it takes until the program runs.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::{
    error::Error,
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
    time::{Duration, Instant},
};

use berth_runtime::{
    cgroup::Cgroup,
    sandbox::{self, Options, Sandbox, StartError, Stdio},
};
use nix::sys::{
    signal::Signal,
    wait::{Id, WaitPidFlag, WaitStatus, waitid},
};
use oci_spec::runtime::{Process, Spec};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Where the cgroups go, below the caller's own; each run has its own name.
pub const PARENT: &str = "berth-sandbox-example";
const START_FAILED: u8 = 125;

/// See the top of this file.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let Err(error) = sandbox::run_from_read_only_copy() {
        eprintln!("{error}");
        return ExitCode::from(START_FAILED);
    }
    let result = match arguments.as_slice() {
        ["run", spec, rest @ ..] => run(spec, rest),
        ["time", spec, count] => time(spec, count),
        _ => Err("usage: sandbox run SPEC [--tty] [--exec PROCESS] | sandbox time SPEC COUNT".into()),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            match error.downcast_ref::<StartError>() {
                Some(start) => eprintln!("start error {}: {start}", start.code),
                None => eprintln!("{error}"),
            }
            ExitCode::from(START_FAILED)
        }
    }
}

fn load<T: serde::de::DeserializeOwned>(path: &str) -> Result<T> {
    Ok(serde_json::from_reader(File::open(path)?)?)
}

/// A cgroup that goes with its owner.
struct Owned(Cgroup);

impl Owned {
    fn new(spec: &Spec, name: &str) -> Result<Self> {
        let resources = spec.linux().as_ref().and_then(|l| l.resources().clone());
        Ok(Self(Cgroup::create(
            PARENT,
            name,
            &resources.unwrap_or_default(),
        )?))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Err(e) = self.0.kill_all().and_then(|()| self.0.remove()) {
            eprintln!("{e}");
        }
    }
}

fn inherited() -> io::Result<Stdio> {
    let copy = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned();
    Ok(Stdio::Pipes {
        stdin: Some(copy(&io::stdin())?),
        stdout: copy(&io::stdout())?,
        stderr: copy(&io::stderr())?,
    })
}

fn quiet() -> io::Result<Stdio> {
    let null = || -> io::Result<OwnedFd> { Ok(File::options().write(true).open("/dev/null")?.into()) };
    Ok(Stdio::Pipes {
        stdin: None,
        stdout: null()?,
        stderr: null()?,
    })
}

fn run(spec: &str, rest: &[&str]) -> Result<u8> {
    let spec: Spec = load(spec)?;
    let tty = rest.contains(&"--tty");
    let second: Option<Process> = rest
        .iter()
        .position(|a| *a == "--exec")
        .and_then(|i| rest.get(i + 1))
        .map(|p| load(p))
        .transpose()?;
    let terminal = Stdio::Terminal {
        height: 24,
        width: 80,
    };
    let name = format!("run-{}", std::process::id());
    let cgroup = Owned::new(&spec, &name)?;
    let options = Options {
        id: &name,
        cgroup: &cgroup.0,
        nofile: None,
        hooks: None,
        standalone: None,
    };
    let Some(second) = second else {
        let stdio = if tty { terminal } else { inherited()? };
        let mut sandbox = sandbox::create(&spec, stdio, &options)?;
        sandbox.start()?;
        return finish(sandbox);
    };
    let mut first = sandbox::create(&spec, quiet()?, &options)?;
    first.start()?;
    let stdio = if tty { terminal } else { inherited()? };
    let code = sandbox::exec(first.pidfd(), &spec, &second, stdio, &options)
        .map_err(Box::from)
        .and_then(finish);
    first.kill(Signal::SIGKILL)?;
    wait(&first)?;
    code
}

/// Copies the terminal's output, if there is one, and waits.
fn finish(mut sandbox: Sandbox) -> Result<u8> {
    if let Some(terminal) = sandbox.take_terminal() {
        let mut terminal = File::from(terminal);
        let mut buffer = [0; 4096];
        // Reading fails with EIO when the last slave is closed.
        while let Ok(length @ 1..) = terminal.read(&mut buffer) {
            io::stdout().write_all(&buffer[..length])?;
        }
    }
    wait(&sandbox)
}

fn wait(sandbox: &Sandbox) -> Result<u8> {
    match waitid(Id::PIDFd(sandbox.pidfd()), WaitPidFlag::WEXITED)? {
        WaitStatus::Exited(_, code) => Ok(u8::try_from(code & 0xFF)?),
        WaitStatus::Signaled(_, signal, _) => Ok(128 + u8::try_from(signal as i32)?),
        other => Err(format!("unexpected status {other:?}").into()),
    }
}

fn time(spec: &str, count: &str) -> Result<u8> {
    let spec: Spec = load(spec)?;
    let count: usize = count.parse()?;
    sandbox::warm_up()?;
    // The first goes into the void: its cgroup's parent is made, caches are filled.
    let mut steps: Vec<[Duration; 4]> = Vec::with_capacity(count);
    for i in 0..=count {
        let begin = Instant::now();
        let name = format!("time-{}-{i}", std::process::id());
        let cgroup = Owned::new(&spec, &name)?;
        let made = begin.elapsed();
        let options = Options {
            id: &name,
            cgroup: &cgroup.0,
            nofile: None,
            hooks: None,
            standalone: None,
        };
        let mut sandbox = sandbox::create(&spec, quiet()?, &options)?;
        let created = begin.elapsed();
        sandbox.start()?;
        let started = begin.elapsed();
        wait(&sandbox)?;
        let ended = begin.elapsed();
        if i > 0 {
            steps.push([made, created - made, started - created, ended]);
        }
    }
    for (i, label) in ["cgroup", "create", "start", "until the end"].iter().enumerate() {
        let mut column: Vec<_> = steps.iter().map(|s| s[i]).collect();
        column.sort();
        let at = |part: f64| {
            column
                .get((count as f64 * part) as usize)
                .copied()
                .unwrap_or_default()
        };
        println!(
            "{label:14} median {:?}, min {:?}, p99 {:?}",
            at(0.5),
            at(0.0),
            at(0.99)
        );
    }
    Ok(0)
}
