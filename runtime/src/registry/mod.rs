//! Images from and to registries (OCI distribution specification; Docker's registry API, version 2).
//!
//! | module | what it is |
//! |---|---|
//! | [`credentials`] | who asks, from the headers of the engine's API |
//! | [`sites`] | which hosts serve a repository: mirrors, names, with and without TLS |
//! | [`certificates`] | authorities and client certificates for each host |
//! | [`session`] | requests to one repository: authentication, redirects, retries |
//! | [`token`] | challenges and tokens |
//! | [`failure`] | what went wrong, in the registry's own words |
//! | [`download`] | blobs that arrive: shared, resumed, read while they come |
//! | [`pull`], [`push`] | whole images |
//! | [`refetch`] | content that is damaged here |
//! | [`lookup`] | what mirrors and the registry are asked in turn |
//! | [`inspect`], [`search`], [`login`] | questions |

mod certificates;
mod credentials;
mod download;
mod failure;
mod inspect;
mod login;
mod lookup;
mod pull;
mod push;
mod refetch;
mod search;
mod session;
mod sites;
mod token;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::Semaphore;

pub use self::{
    credentials::Credentials, inspect::Inspected, pull::Pulled, push::Pushed, refetch::Refetch,
    search::Found, sites::check_mirror,
};
use self::{download::Downloads, sites::Site};
use crate::{Error, Result, image::ImageStore};

/// How registries are spoken to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Hosts (`host[:port]`) and networks (`10.0.0.0/8`) whose certificates are not checked, and that may do without
    /// TLS. Loopback addresses always are.
    pub insecure: Vec<String>,
    /// Mirrors in the order they are asked: a URL for Docker's own registry, or `PREFIX=URL` for all names that begin
    /// with a registry or a part of one (`quay.io`, `docker.io/library`).
    pub mirrors: Vec<String>,
    /// Directories with a directory for each host, which holds `*.crt` (authorities) and `*.cert` with `*.key` (client
    /// certificates).
    pub certificates: Vec<PathBuf>,
    /// How long nothing may come from a registry.
    pub patience: Duration,
    /// How often something is tried before it has failed.
    pub attempts: u32,
    /// How many layers are fetched at a time.
    pub downloads: usize,
    /// How many layers are sent at a time.
    pub uploads: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            mirrors: Vec::new(),
            certificates: ["/etc/berth/certs.d", "/etc/docker/certs.d"]
                .map(PathBuf::from)
                .into(),
            patience: Duration::from_secs(60),
            attempts: 5,
            downloads: 3,
            uploads: 5,
        }
    }
}

/// The client of all registries. One for an engine: it knows what is being fetched.
#[derive(Debug)]
pub struct Registry {
    settings: Settings,
    /// By host and port.
    sites: Mutex<HashMap<String, Arc<Site>>>,
    downloads: Arc<Downloads>,
    downloading: Arc<Semaphore>,
    uploading: Arc<Semaphore>,
}

impl Registry {
    /// A client that has not spoken to anybody.
    pub fn new(settings: Settings) -> Self {
        Self {
            sites: Mutex::default(),
            downloads: Arc::default(),
            downloading: Arc::new(Semaphore::new(settings.downloads.max(1))),
            uploading: Arc::new(Semaphore::new(settings.uploads.max(1))),
            settings,
        }
    }

    /// Throws away what has come of blobs that nobody is fetching. Gives how many bytes that were. Blocks.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn forget_partials(&self, store: &ImageStore) -> Result<u64> {
        let partials = store.partials()?;
        let sizes = partials
            .iter()
            .map(|partial| self.downloads.forget(&partial.digest, store));
        sizes.sum()
    }

    /// A client with other settings that knows what this one is fetching. What is under way goes on as it began.
    #[must_use]
    pub fn renewed(&self, settings: Settings) -> Self {
        Self {
            downloads: Arc::clone(&self.downloads),
            ..Self::new(settings)
        }
    }
}

/// What a transfer tells about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A plain line.
    Line(String),
    /// The transfer of this image begins: the tag or digest, and the repository without its registry.
    Pulling {
        /// Tag or digest.
        id: String,
        /// The repository within its registry.
        repository: String,
    },
    /// A layer is in another state, or further in the same one.
    Layer {
        /// The digest of its archive, or its diff ID when it is sent.
        digest: crate::image::Digest,
        /// The state.
        state: State,
        /// Bytes done, and bytes in all; both 0 if the state is all there is to tell.
        done: (u64, u64),
    },
}

/// What is happening to a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It will be fetched.
    Pulling,
    /// Others are fetched before it.
    Waiting,
    /// It is being fetched.
    Downloading,
    /// All of it has come and is compared with its digest.
    Verifying,
    /// It has been fetched.
    Downloaded,
    /// It is being unpacked.
    Extracting,
    /// It is unpacked.
    Pulled,
    /// It was here before.
    Exists,
    /// A transfer has failed and is tried again in so many seconds.
    Retrying(u64),
    /// It will be sent.
    Preparing,
    /// It is being sent.
    Pushing,
    /// It has been sent.
    Pushed,
    /// The registry had it before.
    Known,
    /// The registry had it in this other repository.
    Mounted(String),
}

/// Hears what a transfer tells; called from many threads, and must not wait.
pub trait Listener: Send + Sync + 'static {
    /// Something happened.
    fn hear(&self, event: Event);
}

impl<F: Fn(Event) + Send + Sync + 'static> Listener for F {
    fn hear(&self, event: Event) {
        self(event);
    }
}

/// Work that waits for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal(format!(
            "a piece of work was broken off: {error}"
        ))),
    }
}
