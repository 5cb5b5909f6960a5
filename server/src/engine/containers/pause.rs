//! Freezing, and the terminal's size.

use std::{fs, io, path::Path, sync::Arc};

use berth_runtime::{Error, Result, cgroup::Cgroup, error::Context, failpoint::hit, supervisor::Request};

use super::{
    Containers, blocking,
    model::Container,
    state::{self, Phase},
};

impl Containers {
    /// Freezes all processes of a running container.
    ///
    /// # Errors
    /// Conflict if it does not run, is paused already or waits for its policy.
    pub async fn pause(&self, container: &Arc<Container>) -> Result<()> {
        let _operation = container.operation.lock().await;
        container.now().state.may_pause(container.id())?;
        let cgroup = self.cgroup(container)?;
        // Processes on their way into the container arrive first.
        let joining = container.joining.write().await;
        let run = container.current().run.clone();
        if let Some(run) = &run {
            run.end_probing();
        }
        let freeze = move || {
            hit("pause.freeze").context(|| "cannot freeze a container")?;
            cgroup.freeze()
        };
        if let Err(error) = blocking(freeze).await {
            drop(joining);
            run.iter().for_each(|run| self.probe_health(container, run));
            return Err(state::unless_ended(error, container.id()));
        }
        // An end that comes now is told after this.
        let telling = match &run {
            Some(run) => Some(run.signalling.lock().await),
            None => None,
        };
        let paused = container.change(|details| {
            // It may have ended while it was being frozen.
            let runs = details.state.phase == Phase::Running;
            if runs {
                details.state.phase = Phase::Paused;
            }
            runs
        });
        drop(joining);
        if !paused {
            return Err(state::not_running(container.id()));
        }
        self.publish(container, "pause", &[]);
        drop(telling);
        let _ = hit("pause.frozen");
        self.save_or_warn(container).await;
        Ok(())
    }

    /// Lets a paused container go on.
    ///
    /// # Errors
    /// Internal if it is not paused, as clients know it.
    pub async fn unpause(&self, container: &Arc<Container>) -> Result<()> {
        let _operation = container.operation.lock().await;
        if container.now().state.phase != Phase::Paused {
            return Err(Error::internal(format!(
                "Container {} is not paused",
                container.id()
            )));
        }
        self.thaw(container).await
    }

    /// Lets frozen processes go on.
    pub(super) async fn thaw(&self, container: &Arc<Container>) -> Result<()> {
        let cgroup = self.cgroup(container)?;
        let thawed = blocking(move || cgroup.thaw()).await;
        thawed.map_err(|error| state::unless_ended(error, container.id()))?;
        let _ = hit("pause.thawed");
        let run = container.current().run.clone();
        let telling = match &run {
            Some(run) => Some(run.signalling.lock().await),
            None => None,
        };
        let resumed = container.change(|details| {
            let paused = details.state.phase == Phase::Paused;
            if paused {
                details.state.phase = Phase::Running;
            }
            paused
        });
        if resumed {
            self.publish(container, "unpause", &[]);
            drop(telling);
            run.iter().for_each(|run| self.probe_health(container, run));
            self.save_or_warn(container).await;
        }
        Ok(())
    }

    /// Of a container that was taken over: lets go on what was frozen without anybody having been told, or only for a
    /// while, and believes the kernel where the record says something else.
    ///
    /// # Errors
    /// Internal, if the kernel refuses. A container that has ended meanwhile is fine.
    pub(super) async fn settle_pause(&self, container: &Arc<Container>, bundle: &Path) -> Result<()> {
        let paused = container.now().state.phase == Phase::Paused;
        let noted = is_noted(bundle);
        let cgroup = match self.cgroup(container) {
            Ok(cgroup) => cgroup,
            // It ends at this moment, and its end is told.
            Err(_) => return Ok(()),
        };
        let frozen = match blocking(move || cgroup.is_frozen()).await {
            Ok(frozen) => frozen,
            // Nothing is frozen where there is no freezer.
            Err(error) if paused || noted => return Err(error),
            Err(_) => return Ok(()),
        };
        if frozen && (noted || !paused) || paused && !frozen {
            self.thaw(container).await?;
        }
        match noted {
            true => forget(bundle),
            false => Ok(()),
        }
    }

    /// Sets the size of a running container's terminal.
    ///
    /// # Errors
    /// Conflict if it does not run.
    pub async fn resize(&self, container: &Arc<Container>, height: u32, width: u32) -> Result<()> {
        container.now().state.must_run(container.id())?;
        let Some(run) = container.current().run.clone() else {
            return Err(state::not_running(container.id()));
        };
        let request = Request::Resize {
            height: characters(height)?,
            width: characters(width)?,
            exec: None,
        };
        run.link().call(request).await?;
        self.publish(
            container,
            "resize",
            &[("height", height.to_string()), ("width", width.to_string())],
        );
        Ok(())
    }

    /// The cgroup of a running container.
    pub(super) fn cgroup(&self, container: &Container) -> Result<Cgroup> {
        let (parent, name) = self.cgroup_path(container);
        Cgroup::open(&parent, &name)?.ok_or_else(|| state::not_running(container.id()))
    }
}

/// The file in a container's bundle that says that it is frozen for a while only.
const NOTE: &str = "paused-for-a-while";

/// Notes that a container is about to be frozen by the engine for something that it does itself.
///
/// # Errors
/// Internal.
pub(super) fn note(bundle: &Path) -> Result<()> {
    hit("pause.note")
        .and_then(|()| fs::write(bundle.join(NOTE), b""))
        .context(|| "cannot note that a container is paused")
}

/// It is not any more.
///
/// # Errors
/// Internal.
pub(super) fn forget(bundle: &Path) -> Result<()> {
    match fs::remove_file(bundle.join(NOTE)) {
        // Its bundle went with it.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context(|| "cannot forget that a container was paused")
        }
        _ => Ok(()),
    }
}

fn is_noted(bundle: &Path) -> bool {
    bundle.join(NOTE).exists()
}

/// One side of a terminal.
pub(super) fn characters(number: u32) -> Result<u16> {
    u16::try_from(number)
        .map_err(|_| Error::invalid(format!("a terminal can't be {number} characters large")))
}
