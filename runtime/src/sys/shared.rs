//! A page of memory that a process shares with the children it forks.

use std::{
    cell::UnsafeCell,
    io, ptr,
    sync::atomic::{AtomicU32, Ordering},
};

/// Bytes of a message at most; longer ones are cut.
pub(crate) const MESSAGE_MAX: usize = 4000;

/// What the page holds.
#[repr(C)]
struct Page {
    /// 0 until a message is there; then its tag plus one.
    tag: AtomicU32,
    length: AtomicU32,
    message: UnsafeCell<[u8; MESSAGE_MAX]>,
}

/// A message that one process leaves for another one, without any system call: it works where a seccomp filter forbids
/// them all.
#[derive(Debug)]
pub(crate) struct SharedMessage {
    page: ptr::NonNull<Page>,
}

impl SharedMessage {
    /// An empty page.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory. It is zeroed, which is
        // a valid `Page`, and page-aligned.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size_of::<Page>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let page = ptr::NonNull::new(page.cast()).ok_or_else(|| io::Error::other("mmap gave a null page"))?;
        Ok(Self { page })
    }

    fn page(&self) -> &Page {
        // SAFETY: the mapping lives as long as `self` and is only reached through shared references.
        unsafe { self.page.as_ref() }
    }

    /// Leaves `message` with a tag of the writer's choice. The first message stays.
    pub fn put(&self, tag: u8, message: &str) {
        let page = self.page();
        if page.tag.load(Ordering::Acquire) != 0 {
            return;
        }
        let mut end = message.len().min(MESSAGE_MAX);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        // SAFETY: only the process whose turn it is writes (the reader waits for its end, or its exec), and the bytes
        // are read only after `tag` says so.
        unsafe { ptr::copy_nonoverlapping(message.as_ptr(), page.message.get().cast(), end) };
        page.length.store(end as u32, Ordering::Relaxed);
        page.tag.store(u32::from(tag) + 1, Ordering::Release);
    }

    /// The tag and the message, if there is one. Call it when the writer has ended or told that it is done.
    pub fn get(&self) -> Option<(u8, String)> {
        let page = self.page();
        let tag = page.tag.load(Ordering::Acquire).checked_sub(1)?;
        let length = (page.length.load(Ordering::Relaxed) as usize).min(MESSAGE_MAX);
        let mut bytes = vec![0; length];
        // SAFETY: `length` bytes of the page were written before `tag` was set, and nobody writes a second time.
        unsafe { ptr::copy_nonoverlapping(page.message.get().cast(), bytes.as_mut_ptr(), length) };
        Some((
            u8::try_from(tag).ok()?,
            String::from_utf8_lossy(&bytes).into_owned(),
        ))
    }
}

impl Drop for SharedMessage {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` with this size and nothing refers to it any more.
        unsafe { libc::munmap(self.page.as_ptr().cast(), size_of::<Page>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_message_stays_and_long_ones_are_cut() {
        let shared = SharedMessage::new().unwrap();
        assert_eq!(shared.get(), None);
        shared.put(7, &"é".repeat(MESSAGE_MAX));
        shared.put(8, "second");
        let (tag, message) = shared.get().unwrap();
        assert_eq!(tag, 7);
        assert_eq!(message, "é".repeat(MESSAGE_MAX / 2));
    }
}
