//! Resource limits and accounting, on cgroup v1, v2 and hybrid hosts.
//!
//! A [`Cgroup`] is one directory in each hierarchy of the host. Where a controller lives (v1 or v2) is found out per
//! controller, so that hybrid hosts need no case of their own.

mod control;
mod create;
mod devices;
mod hierarchy;
mod limits;
mod oom;
mod stats;
mod support;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use self::hierarchy::Version;
pub use self::{
    oom::OomWatch,
    stats::{BlkioEntry, Cpu, Memory, Pids, Stats},
    support::{Support, support},
};
use crate::{Error, Kind, Result, error::Context};

/// A container's directories in the cgroup hierarchies. Cheap to clone and to keep: it holds paths, no descriptors.
///
/// It can be serialised, so that whoever restarts finds the same directories even if its own cgroup has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    dirs: Vec<Dir>,
}

/// The directory in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Dir {
    version: Version,
    controllers: Vec<String>,
    path: PathBuf,
}

/// A directory of a cgroup, and its name in a container.
#[derive(Debug)]
pub(crate) struct Directory<'a> {
    pub name: String,
    /// Further names, if several controllers share the hierarchy.
    pub aliases: Vec<String>,
    pub path: &'a Path,
}

impl Cgroup {
    /// Makes (or takes over) the cgroup `name` below `parent` and applies `resources`.
    ///
    /// An absolute `parent` starts at the root of each hierarchy as far as it is visible here; a relative one starts at
    /// the caller's own cgroup (on v2 at the root too, as a v2 cgroup with processes cannot have limited children).
    /// Missing parents are made.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for a limit the kernel refuses, else internal; nothing is left behind.
    pub fn create(parent: &str, name: &str, resources: &LinuxResources) -> Result<Self> {
        let cgroup = create::create(&relative(parent)?, &part(name)?)?;
        match cgroup.update(resources) {
            Ok(()) => Ok(cgroup),
            Err(e) => Err(match cgroup.remove() {
                Ok(()) => e,
                Err(left) => Error::new(e.kind(), format!("{e} (and then: {left})")),
            }),
        }
    }

    /// The cgroup `name` below `parent` if it exists in at least one hierarchy.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for names that are not paths within a hierarchy; internal if the host's hierarchies cannot be
    /// read.
    pub fn open(parent: &str, name: &str) -> Result<Option<Self>> {
        let mut cgroup = create::plan(&relative(parent)?, &part(name)?)?;
        cgroup.dirs.retain(|d| d.path.is_dir());
        Ok((!cgroup.dirs.is_empty()).then_some(cgroup))
    }

    /// Removes the cgroup `parent` from every hierarchy where nothing is in it or below it.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for names that are not paths within a hierarchy; internal if a directory cannot be removed for
    /// another reason than what is in it.
    pub fn remove_if_empty(parent: &str) -> Result<()> {
        let cgroup = create::plan(&relative(parent)?, Path::new(""))?;
        for dir in &cgroup.dirs {
            match fs::remove_dir(&dir.path) {
                Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy) => {
                    return Err(e)
                        .context(|| format!("cannot remove the cgroup directory {}", dir.path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Changes the limits given in `resources` and leaves the others.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for a limit the kernel refuses.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        limits::apply(self, resources)
    }

    /// Gives the user and group `owner` what the kernel says may be given away of a v2 cgroup (cgroups(7), delegation):
    /// they may make cgroups below it.
    pub(crate) fn delegate(&self, owner: (u32, u32)) -> Result<()> {
        let Some(directory) = self.v2_path() else {
            return Ok(());
        };
        let listed = fs::read_to_string("/sys/kernel/cgroup/delegate");
        let names =
            listed.unwrap_or_else(|_| "cgroup.procs\ncgroup.subtree_control\ncgroup.threads".to_owned());
        let files = names.lines().map(|name| directory.join(name));
        for path in std::iter::once(directory.to_owned()).chain(files) {
            match std::os::unix::fs::chown(&path, Some(owner.0), Some(owner.1)) {
                // Of a controller that is not enabled here.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other.context(|| format!("cannot give away {}", path.display()))?,
            }
        }
        Ok(())
    }

    /// Directory of the v2 hierarchy, for `CLONE_INTO_CGROUP`.
    pub(crate) fn v2_path(&self) -> Option<&Path> {
        self.v2().map(|d| d.path.as_path())
    }

    /// Opens the ways into it. The kernel checks the rights of who opened them, so this comes before rights are given up.
    pub(crate) fn entrances(&self) -> Result<Entrances> {
        let open = |dir: &Dir| {
            let file = match dir.version {
                Version::V1 => "tasks",
                Version::V2 => "cgroup.procs",
            };
            let path = dir.path.join(file);
            Ok((
                dir.version,
                open_write(&path).context(|| format!("cannot open {}", path.display()))?,
            ))
        };
        self.dirs.iter().map(open).collect::<Result<_>>().map(Entrances)
    }

    /// Whether some hierarchy of this host is v1.
    pub(crate) fn has_v1(&self) -> bool {
        self.dirs.iter().any(|d| d.version == Version::V1)
    }

    /// Its directories with the names they have in a container's `/sys/fs/cgroup` on a host with v1 hierarchies.
    pub(crate) fn directories(&self) -> impl Iterator<Item = Directory<'_>> {
        self.dirs.iter().map(|dir| {
            let names: Vec<_> = dir
                .controllers
                .iter()
                .map(|c| c.trim_start_matches("name=").to_owned())
                .collect();
            let (name, aliases) = match (dir.version, names.len()) {
                (Version::V2, _) => ("unified".to_owned(), Vec::new()),
                (Version::V1, 1) => (names.concat(), Vec::new()),
                (Version::V1, _) => (names.join(","), names),
            };
            Directory {
                name,
                aliases,
                path: &dir.path,
            }
        })
    }

    /// The directory that `controller` of this cgroup is in.
    fn find(&self, controller: &str) -> Option<&Dir> {
        self.dirs
            .iter()
            .find(|d| d.controllers.iter().any(|c| c == controller))
    }

    /// The same, where its absence means that a limit cannot be set.
    fn dir(&self, controller: &str) -> Result<&Dir> {
        self.find(controller).ok_or_else(|| {
            Error::new(
                Kind::Invalid,
                format!("the cgroup controller {controller:?} is not available on this host"),
            )
        })
    }

    fn v2(&self) -> Option<&Dir> {
        self.dirs.iter().find(|d| d.version == Version::V2)
    }
}

/// The ways into a cgroup.
#[derive(Debug)]
pub(crate) struct Entrances(Vec<(Version, File)>);

impl Entrances {
    /// Moves the calling thread, the only one of its process, into the cgroup; with `cloned`, the kernel has put it into
    /// the v2 directory already.
    ///
    /// A thread that moves itself through `tasks` does not wait for a grace period, unlike one that is moved through
    /// `cgroup.procs` of v1.
    pub(crate) fn enter(&self, cloned: bool) -> Result<()> {
        for (version, mut file) in self.0.iter().map(|(v, f)| (*v, f)) {
            if version == Version::V2 && cloned {
                continue;
            }
            file.write_all(b"0").context(|| "cannot enter the cgroup")?;
        }
        Ok(())
    }
}

/// Checks that `parent` stays within a hierarchy.
fn relative(parent: &str) -> Result<PathBuf> {
    let escapes = |c: &str| c == "..";
    if parent.split('/').any(escapes) || parent.contains('\0') {
        return Err(Error::invalid(format!(
            "cgroup parent {parent:?} must not leave the hierarchy"
        )));
    }
    Ok(PathBuf::from(parent))
}

/// Checks that `name` is one component.
fn part(name: &str) -> Result<PathBuf> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(Error::invalid(format!("{name:?} cannot be the name of a cgroup")));
    }
    Ok(PathBuf::from(name))
}

/// Writes `value` to an existing cgroup file in one write(2), as the kernel wants it.
fn write_file(path: &Path, value: &str) -> io::Result<()> {
    open_write(path)?.write_all(value.as_bytes())
}

fn open_write(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}
