//! Project quotas: quotactl_fd(2) and the ioctls FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR (linux/fs.h), which neither nix
//! nor rustix has.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// `_IOR('X', 31, struct fsxattr)` and `_IOW('X', 32, struct fsxattr)`.
const GET_ATTRIBUTES: u32 = 0x801c_581f;
const SET_ATTRIBUTES: u32 = 0x401c_5820;
/// `FS_XFLAG_PROJINHERIT`: what is made in a directory belongs to its project.
const INHERITED: u32 = 0x200;
/// `QCMD(Q_GETQUOTA, PRJQUOTA)` and `QCMD(Q_SETQUOTA, PRJQUOTA)`.
const GET_QUOTA: u32 = (0x80_0007 << 8) | 2;
const SET_QUOTA: u32 = (0x80_0008 << 8) | 2;
/// `QIF_BLIMITS`: only the limits of space are set.
const SPACE_LIMITS: u32 = 1;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

/// `struct if_dqblk`: what a project may use and uses. Limits count in KiB, the rest in bytes and files.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Quota {
    pub hard_limit: u64,
    pub soft_limit: u64,
    pub space: u64,
    pub hard_limit_of_files: u64,
    pub soft_limit_of_files: u64,
    pub files: u64,
    pub space_grace: u64,
    pub files_grace: u64,
    pub valid: u32,
}

fn attributes(file: impl AsFd) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the kernel writes a struct of this size, which lives across the call.
    let done = unsafe {
        libc::ioctl(
            file.as_fd().as_raw_fd(),
            GET_ATTRIBUTES as libc::Ioctl,
            &raw mut attributes,
        )
    };
    match done {
        0 => Ok(attributes),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The project that a directory belongs to; 0 if to none.
pub(crate) fn project(directory: impl AsFd) -> io::Result<u32> {
    attributes(directory).map(|attributes| attributes.project)
}

/// Puts a directory, and what will be made in it, into a project.
pub(crate) fn set_project(directory: impl AsFd, project: u32) -> io::Result<()> {
    let mut attributes = attributes(&directory)?;
    attributes.project = project;
    attributes.flags |= INHERITED;
    // SAFETY: the kernel reads a struct of this size, which lives across the call.
    let done = unsafe {
        libc::ioctl(
            directory.as_fd().as_raw_fd(),
            SET_ATTRIBUTES as libc::Ioctl,
            &raw const attributes,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn quotactl(file: impl AsFd, command: u32, project: u32, quota: &mut Quota) -> io::Result<()> {
    // SAFETY: the kernel reads or writes a struct of this size, which lives across the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            file.as_fd().as_raw_fd(),
            command,
            project,
            std::ptr::from_mut(quota),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a project may use and uses on the file system of `file`.
pub(crate) fn quota(file: impl AsFd, project: u32) -> io::Result<Quota> {
    let mut quota = Quota::default();
    quotactl(file, GET_QUOTA, project, &mut quota)?;
    Ok(quota)
}

/// Limits the space of a project to so many KiB; 0 for no limit.
pub(crate) fn limit(file: impl AsFd, project: u32, kib: u64) -> io::Result<()> {
    let mut quota = Quota {
        hard_limit: kib,
        soft_limit: kib,
        valid: SPACE_LIMITS,
        ..Quota::default()
    };
    quotactl(file, SET_QUOTA, project, &mut quota)
}
