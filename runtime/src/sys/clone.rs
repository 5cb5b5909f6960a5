//! clone3(2) as a fork into new namespaces, sound only in a process that has no other threads.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::Pid,
};

/// Exit code of a child that panicked.
const PANICKED: i32 = 101;

/// `CLONE_INTO_CGROUP` of linux/sched.h; libc types it too narrowly.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// `CLONE_NEWTIME`: only clone3 takes it, as its bit belongs to clone's exit signal.
pub(crate) const CLONE_NEWTIME: u64 = libc::CLONE_NEWTIME as u64;

/// `struct clone_args` of linux/sched.h.
#[derive(Default)]
#[repr(C)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks with namespace `flags`, into the v2 cgroup whose directory is `cgroup`. The child runs `child` and exits with
/// what it returns, without unwinding into the caller's frames and without running exit handlers. Returns the child's
/// id and pidfd.
///
/// # Errors
/// `InvalidInput` if the process has other threads, else what clone(2) says.
pub(crate) fn clone(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> i32,
) -> io::Result<(Pid, OwnedFd)> {
    // unshare(2): CLONE_THREAD has no effect in a single-threaded process and is EINVAL in any other.
    unshare(CloneFlags::CLONE_THREAD)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the process has other threads"))?;
    let mut pidfd: RawFd = -1;
    let mut arguments = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: ptr::from_mut(&mut pidfd) as u64,
        // A sibling's end is told as that of the caller.
        exit_signal: if flags & libc::CLONE_PARENT as u64 == 0 {
            libc::SIGCHLD as u64
        } else {
            0
        },
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?;
    }
    // SAFETY: without CLONE_VM and with no stack given this is a fork: both sides go on from here, each with its own
    // memory, and with no other threads no lock or allocator state is caught half-way. The kernel writes only `pidfd`.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            ptr::from_mut(&mut arguments),
            size_of::<CloneArgs>(),
        )
    };
    match pid {
        0 => {
            let code = catch_unwind(AssertUnwindSafe(child)).unwrap_or(PANICKED);
            exit(code)
        }
        1.. => {
            let pid = i32::try_from(pid).map_err(io::Error::other)?;
            // SAFETY: the kernel has just made the descriptor for us.
            Ok((Pid::from_raw(pid), unsafe { OwnedFd::from_raw_fd(pidfd) }))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Forks a child of the caller's parent (`CLONE_PARENT`) by the old clone(2), which a seccomp filter that knows no
/// clone3 lets through. The child runs `child`. Returns its id and pidfd.
pub(crate) fn fork_sibling(child: impl FnOnce() -> i32) -> io::Result<(Pid, OwnedFd)> {
    let flags = (libc::CLONE_PARENT | libc::CLONE_PIDFD | libc::SIGCHLD) as libc::c_long;
    fork_with(flags, child)
}

/// Forks by the old clone(2). Returns the child's id and pidfd.
pub(crate) fn fork_plain(child: impl FnOnce() -> i32) -> io::Result<(Pid, OwnedFd)> {
    fork_with((libc::CLONE_PIDFD | libc::SIGCHLD) as libc::c_long, child)
}

fn fork_with(flags: libc::c_long, child: impl FnOnce() -> i32) -> io::Result<(Pid, OwnedFd)> {
    let mut pidfd: RawFd = -1;
    // SAFETY: as in `clone`; callers are children made by it, which have one thread. The kernel writes only `pidfd`, by
    // way of the parent_tid argument, which is the third on every architecture but those with CLONE_BACKWARDS, where
    // the others are null anyway.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            flags,
            ptr::null_mut::<u8>(),
            &raw mut pidfd,
            ptr::null_mut::<u8>(),
            0,
        )
    };
    match pid {
        0 => {
            let code = catch_unwind(AssertUnwindSafe(child)).unwrap_or(PANICKED);
            exit(code)
        }
        1.. => {
            let pid = i32::try_from(pid).map_err(io::Error::other)?;
            // SAFETY: the kernel has just made the descriptor for us.
            Ok((Pid::from_raw(pid), unsafe { OwnedFd::from_raw_fd(pidfd) }))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// A process that does nothing but be in its namespaces. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Held {
    pub fn pid(&self) -> Pid {
        self.pid
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        use nix::sys::wait::{Id, WaitPidFlag, waitid};
        // It can only have been ended already.
        let _ = super::pidfd::send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        while waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED) == Err(nix::errno::Errno::EINTR) {}
    }
}

/// Makes a process in new namespaces, as `flags` say. The caller may have other threads. The process ends with the
/// calling thread at the latest.
pub(crate) fn hold(flags: u64) -> io::Result<Held> {
    let mut pidfd: RawFd = -1;
    let mut arguments = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: ptr::from_mut(&mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    let parent = std::process::id();
    // SAFETY: a fork, as in `clone`. Locks may be held by other threads, but the child only makes system calls that need
    // none, and never returns.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            ptr::from_mut(&mut arguments),
            size_of::<CloneArgs>(),
        )
    };
    match pid {
        0 => stay(parent),
        1.. => {
            let pid = Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?);
            // SAFETY: the kernel has just made the descriptor for us.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Held { pid, pidfd })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes a process that joins the user namespace `user` and makes further ones, `flags`, there. As [`hold`].
pub(crate) fn hold_in(user: BorrowedFd<'_>, flags: CloneFlags) -> io::Result<Held> {
    let (reader, writer) = io::pipe()?;
    let parent = std::process::id();
    let mut pidfd: RawFd = -1;
    let arguments = (libc::CLONE_PIDFD | libc::SIGCHLD) as libc::c_long;
    // SAFETY: as in `hold`; the arguments are those of `fork_with`.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            arguments,
            ptr::null_mut::<u8>(),
            &raw mut pidfd,
            ptr::null_mut::<u8>(),
            0,
        )
    };
    match pid {
        0 => {
            // SAFETY: system calls; the byte that is read lives across the call.
            unsafe {
                let joined = libc::setns(user.as_raw_fd(), libc::CLONE_NEWUSER) == 0
                    && libc::unshare(flags.bits()) == 0;
                let done = u8::from(joined);
                libc::write(writer.as_raw_fd(), (&raw const done).cast(), 1);
            }
            stay(parent)
        }
        1.. => {
            let pid = Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?);
            // SAFETY: the kernel has just made the descriptor for us.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let held = Held { pid, pidfd };
            drop(writer);
            let mut done = [0];
            std::io::Read::read_exact(&mut &reader, &mut done)?;
            match done {
                [1] => Ok(held),
                _ => Err(io::ErrorKind::PermissionDenied.into()),
            }
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits for the end, which comes with that of the thread that made this process.
fn stay(parent: u32) -> ! {
    // SAFETY: system calls without pointers.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // Had the parent ended before that, nobody would end this process.
        while libc::getppid().cast_unsigned() == parent {
            libc::pause();
        }
    }
    exit(0)
}

/// Ends the process at once, without exit handlers.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}
