//! Images from and to registries.

use std::sync::Arc;

use berth_runtime::{
    Error, Kind, Result,
    image::{Digest, Limits, Platform, Reference},
    registry::{Credentials, Event, Found, Inspected, Listener, Pushed, Refetch},
};

use super::{Images, set_platform};

impl Images {
    /// Fetches an image, tells how far that is, and names it (API operation `ImageCreate` with `fromImage`). Dropped,
    /// it stops. Returns the image's id.
    ///
    /// # Errors
    /// Not found if the registry does not have or show it; forbidden for reserved names; internal with the registry's
    /// words otherwise.
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        credentials: &Credentials,
        listener: Arc<dyn Listener>,
    ) -> Result<Digest> {
        let reference = reference.clone().normalized();
        let (id, is_newer) = self
            .pull_one(&reference, platform, credentials, Arc::clone(&listener))
            .await?;
        listener.hear(status(&reference.familiar(), is_newer));
        Ok(id)
    }

    /// Fetches all tags of a repository; see [`Self::pull`].
    ///
    /// # Errors
    /// As [`Self::pull`], for the first tag that fails.
    pub async fn pull_all(
        &self,
        repository: &Reference,
        platform: Option<&Platform>,
        credentials: &Credentials,
        listener: Arc<dyn Listener>,
    ) -> Result<()> {
        check_reserved(repository)?;
        let tags = self.registry().tags(repository, credentials).await?;
        let mut any_newer = false;
        for tag in tags {
            let reference = repository.with_tag(&tag)?;
            let (_, is_newer) = self
                .pull_one(&reference, platform, credentials, Arc::clone(&listener))
                .await?;
            any_newer |= is_newer;
        }
        listener.hear(status(&repository.familiar_name(), any_newer));
        Ok(())
    }

    async fn pull_one(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        credentials: &Credentials,
        listener: Arc<dyn Listener>,
    ) -> Result<(Digest, bool)> {
        check_reserved(reference)?;
        let pulled = self
            .registry()
            .pull(
                &self.store,
                reference,
                platform,
                credentials,
                Arc::clone(&listener),
            )
            .await?;
        listener.hear(Event::Line(format!("Digest: {}", pulled.digest)));
        self.publish_transfer("pull", reference, &pulled.loaded.id);
        Ok((pulled.loaded.id, pulled.is_newer))
    }

    /// The names that a push of `name` and `tag` means: all tags of the repository if there is no tag.
    ///
    /// # Errors
    /// Invalid if it is malformed or names a digest; not found if no image has such a name.
    pub fn to_push(&self, name: &str, tag: &str) -> Result<Vec<Reference>> {
        let parsed = Reference::parse(name)?;
        if parsed.digest().is_some() {
            return Err(Error::invalid("cannot push a digest reference"));
        }
        let one = match tag {
            "" if parsed.tag().is_some() => Some(parsed.clone()),
            "" => None,
            tag => Some(parsed.with_tag(tag)?),
        };
        if let Some(reference) = one {
            if self.store.named(&reference).is_none() {
                return Err(Error::not_found(format!(
                    "An image does not exist locally with the tag: {}",
                    reference.familiar_name()
                )));
            }
            return Ok(vec![reference]);
        }
        let images = self.store.list();
        let names = images.iter().flat_map(|image| &image.names);
        let mut tags: Vec<Reference> = names
            .filter(|name| name.same_repository(&parsed) && name.digest().is_none())
            .cloned()
            .collect();
        tags.sort();
        if tags.is_empty() {
            return Err(Error::not_found(format!(
                "An image does not exist locally with the tag: {}",
                parsed.familiar_name()
            )));
        }
        Ok(tags)
    }

    /// Sends the image of a name to its registry (API operation `ImagePush`).
    ///
    /// # Errors
    /// Not found if there is no such image; what the registry says if it refuses.
    pub async fn push(
        &self,
        reference: &Reference,
        credentials: &Credentials,
        listener: Arc<dyn Listener>,
    ) -> Result<Pushed> {
        let image = self.store.named(reference);
        let image = image.ok_or_else(|| {
            Error::not_found(format!(
                "An image does not exist locally with the tag: {}",
                reference.familiar_name()
            ))
        })?;
        let pushed = self
            .registry()
            .push(&self.store, &image, reference, credentials, listener)
            .await?;
        if pushed.digest != image.id {
            let name = reference.with_digest(pushed.digest);
            let (store, id) = (Arc::clone(&self.store), image.id);
            let named = tokio::task::spawn_blocking(move || store.tag(&id, &name)).await;
            match named {
                Ok(Ok(_)) => {}
                // It was removed while it was sent.
                Ok(Err(error)) if error.kind() == Kind::NotFound => {}
                Ok(Err(error)) => return Err(error),
                Err(error) => {
                    return Err(Error::internal("noting the digest was broken off").caused_by(error));
                }
            }
        }
        self.publish_transfer("push", reference, &image.id);
        Ok(pushed)
    }

    /// What a registry has under a name (API operation `DistributionInspect`).
    ///
    /// # Errors
    /// Invalid for a malformed name; unauthorized, forbidden and not found if the registry says so.
    pub async fn inspect_remote(&self, name: &str, credentials: &Credentials) -> Result<Inspected> {
        let reference = Reference::parse(name)?;
        self.registry()
            .inspect(&reference, credentials, &Limits::default())
            .await
    }

    /// Images that a registry offers (API operation `ImageSearch`).
    ///
    /// # Errors
    /// Not implemented if it offers no search.
    pub async fn search(&self, term: &str, limit: u64, credentials: &Credentials) -> Result<Vec<Found>> {
        self.registry().search(term, limit, credentials).await
    }

    /// Who fetches damaged content again; see [`berth_runtime::image::Check`].
    pub fn refetch(&self, credentials: Credentials) -> Refetch {
        self.registry().refetch(&self.store, credentials)
    }

    /// Checks credentials (API operation `SystemAuth`). Gives the identity token to use from now on, if there is one.
    ///
    /// # Errors
    /// Unauthorized if the registry refuses them.
    pub async fn login(&self, credentials: &Credentials) -> Result<String> {
        self.registry().login(credentials).await
    }

    /// Tells that an image came or went: the event is called by the name with the tag.
    fn publish_transfer(&self, action: &str, reference: &Reference, id: &Digest) {
        let labels = self
            .store
            .get(id)
            .and_then(|image| image.config.config.labels.clone());
        let mut attributes: super::Attributes = labels.unwrap_or_default();
        attributes.insert("name".to_owned(), reference.familiar_name());
        self.events.publish(
            super::EventMessageType::Image,
            action,
            reference.familiar(),
            attributes,
        );
    }
}

/// Refuses the name of what is no image.
fn check_reserved(reference: &Reference) -> Result<()> {
    match reference.familiar_name().as_str() {
        "scratch" => Err(Error::new(Kind::Forbidden, "'scratch' is a reserved name")),
        _ => Ok(()),
    }
}

fn status(name: &str, is_newer: bool) -> Event {
    Event::Line(match is_newer {
        true => format!("Status: Downloaded newer image for {name}"),
        false => format!("Status: Image is up to date for {name}"),
    })
}

/// The platform that `os[/architecture[/variant]]` is; `None` if it is empty.
///
/// # Errors
/// Invalid if it is malformed.
pub fn platform(text: &str) -> Result<Option<Platform>> {
    let mut config = berth_runtime::image::ImageConfig::default();
    set_platform(&mut config, text)?;
    if text.is_empty() {
        return Ok(None);
    }
    let mut platform = config.platform();
    if platform.architecture.is_empty() {
        platform.architecture = Platform::host().architecture;
    }
    let (architecture, variant) = match platform.architecture.to_ascii_lowercase().as_str() {
        "x86_64" | "x86-64" => ("amd64".to_owned(), platform.variant),
        "aarch64" => ("arm64".to_owned(), platform.variant),
        "armhf" => ("arm".to_owned(), Some("v7".to_owned())),
        "armel" => ("arm".to_owned(), Some("v6".to_owned())),
        "i386" => ("386".to_owned(), None),
        other => (other.to_owned(), platform.variant),
    };
    Ok(Some(Platform {
        architecture,
        variant,
        ..platform
    }))
}
