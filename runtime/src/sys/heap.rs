//! The heap of a process that sleeps most of its life.

/// Gives the heap's free pages back to the system.
pub(crate) fn trim() {
    // SAFETY: malloc_trim(3) has no preconditions.
    unsafe { libc::malloc_trim(0) };
}
