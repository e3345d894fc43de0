//! Many Deferreds as one: [`list`], [`gather`], [`race`].
//!
//! A group is a node like others, with many above it. Its [`Rule`] says what the results make;
//! the rule is gone once the group has fired.

use std::cell::{Cell, RefCell};
use std::mem;
use std::panic::Location;
use std::rc::{Rc, Weak};

use super::cancel::{Above, cancel_all};
use super::error::{AllFailed, Empty, FirstError, discard};
use super::node::{Node, Place, Receive, Slot, Source, Waits, deliver};
use super::report::report;
use super::{Deferred, Failure, Result};

/// Waits for all, and gives each one's result in the order in which they were given.
/// Twisted's `DeferredList`.
///
/// An empty list fires at once. Cancelling it cancels every member. The failures in the
/// result are the taker's; if nobody takes it, each is reported.
///
/// ```
/// use couplet::defer::{Deferred, Failure, list};
/// use couplet::testing::success_of;
///
/// let results = list([Deferred::succeed(1), Deferred::fail(Failure::msg("no"))]);
/// let results = success_of(results);
/// assert_eq!(*results[0].as_ref().unwrap(), 1);
/// assert!(results[1].is_err());
/// ```
#[track_caller]
pub fn list<T: 'static>(
    members: impl IntoIterator<Item = Deferred<T>>,
) -> Deferred<Vec<Result<T>>> {
    let members: Vec<_> = members.into_iter().collect();
    let place = Location::caller();
    if members.is_empty() {
        return Deferred::fired(Ok(vec![]), place);
    }
    let rule = List(Gathered::new(members.len()));
    assemble(members, rule, place)
}

/// Waits for all values, and gives them in the order of the members. Twisted's `gatherResults`.
///
/// The first failure is the end: it fails with [`FirstError`]. The others keep running, and
/// those of them that fail later are reported. Nobody at all gives no values, at once.
/// Cancelling it cancels every member; after it fired, nothing.
///
/// ```
/// use couplet::defer::{Deferred, gather};
/// use couplet::testing::success_of;
///
/// let values = gather([Deferred::succeed(1), Deferred::succeed(2)]);
/// assert_eq!(success_of(values), [1, 2]);
/// ```
#[track_caller]
pub fn gather<T: 'static>(members: impl IntoIterator<Item = Deferred<T>>) -> Deferred<Vec<T>> {
    gathering(members, true, Location::caller())
}

/// [`gather`] that keeps silent about the failures that come after the first.
/// Twisted's `gatherResults(…, consumeErrors=True)`.
#[track_caller]
pub fn gather_consuming<T: 'static>(
    members: impl IntoIterator<Item = Deferred<T>>,
) -> Deferred<Vec<T>> {
    gathering(members, false, Location::caller())
}

fn gathering<T: 'static>(
    members: impl IntoIterator<Item = Deferred<T>>,
    reports_late: bool,
    place: Place,
) -> Deferred<Vec<T>> {
    let members: Vec<_> = members.into_iter().collect();
    if members.is_empty() {
        return Deferred::fired(Ok(vec![]), place);
    }
    let values = Gathered::new(members.len());
    if reports_late {
        assemble(members, Gather::<T, true>(values), place)
    } else {
        assemble(members, Gather::<T, false>(values), place)
    }
}

/// Waits for the first value, and gives it with its index; the others are cancelled then.
/// Twisted's `race`.
///
/// If all fail, it fails with [`AllFailed`]; if there is nobody, with [`Empty`], at once. The
/// failures of those that lose are the race's and aren't reported. Cancelling it cancels every
/// member.
///
/// ```
/// use couplet::defer::{Deferred, race};
/// use couplet::testing::success_of;
///
/// let (slow, resolver) = Deferred::new();
/// let winner = race([slow, Deferred::succeed("fast")]);
/// assert_eq!(success_of(winner), (1, "fast"));
/// assert!(resolver.is_cancelled());
/// ```
#[track_caller]
pub fn race<T: 'static>(members: impl IntoIterator<Item = Deferred<T>>) -> Deferred<(usize, T)> {
    let members: Vec<_> = members.into_iter().collect();
    let place = Location::caller();
    if members.is_empty() {
        return Deferred::fired(Err(Failure::at(Empty, place)), place);
    }
    let rule = Race(Gathered::new(members.len()));
    assemble(members, rule, place)
}

/// What the results of the members make.
trait Rule<T>: Sized {
    type Output;

    /// The result of member `index` has come. It comes once for each.
    fn arrived(&mut self, index: usize, result: Result<T>, place: Place) -> Verdict<Self::Output>;

    /// A member failed after the group had fired.
    fn late(_failure: Failure, _place: Place) {}

    /// Nobody takes what the group made.
    fn abandon(result: Result<Self::Output>, place: Place) {
        match result {
            Ok(output) => discard(output),
            Err(failure) => report(failure, place),
        }
    }
}

enum Verdict<O> {
    Wait,
    Fire(Result<O>),
    /// Fire, and cancel the others.
    Win(Result<O>),
}

/// Things that come in any order and are given in the order of the members.
struct Gathered<T> {
    things: Vec<Option<T>>,
    missing: usize,
}

impl<T> Gathered<T> {
    fn new(len: usize) -> Self {
        Self { things: std::iter::repeat_with(|| None).take(len).collect(), missing: len }
    }

    /// All of them, when this was the last.
    fn put(&mut self, index: usize, thing: T) -> Option<Vec<T>> {
        self.things[index] = Some(thing);
        self.missing -= 1;
        (self.missing == 0).then(|| mem::take(&mut self.things).into_iter().flatten().collect())
    }
}

struct List<T>(Gathered<Result<T>>);

impl<T> Rule<T> for List<T> {
    type Output = Vec<Result<T>>;

    fn arrived(&mut self, index: usize, result: Result<T>, _: Place) -> Verdict<Vec<Result<T>>> {
        self.0.put(index, result).map_or(Verdict::Wait, |results| Verdict::Fire(Ok(results)))
    }

    fn abandon(result: Result<Self::Output>, place: Place) {
        // A list never fails as a whole.
        for result in result.into_iter().flatten() {
            match result {
                Ok(value) => discard(value),
                Err(failure) => report(failure, place),
            }
        }
    }
}

struct Gather<T, const REPORTS_LATE: bool>(Gathered<T>);

impl<T, const REPORTS_LATE: bool> Rule<T> for Gather<T, REPORTS_LATE> {
    type Output = Vec<T>;

    fn arrived(&mut self, index: usize, result: Result<T>, place: Place) -> Verdict<Vec<T>> {
        match result.map(|value| self.0.put(index, value)) {
            Ok(Some(values)) => Verdict::Fire(Ok(values)),
            Ok(None) => Verdict::Wait,
            Err(failure) => Verdict::Fire(Err(Failure::at(FirstError { index, failure }, place))),
        }
    }

    fn late(failure: Failure, place: Place) {
        if REPORTS_LATE {
            report(failure, place);
        }
    }
}

struct Race(Gathered<Failure>);

impl<T> Rule<T> for Race {
    type Output = (usize, T);

    fn arrived(&mut self, index: usize, result: Result<T>, place: Place) -> Verdict<(usize, T)> {
        match result.map_err(|failure| self.0.put(index, failure)) {
            Ok(value) => Verdict::Win(Ok((index, value))),
            Err(Some(failures)) => Verdict::Fire(Err(Failure::at(AllFailed(failures), place))),
            Err(None) => Verdict::Wait,
        }
    }
}

struct Group<T, R: Rule<T>> {
    /// `None` once it has fired.
    rule: Cell<Option<R>>,
    /// Whom a cancel goes to; empty once it has fired.
    members: RefCell<Vec<Option<Weak<dyn Node>>>>,
    slot: Slot<R::Output>,
}

fn assemble<T, R>(members: Vec<Deferred<T>>, rule: R, place: Place) -> Deferred<R::Output>
where
    T: 'static,
    R: Rule<T> + 'static,
    R::Output: 'static,
{
    let ends = members.iter().map(Deferred::end).collect();
    let group = Rc::new(Group {
        rule: Cell::new(Some(rule)),
        members: RefCell::new(ends),
        slot: Slot::new(place),
    });
    // A member may decide the race while those after it still wait for their turn here.
    for (index, member) in members.into_iter().enumerate() {
        let place = member.place().unwrap_or(place);
        member.feed(Rc::new(Member { index, place, group: group.clone() }));
    }
    Deferred::chain(group)
}

/// What stands below a member.
struct Member<T, R: Rule<T>> {
    index: usize,
    place: Place,
    group: Rc<Group<T, R>>,
}

impl<T, R> Receive<T> for Member<T, R>
where
    T: 'static,
    R: Rule<T> + 'static,
    R::Output: 'static,
{
    fn receive(self: Rc<Self>, input: Result<T>) -> Option<Rc<dyn Node>> {
        let group = &self.group;
        let Some(mut rule) = group.rule.take() else {
            match input {
                Ok(value) => discard(value),
                Err(failure) => R::late(failure, self.place),
            }
            return None;
        };
        let result = match rule.arrived(self.index, input, group.slot.place) {
            Verdict::Wait => {
                group.rule.set(Some(rule));
                return None;
            }
            Verdict::Fire(result) => {
                group.members.take();
                result
            }
            Verdict::Win(result) => {
                let mut others = group.members.take();
                others[self.index] = None;
                cancel_all(others.into_iter().flatten().collect());
                result
            }
        };
        discard(rule);
        deliver(group.clone(), result)
    }
}

impl<T, R: Rule<T>> Waits for Member<T, R> {
    /// Never called: the ends of members are watched, and so stay in their chains.
    fn wait_for(&self, _above: Weak<dyn Node>) {}
}

impl<T, R> Node for Group<T, R>
where
    T: 'static,
    R: Rule<T> + 'static,
    R::Output: 'static,
{
    fn cancel(self: Rc<Self>) -> Above {
        Above::Many(self.members.borrow().iter().flatten().cloned().collect())
    }

    fn step(self: Rc<Self>) -> Option<Rc<dyn Node>> {
        self.slot.pass()
    }
}

impl<T, R> Source<R::Output> for Group<T, R>
where
    T: 'static,
    R: Rule<T> + 'static,
    R::Output: 'static,
{
    fn slot(&self) -> &Slot<R::Output> {
        &self.slot
    }

    fn abandon(&self, result: Result<R::Output>) {
        R::abandon(result, self.slot.place);
    }
}
