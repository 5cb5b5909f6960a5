//! From a prepared root to the program: user, streams, working directory, credentials, filter, execution.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use oci_spec::runtime::{Process, Spec};
use rustix::fs::{Mode, OFlags};

use super::{
    ANNOTATION_GROUP_ADD, StartError, Stdio,
    devices::Terminal,
    identity::{self, Capabilities},
    proc::Proc,
    program,
    root::{self, Root},
    seccomp::Filter,
    user::Accounts,
};
use crate::{
    Error, Result,
    error::Context,
    sys::{clone, process as own},
};

/// Mode creation mask of a process that does not ask for another one.
const UMASK: u32 = 0o022;

/// A process that lacks only its filter, its last capabilities and its program.
#[derive(Debug)]
pub(super) struct Settled {
    program: own::Program,
    capabilities: Capabilities,
    filter: Option<Filter>,
    /// Whether standard input is a terminal that is to control the process's session.
    terminal: bool,
}

/// Standard streams, each as descriptor, and the master of the terminal that they are the slave of.
pub(super) struct Streams {
    descriptors: [OwnedFd; 3],
    pub master: Option<OwnedFd>,
}

impl Streams {
    /// Those that `stdio` asks for, from the terminal `terminal` or the pipes that it holds.
    pub fn new(stdio: Stdio, terminal: Option<Terminal>, root: &Root) -> Result<Self> {
        let message = || "cannot prepare the standard streams";
        let (stdin, stdout, stderr) = match (stdio, terminal) {
            (
                Stdio::Pipes {
                    stdin,
                    stdout,
                    stderr,
                },
                _,
            ) => {
                let stdin = match stdin {
                    Some(stdin) => stdin,
                    None => null(root)?,
                };
                (stdin, stdout, stderr)
            }
            (Stdio::Terminal { .. }, Some(Terminal { master, slave })) => {
                let copy = || slave.try_clone().context(message);
                return Ok(Self {
                    descriptors: [copy()?, copy()?, slave],
                    master: Some(master),
                });
            }
            (Stdio::Terminal { .. }, None) => return Err(Error::internal("there is no terminal")),
        };
        // Numbers 0 to 2 are about to be replaced one after the other: none of them may be a source.
        let away = |fd: OwnedFd| {
            if fd.as_raw_fd() < 3 {
                fd.try_clone().context(message)
            } else {
                Ok(fd)
            }
        };
        Ok(Self {
            descriptors: [away(stdin)?, away(stdout)?, away(stderr)?],
            master: None,
        })
    }

    /// Makes them the descriptors 0 to 2.
    fn install(&self) -> Result<()> {
        for (number, stream) in (0..).zip(&self.descriptors) {
            own::duplicate_to(stream.as_raw_fd(), number).context(|| "cannot set the standard streams")?;
        }
        Ok(())
    }
}

/// The null device of the container, open for reading.
fn null(root: &Root) -> Result<OwnedFd> {
    let message = || "cannot open /dev/null of the container";
    let flags = OFlags::RDONLY | OFlags::NOCTTY;
    let file = File::from(root.open_plain(Path::new("/dev/null"), flags).context(message)?);
    if !root::is_character_device(&file, 1, 3).context(message)? {
        return Err(Error::internal(
            "/dev/null of the container is not the null device",
        ));
    }
    Ok(file.into())
}

/// Becomes what `process` asks for, within `root`, which is the caller's root directory.
pub(super) fn settle(
    spec: &Spec,
    process: &Process,
    streams: &Streams,
    filter: Option<Filter>,
    nofile: Option<(u64, u64)>,
    proc: Option<&Proc>,
    root: &Root,
) -> Result<Settled, StartError> {
    let group_add = spec
        .annotations()
        .as_ref()
        .and_then(|a| a.get(ANNOTATION_GROUP_ADD));
    let accounts = Accounts::read(root)?;
    let user = identity::resolve(process, group_add.map_or("", String::as_str), &accounts)?;
    identity::own_streams(&streams.descriptors.each_ref().map(AsFd::as_fd), user.uid)?;
    streams.install()?;
    identity::set_limits(process.rlimits().as_deref().unwrap_or_default(), nofile)?;
    if let Some(profile) = process.apparmor_profile().as_deref().filter(|p| !p.is_empty()) {
        confine(
            profile,
            proc.ok_or_else(|| Error::internal("there is no procfs to set the AppArmor profile by"))?,
        )?;
    }
    let directory = WorkingDirectory::open(process.cwd(), root)?;
    let entered = directory.enter();
    if process.no_new_privileges().unwrap_or(false) {
        rustix::thread::set_no_new_privs(true).context(|| "cannot set no_new_privs")?;
    }
    let capabilities = identity::become_user(&user, process.capabilities().as_ref())?;
    // Where only the user may enter, root in a user namespace may not.
    entered
        .or_else(|_| directory.enter())
        .map_err(|e| directory.failure(&e))?;
    verify_inside()?;
    let umask = process.user().umask().unwrap_or(UMASK);
    rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
    Ok(Settled {
        program: program::find(process, user.home.as_deref())?,
        capabilities,
        filter,
        terminal: streams.master.is_some(),
    })
}

/// Has AppArmor confine the program by `profile` (proc(5), attr/exec).
fn confine(profile: &str, proc: &Proc) -> Result<()> {
    let value = format!("exec {profile}");
    match proc.write("thread-self/attr/apparmor/exec", &value) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => proc.write("thread-self/attr/exec", &value),
        other => other,
    }
    .context(|| format!("cannot apply the AppArmor profile {profile:?}"))
}

/// The directory to begin in, found through the root: no link can lead out of it.
struct WorkingDirectory<'a> {
    path: &'a Path,
    directory: OwnedFd,
}

impl<'a> WorkingDirectory<'a> {
    fn open(path: &'a Path, root: &Root) -> Result<Self, StartError> {
        let path = if path.as_os_str().is_empty() {
            Path::new("/")
        } else {
            path
        };
        let directory = root
            .open(path, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|e| cwd_failure(path, &e))?;
        Ok(Self { path, directory })
    }

    fn enter(&self) -> io::Result<()> {
        Ok(rustix::process::fchdir(&self.directory)?)
    }

    fn failure(&self, error: &io::Error) -> StartError {
        cwd_failure(self.path, error)
    }
}

fn cwd_failure(path: &Path, error: &io::Error) -> StartError {
    let prefix = format!(
        "chdir to cwd ({:?}) set in config.json failed",
        path.display().to_string()
    );
    match error.raw_os_error() {
        Some(libc::ENOENT) => StartError::not_found(format!("{prefix}: no such file or directory")),
        Some(libc::ENOTDIR) => StartError::not_found(format!("{prefix}: not a directory")),
        Some(libc::EACCES) => StartError::not_executable(format!("{prefix}: permission denied")),
        _ => StartError::other(format!("{prefix}: {error}")),
    }
}

/// Refuses a working directory outside of the root, which the kernel shows by a path that does not begin there.
fn verify_inside() -> Result<()> {
    let path = rustix::process::getcwd(Vec::new()).context(|| "cannot read the working directory")?;
    if path.as_bytes().first() != Some(&b'/') {
        return Err(Error::internal(
            "the working directory is outside of the container's root",
        ));
    }
    Ok(())
}

impl Settled {
    /// Whether the filter is one of whose rules nothing is known.
    pub fn has_custom_filter(&self) -> bool {
        self.filter.as_ref().is_some_and(|f| f.custom)
    }

    /// Makes the terminal the one that controls the session, which the caller leads.
    pub fn take_terminal(&self) -> Result<()> {
        if self.terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())
                .context(|| "cannot make the terminal the controlling one")?;
        }
        Ok(())
    }

    pub fn has_terminal(&self) -> bool {
        self.terminal
    }

    /// Installs the filter and takes on the last capabilities; irrevocable. From here on only what the filter allows
    /// can be called.
    pub fn seal(&self) -> Result<()> {
        if let Some(filter) = &self.filter {
            self.capabilities.allow_filter()?;
            filter.install()?;
        }
        self.capabilities.assume()
    }

    /// Executes the program. Returns only if that fails.
    pub fn execute(&self) -> StartError {
        program::failure(&self.program, &self.program.execute())
    }
}

/// Runs `body`, which only returns with an error, and ends the process with the error told through `report`.
pub(super) fn end_with(
    report: &crate::sys::shared::SharedMessage,
    body: impl FnOnce() -> Result<std::convert::Infallible, StartError>,
) -> ! {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
    let error = match result {
        Ok(Err(error)) => error,
        Ok(Ok(never)) => match never {},
        Err(_) => StartError::other("the sandbox's process panicked before its program could run"),
    };
    error.report(report);
    clone::exit(1)
}
