//! The receive buffers of a ring, which the kernel fills. One allocation: first the queue of free
//! buffers, which the kernel reads, then their bytes.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use super::Size;

/// The queue begins on a page.
#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

const PAGE: usize = 4096;
/// Space between two buffers: the first bytes of small messages fall on different cache sets.
const GAP: usize = 64;

pub(super) struct Buffers {
    /// Was a box.
    pages: NonNull<[Page]>,
    /// A power of two.
    count: u16,
    size: usize,
    /// INVARIANT: a buffer is in the queue or in use by the kernel, unless this says that it is ours.
    is_ours: Box<[bool]>,
    tail: u16,
}

impl Buffers {
    /// Registers the buffers with a ring.
    pub(super) fn new(io: &IoUring, group: u16, size: Size) -> io::Result<Buffers> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let count = size.buffers.max(1).checked_next_power_of_two().ok_or_else(invalid)?;
        let each = size.buffer.max(1).checked_next_multiple_of(GAP).ok_or_else(invalid)? + GAP;
        let bytes = each.checked_mul(count.into()).and_then(|it| it.checked_add(queue(count)));
        let pages = bytes.ok_or_else(invalid)?.div_ceil(PAGE);
        let pages = Box::into_raw(vec![Page([0; PAGE]); pages].into_boxed_slice());
        let mut buffers = Buffers {
            pages: NonNull::new(pages).ok_or_else(invalid)?,
            count,
            size: size.buffer.max(1),
            is_ours: vec![true; count.into()].into(),
            tail: 0,
        };
        let queue = buffers.start() as u64;
        // SAFETY: the queue lies at the start of the memory, which `Ring` frees after its last
        // operation, and the kernel pins its pages.
        unsafe { io.submitter().register_buf_ring_with_flags(queue, count, group, 0)? };
        (0..count).for_each(|id| buffers.give(id));
        Ok(buffers)
    }

    fn start(&self) -> *mut u8 {
        self.pages.as_ptr().cast()
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Where a buffer's bytes begin.
    fn offset(&self, id: u16) -> usize {
        let each = self.size.next_multiple_of(GAP) + GAP;
        queue(self.count) + each * usize::from(id)
    }

    /// Marks a buffer as ours: the kernel has filled it.
    pub(super) fn take(&mut self, id: u16) {
        if let Some(is_ours) = self.is_ours.get_mut(usize::from(id)) {
            *is_ours = true;
        }
    }

    /// The first bytes of a buffer that is ours.
    #[inline]
    pub(super) fn bytes(&self, id: u16, len: usize) -> &[u8] {
        if !self.is_ours.get(usize::from(id)).is_some_and(|is_ours| *is_ours) {
            return &[];
        }
        let len = len.min(self.size);
        // SAFETY: the buffer is within the memory, which was initialised, and the kernel does not write
        // to a buffer before it is given back, which takes `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start().add(self.offset(id)), len) }
    }

    /// Gives a buffer that is ours to the kernel.
    #[inline]
    pub(super) fn give(&mut self, id: u16) {
        match self.is_ours.get_mut(usize::from(id)) {
            Some(is_ours) if *is_ours => *is_ours = false,
            _ => return,
        }
        let at = self.start() as u64 + self.offset(id) as u64;
        let place = usize::from(self.tail & (self.count - 1));
        let entries = self.start().cast::<BufRingEntry>();
        // SAFETY: the place is within the queue, whose memory is aligned and initialised; the kernel
        // reads it after the tail has passed it.
        let entry = unsafe { &mut *entries.add(place) };
        entry.set_addr(at);
        entry.set_len(self.size as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the address of the first entry; the tail is a field of it, which is aligned, and
        // which the kernel only reads.
        unsafe {
            let tail = BufRingEntry::tail(entries).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: it was a box, and this is the only place that makes it one again.
        drop(unsafe { Box::from_raw(self.pages.as_ptr()) });
    }
}

/// The bytes of the queue, rounded so that the buffers begin on a page.
fn queue(count: u16) -> usize {
    (usize::from(count) * size_of::<BufRingEntry>()).next_multiple_of(PAGE)
}
