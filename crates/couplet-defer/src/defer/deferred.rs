//! The consumer's end: [`Deferred`], its callbacks, and its `Future` implementation.
//!
//! Contract: 109, 110, 113, 114, 125–125b, 126, 128.

use std::cell::OnceCell;
use std::fmt;
use std::mem;
use std::panic::Location;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use super::arrived::Arrived;
use super::cancel::{self, Canceller, OtherNode};
use super::drops::{self, DropWork};
use super::history::{self, History, Method, Named, Number};
use super::node::{CreatedAt, Link, Node, Outcome, Produce, Receive, follow, run_now};
use super::report::report;
use super::resolver::{Resolver, origin};
use super::{Failure, Result};

/// A result that is available now or will be later: the consumer's end.
///
/// Each method that adds a callback consumes the Deferred and returns a new one, which fires with
/// the callback's result. If the result is already available, the callback runs immediately.
/// Callbacks may do anything, including adding callbacks to their own chain, cancelling it or
/// dropping it.
///
/// A Deferred is also a `Future`: `deferred.await` returns a [`Result`].
///
/// Dropping it detaches it: the callbacks still run. If it was polled and hasn't fired, however,
/// the drop cancels it, because the task awaiting it was dropped. A result that is never taken is
/// dropped if it is a value and reported if it is a failure.
///
/// # Panics
///
/// Once a Deferred awaited through `&mut` has returned its result, polling it again or adding a
/// callback panics.
#[must_use = "add callbacks, await it, or say `detach()`"]
pub struct Deferred<T> {
    inner: Inner<T>,
    /// The end of the chain, for its cancellers.
    watch: OnceCell<Rc<OtherNode>>,
}

enum Inner<T> {
    /// Fired, without a node or a history.
    Fired(Arrived<T>, CreatedAt),
    /// The end of a chain, whose node holds the result or will hold it.
    Chain(Rc<dyn Produce<T>>),
    /// The result was taken.
    Taken,
}

/// Constructors.
impl<T: 'static> Deferred<T> {
    /// A Deferred and the [`Resolver`] that fires it.
    ///
    /// If it is cancelled, it fails with [`Cancelled`](super::Cancelled); a result that the
    /// resolver produces later is dropped.
    #[track_caller]
    pub fn new() -> (Self, Resolver<T>) {
        Self::with_origin(None::<fn(Resolver<T>)>, Location::caller())
    }

    /// A Deferred whose underlying work can be stopped: cancelling it calls `canceller`, at most
    /// once and only if it hasn't fired.
    ///
    /// The canceller may fire the Deferred with a different result, through the resolver it is
    /// passed, or cause the other resolver to fire. If it returns without firing, or panics, the
    /// Deferred fails with [`Cancelled`](super::Cancelled); a resolver used after that is too late.
    /// When the Deferred fires, the canceller is dropped before the callbacks run.
    ///
    /// ```
    /// # use couplet_defer as couplet;
    /// use couplet::defer::{Cancelled, Deferred};
    /// use couplet::testing::failure_of;
    ///
    /// let (connected, _resolver) = Deferred::<()>::with_canceller(|resolver| {
    ///     resolver.errback(Cancelled::of("tcp:example.com:80"));
    /// });
    /// connected.cancel();
    /// assert_eq!(failure_of(connected).to_string(), "tcp:example.com:80 was cancelled");
    /// ```
    #[track_caller]
    pub fn with_canceller(canceller: impl FnOnce(Resolver<T>) + 'static) -> (Self, Resolver<T>) {
        Self::with_origin(Some(canceller), Location::caller())
    }

    /// Like [`new`](Self::new), for a failure that is also delivered elsewhere: an unhandled one is
    /// not reported.
    #[track_caller]
    pub(crate) fn new_quiet() -> (Self, Resolver<T>) {
        let (deferred, resolver) = Self::new();
        if let Inner::Chain(node) = &deferred.inner {
            node.slot().silence();
        }
        (deferred, resolver)
    }

    pub(super) fn with_origin<C>(canceller: Option<C>, created_at: CreatedAt) -> (Self, Resolver<T>)
    where
        C: FnOnce(Resolver<T>) + 'static,
    {
        let (node, resolver) = origin(canceller, created_at, history::begin(created_at));
        (Self::from_inner(Inner::Chain(node)), resolver)
    }

    /// A Deferred that has already fired with a value.
    #[track_caller]
    pub fn succeed(value: T) -> Self {
        Self::fired(Ok(value), Location::caller())
    }

    /// A Deferred that has already fired with a failure.
    #[track_caller]
    pub fn fail(failure: impl Into<Failure>) -> Self {
        Self::fired(Err(failure.into()), Location::caller())
    }

    /// A Deferred that has already fired with `result`.
    #[track_caller]
    pub fn from_result(result: Result<T>) -> Self {
        Self::fired(result, Location::caller())
    }
}

/// Callbacks.
impl<T: 'static> Deferred<T> {
    /// Transforms the value, or fails. A failure skips it.
    #[track_caller]
    pub fn add_callback<U: 'static>(
        self,
        callback: impl FnOnce(T) -> Result<U> + 'static,
    ) -> Deferred<U> {
        let named = Named::new(Method::AddCallback, &callback);
        self.link(Location::caller(), named, |result| {
            Outcome::now(result.take().and_then(callback))
        })
    }

    /// Transforms the value, and can't fail. A failure skips it.
    #[track_caller]
    pub fn map<U: 'static>(self, callback: impl FnOnce(T) -> U + 'static) -> Deferred<U> {
        let named = Named::new(Method::Map, &callback);
        self.link(Location::caller(), named, |result| Outcome::now(result.take().map(callback)))
    }

    /// Waits for the Deferred that `callback` returns. A failure skips it.
    ///
    /// The result of the inner Deferred becomes the result of the returned one. While the inner
    /// Deferred is pending, a cancel goes to it.
    #[track_caller]
    pub fn then<U: 'static>(
        self,
        callback: impl FnOnce(T) -> Deferred<U> + 'static,
    ) -> Deferred<U> {
        let named = Named::new(Method::Then, &callback);
        self.link(Location::caller(), named, |result| match result.take() {
            Ok(value) => callback(value).into_outcome(),
            Err(failure) => Outcome::now(Err(failure)),
        })
    }

    /// Turns the failure into a value, or fails again. A value skips it.
    #[track_caller]
    pub fn add_errback(self, errback: impl FnOnce(Failure) -> Result<T> + 'static) -> Self {
        let named = Named::new(Method::AddErrback, &errback);
        self.link(Location::caller(), named, |result| match result {
            Arrived::Here(Err(failure)) => Outcome::now(errback(failure)),
            value => Outcome::Now(value),
        })
    }

    /// Waits for the Deferred that `errback` returns for the failure. A value skips it.
    #[track_caller]
    pub fn recover(self, errback: impl FnOnce(Failure) -> Self + 'static) -> Self {
        let named = Named::new(Method::Recover, &errback);
        self.link(Location::caller(), named, |result| match result {
            Arrived::Here(Err(failure)) => errback(failure).into_outcome(),
            value => Outcome::Now(value),
        })
    }

    /// Transforms the result, whether value or failure.
    #[track_caller]
    pub fn add_both<U: 'static>(
        self,
        callback: impl FnOnce(Result<T>) -> Result<U> + 'static,
    ) -> Deferred<U> {
        let named = Named::new(Method::AddBoth, &callback);
        self.link(Location::caller(), named, |result| Outcome::now(callback(result.take())))
    }

    pub(super) fn link<U: 'static>(
        mut self,
        created_at: CreatedAt,
        named: Named,
        callback: impl FnOnce(Arrived<T>) -> Outcome<U> + 'static,
    ) -> Deferred<U> {
        let watch = self.watch.take();
        let trace = named.add_step(self.trace(), created_at);
        let outcome = match self.into_outcome() {
            // With a history there is a node, even for a Deferred that has fired.
            Outcome::Now(result) if trace.is_none() => run_now(result, callback, created_at),
            input => Outcome::Later(Link::below(input, callback, created_at, trace)),
        };
        Deferred::linked(outcome, created_at, watch)
    }

    /// The end of a chain after its new link, whose outcome so far is `outcome`.
    fn linked(outcome: Outcome<T>, created_at: CreatedAt, watch: Option<Rc<OtherNode>>) -> Self {
        let end = Self::from_inner(match outcome {
            Outcome::Now(result) => Inner::Fired(result, created_at),
            Outcome::Later(node) => Inner::Chain(node),
        });
        if let Some(watch) = watch {
            end.watch_with(watch);
        }
        end
    }
}

/// Detaching and cancelling.
impl<T: 'static> Deferred<T> {
    /// Drops it without cancelling, even if it was polled. The callbacks run when it fires; a
    /// failure left after the last of them is reported.
    pub fn detach(mut self) {
        self.release();
    }

    /// Cancels the Deferred that the chain is waiting for: the origin, or the inner Deferred that a
    /// callback returned. That Deferred fails with [`Cancelled`](super::Cancelled) unless its
    /// canceller supplies another result, and the callbacks below it run before this returns.
    ///
    /// Does nothing if the chain has fired, or while one of its callbacks is running. A list,
    /// gather or race passes the cancel to every member.
    pub fn cancel(&self) {
        if let Inner::Chain(node) = &self.inner {
            cancel::cancel(node.clone());
        }
    }

    /// A handle that cancels this chain from elsewhere, even after more callbacks are added: it is
    /// always equivalent to [`cancel`](Self::cancel) on the last Deferred of the chain.
    ///
    /// ```
    /// # use couplet_defer as couplet;
    /// use couplet::defer::Deferred;
    /// use couplet::testing::failure_of;
    ///
    /// let (outer, resolver) = Deferred::<()>::new();
    /// let (inner, _never) = Deferred::<u8>::new();
    /// let canceller = outer.canceller();
    /// let last = outer.then(|()| inner);
    /// resolver.callback(());
    /// canceller.cancel();
    /// assert!(failure_of(last).is_cancelled());
    /// ```
    pub fn canceller(&self) -> Canceller {
        if let Some(watch) = self.watch.get() {
            return Canceller(watch.clone());
        }
        let watch = Rc::new(OtherNode::default());
        self.watch_with(watch.clone());
        Canceller(watch)
    }

    /// Whether the result is available. Like Twisted's `called`, but false while waiting for an
    /// inner Deferred.
    pub fn has_fired(&self) -> bool {
        match &self.inner {
            Inner::Chain(node) => node.slot().has_fired(),
            Inner::Fired(..) | Inner::Taken => true,
        }
    }

    /// The history so far: where the Deferred was created, which callbacks were added and ran, and
    /// which Deferred it is waiting for.
    ///
    /// `None` unless [histories were enabled](super::keep_histories) before it was created, or once
    /// its result was taken.
    pub fn history(&self) -> Option<History> {
        let Inner::Chain(node) = &self.inner else { return None };
        let slot = node.slot();
        let failure = slot.failure();
        let result = slot.has_fired().then_some(failure.as_ref());
        history::history(slot.trace.number(), result)
    }

    #[inline(always)]
    pub(super) fn fired(result: Result<T>, created_at: CreatedAt) -> Self {
        Self::arrived(Arrived::Here(result), created_at)
    }

    #[inline(always)]
    pub(super) fn arrived(result: Arrived<T>, created_at: CreatedAt) -> Self {
        Self::from_inner(match history::begin(created_at) {
            None => Inner::Fired(result, created_at),
            trace => Inner::Chain(fired_node(result, created_at, trace)),
        })
    }

    /// The last node, unless it is known to have fired. The node is never cut out of its chain
    /// after this.
    pub(super) fn end(&self) -> Option<Weak<dyn Node>> {
        let Inner::Chain(node) = &self.inner else {
            return None;
        };
        node.slot().watch();
        let node: Rc<dyn Node> = node.clone();
        Some(Rc::downgrade(&node))
    }

    /// Passes the result to `below`, now or when it arrives.
    pub(super) fn feed(self, below: Rc<dyn Receive<T>>) {
        follow(below, self.into_outcome());
    }

    fn watch_with(&self, watch: Rc<OtherNode>) {
        watch.set(self.end());
        // Callers have checked that no watch is set.
        let _ = self.watch.set(watch);
    }
}

impl<T> Deferred<T> {
    fn from_inner(inner: Inner<T>) -> Self {
        Self { inner, watch: OnceCell::new() }
    }

    /// The number of its history entry, if it has a history.
    #[inline(always)]
    pub(super) fn trace(&self) -> Number {
        match &self.inner {
            Inner::Chain(node) => node.slot().trace.number(),
            Inner::Fired(..) | Inner::Taken => None,
        }
    }

    pub(super) fn chain(node: Rc<dyn Produce<T>>) -> Self {
        Self::from_inner(Inner::Chain(node))
    }

    /// A clone of the failure, if it has fired with one.
    pub(crate) fn failure(&self) -> Option<Failure> {
        match &self.inner {
            Inner::Fired(result, _) => result.failure().cloned(),
            Inner::Chain(node) => node.slot().failure(),
            Inner::Taken => None,
        }
    }

    /// The location where its last link was added, or where it was created if it has no links.
    pub(crate) fn place(&self) -> Option<CreatedAt> {
        match &self.inner {
            Inner::Fired(_, created_at) => Some(created_at),
            Inner::Chain(node) => Some(node.slot().created_at),
            Inner::Taken => None,
        }
    }

    fn into_outcome(mut self) -> Outcome<T> {
        match mem::replace(&mut self.inner, Inner::Taken) {
            Inner::Fired(result, _) => Outcome::Now(result),
            Inner::Chain(node) => match node.slot().take() {
                Some(result) => Outcome::Now(result),
                None => Outcome::Later(node),
            },
            Inner::Taken => panic!("{TAKEN}"),
        }
    }

    /// Gives up the result. Returns the end of the chain if the Deferred was being awaited.
    fn release(&mut self) -> Option<Rc<dyn Produce<T>>> {
        match mem::replace(&mut self.inner, Inner::Taken) {
            Inner::Fired(result, created_at) => {
                result.abandon(&|failure| report(failure, created_at, None));
            }
            Inner::Chain(node) => match node.slot().take() {
                Some(result) => node.abandon(result),
                None => return node.slot().detach().then_some(node),
            },
            Inner::Taken => {}
        }
        None
    }
}

/// A fired node, needed to keep a history.
#[cold]
#[inline(never)]
fn fired_node<T: 'static>(
    result: Arrived<T>,
    created_at: CreatedAt,
    trace: Number,
) -> Rc<dyn Produce<T>> {
    let (node, resolver) = origin(None::<fn(Resolver<T>)>, created_at, trace);
    resolver.arrive(result);
    node
}

const TAKEN: &str = "this Deferred has already returned its result";

impl<T> Drop for Deferred<T> {
    fn drop(&mut self) {
        if let Some(node) = self.release() {
            drops::fire(DropWork::Abandoned(node));
        }
    }
}

impl<T> Future for Deferred<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Inner::Chain(node) = &self.inner {
            let polled = node.slot().poll(context);
            if polled.is_ready() {
                self.inner = Inner::Taken;
            }
            return polled;
        }
        match mem::replace(&mut self.inner, Inner::Taken) {
            Inner::Fired(result, _) => Poll::Ready(result.take()),
            _ => panic!("{TAKEN}"),
        }
    }
}

// The result is never pinned: it is moved out.
impl<T> Unpin for Deferred<T> {}

impl<T> fmt::Debug for Deferred<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.inner {
            Inner::Chain(node) if !node.slot().has_fired() => "waiting",
            Inner::Chain(_) | Inner::Fired(..) => "fired",
            Inner::Taken => "taken",
        };
        f.debug_struct("Deferred").field("state", &state).finish_non_exhaustive()
    }
}
