//! Files into containers and out of them.

use std::{
    io::{Read, Write},
    os::fd::AsFd,
    sync::Arc,
    thread,
};

use rustix::fs::{self, FileType, OFlags, StatVfsMountFlags};

use super::{
    Root,
    path::{self, ContainerPath, PathStat},
};
use crate::{
    Error, Result,
    ids::{IdMap, Maker},
    image::{Limits, PackOptions, UnpackOptions, Whiteouts, compress, pack, pack_one, unpack},
    sandbox::{root::Root as Inside, user::Accounts},
};

/// How an archive is put into a container.
#[derive(Clone, Debug, Default)]
pub struct Extraction<'a> {
    /// Give everything to this user of the container, in the form of `Config.User`.
    pub owner: Option<&'a str>,
    /// Refuse to replace a directory by something else or something else by a directory.
    pub keep_kinds: bool,
    /// The ids of the container, if it has a user namespace.
    pub ids: Option<Arc<IdMap>>,
}

impl Root {
    /// Writes an archive of what `path` leads to; the names in it begin with the last component of `path`. `told` is
    /// called before anything is written. With `ids`, the archive has the inner ones.
    ///
    /// # Errors
    /// As [`Root::stat`], before `told` is called; then if a file cannot be read or `out` fails.
    pub fn pack(
        &self,
        path: &ContainerPath,
        ids: Option<Arc<IdMap>>,
        told: impl FnOnce(PathStat),
        out: impl Write,
    ) -> Result<()> {
        let stat = self.stat(path)?;
        let fail = |errno| path::refused(path.as_str(), errno);
        if FileType::from_raw_mode(stat.mode) == FileType::Directory {
            let dir = self
                .open(
                    path.as_str(),
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW,
                )
                .map_err(fail)?;
            let options = PackOptions {
                root: Some(path.base().as_bytes().to_vec()),
                ids,
                ..PackOptions::default()
            };
            told(stat);
            return pack(dir.as_fd(), out, &options);
        }
        let (parent, name) = path.split();
        let parent = self
            .open(parent, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(fail)?;
        told(stat);
        pack_one(
            parent.as_fd(),
            name.as_bytes(),
            name.as_bytes(),
            out,
            &PackOptions {
                ids,
                ..PackOptions::default()
            },
        )
    }

    /// Writes an archive of everything; with `ids`, it has the inner ones.
    ///
    /// # Errors
    /// If a file cannot be read or `out` fails.
    pub fn pack_all(&self, ids: Option<Arc<IdMap>>, out: impl Write) -> Result<()> {
        let dir = self
            .open("/", OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|errno| path::refused("/", errno))?;
        let options = PackOptions {
            ids,
            ..PackOptions::default()
        };
        pack(dir.as_fd(), out, &options)
    }

    /// Unpacks an archive, compressed or not, into the directory that `path` leads to.
    ///
    /// # Errors
    /// Not found; invalid if it is no directory, or the archive is malformed; forbidden with `"read-only"` as a message
    /// if it cannot be written to.
    pub fn unpack(
        &self,
        path: &ContainerPath,
        archive: impl Read + Send,
        how: &Extraction<'_>,
    ) -> Result<()> {
        let Some(ids) = &how.ids else {
            return self.unpack_here(path, archive, how);
        };
        // On a thread of its own, as that makes files in the name of the container's root.
        let work = || {
            let _maker = Maker::root_of(ids)?;
            self.unpack_here(path, archive, how)
        };
        thread::scope(|scope| scope.spawn(work).join())
            .unwrap_or_else(|_| Err(Error::internal("a copy into a container was broken off")))
    }

    fn unpack_here(&self, path: &ContainerPath, archive: impl Read, how: &Extraction<'_>) -> Result<()> {
        let (dir, prefix) = self.directory(path)?;
        let mount = fs::fstatvfs(&dir).map_err(|errno| path::refused(path.as_str(), errno))?;
        if mount.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(Error::new(crate::Kind::Forbidden, "read-only"));
        }
        let owner = how.owner.map(|user| self.user(user)).transpose()?;
        let limits = Limits::default();
        let options = UnpackOptions {
            whiteouts: Whiteouts::Literal,
            owner,
            keep_kinds: how.keep_kinds,
            no_devices: false,
            ids: how.ids.clone(),
            below: Some(prefix),
            limits: limits.clone(),
        };
        let (_, archive) = compress::expand(archive, &limits)?;
        unpack(archive, self.0.as_fd(), &options).map(drop)
    }

    /// The ids of a user as the container's own files name it.
    fn user(&self, text: &str) -> Result<(u32, u32)> {
        let root = self.0.try_clone()?;
        let user = Accounts::read(&Inside::from(root))?.resolve(text, &[])?;
        Ok((user.uid, user.gid))
    }
}
