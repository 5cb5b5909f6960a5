//! Unpacked layers: what their archives make.

use std::{collections::BTreeSet, sync::Arc};

use super::{Fault, Outcome, Run};
use crate::{
    Kind, Result,
    image::{
        digest::Digest,
        pins::Resource,
        store::{Image, ImageLayer},
    },
};

impl Run<'_> {
    /// Compares every layer with its archive, and makes those again that differ.
    pub(super) fn layers(&mut self) -> Result<()> {
        let users = self.kept(|image| {
            image
                .layers
                .iter()
                .map(|layer| Resource::Layer(layer.key))
                .collect()
        });
        let mut seen = BTreeSet::new();
        for image in self.images() {
            for (at, layer) in image.layers.iter().enumerate() {
                let Some(users) = users.get(&Resource::Layer(layer.key)) else {
                    continue;
                };
                if seen.insert(layer.key) && !self.damaged.contains(&layer.blob.digest) {
                    self.layer(&image, at, layer, users)?;
                }
            }
        }
        self.report.layers = seen.len();
        Ok(())
    }

    fn layer(&mut self, image: &Image, at: usize, layer: &ImageLayer, users: &[Arc<Image>]) -> Result<()> {
        let below: Vec<Digest> = image.layers.iter().take(at).map(|layer| layer.key).collect();
        self.lease.pin(Resource::Blob(layer.blob.digest));
        let archive = match self.store.blobs.open_blob(&layer.blob.digest) {
            Ok(archive) => archive,
            // It went with its last image.
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let subject = layer.key.to_string();
        let store = self.store;
        match store
            .layers
            .verify(&layer.key, &layer.blob.digest, archive, &below)
        {
            Ok((_, None)) => {}
            Ok((fresh, Some(detail))) => {
                let is_mounted = || users.iter().any(|image| (self.how.is_mounted)(&image.id));
                let (outcome, detail) = match self.repairs() {
                    false => (Outcome::Reported, detail),
                    true if is_mounted() => {
                        let why = "containers that run have it mounted: stop them and check again";
                        (Outcome::Kept, format!("{detail}; {why}"))
                    }
                    true => {
                        store.layers.replace(fresh, layer.key)?;
                        (Outcome::Rebuilt, detail)
                    }
                };
                self.found(Fault::LayerDamaged, subject, users, detail, outcome);
            }
            Err(error) => {
                let outcome = if self.repairs() {
                    Outcome::Kept
                } else {
                    Outcome::Reported
                };
                self.found(Fault::LayerUnverified, subject, users, error.to_string(), outcome);
            }
        }
        Ok(())
    }
}
