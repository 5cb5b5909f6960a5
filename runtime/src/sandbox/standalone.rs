//! Sandboxes whose maker does not stay: what a runtime with its own command line needs beyond what an engine does.
//!
//! The process that is created there waits on a socket in the container's directory, the gate, until somebody comes and
//! asks for the start. Until it was released it ends with its maker, as any other.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, listen, socket,
};

use super::{
    StartError,
    channel::{Channel, Message},
};
use crate::{Error, Result, error::Context, sys::process::adopt};

/// Longest error that is told through the gate, in bytes.
const MESSAGE_MAX: usize = 4096;

/// What is different for a sandbox whose maker does not stay.
#[derive(Clone, Copy, Debug)]
pub struct Standalone<'a> {
    /// Where the created process waits for its start: [`Gate::listen`].
    pub gate: Option<&'a Gate>,
    /// Descriptors from 3 on that the program gets as they are.
    pub preserve_fds: u32,
    /// Change the root by chroot(2), where pivot_root(2) is impossible: on the initial ramfs.
    pub no_pivot: bool,
    /// Stay in the caller's session keyring.
    pub no_new_keyring: bool,
}

/// A socket on which a created process waits.
#[derive(Debug)]
pub struct Gate(OwnedFd);

impl Gate {
    /// Makes the socket at `path`, which must not exist; whoever may connect to it may start the container.
    ///
    /// # Errors
    /// Internal, if it cannot be made.
    pub fn listen(path: &Path) -> Result<Self> {
        let message = || format!("cannot listen on {}", path.display());
        let socket = new_socket().context(message)?;
        let (_directory, address) = address(path).context(message)?;
        bind(socket.as_raw_fd(), &address).context(message)?;
        listen(&socket, Backlog::new(1).context(message)?).context(message)?;
        Ok(Self(socket))
    }

    /// Has the process that waits at `path` execute its program, and returns when it has.
    ///
    /// # Errors
    /// Conflict, if nobody waits there; else why the program was not executed.
    pub fn open(path: &Path) -> Result<()> {
        let message = || "cannot reach the container's process";
        let socket = new_socket().context(message)?;
        let (_directory, address) = address(path).context(message)?;
        connect(socket.as_raw_fd(), &address).map_err(|e| {
            Error::conflict("the container's process does not wait to be started").caused_by(e)
        })?;
        let channel = Channel::from(socket);
        channel.send(Message::Go, None).context(message)?;
        let mut answer = [0; MESSAGE_MAX];
        match rustix::io::read(channel.as_fd(), &mut answer) {
            // Closed by the execution of the program.
            Ok(0) | Err(rustix::io::Errno::CONNRESET) => Ok(()),
            Ok(length) => {
                let text = answer.get(..length).unwrap_or_default();
                Err(Error::internal(String::from_utf8_lossy(text)))
            }
            Err(e) => Err(e).context(message),
        }
    }

    /// The process's side: waits until somebody asks for the start.
    pub(super) fn wait(&self) -> Result<Starter> {
        let message = || "cannot wait to be started";
        loop {
            let connection = match accept4(self.0.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                Err(nix::errno::Errno::EINTR | nix::errno::Errno::ECONNABORTED) => continue,
                other => adopt(other.context(message)?),
            };
            let channel = Channel::from(connection);
            // One that went again has not asked for anything.
            if channel.expect(Message::Go).is_ok() {
                return Ok(Starter(channel));
            }
        }
    }
}

/// The address of a socket, whose path may be longer than what fits in one; good as long as the directory is open.
fn address(path: &Path) -> io::Result<(File, UnixAddr)> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let directory = File::open(parent)?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string());
    Ok((directory, UnixAddr::new(&short.join(name))?))
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}

/// Whoever asked for the start, and is told if it fails.
pub(super) struct Starter(Channel);

impl Starter {
    pub fn tell(&self, error: &StartError) {
        let text = error.to_string();
        let text = text.as_bytes();
        // There is nobody else to tell, and a filter may forbid even this.
        let _ = rustix::io::write(self.fd(), text.get(..MESSAGE_MAX).unwrap_or(text));
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
