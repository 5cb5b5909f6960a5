//! Measures how fast logs are written and read back, by processor time, so that other load does not count.
//!
//! ```text
//! log DIRECTORY [MIB]
//! ```

#![allow(clippy::print_stdout)]

use std::{error::Error, path::Path, time::Duration};

use berth_runtime::log::{Format, JsonFile, Progress, Query, Reader, Stream, Writer};
use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// As much as a supervisor reads at once.
const CHUNK: usize = 64 * 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let directory = Path::new(arguments.first().ok_or("usage: log DIRECTORY [MIB]")?);
    let mib: usize = arguments.get(1).map_or(Ok(200), |n| n.parse())?;
    for length in [10, 100, 1000, 100_000] {
        let mut line = vec![b'x'; length - 1];
        line.push(b'\n');
        let text = line.repeat((1 << 20) / length + 1);
        let text = text.repeat(mib);
        measure(&directory.join("speed.log"), length, &text)?;
    }
    Ok(())
}

/// Processor time that this process has used.
fn now() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

fn measure(path: &Path, length: usize, text: &[u8]) -> Result<(), Box<dyn Error>> {
    let config = JsonFile {
        max_size: 0,
        ..JsonFile::new(path)
    };
    let mut writer = Writer::open(config)?;
    let begin = now();
    for chunk in text.chunks(CHUNK) {
        writer.write(Stream::Stdout, chunk, Timestamp::now());
    }
    writer.finish(Timestamp::now());
    let written = now() - begin;
    if writer.take_dropped().is_some() {
        return Err("the disk is full".into());
    }
    let query = Query {
        stdout: true,
        stderr: true,
        ..Query::default()
    };
    let format = Format {
        framed: true,
        ..Format::default()
    };
    let begin = now();
    let mut reader = Reader::open(path, query)?;
    let mut out = Vec::new();
    while reader.fill(&format, &mut out, CHUNK)? == Progress::More {
        out.clear();
    }
    let read = now() - begin;
    std::fs::remove_file(path)?;
    let speed = |time: Duration| text.len() as f64 / time.as_secs_f64() / 1e6;
    println!(
        "lines of {length}: written at {:.0} MB/s, read at {:.0} MB/s",
        speed(written),
        speed(read)
    );
    Ok(())
}
