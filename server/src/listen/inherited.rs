//! Sockets that systemd opened and passed on (sd_listen_fds(3)).

use std::{
    net::TcpListener,
    os::{fd::AsFd, unix::net::UnixListener},
};

use berth_runtime::{Error, Result, error::Context};
use listenfd::ListenFd;
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};

/// First descriptor that is passed on.
const FIRST: usize = 3;

/// An inherited socket that listens.
#[derive(Debug)]
pub enum Socket {
    /// A unix socket.
    Unix(UnixListener),
    /// A TCP socket.
    Tcp(TcpListener),
}

/// The sockets that were passed on and not taken yet.
pub struct Inherited {
    fds: ListenFd,
    names: Vec<String>,
}

impl Inherited {
    /// Takes them from the environment, once, before there are threads.
    pub fn from_env() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        Self {
            names: names.split(':').map(str::to_owned).collect(),
            fds: ListenFd::from_env(),
        }
    }

    /// None.
    pub fn none() -> Self {
        Self {
            fds: ListenFd::empty(),
            names: Vec::new(),
        }
    }

    /// All sockets, or those of this descriptor number or name.
    ///
    /// # Errors
    /// [`Kind::NotFound`](berth_runtime::Kind::NotFound) if there are none, or if one is neither a unix nor a TCP socket.
    pub fn take(&mut self, which: Option<&str>) -> Result<Vec<Socket>> {
        let mut sockets = Vec::new();
        for index in 0..self.fds.len() {
            let named = |which: &str| {
                self.names.get(index).is_some_and(|name| name == which) || which.parse() == Ok(index + FIRST)
            };
            if which.is_none_or(named) {
                sockets.extend(self.take_one(index)?);
            }
        }
        if sockets.is_empty() {
            let which = which.unwrap_or_default();
            return Err(Error::not_found(format!(
                "no socket was inherited for fd://{which}: start the engine by systemd socket activation, or \
                 listen elsewhere"
            )));
        }
        Ok(sockets)
    }

    fn take_one(&mut self, index: usize) -> Result<Option<Socket>> {
        let say = || format!("inherited descriptor {} is not a listening socket", index + FIRST);
        if let Ok(unix) = self.fds.take_unix_listener(index) {
            return Ok(unix.map(Socket::Unix));
        }
        let Some(tcp) = self.fds.take_tcp_listener(index).context(say)? else {
            return Ok(None);
        };
        let address = getsockname::<SockaddrStorage>(std::os::fd::AsRawFd::as_raw_fd(&tcp.as_fd()));
        let family = address.context(say)?.family();
        match family {
            Some(AddressFamily::Inet | AddressFamily::Inet6) => Ok(Some(Socket::Tcp(tcp))),
            _ => Err(Error::invalid(say())),
        }
    }
}
