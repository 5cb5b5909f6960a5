//! Checks credentials.

use std::sync::Arc;

use reqwest::Method;

use super::{
    Credentials, Registry, blocking,
    failure::Failure,
    session::{self, Request},
    sites::OFFICIAL,
    token::{self, Challenge, Wish},
};
use crate::{Error, Kind, Result};

impl Registry {
    /// Asks a registry whether it takes `credentials`. Gives the identity token to use from now on; empty if there is
    /// none.
    ///
    /// # Errors
    /// [`Kind::Unauthorized`] if it refuses them, [`Kind::Internal`] if it cannot be reached.
    pub async fn login(self: &Arc<Self>, credentials: &Credentials) -> Result<String> {
        let domain = domain(&credentials.serveraddress);
        let registry = Arc::clone(self);
        let place = blocking({
            let domain = domain.clone();
            move || registry.origin(&domain, "")
        })
        .await?;
        let refused = |failure: Failure| {
            let error = failure.into_error();
            let text = format!("login attempt to {domain} failed: {error}");
            match error.kind() {
                Kind::Unauthorized | Kind::Forbidden => Error::new(Kind::Unauthorized, text),
                _ => Error::internal(text),
            }
        };
        let site = place.site;
        let mut last = None;
        for scheme in site.schemes() {
            let url = session::url(scheme, &site.authority, "/v2/")?;
            let request = Request::new(Method::GET);
            let patience = self.settings.patience;
            let response = match session::exchange(&site, url.clone(), &request, None, patience).await {
                Ok(response) => response,
                Err(failure) => {
                    last = Some(failure);
                    continue;
                }
            };
            site.answered(scheme);
            let (authorization, refresh) = match token::challenge(response.headers()) {
                // A registry that asks for nothing takes everybody.
                None => {
                    session::successful(response).await.map_err(refused)?;
                    return Ok(String::new());
                }
                Some(Challenge::Basic) if credentials.username.is_empty() => {
                    return Err(Error::new(
                        Kind::Unauthorized,
                        format!("login attempt to {domain} failed: no basic auth credentials"),
                    ));
                }
                Some(Challenge::Basic) => (session::basic(credentials), String::new()),
                Some(Challenge::Bearer { realm, service, .. }) => {
                    let wish = Wish {
                        registry: &url,
                        realm: &realm,
                        service: &service,
                        scopes: &[],
                        credentials,
                        offline: true,
                    };
                    let token = token::fetch(self, &wish).await.map_err(refused)?;
                    (format!("Bearer {}", token.text), token.refresh)
                }
            };
            let checked = session::exchange(&site, url, &request, Some(&authorization), patience).await;
            let response = checked.map_err(refused)?;
            session::successful(response).await.map_err(refused)?;
            return Ok(refresh);
        }
        Err(refused(last.unwrap_or_else(|| {
            Failure::Unreachable(format!("cannot reach {}", site.authority))
        })))
    }
}

/// The registry that a server address means: it may have a scheme and a path; empty is Docker's own.
pub(super) fn domain(address: &str) -> String {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default().trim();
    match host {
        "" | "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => OFFICIAL.to_owned(),
        host => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_addresses() {
        for (address, expected) in [
            ("", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("http://127.0.0.1:5000/v2/", "127.0.0.1:5000"),
            ("reg.example", "reg.example"),
        ] {
            assert_eq!(domain(address), expected);
        }
    }
}
