//! Searches a registry that offers it (Docker's search API, version 1).

use std::sync::Arc;

use reqwest::Method;
use serde::Deserialize;

use super::{
    Credentials, Registry, blocking,
    failure::Failure,
    session::{self, Request},
    sites::OFFICIAL,
};
use crate::{Error, Kind, Result};

/// Who answers searches of Docker's own registry.
const SEARCH_HOST: &str = "index.docker.io";
const ANSWER_MAX: usize = 4 << 20;

/// An image that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Found {
    /// The repository.
    pub name: String,
    /// What its owner says.
    #[serde(deserialize_with = "crate::image::manifest::null_as_default")]
    pub description: String,
    /// How many like it.
    pub star_count: i64,
    /// Whether Docker looks after it.
    pub is_official: bool,
}

impl Registry {
    /// Asks Docker's registry, or the one that `term` begins with, for images; at most `limit`.
    ///
    /// # Errors
    /// [`Kind::NotImplemented`] if the registry offers no search; [`Kind::Internal`] if it cannot be reached.
    pub async fn search(
        self: &Arc<Self>,
        term: &str,
        limit: u64,
        credentials: &Credentials,
    ) -> Result<Vec<Found>> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            results: Vec<Found>,
        }
        let (domain, word) = split(term);
        let host = if domain == OFFICIAL { SEARCH_HOST } else { domain }.to_owned();
        let registry = Arc::clone(self);
        let site = blocking(move || registry.site(&host, false)).await?;
        let authorization = (!credentials.username.is_empty()).then(|| session::basic(credentials));
        let mut last = Failure::Unreachable(format!("cannot reach {}", site.authority));
        for scheme in site.schemes() {
            let mut url = session::url(scheme, &site.authority, "/v1/search")?;
            url.query_pairs_mut()
                .append_pair("q", word)
                .append_pair("n", &limit.to_string());
            let (request, patience) = (Request::new(Method::GET), self.settings.patience);
            let response =
                match session::exchange(&site, url, &request, authorization.as_deref(), patience).await {
                    Ok(response) => response,
                    Err(failure) => {
                        last = failure;
                        continue;
                    }
                };
            site.answered(scheme);
            let response = match session::successful(response).await {
                Err(failure) if failure.is_not_found() => {
                    return Err(Error::new(
                        Kind::NotImplemented,
                        format!(
                            "the registry {domain} offers no search: name the image to pull, or ask its web page"
                        ),
                    ));
                }
                result => result.map_err(internal)?,
            };
            let body = session::read_all(response, ANSWER_MAX, patience)
                .await
                .map_err(internal)?;
            let answer: Answer = serde_json::from_slice(&body).map_err(|e| {
                Error::internal(format!(
                    "the registry {domain} answered a search with nonsense: {e}"
                ))
            })?;
            let mut results = answer.results;
            results.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            return Ok(results);
        }
        Err(internal(last))
    }
}

fn internal(failure: Failure) -> Error {
    Error::internal(failure.text())
}

/// The registry that a term begins with, and the rest.
fn split(term: &str) -> (&str, &str) {
    match term.split_once('/') {
        Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) => {
            let is_official = matches!(first, OFFICIAL | SEARCH_HOST);
            (if is_official { OFFICIAL } else { first }, rest)
        }
        _ => (OFFICIAL, term.strip_prefix("library/").unwrap_or(term)),
    }
}
