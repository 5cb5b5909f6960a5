//! Sizes of volumes, kept by the file system as quotas of projects (ext4 and XFS mounted with `prjquota`).

use std::{fs::File, io, path::Path};

use crate::{Error, Kind, Result, error::Context, sys::quota};

/// Projects that are drawn: beyond those that people number by hand.
const PROJECTS: std::ops::Range<u32> = 1 << 20..1 << 31;
/// How many are tried before one is found that nobody uses.
const TRIES: usize = 16;

/// Limits what an empty directory may come to hold, in bytes.
///
/// # Errors
/// Invalid, if its file system keeps no quotas of projects; internal.
pub fn limit(directory: &Path, bytes: u64) -> Result<()> {
    let failed = || format!("cannot limit the size of {}", directory.display());
    let file = File::open(directory).context(failed)?;
    let project = free_project(&file).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOSYS | libc::ENOTTY | libc::EOPNOTSUPP | libc::ESRCH | libc::EINVAL | libc::ENOTBLK) => {
            Error::new(Kind::Invalid, "quota size requested but no quota support").caused_by(error)
        }
        _ => Error::internal(failed()).caused_by(error),
    })?;
    quota::limit(&file, project, bytes.div_ceil(1024))
        .and_then(|()| quota::set_project(&file, project))
        .context(failed)
}

/// Forgets the limit of a directory that is about to be deleted; none is fine.
///
/// # Errors
/// Internal.
pub fn lift(directory: &Path) -> Result<()> {
    let failed = || format!("cannot lift the limit of {}", directory.display());
    let file = match File::open(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.context(failed)?,
    };
    match quota::project(&file) {
        Ok(project) if PROJECTS.contains(&project) => quota::limit(&file, project, 0).context(failed),
        // Not the engine's, or a file system without projects.
        _ => Ok(()),
    }
}

/// A project that has nothing and no limit on a file system.
fn free_project(file: &File) -> io::Result<u32> {
    for _ in 0..TRIES {
        let project = rand::random_range(PROJECTS);
        let known = match quota::quota(file, project) {
            Ok(known) => known,
            // XFS knows only those that have something.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(project),
            Err(error) => return Err(error),
        };
        if known.files == 0 && known.hard_limit == 0 {
            return Ok(project);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_are_no_quotas_this_is_said() {
        let directory = tempfile::Builder::new().tempdir_in("/dev/shm").unwrap();
        let refused = limit(directory.path(), 1 << 20).unwrap_err();
        assert_eq!(refused.kind(), Kind::Invalid, "{refused}");
        assert_eq!(refused.message(), "quota size requested but no quota support");
        lift(directory.path()).unwrap();
        lift(&directory.path().join("none")).unwrap();
    }
}
