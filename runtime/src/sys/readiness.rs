//! Waiting in a runtime of tokio until a descriptor can be read.

use std::io;

use netlink_sys::Socket;
use tokio::io::unix::AsyncFd;

/// Registers a netlink socket, which must not block, with the runtime of the caller.
pub(crate) fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the socket owns its descriptor, always gives the same one, and closes it only when it is dropped, which
    // is after it has been taken off the runtime again.
    unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
}
