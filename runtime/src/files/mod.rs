//! The files of containers, seen from the engine: copied in and out, compared, exported.
//!
//! [`Root`] is the root directory of a container as a descriptor. It is the one that a process of the container has
//! ([`Root::of_process`]), with everything that is mounted there; or, while nothing runs, one that is put together for
//! the purpose where nobody else sees it ([`Assembly`]). Every path is resolved below it by the kernel: symbolic links,
//! absolute ones too, stay inside, magic links are refused, and whatever a container changes meanwhile leads to another
//! of its own files at most. No program of a container is ever executed.

mod assembly;
mod changes;
mod path;
mod process;
mod transfer;

pub use self::{
    assembly::{Assembly, Bound},
    changes::{Change, ChangeKind, changes},
    path::{ContainerPath, PathStat},
    transfer::Extraction,
};

use std::os::fd::OwnedFd;

/// The root directory of a container.
#[derive(Debug)]
pub struct Root(OwnedFd);
