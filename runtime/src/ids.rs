//! User and group ids of containers with a user namespace of their own: user_namespaces(7).
//!
//! A container's ids are called inner ones here, those that the host sees outer ones.

use std::fs;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Spec};
use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};

use crate::{Error, Result, error::Context};

/// What the kernel shows in the place of an id that a user namespace has no name for (`/proc/sys/kernel/overflowuid`).
pub const OVERFLOW: u32 = 65534;
/// Ranges in one map at most: user_namespaces(7).
pub const RANGES_MAX: usize = 340;

/// Ids that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first inner id.
    pub inner: u32,
    /// The first outer id.
    pub outer: u32,
    /// How many there are.
    pub size: u32,
}

/// Which outer ids a container's inner ones are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    /// Of users.
    pub uids: Vec<Range>,
    /// Of groups.
    pub gids: Vec<Range>,
}

impl IdMap {
    /// The map of the user namespace of `spec`; none if it has none.
    pub fn of_spec(spec: &Spec) -> Option<Self> {
        let linux = spec.linux().as_ref()?;
        Self::of(linux.uid_mappings().as_deref(), linux.gid_mappings().as_deref())
    }

    /// The map that two lists of a specification describe; none if one is missing or empty.
    pub fn of(uids: Option<&[LinuxIdMapping]>, gids: Option<&[LinuxIdMapping]>) -> Option<Self> {
        let read = |list: Option<&[LinuxIdMapping]>| {
            let range = |m: &LinuxIdMapping| Range {
                inner: m.container_id(),
                outer: m.host_id(),
                size: m.size(),
            };
            let ranges: Vec<_> = list?.iter().map(range).collect();
            (!ranges.is_empty()).then_some(ranges)
        };
        Some(Self {
            uids: read(uids)?,
            gids: read(gids)?,
        })
    }

    /// The map of the user namespace that the process `pid` is in, as seen from the caller's.
    ///
    /// # Errors
    /// Internal, if the process is gone.
    pub fn of_process(pid: i32) -> Result<Self> {
        let read = |file: &str| -> Result<Vec<Range>> {
            let path = format!("/proc/{pid}/{file}");
            let text = fs::read_to_string(&path).context(|| format!("cannot read {path}"))?;
            text.lines()
                .map(range)
                .collect::<Option<_>>()
                .ok_or_else(|| Error::internal(format!("{path} is not a map of ids")))
        };
        Ok(Self {
            uids: read("uid_map")?,
            gids: read("gid_map")?,
        })
    }

    /// The users' and the groups' part as a specification has them.
    pub fn to_spec(&self) -> (Vec<LinuxIdMapping>, Vec<LinuxIdMapping>) {
        let list = |ranges: &[Range]| {
            let mapping = |range: &Range| {
                LinuxIdMappingBuilder::default()
                    .container_id(range.inner)
                    .host_id(range.outer)
                    .size(range.size)
                    .build()
            };
            // The builder lacks nothing.
            ranges.iter().map(mapping).collect::<std::result::Result<_, _>>()
        };
        (
            list(&self.uids).unwrap_or_default(),
            list(&self.gids).unwrap_or_default(),
        )
    }

    /// Whether every id is itself, as in the host's own namespace.
    pub fn is_identity(&self) -> bool {
        [&self.uids, &self.gids]
            .iter()
            .all(|ranges| matches!(ranges[..], [r] if r.inner == 0 && r.outer == 0 && r.size == u32::MAX))
    }

    /// The outer ids of the container's root; those of the host's if it has none.
    pub fn root(&self) -> (u32, u32) {
        (
            outer(&self.uids, 0).unwrap_or_default(),
            outer(&self.gids, 0).unwrap_or_default(),
        )
    }

    /// The outer ids of an inner user and group; none if the map lacks one of them.
    pub fn outer(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        Some((outer(&self.uids, uid)?, outer(&self.gids, gid)?))
    }

    /// The inner ids of an outer user and group, as the container sees them.
    pub fn inner(&self, uid: u32, gid: u32) -> (u32, u32) {
        (inner(&self.uids, uid), inner(&self.gids, gid))
    }

    /// The value of the attribute `security.capability` of a file of the container, as the host has to write it: it
    /// counts where the root is that of the container.
    pub(crate) fn outer_capability(&self, value: &[u8]) -> Vec<u8> {
        let mut value = value.to_vec();
        if let (CAPABILITY_2, true) = (revision(&value), value.len() == CAPABILITY_2_SIZE) {
            value[REVISION] = CAPABILITY_3;
            value.extend(self.root().0.to_le_bytes());
        }
        value
    }

    /// The same as it is for the container's root.
    pub(crate) fn inner_capability(&self, value: &[u8]) -> Vec<u8> {
        let mut inner = value.to_vec();
        if revision(value) == CAPABILITY_3
            && value.get(CAPABILITY_2_SIZE..) == Some(&self.root().0.to_le_bytes())
        {
            inner.truncate(CAPABILITY_2_SIZE);
            inner[REVISION] = CAPABILITY_2;
        }
        inner
    }

    /// The users' part in the form of `/proc/<pid>/uid_map`.
    pub(crate) fn uid_lines(&self) -> String {
        lines(&self.uids)
    }

    /// The same for groups.
    pub(crate) fn gid_lines(&self) -> String {
        lines(&self.gids)
    }
}

/// Name of the attribute that holds the capabilities of a program.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";
/// Where its value has its revision: the highest byte of a little-endian number (linux/capability.h).
const REVISION: usize = 3;
/// For the root of the user namespace that the file system belongs to.
const CAPABILITY_2: u8 = 2;
const CAPABILITY_2_SIZE: usize = 20;
/// Followed by the root that it is for.
const CAPABILITY_3: u8 = 3;

fn revision(value: &[u8]) -> u8 {
    value.get(REVISION).copied().unwrap_or_default()
}

fn range(line: &str) -> Option<Range> {
    let mut numbers = line.split_whitespace().map(|n| n.parse::<u32>().ok());
    Some(Range {
        inner: numbers.next()??,
        outer: numbers.next()??,
        size: numbers.next()??,
    })
}

fn lines(ranges: &[Range]) -> String {
    let line = |r: &Range| format!("{} {} {}\n", r.inner, r.outer, r.size);
    ranges.iter().map(line).collect()
}

fn outer(ranges: &[Range], id: u32) -> Option<u32> {
    ranges.iter().find_map(|r| {
        let offset = id.checked_sub(r.inner)?;
        (offset < r.size).then(|| r.outer.checked_add(offset))?
    })
}

fn inner(ranges: &[Range], id: u32) -> u32 {
    let found = ranges.iter().find_map(|r| {
        let offset = id.checked_sub(r.outer)?;
        (offset < r.size).then(|| r.inner.checked_add(offset))?
    });
    found.unwrap_or(OVERFLOW)
}

/// The calling thread makes files in the name of somebody else, with the rights it has, until this is dropped.
///
/// What shows the files of a container by a map takes new ones only from ids that are in the map (`EOVERFLOW`).
#[derive(Debug)]
pub(crate) struct Maker {
    uid: Uid,
    gid: Gid,
    /// Whether others may look into the process, which a change of ids ends.
    dumpable: DumpableBehavior,
}

impl Maker {
    /// Makes files in the name of the container's root.
    pub fn root_of(map: &IdMap) -> Result<Self> {
        let (uid, gid) = map.root();
        let dumpable = dumpable_behavior().context(|| "cannot read whether the process is dumpable")?;
        let gid = setfsgid(Gid::from_raw(gid));
        let maker = Self {
            uid: setfsuid(Uid::from_raw(uid)),
            gid,
            dumpable,
        };
        // Leaving root has taken away what root may do to files: capabilities(7).
        let message = || "cannot keep the capabilities";
        let mut sets = rustix::thread::capabilities(None).context(message)?;
        sets.effective = sets.permitted;
        rustix::thread::set_capabilities(None, sets).context(message)?;
        Ok(maker)
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        setfsuid(self.uid);
        setfsgid(self.gid);
        // As it was; that it stays closed is all that could be wrong.
        let _ = set_dumpable_behavior(self.dumpable);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn map() -> IdMap {
        let part = |inner, outer, size| Range { inner, outer, size };
        IdMap {
            uids: vec![part(0, 100_000, 1000), part(1000, 300_000, 64_536)],
            gids: vec![part(0, 200_000, 65_536)],
        }
    }

    #[test]
    fn both_ways() {
        let map = map();
        assert_eq!(map.root(), (100_000, 200_000));
        assert_eq!(map.outer(999, 5), Some((100_999, 200_005)));
        assert_eq!(map.outer(1000, 0), Some((300_000, 200_000)));
        assert_eq!(map.outer(65_536, 0), None);
        assert_eq!(map.inner(300_001, 265_535), (1001, 65_535));
        assert_eq!(map.inner(0, 0), (OVERFLOW, OVERFLOW));
        assert_eq!(map.inner(101_000, 199_999), (OVERFLOW, OVERFLOW));
        let edge = IdMap {
            uids: vec![Range {
                inner: 0,
                outer: u32::MAX,
                size: 2,
            }],
            gids: Vec::new(),
        };
        assert_eq!(edge.outer(1, 0), None);
    }

    #[test]
    fn as_the_kernel_and_specifications_write_it() {
        let map = map();
        assert_eq!(map.uid_lines(), "0 100000 1000\n1000 300000 64536\n");
        let (uids, gids) = map.to_spec();
        assert_eq!(IdMap::of(Some(&uids), Some(&gids)), Some(map.clone()));
        assert_eq!(IdMap::of(Some(&uids), Some(&[])), None);
        let own = IdMap::of_process(std::process::id().try_into().unwrap()).unwrap();
        assert!(own.is_identity() && !map.is_identity());
        assert_eq!(range("         0     100000      65536").unwrap().size, 65536);
        assert_eq!(range("0 1"), None);
    }

    #[test]
    fn capabilities_of_files() {
        let map = map();
        let mut second = vec![0; 20];
        second[3] = 2;
        let third = map.outer_capability(&second);
        assert_eq!((third[3], &third[20..]), (3, &100_000_u32.to_le_bytes()[..]));
        assert_eq!(map.inner_capability(&third), second);
        // Somebody else's, and what is no such value.
        let others = IdMap::default().outer_capability(&second);
        assert_eq!(map.inner_capability(&others), others);
        assert_eq!(map.outer_capability(&[1, 2]), [1, 2]);
    }

    #[test]
    fn files_belong_to_their_maker() {
        let dir = tempfile::tempdir().unwrap();
        let owner = |name: &str| {
            fs::write(dir.path().join(name), "").unwrap();
            let data = fs::metadata(dir.path().join(name)).unwrap();
            (data.uid(), data.gid())
        };
        let maker = Maker::root_of(&map()).unwrap();
        assert_eq!(owner("theirs"), (100_000, 200_000));
        drop(maker);
        assert_eq!(owner("ours"), (0, 0));
    }
}
