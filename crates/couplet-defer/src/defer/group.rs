//! Combining Deferreds: [`list`], [`gather`], [`race`], [`first_of`].
//!
//! A group is a node with several nodes above it. A [`Rule`] combines the results, and is dropped
//! once the group has fired.
//!
//! Contract: 121–124a.

use std::cell::{Cell, RefCell};
use std::mem;
use std::panic::Location;
use std::rc::{Rc, Weak};

use super::arrived::Arrived;
use super::cancel::{Upstream, cancel_all};
use super::error::{AllFailed, Empty, FirstError, discard};
use super::history::{self, Trace};
use super::node::{CreatedAt, Node, Produce, Receive, ResultSlot, Waits, deliver};
use super::report::report;
use super::{Deferred, Failure, Result};

/// Waits for all members and fires with their results, in member order. Twisted's `DeferredList`.
///
/// An empty list fires immediately. Cancelling the list cancels every member. Failures are in the
/// result, for its consumer to handle; if the result is never taken, each is reported.
///
/// ```
/// # use couplet_defer as couplet;
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
    let created_at = Location::caller();
    if members.is_empty() {
        return Deferred::fired(Ok(vec![]), created_at);
    }
    let rule = List(Gathered::new(members.len()));
    assemble(members, rule, created_at)
}

/// Waits for all values and fires with them, in member order. Twisted's `gatherResults`.
///
/// On the first failure it fails with [`FirstError`]. The other members keep running, and any that
/// fail later are reported. With no members it fires immediately with no values. Cancelling it
/// cancels every member; once it has fired, cancelling does nothing.
///
/// ```
/// # use couplet_defer as couplet;
/// use couplet::defer::{Deferred, gather};
/// use couplet::testing::success_of;
///
/// let values = gather([Deferred::succeed(1), Deferred::succeed(2)]);
/// assert_eq!(success_of(values), [1, 2]);
/// ```
#[track_caller]
pub fn gather<T: 'static>(members: impl IntoIterator<Item = Deferred<T>>) -> Deferred<Vec<T>> {
    gathering::<T, true>(members, Location::caller())
}

/// [`gather`] that doesn't report failures after the first.
/// Twisted's `gatherResults(…, consumeErrors=True)`.
#[track_caller]
pub fn gather_consuming<T: 'static>(
    members: impl IntoIterator<Item = Deferred<T>>,
) -> Deferred<Vec<T>> {
    gathering::<T, false>(members, Location::caller())
}

fn gathering<T: 'static, const REPORTS_LATE: bool>(
    members: impl IntoIterator<Item = Deferred<T>>,
    created_at: CreatedAt,
) -> Deferred<Vec<T>> {
    let members: Vec<_> = members.into_iter().collect();
    if members.is_empty() {
        return Deferred::fired(Ok(vec![]), created_at);
    }
    let values = Gathered::new(members.len());
    assemble(members, Gather::<T, REPORTS_LATE>(values), created_at)
}

/// Waits for the first value, fires with its index and the value, and cancels the other members.
/// Twisted's `race`.
///
/// If all fail, it fails with [`AllFailed`]; with no members it fails immediately with [`Empty`].
/// Failures of the losers are not reported. Cancelling it cancels every member.
///
/// ```
/// # use couplet_defer as couplet;
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
    let created_at = Location::caller();
    if members.is_empty() {
        return Deferred::fired(Err(Failure::at(Empty, created_at)), created_at);
    }
    let rule = Race(Gathered::new(members.len()));
    assemble(members, rule, created_at)
}

/// Waits for the first result, value or failure, fires with the index of its member and the result,
/// and cancels the other members. Twisted's `DeferredList` with `fireOnOneCallback` and
/// `fireOnOneErrback`, which lets them run.
///
/// [`race`] keeps waiting after a failure; this doesn't. With no members it fails immediately with
/// [`Empty`]. Results of the others are dropped, and their failures not reported. A failure is in
/// the result, for its consumer to handle; if the result is never taken, it is reported. Cancelling
/// it cancels every member; it fires with the first of them.
///
/// ```
/// # use couplet_defer as couplet;
/// use couplet::defer::{Deferred, Failure, first_of};
/// use couplet::testing::success_of;
///
/// let (slow, resolver) = Deferred::<u8>::new();
/// let (index, result) = success_of(first_of([slow, Deferred::fail(Failure::msg("refused"))]));
/// assert_eq!((index, result.unwrap_err().to_string()), (1, "refused".to_owned()));
/// assert!(resolver.is_cancelled());
/// ```
#[track_caller]
pub fn first_of<T: 'static>(
    members: impl IntoIterator<Item = Deferred<T>>,
) -> Deferred<(usize, Result<T>)> {
    let members: Vec<_> = members.into_iter().collect();
    let created_at = Location::caller();
    if members.is_empty() {
        return Deferred::fired(Err(Failure::at(Empty, created_at)), created_at);
    }
    assemble(members, FirstOf, created_at)
}

/// How the results of the members combine.
trait Rule<T>: Sized {
    type Output;

    /// Called once for each member, when it fires.
    fn arrived(
        &mut self,
        index: usize,
        result: Arrived<T>,
        created_at: CreatedAt,
    ) -> Verdict<Self::Output>;

    /// Called for a member that fails after the group has fired.
    fn late(_failure: Failure, _member: &Member<T, Self>) {}

    /// Disposes of an untaken result of the group.
    fn abandon(result: Arrived<Self::Output>, slot: &ResultSlot<Self::Output>) {
        result.abandon(&|failure| slot.report(failure));
    }
}

enum Verdict<O> {
    Wait,
    Fire(Arrived<O>),
    /// Fire, and cancel the other members.
    Win(Arrived<O>),
}

/// Collects results that arrive in any order and returns them in member order.
struct Gathered<T> {
    things: Vec<Option<T>>,
    missing: usize,
}

impl<T> Gathered<T> {
    fn new(len: usize) -> Self {
        Self { things: std::iter::repeat_with(|| None).take(len).collect(), missing: len }
    }

    /// Stores one result; returns all of them if it was the last.
    fn put(&mut self, index: usize, thing: T) -> Option<Vec<T>> {
        self.things[index] = Some(thing);
        self.missing -= 1;
        (self.missing == 0).then(|| mem::take(&mut self.things).into_iter().flatten().collect())
    }
}

struct List<T>(Gathered<Arrived<T>>);

impl<T: 'static> Rule<T> for List<T> {
    type Output = Vec<Result<T>>;

    fn arrived(
        &mut self,
        index: usize,
        result: Arrived<T>,
        _: CreatedAt,
    ) -> Verdict<Vec<Result<T>>> {
        let all = self.0.put(index, result);
        all.map_or(Verdict::Wait, |results| Verdict::Fire(Arrived::all(results)))
    }

    fn abandon(result: Arrived<Self::Output>, slot: &ResultSlot<Self::Output>) {
        // A list never fails as a whole.
        let report = |failure| slot.report(failure);
        match result {
            Arrived::Here(results) => {
                let each = results.into_iter().flatten();
                each.for_each(|result| Arrived::Here(result).abandon(&report));
            }
            claim => claim.abandon(&report),
        }
    }
}

struct Gather<T, const REPORTS_LATE: bool>(Gathered<Arrived<T>>);

impl<T: 'static, const REPORTS_LATE: bool> Rule<T> for Gather<T, REPORTS_LATE> {
    type Output = Vec<T>;

    fn arrived(
        &mut self,
        index: usize,
        result: Arrived<T>,
        created_at: CreatedAt,
    ) -> Verdict<Vec<T>> {
        let value = match result {
            Arrived::Here(Err(failure)) => {
                let failure = Failure::at(FirstError { index, failure }, created_at);
                return Verdict::Fire(Arrived::Here(Err(failure)));
            }
            value => value,
        };
        let Some(values) = self.0.put(index, value) else { return Verdict::Wait };
        Verdict::Fire(Arrived::all(values).reshape(|values| values?.into_iter().collect()))
    }

    fn late(failure: Failure, member: &Member<T, Self>) {
        if REPORTS_LATE {
            let history = history::history(member.trace.number(), Some(Some(&failure)));
            report(failure, member.created_at, history);
        }
    }
}

struct Race(Gathered<Failure>);

impl<T: 'static> Rule<T> for Race {
    type Output = (usize, T);

    fn arrived(
        &mut self,
        index: usize,
        result: Arrived<T>,
        created_at: CreatedAt,
    ) -> Verdict<(usize, T)> {
        let failure = match result {
            Arrived::Here(Err(failure)) => failure,
            value => return Verdict::Win(value.reshape(move |value| Ok((index, value?)))),
        };
        let Some(failures) = self.0.put(index, failure) else { return Verdict::Wait };
        Verdict::Fire(Arrived::Here(Err(Failure::at(AllFailed(failures), created_at))))
    }
}

struct FirstOf;

impl<T: 'static> Rule<T> for FirstOf {
    type Output = (usize, Result<T>);

    fn arrived(
        &mut self,
        index: usize,
        result: Arrived<T>,
        _: CreatedAt,
    ) -> Verdict<(usize, Result<T>)> {
        Verdict::Win(result.reshape(move |result| Ok((index, result))))
    }

    fn abandon(result: Arrived<Self::Output>, slot: &ResultSlot<Self::Output>) {
        // A `FirstOf` never fails as a whole.
        let report = |failure| slot.report(failure);
        match result {
            Arrived::Here(Ok((_, result))) => Arrived::Here(result).abandon(&report),
            other => other.abandon(&report),
        }
    }
}

struct Group<T, R: Rule<T>> {
    /// `None` once it has fired.
    rule: Cell<Option<R>>,
    /// The nodes to cancel; empty once it has fired.
    members: RefCell<Vec<Option<Weak<dyn Node>>>>,
    slot: ResultSlot<R::Output>,
}

fn assemble<T, R>(members: Vec<Deferred<T>>, rule: R, created_at: CreatedAt) -> Deferred<R::Output>
where
    T: 'static,
    R: Rule<T> + 'static,
    R::Output: 'static,
{
    let ends = members.iter().map(Deferred::end).collect();
    let group = Rc::new(Group {
        rule: Cell::new(Some(rule)),
        members: RefCell::new(ends),
        slot: ResultSlot::new(created_at, history::begin(created_at)),
    });
    // A member may decide the race before later members are attached.
    for (index, member) in members.into_iter().enumerate() {
        let created_at = member.place().unwrap_or(created_at);
        history::record_member(member.trace(), group.slot.trace.number());
        let trace = Trace::new(history::share(member.trace()));
        member.feed(Rc::new(Member { index, created_at, trace, group: group.clone() }));
    }
    Deferred::chain(group)
}

/// Sits below a member and passes its result to the group.
struct Member<T, R: Rule<T>> {
    index: usize,
    created_at: CreatedAt,
    /// The history of the member.
    trace: Trace,
    group: Rc<Group<T, R>>,
}

impl<T, R> Receive<T> for Member<T, R>
where
    T: 'static,
    R: Rule<T> + 'static,
    R::Output: 'static,
{
    fn receive(self: Rc<Self>, input: Arrived<T>) -> Option<Rc<dyn Node>> {
        if let Some(number) = self.trace.number() {
            history::record_end(number, input.failure());
        }
        let group = &self.group;
        let Some(mut rule) = group.rule.take() else {
            input.abandon(&|failure| R::late(failure, &self));
            return None;
        };
        let result = match rule.arrived(self.index, input, group.slot.created_at) {
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
    /// The group has the ends of its members, which are watched, so they stay in their chains.
    fn wait_for(&self, _above: Weak<dyn Node>) {}
}

impl<T, R> Node for Group<T, R>
where
    T: 'static,
    R: Rule<T> + 'static,
    R::Output: 'static,
{
    fn cancel(self: Rc<Self>) -> Upstream {
        Upstream::Many(self.members.borrow().iter().flatten().cloned().collect())
    }

    fn step(self: Rc<Self>) -> Option<Rc<dyn Node>> {
        self.slot.pass()
    }
}

impl<T, R> Produce<R::Output> for Group<T, R>
where
    T: 'static,
    R: Rule<T> + 'static,
    R::Output: 'static,
{
    fn slot(&self) -> &ResultSlot<R::Output> {
        &self.slot
    }

    fn abandon(&self, result: Arrived<R::Output>) {
        R::abandon(result, &self.slot);
    }
}
