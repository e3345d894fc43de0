//! The links of a chain and how a result travels down them.
//!
//! A chain is a list of nodes. Each owns the next one, and knows the one above only weakly; the
//! resolver owns the first, the Deferred the last. Each node has a [`Slot`], in which its result
//! lies until somebody takes it.
//!
//! INVARIANT: no user code runs while something of a node is borrowed, nor is it dropped then.
//! What concerns it is taken out of its cell before, so whatever a callback does to its own chain
//! finds a valid state.
//!
//! INVARIANT: a result goes from node to node by [`run`], never by a call from one node into the
//! next, so the stack doesn't grow with the chain. One trap remains, that of a user who fires a
//! Deferred in a callback of another: those calls nest, as calls do.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::mem;
use std::panic::Location;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use super::cancel::Above;
use super::error::{contain, discard};
use super::report::report;
use super::{Failure, Result};

pub(super) type Place = &'static Location<'static>;

/// A node, whatever the type of its result.
pub(super) trait Node {
    /// One step of a cancel: says what it waits for. An origin cancels itself instead.
    fn cancel(self: Rc<Self>) -> Above;

    /// Hands on the result that is passing through; gives back the node to step next.
    fn step(self: Rc<Self>) -> Option<Rc<dyn Node>>;

    /// The resolver was dropped.
    fn orphaned(self: Rc<Self>) {}
}

/// A node that gives a `T`.
pub(super) trait Source<T>: Node {
    fn slot(&self) -> &Slot<T>;

    /// Nobody will take this result.
    fn abandon(&self, result: Result<T>) {
        match result {
            Ok(value) => discard(value),
            Err(failure) => report(failure, self.slot().place),
        }
    }
}

/// Whatever can stand below a node.
pub(super) trait Waits {
    /// From now on it waits for `above`.
    fn wait_for(&self, above: Weak<dyn Node>);
}

/// Takes the result of the node above and makes something of it.
pub(super) trait Receive<T>: Waits {
    fn receive(self: Rc<Self>, input: Result<T>) -> Option<Rc<dyn Node>>;
}

/// Takes the result of an inner Deferred as its own.
pub(super) trait Relay<T>: Source<T> + Waits {}

/// Where the result of a node lies, and who waits for it.
pub(super) struct Slot<T> {
    /// INVARIANT: there is something in it if the state is `Fired`, or if it is `Linked` and the
    /// result is about to be handed on.
    result: Cell<Option<Result<T>>>,
    state: RefCell<State<T>>,
    /// A canceller knows this node by itself: it must not be cut out of its chain.
    watched: Cell<bool>,
    /// Where the node was made.
    pub(super) place: Place,
    _alive: Alive,
}

thread_local! {
    static ALIVE: Cell<usize> = const { Cell::new(0) };
}

/// The nodes of this thread that are there: a count of what is left, for the simulator.
pub(crate) fn alive() -> usize {
    ALIVE.get()
}

/// Counts a node while it is there.
struct Alive;

impl Alive {
    fn new() -> Alive {
        // A thread that ends may still make and drop some; nobody counts them.
        let _ = ALIVE.try_with(|alive| alive.set(alive.get() + 1));
        Alive
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        let _ = ALIVE.try_with(|alive| alive.set(alive.get().wrapping_sub(1)));
    }
}

pub(super) enum State<T> {
    /// A Deferred has this node as its end, and nobody has asked yet.
    Open,
    /// The Deferred was polled.
    Awaited(Waker),
    /// The next link waits.
    Linked(Rc<dyn Receive<T>>),
    /// A node that waits for an inner Deferred, whose end is this one.
    Relayed(Rc<dyn Relay<T>>),
    /// The Deferred is gone.
    Detached,
    /// The result lies here for the Deferred.
    Fired,
    /// The result has been taken, or is being dealt with further up this thread's stack.
    Over,
}

impl<T> Slot<T> {
    pub(super) fn new(place: Place) -> Self {
        Self {
            result: Cell::new(None),
            state: RefCell::new(State::Open),
            watched: Cell::new(false),
            place,
            _alive: Alive::new(),
        }
    }

    pub(super) fn watch(&self) {
        self.watched.set(true);
    }

    pub(super) fn has_fired(&self) -> bool {
        matches!(*self.state.borrow(), State::Fired)
    }

    /// Takes the result, if it lies here.
    pub(super) fn take(&self) -> Option<Result<T>> {
        if !self.has_fired() {
            return None;
        }
        self.attach(State::Over);
        self.result.take()
    }

    /// The failure, if it lies here. It stays here.
    pub(super) fn failure(&self) -> Option<Failure> {
        let result = self.result.take();
        let failure = result.as_ref().and_then(|result| result.as_ref().err().cloned());
        self.result.set(result);
        failure
    }

    /// `below` gets the result when it comes. There must be none yet.
    pub(super) fn attach(&self, below: State<T>) {
        drop(self.state.replace(below));
    }

    /// The Deferred is gone. Says whether it was being awaited.
    pub(super) fn detach(&self) -> bool {
        let mut state = self.state.borrow_mut();
        if matches!(*state, State::Open) {
            *state = State::Detached;
            return false;
        }
        drop(state);
        matches!(self.state.replace(State::Detached), State::Awaited(_))
    }

    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<Result<T>> {
        if let Some(result) = self.take() {
            return Poll::Ready(result);
        }
        let state = self.state.borrow();
        let same = matches!(&*state, State::Awaited(waker) if waker.will_wake(context.waker()));
        drop(state);
        if !same {
            self.attach(State::Awaited(context.waker().clone()));
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
        if !matches!(*self.state.borrow(), State::Linked(_)) {
            return None;
        }
        match self.state.replace(State::Over) {
            State::Linked(next) => Some(next),
            _ => None,
        }
    }
}

/// Gives `node` its result; gives back the node to step next.
pub(super) fn deliver<T>(mut node: Rc<dyn Source<T>>, result: Result<T>) -> Option<Rc<dyn Node>> {
    loop {
        let slot = node.slot();
        let mut state = slot.state.borrow_mut();
        match &*state {
            State::Linked(_) => {
                drop(state);
                slot.result.set(Some(result));
                return Some(node);
            }
            State::Detached => {
                drop(state);
                node.abandon(result);
                return None;
            }
            State::Open => {
                *state = State::Fired;
                slot.result.set(Some(result));
                return None;
            }
            _ => {}
        }
        let before = mem::replace(&mut *state, State::Over);
        drop(state);
        match before {
            State::Relayed(next) => node = next,
            State::Awaited(waker) => {
                slot.result.set(Some(result));
                slot.attach(State::Fired);
                let _ = contain(|| waker.wake());
                return None;
            }
            // Nodes are given one result: an origin counts, a link has one input.
            _ => return None,
        }
    }
}

/// Fires `node` and lets the result travel as far as it goes.
pub(super) fn fire<T>(node: Rc<dyn Source<T>>, result: Result<T>) {
    match node.slot().take_next() {
        Some(next) => run(next.receive(result)),
        None => run(deliver(node, result)),
    }
}

/// Lets a result travel as far as it goes.
pub(super) fn run(first: Option<Rc<dyn Node>>) {
    let mut next = first;
    while let Some(node) = next {
        next = node.step();
    }
}

/// What a callback leads to: a result, or an inner Deferred that will have it.
pub(super) enum Outcome<T> {
    Now(Result<T>),
    Later(Rc<dyn Source<T>>),
}

/// One callback. `above` is the node whose result it waits for, and afterwards the inner
/// Deferred that the callback gave back.
pub(super) struct Link<T, U, F> {
    callback: Cell<Option<F>>,
    above: Cell<Option<Weak<dyn Node>>>,
    slot: Slot<U>,
    input: PhantomData<fn(T)>,
}

impl<T, U, F> Link<T, U, F>
where
    T: 'static,
    U: 'static,
    F: FnOnce(Result<T>) -> Outcome<U> + 'static,
{
    /// A link below `above`, which hasn't fired.
    pub(super) fn below(above: &Rc<dyn Source<T>>, callback: F, place: Place) -> Rc<Self> {
        let above_node: Rc<dyn Node> = above.clone();
        let link = Self::new(Some(callback), Some(Rc::downgrade(&above_node)), place);
        above.slot().attach(State::Linked(link.clone()));
        link
    }

    /// A link whose input is there already: its callback runs now.
    pub(super) fn begun(input: Result<T>, callback: F, place: Place) -> Outcome<U> {
        match call(callback, input, place) {
            Outcome::Now(result) => Outcome::Now(result),
            Outcome::Later(inner) => match inner.slot().take() {
                Some(result) => Outcome::Now(result),
                None => {
                    let link = Self::new(None, None, place);
                    link.clone().relay(inner);
                    Outcome::Later(link)
                }
            },
        }
    }

    fn new(callback: Option<F>, above: Option<Weak<dyn Node>>, place: Place) -> Rc<Self> {
        Rc::new(Self {
            callback: Cell::new(callback),
            above: Cell::new(above),
            slot: Slot::new(place),
            input: PhantomData,
        })
    }

    /// Waits for `inner`, which has not fired.
    fn relay(self: Rc<Self>, inner: Rc<dyn Source<U>>) {
        let inner_node: Rc<dyn Node> = inner.clone();
        let inner_node = Rc::downgrade(&inner_node);
        if self.slot.watched.get() {
            self.wait_for(inner_node);
            return inner.slot().attach(State::Relayed(self));
        }
        // Nobody knows this link but the one below, so it is cut out of the chain. Thus a loop
        // that is written by recursion through `then` keeps one link, not one a round.
        match self.slot.state.replace(State::Over) {
            State::Linked(next) => {
                next.wait_for(inner_node);
                inner.slot().attach(State::Linked(next));
            }
            State::Relayed(next) => {
                next.wait_for(inner_node);
                inner.slot().attach(State::Relayed(next));
            }
            State::Detached => inner.slot().attach(State::Detached),
            held => {
                self.slot.attach(held);
                self.wait_for(inner_node);
                inner.slot().attach(State::Relayed(self));
            }
        }
    }
}

fn call<T, U>(
    callback: impl FnOnce(Result<T>) -> Outcome<U>,
    input: Result<T>,
    place: Place,
) -> Outcome<U> {
    contain(|| callback(input))
        .unwrap_or_else(|panicked| Outcome::Now(Err(Failure::at(panicked, place))))
}

impl<T, U, F> Receive<T> for Link<T, U, F>
where
    T: 'static,
    U: 'static,
    F: FnOnce(Result<T>) -> Outcome<U> + 'static,
{
    fn receive(self: Rc<Self>, input: Result<T>) -> Option<Rc<dyn Node>> {
        self.above.set(None);
        let callback = self.callback.take()?;
        let inner = match call(callback, input, self.slot.place) {
            Outcome::Now(result) => return deliver(self, result),
            Outcome::Later(inner) => inner,
        };
        if std::ptr::addr_eq(Rc::as_ptr(&inner), Rc::as_ptr(&self)) {
            let text = "a callback gave back the Deferred that waits for it";
            let failure = Failure::text(text, self.slot.place);
            // Its own end went away with what the callback gave back.
            self.abandon(Err(failure));
            return None;
        }
        match inner.slot().take() {
            Some(result) => deliver(self, result),
            None => {
                self.relay(inner);
                None
            }
        }
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
    fn cancel(self: Rc<Self>) -> Above {
        let above = self.above.take();
        let node = above.as_ref().and_then(Weak::upgrade);
        self.above.set(above);
        node.map_or(Above::Nothing, Above::One)
    }

    fn step(self: Rc<Self>) -> Option<Rc<dyn Node>> {
        self.slot.pass()
    }
}

impl<T, U, F> Source<U> for Link<T, U, F>
where
    T: 'static,
    U: 'static,
    F: 'static,
{
    fn slot(&self) -> &Slot<U> {
        &self.slot
    }
}

impl<T, U, F> Relay<U> for Link<T, U, F>
where
    T: 'static,
    U: 'static,
    F: 'static,
{
}
