//! Content store, layers on disk, archives in and out.
//!
//! [`ImageStore`] is the whole of it for an engine: open it below the data root, [`ImageStore::load`] archives,
//! [`ImageStore::resolve`] what users type, and give [`ImageStore::lower_dirs`] to overlayfs. Everything here blocks.
//!
//! [`unpack`] and [`pack`] are extractor and archiver by themselves, for plain directories.

mod ahead;
mod blobs;
mod compose;
mod compress;
mod config;
mod digest;
mod disk;
mod layers;
mod limits;
mod load;
mod manifest;
mod pack;
mod path;
mod pins;
mod reference;
mod save;
mod store;
mod tar_reader;
#[cfg(test)]
mod testing;
mod trash;
mod tree;
mod unpack;
mod worker;
mod xattr;

pub use blobs::{BlobStore, BlobWriter, FinishedBlob};
pub use compose::WriteLayer;
pub use config::{Empty, Healthcheck, History, ImageConfig, RootFs, RunConfig};
pub use digest::{Digest, HashingReader, HashingWriter};
pub use limits::Limits;
pub use load::{Loaded, Progress};
pub use manifest::{Descriptor, Platform};
pub use pack::{Options as PackOptions, pack, pack_one};
pub use reference::Reference;
pub use save::Selected;
pub use store::{Hold, Image, ImageLayer, ImageStore};
pub use unpack::{Options as UnpackOptions, Outcome as UnpackOutcome, Whiteouts, unpack};
