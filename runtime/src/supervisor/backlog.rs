//! Output that some attached client has yet to take: an unlinked file of bounded size and, behind it, a little memory.

use std::{
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::FileExt},
    path::PathBuf,
};

use rustix::{
    fs::{FallocateFlags, Mode, OFlags, fallocate},
    io::{Errno, pread},
    net::{SendFlags, send},
};

/// Room freed at the front is given back to the file system in steps of this size, in bytes.
const PUNCH: u64 = 1 << 20;

/// Most that one call passes on, in bytes; a buffer of this size is on the stack.
const STEP: usize = 16 * 1024;

/// A queue of bytes with positions that every client follows on its own.
#[derive(Debug)]
pub(super) struct Backlog {
    directory: PathBuf,
    limit: u64,
    file: Option<File>,
    /// The file holds positions `start..end`.
    start: u64,
    end: u64,
    /// Up to here the file's blocks have been given back.
    punched: u64,
    /// What follows at `end`.
    held: Vec<u8>,
}

impl Backlog {
    /// At most `limit` bytes in a file made in `directory`.
    pub fn new(directory: PathBuf, limit: u64) -> Self {
        Self {
            directory,
            limit,
            file: None,
            start: 0,
            end: 0,
            punched: 0,
            held: Vec::new(),
        }
    }

    /// Whether the file has taken everything so far, so that more may come.
    pub fn has_room(&self) -> bool {
        self.held.is_empty()
    }

    /// Position behind the last byte kept.
    pub fn written(&self) -> u64 {
        self.end + self.held.len() as u64
    }

    /// Keeps `parts`: in the file if there is room, else in memory.
    pub fn keep(&mut self, parts: &[&[u8]]) {
        if self.held.is_empty() && self.append(parts).is_ok() {
            return;
        }
        for part in parts {
            self.held.extend_from_slice(part);
        }
    }

    /// Writes to the end of the file. What was written of `parts` when it fails is overwritten by the next attempt.
    fn append(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let length: u64 = parts.iter().map(|p| p.len() as u64).sum();
        if self.end - self.start + length > self.limit {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::from(rustix::fs::open(
                &self.directory,
                OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
                Mode::RUSR | Mode::WUSR,
            )?)),
        };
        let mut at = self.end;
        for part in parts {
            file.write_all_at(part, at)?;
            at += part.len() as u64;
        }
        self.end = at;
        Ok(())
    }

    /// Passes up to `most` bytes from `position` on to `socket`, without blocking; gives the number sent.
    pub fn send<S: AsFd>(&self, socket: S, position: u64, most: u64) -> Result<u64, Errno> {
        let most = usize::try_from(most).unwrap_or(STEP).min(STEP);
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        if position < self.end {
            // Not sendfile(2): it queues the file's pages themselves, which are written to again before they are read.
            let mut buffer = [0; STEP];
            let file = self.file.as_ref().ok_or(Errno::BADF)?;
            let most = most.min(usize::try_from(self.end - position).unwrap_or(STEP));
            let read = pread(file, &mut buffer[..most], position)?;
            return send(socket, &buffer[..read], flags).map(|sent| sent as u64);
        }
        let from = usize::try_from(position - self.end).unwrap_or(usize::MAX);
        let bytes = self.held.get(from..).unwrap_or_default();
        let bytes = &bytes[..bytes.len().min(most)];
        send(socket, bytes, flags).map(|sent| sent as u64)
    }

    /// The eight bytes at `position`.
    pub fn header(&self, position: u64) -> io::Result<[u8; 8]> {
        let mut header = [0; 8];
        if position < self.end {
            let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
            file.read_exact_at(&mut header, position)?;
        } else {
            let from = usize::try_from(position - self.end).unwrap_or(usize::MAX);
            let bytes = self
                .held
                .get(from..from.saturating_add(8))
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            header.copy_from_slice(bytes);
        }
        Ok(header)
    }

    /// Forgets what every client has taken: everything below `needed`, or everything.
    pub fn release(&mut self, needed: Option<u64>) {
        let Some(needed) = needed else {
            self.held.clear();
            self.start = 0;
            self.end = 0;
            self.punched = 0;
            return;
        };
        self.start = needed.min(self.end);
        if self.start - self.punched >= PUNCH {
            if let Some(file) = &self.file {
                // A file system that cannot do it keeps the blocks until the file is closed.
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let _ = fallocate(file, mode, self.punched, self.start - self.punched);
            }
            self.punched = self.start;
        }
        if needed > self.end {
            let taken = usize::try_from(needed - self.end)
                .unwrap_or(usize::MAX)
                .min(self.held.len());
            self.held.drain(..taken);
            self.end = needed;
            self.start = needed;
            self.punched = needed;
        }
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() && self.append(&[&held]).is_err() {
            self.held = held;
        }
    }

    /// Gives back file and memory if nothing is kept.
    pub fn rest(&mut self) {
        if self.written() == self.start {
            self.release(None);
            self.file = None;
            self.held = Vec::new();
        }
    }
}
