//! The files of an image, seen without a container: through a descriptor, mounted nowhere.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    mount::{
        MountAttrFlags as Attr, MountFlags, MountPropagationFlags, OpenTreeFlags, mount, mount_change,
        open_tree,
    },
};

use super::{filesystem::NewFilesystem, root::Root, rootfs::knows_layers};
use crate::{Error, Result, error::Context};

/// What an image has at a path.
#[derive(Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// Something that is no directory.
    File,
    /// A directory, opened for reading.
    Directory(OwnedFd),
}

/// The merged files of layers. It goes away with its descriptor.
#[derive(Debug)]
pub struct ImageView(Root);

impl ImageView {
    /// The view of the layers `lowers`, the topmost first; none if there are none. `spare` is an empty directory, used in
    /// a mount namespace of its own where the kernel (before 6.7) cannot do without a mount point.
    ///
    /// # Errors
    /// Internal, if the layers cannot be opened or mounted.
    pub fn open(lowers: &[PathBuf], spare: &Path) -> Result<Option<Self>> {
        let root = match lowers {
            [] => return Ok(None),
            [only] => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                rustix::fs::openat(CWD, only, flags, Mode::empty())
                    .context(|| format!("cannot open layer {}", only.display()))?
            }
            layers if knows_layers() => {
                let filesystem = NewFilesystem::open("overlay")?;
                for layer in layers {
                    filesystem.set("lowerdir+", layer.to_str())?;
                }
                filesystem.mount(Attr::MOUNT_ATTR_RDONLY)?
            }
            layers => old_overlay(layers, spare)?,
        };
        Ok(Some(Self(root.into())))
    }

    /// What is at `path`; symbolic links are followed inside the image.
    ///
    /// # Errors
    /// As openat2(2), except that a path that leads nowhere is no error.
    pub fn look(&self, path: &Path) -> io::Result<Found> {
        let found = match self.0.open(path, OFlags::PATH) {
            Ok(found) => found,
            Err(error) => {
                return match error.raw_os_error() {
                    Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => Ok(Found::Nothing),
                    _ => Err(error),
                };
            }
        };
        if !FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode).is_dir() {
            return Ok(Found::File);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Found::Directory(rustix::fs::openat(
            found,
            ".",
            flags,
            Mode::empty(),
        )?))
    }
}

/// Mounts the old way, in a mount namespace that ends with the thread; the descriptor keeps the mount.
fn old_overlay(layers: &[PathBuf], spare: &Path) -> Result<OwnedFd> {
    let layers: Vec<String> = layers
        .iter()
        .map(|layer| layer.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:"))
        .collect();
    let data = format!("lowerdir={}", layers.join(":"));
    let mounting = || -> Result<OwnedFd> {
        let failed = || "cannot look into the image's layers";
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).context(failed)?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).context(failed)?;
        let data = std::ffi::CString::new(data).context(failed)?;
        mount("overlay", spare, "overlay", MountFlags::RDONLY, &*data).context(failed)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(CWD, spare, flags).context(failed)
    };
    std::thread::scope(|scope| scope.spawn(mounting).join())
        .map_err(|_| Error::internal("the thread that looks into an image has ended"))?
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn layers_are_one_and_links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let (top, bottom) = (dir.path().join("top"), dir.path().join("bottom"));
        fs::create_dir_all(bottom.join("data")).unwrap();
        fs::create_dir_all(top.join("data")).unwrap();
        fs::write(bottom.join("data/low"), "").unwrap();
        fs::write(top.join("data/high"), "").unwrap();
        std::os::unix::fs::symlink("/data", top.join("link")).unwrap();
        std::os::unix::fs::symlink("../../../../etc", top.join("out")).unwrap();
        let spare = dir.path().join("spare");
        fs::create_dir(&spare).unwrap();
        let layers = [top, bottom];
        let views = [
            ImageView::open(&layers, &spare).unwrap().unwrap(),
            ImageView(old_overlay(&layers, &spare).unwrap().into()),
        ];
        for view in views {
            let Found::Directory(found) = view.look(Path::new("/link")).unwrap() else {
                panic!("no directory")
            };
            let mut names = crate::image::tree::list(std::os::fd::AsFd::as_fd(&found)).unwrap();
            names.sort();
            assert_eq!(names, [b"high".to_vec(), b"low".to_vec()]);
            assert!(matches!(view.look(Path::new("/data/low")).unwrap(), Found::File));
            assert!(matches!(view.look(Path::new("/out")).unwrap(), Found::Nothing));
        }
        assert!(!crate::volume::is_mount_point(&spare).unwrap());
    }
}
