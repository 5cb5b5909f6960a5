//! The root of a container that runs.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::{OpenTreeFlags, open_tree},
};

use super::Root;
use crate::{Error, Result, error::Context};

impl Root {
    /// The root directory of the process `pid`, with all that is mounted in it. `cgroup` is part of the name of the
    /// control group that it must be in: a number alone could belong to another process by now.
    ///
    /// # Errors
    /// Conflict if the process is gone.
    pub fn of_process(pid: i32, cgroup: &str) -> Result<Self> {
        let process = process(pid, cgroup)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(&process, "root", flags, Mode::empty());
        root.map(Self).map_err(|errno| gone(pid, errno.into()))
    }

    /// The root file system of the process `pid` alone: what is mounted on its directories does not show.
    ///
    /// # Errors
    /// As [`Self::of_process`].
    pub fn of_process_without_mounts(pid: i32, cgroup: &str) -> Result<Self> {
        let process = process(pid, cgroup)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let namespace = rustix::fs::openat(&process, "ns/mnt", flags, Mode::empty());
        let namespace = namespace.map_err(|errno| gone(pid, errno.into()))?;
        // A thread of its own, as it is never to look at the host's mounts again.
        let copy = thread::Builder::new()
            .name("root-copy".to_owned())
            .spawn(move || copy_root(&namespace))
            .context(|| "cannot start a thread")?;
        copy.join()
            .unwrap_or_else(|_| Err(Error::internal("a thread was broken off")))
            .map(Self)
    }
}

/// `/proc/<pid>` of the process, which is that of the container.
fn process(pid: i32, cgroup: &str) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, path.as_str(), flags, Mode::empty());
    let directory = directory.map_err(|errno| gone(pid, errno.into()))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&directory, "cgroup", flags, Mode::empty());
    let file = file.map_err(|errno| gone(pid, errno.into()))?;
    let groups = io::read_to_string(std::fs::File::from(file)).map_err(|error| gone(pid, error))?;
    match groups.contains(cgroup) {
        true => Ok(directory),
        false => Err(gone(pid, io::ErrorKind::NotFound.into())),
    }
}

fn copy_root(namespace: &OwnedFd) -> Result<OwnedFd> {
    unshare(CloneFlags::CLONE_FS).context(|| "cannot enter a mount namespace")?;
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNS).context(|| "cannot enter a mount namespace")?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, "/", flags).context(|| "cannot copy the mount of a root")
}

fn gone(pid: i32, error: io::Error) -> Error {
    Error::conflict(format!("the container's process {pid} has ended")).caused_by(error)
}
