//! The files of an image or a stage as a container would see them, mounted nowhere.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_string,
        fsmount, fsopen, move_mount,
    },
};

use crate::{
    Error, Result,
    error::Context,
    sandbox::{defaults::mount as mount_of, idmap},
    userns::UserNamespace,
};

/// A stack of layers. It goes when the last descriptor of something in it does.
#[derive(Debug)]
pub struct Merged {
    root: OwnedFd,
}

impl Merged {
    /// Stacks `lowers`, topmost first, and on top of them the layer `upper` (directory and work directory) that takes what
    /// is written; without it, nothing can be. `aside` is an empty directory that old kernels need for a moment.
    ///
    /// # Errors
    /// If overlayfs refuses.
    pub fn new(lowers: &[PathBuf], upper: Option<(&Path, &Path)>, aside: &Path) -> Result<Self> {
        if let ([only], None) = (lowers, upper) {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::open(only, flags, Mode::empty()).context(|| "cannot open a layer")?;
            return Ok(Self { root });
        }
        let root = Self::one_by_one(lowers, upper).or_else(|_| Self::at_once(lowers, upper, aside))?;
        Ok(Self { root })
    }

    /// The same, with files that show with the ids of `user`.
    ///
    /// # Errors
    /// If overlayfs refuses, or the ids of the layers cannot be mapped.
    pub fn mapped(lowers: &[PathBuf], upper: Option<(&Path, &Path)>, user: &UserNamespace) -> Result<Self> {
        let escaped = |path: &Path| path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:");
        let layers: Vec<String> = lowers.iter().map(|lower| escaped(lower)).collect();
        let mut options = vec![format!("lowerdir={}", layers.join(":"))];
        if let Some((upper, work)) = upper {
            options.push(format!("upperdir={}", upper.display()));
            options.push(format!("workdir={}", work.display()));
        }
        options.extend(["redirect_dir=nofollow".to_owned(), "metacopy=off".to_owned()]);
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let root = idmap::overlay(&mount_of("/", "overlay", "overlay", &options), user.into())?;
        Ok(Self { root })
    }

    /// Layers given one by one: since Linux 6.7.
    fn one_by_one(lowers: &[PathBuf], upper: Option<(&Path, &Path)>) -> rustix::io::Result<OwnedFd> {
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for lower in lowers {
            fsconfig_set_string(fs.as_fd(), "lowerdir+", lower)?;
        }
        if let Some((upper, work)) = upper {
            fsconfig_set_string(fs.as_fd(), "upperdir", upper)?;
            fsconfig_set_string(fs.as_fd(), "workdir", work)?;
        }
        // What a rename or a change of mode leaves in the layer is the whole, not a hint.
        for (key, value) in [("redirect_dir", "nofollow"), ("metacopy", "off")] {
            fsconfig_set_string(fs.as_fd(), key, value)?;
        }
        fsconfig_create(fs.as_fd())?;
        fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    }

    fn at_once(lowers: &[PathBuf], upper: Option<(&Path, &Path)>, aside: &Path) -> Result<OwnedFd> {
        let escaped = |path: &Path| path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:");
        let layers: Vec<String> = lowers.iter().map(|lower| escaped(lower)).collect();
        let mut options = format!("lowerdir={}", layers.join(":"));
        if let Some((upper, work)) = upper {
            options.push_str(&format!(
                ",upperdir={},workdir={}",
                upper.display(),
                work.display()
            ));
        }
        mount(
            Some("overlay"),
            aside,
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .context(|| "cannot stack the layers of a stage")?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(aside, flags, Mode::empty());
        umount2(aside, MntFlags::MNT_DETACH).context(|| "cannot take a mount away again")?;
        root.context(|| "cannot open the layers of a stage")
    }

    /// Its root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Mounts it at the directory `place`, which whoever asks for it has to unmount.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn attach(&self, place: &Path) -> Result<()> {
        move_mount(
            &self.root,
            "",
            CWD,
            place,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .map_err(|errno| Error::internal(format!("cannot mount at {}", place.display())).caused_by(errno))
    }
}
