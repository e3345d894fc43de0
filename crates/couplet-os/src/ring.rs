//! [`Slots`]: the memory of a ring of events, which one thread writes and others read.
//!
//! Contract: 184.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The four words of an event.
pub type Words = [u32; 4];

/// A ring of events, each of four words, in a fixed amount of memory.
#[derive(Debug)]
pub struct Slots {
    // INVARIANT: their number is a power of two.
    slots: Box<[Slot]>,
    /// INVARIANT: the bytes before the last slot.
    mask: usize,
    /// The bytes of the events so far. INVARIANT: a multiple of a slot's.
    end: AtomicU64,
}

type Slot = [AtomicU32; 4];

const SLOT: usize = size_of::<Slot>();

impl Slots {
    /// A ring of at least one event; more are rounded down to a power of two.
    pub fn new(events: usize) -> Slots {
        let events = 1 << events.max(1).ilog2();
        let slots = (0..events).map(|_| Slot::default()).collect();
        Slots { slots, mask: (events - 1) * SLOT, end: AtomicU64::new(0) }
    }

    /// The number of events that it keeps, a power of two.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// The number of events so far, all of them complete.
    pub fn count(&self) -> u64 {
        self.end.load(Ordering::Acquire) / SLOT as u64
    }

    /// Writes the next event, which counts after the next [`publish`](Self::publish).
    #[inline(always)]
    pub fn fill(&self, words: Words) {
        let offset = self.end.load(Ordering::Relaxed) as usize & self.mask;
        // SAFETY: the mask clears the bits below a slot's size and caps the offset at the last slot, so
        // the offset is a slot's. A check costs an inspected loop three instructions an event.
        let slot = unsafe { &*self.slots.as_ptr().byte_add(offset) };
        slot[0].store(words[0], Ordering::Relaxed);
        slot[1].store(words[1], Ordering::Relaxed);
        slot[2].store(words[2], Ordering::Relaxed);
        slot[3].store(words[3], Ordering::Relaxed);
    }

    /// Counts the event that was filled last.
    #[inline(always)]
    pub fn publish(&self) {
        let end = self.end.load(Ordering::Relaxed);
        self.end.store(end.wrapping_add(SLOT as u64), Ordering::Release);
    }

    /// The words of an event by its number. The reader finds out by [`count`](Self::count), read
    /// behind a fence, whether they were overwritten during the read.
    pub fn copy(&self, number: u64) -> Words {
        let slot = &self.slots[number as usize & (self.slots.len() - 1)];
        [0, 1, 2, 3].map(|word: usize| slot[word].load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::Slots;

    #[test]
    fn events_wrap_around_in_fixed_memory() {
        for (asked, capacity) in [(0, 1), (1, 1), (5, 4), (64, 64)] {
            let slots = Slots::new(asked);
            assert_eq!(slots.capacity(), capacity);
            for n in 0..100_u32 {
                slots.fill([n, 1, 2, !n]);
                assert_eq!(slots.count(), u64::from(n), "not counted yet");
                slots.publish();
                assert_eq!(slots.copy(u64::from(n)), [n, 1, 2, !n]);
            }
            assert_eq!(slots.copy(u64::MAX), slots.copy(capacity as u64 - 1));
        }
    }
}
