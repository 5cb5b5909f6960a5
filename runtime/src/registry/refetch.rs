//! Fetches content again that is damaged here.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::{
    Credentials, Registry, blocking,
    download::{End, Source},
    login::domain,
    lookup::ACCEPT,
};
use crate::{
    Error, Result,
    image::{Descriptor, Image, ImageStore, Mend, Reference},
};

/// Fetches blobs from where their images came. Blocks, on a thread where that is allowed.
#[derive(Debug)]
pub struct Refetch {
    registry: Arc<Registry>,
    store: Arc<ImageStore>,
    credentials: Credentials,
    runtime: Handle,
}

impl Registry {
    /// Who fetches content of the images in `store` again. The credentials are shown to the registry that they are for.
    /// To be called where tasks run.
    pub fn refetch(self: &Arc<Self>, store: &Arc<ImageStore>, credentials: Credentials) -> Refetch {
        Refetch {
            registry: Arc::clone(self),
            store: Arc::clone(store),
            credentials,
            runtime: Handle::current(),
        }
    }
}

impl Mend for Refetch {
    fn fetch(&self, image: &Image, blob: &Descriptor) -> Result<()> {
        let mut last = Error::not_found("no registry is known to have it");
        // What was only loaded or built here is nowhere else, whatever it is called.
        let names = image
            .names
            .iter()
            .filter(|name| image.was_pulled() || name.digest().is_some());
        for name in names {
            match self.runtime.block_on(self.fetch_from(name, blob)) {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Refetch {
    async fn fetch_from(&self, name: &Reference, blob: &Descriptor) -> Result<()> {
        let own =
            !self.credentials.is_anonymous() && domain(&self.credentials.serveraddress) == name.domain();
        let credentials = if own {
            self.credentials.clone()
        } else {
            Credentials::default()
        };
        let sessions = self.registry.sessions(name, &credentials).await?;
        if ACCEPT.contains(&blob.media_type.as_str()) {
            let mut last = Error::internal("there is no registry to ask");
            for session in &sessions {
                let path = format!("manifests/{}", blob.digest);
                let max = self.store.limits().config_bytes;
                match session.document(&path, &ACCEPT, max, Some(&blob.digest)).await {
                    Ok(document) => {
                        let (store, blob) = (Arc::clone(&self.store), blob.clone());
                        let bytes = document.bytes;
                        return blocking(move || store.blobs().ingest(&bytes[..], &blob.digest, blob.size))
                            .await;
                    }
                    Err(failure) => last = failure.into_error(),
                }
            }
            return Err(last);
        }
        let source = Source {
            sessions,
            store: Arc::clone(&self.store),
        };
        let arrival = self.registry.downloads.obtain(blob, &source).await;
        let mut status = arrival.status();
        let ended = status.wait_for(|status| status.end.is_some()).await;
        match ended.ok().and_then(|status| status.end.clone()) {
            Some(End::Complete) => Ok(()),
            Some(End::Failed(failure)) => Err(Error::internal(failure.text())),
            Some(End::Stale) | None => Err(Error::internal("the transfer was broken off")),
        }
    }
}
