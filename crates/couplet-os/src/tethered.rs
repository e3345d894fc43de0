//! Values of one thread that another thread may hold: for libraries that require `Send` of values
//! that they never send.

use std::cell::Cell;
use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering};

/// A value that only its own thread can access, and that other threads may hold, pass on and
/// return.
///
/// Dropped in another thread, the value is leaked: return it to its own thread before dropping it.
pub struct Tethered<T> {
    /// INVARIANT: accessed only in the thread `home`.
    value: ManuallyDrop<T>,
    home: u64,
}

// SAFETY: every access to the value, its drop included, first checks that it happens in the thread
// that made it; the number of a thread is never given to another one.
unsafe impl<T> Send for Tethered<T> {}

// SAFETY: as for `Send`: no other thread gets a reference to the value.
unsafe impl<T> Sync for Tethered<T> {}

impl<T> Tethered<T> {
    /// Ties a value to this thread.
    pub fn new(value: T) -> Tethered<T> {
        Tethered { value: ManuallyDrop::new(value), home: this_thread() }
    }

    /// Whether this is the thread of the value.
    #[inline]
    pub fn is_home(&self) -> bool {
        self.home == this_thread()
    }

    /// The value, in its own thread.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        self.is_home().then(|| &*self.value)
    }

    /// The value, in its own thread.
    #[inline]
    pub fn get_mut(&mut self) -> Option<&mut T> {
        self.is_home().then(|| &mut *self.value)
    }

    /// Returns the value, in its own thread.
    ///
    /// # Errors
    ///
    /// In another thread, returns the tethered value unchanged.
    pub fn into_inner(mut self) -> Result<T, Tethered<T>> {
        if !self.is_home() {
            return Err(self);
        }
        // SAFETY: this is its thread, and the tether is forgotten, so it is taken only here.
        let value = unsafe { ManuallyDrop::take(&mut self.value) };
        std::mem::forget(self);
        Ok(value)
    }
}

impl<T> Drop for Tethered<T> {
    fn drop(&mut self) {
        if self.is_home() {
            // SAFETY: it is dropped once, here, and not used afterwards; this is its thread.
            unsafe { ManuallyDrop::drop(&mut self.value) }
        }
    }
}

impl<T> fmt::Debug for Tethered<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tethered").field("is_home", &self.is_home()).finish_non_exhaustive()
    }
}

/// A number for this thread, unique among all past and future threads.
#[inline]
fn this_thread() -> u64 {
    thread_local!(static THIS: Cell<u64> = const { Cell::new(0) });
    THIS.with(|this| match this.get() {
        0 => first_number(this),
        number => number,
    })
}

#[cold]
fn first_number(this: &Cell<u64>) -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    this.set(NEXT.fetch_add(1, Ordering::Relaxed));
    this.get()
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::thread;

    use super::*;

    #[test]
    fn only_its_own_thread_reaches_the_value() {
        let counted = Rc::new(());
        let mut tethered = Tethered::new(counted.clone());
        assert!(tethered.get().is_some() && tethered.get_mut().is_some());
        thread::scope(|scope| {
            scope.spawn(|| {
                assert!(!tethered.is_home() && tethered.get().is_none());
                assert!(tethered.get_mut().is_none());
            });
        });
        let tethered = thread::spawn(move || tethered).join().expect("it was passed on");
        assert!(tethered.get().is_some());
        drop(tethered);
        assert_eq!(Rc::strong_count(&counted), 1);
    }

    #[test]
    fn only_its_own_thread_unties_it() {
        let counted = Rc::new(());
        let tethered = Tethered::new(counted.clone());
        let away = thread::spawn(move || tethered.into_inner().err()).join().expect("no panic");
        let value = away.and_then(|tethered| tethered.into_inner().ok()).expect("it came home");
        assert_eq!(Rc::strong_count(&counted), 2);
        drop(value);
        assert_eq!(Rc::strong_count(&counted), 1);
    }

    #[test]
    fn elsewhere_it_is_leaked_instead_of_dropped() {
        let counted = Rc::new(());
        let tethered = Tethered::new(counted.clone());
        thread::spawn(move || drop(tethered)).join().expect("no panic");
        assert_eq!(Rc::strong_count(&counted), 2);
    }
}
