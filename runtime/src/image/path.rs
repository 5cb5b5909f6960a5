//! Names inside archives, made plain before anything is looked up with them.

use crate::{Error, Result};

/// PATH_MAX without the final NUL.
const PATH_MAX: usize = 4095;
/// NAME_MAX of every file system Linux can hold a layer on.
const NAME_MAX: usize = 255;

/// A path below some root: no leading slash, no empty, `.` or `..` component; empty for the root itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Vec<u8>);

impl RelPath {
    /// Cleans `raw` lexically: absolute means below the root, `a/../b` means `b`.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] for a path that climbs above the root, is too long or holds a NUL.
    pub fn clean(raw: &[u8]) -> Result<Self> {
        let refuse = |why: &str| Error::invalid(format!("invalid path in archive: {:?} {why}", shown(raw)));
        if raw.is_empty() {
            return Err(refuse("is empty"));
        }
        if raw.contains(&0) {
            return Err(refuse("contains a NUL"));
        }
        if raw.len() > PATH_MAX {
            return Err(refuse("is longer than 4095 bytes"));
        }
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in raw.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    if parts.pop().is_none() {
                        return Err(refuse("leads outside of the archive's root"));
                    }
                }
                part if part.len() > NAME_MAX => return Err(refuse("has a name longer than 255 bytes")),
                part => parts.push(part),
            }
        }
        Ok(Self(parts.join(&b'/')))
    }

    /// The bytes, components joined by single slashes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Parent and last component; `None` for the root.
    pub fn split(&self) -> Option<(Self, &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|b| *b == b'/') {
            None => (Self::default(), self.0.as_slice()),
            Some(at) => {
                let (parent, name) = self.0.split_at(at);
                (Self(parent.to_vec()), name.get(1..).unwrap_or_default())
            }
        })
    }

    /// The bytes of the parent; empty for the root and for what lies directly below it.
    pub fn parent_bytes(&self) -> &[u8] {
        match self.0.iter().rposition(|b| *b == b'/') {
            None => &[],
            Some(at) => self.0.get(..at).unwrap_or_default(),
        }
    }

    /// The path of `name`, one component, below this one.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        if self.is_root() {
            return Self(name.to_vec());
        }
        Self([&self.0, name].join(&b'/'))
    }

    /// The path `other` below this one.
    #[must_use]
    pub fn join_path(&self, other: &Self) -> Self {
        match other.is_root() {
            true => self.clone(),
            false => self.join(&other.0),
        }
    }

    /// The components in order.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|part| !part.is_empty())
    }

    /// For messages.
    pub fn display(&self) -> String {
        shown(&self.0)
    }
}

/// `bytes` as text for a message, shortened.
pub fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..bytes.len().min(200)).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(raw: &[u8]) -> Option<Vec<u8>> {
        RelPath::clean(raw).ok().map(|p| p.as_bytes().to_vec())
    }

    #[test]
    fn cleans_lexically() {
        for (raw, want) in [
            ("a/b", "a/b"),
            ("/a//./b/", "a/b"),
            ("./", ""),
            ("/", ""),
            ("a/../b", "b"),
            ("a/..", ""),
            ("...", "..."),
        ] {
            assert_eq!(clean(raw.as_bytes()).as_deref(), Some(want.as_bytes()), "{raw}");
        }
    }

    #[test]
    fn refuses_what_is_no_path_below_the_root() {
        for raw in ["", "..", "../a", "/../a", "a/../../b", "a\0b"] {
            assert_eq!(clean(raw.as_bytes()), None, "{raw:?}");
        }
        assert_eq!(clean(&[b'a'; 256]), None);
        assert!(clean(&[b'a'; 255]).is_some());
        assert_eq!(clean(&b"ab/".repeat(1400)), None);
    }

    #[test]
    fn takes_paths_apart_and_together() {
        let path = RelPath::clean(b"a/b/c").unwrap();
        let (parent, name) = path.split().unwrap();
        assert_eq!((parent.as_bytes(), name), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(parent.join(b"c"), path);
        assert_eq!(path.components().count(), 3);
        assert_eq!(RelPath::default().split(), None);
        assert_eq!(RelPath::default().components().count(), 0);
    }
}
