//! Resource limits and accounting, on cgroup v1, v2 and hybrid hosts.
//!
//! A [`Cgroup`] is one directory in each hierarchy of the host. Where a controller lives (v1 or v2) is found out per
//! controller, so that hybrid hosts need no case of their own.

mod stats;

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

pub use self::stats::{BlkioEntry, Cpu, Memory, Pids, Stats};
use crate::{Error, Result};

/// A container's directories in the cgroup hierarchies. Cheap to clone and to keep: it holds paths, no descriptors.
///
/// It can be serialised, so that whoever restarts finds the same directories even if its own cgroup has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {}

impl Cgroup {
    /// Makes (or takes over) the cgroup `name` below `parent` and applies `resources`.
    ///
    /// An absolute `parent` starts at the root of each hierarchy as far as it is visible here; a relative one starts at
    /// the caller's own cgroup (on v2 at the root too, as a v2 cgroup with processes cannot have limited children).
    /// Missing parents are made.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) for a limit the kernel refuses, else internal; nothing is left behind.
    pub fn create(_parent: &str, _name: &str, _resources: &LinuxResources) -> Result<Self> {
        Err(Error::internal("cgroups are not built yet"))
    }

    /// The cgroup `name` below `parent` if it exists in at least one hierarchy.
    ///
    /// # Errors
    /// Internal, if the host's hierarchies cannot be read.
    pub fn open(_parent: &str, _name: &str) -> Result<Option<Self>> {
        Err(Error::internal("cgroups are not built yet"))
    }

    /// Changes the limits given in `resources` and leaves the others.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) for a limit the kernel refuses.
    pub fn update(&self, _resources: &LinuxResources) -> Result<()> {
        Err(Error::internal("cgroups are not built yet"))
    }

    /// Freezes all processes and returns when they are frozen.
    ///
    /// # Errors
    /// Internal, if they are not after a few seconds (they are thawed again).
    pub fn freeze(&self) -> Result<()> {
        Err(Error::internal("cgroups are not built yet"))
    }

    /// Lets frozen processes run again.
    ///
    /// # Errors
    /// Internal, if the kernel refuses.
    pub fn thaw(&self) -> Result<()> {
        Err(Error::internal("cgroups are not built yet"))
    }

    /// Sends SIGKILL to every process in it, also to those forked meanwhile and to frozen ones (it is thawed for that).
    /// Does not wait for their end.
    ///
    /// # Errors
    /// Internal, if the kernel refuses.
    pub fn kill_all(&self) -> Result<()> {
        Err(Error::internal("cgroups are not built yet"))
    }

    /// Ids of its processes, cgroups below included, in no order.
    ///
    /// # Errors
    /// Internal, if it cannot be read. A cgroup that is gone has none.
    pub fn pids(&self) -> Result<Vec<i32>> {
        Err(Error::internal("cgroups are not built yet"))
    }

    /// What it uses and has used. A controller that is missing leaves its part at zero.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound) if it is gone.
    pub fn stats(&self) -> Result<Stats> {
        Err(Error::internal("cgroups are not built yet"))
    }

    /// How many of its processes the out-of-memory killer has ended so far; 0 if the kernel does not count them.
    ///
    /// # Errors
    /// Internal, if the counter cannot be read.
    pub fn oom_kills(&self) -> Result<u64> {
        Err(Error::internal("cgroups are not built yet"))
    }

    /// Removes it with all cgroups below. One that is already gone is fine. Waits a bounded time for processes that are
    /// ending.
    ///
    /// # Errors
    /// [`Kind::Conflict`](crate::Kind::Conflict) if processes are still in it.
    pub fn remove(&self) -> Result<()> {
        Err(Error::internal("cgroups are not built yet"))
    }
}
