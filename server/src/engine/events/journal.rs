//! The latest events on disk, so that a restarted engine still has them.
//!
//! ```text
//! <exec root>/events.jsonl      one event a line, oldest first
//! <exec root>/events.jsonl.1    what was in it before it grew too long
//! ```
//!
//! It is written behind the events, by one task: who makes an event never waits for the disk. What an engine made in the
//! last moments before it was killed may be missing. The exec root does not outlive the host, and neither do they.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use berth_runtime::{Result, error::Context};

use super::{Event, KEPT};

const FILE: &str = "events.jsonl";
const OLD_FILE: &str = "events.jsonl.1";
/// Longest line that is read back, in bytes.
const LINE_MAX: u64 = 1 << 20;

/// The file that events are appended to. Everything here blocks.
#[derive(Debug)]
pub(super) struct Journal {
    directory: PathBuf,
    file: File,
    lines: usize,
}

impl Journal {
    /// Opens the journal in `directory` and gives the latest events in it. Lines that are none, such as one that was cut
    /// by a crash, are left out.
    ///
    /// # Errors
    /// Internal, if it cannot be read or written.
    pub fn open(directory: &Path) -> Result<(Self, Vec<Event>)> {
        let mut events = read(&directory.join(OLD_FILE))?;
        let current = read(&directory.join(FILE))?;
        let lines = current.len();
        events.extend(current);
        let surplus = events.len().saturating_sub(KEPT);
        events.drain(..surplus);
        let mut journal = Self {
            directory: directory.to_owned(),
            file: append(&directory.join(FILE))?,
            lines,
        };
        // Whatever follows begins on a line of its own.
        journal
            .file
            .write_all(b"\n")
            .context(|| "cannot write the journal of events")?;
        Ok((journal, events))
    }

    /// Appends events.
    ///
    /// # Errors
    /// Internal, if they cannot be written.
    pub fn append(&mut self, events: &[Arc<Event>]) -> Result<()> {
        let message = || "cannot write the journal of events";
        if self.lines >= KEPT {
            let path = self.directory.join(FILE);
            std::fs::rename(&path, self.directory.join(OLD_FILE)).context(message)?;
            self.file = append(&path)?;
            self.lines = 0;
        }
        let mut text = Vec::with_capacity(events.len() * 512);
        for event in events {
            serde_json::to_writer(&mut text, &**event).context(message)?;
            text.push(b'\n');
        }
        self.file.write_all(&text).context(message)?;
        self.lines += events.len();
        Ok(())
    }
}

fn append(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    options
        .open(path)
        .context(|| format!("cannot open {}", path.display()))
}

fn read(path: &Path) -> Result<Vec<Event>> {
    let message = || format!("cannot read {}", path.display());
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => BufReader::new(file.context(message)?),
    };
    let mut events = Vec::new();
    loop {
        let mut line = Vec::new();
        let read = io::Read::take(&mut file, LINE_MAX)
            .read_until(b'\n', &mut line)
            .context(message)?;
        if read == 0 {
            return Ok(events);
        }
        events.extend(serde_json::from_slice::<Event>(&line).ok());
    }
}

#[cfg(test)]
mod tests {
    use berth_api::models::EventMessageType;
    use jiff::Timestamp;

    use super::*;

    fn event(number: u64) -> Arc<Event> {
        Arc::new(Event {
            number: 0,
            at: Timestamp::from_second(number as i64).unwrap(),
            subject: EventMessageType::Container,
            action: format!("a{number}"),
            id: "x".to_owned(),
            attributes: [("name".to_owned(), "web".to_owned())].into(),
        })
    }

    fn actions(events: &[Event]) -> Vec<&str> {
        events.iter().map(|event| event.action.as_str()).collect()
    }

    #[test]
    fn events_are_found_again_also_behind_half_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, events) = Journal::open(directory.path()).unwrap();
        assert!(events.is_empty());
        journal.append(&[event(1), event(2)]).unwrap();
        journal.file.write_all(b"{\"at\":").unwrap();
        let (mut journal, events) = Journal::open(directory.path()).unwrap();
        assert_eq!(events[0], *event(1));
        journal.append(&[event(3)]).unwrap();
        let (_, events) = Journal::open(directory.path()).unwrap();
        assert_eq!(actions(&events), ["a1", "a2", "a3"]);
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(directory.path()).unwrap();
        let all: Vec<_> = (0..KEPT as u64 * 3 + 7).map(event).collect();
        for part in all.chunks(100) {
            journal.append(part).unwrap();
        }
        let (journal, events) = Journal::open(directory.path()).unwrap();
        assert_eq!(events.len(), KEPT);
        assert_eq!(events.last().unwrap(), &**all.last().unwrap());
        assert!(journal.lines < KEPT + 100);
    }
}
