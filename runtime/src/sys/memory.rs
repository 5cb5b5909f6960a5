//! The memory of a process that sleeps most of its life.

/// Stack that is left to the frames of this function and of what it calls, in bytes.
const IN_USE: usize = 4 * 1024;

/// How far below that the stack is given back, in bytes: no more than the gap that the kernel keeps free below a stack
/// (256 pages by default), so that nothing else can be in the range.
const REACH: usize = 512 * 1024;

const PAGE: usize = 4096;

/// Gives the heap's free pages back to the system.
pub(crate) fn trim_heap() {
    // SAFETY: malloc_trim(3) has no preconditions.
    unsafe { libc::malloc_trim(0) };
}

/// Gives back the pages of the stack that earlier, deeper calls have used.
#[inline(never)]
pub(crate) fn trim_stack() {
    let here = 0u8;
    let top = ((&raw const here).addr() - IN_USE) & !(PAGE - 1);
    let bottom = std::ptr::without_provenance_mut(top - REACH);
    // SAFETY: the range lies below every live frame and in reach of nothing but the stack, which grows downwards; what
    // is there is dead, and reads as zero from now on. Parts that are not mapped are passed over with an error.
    unsafe { libc::madvise(bottom, REACH, libc::MADV_DONTNEED) };
}
