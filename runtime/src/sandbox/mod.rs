//! An OCI runtime specification becomes a running process.
//!
//! [`create`] makes the namespaces, the root file system and everything else up to the point where only the program
//! itself is missing; [`Sandbox::start`] lets it execute. [`exec`] runs a further process in a sandbox that lives.
//!
//! The caller has to be a small process without threads (the container's supervisor): the new process is a copy of it
//! that runs this module's code until it executes the program.

pub mod defaults;
mod failure;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::{sys::signal::Signal, unistd::Pid};
use oci_spec::runtime::{Process, Spec};

pub use self::failure::StartError;
use crate::{Result, cgroup::Cgroup};

/// Annotation of the specification: run a minimal init as the first process (`true`), which starts the program,
/// forwards signals to it, reaps orphans and ends with the program's exit code.
pub const ANNOTATION_INIT: &str = "berth.init";
/// Annotation: [`SECCOMP_BUILTIN`] or [`SECCOMP_UNCONFINED`]. `linux.seccomp`, if present, is a custom profile and wins.
pub const ANNOTATION_SECCOMP: &str = "berth.seccomp";
/// Annotation: comma-separated names or numbers of further groups of the process, resolved inside the root.
pub const ANNOTATION_GROUP_ADD: &str = "berth.group-add";
/// Value of [`ANNOTATION_SECCOMP`]: Docker's default profile for the process's capabilities.
pub const SECCOMP_BUILTIN: &str = "builtin";
/// Value of [`ANNOTATION_SECCOMP`], and the meaning of its absence: no filter.
pub const SECCOMP_UNCONFINED: &str = "unconfined";

/// Standard streams of the new process.
#[derive(Debug)]
pub enum Stdio {
    /// The process's ends of three pipes (or any other files).
    Pipes {
        /// None: the sandbox's own `/dev/null`.
        stdin: Option<OwnedFd>,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A terminal made inside the sandbox; [`Sandbox::take_terminal`] has its other end. 0 × 0: size not set.
    Terminal {
        /// Rows.
        height: u16,
        /// Columns.
        width: u16,
    },
}

/// What the specification does not say.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Container id; names the session keyring.
    pub id: &'a str,
    /// Where the process is accounted. Limits are already applied to it; `linux.resources` is not read here.
    pub cgroup: &'a Cgroup,
    /// Soft and hard `RLIMIT_NOFILE` to give back to the process, if the engine raised its own and `process.rlimits`
    /// does not set one.
    pub nofile: Option<(u64, u64)>,
}

/// A process in a sandbox: created and waiting for [`start`](Self::start), or running.
///
/// Dropping one that was not started ends it. Dropping a running one leaves it alone.
/// The caller is its parent and reaps it (`waitid` with the pidfd).
#[derive(Debug)]
pub struct Sandbox {
    pid: Pid,
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
}

impl Sandbox {
    /// Process id, as the caller's pid namespace numbers it.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Becomes readable when the process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The master end of the terminal, once, if [`Stdio::Terminal`] was asked for.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Lets a created process execute its program and returns once it has.
    ///
    /// # Errors
    /// [`StartError`] if the program cannot be executed; the process has then ended and been reaped.
    pub fn start(&mut self) -> Result<(), StartError> {
        Err(StartError::other("the sandbox is not built yet"))
    }

    /// Sends `signal` by pidfd; a process that has ended is no error.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) if the kernel refuses.
    pub fn kill(&self, _signal: Signal) -> Result<()> {
        Ok(())
    }
}

/// Builds the sandbox that `spec` describes and returns when its process waits to be started.
///
/// # Errors
/// [`StartError`]; nothing is left behind then.
pub fn create(_spec: &Spec, _stdio: Stdio, _options: &Options<'_>) -> Result<Sandbox, StartError> {
    Err(StartError::other("the sandbox is not built yet"))
}

/// Runs `process` in the running sandbox whose first process is `target` (a pidfd): in its namespaces and its cgroup,
/// with the seccomp setting of `spec` (the specification the sandbox was created from). Returns once the program
/// has been executed.
///
/// # Errors
/// [`StartError`], among others if the sandbox has ended.
pub fn exec(
    _target: BorrowedFd<'_>,
    _spec: &Spec,
    _process: &Process,
    _stdio: Stdio,
    _options: &Options<'_>,
) -> Result<Sandbox, StartError> {
    Err(StartError::other("the sandbox is not built yet"))
}
