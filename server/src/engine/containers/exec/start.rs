//! From created to running.

use std::sync::Arc;

use berth_api::models::ExecStartRequest;
use berth_runtime::{
    Error, Kind, Result,
    error::Context,
    sandbox::defaults,
    supervisor::{ExecRequest, ExitStatus, Failure, FailureKind, SPEC_FILE, Streams, connect_exec},
};
use jiff::Timestamp;
use oci_spec::runtime::{BoxBuilder, Process, Spec, User};
use tokio::net::UnixStream;

use super::{
    super::{
        Containers, blocking, index, model::Container, run::Run, spec::process::environment, state,
        validate::Host,
    },
    Exec, ExecSession, Phase,
    create::may_enter,
    files,
};

/// Exit code of an exec that could not be run, whatever the reason: for containers a program that is not there has
/// another one (127), for execs it has not.
const NOT_RUN: i32 = 126;

/// How a client starts an exec.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExecStart {
    /// Without any stream.
    pub detach: bool,
    /// Stream without frames.
    pub tty: bool,
    /// First size of the terminal, height and width, in place of the one asked for at its creation.
    pub console_size: Option<(u64, u64)>,
}

impl From<&ExecStartRequest> for ExecStart {
    fn from(request: &ExecStartRequest) -> Self {
        let console_size = match request.console_size.as_deref() {
            Some(&[height, width]) if request.tty && !request.detach => Some((height, width)),
            _ => None,
        };
        Self {
            detach: request.detach,
            tty: request.tty,
            console_size,
        }
    }
}

/// An exec whose program was executed.
#[derive(Debug)]
pub struct Launched {
    /// Its streams.
    pub stream: UnixStream,
}

/// An exec that has begun for a client. If that goes away before it is served, nothing has been started.
#[derive(Debug)]
pub(super) struct Begun(Option<Arc<Exec>>);

impl Begun {
    /// The exec, which is now really started.
    pub fn go(mut self) -> Option<Arc<Exec>> {
        self.0.take()
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(exec) = &self.0 {
            exec.not_begun();
        }
    }
}

impl Containers {
    /// The exec of that id and its container.
    ///
    /// # Errors
    /// Not found.
    pub fn find_exec(&self, id: &str) -> Result<(Arc<Exec>, Arc<Container>)> {
        let exec = self.execs.get(id).filter(|exec| !exec.probe);
        let exec = exec.ok_or_else(|| Error::not_found(format!("No such exec instance: {id}")))?;
        let container = self.index.get(&exec.container);
        Ok((exec, container.ok_or_else(|| index::no_such(id))?))
    }

    /// Starts an exec. Detached, the answer is none, as soon as it runs; else a session, which starts it when it is
    /// served and tells there why it does not run. So the head of the reply is out before the program can write: there
    /// are clients that lose what comes together with it.
    ///
    /// # Errors
    /// Not found; conflict if it was started before, or if its container does not run, is paused or waits for its policy;
    /// detached also what kept it from running: invalid for a program that can't be found or executed.
    pub async fn exec_start(&self, id: &str, request: ExecStart) -> Result<Option<ExecSession>> {
        let (exec, container) = self.find_exec(id)?;
        may_enter(container.id(), &container.now().state)?;
        if !exec.begin() {
            return Err(Error::conflict(match exec.now().phase {
                Phase::Ended { .. } => format!("exec command {id} has already run"),
                _ => format!("exec command {id} is already running"),
            }));
        }
        if !request.detach {
            let begun = Begun(Some(Arc::clone(&exec)));
            return Ok(Some(ExecSession::new(self, &container, begun, request)));
        }
        match self.exec_launch(&container, &exec, request).await {
            Ok(_) => Ok(None),
            Err(failure) => Err(start_error(failure)),
        }
    }

    /// Has the process of an exec made that has begun.
    ///
    /// # Errors
    /// What kept it from running; that is then recorded.
    pub(in super::super) async fn exec_launch(
        &self,
        container: &Arc<Container>,
        exec: &Arc<Exec>,
        request: ExecStart,
    ) -> Result<Launched, Failure> {
        self.execs.started(exec);
        self.publish_exec(container, exec, format!("exec_start: {}", exec.command()), &[]);
        let launched = self.try_launch_exec(container, exec, request).await;
        if let Err(failure) = &launched {
            self.exec_failed(container, exec, failure).await;
        }
        launched
    }

    async fn try_launch_exec(
        &self,
        container: &Arc<Container>,
        exec: &Arc<Exec>,
        request: ExecStart,
    ) -> Result<Launched, Failure> {
        // A process that joins a frozen container would not come out of it, and its supervisor would wait for it.
        let _joining = container.joining.read().await;
        may_enter(container.id(), &container.now().state).map_err(Failure::from)?;
        let run = self.run_of(container).map_err(Failure::from)?;
        let (this, of, starting) = (self.clone(), Arc::clone(container), Arc::clone(exec));
        let connected = tokio::task::spawn_blocking(move || {
            let process = process(&run, &of, &starting, request, &this.host)?;
            let streams = match request.detach {
                true => Streams::default(),
                false => starting.setup.streams,
            };
            let attached = connect_exec(
                &run.socket,
                ExecRequest {
                    id: starting.id.to_string(),
                    process,
                    open_stdin: starting.setup.streams.stdin,
                    streams,
                },
            )?;
            starting.running(attached.pid);
            attached.stream.set_nonblocking(true).map_err(Error::from)?;
            Ok::<_, Failure>(attached.stream)
        });
        let stream = match connected.await {
            Ok(stream) => stream.map_err(|failure| ended_meanwhile(failure, container))?,
            Err(error) => {
                let error = Error::internal("the start of an exec was broken off").caused_by(error);
                return Err(error.into());
            }
        };
        let stream = UnixStream::from_std(stream).map_err(Error::from)?;
        Ok(Launched { stream })
    }

    /// The exec could not be run. Its container may have ended meanwhile.
    async fn exec_failed(&self, container: &Arc<Container>, exec: &Arc<Exec>, failure: &Failure) {
        if !exec.end(i64::from(NOT_RUN)) {
            return;
        }
        if exec.probe {
            self.execs.remove(exec);
            return;
        }
        self.execs.over(exec, std::time::Instant::now());
        let Ok(run) = self.run_of(container) else {
            return;
        };
        let status = ExitStatus {
            pid: 0,
            exit_code: NOT_RUN,
            signal: None,
            oom_killed: false,
            started_at: None,
            finished_at: Timestamp::now(),
            error: Some(failure.message.clone()),
        };
        let id = Arc::clone(&exec.id);
        let stored = blocking(move || files::store_failure(&run.bundle, &id, &status)).await;
        if let Err(error) = stored {
            tracing::debug!(exec = &*exec.id, %error, "the failure of an exec is forgotten at the next restart");
        }
    }

    /// The run of a container.
    ///
    /// # Errors
    /// Conflict if it does not run.
    pub(in super::super) fn run_of(&self, container: &Container) -> Result<Arc<Run>> {
        let run = container.current().run.clone();
        run.filter(|run| !run.has_ended())
            .ok_or_else(|| state::not_running(container.id()))
    }
}

/// The error of a start whose client is told by status.
pub(super) fn start_error(failure: Failure) -> Error {
    let kind = match failure.code {
        126 | 127 => Kind::Invalid,
        _ => failure.kind.into(),
    };
    Error::new(kind, failure.message)
}

/// The process as the OCI has it: the container's own with another program, and what was asked for. Whatever confines the
/// container (limits, filter, AppArmor, no new privileges) therefore confines it too. Blocks.
fn process(run: &Run, container: &Container, exec: &Exec, start: ExecStart, host: &Host) -> Result<Process> {
    let setup = &exec.setup;
    let mut process = (*own_process(run)?).clone();
    let inherited = process.env().as_deref().unwrap_or_default();
    let hostname = inherited.iter().find_map(|entry| entry.strip_prefix("HOSTNAME="));
    // What the container's links have added is in the environment of its own process only.
    let own = inherited
        .iter()
        .filter(|entry| !entry.starts_with("TERM="))
        .chain(container.config().env.iter().flatten())
        .chain(&setup.env);
    let env = environment(
        setup.tty,
        hostname.unwrap_or_default(),
        &own.cloned().collect::<Vec<_>>(),
    );
    let mut user = User::default();
    user.set_username(Some(setup.user.clone()));
    let cwd = match setup.working_dir.as_str() {
        "" => "/",
        directory => directory,
    };
    process
        .set_terminal(Some(setup.tty))
        .set_console_size(None)
        .set_user(user)
        .set_args(Some(setup.args.clone()))
        .set_env(Some(env))
        .set_cwd(cwd.into());
    if setup.privileged {
        process.set_capabilities(Some(defaults::capability_sets(host.capabilities.to_oci())));
    }
    if let Some((height, width)) = start.console_size.or(setup.console_size)
        && setup.tty
    {
        process.set_console_size(BoxBuilder::default().height(height).width(width).build().ok());
    }
    Ok(process)
}

/// The process of the container's own program, read once for each run.
fn own_process(run: &Run) -> Result<Arc<Process>> {
    if let Some(process) = run.process.get() {
        return Ok(Arc::clone(process));
    }
    let path = run.bundle.join(SPEC_FILE);
    let message = || format!("cannot read {}", path.display());
    let spec: Spec = serde_json::from_slice(&std::fs::read(&path).context(message)?).context(message)?;
    let process = spec.process().clone().unwrap_or_default();
    Ok(Arc::clone(run.process.get_or_init(|| Arc::new(process))))
}

/// Nobody listens any more where a container has just ended: it is not running, which is a conflict.
fn ended_meanwhile(failure: Failure, container: &Container) -> Failure {
    match failure.kind {
        FailureKind::Unavailable => state::not_running(container.id()).into(),
        _ => failure,
    }
}
