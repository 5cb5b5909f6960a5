//! Volumes: what an image gives to an empty one, and what the options of the driver `local` mean to the kernel.
//!
//! | module | what it is |
//! |---|---|
//! | [`copy`] | a directory tree copied through descriptors |
//! | [`quota`] | the size of a volume |
//! | [`options`] | `type`, `device`, `o` and `size`: a file system to be mounted, and its mount |

pub mod copy;
pub mod options;
pub mod quota;

pub use copy::copy_directory;
pub use options::{MountOptions, is_mount_point, unmount};
