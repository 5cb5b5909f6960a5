//! Signals, and what is built of them: kill, stop, restart.

use std::{sync::Arc, time::Duration};

use berth_runtime::{
    Error, Kind, Result,
    failpoint::hit,
    supervisor::{FailureKind, Request},
};
use tokio::sync::watch;

use super::{
    Containers,
    model::{Container, Progress},
    signal,
    state::{self, Phase},
};

/// Seconds between the stop signal and SIGKILL, unless the request or the container says otherwise.
const GRACE: i64 = 10;
/// How long a container may take to end after SIGKILL before its whole cgroup is killed.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take after that.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

impl Containers {
    /// Sends a signal to the first process; SIGKILL (also meant by empty text) is waited for.
    ///
    /// # Errors
    /// Invalid for an unknown signal; conflict if the container does not run.
    pub async fn kill(&self, container: &Arc<Container>, name: &str, signal: &str) -> Result<()> {
        let number = match signal {
            "" => signal::KILL,
            text => signal::parse(text)?,
        };
        self.settled(container).await;
        let killed = async {
            if !container.now().state.is_running() {
                return Err(state::not_running(container.id()));
            }
            match number {
                signal::KILL => self.kill_and_wait(container).await,
                number => self.signal(container, number).await,
            }
        };
        killed
            .await
            .map_err(|error| Error::new(error.kind(), format!("cannot kill container: {name}: {error}")))
    }

    /// Ends a container: by `signal` (else its own stop signal), after `timeout` seconds (else its own, else 10; -1 for
    /// never) by SIGKILL. Answers when it has ended.
    ///
    /// # Errors
    /// Not modified if it does not run; invalid for an unknown signal; internal for everything else.
    pub async fn stop(&self, container: &Arc<Container>, signal: &str, timeout: Option<i64>) -> Result<()> {
        self.settled(container).await;
        if !container.now().state.is_running() {
            let message = format!("container {} is already stopped", container.id());
            return Err(Error::new(Kind::NotModified, message));
        }
        self.stop_running(container, signal, timeout)
            .await
            .map_err(|error| {
                let message = format!("cannot stop container: {}: {error}", container.id());
                Error::new(kind_of_failed_stop(&error), message)
            })
    }

    /// Ends a container as [`Containers::stop`] does, if it runs, and starts it again.
    ///
    /// # Errors
    /// As a start; internal if it can't be stopped.
    pub async fn restart(
        &self,
        container: &Arc<Container>,
        signal: &str,
        timeout: Option<i64>,
    ) -> Result<()> {
        self.settled(container).await;
        if container.now().state.is_running() {
            // This end is none that AutoRemove or the restart policy have to do with.
            container.current().restarting_by_hand = true;
            let stopped = self.stop_running(container, signal, timeout).await;
            container.current().restarting_by_hand = false;
            stopped.map_err(|error| {
                let message = format!("Cannot restart container {}: {error}", container.now().name);
                Error::new(kind_of_failed_stop(&error), message)
            })?;
        }
        let operation = container.operation.lock().await;
        let may_start = container.now().state.may_start(container.id());
        match may_start {
            // Someone else has started it meanwhile, which is what was wanted.
            Err(error) if error.kind() == Kind::NotModified => {}
            may_start => {
                may_start?;
                self.start_by_hand(container).await?;
            }
        }
        drop(operation);
        self.publish(container, "restart", &[]);
        Ok(())
    }

    async fn stop_running(
        &self,
        container: &Arc<Container>,
        signal: &str,
        timeout: Option<i64>,
    ) -> Result<()> {
        let config = container.config();
        let number = match (signal, config.stop_signal.as_str()) {
            ("", "") => signal::TERM,
            ("", own) => signal::parse(own)?,
            (asked, _) => signal::parse(asked)?,
        };
        let grace = timeout.or(config.stop_timeout).unwrap_or(GRACE);
        container.current().policy.cancel();
        let mut progress = container.progress.subscribe();
        let ends = progress.borrow_and_update().ends;
        if !self.stay_down(container).await {
            self.end_by(container, number, grace, &mut progress, ends).await?;
        }
        self.publish(container, "stop", &[]);
        Ok(())
    }

    /// Sends the signal, waits for the end, and kills if that does not come in time.
    async fn end_by(
        &self,
        container: &Arc<Container>,
        number: i32,
        grace: i64,
        progress: &mut watch::Receiver<Progress>,
        ends: u64,
    ) -> Result<()> {
        if grace == 0 {
            return self.kill_and_wait(container).await;
        }
        let sent = self.signal(container, number).await;
        if let Err(error) = &sent {
            tracing::warn!(container = container.id(), %error, "a stop signal could not be sent");
        }
        let patience = match (u64::try_from(grace), sent) {
            // Without the signal nothing would ever happen.
            (_, Err(_)) => Some(Duration::ZERO),
            (Ok(seconds), Ok(())) => Some(Duration::from_secs(seconds)),
            (Err(_), Ok(())) => None,
        };
        if ended_within(progress, ends, patience).await {
            return Ok(());
        }
        self.kill_and_wait(container).await
    }

    /// Sends SIGKILL and waits for the end; kills the whole cgroup if that does not come.
    pub(super) async fn kill_and_wait(&self, container: &Arc<Container>) -> Result<()> {
        let mut progress = container.progress.subscribe();
        let ends = progress.borrow_and_update().ends;
        if !container.now().state.is_running() {
            return Ok(());
        }
        let sent = self.signal(container, signal::KILL).await;
        if self.stay_down(container).await {
            return Ok(());
        }
        let patience = if sent.is_ok() {
            KILL_PATIENCE
        } else {
            Duration::ZERO
        };
        if ended_within(&mut progress, ends, Some(patience)).await {
            return Ok(());
        }
        let run = container.current().run.clone();
        // A supervisor that has gone takes its container along, which is seen soon.
        let killed = match run {
            Some(run) => run.link().call(Request::KillAll {}).await.map(drop),
            None => Ok(()),
        };
        match ended_within(&mut progress, ends, Some(LAST_PATIENCE)).await {
            true => Ok(()),
            false if killed.is_err() => killed.map_err(Error::from),
            false => Err(Error::internal(format!(
                "tried to kill container {}, but it did not end; a process of it may be stuck in the kernel",
                container.id()
            ))),
        }
    }

    /// Sends a signal, and draws its consequences for the restart policy and for a frozen container. While the container
    /// waits for its policy nothing is sent.
    async fn signal(&self, container: &Arc<Container>, number: i32) -> Result<()> {
        let own = &container.config().stop_signal;
        let stops =
            number == signal::KILL || own.is_empty() || signal::parse(own).is_ok_and(|own| own == number);
        container.change(|details| details.stopped_by_hand = true);
        if stops {
            container.current().policy.cancel();
        }
        if container.now().state.phase == Phase::Restarting {
            return Ok(());
        }
        let Some(run) = container.current().run.clone() else {
            return Err(state::not_running(container.id()));
        };
        let signalling = run.signalling.lock().await;
        hit("signal.send")?;
        let sent = run.link().call(Request::Signal { number, exec: None }).await;
        let _ = hit("signal.sent");
        match sent {
            Ok(_) => self.publish(container, "kill", &[("signal", number.to_string())]),
            // It ended before the signal came.
            Err(failure) if failure.kind == FailureKind::NotFound => return Ok(()),
            Err(_) if run.has_ended() => return Ok(()),
            Err(failure) => return Err(failure.into()),
        }
        drop(signalling);
        if stops && container.now().state.phase == Phase::Paused {
            match self.thaw(container).await {
                // The signal has ended it already.
                Err(error) if error.kind() == Kind::Conflict => {}
                thawed => thawed?,
            }
        }
        Ok(())
    }

    /// Ends a cancelled wait for the restart policy; false if there is a process to be ended.
    async fn stay_down(&self, container: &Arc<Container>) -> bool {
        if container.now().state.phase == Phase::Restarting {
            let _operation = container.operation.lock().await;
            self.rest(container).await;
        }
        !container.now().state.has_process()
    }

    /// Waits for a start or another operation under way, so that its result is what is looked at.
    async fn settled(&self, container: &Container) {
        drop(container.operation.lock().await);
    }
}

/// A signal that there is not is the client's mistake; whatever else keeps a container from ending is not.
fn kind_of_failed_stop(error: &Error) -> Kind {
    match error.kind() {
        Kind::Invalid => Kind::Invalid,
        _ => Kind::Internal,
    }
}

/// Waits until more than `ends` runs have ended, or the container is gone; false if that takes longer than `patience`.
async fn ended_within(
    progress: &mut watch::Receiver<Progress>,
    ends: u64,
    patience: Option<Duration>,
) -> bool {
    let ended = progress.wait_for(|progress| progress.ends > ends || progress.removed);
    match patience {
        None => ended.await.is_ok(),
        Some(patience) => matches!(tokio::time::timeout(patience, ended).await, Ok(Ok(_))),
    }
}
