//! [`Unread`]: bytes that arrived and wait for whoever stopped.

use std::mem;

/// The largest buffer that is kept when nothing waits, in bytes.
const KEPT: usize = 1024;

/// Bytes that wait, and how many of them were read since. Law 9: its holder says how many.
#[derive(Default)]
pub(crate) struct Unread {
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

    /// So many were read from the front.
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
