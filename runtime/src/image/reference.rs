//! Image references: Docker's grammar, its full and its familiar form.
//!
//! `[domain[:port]/]path[:tag][@digest]`. The full form always names the registry (`docker.io/library/busybox`), the
//! familiar form leaves out what Docker's own registry implies (`busybox`).

use std::{fmt, str::FromStr};

use super::digest::Digest;
use crate::{Error, Result};

/// The registry that a name without one means.
const DEFAULT_DOMAIN: &str = "docker.io";
/// Another name of the same registry, accepted and replaced.
const LEGACY_DOMAIN: &str = "index.docker.io";
/// Where that registry keeps names of one part.
const OFFICIAL: &str = "library/";
/// The longest name without tag and digest, in bytes.
const NAME_MAX: usize = 255;
/// The longest tag, in bytes.
const TAG_MAX: usize = 128;
/// The tag that a name without one means.
pub const DEFAULT_TAG: &str = "latest";

/// A reference with a full name, perhaps a tag, perhaps a digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses a name as people write it and completes it: `x` becomes `docker.io/library/x`.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] in Docker's words.
    pub fn parse(text: &str) -> Result<Self> {
        if is_identifier(text) {
            return Err(Error::invalid(format!(
                "invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
            )));
        }
        let (domain, remainder) = split_domain(text);
        let name = remainder.split(':').next().unwrap_or_default();
        if name.chars().any(char::is_uppercase) {
            return Err(Error::invalid(format!(
                "invalid reference format: repository name ({name}) must be lowercase"
            )));
        }
        let (rest, digest) = match remainder.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (remainder.as_str(), None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if !is_domain(&domain) || !is_path(path) || tag.is_some_and(|t| !is_tag(t)) {
            return Err(malformed());
        }
        if path.len() > NAME_MAX {
            return Err(Error::invalid(format!(
                "repository name must not be more than {NAME_MAX} characters"
            )));
        }
        let digest = digest.map(parse_digest).transpose()?;
        Ok(Self {
            domain,
            path: path.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// The same repository with `tag` and no digest.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] if it is no tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self> {
        if !is_tag(tag) {
            return Err(Error::invalid("invalid tag format"));
        }
        Ok(Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// The same repository with `digest` and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The reference that is stored: with the default tag if there is neither tag nor digest, and without the tag if
    /// there is a digest.
    #[must_use]
    pub fn normalized(self) -> Self {
        match (&self.tag, &self.digest) {
            (None, None) => Self {
                tag: Some(DEFAULT_TAG.to_owned()),
                ..self
            },
            (_, Some(_)) => Self { tag: None, ..self },
            _ => self,
        }
    }

    /// The registry's host and port.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, without the colon.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository: `docker.io/library/x`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Registry and repository in the familiar form: `x`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The whole reference in the familiar form: `x:latest`.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_name())
    }

    /// Whether both are of one repository.
    pub fn same_repository(&self, other: &Self) -> bool {
        self.domain == other.domain && self.path == other.path
    }

    fn with_suffix(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.name()))
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

/// Whether `text` is a full image ID without its algorithm.
pub(super) fn is_identifier(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn malformed() -> Error {
    Error::invalid("invalid reference format")
}

/// A digest in a reference: what is no digest at all is a malformed reference, what is one of the wrong length or
/// algorithm says so.
fn parse_digest(text: &str) -> Result<Digest> {
    let hex = text.split_once(':').map_or("", |(_, hex)| hex);
    if hex.len() < 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(malformed());
    }
    text.parse()
}

/// Splits off the registry. The first part is one only if it has a dot or a colon, is `localhost`, or has upper case.
fn split_domain(text: &str) -> (String, String) {
    let (domain, rest) = match text.split_once('/') {
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.chars().any(char::is_uppercase) =>
        {
            (
                if first == LEGACY_DOMAIN {
                    DEFAULT_DOMAIN
                } else {
                    first
                },
                rest,
            )
        }
        _ => (DEFAULT_DOMAIN, text),
    };
    if domain == DEFAULT_DOMAIN && !rest.contains('/') {
        return (domain.to_owned(), format!("{OFFICIAL}{rest}"));
    }
    (domain.to_owned(), rest.to_owned())
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|t| t.split_once(']')) {
        Some((address, rest)) => {
            if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
                return false;
            }
            ("", rest)
        }
        None => match text.find(':') {
            Some(at) => text.split_at(at),
            None => (text, ""),
        },
    };
    let port_fits = match port.strip_prefix(':') {
        Some(digits) => !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()),
        None => port.is_empty(),
    };
    let host_fits = text.starts_with('[')
        || host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        });
    port_fits && host_fits
}

fn is_path(text: &str) -> bool {
    text.split('/').all(is_component)
}

/// Lower-case letters and digits in groups joined by `.`, `_`, `__` or dashes.
fn is_component(text: &str) -> bool {
    let mut separator = String::new();
    let mut started = false;
    for c in text.chars() {
        if matches!(c, 'a'..='z' | '0'..='9') {
            let joins =
                matches!(separator.as_str(), "." | "_" | "__") || separator.bytes().all(|b| b == b'-');
            if !joins || (!started && !separator.is_empty()) {
                return false;
            }
            separator.clear();
            started = true;
        } else if matches!(c, '.' | '_' | '-') {
            separator.push(c);
        } else {
            return false;
        }
    }
    started && separator.is_empty()
}

fn is_tag(text: &str) -> bool {
    let mut bytes = text.bytes();
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= TAG_MAX
        && bytes.next().is_some_and(word)
        && bytes.all(|b| word(b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn completes_and_shortens_names() {
        let cases = [
            ("x", "docker.io/library/x", "x"),
            ("a/b", "docker.io/a/b", "a/b"),
            ("docker.io/x:1", "docker.io/library/x:1", "x:1"),
            ("index.docker.io/x", "docker.io/library/x", "x"),
            ("library/x", "docker.io/library/x", "x"),
            ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
            ("localhost/x", "localhost/x", "localhost/x"),
            (
                "localhost:5000/a/b:t",
                "localhost:5000/a/b:t",
                "localhost:5000/a/b:t",
            ),
            ("Foo/bar", "Foo/bar", "Foo/bar"),
            ("r.io/a__b/c--d.e_f", "r.io/a__b/c--d.e_f", "r.io/a__b/c--d.e_f"),
            (
                "[2001:db8::1]:5000/x",
                "[2001:db8::1]:5000/x",
                "[2001:db8::1]:5000/x",
            ),
        ];
        for (text, full, familiar) in cases {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
            assert_eq!(Reference::parse(full).unwrap(), reference);
        }
    }

    #[test]
    fn tags_and_digests() {
        let plain = Reference::parse("x").unwrap().normalized();
        assert_eq!(plain.to_string(), "docker.io/library/x:latest");
        let both = Reference::parse(&format!("x:1@sha256:{HEX}")).unwrap();
        assert_eq!(
            (both.tag(), both.digest().unwrap().hex().as_str()),
            (Some("1"), HEX)
        );
        assert_eq!(both.normalized().familiar(), format!("x@sha256:{HEX}"));
        assert_eq!(plain.with_tag("2").unwrap().familiar(), "x:2");
        assert_eq!(plain.with_tag("-").unwrap_err().message(), "invalid tag format");
    }

    #[test]
    fn refuses_bad_names_in_dockers_words() {
        let long = "a".repeat(256);
        let tag = format!("x:{}", "t".repeat(129));
        for text in [
            "",
            " ",
            "x ",
            "x:",
            "x:-a",
            "x:.a",
            ":tag",
            "/x",
            "x/",
            "a//b",
            "-x",
            "x-",
            "x_",
            "a___b",
            "a..b",
            "a._b",
            "x@",
            "x@sha256",
            "x@sha256:12",
            "x:a/b",
            "ex ample",
            "x\n",
            "x\0",
            "a:b:c",
            "https://x/y",
            "[::1/x",
            "host-.io/x",
            "host:/x",
            "host:p/x",
            "x@sha256:zz",
            &tag,
            "../x",
            "x/../y",
            "a/.b",
            "ä",
        ] {
            assert_eq!(
                Reference::parse(text).unwrap_err().message(),
                "invalid reference format",
                "{text:?}"
            );
        }
        let upper = Reference::parse("foo/Bar:t").unwrap_err();
        assert_eq!(
            upper.message(),
            "invalid reference format: repository name (foo/Bar) must be lowercase"
        );
        let id = Reference::parse(HEX).unwrap_err();
        assert!(
            id.message()
                .contains("cannot specify 64-byte hexadecimal strings")
        );
        assert!(
            Reference::parse(&long)
                .unwrap_err()
                .message()
                .contains("more than 255")
        );
        let algorithm = Reference::parse(&format!("x@sha512:{HEX}")).unwrap_err();
        assert!(algorithm.message().starts_with("unsupported digest algorithm"));
        let case = Reference::parse(&format!("x@sha256:{}", HEX.to_uppercase())).unwrap_err();
        assert!(case.message().starts_with("invalid checksum digest format"));
    }

    #[test]
    fn nearly_good_references_are_refused_or_stay_what_they_are() {
        let digest = format!("busybox@sha256:{}", "0".repeat(64));
        let good: [&[u8]; 4] = [
            b"registry.example:5000/team/app:v1.2",
            b"busybox",
            digest.as_bytes(),
            b"[::1]:5000/a/b_c__d-e:latest",
        ];
        crate::mutate::mutants("references", &good, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let Ok(reference) = Reference::parse(&text) else {
                return;
            };
            let again = Reference::parse(&reference.familiar());
            assert_eq!(
                again.ok().map(|again| again.familiar()),
                Some(reference.familiar()),
                "{text:?}"
            );
            assert!(
                !reference
                    .path()
                    .split('/')
                    .any(|part| part == ".." || part.is_empty()),
                "{text:?}"
            );
        });
    }
}
