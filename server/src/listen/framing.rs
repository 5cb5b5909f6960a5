//! Finds requests that give two lengths for their body.
//!
//! hyper takes a request with both `Transfer-Encoding` and `Content-Length` by the former and forgets the latter. That
//! is safe here, but a proxy in front that takes it by the latter would see other requests than the engine does, so
//! such requests are refused (RFC 9112, 6.1).

const LENGTH: &[u8] = b"content-length";
const ENCODING: &[u8] = b"transfer-encoding";

/// Reads along with the head of one request.
#[derive(Debug, Default)]
pub struct Framing {
    line: [u8; 18],
    filled: usize,
    length: bool,
    encoding: bool,
    over: bool,
}

impl Framing {
    /// The next bytes of the head; what comes after its end is not looked at.
    pub fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.over {
                return;
            }
            match byte {
                b'\n' => self.end_of_line(),
                b'\r' => {}
                byte => {
                    if let Some(place) = self.line.get_mut(self.filled) {
                        *place = byte.to_ascii_lowercase();
                        self.filled += 1;
                    }
                }
            }
        }
    }

    /// Whether the head gave two lengths.
    pub fn is_ambiguous(&self) -> bool {
        self.length && self.encoding
    }

    fn end_of_line(&mut self) {
        let line = self.line.get(..self.filled).unwrap_or_default();
        let names = |name: &[u8]| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(b":"));
        self.over = line.is_empty();
        self.length |= names(LENGTH);
        self.encoding |= names(ENCODING);
        self.filled = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ambiguous(head: &str, piece: usize) -> bool {
        let mut framing = Framing::default();
        for bytes in head.as_bytes().chunks(piece) {
            framing.read(bytes);
        }
        framing.is_ambiguous()
    }

    #[test]
    fn two_lengths_are_seen_however_they_arrive() {
        let head = "POST / HTTP/1.1\r\nTransfer-encoding: chunked\r\nX: y\r\ncontent-Length: 3\r\n\r\n";
        for piece in [1, 7, 1000] {
            assert!(ambiguous(head, piece));
        }
    }

    #[test]
    fn one_length_is_fine_and_bodies_are_not_looked_at() {
        assert!(!ambiguous(
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length-X: 1\r\n\r\n",
            3
        ));
        let body = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nContent-Length: 3\r\n";
        assert!(!ambiguous(body, 5));
    }
}
