//! The socket over which an OCI runtime hands out a terminal.

use std::{
    fs,
    io::IoSliceMut,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::{Error, Result, error::Context, sys::process::adopt};

/// Where the socket is made: its path must be short, which that of a bundle need not be.
const DIRECTORY: &str = "/run";

/// A listening socket, gone when dropped.
pub(super) struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl ConsoleSocket {
    pub fn listen() -> Result<Self> {
        let message = || "cannot make a socket for the terminal";
        let directory = tempfile::Builder::new()
            .prefix("berth-console-")
            .tempdir_in(DIRECTORY)
            .context(message)?;
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).context(message)?;
        // The runtime has connected by the time it ends; one that has not must not be waited for.
        listener.set_nonblocking(true).context(message)?;
        Ok(Self {
            listener,
            path,
            _directory: directory,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The terminal that was sent, with its first size.
    pub fn receive(&self, height: u16, width: u16) -> Result<OwnedFd> {
        let message = || "the runtime has not handed out the terminal";
        let (connection, _) = self.listener.accept().context(message)?;
        let mut name = [0; 4096];
        let mut parts = [IoSliceMut::new(&mut name)];
        let mut control = nix::cmsg_space!([RawFd; 4]);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let received =
            recvmsg::<()>(connection.as_raw_fd(), &mut parts, Some(&mut control), flags).context(message)?;
        let mut terminals = Vec::new();
        for part in received.cmsgs().context(message)? {
            if let ControlMessageOwned::ScmRights(fds) = part {
                terminals.extend(fds.into_iter().map(adopt));
            }
        }
        let terminal: OwnedFd = terminals
            .into_iter()
            .next()
            .ok_or_else(|| Error::internal(message()))?;
        if (height, width) != (0, 0) {
            let size = Winsize {
                ws_row: height,
                ws_col: width,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            tcsetwinsize(&terminal, size).context(|| "cannot set the terminal's size")?;
        }
        Ok(terminal)
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // Its directory goes as well.
        let _ = fs::remove_file(&self.path);
    }
}
