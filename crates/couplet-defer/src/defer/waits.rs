//! The waits in a thread that [observes](observe) its Deferreds: pending Deferreds and locks, with
//! their places, waiters and holders.
//!
//! Waits build on the [histories](super::history): a chain's recording has a [`Standing`]. A thread
//! without an observer keeps nothing.
//!
//! Contract: 119b, 180a.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::{Rc, Weak};
use std::time::Instant;

use super::Deferred;
use super::history::{self, History, Number, Recording};
use super::node::CreatedAt;
use super::semaphore::Semaphore;

/// The loop of a thread, as its Deferreds see it.
pub trait Observer {
    /// The loop's time; `None` once the loop was dropped.
    fn now(&self) -> Option<Instant>;

    /// The number of the task that is being polled.
    fn task(&self) -> Option<u64>;

    /// A Deferred of its group has ended: only its history is left. Called wherever a
    /// Deferred is dropped.
    fn ended(&self, _: Ended) {}

    /// The group of its Deferreds and locks, which are listed together: 0, or the number of a simulated
    /// loop, which has a thread together with others.
    fn group(&self) -> u32 {
        0
    }
}

thread_local! {
    static OBSERVER: RefCell<Option<Rc<dyn Observer>>> = const { RefCell::new(None) };
    static LAST: Cell<u64> = const { Cell::new(0) };
    static LOCKS: RefCell<Locks> = const { RefCell::new(Locks { list: Vec::new(), limit: 64 }) };
}

/// Observes the Deferreds and locks that this thread makes from now on. Their histories must be
/// [kept](super::keep_histories) too. Returns the observer so far.
pub fn observe(observer: Option<Rc<dyn Observer>>) -> Option<Rc<dyn Observer>> {
    OBSERVER.try_with(|current| current.replace(observer)).ok().flatten()
}

fn observer() -> Option<Rc<dyn Observer>> {
    OBSERVER.try_with(|observer| observer.borrow().clone()).ok().flatten()
}

/// The loop's time, in a thread that is observed.
pub(super) fn now() -> Option<Instant> {
    observer()?.now()
}

fn group() -> u32 {
    observer().map_or(0, |observer| observer.group())
}

fn next_id() -> u64 {
    LAST.try_with(|last| last.replace(last.get() + 1)).unwrap_or_default()
}

/// The object that will fire a Deferred: its kind, and its number if it has one. The default is
/// unknown: the program has the resolver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FiredBy {
    /// `task`, `job`, `sleep`, `lock`… or a part of the library, in words.
    pub kind: &'static str,
    /// The object's number within its kind.
    pub id: Option<u64>,
}

/// The consumer of a Deferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Waiter {
    /// The program holds the Deferred, and has not polled it.
    #[default]
    Nothing,
    /// Polled, by this task of the loop or by something else.
    Polled(Option<u64>),
    /// Another Deferred waits for it.
    Deferred(u64),
    /// Detached: only its callbacks wait for it, if it has any.
    Detached,
}

/// The present state of a Deferred that is observed.
pub(super) struct Standing {
    id: u64,
    group: u32,
    since: Option<Instant>,
    fired_by: Cell<FiredBy>,
    waiter: Cell<Waiter>,
    /// When it got its result.
    fired: Cell<Option<Instant>>,
    /// Whether its result was taken.
    is_taken: Cell<bool>,
}

impl Standing {
    pub(super) fn new() -> Standing {
        Standing {
            id: next_id(),
            group: group(),
            since: now(),
            fired_by: Cell::default(),
            waiter: Cell::default(),
            fired: Cell::new(None),
            is_taken: Cell::new(false),
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// When the Deferred was created.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// When it got its result.
    pub(super) fn fired(&self) -> Option<Instant> {
        self.fired.get()
    }

    /// When it got a result that has not been taken.
    fn untaken(&self) -> Option<Instant> {
        self.fired.get().filter(|_| !self.is_taken.get())
    }

    pub(super) fn set_fired_by(&self, by: FiredBy) {
        self.fired_by.set(by);
    }

    pub(super) fn wait_in(&self, outer: &Standing) {
        self.waiter.set(Waiter::Deferred(outer.id));
    }

    pub(super) fn detached(&self) {
        self.waiter.set(Waiter::Detached);
    }

    pub(super) fn polled(&self) {
        if let Some(observer) = observer() {
            self.waiter.set(Waiter::Polled(observer.task()));
        }
    }

    /// A result has arrived.
    pub(super) fn fire(&self) {
        self.fired.set(now());
        self.is_taken.set(false);
    }

    /// The result was taken.
    pub(super) fn take(&self) {
        self.is_taken.set(true);
    }
}

/// A Deferred that has not fired, or whose result has not been taken.
#[derive(Debug)]
pub struct Waiting {
    /// The Deferred's number in the thread.
    pub id: u64,
    /// Where it was created.
    pub place: CreatedAt,
    /// When it was created.
    pub since: Option<Instant>,
    /// The object that will fire it.
    pub fired_by: FiredBy,
    /// The consumer of the Deferred.
    pub waiter: Waiter,
    /// When its result arrived, which its consumer has not taken.
    pub fired: Option<Instant>,
    /// How many callbacks have been added to it.
    pub callbacks: usize,
    /// The callbacks, and their results.
    pub history: History,
}

/// A Deferred that has ended. Keeps its failure alive.
pub struct Ended {
    recording: Rc<Recording>,
    at: Option<Instant>,
}

impl Ended {
    /// The object that has fired it.
    pub fn fired_by(&self) -> FiredBy {
        self.recording.standing().fired_by.get()
    }

    /// When it ended.
    pub fn at(&self) -> Option<Instant> {
        self.at
    }

    /// The Deferred with its history.
    pub fn deferred(&self) -> Waiting {
        self.recording.waiting()
    }
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ended").field("deferred", &self.deferred()).finish_non_exhaustive()
    }
}

/// The chain of this recording has ended.
pub(super) fn ended(recording: Rc<Recording>) {
    if let Some(observer) = observer()
        && observer.group() == recording.standing().group
    {
        let at = observer.now();
        observer.ended(Ended { recording, at });
    }
}

/// A lock or semaphore that is held.
#[derive(Debug)]
pub struct HeldLock {
    /// The lock's number in the thread.
    pub id: u64,
    /// Where it was created.
    pub place: CreatedAt,
    /// How many may hold it.
    pub tokens: usize,
    /// How many wait for it.
    pub waiting: usize,
    /// The holders.
    pub holders: Vec<Holder>,
}

/// A holder of a lock.
#[derive(Debug)]
pub struct Holder {
    /// Where the lock was requested.
    pub place: CreatedAt,
    /// Since when.
    pub since: Option<Instant>,
    /// The Deferred that passed the permit on, unless the permit was taken immediately.
    pub deferred: Option<u64>,
    /// The consumer of that Deferred.
    pub waiter: Waiter,
    /// Since when the permit has waited in that Deferred to be taken.
    pub untaken: Option<Instant>,
}

/// The Deferreds of this thread's observer that wait or have untaken results: the oldest `most`, oldest first.
/// Empty without histories.
pub fn waiting(most: usize) -> Vec<Waiting> {
    let (group, recordings) = (group(), history::recordings());
    let own = recordings.iter().filter(|recording| recording.standing().group == group);
    own.take(most).map(|recording| recording.waiting()).collect()
}

/// Names the object that will fire a Deferred.
#[inline]
pub(crate) fn set_fired_by<T>(deferred: &Deferred<T>, by: FiredBy) {
    if let Some(number) = deferred.trace() {
        history::record_fired_by(number, by);
    }
}

impl Recording {
    fn waiting(&self) -> Waiting {
        let standing = self.standing();
        Waiting {
            id: standing.id,
            place: self.made_at(),
            since: standing.since,
            fired_by: standing.fired_by.get(),
            waiter: standing.waiter.get(),
            fired: standing.untaken(),
            callbacks: self.callbacks(),
            history: self.history(0),
        }
    }
}

/// A permit that is held, in a thread that is observed.
pub(super) struct Hold {
    place: CreatedAt,
    since: Option<Instant>,
    /// The history of the Deferred that passes the permit on.
    recording: RefCell<Option<Rc<Recording>>>,
}

impl Hold {
    /// A permit that is requested at this place, if the thread is observed.
    #[inline]
    pub(super) fn new(place: CreatedAt) -> Option<Rc<Hold>> {
        let since = now()?;
        Some(Rc::new(Hold { place, since: Some(since), recording: RefCell::default() }))
    }

    /// A Deferred with this history passes the permit on.
    pub(super) fn passed_by(&self, number: Number) {
        let before = self.recording.replace(history::recording(number));
        drop(before);
    }

    fn holder(&self) -> Holder {
        let Hold { place, since, recording } = self;
        let recording = recording.borrow();
        let standing = recording.as_ref().map(|recording| recording.standing());
        Holder {
            place,
            since: *since,
            deferred: standing.map(|standing| standing.id),
            waiter: standing.map_or(Waiter::Nothing, |standing| standing.waiter.get()),
            untaken: standing.and_then(Standing::untaken),
        }
    }
}

/// The holders of a lock, in a thread that is observed.
#[derive(Default)]
pub(super) struct Holds {
    /// The number of the lock, once it has had a holder.
    id: Cell<Option<u64>>,
    present: RefCell<Vec<Rc<Hold>>>,
}

impl Holds {
    /// The object that fires the Deferreds of the lock's waiters.
    pub(super) fn fires(&self) -> FiredBy {
        FiredBy { kind: "lock", id: self.id.get() }
    }

    pub(super) fn add(&self, hold: &Rc<Hold>, semaphore: &Rc<Semaphore>) {
        if self.id.get().is_none() {
            self.id.set(Some(next_id()));
            let group = group();
            let _ = LOCKS.try_with(|locks| locks.borrow_mut().add(group, Rc::downgrade(semaphore)));
        }
        self.present.borrow_mut().push(hold.clone());
    }

    pub(super) fn remove(&self, hold: &Rc<Hold>) {
        let mut present = self.present.borrow_mut();
        let at = present.iter().position(|present| Rc::ptr_eq(present, hold));
        let gone = at.map(|at| present.swap_remove(at));
        // The history of the hold may have the last reference to a failure.
        drop(present);
        drop(gone);
    }
}

/// The locks of an observed thread that have had a holder.
struct Locks {
    /// With their groups.
    list: Vec<(u32, Weak<Semaphore>)>,
    /// The length at which dead entries are dropped.
    limit: usize,
}

impl Locks {
    fn add(&mut self, group: u32, semaphore: Weak<Semaphore>) {
        if self.list.len() >= self.limit {
            self.list.retain(|(_, semaphore)| semaphore.strong_count() > 0);
            self.limit = 2 * self.list.len() + 64;
        }
        self.list.push((group, semaphore));
    }
}

/// The locks of this thread's observer that are held. Empty unless the thread is observed.
pub fn held_locks() -> Vec<HeldLock> {
    let locks = LOCKS.try_with(|locks| locks.borrow().list.clone()).unwrap_or_default();
    let group = group();
    let own = locks.iter().filter(|(of, _)| *of == group);
    own.filter_map(|(_, lock)| lock.upgrade()?.held()).collect()
}

impl Semaphore {
    fn held(&self) -> Option<HeldLock> {
        let holds = self.holds();
        let holders: Vec<_> = holds.present.borrow().iter().map(|hold| hold.holder()).collect();
        let (tokens, waiting) = (self.tokens(), self.waiting());
        let id = holds.id.get().filter(|_| !holders.is_empty())?;
        Some(HeldLock { id, place: self.made_at(), tokens, waiting, holders })
    }
}
