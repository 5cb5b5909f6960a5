//! What is to be known of an exec, and the size of its terminal.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use berth_api::models::{ExecInspectResponse, ExecProcessConfig};
use berth_runtime::{Error, Result, supervisor::Request};

use super::{
    super::{Containers, detach::DetachKeys, pause::characters},
    Exec, Phase,
};

/// How long a change of size waits for a process that is being started.
const PATIENCE: Duration = Duration::from_secs(10);

impl Containers {
    /// An exec as it is now.
    ///
    /// # Errors
    /// Not found.
    pub fn exec_inspect(&self, id: &str) -> Result<ExecInspectResponse> {
        let (exec, _) = self.find_exec(id)?;
        let setup = &exec.setup;
        let state = exec.now();
        let (program, arguments) = setup
            .args
            .split_first()
            .map_or_else(Default::default, |(program, arguments)| {
                (program.clone(), arguments.to_vec())
            });
        let keys = match setup.detach_keys.as_str() {
            "" => String::new(),
            text => STANDARD.encode(DetachKeys::parse(text)?.bytes()),
        };
        Ok(ExecInspectResponse {
            id: exec.id.to_string(),
            running: matches!(state.phase, Phase::Running),
            exit_code: match state.phase {
                Phase::Ended { exit_code } => Some(exit_code),
                _ => None,
            },
            process_config: ExecProcessConfig {
                tty: setup.tty,
                entrypoint: program,
                arguments,
                privileged: setup.privileged,
                user: setup.user.clone(),
            },
            open_stdin: setup.streams.stdin,
            open_stderr: setup.streams.stderr,
            open_stdout: setup.streams.stdout,
            can_remove: false,
            container_id: exec.container.to_string(),
            detach_keys: keys,
            pid: i64::from(state.pid),
        })
    }

    /// Sets the size of an exec's terminal. One that is about to be started is waited for.
    ///
    /// # Errors
    /// Not found; conflict if it is over; invalid if it is not started in time.
    pub async fn exec_resize(&self, id: &str, height: u32, width: u32) -> Result<()> {
        let (height, width) = (characters(height)?, characters(width)?);
        let (exec, container) = self.find_exec(id)?;
        runs(&exec).await?;
        let request = Request::Resize {
            width,
            height,
            exec: Some(exec.id.to_string()),
        };
        let link = self.run_of(&container)?.link();
        if let Err(failure) = link.call(request).await {
            // It may have ended since.
            runs(&exec).await?;
            return Err(failure.into());
        }
        Ok(())
    }
}

/// Waits until an exec runs.
async fn runs(exec: &Exec) -> Result<()> {
    let mut states = exec.state.subscribe();
    let waited = states.wait_for(|state| !matches!(state.phase, Phase::Created | Phase::Starting));
    match tokio::time::timeout(PATIENCE, waited).await {
        Ok(Ok(state)) if state.phase == Phase::Running => Ok(()),
        Ok(_) => Err(Error::conflict(format!("exec {} is not running", exec.id))),
        Err(_) => Err(Error::invalid(format!(
            "timeout waiting for exec {} to be started",
            exec.id
        ))),
    }
}
