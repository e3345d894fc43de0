//! A buffer that the system fills at full speed.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// The size of a page, in which the processor compares addresses.
const PAGE: usize = 4096;
/// Where a buffer begins within a page.
const START: usize = 64;

/// Bytes, zero at first, at an address to which the system copies fast.
///
/// A processor with fast short copies (`fsrm`, such as AMD's since Zen 3) takes up to 20 times as long to
/// copy if the destination begins 1 to 31 bytes after the source, in pages of 4096 bytes. Received data
/// often begins with a page, and a C library places a long vector 16 bytes after the beginning of one: at
/// that address a read of 64 KiB took 32 µs instead of 8. This buffer begins 64 bytes after the beginning of
/// a page, so copies from it to a long vector are fast as well.
pub struct ReadBuffer {
    /// The allocation: `PAGE` more bytes than the buffer. The system provides pages when they are used.
    all: NonNull<[u8]>,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its bytes, as a boxed slice does.
unsafe impl Send for ReadBuffer {}
// SAFETY: as above.
unsafe impl Sync for ReadBuffer {}

impl ReadBuffer {
    /// A buffer of `len` bytes.
    ///
    /// # Panics
    ///
    /// If `len` is longer than memory can be.
    pub fn new(len: usize) -> ReadBuffer {
        let all = Box::leak(vec![0; len.saturating_add(PAGE)].into_boxed_slice());
        let skipped = (all.as_ptr().align_offset(PAGE) + START) % PAGE;
        let start = NonNull::from(&mut all[skipped..]).cast();
        ReadBuffer { all: NonNull::from(all), start, len }
    }
}

impl Deref for ReadBuffer {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` lies less than a page after the beginning of `all`, which is a page longer
        // than `len` and belongs to this buffer.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for ReadBuffer {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        // SAFETY: `new` has leaked this box, and nothing refers to its bytes any longer.
        drop(unsafe { Box::from_raw(self.all.as_ptr()) });
    }
}

impl fmt::Debug for ReadBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadBuffer").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_its_length_and_begins_64_bytes_after_a_page() {
        for len in [0, 1, 15, 16, 4031, 4032, 4033, 65_536, 262_144, 1_000_003] {
            let mut buffer = ReadBuffer::new(len);
            assert_eq!(buffer.as_ptr().align_offset(PAGE), PAGE - START, "{len}");
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|byte| *byte == 0), "{len}");
            buffer.fill(7);
            assert!(buffer.iter().all(|byte| *byte == 7), "{len}");
        }
    }

    #[test]
    fn a_buffer_can_be_filled_by_another_thread() {
        let mut buffer = ReadBuffer::new(100);
        let filled = std::thread::spawn(move || {
            buffer[99] = 1;
            buffer
        });
        assert_eq!(filled.join().unwrap().last(), Some(&1));
    }
}
