//! Logs of running containers.

use std::{fs, path::Path, process::Command};

use berth_runtime::{
    log::{Format, Progress, Query, Reader},
    supervisor::Event,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::container::Bundle;

crate::tests![
    a_flood_is_followed_across_rotations,
    a_full_disk_does_not_hold_the_container_up,
    a_second_run_appends,
];

fn a_flood_is_followed_across_rotations() {
    let bundle = Bundle::command(&["/bin/seq", "1", "200000"]).log(|log| {
        log.max_size = 300_000;
        log.max_file = 1000;
        log.compress = true;
    });
    let mut container = bundle.launch();
    let query = Query {
        follow: true,
        stdout: true,
        ..Query::default()
    };
    let mut reader = Reader::open(&container.bundle.path().join("container.log"), query).unwrap();
    container.start();
    let mut out = Vec::new();
    loop {
        let limit = out.len() + 50_000;
        match reader.fill(&Format::default(), &mut out, limit).unwrap() {
            Progress::More => {}
            Progress::End => break,
            Progress::Pending if container.bundle.path().join("exit.json").exists() => {
                reader.stop_following()
            }
            Progress::Pending => {
                // The exit has no event in the log.
                let timeout = Timespec {
                    tv_sec: 0,
                    tv_nsec: 50_000_000,
                };
                poll(
                    &mut [PollFd::from_borrowed_fd(reader.fd().unwrap(), PollFlags::IN)],
                    Some(&timeout),
                )
                .unwrap();
            }
        }
    }
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert!(
        out == expected.as_bytes(),
        "{} of {} bytes",
        out.len(),
        expected.len()
    );
    container.exit();
    let logged = container.logged();
    let differs = logged.lines().zip(expected.lines()).position(|(a, b)| a != b);
    assert_eq!((logged.len(), differs), (expected.len(), None));
}

/// A small file system that goes with its owner.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn new(at: &'a Path, size: &str) -> Self {
        fs::create_dir(at).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", size, "berth-test"])
            .arg(at)
            .status();
        assert!(mount.unwrap().success());
        Self(at)
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        assert!(
            Command::new("umount")
                .arg("-l")
                .arg(self.0)
                .status()
                .unwrap()
                .success()
        );
    }
}

fn a_full_disk_does_not_hold_the_container_up() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("disk");
    let disk = Disk::new(&at, "size=512k");
    let file = at.join("container.log");
    let bundle = Bundle::command(&["/bin/seq", "1", "300000"]).log(|log| log.path.clone_from(&file));
    let mut container = bundle.start();
    let mut lost = 0;
    let status = container.exit_and(|event| {
        if let Event::LogDropped { bytes, .. } = event {
            lost += bytes;
        }
    });
    assert_eq!(status.exit_code, 0);
    assert!(lost > 1_000_000, "{lost}");
    let content = fs::read_to_string(&file).unwrap();
    assert!(content.len() > 400_000 && content.lines().all(|line| line.ends_with("Z\"}")));
    drop(disk);
}

fn a_second_run_appends() {
    let mut container = Bundle::shell("echo first").start();
    container.exit();
    let bundle = Bundle::shell("echo second").log(|log| {
        log.path = container.bundle.path().join("container.log");
    });
    bundle.start().exit();
    assert_eq!(container.logged(), "first\nsecond\n");
}
