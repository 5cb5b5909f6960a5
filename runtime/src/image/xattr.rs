//! Extended attributes of files in layers.

use std::os::fd::AsFd;

use rustix::{
    fs::{self, XattrFlags},
    io::Errno,
};

use super::{tar_reader::Xattr, tree};

/// Attributes by which overlayfs directs itself. In an archive they are forged, and out of a layer they are not copied.
const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
/// overlayfs's mark of a directory that shows nothing of the layers below.
const OPAQUE: &str = "trusted.overlay.opaque";
/// XATTR_LIST_MAX and XATTR_SIZE_MAX of the kernel.
const MAX: usize = 64 * 1024;

/// Whether `name` is one of overlayfs's own.
pub fn is_overlay(name: &[u8]) -> bool {
    OVERLAY.iter().any(|prefix| name.starts_with(prefix))
}

/// All attributes of the file `fd`, however it was opened, but overlayfs's own; sorted by name.
///
/// # Errors
/// As listxattr(2), getxattr(2); a file system without attributes has none.
pub fn read(fd: impl AsFd) -> Result<Vec<Xattr>, Errno> {
    // Most files have none, and asking for the length is cheaper than the largest buffer.
    let length = match fs::flistxattr_query(&fd) {
        // Opened with O_PATH.
        Err(Errno::BADF) => fs::listxattr_query(tree::proc_path(fd.as_fd())),
        result => result,
    };
    let path = tree::proc_path(fd.as_fd());
    let mut names = match length {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(_) => vec![0; MAX],
        Err(e) => return Err(e),
    };
    let n = fs::listxattr(&path, &mut names[..])?;
    let mut all = Vec::new();
    for name in names.get(..n).unwrap_or_default().split(|b| *b == 0) {
        if name.is_empty() || is_overlay(name) {
            continue;
        }
        let mut value = vec![0; MAX];
        match fs::getxattr(&path, tree::os(name), &mut value[..]) {
            Ok(n) => value.truncate(n),
            // Listed and not readable, or gone meanwhile.
            Err(Errno::NODATA | Errno::NOTSUP) => continue,
            Err(e) => return Err(e),
        }
        all.push(Xattr {
            name: name.to_vec(),
            value,
        });
    }
    all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Whether overlayfs shows nothing of lower layers in the directory `dir`.
///
/// # Errors
/// As getxattr(2).
pub fn is_opaque(dir: impl AsFd) -> Result<bool, Errno> {
    let mut value = [0_u8; 8];
    match fs::getxattr(tree::proc_path(dir.as_fd()), OPAQUE, &mut value[..]) {
        Ok(n) => Ok(value.get(..n) == Some(b"y")),
        // A longer value is none of overlayfs's.
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Makes overlayfs show nothing of lower layers in the directory `dir`, which must not be opened with O_PATH.
///
/// # Errors
/// As fsetxattr(2).
pub fn set_opaque(dir: impl AsFd) -> Result<(), Errno> {
    fs::fsetxattr(dir, OPAQUE, b"y", XattrFlags::empty())
}
