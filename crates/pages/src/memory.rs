//! Anonymous memory of our own, for questions about the kernel's behaviour.

use crate::PAGE;

/// A private anonymous mapping.
pub struct Anonymous {
    start: *mut libc::c_void,
    bytes: usize,
}

impl Anonymous {
    /// Map `pages` pages, without huge pages; None if the kernel has no memory.
    pub fn new(pages: usize) -> Option<Self> {
        let bytes = pages * PAGE;
        // SAFETY: a new anonymous mapping wherever there is room touches nothing of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: advice on the mapping made above. Its failure (no huge pages) is fine.
        unsafe { libc::madvise(start, bytes, libc::MADV_NOHUGEPAGE) };
        Some(Self { start, bytes })
    }

    pub fn address(&self) -> u64 {
        self.start as u64
    }

    pub fn first_byte(&self) -> u8 {
        // SAFETY: the mapping is readable and at least one page long.
        unsafe { self.start.cast::<u8>().read_volatile() }
    }

    #[cfg(test)]
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is ours alone, writable, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast::<u8>(), self.bytes) }
    }
}

impl Drop for Anonymous {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`; nothing borrows it any more.
        unsafe { libc::munmap(self.start, self.bytes) };
    }
}
