//! Reading what a writer has written, meanwhile or later.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    sync::mpsc::{Receiver, channel},
    thread,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::log::{JsonFile, Writer};

const BOTH: Query = Query {
    tail: None,
    since: None,
    until: None,
    follow: false,
    stdout: true,
    stderr: true,
};

fn second(n: i64) -> Timestamp {
    Timestamp::new(1_700_000_000 + n, 0).unwrap()
}

fn log_in(directory: &tempfile::TempDir) -> JsonFile {
    JsonFile {
        max_size: 2000,
        max_file: 100,
        ..JsonFile::new(directory.path().join("c-json.log"))
    }
}

/// Writes lines `0..count`, one a second, every third to standard error.
fn written(config: &JsonFile, count: i64) -> Writer {
    let mut writer = Writer::open(config.clone()).unwrap();
    for n in 0..count {
        let stream = if n % 3 == 2 {
            Stream::Stderr
        } else {
            Stream::Stdout
        };
        writer.write(stream, format!("{n}\n").as_bytes(), second(n));
    }
    writer
}

/// The numbers that `query` finds, by both ways of reading.
fn found(config: &JsonFile, query: &Query) -> Vec<i64> {
    let mut reader = Reader::open(&config.path, query.clone()).unwrap();
    let mut numbers = Vec::new();
    while let Next::Entry(entry) = reader.next().unwrap() {
        let mut text = Vec::new();
        entry.text(&mut text);
        numbers.push(String::from_utf8(text).unwrap().trim_end().parse().unwrap());
    }
    let mut reader = Reader::open(&config.path, query.clone()).unwrap();
    let mut out = Vec::new();
    let mut limit = 7;
    while reader.fill(&Format::default(), &mut out, limit).unwrap() == Progress::More {
        limit = out.len() + 7;
    }
    let filled: Vec<i64> = String::from_utf8(out)
        .unwrap()
        .lines()
        .map(|l| l.parse().unwrap())
        .collect();
    assert_eq!(numbers, filled);
    numbers
}

#[test]
fn reads_across_files_what_was_asked_for() {
    for compress in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let config = JsonFile {
            compress,
            ..log_in(&directory)
        };
        written(&config, 300);
        assert!(fs::read_dir(directory.path()).unwrap().count() > 5);
        assert_eq!(found(&config, &BOTH), (0..300).collect::<Vec<_>>());
        for tail in [0, 1, 20, 30, 31, 32, 170, 299, 300, 1000] {
            let query = Query {
                tail: Some(tail),
                ..BOTH
            };
            let first = 300 - tail.min(300) as i64;
            assert_eq!(found(&config, &query), (first..300).collect::<Vec<_>>(), "{tail}");
        }
        let window = Query {
            since: Some(second(100)),
            until: Some(second(200)),
            ..BOTH
        };
        assert_eq!(found(&config, &window), (100..=200).collect::<Vec<_>>());
        let errors = Query {
            tail: Some(6),
            stdout: false,
            ..BOTH
        };
        assert_eq!(found(&config, &errors), [296, 299]);
    }
}

#[test]
fn torn_and_foreign_lines_are_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let config = JsonFile {
        max_size: 0,
        ..log_in(&directory)
    };
    written(&config, 2);
    let mut file = fs::File::options().append(true).open(&config.path).unwrap();
    file.write_all(b"{\"log\":\"to").unwrap();
    assert_eq!(found(&config, &BOTH), [0, 1]);
    Writer::open(config.clone())
        .unwrap()
        .write(Stream::Stdout, b"2\n", second(2));
    file.write_all(&vec![b'x'; MAX_LINE + BUFFER]).unwrap();
    file.write_all(b"\n").unwrap();
    Writer::open(config.clone())
        .unwrap()
        .write(Stream::Stdout, b"3\n", second(3));
    assert_eq!(found(&config, &BOTH), [0, 1, 2, 3]);
}

#[test]
fn a_log_that_is_not_there_is_empty() {
    let directory = tempfile::tempdir().unwrap();
    assert!(found(&log_in(&directory), &BOTH).is_empty());
}

fn wait(reader: &Reader) {
    let fd = reader.fd().unwrap();
    let timeout = Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    let ready = poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)).unwrap();
    assert_eq!(ready, 1, "the reader is never woken");
}

fn follow(reader: &mut Reader, stop: &Receiver<()>) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let limit = out.len() + 1000;
        match reader.fill(&Format::default(), &mut out, limit).unwrap() {
            Progress::More => {}
            Progress::End => return out,
            Progress::Pending if stop.try_recv().is_ok() => reader.stop_following(),
            Progress::Pending => wait(reader),
        }
    }
}

#[test]
fn follows_across_rotations() {
    for compress in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let config = JsonFile {
            compress,
            max_file: 10_000,
            ..log_in(&directory)
        };
        let query = Query { follow: true, ..BOTH };
        let mut reader = Reader::open(&config.path, query).unwrap();
        let (done, stop) = channel();
        let mut writer = Writer::open(config.clone()).unwrap();
        let thread = thread::spawn(move || {
            for n in 0..3000 {
                writer.write(Stream::Stdout, format!("{n}\n").as_bytes(), second(n));
            }
            done.send(()).unwrap();
            // Wakes the reader up once more, if it sleeps.
            writer.write(Stream::Stdout, b"last\n", second(3000));
        });
        let out = String::from_utf8(follow(&mut reader, &stop)).unwrap();
        thread.join().unwrap();
        let expected: String = (0..3000).map(|n| format!("{n}\n")).collect();
        assert!(
            out == expected.clone() + "last\n" || out == expected,
            "{compress}: {} bytes",
            out.len()
        );
    }
}

#[test]
fn a_follower_outlives_files_that_are_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let config = JsonFile {
        max_file: 1,
        ..log_in(&directory)
    };
    let mut writer = written(&config, 10);
    let query = Query {
        tail: Some(0),
        follow: true,
        ..BOTH
    };
    let mut reader = Reader::open(&config.path, query).unwrap();
    assert!(matches!(reader.next().unwrap(), Next::Pending));
    for n in 10..100 {
        writer.write(Stream::Stdout, format!("{n}\n").as_bytes(), second(n));
    }
    reader.stop_following();
    let mut out = Vec::new();
    assert_eq!(
        reader.fill(&Format::default(), &mut out, usize::MAX).unwrap(),
        Progress::End
    );
    let out = String::from_utf8(out).unwrap();
    assert!(out.starts_with("10\n") && out.ends_with("\n99\n"), "{out}");
}

#[test]
fn until_ends_a_follower() {
    let directory = tempfile::tempdir().unwrap();
    let config = log_in(&directory);
    written(&config, 10);
    let query = Query {
        follow: true,
        until: Some(second(5)),
        ..BOTH
    };
    let mut reader = Reader::open(&config.path, query).unwrap();
    let mut entries = BTreeMap::new();
    while let Next::Entry(entry) = reader.next().unwrap() {
        entries.insert(entry.timestamp().unwrap(), entry.stream);
    }
    assert_eq!(entries.len(), 6);
    assert!(matches!(reader.next().unwrap(), Next::End));
}
