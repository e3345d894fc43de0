//! [`SortedMap`], a map for keys that mostly arrive in ascending order.
//!
//! A `BTreeMap` compiles to five thousand lines of LLVM code for each pair of types; this map to a tenth.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Index;

use crate::bounded::Collection;

/// A map in a sorted vector, for keys that count up, or for few entries.
///
/// To look up or remove a key is a binary search, and to insert the largest key appends it. To insert
/// another key moves the entries behind it.
#[derive(Clone)]
pub struct SortedMap<K, V> {
    /// By key. A removed value leaves its key behind, until such keys outnumber the values.
    entries: Vec<(K, Option<V>)>,
    /// All entries before this one are vacant.
    first: usize,
    len: usize,
}

/// Fewer vacant entries than this stay.
const VACANT: usize = 8;

impl<K, V> SortedMap<K, V> {
    /// An empty map.
    pub const fn new() -> Self {
        SortedMap { entries: Vec::new(), first: 0, len: 0 }
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The keys and values, by key.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> + Clone {
        self.entries[self.first..].iter().filter_map(|(key, value)| Some((key, value.as_ref()?)))
    }

    /// The keys and values, by key, for changes of the values.
    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = (&K, &mut V)> {
        let entries = self.entries[self.first..].iter_mut();
        entries.filter_map(|(key, value)| Some((&*key, value.as_mut()?)))
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// The values, by key.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }

    /// The values, by key, for changes.
    pub fn values_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut V> {
        self.iter_mut().map(|(_, value)| value)
    }

    /// The values, by key.
    pub fn into_values(self) -> impl DoubleEndedIterator<Item = V> {
        self.entries.into_iter().filter_map(|(_, value)| value)
    }

    /// Keeps the entries for which `keeps` returns true.
    pub fn retain(&mut self, mut keeps: impl FnMut(&K, &mut V) -> bool) {
        self.entries.retain_mut(|(key, value)| value.as_mut().is_some_and(|it| keeps(key, it)));
        self.first = 0;
        self.len = self.entries.len();
    }

    /// Removes the value of an entry.
    fn vacate(&mut self, index: usize) -> Option<V> {
        let value = self.entries[index].1.take()?;
        self.len -= 1;
        let vacant = self.entries.len() - self.len;
        if self.is_empty() || vacant > self.len.max(VACANT) {
            self.entries.retain(|(_, value)| value.is_some());
            // Half of the room is left to grow.
            self.entries.shrink_to(self.len * 2);
            self.first = 0;
        } else if index == self.first {
            let vacant = self.entries[index..].iter().take_while(|(_, value)| value.is_none());
            self.first += vacant.count();
        }
        Some(value)
    }
}

impl<K: Ord, V> SortedMap<K, V> {
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        self.entries.binary_search_by(|(other, _)| other.borrow().cmp(key))
    }

    /// The entry of a key; a missing one is added, vacant.
    fn place(&mut self, key: K) -> usize {
        let place = match self.entries.last() {
            Some((last, _)) if *last >= key => self.find(&key),
            _ => Err(self.entries.len()),
        };
        place.unwrap_or_else(|index| {
            self.entries.insert(index, (key, None));
            index
        })
    }

    /// Stores a value, and returns the one that it replaces.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let index = self.place(key);
        let before = self.entries[index].1.replace(value);
        self.len += usize::from(before.is_none());
        self.first = self.first.min(index);
        before
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries[self.find(key).ok()?].1.as_ref()
    }

    /// The value of a key, for changes.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let index = self.find(key).ok()?;
        self.entries[index].1.as_mut()
    }

    /// The value of a key, for changes; a missing one is made.
    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        let index = self.place(key);
        if self.entries[index].1.is_none() {
            self.entries[index].1 = Some(make());
            self.len += 1;
            self.first = self.first.min(index);
        }
        self.entries[index].1.as_mut().expect("the entry has a value")
    }

    /// Whether the key has a value.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Removes a key, and returns its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.vacate(self.find(key).ok()?)
    }
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        SortedMap::new()
    }
}

impl<K, V> Collection for SortedMap<K, V> {
    fn count(&self) -> usize {
        self.len
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SortedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord, V> Extend<(K, V)> for SortedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for SortedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = SortedMap::new();
        map.extend(entries);
        map
    }
}

impl<K, V> IntoIterator for SortedMap<K, V> {
    type Item = (K, V);
    type IntoIter = std::iter::FilterMap<
        std::vec::IntoIter<(K, Option<V>)>,
        fn((K, Option<V>)) -> Option<(K, V)>,
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter().filter_map(|(key, value)| Some((key, value?)))
    }
}

impl<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized> Index<&Q> for SortedMap<K, V> {
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("the map has the key")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::SortedMap;

    proptest! {
        /// Short keys, so that many are removed, inserted again and inserted before others.
        #[test]
        fn a_sorted_map_is_like_a_map_of_the_library(
            changes in prop::collection::vec((any::<bool>(), 0_u8..40, any::<u16>()), 0..200),
        ) {
            let (mut map, mut expected) = (SortedMap::new(), BTreeMap::new());
            for (inserts, key, value) in changes {
                if inserts && value < 10_000 {
                    let ours = *map.get_or_insert_with(key, || value);
                    prop_assert_eq!(ours, *expected.entry(key).or_insert(value));
                } else if inserts {
                    prop_assert_eq!(map.insert(key, value), expected.insert(key, value));
                } else {
                    prop_assert_eq!(map.remove(&key), expected.remove(&key));
                }
                prop_assert!(map.iter().eq(&expected));
                prop_assert!(map.keys().rev().eq(expected.keys().rev()));
                prop_assert!(map.iter_mut().eq(expected.iter_mut()));
                prop_assert!(map.values_mut().eq(expected.values_mut()));
                prop_assert_eq!(map.len(), expected.len());
                prop_assert_eq!(map.is_empty(), expected.is_empty());
                prop_assert_eq!(map.get(&key), expected.get(&key));
                prop_assert_eq!(map.get_mut(&key), expected.get_mut(&key));
            }
            prop_assert_eq!(format!("{map:?}"), format!("{expected:?}"));
            map.retain(|key, value| u16::from(*key) < *value);
            expected.retain(|key, value| u16::from(*key) < *value);
            prop_assert_eq!(map.len(), expected.len());
            prop_assert!(map.clone().into_values().eq(expected.clone().into_values()));
            prop_assert!(map.into_iter().eq(expected));
        }
    }

    /// Values that come and go in order, next to one that stays, need no more room than they are.
    #[test]
    fn the_room_of_removed_keys_is_bounded() {
        let mut map: SortedMap<u64, ()> = [(0, ())].into_iter().collect();
        for number in 1..100_000 {
            map.insert(number, ());
            if number > 10 {
                assert!(map.remove(&(number - 10)).is_some());
            }
        }
        assert_eq!(map.len(), 11);
        assert!(map.entries.capacity() < 100, "{}", map.entries.capacity());
    }

    #[test]
    fn the_room_of_many_values_is_returned() {
        let mut map: SortedMap<u64, ()> = (0..100_000).map(|number| (number, ())).collect();
        for number in 0..99_999 {
            map.remove(&number);
            assert_eq!(map.keys().next(), Some(&(number + 1)));
        }
        assert!(map.entries.capacity() < 100, "{}", map.entries.capacity());
        map.remove(&99_999);
        assert_eq!(map.entries.capacity(), 0);
    }
}
