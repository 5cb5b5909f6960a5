//! Where requests come in: unix sockets, TCP in the clear or under TLS, and sockets inherited from systemd.

mod connection;
mod framing;
mod guard;
mod inherited;
mod pace;
mod server;
mod stall;
mod tls;
mod unix;

use std::{
    fmt,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    os::unix::net::UnixListener,
};

use berth_runtime::{Error, Result, error::Context};
use tokio_rustls::TlsAcceptor;

use crate::config::{Config, host::Host};
use guard::Guard;
pub use inherited::Inherited;
pub use server::Server;
use unix::SocketFile;

/// Who sent a request: an extension of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A process of this host, as the kernel knew it when it connected (SO_PEERCRED).
    Local {
        /// User id.
        uid: u32,
        /// Process id, if it is visible here.
        pid: Option<i32>,
    },
    /// Someone on the network.
    Remote(SocketAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { uid, pid: Some(pid) } => write!(f, "uid={uid} pid={pid}"),
            Self::Local { uid, pid: None } => write!(f, "uid={uid}"),
            Self::Remote(address) => write!(f, "{address}"),
        }
    }
}

/// A socket that accepts connections, and what is expected of them.
#[derive(Debug)]
pub struct Listener {
    /// The address, for people.
    pub address: String,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixListener, Option<SocketFile>),
    Tcp(TcpListener, Security),
}

/// What protects a TCP listener.
#[derive(Clone)]
enum Security {
    /// Nothing but that it is a loopback address.
    Plain,
    Tls(TlsAcceptor),
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::Tls(_) => "Tls",
        })
    }
}

impl Security {
    fn guard(&self) -> Guard {
        match self {
            Self::Plain => Guard::OriginAndHost,
            Self::Tls(_) => Guard::Origin,
        }
    }
}

/// Opens every address of the configuration. What was opened is closed again if one fails.
///
/// # Errors
/// As the single kinds of sockets; [`Kind::Forbidden`](berth_runtime::Kind::Forbidden) for TCP that would let anyone in.
pub fn bind(config: &Config, inherited: &mut Inherited) -> Result<Vec<Listener>> {
    let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
    let mut listeners = Vec::new();
    for host in &config.hosts {
        match host {
            Host::Unix(path) => {
                let (socket, file) = unix::bind_socket(path, config.group.as_deref())?;
                listeners.push(Listener {
                    address: host.to_string(),
                    socket: Socket::Unix(socket, Some(file)),
                });
            }
            Host::Tcp { name, port } => {
                let port = Host::tcp_port(*port, tls.is_some());
                for address in resolve(name, port)? {
                    listeners.push(bind_tcp(address, config, tls.as_ref())?);
                }
            }
            Host::Inherited(which) => {
                for socket in inherited.take(which.as_deref())? {
                    listeners.push(adopt(socket, config, tls.as_ref())?);
                }
            }
        }
    }
    Ok(listeners)
}

/// The addresses of a name; all of them are listened on.
fn resolve(name: &str, port: u16) -> Result<Vec<SocketAddr>> {
    let say = || format!("cannot find the address of tcp://{name}");
    let mut list: Vec<_> = (name, port).to_socket_addrs().context(say)?.collect();
    list.sort_unstable();
    list.dedup();
    if port == 0 {
        // Each would get a port of its own.
        list.truncate(1);
    }
    Ok(list)
}

fn bind_tcp(address: SocketAddr, config: &Config, tls: Option<&TlsAcceptor>) -> Result<Listener> {
    let security = security(address, config, tls)?;
    let socket = TcpListener::bind(address).context(|| format!("cannot listen on tcp://{address}"))?;
    listener(socket, security)
}

fn adopt(socket: inherited::Socket, config: &Config, tls: Option<&TlsAcceptor>) -> Result<Listener> {
    match socket {
        inherited::Socket::Unix(socket) => {
            socket
                .set_nonblocking(true)
                .context(|| "cannot use an inherited socket")?;
            Ok(Listener {
                address: "fd:// (unix)".into(),
                socket: Socket::Unix(socket, None),
            })
        }
        inherited::Socket::Tcp(socket) => {
            let address = socket.local_addr().context(|| "cannot use an inherited socket")?;
            let security = security(address, config, tls)?;
            listener(socket, security)
        }
    }
}

fn listener(socket: TcpListener, security: Security) -> Result<Listener> {
    socket
        .set_nonblocking(true)
        .context(|| "cannot use a TCP socket")?;
    let address = socket.local_addr().context(|| "cannot use a TCP socket")?;
    Ok(Listener {
        address: format!("tcp://{address}"),
        socket: Socket::Tcp(socket, security),
    })
}

/// Whoever reaches the API is root on this host, so nobody may reach it without proving who they are, but processes
/// of this host if that is asked for.
fn security(address: SocketAddr, config: &Config, tls: Option<&TlsAcceptor>) -> Result<Security> {
    let forbidden = |what: &str| {
        Err(Error::new(
            berth_runtime::Kind::Forbidden,
            format!("refusing to listen on tcp://{address}: {what}"),
        ))
    };
    let loopback = address.ip().to_canonical().is_loopback();
    let verified = config.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    match tls {
        Some(acceptor) if loopback || verified => Ok(Security::Tls(acceptor.clone())),
        Some(_) => forbidden("anyone could use it; verify clients by --tlsverify and --tlscacert"),
        None if !loopback => forbidden("without TLS only loopback addresses are allowed; use --tlsverify"),
        None if !config.allow_plain_tcp => {
            forbidden("every local process could use it; use --tlsverify, or allow it by --allow-plain-tcp")
        }
        None => Ok(Security::Plain),
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod rules {
    use berth_runtime::Kind;

    use super::*;
    use crate::config::settings::Settings;

    fn try_bind(host: &str, plain: bool) -> Result<Vec<Listener>> {
        let config = Config::resolve(Settings {
            hosts: Some(vec![host.parse().unwrap()]),
            allow_plain_tcp: Some(plain),
            ..Settings::default()
        })
        .unwrap();
        bind(&config, &mut Inherited::none())
    }

    #[test]
    fn plain_tcp_is_for_loopback_and_only_on_demand() {
        assert_eq!(
            try_bind("tcp://127.0.0.1:0", false).unwrap_err().kind(),
            Kind::Forbidden
        );
        assert_eq!(
            try_bind("tcp://0.0.0.0:0", true).unwrap_err().kind(),
            Kind::Forbidden
        );
        let listeners = try_bind("tcp://127.0.0.1:0", true).unwrap();
        assert!(listeners[0].address.starts_with("tcp://127.0.0.1:"));
        assert_ne!(listeners[0].address, "tcp://127.0.0.1:0");
    }

    #[test]
    fn missing_inherited_sockets_are_an_error() {
        assert!(try_bind("fd://", true).is_err());
    }
}
