//! What a sandbox's process and its parent say to each other until the program runs.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
        socketpair,
    },
};

/// Descriptors in one message; the kernel's own bound is 253 (`SCM_MAX_FD`).
const FDS_MAX: usize = 64;

/// One end of a pair. The kernel closes the child's end when its program begins, as it does when it ends.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

/// The messages: single bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Message {
    /// To the child: its user namespace has its mappings.
    Mapped = 1,
    /// To the parent: everything but the program is done. May carry the terminal's master.
    Ready = 2,
    /// To the child: mounts of the host that it needs.
    Mounts = 5,
    /// To the child: execute the program.
    Go = 3,
    /// To the parent: the process that will execute the program, as a pidfd.
    Process = 4,
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl Channel {
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Both ends.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        Ok((Self(a), Self(b)))
    }

    pub fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Sends `message`, with `fd` if there is one.
    pub fn send(&self, message: Message, fd: Option<RawFd>) -> io::Result<()> {
        self.send_with(message, fd.as_slice())
    }

    /// Sends any number of descriptors, for [`receive_all`](Self::receive_all).
    pub fn send_all(&self, message: Message, fds: &[OwnedFd]) -> io::Result<()> {
        let fds: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        fds.chunks(FDS_MAX)
            .try_for_each(|part| self.send_with(message, part))
    }

    fn send_with(&self, message: Message, fds: &[RawFd]) -> io::Result<()> {
        let bytes = [message as u8];
        let rights = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        loop {
            match sendmsg::<()>(
                self.number(),
                &[IoSlice::new(&bytes)],
                control,
                MsgFlags::MSG_NOSIGNAL,
                None,
            ) {
                Err(Errno::EINTR) => {}
                other => return Ok(other.map(drop)?),
            }
        }
    }

    /// Waits for a message; none if the other end was closed. Its descriptor, if it has one, closes on exec.
    pub fn receive(&self) -> io::Result<Option<(u8, Vec<OwnedFd>)>> {
        let mut bytes = [0_u8; 1];
        let mut control = nix::cmsg_space!([RawFd; FDS_MAX]);
        loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let received = match recvmsg::<()>(self.number(), &mut parts, Some(&mut control), flags) {
                Err(Errno::EINTR) => continue,
                Err(Errno::ECONNRESET) => return Ok(None),
                other => other?,
            };
            if received.bytes == 0 {
                return Ok(None);
            }
            let mut received_fds = Vec::new();
            for message in received.cmsgs()? {
                if let ControlMessageOwned::ScmRights(fds) = message {
                    received_fds.extend(fds.into_iter().map(crate::sys::process::adopt));
                }
            }
            return Ok(Some((bytes[0], received_fds)));
        }
    }

    /// Waits for one particular message; the descriptor it carries, if it carries one.
    pub fn expect(&self, message: Message) -> io::Result<Option<OwnedFd>> {
        Ok(self.expect_with(message)?.into_iter().next())
    }

    /// Waits for `count` descriptors, sent by [`send_all`](Self::send_all).
    pub fn receive_all(&self, message: Message, count: usize) -> io::Result<Vec<OwnedFd>> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            all.extend(self.expect_with(message)?);
        }
        Ok(all)
    }

    fn expect_with(&self, message: Message) -> io::Result<Vec<OwnedFd>> {
        match self.receive()? {
            Some((byte, fds)) if byte == message as u8 => Ok(fds),
            Some((byte, _)) => Err(io::Error::other(format!("message {byte} instead of {message:?}"))),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
