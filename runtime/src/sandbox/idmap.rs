//! Mounts whose files show with the ids of a user namespace, while on disk they keep those they have: mount_setattr(2),
//! `MOUNT_ATTR_IDMAP`.
//!
//! An overlay cannot be mapped itself, but its layers can (Linux 5.19): so all containers share the layers of an image,
//! whatever their ids are, and a container's own layer has the ids that its image has.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
};

use oci_spec::runtime::Mount;
use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::{
        MountAttrFlags as Attr, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, fsconfig_set_fd,
        mount_change, move_mount, open_tree,
    },
};

use super::{filesystem, filesystem::NewFilesystem, options::Options, root, rootfs};
use crate::{
    Error, Result,
    error::Context,
    ids::{IdMap, Maker},
    sys::mount::mount_idmap,
    userns::UserNamespace,
};

/// Magic number of tmpfs (statfs(2)).
const MEMORY: u64 = 0x0102_1994;

/// A user namespace and its ids.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ids<'a> {
    pub namespace: BorrowedFd<'a>,
    pub map: &'a IdMap,
}

impl<'a> From<&'a UserNamespace> for Ids<'a> {
    fn from(namespace: &'a UserNamespace) -> Self {
        Self {
            namespace: namespace.as_fd(),
            map: namespace.map(),
        }
    }
}

/// Maps the ids of `tree`, a copy of the mount at `source`, and with `recursive` of the mounts in it.
pub(crate) fn map_tree(tree: &OwnedFd, source: &Path, namespace: impl AsFd, recursive: bool) -> Result<()> {
    mount_idmap(tree, namespace, recursive).map_err(|e| {
        let place = source.display();
        let hint = match e.raw_os_error() {
            Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS) => {
                " (neither every kernel nor every file system can do that)"
            }
            _ => "",
        };
        Error::internal(format!("cannot map the ids of {place}{hint}")).caused_by(e)
    })
}

/// The same, but a mount that the kernel cannot map stays as it is.
pub(crate) fn map_if_possible(tree: &OwnedFd, source: &Path, namespace: impl AsFd) -> Result<()> {
    match mount_idmap(tree, namespace, false) {
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS)
            ) =>
        {
            Ok(())
        }
        other => other.context(|| format!("cannot map the ids of {}", source.display())),
    }
}

/// The overlay that `mount` describes, on layers whose ids are mapped; attached nowhere.
pub(crate) fn overlay(mount: &Mount, ids: Ids<'_>) -> Result<OwnedFd> {
    // What it makes in its layers has to belong to somebody who is in the map.
    let _maker = Maker::root_of(ids.map)?;
    let options = Options::of(mount)?;
    let mut layers = Layers::new(ids.namespace);
    match by_descriptors(&options, &mut layers)? {
        Some(made) => Ok(made),
        None => by_paths(mount, &options, layers),
    }
}

/// Copies of the mounts that layers are in, mapped: one for all the layers of a directory.
struct Layers<'a> {
    namespace: BorrowedFd<'a>,
    parents: Vec<(PathBuf, OwnedFd)>,
}

impl<'a> Layers<'a> {
    fn new(namespace: BorrowedFd<'a>) -> Self {
        Self {
            namespace,
            parents: Vec::new(),
        }
    }

    /// The mapped copy of the directory that `layer` is in, and the layer's name there.
    fn parent<'p>(&mut self, layer: &'p Path) -> Result<(&OwnedFd, &'p Path)> {
        let (Some(parent), Some(name)) = (layer.parent(), layer.file_name()) else {
            return Err(Error::invalid(format!("{} cannot be a layer", layer.display())));
        };
        let at = match self.parents.iter().position(|(path, _)| path == parent) {
            Some(at) => at,
            None => {
                let tree = filesystem::clone_tree(parent, false)?;
                match root::is_on(&tree, MEMORY).context(|| "cannot examine a layer")? {
                    // Kernels before 6.3 cannot; then it is a layer that the engine has just made, and not long-lived.
                    true => map_if_possible(&tree, parent, self.namespace)?,
                    false => map_tree(&tree, parent, self.namespace, false)?,
                }
                self.parents.push((parent.to_owned(), tree));
                self.parents.len() - 1
            }
        };
        let found = self.parents.get(at).map(|(_, tree)| tree);
        let tree = found.ok_or_else(|| Error::internal("a layer was lost"))?;
        Ok((tree, Path::new(name)))
    }

    fn open(&mut self, layer: &Path) -> Result<OwnedFd> {
        let (parent, name) = self.parent(layer)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(parent, name, flags, Mode::empty())
            .context(|| format!("cannot open layer {}", layer.display()))
    }
}

/// Gives the layers to the kernel as descriptors; none if it (before 6.13) takes only paths.
fn by_descriptors(options: &Options, layers: &mut Layers<'_>) -> Result<Option<OwnedFd>> {
    let filesystem = NewFilesystem::open("overlay")?;
    filesystem.set("source", Some("overlay"))?;
    for (key, value) in &options.data {
        let (key, paths) = match (key.as_str(), value.as_deref()) {
            ("lowerdir", Some(list)) => ("lowerdir+", rootfs::split_layers(list)),
            (key @ ("upperdir" | "workdir"), Some(path)) => (key, vec![path.to_owned()]),
            (key, value) => {
                filesystem.set(key, value)?;
                continue;
            }
        };
        for path in paths {
            let layer = layers.open(Path::new(&path))?;
            if fsconfig_set_fd(filesystem.context(), key, &layer).is_err() {
                return Ok(None);
            }
        }
    }
    // Before 6.15, layers have to be attached somewhere; a mistake shows again where they are.
    Ok(filesystem.mount(options.set - Attr::MOUNT_ATTR_RDONLY).ok())
}

/// Attaches the mapped copies over what they are copies of, where only one thread sees it, and mounts the overlay there.
fn by_paths(mount: &Mount, options: &Options, mut layers: Layers<'_>) -> Result<OwnedFd> {
    for (key, value) in &options.data {
        let value = value.as_deref().unwrap_or_default();
        match key.as_str() {
            "lowerdir" => {
                for layer in rootfs::split_layers(value) {
                    layers.parent(Path::new(&layer))?;
                }
            }
            "upperdir" | "workdir" => drop(layers.parent(Path::new(value))?),
            _ => {}
        }
    }
    // A directory that is in another one comes after it, or it would be covered.
    layers.parents.sort_by_key(|(path, _)| path.components().count());
    let mounting = || -> Result<OwnedFd> {
        let failed = || "cannot mount the root";
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).context(failed)?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).context(failed)?;
        for (path, tree) in &layers.parents {
            move_mount(tree, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                .context(|| format!("cannot attach {}", path.display()))?;
        }
        if rootfs::knows_layers() {
            return rootfs::overlay_root(mount);
        }
        let old = rootfs::old_overlay(mount)?.mount()?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(&old, "", flags | OpenTreeFlags::AT_EMPTY_PATH).context(failed)
    };
    thread::scope(|scope| scope.spawn(mounting).join())
        .map_err(|_| Error::internal("the thread that mounts a root has ended"))?
}

/// Whether the kernel and the file system of `directory`, which may be written to, can map the ids of layers: tried.
///
/// # Errors
/// Internal, with what the kernel says.
pub fn probe(directory: &Path, map: &IdMap) -> Result<()> {
    let failed = || format!("cannot try out {}", directory.display());
    let place = tempfile::Builder::new()
        .prefix("idmap-")
        .tempdir_in(directory)
        .context(failed)?;
    let path = |name: &str| -> Result<String> {
        let path = place.path().join(name);
        std::fs::create_dir(&path).context(failed)?;
        Ok(path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:"))
    };
    let options = [
        format!("lowerdir={}", path("lower")?),
        format!("upperdir={}", path("upper")?),
        format!("workdir={}", path("work")?),
    ];
    let mount = super::defaults::mount("/", "overlay", "overlay", &options.each_ref().map(String::as_str));
    let namespace = UserNamespace::create(map)?;
    let root = overlay(&mount, (&namespace).into())?;
    let shown = rustix::fs::fstat(&root).context(failed)?;
    if (shown.st_uid, shown.st_gid) != map.root() {
        return Err(Error::internal("the file system does not map ids"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use super::*;
    use crate::ids::Range;

    /// What is made through an overlay, and what is there already, has the ids of the map outside and its own on disk.
    fn shows_mapped(made: impl Fn(&Mount, Ids<'_>) -> Result<OwnedFd>) {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["a/low", "b/low", "upper", "work"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        fs::write(path("a/low/one"), "1").unwrap();
        std::os::unix::fs::chown(path("a/low/one"), Some(5), Some(6)).unwrap();
        fs::write(path("b/low/two"), "2").unwrap();
        let options = [
            format!("lowerdir={}:{}", path("a/low").display(), path("b/low").display()),
            format!("upperdir={}", path("upper").display()),
            format!("workdir={}", path("work").display()),
        ];
        let options = options.each_ref().map(String::as_str);
        let mount = super::super::defaults::mount("/", "overlay", "overlay", &options);
        let part = |outer| {
            vec![Range {
                inner: 0,
                outer,
                size: 65_536,
            }]
        };
        let map = IdMap {
            uids: part(100_000),
            gids: part(200_000),
        };
        let namespace = UserNamespace::create(&map).unwrap();
        let root = made(&mount, (&namespace).into()).unwrap();
        let root = Path::new("/proc/self/fd").join(std::os::fd::AsRawFd::as_raw_fd(&root).to_string());
        let owner = |path: &Path| {
            let data = fs::metadata(path).unwrap();
            (data.uid(), data.gid())
        };
        assert_eq!(owner(&root.join("one")), (100_005, 200_006));
        assert_eq!(owner(&root.join("two")), (100_000, 200_000));
        let maker = Maker::root_of(&map).unwrap();
        fs::write(root.join("one"), "changed").unwrap();
        fs::write(root.join("new"), "").unwrap();
        drop(maker);
        assert_eq!(owner(&root.join("new")), (100_000, 200_000));
        assert_eq!(owner(&path("upper/new")), (0, 0));
        assert_eq!(owner(&path("upper/one")), (5, 6));
        assert_eq!(fs::read_to_string(path("a/low/one")).unwrap(), "1");
        // Whoever is not in the map cannot make anything.
        let error = fs::write(root.join("strange"), "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EOVERFLOW));
    }

    #[test]
    fn layers_by_descriptor() {
        shows_mapped(overlay);
    }

    #[test]
    fn layers_by_path_for_older_kernels() {
        shows_mapped(|mount, ids| {
            let _maker = Maker::root_of(ids.map)?;
            by_paths(mount, &Options::of(mount)?, Layers::new(ids.namespace))
        });
    }

    #[test]
    fn a_directory_is_tried_out() {
        let dir = tempfile::tempdir().unwrap();
        let part = vec![Range {
            inner: 0,
            outer: 100_000,
            size: 65_536,
        }];
        let map = IdMap {
            uids: part.clone(),
            gids: part,
        };
        probe(dir.path(), &map).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
