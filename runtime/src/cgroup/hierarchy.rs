//! The cgroup hierarchies of the host: where each controller lives.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, error::Context};

/// Kernel interface of a hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Version {
    /// cgroups(7), version 1.
    V1,
    /// cgroups(7), version 2.
    V2,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub version: Version,
    /// `memory`, `cpu`, …; a named v1 hierarchy is `name=systemd`.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The caller's own cgroup, as a path below [`mount`](Self::mount).
    pub own: PathBuf,
}

impl Hierarchy {
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    /// Directory in which the children of `parent` are; see [`Cgroup::create`](super::Cgroup::create) for its meaning.
    pub fn directory(&self, parent: &Path) -> PathBuf {
        match parent.strip_prefix("/") {
            Ok(below) => self.mount.join(below),
            Err(_) if self.version == Version::V1 => self.mount.join(&self.own).join(parent),
            Err(_) => self.mount.join(parent),
        }
    }
}

/// The hierarchies of this host. Found once; a forked process inherits the answer.
pub(super) fn host() -> Result<&'static [Hierarchy]> {
    static HOST: OnceLock<Vec<Hierarchy>> = OnceLock::new();
    if let Some(found) = HOST.get() {
        return Ok(found);
    }
    let read = |path: &str| fs::read_to_string(path).context(|| format!("cannot read {path}"));
    let mut found = parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
    for hierarchy in found.iter_mut().filter(|h| h.version == Version::V2) {
        let available = read(&hierarchy.mount.join("cgroup.controllers").to_string_lossy())?;
        hierarchy.controllers = available.split_whitespace().map(String::from).collect();
    }
    if found.is_empty() {
        return Err(Error::internal(
            "no cgroup hierarchy is mounted; mount one on /sys/fs/cgroup",
        ));
    }
    Ok(HOST.get_or_init(|| found))
}

/// Reads `/proc/self/mountinfo` and `/proc/self/cgroup` (proc(5), cgroups(7)).
fn parse(mountinfo: &str, own: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((place, filesystem)) = line.split_once(" - ") else {
            continue;
        };
        let mut place = place.split(' ').skip(3);
        let (Some(root), Some(mount)) = (place.next(), place.next()) else {
            continue;
        };
        let mut filesystem = filesystem.split(' ');
        let (kind, options) = (
            filesystem.next().unwrap_or_default(),
            filesystem.nth(1).unwrap_or_default(),
        );
        let (version, controllers) = match kind {
            "cgroup2" => (Version::V2, Vec::new()),
            "cgroup" => (Version::V1, v1_controllers(options)),
            _ => continue,
        };
        // The same hierarchy mounted a second time (in a chroot, say) adds nothing.
        if found
            .iter()
            .any(|h| h.version == version && h.controllers == controllers)
        {
            continue;
        }
        let inside = own_path(own, version, &controllers);
        found.push(Hierarchy {
            version,
            own: below_root(&inside, root),
            mount: unescape(mount),
            controllers,
        });
    }
    found
}

/// Controllers among the super block options of a v1 hierarchy.
fn v1_controllers(options: &str) -> Vec<String> {
    const FLAGS: [&str; 8] = [
        "rw",
        "ro",
        "xattr",
        "noprefix",
        "clone_children",
        "none",
        "cpuset_v2_mode",
        "favordynmods",
    ];
    let controller = |o: &&str| !FLAGS.contains(o) && !o.starts_with("release_agent=");
    options.split(',').filter(controller).map(String::from).collect()
}

/// The caller's path in a hierarchy; `/` if it is in none.
fn own_path(own: &str, version: Version, controllers: &[String]) -> String {
    own.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .find(|(names, _)| match version {
            Version::V2 => names.is_empty(),
            Version::V1 => names.split(',').any(|n| controllers.iter().any(|c| c == n)),
        })
        .map_or_else(|| "/".to_owned(), |(_, path)| path.to_owned())
}

/// `path` within the part of the hierarchy that is mounted, whose root is `root`. A path outside of it is its root.
fn below_root(path: &str, root: &str) -> PathBuf {
    let below = Path::new(path)
        .strip_prefix(root)
        .unwrap_or_else(|_| Path::new(""));
    if below
        .components()
        .any(|c| !matches!(c, std::path::Component::Normal(_)))
    {
        return PathBuf::new();
    }
    below.to_owned()
}

/// Undoes the octal escapes of mountinfo.
fn unescape(text: &str) -> PathBuf {
    let replaced = text
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n");
    replaced.replace("\\134", "\\").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_host_with_a_confined_engine() {
        let mounts = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:7 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
42 31 0:38 / /mnt/again rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";
        let own = "9:name=systemd:/a:b\n4:memory:/box/1\n1:cpu,cpuacct:/\n0::/x\n";
        let found = parse(mounts, own);
        assert_eq!(found.len(), 4);
        assert_eq!(found[0].controllers, ["cpu", "cpuacct"]);
        assert_eq!(
            found[1].directory(Path::new("berth")),
            Path::new("/sys/fs/cgroup/memory/box/1/berth")
        );
        assert_eq!(
            found[1].directory(Path::new("/berth")),
            Path::new("/sys/fs/cgroup/memory/berth")
        );
        assert_eq!(found[2].controllers, ["name=systemd"]);
        assert_eq!(found[2].own, Path::new("a:b"));
        assert_eq!(
            found[3].directory(Path::new("berth")),
            Path::new("/sys/fs/cgroup/unified/berth")
        );
    }

    #[test]
    fn inside_a_container_the_mounted_part_is_the_root() {
        let mounts = "9 8 0:1 /docker/abc /sys/fs/cgroup/pids ro,nosuid - cgroup cgroup rw,pids\n";
        let found = parse(mounts, "3:pids:/docker/abc/inner\n");
        assert_eq!(found[0].own, Path::new("inner"));
        assert_eq!(parse(mounts, "3:pids:/docker\n")[0].own, Path::new(""));
        assert_eq!(parse(mounts, "3:pids:/docker/abc/../x\n")[0].own, Path::new(""));
    }
}
