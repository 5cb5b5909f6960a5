//! Another name for a container.

use std::sync::Arc;

use berth_runtime::{Error, Result, failpoint::hit};

use super::{Containers, model::Container, names, store::Sync};

impl Containers {
    /// Gives a container another name, whether it runs or not.
    ///
    /// # Errors
    /// Invalid for an empty, malformed or unchanged name; conflict if it is taken.
    pub async fn rename(&self, container: &Arc<Container>, name: &str) -> Result<()> {
        if name.is_empty() {
            return Err(Error::invalid("Neither old nor new names may be empty"));
        }
        let name = names::check(name).map_err(allocating)?;
        let _operation = container.operation.lock().await;
        let old = container.now().name.clone();
        if name == old {
            return Err(Error::invalid(
                "Renaming a container with the same name as its current name",
            ));
        }
        if container.now().state.is_gone() {
            return Err(Error::conflict(format!(
                "container {} is being removed or dead",
                container.id()
            )));
        }
        let reserved = self.index.reserve(name, container.id()).map_err(allocating)?;
        container.change(|details| name.clone_into(&mut details.name));
        if let Err(error) = self.save(container, Sync::Yes).await {
            container.change(|details| details.name = old);
            return Err(error);
        }
        let _ = hit("rename.saved");
        reserved.keep();
        self.index.release(&old);
        self.index.rename_links(&old, name);
        let details = container.details();
        self.networks
            .rename(container.id(), name, &container.config().hostname, |network| {
                details.networks.get(network).cloned().unwrap_or_default()
            });
        self.publish(container, "rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }
}

/// The error of a new name, in Docker's words.
fn allocating(error: Error) -> Error {
    Error::new(
        error.kind(),
        format!("Error when allocating new name: {}", error.message()),
    )
}
