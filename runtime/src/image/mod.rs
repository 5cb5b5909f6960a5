//! Content store, layers on disk, archives in and out.
//!
//! [`ImageStore`] is the whole of it for an engine: open it below the data root, [`ImageStore::load`] archives,
//! [`ImageStore::resolve`] what users type, and give [`ImageStore::lower_dirs`] to overlayfs. Everything here blocks.
//!
//! [`unpack`] and [`pack`] are extractor and archiver by themselves, for plain directories.

mod ahead;
mod base;
mod blobs;
pub mod build;
mod compare;
mod compose;
pub(crate) mod compress;
mod config;
pub(crate) mod digest;
mod disk;
mod gzip;
pub(crate) mod incoming;
mod layers;
mod limits;
mod load;
pub(crate) mod manifest;
mod pack;
pub(crate) mod packed;
pub(crate) mod partial;
mod path;
mod pins;
pub(crate) mod reference;
mod save;
mod store;
mod tar_reader;
#[cfg(test)]
mod testing;
mod trash;
pub(crate) mod tree;
mod unpack;
mod upper;
mod worker;
pub(crate) mod xattr;

pub use blobs::{BlobStore, BlobWriter, FinishedBlob};
pub use compose::{LayerFrom, WriteLayer};
pub use config::{Empty, Healthcheck, History, ImageConfig, RootFs, RunConfig};
pub use digest::{Digest, HashingReader, HashingWriter};
pub use disk::Scratch;
pub use limits::Limits;
pub use load::{Loaded, Progress};
pub use manifest::{Descriptor, Platform};
pub use pack::{Options as PackOptions, pack, pack_one};
pub use partial::Partial;
pub(crate) use path::RelPath;
pub(crate) use pins::Resource;
pub use reference::Reference;
pub use save::Selected;
pub use store::{Check, Fault, Finding, Hold, Image, ImageLayer, ImageStore, Mend, Outcome, Part, Report};
pub use unpack::{Options as UnpackOptions, Outcome as UnpackOutcome, Whiteouts, unpack};
