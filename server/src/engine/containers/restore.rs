//! What a restarted engine does: it reads its containers and takes over those that still run.

use std::{collections::HashSet, os::unix::net::UnixStream, sync::Arc, time::Duration};

use berth_runtime::{
    Result,
    cgroup::Cgroup,
    error::Context,
    failpoint::hit,
    supervisor::{
        Event, ExitStatus, Recovered, Request, Snapshot, Status, SupervisorConfig, connect_control, recover,
    },
};
use futures_util::{StreamExt, stream};
use jiff::Timestamp;

use super::{
    Containers, blocking,
    link::{self, Events},
    model::{Container, Record},
    names,
    remove::Removal,
    run::Run,
    state::Phase,
};

/// How many containers are looked at, or started by their policies, at the same time.
const AT_ONCE: usize = 8;
/// Exit code of a container of which nothing is known but that it does not run any more.
const UNKNOWN_EXIT: i64 = 255;

impl Containers {
    /// Reads the containers and finds out what became of those that ran. What their policies ask for is done in the
    /// background.
    ///
    /// # Errors
    /// Internal, if the directories can't be read.
    pub(super) async fn restore(&self) -> Result<()> {
        let failed = || "cannot take the containers over";
        let this = self.clone();
        let (mut loaded, bundles) = blocking(move || Ok((this.store.load()?, this.store.bundles()?))).await?;
        let bundles: HashSet<String> = bundles.into_iter().collect();
        for record in std::mem::take(&mut loaded.records) {
            self.register(record);
        }
        for container in self.index.all() {
            self.publish_links(&container);
        }
        let this = self.clone();
        blocking(move || {
            this.volumes.forget(&loaded.volumes_of);
            loaded.clean();
            Ok(())
        })
        .await?;
        hit("restore.purge").context(failed)?;
        // From here on everything that containers need is held.
        let images = Arc::clone(&self.images);
        blocking(move || images.purge()).await?;
        hit("restore.containers").context(failed)?;
        let ran = self
            .index
            .all()
            .into_iter()
            .filter(|container| bundles.contains(container.id()) || container.now().state.is_running());
        stream::iter(ran)
            .for_each_concurrent(AT_ONCE, |container| async {
                let container = container;
                match bundles.contains(container.id()) {
                    true => self.readopt(&container).await,
                    false => self.lost(&container).await,
                }
            })
            .await;
        hit("restore.bundles").context(failed)?;
        for id in bundles {
            if self.index.get(&id).is_none() {
                self.clear_bundle(id).await;
            }
        }
        let this = self.clone();
        blocking(move || {
            this.volumes.settle();
            Ok(())
        })
        .await?;
        hit("restore.networks").context(failed)?;
        let networks = self.networks.clone();
        blocking(move || networks.settle()).await?;
        hit("restore.policies").context(failed)?;
        self.resume_policies();
        Ok(())
    }

    fn register(&self, mut record: Record) {
        let id = Arc::clone(&record.identity.id);
        let reserved = self.index.reserve(&record.details.name, &id).or_else(|error| {
            tracing::warn!(container = &*id, %error, "two containers have one name; this one gets its short id");
            names::short_id(&id).clone_into(&mut record.details.name);
            self.index.reserve(&record.details.name, &id)
        });
        match reserved {
            Ok(reserved) => {
                reserved.keep();
                let image = self.hold_image(&record.identity.image).unwrap_or_else(|error| {
                    tracing::warn!(container = &*id, %error, "a container's image is lost; it can't be started");
                    None
                });
                let container = Container::new(record, image);
                self.adopt_volumes(&container);
                self.index.insert(&id, container);
            }
            Err(error) => {
                tracing::error!(container = &*id, %error, "a container has no name and is left alone")
            }
        }
    }

    /// A container with a bundle: it runs, or nobody has recorded yet that it does not.
    async fn readopt(&self, container: &Arc<Container>) {
        let _ = hit("restore.readopt");
        let bundle = self.store.bundle(container.id());
        let found = blocking(move || {
            let socket = bundle.join(SupervisorConfig::load(&bundle)?.socket);
            let attachment = super::network::load(&bundle)?;
            Ok((recover(&bundle)?, bundle, socket, attachment))
        })
        .await;
        match found {
            Ok((Recovered::Alive(control), bundle, socket, attachment)) => match link::open(control) {
                Ok((link, events)) => {
                    self.readopt_networks(container, attachment);
                    self.take_over(container, Run::new(&bundle, socket, link), events)
                        .await;
                }
                Err(error) => {
                    tracing::error!(container = container.id(), %error, "a container can't be watched")
                }
            },
            Ok((Recovered::Exited(status) | Recovered::Lost(status), ..)) => {
                self.record_end(container, &status).await;
            }
            Err(error) => {
                tracing::warn!(container = container.id(), %error, "a container's bundle could not be read");
                self.lost(container).await;
            }
        }
    }

    /// A supervisor that lives.
    async fn take_over(&self, container: &Arc<Container>, run: Arc<Run>, mut events: Events) {
        match events.next().await {
            Some(Event::State(Snapshot {
                status: Status::Running,
                pid,
                started_at,
                execs,
                exec_pids,
                ..
            })) => {
                let started_at = started_at.unwrap_or_else(Timestamp::now);
                container.change(|details| {
                    details.prepared = true;
                    let known = details.state.has_process() && details.state.started_at == Some(started_at);
                    if known {
                        details.state.pid = pid;
                    } else {
                        details.stopped_by_hand = false;
                        details.state.run(pid, started_at);
                    }
                });
                container.current().run = Some(Arc::clone(&run));
                if let Err(error) = self.settle_pause(container, &run.bundle).await {
                    tracing::error!(container = container.id(), %error, "a container may stay frozen");
                }
                self.answer_names_again(container, pid).await;
                let strangers = self.restore_execs(container, &run, &execs, &exec_pids).await;
                self.watch(container, Arc::clone(&run), events, Vec::new());
                self.probe_health(container, &run);
                self.end_strangers(run, strangers);
            }
            Some(Event::State(Snapshot {
                status: Status::Created,
                ..
            })) => {
                self.leave_networks(container).await;
                // The engine was gone before it could let the program run, and nobody was told that it does.
                let link = run.link();
                let abort = link.call(Request::Abort {});
                let drain = async { while events.next().await.is_some() {} };
                let (aborted, ()) = tokio::join!(abort, drain);
                if let Err(failure) = aborted {
                    tracing::warn!(
                        container = container.id(),
                        error = failure.message,
                        "a start could not be aborted"
                    );
                }
                self.not_started(container).await;
            }
            Some(
                Event::State(Snapshot {
                    exit: Some(status), ..
                })
                | Event::Exit(status),
            ) => {
                self.leave_networks(container).await;
                self.record_end(container, &status).await;
            }
            _ => {
                container.current().run = Some(Arc::clone(&run));
                self.watch(container, run, events, Vec::new());
            }
        }
    }

    /// After the connection to a supervisor was cut: another one, or how the container ended.
    pub(super) async fn recover(
        &self,
        container: &Arc<Container>,
        run: &Arc<Run>,
    ) -> Result<Events, ExitStatus> {
        let bundle = run.bundle.clone();
        let socket = run.socket.clone();
        let found = blocking(move || {
            Ok(match recover(&bundle)? {
                Recovered::Alive(control) => Ok(control),
                Recovered::Exited(status) | Recovered::Lost(status) => Err(status),
            })
        })
        .await;
        let (id, give_up) = (container.id(), |error: &dyn std::fmt::Display| ExitStatus {
            pid: container.now().state.pid,
            exit_code: 255,
            signal: None,
            oom_killed: false,
            started_at: container.now().state.started_at,
            finished_at: Timestamp::now(),
            error: Some(format!("the container's supervisor is lost: {error}")),
        });
        match found {
            Ok(Ok(control)) => self
                .relink(container, run, control)
                .map_err(|error| give_up(&error)),
            Ok(Err(status)) => Err(status),
            Err(error) => {
                tracing::error!(container = id, %error, socket = %socket.display(), "a supervisor is lost");
                Err(give_up(&error))
            }
        }
    }

    /// Puts a new connection in the place of one that was cut.
    fn relink(&self, container: &Arc<Container>, run: &Arc<Run>, control: UnixStream) -> Result<Events> {
        let (link, events) = link::open(control)?;
        run.relink(link);
        tracing::warn!(
            container = container.id(),
            "the connection to a supervisor was cut and made anew"
        );
        Ok(events)
    }

    /// The engine was gone when the container ended. Such an end gives no event.
    async fn record_end(&self, container: &Arc<Container>, status: &ExitStatus) {
        let recorded = container.now().state.finished_at == Some(status.finished_at);
        if status.started_at.is_none() {
            self.not_started(container).await;
            return;
        }
        if !recorded {
            container.change(|details| {
                details.prepared = true;
                details.state.started_at = status.started_at;
                details.state.error.clear();
                let exit_code = i64::from(status.exit_code);
                details
                    .state
                    .end(exit_code, status.finished_at, status.oom_killed, false);
            });
            container.tell_end(i64::from(status.exit_code));
        }
        self.settle(container).await;
    }

    /// Nothing is left but the record that it ran.
    async fn lost(&self, container: &Arc<Container>) {
        self.clear_cgroup(container).await;
        if container.now().state.is_running() {
            container.change(|details| details.state.end(UNKNOWN_EXIT, Timestamp::now(), false, false));
            container.tell_end(UNKNOWN_EXIT);
        }
        self.settle(container).await;
    }

    /// Ends what is in the cgroup of a container that has no supervisor any more, and removes it.
    pub(super) async fn clear_cgroup(&self, container: &Arc<Container>) {
        let (parent, name) = self.cgroup_path(container);
        let cleared = blocking(move || match Cgroup::open(&parent, &name)? {
            None => Ok(()),
            Some(cgroup) => {
                cgroup.kill_all()?;
                cgroup.remove()
            }
        });
        if let Err(error) = cleared.await {
            tracing::warn!(container = container.id(), %error, "the cgroup of a lost container could not be removed");
        }
    }

    /// A start that was under way when the engine went: it did not happen.
    async fn not_started(&self, container: &Arc<Container>) {
        container.change(|details| {
            details.state.phase = Phase::Idle;
            details.state.pid = 0;
        });
        self.settle(container).await;
    }

    async fn settle(&self, container: &Arc<Container>) {
        container.change(super::network::clear);
        self.save_or_warn(container).await;
        self.clear_bundle(container.id().to_owned()).await;
        self.let_go_of_volumes(container).await;
    }

    /// Removes a bundle after making sure that nothing runs from it.
    async fn clear_bundle(&self, id: String) {
        let this = self.clone();
        let cleared = blocking(move || {
            let bundle = this.store.bundle(&id);
            if bundle.exists() {
                end_what_runs(&bundle);
            }
            this.store.remove_bundle(&id)
        });
        if let Err(error) = cleared.await {
            tracing::warn!(%error, "a bundle could not be removed");
        }
    }

    /// Removes and starts what `AutoRemove` and the restart policies say.
    fn resume_policies(&self) {
        let mut to_start = Vec::new();
        for container in self.index.all() {
            let details = container.details();
            if details.state.is_running() || details.state.dead || details.state.started_at.is_none() {
                continue;
            }
            let policy = &details.host_config.restart_policy;
            let (count, code, by_hand) = (
                details.restart_count,
                details.state.exit_code,
                details.stopped_by_hand,
            );
            let restart = container
                .current()
                .policy
                .after_end(policy, count, code, by_hand, Duration::ZERO);
            match restart {
                Some(_) => to_start.push(container),
                None if details.host_config.auto_remove => self.remove_later(&container, Removal::AUTOMATIC),
                None => {}
            }
        }
        if to_start.is_empty() {
            return;
        }
        let this = self.clone();
        self.tasks.spawn(async move {
            for generation in this.children_first(to_start) {
                stream::iter(generation)
                    .for_each_concurrent(AT_ONCE, |container| this.start_again(container))
                    .await;
            }
        });
    }

    async fn start_again(&self, container: Arc<Container>) {
        let _operation = container.operation.lock().await;
        // A client may have been faster.
        if container.now().state.may_start(container.id()).is_err() {
            return;
        }
        if let Err(error) = self.launch(&container).await {
            tracing::warn!(container = container.id(), %error, "the restart policy could not start a container");
        }
    }
}

/// Ends a container whose record is gone, and waits for it.
fn end_what_runs(bundle: &std::path::Path) {
    let alive = matches!(recover(bundle), Ok(Recovered::Alive(_)));
    if !alive {
        return;
    }
    let ended = SupervisorConfig::load(bundle).and_then(|config| {
        let mut control =
            berth_runtime::supervisor::Control::new(connect_control(&bundle.join(config.socket))?);
        control.send(Request::KillAll {})?;
        while control.next_event()?.is_some() {}
        Ok(())
    });
    if let Err(error) = ended {
        tracing::warn!(bundle = %bundle.display(), %error, "a container without a record could not be ended");
    }
}
