//! A descriptor closed by its one owner, and handles that refer to it until then: eight bytes each,
//! without an allocation, because each connection holds one.
//!
//! Contract: 64b.
#![cfg(unix)]

use std::cell::{Cell, RefCell};
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// How often owners on one thread have released descriptors.
struct Releases {
    /// By the descriptor's number. INVARIANT: a count never falls.
    of: RefCell<Vec<u32>>,
    /// Number of running calls of [`Handle::ask`].
    questions: Cell<u32>,
    /// Descriptors whose owner was dropped during such a call.
    kept: RefCell<Vec<OwnedFd>>,
}

thread_local! {
    static RELEASES: Releases =
        const { Releases { of: RefCell::new(Vec::new()), questions: Cell::new(0), kept: RefCell::new(Vec::new()) } };
}

/// The index of a number: descriptors are not negative.
fn place(number: RawFd) -> usize {
    usize::try_from(number).expect("an open descriptor")
}

impl Releases {
    /// `u32::MAX` is the last count: a handle with it refers to nothing.
    fn count(&self, number: RawFd) -> u32 {
        self.of.borrow().get(place(number)).copied().unwrap_or(0)
    }

    fn add(&self, number: RawFd) {
        let mut of = self.of.borrow_mut();
        let place = place(number);
        if of.len() <= place {
            of.resize(place + 1, 0);
        }
        of[place] = of[place].saturating_add(1);
    }
}

/// Owns a descriptor, and closes it on drop. Stays on its thread, as its handles do.
#[derive(Debug)]
pub struct Owner {
    descriptor: ManuallyDrop<OwnedFd>,
    on_one_thread: PhantomData<*const ()>,
}

impl Owner {
    /// A handle that refers to the descriptor until this owner is dropped or gives it away.
    #[must_use]
    pub fn handle(&self) -> Handle {
        let number = self.descriptor.as_raw_fd();
        // A thread that is ending has no counts any more, and no reachable descriptors.
        let count = RELEASES.try_with(|releases| releases.count(number)).unwrap_or(u32::MAX);
        Handle { number, count, on_one_thread: PhantomData }
    }

    /// Releases the descriptor: its handles refer to nothing from now on.
    ///
    /// # Safety
    ///
    /// Called once, and `descriptor` is not used after it.
    unsafe fn release(&mut self) -> OwnedFd {
        // No handle can be used once the thread's counts are destroyed.
        let _ = RELEASES.try_with(|releases| releases.add(self.descriptor.as_raw_fd()));
        // SAFETY: the caller's promise.
        unsafe { ManuallyDrop::take(&mut self.descriptor) }
    }
}

impl From<OwnedFd> for Owner {
    fn from(descriptor: OwnedFd) -> Owner {
        Owner { descriptor: ManuallyDrop::new(descriptor), on_one_thread: PhantomData }
    }
}

impl AsFd for Owner {
    #[inline(always)]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: nothing uses it after its drop, and `try_from` prevents the drop.
        let mut descriptor = Some(unsafe { self.release() });
        // A running `Handle::ask` may have borrowed the descriptor, so its close waits for the end
        // of the call.
        let _ = RELEASES.try_with(|releases| {
            if releases.questions.get() > 0 {
                releases.kept.borrow_mut().extend(descriptor.take());
            }
        });
    }
}

/// Refers to an [`Owner`]'s descriptor while the owner has it.
#[derive(Clone, Copy)]
pub struct Handle {
    number: RawFd,
    /// How often the number had been released when the handle was made.
    count: u32,
    on_one_thread: PhantomData<*const ()>,
}

/// Ends a call of [`Handle::ask`], even by a panic; the outermost call closes the kept descriptors.
struct QuestionGuard;

impl Drop for QuestionGuard {
    fn drop(&mut self) {
        let kept = RELEASES.try_with(|releases| {
            releases.questions.set(releases.questions.get() - 1);
            match releases.questions.get() {
                0 => releases.kept.take(),
                _ => Vec::new(),
            }
        });
        drop(kept);
    }
}

impl Handle {
    /// Calls `question` with the descriptor; `None` once its owner has released it.
    pub fn ask<T>(self, question: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        let begun = RELEASES.try_with(|releases| {
            let is_open = self.count != u32::MAX && releases.count(self.number) == self.count;
            is_open.then(|| releases.questions.set(releases.questions.get() + 1))
        });
        begun.ok()??;
        let _asking = QuestionGuard;
        // SAFETY: the descriptor is open until `question` returns: it was open when the handle was made, on
        // this thread; `release` adds to the count before a close, counts do not fall, and this one has not
        // changed. During `question`, drops keep descriptors open, and `try_from` fails.
        let descriptor = unsafe { BorrowedFd::borrow_raw(self.number) };
        Some(question(descriptor))
    }

    /// Whether the owner still has the descriptor.
    #[must_use]
    pub fn is_open(self) -> bool {
        self.ask(|_| ()).is_some()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("is_open", &self.is_open()).finish_non_exhaustive()
    }
}

impl TryFrom<Owner> for OwnedFd {
    type Error = Owner;

    /// The descriptor, for other code of this program to own.
    ///
    /// # Errors
    ///
    /// The owner itself, during a call of [`Handle::ask`].
    fn try_from(owner: Owner) -> Result<OwnedFd, Owner> {
        if RELEASES.try_with(|releases| releases.questions.get() > 0).unwrap_or(false) {
            return Err(owner);
        }
        // SAFETY: it is moved here, and is neither used again nor dropped.
        Ok(unsafe { ManuallyDrop::new(owner).release() })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};

    use super::*;

    fn pair() -> (Owner, io::PipeReader) {
        let (reader, writer) = io::pipe().expect("a pipe");
        (Owner::from(OwnedFd::from(writer)), reader)
    }

    /// Whether the other end of the pipe is closed.
    fn ends(mut reader: io::PipeReader) -> bool {
        matches!(reader.read(&mut [0]), Ok(0))
    }

    #[test]
    fn a_handle_reaches_the_descriptor_until_its_owner_is_dropped() {
        let (owner, reader) = pair();
        let handle = owner.handle();
        let number = owner.as_fd().as_raw_fd();
        assert_eq!(handle.ask(|descriptor| descriptor.as_raw_fd()), Some(number));
        drop(owner);
        assert!(handle.ask(|_| ()).is_none());
        assert!(ends(reader), "it was closed");
    }

    #[test]
    fn a_handle_does_not_reach_a_descriptor_that_reuses_the_number() {
        let (owner, _reader) = pair();
        let (handle, number) = (owner.handle(), owner.as_fd().as_raw_fd());
        drop(owner);
        let (other, _other_reader) = pair();
        // SAFETY: F_DUPFD_CLOEXEC takes any two numbers, and touches no memory of ours.
        let again =
            unsafe { libc::fcntl(other.as_fd().as_raw_fd(), libc::F_DUPFD_CLOEXEC, number) };
        assert!(again >= number, "the same number, unless another test has it by now");
        // SAFETY: the call has just opened it, so nothing else knows it.
        let _again = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(again) };
        assert!(!handle.is_open());
    }

    #[test]
    fn a_descriptor_given_away_stays_open_and_its_handles_end() {
        let (owner, mut reader) = pair();
        let handle = owner.handle();
        let given = OwnedFd::try_from(owner).expect("nobody asks");
        assert!(!handle.is_open());
        io::PipeWriter::from(given).write_all(b"x").expect("it is open");
        reader.read_exact(&mut [0]).expect("what was written");
    }

    #[test]
    fn an_owner_dropped_in_a_call_closes_after_it() {
        let (owner, mut reader) = pair();
        let handle = owner.handle();
        let answer = handle.ask(move |descriptor| {
            drop(owner);
            assert!(handle.ask(|_| ()).is_none(), "its owner has let go");
            let mut again =
                io::PipeWriter::from(descriptor.try_clone_to_owned().expect("it is open"));
            again.write_all(b"x").expect("room");
        });
        assert!(answer.is_some());
        reader.read_exact(&mut [0]).expect("what was written");
        assert!(ends(reader), "it was closed after the call");
    }

    #[test]
    fn owners_dropped_in_nested_calls_close_after_the_outermost_one() {
        let (asked, _reader) = pair();
        for _ in 0..2 {
            let [(one, first), (two, second), (three, third)] = [(); 3].map(|()| pair());
            let handle = one.handle();
            handle.ask(|descriptor| {
                asked.handle().ask(|_| drop((one, two)));
                drop(three);
                asked.handle().ask(|_| ());
                let open = descriptor.try_clone_to_owned().expect("it is open after these calls");
                io::PipeWriter::from(open).write_all(b"x").expect("room");
            });
            let mut first = first;
            first.read_exact(&mut [0]).expect("what was written");
            assert!(ends(first) && ends(second) && ends(third), "each was closed");
        }
    }

    #[test]
    fn an_owner_does_not_give_away_in_a_call() {
        let (owner, reader) = pair();
        let (other, _reader) = pair();
        let handle = owner.handle();
        let owner = other.handle().ask(move |_| OwnedFd::try_from(owner).expect_err("a call runs"));
        assert!(handle.is_open());
        drop(owner);
        assert!(ends(reader));
    }

    #[test]
    fn a_panic_in_a_call_ends_it() {
        let (owner, reader) = pair();
        let handle = owner.handle();
        let question = std::panic::AssertUnwindSafe(|| handle.ask(|_| panic!("asked for")));
        assert!(std::panic::catch_unwind(question).is_err());
        drop(owner);
        assert!(ends(reader), "its close does not wait for the call that panicked");
    }
}
