//! Being told when the out-of-memory killer visits a cgroup.

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::event::{EventfdFlags, PollFlags, eventfd};

use super::{Cgroup, Version, write_file};
use crate::{Result, error::Context};

/// Tells that [`Cgroup::oom_kills`] may have grown. On v1 that is said before the kernel has chosen whom to kill.
#[derive(Debug)]
pub struct OomWatch {
    version: Version,
    fd: OwnedFd,
}

impl Cgroup {
    /// Watches for want of memory; none if the memory controller does not tell.
    ///
    /// # Errors
    /// Internal, if the kernel refuses.
    pub fn watch_oom(&self) -> Result<Option<OomWatch>> {
        let Some(dir) = self.find("memory") else {
            return Ok(None);
        };
        let open = |name: &str| {
            let path = dir.path.join(name);
            File::open(&path).context(|| format!("cannot open {}", path.display()))
        };
        let fd = match dir.version {
            Version::V2 => open("memory.events")?.into(),
            Version::V1 => {
                let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
                let event = eventfd(0, flags).context(|| "cannot make an eventfd")?;
                let control = open("memory.oom_control")?;
                let registration = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
                write_file(&dir.path.join("cgroup.event_control"), &registration)
                    .context(|| format!("cannot watch {} for want of memory", dir.path.display()))?;
                event
            }
        };
        let watch = OomWatch {
            version: dir.version,
            fd,
        };
        watch.clear();
        Ok(Some(watch))
    }
}

impl OomWatch {
    /// What poll(2) has to wait for.
    pub fn interest(&self) -> PollFlags {
        match self.version {
            Version::V1 => PollFlags::IN,
            Version::V2 => PollFlags::PRI,
        }
    }

    /// Forgets what has been told so far.
    pub fn clear(&self) {
        let mut content = [0; 1024];
        let read = match self.version {
            Version::V1 => rustix::io::read(&self.fd, &mut content[..8]),
            Version::V2 => rustix::io::pread(&self.fd, &mut content, 0),
        };
        // Nothing told yet, or a cgroup that is gone, is as good.
        let _ = read;
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
