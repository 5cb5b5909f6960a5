//! Options of a mount in the specification (OCI runtime specification, mounts).

use std::path::PathBuf;

use oci_spec::runtime::Mount;
use rustix::mount::{MountAttrFlags as Attr, MountPropagationFlags as Propagation};

use crate::{Error, Result};

/// Option of a bind, with a relative path as value: not the source itself is mounted, but what is at that path in it. No
/// link on the way leads out of the source. (Options that begin with `x-` are left to programs: mount(8).)
pub const SUBPATH: &str = "x-berth.subpath=";

/// Option of a bind: its files show with the ids of the sandbox's user namespace, if kernel and file system can do it.
pub const IDMAP_IF_POSSIBLE: &str = "x-berth.idmap";

/// How mounts below follow or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Propagate {
    pub flags: Propagation,
    pub recursive: bool,
}

/// Options, sorted by what they are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// `bind` (false) or `rbind` (true).
    pub bind: Option<bool>,
    pub set: Attr,
    pub clear: Attr,
    /// The same for all mounts below (`rro` and the like).
    pub recursive_set: Attr,
    pub recursive_clear: Attr,
    pub propagation: Option<Propagate>,
    /// `idmap` (false) or `ridmap` (true): a bind whose files show with the ids of a user namespace.
    pub idmap: Option<bool>,
    /// [`IDMAP_IF_POSSIBLE`].
    pub idmap_if_possible: bool,
    /// Only this below the source of a bind.
    pub subpath: Option<PathBuf>,
    /// Passed to the file system.
    pub data: Vec<(String, Option<String>)>,
}

impl Options {
    /// Reads the options of `mount`.
    pub fn of(mount: &Mount) -> Result<Self> {
        let mut options = Self {
            bind: None,
            set: Attr::empty(),
            clear: Attr::empty(),
            recursive_set: Attr::empty(),
            recursive_clear: Attr::empty(),
            propagation: None,
            idmap: None,
            idmap_if_possible: false,
            subpath: None,
            data: Vec::new(),
        };
        if mount.typ().as_deref() == Some("bind") {
            options.bind = Some(false);
        }
        for option in mount.options().iter().flatten() {
            options.add(option)?;
        }
        Ok(options)
    }

    fn add(&mut self, option: &str) -> Result<()> {
        match option {
            "defaults" | "" => {}
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "idmap" => self.idmap = Some(self.idmap.unwrap_or(false)),
            "ridmap" => self.idmap = Some(true),
            IDMAP_IF_POSSIBLE => self.idmap_if_possible = true,
            _ => {
                if let Some(path) = option.strip_prefix(SUBPATH) {
                    self.subpath = Some(path.into());
                } else if let Some(propagate) = propagation(option) {
                    self.propagation = Some(propagate);
                } else if let Some((set, clear)) = attribute(option) {
                    self.set = (self.set - clear) | set;
                    self.clear = (self.clear - set) | clear;
                } else if let Some((set, clear)) = option.strip_prefix('r').and_then(attribute) {
                    self.recursive_set = (self.recursive_set - clear) | set;
                    self.recursive_clear = (self.recursive_clear - set) | clear;
                } else {
                    self.data.push(match option.split_once('=') {
                        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                        None => (option.to_owned(), None),
                    });
                }
            }
        }
        Ok(())
    }
}

fn propagation(option: &str) -> Option<Propagate> {
    let (flags, recursive) = match option {
        "private" => (Propagation::PRIVATE, false),
        "rprivate" => (Propagation::PRIVATE, true),
        "shared" => (Propagation::SHARED, false),
        "rshared" => (Propagation::SHARED, true),
        "slave" => (Propagation::DOWNSTREAM, false),
        "rslave" => (Propagation::DOWNSTREAM, true),
        "unbindable" => (Propagation::UNBINDABLE, false),
        "runbindable" => (Propagation::UNBINDABLE, true),
        _ => return None,
    };
    Some(Propagate { flags, recursive })
}

/// The propagation that a specification's `rootfsPropagation` names.
pub(super) fn root_propagation(text: &str) -> Result<Propagate> {
    propagation(text).ok_or_else(|| Error::invalid(format!("rootfsPropagation {text:?} is not known")))
}

/// Attributes that an option sets and clears.
fn attribute(option: &str) -> Option<(Attr, Attr)> {
    let none = Attr::empty();
    Some(match option {
        "ro" => (Attr::MOUNT_ATTR_RDONLY, none),
        "rw" => (none, Attr::MOUNT_ATTR_RDONLY),
        "nosuid" => (Attr::MOUNT_ATTR_NOSUID, none),
        "suid" => (none, Attr::MOUNT_ATTR_NOSUID),
        "nodev" => (Attr::MOUNT_ATTR_NODEV, none),
        "dev" => (none, Attr::MOUNT_ATTR_NODEV),
        "noexec" => (Attr::MOUNT_ATTR_NOEXEC, none),
        "exec" => (none, Attr::MOUNT_ATTR_NOEXEC),
        "nosymfollow" => (Attr::MOUNT_ATTR_NOSYMFOLLOW, none),
        "symfollow" => (none, Attr::MOUNT_ATTR_NOSYMFOLLOW),
        "nodiratime" => (Attr::MOUNT_ATTR_NODIRATIME, none),
        "diratime" => (none, Attr::MOUNT_ATTR_NODIRATIME),
        // The access-time modes exclude each other: mount_setattr(2) wants all their bits cleared. relatime is 0.
        "noatime" => (
            Attr::MOUNT_ATTR_NOATIME,
            Attr::MOUNT_ATTR__ATIME - Attr::MOUNT_ATTR_NOATIME,
        ),
        "strictatime" | "norelatime" => (
            Attr::MOUNT_ATTR_STRICTATIME,
            Attr::MOUNT_ATTR__ATIME - Attr::MOUNT_ATTR_STRICTATIME,
        ),
        "relatime" | "atime" | "nostrictatime" => (none, Attr::MOUNT_ATTR__ATIME),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Options {
        Options::of(&super::super::defaults::mount("/x", "tmpfs", "tmpfs", list)).unwrap()
    }

    #[test]
    fn sorted_by_what_they_are_about() {
        let found = options(&[
            "rbind",
            "ro",
            "nosuid",
            "rw",
            "rro",
            "rslave",
            "size=64k",
            "newinstance",
            "noatime",
        ]);
        assert_eq!(found.bind, Some(true));
        assert_eq!(found.set, Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NOATIME);
        assert!(found.clear.contains(Attr::MOUNT_ATTR_RDONLY));
        assert_eq!(found.recursive_set, Attr::MOUNT_ATTR_RDONLY);
        let slave = Propagate {
            flags: Propagation::DOWNSTREAM,
            recursive: true,
        };
        assert_eq!(found.propagation, Some(slave));
        let data = [
            ("size".to_owned(), Some("64k".to_owned())),
            ("newinstance".to_owned(), None),
        ];
        assert_eq!(found.data, data);
    }

    #[test]
    fn relatime_is_not_a_recursive_elatime() {
        let found = options(&["strictatime", "relatime", "rnoexec"]);
        assert_eq!(found.set, Attr::empty());
        assert_eq!(found.recursive_set, Attr::MOUNT_ATTR_NOEXEC);
        assert!(found.data.is_empty());
    }
}
