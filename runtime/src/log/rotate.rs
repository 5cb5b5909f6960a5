//! The files behind one log: renaming on rotation, compressing what was rotated.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use flate2::{Compression, GzBuilder};
use nix::{
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::Pid,
};

use super::files::write_origin;
use crate::{failpoint::hit, sys::fork};

/// `path` with `.suffix` appended.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// The two names that rotated file number `n` can have: plain and compressed.
pub(super) fn rotated(path: &Path, n: u32) -> [PathBuf; 2] {
    [
        with_suffix(path, &n.to_string()),
        with_suffix(path, &format!("{n}.gz")),
    ]
}

/// Moves every file one number up and drops the one beyond `max_file` files. Afterwards there is no file at `path`.
pub(super) fn shift(path: &Path, max_file: u32) -> io::Result<()> {
    if max_file < 2 {
        return absent_is_fine(fs::remove_file(path));
    }
    hit("log.shift")?;
    let mut free = 1;
    while rotated(path, free).iter().any(|p| p.exists()) {
        free += 1;
    }
    // More than one only if an earlier configuration allowed more files.
    for n in (max_file - 1)..free {
        for name in rotated(path, n) {
            absent_is_fine(fs::remove_file(name))?;
        }
    }
    for n in (1..free.min(max_file - 1)).rev() {
        for (from, to) in rotated(path, n).into_iter().zip(rotated(path, n + 1)) {
            absent_is_fine(fs::rename(from, to))?;
        }
    }
    hit("log.rename")?;
    absent_is_fine(fs::rename(path, with_suffix(path, "1")))
}

/// Removes the oldest rotated file; false if there is none.
pub(super) fn drop_oldest(path: &Path) -> bool {
    let mut n = 1;
    while rotated(path, n).iter().any(|p| p.exists()) {
        n += 1;
    }
    n > 1
        && rotated(path, n - 1)
            .into_iter()
            .any(|name| fs::remove_file(name).is_ok())
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// A process that compresses the file just rotated, so that the container's output does not wait for it.
#[derive(Debug)]
pub(super) struct Compressor(Pid);

impl Compressor {
    /// Starts compressing `<path>.1`. A process with threads cannot fork and does it at once instead.
    pub(super) fn start(path: &Path) -> io::Result<Option<Self>> {
        let path = path.to_owned();
        let child = fork::fork(|| {
            // Holding the container's pipes or the bundle's lock here would keep others waiting.
            let closed = fork::close_from(3);
            i32::from(closed.is_err() || compress(&path).is_err())
        });
        match child {
            Ok(pid) => Ok(Some(Self(pid))),
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => compress(&path).map(|()| None),
            Err(e) => Err(e),
        }
    }

    /// Whether it has ended; once true, it must not be asked again.
    pub(super) fn has_ended(&self) -> bool {
        !matches!(
            waitpid(self.0, Some(WaitPidFlag::WNOHANG)),
            Ok(WaitStatus::StillAlive)
        )
    }

    /// Waits for its end.
    pub(super) fn wait(self) {
        while let Err(nix::Error::EINTR) = waitpid(self.0, None) {}
    }
}

/// Replaces `<path>.1` by `<path>.1.gz`. At every moment at least one of the two is complete.
fn compress(path: &Path) -> io::Result<()> {
    let [plain, compressed] = rotated(path, 1);
    let temporary = with_suffix(path, "gz.new");
    let mut source = File::open(&plain)?;
    hit("log.compress")?;
    let target = super::writer::create(&temporary)?;
    target.set_len(0)?;
    let origin = source.metadata()?;
    let header = GzBuilder::new().extra(write_origin(&origin));
    let mut encoder = header.write(target, Compression::fast());
    let done = io::copy(&mut source, &mut encoder)
        .and_then(|_| encoder.finish())
        // A reader goes by it to tell whether the file is of interest.
        .and_then(|target| target.set_modified(origin.modified()?));
    if let Err(e) = done {
        let _ = fs::remove_file(&temporary);
        return Err(e);
    }
    hit("log.compressed")?;
    fs::rename(&temporary, &compressed)?;
    hit("log.plain")?;
    fs::remove_file(&plain)
}
