//! What is below every image: the places that something is mounted on in every container. An image that has them itself
//! shows its own. They belong to no layer, so that they are neither a change of a container nor part of its images.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use crate::{Result, error::Context};

const DIRECTORIES: [&str; 4] = ["dev", "etc", "proc", "sys"];
/// The first one is how programs tell that they are in a container.
const FILES: [&str; 4] = [".dockerenv", "etc/hostname", "etc/hosts", "etc/resolv.conf"];
/// Where programs look for mounted file systems.
const MTAB: (&str, &str) = ("/proc/mounts", "etc/mtab");

/// The directory below `root`, made if needed.
///
/// # Errors
/// If the file system fails.
pub fn open(root: &Path) -> Result<PathBuf> {
    let base = root.join("base");
    make(&base).context(|| format!("cannot make {}", base.display()))?;
    Ok(base)
}

fn make(base: &Path) -> io::Result<()> {
    for dir in std::iter::once(base.to_owned()).chain(DIRECTORIES.map(|name| base.join(name))) {
        there_is_fine(DirBuilder::new().mode(0o755).create(&dir))?;
        // Whatever the umask says.
        fs::set_permissions(&dir, Permissions::from_mode(0o755))?;
    }
    for name in FILES {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(base.join(name));
        there_is_fine(file.and_then(|file| file.set_permissions(Permissions::from_mode(0o644))))?;
    }
    there_is_fine(symlink(MTAB.0, base.join(MTAB.1)))
}

fn there_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
