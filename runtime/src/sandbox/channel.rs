//! What a sandbox's process and its parent say to each other until the program runs.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
        socketpair,
    },
};

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
    /// To the child: execute the program.
    Go = 3,
    /// To the parent: the process that will execute the program, as a pidfd.
    Process = 4,
}

impl Channel {
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
        let bytes = [message as u8];
        let fds: Vec<RawFd> = fd.into_iter().collect();
        let rights = [ControlMessage::ScmRights(&fds)];
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
    pub fn receive(&self) -> io::Result<Option<(u8, Option<OwnedFd>)>> {
        let mut bytes = [0_u8; 1];
        let mut control = nix::cmsg_space!([RawFd; 1]);
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
            let mut fd = None;
            for message in received.cmsgs()? {
                if let ControlMessageOwned::ScmRights(fds) = message {
                    fd = fds.into_iter().next().map(crate::sys::process::adopt);
                }
            }
            return Ok(Some((bytes[0], fd)));
        }
    }

    /// Waits for one particular message.
    pub fn expect(&self, message: Message) -> io::Result<Option<OwnedFd>> {
        match self.receive()? {
            Some((byte, fd)) if byte == message as u8 => Ok(fd),
            Some((byte, _)) => Err(io::Error::other(format!("message {byte} instead of {message:?}"))),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
