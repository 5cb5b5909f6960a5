//! Reads an image archive once, from front to back: its files go to the content store, its documents into memory.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, Write},
    os::unix::fs::FileExt,
};

use crate::{
    Error, Result,
    error::Context,
    image::{
        blobs::BlobStore,
        compress::Compression,
        digest::{Digest, Hasher},
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

/// A file of an archive that has just come to the content store.
#[derive(Debug)]
pub struct Arrival {
    pub digest: Digest,
    /// The blob, open.
    pub file: File,
    /// It is compressed, or an archive itself.
    pub looks_like_layer: bool,
}

/// What an archive held.
#[derive(Debug, Default)]
pub struct Spool {
    documents: HashMap<RelPath, Vec<u8>>,
    members: HashMap<RelPath, Member>,
    links: HashMap<RelPath, RelPath>,
}

impl Spool {
    /// Reads the archive `input`, which must be uncompressed. All blobs are pinned by `lease`; `on_blob` hears of each
    /// as soon as it is there.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] if the archive is malformed or a blob is not what its name says.
    pub fn read(
        input: impl BufRead,
        blobs: &BlobStore,
        lease: &Lease,
        limits: &Limits,
        on_blob: impl Fn(Arrival),
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
                    let (member, arrival) = store(&mut reader, &entry, blobs, lease)?;
                    on_blob(arrival);
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

/// Copies the current entry to the content store, unless its content is there already.
fn store<R: BufRead>(
    reader: &mut TarReader<'_, R>,
    entry: &Entry,
    blobs: &BlobStore,
    lease: &Lease,
) -> Result<(Member, Arrival)> {
    if entry.segments.is_some() {
        return Err(Error::invalid(format!(
            "invalid archive: {:?} is a sparse file",
            entry.path.display()
        )));
    }
    let claim = claim(&entry.path)?;
    if let Some(claim) = &claim {
        lease.pin(Resource::Blob(claim.digest));
        if blobs.size(&claim.digest)? == Some(entry.size) {
            return known(reader, entry, claim, blobs);
        }
    }
    let mut writer = blobs.writer()?;
    copy(reader, |chunk| {
        writer.write_all(chunk).context(|| "cannot store a blob")
    })?;
    let blob = writer.finish()?;
    let digest = blob.digest();
    lease.pin(Resource::Blob(digest));
    let file = blob.commit(
        claim
            .filter(|claim| claim.binding)
            .map(|claim| claim.digest)
            .as_ref(),
    )?;
    arrived(digest, file)
}

/// What the name of a file says about its digest.
struct Claim {
    digest: Digest,
    /// The file is refused if it has another one.
    binding: bool,
}

/// In an OCI layout the name of a blob is its digest. Older archives often have the digest somewhere in the name too.
fn claim(path: &RelPath) -> Result<Option<Claim>> {
    let bytes = path.as_bytes();
    if let Some(hex) = bytes.strip_prefix(BLOBS) {
        let digest = Digest::from_hex(&String::from_utf8_lossy(hex))?;
        return Ok(Some(Claim {
            digest,
            binding: true,
        }));
    }
    let words = bytes.split(|b| !b.is_ascii_alphanumeric());
    let digest = words
        .filter_map(|word| Digest::from_hex(std::str::from_utf8(word).ok()?).ok())
        .next();
    Ok(digest.map(|digest| Claim {
        digest,
        binding: false,
    }))
}

/// An entry that claims to be a blob that is here already. What only may be that blob is compared.
fn known<R: BufRead>(
    reader: &mut TarReader<'_, R>,
    entry: &Entry,
    claim: &Claim,
    blobs: &BlobStore,
) -> Result<(Member, Arrival)> {
    if !claim.binding {
        let mut hasher = Hasher::default();
        copy(reader, |chunk| {
            hasher.update(chunk);
            Ok(())
        })?;
        if hasher.finish() != claim.digest {
            return Err(Error::invalid(format!(
                "invalid archive: {:?} has the name of other content",
                entry.path.display()
            )));
        }
    }
    arrived(claim.digest, blobs.open_blob(&claim.digest)?)
}

fn copy<R: BufRead>(reader: &mut TarReader<'_, R>, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    loop {
        let chunk = reader.data()?;
        if chunk.is_empty() {
            return Ok(());
        }
        take(chunk)?;
        let n = chunk.len();
        reader.consume(n);
    }
}

fn arrived(digest: Digest, file: File) -> Result<(Member, Arrival)> {
    let size = file
        .metadata()
        .context(|| format!("cannot look at the blob {digest}"))?
        .len();
    let mut start = [0; 512];
    let n = file
        .read_at(&mut start, 0)
        .context(|| format!("cannot read the blob {digest}"))?;
    let start = start.get(..n).unwrap_or_default();
    let compression = Compression::sniff(start);
    let (at, magic) = MAGIC;
    let is_tar = start.get(at..).is_some_and(|rest| rest.starts_with(magic));
    let member = Member {
        digest,
        size,
        compression,
    };
    let arrival = Arrival {
        digest,
        file,
        looks_like_layer: is_tar || compression != Compression::None,
    };
    Ok((member, arrival))
}

/// Where a symbolic link leads, as a path of the archive.
fn relative(entry: &Entry) -> Result<RelPath> {
    if entry.link.starts_with(b"/") {
        return RelPath::clean(&entry.link);
    }
    RelPath::clean(&[entry.path.parent_bytes(), &entry.link].join(&b'/'))
}
