//! The test's side of failpoints: `berth_runtime::failpoint` describes the directory they share.
//!
//! Only engines that were built with debug assertions have failpoints.

use std::{fs, path::PathBuf, time::Duration};

use tempfile::TempDir;

use crate::{client::PATIENCE, engine::Options};

/// A directory that engines, spawners and supervisors look into at each failpoint.
#[derive(Debug)]
pub struct Failpoints(TempDir);

/// A failpoint that was hit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hit {
    /// Its name.
    pub point: String,
    /// The process that hit it, as that sees itself.
    pub pid: i32,
}

impl Default for Failpoints {
    fn default() -> Self {
        Self::new()
    }
}

impl Failpoints {
    /// A directory without a plan.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("berth-failpoints-")
            .tempdir()
            .expect("a directory for temporary files");
        rustix::fs::mkfifoat(rustix::fs::CWD, directory.path().join("release"), 0o600.into())
            .expect("a fifo");
        Self(directory)
    }

    /// Options of an engine that looks into it.
    pub fn options(&self) -> Options {
        Options::default().env("BERTH_FAILPOINTS", &self.0.path().display().to_string())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Forgets what was hit, and asks for `action` at hit `number` of `point`, counted from here.
    ///
    /// # Panics
    /// If the directory is gone.
    pub fn plan(&self, point: &str, number: u64, action: &str) {
        self.clear();
        fs::write(self.path("plan"), format!("{point} {number} {action}\n")).expect("a file");
    }

    /// Forgets the plan and what was hit.
    ///
    /// # Panics
    /// If the directory is gone.
    pub fn clear(&self) {
        for entry in fs::read_dir(self.0.path()).expect("our directory") {
            let path = entry.expect("an entry").path();
            if !path.ends_with("release") {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Waits until nothing has been hit for a moment, so that what comes next is what is done next.
    pub async fn quiet(&self) {
        let mut before = None;
        loop {
            let now = self.hits().len();
            if before.replace(now) == Some(now) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What was hit since the plan was made, in this order.
    pub fn hits(&self) -> Vec<Hit> {
        let text = fs::read_to_string(self.path("hits")).unwrap_or_default();
        text.lines()
            .filter_map(|line| {
                let (point, pid) = line.split_once(' ')?;
                Some(Hit {
                    point: point.to_owned(),
                    pid: pid.parse().ok()?,
                })
            })
            .collect()
    }

    /// Whether a process waits.
    pub fn is_paused(&self) -> bool {
        self.path("paused").exists()
    }

    /// Waits until a process waits.
    ///
    /// # Panics
    /// If none comes to it.
    pub async fn paused(&self) {
        let look = async {
            while !self.is_paused() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let came = tokio::time::timeout(PATIENCE, look).await;
        assert!(came.is_ok(), "nothing came to the failpoint within {PATIENCE:?}");
    }

    /// Lets the process that waits go on. One that has been killed meanwhile is given up after a while.
    ///
    /// # Panics
    /// If the fifo is gone.
    pub fn release(&self) {
        use rustix::fs::{Mode, OFlags, open};
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // It says that it waits a moment before it does.
        for _ in 0..200 {
            match open(self.path("release"), flags, Mode::empty()) {
                Ok(_) => return,
                Err(rustix::io::Errno::NXIO) if self.is_paused() => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(rustix::io::Errno::NXIO) => return,
                Err(error) => panic!("cannot release: {error}"),
            }
        }
    }
}
