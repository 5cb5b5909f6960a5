//! Failpoints: named steps at which a test makes this process die, fail or wait.
//!
//! Each step with an effect outside the process begins with a [`hit`]. In builds without debug assertions, as release
//! builds are, it is nothing at all. In the others it is nothing unless the environment variable [`VARIABLE`] names a
//! directory when the program starts; forked processes inherit that. The directory is the test's side of it:
//!
//! | file | what |
//! |---|---|
//! | `hits` | every hit is appended here: `point pid` |
//! | `plan` | lines `point number action`: what to do at that hit of that point, `*` for every hit |
//! | `count.POINT` | as many bytes as the point has been hit |
//! | `paused` | appears while a process waits: `point pid` |
//! | `release` | a fifo; who waits goes on when it is opened for writing |
//!
//! Actions: `kill` (SIGKILL to oneself), `pause`, and the name of an error: `ENOSPC`, `EMFILE`, `ENOMEM`, `EIO`,
//! `EINTR`.

use std::io;

/// Name of the environment variable that names the directory.
pub const VARIABLE: &str = "BERTH_FAILPOINTS";

/// The step `name` is about to be done.
///
/// # Errors
/// The error that a test has asked for.
#[inline(always)]
pub fn hit(name: &str) -> io::Result<()> {
    #[cfg(debug_assertions)]
    return active::hit(name);
    #[cfg(not(debug_assertions))]
    {
        let _ = name;
        Ok(())
    }
}

/// Keeps the directory within reach of a process that is about to enter another root. What is kept closes when a
/// program is executed.
#[inline(always)]
pub(crate) fn keep_within_reach() {
    #[cfg(debug_assertions)]
    active::keep_within_reach();
}

#[cfg(debug_assertions)]
mod active {
    use std::{
        fs::File,
        io::{self, Read, Write},
        os::fd::{AsFd, BorrowedFd, OwnedFd},
        path::PathBuf,
        sync::OnceLock,
    };

    use rustix::{
        fs::{CWD, Mode, OFlags, SeekFrom, openat, seek},
        io::Errno,
    };

    static DIRECTORY: OnceLock<Option<PathBuf>> = OnceLock::new();
    static KEPT: OnceLock<Option<OwnedFd>> = OnceLock::new();

    fn directory() -> Option<&'static PathBuf> {
        DIRECTORY
            .get_or_init(|| std::env::var_os(super::VARIABLE).map(PathBuf::from))
            .as_ref()
    }

    pub fn keep_within_reach() {
        KEPT.get_or_init(|| Directory::open().and_then(|directory| directory.0));
    }

    /// The test's directory, open.
    struct Directory(Option<OwnedFd>);

    impl Directory {
        /// None where there is none, or none within reach.
        fn open() -> Option<Self> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let path = directory()?;
            if matches!(KEPT.get(), Some(Some(_))) {
                return Some(Self(None));
            }
            Some(Self(Some(openat(CWD, path, flags, Mode::empty()).ok()?)))
        }

        fn fd(&self) -> Option<BorrowedFd<'_>> {
            let kept = || KEPT.get().and_then(Option::as_ref);
            self.0.as_ref().or_else(kept).map(AsFd::as_fd)
        }

        fn file(&self, name: &str, flags: OFlags) -> Result<File, Errno> {
            let fd = self.fd().ok_or(Errno::NOENT)?;
            openat(fd, name, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o600)).map(File::from)
        }

        /// Appends to a file in one piece; its length with that.
        fn append(&self, name: &str, text: &str) -> Result<u64, Errno> {
            let mut file = self.file(name, OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND)?;
            file.write_all(text.as_bytes()).map_err(|_| Errno::IO)?;
            seek(&file, SeekFrom::Current(0))
        }

        fn read(&self, name: &str) -> String {
            let mut text = String::new();
            if let Ok(mut file) = self.file(name, OFlags::RDONLY) {
                let _ = file.read_to_string(&mut text);
            }
            text
        }
    }

    pub fn hit(name: &str) -> io::Result<()> {
        match Directory::open() {
            Some(directory) => look_up(&directory, name),
            None => Ok(()),
        }
    }

    fn look_up(directory: &Directory, name: &str) -> io::Result<()> {
        let told = format!("{name} {}\n", std::process::id());
        // A test that cannot be told finds out by what it misses.
        let _ = directory.append("hits", &told);
        let number = directory.append(&format!("count.{name}"), ".").unwrap_or(0);
        let plan = directory.read("plan");
        for line in plan.lines() {
            let mut words = line.split(' ');
            let (point, which, action) = (words.next(), words.next(), words.next());
            let meant = which.is_some_and(|which| which == "*" || which.parse() == Ok(number));
            if point == Some(name) && meant {
                return act(directory, action.unwrap_or_default(), &told);
            }
        }
        Ok(())
    }

    fn act(directory: &Directory, action: &str, told: &str) -> io::Result<()> {
        let errno = match action {
            "kill" => die(),
            "pause" => {
                pause(directory, told);
                return Ok(());
            }
            "ENOSPC" => Errno::NOSPC,
            "EMFILE" => Errno::MFILE,
            "ENOMEM" => Errno::NOMEM,
            "EIO" => Errno::IO,
            "EINTR" => Errno::INTR,
            _ => Errno::INVAL,
        };
        Err(errno.into())
    }

    fn die() -> ! {
        let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
        // Process 1 of a namespace cannot kill itself; a trap ends it all the same.
        std::process::abort()
    }

    fn pause(directory: &Directory, told: &str) {
        let _ = directory.append("paused", told);
        // Opening a fifo waits for the other side.
        while let Err(Errno::INTR) = directory.file("release", OFlags::RDONLY).map(drop) {}
    }
}
