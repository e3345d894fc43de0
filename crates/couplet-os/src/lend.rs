//! Bytes lent for the length of a call to code that does not get them as an argument, such as a
//! future polled in the call.

use std::cell::Cell;
use std::fmt;
use std::ptr::NonNull;

/// A slot through which bytes can be lent; see [`lend`](Lent::lend).
#[derive(Default)]
pub struct Lent {
    /// The currently lent bytes that were not taken.
    ///
    /// INVARIANT: set only while the call of `lend` that set it runs, whose caller holds the bytes.
    rest: Cell<Option<NonNull<[u8]>>>,
}

impl Lent {
    /// Calls `f`; meanwhile [`take`](Self::take) provides these bytes. Returns the number taken.
    pub fn lend(&self, bytes: &[u8], f: impl FnOnce()) -> usize {
        /// Ends the loan, even if `f` panics.
        struct Loan<'a>(&'a Lent, Option<NonNull<[u8]>>);
        impl Drop for Loan<'_> {
            fn drop(&mut self) {
                self.0.rest.set(self.1);
            }
        }
        let loan = Loan(self, self.rest.replace(Some(NonNull::from(bytes))));
        f();
        let left = loan.0.rest.get().map_or(0, NonNull::len);
        drop(loan);
        bytes.len() - left
    }

    /// Whether no lent bytes are left.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.rest.get().is_none_or(|rest| rest.len() == 0)
    }

    /// Calls `f` with the lent bytes that are left, and takes as many of them as `f` returns.
    #[inline]
    pub fn take<R>(&self, f: impl FnOnce(&[u8]) -> (usize, R)) -> R {
        // Taken out, so that only this call has them, even if `f` calls `take`.
        let Some(lent) = self.rest.take() else { return f(&[]).1 };
        // SAFETY: it was made from a reference in a call of `lend` that has not returned, and that
        // call holds the reference: this type is not `Sync`, and code that runs on this thread
        // during that call runs within it. It is only read.
        let rest = unsafe { lent.as_ref() };
        let (n, result) = f(rest);
        self.rest.set(Some(NonNull::from(&rest[n.min(rest.len())..])));
        result
    }
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = self.rest.get().map_or(0, NonNull::len);
        f.debug_struct("Lent").field("rest", &rest).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_there_for_the_length_of_the_call_and_taken_once() {
        let lent = Lent::default();
        let first = |n| lent.take(|rest| (n, rest.to_vec()));
        assert!(lent.is_empty() && first(3).is_empty());
        let taken = lent.lend(b"abcdef", || {
            assert_eq!(first(2), b"abcdef");
            assert_eq!(first(0), b"cdef");
            assert_eq!(lent.lend(b"xy", || assert_eq!(first(1), b"xy")), 1);
            assert_eq!(first(100), b"cdef");
            assert!(lent.is_empty());
        });
        assert_eq!(taken, 6);
        assert!(lent.is_empty() && first(1).is_empty());
        assert_eq!(lent.lend(b"", || ()), 0);
    }

    #[test]
    fn a_panic_ends_the_loan() {
        let lent = Lent::default();
        let panics = std::panic::AssertUnwindSafe(|| lent.lend(b"abc", || panic!("in the call")));
        assert!(std::panic::catch_unwind(panics).is_err());
        assert!(lent.is_empty());
    }

    #[test]
    fn within_a_take_nothing_else_has_them() {
        let lent = Lent::default();
        let taken = lent.lend(b"abc", || {
            lent.take(|rest| {
                assert_eq!(rest, b"abc");
                assert!(lent.is_empty());
                (1, ())
            });
        });
        assert_eq!(taken, 1);
    }
}
