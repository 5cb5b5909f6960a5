//! Expands a compressed stream in a thread of its own, a few buffers ahead of who reads it.

use std::{
    io::{self, BufRead, BufReader, Read},
    sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    thread,
};

use super::{
    compress::{self, BUFFER, Compression},
    limits::Limits,
};
use crate::Result;

/// Buffers between the two threads.
const AHEAD: usize = 4;

/// Calls `work` with the expanded `input` and how it was compressed. What is not compressed is read in place.
///
/// # Errors
/// What `work` gave, or reading the first bytes.
pub fn expanded<T>(
    input: impl Read + Send,
    limits: &Limits,
    work: impl FnOnce(Compression, &mut dyn BufRead) -> Result<T>,
) -> Result<T> {
    let (compression, whole) = compress::recognise(input)?;
    if compression == Compression::None {
        return work(compression, &mut BufReader::with_capacity(BUFFER, whole));
    }
    thread::scope(|scope| {
        let (full, filled) = sync_channel(AHEAD);
        let (used, empty) = channel();
        scope.spawn(move || {
            let plain = match compress::decoder(compression, whole, limits) {
                Ok(plain) => plain,
                Err(error) => {
                    // The reader may have gone.
                    let _ = full.send(Err(io::Error::other(error)));
                    return;
                }
            };
            produce(plain, &full, &empty);
        });
        let mut reader = Ahead {
            filled,
            used,
            current: Vec::new(),
            at: 0,
        };
        // When this is done the reader goes, and with it the thread.
        work(compression, &mut reader)
    })
}

/// Fills buffers until the end of the stream, an error, or until nobody takes them any more.
fn produce(mut plain: impl Read, full: &SyncSender<io::Result<Vec<u8>>>, empty: &Receiver<Vec<u8>>) {
    loop {
        let mut buffer = empty.try_recv().unwrap_or_default();
        buffer.clear();
        match plain.by_ref().take(BUFFER as u64).read_to_end(&mut buffer) {
            Ok(0) => return,
            Ok(_) if full.send(Ok(buffer)).is_err() => return,
            Ok(_) => {}
            Err(error) => {
                let _ = full.send(Err(error));
                return;
            }
        }
    }
}

struct Ahead {
    filled: Receiver<io::Result<Vec<u8>>>,
    used: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at >= self.current.len() {
            // The other end may have finished already.
            let _ = self.used.send(std::mem::take(&mut self.current));
            self.at = 0;
            // Without a sender the stream has ended.
            if let Ok(next) = self.filled.recv() {
                self.current = next?;
            }
        }
        Ok(self.current.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Kind, image::tar_reader::read_error};

    fn zstd(data: &[u8]) -> Vec<u8> {
        zstd::encode_all(data, 1).unwrap()
    }

    fn read_all(input: &[u8], limits: &Limits) -> Result<(Compression, Vec<u8>)> {
        expanded(input, limits, |compression, reader| {
            let mut out = Vec::new();
            reader.read_to_end(&mut out).map_err(read_error)?;
            Ok((compression, out))
        })
    }

    #[test]
    fn streams_come_through_whole() {
        let data: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let limits = Limits::default();
        assert_eq!(
            read_all(&zstd(&data), &limits).unwrap(),
            (Compression::Zstd, data.clone())
        );
        assert_eq!(read_all(&data, &limits).unwrap(), (Compression::None, data));
        assert_eq!(read_all(b"", &limits).unwrap().1, b"");
    }

    #[test]
    fn errors_come_through() {
        let data = zstd(&vec![0; 8 << 20]);
        assert_eq!(
            read_all(&data[..data.len() - 2], &Limits::default())
                .unwrap_err()
                .kind(),
            Kind::Invalid
        );
        let limits = Limits {
            expansion_floor: 1 << 20,
            expansion_ratio: 2,
            ..Limits::default()
        };
        assert_eq!(read_all(&data, &limits).unwrap_err().kind(), Kind::TooLarge);
    }

    #[test]
    fn who_reads_may_stop() {
        let data = zstd(&vec![0; 64 << 20]);
        let error = expanded(&data[..], &Limits::default(), |_, reader| {
            reader.fill_buf()?;
            Err::<(), _>(Error::conflict("enough"))
        });
        assert_eq!(error.unwrap_err().kind(), Kind::Conflict);
    }
}
