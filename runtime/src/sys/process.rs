//! What a process changes about itself before it executes a program.

use std::{
    ffi::{CStr, CString, c_char},
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use nix::sys::signal::{SigSet, SigmaskHow};

/// Gives every signal its default disposition and blocks none: execve(2) resets handlers, but neither what is ignored
/// nor the mask.
pub(crate) fn reset_signals() -> io::Result<()> {
    /// `struct sigaction` as the kernel has it: all zero means the default. The C library's function would spare the two
    /// signals that it keeps for itself, which may have come ignored.
    const DEFAULT: [u64; 4] = [0; 4];
    const SET_SIZE: usize = 8;
    for signal in 1..=64 {
        // SAFETY: the kernel reads a struct of at most this size; the default disposition runs no code of ours. SIGKILL
        // and SIGSTOP are refused, which is fine: they cannot have been changed.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                ptr::null_mut::<u8>(),
                SET_SIZE,
            )
        };
    }
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// Makes every descriptor from `first` on close at exec.
pub(crate) fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    close_range(first, RawFd::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

/// Closes every descriptor from 3 on but `keep`.
///
/// For children that never return to their parent's code: whatever owned the descriptors must not be used any more.
pub(crate) fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<_> = keep.iter().copied().filter(|fd| *fd >= 3).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1, 0)?;
        }
        first = fd + 1;
    }
    close_range(first, RawFd::MAX, 0)
}

fn close_range(first: RawFd, last: RawFd, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed here; without it the caller guarantees, by the contract of
    // `close_all_but`, that no owner of these descriptors is left.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes `from` the descriptor number `to`, replacing what it was.
///
/// Only for the standard streams of a child that is about to execute a program.
pub(crate) fn duplicate_to(from: RawFd, to: RawFd) -> io::Result<()> {
    let result = if from == to {
        // SAFETY: only clears close-on-exec, which dup2 would leave set.
        unsafe { libc::fcntl(from, libc::F_SETFD, 0) }
    } else {
        // SAFETY: no owner in this process relies on the number `to` (0, 1 or 2) any more.
        unsafe { libc::dup2(from, to) }
    };
    if result >= 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// execve(2) with everything prepared, so that it allocates nothing.
#[derive(Debug)]
pub(crate) struct Program {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    pub fn new(path: CString, arguments: Vec<CString>, environment: Vec<CString>) -> Self {
        Self {
            path,
            arguments,
            environment,
        }
    }

    pub fn path(&self) -> &CStr {
        &self.path
    }

    /// Replaces the process's program; returns only if that fails.
    pub fn execute(&self) -> io::Error {
        let (arguments, environment) = (pointers(&self.arguments), pointers(&self.environment));
        // SAFETY: all strings end in NUL, both arrays end in a null pointer, and all live across the call.
        unsafe { libc::execve(self.path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
        io::Error::last_os_error()
    }
}

/// The strings as execve(2) takes them. They have to outlive what is made here.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
}

/// Replaces the process's program by the one that `file` (`O_PATH` will do) refers to; returns only if that fails.
pub(crate) fn execute_file(
    file: BorrowedFd<'_>,
    arguments: &[CString],
    environment: &[CString],
) -> io::Error {
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: the path and all strings end in NUL, both arrays end in a null pointer, and all live across the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Raises or lowers a limit of the calling process (setrlimit(2)).
pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the kernel reads a struct that lives across the call; pid 0 is the caller itself.
    let result = unsafe { libc::prlimit64(0, resource as _, &raw const limit, ptr::null_mut()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Joins (and makes, if need be) the session keyring `name`, and lets processes of the same user find it.
pub(crate) fn join_session_keyring(name: &CStr) -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    const KEYCTL_SETPERM: libc::c_int = 5;
    /// Possessor: everything; user: view and search (linux/keyctl.h).
    const PERMISSIONS: u32 = 0x3f00_0000 | 0x0009_0000;
    // SAFETY: the kernel reads a string that lives across the call.
    let id = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            name.as_ptr(),
            0,
            0,
            0,
        )
    };
    if id < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: only numbers are passed.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, id, PERMISSIONS, 0, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes up the loopback interface of the calling process's network namespace.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: makes a descriptor, which `OwnedFd` below closes.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor has just been made and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: `ifreq` consists of integers and byte arrays, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as c_char;
    }
    let flags = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    let fd = socket.as_raw_fd();
    // SAFETY: the kernel reads the request, which lives across the call.
    let result = unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS as _, &raw const request) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes ownership of a descriptor that the kernel has just made, as received with a message.
pub(crate) fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: by the caller's word nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Waits for any signal, which has to be blocked; none if interrupted.
pub(crate) fn wait_for_signal() -> Option<i32> {
    let all = SigSet::all();
    // SAFETY: the set lives across the call, and what the kernel could tell about the signal is not asked for.
    let signal = unsafe { libc::sigwaitinfo(all.as_ref(), ptr::null_mut()) };
    (signal > 0).then_some(signal)
}

/// Sends `signal`, of any number, to a child that has not been reaped. One that has ended, or may not be signalled, is
/// left alone.
pub(crate) fn forward_signal(child: nix::unistd::Pid, signal: i32) {
    // SAFETY: only numbers are passed.
    unsafe { libc::kill(child.as_raw(), signal) };
}
