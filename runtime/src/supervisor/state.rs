//! The supervisor's record of what it runs, for whoever finds the bundle if the supervisor is killed.

use std::{fs, os::fd::OwnedFd, path::Path, sync::OnceLock};

use jiff::Timestamp;
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde::{Deserialize, Serialize};

use super::config::{STATE_FILE, write_json};
use crate::{Result, cgroup::Cgroup, sys::pidfd::send_signal};

/// `supervisor-state.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    pub supervisor: Identity,
    pub init: Identity,
    pub cgroup: Cgroup,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
}

/// A process, told apart from later ones that get the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Process id, as the machine numbers it.
    pub pid: i32,
    /// Clock ticks from boot to the process's start, proc_pid_stat(5) field 22.
    pub start_time: u64,
    /// Which boot that was.
    pub boot: String,
}

impl State {
    pub fn store(&self, bundle: &Path) -> Result<()> {
        write_json(&bundle.join(STATE_FILE), self)
    }

    /// The record in `bundle`; none if there is none, or none that can be read.
    pub fn load(bundle: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(bundle.join(STATE_FILE)).ok()?).ok()
    }
}

impl Identity {
    /// Of a process that exists; a number that never matches if it does not.
    pub fn of(pid: i32) -> Self {
        Self {
            pid,
            start_time: start_time(pid).unwrap_or(u64::MAX),
            boot: boot().unwrap_or_default().to_owned(),
        }
    }

    /// The process, held for good; none if it has ended and been reaped.
    ///
    /// # Errors
    /// What pidfd_open(2) says, but for a process that is not there.
    pub fn pidfd(&self) -> Result<Option<OwnedFd>, Errno> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(None);
        };
        // The pidfd is opened first: if the process it holds has the right start time, it is the right one for good.
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Ok(None),
            other => other?,
        };
        Ok((Self::of(self.pid) == *self).then_some(pidfd))
    }

    /// Whether the process is there and has not ended.
    pub fn is_running(&self) -> bool {
        let state = stat(self.pid).and_then(|fields| fields.chars().next());
        Self::of(self.pid) == *self && state.is_some_and(|s| s != 'Z' && s != 'X')
    }

    /// Kills the process if it is still the same one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn kill(&self) -> Result<(), Errno> {
        let Some(pidfd) = self.pidfd()? else {
            return Ok(());
        };
        use std::os::fd::AsFd;
        match send_signal(pidfd.as_fd(), libc::SIGKILL) {
            Err(Errno::SRCH) => Ok(()),
            other => other,
        }
    }
}

fn start_time(pid: i32) -> Option<u64> {
    stat(pid)?.split(' ').nth(22 - 3)?.parse().ok()
}

/// The fields of proc_pid_stat(5) from the third on.
fn stat(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold blanks and parentheses; field 3 follows the last one.
    stat.rsplit_once(") ").map(|(_, fields)| fields.to_owned())
}

/// Read once; processes that are forked after that know it from birth.
fn boot() -> Option<&'static str> {
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(id) = BOOT.get() {
        return Some(id);
    }
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(BOOT.get_or_init(|| id.trim_end().to_owned()))
}

/// Reads ahead what supervisors that are forked from this process would read.
pub(super) fn warm_up() {
    let _ = boot();
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_the_very_same_process_is_killed() {
        let mut child = Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let identity = Identity::of(child.id() as i32);
        let stranger = Identity {
            start_time: identity.start_time + 1,
            ..identity.clone()
        };
        stranger.kill().unwrap();
        assert!(child.try_wait().unwrap().is_none());
        identity.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
        identity.kill().unwrap();
    }
}
