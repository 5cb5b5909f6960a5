//! API versions: parsing, comparing, and the version a reply is being written for.

use std::{cell::Cell, cmp::Ordering, fmt};

use serde::Serialize;

/// A version of the Engine API, such as 1.43.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    /// Before the dot.
    pub major: u16,
    /// After the dot.
    pub minor: u16,
}

impl ApiVersion {
    /// The newest version this engine speaks, and what a path without a version means.
    pub const NEWEST: Self = Self::new(1, 43);
    /// The oldest version this engine speaks.
    pub const OLDEST: Self = Self::new(1, 24);

    /// The version `major.minor`.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// Reads `digits[.digits]*` as a path prefix gives it and places it against what is spoken here.
    ///
    /// Parts compare as numbers (1.9 < 1.10), missing parts count as zero, and so do empty ones.
    pub(crate) fn negotiate(text: &str) -> Result<Self, Ordering> {
        let mut parts = text
            .split('.')
            .map(|part| match part {
                "" => 0,
                digits => digits.parse().unwrap_or(u16::MAX),
            })
            .chain(std::iter::repeat(0));
        let mut next = || parts.next().unwrap_or_default();
        let version = Self::new(next(), next());
        let finer = text
            .split('.')
            .skip(2)
            .any(|part| part.bytes().any(|digit| digit != b'0'));
        if version < Self::OLDEST {
            Err(Ordering::Less)
        } else if version > Self::NEWEST || (version == Self::NEWEST && finer) {
            Err(Ordering::Greater)
        } else {
            Ok(version)
        }
    }

    /// Whether this version is at least `since` and below `until`.
    pub fn within(self, since: Option<Self>, until: Option<Self>) -> bool {
        since.is_none_or(|since| self >= since) && until.is_none_or(|until| self < until)
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Serialize for ApiVersion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

thread_local! {
    static WRITING: Cell<ApiVersion> = const { Cell::new(ApiVersion::NEWEST) };
}

/// The version whose fields are written by serialisation on this thread: [`ApiVersion::NEWEST`] but inside
/// [`write_as`].
pub(crate) fn writing() -> ApiVersion {
    WRITING.get()
}

/// Runs `write` with models serialised as `version` knows them: the generated `skip_serializing_if` of fields
/// that came or went with a version ask for it.
pub fn write_as<T>(version: ApiVersion, write: impl FnOnce() -> T) -> T {
    struct Restore(ApiVersion);
    impl Drop for Restore {
        fn drop(&mut self) {
            WRITING.set(self.0);
        }
    }
    let _restore = Restore(WRITING.replace(version));
    write()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number_and_stay_in_range() {
        assert_eq!(ApiVersion::negotiate("1.43"), Ok(ApiVersion::NEWEST));
        assert_eq!(ApiVersion::negotiate("1.24.0"), Ok(ApiVersion::OLDEST));
        assert_eq!(ApiVersion::negotiate("1.043"), Ok(ApiVersion::NEWEST));
        for old in ["1.9", "1.23", "1", "0", "", ".", "1."] {
            assert_eq!(ApiVersion::negotiate(old), Err(Ordering::Less), "{old}");
        }
        for new in ["1.44", "1.43.1", "2", "1.99999999999999999999", "1.240"] {
            assert_eq!(ApiVersion::negotiate(new), Err(Ordering::Greater), "{new}");
        }
    }

    #[test]
    fn writing_is_scoped() {
        assert_eq!(write_as(ApiVersion::OLDEST, writing), ApiVersion::OLDEST);
        assert_eq!(writing(), ApiVersion::NEWEST);
    }
}
