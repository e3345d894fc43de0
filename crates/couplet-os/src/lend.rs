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
    /// Calls `f`, during which [`take`](Self::take) provides these bytes. Returns the bytes that are left. A
    /// loan within `f` ends this one, whose bytes then count as taken.
    #[inline(always)]
    pub fn lend<'b>(&self, bytes: &'b [u8], f: impl FnOnce()) -> &'b [u8] {
        /// Ends the loan, even if `f` panics.
        struct Loan<'a>(&'a Lent);
        impl Drop for Loan<'_> {
            fn drop(&mut self) {
                self.0.rest.set(None);
            }
        }
        let loan = Loan(self);
        self.rest.set(Some(NonNull::from(bytes)));
        f();
        let left = self.rest.take();
        std::mem::forget(loan);
        // SAFETY: a loan within `f` has left nothing here, so it is a part of `bytes`.
        left.map_or(&[], |left| unsafe { left.as_ref() })
    }

    /// Whether no lent bytes are left.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.rest.get().is_none_or(|rest| rest.len() == 0)
    }

    /// Copies lent bytes that are left into `buffer`, as many as fit, and takes them. Returns their number;
    /// `None` outside of a loan.
    #[inline(always)]
    pub fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        // SAFETY: as in `take`. A copy calls nothing else that could take them.
        let rest = unsafe { self.rest.get()?.as_ref() };
        let n = rest.len().min(buffer.len());
        let (taken, left) = rest.split_at(n);
        buffer[..n].copy_from_slice(taken);
        self.rest.set(Some(NonNull::from(left)));
        Some(n)
    }

    /// Calls `f` with the lent bytes that are left, and takes as many of them as `f` returns.
    #[inline]
    pub fn take<R>(&self, f: impl FnOnce(&[u8]) -> (usize, R)) -> R {
        // Taken out, so that only this call has them, even if `f` calls `take`.
        let Some(lent) = self.rest.take() else { return f(&[]).1 };
        // SAFETY: it was made from a reference in a call of `lend` that has not returned, and that
        // call holds the reference: this type is not `Sync`, and code that runs on this thread
        // during that call runs within it. The bytes are only read.
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
        let left = lent.lend(b"abcdef", || {
            assert_eq!(first(2), b"abcdef");
            assert_eq!(first(0), b"cdef");
            assert_eq!(first(100), b"cdef");
            assert!(lent.is_empty());
        });
        assert!(left.is_empty());
        assert!(lent.is_empty() && first(1).is_empty());
        assert!(lent.lend(b"", || ()).is_empty());
        assert_eq!(lent.lend(b"abc", || assert_eq!(first(1), b"abc")), b"bc");
    }

    #[test]
    fn reading_copies_as_many_bytes_as_fit() {
        let lent = Lent::default();
        let read = |room: usize| {
            let mut buffer = vec![0; room];
            lent.read(&mut buffer).map(|n| buffer[..n].to_vec())
        };
        assert_eq!(read(3), None);
        let left = lent.lend(b"abcdef", || {
            assert_eq!(read(0).as_deref(), Some(&b""[..]));
            assert_eq!(read(2).as_deref(), Some(&b"ab"[..]));
            lent.take(|_| (0, assert_eq!(read(1), None)));
            assert_eq!(read(9).as_deref(), Some(&b"cdef"[..]));
            assert_eq!(read(9).as_deref(), Some(&b""[..]));
        });
        assert!(left.is_empty());
        assert_eq!(read(3), None);
    }

    #[test]
    fn a_loan_within_a_loan_ends_the_outer_one() {
        let lent = Lent::default();
        let left = lent.lend(b"abc", || {
            assert_eq!(lent.lend(b"xy", || lent.take(|rest| (1, assert_eq!(rest, b"xy")))), b"y");
            assert!(lent.is_empty());
        });
        assert!(left.is_empty());
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
        let left = lent.lend(b"abc", || {
            lent.take(|rest| {
                assert_eq!(rest, b"abc");
                assert!(lent.is_empty());
                (1, ())
            });
        });
        assert_eq!(left, b"bc");
    }
}
