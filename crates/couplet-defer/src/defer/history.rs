//! [`History`]: the record of a Deferred's callbacks, in a thread that keeps histories. Twisted's
//! `setDebugging(True)`.
//!
//! A node has a [`Trace`], the number of an entry in the thread's table: four bytes that would
//! otherwise be padding, and zero unless histories are kept. All nodes of a chain share its
//! [`Recording`]. A callback's result is recorded not when it returns but when the next callback
//! receives it.
//!
//! INVARIANT: no table or recording is borrowed while a failure is dropped: its error is a user's
//! object.
//!
//! Contract: 119a, 119b.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::num::NonZeroU32;
use std::rc::{Rc, Weak};
use std::time::Instant;

use super::Failure;
use super::node::CreatedAt;
use super::waits::{self, FiredBy, Standing};

/// The maximum nesting of Deferreds that wait for one another, when displayed and when kept after a
/// failure.
const DEPTH: usize = 8;

/// Records histories of the Deferreds that this thread creates after this call, each with at most
/// `most` callbacks: the first half and the last half. With 0, the default, none are recorded.
/// Returns the previous number. Twisted's `setDebugging`.
///
/// Use it for debugging: every step costs some hundred nanoseconds more, and failures live as long
/// as a history that contains them. When disabled, it costs nothing.
///
/// ```
/// # use couplet_defer as couplet;
/// use couplet::defer::{Deferred, keep_histories};
///
/// fn parse(text: &str) -> couplet::Result<u16> {
///     Ok(text.parse()?)
/// }
///
/// let before = keep_histories(64);
/// let (text, resolver) = Deferred::new();
/// let port = text.add_callback(parse).map(|port| port + 1).add_errback(|_| Ok(80));
/// resolver.callback("http");
/// let history = port.history().expect("histories are kept").to_string();
/// let lines: Vec<_> = history.lines().collect();
/// assert!(lines[0].starts_with("a Deferred created at ") && lines[0].ends_with("got a value"));
/// assert!(lines[1].starts_with("1. add_callback(") && lines[1].contains("::parse) at "));
/// assert!(lines[1].ends_with(": failed: invalid digit found in string"));
/// assert!(lines[2].starts_with("2. map(") && lines[2].ends_with(": was skipped"));
/// assert!(lines[3].starts_with("3. add_errback(") && lines[3].ends_with(": returned a value"));
/// # port.detach();
/// keep_histories(before);
/// ```
pub fn keep_histories(most: usize) -> usize {
    MOST.replace(most)
}

thread_local! {
    /// The number of callbacks kept per chain; 0 disables histories.
    static MOST: Cell<usize> = const { Cell::new(0) };
    static ENTRIES: RefCell<Entries> = const { RefCell::new(Entries::new()) };
}

/// The history of a Deferred so far: see [`Deferred::history`](super::Deferred::history).
///
/// Prints one line for the place where the Deferred was created and one for each callback: the
/// method that added it, its name, its place and its outcome. An inner Deferred is printed below
/// its callback, indented, if it is pending or failed.
#[derive(Clone, Debug)]
pub struct History {
    pub(super) made_at: CreatedAt,
    pub(super) since: Option<Instant>,
    pub(super) got: Option<Timed<StepResult>>,
    pub(super) first: Vec<ShownStep>,
    pub(super) left_out: usize,
    pub(super) last: Vec<ShownStep>,
}

/// A value with the loop's time, in a thread that is observed.
pub(super) type Timed<T> = (T, Option<Instant>);

/// A callback of a [`History`].
pub(super) type ShownStep = Step<Option<Box<History>>>;

/// The method that added a callback.
#[derive(Clone, Copy, Debug)]
pub(super) enum Method {
    AddCallback,
    Map,
    Then,
    AddErrback,
    Recover,
    AddBoth,
    AddTimeout,
}

impl Method {
    pub(super) fn name(self) -> &'static str {
        match self {
            Method::AddCallback => "add_callback",
            Method::Map => "map",
            Method::Then => "then",
            Method::AddErrback => "add_errback",
            Method::Recover => "recover",
            Method::AddBoth => "add_both",
            Method::AddTimeout => "add_timeout",
        }
    }

    pub(super) fn input_kind(self) -> InputKind {
        match self {
            Method::AddCallback | Method::Map | Method::Then => InputKind::Value,
            Method::AddErrback | Method::Recover => InputKind::Failure,
            Method::AddBoth | Method::AddTimeout => InputKind::Both,
        }
    }
}

/// The method, and the name of the type of the callback that was passed to it.
#[derive(Clone, Copy)]
pub(super) struct Named(Method, &'static str);

impl Named {
    #[inline(always)]
    pub(super) fn new<C>(method: Method, _: &C) -> Named {
        Named(method, std::any::type_name::<C>())
    }

    /// A method that takes no callback.
    pub(super) fn none(method: Method) -> Named {
        Named(method, "()")
    }

    /// The number for this callback's link, which is added to the node `number`.
    #[inline(always)]
    pub(super) fn add_step(self, number: Number, place: CreatedAt) -> Number {
        add_step(number?, self.0, self.1, place)
    }
}

/// The results that a callback handles; others skip it.
#[derive(Clone, Copy)]
pub(super) enum InputKind {
    Value,
    Failure,
    Both,
}

impl InputKind {
    fn skips(self, failure: Option<&Failure>) -> bool {
        matches!((self, failure), (InputKind::Value, Some(_)) | (InputKind::Failure, None))
    }
}

#[derive(Clone, Debug)]
pub(super) enum StepResult {
    Value,
    Failure(Failure),
}

impl StepResult {
    fn from_failure(failure: Option<&Failure>) -> StepResult {
        failure.map_or(StepResult::Value, |failure| StepResult::Failure(failure.clone()))
    }
}

/// A callback and its outcome. `W` leads to the Deferred that it waits for.
#[derive(Clone, Debug)]
pub(super) struct Step<W> {
    /// Counts from 1.
    pub(super) number: usize,
    pub(super) method: Method,
    pub(super) name: &'static str,
    pub(super) place: CreatedAt,
    /// When it was called, in a thread that is observed.
    pub(super) at: Option<Instant>,
    pub(super) state: StepState<W>,
}

#[derive(Clone, Debug)]
pub(super) enum StepState<W> {
    Next,
    Runs,
    Skipped,
    Returned(Timed<StepResult>),
    /// Returned a Deferred, whose result is present once it has fired.
    Waits(CreatedAt, W, Option<Timed<StepResult>>),
}

/// The history of a chain, while it is recorded.
pub(super) struct Recording {
    made_at: CreatedAt,
    standing: Standing,
    /// The length of the longest chain of Deferreds that wait for this one.
    depth: Cell<usize>,
    /// The number of entries that lead here. The chain has ended when it is zero again.
    entries: Cell<usize>,
    steps: RefCell<RecordedSteps>,
}

#[derive(Default)]
struct RecordedSteps {
    /// The result of the origin.
    got: Option<Timed<StepResult>>,
    first: Vec<Step<Inner>>,
    last: VecDeque<Step<Inner>>,
    /// The number of callbacks added.
    count: usize,
}

/// The recording of an inner Deferred.
struct Inner {
    recording: Weak<Recording>,
    /// Keeps the recording alive in case the Deferred fails.
    kept: Option<Rc<Recording>>,
}

/// A node's part of a history.
#[derive(Clone)]
struct Entry {
    recording: Rc<Recording>,
    /// The number of the node's callback and the results it handles; `None` for the origin.
    step: Option<(usize, InputKind)>,
    /// The recording of the detached Deferred that waited for this one and was cut from its chain.
    detached: Option<Rc<Recording>>,
}

struct Entries {
    entries: BTreeMap<NonZeroU32, Entry>,
    next: u32,
}

impl Entries {
    const fn new() -> Entries {
        Entries { entries: BTreeMap::new(), next: 0 }
    }

    /// Returns the number of the new entry; `None` if all numbers are in use.
    fn add(&mut self, entry: Entry) -> Option<NonZeroU32> {
        let free = |number: &NonZeroU32| !self.entries.contains_key(number);
        let numbers = (0..u32::MAX).map(|n| self.next.wrapping_add(n)).filter_map(NonZeroU32::new);
        let number = { numbers }.find(free)?;
        self.next = number.get().wrapping_add(1);
        self.entries.insert(number, entry);
        Some(number)
    }
}

fn with_entries<R>(f: impl FnOnce(&mut Entries) -> R) -> Option<R> {
    // The table has been destroyed if the thread is ending.
    ENTRIES.try_with(|entries| f(&mut entries.borrow_mut())).ok()
}

/// The number of a node's entry; `None` without a history.
pub(super) type Number = Option<NonZeroU32>;

/// Owns a node's entry: dropping it removes the entry.
pub(super) struct Trace(Number);

impl Trace {
    #[inline]
    pub(super) fn new(number: Number) -> Trace {
        Trace(number)
    }

    #[inline(always)]
    pub(super) fn number(&self) -> Number {
        self.0
    }
}

impl Drop for Trace {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(number) = self.0 {
            forget(number);
        }
    }
}

#[cold]
#[inline(never)]
fn forget(number: NonZeroU32) {
    // The entry is used after the borrow of the table ends.
    let entry = with_entries(|entries| entries.entries.remove(&number)).flatten();
    let Some(Entry { recording, detached, .. }) = entry else { return };
    recording.lose_entry();
    if let Some(detached) = detached {
        detached.lose_entry();
    }
}

fn add(recording: Rc<Recording>, step: Option<(usize, InputKind)>) -> Number {
    recording.get_entry();
    let entry = Entry { recording, step, detached: None };
    with_entries(|entries| entries.add(entry)).flatten()
}

fn entry(number: NonZeroU32) -> Option<Entry> {
    with_entries(|entries| entries.entries.get(&number).cloned()).flatten()
}

/// Begins a history for a Deferred created at `created_at`.
#[inline(always)]
pub(super) fn begin(created_at: CreatedAt) -> Number {
    match MOST.try_with(Cell::get) {
        Ok(0) | Err(_) => None,
        Ok(_) => begin_at(created_at),
    }
}

#[cold]
#[inline(never)]
fn begin_at(made_at: CreatedAt) -> Number {
    let (depth, entries, steps) = (Cell::new(0), Cell::new(0), RefCell::default());
    add(Rc::new(Recording { made_at, standing: Standing::new(), depth, entries, steps }), None)
}

/// Adds an entry for another node of the same history.
pub(super) fn share(number: Number) -> Number {
    let Entry { recording, step, .. } = entry(number?)?;
    add(recording, step)
}

/// Adds an entry for the link of a callback that is added to this node.
#[cold]
#[inline(never)]
fn add_step(number: NonZeroU32, method: Method, name: &'static str, place: CreatedAt) -> Number {
    let recording = entry(number)?.recording;
    let name = if matches!(method, Method::AddTimeout) { "" } else { name };
    let step = recording.add(method, name, place);
    add(recording, Some((step, method.input_kind())))
}

/// Records that the callback of this node is called, with a value or with this failure.
#[cold]
#[inline(never)]
pub(super) fn record_call(number: NonZeroU32, failure: Option<&Failure>) {
    if let Some(Entry { recording, step: Some((step, kind)), .. }) = entry(number) {
        recording.settle(step, failure);
        if let (Some(failure), Some(place)) = (failure, recording.place(step)) {
            failure.pass(place);
        }
        recording.set(step, if kind.skips(failure) { StepState::Skipped } else { StepState::Runs });
    }
}

/// Records that the callback of this node has returned a pending Deferred.
#[cold]
#[inline(never)]
pub(super) fn record_wait(number: NonZeroU32, inner: Number, made_at: CreatedAt) {
    let Some(Entry { recording, step: Some((step, _)), .. }) = entry(number) else { return };
    let inner = self::recording(inner).filter(|inner| !Rc::ptr_eq(inner, &recording));
    let made_at = inner.as_ref().map_or(made_at, |inner| inner.made_at);
    let depth = recording.depth.get() + 1;
    if let Some(inner) = &inner {
        inner.standing.wait_in(&recording.standing);
        inner.depth.set(depth.max(inner.depth.get()));
    }
    let weak = inner.as_ref().map_or_else(Weak::new, Rc::downgrade);
    let inner = Inner { recording: weak, kept: inner.filter(|_| depth < DEPTH) };
    recording.set(step, StepState::Waits(made_at, inner, None));
}

/// Records that the node of `outer`, whose Deferred is detached, is cut out of its chain. A failure
/// that the node `inner` leaves unhandled is then shown with the history of `outer`.
#[cold]
#[inline(never)]
pub(super) fn replace_history(inner: Number, outer: NonZeroU32) {
    let (Some(inner), Some(outer)) = (inner, entry(outer)) else { return };
    let shown = outer.detached.unwrap_or(outer.recording);
    shown.get_entry();
    let before = with_entries(|entries| {
        entries.entries.get_mut(&inner).and_then(|entry| entry.detached.replace(shown))
    });
    if let Some(before) = before.flatten() {
        before.lose_entry();
    }
}

/// Records that the Deferred of this node is polled.
#[cold]
#[inline(never)]
pub(super) fn record_poll(number: NonZeroU32) {
    if let Some(recording) = recording(Some(number)) {
        recording.standing.polled();
    }
}

/// Records that the end of a chain has a result: a value, or this failure.
#[cold]
#[inline(never)]
pub(super) fn record_result(number: NonZeroU32, failure: Option<&Failure>) {
    let Some(Entry { recording, step, detached }) = entry(number) else { return };
    recording.standing.fire();
    // The value of a group may hold a failure, with which the group is then reported.
    if step.is_some() || failure.is_some() || detached.is_some() {
        // This may drop failures, and so run the user's code, which may take the result.
        recording.settle(usize::MAX, failure);
        if let Some(detached) = detached {
            detached.settle(usize::MAX, failure);
        }
    }
}

/// Records that the result of this node was taken.
#[cold]
#[inline(never)]
pub(super) fn record_take(number: NonZeroU32) {
    if let Some(recording) = recording(Some(number)) {
        recording.standing.take();
    }
}

/// Records that the result of this node passes to another chain, or to nothing.
#[cold]
#[inline(never)]
pub(super) fn record_end(number: NonZeroU32, failure: Option<&Failure>) {
    record_result(number, failure);
    record_take(number);
}

/// Records that the Deferred of this node is detached.
#[cold]
#[inline(never)]
pub(super) fn record_detached(number: NonZeroU32) {
    if let Some(recording) = recording(Some(number)) {
        recording.standing.detached();
    }
}

/// Records that a group waits for this Deferred.
pub(super) fn record_member(member: Number, group: Number) {
    if let (Some(member), Some(group)) = (recording(member), recording(group)) {
        member.standing.wait_in(&group.standing);
    }
}

/// Records the object that will fire this Deferred.
#[cold]
#[inline(never)]
pub(super) fn record_fired_by(number: NonZeroU32, by: FiredBy) {
    if let Some(recording) = recording(Some(number)) {
        recording.standing.set_fired_by(by);
    }
}

/// The recording of a node's chain.
pub(super) fn recording(number: Number) -> Option<Rc<Recording>> {
    let of = |entries: &mut Entries| Some(entries.entries.get(&number?)?.recording.clone());
    with_entries(of).flatten()
}

/// The recordings of all chains that still have a node, in the order of their creation.
pub(super) fn recordings() -> Vec<Rc<Recording>> {
    let all = |entries: &mut Entries| {
        let each = entries.entries.values().map(|entry| &entry.recording);
        each.map(|recording| (recording.standing.id(), recording.clone())).collect()
    };
    let mut all: Vec<(u64, Rc<Recording>)> = with_entries(all).unwrap_or_default();
    all.sort_unstable_by_key(|(id, _)| *id);
    all.dedup_by_key(|(id, _)| *id);
    all.into_iter().map(|(_, recording)| recording).collect()
}

/// The history so far. `result` is the latest result of the chain, if it has one.
pub(super) fn history(number: Number, result: Option<Option<&Failure>>) -> Option<History> {
    let Entry { recording, detached, .. } = entry(number?)?;
    if let Some(failure) = result {
        recording.settle(usize::MAX, failure);
        if let Some(detached) = &detached {
            detached.settle(usize::MAX, failure);
        }
    }
    Some(detached.unwrap_or(recording).history(0))
}

impl Recording {
    pub(super) fn made_at(&self) -> CreatedAt {
        self.made_at
    }

    pub(super) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// The number of callbacks added.
    pub(super) fn callbacks(&self) -> usize {
        self.steps.borrow().count
    }

    fn get_entry(&self) {
        self.entries.set(self.entries.get() + 1);
    }

    /// An entry that led here was removed. Removing the last one ends the chain.
    fn lose_entry(self: Rc<Self>) {
        self.entries.set(self.entries.get() - 1);
        if self.entries.get() == 0 {
            waits::ended(self);
        }
    }

    /// Adds a callback; returns its number, from 1.
    fn add(&self, method: Method, name: &'static str, place: CreatedAt) -> usize {
        let most = MOST.try_with(Cell::get).unwrap_or(0).max(1);
        let mut steps = self.steps.borrow_mut();
        steps.count += 1;
        let number = steps.count;
        let step = Step { number, method, name, place, at: None, state: StepState::Next };
        let mut left_out = None;
        if steps.last.is_empty() && steps.first.len() < most.div_ceil(2) {
            steps.first.push(step);
        } else if most > 1 {
            if steps.last.len() >= most / 2 {
                left_out = steps.last.pop_front();
            }
            steps.last.push_back(step);
        }
        drop(steps);
        drop(left_out);
        number
    }

    /// The place of a callback, unless it was left out.
    fn place(&self, number: usize) -> Option<CreatedAt> {
        let steps = self.steps.borrow();
        let step = steps.first.iter().chain(&steps.last).find(|step| step.number == number);
        step.map(|step| step.place)
    }

    /// Sets the state of a callback, unless it was left out or skipped.
    fn set(&self, number: usize, state: StepState<Inner>) {
        let mut steps = self.steps.borrow_mut();
        let RecordedSteps { first, last, .. } = &mut *steps;
        let step = first.iter_mut().chain(last).find(|step| step.number == number);
        if let Some(step) = step
            && !matches!(step.state, StepState::Skipped)
        {
            let before = std::mem::replace(&mut step.state, state);
            step.at = step.at.or_else(waits::now);
            drop(steps);
            drop(before);
        }
    }

    /// Records `failure`, or a value, as the result of the callbacks before `number`.
    fn settle(&self, number: usize, failure: Option<&Failure>) {
        let now = waits::now();
        let result = || (StepResult::from_failure(failure), now);
        let mut steps = self.steps.borrow_mut();
        let RecordedSteps { got, first, last, .. } = &mut *steps;
        got.get_or_insert_with(result);
        let (mut kept, mut passed) = (Vec::new(), Vec::new());
        for step in first.iter_mut().chain(last).filter(|step| step.number < number) {
            match &mut step.state {
                StepState::Runs => step.state = StepState::Returned(result()),
                StepState::Waits(_, inner, gave @ None) => {
                    *gave = Some(result());
                    passed.push(step.place);
                    kept.extend(match failure {
                        Some(_) => inner.kept.clone(),
                        None => inner.kept.take(),
                    });
                }
                _ => {}
            }
        }
        drop(steps);
        // The inner trails may lead back to this one, so nothing is borrowed here.
        for inner in &kept {
            inner.settle(usize::MAX, failure);
        }
        if let Some(failure) = failure {
            passed.into_iter().for_each(|place| failure.pass(place));
        }
    }

    /// A snapshot of the recording, nested `depth` levels deep in another history.
    pub(super) fn history(&self, depth: usize) -> History {
        let shown = |inner: &Inner| {
            let recording = inner.kept.clone().or_else(|| inner.recording.upgrade())?;
            (depth + 1 < DEPTH).then(|| Box::new(recording.history(depth + 1)))
        };
        let steps = self.steps.borrow();
        let first: Vec<_> = steps.first.iter().map(|step| step.shown(shown)).collect();
        let last: Vec<_> = steps.last.iter().map(|step| step.shown(shown)).collect();
        let left_out = steps.count - first.len() - last.len();
        let (made_at, since) = (self.made_at, self.standing.since());
        // A failure is recorded when it arrives.
        let value = || Some((StepResult::Value, Some(self.standing.fired()?)));
        let got = steps.got.clone().or_else(value);
        History { made_at, since, got, first, left_out, last }
    }
}

impl Step<Inner> {
    fn shown(&self, show: impl Fn(&Inner) -> Option<Box<History>>) -> ShownStep {
        let Step { number, method, name, place, at, .. } = *self;
        let state = match &self.state {
            StepState::Next => StepState::Next,
            StepState::Runs => StepState::Runs,
            StepState::Skipped => StepState::Skipped,
            StepState::Returned(gave) => StepState::Returned(gave.clone()),
            StepState::Waits(made_at, inner, gave) => {
                // For an inner Deferred that fired with a value, its place is enough.
                let inner = show(inner).filter(|_| !matches!(gave, Some((StepResult::Value, _))));
                StepState::Waits(made_at, inner, gave.clone())
            }
        };
        Step { number, method, name, place, at, state }
    }
}

impl History {
    fn print(&self, f: &mut fmt::Formatter<'_>, indent: usize) -> fmt::Result {
        write!(f, "a Deferred created at {}: ", self.made_at)?;
        match &self.got {
            None => f.write_str("has not fired")?,
            Some((StepResult::Value, _)) => f.write_str("got a value")?,
            Some((StepResult::Failure(failure), _)) => write!(f, "failed: {failure:#}")?,
        }
        let mut next = "is next";
        for step in &self.first {
            step.print(f, indent, &mut next)?;
        }
        if self.left_out > 0 {
            write!(f, "\n{:indent$}… {} left out", "", self.left_out)?;
        }
        for step in &self.last {
            step.print(f, indent, &mut next)?;
        }
        Ok(())
    }
}

impl ShownStep {
    /// `next` is the word for the first callback that has not run; later ones get `follows`.
    fn print(
        &self,
        f: &mut fmt::Formatter<'_>,
        indent: usize,
        next: &mut &'static str,
    ) -> fmt::Result {
        let Step { number, name, place, .. } = self;
        let method = self.method.name();
        write!(f, "\n{:indent$}{number}. {method}({name}) at {place}: ", "")?;
        match &self.state {
            StepState::Next => f.write_str(std::mem::replace(next, "follows")),
            StepState::Runs => f.write_str("is running"),
            StepState::Skipped => f.write_str("was skipped"),
            StepState::Returned((StepResult::Value, _)) => f.write_str("returned a value"),
            StepState::Returned((StepResult::Failure(failure), _)) => {
                write!(f, "failed: {failure:#}")
            }
            StepState::Waits(made_at, inner, gave) => {
                f.write_str(if gave.is_none() { "waits for " } else { "waited for " })?;
                match (inner, gave) {
                    (Some(inner), _) => inner.print(f, indent + 3),
                    (None, None) => write!(f, "a Deferred created at {made_at}"),
                    (None, Some((StepResult::Value, _))) => {
                        write!(f, "a Deferred created at {made_at}, which returned a value")
                    }
                    (None, Some((StepResult::Failure(failure), _))) => {
                        write!(f, "a Deferred created at {made_at}, which failed: {failure:#}")
                    }
                }
            }
        }
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.print(f, 0)
    }
}
