//! Records of images and names: what is on disk is what is known.

use std::fs;

use super::{Fault, Outcome, Run};
use crate::{
    Result,
    error::Context,
    image::{
        digest::Digest,
        disk,
        manifest::Document,
        store::{Image, record},
    },
};

impl Run<'_> {
    /// Compares what is written with what is known, and writes what differs again.
    pub(super) fn records(&mut self) -> Result<()> {
        self.manifests();
        let store = self.store;
        // Nothing is written by others until all was compared.
        let _change = store.change();
        let now = store.now();
        let records = &store.records;
        let outcome = |ok| {
            if self.how.mend.is_some() {
                ok
            } else {
                Outcome::Reported
            }
        };
        let mut found = Vec::new();
        let mut known = Vec::new();
        for image in now.images.values() {
            let file = record::file_name(&image.id);
            let path = records.images.join(&file);
            if fs::read(&path).ok() != Some(record::image_bytes(image)?) {
                if self.how.mend.is_some() {
                    records.write_image(image)?;
                }
                let detail = format!("what is written about the image {} is not so", image.id);
                found.push((
                    Fault::RecordDamaged,
                    format!("images/{file}"),
                    detail,
                    outcome(Outcome::Rebuilt),
                ));
            }
            known.push(format!("images/{file}"));
        }
        for (name, id) in &now.names {
            let file = record::file_name(&Digest::of(name.to_string().as_bytes()));
            let read = record::read_name(&records.names.join(&file));
            if !read.is_ok_and(|(written, target, _)| written == *name && target == *id) {
                if self.how.mend.is_some() {
                    let tagged = now.images.get(id).and_then(|image| image.tagged);
                    records.write_name(name, id, tagged.unwrap_or_else(jiff::Timestamp::now))?;
                }
                let detail = format!("what is written about the name {name} is not so");
                found.push((
                    Fault::RecordDamaged,
                    format!("names/{file}"),
                    detail,
                    outcome(Outcome::Rebuilt),
                ));
            }
            known.push(format!("names/{file}"));
        }
        for (dir, path) in [("images", &records.images), ("names", &records.names)] {
            for file in disk::list(path)? {
                let shown = format!("{dir}/{file}");
                if known.contains(&shown) {
                    continue;
                }
                if self.how.mend.is_some() {
                    let path = path.join(&file);
                    store
                        .trash
                        .discard(&path)
                        .context(|| format!("cannot remove {}", path.display()))?;
                }
                found.push((
                    Fault::Orphan,
                    shown,
                    "it is of no image".to_owned(),
                    outcome(Outcome::Removed),
                ));
            }
        }
        for (fault, subject, detail, outcome) in found {
            self.found(fault, subject, &[], detail, outcome);
        }
        Ok(())
    }

    /// Whether images have the layers that their manifests and configurations name.
    fn manifests(&mut self) {
        for image in self.images() {
            let bad = [image.manifest.digest, image.config_descriptor.digest];
            if bad.iter().any(|digest| self.damaged.contains(digest)) {
                continue;
            }
            let outcome = if self.repairs() {
                Outcome::Kept
            } else {
                Outcome::Reported
            };
            let detail = match self.agrees(&image) {
                Ok(true) => continue,
                Ok(false) => "its layers are not those of its manifest and configuration".to_owned(),
                Err(error) => error.to_string(),
            };
            let subject = image.id.to_string();
            self.found(Fault::RecordDamaged, subject, &[image], detail, outcome);
        }
    }

    fn agrees(&self, image: &Image) -> Result<bool> {
        let limits = self.store.limits();
        let bytes = match self.store.blobs.read(&image.manifest.digest, limits.config_bytes) {
            Ok(bytes) => bytes,
            // It was removed meanwhile.
            Err(error) if error.kind() == crate::Kind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        let Document::Manifest(manifest) = Document::parse(&bytes, limits)? else {
            return Ok(false);
        };
        let blobs = image.layers.iter().map(|layer| layer.blob.digest);
        let diff_ids = image.layers.iter().map(|layer| layer.diff_id);
        Ok(manifest.layers.iter().map(|blob| blob.digest).eq(blobs)
            && image.config.rootfs.diff_ids.iter().copied().eq(diff_ids)
            && manifest.config.digest == image.config_descriptor.digest)
    }
}
