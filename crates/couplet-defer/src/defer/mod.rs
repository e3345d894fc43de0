//! Deferreds: results that arrive later, and the callbacks that handle them. Twisted's `defer`.
//!
//! The two ends are two types. The producer keeps the [`Resolver`] and fires it with a result; the
//! consumer gets the [`Deferred`], which is a `Future`, and adds callbacks or awaits it.
//!
//! ```
//! # use couplet_defer as couplet;
//! use couplet::defer::Deferred;
//! use couplet::testing::success_of;
//!
//! let (bytes, resolver) = Deferred::<Vec<u8>>::new();
//! let poem = bytes
//!     .add_callback(|bytes| Ok(String::from_utf8(bytes)?))
//!     .add_errback(|failure| Ok(format!("no poem: {failure}")));
//! resolver.callback(vec![0xff]);
//! assert_eq!(success_of(poem), "no poem: invalid utf-8 sequence of 1 bytes from index 0");
//! ```
//!
//! # Guarantees
//!
//! - Firing a Deferred runs its callbacks immediately and in order, each with the result of the
//!   previous one. A [`Failure`] or a panic goes to the next errback; a value continues from there.
//! - A chain of any length runs in constant stack and costs one allocation per link. Work triggered
//!   by a *drop* is queued while another drop is being processed.
//! - An unhandled [`Failure`] is reported once, when the last end is dropped ([`set_reporter`]);
//!   [`Cancelled`] never is.
//! - [`Deferred::cancel`] reaches through a chain into the inner Deferred that it is waiting for.
//! - Dropping a Deferred detaches it. If it was polled and hasn't fired, dropping it cancels it,
//!   because the task awaiting it was dropped.
//! - A panic in a callback or a canceller is contained, except in a program built with
//!   `panic = "abort"`.
//!
//! # Loops
//!
//! A loop that waits in each iteration is best written with `async`. Written recursively
//! (`fn rounds() { wait().then(|_| rounds()) }`), it also runs in constant memory, as long as no
//! inner iteration has a [`Canceller`]: links that only pass a result on are cut out of the chain.
//! Iterations that don't wait nest like any recursion.
//!
//! # Coming from Twisted
//!
//! | Twisted | here |
//! | --- | --- |
//! | `addCallback(f)` | [`add_callback`](Deferred::add_callback), [`map`](Deferred::map); [`then`](Deferred::then) if `f` returns a Deferred |
//! | `addErrback(f)` | [`add_errback`](Deferred::add_errback); [`recover`](Deferred::recover) if `f` returns a Deferred |
//! | `d.callback`, `d.errback` | on the [`Resolver`], by value: firing twice doesn't compile |
//! | `maybeDeferred(f)` | `Deferred::succeed(()).add_callback(\|()\| f())`, or `.then(\|()\| f())` |
//! | `failure.trap(E)` | [`failure.is::<E>()`](Failure::is), [`failure.downcast_ref::<E>()`](Failure::downcast_ref) |
//! | `DeferredList`, `gatherResults`, `race` | [`list`] or [`first_of`], [`gather`] or [`gather_consuming`], [`race`] |
//! | `DeferredLock`, `DeferredSemaphore` | [`DeferredLock`], [`DeferredSemaphore`]; drop the [`Permit`] instead of calling `release()` |
//! | `DeferredQueue` | [`DeferredQueue`] |
//! | a list of Deferreds to call back | [`DeferredEvent`] |
//! | `setDebugging(True)` | [`keep_histories`], [`Deferred::history`] |
//! | `pause`, `unpause` | none: return a Deferred from a callback |

mod abort;
mod arrived;
mod cancel;
pub(crate) mod chain;
mod deferred;
mod drops;
mod error;
mod event;
mod failure;
mod group;
mod history;
mod node;
mod queue;
mod report;
mod resolver;
mod semaphore;
mod timeout;
mod waiters;
pub(crate) mod waits;

pub use abort::AbortOnDrop;
pub use cancel::Canceller;
pub use deferred::Deferred;
pub use error::{AllFailed, Cancelled, Empty, FirstError, Panicked, ResolverDropped, TimedOut};
pub use event::DeferredEvent;
pub use failure::{Failure, Level, Result};
pub use group::{first_of, gather, gather_consuming, list, race};
pub use history::{History, keep_histories};
pub(crate) use node::live_nodes;
pub use queue::{DeferredQueue, QueueOverflow, QueueUnderflow};
pub(crate) use report::unhandled_failures;
pub use report::{Reporter, Unhandled, set_reporter};
pub use resolver::Resolver;
pub use semaphore::{DeferredLock, DeferredSemaphore, Permit};
pub use timeout::Alarm;
