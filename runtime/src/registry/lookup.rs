//! What is asked of the places of a repository in turn, mirrors first, until one answers: manifests and tags.

use std::{sync::Arc, time::Duration};

use reqwest::Method;
use serde::Deserialize;

use super::{
    Credentials, Registry, blocking,
    failure::Failure,
    session::{self, Document, Request, Session},
};
use crate::{
    Error, Result,
    image::{Reference, manifest::media},
};

/// Tags of one repository.
const TAGS: usize = 10_000;
const TAGS_PAGE: usize = 4 << 20;
pub const SCHEMA_1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/vnd.docker.distribution.manifest.v1+json",
];
/// What is understood, and what is refused with words.
pub const ACCEPT: [&str; 6] = [
    media::DOCKER_MANIFEST,
    media::DOCKER_INDEX,
    media::MANIFEST,
    media::INDEX,
    SCHEMA_1[0],
    SCHEMA_1[1],
];

impl Registry {
    /// The tags of a repository.
    ///
    /// # Errors
    /// As [`Self::pull`].
    pub async fn tags(
        self: &Arc<Self>,
        repository: &Reference,
        credentials: &Credentials,
    ) -> Result<Vec<String>> {
        let sessions = self.sessions(repository, credentials).await?;
        for session in &sessions {
            match tags_of(session, self.settings.patience).await {
                Ok(tags) => return Ok(tags),
                Err(failure) => pass_over(session, repository, failure)
                    .map_err(|failure| failure.of_pull(repository, session.is_anonymous()))?,
            }
        }
        Err(no_registry())
    }

    /// Sessions with all places of a repository, to read it.
    pub(super) async fn sessions(
        self: &Arc<Self>,
        reference: &Reference,
        credentials: &Credentials,
    ) -> Result<Vec<Arc<Session>>> {
        let registry = Arc::clone(self);
        let (domain, path) = (reference.domain().to_owned(), reference.path().to_owned());
        // Reads certificates, and may look names up.
        let places = blocking(move || registry.places(&domain, &path)).await?;
        let session = |place| Session::new(Arc::clone(self), place, credentials, "pull", &[]);
        Ok(places.into_iter().map(|place| Arc::new(session(place))).collect())
    }
}

/// The tags that one place has, no more than [`TAGS`].
async fn tags_of(session: &Session, patience: Duration) -> Result<Vec<String>, Failure> {
    #[derive(Deserialize)]
    struct Page {
        #[serde(default)]
        tags: Option<Vec<String>>,
    }
    let mut tags: Vec<String> = Vec::new();
    let request = Request::new(Method::GET);
    let mut response = session.ask(&request, "tags/list").await?;
    loop {
        let next = session::next_page(response.headers());
        let base = response.url().clone();
        let body = session::read_all(response, TAGS_PAGE, patience).await?;
        let page: Page = serde_json::from_slice(&body)
            .map_err(|e| Error::internal(format!("the registry's list of tags is malformed: {e}")))?;
        tags.extend(page.tags.unwrap_or_default());
        tags.truncate(TAGS);
        match next {
            Some(next) if tags.len() < TAGS => response = session.follow(&request, &base, &next).await?,
            _ => return Ok(tags),
        }
    }
}

/// The manifest or index of that name from the first place that serves it, and the session with that.
///
/// # Errors
/// The registry's own, and whether it was asked by nobody: those of mirrors are only logged.
pub(super) async fn manifest_of<'a>(
    sessions: &'a [Arc<Session>],
    reference: &Reference,
    max: u64,
) -> Result<(&'a Arc<Session>, Document), (Failure, bool)> {
    for session in sessions {
        let document = session
            .document(&manifest_path(reference), &ACCEPT, max, reference.digest())
            .await;
        match document {
            Ok(document) => return Ok((session, document)),
            Err(failure) => {
                pass_over(session, reference, failure)
                    .map_err(|failure| (failure, session.is_anonymous()))?;
            }
        }
    }
    Err((no_registry().into(), true))
}

/// A mirror's failure is logged, and the next place is asked. The registry's is given back.
fn pass_over(session: &Session, reference: &Reference, failure: Failure) -> Result<(), Failure> {
    if session.place.is_registry {
        return Err(failure);
    }
    tracing::warn!(
        mirror = session.place.site.authority,
        reason = failure.text(),
        "a mirror does not serve {}",
        reference.familiar()
    );
    Ok(())
}

fn no_registry() -> Error {
    Error::internal("there is no registry to ask")
}

/// What a registry is asked for.
pub fn tag_or_digest(reference: &Reference) -> String {
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, Some(tag)) => tag.to_owned(),
        (None, None) => "latest".to_owned(),
    }
}

pub fn manifest_path(reference: &Reference) -> String {
    format!("manifests/{}", tag_or_digest(reference))
}
