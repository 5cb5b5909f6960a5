//! Further processes in a running container.

use std::{
    io::Write,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{
    config::write_json,
    process::{Phase, Supervisor, external, failure, limits, load_spec, terminal_size},
    protocol::{self, Event, ExecRequest, ExitStatus, StreamReply, encode_line},
    session::{Ending, Session},
    stdio::Streams,
};
use crate::{
    Error, Result,
    failpoint::hit,
    sandbox::{self, Options, StartError},
};

/// A process started by [`Hello::Exec`](protocol::Hello::Exec). It stays until it has ended, everybody attached has
/// its output and nobody holds its standard streams open any more.
#[derive(Debug)]
pub(super) struct Exec {
    pub name: String,
    pub session: Session,
    pub started_at: Timestamp,
    pub status: Option<ExitStatus>,
}

impl Exec {
    /// Whether nothing is left to do for it.
    pub fn is_over(&self) -> bool {
        self.status.is_some() && self.session.fanout.clients().is_empty() && self.session.streams.ended()
    }
}

/// Where the exit status of exec `name` is written.
pub(super) fn exit_file(bundle: &Path, name: &str) -> PathBuf {
    bundle.join(format!("exec-{name}.json"))
}

impl Supervisor {
    /// Runs the process that a connection asks for and attaches the connection to it.
    pub fn exec(&mut self, mut socket: UnixStream, request: ExecRequest) {
        let streams = request.streams;
        let reply = match self.start_exec(request) {
            Ok(exec) => {
                let pid = exec.session.sandbox.pid().as_raw();
                let tty = exec.session.streams.is_terminal();
                self.execs.push(exec);
                StreamReply::Started { pid, tty }
            }
            Err(e) => StreamReply::Failed(failure(&e.error, e.code)),
        };
        let started = matches!(reply, StreamReply::Started { .. });
        let mut line = Vec::new();
        let told = encode_line(&reply, &mut line).is_ok() && socket.write_all(&line).is_ok();
        let detached = streams == protocol::Streams::default();
        if let Some(exec) = self.execs.last_mut()
            && started
            && told
            && !detached
        {
            exec.session.fanout.add(socket, streams);
        }
    }

    fn start_exec(&mut self, request: ExecRequest) -> Result<Exec, StartError> {
        if !matches!(self.phase, Phase::Running(_)) {
            return Err(Error::conflict(format!("container {} is not running", self.config.id)).into());
        }
        let name = request.id;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if name.is_empty() || name.len() > 128 || !name.chars().all(plain) {
            return Err(Error::invalid(format!("{name:?} cannot name an exec")).into());
        }
        if self.execs.iter().any(|e| e.name == name) {
            return Err(Error::conflict(format!("exec {name} exists already")).into());
        }
        let spec = load_spec(&self.bundle)?;
        let terminal = request.process.terminal().unwrap_or(false);
        let (streams, stdio) = match terminal {
            true => (None, terminal_size(Some(&request.process))),
            false => Streams::pipes(request.open_stdin).map(|(ours, theirs)| (Some(ours), theirs))?,
        };
        let options = Options {
            id: &self.config.id,
            cgroup: &self.cgroup,
            nofile: self.config.nofile,
            hooks: None,
            standalone: None,
        };
        let target = self
            .main
            .exit()
            .ok_or_else(|| Error::conflict("the container has ended"))?;
        hit("exec.create").map_err(Error::from)?;
        let mut sandbox = match external(&self.config, &self.bundle) {
            Some(external) => external.exec(self.pid(), &spec, &request.process, stdio, &name)?,
            None => sandbox::exec(target, &spec, &request.process, stdio, &options)?,
        };
        let streams = match streams {
            Some(streams) => streams,
            None => Streams::terminal(&mut sandbox, request.open_stdin)?,
        };
        let limits = limits(&self.bundle, &self.config);
        Ok(Exec {
            name,
            session: Session::new(sandbox, streams, None, true, limits),
            started_at: Timestamp::now(),
            status: None,
        })
    }

    /// The process of exec number `index` has ended: its output goes out, its status to disk, then it is told.
    pub fn exec_ended(&mut self, index: usize, ending: Ending) {
        self.notice_oom();
        let Some(exec) = self.execs.get_mut(index) else {
            return;
        };
        let _ = hit("exec.end");
        exec.session.drain(&mut self.buffer);
        let status = ExitStatus {
            pid: exec.session.sandbox.pid().as_raw(),
            exit_code: ending.exit_code,
            signal: ending.signal,
            oom_killed: false,
            started_at: Some(exec.started_at),
            finished_at: Timestamp::now(),
            error: None,
        };
        // The event tells it too; a file that cannot be written must not keep the clients waiting.
        let _ = write_json(&exit_file(&self.bundle, &exec.name), &status);
        exec.session.fanout.finish();
        exec.status = Some(status.clone());
        let name = exec.name.clone();
        self.broadcast(&Event::ExecExit { exec: name, status });
    }

    /// Collects the execs of a container whose processes have all been ended.
    pub fn end_execs(&mut self) {
        for index in 0..self.execs.len() {
            let Some(exec) = self.execs.get_mut(index) else {
                break;
            };
            if let Some(ending) = exec.session.reap() {
                self.exec_ended(index, ending);
            }
            if let Some(exec) = self.execs.get_mut(index) {
                exec.session.drain(&mut self.buffer);
                exec.session.streams.close();
                exec.session.fanout.finish();
            }
        }
    }

    /// The exec called `name`.
    pub fn find_exec(&mut self, name: &str) -> Result<&mut Exec> {
        self.execs
            .iter_mut()
            .find(|e| e.name == name)
            .ok_or_else(|| Error::not_found(format!("no exec {name} runs in this container")))
    }
}
