//! The mode strings of `HostConfig`: which namespace a container gets, and whose.

use berth_runtime::{Error, Result};

/// In front of the name of the container whose namespace is shared.
const CONTAINER: &str = "container:";

/// `NetworkMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkMode<'a> {
    /// The predefined network `bridge`; also meant by an empty text and `default`.
    Bridge,
    /// The host's own network.
    Host,
    /// A network namespace with nothing but a loopback.
    None,
    /// The network namespace of the container with this name or id.
    Container(&'a str),
    /// The network with this name or id.
    Named(&'a str),
}

impl<'a> NetworkMode<'a> {
    /// Reads the mode.
    ///
    /// # Errors
    /// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for `container:` without a name.
    pub fn parse(text: &'a str) -> Result<Self> {
        Ok(match text {
            "" | "default" | "bridge" => Self::Bridge,
            "host" => Self::Host,
            "none" => Self::None,
            "container" | CONTAINER => {
                return Err(Error::invalid(
                    "invalid network mode: invalid container format container:<name|id>",
                ));
            }
            _ => text
                .strip_prefix(CONTAINER)
                .map_or(Self::Named(text), Self::Container),
        })
    }

    /// The name under which the network appears in `NetworkSettings.Networks`; none for a shared namespace.
    pub fn network(self) -> Option<&'a str> {
        match self {
            Self::Bridge => Some("bridge"),
            Self::Host => Some("host"),
            Self::None => Some("none"),
            Self::Container(_) => None,
            Self::Named(name) => Some(name),
        }
    }

    /// Whether the container has a network namespace of its own.
    pub fn is_private(self) -> bool {
        !matches!(self, Self::Host | Self::Container(_))
    }
}

/// `IpcMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpcMode<'a> {
    /// Its own namespace and its own /dev/shm.
    Private,
    /// Its own namespace, and a /dev/shm that others may join.
    Shareable,
    /// Its own namespace, without /dev/shm.
    None,
    /// The host's namespace and /dev/shm.
    Host,
    /// Those of the container with this name or id.
    Container(&'a str),
}

impl<'a> IpcMode<'a> {
    /// Reads the mode; an empty text is `private`.
    ///
    /// # Errors
    /// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for anything unknown.
    pub fn parse(text: &'a str) -> Result<Self> {
        Ok(match text {
            "" | "private" => Self::Private,
            "shareable" => Self::Shareable,
            "none" => Self::None,
            "host" => Self::Host,
            _ => Self::Container(
                container(text).ok_or_else(|| Error::invalid(format!("invalid IPC mode: {text}")))?,
            ),
        })
    }
}

/// `PidMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PidMode<'a> {
    /// Its own namespace.
    Private,
    /// The host's.
    Host,
    /// That of the container with this name or id.
    Container(&'a str),
}

impl<'a> PidMode<'a> {
    /// Reads the mode; an empty text is `private`.
    ///
    /// # Errors
    /// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for anything unknown.
    pub fn parse(text: &'a str) -> Result<Self> {
        Ok(match text {
            "" => Self::Private,
            "host" => Self::Host,
            _ => Self::Container(
                container(text).ok_or_else(|| Error::invalid(format!("invalid PID mode: {text}")))?,
            ),
        })
    }
}

/// The container in `container:<name or id>`.
fn container(text: &str) -> Option<&str> {
    text.strip_prefix(CONTAINER).filter(|name| !name.is_empty())
}

/// `container:` with the full id of the container.
pub fn of_container(id: &str) -> String {
    format!("{CONTAINER}{id}")
}

/// Reads a mode that may only be `host` or empty: `UTSMode` and `UsernsMode`. True for `host`.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for anything else; `what` names the mode.
pub fn is_host(what: &str, text: &str) -> Result<bool> {
    match text {
        "" => Ok(false),
        "host" => Ok(true),
        _ => Err(Error::invalid(format!("invalid {what} mode: {text}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_modes() {
        for (text, mode, private) in [
            ("", NetworkMode::Bridge, true),
            ("default", NetworkMode::Bridge, true),
            ("bridge", NetworkMode::Bridge, true),
            ("host", NetworkMode::Host, false),
            ("none", NetworkMode::None, true),
            ("container:db", NetworkMode::Container("db"), false),
            ("front", NetworkMode::Named("front"), true),
        ] {
            assert_eq!(NetworkMode::parse(text).unwrap(), mode, "{text}");
            assert_eq!(mode.is_private(), private, "{text}");
        }
        assert!(NetworkMode::parse("container:").is_err());
        assert!(NetworkMode::parse("container").is_err());
    }

    #[test]
    fn ipc_and_pid_modes() {
        assert_eq!(IpcMode::parse("").unwrap(), IpcMode::Private);
        assert_eq!(IpcMode::parse("shareable").unwrap(), IpcMode::Shareable);
        assert_eq!(IpcMode::parse("none").unwrap(), IpcMode::None);
        assert_eq!(IpcMode::parse("host").unwrap(), IpcMode::Host);
        assert_eq!(IpcMode::parse("container:a").unwrap(), IpcMode::Container("a"));
        assert_eq!(PidMode::parse("").unwrap(), PidMode::Private);
        assert_eq!(PidMode::parse("host").unwrap(), PidMode::Host);
        assert_eq!(PidMode::parse("container:a").unwrap(), PidMode::Container("a"));
        for bad in ["container", "container:", "Host", "shared", "none "] {
            assert_eq!(
                IpcMode::parse(bad).unwrap_err().to_string(),
                format!("invalid IPC mode: {bad}")
            );
        }
        for bad in ["container", "container:", "shareable", "none", "private"] {
            assert_eq!(
                PidMode::parse(bad).unwrap_err().to_string(),
                format!("invalid PID mode: {bad}")
            );
        }
    }

    #[test]
    fn host_or_nothing() {
        assert!(is_host("UTS", "host").unwrap());
        assert!(!is_host("UTS", "").unwrap());
        assert_eq!(
            is_host("UTS", "container:a").unwrap_err().to_string(),
            "invalid UTS mode: container:a"
        );
    }
}
