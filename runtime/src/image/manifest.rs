//! Manifests and indexes (OCI image specification, manifest.md and image-index.md; Docker's schema 2 has the same
//! shape). Only what is needed is read; the bytes themselves are kept as they came.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{digest::Digest, limits::Limits};
use crate::{Error, Result};

/// Media types that are written here.
pub mod media {
    /// A manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An image configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// An uncompressed layer.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A layer compressed with gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// Docker's manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's index.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
}

/// What some content is, where it is found and how big it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What kind of content.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// In an index: what the manifest is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Notes, among them the names of images in an archive.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// A descriptor without platform and annotations.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// Operating system and processor that an image is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// The processor architecture as Go names it: `amd64`, `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// The operating system: `linux`.
    #[serde(default)]
    pub os: String,
    /// The processor's variant: `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The system's version; Windows only.
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
}

impl Platform {
    /// The platform that this program was built for.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self {
            architecture: architecture.to_owned(),
            os: std::env::consts::OS.to_owned(),
            variant: variant.map(str::to_owned),
            os_version: None,
        }
    }

    /// How well `self` runs what is made for `other`: the lower the better, `None` if not at all.
    pub fn preference(&self, other: &Self) -> Option<u32> {
        if self.os != other.os {
            return None;
        }
        let variant = other.variant.as_deref();
        match (self.architecture.as_str(), other.architecture.as_str()) {
            ("amd64", "amd64") => Some(u32::from(variant.is_some_and(|v| v != "v1"))),
            ("arm64", "arm64") => Some(u32::from(variant.is_some_and(|v| v != "v8"))),
            ("amd64", "386") => Some(10),
            ("arm64", "arm") => Some(match variant {
                Some("v8") => 10,
                Some("v7") | None => 11,
                Some("v6") => 12,
                Some(_) => 13,
            }),
            (own, theirs) if own == theirs => Some(u32::from(self.variant.as_deref() != variant)),
            _ => None,
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// One image: its configuration and its layers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// The document's own media type.
    #[serde(default)]
    pub media_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// Several images of which each serves another platform.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// The document's own media type.
    #[serde(default)]
    pub media_type: String,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
}

/// A document that describes one image or several.
#[derive(Clone, Debug)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

impl Document {
    /// Reads a document; its shape decides what it is, and must agree with what it says it is.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] if it is neither, or both (CVE-2021-41190), or too big.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape {
            #[serde(default)]
            media_type: Option<String>,
            #[serde(default)]
            manifests: Option<serde::de::IgnoredAny>,
            #[serde(default)]
            config: Option<serde::de::IgnoredAny>,
            #[serde(default)]
            layers: Option<serde::de::IgnoredAny>,
            #[serde(default)]
            fs_layers: Option<serde::de::IgnoredAny>,
        }
        let shape: Shape = parse_object(bytes, "manifest")?;
        let says_index = match shape.media_type.as_deref() {
            Some(media::INDEX | media::DOCKER_INDEX) => Some(true),
            Some(media::MANIFEST | media::DOCKER_MANIFEST) => Some(false),
            _ => None,
        };
        let is_manifest = shape.config.is_some() || shape.layers.is_some() || shape.fs_layers.is_some();
        if (shape.manifests.is_some() && is_manifest) || says_index == Some(is_manifest) {
            return Err(Error::invalid(
                "invalid manifest: it claims to be both an index and a manifest",
            ));
        }
        if shape.manifests.is_some() {
            let index: Index = parse_json(bytes, "index")?;
            if index.manifests.len() > limits.archive_images {
                return Err(Error::invalid(format!(
                    "invalid index: {} manifests",
                    index.manifests.len()
                )));
            }
            return Ok(Self::Index(index));
        }
        if bytes.len() as u64 > limits.manifest_bytes {
            return Err(Error::invalid("invalid manifest: it is too big"));
        }
        let manifest: Manifest = parse_json(bytes, "manifest")?;
        if manifest.layers.len() > limits.image_layers {
            return Err(Error::invalid(format!(
                "invalid manifest: {} layers, more than {} are refused (max depth exceeded)",
                manifest.layers.len(),
                limits.image_layers
            )));
        }
        Ok(Self::Manifest(manifest))
    }
}

/// Reads a JSON document that came from outside.
///
/// # Errors
/// [`crate::Kind::Invalid`] naming `what` it should be.
pub fn parse_json<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::invalid(format!("invalid {what}")).caused_by(e))
}

/// Reads a JSON object that came from outside. A list is refused: it would be taken as the fields in order.
///
/// # Errors
/// [`crate::Kind::Invalid`] naming `what` it should be.
pub fn parse_object<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Error::invalid(format!("invalid {what}: not a JSON object")));
    }
    parse_json(bytes, what)
}

/// Takes `null` as nothing given: other writers print empty lists and maps so.
pub fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> String {
        format!(r#"{{"mediaType":"x","digest":"{}","size":1}}"#, Digest::of(b"x"))
    }

    #[test]
    fn shapes_must_be_clear() {
        let limits = Limits::default();
        let d = descriptor();
        let manifest = format!(r#"{{"schemaVersion":2,"config":{d},"layers":[{d}],"annotations":null}}"#);
        assert!(matches!(
            Document::parse(manifest.as_bytes(), &limits),
            Ok(Document::Manifest(_))
        ));
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{d}]}}"#);
        assert!(matches!(
            Document::parse(index.as_bytes(), &limits),
            Ok(Document::Index(_))
        ));
        for bad in [
            String::new(),
            "{}".to_owned(),
            "[]".to_owned(),
            "null".to_owned(),
            format!(r#"{{"schemaVersion":2,"config":{d},"layers":[],"manifests":[{d}]}}"#),
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{}","config":{d},"layers":[]}}"#,
                media::INDEX
            ),
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{d}]}}"#,
                media::MANIFEST
            ),
            format!(
                r#"{{"schemaVersion":2,"config":{d},"layers":[{}]}}"#,
                vec![d.as_str(); 500].join(",")
            ),
            r#"{"schemaVersion":2,"config":{"digest":"sha256:../../x","size":1},"layers":[]}"#.to_owned(),
            format!(
                r#"{{"schemaVersion":2,"config":{{"digest":"{}","size":-1}},"layers":[]}}"#,
                Digest::of(b"x")
            ),
            format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)),
        ] {
            assert_eq!(
                Document::parse(bad.as_bytes(), &limits).unwrap_err().kind(),
                crate::Kind::Invalid,
                "{bad:.100}"
            );
        }
    }

    #[test]
    fn platforms_are_ranked() {
        let of = |text: &str| {
            let mut parts = text.split('/').map(str::to_owned);
            Platform {
                os: parts.next().unwrap_or_default(),
                architecture: parts.next().unwrap_or_default(),
                variant: parts.next(),
                os_version: None,
            }
        };
        let amd64 = of("linux/amd64");
        assert!(amd64.preference(&of("linux/amd64")) < amd64.preference(&of("linux/amd64/v3")));
        assert!(amd64.preference(&of("linux/amd64")) < amd64.preference(&of("linux/386")));
        assert_eq!(amd64.preference(&of("windows/amd64")), None);
        assert_eq!(amd64.preference(&of("linux/arm64")), None);
        let arm64 = of("linux/arm64/v8");
        assert!(arm64.preference(&of("linux/arm64")) < arm64.preference(&of("linux/arm/v7")));
        assert_eq!(of("linux/arm/v7").to_string(), "linux/arm/v7");
    }
}
