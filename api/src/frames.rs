//! The multiplexed framing of process output: 8 bytes of header, then the payload.
//!
//! Byte 0 is the stream, bytes 1 to 3 are zero, bytes 4 to 7 the payload's length, most significant byte first.

use bytes::{BufMut, Bytes, BytesMut};

/// Which stream of a process a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Source {
    /// Input, echoed. No client expects it.
    Stdin = 0,
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
    /// An error of the engine; clients fail with its text.
    System = 3,
}

/// The size of a frame's header in bytes.
pub const HEADER_LEN: usize = 8;

/// The header of a frame that holds `length` bytes of `source`.
pub fn header(source: Source, length: u32) -> [u8; HEADER_LEN] {
    let [a, b, c, d] = length.to_be_bytes();
    [source as u8, 0, 0, 0, a, b, c, d]
}

/// `payload` as one frame of `source`; payloads of 4 GiB and more become several.
pub fn frame(source: Source, payload: &[u8]) -> Bytes {
    const MOST: usize = u32::MAX as usize;
    let mut framed = BytesMut::with_capacity(HEADER_LEN + payload.len());
    let mut rest = payload;
    loop {
        let (part, after) = rest.split_at(rest.len().min(MOST));
        framed.put_slice(&header(source, u32::try_from(part.len()).unwrap_or(u32::MAX)));
        framed.put_slice(part);
        rest = after;
        if rest.is_empty() {
            return framed.freeze();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_header_and_payload() {
        assert_eq!(&frame(Source::Stderr, b"oops")[..], b"\x02\0\0\0\0\0\0\x04oops");
        assert_eq!(&frame(Source::Stdout, b"")[..], b"\x01\0\0\0\0\0\0\0");
        assert_eq!(header(Source::Stdout, 0x0102_0304), [1, 0, 0, 0, 1, 2, 3, 4]);
    }
}
