//! [`Unread`]: received bytes held for a paused receiver.

use std::mem;

/// The largest capacity, in bytes, that an empty buffer keeps.
const KEPT: usize = 128;

/// Received bytes, some of them already read. Law 9: bounded by the holder, which states its bound.
#[derive(Default)]
pub(crate) struct Unread {
    // Of a layer: one chunk of the level below, while the receiver or a layer above has stopped.
    // Of a stream: one read of the transport, which pauses then, and more only while someone waits
    // for a whole thing, up to its limit.
    bytes: Vec<u8>,
    read: usize,
}

impl Unread {
    #[inline]
    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.read..]
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.read == self.bytes.len()
    }

    /// Adds bytes at the end.
    #[inline]
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        if self.read > self.bytes.len() / 2 {
            self.bytes.drain(..mem::take(&mut self.read));
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Removes `n` bytes from the front.
    #[inline]
    pub(crate) fn take(&mut self, n: usize) {
        self.read += n;
        if self.is_empty() {
            self.read = 0;
            self.bytes.clear();
            if self.bytes.capacity() > KEPT {
                self.bytes = Vec::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares with a plain queue, through many fillings, drainings and partial reads.
    #[test]
    fn bytes_are_read_once_and_in_order_however_they_are_kept_and_taken() {
        let (mut unread, mut model, mut next) = (Unread::default(), Vec::new(), 0_u8);
        for step in 0..2000_usize {
            for _ in 0..step % 7 {
                next = next.wrapping_add(1);
                unread.keep(&[next; 3]);
                model.extend([next; 3]);
            }
            let taken = [0, 1, 5, model.len() / 2 + 1, model.len()][step % 5].min(model.len());
            unread.take(taken);
            model.drain(..taken);
            assert_eq!(unread.rest(), model, "step {step}");
            assert_eq!(unread.is_empty(), model.is_empty(), "step {step}");
        }
    }

    #[test]
    fn bytes_that_were_read_take_no_memory_for_long() {
        let mut unread = Unread::default();
        for _ in 0..3 {
            unread.keep(&[7; 100_000]);
            unread.take(100_000);
            assert!(unread.bytes.capacity() <= KEPT, "it is empty");
        }
        // Never empty, but always mostly read.
        unread.keep(&[7; 1000]);
        for _ in 0..1000 {
            unread.keep(&[7; 1000]);
            unread.take(1000);
        }
        assert!(unread.bytes.capacity() <= 16_000, "{}", unread.bytes.capacity());
    }
}
