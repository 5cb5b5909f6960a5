//! Acting on all processes of a cgroup, and its removal.

use std::{
    collections::HashSet,
    fs, io,
    os::fd::AsFd,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::{Cgroup, Dir, Version, create};
use crate::{Error, Kind, Result, error::Context, failpoint::hit, sys::pidfd::send_signal};

/// How long freezing and removing wait for the kernel.
const PATIENCE: Duration = Duration::from_secs(5);

impl Cgroup {
    /// Freezes all processes and returns when they are frozen.
    ///
    /// # Errors
    /// Internal, if they are not after a few seconds (they are thawed again).
    pub fn freeze(&self) -> Result<()> {
        let freezer = self.freezer()?;
        freezer.set(true)?;
        if wait_for(|| freezer.is_frozen())? {
            return Ok(());
        }
        freezer.set(false)?;
        Err(Error::internal(format!(
            "the processes of cgroup {} did not freeze within {} s",
            freezer.dir.path.display(),
            PATIENCE.as_secs()
        )))
    }

    /// Lets frozen processes run again.
    ///
    /// # Errors
    /// Internal, if the kernel refuses.
    pub fn thaw(&self) -> Result<()> {
        self.freezer()?.set(false)
    }

    /// Whether [`freeze`](Self::freeze) is in force.
    ///
    /// # Errors
    /// Internal, if it cannot be read.
    pub fn is_frozen(&self) -> Result<bool> {
        self.freezer()?.is_set()
    }

    /// Sends SIGKILL to every process in it, also to those forked meanwhile and to frozen ones (it is thawed for that).
    /// Does not wait for their end.
    ///
    /// # Errors
    /// Internal, if the kernel refuses. A cgroup that is gone holds nothing to kill.
    pub fn kill_all(&self) -> Result<()> {
        if let Some(dir) = self.v2() {
            // One write that no fork escapes, since kernel 5.14; it ends frozen processes too.
            match super::write_file(&dir.path.join("cgroup.kill"), "1") {
                Ok(()) => return self.thaw_v1(),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e).context(|| format!("cannot kill cgroup {}", dir.path.display())),
            }
        }
        self.kill_each()
    }

    /// Thaws a v1 freezer: a process in it acts on a signal only then.
    fn thaw_v1(&self) -> Result<()> {
        match self
            .find("freezer")
            .map(|dir| dir.write("freezer.state", "THAWED"))
        {
            Some(Err(e)) if self.exists() => Err(e),
            _ => Ok(()),
        }
    }

    /// Kills one by one, while everything is frozen as far as it can be: no process forks then, but one may still end and
    /// its number go to a stranger.
    pub(super) fn kill_each(&self) -> Result<()> {
        // Where it cannot be frozen, the loop goes on until no new process appears.
        let frozen = self.freeze().is_ok();
        let mut seen = Vec::new();
        let mut killed = Ok(());
        loop {
            let new: Vec<_> = self.pids()?.into_iter().filter(|p| !seen.contains(p)).collect();
            let signalled = self.signal_each(&new, libc::SIGKILL);
            killed = killed.and(signalled);
            if frozen || new.is_empty() {
                break;
            }
            seen.extend(new);
        }
        let thawed = if frozen { self.thaw() } else { Ok(()) };
        killed.and(thawed)
    }

    /// Sends signal `number` to every process in it that is there now.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for a number that is no signal, internal if the kernel refuses.
    pub fn signal_all(&self, number: i32) -> Result<()> {
        self.signal_each(&self.pids()?, number)
    }

    /// Signals those of `pids` that are its processes. Each is held first and then looked for again: if it is still here,
    /// what is held is it and no later owner of its number.
    fn signal_each(&self, pids: &[i32], number: i32) -> Result<()> {
        let mut held = Vec::with_capacity(pids.len());
        for pid in pids {
            let Some(id) = Pid::from_raw(*pid) else { continue };
            match pidfd_open(id, PidfdFlags::empty()) {
                Ok(pidfd) => held.push((*pid, pidfd)),
                Err(Errno::SRCH) => {}
                Err(e) => return Err(e).context(|| format!("cannot open process {pid}")),
            }
        }
        let still: HashSet<i32> = self.pids()?.into_iter().collect();
        for (pid, pidfd) in held.iter().filter(|(pid, _)| still.contains(pid)) {
            match send_signal(pidfd.as_fd(), number) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(Errno::INVAL) => return Err(Error::invalid(format!("{number} is not a signal"))),
                Err(e) => return Err(e).context(|| format!("cannot signal process {pid}")),
            }
        }
        Ok(())
    }

    /// Ids of its processes, cgroups below included, in no order.
    ///
    /// # Errors
    /// Internal, if it cannot be read. A cgroup that is gone has none.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let dir = self
            .v2()
            .or_else(|| self.find("freezer"))
            .or_else(|| self.dirs.first());
        let Some(dir) = dir else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        collect_pids(&dir.path, &mut found)
            .context(|| format!("cannot list the processes of {}", dir.path.display()))?;
        Ok(found)
    }

    /// Whether any of its directories is there.
    pub fn exists(&self) -> bool {
        self.dirs.iter().any(|d| d.path.is_dir())
    }

    /// Removes it with all cgroups below. One that is already gone is fine. Waits a bounded time for processes that are
    /// ending.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if processes are still in it. What can be removed is gone all the same.
    pub fn remove(&self) -> Result<()> {
        // A hierarchy that refuses keeps no other's directory.
        self.dirs.iter().map(Dir::remove).fold(Ok(()), Result::and)
    }

    /// v2 tells when everything is frozen and kills what is; v1 is the fallback.
    fn freezer(&self) -> Result<Freezer<'_>> {
        let v2 = self.v2().filter(|d| d.path.join("cgroup.freeze").exists());
        match v2.or_else(|| self.find("freezer")) {
            Some(dir) => Ok(Freezer { dir }),
            None => Err(Self::no_freezer()?),
        }
    }

    /// Why a cgroup has no freezer: it is being removed, or the host has none.
    fn no_freezer() -> Result<Error> {
        Ok(
            match create::plan(Path::new(""), Path::new(""))?.find("freezer") {
                Some(_) => Error::not_found("the cgroup is gone"),
                None => Error::new(
                    Kind::Unavailable,
                    "processes cannot be frozen: neither cgroup version 2 nor the v1 freezer is usable",
                ),
            },
        )
    }
}

impl Dir {
    fn remove(&self) -> Result<()> {
        let path = self.path.display();
        let message = || format!("cannot remove the cgroup directory {path}");
        hit("cgroup.remove").context(message)?;
        match wait_for(|| remove_tree(&self.path)).context(message)? {
            true => Ok(()),
            false => {
                let message = format!("cgroup {path} still has processes; end them first");
                Err(Error::new(Kind::Conflict, message))
            }
        }
    }
}

struct Freezer<'a> {
    dir: &'a Dir,
}

impl Freezer<'_> {
    fn set(&self, frozen: bool) -> Result<()> {
        match (self.dir.version, frozen) {
            (Version::V1, true) => self.dir.write("freezer.state", "FROZEN"),
            (Version::V1, false) => self.dir.write("freezer.state", "THAWED"),
            (Version::V2, true) => self.dir.write("cgroup.freeze", "1"),
            (Version::V2, false) => self.dir.write("cgroup.freeze", "0"),
        }
    }

    fn is_set(&self) -> Result<bool> {
        Ok(match self.dir.version {
            Version::V1 => self.dir.read("freezer.self_freezing")?.trim() == "1",
            Version::V2 => self.dir.read("cgroup.freeze")?.trim() == "1",
        })
    }

    fn is_frozen(&self) -> Result<bool> {
        Ok(match self.dir.version {
            Version::V1 => {
                let frozen = self.dir.read("freezer.state")?.trim() == "FROZEN";
                if !frozen {
                    // A task that forked meanwhile is caught by asking once more.
                    self.set(true)?;
                }
                frozen
            }
            Version::V2 => self.dir.read("cgroup.events")?.lines().any(|l| l == "frozen 1"),
        })
    }
}

/// Asks `done` at growing intervals until it says yes; false if it does not in time.
fn wait_for<E>(mut done: impl FnMut() -> Result<bool, E>) -> Result<bool, E> {
    let end = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(200);
    loop {
        if done()? {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Tries to remove `path` and what is below; false if processes are in the way.
fn remove_tree(path: &Path) -> io::Result<bool> {
    match fs::remove_dir(path) {
        Ok(()) => return Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(e) if e.kind() != io::ErrorKind::ResourceBusy => return Err(e),
        Err(_) => {}
    }
    let mut children = false;
    for child in subdirectories(path)? {
        children = true;
        if !remove_tree(&child)? {
            return Ok(false);
        }
    }
    if !children {
        return Ok(false);
    }
    match fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::ResourceBusy => Ok(false),
        Err(e) => Err(e),
    }
}

/// Subdirectories of a cgroup; none if it is gone.
fn subdirectories(path: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn collect_pids(path: &Path, found: &mut Vec<i32>) -> io::Result<()> {
    match fs::read_to_string(path.join("cgroup.procs")) {
        Ok(text) => found.extend(text.lines().filter_map(|l| l.parse::<i32>().ok())),
        // Gone, or being removed.
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENODEV) => {
            return Ok(());
        }
        // A threaded v2 cgroup lists its processes only in the domain above it.
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(e) => return Err(e),
    }
    for child in subdirectories(path)? {
        collect_pids(&child, found)?;
    }
    Ok(())
}
