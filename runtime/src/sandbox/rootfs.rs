//! The root mount of a sandbox: made detached, attached in the new mount namespace only, and entered.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use oci_spec::runtime::{Mount, Spec};
use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::{
        MountAttrFlags as Attr, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
        UnmountFlags, mount_change, move_mount, open_tree, unmount,
    },
};

use super::{
    ANNOTATION_MAPPED_ROOT,
    filesystem::NewFilesystem,
    idmap::{self, Ids},
    options::Options,
    root::Root,
};
use crate::{
    Error, Result,
    error::Context,
    ids::IdMap,
    sys::mount::{Change, mount_setattr},
    userns::UserNamespace,
};

/// An overlay for kernels before 6.7, whose fsconfig(2) cannot take it: it is mounted the old way on its own upper (or
/// lowest) directory, in the sandbox's mount namespace.
#[derive(Debug)]
pub(crate) struct OldOverlay {
    target: PathBuf,
    data: String,
}

impl OldOverlay {
    /// What `spec` asks for, if this kernel needs it done this way.
    pub fn of(spec: &Spec) -> Result<Option<Self>> {
        // The layers of a mapped root need their own way in any case.
        if knows_layers() || is_mapped(spec) {
            return Ok(None);
        }
        overlay_of(spec).map(old_overlay).transpose()
    }

    /// Mounts it, in the mount namespace of the caller. Gives a descriptor of its root (`O_PATH`).
    pub fn mount(&self) -> Result<OwnedFd> {
        old_overlay_mount(&self.target, &self.data)
    }
}

/// Makes the root of `spec`, attached nowhere: the overlay that its first mount describes if that has destination `/`,
/// else a copy of the directory `root.path`. With `ids`, its files show with these.
pub(crate) fn prepare(spec: &Spec, ids: Option<Ids<'_>>) -> Result<OwnedFd> {
    match (overlay_of(spec), ids) {
        (Some(overlay), None) => return overlay_root(overlay),
        (Some(overlay), Some(ids)) => return idmap::overlay(overlay, ids),
        (None, _) => {}
    }
    let root = spec
        .root()
        .as_ref()
        .ok_or_else(|| Error::invalid("the specification has no root"))?;
    let path = root.path();
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, path, flags).context(|| format!("cannot use {} as root", path.display()))?;
    let private = Change {
        propagation: Some(MountPropagationFlags::PRIVATE),
        recursive: true,
        ..Change::none()
    };
    mount_setattr(&tree, &private).context(|| format!("cannot make {} private", path.display()))?;
    if let Some(ids) = ids {
        idmap::map_tree(&tree, path, ids.namespace, false)?;
    }
    Ok(tree)
}

/// Whether the files of the root of `spec` are to show with the ids of its user namespace.
pub(super) fn is_mapped(spec: &Spec) -> bool {
    let annotations = spec.annotations().as_ref();
    annotations
        .and_then(|a| a.get(ANNOTATION_MAPPED_ROOT))
        .is_some_and(|v| v == "true")
}

/// Mounts the overlay that describes the root of `spec` at `target`, in a mount namespace that the caller gets for
/// itself: nothing of it shows on the host, and it goes with the caller. False if there is none to be mounted.
pub(super) fn mount_at(spec: &Spec, target: &Path) -> Result<bool> {
    let Some(overlay) = overlay_of(spec) else {
        return Ok(false);
    };
    let message = || format!("cannot mount the root at {}", target.display());
    std::fs::create_dir_all(target).context(message)?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).context(|| "cannot make a mount namespace")?;
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .context(|| "cannot keep mounts from the host")?;
    if is_mapped(spec) || knows_layers() {
        let map = is_mapped(spec).then(|| IdMap::of_spec(spec)).flatten();
        let namespace = map.as_ref().map(UserNamespace::create).transpose()?;
        let root = prepare(spec, namespace.as_ref().map(Ids::from))?;
        move_mount(&root, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).context(message)?;
    } else {
        old_overlay_mount(target, &old_overlay(overlay)?.data)?;
    }
    Ok(true)
}

/// The mount that describes the root, if one does.
pub(crate) fn overlay_of(spec: &Spec) -> Option<&Mount> {
    let first = spec.mounts().as_ref()?.first()?;
    let is_root = first.destination() == Path::new("/") && first.typ().as_deref() == Some("overlay");
    is_root.then_some(first)
}

pub(super) fn overlay_root(mount: &Mount) -> Result<OwnedFd> {
    let options = Options::of(mount)?;
    let filesystem = NewFilesystem::open("overlay")?;
    filesystem.set("source", Some("overlay"))?;
    for (key, value) in &options.data {
        match (key.as_str(), value.as_deref()) {
            ("lowerdir", Some(list)) => {
                for layer in split_layers(list) {
                    filesystem.set("lowerdir+", Some(&layer))?;
                }
            }
            (key, value) => filesystem.set(key, value)?,
        }
    }
    // Read-only comes last: mount points have to be made first.
    filesystem.mount(options.set - Attr::MOUNT_ATTR_RDONLY)
}

/// Whether overlayfs takes layers one by one: since Linux 6.7. Before, fsconfig(2) may accept the option, and the mount
/// fails later.
pub(super) fn knows_layers() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut parts = release
        .split(['.', '-'])
        .map(|p| p.parse::<u32>().unwrap_or_default());
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default()) >= (6, 7)
}

pub(super) fn old_overlay(mount: &Mount) -> Result<OldOverlay> {
    let options = Options::of(mount)?;
    let value = |key: &str| {
        let found = options.data.iter().find(|(k, _)| k == key);
        found.and_then(|(_, v)| v.as_deref())
    };
    let lowest = value("lowerdir").and_then(|list| split_layers(list).pop());
    let target = value("upperdir").map(String::from).or(lowest).unwrap_or_default();
    let option = |(key, value): &(String, Option<String>)| match value {
        Some(value) => format!("{key}={value}"),
        None => key.clone(),
    };
    Ok(OldOverlay {
        target: target.into(),
        data: options.data.iter().map(option).collect::<Vec<_>>().join(","),
    })
}

/// The layers of a `lowerdir` option: separated by colons, a backslash takes the next character's meaning.
pub(super) fn split_layers(list: &str) -> Vec<String> {
    let mut layers = vec![String::new()];
    let mut characters = list.chars();
    while let Some(c) = characters.next() {
        match (c, layers.last_mut()) {
            (':', _) => layers.push(String::new()),
            ('\\', Some(layer)) => layer.extend(characters.next()),
            (c, Some(layer)) => layer.push(c),
            (_, None) => {}
        }
    }
    layers.retain(|l| !l.is_empty());
    layers
}

/// Makes the root the root directory of the calling process, which has a mount namespace of its own, and lets go of
/// everything that was mounted in it before, unless it may not `pivot`. `detached` is what [`prepare`] made, unless it
/// is an old overlay.
pub(super) fn enter(detached: Option<OwnedFd>, old: Option<&OldOverlay>, pivot: bool) -> Result<Root> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context(|| "cannot make the mounts of the new namespace private")?;
    let root = match (detached, old) {
        (Some(mount), _) => {
            // On top of the old root: pivot_root(2) only needs it to be mounted somewhere below that.
            move_mount(&mount, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                .context(|| "cannot attach the root")?;
            mount
        }
        (None, Some(old)) => old.mount()?,
        (None, None) => return Err(Error::internal("there is no root")),
    };
    let root = reopen(&root).context(|| "cannot open the root")?;
    rustix::process::fchdir(&root).context(|| "cannot enter the root")?;
    if !pivot {
        rustix::process::chroot(".").context(|| "cannot make it the root (chroot)")?;
        rustix::process::chdir("/").context(|| "cannot enter the new root")?;
        return Ok(root.into());
    }
    // pivot_root(2): the old root ends up on top of the new one and is then taken away.
    rustix::process::pivot_root(".", ".").context(|| "cannot make it the root (pivot_root)")?;
    unmount(".", UnmountFlags::DETACH).context(|| "cannot let go of the old root")?;
    rustix::process::chdir("/").context(|| "cannot enter the new root")?;
    Ok(root.into())
}

/// A descriptor that paths can be resolved from (fsmount's is one already, with O_PATH; open_tree's as well).
fn reopen(mount: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(mount, ".", flags, Mode::empty())?)
}

fn old_overlay_mount(target: &Path, data: &str) -> Result<OwnedFd> {
    let message = || format!("cannot mount the root on {}", target.display());
    let data = std::ffi::CString::new(data).context(message)?;
    rustix::mount::mount("overlay", target, "overlay", MountFlags::empty(), &*data).context(message)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(target, flags, Mode::empty()).context(message)
}

/// The last changes to the root mount itself, after which nothing can be made in it any more.
pub(crate) fn seal(root: &Root, spec: &Spec) -> Result<()> {
    let readonly = spec.root().as_ref().and_then(|r| r.readonly()).unwrap_or(false);
    let overlay = overlay_of(spec).map(Options::of).transpose()?;
    let propagation = spec
        .linux()
        .as_ref()
        .and_then(|l| l.rootfs_propagation().as_deref());
    let propagation = propagation
        .filter(|p| !p.is_empty())
        .map(super::options::root_propagation)
        .transpose()?;
    let mut change = Change::none();
    if readonly || overlay.is_some_and(|o| o.set.contains(Attr::MOUNT_ATTR_RDONLY)) {
        change.set |= Attr::MOUNT_ATTR_RDONLY;
    }
    change.propagation = propagation.map(|p| p.flags);
    if change == Change::none() {
        return Ok(());
    }
    mount_setattr(root.as_fd(), &change).context(|| "cannot set the options of the root")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_an_overlay() {
        assert_eq!(split_layers("/a:/b:/c"), ["/a", "/b", "/c"]);
        assert_eq!(split_layers("/a\\:1:/b\\\\c"), ["/a:1", "/b\\c"]);
        assert_eq!(split_layers(""), Vec::<String>::new());
    }
}
