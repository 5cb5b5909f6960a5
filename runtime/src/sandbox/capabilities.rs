//! Capability sets as bit masks.

use oci_spec::runtime::Capability;

/// Bit of the capability `name` (`SYS_ADMIN` or `CAP_SYS_ADMIN`, in any case); none if there is no such capability.
pub(super) fn bit(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("CAP_") {
        upper
    } else {
        format!("CAP_{upper}")
    };
    full.parse::<caps::Capability>().ok().map(|c| c.bitmask())
}

/// Whether `mask` holds the capability `name`.
pub(super) fn has(mask: u64, name: &str) -> bool {
    bit(name).is_some_and(|b| mask & b != 0)
}

/// The mask of a set. Capabilities that this program does not know are left out.
pub(super) fn mask<'a>(set: impl IntoIterator<Item = &'a Capability>) -> u64 {
    set.into_iter()
        .filter_map(|c| bit(&c.to_string()))
        .fold(0, |mask, bit| mask | bit)
}

/// Highest number of a capability that masks can hold.
pub(super) const LAST: u32 = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(bit("CHOWN"), Some(1));
        assert_eq!(bit("cap_sys_admin"), Some(1 << 21));
        assert_eq!(bit("CHECKPOINT_RESTORE"), Some(1 << 40));
        assert_eq!(bit("ALL"), None);
        assert_eq!(
            mask([&Capability::Chown, &Capability::SysAdmin, &Capability::Bpf]),
            1 | 1 << 21 | 1 << 39
        );
    }
}
