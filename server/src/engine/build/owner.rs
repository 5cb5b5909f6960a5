//! `--chown`: users and groups by number, or by the names that the image's own files know.

use std::os::fd::BorrowedFd;

use berth_runtime::{Error, Result, image::build};

/// How long /etc/passwd and /etc/group may be, in bytes.
const FILE_MAX: u64 = 4 << 20;

/// User and group of `user[:group]`; without a group, the number of the user is the group's too.
///
/// # Errors
/// Invalid for a name that the image does not know.
pub fn find(root: BorrowedFd<'_>, text: &str) -> Result<(u32, u32)> {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let bad = |what: &str, name: &str| {
        Error::invalid(format!(
            "unable to convert uid/gid chown string to host mapping: can't find {what} {name}"
        ))
    };
    let uid = match user.parse() {
        Ok(uid) => uid,
        Err(_) => lookup(root, "etc/passwd", user)?.ok_or_else(|| bad("uid for user", user))?,
    };
    let gid = match group {
        // A group of the user's name, or the same number.
        "" if user.parse::<u32>().is_err() => lookup(root, "etc/group", user)?.unwrap_or(uid),
        "" => uid,
        group => match group.parse() {
            Ok(gid) => gid,
            Err(_) => lookup(root, "etc/group", group)?.ok_or_else(|| bad("gid for grp", group))?,
        },
    };
    Ok((uid, gid))
}

fn lookup(root: BorrowedFd<'_>, path: &str, name: &str) -> Result<Option<u32>> {
    let Some(bytes) = build::read_file(root, path, FILE_MAX)? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&bytes);
    let number = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name)
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    });
    Ok(number)
}
