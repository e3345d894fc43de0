//! The consumer's end: [`Deferred`], its callbacks, and its life as a `Future`.

use std::cell::OnceCell;
use std::fmt;
use std::mem;
use std::panic::Location;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use super::cancel::{self, Canceller, Watch};
use super::drops::{self, Job};
use super::node::{Link, Node, Outcome, Place, Receive, Source, State, run};
use super::report::report;
use super::resolver::{Resolver, origin};
use super::{Failure, Result};

/// A result that will come, or has come: the consumer's end.
///
/// Each method that adds a callback takes the Deferred and gives back the one that fires with what
/// the callback made. When the result is there already, the callback runs at once. Callbacks may do
/// anything, also add callbacks to their own chain, cancel it or drop it.
///
/// It is a `Future` too: `deferred.await` gives a [`Result`].
///
/// Dropping it detaches it: the callbacks still run. But if it was polled and hasn't fired, then
/// whoever awaited it is gone, and it is cancelled. What it fires with and nobody takes is dropped
/// if it is a value and reported if it is a failure.
///
/// # Panics
///
/// A Deferred that has given its result to an `await` through `&mut` has nothing more to give:
/// polling it again or adding a callback to it panics.
#[must_use = "add callbacks, await it, or say `detach()`"]
pub struct Deferred<T> {
    inner: Inner<T>,
    watch: OnceCell<Rc<Watch>>,
}

enum Inner<T> {
    /// It has fired, and never needed a node or needs it no more.
    Fired(Result<T>, Place),
    /// It is the end of a chain; the result lies there or will.
    Chain(Rc<dyn Source<T>>),
    /// The result was taken.
    Taken,
}

/// Where a Deferred begins.
impl<T: 'static> Deferred<T> {
    /// A Deferred and what fires it.
    ///
    /// If it is cancelled it fails with [`Cancelled`](super::Cancelled), and what the resolver
    /// says later is thrown away.
    #[track_caller]
    pub fn new() -> (Self, Resolver<T>) {
        Self::with_origin(None::<fn(Resolver<T>)>, Location::caller())
    }

    /// A Deferred that can stop the work for it: a cancel calls `canceller`, once and only if
    /// nothing has fired yet.
    ///
    /// The canceller may fire with a result of its own through the resolver that it gets, or cause
    /// the other resolver to fire. If it returns and nothing was fired, or panics, the Deferred
    /// fails with [`Cancelled`](super::Cancelled); a resolver kept for longer is late. After the
    /// Deferred has fired the canceller is dropped, before the callbacks run.
    ///
    /// ```
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

    fn with_origin<C>(canceller: Option<C>, place: Place) -> (Self, Resolver<T>)
    where
        C: FnOnce(Resolver<T>) + 'static,
    {
        let (node, resolver) = origin(canceller, place);
        (Self::of(Inner::Chain(node)), resolver)
    }

    /// A Deferred that has fired with a value.
    #[track_caller]
    pub fn succeed(value: T) -> Self {
        Self::fired(Ok(value), Location::caller())
    }

    /// A Deferred that has fired with a failure.
    #[track_caller]
    pub fn fail(failure: impl Into<Failure>) -> Self {
        Self::fired(Err(failure.into()), Location::caller())
    }

    /// A Deferred that has fired.
    #[track_caller]
    pub fn from_result(result: Result<T>) -> Self {
        Self::fired(result, Location::caller())
    }
}

/// Callbacks.
impl<T: 'static> Deferred<T> {
    /// Makes something of the value, or fails. A failure goes past it.
    #[track_caller]
    pub fn add_callback<U: 'static>(
        self,
        callback: impl FnOnce(T) -> Result<U> + 'static,
    ) -> Deferred<U> {
        self.link(Location::caller(), |result| Outcome::Now(result.and_then(callback)))
    }

    /// Makes something of the value, and can't fail. A failure goes past it.
    #[track_caller]
    pub fn map<U: 'static>(self, callback: impl FnOnce(T) -> U + 'static) -> Deferred<U> {
        self.link(Location::caller(), |result| Outcome::Now(result.map(callback)))
    }

    /// Waits for the Deferred that `callback` gives back. A failure goes past it.
    ///
    /// The inner result becomes this one's; a cancel goes to the inner Deferred while it is
    /// waited for.
    #[track_caller]
    pub fn then<U: 'static>(
        self,
        callback: impl FnOnce(T) -> Deferred<U> + 'static,
    ) -> Deferred<U> {
        self.link(Location::caller(), |result| match result {
            Ok(value) => callback(value).into_outcome(),
            Err(failure) => Outcome::Now(Err(failure)),
        })
    }

    /// Makes a value of the failure, or fails again. A value goes past it.
    #[track_caller]
    pub fn add_errback(self, errback: impl FnOnce(Failure) -> Result<T> + 'static) -> Self {
        self.link(Location::caller(), |result| Outcome::Now(result.or_else(errback)))
    }

    /// Waits for the Deferred that `errback` makes of the failure. A value goes past it.
    #[track_caller]
    pub fn recover(self, errback: impl FnOnce(Failure) -> Self + 'static) -> Self {
        self.link(Location::caller(), |result| match result {
            Ok(value) => Outcome::Now(Ok(value)),
            Err(failure) => errback(failure).into_outcome(),
        })
    }

    /// Makes something of either.
    #[track_caller]
    pub fn add_both<U: 'static>(
        self,
        callback: impl FnOnce(Result<T>) -> Result<U> + 'static,
    ) -> Deferred<U> {
        self.link(Location::caller(), |result| Outcome::Now(callback(result)))
    }

    pub(super) fn link<U: 'static>(
        mut self,
        place: Place,
        callback: impl FnOnce(Result<T>) -> Outcome<U> + 'static,
    ) -> Deferred<U> {
        let watch = self.watch.take();
        let outcome = match self.into_outcome() {
            Outcome::Now(result) => Link::begun(result, callback, place),
            Outcome::Later(node) => Outcome::Later(Link::below(&node, callback, place)),
        };
        let next = match outcome {
            Outcome::Now(result) => Deferred::fired(result, place),
            Outcome::Later(node) => Deferred::of(Inner::Chain(node)),
        };
        if let Some(watch) = watch {
            next.watch_with(watch);
        }
        next
    }
}

/// Ends.
impl<T: 'static> Deferred<T> {
    /// Lets it go. The callbacks run when it fires; a failure after the last of them is reported.
    /// This holds for a Deferred that was polled as well: it isn't cancelled.
    pub fn detach(mut self) {
        self.release(false);
    }

    /// Cancels what the chain waits for now: the origin, or the inner Deferred that a callback
    /// gave back. That one fails with [`Cancelled`](super::Cancelled) unless its canceller has
    /// another result, and the callbacks below it run before this returns.
    ///
    /// Nothing happens if it has fired, or while one of its callbacks is running.
    /// A list, gather or race passes the cancel to every member.
    pub fn cancel(&self) {
        if let Inner::Chain(node) = &self.inner {
            cancel::cancel(node.clone());
        }
    }

    /// What cancels this chain from elsewhere, now or after more callbacks were added: it always
    /// means what [`cancel`](Self::cancel) on the last Deferred of the chain would mean.
    ///
    /// ```
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
        let watch = Rc::new(Watch::default());
        self.watch_with(watch.clone());
        Canceller(watch)
    }

    /// Whether the result is there. Twisted's `called`, but not while an inner Deferred is
    /// waited for.
    pub fn has_fired(&self) -> bool {
        match &self.inner {
            Inner::Chain(node) => node.slot().has_fired(),
            Inner::Fired(..) | Inner::Taken => true,
        }
    }

    /// The node at the end, if it isn't known to have fired. It stays in its chain from now on.
    pub(super) fn end(&self) -> Option<Weak<dyn Node>> {
        let Inner::Chain(node) = &self.inner else {
            return None;
        };
        node.slot().watch();
        let node: Rc<dyn Node> = node.clone();
        Some(Rc::downgrade(&node))
    }

    fn watch_with(&self, watch: Rc<Watch>) {
        watch.follow(self.end());
        // Only called where there is none yet.
        let _ = self.watch.set(watch);
    }
}

impl<T> Deferred<T> {
    fn of(inner: Inner<T>) -> Self {
        Self { inner, watch: OnceCell::new() }
    }

    pub(super) fn fired(result: Result<T>, place: Place) -> Self {
        Self::of(Inner::Fired(result, place))
    }

    pub(super) fn chain(node: Rc<dyn Source<T>>) -> Self {
        Self::of(Inner::Chain(node))
    }

    /// The failure, if it lies here. It stays here.
    pub(crate) fn failure(&self) -> Option<Failure> {
        match &self.inner {
            Inner::Fired(result, _) => result.as_ref().err().cloned(),
            Inner::Chain(node) => node.slot().failure(),
            Inner::Taken => None,
        }
    }

    /// Where its last link was added, or it was made if it has none.
    pub(crate) fn place(&self) -> Option<Place> {
        match &self.inner {
            Inner::Fired(_, place) => Some(place),
            Inner::Chain(node) => Some(node.slot().place),
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

    /// `below` gets the result.
    pub(super) fn feed(self, below: Rc<dyn Receive<T>>) {
        match self.into_outcome() {
            Outcome::Now(result) => run(below.receive(result)),
            Outcome::Later(node) => node.slot().attach(State::Linked(below)),
        }
    }

    fn release(&mut self, cancels: bool) {
        match mem::replace(&mut self.inner, Inner::Taken) {
            Inner::Fired(Err(failure), place) => report(failure, place),
            Inner::Chain(node) => match node.slot().take() {
                Some(result) => node.abandon(result),
                None => {
                    if node.slot().detach() && cancels {
                        drops::fire(Job::Abandoned(node));
                    }
                }
            },
            Inner::Fired(Ok(_), _) | Inner::Taken => {}
        }
    }
}

const TAKEN: &str = "this Deferred has given its result already";

impl<T> Drop for Deferred<T> {
    fn drop(&mut self) {
        self.release(true);
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
            Inner::Fired(result, _) => Poll::Ready(result),
            _ => panic!("{TAKEN}"),
        }
    }
}

// The result is never pinned: it is moved out whole.
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
