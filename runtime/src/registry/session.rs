//! Requests to one repository: with authentication, redirects, and patience.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{
    Body, Method, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER},
};

use super::{
    Registry,
    credentials::Credentials,
    failure::{Attempt, Failure, refusal},
    sites::{Place, Site},
    token::{self, Challenge, Token, Wish},
};
use crate::{Error, Result, image::Digest};

/// How many redirects one request follows.
const REDIRECTS: usize = 10;
/// How often a registry may ask for other credentials within one request.
const CHALLENGES: usize = 2;
/// The longest answer that says what is wrong.
const REFUSAL_MAX: usize = 64 << 10;
/// The first pause before another try; it doubles.
const PAUSE: Duration = Duration::from_millis(300);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Makes the body of a request, once for each try.
type MakeBody = Arc<dyn Fn() -> Body + Send + Sync>;

/// A request that can be made more than once.
#[derive(Clone)]
pub struct Request {
    method: Method,
    headers: HeaderMap,
    body: Option<MakeBody>,
    /// Longer than usual, for what has a long body.
    pub patience: Option<Duration>,
}

impl Request {
    pub fn new(method: Method) -> Self {
        Self {
            method,
            headers: HeaderMap::new(),
            body: None,
            patience: None,
        }
    }

    /// Adds a header; one that cannot be written is left out.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(HeaderName::from_static(lower(name)), value);
        }
        self
    }

    pub fn accept(mut self, types: &[&'static str]) -> Self {
        for media_type in types {
            self.headers.append(ACCEPT, HeaderValue::from_static(media_type));
        }
        self
    }

    pub fn bytes(self, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        self.body(Arc::new(move || Body::from(body.clone())))
    }

    pub fn body(mut self, body: MakeBody) -> Self {
        self.body = Some(body);
        self
    }
}

/// Header names are written here as people write them.
fn lower(name: &'static str) -> &'static str {
    match name {
        "Content-Type" => "content-type",
        "Content-Length" => "content-length",
        "Content-Range" => "content-range",
        "Range" => "range",
        other => other,
    }
}

/// One repository at one place.
#[derive(Debug)]
pub struct Session {
    pub registry: Arc<Registry>,
    pub place: Place,
    credentials: Credentials,
    /// What is asked for in tokens.
    scopes: Vec<String>,
    state: Mutex<Authentication>,
}

#[derive(Debug, Default)]
struct Authentication {
    challenge: Option<(Url, Challenge)>,
    token: Option<Token>,
}

/// A document as a registry gave it.
#[derive(Debug)]
pub struct Document {
    pub bytes: Bytes,
    pub media_type: String,
}

impl Session {
    /// A session that may do `actions` (`pull` or `pull,push`) and read the repositories `others`.
    pub fn new(
        registry: Arc<Registry>,
        place: Place,
        credentials: &Credentials,
        actions: &str,
        others: &[String],
    ) -> Self {
        let mut scopes = vec![format!("repository:{}:{actions}", place.repository)];
        scopes.extend(others.iter().map(|other| format!("repository:{other}:pull")));
        let credentials = if place.is_registry {
            credentials.clone()
        } else {
            Credentials::default()
        };
        Self {
            registry,
            place,
            credentials,
            scopes,
            state: Mutex::default(),
        }
    }

    /// Whether it speaks for nobody in particular.
    pub fn is_anonymous(&self) -> bool {
        self.credentials.is_anonymous()
    }

    /// Makes a request below `/v2/<repository>/`, again if it fails in passing.
    ///
    /// # Errors
    /// Any answer but success.
    pub async fn ask(&self, request: &Request, path: &str) -> Attempt<Response> {
        self.persist(|| self.once(request, path)).await
    }

    /// Does `work` until it succeeds, fails for good, or has failed too often.
    ///
    /// # Errors
    /// What the last try gave.
    pub async fn persist<T, F: Future<Output = Attempt<T>>>(&self, work: impl Fn() -> F) -> Attempt<T> {
        let mut tries = 1;
        loop {
            match work().await {
                // Who has never been there is not waited for.
                Err(failure @ Failure::Unreachable(_)) if !self.place.site.is_known() => return Err(failure),
                Err(failure) if failure.is_passing() && tries < self.registry.settings.attempts => {
                    let pause = pause(&failure, tries);
                    tracing::debug!(
                        site = self.place.site.authority,
                        ?pause,
                        reason = failure.text(),
                        "trying again"
                    );
                    tokio::time::sleep(pause).await;
                    tries += 1;
                }
                result => return result,
            }
        }
    }

    /// Makes a request below `/v2/<repository>/` once.
    ///
    /// # Errors
    /// Any answer but success.
    pub async fn once(&self, request: &Request, path: &str) -> Attempt<Response> {
        let path = format!("/v2/{}/{path}", self.place.repository);
        self.at(request, &path).await
    }

    /// Makes a request to a path of the host once, with TLS or, where that is allowed, without.
    ///
    /// # Errors
    /// Any answer but success.
    pub async fn at(&self, request: &Request, path: &str) -> Attempt<Response> {
        let site = &self.place.site;
        let mut last = Failure::Unreachable(format!("cannot reach {}", site.authority));
        for scheme in site.schemes() {
            let url = url(scheme, &site.authority, path)?;
            match self.authenticated(request, url).await {
                Err(failure @ (Failure::Broken(_) | Failure::Unreachable(_)))
                    if site.insecure && !site.knows(scheme) =>
                {
                    last = failure;
                }
                result => return result,
            }
        }
        Err(last)
    }

    /// Makes a request to an address that the registry gave in answer to `base`.
    ///
    /// # Errors
    /// Any answer but success; an address that is none, or gives up TLS.
    pub async fn follow(&self, request: &Request, base: &Url, location: &str) -> Attempt<Response> {
        let url = join(base, location)?;
        if authority(&url) == authority(base) && url.scheme() == base.scheme() {
            return self.authenticated(request, url).await;
        }
        let site = self.site_of(&url)?;
        let patience = request.patience.unwrap_or(self.registry.settings.patience);
        successful(exchange(&site, url, request, None, patience).await?).await
    }

    async fn authenticated(&self, request: &Request, url: Url) -> Attempt<Response> {
        let mut challenges = 0;
        loop {
            let authorization = self.authorization(&url).await?;
            let response = self
                .redirected(request, url.clone(), authorization.as_deref())
                .await?;
            self.place.site.answered(url.scheme());
            if response.status() != StatusCode::UNAUTHORIZED || challenges == CHALLENGES {
                return successful(response).await;
            }
            challenges += 1;
            let Some(challenge) = token::challenge(response.headers()) else {
                return successful(response).await;
            };
            let helps = match &challenge {
                Challenge::Basic => !self.credentials.username.is_empty() && authorization.is_none(),
                Challenge::Bearer { error, .. } => {
                    self.credentials.registrytoken.is_empty()
                        && (error != "insufficient_scope" || authorization.is_none())
                }
            };
            if !helps {
                return successful(response).await;
            }
            let mut state = self.state();
            state.token = None;
            state.challenge = Some((url.clone(), challenge));
        }
    }

    /// What is shown to the registry, if it has asked for anything.
    async fn authorization(&self, url: &Url) -> Attempt<Option<String>> {
        if !self.credentials.registrytoken.is_empty() {
            return Ok(Some(format!("Bearer {}", self.credentials.registrytoken)));
        }
        let (registry, challenge) = {
            let state = self.state();
            match &state.challenge {
                None => return Ok(None),
                Some(asked) if asked.0.scheme() != url.scheme() => return Ok(None),
                Some((registry, challenge)) => {
                    if let Some(token) = state.token.as_ref().filter(|t| Instant::now() < t.until) {
                        return Ok(Some(format!("Bearer {}", token.text)));
                    }
                    (registry.clone(), challenge.clone())
                }
            }
        };
        let Challenge::Bearer {
            realm,
            service,
            scope,
            ..
        } = challenge
        else {
            return Ok(Some(basic(&self.credentials)));
        };
        let mut scopes = self.scopes.clone();
        if !scope.is_empty() && scope.len() < 1000 && !scopes.contains(&scope) && scopes.is_empty() {
            scopes.push(scope);
        }
        let wish = Wish {
            registry: &registry,
            realm: &realm,
            service: &service,
            scopes: &scopes,
            credentials: &self.credentials,
            offline: false,
        };
        let token = token::fetch(&self.registry, &wish).await?;
        let text = format!("Bearer {}", token.text);
        self.state().token = Some(token);
        Ok(Some(text))
    }

    /// Follows redirects. Credentials are shown to the host that they are for, and to no other.
    async fn redirected(
        &self,
        request: &Request,
        start: Url,
        authorization: Option<&str>,
    ) -> Attempt<Response> {
        let mut url = start.clone();
        let mut site = Arc::clone(&self.place.site);
        let patience = request.patience.unwrap_or(self.registry.settings.patience);
        for _ in 0..=REDIRECTS {
            let at_home = authority(&url) == authority(&start) && url.scheme() == start.scheme();
            let shown = authorization.filter(|_| at_home);
            let response = exchange(&site, url.clone(), request, shown, patience).await?;
            let next = match response.status() {
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => location(&response),
                StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER
                    if matches!(request.method, Method::GET | Method::HEAD) =>
                {
                    location(&response)
                }
                _ => return Ok(response),
            };
            let Some(next) = next else {
                return Err(Failure::Other(Error::internal(format!(
                    "{} redirects without saying where",
                    authority(&url)
                ))));
            };
            url = join(&url, &next)?;
            site = self.site_of(&url)?;
        }
        Err(Failure::Other(Error::internal(format!(
            "stopped after {REDIRECTS} redirects of {}",
            self.place.site.authority
        ))))
    }

    fn site_of(&self, url: &Url) -> Attempt<Arc<Site>> {
        let authority = authority(url);
        if authority == self.place.site.authority {
            return Ok(Arc::clone(&self.place.site));
        }
        Ok(self.registry.site(&authority, url.scheme() == "http")?)
    }

    /// A document of at most `max` bytes below `/v2/<repository>/`.
    ///
    /// # Errors
    /// Any answer but success; a longer document; another digest than `digest` or than the registry says.
    pub async fn document(
        &self,
        path: &str,
        accept: &[&'static str],
        max: u64,
        digest: Option<&Digest>,
    ) -> Attempt<Document> {
        let request = Request::new(Method::GET).accept(accept);
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let patience = self.registry.settings.patience;
        let work = || async {
            let response = self.once(&request, path).await?;
            let media_type = header(response.headers(), CONTENT_TYPE.as_str());
            let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
            let claimed = header(response.headers(), "docker-content-digest");
            let bytes = read_all(response, max, patience).await?;
            let actual = Digest::of(&bytes);
            let expected = match digest {
                Some(digest) => Some(*digest),
                None if claimed.is_empty() => None,
                None => Some(claimed.parse::<Digest>().map_err(|e| {
                    let site = &self.place.site.authority;
                    Error::internal(format!(
                        "{site} says that the digest of a manifest is {claimed:?}: {e}"
                    ))
                })?),
            };
            if let Some(expected) = expected.filter(|expected| *expected != actual) {
                return Err(Failure::Other(Error::internal(format!(
                    "wrong content of {expected}: its digest is {actual}"
                ))));
            }
            Ok(Document { bytes, media_type })
        };
        self.persist(work).await
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Authentication> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes one request to one host. `authorization` is shown to it.
///
/// # Errors
/// If there is no answer.
pub async fn exchange(
    site: &Site,
    url: Url,
    request: &Request,
    authorization: Option<&str>,
    patience: Duration,
) -> Attempt<Response> {
    let mut built = site
        .client
        .request(request.method.clone(), url.clone())
        .headers(request.headers.clone());
    if let Some(text) = authorization {
        let mut value = HeaderValue::from_str(text)
            .map_err(|_| Error::invalid("the credentials hold characters that cannot be sent"))?;
        value.set_sensitive(true);
        built = built.header(AUTHORIZATION, value);
    }
    if let Some(body) = &request.body {
        built = built.body(body());
    }
    match tokio::time::timeout(patience, built.send()).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(Failure::broken(&url, &error)),
        Err(_) => Err(Failure::Broken(format!(
            "{} did not answer within {} seconds",
            authority(&url),
            patience.as_secs()
        ))),
    }
}

/// The answer if it is a good one.
///
/// # Errors
/// What the registry says, if it is not.
pub async fn successful(response: Response) -> Attempt<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let retry_after = retry_after(response.headers());
    let bearer = match token::challenge(response.headers()) {
        Some(Challenge::Bearer { error, .. }) => error,
        _ => String::new(),
    };
    // What cannot be read of the explanation is done without.
    let body = read_some(response, REFUSAL_MAX, Duration::from_secs(10)).await;
    Err(refusal(status, retry_after, Some(&bearer), &body))
}

async fn read_some(mut response: Response, max: usize, patience: Duration) -> Vec<u8> {
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() > max {
                break;
            }
        }
    };
    // Less of it is fine.
    let _ = tokio::time::timeout(patience, read).await;
    body
}

/// The whole body.
///
/// # Errors
/// If it is longer than `max`, breaks off, or stops coming.
pub async fn read_all(mut response: Response, max: usize, patience: Duration) -> Attempt<Bytes> {
    let url = response.url().clone();
    let mut body = Vec::new();
    // A document is small: all of it has to come in the time that a piece of a layer has.
    let read = async {
        loop {
            match response.chunk().await {
                Ok(None) => return Ok(()),
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Err(error) => return Err(Failure::broken(&url, &error)),
            }
            if body.len() > max {
                return Err(Failure::Other(Error::new(
                    crate::Kind::Internal,
                    format!("{} sent a document of more than {max} bytes", authority(&url)),
                )));
            }
        }
    };
    match tokio::time::timeout(patience, read).await {
        Ok(result) => result?,
        Err(_) => {
            return Err(Failure::Broken(format!(
                "{} did not send all of a document within {} seconds",
                authority(&url),
                patience.as_secs()
            )));
        }
    }
    Ok(body.into())
}

/// How long to wait after the try number `tries`, counted from 1.
pub fn pause(failure: &Failure, tries: u32) -> Duration {
    if let Failure::Refused {
        retry_after: Some(seconds),
        ..
    } = failure
    {
        return Duration::from_secs(*seconds).min(PAUSE_MAX);
    }
    let longest = PAUSE
        .saturating_mul(1 << tries.saturating_sub(1).min(7))
        .min(PAUSE_MAX);
    // Many clients of one registry should not come back all at once.
    longest.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}

/// RFC 9110, section 10.2.3: seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    let left = date.timestamp().as_second() - jiff::Timestamp::now().as_second();
    Some(u64::try_from(left).unwrap_or_default())
}

/// The header for user name and password (RFC 7617).
pub fn basic(credentials: &Credentials) -> String {
    let pair = format!("{}:{}", credentials.username, credentials.password);
    format!("Basic {}", STANDARD.encode(pair))
}

/// A header as text; empty if there is none.
pub fn header(headers: &HeaderMap, name: &str) -> String {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

pub fn location(response: &Response) -> Option<String> {
    let value = response.headers().get(LOCATION)?;
    value.to_str().ok().map(str::to_owned)
}

/// Host and port.
pub fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

pub fn url(scheme: &str, authority: &str, path: &str) -> Result<Url> {
    Url::parse(&format!("{scheme}://{authority}{path}"))
        .map_err(|e| Error::invalid(format!("invalid registry host {authority:?}: {e}")))
}

/// Where a redirect leads. It must not give up TLS.
fn join(base: &Url, location: &str) -> Attempt<Url> {
    let bad = |why: &str| {
        Failure::Other(Error::internal(format!(
            "{} redirects to where nothing is asked: {why}",
            authority(base)
        )))
    };
    let mut next = base.join(location).map_err(|_| bad("it is no address"))?;
    if !matches!(next.scheme(), "http" | "https") || next.host_str().is_none() {
        return Err(bad("it is not of the web"));
    }
    if base.scheme() == "https" && next.scheme() == "http" {
        return Err(bad("it gives up TLS"));
    }
    // What is written there are somebody else's credentials.
    if next.set_username("").is_err() || next.set_password(None).is_err() {
        return Err(bad("it is no address"));
    }
    next.set_fragment(None);
    Ok(next)
}

/// The links of an answer that has more pages (RFC 8288).
pub fn next_page(headers: &HeaderMap) -> Option<String> {
    let link = header(headers, "link");
    let links: HashMap<&str, &str> = link
        .split(',')
        .filter_map(|part| {
            let (address, parameters) = part.split_once(';')?;
            let relation = parameters.split_once("rel=")?.1;
            Some((
                relation.trim_matches(['"', ' ']),
                address.trim().strip_prefix('<')?.strip_suffix('>')?,
            ))
        })
        .collect();
    links.get("next").map(|next| (*next).to_owned())
}
