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
