//! Reads tar archives (v7, ustar, PAX, GNU) as a stream of entries.
//!
//! Field layout and names come from the `tar` crate's headers. Extensions are read here, strictly and within
//! [`Limits`], because every place where readers disagree is a place to hide an entry: what GNU tar, Go and this reader
//! would take differently is refused instead of guessed.

mod numeric;
mod pax;
mod sparse;

use std::io::BufRead;

use tar::Header;

pub use self::sparse::Segment;
use self::{numeric::unsigned, pax::Pax};
use super::{
    limits::Limits,
    path::{RelPath, shown},
};
use crate::{Error, Result};

const BLOCK: u64 = 512;

/// A point in time as tar has it: seconds since 1970 and 0 to 999,999,999 nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    pub secs: i64,
    pub nanos: i64,
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xattr {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

/// What an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// One member of an archive.
#[derive(Clone, Debug)]
pub struct Entry {
    pub path: RelPath,
    pub kind: Kind,
    /// Permission bits with set-user-ID, set-group-ID and sticky bit.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// Bytes of the file, holes included; 0 for everything but files.
    pub size: u64,
    /// Target of a symbolic link, or the name of the entry that a hard link repeats, as written.
    pub link: Vec<u8>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    pub xattrs: Vec<Xattr>,
    /// For a sparse file what of it is in the archive.
    pub segments: Option<Vec<Segment>>,
}

/// Reads the entries of a tar stream one after the other.
pub struct TarReader<'l, R> {
    input: R,
    limits: &'l Limits,
    /// Data bytes of the current entry that were not read yet.
    remaining: u64,
    /// Zeros behind them up to the next block.
    padding: u64,
    entries: u64,
    max_entries: u64,
    ended: bool,
}

/// The records before an entry that describe it.
#[derive(Default)]
struct Extensions {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<'l, R: BufRead> TarReader<'l, R> {
    /// A reader of `input` that gives up after `max_entries`.
    pub fn new(input: R, limits: &'l Limits, max_entries: u64) -> Self {
        Self {
            input,
            limits,
            remaining: 0,
            padding: 0,
            entries: 0,
            max_entries,
            ended: false,
        }
    }

    /// The next entry; what was left of the data of the one before is skipped. `None` at the end of the archive.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] if the archive is malformed, cut off or exceeds a limit.
    pub fn next(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_data()?;
            let Some(header) = self.read_header()? else {
                if extensions.pax.is_some()
                    || extensions.long_name.is_some()
                    || extensions.long_link.is_some()
                {
                    return Err(invalid("extension records without an entry"));
                }
                return Ok(None);
            };
            self.entries += 1;
            if self.entries > self.max_entries {
                return Err(Error::new(
                    crate::Kind::TooLarge,
                    format!("archive has more than {} entries", self.max_entries),
                ));
            }
            let size = unsigned(&header.as_old().size, "size")?;
            self.set_data(size)?;
            match flag(&header) {
                b'x' => {
                    let data = self.read_extension(size)?;
                    replace_none(&mut extensions.pax, pax::parse(&data)?, "PAX headers")?;
                }
                b'g' => pax::check_global(&self.read_extension(size)?)?,
                b'L' => {
                    let name = self.read_name(size)?;
                    replace_none(&mut extensions.long_name, name, "long names")?;
                }
                b'K' => {
                    let name = self.read_name(size)?;
                    replace_none(&mut extensions.long_link, name, "long link names")?;
                }
                // A GNU volume label is no file.
                b'V' => {}
                _ => return self.entry(&header, size, extensions).map(Some),
            }
        }
    }

    /// A piece of the current entry's data, as stored; empty at its end. [`Self::consume`] says how much was used.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] if the archive ends before the data does.
    pub fn data(&mut self) -> Result<&[u8]> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let buffer = self.input.fill_buf().map_err(read_error)?;
        if buffer.is_empty() {
            return Err(cut_off());
        }
        let n = usize::try_from(self.remaining)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        Ok(buffer.get(..n).unwrap_or_default())
    }

    /// Marks `n` bytes of what [`Self::data`] gave as used.
    pub fn consume(&mut self, n: usize) {
        self.input.consume(n);
        self.remaining = self.remaining.saturating_sub(n as u64);
    }

    /// Reads whatever follows the archive in the stream, so that what is around it is complete too.
    ///
    /// # Errors
    /// As reading gave.
    pub fn finish(mut self) -> Result<R> {
        loop {
            let n = self.input.fill_buf().map_err(read_error)?.len();
            if n == 0 {
                return Ok(self.input);
            }
            self.input.consume(n);
        }
    }

    fn set_data(&mut self, size: u64) -> Result<()> {
        if i64::try_from(size).is_err() {
            return Err(invalid("size out of range"));
        }
        self.remaining = size;
        self.padding = size.next_multiple_of(BLOCK) - size;
        Ok(())
    }

    fn skip_data(&mut self) -> Result<()> {
        let mut left = self.remaining + self.padding;
        while left > 0 {
            let n = self.input.fill_buf().map_err(read_error)?.len();
            if n == 0 {
                // Some writers leave out the padding of the very last entry.
                return if self.remaining == 0 || left <= self.padding {
                    self.stop()
                } else {
                    Err(cut_off())
                };
            }
            let n = usize::try_from(left).unwrap_or(usize::MAX).min(n);
            self.input.consume(n);
            left -= n as u64;
        }
        (self.remaining, self.padding) = (0, 0);
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        (self.remaining, self.padding, self.ended) = (0, 0, true);
        Ok(())
    }

    /// The next header block; `None` at two blocks of zeros or the end of the stream.
    fn read_header(&mut self) -> Result<Option<Header>> {
        let mut zeros = 0;
        while !self.ended {
            let mut header = Header::new_old();
            if !self.read_block(header.as_mut_bytes())? {
                break;
            }
            if header.as_bytes().iter().all(|b| *b == 0) {
                zeros += 1;
                if zeros == 2 {
                    break;
                }
                continue;
            }
            if zeros != 0 {
                return Err(invalid("data after a block of zeros"));
            }
            check_sum(&header)?;
            return Ok(Some(header));
        }
        self.ended = true;
        Ok(None)
    }

    /// Fills `block`; `false` if the stream ended before its first byte.
    fn read_block(&mut self, block: &mut [u8]) -> Result<bool> {
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.input.read(rest) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(cut_off()),
                Ok(n) => filled += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(read_error(e)),
            }
        }
        Ok(true)
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > self.limits.header_bytes {
            return Err(Error::new(
                crate::Kind::TooLarge,
                format!(
                    "tar extension record of {size} bytes: more than {} are refused",
                    self.limits.header_bytes
                ),
            ));
        }
        self.read_data(size)
    }

    /// The next `size` bytes of the current entry's data.
    fn read_data(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        while (out.len() as u64) < size {
            let missing = usize::try_from(size).unwrap_or(usize::MAX) - out.len();
            let chunk = self.data()?;
            if chunk.is_empty() {
                return Err(cut_off());
            }
            let n = chunk.len().min(missing);
            out.extend_from_slice(chunk.get(..n).unwrap_or_default());
            self.consume(n);
        }
        Ok(out)
    }

    fn read_name(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut name = self.read_extension(size)?;
        // Terminated by a NUL, perhaps by several.
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn entry(&mut self, header: &Header, size: u64, extensions: Extensions) -> Result<Entry> {
        let Extensions {
            pax,
            long_name,
            long_link,
        } = extensions;
        let mut pax = pax.unwrap_or_default();
        let raw_path = pick(
            long_name,
            pax.sparse.name.take().or_else(|| pax.path.take()),
            &header.path_bytes(),
        )?;
        let kind = entry_kind(header, &raw_path)?;
        let link = match kind {
            Kind::Symlink | Kind::HardLink => pick(
                long_link,
                pax.link.take(),
                &header.link_name_bytes().unwrap_or_default(),
            )?,
            _ => Vec::new(),
        };
        let stored = pax.size.unwrap_or(size);
        let (size, segments) = self.data_layout(header, kind, stored, &mut pax)?;
        let old = header.as_old();
        Ok(Entry {
            path: RelPath::clean(&raw_path)?,
            kind,
            mode: u32::try_from(unsigned(&old.mode, "mode")? & 0o7777).unwrap_or_default(),
            uid: owner(pax.uid, &old.uid, "uid")?,
            gid: owner(pax.gid, &old.gid, "gid")?,
            mtime: match pax.mtime {
                Some(time) => time,
                None => Time {
                    secs: numeric::field(&old.mtime).ok_or_else(|| invalid("malformed mtime"))?,
                    nanos: 0,
                },
            },
            size,
            link,
            device: device(header, kind)?,
            xattrs: pax.xattrs,
            segments,
        })
    }

    /// Sets how much data the entry has, and says how big its file is and where the data goes.
    fn data_layout(
        &mut self,
        header: &Header,
        kind: Kind,
        stored: u64,
        pax: &mut Pax,
    ) -> Result<(u64, Option<Vec<Segment>>)> {
        match kind {
            Kind::File => {}
            // Some writers repeat the file's size in a hard link; no reader takes it as data.
            Kind::HardLink => {
                self.set_data(0)?;
                return Ok((0, None));
            }
            _ if stored == 0 => return Ok((0, None)),
            _ => return Err(invalid("data behind an entry that has none")),
        }
        self.set_data(stored)?;
        let (size, map, stored) = if flag(header) == b'S' {
            let (size, map) = self.old_gnu_map(header)?;
            (size, map, stored)
        } else if pax.sparse.is_sparse() {
            let size = pax.sparse.size.ok_or_else(|| sparse::malformed("no size"))?;
            match (pax.sparse.map.take(), pax.sparse.major, pax.sparse.minor) {
                (Some(map), None | Some(0), _) => (size, map, stored),
                (None, Some(1), Some(0) | None) => {
                    let map = self.inline_map()?;
                    (size, map, self.remaining)
                }
                _ => return Err(sparse::malformed("an unknown version")),
            }
        } else {
            return Ok((stored, None));
        };
        if size > self.limits.sparse_bytes {
            return Err(Error::new(
                crate::Kind::TooLarge,
                format!(
                    "sparse file of {size} bytes: more than {} are refused",
                    self.limits.sparse_bytes
                ),
            ));
        }
        Ok((size, Some(sparse::check(map, size, stored)?)))
    }

    fn old_gnu_map(&mut self, header: &Header) -> Result<(u64, Vec<Segment>)> {
        let gnu = header
            .as_gnu()
            .ok_or_else(|| sparse::malformed("no GNU header"))?;
        let size = unsigned(&gnu.realsize, "real size")?;
        let mut numbers = Vec::new();
        let mut take = |offset: &[u8], length: &[u8]| -> Result<()> {
            if length.first() != Some(&0) {
                numbers.push(unsigned(offset, "sparse offset")?);
                numbers.push(unsigned(length, "sparse length")?);
            }
            Ok(())
        };
        for part in &gnu.sparse {
            take(&part.offset, &part.numbytes)?;
        }
        let mut extended = gnu.is_extended();
        let mut read = 0;
        while extended {
            read += BLOCK;
            if read > self.limits.header_bytes {
                return Err(sparse::malformed("too long"));
            }
            let mut block = tar::GnuExtSparseHeader::new();
            if !self.read_block(block.as_mut_bytes())? {
                return Err(cut_off());
            }
            for part in block.sparse() {
                take(&part.offset, &part.numbytes)?;
            }
            extended = block.is_extended();
        }
        Ok((size, Segment::pairs(&numbers)?))
    }

    /// The map at the start of the data (PAX 1.0), which takes up whole blocks.
    fn inline_map(&mut self) -> Result<Vec<Segment>> {
        let mut data = Vec::new();
        let (mut lines, mut wanted) = (0_u64, None);
        loop {
            if data.len() as u64 >= self.limits.header_bytes {
                return Err(sparse::malformed("too long"));
            }
            let block = self.read_data(BLOCK)?;
            lines += block.iter().filter(|b| **b == b'\n').count() as u64;
            data.extend_from_slice(&block);
            if wanted.is_none() {
                let count = data.split(|b| *b == b'\n').next().unwrap_or_default();
                let count: u64 = std::str::from_utf8(count)
                    .ok()
                    .and_then(|t| t.parse().ok())
                    .filter(|n| *n <= self.limits.header_bytes)
                    .ok_or_else(|| sparse::malformed("a number"))?;
                wanted = Some(count * 2 + 1);
            }
            if wanted.is_some_and(|wanted| lines >= wanted) {
                let (map, _) = sparse::parse_inline(&data)?.ok_or_else(|| sparse::malformed("cut off"))?;
                return Ok(map);
            }
        }
    }
}

/// The name from a long-name record, a PAX header or the header itself. The first two must not disagree.
fn pick(long: Option<Vec<u8>>, pax: Option<Vec<u8>>, plain: &[u8]) -> Result<Vec<u8>> {
    match (long, pax) {
        (Some(long), Some(pax)) if long != pax => Err(invalid("two different names for one entry")),
        (Some(name), _) | (None, Some(name)) => Ok(name),
        (None, None) => Ok(plain.to_vec()),
    }
}

fn replace_none<T>(slot: &mut Option<T>, value: T, what: &str) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(invalid(&format!("two {what} for one entry"))),
    }
}

/// The type byte of a header.
fn flag(header: &Header) -> u8 {
    let [flag] = header.as_old().linkflag;
    flag
}

fn entry_kind(header: &Header, path: &[u8]) -> Result<Kind> {
    let kind = match flag(header) {
        // Before there was a type for directories a slash at the end said it.
        0 if path.ends_with(b"/") => Kind::Directory,
        b'0' | b'7' if path.ends_with(b"/") => {
            return Err(invalid(&format!(
                "file with the name of a directory: {:?}",
                shown(path)
            )));
        }
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => {
            return Err(invalid(&format!(
                "unhandled type {:?} of {:?}",
                char::from(other),
                shown(path)
            )));
        }
    };
    Ok(kind)
}

/// A user or group ID; the largest one means "unchanged" to the kernel and would leave the file to root.
fn owner(pax: Option<u64>, raw: &[u8], what: &str) -> Result<u32> {
    let id = match pax {
        Some(id) => id,
        None => unsigned(raw, what)?,
    };
    u32::try_from(id)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| invalid(&format!("{what} {id} out of range")))
}

fn device(header: &Header, kind: Kind) -> Result<(u32, u32)> {
    if !matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
        return Ok((0, 0));
    }
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(h), _) => (&h.dev_major, &h.dev_minor),
        (None, Some(h)) => (&h.dev_major, &h.dev_minor),
        (None, None) => return Err(invalid("device without a number")),
    };
    let number = |raw: &[u8]| {
        unsigned(raw, "device number")
            .and_then(|n| u32::try_from(n).map_err(|_| invalid("device number out of range")))
    };
    Ok((number(major)?, number(minor)?))
}

/// The sum of all bytes with the checksum itself taken as blanks; old writers added signed bytes.
fn check_sum(header: &Header) -> Result<()> {
    let (mut plain, mut signed) = (0_i64, 0_i64);
    for (at, byte) in header.as_bytes().iter().enumerate() {
        let byte = if (148..156).contains(&at) { b' ' } else { *byte };
        plain += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    match numeric::field(&header.as_old().cksum) {
        Some(sum) if sum == plain || sum == signed => Ok(()),
        _ => Err(invalid("wrong checksum")),
    }
}

fn invalid(why: &str) -> Error {
    Error::invalid(format!("invalid tar header: {why}"))
}

fn cut_off() -> Error {
    Error::invalid("archive is cut off: unexpected EOF")
}

/// A failed read. A decoder reports malformed and oversized input as an I/O error; that is the sender's fault.
pub fn read_error(e: std::io::Error) -> Error {
    use std::io::ErrorKind as K;
    match e.downcast::<Error>() {
        Ok(own) => own,
        Err(e) => match e.kind() {
            K::InvalidData | K::InvalidInput | K::UnexpectedEof => {
                Error::invalid(format!("cannot read archive: {e}"))
            }
            _ => Error::internal("cannot read archive").caused_by(e),
        },
    }
}

#[cfg(test)]
mod tests;
