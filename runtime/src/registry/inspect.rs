//! What a registry has under a name, without fetching it.

use std::sync::Arc;

use super::{Credentials, Registry, lookup::manifest_of, pull::describe};
use crate::{
    Error, Kind, Result,
    image::{Descriptor, ImageConfig, Limits, Platform, Reference, manifest::Document},
};

/// What a registry has under a name.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// The manifest or index.
    pub descriptor: Descriptor,
    /// What it is for.
    pub platforms: Vec<Platform>,
}

impl Registry {
    /// Asks the mirrors, then the registry, what `reference` is.
    ///
    /// # Errors
    /// [`Kind::Unauthorized`], [`Kind::Forbidden`] and [`Kind::NotFound`] if the registry says so, [`Kind::Internal`]
    /// otherwise.
    pub async fn inspect(
        self: &Arc<Self>,
        reference: &Reference,
        credentials: &Credentials,
        limits: &Limits,
    ) -> Result<Inspected> {
        let reference = reference.clone().normalized();
        let sessions = self.sessions(&reference, credentials).await?;
        let (session, document) = manifest_of(&sessions, &reference, limits.config_bytes)
            .await
            .map_err(|(failure, _)| {
                let error = failure.into_error();
                match error.kind() {
                    Kind::NotFound => Error::not_found(format!(
                        "manifest for {} not found: {error}",
                        reference.familiar()
                    )),
                    _ => error,
                }
            })?;
        let descriptor = describe(&document, &reference)?;
        let malformed = |e: Error| Error::internal(e.to_string());
        let platforms = match Document::parse(&document.bytes, limits).map_err(malformed)? {
            Document::Index(index) => index.manifests.into_iter().filter_map(|m| m.platform).collect(),
            Document::Manifest(manifest) => {
                let digest = manifest.config.digest;
                let config = session
                    .document(
                        &format!("blobs/{digest}"),
                        &[],
                        limits.config_bytes,
                        Some(&digest),
                    )
                    .await
                    .map_err(super::failure::Failure::into_error)?;
                match ImageConfig::parse(&config.bytes, limits) {
                    Ok(config) if !config.os.is_empty() => vec![config.platform()],
                    // An artifact is for no platform.
                    _ => Vec::new(),
                }
            }
        };
        Ok(Inspected {
            descriptor,
            platforms,
        })
    }
}
