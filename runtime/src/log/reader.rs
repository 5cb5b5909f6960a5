//! Reading a log while its writer goes on.

use std::{
    cmp::Ordering,
    collections::VecDeque,
    io::{self, Read},
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    time::SystemTime,
};

use jiff::Timestamp;
use memchr::memchr;

use super::{
    Entry, Stream,
    files::{LogFile, newer_than, scan},
    output::{Encoder, Format},
    watch::Watch,
};
use crate::{Result, error::Context};

/// Size of the buffer to begin with, in bytes.
const BUFFER: usize = 64 * 1024;

/// Longest line of a log file, in bytes. A longer one is not ours and is passed over.
const MAX_LINE: usize = 2 << 20;

/// Which entries of a log are wanted.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only the last so many, counted over both streams before the other conditions apply; none: all.
    pub tail: Option<u64>,
    /// Only entries written at this time or later.
    pub since: Option<Timestamp>,
    /// Only entries written at this time or earlier; the first later one is the end.
    pub until: Option<Timestamp>,
    /// Whether to go on with what is written later, until [`Reader::stop_following`].
    pub follow: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// What a reader has to offer.
#[derive(Debug)]
pub enum Next<'a> {
    /// The next entry.
    Entry(Entry<'a>),
    /// Nothing yet: wait until [`Reader::fd`] is readable.
    Pending,
    /// Nothing any more.
    End,
}

/// Why [`Reader::fill`] has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The limit is reached; there may be more.
    More,
    /// Nothing more yet: wait until [`Reader::fd`] is readable.
    Pending,
    /// Nothing more.
    End,
}

/// Reads a log: what is there, in order and across rotated files, then if wanted what comes.
///
/// Its calls block for nothing but the disk. It holds one buffer of 64 KiB, none while it is [`Next::Pending`].
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    query: Query,
    since: Option<Bound>,
    until: Option<Bound>,
    current: Option<LogFile>,
    rest: VecDeque<LogFile>,
    buffer: Vec<u8>,
    /// What has been read and not yet looked at.
    unread: Range<usize>,
    /// Whether the rest of a line that was too long is passed over.
    passing: bool,
    watch: Option<Watch>,
    ended: bool,
}

/// A time, also as text that compares like it.
#[derive(Debug)]
struct Bound {
    at: Timestamp,
    second: Vec<u8>,
}

impl Bound {
    fn new(at: Timestamp) -> Self {
        let mut second = at.to_string().into_bytes();
        second.truncate("2026-01-02T03:04:05".len());
        Self { at, second }
    }

    /// How an entry's time compares to this one. What is no time compares equal.
    fn compare(&self, entry: &Entry<'_>) -> Ordering {
        let time = entry.time();
        match time.get(..self.second.len()) {
            Some(second) if time.ends_with(b"Z") && second != self.second => second.cmp(&self.second),
            _ => entry
                .timestamp()
                .map_or(Ordering::Equal, |time| time.cmp(&self.at)),
        }
    }
}

/// Whether an entry is wanted.
enum Verdict {
    Wanted,
    Unwanted,
    Beyond,
}

impl Reader {
    /// Opens the log at `path`. One that does not exist (yet) is empty.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) if it cannot be read or watched.
    pub fn open(path: &Path, query: Query) -> Result<Self> {
        let watch = query.follow.then(|| Watch::new(path)).transpose()?;
        let since = query.since.and_then(|at| SystemTime::try_from(at).ok());
        let files = scan(path, |file| match since {
            Some(since) => Ok(file.modified()? < since),
            None => Ok(false),
        })
        .and_then(|files| last_lines(files, query.tail))
        .context(|| format!("cannot open the log {}", path.display()))?;
        let mut reader = Self {
            path: path.to_owned(),
            since: query.since.map(Bound::new),
            until: query.until.map(Bound::new),
            query,
            current: None,
            rest: files,
            buffer: Vec::new(),
            unread: 0..0,
            passing: false,
            watch,
            ended: false,
        };
        reader.next_file();
        Ok(reader)
    }

    /// The next entry that is wanted.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) if the disk fails or a compressed file is damaged.
    #[expect(clippy::should_implement_trait, reason = "entries borrow from the reader")]
    pub fn next(&mut self) -> Result<Next<'_>> {
        self.clear_watch();
        let wanted = loop {
            let line = match self.line()? {
                Line::At(line) => line,
                Line::Pending => return Ok(Next::Pending),
                Line::End => return Ok(Next::End),
            };
            match self.judge(&self.buffer[line.clone()]) {
                Some((_, Verdict::Wanted)) => break line,
                Some((_, Verdict::Beyond)) => self.ended = true,
                Some((_, Verdict::Unwanted)) | None => {}
            }
        };
        Ok(Entry::parse(&self.buffer[wanted]).map_or(Next::Pending, Next::Entry))
    }

    /// Appends entries to `out` in the form that Docker's logs operation sends, until it holds `limit` bytes or more.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) if the disk fails or a compressed file is damaged; what is in `out` is good.
    pub fn fill(&mut self, format: &Format, out: &mut Vec<u8>, limit: usize) -> Result<Progress> {
        self.clear_watch();
        let mut encoder = Encoder::new(*format);
        while out.len() < limit {
            let line = match self.line()? {
                Line::At(line) => line,
                Line::Pending => return Ok(Progress::Pending),
                Line::End => return Ok(Progress::End),
            };
            match self.judge(&self.buffer[line]) {
                Some((entry, Verdict::Wanted)) => encoder.push(&entry, out),
                Some((_, Verdict::Beyond)) => self.ended = true,
                Some((_, Verdict::Unwanted)) | None => {}
            }
        }
        Ok(Progress::More)
    }

    /// Readable when a reader that was pending may have more; none if it does not follow.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    /// The writer has finished: the end of the log is the end, no longer something to wait at.
    pub fn stop_following(&mut self) {
        self.query.follow = false;
    }

    fn clear_watch(&self) {
        if let Some(watch) = &self.watch {
            watch.clear();
        }
    }

    /// Takes an entry apart and decides on it; none for a line that is no entry.
    fn judge<'a>(&self, line: &'a [u8]) -> Option<(Entry<'a>, Verdict)> {
        let entry = Entry::parse(line)?;
        let wanted = match entry.stream {
            Stream::Stdout => self.query.stdout,
            Stream::Stderr => self.query.stderr,
        };
        let verdict = if self
            .since
            .as_ref()
            .is_some_and(|since| since.compare(&entry).is_lt())
        {
            Verdict::Unwanted
        } else if self
            .until
            .as_ref()
            .is_some_and(|until| until.compare(&entry).is_gt())
        {
            Verdict::Beyond
        } else if wanted {
            Verdict::Wanted
        } else {
            Verdict::Unwanted
        };
        Some((entry, verdict))
    }

    /// The next whole line, as a part of the buffer, without its newline.
    fn line(&mut self) -> Result<Line> {
        loop {
            if self.ended {
                return Ok(Line::End);
            }
            let Range { start, end } = self.unread;
            if let Some(at) = memchr(b'\n', self.buffer.get(start..end).unwrap_or_default()) {
                self.unread.start = start + at + 1;
                let passed = std::mem::take(&mut self.passing);
                match self.current.as_mut().filter(|file| file.skip > 0) {
                    Some(file) => file.skip -= 1,
                    None if passed => {}
                    None => return Ok(Line::At(start..start + at)),
                }
                continue;
            }
            if self.read()? == 0
                && let Some(line) = self.at_end()?
            {
                return Ok(line);
            }
        }
    }

    /// Reads on in the current file, making room for it.
    fn read(&mut self) -> Result<usize> {
        let Some(file) = &mut self.current else {
            return Ok(0);
        };
        if self.unread.is_empty() {
            self.unread = 0..0;
        } else if self.unread.start > 0 && self.unread.end == self.buffer.len() {
            self.buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        if self.unread.end == self.buffer.len() {
            if self.buffer.len() >= MAX_LINE {
                self.passing = true;
                self.unread = 0..0;
            } else {
                self.buffer.resize((self.buffer.len() * 2).max(BUFFER), 0);
            }
        }
        let room = self.buffer.get_mut(self.unread.end..).unwrap_or_default();
        loop {
            match file.read(room) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context(|| format!("cannot read the log {}", self.path.display())),
                Ok(length) => {
                    self.unread.end += length;
                    return Ok(length);
                }
            }
        }
    }

    /// What to do at the end of a file; none: read on.
    fn at_end(&mut self) -> Result<Option<Line>> {
        if self.rest.is_empty() && self.watch.is_some() {
            self.look_for_newer()?;
            // What was written between the last read and the rotation.
            if self.read()? > 0 {
                self.rest.clear();
                return Ok(None);
            }
        }
        if self.next_file() {
            return Ok(None);
        }
        if !self.query.follow {
            self.ended = true;
            return Ok(Some(Line::End));
        }
        if self.unread.is_empty() {
            self.buffer = Vec::new();
            self.unread = 0..0;
        }
        Ok(Some(Line::Pending))
    }

    /// Finds the files that a writer has begun since the current one.
    fn look_for_newer(&mut self) -> Result<()> {
        let found = match &self.current {
            Some(current) if current.is_at(&self.path) => return Ok(()),
            Some(current) => newer_than(current, &self.path),
            None => scan(&self.path, |_| Ok(false)).map(|mut files| {
                files.reverse();
                files
            }),
        };
        self.rest = found
            .context(|| format!("cannot open the log {}", self.path.display()))?
            .into();
        Ok(())
    }

    /// Goes on to the next file, if there is one. What is left of a torn line is dropped.
    fn next_file(&mut self) -> bool {
        let Some(next) = self.rest.pop_front() else {
            return false;
        };
        if let Some(watch) = &mut self.watch {
            watch.follow(next.file());
        }
        self.current = Some(next);
        self.unread = 0..0;
        self.passing = false;
        true
    }
}

/// Puts `files`, given newest first, in order, and leaves out all but the last `lines` lines.
fn last_lines(files: Vec<LogFile>, lines: Option<u64>) -> io::Result<VecDeque<LogFile>> {
    let mut kept = VecDeque::new();
    let mut left = lines;
    for mut file in files {
        if let Some(left) = &mut left {
            *left -= file.skip_to_last(*left)?;
        }
        kept.push_front(file);
        if left == Some(0) {
            break;
        }
    }
    Ok(kept)
}

/// What [`Reader::line`] found.
enum Line {
    At(Range<usize>),
    Pending,
    End,
}

#[cfg(test)]
mod tests;
