//! Compressed streams: recognised by their first bytes, expanded within bounds.

use std::{
    cell::Cell,
    fmt,
    io::{self, BufRead, BufReader, Cursor, Read},
    rc::Rc,
};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

use super::limits::Limits;
use crate::{Error, Kind, Result};

/// Large enough that neither the file system nor the hash sees small pieces.
pub const BUFFER: usize = 256 * 1024;
/// The longest magic number below.
const MAGIC: usize = 6;

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all, or in a way that is not known.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
}

impl Compression {
    /// Recognises a stream by how it begins.
    pub fn sniff(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame may come first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0x00, ..] => Self::Xz,
            _ => Self::None,
        }
    }

    /// How `input` is compressed.
    ///
    /// # Errors
    /// If reading its first bytes fails.
    pub fn of(input: impl Read) -> Result<Self> {
        let mut start = Vec::with_capacity(MAGIC);
        input
            .take(MAGIC as u64)
            .read_to_end(&mut start)
            .map_err(super::tar_reader::read_error)?;
        Ok(Self::sniff(&start))
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
        })
    }
}

/// `input` expanded, and how it was compressed.
///
/// Reading fails with [`Kind::TooLarge`] (inside the I/O error) when the stream expands beyond
/// [`Limits::expansion_floor`] and beyond [`Limits::expansion_ratio`] times what was read of it.
///
/// # Errors
/// What reading the first bytes gave.
pub fn expand<'a>(input: impl Read + 'a, limits: &Limits) -> Result<(Compression, Box<dyn BufRead + 'a>)> {
    let (compression, whole) = recognise(input)?;
    Ok((compression, decoder(compression, whole, limits)?))
}

/// `whole`, which is compressed in the given way, expanded within bounds.
pub fn decoder<'a>(
    compression: Compression,
    whole: impl Read + 'a,
    limits: &Limits,
) -> Result<Box<dyn BufRead + 'a>> {
    if compression == Compression::None {
        return Ok(Box::new(BufReader::with_capacity(BUFFER, whole)));
    }
    let consumed = Rc::new(Cell::new(0));
    let counted = BufReader::with_capacity(
        BUFFER,
        Counted {
            inner: whole,
            count: Rc::clone(&consumed),
        },
    );
    let plain: Box<dyn Read + 'a> = match compression {
        Compression::Gzip => Box::new(MultiGzDecoder::new(counted)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(counted)?;
            decoder.window_log_max(limits.window_log)?;
            Box::new(decoder)
        }
        Compression::Bzip2 => Box::new(MultiBzDecoder::new(counted)),
        Compression::Xz => Box::new(XzReader::new_mem_limit(counted, true, xz_memory(limits))),
        Compression::None => Box::new(counted),
    };
    let guarded = Guarded {
        inner: plain,
        consumed,
        produced: 0,
        floor: limits.expansion_floor,
        ratio: limits.expansion_ratio,
    };
    Ok(Box::new(BufReader::with_capacity(BUFFER, guarded)))
}

/// `input` as it is, unless its compression is one that images don't have; then it is expanded.
///
/// # Errors
/// As [`expand`].
pub fn portable<'a>(input: impl Read + 'a, limits: &Limits) -> Result<Box<dyn Read + 'a>> {
    let (compression, whole) = recognise(input)?;
    Ok(match compression {
        Compression::Bzip2 | Compression::Xz => Box::new(expand(whole, limits)?.1),
        Compression::None | Compression::Gzip | Compression::Zstd => Box::new(whole),
    })
}

/// How `input` is compressed, and all of it.
///
/// # Errors
/// What reading the first bytes gave.
pub fn recognise(mut input: impl Read) -> Result<(Compression, impl Read)> {
    let mut start = Vec::with_capacity(MAGIC);
    let read = input.by_ref().take(MAGIC as u64).read_to_end(&mut start);
    read.map_err(super::tar_reader::read_error)?;
    Ok((Compression::sniff(&start), Cursor::new(start).chain(input)))
}

/// KiB that an xz decoder may use: its dictionary, and 1 MiB besides.
fn xz_memory(limits: &Limits) -> u32 {
    1_u32
        .checked_shl(limits.window_log.saturating_sub(10))
        .unwrap_or(u32::MAX)
        .saturating_add(1024)
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count.set(self.count.get() + n as u64);
        Ok(n)
    }
}

/// Stops when much more comes out than went in.
struct Guarded<R> {
    inner: R,
    consumed: Rc<Cell<u64>>,
    produced: u64,
    floor: u64,
    ratio: u64,
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer).map_err(|e| match e.kind() {
            // The decoders report malformed input as errors of various kinds, some without one.
            io::ErrorKind::Other | io::ErrorKind::OutOfMemory | io::ErrorKind::Unsupported => {
                io::Error::new(io::ErrorKind::InvalidData, e)
            }
            _ => e,
        })?;
        self.produced += n as u64;
        let allowed = self.consumed.get().saturating_mul(self.ratio).max(self.floor);
        if self.produced > allowed {
            return Err(io::Error::other(Error::new(
                Kind::TooLarge,
                format!(
                    "compressed stream expands to more than {} times its size ({} bytes out of {})",
                    self.ratio,
                    self.produced,
                    self.consumed.get()
                ),
            )));
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression as Level, write::GzEncoder};

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    /// What `echo hello | xz` writes.
    const XZ: &[u8] = &[
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02, 0x00, 0x21, 0x01, 0x16,
        0x00, 0x00, 0x00, 0x74, 0x2f, 0xe5, 0xa3, 0x01, 0x00, 0x05, 0x68, 0x65, 0x6c, 0x6c, 0x6f, 0x0a, 0x00,
        0x00, 0x00, 0xa5, 0x60, 0x97, 0xf1, 0x94, 0xf6, 0xfd, 0xe0, 0x00, 0x01, 0x1e, 0x06, 0xc1, 0x2f, 0xa4,
        0x1d, 0x1f, 0xb6, 0xf3, 0x7d, 0x01, 0x00, 0x00, 0x00, 0x00, 0x04, 0x59, 0x5a,
    ];

    fn bzip2(data: &[u8]) -> Vec<u8> {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn read(data: &[u8], limits: &Limits) -> Result<(Compression, Vec<u8>)> {
        let (compression, mut reader) = expand(data, limits)?;
        let mut out = Vec::new();
        reader
            .read_to_end(&mut out)
            .map_err(crate::image::tar_reader::read_error)?;
        Ok((compression, out))
    }

    #[test]
    fn expands_what_it_recognises() {
        let limits = Limits::default();
        let data = b"some text ".repeat(1000);
        assert_eq!(read(&data, &limits).unwrap(), (Compression::None, data.clone()));
        assert_eq!(
            read(&gzip(&data), &limits).unwrap(),
            (Compression::Gzip, data.clone())
        );
        let twice = [gzip(&data), gzip(b"more")].concat();
        assert_eq!(read(&twice, &limits).unwrap().1, [&data[..], b"more"].concat());
        let zstd = zstd::encode_all(&data[..], 3).unwrap();
        assert_eq!(read(&zstd, &limits).unwrap(), (Compression::Zstd, data));
        assert_eq!(read(b"", &limits).unwrap(), (Compression::None, Vec::new()));
        assert_eq!(
            read(&bzip2(b"data"), &limits).unwrap(),
            (Compression::Bzip2, b"data".to_vec())
        );
        assert_eq!(read(XZ, &limits).unwrap(), (Compression::Xz, b"hello\n".to_vec()));
        assert_eq!(read(&[XZ, XZ].concat(), &limits).unwrap().1, b"hello\nhello\n");
    }

    #[test]
    fn damaged_streams_are_the_senders_fault() {
        let limits = Limits::default();
        let good = gzip(&b"some text ".repeat(1000));
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let zstd = zstd::encode_all(&b"some text ".repeat(1000)[..], 3).unwrap();
        for data in [
            &good[..good.len() - 9],
            &flipped,
            &zstd[..zstd.len() - 3],
            &[&good[..], b"x"].concat(),
            &XZ[..XZ.len() - 4],
            &bzip2(b"data")[..20],
        ] {
            assert_eq!(read(data, &limits).unwrap_err().kind(), Kind::Invalid);
        }
    }

    #[test]
    fn bombs_stop() {
        let limits = Limits {
            expansion_floor: 1 << 20,
            expansion_ratio: 20,
            ..Limits::default()
        };
        let zeros = vec![0; 8 << 20];
        let zstd = zstd::encode_all(&zeros[..], 3).unwrap();
        for bomb in [gzip(&zeros), zstd, bzip2(&zeros)] {
            assert_eq!(
                read(&bomb, &limits).map(|_| ()).unwrap_err().kind(),
                Kind::TooLarge
            );
        }
        assert_eq!(read(&gzip(&zeros[..1 << 20]), &limits).unwrap().1.len(), 1 << 20);
    }

    #[test]
    fn wide_windows_are_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(28).unwrap();
        encoder.long_distance_matching(true).unwrap();
        // Without a known size the frame asks for its whole window.
        encoder.write_all(&[7; 4096]).unwrap();
        encoder.flush().unwrap();
        let frame = encoder.finish().unwrap();
        // The largest dictionary that an xz block can ask for, with the header's checksum made to fit.
        let mut xz = XZ.to_vec();
        xz[16] = 40;
        let sum = crc32(&xz[12..20]);
        xz[20..24].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(read(&xz, &Limits::default()).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(
            read(&frame, &Limits::default()).unwrap_err().kind(),
            Kind::Invalid
        );
    }

    fn crc32(data: &[u8]) -> u32 {
        let mut crc = flate2::Crc::new();
        crc.update(data);
        crc.sum()
    }

    #[test]
    fn portable_streams_stay_and_others_are_expanded() {
        let limits = Limits::default();
        let cases = [
            (gzip(b"x"), gzip(b"x")),
            (b"plain".to_vec(), b"plain".to_vec()),
            (bzip2(b"x"), b"x".to_vec()),
            (XZ.to_vec(), b"hello\n".to_vec()),
        ];
        for (stream, want) in cases {
            let mut out = Vec::new();
            portable(&stream[..], &limits)
                .unwrap()
                .read_to_end(&mut out)
                .unwrap();
            assert_eq!(out, want);
        }
    }
}
