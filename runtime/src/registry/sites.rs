//! Which hosts serve a repository, and how they are spoken to.

use std::{
    net::{IpAddr, ToSocketAddrs as _},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use ipnet::IpNet;
use reqwest::{Client, redirect::Policy};

use super::{Registry, Settings, certificates};
use crate::{Error, Result, error::Context};

/// Docker's registry by the name that images have.
pub const OFFICIAL: &str = "docker.io";
/// The host that serves it.
const OFFICIAL_HOST: &str = "registry-1.docker.io";

/// A host that serves images.
#[derive(Debug)]
pub struct Site {
    /// Host and port.
    pub authority: String,
    /// Its certificate need not be right, and it may do without TLS.
    pub insecure: bool,
    /// For its addresses.
    pub client: Client,
    /// The scheme that was answered last: 0 unknown, 1 https, 2 http.
    scheme: AtomicU8,
}

/// Where a repository is.
#[derive(Clone, Debug)]
pub struct Place {
    /// The host.
    pub site: Arc<Site>,
    /// The repository's name there.
    pub repository: String,
    /// It is the registry itself and not a mirror of it, so that it may see credentials.
    pub is_registry: bool,
}

impl Site {
    /// The schemes to try, best first.
    pub fn schemes(&self) -> &'static [&'static str] {
        match (self.insecure, self.scheme.load(Ordering::Relaxed)) {
            (false, _) => &["https"],
            (true, 2) => &["http", "https"],
            (true, _) => &["https", "http"],
        }
    }

    /// Notes that a scheme was answered.
    pub fn answered(&self, scheme: &str) {
        let number = if scheme == "http" { 2 } else { 1 };
        self.scheme.store(number, Ordering::Relaxed);
    }

    /// Whether it has answered before.
    pub fn is_known(&self) -> bool {
        self.scheme.load(Ordering::Relaxed) != 0
    }

    /// Whether a scheme has been answered before.
    pub fn knows(&self, scheme: &str) -> bool {
        let number = if scheme == "http" { 2 } else { 1 };
        self.scheme.load(Ordering::Relaxed) == number
    }
}

impl Registry {
    /// Where the repository `path` of the registry `domain` is: mirrors first, the registry last.
    ///
    /// # Errors
    /// If a host's certificates cannot be read, or a mirror's address is malformed.
    pub(super) fn places(&self, domain: &str, path: &str) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        let name = format!("{domain}/{path}");
        for mirror in &self.settings.mirrors {
            let mirror = Mirror::parse(mirror)?;
            if !mirror.serves(&name) {
                continue;
            }
            let repository = match mirror.namespace.as_str() {
                "" => path.to_owned(),
                namespace => format!("{namespace}/{path}"),
            };
            let site = self.site(&mirror.authority, mirror.is_plain)?;
            places.push(Place {
                site,
                repository,
                is_registry: false,
            });
        }
        places.push(self.origin(domain, path)?);
        Ok(places)
    }

    /// Where the repository is itself, without mirrors.
    ///
    /// # Errors
    /// As [`Self::places`].
    pub(super) fn origin(&self, domain: &str, path: &str) -> Result<Place> {
        let host = if domain == OFFICIAL { OFFICIAL_HOST } else { domain };
        Ok(Place {
            site: self.site(host, false)?,
            repository: path.to_owned(),
            is_registry: true,
        })
    }

    /// The host `authority`; `plain` if it was named with http.
    ///
    /// # Errors
    /// As [`Self::places`].
    pub(super) fn site(&self, authority: &str, plain: bool) -> Result<Arc<Site>> {
        let lock = || self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{}{authority}", if plain { "http://" } else { "" });
        if let Some(site) = lock().get(&key) {
            return Ok(Arc::clone(site));
        }
        let insecure = plain || is_insecure(authority, &self.settings.insecure);
        let site = Arc::new(Site {
            authority: authority.to_owned(),
            insecure,
            client: client(authority, insecure, &self.settings)?,
            scheme: AtomicU8::new(if plain { 2 } else { 0 }),
        });
        Ok(Arc::clone(lock().entry(key).or_insert(site)))
    }
}

fn client(authority: &str, insecure: bool, settings: &Settings) -> Result<Client> {
    let builder = || -> Result<_> {
        let mut builder = Client::builder()
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
            // Redirects are followed by the session, which knows what must not go along.
            .redirect(Policy::none())
            .connect_timeout(settings.patience)
            .pool_max_idle_per_host(8);
        if is_loopback(host_of(authority)) {
            builder = builder.no_proxy();
        }
        certificates::apply(builder, &settings.certificates, authority)
    };
    let built = match insecure {
        true => builder()?.tls_danger_accept_invalid_certs(true).build(),
        // A host without any authority of its own still speaks to hosts with certificates in the directory.
        false => builder()?.build().or_else(|_| builder_only(builder())),
    };
    built.context(|| format!("cannot prepare to speak to {authority}"))
}

fn builder_only(builder: Result<reqwest::ClientBuilder>) -> reqwest::Result<Client> {
    match builder {
        Ok(builder) => builder.tls_certs_only([]).build(),
        Err(_) => Client::builder().tls_certs_only([]).build(),
    }
}

/// The host of `host[:port]`, without the brackets of an IPv6 address.
pub fn host_of(authority: &str) -> &str {
    if let Some((host, _)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return host;
    }
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

/// Whether a host is this machine.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether a registry may do without TLS: it is on this machine, or listed by name or by its network.
fn is_insecure(authority: &str, listed: &[String]) -> bool {
    let host = host_of(authority);
    if is_loopback(host) {
        return true;
    }
    if listed.iter().any(|entry| {
        let entry = entry.split_once("://").map_or(entry.as_str(), |(_, rest)| rest);
        entry == authority || entry == host
    }) {
        return true;
    }
    let networks: Vec<IpNet> = listed.iter().filter_map(|entry| entry.parse().ok()).collect();
    let within = |ip: IpAddr| networks.iter().any(|network| network.contains(&ip));
    match host.parse::<IpAddr>() {
        Ok(ip) => within(ip),
        Err(_) if networks.is_empty() => false,
        // As dockerd does: a name counts by its addresses.
        Err(_) => (host, 443)
            .to_socket_addrs()
            .is_ok_and(|addresses| addresses.into_iter().any(|a| within(a.ip()))),
    }
}

/// A mirror and the names that it serves.
#[derive(Debug)]
struct Mirror {
    prefix: String,
    authority: String,
    namespace: String,
    is_plain: bool,
}

impl Mirror {
    fn parse(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!(
                "invalid mirror {text:?}: write http(s)://host[:port][/path], or name=http(s)://…"
            ))
        };
        let (prefix, address) = match text.split_once('=') {
            Some((prefix, address)) if !prefix.contains("://") => (prefix, address),
            _ => (OFFICIAL, text),
        };
        let (scheme, rest) = address.split_once("://").ok_or_else(bad)?;
        let (authority, namespace) = rest.split_once('/').unwrap_or((rest, ""));
        let refused = authority.is_empty() || authority.contains('@') || rest.contains(['?', '#']);
        if !matches!(scheme, "http" | "https") || refused || prefix.is_empty() {
            return Err(bad());
        }
        Ok(Self {
            prefix: prefix.trim_end_matches('/').to_owned(),
            authority: authority.to_owned(),
            namespace: namespace.trim_matches('/').to_owned(),
            is_plain: scheme == "http",
        })
    }

    fn serves(&self, name: &str) -> bool {
        name.strip_prefix(&self.prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Checks a mirror's setting.
///
/// # Errors
/// [`crate::Kind::Invalid`] if it is malformed.
pub fn check_mirror(text: &str) -> Result<()> {
    Mirror::parse(text).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_do_without_tls() {
        let listed = ["reg.example:5000", "10.0.0.0/8", "plain.example"].map(str::to_owned);
        for (authority, insecure) in [
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("localhost:5000", true),
            ("reg.example:5000", true),
            ("reg.example:5001", false),
            ("plain.example:80", true),
            ("10.1.2.3:5000", true),
            ("11.1.2.3:5000", false),
        ] {
            assert_eq!(is_insecure(authority, &listed), insecure, "{authority}");
        }
    }

    #[test]
    fn mirrors_come_first() {
        let registry = Registry::new(Settings {
            mirrors: ["https://m.example", "quay.io/team=http://q.example:81/cache/"]
                .map(str::to_owned)
                .into(),
            ..Settings::default()
        });
        let places = registry.places("docker.io", "library/x").unwrap();
        let hosts: Vec<_> = places
            .iter()
            .map(|p| (p.site.authority.as_str(), p.repository.as_str(), p.is_registry))
            .collect();
        assert_eq!(
            hosts,
            [
                ("m.example", "library/x", false),
                (OFFICIAL_HOST, "library/x", true)
            ]
        );
        let places = registry.places("quay.io", "team/y").unwrap();
        assert_eq!(places[0].repository, "cache/team/y");
        assert_eq!(places[0].site.schemes()[0], "http");
        assert_eq!(registry.places("quay.io", "teams/y").unwrap().len(), 1);
        for bad in ["m.example", "ftp://x", "=https://x", "https://", "https://u@x"] {
            assert!(check_mirror(bad).is_err(), "{bad}");
        }
    }
}
