//! Removal, of one container or of all that don't run.

use std::sync::Arc;

use berth_api::{Filters, models::ContainerPruneResponse, models::EventMessageType};
use berth_runtime::{Error, Kind, Result};
use jiff::Timestamp;

use super::{
    Containers, blocking,
    model::Container,
    state::{Phase, State},
};
use crate::engine::{events::Attributes, time};

/// How a container is to be removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Kill it first if it runs.
    pub force: bool,
    /// Also remove the anonymous volumes made for it.
    pub volumes: bool,
}

impl Removal {
    /// What `AutoRemove` does.
    pub const AUTOMATIC: Self = Self {
        force: false,
        volumes: true,
    };
}

impl Containers {
    /// Removes a container with its writable layer and its log, and answers when all is gone.
    ///
    /// # Errors
    /// Conflict if it runs and is not forced, or if a removal is under way; internal if something can't be removed: it
    /// is dead then, and another try may be made.
    pub async fn remove(&self, container: &Arc<Container>, removal: Removal) -> Result<()> {
        {
            let _operation = container.operation.lock().await;
            container.try_change(|details| {
                may_remove(container.id(), &details.state, removal.force)?;
                details.state.removing = true;
                Ok(())
            })?;
        }
        let removed = self.end_and_delete(container, removal.volumes).await;
        if let Err(error) = &removed {
            container.change(|details| {
                details.state.removing = false;
                details.state.dead = true;
            });
            container.tell_failed_removal(error.message());
            self.save_or_warn(container).await;
        }
        removed
    }

    /// [`Containers::remove`] in a task of its own, for whoever holds the operation.
    pub(super) fn remove_later(&self, container: &Arc<Container>, removal: Removal) {
        let (this, container) = (self.clone(), Arc::clone(container));
        self.tasks.spawn(async move {
            if let Err(error) = this.remove(&container, removal).await {
                tracing::warn!(container = container.id(), %error, "AutoRemove failed");
            }
        });
    }

    async fn end_and_delete(&self, container: &Arc<Container>, volumes: bool) -> Result<()> {
        if container.now().state.is_running() {
            self.kill_and_wait(container).await?;
        }
        let run = container.current().run.clone();
        if let Some(run) = run {
            run.over.cancelled().await;
        }
        // Nothing is written into the directory any more once this is held.
        let saving = container.saving.lock().await;
        let (this, of) = (self.clone(), Arc::clone(container));
        blocking(move || this.delete_with_volumes(&of, volumes)).await?;
        drop(saving);
        self.index.remove(container.id(), &container.now().name);
        self.execs.remove_all(container.id());
        container.current().pending.clear();
        self.publish(container, "destroy", &[]);
        container.tell_removed();
        Ok(())
    }

    /// Removes all containers that don't run and fit the filters `label`, `label!` and `until`.
    ///
    /// # Errors
    /// Conflict if another clean-up is under way; invalid for a bad filter.
    pub async fn prune(&self, filters: &Filters) -> Result<ContainerPruneResponse> {
        let _the_only_one = self
            .pruning
            .try_lock()
            .map_err(|_| Error::conflict("a prune operation is already running"))?;
        let until = until(filters)?;
        let mut response = ContainerPruneResponse::default();
        for container in self.index.all() {
            let labels = container.config().labels.as_ref();
            let fits = !container.now().state.is_running()
                && until.is_none_or(|until| container.identity.created < until)
                && filters.labels(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str));
            if !fits {
                continue;
            }
            let size = self.size(&container).await.map_or(0, |size| size.own);
            match self.remove(&container, Removal::default()).await {
                Ok(()) => {
                    response
                        .containers_deleted
                        .get_or_insert_default()
                        .push(container.id().to_owned());
                    response.space_reclaimed += size;
                }
                // Started or removed by someone else meanwhile.
                Err(error) if error.kind() == Kind::Conflict => {}
                Err(error) => {
                    tracing::warn!(container = container.id(), %error, "a container could not be pruned");
                }
            }
        }
        let reclaimed = response.space_reclaimed.to_string();
        let attributes = Attributes::from([("reclaimed".to_owned(), reclaimed)]);
        self.events
            .publish(EventMessageType::Container, "prune", "", attributes);
        Ok(response)
    }
}

fn may_remove(id: &str, state: &State, force: bool) -> Result<()> {
    if state.removing {
        return Err(Error::conflict(format!(
            "removal of container {id} is already in progress"
        )));
    }
    match state.phase {
        Phase::Idle => Ok(()),
        _ if force => Ok(()),
        Phase::Paused => Err(Error::conflict(format!(
            "You cannot remove a paused container {id}. Unpause and then stop the container before attempting removal \
             or force remove"
        ))),
        _ => Err(Error::conflict(format!(
            "You cannot remove a {} container {id}. Stop the container before attempting removal or force remove",
            state.status()
        ))),
    }
}

/// The one value of the filter `until`.
pub(super) fn until(filters: &Filters) -> Result<Option<Timestamp>> {
    let text = filters
        .one("until")
        .map_err(|reply| Error::invalid(reply.message))?;
    text.map(time::parse_moment_now).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_removed_by_force_only() {
        let mut state = State::default();
        assert!(may_remove("x", &state, false).is_ok());
        state.run(5, Timestamp::UNIX_EPOCH);
        let refused = may_remove("x", &state, false).unwrap_err();
        assert_eq!(
            refused.message(),
            "You cannot remove a running container x. Stop the container before attempting removal or force remove"
        );
        assert!(may_remove("x", &state, true).is_ok());
        state.phase = Phase::Paused;
        assert!(
            may_remove("x", &state, false)
                .unwrap_err()
                .message()
                .contains("Unpause and then stop")
        );
        state.removing = true;
        let refused = may_remove("x", &state, true).unwrap_err();
        assert_eq!(refused.message(), "removal of container x is already in progress");
    }
}
