//! Parts of the kernel's file systems that a container cannot read, or cannot write.

use std::{io, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{FileType, OFlags, ResolveFlags},
    mount::MountAttrFlags as Attr,
};

use super::{
    filesystem::{self, NewFilesystem},
    mounts::{self, Attached},
    root::{self, Root},
};
use crate::{
    Result,
    error::Context,
    sys::mount::{Change, mount_setattr},
};

/// Hides `masked` and makes `readonly` unwritable, each as far as it exists.
pub(super) fn apply(masked: &[String], readonly: &[String], root: &Root, attached: &Attached) -> Result<()> {
    for path in distinct(readonly) {
        let Some(target) = find(path, root, attached)? else {
            continue;
        };
        let message = || format!("cannot make {path} read-only");
        let copy = filesystem::copy_tree(&target).context(message)?;
        let change = Change {
            set: Attr::MOUNT_ATTR_RDONLY,
            recursive: true,
            ..Change::none()
        };
        mount_setattr(&copy, &change).context(message)?;
        filesystem::attach(copy, target).context(message)?;
    }
    let mut masks = Masks::default();
    for path in distinct(masked) {
        let Some(target) = find(path, root, attached)? else {
            continue;
        };
        masks
            .cover(&target, root)
            .context(|| format!("cannot mask {path}"))?;
    }
    Ok(())
}

/// Each path once, however often it is listed.
fn distinct(paths: &[String]) -> impl Iterator<Item = &str> {
    let mut seen = std::collections::HashSet::new();
    paths
        .iter()
        .map(|p| p.trim_end_matches('/'))
        .filter(move |p| seen.insert(*p))
}

/// Opens `path`, in the very procfs or sysfs that was mounted for it if it is in one.
fn find(path: &str, root: &Root, attached: &Attached) -> Result<Option<OwnedFd>> {
    let mounted = |prefix: &str, mount: &Option<OwnedFd>| {
        let rest = path.strip_prefix(prefix)?;
        let mount = mount.as_ref()?;
        // The file system is the kernel's own: its links (`/proc/fs/nfs`, say) do not depend on the container.
        Some(root::open_in(
            mount,
            Path::new(rest),
            OFlags::PATH,
            ResolveFlags::empty(),
        ))
    };
    let found = mounted("/proc/", &attached.proc)
        .or_else(|| mounted("/sys/", &attached.sys))
        .unwrap_or_else(|| root.open(Path::new(path), OFlags::PATH));
    match found {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENOTDIR) => Ok(None),
        Err(e) => Err(e).context(|| format!("cannot find {path} in the container")),
    }
}

/// What covers things: one empty directory and one null device for all.
#[derive(Default)]
struct Masks {
    directory: Option<OwnedFd>,
    null: Option<OwnedFd>,
}

impl Masks {
    fn cover(&mut self, target: &OwnedFd, root: &Root) -> Result<()> {
        let message = || "cannot cover it";
        let data = rustix::fs::fstat(target).context(message)?;
        if !FileType::from_raw_mode(data.st_mode).is_dir() {
            let null = match &self.null {
                Some(null) => null,
                None => self.null.insert(mounts::null(root)?),
            };
            let copy = filesystem::copy(null, "").context(message)?;
            return filesystem::attach(copy, target).context(message);
        }
        match &self.directory {
            // Only what is attached can be copied (before Linux 6.15): the first one is attached itself.
            Some(first) => {
                let copy = filesystem::copy(first, "").context(message)?;
                filesystem::attach(copy, target).context(message)
            }
            None => {
                let empty = empty_directory()?;
                filesystem::attach(&empty, target).context(message)?;
                self.directory = Some(empty);
                Ok(())
            }
        }
    }
}

fn empty_directory() -> Result<OwnedFd> {
    let filesystem = NewFilesystem::open("tmpfs")?;
    filesystem.set("source", Some("tmpfs"))?;
    filesystem.set("nr_inodes", Some("1"))?;
    filesystem.set("mode", Some("755"))?;
    filesystem.mount(
        Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC,
    )
}
