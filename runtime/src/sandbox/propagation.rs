//! Whether a directory of the host can share its mounts with a sandbox.

use std::{fs, fs::File, path::Path};

use rustix::mount::MountPropagationFlags;

use super::{options::Propagate, root::mount_id};
use crate::{Error, Result, error::Context};

/// Checks that the mount which `source` lies on passes on (and takes) mounts as `wanted` needs it: shared ones do both,
/// a slave one can be a master's slave only if it is shared or a slave itself.
pub(super) fn check(source: &Path, wanted: Propagate) -> Result<()> {
    let (shared, slave) = (
        wanted.flags == MountPropagationFlags::SHARED,
        wanted.flags == MountPropagationFlags::DOWNSTREAM,
    );
    if !shared && !slave {
        return Ok(());
    }
    let name = source.display();
    let id = File::open(source)
        .and_then(mount_id)
        .context(|| format!("cannot examine {name}"))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").context(|| "cannot list the mounts")?;
    let Some((mountpoint, tags)) = find(&mounts, id) else {
        return Err(Error::internal(format!(
            "cannot find the mount that {name} is on"
        )));
    };
    let has = |tag: &str| tags.iter().any(|t| t.starts_with(tag));
    let refuse = |kind| {
        Err(Error::internal(format!(
            "path {name} is mounted on {mountpoint} but it is not a {kind} mount"
        )))
    };
    match () {
        () if shared && !has("shared:") => refuse("shared"),
        () if slave && !has("shared:") && !has("master:") => refuse("shared or slave"),
        () => Ok(()),
    }
}

/// Mount point and optional fields of the mount with number `id` (proc(5), mountinfo).
fn find(mounts: &str, id: u64) -> Option<(&str, Vec<&str>)> {
    let line = mounts
        .lines()
        .find(|l| l.split(' ').next().and_then(|n| n.parse().ok()) == Some(id))?;
    let mut fields = line.split(' ').skip(4);
    let mountpoint = fields.next()?;
    Some((mountpoint, fields.skip(1).take_while(|f| *f != "-").collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_fields() {
        let mounts = "20 1 0:1 / / rw shared:1 master:2 - ext4 x rw\n21 20 0:2 / /proc rw - proc proc rw\n";
        assert_eq!(find(mounts, 20), Some(("/", vec!["shared:1", "master:2"])));
        assert_eq!(find(mounts, 21), Some(("/proc", vec![])));
        assert_eq!(find(mounts, 2), None);
    }
}
