//! Capability names and sets: capabilities(7).

use std::collections::BTreeSet;

use berth_runtime::{Error, Result};
use oci_spec::runtime::{Capabilities, Capability};

/// Every capability at the index of its number, with the name clients and the kernel use.
const KNOWN: [(&str, Capability); 41] = [
    ("CAP_CHOWN", Capability::Chown),
    ("CAP_DAC_OVERRIDE", Capability::DacOverride),
    ("CAP_DAC_READ_SEARCH", Capability::DacReadSearch),
    ("CAP_FOWNER", Capability::Fowner),
    ("CAP_FSETID", Capability::Fsetid),
    ("CAP_KILL", Capability::Kill),
    ("CAP_SETGID", Capability::Setgid),
    ("CAP_SETUID", Capability::Setuid),
    ("CAP_SETPCAP", Capability::Setpcap),
    ("CAP_LINUX_IMMUTABLE", Capability::LinuxImmutable),
    ("CAP_NET_BIND_SERVICE", Capability::NetBindService),
    ("CAP_NET_BROADCAST", Capability::NetBroadcast),
    ("CAP_NET_ADMIN", Capability::NetAdmin),
    ("CAP_NET_RAW", Capability::NetRaw),
    ("CAP_IPC_LOCK", Capability::IpcLock),
    ("CAP_IPC_OWNER", Capability::IpcOwner),
    ("CAP_SYS_MODULE", Capability::SysModule),
    ("CAP_SYS_RAWIO", Capability::SysRawio),
    ("CAP_SYS_CHROOT", Capability::SysChroot),
    ("CAP_SYS_PTRACE", Capability::SysPtrace),
    ("CAP_SYS_PACCT", Capability::SysPacct),
    ("CAP_SYS_ADMIN", Capability::SysAdmin),
    ("CAP_SYS_BOOT", Capability::SysBoot),
    ("CAP_SYS_NICE", Capability::SysNice),
    ("CAP_SYS_RESOURCE", Capability::SysResource),
    ("CAP_SYS_TIME", Capability::SysTime),
    ("CAP_SYS_TTY_CONFIG", Capability::SysTtyConfig),
    ("CAP_MKNOD", Capability::Mknod),
    ("CAP_LEASE", Capability::Lease),
    ("CAP_AUDIT_WRITE", Capability::AuditWrite),
    ("CAP_AUDIT_CONTROL", Capability::AuditControl),
    ("CAP_SETFCAP", Capability::Setfcap),
    ("CAP_MAC_OVERRIDE", Capability::MacOverride),
    ("CAP_MAC_ADMIN", Capability::MacAdmin),
    ("CAP_SYSLOG", Capability::Syslog),
    ("CAP_WAKE_ALARM", Capability::WakeAlarm),
    ("CAP_BLOCK_SUSPEND", Capability::BlockSuspend),
    ("CAP_AUDIT_READ", Capability::AuditRead),
    ("CAP_PERFMON", Capability::Perfmon),
    ("CAP_BPF", Capability::Bpf),
    ("CAP_CHECKPOINT_RESTORE", Capability::CheckpointRestore),
];

/// Stands for all capabilities in a request.
pub const ALL: &str = "ALL";

/// A set of capabilities, bit n standing for capability number n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapSet(pub u64);

impl CapSet {
    /// The 14 capabilities a container's root has unless asked otherwise.
    pub const DEFAULT: Self = Self(0xa804_25fb);
    /// Every capability this program knows by name.
    pub const KNOWN: Self = Self((1 << KNOWN.len()) - 1);

    /// Those that are in both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that are in this set and not in the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Those that are in either set.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The names of its members, by number.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        KNOWN
            .iter()
            .enumerate()
            .filter(move |(bit, _)| self.0 & (1 << bit) != 0)
            .map(|(_, (name, _))| *name)
    }

    /// The set as the OCI specification holds it.
    pub fn to_oci(self) -> Capabilities {
        KNOWN
            .iter()
            .enumerate()
            .filter(|(bit, _)| self.0 & (1 << bit) != 0)
            .map(|(_, (_, capability))| *capability)
            .collect()
    }

    /// The set of a normalised list, and whether it names [`ALL`].
    fn of(list: &[String]) -> (Self, bool) {
        let bit = |name: &str| {
            KNOWN
                .iter()
                .position(|(known, _)| *known == name)
                .map_or(0, |bit| 1 << bit)
        };
        let set = list.iter().fold(0, |set, name| set | bit(name));
        (Self(set), list.iter().any(|name| name == ALL))
    }
}

/// `CapAdd` or `CapDrop` with every name in capitals and with `CAP_` in front; `ALL` stays as it is. Order is kept,
/// repetitions are not.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for a capability that does not exist; `field` names the list.
pub fn normalise(field: &str, list: &[String]) -> Result<Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut normal = Vec::with_capacity(list.len());
    for given in list {
        let upper = given.to_ascii_uppercase();
        let name = if upper == ALL || upper.starts_with("CAP_") {
            upper
        } else {
            format!("CAP_{upper}")
        };
        if name != ALL && !KNOWN.iter().any(|(known, _)| *known == name) {
            return Err(Error::invalid(format!(
                "invalid {field}: unknown capability: {name:?}"
            )));
        }
        if seen.insert(name.clone()) {
            normal.push(name);
        }
    }
    Ok(normal)
}

/// The capabilities of a container's process: the default set after `drop` and `add` (both [normalised](normalise)),
/// or all if `privileged`; never more than `available` (what the engine itself may pass on).
pub fn effective(add: &[String], drop: &[String], privileged: bool, available: CapSet) -> CapSet {
    let (added, add_all) = CapSet::of(add);
    let (dropped, drop_all) = CapSet::of(drop);
    let wanted = if privileged {
        CapSet::KNOWN
    } else if add_all {
        CapSet::KNOWN.without(dropped)
    } else if drop_all {
        added
    } else {
        CapSet::DEFAULT.without(dropped).or(added)
    };
    wanted.and(available)
}

/// The capabilities named in `add` which the engine itself does not have and so cannot give.
pub fn unavailable(add: &[String], available: CapSet) -> impl Iterator<Item = &'static str> {
    CapSet::of(add).0.without(available).names()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn names_are_normalised() {
        let normal = normalise(
            "CapAdd",
            &list(&["net_admin", "CAP_SYS_TIME", "Cap_Chown", "all", "NET_ADMIN"]),
        )
        .unwrap();
        assert_eq!(normal, ["CAP_NET_ADMIN", "CAP_SYS_TIME", "CAP_CHOWN", "ALL"]);
        for bad in ["", "CAP_ALL", "CAP_", "NET ADMIN", "CAP_CAP_CHOWN", "chown,kill"] {
            let error = normalise("CapDrop", &list(&[bad])).unwrap_err().to_string();
            assert!(
                error.starts_with("invalid CapDrop: unknown capability: "),
                "{error}"
            );
        }
    }

    #[test]
    fn the_final_set_follows_from_both_lists() {
        let all = CapSet::KNOWN;
        let bit = |name: &str| CapSet::of(&list(&[name])).0;
        let table: [(&[&str], &[&str], bool, CapSet); 9] = [
            (&[], &[], false, CapSet::DEFAULT),
            (
                &["CAP_SYS_ADMIN"],
                &[],
                false,
                CapSet::DEFAULT.or(bit("CAP_SYS_ADMIN")),
            ),
            (
                &[],
                &["CAP_CHOWN"],
                false,
                CapSet::DEFAULT.without(bit("CAP_CHOWN")),
            ),
            (&[], &["ALL"], false, CapSet::default()),
            (&["CAP_KILL"], &["ALL"], false, bit("CAP_KILL")),
            (&["ALL"], &[], false, all),
            (
                &["ALL"],
                &["CAP_SYS_ADMIN"],
                false,
                all.without(bit("CAP_SYS_ADMIN")),
            ),
            (&["CAP_KILL"], &["CAP_KILL"], false, CapSet::DEFAULT),
            (&[], &["ALL"], true, all),
        ];
        for (add, drop, privileged, expected) in table {
            let set = effective(&list(add), &list(drop), privileged, all);
            assert_eq!(set, expected, "{add:?} {drop:?} {privileged}");
        }
    }

    #[test]
    fn nothing_is_given_that_is_not_there() {
        let available = CapSet::KNOWN.without(CapSet(1 << 24));
        assert_eq!(
            effective(&list(&["CAP_SYS_RESOURCE"]), &[], false, available),
            CapSet::DEFAULT
        );
        assert_eq!(effective(&[], &[], true, available), available);
        assert_eq!(
            unavailable(&list(&["CAP_SYS_RESOURCE", "CAP_BPF"]), available).collect::<Vec<_>>(),
            ["CAP_SYS_RESOURCE"]
        );
    }

    #[test]
    fn numbers_match_the_kernel() {
        assert_eq!(CapSet::KNOWN.0, 0x1ff_ffff_ffff);
        assert_eq!(CapSet::DEFAULT.names().count(), 14);
        assert_eq!(CapSet(1 << 29).names().collect::<Vec<_>>(), ["CAP_AUDIT_WRITE"]);
        assert_eq!(
            CapSet(1 << 40).to_oci().into_iter().collect::<Vec<_>>(),
            [Capability::CheckpointRestore]
        );
        assert_eq!(CapSet::DEFAULT.to_oci().len(), 14);
    }
}
