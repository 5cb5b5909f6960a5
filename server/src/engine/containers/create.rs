//! A new container.

use std::sync::Arc;

use berth_api::{
    ApiVersion,
    models::{ContainerCreateRequest, ContainerCreateResponse},
};
use berth_runtime::{Error, Result, failpoint::hit, image::Hold};
use jiff::Timestamp;

use super::{
    Containers, blocking,
    index::Reservation,
    model::{Container, Details, Identity, Record},
    names,
    store::Sync,
    validate::{self, Checked, MountPoint, Peer},
};

impl Containers {
    /// Makes a container from an image that is here.
    ///
    /// # Errors
    /// Invalid for a request that is wrong; not found if the image is not here, and for nothing else; conflict if the
    /// name is taken. Nothing is left behind then.
    pub async fn create(
        &self,
        request: ContainerCreateRequest,
        version: ApiVersion,
        name: &str,
        platform: &str,
    ) -> Result<ContainerCreateResponse> {
        self.create_noted(request, version, name, platform, |_| Ok(()))
            .await
    }

    /// The same, with the id told to `note` before there is anything on disk, so that whoever dies then can be made good.
    ///
    /// # Errors
    /// Those of [`Self::create`] and of `note`.
    pub async fn create_noted(
        &self,
        request: ContainerCreateRequest,
        version: ApiVersion,
        name: &str,
        platform: &str,
        note: impl FnOnce(&str) -> Result<()> + Send + 'static,
    ) -> Result<ContainerCreateResponse> {
        let (this, name, platform) = (self.clone(), name.to_owned(), platform.to_owned());
        let (container, warnings) =
            blocking(move || this.create_blocking(request, version, &name, &platform, note)).await?;
        Ok(ContainerCreateResponse {
            id: container.id().to_owned(),
            warnings,
        })
    }

    fn create_blocking(
        &self,
        request: ContainerCreateRequest,
        version: ApiVersion,
        name: &str,
        platform: &str,
        note: impl FnOnce(&str) -> Result<()>,
    ) -> Result<(Arc<Container>, Vec<String>)> {
        let name = match name {
            "" => None,
            name => Some(names::check(name)?),
        };
        if has_no_config(&request) {
            let message = "config cannot be empty in order to create a container";
            return Err(Error::invalid(message));
        }
        let mut checked = validate::create(request, version, &self.host, &self.defaults.load(), self)?;
        let image = self.resolve_image(&mut checked, platform)?;
        let id = names::new_id();
        checked.set_hostname(&id)?;
        let reserved = match name {
            Some(name) => self.index.reserve(name, &id)?,
            None => self.index.reserve_any(&id)?,
        };
        note(&id)?;
        let made = self.make(&id, &reserved, image, checked);
        if made.is_err() {
            self.remove_directory_or_warn(&id);
        }
        let (container, warnings) = made?;
        // It exists from here on, whoever dies.
        let _ = hit("create.made");
        reserved.keep();
        self.index.insert(&id, Arc::clone(&container));
        self.publish_links(&container);
        self.publish(&container, "create", &[]);
        Ok((container, warnings))
    }

    /// Makes what a container has on disk.
    fn make(
        &self,
        id: &str,
        name: &Reservation<Container>,
        image: Option<Hold>,
        mut checked: Checked,
    ) -> Result<(Arc<Container>, Vec<String>)> {
        self.store.make_directory(id)?;
        let links = self.take_links(&mut checked.host_config)?;
        let defaults = self.defaults.load();
        let remap = defaults.remap(&checked.host_config);
        let ids = remap.map(|remap| &*remap.map);
        let volumes = self.acquire_volumes(id, &mut checked.mounts, image.as_ref(), ids)?;
        let record = Record {
            identity: Identity {
                id: id.into(),
                created: Timestamp::now(),
                image: image
                    .as_ref()
                    .map(|hold| hold.image().id.to_string())
                    .unwrap_or_default(),
                config: Arc::new(checked.config),
                log: checked.log,
                security: checked.security,
            },
            details: Details {
                host_config: Arc::new(checked.host_config),
                networks: Arc::new(self.named_endpoints(checked.networking.endpoints_config)),
                links: Arc::new(links),
                mounts: Arc::new(checked.mounts),
                ..Details::new(name.name())
            },
        };
        self.store.save(&record, Sync::Yes)?;
        volumes.keep();
        Ok((Container::new(record, image), checked.warnings))
    }

    fn remove_directory_or_warn(&self, id: &str) {
        if let Err(error) = self.store.remove(id) {
            tracing::warn!(container = id, %error, "a container that could not be made has left files behind");
        }
    }
}

/// Whether nothing is said of the container itself, not even its image.
fn has_no_config(request: &ContainerCreateRequest) -> bool {
    let config = ContainerCreateRequest {
        host_config: None,
        networking_config: None,
        ..request.clone()
    };
    config == ContainerCreateRequest::default()
}

impl validate::Lookup for Containers {
    fn peer(&self, reference: &str) -> Result<Peer> {
        let container = self.find(reference)?;
        let details = container.now();
        Ok(Peer {
            id: container.id().to_owned(),
            network_mode: details.host_config.network_mode.clone(),
        })
    }

    fn mounts(&self, reference: &str) -> Result<Vec<MountPoint>> {
        Ok((*self.find(reference)?.now().mounts).clone())
    }
}
