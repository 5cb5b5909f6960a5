//! Keeps web pages away from TCP listeners. A browser on this host sends requests wherever a page tells it to; the
//! engine must not obey them. A unix socket cannot be reached by a browser and is not guarded.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, Uri, header};

/// How much a listener has to mistrust its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Not at all: only local processes with the right group get here.
    None,
    /// Requests that a page of another origin caused are refused.
    Origin,
    /// And so are those that do not name this host, as a page's own name may be made to resolve to it.
    OriginAndHost,
}

/// Refuses a request that a web page may have caused, with the reason.
///
/// # Errors
/// The message for the client.
pub fn check(guard: Guard, uri: &Uri, headers: &HeaderMap) -> Result<(), String> {
    if guard == Guard::None {
        return Ok(());
    }
    // Which of several would count is a matter of opinion.
    if headers.get_all(header::HOST).iter().count() > 1 {
        return Err("the request names several hosts".into());
    }
    let host = text(headers.get(header::HOST))?;
    let authority = uri.authority().map(|authority| authority.as_str());
    if guard == Guard::OriginAndHost {
        for name in [host, authority].into_iter().flatten() {
            if !is_loopback(name) {
                return Err(format!(
                    "the host {name:?} is not this one: use localhost or a loopback address"
                ));
            }
        }
        if host.is_none() && authority.is_none() {
            return Err("the request names no host: send the header Host".into());
        }
    }
    check_origin(headers, authority.or(host))
}

/// Requests must come from no page, or from one of this very origin.
fn check_origin(headers: &HeaderMap, host: Option<&str>) -> Result<(), String> {
    let refused = || "requests that other web sites cause are refused".to_owned();
    if let Some(origin) = text(headers.get(header::ORIGIN))? {
        let own = origin.split_once("://").map(|(_, host)| host);
        if own.is_none() || own != host || headers.get_all(header::ORIGIN).iter().count() > 1 {
            return Err(refused());
        }
    }
    for site in headers.get_all("sec-fetch-site") {
        if site != "same-origin" && site != "none" {
            return Err(refused());
        }
    }
    Ok(())
}

fn text(value: Option<&HeaderValue>) -> Result<Option<&str>, String> {
    value
        .map(HeaderValue::to_str)
        .transpose()
        .map_err(|_| "a header is not plain text".to_owned())
}

/// Whether `authority`, a name with or without port, is a loopback name or address.
fn is_loopback(authority: &str) -> bool {
    let (name, port) = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, "")) => (name, None),
            Some((name, port)) => (name, port.strip_prefix(':')),
            None => return false,
        },
        None => authority
            .split_once(':')
            .map_or((authority, None), |(name, port)| (name, Some(port))),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return false;
    }
    match name.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => name.trim_end_matches('.').eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(guard: Guard, uri: &str, headers: &[(&'static str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        check(guard, &uri.parse().unwrap(), &map).is_ok()
    }

    #[test]
    fn loopback_names_and_addresses() {
        for name in [
            "localhost",
            "LocalHost:2375",
            "localhost.",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]",
            "[::1]:80",
        ] {
            assert!(is_loopback(name), "{name}");
        }
        for name in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "0.0.0.0",
            "[::]",
            "[::1",
            "localhost:x",
            "user@localhost",
        ] {
            assert!(!is_loopback(name), "{name}");
        }
    }

    #[test]
    fn a_foreign_host_is_refused_in_the_clear() {
        let guard = Guard::OriginAndHost;
        assert!(verdict(guard, "/x", &[("host", "localhost:2375")]));
        assert!(!verdict(guard, "/x", &[("host", "evil.example")]));
        assert!(!verdict(guard, "/x", &[]));
        assert!(!verdict(
            guard,
            "/x",
            &[("host", "localhost"), ("host", "evil.example")]
        ));
        assert!(!verdict(guard, "http://evil.example/x", &[("host", "localhost")]));
        assert!(verdict(Guard::Origin, "/x", &[("host", "engine.example")]));
        assert!(verdict(
            Guard::None,
            "/x",
            &[("host", "docker"), ("origin", "http://evil.example")]
        ));
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        for guard in [Guard::Origin, Guard::OriginAndHost] {
            let with = |name, value| verdict(guard, "/x", &[("host", "localhost:2375"), (name, value)]);
            assert!(with("origin", "http://localhost:2375"));
            assert!(!with("origin", "http://localhost:3000"));
            assert!(!with("origin", "http://evil.example"));
            assert!(!with("origin", "null"));
            assert!(with("sec-fetch-site", "none"));
            assert!(with("sec-fetch-site", "same-origin"));
            assert!(!with("sec-fetch-site", "same-site"));
            assert!(!with("sec-fetch-site", "cross-site"));
        }
    }
}
