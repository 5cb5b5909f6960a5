//! Compresses layers for registries: gzip (RFC 1952), several blocks at a time, the same bytes on every machine.
//!
//! The blocks are compressed by themselves and put together to one member, so that what comes out depends neither on
//! how many threads work nor on how the input is read.

use std::{
    io::{self, Read, Write},
    thread,
};

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

/// Bytes of the input that are compressed by themselves. What comes out depends on it.
const BLOCK: usize = 1 << 20;
/// Much faster than the usual 6, and a layer hardly gets larger. What comes out depends on it too.
const LEVEL: u32 = 4;
/// More threads would only take memory: the writer hashes what comes out, one block after the other.
const THREADS: usize = 8;
/// No name, no time, no flags, an unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// An empty last block of RFC 1951.
const END: [u8; 2] = [0x03, 0x00];

/// Writes all of `input`, compressed, to `out`.
///
/// # Errors
/// What reading or writing gave.
pub fn compress(mut input: impl Read, mut out: impl Write) -> io::Result<()> {
    let threads = thread::available_parallelism().map_or(1, |n| n.get().min(THREADS));
    let mut blocks = vec![Vec::new(); threads];
    let mut whole = Crc::new();
    out.write_all(&HEADER)?;
    loop {
        let mut filled = 0;
        for block in &mut blocks {
            block.clear();
            input.by_ref().take(BLOCK as u64).read_to_end(block)?;
            if block.is_empty() {
                break;
            }
            filled += 1;
        }
        for part in deflate_all(blocks.get(..filled).unwrap_or_default()) {
            let (bytes, sum) = part?;
            whole.combine(&sum);
            out.write_all(&bytes)?;
        }
        if filled < threads {
            break;
        }
    }
    out.write_all(&END)?;
    out.write_all(&whole.sum().to_le_bytes())?;
    out.write_all(&whole.amount().to_le_bytes())?;
    Ok(())
}

type Part = io::Result<(Vec<u8>, Crc)>;

fn deflate_all(blocks: &[Vec<u8>]) -> Vec<Part> {
    if let [only] = blocks {
        return vec![deflate(only)];
    }
    thread::scope(|scope| {
        let threads: Vec<_> = blocks
            .iter()
            .map(|block| scope.spawn(|| deflate(block)))
            .collect();
        let joined = threads.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a thread that compresses has panicked")))
        });
        joined.collect()
    })
}

/// One block that ends on a byte and refers to nothing before it.
fn deflate(block: &[u8]) -> Part {
    let mut state = Compress::new(Compression::new(LEVEL), false);
    // Room for what does not get smaller at all.
    let mut bytes = Vec::with_capacity(block.len() + block.len() / 8 + 1024);
    loop {
        let done = usize::try_from(state.total_in()).unwrap_or(usize::MAX);
        let rest = block.get(done..).unwrap_or_default();
        let before = bytes.len();
        let status = state
            .compress_vec(rest, &mut bytes, FlushCompress::Sync)
            .map_err(io::Error::other)?;
        // There is room left, so all of it has come out.
        let all_in = state.total_in() == block.len() as u64;
        if all_in && (bytes.len() < bytes.capacity() || status == Status::BufError) {
            break;
        }
        if bytes.len() == before && bytes.len() < bytes.capacity() {
            return Err(io::Error::other("the compressor does not go on"));
        }
        bytes.reserve(BLOCK / 2);
    }
    let mut sum = Crc::new();
    sum.update(block);
    Ok((bytes, sum))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn packed(data: impl Read) -> Vec<u8> {
        let mut out = Vec::new();
        compress(data, &mut out).unwrap();
        out
    }

    /// Gives what it holds a few bytes at a time.
    struct Slow(Cursor<Vec<u8>>);

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = buffer.len().min(4099);
            self.0.read(&mut buffer[..length])
        }
    }

    #[test]
    fn what_comes_out_is_one_member_and_always_the_same() {
        let mut state = 1u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        for size in [0, 1, 1000, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 77] {
            let text: Vec<u8> = (0..size).map(|at| (at / 97 % 251) as u8).collect();
            let random: Vec<u8> = (0..size).map(|_| noise()).collect();
            for data in [text, random] {
                let out = packed(&data[..]);
                assert_eq!(out, packed(Slow(Cursor::new(data.clone()))), "{size}");
                let mut back = Vec::new();
                let mut decoder = flate2::bufread::GzDecoder::new(&out[..]);
                decoder.read_to_end(&mut back).unwrap();
                assert!(back == data, "{size}");
                assert!(decoder.into_inner().is_empty(), "nothing comes after the member");
            }
        }
    }
}
