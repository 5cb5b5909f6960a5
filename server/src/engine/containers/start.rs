//! From created to running.

use std::{sync::Arc, time::Duration};

use berth_runtime::{
    Error, Kind, Result,
    failpoint::hit,
    supervisor::{Event, Failure, FailureKind, Request, SupervisorConfig, connect_attach},
};
use jiff::Timestamp;
use tokio::net::UnixStream;

use super::{
    Containers, blocking,
    link::{self, Events},
    model::Container,
    remove::Removal,
    run::{Pending, Run},
    summary,
};

/// How long the supervisor of a start that failed may take to go.
const FAREWELL: Duration = Duration::from_secs(5);

impl Containers {
    /// Starts a container by hand.
    ///
    /// # Errors
    /// Not modified if it runs; conflict if it is paused, dead or being removed; otherwise what kept it from running:
    /// invalid for a command that can't be found or executed.
    pub async fn start(&self, container: &Arc<Container>) -> Result<()> {
        let _operation = container.operation.lock().await;
        container.now().state.may_start(container.id())?;
        self.start_by_hand(container).await
    }

    /// [`Containers::start`] for whoever holds the operation and has asked the state.
    pub(super) async fn start_by_hand(&self, container: &Arc<Container>) -> Result<()> {
        container.current().policy.reset();
        container.change(|details| {
            details.restart_count = 0;
            details.stopped_by_hand = false;
        });
        self.launch(container).await
    }

    /// Runs a container, whoever wants it to. The operation is held.
    ///
    /// # Errors
    /// What kept it from running; that is then recorded, and with `AutoRemove` the container is removed.
    pub(super) async fn launch(&self, container: &Arc<Container>) -> Result<()> {
        let failure = match self.try_launch(container).await {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        let code = match failure.code {
            0 => 128,
            code => i64::from(code),
        };
        container.change(|details| details.state.fail(code, failure.message.clone()));
        container.tell_failed_start(code, &failure.message);
        container.current().pending.clear();
        if container.now().host_config.auto_remove {
            self.remove_later(container, Removal::AUTOMATIC);
        } else {
            self.save_or_warn(container).await;
        }
        // A program that isn't there is the client's mistake whatever the mechanism called it.
        let kind = match failure.code {
            126 | 127 => Kind::Invalid,
            // That a supervisor has died is nothing that the client could wait for.
            _ if failure.kind == FailureKind::Unavailable => Kind::Internal,
            _ => failure.kind.into(),
        };
        Err(Error::new(kind, failure.message))
    }

    async fn try_launch(&self, container: &Arc<Container>) -> Result<(), Failure> {
        let earlier = container.current().run.clone();
        if let Some(earlier) = earlier {
            earlier.over.cancelled().await;
        }
        let (run, mut events) = self.create_sandbox(container).await?;
        self.hand_over_clients(container, &run).await;
        let mut early = Vec::new();
        match start_program(&run, &mut events, &mut early).await {
            Ok(started_at) => {
                let _ = hit("start.started");
                self.started(container, started_at);
                self.watch(container, Arc::clone(&run), events, early);
                self.probe_health(container, &run);
                Ok(())
            }
            Err(failure) => {
                self.undo(container, &run, &mut events).await;
                Err(failure)
            }
        }
    }

    /// Writes the bundle, has a supervisor forked, and waits until the sandbox is ready.
    async fn create_sandbox(&self, container: &Arc<Container>) -> Result<(Arc<Run>, Events), Failure> {
        let (this, of) = (self.clone(), Arc::clone(container));
        let (launched, bundle, config) = blocking(move || {
            let bundle = this.store.make_bundle(of.id())?;
            let launch = || {
                let prepared = this.prepare(&of, &bundle)?;
                let launched = this.spawner.launch(&bundle)?;
                hit("start.launched")?;
                Ok((launched, prepared))
            };
            launch()
                .map(|(launched, config): (_, SupervisorConfig)| (launched, bundle, config))
                .inspect_err(|_| {
                    this.networks.leave(of.id());
                    of.change(super::network::clear);
                    this.remove_bundle_or_warn(of.id());
                    this.unmount_volumes(&of);
                })
        })
        .await
        .map_err(failure)?;
        container.change(|details| details.prepared = true);
        let (link, mut events) = link::open(launched.control).map_err(failure)?;
        let run = Run::new(&bundle, bundle.join(&config.socket), link);
        let created = loop {
            match events.next().await {
                Some(Event::Created { pid }) => break Ok(pid),
                Some(Event::Failed { failure, .. }) => break Err(failure),
                Some(Event::Exit(status)) => {
                    let message = status
                        .error
                        .unwrap_or_else(|| "the container ended before it was created".to_owned());
                    break Err(Failure {
                        kind: FailureKind::Internal,
                        code: 128,
                        message,
                    });
                }
                Some(_) => {}
                None => break Err(link::gone()),
            }
        };
        match created {
            Ok(pid) => {
                self.networks.started(container.id());
                // What dies here leaves a sandbox that nobody has started.
                let _ = hit("start.created");
                container.change(|details| details.state.pid = pid);
                Ok((run, events))
            }
            Err(failure) => {
                self.undo(container, &run, &mut events).await;
                Err(failure)
            }
        }
    }

    /// Connects the clients that came before the start, so that they miss nothing. Clients that come from now on find
    /// the run.
    async fn hand_over_clients(&self, container: &Arc<Container>, run: &Arc<Run>) {
        let pending = {
            let mut current = container.current();
            current.run = Some(Arc::clone(run));
            std::mem::take(&mut current.pending)
        };
        for client in pending {
            attach_pending(container, run, client).await;
        }
    }

    fn started(&self, container: &Arc<Container>, started_at: Timestamp) {
        let pid = container.now().state.pid;
        container.change(|details| {
            details.state.run(pid, started_at);
            details.health = summary::fresh_health(container, &details.health);
        });
        container.tell_started();
        self.publish(container, "start", &[]);
    }

    /// Puts away what a failed start has made.
    async fn undo(&self, container: &Arc<Container>, run: &Arc<Run>, events: &mut Events) {
        // The supervisor goes by itself after a failure; it is told to in case the failure was on this side.
        let farewell = async {
            let link = run.link();
            let abort = link.call(Request::Abort {});
            let drain = async { while events.next().await.is_some() {} };
            let _ = tokio::join!(abort, drain);
        };
        if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
            tracing::warn!(
                container = container.id(),
                "the supervisor of a failed start did not go in time"
            );
        }
        container.current().run = None;
        // One that was killed has not put it away.
        self.clear_cgroup(container).await;
        self.leave_networks(container).await;
        let (this, id) = (self.clone(), container.identity.id.clone());
        let cleaned = blocking(move || this.store.remove_bundle(&id)).await;
        if let Err(error) = cleaned {
            tracing::warn!(container = container.id(), %error, "a failed start has left its bundle behind");
        }
        self.let_go_of_volumes(container).await;
        run.over.cancel();
    }

    /// Removes a bundle where a failure can't be told to anyone.
    pub(super) fn remove_bundle_or_warn(&self, id: &str) {
        if let Err(error) = self.store.remove_bundle(id) {
            tracing::warn!(container = id, %error, "a bundle could not be removed");
        }
    }
}

/// Lets the program be executed. Events that come meanwhile are kept for the watcher.
async fn start_program(run: &Run, events: &mut Events, early: &mut Vec<Event>) -> Result<Timestamp, Failure> {
    let link = run.link();
    let call = link.call(Request::Start {});
    tokio::pin!(call);
    loop {
        tokio::select! {
            biased;
            answer = &mut call => return match answer? {
                Event::Started { started_at, .. } => Ok(started_at),
                _ => Ok(Timestamp::now()),
            },
            event = events.next() => match event {
                Some(event) => early.push(event),
                // The call fails by itself.
                None => return (&mut call).await.map(|_| Timestamp::now()),
            },
        }
    }
}

async fn attach_pending(container: &Container, run: &Run, client: Pending) {
    let (socket, streams) = (run.socket.clone(), client.streams);
    let attached = blocking(move || {
        let stream = connect_attach(&socket, streams)?.stream;
        stream.set_nonblocking(true)?;
        Ok(stream)
    });
    match attached
        .await
        .and_then(|stream| Ok(UnixStream::from_std(stream)?))
    {
        // The client may have gone meanwhile.
        Ok(stream) => drop(client.ready.send(stream)),
        Err(error) => tracing::warn!(container = container.id(), %error, "a client could not be attached"),
    }
}

/// An error of this side in the form of the supervisor's.
fn failure(error: Error) -> Failure {
    Failure {
        kind: error.kind().into(),
        code: 0,
        message: error.to_string(),
    }
}
