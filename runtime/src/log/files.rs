//! The files of one log as a reader sees them while a writer may be renaming them.

use std::{
    fs::{File, Metadata},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    time::SystemTime,
};

use flate2::read::MultiGzDecoder;
use memchr::{memchr_iter, memrchr_iter};

use super::rotate::rotated;

/// How much is read at once where only newlines are counted, in bytes.
const BLOCK: usize = 64 * 1024;

/// Device, inode and time of birth (nanoseconds since the epoch; 0 if the file system has none) of a file. The last
/// tells it from a later file that got the number of one long gone.
type Identity = [u64; 3];

/// One file of a log, open.
#[derive(Debug)]
pub(super) struct LogFile {
    content: Content,
    identity: Identity,
    /// Identity of the file that this one was compressed from.
    origin: Option<Identity>,
    /// Lines at its beginning that are not wanted.
    pub skip: u64,
}

#[derive(Debug)]
enum Content {
    Plain(File),
    Compressed(Box<MultiGzDecoder<File>>),
}

impl LogFile {
    fn open(path: &Path, compressed: bool) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let identity = identity(&file.metadata()?);
        let (content, origin) = match compressed {
            true => {
                let decoder = Box::new(MultiGzDecoder::new(file));
                let origin = decoder.header().and_then(|header| read_origin(header.extra()?));
                (Content::Compressed(decoder), origin)
            }
            false => (Content::Plain(file), None),
        };
        Ok(Some(Self {
            content,
            identity,
            origin,
            skip: 0,
        }))
    }

    /// The file being written, if there is one.
    pub fn current(path: &Path) -> io::Result<Option<Self>> {
        Self::open(path, false)
    }

    /// Rotated file number `n`, if there is one.
    fn rotated(path: &Path, n: u32) -> io::Result<Option<Self>> {
        let [plain, compressed] = rotated(path, n);
        // The compressed one appears before the plain one goes.
        match Self::open(&plain, false)? {
            Some(file) => Ok(Some(file)),
            None => Self::open(&compressed, true),
        }
    }

    /// The file as it is on disk.
    pub fn file(&self) -> &File {
        match &self.content {
            Content::Plain(file) => file,
            Content::Compressed(decoder) => decoder.get_ref(),
        }
    }

    /// When it was last written to.
    pub fn modified(&self) -> io::Result<SystemTime> {
        self.file().metadata()?.modified()
    }

    /// Whether both hold the same entries: as one file, or as a file and what it was compressed to.
    fn is_same(&self, other: &Self) -> bool {
        let made_from = |a: &Self, b: &Self| b.origin.is_none() && a.origin == Some(b.identity);
        self.identity == other.identity || made_from(self, other) || made_from(other, self)
    }

    /// Whether it is still the file at `path`.
    pub fn is_at(&self, path: &Path) -> bool {
        path.metadata().is_ok_and(|m| identity(&m) == self.identity)
    }

    /// Skips all but the last `lines` lines; gives how many there are of them.
    pub fn skip_to_last(&mut self, lines: u64) -> io::Result<u64> {
        match &mut self.content {
            Content::Plain(file) => {
                let (found, start) = find_last(file, lines)?;
                file.seek(SeekFrom::Start(start))?;
                Ok(found)
            }
            Content::Compressed(decoder) => {
                let all = count(decoder)?;
                let mut file = decoder.get_ref().try_clone()?;
                file.seek(SeekFrom::Start(0))?;
                **decoder = MultiGzDecoder::new(file);
                self.skip = all.saturating_sub(lines);
                Ok(all.min(lines))
            }
        }
    }
}

fn identity(metadata: &Metadata) -> Identity {
    let born = metadata
        .created()
        .ok()
        .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    let born = born.and_then(|at| u64::try_from(at.as_nanos()).ok());
    [metadata.dev(), metadata.ino(), born.unwrap_or(0)]
}

/// A gzip extra field: two letters of identification, the length, the content (RFC 1952, 2.3.1.1).
const ORIGIN: &[u8] = b"BL\x18\0";

/// What the header of a compressed file says about the file it was made from.
pub(super) fn write_origin(metadata: &Metadata) -> Vec<u8> {
    [ORIGIN, identity(metadata).map(u64::to_le_bytes).as_flattened()].concat()
}

fn read_origin(extra: &[u8]) -> Option<Identity> {
    let numbers = extra.strip_prefix(ORIGIN)?;
    let number = |n: usize| {
        Some(u64::from_le_bytes(
            numbers.get(n * 8..n * 8 + 8)?.try_into().ok()?,
        ))
    };
    Some([number(0)?, number(1)?, number(2)?])
}

impl Read for LogFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.content {
            Content::Plain(file) => file.read(buffer),
            Content::Compressed(decoder) => decoder.read(buffer),
        }
    }
}

/// Where the last `lines` lines of `file` begin, and how many there are. An unfinished last line counts for nothing.
fn find_last(file: &File, lines: u64) -> io::Result<(u64, u64)> {
    let mut buffer = vec![0; BLOCK];
    let mut end = file.metadata()?.len();
    // The newline that ends the last line is one more than lines begin after newlines.
    let mut newlines = 0;
    let mut last_line_end = None;
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        let block = &mut buffer[..usize::try_from(end - start).unwrap_or(BLOCK)];
        file.read_exact_at(block, start)?;
        for at in memrchr_iter(b'\n', block) {
            last_line_end.get_or_insert(start + at as u64 + 1);
            if newlines == lines {
                return Ok((lines, start + at as u64 + 1));
            }
            newlines += 1;
        }
        end = start;
    }
    Ok((newlines, 0))
}

fn count(source: &mut impl Read) -> io::Result<u64> {
    let mut buffer = vec![0; BLOCK];
    let mut lines = 0;
    loop {
        match source.read(&mut buffer)? {
            0 => return Ok(lines),
            length => lines += memchr_iter(b'\n', &buffer[..length]).count() as u64,
        }
    }
}

/// How often a scan is begun anew because the writer has begun a new file meanwhile.
const ATTEMPTS: usize = 100;

/// Opens the files of the log at `path`, newest first, up to and including the first that `is_last`.
///
/// Newest first, because a rotation meanwhile moves files away from the beginning: one may be met twice, which is
/// noticed, but none is missed. Files that have come meanwhile would be met in the wrong place, so then it is begun anew.
pub(super) fn scan(path: &Path, is_last: impl Fn(&LogFile) -> io::Result<bool>) -> io::Result<Vec<LogFile>> {
    let mut files = Vec::new();
    for _ in 0..ATTEMPTS {
        let current = LogFile::current(path)?;
        let identity = current.as_ref().map(|file| file.identity);
        files = scan_from(path, current, &is_last)?;
        if path.metadata().ok().map(|m| self::identity(&m)) == identity {
            break;
        }
    }
    Ok(files)
}

fn scan_from(
    path: &Path,
    current: Option<LogFile>,
    is_last: &impl Fn(&LogFile) -> io::Result<bool>,
) -> io::Result<Vec<LogFile>> {
    let mut files: Vec<LogFile> = Vec::new();
    let mut missing = 0;
    let mut next = current;
    // In the middle of a rotation there is a gap, between two of them another.
    for n in 1.. {
        match next.take() {
            None => missing += 1,
            Some(file) => {
                missing = 0;
                if !files.iter().any(|f| f.is_same(&file)) {
                    let done = is_last(&file)?;
                    files.push(file);
                    if done {
                        break;
                    }
                }
            }
        }
        if missing == 3 {
            break;
        }
        next = LogFile::rotated(path, n)?;
    }
    Ok(files)
}

/// The files that follow `last` in the log at `path`, oldest first.
pub(super) fn newer_than(last: &LogFile, path: &Path) -> io::Result<Vec<LogFile>> {
    let mut files = scan(path, |file| Ok(file.is_same(last)))?;
    if files.last().is_some_and(|file| file.is_same(last)) {
        files.pop();
    } else {
        // It has been dropped; so has everything older, but for what a scan in the middle of a rotation mistakes.
        let at = last.modified()?;
        files.retain(|file| file.modified().is_ok_and(|modified| modified >= at));
    }
    files.reverse();
    Ok(files)
}
