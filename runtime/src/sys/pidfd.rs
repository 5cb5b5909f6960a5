//! Signals by pidfd, for every number a container's user may ask for.

use std::os::fd::BorrowedFd;

use rustix::{
    io::Errno,
    process::{Signal, pidfd_send_signal},
};

/// Sends signal `number` to the process behind `pidfd`.
///
/// # Errors
/// `INVAL` if there is no such signal for programs to use, `SRCH` if the process has ended.
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    let signal = match number {
        34..=64 => {
            // SAFETY: 34 to 64 are real-time signals that the C library leaves to programs; it is only passed on.
            unsafe { Signal::from_raw_unchecked(number) }
        }
        _ => Signal::from_named_raw(number).ok_or(Errno::INVAL)?,
    };
    pidfd_send_signal(pidfd, signal)
}
