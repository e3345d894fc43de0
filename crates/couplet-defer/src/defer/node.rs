//! The links of a chain, and how a result travels down them.
//!
//! A chain is a list of nodes. Each owns the next and holds a weak reference to the one above; the
//! resolver owns the first, the Deferred the last. Each node has a [`ResultSlot`], which holds its
//! result until it is taken.
//!
//! INVARIANT: user code neither runs nor is dropped while any part of a node is borrowed. Callbacks
//! are taken out of their cells first, so a callback may do anything to its own chain and finds it
//! in a valid state.
//!
//! INVARIANT: results go from node to node through [`run`], never by one node calling the next, so
//! the stack doesn't grow with the chain. One trap remains: a callback that fires another Deferred
//! nests, like any call.
//!
//! Contract: 109–112, 116, 125a.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::mem;
use std::panic::Location;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use super::arrived::Arrived;
use super::cancel::{OtherNode, Upstream};
use super::error::run_contained;
use super::history::{self, Number, Trace};
use super::report::report;
use super::{Failure, Result};

/// The location where a Deferred or one of its links was created.
pub(super) type CreatedAt = &'static Location<'static>;

/// A node, with the type of its result erased.
pub(super) trait Node {
    /// One step of a cancel: returns the nodes above. An origin cancels itself instead.
    fn cancel(self: Rc<Self>) -> Upstream;

    /// Passes its result on; returns the node to step next.
    fn step(self: Rc<Self>) -> Option<Rc<dyn Node>>;

    /// Called when the resolver is dropped.
    fn orphaned(self: Rc<Self>) {}
}

/// A node that produces a `T`.
pub(super) trait Produce<T>: Node {
    fn slot(&self) -> &ResultSlot<T>;

    /// Disposes of an untaken result: drops a value or its claim, reports a failure.
    fn abandon(&self, result: Arrived<T>) {
        result.abandon(&|failure| self.slot().report(failure));
    }
}

/// A node that waits for another.
pub(super) trait Waits {
    /// Makes `above` the node to wait for.
    fn wait_for(&self, above: Weak<dyn Node>);
}

/// Takes the result of the node above and processes it.
pub(super) trait Receive<T>: Waits {
    fn receive(self: Rc<Self>, input: Arrived<T>) -> Option<Rc<dyn Node>>;
}

/// Takes the result of an inner Deferred as its own.
pub(super) trait Adopt<T>: Produce<T> + Waits {}

/// Holds the result of a node, and the receiver of that result.
pub(super) struct ResultSlot<T> {
    /// INVARIANT: `Some` if the state is `Fired`, or if it is `Linked` and the result is about to
    /// be passed on.
    result: Cell<Option<Arrived<T>>>,
    state: RefCell<SlotState<T>>,
    /// A canceller refers to this node, so it must not be cut out of its chain.
    watched: Cell<bool>,
    /// Unhandled failures are not reported.
    quiet: Cell<bool>,
    pub(super) trace: Trace,
    pub(super) created_at: CreatedAt,
    _alive: Alive,
}

/// The flags and the trace fit in bytes that would otherwise be padding.
const _: () = assert!(size_of::<ResultSlot<u64>>() == size_of::<Unflagged<u64>>() + 8);
type Unflagged<T> = (Cell<Option<Result<T>>>, RefCell<SlotState<T>>, CreatedAt);

thread_local! {
    static ALIVE: Cell<usize> = const { Cell::new(0) };
}

/// The number of live nodes in this thread, for the simulator's leak check.
pub(crate) fn live_nodes() -> usize {
    ALIVE.get()
}

/// Counts live nodes.
struct Alive;

impl Alive {
    #[inline]
    fn new() -> Alive {
        // A thread that is ending may still create and drop nodes, which are not counted.
        let _ = ALIVE.try_with(|alive| alive.set(alive.get() + 1));
        Alive
    }
}

impl Drop for Alive {
    #[inline]
    fn drop(&mut self) {
        let _ = ALIVE.try_with(|alive| alive.set(alive.get().wrapping_sub(1)));
    }
}

pub(super) enum SlotState<T> {
    /// A Deferred ends at this node, and its result has no receiver yet.
    Open,
    /// The Deferred was polled.
    Awaited(Waker),
    /// The next link waits for the result.
    Linked(Rc<dyn Receive<T>>),
    /// This is the end of an inner Deferred, and an outer node waits for it.
    Adopted(Rc<dyn Adopt<T>>),
    /// The Deferred was dropped.
    Detached,
    /// The result is stored for the Deferred to take.
    Fired,
    /// The result has been taken, or is being handled further up the call stack.
    Over,
}

impl<T> ResultSlot<T> {
    pub(super) fn new(created_at: CreatedAt, trace: Number) -> Self {
        Self {
            result: Cell::new(None),
            state: RefCell::new(SlotState::Open),
            watched: Cell::new(false),
            quiet: Cell::new(false),
            trace: Trace::new(trace),
            created_at,
            _alive: Alive::new(),
        }
    }

    pub(super) fn watch(&self) {
        self.watched.set(true);
    }

    pub(super) fn silence(&self) {
        self.quiet.set(true);
    }

    pub(super) fn has_fired(&self) -> bool {
        matches!(*self.state.borrow(), SlotState::Fired)
    }

    /// Takes the result, if it has arrived.
    pub(super) fn take(&self) -> Option<Arrived<T>> {
        if !self.has_fired() {
            return None;
        }
        self.attach(SlotState::Over);
        if let Some(number) = self.trace.number() {
            history::record_take(number);
        }
        let result = self.result.take();
        debug_assert!(result.is_some(), "a fired node has its result");
        result
    }

    /// Keeps the result for its consumer. The state is `Fired`.
    fn keep(&self, result: Arrived<T>) {
        let Some(number) = self.trace.number() else { return self.result.set(Some(result)) };
        let failure = result.failure().cloned();
        self.result.set(Some(result));
        history::record_result(number, failure.as_ref());
    }

    /// Reports an unhandled failure.
    pub(super) fn report(&self, failure: Failure) {
        if self.quiet.get() {
            return;
        }
        let history = history::history(self.trace.number(), Some(Some(&failure)));
        report(failure, self.created_at, history);
    }

    /// A clone of the failure, if the result has arrived and is one.
    pub(super) fn failure(&self) -> Option<Failure> {
        let result = self.result.take();
        let failure = result.as_ref().and_then(|result| result.failure().cloned());
        self.result.set(result);
        failure
    }

    /// Makes `below` receive the result when it arrives. The node must not have a receiver.
    pub(super) fn attach(&self, below: SlotState<T>) {
        drop(self.state.replace(below));
    }

    /// Records that the Deferred was dropped. Returns whether it was being awaited.
    pub(super) fn detach(&self) -> bool {
        if let Some(number) = self.trace.number() {
            history::record_detached(number);
        }
        let mut state = self.state.borrow_mut();
        if matches!(*state, SlotState::Open) {
            *state = SlotState::Detached;
            return false;
        }
        drop(state);
        matches!(self.state.replace(SlotState::Detached), SlotState::Awaited(_))
    }

    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<Result<T>> {
        if let Some(number) = self.trace.number() {
            history::record_poll(number);
        }
        if let Some(result) = self.take() {
            return Poll::Ready(result.take());
        }
        let state = self.state.borrow();
        let same = matches!(&*state, SlotState::Awaited(waker) if waker.will_wake(context.waker()));
        drop(state);
        if !same {
            self.attach(SlotState::Awaited(context.waker().clone()));
        }
        Poll::Pending
    }

    /// The body of [`Node::step`].
    pub(super) fn pass(&self) -> Option<Rc<dyn Node>> {
        let next = self.take_next()?;
        next.receive(self.result.take()?)
    }

    /// Takes the next link, if there is one.
    fn take_next(&self) -> Option<Rc<dyn Receive<T>>> {
        if !matches!(*self.state.borrow(), SlotState::Linked(_)) {
            return None;
        }
        match self.state.replace(SlotState::Over) {
            SlotState::Linked(next) => Some(next),
            _ => None,
        }
    }
}

/// Sets the result of `node`; returns the node to step next.
pub(super) fn deliver<T>(mut node: Rc<dyn Produce<T>>, result: Arrived<T>) -> Option<Rc<dyn Node>> {
    loop {
        let slot = node.slot();
        let mut state = slot.state.borrow_mut();
        match &*state {
            SlotState::Linked(_) => {
                drop(state);
                slot.result.set(Some(result));
                return Some(node);
            }
            SlotState::Detached => {
                drop(state);
                abandon(&*node, result);
                return None;
            }
            SlotState::Open => {
                *state = SlotState::Fired;
                drop(state);
                slot.keep(result);
                return None;
            }
            _ => {}
        }
        let before = mem::replace(&mut *state, SlotState::Over);
        drop(state);
        match before {
            SlotState::Adopted(next) => {
                if let Some(number) = slot.trace.number() {
                    history::record_end(number, result.failure());
                }
                node = next;
            }
            SlotState::Awaited(waker) => {
                slot.attach(SlotState::Fired);
                slot.keep(result);
                let _ = run_contained(|| waker.wake());
                return None;
            }
            // A node gets only one result: an origin fires once, a link has one input.
            _ => {
                debug_assert!(false, "a node was given a second result");
                return None;
            }
        }
    }
}

/// Disposes of the result of a node whose Deferred is detached.
fn abandon<T>(node: &dyn Produce<T>, result: Arrived<T>) {
    let Some(number) = node.slot().trace.number() else { return node.abandon(result) };
    let failure = result.failure().cloned();
    node.abandon(result);
    // Afterwards, as a group may be reported with a failure of its value.
    history::record_end(number, failure.as_ref());
}

/// Fires `node` and runs the result as far down the chain as it goes.
pub(super) fn fire<T>(node: Rc<dyn Produce<T>>, result: Arrived<T>) {
    match node.slot().take_next() {
        Some(next) => run(next.receive(result)),
        None => run(deliver(node, result)),
    }
}

/// Runs a result as far down the chain as it goes.
#[inline]
pub(super) fn run(first: Option<Rc<dyn Node>>) {
    let mut next = first;
    while let Some(node) = next {
        next = node.step();
    }
}

/// The outcome of a callback: a result, or an inner Deferred to wait for, which has not fired.
pub(super) enum Outcome<T> {
    Now(Arrived<T>),
    Later(Rc<dyn Produce<T>>),
}

impl<T> Outcome<T> {
    #[inline]
    pub(super) fn now(result: Result<T>) -> Outcome<T> {
        Outcome::Now(Arrived::Here(result))
    }
}

/// One callback. `above` is the node whose result it waits for, and later the inner Deferred that
/// the callback returned.
pub(super) struct Link<T, U, F> {
    callback: Cell<Option<F>>,
    above: OtherNode,
    slot: ResultSlot<U>,
    input: PhantomData<fn(T)>,
}

impl<T, U, F> Link<T, U, F>
where
    T: 'static,
    U: 'static,
    F: FnOnce(Arrived<T>) -> Outcome<U> + 'static,
{
    /// A link that waits for its input, or whose callback runs now.
    pub(super) fn below(
        input: Outcome<T>,
        callback: F,
        created_at: CreatedAt,
        trace: Number,
    ) -> Rc<Self> {
        let link = Self::new(Some(callback), created_at, trace);
        follow(link.clone(), input);
        link
    }

    fn new(callback: Option<F>, created_at: CreatedAt, trace: Number) -> Rc<Self> {
        Rc::new(Self {
            callback: Cell::new(callback),
            above: OtherNode::default(),
            slot: ResultSlot::new(created_at, trace),
            input: PhantomData,
        })
    }
}

/// Makes `link` receive `input`, now or when it arrives.
pub(super) fn follow<T: 'static>(link: Rc<dyn Receive<T>>, input: Outcome<T>) {
    match input {
        Outcome::Now(result) => run(link.receive(result)),
        Outcome::Later(above) => {
            link.wait_for(weak(&above));
            above.slot().attach(SlotState::Linked(link));
        }
    }
}

fn weak<T: 'static>(node: &Rc<dyn Produce<T>>) -> Weak<dyn Node> {
    let node: Rc<dyn Node> = node.clone();
    Rc::downgrade(&node)
}

/// Runs a callback whose input has arrived, without a node.
pub(super) fn run_now<T, U: 'static>(
    input: Arrived<T>,
    callback: impl FnOnce(Arrived<T>) -> Outcome<U>,
    created_at: CreatedAt,
) -> Outcome<U> {
    match call(callback, input, created_at) {
        Outcome::Now(result) => Outcome::Now(result),
        Outcome::Later(inner) => Outcome::Later(adopt_result(inner, created_at)),
    }
}

/// A link without a callback, which waits for `inner`.
fn adopt_result<U: 'static>(
    inner: Rc<dyn Produce<U>>,
    created_at: CreatedAt,
) -> Rc<dyn Produce<U>> {
    let link = Link::<U, U, fn(Arrived<U>) -> Outcome<U>>::new(None, created_at, None);
    relay(link.clone(), inner);
    link
}

/// Passes on the outcome of `link`'s callback; returns the node to step next.
fn pass_outcome<U: 'static>(link: Rc<dyn Adopt<U>>, outcome: Outcome<U>) -> Option<Rc<dyn Node>> {
    let inner = match outcome {
        Outcome::Now(result) => return deliver(link, result),
        Outcome::Later(inner) => inner,
    };
    if std::ptr::addr_eq(Rc::as_ptr(&inner), Rc::as_ptr(&link)) {
        let text = "a callback returned the Deferred that waits for it";
        let failure = Failure::at(text, link.slot().created_at);
        // The end of this link was dropped with the Deferred that the callback returned.
        link.abandon(Arrived::Here(Err(failure)));
    } else {
        relay(link, inner);
    }
    None
}

/// Makes `link` wait for `inner`, which has not fired.
fn relay<U: 'static>(link: Rc<dyn Adopt<U>>, inner: Rc<dyn Produce<U>>) {
    debug_assert!(!inner.slot().has_fired(), "`Outcome::Later` is a Deferred that has not fired");
    let slot = link.slot();
    if let Some(number) = slot.trace.number() {
        let inner = inner.slot();
        history::record_wait(number, inner.trace.number(), inner.created_at);
    }
    let inner_node = weak(&inner);
    if slot.watched.get() {
        link.wait_for(inner_node);
        return inner.slot().attach(SlotState::Adopted(link));
    }
    // Only the link below refers to this one, so this one is cut out of the chain. A loop
    // written as recursion through `then` thus keeps one link, not one per iteration.
    match slot.state.replace(SlotState::Over) {
        SlotState::Linked(next) => {
            next.wait_for(inner_node);
            inner.slot().attach(SlotState::Linked(next));
        }
        SlotState::Adopted(next) => {
            next.wait_for(inner_node);
            inner.slot().attach(SlotState::Adopted(next));
        }
        SlotState::Detached => {
            if let Some(outer) = slot.trace.number() {
                history::replace_history(inner.slot().trace.number(), outer);
            }
            inner.slot().attach(SlotState::Detached);
        }
        held => {
            slot.attach(held);
            link.wait_for(inner_node);
            inner.slot().attach(SlotState::Adopted(link));
        }
    }
}

fn call<T, U>(
    callback: impl FnOnce(Arrived<T>) -> Outcome<U>,
    input: Arrived<T>,
    created_at: CreatedAt,
) -> Outcome<U> {
    run_contained(|| callback(input))
        .unwrap_or_else(|panicked| Outcome::now(Err(Failure::at(panicked, created_at))))
}

impl<T, U, F> Receive<T> for Link<T, U, F>
where
    T: 'static,
    U: 'static,
    F: FnOnce(Arrived<T>) -> Outcome<U> + 'static,
{
    fn receive(self: Rc<Self>, input: Arrived<T>) -> Option<Rc<dyn Node>> {
        self.above.set(None);
        let callback = self.callback.take()?;
        if let Some(number) = self.slot.trace.number() {
            history::record_call(number, input.failure());
        }
        let outcome = call(callback, input, self.slot.created_at);
        pass_outcome(self, outcome)
    }
}

impl<T, U, F> Waits for Link<T, U, F> {
    fn wait_for(&self, above: Weak<dyn Node>) {
        self.above.set(Some(above));
    }
}

impl<T, U, F> Node for Link<T, U, F>
where
    T: 'static,
    U: 'static,
    F: 'static,
{
    fn cancel(self: Rc<Self>) -> Upstream {
        self.above.get().map_or(Upstream::Nothing, Upstream::One)
    }

    fn step(self: Rc<Self>) -> Option<Rc<dyn Node>> {
        self.slot.pass()
    }
}

impl<T, U, F> Produce<U> for Link<T, U, F>
where
    T: 'static,
    U: 'static,
    F: 'static,
{
    fn slot(&self) -> &ResultSlot<U> {
        &self.slot
    }
}

impl<T, U, F> Adopt<U> for Link<T, U, F>
where
    T: 'static,
    U: 'static,
    F: 'static,
{
}
