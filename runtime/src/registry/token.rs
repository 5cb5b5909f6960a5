//! Challenges and tokens (RFC 7235; RFC 6750; Docker's token authentication, OAuth2 for refresh tokens).

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use reqwest::{
    Method, Url,
    header::{HeaderMap, WWW_AUTHENTICATE},
};
use serde::Deserialize;

use super::{
    Registry,
    credentials::Credentials,
    failure::{Attempt, Failure},
    session::{self, Request},
    sites::{host_of, is_loopback},
};
use crate::Error;

/// How we call ourselves to token servers.
const CLIENT_ID: &str = "berth";
/// How long a token lives that does not say so, and the least that any does, by Docker's specification.
const LIFETIME: Duration = Duration::from_secs(60);
/// How long before its end a token counts as over.
const MARGIN: Duration = Duration::from_secs(10);
/// The longest answer of a token server.
const ANSWER_MAX: usize = 1 << 20;

/// What a registry wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// User name and password.
    Basic,
    /// A token.
    Bearer {
        /// The address that gives it.
        realm: String,
        /// For whom.
        service: String,
        /// For what; the session asks for what it needs besides.
        scope: String,
        /// Why the last one was not enough.
        error: String,
    },
}

/// A token and the moment from which on it is not used any more.
#[derive(Clone)]
pub struct Token {
    pub text: String,
    pub until: Instant,
    /// A token that gets further ones, if that was asked for.
    pub refresh: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

/// The challenge of an answer; of several a token is preferred.
pub fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let all: Vec<Challenge> = headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| parse(value.to_str().ok()?))
        .collect();
    let bearer = all.iter().find(|c| matches!(c, Challenge::Bearer { .. }));
    bearer.or_else(|| all.first()).cloned()
}

fn parse(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or_else(|| (text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let parameters = parameters(rest);
    let get = |name: &str| {
        let found = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    Some(Challenge::Bearer {
        realm: get("realm"),
        service: get("service"),
        scope: get("scope"),
        error: get("error"),
    })
}

/// `key="value",key=value`; a comma within quotes belongs to the value.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut rest = text.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([',', ' ', '\t']).to_owned();
        let (value, left) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let (value, left) = after.split_once(',').unwrap_or((after, ""));
                (value.trim().to_owned(), left)
            }
        };
        all.push((key, value));
        rest = left.trim_start_matches([',', ' ', '\t']);
    }
    all
}

/// A quoted text, and what follows it.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return (value, text.get(at + 1..).unwrap_or_default()),
            c => {
                escaped = false;
                value.push(c);
            }
        }
    }
    (value, "")
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
    #[serde(default)]
    refresh_token: Option<String>,
}

/// What a token is asked for.
#[derive(Debug)]
pub struct Wish<'a> {
    /// The registry that challenged, with its scheme.
    pub registry: &'a Url,
    pub realm: &'a str,
    pub service: &'a str,
    pub scopes: &'a [String],
    pub credentials: &'a Credentials,
    /// Also ask for a token that gets further ones.
    pub offline: bool,
}

/// Asks the token server that a registry has named.
///
/// # Errors
/// If the address is none that a registry may name, or the server refuses.
pub async fn fetch(registry: &Registry, wish: &Wish<'_>) -> Attempt<Token> {
    let mut url = allowed(wish)?;
    let authority = session::authority(&url);
    let site = registry.site(&authority, url.scheme() == "http")?;
    let known = may_know(wish.registry, &url);
    let credentials = if known {
        wish.credentials.clone()
    } else {
        Credentials::default()
    };
    let request = if credentials.identitytoken.is_empty() {
        {
            let mut query = url.query_pairs_mut();
            if !wish.service.is_empty() {
                query.append_pair("service", wish.service);
            }
            for scope in wish.scopes {
                query.append_pair("scope", scope);
            }
            if wish.offline {
                query
                    .append_pair("offline_token", "true")
                    .append_pair("client_id", CLIENT_ID);
            }
            if !credentials.username.is_empty() {
                query.append_pair("account", &credentials.username);
            }
        }
        Request::new(Method::GET)
    } else {
        let mut form = Url::parse("http://form.invalid").map_err(|e| Error::internal(e.to_string()))?;
        form.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("refresh_token", &credentials.identitytoken)
            .append_pair("service", wish.service)
            .append_pair("client_id", CLIENT_ID)
            .append_pair("scope", &wish.scopes.join(" "));
        Request::new(Method::POST)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .bytes(form.query().unwrap_or_default().to_owned())
    };
    let basic = (credentials.identitytoken.is_empty() && !credentials.username.is_empty())
        .then(|| session::basic(&credentials));
    let response =
        session::exchange(&site, url, &request, basic.as_deref(), registry.settings.patience).await?;
    let response = session::successful(response).await?;
    let body = session::read_all(response, ANSWER_MAX, registry.settings.patience).await?;
    let answer: Answer = serde_json::from_slice(&body).map_err(|e| {
        Error::internal(format!(
            "the token server {authority} did not answer with a token: {e}"
        ))
    })?;
    let text = answer.token.filter(|t| !t.is_empty()).or(answer.access_token);
    let text = text.filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic()));
    let text = text.ok_or_else(|| {
        Error::internal(format!(
            "the token server {authority} did not answer with a token"
        ))
    })?;
    let lifetime =
        Duration::from_secs(answer.expires_in.unwrap_or_default()).clamp(LIFETIME, LIFETIME * 60 * 24);
    Ok(Token {
        text,
        until: Instant::now() + lifetime.saturating_sub(MARGIN),
        refresh: answer.refresh_token.unwrap_or_default(),
    })
}

/// The realm, if a registry may name it.
fn allowed(wish: &Wish<'_>) -> Attempt<Url> {
    let bad = |why: &str| {
        Failure::Other(Error::internal(format!(
            "the registry {} names a token server that is refused, {:?}: {why}",
            session::authority(wish.registry),
            wish.realm.chars().take(200).collect::<String>()
        )))
    };
    let url = Url::parse(wish.realm).map_err(|_| bad("it is no address"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(bad("it is not of the web"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("it holds credentials"));
    }
    if wish.registry.scheme() == "https" && url.scheme() == "http" {
        return Err(bad("it has no TLS, and the registry does"));
    }
    let (own, other) = (hostname(wish.registry), hostname(&url));
    let local = is_loopback(&other) || other.parse::<IpAddr>().is_ok_and(is_link_local);
    if own != other && local && !is_loopback(&own) {
        return Err(bad("it is an address of this machine or its link"));
    }
    Ok(url)
}

/// Whether a token server may see the credentials of a registry: on the same host, or elsewhere by TLS.
fn may_know(registry: &Url, realm: &Url) -> bool {
    hostname(registry) == hostname(realm) || realm.scheme() == "https"
}

fn hostname(url: &Url) -> String {
    host_of(&session::authority(url)).to_owned()
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let text = r#"Bearer realm="https://a/token",service="reg, \"x\"", scope="repository:x:pull,push",error=insufficient_scope"#;
        assert_eq!(
            parse(text),
            Some(Challenge::Bearer {
                realm: "https://a/token".to_owned(),
                service: "reg, \"x\"".to_owned(),
                scope: "repository:x:pull,push".to_owned(),
                error: "insufficient_scope".to_owned(),
            })
        );
        assert_eq!(parse("basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(parse("Digest x=y"), None);
        assert!(parameters("====,,,\"").len() < 5);
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, "Basic realm=x".parse().unwrap());
        headers.append(WWW_AUTHENTICATE, "Bearer realm=y".parse().unwrap());
        assert!(matches!(challenge(&headers), Some(Challenge::Bearer { .. })));
    }

    #[test]
    fn token_servers_are_checked() {
        let check = |registry: &str, realm: &str| {
            let registry = Url::parse(registry).unwrap();
            let credentials = Credentials::default();
            let wish = Wish {
                registry: &registry,
                realm,
                service: "",
                scopes: &[],
                credentials: &credentials,
                offline: false,
            };
            allowed(&wish).ok().map(|url| may_know(&registry, &url))
        };
        assert_eq!(check("https://r.example", "https://auth.example/t"), Some(true));
        assert_eq!(
            check("http://127.0.0.1:5000", "http://127.0.0.1:5001/t"),
            Some(true)
        );
        assert_eq!(
            check("http://127.0.0.1:5000", "http://127.0.0.2:5001/t"),
            Some(false)
        );
        for (registry, realm) in [
            ("https://r.example", "http://r.example/t"),
            ("https://r.example", "https://169.254.169.254/t"),
            ("https://r.example", "https://127.0.0.1/t"),
            ("http://r.example", "file:///etc/passwd"),
            ("http://r.example", "http://u:p@r.example/"),
            ("http://r.example", "t"),
        ] {
            assert_eq!(check(registry, realm), None, "{realm}");
        }
    }
}
