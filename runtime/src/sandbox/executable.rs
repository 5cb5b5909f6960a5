//! Keeping the engine's own program out of reach.
//!
//! Until it executes its program, a container's process is a copy of the engine, and `/proc/<pid>/exe` leads to the
//! engine's file, past all mount namespaces; a script with the interpreter `/proc/self/exe` even executes it inside the
//! container. The kernel refuses to write to a file while it runs, but no longer. So the engine runs from a read-only
//! mount of its file, through which it can never be written to.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{fd::AsFd, unix::ffi::OsStringExt},
    path::Path,
};

use rustix::{fs::StatVfsMountFlags, mount::MountAttrFlags as Attr};

use super::filesystem;
use crate::{
    Result,
    error::Context,
    sys::{
        mount::{Change, mount_setattr},
        process,
    },
};

const SELF: &str = "/proc/self/exe";

/// Executes the calling program again, with the same arguments and environment, from a read-only mount of its file that
/// is attached nowhere; returns at once if that is so already. To be called at the very beginning, before there are
/// threads or open files: those without close-on-exec stay open.
///
/// Afterwards `/proc/self/exe`, and with it [`std::env::current_exe`], no longer names a path of the host.
///
/// # Errors
/// Internal, if the kernel refuses; the program then goes on as it was.
pub fn run_from_read_only_copy() -> Result<()> {
    let message = || "cannot protect the engine's program";
    let file = File::open(SELF).context(message)?;
    if is_read_only(&file).context(message)? {
        return Ok(());
    }
    let copy = filesystem::clone_tree(Path::new(SELF), false)?;
    let change = Change {
        set: Attr::MOUNT_ATTR_RDONLY,
        ..Change::none()
    };
    mount_setattr(&copy, &change).context(message)?;
    let text = |s: std::ffi::OsString| CString::new(s.into_vec()).map_err(io::Error::other);
    let arguments = std::env::args_os()
        .map(text)
        .collect::<io::Result<Vec<_>>>()
        .context(message)?;
    let variable = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let mut both = name;
        both.push("=");
        both.push(value);
        text(both)
    };
    let environment = std::env::vars_os()
        .map(variable)
        .collect::<io::Result<Vec<_>>>()
        .context(message)?;
    Err(process::execute_file(copy.as_fd(), &arguments, &environment)).context(message)
}

fn is_read_only(file: &File) -> io::Result<bool> {
    Ok(rustix::fs::fstatvfs(file)?
        .f_flag
        .contains(StatVfsMountFlags::RDONLY))
}
