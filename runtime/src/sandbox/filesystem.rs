//! Mounts that are attached nowhere yet: new file systems (fsopen(2)) and copies of existing mounts (open_tree(2)).
//! Attached, they belong to the sandbox's mount namespace alone and vanish with it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags as Attr, MountPropagationFlags, MoveMountFlags,
        OpenTreeFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
        open_tree,
    },
};

use super::options::{Options, Propagate};
use crate::{
    Error, Result,
    error::Context,
    sys::mount::{Change, mount_setattr},
};

/// A file system being configured.
#[derive(Debug)]
pub(crate) struct NewFilesystem {
    context: OwnedFd,
    kind: String,
}

impl NewFilesystem {
    /// Begins one of type `kind`.
    pub fn open(kind: &str) -> Result<Self> {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
            .context(|| format!("cannot mount a file system of type {kind:?}"))?;
        Ok(Self {
            context,
            kind: kind.to_owned(),
        })
    }

    /// The descriptor of its configuration.
    pub fn context(&self) -> BorrowedFd<'_> {
        self.context.as_fd()
    }

    /// Sets a parameter, with a value or without.
    pub fn set(&self, key: &str, value: Option<&str>) -> Result<()> {
        self.try_set(key, value)
            .map_err(|e| self.failure(&format!("option {key}"), e))
    }

    /// The same, with the kernel's own error.
    pub fn try_set(&self, key: &str, value: Option<&str>) -> io::Result<()> {
        match value {
            Some(value) => fsconfig_set_string(&self.context, key, value)?,
            None => fsconfig_set_flag(&self.context, key)?,
        }
        Ok(())
    }

    /// Makes it and a mount of it.
    pub fn mount(&self, attributes: Attr) -> Result<OwnedFd> {
        fsconfig_create(&self.context).map_err(|e| self.failure("creation", e.into()))?;
        fsmount(&self.context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|e| self.failure("mount", e.into()))
    }

    /// An error with what the kernel's log of this context adds.
    fn failure(&self, step: &str, error: io::Error) -> Error {
        let mut log = String::new();
        let mut line = [0; 512];
        // Each read gives one message; without any it fails with ENODATA.
        while let Ok(length @ 1..) = rustix::io::read(&self.context, &mut line) {
            log.push_str("; kernel: ");
            log.push_str(String::from_utf8_lossy(&line[..length]).trim());
        }
        Error::internal(format!("cannot mount a {} file system ({step}{log})", self.kind)).caused_by(error)
    }
}

/// A mount of a new file system of type `kind`.
pub(super) fn new_mount(kind: &str, source: Option<&Path>, options: &Options) -> Result<OwnedFd> {
    let filesystem = NewFilesystem::open(kind)?;
    if let Some(source) = source.and_then(Path::to_str).filter(|s| !s.is_empty()) {
        filesystem.set("source", Some(source))?;
    }
    for (key, value) in &options.data {
        filesystem.set(key, value.as_deref())?;
    }
    filesystem.mount(options.set | options.recursive_set)
}

/// A copy of the mount at `source`, by its path on the host, with its attributes and propagation.
pub(crate) fn clone_tree(source: &Path, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    match open_tree(CWD, source, flags) {
        Err(rustix::io::Errno::NOENT) => {
            let name = source.display();
            Err(Error::internal(format!(
                "bind source path does not exist: {name}"
            )))
        }
        other => other.context(|| format!("cannot bind {}", source.display())),
    }
}

/// A copy of the mount of what is at `path` below the directory `source`; links are followed as long as they stay there.
fn clone_subpath(source: &Path, path: &Path, recursive: bool) -> Result<OwnedFd> {
    let failed = || format!("cannot access path {}", source.join(path).display());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let base = rustix::fs::openat(CWD, source, flags | OFlags::DIRECTORY, Mode::empty()).context(failed)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let found = loop {
        match rustix::fs::openat2(&base, path, flags, Mode::empty(), resolve) {
            // A rename elsewhere made it uncertain whether the path stayed inside.
            Err(rustix::io::Errno::AGAIN) => {}
            Err(rustix::io::Errno::XDEV) => {
                return Err(Error::internal(format!(
                    "{}: the path leads out of the volume",
                    failed()
                )));
            }
            found => break found.context(failed)?,
        }
    };
    if recursive {
        copy_tree(&found)
    } else {
        copy(&found, "")
    }
    .context(failed)
}

/// The same with the attributes and the propagation of `options`; private, unless they say otherwise.
pub(super) fn bind(source: &Path, options: &Options) -> Result<OwnedFd> {
    let message = || format!("cannot set the mount options of {}", source.display());
    let all = options.bind == Some(true);
    let tree = match &options.subpath {
        None => clone_tree(source, all)?,
        Some(path) => clone_subpath(source, path, all)?,
    };
    let propagation = options.propagation.unwrap_or(Propagate {
        flags: MountPropagationFlags::PRIVATE,
        recursive: true,
    });
    let mut own = change(options.set, options.clear);
    let mut below = change(options.recursive_set, options.recursive_clear);
    below.recursive = true;
    if propagation.recursive {
        &mut below
    } else {
        &mut own
    }
    .propagation = Some(propagation.flags);
    // A single mount needs a single change.
    let mode = rustix::fs::fstat(&tree).context(message)?.st_mode;
    if !all || !FileType::from_raw_mode(mode).is_dir() {
        own = change(
            options.set | options.recursive_set,
            options.clear | options.recursive_clear,
        );
        own.propagation = Some(propagation.flags);
        below = Change::none();
    }
    for change in [below, own] {
        if !change.is_none() {
            mount_setattr(&tree, &change).context(message)?;
        }
    }
    Ok(tree)
}

fn change(set: Attr, clear: Attr) -> Change {
    // To the kernel the access-time mode is one value: to set it, all its bits are cleared first.
    let changes_atime = (set | clear).intersects(Attr::MOUNT_ATTR__ATIME);
    Change {
        set,
        clear: if changes_atime {
            clear | Attr::MOUNT_ATTR__ATIME
        } else {
            clear
        },
        ..Change::none()
    }
}

/// A further mount of what `mount`, which is attached in the caller's namespace, shows at `path` below it (`""`: the
/// same). No component of `path` may be a link.
pub(crate) fn copy(mount: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    Ok(open_tree(mount, path, flags)?)
}

/// The same with everything mounted below.
pub(crate) fn copy_tree(mount: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(mount, "", flags)?)
}

/// Attaches `mount` on top of exactly what `target` refers to.
pub(crate) fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}
