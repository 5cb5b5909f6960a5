//! Blobs: there, whole, and what their names say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{Fault, Outcome, Run};
use crate::{
    Error, Result,
    error::Context,
    image::{
        digest::{Digest, HashingReader},
        manifest::Descriptor,
        pins::Resource,
        store::Image,
    },
};

/// More threads don't read faster.
const THREADS: usize = 4;

/// A blob that is not what it should be.
struct Bad {
    digest: Digest,
    fault: Fault,
    detail: String,
}

impl Run<'_> {
    /// Hashes every blob, and brings back what is damaged or missing. Images that cannot be brought back go.
    pub(super) fn content(&mut self) -> Result<()> {
        let users = self.kept(|image| {
            image
                .blobs
                .iter()
                .map(|(digest, _)| Resource::Blob(*digest))
                .collect()
        });
        let mut wanted: BTreeMap<Digest, u64> = BTreeMap::new();
        for image in users.values().flatten() {
            wanted.extend(image.blobs.iter().copied());
        }
        let (bad, bytes) = self.hash_all(&wanted.into_iter().collect::<Vec<_>>())?;
        (self.report.blobs, self.report.bytes) = (users.len(), bytes);
        let mut lost: BTreeSet<Digest> = BTreeSet::new();
        for Bad {
            digest,
            fault,
            detail,
        } in bad
        {
            let users = users.get(&Resource::Blob(digest)).cloned().unwrap_or_default();
            let (outcome, detail) = match self.repairs() {
                false => (Outcome::Reported, detail),
                true => self.bring_back(&digest, fault, &users, detail)?,
            };
            if !matches!(outcome, Outcome::Fetched | Outcome::Rebuilt) {
                self.damaged.insert(digest);
            }
            if outcome == Outcome::Removed {
                lost.extend(users.iter().map(|image| image.id));
            }
            self.found(fault, digest.to_string(), &users, detail, outcome);
        }
        for id in lost {
            match self.store.remove(&id) {
                Err(error) if error.kind() != crate::Kind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn hash_all(&self, blobs: &[(Digest, u64)]) -> Result<(Vec<Bad>, u64)> {
        let next = AtomicUsize::new(0);
        let bad: Mutex<Vec<Bad>> = Mutex::default();
        let bytes = Mutex::new(0_u64);
        let work = || -> Result<()> {
            while let Some((digest, size)) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let found = self.hash(digest, *size)?;
                bad.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
                *bytes.lock().unwrap_or_else(PoisonError::into_inner) += size;
            }
            Ok(())
        };
        let threads = thread::available_parallelism().map_or(1, |n| n.get().min(THREADS));
        thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(Error::internal("a thread that hashes has panicked")))
            })
        })?;
        let mut bad = bad.into_inner().unwrap_or_else(PoisonError::into_inner);
        bad.sort_by_key(|bad| bad.digest);
        Ok((bad, bytes.into_inner().unwrap_or_else(PoisonError::into_inner)))
    }

    fn hash(&self, digest: &Digest, size: u64) -> Result<Option<Bad>> {
        let bad = |fault, detail: String| {
            Ok(Some(Bad {
                digest: *digest,
                fault,
                detail,
            }))
        };
        let file: File = match self.store.blobs.open_blob(digest) {
            Ok(file) => file,
            Err(error) if error.kind() == crate::Kind::NotFound => {
                return bad(Fault::ContentMissing, "it is not there".to_owned());
            }
            Err(error) => return Err(error),
        };
        let length = file
            .metadata()
            .context(|| format!("cannot look at {digest}"))?
            .len();
        if length != size {
            return bad(
                Fault::ContentDamaged,
                format!("it has {length} bytes instead of {size}"),
            );
        }
        match HashingReader::new(file).drain() {
            Ok((actual, _)) if actual == *digest => Ok(None),
            Ok((actual, _)) => bad(Fault::ContentDamaged, format!("its digest is {actual}")),
            Err(error) => bad(Fault::ContentDamaged, format!("it cannot be read: {error}")),
        }
    }

    /// Fetches a blob again. Damaged content stays where a container needs its image, for its layers are unpacked.
    fn bring_back(
        &self,
        digest: &Digest,
        fault: Fault,
        users: &[Arc<Image>],
        detail: String,
    ) -> Result<(Outcome, String)> {
        if self.is_only_of_pushes(digest, users) {
            for image in users {
                self.store.forget_packed(&image.id)?;
            }
            return Ok((Outcome::Rebuilt, detail));
        }
        let aside = match fault {
            Fault::ContentMissing => None,
            _ => Some(self.store.blobs.set_aside(digest)?),
        };
        let mut reason = Error::not_found("no registry is known to have it");
        for image in users {
            let Some(mend) = self.how.mend else { break };
            match mend.fetch(image, &described(image, digest)) {
                Ok(()) => {
                    self.store.blobs.sync([digest])?;
                    if let Some(aside) = aside {
                        fs::remove_file(&aside).context(|| format!("cannot remove {}", aside.display()))?;
                    }
                    return Ok((Outcome::Fetched, detail));
                }
                Err(error) => reason = error,
            }
        }
        if let Some(aside) = aside {
            match fs::metadata(&aside) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                _ => self.store.blobs.adopt(&aside, digest)?,
            }
        }
        let detail = format!("{detail}; {reason}");
        let holds = self.store.lock_holds();
        let is_held = users.iter().any(|image| holds.contains_key(&image.id));
        Ok((if is_held { Outcome::Kept } else { Outcome::Removed }, detail))
    }

    /// Whether a blob is nothing but the manifest that registries get of some images.
    fn is_only_of_pushes(&self, digest: &Digest, users: &[Arc<Image>]) -> bool {
        let packed = |image: &Arc<Image>| {
            image
                .packed
                .as_ref()
                .is_some_and(|packed| packed.digest == *digest)
        };
        !users.is_empty() && users.iter().all(packed)
    }
}

/// What an image says about a blob of its.
fn described(image: &Image, digest: &Digest) -> Descriptor {
    let documents = [&image.target, &image.manifest, &image.config_descriptor];
    let layers = image.layers.iter().map(|layer| &layer.blob);
    let known = documents.into_iter().chain(layers).find(|d| d.digest == *digest);
    known.cloned().unwrap_or_else(|| {
        let size = image.blobs.iter().find(|(known, _)| known == digest);
        Descriptor::new("", *digest, size.map_or(0, |(_, size)| *size))
    })
}
