//! mount_setattr(2), which rustix lacks.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd},
    ptr,
};

use rustix::mount::{MountAttrFlags, MountPropagationFlags};

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Changes to the properties of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// Set these.
    pub set: MountAttrFlags,
    /// Clear these. To change the access-time mode, all of `MOUNT_ATTR__ATIME` has to be cleared.
    pub clear: MountAttrFlags,
    /// `None`: as it is.
    pub propagation: Option<MountPropagationFlags>,
    /// Applies to all mounts below as well.
    pub recursive: bool,
}

impl Change {
    /// No change.
    pub fn none() -> Self {
        Self {
            set: MountAttrFlags::empty(),
            clear: MountAttrFlags::empty(),
            propagation: None,
            recursive: false,
        }
    }

    /// Whether it changes nothing.
    pub fn is_none(&self) -> bool {
        self.set.is_empty() && self.clear.is_empty() && self.propagation.is_none()
    }
}

/// `MOUNT_ATTR_IDMAP` of linux/mount.h.
const IDMAP: u64 = 0x0010_0000;

/// Changes the mount whose root `mount` refers to.
pub(crate) fn mount_setattr(mount: impl AsFd, change: &Change) -> io::Result<()> {
    let attributes = MountAttr {
        attr_set: change.set.bits().into(),
        attr_clr: change.clear.bits().into(),
        propagation: change.propagation.map_or(0, |p| p.bits().into()),
        userns_fd: 0,
    };
    set(mount, &attributes, change.recursive)
}

/// Shows the files of the mount whose root `mount` refers to, and with `recursive` of those below, with the ids that the
/// user namespace `namespace` has for theirs. The mount must not be attached anywhere yet.
pub(crate) fn mount_idmap(mount: impl AsFd, namespace: impl AsFd, recursive: bool) -> io::Result<()> {
    let attributes = MountAttr {
        attr_set: IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(namespace.as_fd().as_raw_fd()).map_err(io::Error::other)?,
    };
    set(mount, &attributes, recursive)
}

fn set(mount: impl AsFd, attributes: &MountAttr, recursive: bool) -> io::Result<()> {
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    let empty: &CStr = c"";
    // SAFETY: the kernel reads a string and a struct that both live across the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            empty.as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            ptr::from_ref(attributes),
            size_of::<MountAttr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
