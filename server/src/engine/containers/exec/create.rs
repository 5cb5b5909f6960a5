//! A new exec.

use std::{sync::Arc, time::Instant};

use berth_api::models::ContainerExecRequest;
use berth_runtime::{Error, Kind, Result, sandbox, supervisor::Streams};

use super::{
    super::{
        Containers, blocking,
        detach::DetachKeys,
        model::Container,
        names,
        state::{self, Phase, State},
    },
    Exec, Setup, files,
};

impl Containers {
    /// Records a command to be run in a container; gives the id by which it is started.
    ///
    /// # Errors
    /// Invalid without a command, for bad detach keys and for a user that the container does not know; conflict if the
    /// container does not run, is paused or waits for its policy.
    pub async fn exec_create(
        &self,
        container: &Arc<Container>,
        request: ContainerExecRequest,
    ) -> Result<Arc<Exec>> {
        let setup = setup(container, request)?;
        may_enter(container.id(), &container.now().state)?;
        let id: Arc<str> = names::new_id().into();
        let exec = Exec::new(id, Arc::clone(&container.identity.id), setup, false);
        let bundle = self.run_of(container)?.bundle.clone();
        let (recorded, pid) = (Arc::clone(&exec), container.now().state.pid);
        let recording = blocking(move || {
            let user = &recorded.setup.user;
            if !user.is_empty() {
                sandbox::check_user(pid, user)?;
            }
            files::store(&bundle, &recorded.id, &recorded.setup)
        });
        if let Err(error) = recording.await {
            // The container may have ended meanwhile, and its files with it.
            may_enter(container.id(), &container.now().state)?;
            return Err(match error.kind() {
                Kind::NotFound => Error::invalid(error.to_string()),
                _ => error,
            });
        }
        self.enroll(&exec);
        self.publish_exec(container, &exec, format!("exec_create: {}", exec.command()), &[]);
        Ok(exec)
    }

    /// A probe of a health check: an exec without a record.
    pub(in super::super) fn exec_probe(&self, container: &Arc<Container>, args: Vec<String>) -> Arc<Exec> {
        let config = container.config();
        let setup = Setup {
            args,
            user: config.user.clone(),
            working_dir: config.working_dir.clone(),
            streams: Streams {
                stdin: false,
                stdout: true,
                stderr: true,
            },
            ..Setup::default()
        };
        let id: Arc<str> = names::new_id().into();
        let exec = Exec::new(id, Arc::clone(&container.identity.id), setup, true);
        self.enroll(&exec);
        self.publish_exec(container, &exec, format!("exec_create: {}", exec.command()), &[]);
        exec
    }

    fn enroll(&self, exec: &Arc<Exec>) {
        self.execs.insert(exec, Instant::now());
        self.expire_execs();
    }
}

fn setup(container: &Container, request: ContainerExecRequest) -> Result<Setup> {
    if request
        .cmd
        .first()
        .is_none_or(|program| program.is_empty() && request.cmd.len() == 1)
    {
        return Err(Error::invalid("No exec command specified"));
    }
    DetachKeys::parse(&request.detach_keys)?;
    let config = container.config();
    let or = |asked: String, own: &str| if asked.is_empty() { own.to_owned() } else { asked };
    let console_size = match request.console_size.as_deref() {
        Some(&[height, width]) if request.tty => Some((height, width)),
        _ => None,
    };
    Ok(Setup {
        args: request.cmd,
        env: request.env.unwrap_or_default(),
        tty: request.tty,
        user: or(request.user, &config.user),
        working_dir: or(request.working_dir, &config.working_dir),
        privileged: request.privileged,
        streams: Streams {
            stdin: request.attach_stdin,
            stdout: request.attach_stdout,
            stderr: request.attach_stderr,
        },
        detach_keys: request.detach_keys,
        console_size,
    })
}

/// Whether a process may be added to a container in this state.
pub(super) fn may_enter(id: &str, state: &State) -> Result<()> {
    match state.phase {
        Phase::Running => Ok(()),
        Phase::Idle => Err(state::not_running(id)),
        Phase::Paused => Err(Error::conflict(format!(
            "container {id} is paused, unpause the container before exec"
        ))),
        Phase::Restarting => Err(state::is_restarting(id)),
    }
}
