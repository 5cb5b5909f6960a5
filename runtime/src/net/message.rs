//! Messages of netlink(7): a header, a family's own header, attributes that nest. Used for links as well as for nftables.

/// Size of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
/// Marks an attribute that contains attributes.
const NESTED: u16 = 0x8000;
/// The bits of an attribute's type that are its number.
const NUMBER: u16 = 0x3fff;

/// `NLM_F_REQUEST`: a request, as opposed to an answer.
pub(super) const REQUEST: u16 = 0x01;
/// `NLM_F_ACK`: an answer also to a success.
pub(super) const ACK: u16 = 0x04;
/// `NLM_F_EXCL`: nothing of that name may exist.
pub(super) const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_CREATE`: make it if it does not exist.
pub(super) const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: at the end of a list.
pub(super) const APPEND: u16 = 0x800;
/// `NLM_F_DUMP`: everything there is.
pub(super) const DUMP: u16 = 0x300;

/// A request being written. The sequence number is filled in when it is sent.
#[derive(Clone, Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request of type `kind` with the flags `flags`, that begins with the header of its family.
    pub fn new(kind: u16, flags: u16, family_header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(family_header);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    /// Adds an attribute.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.put(kind, value);
        self
    }

    /// Adds a number in the byte order of the host.
    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Adds a number in network byte order.
    #[must_use]
    pub fn big(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Adds a text, with the zero that ends it.
    #[must_use]
    pub fn text(mut self, kind: u16, value: &str) -> Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.put(kind, &bytes);
        self
    }

    /// Adds an attribute that contains what `fill` adds.
    #[must_use]
    pub fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        let mut filled = fill(self);
        let length = u16::try_from(filled.bytes.len() - start).unwrap_or(u16::MAX);
        filled.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled
    }

    /// Adds bytes that are no attribute, such as the inner header of a pair of links.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        // Values are names, addresses and numbers, far below the limit.
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Appends the message to `batch` with a sequence number.
    pub fn write(&self, batch: &mut Vec<u8>, sequence: u32) {
        let start = batch.len();
        batch.extend_from_slice(&self.bytes);
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        batch[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        batch[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
    }

    /// Adds flags to those given at first.
    #[must_use]
    pub fn flagged(mut self, flags: u16) -> Self {
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// A message that was received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub port: u32,
    pub payload: &'a [u8],
}

impl<'a> Received<'a> {
    /// The payload behind a family header of `length` bytes, as attributes.
    pub fn attributes(&self, length: usize) -> Attributes<'a> {
        Attributes(self.payload.get(length..).unwrap_or_default())
    }
}

/// Splits what came in one datagram. What does not parse ends it.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER)?;
        let length = usize::try_from(u32_at(header, 0)?).ok()?;
        let payload = bytes.get(HEADER..length)?;
        let received = Received {
            kind: u16_at(header, 4)?,
            flags: u16_at(header, 6)?,
            sequence: u32_at(header, 8)?,
            port: u32_at(header, 12)?,
            payload,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(received)
    })
}

/// Attributes, one behind the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of type `kind`.
    pub fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// A text attribute.
    pub fn text(self, kind: u16) -> Option<String> {
        let value = self.find(kind)?;
        let text = value.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    /// A number attribute in the byte order of the host.
    pub fn number(self, kind: u16) -> Option<u32> {
        u32_at(self.find(kind)?, 0)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & NUMBER;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let message = Message::new(16, ACK, &[7; 16])
            .text(3, "eth0")
            .nest(18, |inner| inner.text(1, "veth").number(2, 5));
        let mut batch = Vec::new();
        message.write(&mut batch, 9);
        message.write(&mut batch, 10);
        let read: Vec<_> = messages(&batch).collect();
        assert_eq!(read.len(), 2);
        assert_eq!(
            (read[0].kind, read[0].flags, read[1].sequence),
            (16, REQUEST | ACK, 10)
        );
        let attributes = read[1].attributes(16);
        assert_eq!(attributes.text(3).as_deref(), Some("eth0"));
        let inner = Attributes(attributes.find(18).unwrap());
        assert_eq!(
            (inner.text(1).as_deref(), inner.number(2)),
            (Some("veth"), Some(5))
        );
    }

    #[test]
    fn what_is_cut_off_is_not_read() {
        let mut batch = Vec::new();
        Message::new(1, 0, &[]).number(1, 2).write(&mut batch, 1);
        for length in 0..batch.len() {
            assert_eq!(messages(&batch[..length]).count(), 0);
        }
        assert!(Attributes(&[200, 0, 1, 0]).next().is_none());
        assert!(Attributes(&[0, 0, 1, 0]).next().is_none());
    }

    #[test]
    fn nearly_good_messages_are_read_without_harm() {
        let mut batch = Vec::new();
        Message::new(16, ACK, &[7; 16])
            .text(3, "eth0")
            .nest(18, |inner| inner.text(1, "veth").number(2, 5))
            .write(&mut batch, 9);
        Message::new(2, 0, &[0; 4]).write(&mut batch, 10);
        crate::mutate::mutants("netlink", &[&batch], |bytes| {
            for message in messages(bytes) {
                for (_, value) in message.attributes(16) {
                    assert!(Attributes(value).count() <= value.len());
                }
            }
        });
    }
}
