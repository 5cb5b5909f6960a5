//! A buffer of whole pages that can be given back to the system without giving up the buffer.

use std::{
    io,
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

/// Anonymous private memory. Pages cost nothing until they are written to.
#[derive(Debug)]
pub(crate) struct Pages {
    start: NonNull<u8>,
    length: usize,
}

impl Pages {
    /// `length` bytes, all zero.
    pub(crate) fn new(length: usize) -> io::Result<Self> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match NonNull::new(start.cast()) {
            Some(start) => Ok(Self { start, length }),
            None => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }

    /// Gives the pages back; the content is zero again.
    pub(crate) fn discard(&mut self) {
        // SAFETY: the range is this buffer's own private anonymous mapping and nobody else can refer to it now.
        unsafe { libc::madvise(self.start.as_ptr().cast(), self.length, libc::MADV_DONTNEED) };
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is readable, initialised (zero) and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, writable, and borrowed exclusively through `self`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is this buffer's own and no borrow of it can be left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discarded_pages_are_zero() {
        let mut pages = Pages::new(1 << 16).unwrap();
        pages.fill(7);
        assert_eq!(pages[65_535], 7);
        pages.discard();
        assert!(pages.iter().all(|&b| b == 0));
    }
}
