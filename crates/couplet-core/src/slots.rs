//! A generational table: values in dense slots, each named by a key that is never reused.

use std::num::NonZeroU32;

/// Names a value in a table: a slot and its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The index into the table. Slots are dense, and reused.
    pub slot: u32,
    /// Distinguishes successive uses of a slot.
    pub generation: NonZeroU32,
}

impl Key {
    /// The key as a number.
    pub(crate) fn number(self) -> u64 {
        u64::from(self.generation.get()) << 32 | u64::from(self.slot)
    }
}

/// The table. A removed value's slot is reused under a new generation.
#[derive(Debug)]
pub struct Slots<T> {
    slots: Vec<Slot<T>>,
    /// Vacant slots to reuse, last in first out.
    free: Vec<u32>,
    len: usize,
    /// The generation of new slots: greater than any generation used in a dropped slot.
    floor: NonZeroU32,
}

/// Tables with fewer slots double when they are full.
const DOUBLING: usize = 512;

#[derive(Debug)]
struct Slot<T> {
    /// The value's generation, or the next value's while the slot is vacant.
    generation: NonZeroU32,
    value: Option<T>,
}

impl<T> Default for Slots<T> {
    fn default() -> Slots<T> {
        Slots::new()
    }
}

impl<T> Slots<T> {
    /// An empty table.
    pub fn new() -> Slots<T> {
        Slots { slots: Vec::new(), free: Vec::new(), len: 0, floor: NonZeroU32::MIN }
    }

    /// The number of values.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether the table has no values.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The key of the next [`insert`](Self::insert).
    pub(crate) fn next_key(&self) -> Key {
        match self.free.last() {
            Some(&slot) => Key { slot, generation: self.slots[slot as usize].generation },
            None => Key { slot: self.slots.len() as u32, generation: self.floor },
        }
    }

    /// Stores a value under a new key.
    ///
    /// # Panics
    ///
    /// If the table is full, with 2^32 − 1 slots.
    pub fn insert(&mut self, value: T) -> Key {
        let key = self.next_key();
        assert!(key.slot < u32::MAX, "a table is full");
        self.free.pop();
        self.put(key, value);
        key
    }

    /// Stores a value under a key from another table.
    pub(crate) fn put(&mut self, key: Key, value: T) {
        let index = key.slot as usize;
        if self.slots.len() <= index {
            self.reserve(index + 1);
            self.slots.resize_with(index + 1, || Slot { generation: self.floor, value: None });
        }
        debug_assert!(self.slots[index].value.is_none(), "{key:?} is in use");
        self.slots[index] = Slot { generation: key.generation, value: Some(value) };
        self.len += 1;
    }

    /// Makes sure that the table can have `len` slots. A small table doubles, a large one grows by an
    /// eighth, so that little of it stays unused.
    fn reserve(&mut self, len: usize) {
        let capacity = self.slots.capacity();
        if len > capacity {
            let grown = capacity + (capacity / 8).max(capacity.min(DOUBLING));
            self.slots.reserve_exact(len.max(grown) - self.slots.len());
        }
    }

    /// The value with this key, until it is removed.
    #[inline]
    pub fn get(&self, key: Key) -> Option<&T> {
        match self.slots.get(key.slot as usize) {
            Some(slot) if slot.generation == key.generation => slot.value.as_ref(),
            _ => None,
        }
    }

    /// Like [`get`](Self::get), but mutable.
    #[inline]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.slots.get_mut(key.slot as usize) {
            Some(slot) if slot.generation == key.generation => slot.value.as_mut(),
            _ => None,
        }
    }

    /// The value in a slot, with any generation.
    #[inline]
    pub(crate) fn at(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)?.value.as_ref()
    }

    /// Like [`at`](Self::at), but mutable.
    #[inline]
    pub(crate) fn at_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize)?.value.as_mut()
    }

    /// The key of a slot's value or, in a vacant slot, of its next value.
    ///
    /// # Panics
    ///
    /// If the table has no such slot.
    #[inline]
    pub(crate) fn key_at(&self, slot: u32) -> Key {
        Key { slot, generation: self.slots[slot as usize].generation }
    }

    /// Replaces a value with `f(value)`.
    pub(crate) fn map(&mut self, key: Key, f: impl FnOnce(T) -> T) {
        if self.get(key).is_some() {
            let value = &mut self.slots[key.slot as usize].value;
            *value = value.take().map(f);
        }
    }

    /// Removes a value and frees its slot.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let value = self.retire(key)?;
        self.reuse(key.slot);
        Some(value)
    }

    /// Removes a value and invalidates its key. The slot is not reused until
    /// [`reuse`](Self::reuse).
    pub fn retire(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.slot as usize);
        let slot = slot.filter(|slot| slot.generation == key.generation)?;
        let value = slot.value.take()?;
        self.len -= 1;
        // A slot that has used every generation keeps the last one, and is never reused.
        slot.generation = slot.generation.saturating_add(1);
        Some(value)
    }

    /// Frees the slot of a retired value.
    pub fn reuse(&mut self, slot: u32) {
        debug_assert!(self.at(slot).is_none(), "slot {slot} is in use");
        if self.slots[slot as usize].generation < NonZeroU32::MAX {
            self.free.push(slot);
        }
    }

    /// The values with their keys, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let key = Key { slot: index as u32, generation: slot.generation };
            Some((key, slot.value.as_ref()?))
        })
    }

    /// The values, by slot, for changes.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(|slot| slot.value.as_mut())
    }

    /// The values, by slot.
    pub(crate) fn into_values(self) -> impl Iterator<Item = T> {
        self.slots.into_iter().filter_map(|slot| slot.value)
    }

    /// The keys in use, by slot, for a loop that changes the table.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.iter().map(|(key, _)| key).collect()
    }

    /// Drops the vacant slots at the end, and excess capacity when most of it is unused.
    pub(crate) fn shrink(&mut self) {
        let vacant = |slot: &mut Slot<T>| slot.value.is_none() && slot.generation < NonZeroU32::MAX;
        while let Some(slot) = self.slots.pop_if(vacant) {
            self.floor = self.floor.max(slot.generation);
        }
        let len = self.slots.len();
        self.free.retain(|slot| (*slot as usize) < len);
        if self.slots.capacity() > 64 && len < self.slots.capacity() / 4 {
            self.slots.shrink_to(len * 2);
            self.free.shrink_to(len * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_names_nothing_after_its_slot_is_reused() {
        let mut slots = Slots::new();
        let old = slots.insert('a');
        assert_eq!(slots.remove(old), Some('a'));
        assert_eq!(slots.next_key().slot, old.slot);
        let new = slots.insert('b');
        assert!(slots.get(old).is_none() && slots.get_mut(old).is_none());
        assert_eq!(slots.remove(old), None);
        assert_eq!((slots.get(new), slots.at(new.slot), slots.len()), (Some(&'b'), Some(&'b'), 1));
    }

    #[test]
    fn a_retired_slot_stays_out_of_use_until_it_is_freed() {
        let mut slots = Slots::new();
        let old = slots.insert('a');
        assert_eq!(slots.retire(old), Some('a'));
        assert_eq!((slots.retire(old), slots.len()), (None, 0));
        assert_ne!(slots.insert('b').slot, old.slot);
        slots.reuse(old.slot);
        assert_eq!(slots.insert('c').slot, old.slot);
    }

    #[test]
    fn a_slot_that_has_had_every_generation_is_not_reused() {
        let mut slots = Slots::new();
        let last = Key { slot: 0, generation: NonZeroU32::MAX };
        slots.put(last, 'a');
        assert_eq!(slots.remove(last), Some('a'));
        assert!(slots.get(last).is_none() && slots.remove(last).is_none());
        assert_eq!(slots.insert('b').slot, 1);
        slots.shrink();
        assert_eq!(slots.get(last), None);
    }

    #[test]
    fn a_slot_that_was_dropped_comes_back_with_new_generations() {
        let mut slots = Slots::new();
        let keys: Vec<Key> = (0..1000).map(|n| slots.insert(n)).collect();
        for key in &keys[1..] {
            slots.remove(*key);
        }
        slots.shrink();
        assert!(slots.slots.capacity() <= 64 && slots.free.is_empty());
        let again: Vec<Key> = (0..1000).map(|n| slots.insert(n)).collect();
        assert!(again.iter().all(|key| !keys.contains(key)));
        assert!(keys[1..].iter().all(|key| slots.get(*key).is_none()));
        assert_eq!(slots.get(keys[0]), Some(&0));
        assert_eq!(slots.keys().len(), 1001);
    }

    #[test]
    fn a_large_table_grows_by_an_eighth() {
        let mut slots = Slots::new();
        let mut grown = Vec::new();
        for n in 0..20_000_u32 {
            let before = slots.slots.capacity();
            slots.insert(n);
            if slots.slots.capacity() != before {
                grown.push((before, slots.slots.capacity()));
            }
        }
        for (before, after) in grown {
            let most = (before * 2).min((before + DOUBLING).max(before + before / 8)).max(1);
            assert!(after > before && after <= most, "from {before} to {after}");
        }
    }

    #[test]
    fn a_table_less_than_a_quarter_full_shrinks_to_twice_its_used_slots() {
        let mut slots = Slots::new();
        slots.slots.reserve_exact(1000);
        slots.free.reserve_exact(1000);
        let keys: Vec<Key> = (0..1000).map(|n| slots.insert(n)).collect();
        let mut without = |range: std::ops::Range<usize>| {
            for key in &keys[range] {
                slots.remove(*key);
            }
            slots.shrink();
            (slots.slots.len(), slots.slots.capacity(), slots.free.capacity())
        };
        assert_eq!(without(500..600), (1000, 1000, 1000), "the last ones are in use");
        assert_eq!(without(250..1000), (250, 1000, 1000), "a quarter");
        assert_eq!(without(249..250), (249, 498, 498));
        assert_eq!(without(32..249), (32, 64, 64));
        assert_eq!(without(0..32), (0, 64, 64), "a small table may stay");
    }
}
