//! Taking turns: [`DeferredSemaphore`], and [`DeferredLock`], which is one with a single token.
//! Twisted's classes of the same names.
//!
//! Who waits is served in the order of asking. A token travels as a [`Permit`], whose drop gives
//! it back: it can't be given back twice, and can't be forgotten.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::panic::Location;
use std::rc::Rc;

use super::drops::{self, Job};
use super::{Deferred, Resolver};

/// So many at a time, and the others wait in line.
///
/// Clones share the tokens.
///
/// ```
/// use couplet::defer::{Deferred, DeferredSemaphore};
///
/// let two = DeferredSemaphore::new(2);
/// let (download, done) = Deferred::<u8>::new();
/// let busy = two.try_acquire();
/// two.run(|| download).detach();
/// let third = two.run(|| Deferred::succeed(3));
/// assert_eq!((two.available(), two.waiting()), (0, 1));
/// done.callback(1);
/// assert!(third.has_fired());
/// # drop(busy);
/// ```
#[derive(Clone)]
pub struct DeferredSemaphore {
    line: Rc<Line>,
}

/// One at a time, and the others wait in line.
///
/// Clones are the same lock.
///
/// ```
/// use couplet::defer::{Deferred, DeferredLock};
///
/// let lock = DeferredLock::new();
/// let (write, written) = Deferred::<()>::new();
/// lock.run(|| write).detach();
/// let second = lock.acquire();
/// assert!(lock.is_locked() && !second.has_fired());
/// written.callback(());
/// second.map(|permit| drop(permit)).detach(); // or keep it for as long as it takes
/// assert!(!lock.is_locked());
/// ```
#[derive(Clone, Debug)]
pub struct DeferredLock {
    one: DeferredSemaphore,
}

/// A token of a [`DeferredSemaphore`], or the [`DeferredLock`]. Dropping it gives it back, and the
/// first in line has it then.
///
/// What that one does with it runs before the drop returns; but as with all that a drop fires, it
/// waits in line while another drop fires.
#[must_use = "a permit that is dropped is given back"]
pub struct Permit {
    line: Rc<Line>,
}

/// The tokens and who waits for them.
pub(super) struct Line {
    tokens: Cell<usize>,
    free: Cell<usize>,
    /// In the order of asking. Law 9: not bounded; each entry is a Deferred that somebody holds or
    /// has detached.
    waiting: RefCell<BTreeMap<u64, Resolver<Permit>>>,
    next: Cell<u64>,
}

impl DeferredSemaphore {
    /// A semaphore with so many tokens.
    ///
    /// # Panics
    ///
    /// With no token at all: whoever waited would wait for ever. Twisted's ValueError.
    pub fn new(tokens: usize) -> Self {
        assert!(tokens > 0, "a semaphore needs at least one token");
        let line = Line {
            tokens: Cell::new(tokens),
            free: Cell::new(tokens),
            waiting: RefCell::default(),
            next: Cell::new(0),
        };
        Self { line: Rc::new(line) }
    }

    /// Gives a token: at once if one is free, else when it is this one's turn. Cancelling leaves
    /// the line.
    ///
    /// A permit that comes to a Deferred which was detached goes on to the next in line.
    #[track_caller]
    pub fn acquire(&self) -> Deferred<Permit> {
        if let Some(permit) = self.try_acquire() {
            return Deferred::fired(Ok(permit), Location::caller());
        }
        let ticket = self.line.next.get();
        self.line.next.set(ticket + 1);
        let line = Rc::downgrade(&self.line);
        let (deferred, resolver) = Deferred::with_canceller(move |_| {
            let left = line.upgrade().and_then(|line| line.waiting.borrow_mut().remove(&ticket));
            drop(left);
        });
        self.line.waiting.borrow_mut().insert(ticket, resolver);
        deferred
    }

    /// A token, if one is free and nobody waits for it.
    pub fn try_acquire(&self) -> Option<Permit> {
        let line = &self.line;
        let taken = line.waiting.borrow().is_empty() && line.take();
        taken.then(|| Permit { line: line.clone() })
    }

    /// Calls `work` when there is a token for it, and gives the token back when the Deferred that
    /// it made has fired, before whoever waits for the result has it.
    ///
    /// Cancelling leaves the line, or cancels the work. A panic in `work` is its failure.
    #[track_caller]
    pub fn run<T: 'static>(&self, work: impl FnOnce() -> Deferred<T> + 'static) -> Deferred<T> {
        self.acquire().then(move |permit| {
            Deferred::succeed(()).then(move |()| work()).add_both(move |result| {
                drop(permit);
                result
            })
        })
    }

    /// The tokens that there are.
    pub fn tokens(&self) -> usize {
        self.line.tokens.get()
    }

    /// The tokens that are free.
    pub fn available(&self) -> usize {
        self.line.free.get()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.line.waiting.borrow().len()
    }
}

impl DeferredLock {
    /// A lock that nobody holds.
    pub fn new() -> Self {
        Self { one: DeferredSemaphore::new(1) }
    }

    /// Gives the lock: at once if nobody has it, else when it is this one's turn. Cancelling leaves
    /// the line. See [`DeferredSemaphore::acquire`].
    #[track_caller]
    pub fn acquire(&self) -> Deferred<Permit> {
        self.one.acquire()
    }

    /// The lock, if nobody has it.
    pub fn try_acquire(&self) -> Option<Permit> {
        self.one.try_acquire()
    }

    /// Calls `work` with the lock held, until the Deferred that it made has fired.
    /// See [`DeferredSemaphore::run`].
    #[track_caller]
    pub fn run<T: 'static>(&self, work: impl FnOnce() -> Deferred<T> + 'static) -> Deferred<T> {
        self.one.run(work)
    }

    /// Whether somebody has it.
    pub fn is_locked(&self) -> bool {
        self.one.available() == 0
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.one.waiting()
    }
}

impl Default for DeferredLock {
    fn default() -> Self {
        Self::new()
    }
}

impl Line {
    fn take(&self) -> bool {
        let free = self.free.get();
        self.free.set(free.saturating_sub(1));
        free > 0
    }

    /// Hands free tokens to who waits.
    pub(super) fn serve(self: Rc<Self>) {
        while self.free.get() > 0 {
            // Out of the cell before user code runs.
            let first = self.waiting.borrow_mut().pop_first();
            let Some((_, resolver)) = first else { return };
            self.take();
            resolver.callback(Permit { line: self.clone() });
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.line.free.set(self.line.free.get() + 1);
        if !self.line.waiting.borrow().is_empty() {
            drops::fire(Job::Freed(self.line.clone()));
        }
    }
}

impl fmt::Debug for DeferredSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeferredSemaphore")
            .field("available", &self.available())
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}
