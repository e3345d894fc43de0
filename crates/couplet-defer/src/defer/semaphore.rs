//! [`DeferredSemaphore`], and [`DeferredLock`], a semaphore with a single token. Twisted's classes
//! of the same names.
//!
//! Waiters are served in FIFO order. A token is held as a [`Permit`], which releases it on drop, so
//! it can be neither released twice nor leaked by forgetting to release it.
//!
//! Contract: 129, 129b.

use std::cell::Cell;
use std::fmt;
use std::panic::Location;
use std::rc::Rc;

use super::Deferred;
use super::drops::{self, DropWork, Serve};
use super::node::CreatedAt;
use super::waiters::Waiters;
use super::waits::{self, Hold, Holds};

/// Lets a limited number of operations run at a time; the others queue.
///
/// Clones share the tokens.
///
/// ```
/// # use couplet_defer as couplet;
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
    semaphore: Rc<Semaphore>,
}

/// Lets one operation run at a time; the others queue.
///
/// Clones are the same lock.
///
/// ```
/// # use couplet_defer as couplet;
/// use couplet::defer::{Deferred, DeferredLock};
///
/// let lock = DeferredLock::new();
/// let (write, written) = Deferred::<()>::new();
/// lock.run(|| write).detach();
/// let second = lock.acquire();
/// assert!(lock.is_locked() && !second.has_fired());
/// written.callback(());
/// second.map(|permit| drop(permit)).detach(); // or keep it for as long as you need the lock
/// assert!(!lock.is_locked());
/// ```
#[derive(Clone, Debug)]
pub struct DeferredLock {
    one: DeferredSemaphore,
}

/// A token of a [`DeferredSemaphore`] or [`DeferredLock`]. Dropping it passes the token to the
/// first waiter.
///
/// That waiter's callbacks run before the drop returns; like all work triggered by a drop, they are
/// queued while another drop is being processed.
#[must_use = "dropping a permit releases it"]
pub struct Permit {
    semaphore: Rc<Semaphore>,
    /// In a thread that is observed.
    hold: Option<Rc<Hold>>,
}

/// The tokens and their waiters.
pub(super) struct Semaphore {
    tokens: Cell<usize>,
    free: Cell<usize>,
    waiters: Waiters<Permit>,
    made_at: CreatedAt,
    holds: Holds,
}

impl DeferredSemaphore {
    /// A semaphore with `tokens` tokens.
    ///
    /// # Panics
    ///
    /// If `tokens` is 0: waiters would never be served. Twisted's ValueError.
    #[track_caller]
    pub fn new(tokens: usize) -> Self {
        assert!(tokens > 0, "a semaphore needs at least one token");
        let semaphore = Semaphore {
            tokens: Cell::new(tokens),
            free: Cell::new(tokens),
            waiters: Waiters::default(),
            made_at: Location::caller(),
            holds: Holds::default(),
        };
        Self { semaphore: Rc::new(semaphore) }
    }

    /// Acquires a token: immediately if one is free, otherwise when all earlier waiters have been
    /// served. Cancelling leaves the queue.
    ///
    /// A permit that reaches a detached Deferred passes to the next waiter.
    #[track_caller]
    pub fn acquire(&self) -> Deferred<Permit> {
        let created_at = Location::caller();
        let Some(permit) = self.try_acquire() else {
            let deferred = self.semaphore.waiters.wait(created_at);
            waits::set_fired_by(&deferred, self.semaphore.holds.fires());
            return deferred;
        };
        let hold = permit.hold.clone();
        let deferred = Deferred::fired(Ok(permit), created_at);
        if let Some(hold) = hold {
            hold.passed_by(deferred.trace());
        }
        deferred
    }

    /// Acquires a token, if one is free and has no waiters.
    #[track_caller]
    pub fn try_acquire(&self) -> Option<Permit> {
        let semaphore = &self.semaphore;
        let taken = semaphore.waiters.len() == 0 && semaphore.take();
        let place = Location::caller();
        taken.then(|| Permit::new(semaphore.clone(), place))
    }

    /// Acquires a token, calls `work`, and releases the token when the Deferred that `work`
    /// returned fires, before the callbacks added to the returned Deferred run.
    ///
    /// Cancelling leaves the queue, or cancels the work. A panic in `work` becomes a failure.
    #[track_caller]
    pub fn run<T: 'static>(&self, work: impl FnOnce() -> Deferred<T> + 'static) -> Deferred<T> {
        self.acquire().then(move |permit| {
            Deferred::succeed(()).then(move |()| work()).add_both(move |result| {
                drop(permit);
                result
            })
        })
    }

    /// The total number of tokens.
    pub fn tokens(&self) -> usize {
        self.semaphore.tokens()
    }

    /// The number of free tokens.
    pub fn available(&self) -> usize {
        self.semaphore.free.get()
    }

    /// The number of waiters.
    pub fn waiting(&self) -> usize {
        self.semaphore.waiting()
    }
}

impl DeferredLock {
    /// An unlocked lock.
    #[track_caller]
    pub fn new() -> Self {
        Self { one: DeferredSemaphore::new(1) }
    }

    /// Acquires the lock: immediately if it is free, otherwise when all earlier waiters have been
    /// served. Cancelling leaves the queue. See [`DeferredSemaphore::acquire`].
    #[track_caller]
    pub fn acquire(&self) -> Deferred<Permit> {
        self.one.acquire()
    }

    /// Acquires the lock, if it is free and has no waiters.
    #[track_caller]
    pub fn try_acquire(&self) -> Option<Permit> {
        self.one.try_acquire()
    }

    /// Acquires the lock, calls `work`, and releases the lock when the Deferred that `work`
    /// returned fires.
    /// See [`DeferredSemaphore::run`].
    #[track_caller]
    pub fn run<T: 'static>(&self, work: impl FnOnce() -> Deferred<T> + 'static) -> Deferred<T> {
        self.one.run(work)
    }

    /// Whether the lock is held.
    pub fn is_locked(&self) -> bool {
        self.one.available() == 0
    }

    /// The number of waiters.
    pub fn waiting(&self) -> usize {
        self.one.waiting()
    }
}

impl Default for DeferredLock {
    #[track_caller]
    fn default() -> Self {
        Self::new()
    }
}

impl Semaphore {
    fn take(&self) -> bool {
        let free = self.free.get();
        self.free.set(free.saturating_sub(1));
        free > 0
    }

    pub(super) fn tokens(&self) -> usize {
        self.tokens.get()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    pub(super) fn made_at(&self) -> CreatedAt {
        self.made_at
    }

    pub(super) fn holds(&self) -> &Holds {
        &self.holds
    }
}

impl Serve for Semaphore {
    fn serve(self: Rc<Self>) {
        while self.free.get() > 0 {
            let Some(resolver) = self.waiters.pop() else { return };
            self.take();
            let (place, number) = resolver.origin().unwrap_or((self.made_at, None));
            let permit = Permit::new(self.clone(), place);
            if let Some(hold) = &permit.hold {
                hold.passed_by(number);
            }
            resolver.callback(permit);
        }
    }
}

impl Permit {
    fn new(semaphore: Rc<Semaphore>, place: CreatedAt) -> Permit {
        let hold = Hold::new(place);
        if let Some(hold) = &hold {
            semaphore.holds.add(hold, &semaphore);
        }
        Permit { semaphore, hold }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(hold) = &self.hold {
            self.semaphore.holds.remove(hold);
        }
        self.semaphore.free.set(self.semaphore.free.get() + 1);
        if self.semaphore.waiters.len() > 0 {
            drops::fire(DropWork::Freed(self.semaphore.clone()));
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
