//! Writing a json-file log.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{fd::BorrowedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use memchr::memchr;
use serde::{Deserialize, Serialize};

use super::{
    Stream,
    escape::escape,
    remote::{Remote, Sink},
    rotate::{self, Compressor},
};
use crate::{Result, error::Context};

/// Longest text of one entry, in bytes, as in Docker. A longer line of output is kept in parts.
const MAX_TEXT: usize = 16 * 1024;

/// How much is collected before it is written.
const BATCH: usize = 64 * 1024;

/// Settings of a json-file log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JsonFile {
    /// The current file; rotated ones have `.1`, `.2`, … (and `.gz`) appended.
    pub path: PathBuf,
    /// Size in bytes at which a file is rotated; 0: never.
    #[serde(default = "default_max_size")]
    pub max_size: u64,
    /// How many files there may be, the current one included; at least 1.
    #[serde(default = "default_max_file")]
    pub max_file: u32,
    /// Whether rotated files are compressed with gzip.
    #[serde(default)]
    pub compress: bool,
    /// Written into every line as `attrs`, if there are any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attrs: BTreeMap<String, String>,
    /// A log of the host that gets everything too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<Remote>,
    /// Whether only that one is written.
    #[serde(default)]
    pub remote_only: bool,
}

fn default_max_size() -> u64 {
    20 << 20
}

fn default_max_file() -> u32 {
    5
}

impl JsonFile {
    /// The log at `path` with the default bounds: five files of 20 MiB, not compressed.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            max_size: default_max_size(),
            max_file: default_max_file(),
            compress: false,
            attrs: BTreeMap::new(),
            remote: None,
            remote_only: false,
        }
    }
}

/// Output that did not reach the log.
#[derive(Debug)]
pub struct Dropped {
    /// How many bytes of the container's output.
    pub bytes: u64,
    /// Why the last of them did not.
    pub reason: io::Error,
}

/// Writes the log of one container. One write(2) for each batch; nothing is held back but unfinished lines.
///
/// Writing never fails: when the disk is full the log's own oldest files go first, then output is dropped and counted.
#[derive(Debug)]
pub struct Writer {
    config: JsonFile,
    file: File,
    /// Size of `file`, all of it whole entries.
    size: u64,
    /// What stands between text and time, for each stream.
    middles: [Vec<u8>; 2],
    unfinished: [Vec<u8>; 2],
    batch: Vec<u8>,
    /// Bytes of output that `batch` holds.
    batch_text: u64,
    dropped: Option<Dropped>,
    compressor: Option<Compressor>,
    sink: Option<Sink>,
}

impl Writer {
    /// Opens the log, goes on behind what is there.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) if the file cannot be opened or the log of the host not be reached.
    pub fn open(config: JsonFile) -> Result<Self> {
        let sink = config.remote.clone().map(Sink::open).transpose()?;
        let path = config.path.display();
        let (file, size) = open_end(&config.path).context(|| format!("cannot open the log {path}"))?;
        let attrs = match config.attrs.is_empty() {
            true => String::new(),
            false => format!(
                ",\"attrs\":{}",
                serde_json::to_string(&config.attrs).context(|| "cannot encode log attributes")?
            ),
        };
        let middle =
            |stream: Stream| format!("\",\"stream\":\"{}\"{attrs},\"time\":\"", stream.name()).into_bytes();
        Ok(Self {
            file,
            size,
            middles: [middle(Stream::Stdout), middle(Stream::Stderr)],
            unfinished: [Vec::new(), Vec::new()],
            batch: Vec::new(),
            batch_text: 0,
            dropped: None,
            compressor: None,
            sink,
            config,
        })
    }

    /// Logs what was read from one stream at `now`. An unfinished last line waits for its end.
    pub fn write(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) {
        let tail = self.tail(stream, now);
        let mut rest = bytes;
        while let Some(at) = memchr(b'\n', rest) {
            let (line, after) = rest.split_at(at + 1);
            self.line(stream, line, &tail, now);
            rest = after;
        }
        if !rest.is_empty() {
            self.line(stream, rest, &tail, now);
        }
        self.flush();
    }

    /// Writes the unfinished last lines; to be called when the container has ended.
    pub fn finish(&mut self, now: Timestamp) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let unfinished = std::mem::take(&mut self.unfinished[stream as usize]);
            if !unfinished.is_empty() {
                let tail = self.tail(stream, now);
                self.tell(stream, &unfinished, now);
                self.entry(&unfinished, &tail);
            }
        }
        self.flush();
        if let Some(sink) = &mut self.sink {
            sink.finish();
        }
        if let Some(compressor) = self.compressor.take() {
            compressor.wait();
        }
    }

    /// What is to be watched for room, if a log of the host lags.
    pub fn lags(&self) -> Option<BorrowedFd<'_>> {
        self.sink.as_ref().and_then(Sink::lags)
    }

    /// Sends what a log of the host now takes.
    pub fn send(&mut self) {
        if let Some(sink) = &mut self.sink {
            sink.send();
        }
    }

    /// What was lost since this was last asked.
    pub fn take_dropped(&mut self) -> Option<Dropped> {
        if let Some((bytes, reason)) = self.sink.as_mut().and_then(Sink::take_lost) {
            return Some(Dropped { bytes, reason });
        }
        self.dropped.take()
    }

    /// Gives back memory that only a busy log needs, and collects a compressor that has ended.
    pub fn rest(&mut self) {
        self.batch = Vec::new();
        for unfinished in self.unfinished.iter_mut().filter(|u| u.is_empty()) {
            *unfinished = Vec::new();
        }
        if self.compressor.as_ref().is_some_and(Compressor::has_ended) {
            self.compressor = None;
        }
    }

    /// Everything behind the text of an entry.
    fn tail(&self, stream: Stream, now: Timestamp) -> Vec<u8> {
        let mut tail = self.middles[stream as usize].clone();
        push_time(now, &mut tail);
        tail.extend_from_slice(b"\"}\n");
        tail
    }

    /// Takes a whole line, or the beginning of one.
    fn line(&mut self, stream: Stream, mut line: &[u8], tail: &[u8], now: Timestamp) {
        let mut held = std::mem::take(&mut self.unfinished[stream as usize]);
        let finished = line.last() == Some(&b'\n');
        while held.len() + line.len() - usize::from(finished) >= MAX_TEXT {
            let (part, rest) = line.split_at(MAX_TEXT - held.len());
            held.extend_from_slice(part);
            let cut = cut_between_characters(&held);
            self.tell(stream, &held[..cut], now);
            self.entry(&held[..cut], tail);
            held.drain(..cut);
            line = rest;
        }
        if finished && held.is_empty() {
            self.tell(stream, line, now);
            self.entry(line, tail);
        } else {
            held.extend_from_slice(line);
            if finished {
                self.tell(stream, &held, now);
                self.entry(&held, tail);
                held.clear();
            }
        }
        self.unfinished[stream as usize] = held;
    }

    /// Passes an entry on to the log of the host.
    fn tell(&mut self, stream: Stream, text: &[u8], now: Timestamp) {
        if let Some(sink) = &mut self.sink {
            let whole = text.strip_suffix(b"\n");
            sink.entry(stream, whole.unwrap_or(text), whole.is_none(), now);
        }
    }

    /// Appends one entry to the batch; writes and rotates as sizes demand.
    fn entry(&mut self, text: &[u8], tail: &[u8]) {
        if self.config.remote_only {
            return;
        }
        let start = self.batch.len();
        self.batch.extend_from_slice(b"{\"log\":\"");
        escape(text, &mut self.batch);
        self.batch.extend_from_slice(tail);
        let (max, size) = (self.config.max_size, self.size + self.batch.len() as u64);
        if max > 0 && size > max && self.size + start as u64 > 0 {
            let entry = self.batch.split_off(start);
            self.flush();
            self.rotate();
            self.batch = entry;
        }
        self.batch_text += text.len() as u64;
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    /// Writes the batch.
    fn flush(&mut self) {
        let text = std::mem::take(&mut self.batch_text);
        if self.batch.is_empty() {
            return;
        }
        let mut written = 0;
        while written < self.batch.len() {
            match self.file.write(&self.batch[written..]) {
                Ok(0) => {
                    self.lose(written, text, io::ErrorKind::WriteZero.into());
                    break;
                }
                Ok(length) => written += length,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_full(&e) && rotate::drop_oldest(&self.config.path) => {}
                Err(e) => {
                    self.lose(written, text, e);
                    break;
                }
            }
        }
        if written == self.batch.len() {
            self.size += written as u64;
        }
        self.batch.clear();
    }

    /// Accounts for a batch that was written only up to `written`, and keeps the file a sequence of whole entries.
    fn lose(&mut self, written: usize, text: u64, reason: io::Error) {
        let whole = memchr::memrchr(b'\n', &self.batch[..written]).map_or(0, |at| at as u64 + 1);
        self.size += whole;
        if self.file.set_len(self.size).is_err() {
            // The torn entry stays; the next one must not be glued to it.
            let _ = self.file.write_all(b"\n");
            self.size = self.file.metadata().map_or(self.size, |m| m.len());
        }
        let lost = if whole == 0 {
            text
        } else {
            text.saturating_sub(text * whole / self.batch.len() as u64)
        };
        let before = self.dropped.take().map_or(0, |d| d.bytes);
        self.dropped = Some(Dropped {
            bytes: before + lost,
            reason,
        });
    }

    /// Begins a new file. If that fails the current one goes on.
    fn rotate(&mut self) {
        if let Some(compressor) = self.compressor.take() {
            compressor.wait();
        }
        let path = &self.config.path;
        let rotated = rotate::shift(path, self.config.max_file).and_then(|()| create(path));
        match rotated {
            Ok(file) => {
                self.file = file;
                self.size = 0;
                if self.config.compress && self.config.max_file > 1 {
                    // An uncompressed file is as good to read.
                    self.compressor = Compressor::start(path).unwrap_or_default();
                }
            }
            Err(reason) => {
                self.dropped.get_or_insert(Dropped { bytes: 0, reason });
            }
        }
    }
}

/// Whether an error means that there is no room.
fn is_full(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Opens a log file to append to it, makes it with mode 0640 if it is not there.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .read(true)
        .create(true)
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// Opens the log and ends an entry that a killed writer has left torn.
fn open_end(path: &Path) -> io::Result<(File, u64)> {
    let mut file = create(path)?;
    let mut size = file.metadata()?.len();
    if size > 0 {
        let mut last = [0];
        file.seek(SeekFrom::Start(size - 1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            size += 1;
        }
    }
    Ok((file, size))
}

/// Where to cut `text` so that no UTF-8 sequence is torn; at its end if it is not UTF-8 there.
fn cut_between_characters(text: &[u8]) -> usize {
    let end = text.len();
    for back in 1..=end.min(3) {
        let Some(&byte) = text.get(end - back) else { break };
        let needs = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => break,
        };
        return if needs > back { end - back } else { end };
    }
    end
}

/// Appends `time` as Go's RFC3339Nano prints it: UTC, the fraction without trailing zeros.
fn push_time(time: Timestamp, out: &mut Vec<u8>) {
    let printer = DateTimePrinter::new().precision(Some(9));
    // Writing to a vector cannot fail.
    if printer.print_timestamp(&time, &mut *out).is_err() {
        return;
    }
    let digits = out.len() - 1;
    let kept = out[..digits].iter().rposition(|&b| b != b'0').unwrap_or(0);
    out.truncate(if out[kept] == b'.' { kept } else { kept + 1 });
    out.push(b'Z');
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const NOW: &str = "2026-01-02T03:04:05.678Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn log_in(directory: &tempfile::TempDir) -> JsonFile {
        JsonFile::new(directory.path().join("c-json.log"))
    }

    fn texts(path: &Path) -> Vec<String> {
        fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(|line| {
                let value: serde_json::Value = serde_json::from_str(line).unwrap();
                value["log"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    #[test]
    fn writes_dockers_format() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = log_in(&directory);
        let mut writer = Writer::open(config.clone()).unwrap();
        writer.write(Stream::Stdout, b"one\n\ntw", now());
        writer.write(Stream::Stderr, b"\"e\"\n", now());
        writer.write(Stream::Stdout, b"o\nthree", now());
        writer.finish(now());
        config.attrs.insert("tag".into(), "x".into());
        let mut writer = Writer::open(config.clone()).unwrap();
        writer.write(Stream::Stdout, b"four\n", "2026-01-02T03:04:05Z".parse().unwrap());
        let expected = format!(
            "{{\"log\":\"one\\n\",\"stream\":\"stdout\",\"time\":\"{NOW}\"}}\n\
             {{\"log\":\"\\n\",\"stream\":\"stdout\",\"time\":\"{NOW}\"}}\n\
             {{\"log\":\"\\\"e\\\"\\n\",\"stream\":\"stderr\",\"time\":\"{NOW}\"}}\n\
             {{\"log\":\"two\\n\",\"stream\":\"stdout\",\"time\":\"{NOW}\"}}\n\
             {{\"log\":\"three\",\"stream\":\"stdout\",\"time\":\"{NOW}\"}}\n\
             {{\"log\":\"four\\n\",\"stream\":\"stdout\",\"attrs\":{{\"tag\":\"x\"}},\"time\":\"2026-01-02T03:04:05Z\"}}\n"
        );
        assert_eq!(fs::read_to_string(&config.path).unwrap(), expected);
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&config.path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o640);
    }

    #[test]
    fn long_lines_are_kept_in_parts() {
        let directory = tempfile::tempdir().unwrap();
        let config = log_in(&directory);
        let mut writer = Writer::open(config.clone()).unwrap();
        let mut line = vec![b'x'; MAX_TEXT + 5];
        line.push(b'\n');
        writer.write(Stream::Stdout, &line[..10], now());
        writer.write(Stream::Stdout, &line[10..], now());
        writer.write(Stream::Stdout, &line[5..], now());
        let crab = "🦀".repeat(MAX_TEXT / 4 + 1);
        writer.write(Stream::Stdout, b"y", now());
        writer.write(Stream::Stdout, crab.as_bytes(), now());
        writer.finish(now());
        let lengths: Vec<usize> = texts(&config.path).iter().map(String::len).collect();
        assert_eq!(lengths, [MAX_TEXT, 6, MAX_TEXT, 1, MAX_TEXT - 3, 8]);
        assert!(!texts(&config.path).concat().contains('\u{fffd}'));
    }

    #[test]
    fn rotates_within_its_bounds() {
        let directory = tempfile::tempdir().unwrap();
        let config = JsonFile {
            max_size: 1000,
            max_file: 3,
            ..log_in(&directory)
        };
        let mut writer = Writer::open(config.clone()).unwrap();
        let lines: String = (0..100).map(|n| format!("line {n}\n")).collect();
        writer.write(Stream::Stdout, lines.as_bytes(), now());
        let mut all = Vec::new();
        for name in ["c-json.log.2", "c-json.log.1", "c-json.log"] {
            let path = directory.path().join(name);
            assert!(fs::metadata(&path).unwrap().len() <= 1000);
            all.extend(texts(&path));
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
        let first = 100 - all.len();
        let kept: Vec<String> = (first..100).map(|n| format!("line {n}\n")).collect();
        assert_eq!(all, kept);
    }

    #[test]
    fn compresses_and_shrinks_to_a_smaller_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = JsonFile {
            max_size: 200,
            max_file: 6,
            compress: true,
            ..log_in(&directory)
        };
        let mut writer = Writer::open(config.clone()).unwrap();
        writer.write(Stream::Stdout, "line\n".repeat(30).as_bytes(), now());
        writer.finish(now());
        let [plain, compressed] = rotate::rotated(&config.path, 5);
        assert!(!plain.exists() && compressed.exists());
        let mut text = String::new();
        flate2::read::GzDecoder::new(File::open(&compressed).unwrap())
            .read_to_string(&mut text)
            .unwrap();
        assert!(text.starts_with("{\"log\":\"line\\n\""), "{text}");

        config.max_file = 2;
        config.compress = false;
        let mut writer = Writer::open(config.clone()).unwrap();
        writer.write(Stream::Stdout, "line\n".repeat(30).as_bytes(), now());
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn a_torn_entry_is_closed_off() {
        let directory = tempfile::tempdir().unwrap();
        let config = log_in(&directory);
        fs::write(&config.path, "{\"log\":\"to").unwrap();
        Writer::open(config.clone())
            .unwrap()
            .write(Stream::Stdout, b"next\n", now());
        let content = fs::read_to_string(&config.path).unwrap();
        assert!(
            content.starts_with("{\"log\":\"to\n{\"log\":\"next\\n\""),
            "{content}"
        );
    }
}
