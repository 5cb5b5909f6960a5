//! What building images needs of the file system: a context on disk, a stage's files as a container would see them, and
//! copying between them. Everything goes through descriptors of roots that no path leads out of.

mod chmod;
mod context;
mod copy;
mod fingerprint;
mod layer;
mod merged;
mod resolve;

pub use self::{
    chmod::Chmod,
    context::{extract, is_archive, prune, read_file},
    copy::{Copied, CopyOptions, copy, unpack_into},
    fingerprint::Fingerprint,
    layer::{copy_attributes, make_directory, open, set_mode, take_away_stubs},
    merged::Merged,
    resolve::{Found, Kind, find, names, resolve},
};
