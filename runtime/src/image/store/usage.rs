//! What the store takes on disk, and for what.

use std::{collections::HashMap, path::Path};

use super::ImageStore;
use crate::{
    Result,
    disk_usage::{DiskUsage, measure, one},
    error::Context,
    image::{digest::Digest, disk},
};

/// A part of what is below the store's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Archives and documents of images, as they came.
    Content,
    /// Unpacked layers.
    Layers,
    /// What has come of archives that are not complete.
    Partial,
    /// What builds have under construction.
    Building,
    /// What is being removed.
    Trash,
    /// What is known of images and names.
    Records,
}

impl ImageStore {
    /// What each part takes. Layers are measured once, for they never change. Blocks.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn disk_usage(&self) -> Result<Vec<(Part, DiskUsage)>> {
        let at = |path: &Path| measure(path).context(|| format!("cannot measure {}", path.display()));
        let mut parts = vec![
            (Part::Layers, self.layers_usage()?),
            (Part::Building, at(&self.work)?),
            (Part::Trash, at(&self.root.join("trash"))?),
        ];
        let content = self.root.join("content");
        for name in disk::list_all(&content)? {
            let part = match name.as_str() {
                "partial" | "ingest" => Part::Partial,
                _ => Part::Content,
            };
            parts.push((part, at(&content.join(&name))?));
        }
        let mut records: DiskUsage = [&self.root, &content]
            .iter()
            .map(|dir| one(dir).unwrap_or_default())
            .collect();
        for name in disk::list_all(&self.root)? {
            if !matches!(name.as_str(), "layers" | "work" | "trash" | "content") {
                records += at(&self.root.join(&name))?;
            }
        }
        parts.push((Part::Records, records));
        Ok(parts)
    }

    fn layers_usage(&self) -> Result<DiskUsage> {
        let dir = self.root.join("layers");
        let known = std::mem::take(&mut *self.lock_measured());
        let mut measured = HashMap::new();
        let mut all = one(&dir).unwrap_or_default();
        for name in disk::list_all(&dir)? {
            let key = Digest::from_hex(&name).ok();
            let usage = match key.and_then(|key| known.get(&key)) {
                Some(usage) => *usage,
                None => measure(&dir.join(&name)).context(|| format!("cannot measure the layer {name}"))?,
            };
            if let Some(key) = key {
                measured.insert(key, usage);
            }
            all += usage;
        }
        self.lock_measured().extend(measured);
        Ok(all)
    }
}
