//! The mechanisms behind the engine. Nothing here knows the engine's API; each module is usable and testable alone.
//!
//! | module | what it is |
//! |---|---|
//! | [`image`] | content store, layers on disk, archives in and out |
//! | [`registry`] | images from and to registries |
//! | [`files`] | files of containers: copied in and out, compared, exported |
//! | [`sandbox`] | an OCI runtime specification becomes a running process |
//! | [`cgroup`] | resource limits and accounting, v1, v2 and hybrid |
//! | [`supervisor`] | the process that holds a container's stdio, terminal, log and exit status; and the spawner that forks it |
//! | [`volume`] | what fills volumes, and what the options of the driver `local` mount |
//! | [`log`] | container logs: writing, rotating, reading, following |
//! | [`external`] | containers by another OCI runtime |
//! | [`net`] | namespaces, links, addresses, the firewall table of containers' networks |
//! | [`ids`], [`userns`] | user namespaces: which ids are which, namespaces without a process |
//! | [`disk_usage`] | what files take on disk |
//! | [`error`] | the error type they share |
//! | [`failpoint`] | steps at which tests make a process die, fail or wait |

pub mod cgroup;
pub mod disk_usage;
pub mod error;
pub mod external;
pub mod failpoint;
pub mod files;
pub mod ids;
pub mod image;
pub mod log;
#[cfg(debug_assertions)]
pub mod mutate;
pub mod net;
pub mod registry;
pub mod sandbox;
pub mod supervisor;
mod sys;
pub mod userns;
pub mod volume;

pub use error::{Error, Kind, Result};
