//! Forking without exec, which is sound only in a process that has no other threads.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::{ForkResult, Pid},
};

/// Exit code of a forked child that panicked.
const PANICKED: i32 = 101;

/// Forks; the child runs `child` and exits with what it returns, without unwinding into the caller's frames and
/// without running exit handlers that belong to the parent.
///
/// # Errors
/// `InvalidInput` if the process has other threads, else what fork(2) says.
pub(crate) fn fork(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    // unshare(2): CLONE_THREAD has no effect in a single-threaded process and is EINVAL in any other.
    unshare(CloneFlags::CLONE_THREAD)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the process has other threads"))?;
    // SAFETY: there are no other threads, so no lock or allocator state can be caught half-way in the child.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let code = catch_unwind(AssertUnwindSafe(child)).unwrap_or(PANICKED);
            // SAFETY: _exit(2) has no preconditions and does not return.
            unsafe { libc::_exit(code) }
        }
    }
}

/// Closes every descriptor above standard error but `keep`, which comes back as number 3.
///
/// For forked children only: whatever owned the closed descriptors must never be used or dropped, which holds for
/// [`fork`]'s child, since it exits without unwinding.
pub(crate) fn close_all_but(keep: OwnedFd) -> io::Result<OwnedFd> {
    const FIRST: i32 = 3;
    let kept = if keep.as_raw_fd() == FIRST {
        keep
    } else {
        // SAFETY: number 3 either is free or belongs to an owner that, by this function's contract, is gone for good.
        let fd = unsafe { libc::dup3(keep.as_raw_fd(), FIRST, libc::O_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        std::mem::forget(keep);
        // SAFETY: dup3 has just made it and nobody else owns it.
        unsafe { OwnedFd::from_raw_fd(fd) }
    };
    close_from(FIRST as u32 + 1)?;
    Ok(kept)
}

/// Closes every descriptor from `first` on. For forked children only, as [`close_all_but`].
pub(crate) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: nothing in this process uses these descriptors any more, by this function's contract.
    if unsafe { libc::close_range(first, u32::MAX, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
