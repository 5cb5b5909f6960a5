//! Reads an image archive once, from front to back: its files go to the content store, its documents into memory.

use std::{
    collections::HashMap,
    io::{BufRead, Write},
};

use crate::{
    Error, Result,
    error::Context,
    image::{
        blobs::BlobStore,
        compress::Compression,
        digest::Digest,
        limits::Limits,
        path::RelPath,
        pins::{Lease, Resource},
        tar_reader::{Entry, Kind, TarReader},
    },
};

/// Files that say what is in the archive; they are never content themselves.
const DOCUMENTS: [&[u8]; 4] = [b"manifest.json", b"index.json", b"oci-layout", b"repositories"];
/// Where an OCI image layout keeps content, by its digest.
const BLOBS: &[u8] = b"blobs/sha256/";
/// Links that lead to links; the kernel stops at as many.
const MAX_HOPS: usize = 40;
/// Where a tar header has its magic, and how it begins.
const MAGIC: (usize, &[u8]) = (257, b"ustar");

/// A file of the archive, now in the content store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub digest: Digest,
    pub size: u64,
    pub compression: Compression,
}

/// What an archive held.
#[derive(Debug, Default)]
pub struct Spool {
    documents: HashMap<RelPath, Vec<u8>>,
    members: HashMap<RelPath, Member>,
    links: HashMap<RelPath, RelPath>,
}

impl Spool {
    /// Reads the archive `input`, which must be uncompressed. All blobs are pinned by `lease`; `on_layer` hears of each
    /// that looks like a layer as soon as it is there.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] if the archive is malformed or a blob is not what its name says.
    pub fn read(
        input: impl BufRead,
        blobs: &BlobStore,
        lease: &Lease,
        limits: &Limits,
        on_layer: impl Fn(Digest),
    ) -> Result<Self> {
        let mut spool = Self::default();
        let mut reader = TarReader::new(input, limits, limits.archive_members);
        while let Some(entry) = reader.next()? {
            match entry.kind {
                Kind::Directory => {}
                Kind::File if DOCUMENTS.contains(&entry.path.as_bytes()) => {
                    let bytes = read_document(&mut reader, &entry, limits)?;
                    spool.documents.insert(entry.path, bytes);
                }
                Kind::File => {
                    let (member, looks_like_layer) = store(&mut reader, &entry, blobs, lease)?;
                    if looks_like_layer {
                        on_layer(member.digest);
                    }
                    if spool
                        .members
                        .insert(entry.path.clone(), member)
                        .is_some_and(|old| old != member)
                    {
                        return Err(Error::invalid(format!(
                            "invalid archive: {:?} is in it twice",
                            entry.path.display()
                        )));
                    }
                }
                Kind::HardLink => {
                    let target = RelPath::clean(&entry.link)?;
                    spool.links.insert(entry.path, target);
                }
                Kind::Symlink => {
                    let target = relative(&entry)?;
                    spool.links.insert(entry.path, target);
                }
                _ => {
                    return Err(Error::invalid(format!(
                        "invalid archive: {:?} is a device",
                        entry.path.display()
                    )));
                }
            }
        }
        reader.finish()?;
        Ok(spool)
    }

    /// A document at the archive's root.
    pub fn document(&self, name: &str) -> Option<&[u8]> {
        let path = RelPath::clean(name.as_bytes()).ok()?;
        self.documents.get(&path).map(Vec::as_slice)
    }

    /// The file called `name`, which may be a link to another file of the archive.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] if there is none or the name leads outside of the archive.
    pub fn member(&self, name: &str) -> Result<Member> {
        let mut path = RelPath::clean(name.as_bytes())?;
        for _ in 0..MAX_HOPS {
            if let Some(member) = self.members.get(&path) {
                return Ok(*member);
            }
            match self.links.get(&path) {
                Some(target) => path = target.clone(),
                None => break,
            }
        }
        Err(Error::invalid(format!("invalid archive: {name:?} is not in it")))
    }
}

fn read_document<R: BufRead>(
    reader: &mut TarReader<'_, R>,
    entry: &Entry,
    limits: &Limits,
) -> Result<Vec<u8>> {
    if entry.size > limits.config_bytes || entry.segments.is_some() {
        return Err(Error::invalid(format!(
            "invalid archive: {:?} is too big",
            entry.path.display()
        )));
    }
    let mut bytes = Vec::new();
    loop {
        let chunk = reader.data()?;
        if chunk.is_empty() {
            return Ok(bytes);
        }
        bytes.extend_from_slice(chunk);
        let n = chunk.len();
        reader.consume(n);
    }
}

/// Copies the current entry to the content store; also says whether it looks like a layer.
fn store<R: BufRead>(
    reader: &mut TarReader<'_, R>,
    entry: &Entry,
    blobs: &BlobStore,
    lease: &Lease,
) -> Result<(Member, bool)> {
    if entry.segments.is_some() {
        return Err(Error::invalid(format!(
            "invalid archive: {:?} is a sparse file",
            entry.path.display()
        )));
    }
    let mut writer = blobs.writer()?;
    let mut start = Vec::new();
    loop {
        let chunk = reader.data()?;
        if chunk.is_empty() {
            break;
        }
        if start.len() < 512 {
            start.extend(chunk.iter().take(512 - start.len()));
        }
        writer.write_all(chunk).context(|| "cannot store a blob")?;
        let n = chunk.len();
        reader.consume(n);
    }
    let blob = writer.finish()?;
    let (digest, size) = (blob.digest(), blob.size());
    let expected = match entry.path.as_bytes().strip_prefix(BLOBS) {
        Some(hex) => Some(Digest::from_hex(&String::from_utf8_lossy(hex))?),
        None => None,
    };
    lease.pin(Resource::Blob(digest));
    blob.commit(expected.as_ref())?;
    let compression = Compression::sniff(&start);
    let (at, magic) = MAGIC;
    let is_tar = start.get(at..).is_some_and(|rest| rest.starts_with(magic));
    let member = Member {
        digest,
        size,
        compression,
    };
    Ok((member, is_tar || compression != Compression::None))
}

/// Where a symbolic link leads, as a path of the archive.
fn relative(entry: &Entry) -> Result<RelPath> {
    if entry.link.starts_with(b"/") {
        return RelPath::clean(&entry.link);
    }
    RelPath::clean(&[entry.path.parent_bytes(), &entry.link].join(&b'/'))
}
