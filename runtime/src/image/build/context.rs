//! Build contexts: archives that become directories.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::{
    fs::{FileType, OFlags},
    io::Errno,
};

use super::resolve::{self, real};
use crate::{
    Error, Kind, Result,
    error::Context,
    image::{
        ahead, compress,
        limits::Limits,
        tree,
        unpack::{self, Options, Whiteouts},
    },
};

/// Unpacks the archive of a context, compressed in any known way, into the directory `root`. Everything belongs to root
/// then, as Docker has it.
///
/// # Errors
/// [`Kind::Invalid`] and [`Kind::TooLarge`] for archives that are refused: those that lead outside, hold devices, or
/// expand beyond all measure.
pub fn extract(archive: impl Read + Send, root: BorrowedFd<'_>, limits: &Limits) -> Result<()> {
    let options = Options {
        whiteouts: Whiteouts::Literal,
        owner: Some((0, 0)),
        no_devices: true,
        limits: limits.clone(),
        ..Options::default()
    };
    ahead::expanded(archive, limits, |_, plain| {
        unpack::unpack(plain, root, &options).map(drop)
    })
}

/// Whether `file` begins like an archive that `ADD` unpacks: a tar, or something compressed that holds one.
///
/// # Errors
/// If it cannot be read.
pub fn is_archive(file: &mut File, limits: &Limits) -> Result<bool> {
    let (compression, whole) = compress::recognise(file)?;
    let mut begin = Vec::new();
    let read = compress::decoder(compression, whole, limits).and_then(|plain| {
        plain
            .take(512)
            .read_to_end(&mut begin)
            .context(|| "cannot read an archive")
    });
    // Something compressed that cannot be expanded is a file like any other.
    Ok(read.is_ok() && is_tar(&begin))
}

/// Whether `block` is a tar header: its check sum is right.
fn is_tar(block: &[u8]) -> bool {
    let Some(field) = block.get(148..156).filter(|_| block.len() == 512) else {
        return false;
    };
    let digits: String = field
        .iter()
        .map(|b| char::from(*b))
        .filter(char::is_ascii_digit)
        .collect();
    let Ok(expected) = u32::from_str_radix(&digits, 8) else {
        return false;
    };
    let sum = block.iter().enumerate().map(|(at, byte)| {
        if (148..156).contains(&at) {
            u32::from(b' ')
        } else {
            u32::from(*byte)
        }
    });
    expected != 0 && sum.sum::<u32>() == expected
}

/// Removes from the directory `root` what `leave_out` takes. Below a directory that is left out is looked only if
/// `look_below` says so, and then it stays as long as something is in it.
///
/// # Errors
/// If the file system fails.
pub fn prune(root: BorrowedFd<'_>, look_below: bool, leave_out: &dyn Fn(&[u8]) -> bool) -> Result<()> {
    let mut ahead: Vec<Vec<u8>> = vec![Vec::new()];
    let mut emptied: Vec<Vec<u8>> = Vec::new();
    while let Some(dir) = ahead.pop() {
        let fd = tree::open_beneath(root, &real(&dir)?, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|errno| failed(&dir, errno))?;
        for name in resolve::names(root, &dir)? {
            let path = if dir.is_empty() {
                name.clone()
            } else {
                [&dir[..], b"/", &name].concat()
            };
            let stat = tree::stat(fd.as_fd(), &name).map_err(|errno| failed(&path, errno))?;
            let is_dir = stat.as_ref().map(tree::file_type) == Some(FileType::Directory);
            let out = leave_out(&path);
            match (is_dir, out) {
                (true, true) if look_below => {
                    emptied.push(path.clone());
                    ahead.push(path);
                }
                (true, false) => ahead.push(path),
                (_, true) => tree::remove_all(fd.as_fd(), &name).map_err(|errno| failed(&path, errno))?,
                (false, false) => {}
            }
        }
    }
    for path in emptied.iter().rev() {
        let path = real(path)?;
        let Some((parent, name)) = path.split() else {
            continue;
        };
        let parent = tree::open_beneath(root, &parent, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|errno| failed(path.as_bytes(), errno))?;
        match rustix::fs::unlinkat(&parent, tree::os(name), rustix::fs::AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOTEMPTY | Errno::NOENT) => {}
            Err(errno) => return Err(failed(path.as_bytes(), errno)),
        }
    }
    Ok(())
}

/// Reads the regular file `path` below `root`, links followed inside; none if there is nothing.
///
/// # Errors
/// Invalid if it is something else; too large if it is longer than `max` bytes.
pub fn read_file(root: BorrowedFd<'_>, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
    let found = resolve::resolve(root, path.as_bytes())?;
    match found.kind {
        None => return Ok(None),
        Some(resolve::Kind::File) => {}
        Some(_) => return Err(Error::invalid(format!("{path} is not a regular file"))),
    }
    let fd = tree::open_beneath(root, &real(&found.path)?, OFlags::RDONLY | OFlags::NONBLOCK)
        .map_err(|errno| failed(&found.path, errno))?;
    let mut bytes = Vec::new();
    File::from(fd)
        .take(max.saturating_add(1))
        .read_to_end(&mut bytes)
        .context(|| format!("cannot read {path}"))?;
    if bytes.len() as u64 > max {
        return Err(Error::new(
            Kind::Invalid,
            format!("{path} is larger than {max} bytes"),
        ));
    }
    Ok(Some(bytes))
}

fn failed(path: &[u8], errno: Errno) -> Error {
    let path = String::from_utf8_lossy(path).into_owned();
    Error::internal(format!("cannot read {path:?} of the build context")).caused_by(errno)
}
