//! The file that holds the engine's process id.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use berth_runtime::{Error, Result, error::Context};
use nix::{errno::Errno, sys::signal::kill, unistd::Pid};

/// The file while this process is the one it names; removed when dropped.
#[derive(Debug)]
pub struct PidFile(PathBuf);

impl PidFile {
    /// Writes this process's id to `path`.
    ///
    /// # Errors
    /// [`Kind::Conflict`](berth_runtime::Kind::Conflict) if it names a process that runs, else internal.
    pub fn write(path: &Path) -> Result<Self> {
        let say = || format!("cannot write the pid file {}", path.display());
        match fs::read_to_string(path) {
            Ok(text) => check(path, &text)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).context(say),
        }
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).context(say)?;
        }
        fs::write(path, format!("{}\n", std::process::id())).context(say)?;
        set_mode(path).context(say)?;
        Ok(Self(path.to_owned()))
    }
}

fn set_mode(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

fn check(path: &Path, text: &str) -> Result<()> {
    let Ok(pid) = text.trim().parse::<i32>() else {
        return Ok(());
    };
    let own = i32::try_from(std::process::id()).is_ok_and(|own| own == pid);
    let runs = pid > 0 && !own && kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH);
    // The number may have gone to another program since.
    if runs && is_engine(pid) {
        return Err(Error::conflict(format!(
            "process with PID {pid} is still running: it is named in {}; stop it, or use another pid file",
            path.display()
        )));
    }
    Ok(())
}

/// Whether the process goes by the same name as this one, and has not ended (one whose end nobody has asked for yet
/// still has its number).
fn is_engine(pid: i32) -> bool {
    let stat = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    let Some(other) = stat(&pid.to_string()) else {
        return false;
    };
    let ended = matches!(name_and_state(&other), Some((_, 'Z' | 'X')));
    let name = |stat: &str| name_and_state(stat).map(|(name, _)| name.to_owned());
    !ended && stat("self").is_some_and(|own| name(&own) == name(&other))
}

/// Name and state of a process: proc_pid_stat(5).
fn name_and_state(stat: &str) -> Option<(&str, char)> {
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    Some((name, rest.trim_start().chars().next()?))
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let own = std::process::id().to_string();
        if fs::read_to_string(&self.0).is_ok_and(|text| text.trim() == own) {
            let _ = fs::remove_file(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/pid");
        let file = PidFile::write(&path).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap().trim(),
            std::process::id().to_string()
        );
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn one_that_has_ended_is_no_engine() {
        assert_eq!(name_and_state("7 (a) b) Z 1 7"), Some(("a) b", 'Z')));
        assert_eq!(name_and_state("nonsense"), None);
        assert!(is_engine(i32::try_from(std::process::id()).unwrap()));
        // This program again, so that only its state tells it apart.
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .arg("--list")
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let zombie = || {
            fs::read_to_string(format!("/proc/{pid}/stat"))
                .unwrap()
                .contains(") Z ")
        };
        while !zombie() {
            std::thread::yield_now();
        }
        assert!(!is_engine(pid));
        child.wait().unwrap();
        assert!(!is_engine(pid));
    }

    #[test]
    fn a_stale_one_is_replaced_and_a_foreign_one_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        for stale in ["", "nonsense", "999999999", "1"] {
            fs::write(&path, stale).unwrap();
            drop(PidFile::write(&path).unwrap());
        }
        let file = PidFile::write(&path).unwrap();
        fs::write(&path, "42").unwrap();
        drop(file);
        assert!(path.exists());
    }
}
