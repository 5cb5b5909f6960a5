//! Images become archives: an OCI image layout that is a `docker save` archive too.
//!
//! Blobs are written as they are stored, so whoever loads the archive gets the same IDs. The archive depends on nothing
//! but the images and names asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{
    digest::Digest,
    load::oci::{NAME, REF_NAME},
    manifest::{Descriptor, media},
    pack::Header,
    reference::Reference,
    store::{Image, ImageStore},
};
use crate::{Result, error::Context};

const BLOCK: u64 = 512;
const BUFFER: usize = 256 * 1024;

/// An image to save, and the names under which it is to be found in the archive.
#[derive(Clone, Debug)]
pub struct Selected {
    /// The image.
    pub image: Arc<Image>,
    /// Its names in the archive; none if it was asked for by its ID.
    pub names: Vec<Reference>,
}

/// See [`ImageStore::save`].
pub fn save(store: &ImageStore, selected: &[Selected], out: impl Write) -> Result<()> {
    // Nothing of it may go while it is written.
    let lease = store.pins().lease();
    let mut blobs = BTreeSet::new();
    for Selected { image, .. } in selected {
        for resource in image.resources() {
            lease.pin(resource);
        }
        blobs.extend(image.blobs.iter().map(|(digest, _)| *digest));
    }
    let mut archive = Archive {
        out,
        buffer: vec![0; BUFFER],
    };
    archive.directory("blobs/")?;
    archive.directory("blobs/sha256/")?;
    for digest in &blobs {
        archive.blob(store, digest)?;
    }
    archive.document("index.json", &index(selected))?;
    archive.document("manifest.json", &manifest(selected))?;
    archive.document("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}))?;
    let repositories = repositories(selected);
    if !repositories.is_empty() {
        archive.document("repositories", &json!(repositories))?;
    }
    archive.end()
}

fn index(selected: &[Selected]) -> Value {
    let mut manifests = Vec::new();
    for Selected { image, names } in selected {
        let mut descriptor =
            Descriptor::new(&image.target.media_type, image.target.digest, image.target.size);
        if names.is_empty() {
            manifests.push(descriptor.clone());
        }
        for name in names {
            descriptor.annotations = BTreeMap::from([(NAME.to_owned(), name.to_string())]);
            if let Some(tag) = name.tag() {
                descriptor.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
            }
            manifests.push(descriptor.clone());
        }
    }
    json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": manifests})
}

fn manifest(selected: &[Selected]) -> Value {
    let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let items = selected.iter().map(|Selected { image, names }| {
        let tags: Vec<_> = names
            .iter()
            .filter(|name| name.tag().is_some())
            .map(Reference::familiar)
            .collect();
        let layers: Vec<_> = image
            .layers
            .iter()
            .map(|layer| path(&layer.blob.digest))
            .collect();
        let tags = if tags.is_empty() { Value::Null } else { json!(tags) };
        json!({"Config": path(&image.config_descriptor.digest), "RepoTags": tags, "Layers": layers})
    });
    Value::Array(items.collect())
}

/// What engines before manifest.json looked for: repository, tag and topmost layer.
fn repositories(selected: &[Selected]) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut all: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for Selected { image, names } in selected {
        let Some(top) = image.layers.last() else { continue };
        for name in names {
            if let Some(tag) = name.tag() {
                all.entry(name.familiar_name())
                    .or_default()
                    .insert(tag.to_owned(), top.blob.digest.hex());
            }
        }
    }
    all
}

struct Archive<W> {
    out: W,
    buffer: Vec<u8>,
}

impl<W: Write> Archive<W> {
    fn directory(&mut self, name: &str) -> Result<()> {
        let header = Header::new(b'5', name.as_bytes().to_vec()).attributes(
            0o755,
            0,
            0,
            super::tar_reader::Time::default(),
        );
        self.write(&header.encode()?)
    }

    fn document(&mut self, name: &str, value: &Value) -> Result<()> {
        let mut bytes = serde_json::to_vec(value).context(|| format!("cannot write {name}"))?;
        bytes.push(b'\n');
        self.header(name, bytes.len() as u64)?;
        self.write(&bytes)?;
        self.pad(bytes.len() as u64)
    }

    fn blob(&mut self, store: &ImageStore, digest: &Digest) -> Result<()> {
        let mut file = store.blobs().open_blob(digest)?;
        let size = file
            .metadata()
            .context(|| format!("cannot look at the blob {digest}"))?
            .len();
        self.header(&format!("blobs/sha256/{}", digest.hex()), size)?;
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let space = self.buffer.get_mut(..want).unwrap_or_default();
            file.read_exact(space)
                .context(|| format!("cannot read the blob {digest}"))?;
            self.out.write_all(space).context(|| "cannot write an archive")?;
            left -= want as u64;
        }
        self.pad(size)
    }

    fn header(&mut self, name: &str, size: u64) -> Result<()> {
        self.write(&Header::new(b'0', name.as_bytes().to_vec()).size(size).encode()?)
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let missing = size.next_multiple_of(BLOCK) - size;
        self.write(&vec![0; usize::try_from(missing).unwrap_or_default()])
    }

    fn end(&mut self) -> Result<()> {
        self.write(&[0; 1024])?;
        self.out.flush().context(|| "cannot write an archive")
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).context(|| "cannot write an archive")
    }
}
