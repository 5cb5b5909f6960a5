//! Docker's rules for what a text means.

use std::sync::Arc;

use super::{Image, Snapshot};
use crate::{
    Error, Result,
    image::{digest::Digest, reference::Reference},
};

/// In this order: a full ID, a name with a digest or tag, the unique beginning of an ID.
pub(super) fn resolve(now: &Snapshot, text: &str) -> Result<Arc<Image>> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    if let Ok(id) = Digest::from_hex(hex) {
        return visible(now, &id).ok_or_else(|| not_found(text));
    }
    let reference = Reference::parse(text)?;
    if let Some(image) = by_name(now, &reference) {
        return Ok(image);
    }
    by_prefix(now, hex).ok_or_else(|| not_found(&reference.normalized().familiar()))
}

fn visible(now: &Snapshot, id: &Digest) -> Option<Arc<Image>> {
    now.images.get(id).filter(|image| !image.removed).cloned()
}

/// With a digest the tag does not count, but the image must be known in the repository that the name names: a digest of
/// another one is no answer.
fn by_name(now: &Snapshot, reference: &Reference) -> Option<Arc<Image>> {
    if let Some(digest) = reference.digest() {
        // Pushed from here, it may have another digest in the registry than its id.
        if let Some(id) = now.names.get(&reference.with_digest(*digest)) {
            return visible(now, id);
        }
        let image = visible(now, digest)?;
        return image
            .names
            .iter()
            .any(|name| name.same_repository(reference))
            .then_some(image);
    }
    let id = now.names.get(&reference.clone().normalized())?;
    visible(now, id)
}

fn by_prefix(now: &Snapshot, prefix: &str) -> Option<Arc<Image>> {
    if prefix.is_empty()
        || prefix.len() > 64
        || !prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    {
        return None;
    }
    let first = Digest::from_hex(&format!("{prefix:0<64}")).ok()?;
    let mut matches = now
        .images
        .range(first..)
        .take_while(|(id, _)| id.hex().starts_with(prefix))
        .map(|(_, image)| image)
        .filter(|image| !image.removed);
    match (matches.next(), matches.next()) {
        (Some(only), None) => Some(Arc::clone(only)),
        _ => None,
    }
}

fn not_found(what: &str) -> Error {
    Error::not_found(format!("No such image: {what}"))
}
