//! Following a container that runs: one task each, which owns the connection to its supervisor.

use std::{sync::Arc, time::Duration};

use berth_api::models::{Health, HealthStatus};
use berth_runtime::{
    failpoint::hit,
    supervisor::{Event, ExitStatus, Snapshot},
};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{
    Containers, blocking, link::Events, model::Container, remove::Removal, run::Run, state::Phase, summary,
};

/// What happens after an end.
enum Next {
    /// It stays ended.
    Rest,
    /// It is removed.
    Remove,
    /// It is started again after a wait, unless that is cancelled.
    Restart(Duration, CancellationToken),
}

impl Containers {
    /// Starts the task that follows `run`. `early` are events that came before.
    pub(super) fn watch(
        &self,
        container: &Arc<Container>,
        run: Arc<Run>,
        mut events: Events,
        early: Vec<Event>,
    ) {
        let (this, container) = (self.clone(), Arc::clone(container));
        self.tasks.spawn(async move {
            let mut early = early.into_iter();
            // The bundle tells the same, so nothing hangs on it.
            this.save_or_warn(&container).await;
            let status = loop {
                let event = match early.next() {
                    Some(event) => Some(event),
                    None => events.next().await,
                };
                match event {
                    Some(Event::Exit(status)) => break status,
                    // The first line of a connection that was made anew.
                    Some(Event::State(Snapshot {
                        exit: Some(status), ..
                    })) => break status,
                    Some(Event::State(Snapshot { execs, .. })) => {
                        this.reconcile_execs(&container, &run, &execs).await;
                    }
                    Some(event) => this.observe(&container, event),
                    // The supervisor was killed, or this connection was cut.
                    None => match this.recover(&container, &run).await {
                        Ok(reconnected) => events = reconnected,
                        Err(status) => break status,
                    },
                }
            };
            // In this order: a signal that finds the connection closed also finds out why.
            run.end();
            drop(events);
            this.ended(&container, &run, &status).await;
        });
    }

    fn observe(&self, container: &Arc<Container>, event: Event) {
        match event {
            Event::Oom {} => {
                container.change(|details| details.state.oom_killed = true);
                self.publish(container, "oom", &[]);
            }
            Event::LogDropped { bytes, message } => {
                tracing::warn!(
                    container = container.id(),
                    bytes,
                    message,
                    "output is missing in the log"
                );
            }
            Event::ExecExit { exec, status } => self.exec_ended(container, &exec, &status),
            _ => {}
        }
    }

    /// Records the end of a run and does what follows from it.
    pub(super) async fn ended(&self, container: &Arc<Container>, run: &Arc<Run>, status: &ExitStatus) {
        let _ = hit("end.heard");
        // No answer is outstanding once the events have been dropped, so this is no long wait.
        drop(run.signalling.lock().await);
        self.execs_ended(container);
        let exit_code = i64::from(status.exit_code);
        self.leave_networks(container).await;
        self.let_go_of_volumes(container).await;
        let next = self.decide(container, status);
        let restarting = matches!(next, Next::Restart(..));
        let started_at = container.now().state.started_at;
        container.change(|details| {
            details
                .state
                .end(exit_code, status.finished_at, status.oom_killed, restarting);
            details.health = ended_health(container, &details.health);
            details.restart_count += i64::from(restarting);
        });
        let lasted = lasted(started_at, status.finished_at);
        self.publish(
            container,
            "die",
            &[
                ("exitCode", exit_code.to_string()),
                ("execDuration", lasted.as_secs().to_string()),
            ],
        );
        container.tell_end(exit_code);
        let _ = hit("end.told");
        if !matches!(next, Next::Remove) {
            self.save_or_warn(container).await;
            self.close(container, run).await;
        }
        match next {
            Next::Rest => {}
            Next::Remove => self.remove_ended(container, run).await,
            Next::Restart(delay, cancelled) => self.restart_later(container, delay, cancelled),
        }
    }

    /// Puts away the bundle of a run whose end has been recorded. From here on another may begin.
    async fn close(&self, container: &Arc<Container>, run: &Arc<Run>) {
        let (this, id) = (self.clone(), container.identity.id.clone());
        let _ = blocking(move || {
            this.remove_bundle_or_warn(&id);
            Ok(())
        })
        .await;
        let mut current = container.current();
        if current.run.as_ref().is_some_and(|now| Arc::ptr_eq(now, run)) {
            current.run = None;
        }
        drop(current);
        run.over.cancel();
    }

    async fn remove_ended(&self, container: &Arc<Container>, run: &Arc<Run>) {
        self.close(container, run).await;
        if let Err(error) = self.remove(container, Removal::AUTOMATIC).await {
            tracing::warn!(container = container.id(), %error, "AutoRemove failed");
        }
    }

    fn decide(&self, container: &Container, status: &ExitStatus) -> Next {
        let details = container.details();
        let mut current = container.current();
        if current.restarting_by_hand || details.state.removing {
            return Next::Rest;
        }
        let restart = current.policy.after_end(
            &details.host_config.restart_policy,
            details.restart_count,
            i64::from(status.exit_code),
            details.stopped_by_hand,
            lasted(details.state.started_at, status.finished_at),
        );
        match restart {
            Some((delay, cancelled)) => Next::Restart(delay, cancelled),
            None if details.host_config.auto_remove => Next::Remove,
            None => Next::Rest,
        }
    }

    /// Waits and starts again, in a task of its own.
    pub(super) fn restart_later(
        &self,
        container: &Arc<Container>,
        delay: Duration,
        cancelled: CancellationToken,
    ) {
        let (this, container) = (self.clone(), Arc::clone(container));
        self.tasks.spawn(async move {
            let waited = tokio::time::timeout(delay, cancelled.cancelled()).await;
            let _operation = container.operation.lock().await;
            if waited.is_ok() || cancelled.is_cancelled() {
                return this.rest(&container).await;
            }
            if let Err(error) = this.launch(&container).await {
                tracing::warn!(container = container.id(), %error, "the restart policy could not start a container");
            }
        });
    }

    /// The end of a cancelled wait: the container is simply not running. The operation is held.
    pub(super) async fn rest(&self, container: &Arc<Container>) {
        let rested = container.change(|details| {
            let waited = details.state.phase == Phase::Restarting;
            if waited {
                details.state.phase = Phase::Idle;
            }
            waited
        });
        if rested {
            container.tell_end(container.now().state.exit_code);
            self.save_or_warn(container).await;
        }
    }
}

fn lasted(started_at: Option<Timestamp>, finished_at: Timestamp) -> Duration {
    let lasted = started_at.map(|start| finished_at.duration_since(start));
    lasted
        .and_then(|lasted| Duration::try_from(lasted).ok())
        .unwrap_or_default()
}

/// Probes end with the run; what they say of a container that does not run is that it is not healthy.
fn ended_health(container: &Container, health: &Arc<Health>) -> Arc<Health> {
    match summary::has_health_check(container) {
        false => Arc::clone(health),
        true => Arc::new(Health {
            status: HealthStatus::Unhealthy,
            ..Health::clone(health)
        }),
    }
}
