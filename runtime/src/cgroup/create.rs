//! Making the directories of a cgroup.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Cgroup, Dir, Version,
    hierarchy::{self, Hierarchy},
    write_file,
};
use crate::{Result, error::Context, failpoint::hit};

/// Child that takes in the processes of a v2 cgroup which is to have limited children.
const EVACUATED: &str = "init";

/// The cgroup `name` below `parent`, whether it exists or not.
pub(super) fn plan(parent: &Path, name: &Path) -> Result<Cgroup> {
    let dir = |h: &Hierarchy| Dir {
        version: h.version,
        controllers: h.controllers.clone(),
        path: h.directory(parent).join(name),
    };
    Ok(Cgroup {
        dirs: hierarchy::host()?.iter().map(dir).collect(),
    })
}

/// Makes the cgroup `name` below `parent` in every hierarchy.
pub(super) fn create(parent: &Path, name: &Path) -> Result<Cgroup> {
    let cgroup = plan(parent, name)?;
    for (i, (dir, hierarchy)) in cgroup.dirs.iter().zip(hierarchy::host()?).enumerate() {
        let made = hit("cgroup.make")
            .and_then(|()| make(hierarchy, &dir.path))
            .context(|| format!("cannot make the cgroup directory {}", dir.path.display()));
        if let Err(e) = made {
            for dir in &cgroup.dirs[..=i] {
                // Only an empty directory of ours can go; what is in use by others stays.
                let _ = fs::remove_dir(&dir.path);
            }
            return Err(e);
        }
    }
    Ok(cgroup)
}

/// Makes one directory ready for processes, and its missing parents.
fn make(hierarchy: &Hierarchy, path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent().filter(|p| p.starts_with(&hierarchy.mount)) {
                make(hierarchy, parent)?;
                if hierarchy.version == Version::V1 {
                    prepare_v1_parent(hierarchy, parent);
                }
            }
            match fs::create_dir(path) {
                // Somebody else made it meanwhile.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    match hierarchy.version {
        Version::V1 if hierarchy.has("cpuset") => inherit_cpuset(path),
        Version::V1 => Ok(()),
        Version::V2 => delegate(hierarchy, path),
    }
}

/// Lets the children of a v1 directory begin with its settings. Old kernels lack some of the files, new ones refuse what
/// is so already: both are fine.
fn prepare_v1_parent(hierarchy: &Hierarchy, parent: &Path) {
    if hierarchy.has("cpuset") {
        let _ = write_file(&parent.join("cgroup.clone_children"), "1");
    }
    if hierarchy.has("memory") {
        let _ = write_file(&parent.join("memory.use_hierarchy"), "1");
    }
}

/// Gives a v1 cpuset, which begins without processors and so cannot take processes, those of its parent.
fn inherit_cpuset(path: &Path) -> io::Result<()> {
    for file in ["cpuset.mems", "cpuset.cpus"] {
        if !fs::read_to_string(path.join(file))?.trim().is_empty() {
            continue;
        }
        let Some(parent) = path.parent() else { continue };
        let mut inherited = fs::read_to_string(parent.join(file))?;
        if inherited.trim().is_empty() {
            // Somebody else has just made the parent and has not come so far. The root of a hierarchy has them always.
            inherit_cpuset(parent)?;
            inherited = fs::read_to_string(parent.join(file))?;
        }
        write_file(&path.join(file), inherited.trim())?;
    }
    Ok(())
}

/// Makes every controller of the hierarchy available in the v2 directory `path`.
fn delegate(hierarchy: &Hierarchy, path: &Path) -> io::Result<()> {
    let available = fs::read_to_string(path.join("cgroup.controllers"))?;
    let available: Vec<_> = available.split_whitespace().collect();
    if hierarchy
        .controllers
        .iter()
        .all(|c| available.contains(&c.as_str()))
    {
        return Ok(());
    }
    let Some(below) = path.parent().and_then(|p| p.strip_prefix(&hierarchy.mount).ok()) else {
        return Ok(());
    };
    let mut ancestor = hierarchy.mount.clone();
    enable(hierarchy, &ancestor)?;
    for component in below.components() {
        ancestor.push(component);
        enable(hierarchy, &ancestor)?;
    }
    Ok(())
}

/// Hands the controllers of the v2 directory `parent` on to its children. One the kernel does not hand on (because a
/// realtime process is in the way, say) is missing there; setting a limit of it will say so.
fn enable(hierarchy: &Hierarchy, parent: &Path) -> io::Result<()> {
    let file = parent.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&file)?;
    let enabled: Vec<_> = enabled.split_whitespace().collect();
    for controller in hierarchy
        .controllers
        .iter()
        .filter(|c| !enabled.contains(&c.as_str()))
    {
        let value = format!("+{controller}");
        let busy = |e: &io::Error| e.kind() == io::ErrorKind::ResourceBusy;
        match write_file(&file, &value) {
            Err(e) if busy(&e) && parent == hierarchy.mount => {
                // In a container of its own, the engine's root cgroup holds processes. They have to move down one step.
                evacuate(parent)?;
                write_file(&file, &value)?;
            }
            Err(e) if busy(&e) => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Moves the processes of the v2 cgroup `path` into a child of it.
fn evacuate(path: &Path) -> io::Result<()> {
    let child: PathBuf = path.join(EVACUATED);
    match fs::create_dir(&child) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let procs = child.join("cgroup.procs");
    for pid in fs::read_to_string(path.join("cgroup.procs"))?.split_whitespace() {
        match write_file(&procs, pid) {
            // It ended meanwhile.
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
            other => other?,
        }
    }
    Ok(())
}
