//! Addresses the engine listens on, as `-H` and the `hosts` key spell them.

use std::{fmt, path::PathBuf, str::FromStr};

use berth_runtime::{Error, Result};

/// What `unix://` without a path means.
pub const DEFAULT_SOCKET: &str = "/run/berth.sock";
/// Port of a TCP address without one, in the clear.
const PLAIN_PORT: u16 = 2375;
/// Port of a TCP address without one, under TLS.
const TLS_PORT: u16 = 2376;

/// One address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// `unix:///path`: a socket file.
    Unix(PathBuf),
    /// `tcp://name:port`; without a port the usual one, which depends on TLS.
    Tcp {
        /// Host name or address without brackets.
        name: String,
        /// The port, if one was given.
        port: Option<u16>,
    },
    /// `fd://` (all), `fd://N` (the descriptor N) or `fd://name`: sockets inherited from systemd.
    Inherited(Option<String>),
}

impl Host {
    /// Name and port to bind for a TCP address.
    pub fn tcp_port(port: Option<u16>, tls: bool) -> u16 {
        port.unwrap_or(if tls { TLS_PORT } else { PLAIN_PORT })
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::Unix(DEFAULT_SOCKET.into())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { name, port } => {
                let (open, close) = if name.contains(':') { ("[", "]") } else { ("", "") };
                write!(f, "tcp://{open}{name}{close}")?;
                port.map_or(Ok(()), |p| write!(f, ":{p}"))
            }
            Self::Inherited(which) => write!(f, "fd://{}", which.as_deref().unwrap_or_default()),
        }
    }
}

impl FromStr for Host {
    type Err = Error;

    /// # Errors
    /// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for an unknown scheme or a malformed address.
    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let bad = |why: &str| Error::invalid(format!("invalid host address {text:?}: {why}"));
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(bad("it must start with unix://, tcp:// or fd://"));
        };
        match scheme {
            "unix" if rest.is_empty() => Ok(Self::default()),
            "unix" if rest.starts_with('/') => Ok(Self::Unix(rest.into())),
            "unix" => Err(bad("the path of a socket must be absolute")),
            "fd" => Ok(Self::Inherited(
                (!rest.is_empty() && rest != "*").then(|| rest.into()),
            )),
            "tcp" => parse_authority(rest).map_err(bad),
            _ => Err(bad("the scheme must be unix, tcp or fd")),
        }
    }
}

/// Reads `name[:port]`, `[v6][:port]` or `:port`; an empty name means `localhost`.
fn parse_authority(rest: &str) -> Result<Host, &'static str> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#', '@']) || rest.contains(char::is_whitespace) {
        return Err("only a name and a port may follow tcp://");
    }
    let (name, port) = match rest.strip_prefix('[') {
        Some(v6) => {
            let (name, port) = v6.split_once(']').ok_or("an IPv6 address must be closed by ]")?;
            (
                name,
                port.strip_prefix(':')
                    .or_else(|| port.is_empty().then_some(""))
                    .ok_or("text after ]")?,
            )
        }
        None if rest.matches(':').count() > 1 => return Err("write an IPv6 address in brackets"),
        None => rest.split_once(':').unwrap_or((rest, "")),
    };
    let port = match port {
        "" => None,
        port => Some(
            port.parse()
                .map_err(|_| "the port must be a number from 0 to 65535")?,
        ),
    };
    let name = if name.is_empty() { "localhost" } else { name }.to_owned();
    Ok(Host::Tcp { name, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(name: &str, port: Option<u16>) -> Host {
        Host::Tcp {
            name: name.into(),
            port,
        }
    }

    #[test]
    fn reads_every_form_and_prints_it_back() {
        for (text, host) in [
            ("unix:///run/x.sock", Host::Unix("/run/x.sock".into())),
            ("tcp://127.0.0.1:2375", tcp("127.0.0.1", Some(2375))),
            ("tcp://[::1]:2376", tcp("::1", Some(2376))),
            ("tcp://example.org", tcp("example.org", None)),
            ("fd://", Host::Inherited(None)),
            ("fd://3", Host::Inherited(Some("3".into()))),
        ] {
            assert_eq!(text.parse::<Host>().unwrap(), host);
            assert_eq!(host.to_string(), text);
        }
    }

    #[test]
    fn fills_in_what_is_left_out() {
        assert_eq!(
            "unix://".parse::<Host>().unwrap(),
            Host::Unix(DEFAULT_SOCKET.into())
        );
        assert_eq!("tcp://:0".parse::<Host>().unwrap(), tcp("localhost", Some(0)));
        assert_eq!("tcp://".parse::<Host>().unwrap(), tcp("localhost", None));
        assert_eq!("fd://*".parse::<Host>().unwrap(), Host::Inherited(None));
        assert_eq!(Host::tcp_port(None, false), 2375);
        assert_eq!(Host::tcp_port(None, true), 2376);
        assert_eq!(Host::tcp_port(Some(1), true), 1);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for text in [
            "",
            "/run/x.sock",
            "unix://x.sock",
            "npipe:////./pipe/x",
            "http://localhost",
            "tcp://localhost:99999",
            "tcp://localhost:x",
            "tcp://::1:5",
            "tcp://[::1",
            "tcp://[::1]5",
            "tcp://a/b",
        ] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
    }
}
