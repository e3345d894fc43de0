//! [`Contents`]: the first bytes of the last chunks that a loop received and wrote, kept in addition to
//! the events of its [`Ring`](super::ring::Ring). Off unless the inspector asks for them.
//!
//! A chunk is its bytes in whole words, then the number of its event, then its length. A reader walks
//! from the newest chunk back to the oldest one that was certainly not overwritten while it read.
//! These are the bytes at the driver: under TLS, ciphertext.
//!
//! Contract: 184d.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// The bytes of a word.
const WORD: usize = size_of::<u64>();

/// The words after the bytes of a chunk: the number of its event, and its length.
const TRAILER: usize = 2;

/// The largest chunks that fit at the least.
const CHUNKS: usize = 4;

/// The smallest ring, in words.
const SMALLEST: usize = 64;

/// The first bytes of the last chunks of a loop.
pub struct Contents {
    /// The most bytes of a chunk that are kept.
    each: usize,
    // INVARIANT: their number is a power of two.
    words: Box<[AtomicU64]>,
    /// The number of words so far.
    end: AtomicU64,
}

impl Contents {
    /// Keeps the first `each` bytes of each chunk, in a ring that fits into `total` bytes: at most a
    /// quarter of it for one chunk. `None` if `each` is 0.
    pub fn new(each: usize, total: usize) -> Option<Contents> {
        if each == 0 {
            return None;
        }
        let fit = (total / WORD).max(SMALLEST);
        let size = 1 << fit.ilog2();
        let most = (size / CHUNKS - TRAILER) * WORD;
        let words = (0..size).map(|_| AtomicU64::default()).collect();
        Some(Contents { each: each.min(most), words, end: AtomicU64::new(0) })
    }

    /// The most bytes of a chunk that are kept.
    pub fn each(&self) -> usize {
        self.each
    }

    /// The memory that it takes, in bytes.
    pub fn size(&self) -> usize {
        self.words.len() * WORD
    }

    /// Copies the first bytes of a chunk, which [`keep`](Self::keep) makes readable, and returns their
    /// number. Only the loop's thread calls this.
    pub(super) fn hold<'a>(&self, pieces: impl Iterator<Item = &'a [u8]>) -> usize {
        let begin = self.end.load(Ordering::Relaxed);
        // A reader that sees one of the next words also sees the end so far.
        fence(Ordering::Release);
        let (mut at, mut left) = (begin, self.each);
        // The first bytes of the next word.
        let (mut word, mut filled) = ([0; WORD], 0);
        for piece in pieces {
            let (piece, _) = piece.split_at(piece.len().min(left));
            left -= piece.len();
            let (first, rest) = piece.split_at(piece.len().min((WORD - filled) % WORD));
            word[filled..filled + first.len()].copy_from_slice(first);
            filled += first.len();
            if filled == WORD {
                self.store(at, u64::from_le_bytes(word));
                (at, filled) = (at + 1, 0);
            }
            if filled == 0 {
                let (words, first) = rest.as_chunks();
                self.copy(at, words);
                at += words.len() as u64;
                word[..first.len()].copy_from_slice(first);
                filled = first.len();
            }
            if left == 0 {
                break;
            }
        }
        if filled > 0 {
            self.store(at, u64::from_le_bytes(word));
        }
        self.each - left
    }

    /// Stores words that follow one another; they fit.
    fn copy(&self, position: u64, words: &[[u8; WORD]]) {
        let mask = self.words.len() - 1;
        let (wrapped, slots) = self.words.split_at(position as usize & mask);
        for (slot, word) in slots.iter().chain(wrapped).zip(words) {
            slot.store(u64::from_le_bytes(*word), Ordering::Relaxed);
        }
    }

    /// Keeps the first `bytes` bytes of the chunk that was [held](Self::hold) last, for event number
    /// `event`. Only the loop's thread calls this.
    pub(super) fn keep(&self, event: u64, bytes: usize) {
        let length = bytes.min(self.each);
        if length == 0 {
            return;
        }
        let trailer = self.end.load(Ordering::Relaxed) + length.div_ceil(WORD) as u64;
        self.store(trailer, event);
        self.store(trailer + 1, length as u64);
        self.end.store(trailer + TRAILER as u64, Ordering::Release);
    }

    fn store(&self, position: u64, word: u64) {
        let mask = self.words.len() - 1;
        if let Some(slot) = self.words.get(position as usize & mask) {
            slot.store(word, Ordering::Relaxed);
        }
    }

    /// The first position that is certainly kept: the loop may be writing the longest chunk.
    fn first_kept(&self, end: u64) -> u64 {
        let longest = self.each.div_ceil(WORD) + TRAILER;
        (end + longest as u64).saturating_sub(self.words.len() as u64)
    }

    /// Passes the kept chunks to `each`, the oldest first: the number of the event, and the bytes.
    pub fn read(&self, mut each: impl FnMut(u64, &[u8])) {
        let end = self.end.load(Ordering::Acquire);
        let begin = self.first_kept(end);
        let mask = self.words.len() as u64 - 1;
        let copied = (begin..end).filter_map(|at| self.words.get((at & mask) as usize));
        let copied = copied.flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
        let copied: Vec<u8> = copied.collect();
        // The copies are complete before the end is read again.
        fence(Ordering::Acquire);
        let first = self.first_kept(self.end.load(Ordering::Relaxed));
        let lost = (first - begin).saturating_mul(WORD as u64);
        let kept = copied.get(usize::try_from(lost).unwrap_or(usize::MAX)..).unwrap_or_default();
        let mut chunks = Vec::new();
        let mut rest = kept;
        while let Some((before, event, bytes)) = self.last_chunk(rest) {
            chunks.push((event, bytes));
            rest = before;
        }
        chunks.into_iter().rev().for_each(|(event, bytes)| each(event, bytes));
    }

    /// Splits off the last chunk; `None` if its beginning is missing.
    fn last_chunk<'a>(&self, words: &'a [u8]) -> Option<(&'a [u8], u64, &'a [u8])> {
        let (words, length) = words.split_last_chunk()?;
        let (words, event) = words.split_last_chunk()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let begin = words.len().checked_sub(length.div_ceil(WORD) * WORD)?;
        let (before, bytes) = words.split_at_checked(begin)?;
        Some((before, u64::from_le_bytes(*event), bytes.get(..length)?))
    }
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents").field("each", &self.each).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(contents: &Contents, event: u64, bytes: &[u8]) {
        contents.hold(std::iter::once(bytes));
        contents.keep(event, bytes.len());
    }

    fn all(contents: &Contents) -> Vec<(u64, Vec<u8>)> {
        let mut all = Vec::new();
        contents.read(|event, bytes| all.push((event, bytes.to_vec())));
        all
    }

    #[test]
    fn c184d_the_first_bytes_of_each_chunk_are_kept() {
        let contents = Contents::new(12, 4096).expect("it is on");
        let text = b"twelve bytes and the rest";
        for length in 0..text.len() {
            put(&contents, length as u64, &text[..length]);
        }
        let kept = |length: usize| (length as u64, text[..length.min(12)].to_vec());
        assert_eq!(all(&contents), (1..text.len()).map(kept).collect::<Vec<_>>());
    }

    #[test]
    fn pieces_are_joined_and_bytes_that_did_not_pass_are_left_out() {
        let contents = Contents::new(100, 4096).expect("it is on");
        let held = contents.hold([&b"one, "[..], b"two", b"", b", three, four"].into_iter());
        assert_eq!(held, 21);
        contents.keep(7, 15);
        contents.hold(std::iter::once(&b"refused"[..]));
        contents.keep(8, 0);
        put(&contents, 9, b"next");
        assert_eq!(all(&contents), [(7, b"one, two, three".to_vec()), (9, b"next".to_vec())]);
    }

    #[test]
    fn pieces_of_all_lengths_are_joined_at_the_end_of_the_memory_too() {
        let contents = Contents::new(40, 512).expect("it is on");
        let text: Vec<u8> = (1..=60).collect();
        let lengths = (0..=20).flat_map(|first| (0..=20).map(move |second| (first, second)));
        for (event, (first, second)) in (0..).zip(lengths) {
            let (one, rest) = text.split_at(first);
            let (two, three) = rest.split_at(second);
            contents.hold([one, two, three].into_iter());
            contents.keep(event, text.len());
            assert_eq!(
                all(&contents).pop(),
                Some((event, text[..40].to_vec())),
                "{first}, {second}"
            );
        }
    }

    #[test]
    fn no_bytes_are_kept_by_default() {
        assert!(Contents::new(0, 1 << 20).is_none());
    }

    #[test]
    fn c184d_memory_is_fixed_over_a_million_events_and_the_last_are_kept() {
        for (each, total) in [(64, 64 * 1024), (1000, 100_000), (1 << 20, 4096), (1, 0)] {
            let contents = Contents::new(each, total).expect("it is on");
            assert!(contents.size() <= total.max(512), "{each} of {total}");
            assert!(contents.each() <= each && contents.each() * 4 <= contents.size());
            let place = contents.words.as_ptr();
            let longest = [b'x'; 1500];
            for n in 0..1_000_000_u64 {
                put(&contents, n, &longest[..1 + n as usize % 40]);
            }
            assert_eq!((contents.words.as_ptr(), contents.size()), (place, contents.size()));
            let kept = all(&contents);
            let events: Vec<u64> = kept.iter().map(|(event, _)| *event).collect();
            let first = 1_000_000 - events.len() as u64;
            assert_eq!(events, (first..1_000_000).collect::<Vec<_>>(), "{each} of {total}");
            let bytes: usize = kept.iter().map(|(_, bytes)| bytes.len().div_ceil(8) * 8 + 16).sum();
            assert!(bytes + 2 * (contents.each() + 24) > contents.size(), "{bytes}");
            for (event, bytes) in kept {
                assert_eq!(bytes.len(), (1 + event as usize % 40).min(contents.each()));
            }
        }
    }

    #[test]
    fn c184d_a_reader_in_another_thread_gets_no_mixed_chunk() {
        let contents = std::sync::Arc::new(Contents::new(100, 4096).expect("it is on"));
        let written = contents.clone();
        let writer = std::thread::spawn(move || {
            for n in 0..100_000_u64 {
                put(&written, n, &[n as u8; 200][..1 + n as usize % 150]);
            }
        });
        while !writer.is_finished() {
            let mut last = None;
            contents.read(|event, bytes| {
                assert_eq!(bytes.len(), (1 + event as usize % 150).min(100));
                assert!(bytes.iter().all(|byte| *byte == event as u8), "{event}: {bytes:?}");
                assert!(last.is_none_or(|last| last + 1 == event), "{last:?}, {event}");
                last = Some(event);
            });
        }
        writer.join().expect("no panic");
    }
}
