//! User namespaces that no process is in yet: what mounts are mapped by, and what owns the network namespace of a
//! container before it exists.

use std::{
    fs::{self, File},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use crate::{Error, Result, error::Context, ids::IdMap, sys::clone};

/// A user namespace, held by its descriptor.
#[derive(Debug)]
pub struct UserNamespace {
    descriptor: OwnedFd,
    map: IdMap,
}

impl UserNamespace {
    /// A new one with the ids of `map`.
    ///
    /// # Errors
    /// Internal, if the kernel refuses the namespace or the map.
    pub fn create(map: &IdMap) -> Result<Self> {
        Self::with(map, 0, |_| Ok(())).map(|(namespace, ())| namespace)
    }

    /// A new one, and a network namespace that belongs to it.
    ///
    /// # Errors
    /// As [`UserNamespace::create`].
    pub fn create_with_network(map: &IdMap) -> Result<(Self, OwnedFd)> {
        Self::with(map, libc::CLONE_NEWNET as u64, |pid| {
            let network = File::open(format!("/proc/{pid}/ns/net"));
            Ok(network.context(|| "cannot open a new network namespace")?.into())
        })
    }

    fn with<T>(map: &IdMap, flags: u64, open: impl FnOnce(i32) -> Result<T>) -> Result<(Self, T)> {
        if map.uids.is_empty() || map.gids.is_empty() {
            return Err(Error::invalid(
                "a user namespace needs ids of users and of groups",
            ));
        }
        let holder = clone::hold(libc::CLONE_NEWUSER as u64 | flags)
            .context(|| "cannot make a user namespace (see /proc/sys/user/max_user_namespaces)")?;
        let pid = holder.pid().as_raw();
        for (file, content) in [("uid_map", map.uid_lines()), ("gid_map", map.gid_lines())] {
            fs::write(format!("/proc/{pid}/{file}"), &content).context(|| {
                format!(
                    "cannot set the {file} of a user namespace to {:?}",
                    content.trim()
                )
            })?;
        }
        let descriptor =
            File::open(format!("/proc/{pid}/ns/user")).context(|| "cannot open a new user namespace")?;
        let namespace = Self {
            descriptor: descriptor.into(),
            map: map.clone(),
        };
        Ok((namespace, open(pid)?))
    }

    /// Its ids.
    pub fn map(&self) -> &IdMap {
        &self.map
    }

    /// A path by which other processes of this host can open it as long as this value lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.descriptor.as_raw_fd()
        ))
    }
}

/// A new network namespace that belongs to the user namespace at `path`.
///
/// # Errors
/// Internal, if that is gone or the kernel refuses.
pub fn network_in(path: &Path) -> Result<OwnedFd> {
    let message = || format!("cannot make a network namespace in {}", path.display());
    let user = File::open(path).context(message)?;
    let holder = clone::hold_in(user.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).context(message)?;
    let network = File::open(format!("/proc/{}/ns/net", holder.pid()));
    Ok(network.context(message)?.into())
}

impl AsFd for UserNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Range;

    #[test]
    fn outlives_its_maker() {
        let ranges = vec![Range {
            inner: 0,
            outer: 100_000,
            size: 65_536,
        }];
        let map = IdMap {
            uids: ranges.clone(),
            gids: ranges,
        };
        let (namespace, network) = UserNamespace::create_with_network(&map).unwrap();
        assert_eq!(namespace.map(), &map);
        let link = fs::read_link(namespace.path()).unwrap();
        assert!(link.to_string_lossy().starts_with("user:["), "{link:?}");
        assert_ne!(link, fs::read_link("/proc/self/ns/user").unwrap());
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let theirs = fs::read_link(format!("/proc/self/fd/{}", network.as_raw_fd())).unwrap();
        assert_ne!(own, theirs);
        let second = network_in(&namespace.path()).unwrap();
        let link = |fd: &OwnedFd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        assert_ne!(link(&second), theirs);
        assert_ne!(link(&second), own);
        assert!(UserNamespace::create(&IdMap::default()).is_err());
    }
}
