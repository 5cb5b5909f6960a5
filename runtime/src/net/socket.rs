//! A socket of netlink(7) on which one request at a time waits for its answer.

use std::io;

use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt::SndBufForce};

use super::message::{ACK, Attributes, DUMP, Message, Received, messages, u32_at};

/// `NETLINK_ROUTE`.
pub(super) const ROUTE: isize = 0;
/// `NETLINK_NETFILTER`.
pub(super) const NETFILTER: isize = 12;
/// The kernel's messages are never longer.
const BUFFER: usize = 64 << 10;
/// Room for a batch with everything a firewall table holds.
const SEND_BUFFER: usize = 64 << 20;

/// `NLMSG_ERROR`, also the answer to a success.
const ERROR: u16 = 2;
/// `NLMSG_DONE`: end of a dump.
const DONE: u16 = 3;
/// `NLM_F_ACK_TLVS`: attributes follow the error.
const EXPLAINED: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`: the kernel's own words.
const WORDS: u16 = 1;

/// A failed request: the error of the kernel and its own words, where it has any.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Which message of the batch was refused.
    pub index: usize,
    pub error: io::Error,
    pub words: String,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self {
            index: 0,
            error,
            words: String::new(),
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.words.as_str() {
            "" => write!(f, "{}", self.error),
            words => write!(f, "{} ({words})", self.error),
        }
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// The number of the error, 0 if it has none.
    pub fn code(&self) -> i32 {
        self.error.raw_os_error().unwrap_or(0)
    }
}

/// A netlink socket of the network namespace it was opened in.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket of a protocol in the namespace of the calling thread.
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self {
            socket,
            port,
            sequence: 0,
            buffer: Vec::with_capacity(BUFFER),
        })
    }

    /// The port by which the kernel names this socket in what it tells others.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Sends messages as one batch and waits until each has been carried out.
    pub fn call(&mut self, batch: &[Message]) -> Result<(), Refusal> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(batch.iter().map(Message::len).sum());
        for message in batch {
            self.sequence = self.sequence.wrapping_add(1);
            message.clone().flagged(ACK).write(&mut bytes, self.sequence);
        }
        self.send(&bytes)?;
        self.answers(first, batch.len())
    }

    /// Sends messages of which only the last is answered, unless one fails: a batch of nfnetlink, between its own
    /// begin and end.
    pub fn commit(&mut self, begin: &Message, batch: &[Message], end: &Message) -> Result<(), Refusal> {
        let mut bytes = Vec::with_capacity(batch.iter().map(Message::len).sum::<usize>() + 64);
        let first = self.sequence.wrapping_add(1);
        let last = batch.len();
        let framed = std::iter::once(begin).chain(batch).chain([end]);
        for (index, message) in framed.enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            match index == last {
                true => message.clone().flagged(ACK).write(&mut bytes, self.sequence),
                false => message.write(&mut bytes, self.sequence),
            }
        }
        // The default is too small for a table with thousands of elements.
        setsockopt(
            &self.socket,
            SndBufForce,
            &SEND_BUFFER.min(bytes.len() * 2 + BUFFER),
        )
        .map_err(io::Error::from)?;
        self.send(&bytes)?;
        let (mut refusal, answered) = (None, first.wrapping_add(u32::try_from(last).unwrap_or(u32::MAX)));
        loop {
            for received in messages(receive(&self.socket, &mut self.buffer)?) {
                let index = received.sequence.wrapping_sub(first);
                if received.kind != ERROR || usize::try_from(index).is_ok_and(|index| index > last + 1) {
                    continue;
                }
                let outcome = outcome(&received, usize::try_from(index).unwrap_or(0).saturating_sub(1));
                let over = outcome.is_err() || received.sequence == answered;
                if let Err(found) = outcome {
                    refusal.get_or_insert(found);
                }
                if over {
                    return refusal.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Sends a request and hands each message of the answer to `take`.
    pub fn get(&mut self, message: Message, mut take: impl FnMut(&Received<'_>)) -> Result<(), Refusal> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(message.len());
        message.write(&mut bytes, self.sequence);
        let is_dump = super::message::u16_at(&bytes, 6).is_some_and(|flags| flags & DUMP == DUMP);
        self.send(&bytes)?;
        loop {
            for received in messages(receive(&self.socket, &mut self.buffer)?) {
                if received.sequence != self.sequence {
                    continue;
                }
                match received.kind {
                    DONE => return Ok(()),
                    ERROR => return outcome(&received, 0),
                    _ => take(&received),
                }
                if !is_dump {
                    return Ok(());
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match self.socket.send(bytes, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return sent.map(drop),
            }
        }
    }

    fn answers(&mut self, first: u32, count: usize) -> Result<(), Refusal> {
        let (mut left, mut refusal) = (count, None);
        while left > 0 {
            for received in messages(receive(&self.socket, &mut self.buffer)?) {
                let index = usize::try_from(received.sequence.wrapping_sub(first)).unwrap_or(count);
                if received.kind != ERROR || index >= count {
                    continue;
                }
                left -= 1;
                if let Err(found) = outcome(&received, index) {
                    refusal.get_or_insert(found);
                }
            }
        }
        refusal.map_or(Ok(()), Err)
    }
}

fn receive<'a>(socket: &Socket, buffer: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
    loop {
        buffer.clear();
        match socket.recv(buffer, 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => return received.map(|_| buffer.as_slice()),
        }
    }
}

/// What an answer of type `NLMSG_ERROR` says.
fn outcome(received: &Received<'_>, index: usize) -> Result<(), Refusal> {
    let code = u32_at(received.payload, 0).map_or(0, u32::cast_signed);
    if code == 0 {
        return Ok(());
    }
    // The header of the refused message lies between: it is capped, so its length is known.
    let words = (received.flags & EXPLAINED != 0)
        .then(|| received.payload.get(4 + super::message::HEADER..))
        .flatten()
        .and_then(|bytes| Attributes(bytes).text(WORDS))
        .unwrap_or_default();
    Err(Refusal {
        index,
        error: io::Error::from_raw_os_error(code.saturating_neg()),
        words,
    })
}
