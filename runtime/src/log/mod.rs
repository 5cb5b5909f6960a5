//! Container logs in Docker's json-file format: written by a container's supervisor, read by the engine.
//!
//! One JSON object a line: `{"log":"text\n","stream":"stdout","attrs":{…},"time":"2026-01-02T03:04:05.000000006Z"}`.
//! A line of output longer than 16 KiB is kept in parts, of which only the last one's text ends in a newline. The
//! current file is `<path>`, older ones are `<path>.1`, `<path>.2`, …, newest first, with `.gz` if compressed.

mod entry;
mod escape;
mod files;
mod output;
mod reader;
mod remote;
mod rotate;
mod watch;
mod writer;

pub use entry::Entry;
pub use output::Format;
pub use reader::{Next, Progress, Query, Reader};
pub use remote::{Address, Format as SyslogFormat, JOURNAL, Receiver, Remote, Syslog};
pub use writer::{Dropped, JsonFile, Writer};

/// Where output came from. With a terminal everything is standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Its name in log files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// Its number in Docker's multiplexed streams.
    pub fn number(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }

    /// The eight bytes in front of `length` bytes of it in Docker's multiplexed streams.
    pub fn header(self, length: u32) -> [u8; 8] {
        let [a, b, c, d] = length.to_be_bytes();
        [self.number(), 0, 0, 0, a, b, c, d]
    }
}
