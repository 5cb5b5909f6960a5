//! The keys that detach a client from a terminal.

use berth_runtime::{Error, Result};

/// `ctrl-p,ctrl-q`.
const DEFAULT: [u8; 2] = [16, 17];

/// The sequence of keys that detaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

impl DetachKeys {
    /// Reads a comma-separated list of single characters, `ctrl-` with a letter or one of `@[\]^_`, and `DEL`; empty
    /// text is `ctrl-p,ctrl-q`.
    ///
    /// # Errors
    /// Invalid, if an entry is none of these.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self(DEFAULT.to_vec()));
        }
        text.split(',').map(key).collect::<Option<_>>().map(Self).ok_or_else(|| {
            Error::invalid(format!(
                "Invalid detach keys ({text}) provided: a list of single characters or ctrl-<letter> is needed, as in \
                 ctrl-p,ctrl-q"
            ))
        })
    }

    /// The keys as the terminal sends them.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

fn key(text: &str) -> Option<u8> {
    if let &[single] = text.as_bytes() {
        return Some(single);
    }
    if text.eq_ignore_ascii_case("del") {
        return Some(127);
    }
    let prefix = text.get(..5)?;
    match text.as_bytes().get(5..)? {
        [letter] if prefix == "ctrl-" => match letter {
            letter @ b'a'..=b'z' => Some(letter - b'a' + 1),
            b'@' => Some(0),
            sign @ b'['..=b'_' => Some(sign - b'[' + 27),
            _ => None,
        },
        _ => None,
    }
}

/// What came of some input.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// These bytes go to the process.
    Pass(Vec<u8>),
    /// These bytes go to the process, then the client is detached.
    Detach(Vec<u8>),
}

/// Watches a client's input for the keys. Keys of a partial match are held back until it is decided.
#[derive(Debug)]
pub struct Watcher {
    keys: DetachKeys,
    matched: usize,
}

impl Watcher {
    /// A watcher that has seen nothing yet.
    pub fn new(keys: DetachKeys) -> Self {
        Self { keys, matched: 0 }
    }

    /// Takes in the next bytes of input.
    pub fn feed(&mut self, input: &[u8]) -> Typed {
        let keys = &self.keys.0;
        let mut pass = Vec::with_capacity(input.len() + self.matched);
        for &byte in input {
            if keys.get(self.matched) == Some(&byte) {
                self.matched += 1;
                if self.matched == keys.len() {
                    self.matched = 0;
                    return Typed::Detach(pass);
                }
                continue;
            }
            pass.extend_from_slice(&keys[..self.matched]);
            self.matched = 0;
            if keys.first() == Some(&byte) {
                self.matched = 1;
            } else {
                pass.push(byte);
            }
        }
        Typed::Pass(pass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read() {
        assert_eq!(DetachKeys::parse("").unwrap().0, [16, 17]);
        assert_eq!(DetachKeys::parse("ctrl-p,ctrl-q").unwrap().0, [16, 17]);
        assert_eq!(
            DetachKeys::parse("a,ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_,DEL")
                .unwrap()
                .0,
            [b'a', 0, 27, 28, 29, 30, 31, 127]
        );
        for bad in ["ab", "ctrl-", "ctrl-1", "a,,b", "ctrl-pp", ",", "é"] {
            assert!(DetachKeys::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sequence_detaches_even_in_pieces() {
        let mut watcher = Watcher::new(DetachKeys::parse("").unwrap());
        assert_eq!(watcher.feed(b"ls\n\x10"), Typed::Pass(b"ls\n".to_vec()));
        assert_eq!(watcher.feed(b"\x11more"), Typed::Detach(Vec::new()));
    }

    #[test]
    fn partial_match_is_released() {
        let mut watcher = Watcher::new(DetachKeys::parse("").unwrap());
        assert_eq!(watcher.feed(b"\x10"), Typed::Pass(Vec::new()));
        assert_eq!(watcher.feed(b"x"), Typed::Pass(b"\x10x".to_vec()));
        assert_eq!(watcher.feed(b"\x10\x10\x11"), Typed::Detach(b"\x10".to_vec()));
    }
}
