//! [`Bounded`], a collection with a bound: law 9.
//!
//! A bound is an invariant of the code that fills the collection: it refuses, drops the oldest item, or
//! stops reading when the collection is full. Debug builds assert the bound after each change, so
//! every test checks it; release builds only carry the type. With [`AtMost`] the bound is a constant
//! and takes no space.

use std::any::type_name;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Deref, DerefMut};
use std::{fmt, mem, thread};

/// A collection that grows, of items or of bytes.
pub trait Collection {
    /// The number of items or bytes.
    fn count(&self) -> usize;
}

macro_rules! collections {
    ($([$($generics:tt)*] $ty:ty),* $(,)?) => {$(
        impl<$($generics)*> Collection for $ty {
            #[inline]
            fn count(&self) -> usize {
                self.len()
            }
        }
    )*};
}

collections! {
    [T] Vec<T>,
    [T] VecDeque<T>,
    [K, V] BTreeMap<K, V>,
    [T] BTreeSet<T>,
    [] String,
}

/// The bound of a [`Bounded`]: a number, or [`AtMost`].
pub trait Most: Copy {
    /// The largest number of items or bytes.
    fn most(self) -> usize;
}

impl Most for usize {
    #[inline]
    fn most(self) -> usize {
        self
    }
}

/// A constant as the bound of a [`Bounded`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AtMost<const N: usize>;

impl<const N: usize> Most for AtMost<N> {
    #[inline]
    fn most(self) -> usize {
        N
    }
}

/// A collection that holds at most a stated number of items or bytes.
///
/// It is read like the collection itself, and changed through [`edit`](Self::edit).
#[derive(Clone, PartialEq, Eq)]
pub struct Bounded<C, M = usize> {
    all: C,
    most: M,
}

impl<C: Default, const N: usize> Default for Bounded<C, AtMost<N>> {
    #[inline]
    fn default() -> Self {
        Bounded { all: C::default(), most: AtMost }
    }
}

impl<C: Collection, const N: usize> From<C> for Bounded<C, AtMost<N>> {
    #[inline]
    fn from(all: C) -> Self {
        Bounded { all, most: AtMost }.checked()
    }
}

impl<C: Collection + Default> Bounded<C> {
    /// An empty collection that holds at most `most` items or bytes.
    #[inline]
    pub fn new(most: usize) -> Self {
        Bounded { all: C::default(), most }
    }
}

impl<C: Collection, M: Most> Bounded<C, M> {
    #[inline]
    fn checked(mut self) -> Self {
        drop(self.edit());
        self
    }

    /// The largest number of items or bytes.
    #[inline]
    pub fn most(&self) -> usize {
        self.most.most()
    }

    /// Whether nothing more fits.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.all.count() >= self.most()
    }

    /// The collection, to be changed. Between two changes it may exceed the bound; debug builds
    /// panic if it still does when the guard is dropped.
    #[inline]
    pub fn edit(&mut self) -> Edit<'_, C, M> {
        Edit(self)
    }

    /// The contents, which leave an empty collection behind.
    #[inline]
    pub fn take(&mut self) -> C
    where
        C: Default,
    {
        mem::take(&mut self.all)
    }
}

impl<K: Ord, V, M> Bounded<BTreeMap<K, V>, M> {
    /// The value of a key, to be changed: the number of entries stays.
    #[inline]
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.all.get_mut(key)
    }
}

impl<C, M> Deref for Bounded<C, M> {
    type Target = C;

    #[inline]
    fn deref(&self) -> &C {
        &self.all
    }
}

impl<C: fmt::Debug, M> fmt::Debug for Bounded<C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.all.fmt(f)
    }
}

/// Access to the collection in a [`Bounded`].
#[derive(Debug)]
pub struct Edit<'a, C: Collection, M: Most>(&'a mut Bounded<C, M>);

impl<C: Collection, M: Most> Deref for Edit<'_, C, M> {
    type Target = C;

    #[inline]
    fn deref(&self) -> &C {
        &self.0.all
    }
}

impl<C: Collection, M: Most> DerefMut for Edit<'_, C, M> {
    #[inline]
    fn deref_mut(&mut self) -> &mut C {
        &mut self.0.all
    }
}

impl<C: Collection, M: Most> Drop for Edit<'_, C, M> {
    #[inline]
    fn drop(&mut self) {
        // A second panic would hide the first.
        if cfg!(debug_assertions) && !thread::panicking() {
            let (count, most) = (self.0.all.count(), self.0.most());
            assert!(count <= most, "law 9: {count} of at most {most} in {}", type_name::<C>());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_collection_within_its_bound_is_read_and_changed() {
        let mut all: Bounded<VecDeque<u8>> = Bounded::new(2);
        all.edit().push_back(1);
        assert!(!all.is_full());
        all.edit().push_back(2);
        assert_eq!((all.most(), all.is_full(), all.front()), (2, true, Some(&1)));
        assert_eq!(all.take(), [1, 2]);
        assert_eq!((all.len(), all.most()), (0, 2));
    }

    #[test]
    fn a_bound_is_checked_after_a_change_and_not_within_it() {
        let mut all: Bounded<Vec<u8>, AtMost<2>> = Bounded::default();
        {
            let mut edit = all.edit();
            edit.extend([1, 2, 3]);
            edit.remove(0);
        }
        assert_eq!(*all, [2, 3]);
        let over = catch_unwind(AssertUnwindSafe(|| all.edit().push(4)));
        assert_eq!(over.is_err(), cfg!(debug_assertions));
    }

    #[test]
    fn a_panic_within_a_change_is_the_only_one() {
        let mut all: Bounded<String, AtMost<0>> = Bounded::default();
        let panic = catch_unwind(AssertUnwindSafe(|| {
            let mut edit = all.edit();
            edit.push('b');
            panic!("of the change");
        }));
        assert!(panic.is_err());
    }

    #[test]
    fn a_constant_bound_takes_no_space() {
        assert_eq!(size_of::<Bounded<Vec<u8>, AtMost<7>>>(), size_of::<Vec<u8>>());
    }
}
