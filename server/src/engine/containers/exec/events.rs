//! What is told of execs, by their supervisors and to those who follow events.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use berth_runtime::{
    Result,
    supervisor::{ExitStatus, Request},
};

use super::{
    super::{Containers, blocking, model::Container, run::Run, signal},
    Exec, files, table,
};

/// How long execs wait to be forgotten together.
const PAUSE: Duration = Duration::from_secs(10);

impl Containers {
    /// Tells that something happened to an exec.
    pub(super) fn publish_exec(
        &self,
        container: &Container,
        exec: &Exec,
        action: impl Into<String>,
        extra: &[(&str, String)],
    ) {
        let mut attributes = vec![("execID", exec.id.to_string())];
        attributes.extend_from_slice(extra);
        self.publish(container, &action.into(), &attributes);
    }

    /// A supervisor tells that an exec has ended.
    pub(in super::super) fn exec_ended(&self, container: &Container, id: &str, status: &ExitStatus) {
        if let Some(exec) = self.execs.get(id) {
            self.exec_over(container, &exec, i64::from(status.exit_code));
        }
    }

    fn exec_over(&self, container: &Container, exec: &Arc<Exec>, exit_code: i64) {
        if !exec.end(exit_code) {
            return;
        }
        match exec.probe {
            true => self.execs.remove(exec),
            false => self.execs.over(exec, Instant::now()),
        }
        self.publish_exec(
            container,
            exec,
            "exec_die",
            &[("exitCode", exit_code.to_string())],
        );
    }

    /// The container has ended, and everything in it. What was not told of before is lost.
    pub(in super::super) fn execs_ended(&self, container: &Container) {
        for exec in self.execs.of(container.id()) {
            if exec.give_up() {
                self.execs.remove(&exec);
            } else {
                self.exec_over(container, &exec, table::UNKNOWN_EXIT);
            }
        }
    }

    /// Compares the execs of a container with those of which its supervisor says that they run.
    pub(in super::super) async fn reconcile_execs(
        &self,
        container: &Arc<Container>,
        run: &Run,
        running: &[String],
    ) {
        let running: HashSet<&str> = running.iter().map(String::as_str).collect();
        let missing: Vec<_> = self
            .execs
            .of(container.id())
            .into_iter()
            .filter(|exec| exec.now().phase == super::Phase::Running && !running.contains(&*exec.id))
            .collect();
        for exec in missing {
            let (bundle, id) = (run.bundle.clone(), Arc::clone(&exec.id));
            let status = blocking(move || Ok(files::exit_status(&bundle, &id))).await;
            let exit_code = status
                .ok()
                .flatten()
                .map_or(table::UNKNOWN_EXIT, |status| i64::from(status.exit_code));
            self.exec_over(container, &exec, exit_code);
        }
    }

    /// Finds the execs of a container again that an engine has left running. Gives the names of those that are recorded
    /// nowhere, which were probes of its health check: who wanted to know is gone.
    pub(in super::super) async fn restore_execs(
        &self,
        container: &Arc<Container>,
        run: &Arc<Run>,
        running: &[String],
        pids: &BTreeMap<String, i32>,
    ) -> Vec<String> {
        let bundle = run.bundle.clone();
        let found = match blocking(move || files::load(&bundle)).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(container = container.id(), %error, "the execs of a container are lost");
                Vec::new()
            }
        };
        let mut left: HashSet<&str> = running.iter().map(String::as_str).collect();
        for (id, setup, status) in found {
            let exec = Exec::new(
                id.as_str().into(),
                Arc::clone(&container.identity.id),
                setup,
                false,
            );
            self.execs.insert(&exec, Instant::now());
            if left.remove(id.as_str()) {
                exec.begin();
                self.execs.started(&exec);
                exec.running(pids.get(&id).copied().unwrap_or_default());
            } else if let Some(status) = status {
                exec.running(status.pid);
                exec.end(i64::from(status.exit_code));
                self.execs.over(&exec, Instant::now());
            }
        }
        self.expire_execs();
        left.into_iter().map(str::to_owned).collect()
    }

    /// Ends the execs that [`Containers::restore_execs`] does not know, in a task of its own.
    pub(in super::super) fn end_strangers(&self, run: Arc<Run>, names: Vec<String>) {
        if names.is_empty() {
            return;
        }
        self.tasks.spawn(async move {
            for name in names {
                let request = Request::Signal {
                    number: signal::KILL,
                    exec: Some(name),
                };
                if let Err(failure) = run.link().call(request).await {
                    tracing::debug!(
                        failure.message,
                        "a probe of an earlier engine has ended by itself"
                    );
                }
            }
        });
    }

    /// Forgets execs whose time is over, now and, by one task, whenever it is time again.
    pub(super) fn expire_execs(&self) {
        let next = self.expire_now();
        if next.is_none() || !self.execs.take_broom() {
            return;
        }
        let this = self.clone();
        self.tasks.spawn(async move {
            let mut next = next;
            while let Some(at) = next {
                // Not for each one on its own.
                tokio::time::sleep_until((at + PAUSE).into()).await;
                next = this.expire_now();
            }
            this.execs.give_broom_back();
        });
    }

    fn expire_now(&self) -> Option<Instant> {
        let (gone, next) = self.execs.expire(Instant::now());
        if !gone.is_empty() {
            let this = self.clone();
            self.tasks.spawn_blocking(move || {
                for exec in gone {
                    files::remove(&this.store.bundle(&exec.container), &exec.id);
                }
            });
        }
        next
    }

    /// Removes what the supervisor has written of a probe.
    pub(in super::super) async fn forget_probe(&self, bundle: &Path, exec: &Exec) {
        let (bundle, id) = (bundle.to_owned(), Arc::clone(&exec.id));
        // It only removes files, and says itself what it could not.
        let _: Result<()> = blocking(move || {
            files::remove(&bundle, &id);
            Ok(())
        })
        .await;
    }
}
