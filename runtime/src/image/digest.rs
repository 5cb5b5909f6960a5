//! Content digests: sha256 and nothing else, parsed strictly, so that a digest can name a file.
//!
//! OCI image specification, descriptor.md, section "Digests".

use std::{
    fmt,
    io::{self, Read, Write},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::{Error, Result};

const ALGORITHM: &str = "sha256";

/// The sha256 of some content, written `sha256:<64 lower-case hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 hex digits without the algorithm: a safe file name.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// The digest whose 64 lower-case hex digits are `hex`.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] for any other text.
    pub fn from_hex(hex: &str) -> Result<Self> {
        let bytes = hex.as_bytes();
        if bytes.len() != 64 {
            return Err(Error::invalid(format!(
                "invalid checksum digest length: {}",
                shown(hex)
            )));
        }
        let mut out = [0_u8; 32];
        for (slot, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
            match pair {
                [high, low] => *slot = (nibble(*high, hex)? << 4) | nibble(*low, hex)?,
                _ => return Err(malformed(hex)),
            }
        }
        Ok(Self(out))
    }

    /// The chain ID of a layer `diff_id` on top of `parent` (OCI config.md, "Layer ChainID").
    pub fn chain(parent: Option<&Self>, diff_id: &Self) -> Self {
        match parent {
            None => *diff_id,
            Some(parent) => Self::of(format!("{parent} {diff_id}").as_bytes()),
        }
    }
}

fn nibble(byte: u8, whole: &str) -> Result<u8> {
    match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(malformed(whole)),
    }
}

fn malformed(text: &str) -> Error {
    Error::invalid(format!("invalid checksum digest format: {}", shown(text)))
}

/// `text` shortened for a message.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(100).collect::<String>())
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some((ALGORITHM, hex)) => Self::from_hex(hex),
            Some((algorithm, _)) if !algorithm.is_empty() => Err(Error::invalid(format!(
                "unsupported digest algorithm: {}",
                shown(algorithm)
            ))),
            _ => Err(malformed(text)),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALGORITHM}:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Computes a [`Digest`] piece by piece.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything added.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// A reader that hashes and counts what passes through it.
pub struct HashingReader<R> {
    inner: R,
    hasher: Hasher,
    count: u64,
}

impl<R: Read> HashingReader<R> {
    /// Starts with nothing read.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            hasher: Hasher::default(),
            count: 0,
        }
    }

    /// Reads to the end, then returns the digest and the number of bytes.
    ///
    /// # Errors
    /// What reading gave.
    pub fn drain(mut self) -> io::Result<(Digest, u64)> {
        let mut buffer = vec![0; 64 * 1024];
        while self.read(&mut buffer)? != 0 {}
        Ok((self.hasher.finish(), self.count))
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..n).unwrap_or_default());
        self.count += n as u64;
        Ok(n)
    }
}

/// A writer that hashes and counts what passes through it.
pub struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
    count: u64,
}

impl<W: Write> HashingWriter<W> {
    /// Starts with nothing written.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Hasher::default(),
            count: 0,
        }
    }

    /// The number of bytes written so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The inner writer, the digest and the number of bytes.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, self.hasher.finish(), self.count)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buffer)?;
        self.hasher.update(buffer.get(..n).unwrap_or_default());
        self.count += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn parses_what_it_prints() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().unwrap(), Digest::of(b""));
    }

    #[test]
    fn refuses_everything_else() {
        let hex = EMPTY.strip_prefix("sha256:").unwrap();
        let cases = [
            String::new(),
            hex.to_owned(),
            format!(":{hex}"),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
            EMPTY.to_uppercase(),
            format!("sha256:{}", hex.to_uppercase()),
            format!("SHA256:{hex}"),
            "sha256:../../../../../../etc/passwd".to_owned(),
            format!("sha256:{}/", &hex[1..]),
            "md5:d41d8cd98f00b204e9800998ecf8427e".to_owned(),
            format!("sha512:{hex}{hex}"),
            format!(" {EMPTY}"),
            format!("{EMPTY}\n"),
        ];
        for text in cases {
            assert_eq!(
                text.parse::<Digest>().unwrap_err().kind(),
                crate::Kind::Invalid,
                "{text:?}"
            );
        }
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(Digest::chain(None, &a), a);
        assert_eq!(
            Digest::chain(Some(&a), &b),
            Digest::of(format!("{a} {b}").as_bytes())
        );
    }

    #[test]
    fn readers_and_writers_hash_what_passes() {
        let (digest, count) = HashingReader::new(&b"hello"[..]).drain().unwrap();
        assert_eq!((digest, count), (Digest::of(b"hello"), 5));
        let mut writer = HashingWriter::new(Vec::new());
        writer.write_all(b"hello").unwrap();
        let (inner, digest, count) = writer.finish();
        assert_eq!(
            (inner.as_slice(), digest, count),
            (&b"hello"[..], Digest::of(b"hello"), 5)
        );
    }
}
