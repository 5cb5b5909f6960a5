//! The root of a container that does not run, put together in a mount namespace that only one thread of the engine has
//! and that vanishes with it.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use nix::sched::{CloneFlags, unshare};
use oci_spec::runtime::{Mount, MountBuilder, Spec};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    mount::{
        MountAttrFlags as Attr, MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change,
        move_mount, unmount,
    },
};

use super::Root;
use crate::{
    Error, Result,
    error::Context,
    ids::Maker,
    sandbox::{
        filesystem::{NewFilesystem, clone_tree},
        idmap,
        root::{Make, Root as Target},
        rootfs,
    },
    sys::mount::{Change, mount_setattr},
    userns::UserNamespace,
};

/// What the root of a container that does not run is made of.
#[derive(Clone, Debug, Default)]
pub struct Assembly {
    /// The layers of its image, the topmost first.
    pub lowers: Vec<PathBuf>,
    /// Its own layer.
    pub upper: PathBuf,
    /// The work directory that belongs to it.
    pub work: PathBuf,
    /// Whether changes are to stay. If not, nothing is ever written to the container's layer.
    pub writable: bool,
    /// What is mounted in it, in order.
    pub mounts: Vec<Bound>,
    /// Whether its root is read-only but for these mounts.
    pub read_only: bool,
    /// The user namespace by whose ids its layers show, as they do while it runs.
    pub user: Option<Arc<UserNamespace>>,
}

/// A directory or file of the host that is mounted in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Where it is on the host. One that does not exist is left out.
    pub source: PathBuf,
    /// Where it is in the container.
    pub destination: PathBuf,
    /// Whether it is read-only.
    pub read_only: bool,
    /// Whether the mounts below it come along.
    pub recursive: bool,
}

impl Assembly {
    /// Puts the root together, does `work` with it, and takes it apart.
    ///
    /// # Errors
    /// Internal, if that fails; those of `work`.
    pub fn with<T: Send>(&self, work: impl FnOnce(&Root) -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .name("container-root".to_owned())
                .spawn_scoped(scope, || self.in_namespace(work))
                .context(|| "cannot start a thread")?;
            thread
                .join()
                .unwrap_or_else(|_| Err(Error::internal("work on a container's files was broken off")))
        })
    }

    fn in_namespace<T>(&self, work: impl FnOnce(&Root) -> Result<T>) -> Result<T> {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
            .context(|| "cannot make a mount namespace")?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .context(|| "cannot make the mounts of a new namespace private")?;
        let target = self.mount_root()?;
        // Its layers take files only from ids that they can show.
        let user = self.user.as_ref();
        let _maker = user.map(|user| Maker::root_of(user.map())).transpose()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&target, flags, Mode::empty())
            .context(|| format!("cannot open {}", target.display()))?;
        let inside = Target::from(root.try_clone().context(|| "cannot copy a descriptor")?);
        for bound in &self.mounts {
            bound.attach(&inside)?;
        }
        if self.read_only {
            mount_setattr(
                &root,
                &Change {
                    set: Attr::MOUNT_ATTR_RDONLY,
                    ..Change::none()
                },
            )
            .context(|| "cannot make a root read-only")?;
        }
        drop(inside);
        let root = Root(root);
        let result = work(&root);
        drop(root);
        // It would go with the thread as well, but perhaps a moment after somebody mounts it again.
        if let Err(error) = unmount(&target, UnmountFlags::DETACH) {
            tracing::debug!(%error, "a container's root goes with its namespace");
        }
        result
    }

    /// Mounts the overlay. Gives where, in this namespace.
    fn mount_root(&self) -> Result<PathBuf> {
        let (layers, upper, work, target) = match self.writable {
            true => (
                self.lowers.clone(),
                self.upper.clone(),
                self.work.clone(),
                self.upper.clone(),
            ),
            false => {
                let scratch = self.scratch()?;
                let mut layers = vec![self.upper.clone()];
                layers.extend_from_slice(&self.lowers);
                let [upper, work, target] = ["upper", "work", "root"].map(|name| scratch.join(name));
                (layers, upper, work, target)
            }
        };
        if layers.is_empty() {
            // A container without an image has its own layer only.
            let tree = clone_tree(&self.upper, false)?;
            if let Some(user) = &self.user {
                idmap::map_tree(&tree, &self.upper, &**user, false)?;
            }
            attach(&tree, &target)?;
            return Ok(target);
        }
        let spec = overlay(&layers, &upper, &work)?;
        if let Some(user) = &self.user {
            attach(&rootfs::prepare(&spec, Some((&**user).into()))?, &target)?;
            return Ok(target);
        }
        match rootfs::OldOverlay::of(&spec)? {
            Some(old) => return old.mount().map(|_| upper),
            None => attach(&rootfs::prepare(&spec, None)?, &target)?,
        }
        Ok(target)
    }

    /// A file system in memory for what must be made in a root that is only looked at: points to mount something on.
    fn scratch(&self) -> Result<PathBuf> {
        let memory = NewFilesystem::open("tmpfs")?;
        memory.set("mode", Some("0700"))?;
        // The work directory is out of use, and covered for this thread only.
        let place = self.work.clone();
        attach(&memory.mount(Attr::MOUNT_ATTR_NODEV)?, &place)?;
        for name in ["upper", "work", "root"] {
            let path = place.join(name);
            std::fs::create_dir(&path).context(|| format!("cannot make {}", path.display()))?;
        }
        let mode =
            rustix::fs::stat(&self.upper).context(|| format!("cannot read {}", self.upper.display()))?;
        let upper = place.join("upper");
        rustix::fs::chmod(&upper, Mode::from_raw_mode(mode.st_mode & 0o7777))
            .context(|| format!("cannot change {}", upper.display()))?;
        Ok(place)
    }
}

impl Bound {
    fn attach(&self, root: &Target) -> Result<()> {
        let message = || format!("cannot mount {} for a copy", self.destination.display());
        let Ok(stat) = rustix::fs::stat(&self.source) else {
            return Ok(());
        };
        let tree = clone_tree(&self.source, self.recursive)?;
        let private = Change {
            propagation: Some(MountPropagationFlags::PRIVATE),
            recursive: true,
            ..Change::none()
        };
        mount_setattr(&tree, &private).context(message)?;
        if self.read_only {
            mount_setattr(
                &tree,
                &Change {
                    set: Attr::MOUNT_ATTR_RDONLY,
                    ..Change::none()
                },
            )
            .context(message)?;
        }
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Make::Directory,
            _ => Make::File,
        };
        let target = root.make(&self.destination, kind).context(message)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&tree, "", &target, "", flags).context(message)
    }
}

fn attach(mount: &OwnedFd, target: &Path) -> Result<()> {
    move_mount(
        mount.as_fd(),
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .context(|| format!("cannot mount on {}", target.display()))
}

/// The specification of an overlay as a root.
fn overlay(layers: &[PathBuf], upper: &Path, work: &Path) -> Result<Spec> {
    let escaped = |path: &PathBuf| {
        let text = path.display().to_string();
        text.replace('\\', "\\\\").replace(':', "\\:")
    };
    let lowers: Vec<_> = layers.iter().map(escaped).collect();
    let options = vec![
        format!("lowerdir={}", lowers.join(":")),
        format!("upperdir={}", upper.display()),
        format!("workdir={}", work.display()),
        "redirect_dir=off".to_owned(),
        "metacopy=off".to_owned(),
    ];
    let mount: Mount = MountBuilder::default()
        .destination("/")
        .typ("overlay")
        .source("overlay")
        .options(options)
        .build()
        .context(|| "cannot describe an overlay")?;
    let mut spec = Spec::default();
    spec.set_mounts(Some(vec![mount]));
    Ok(spec)
}
