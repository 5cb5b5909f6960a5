//! Noticing that a log grows.

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::{
    inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};

use crate::{Result, error::Context};

/// How often a log is looked at when the host has no inotify instance left for it (128 for each user by default).
const LOOK: Duration = Duration::from_millis(100);

/// Becomes readable when the log may have grown or been rotated.
#[derive(Debug)]
pub(super) enum Watch {
    Events {
        inotify: Inotify,
        file: Option<WatchDescriptor>,
    },
    Time(TimerFd),
}

impl Watch {
    /// Watches the log at `path`.
    pub fn new(path: &Path) -> Result<Self> {
        let directory = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or_else(|| Path::new("."));
        let watched = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).and_then(|inotify| {
            let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
            inotify.add_watch(directory, flags).map(|_| inotify)
        });
        match watched {
            Ok(inotify) => Ok(Self::Events { inotify, file: None }),
            Err(nix::Error::EMFILE | nix::Error::ENFILE | nix::Error::ENOSPC) => Self::by_time(),
            Err(e) => Err(e).context(|| format!("cannot watch {}", directory.display())),
        }
    }

    fn by_time() -> Result<Self> {
        let message = || "cannot make a timer";
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).context(message)?;
        let every = Expiration::Interval(TimeSpec::from_duration(LOOK));
        timer.set(every, TimerSetTimeFlags::empty()).context(message)?;
        Ok(Self::Time(timer))
    }

    /// Watches `current` from now on, instead of the file before.
    pub fn follow(&mut self, current: &File) {
        let Self::Events { inotify, file } = self else {
            return;
        };
        if let Some(old) = file.take() {
            // The kernel has dropped it already if the file is gone.
            let _ = inotify.rm_watch(old);
        }
        let path = PathBuf::from(format!("/proc/self/fd/{}", current.as_raw_fd()));
        match inotify.add_watch(&path, AddWatchFlags::IN_MODIFY) {
            Ok(watch) => *file = Some(watch),
            Err(_) => {
                if let Ok(timer) = Self::by_time() {
                    *self = timer;
                }
            }
        }
    }

    /// Forgets what has been noticed so far; to be called before looking.
    pub fn clear(&self) {
        match self {
            Self::Events { inotify, .. } => {
                while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
            }
            Self::Time(timer) => {
                let mut count = [0; 8];
                // Not due yet is as good.
                let _ = rustix::io::read(timer, &mut count);
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Events { inotify, .. } => inotify.as_fd(),
            Self::Time(timer) => timer.as_fd(),
        }
    }
}
