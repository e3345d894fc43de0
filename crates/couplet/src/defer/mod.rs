//! Deferreds: results that come later, with callbacks that wait for them. Twisted's `defer`.
//!
//! The two ends are two types. Whoever will have the result keeps the [`Resolver`]; whoever wants
//! it gets the [`Deferred`], adds callbacks, or awaits it: it is a `Future`.
//!
//! ```
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
//! # What holds
//!
//! - Callbacks run at once where the Deferred is fired, in their order, each seeing what the one
//!   before it gave. A [`Failure`] or a panic goes to the next errback; a value goes on from there.
//! - A chain of any length runs in constant stack and costs one allocation a link. What is fired
//!   by a *drop* waits in line while another drop fires.
//! - A [`Failure`] that nobody handles is reported once, when the last end is dropped
//!   ([`set_reporter`]); [`Cancelled`] never is.
//! - [`Deferred::cancel`] reaches through a chain, into the inner Deferred that it waits for.
//! - Dropping a Deferred detaches it. A Deferred that was polled and is dropped before it fired is
//!   cancelled: whoever awaited it has gone.
//! - A panic in a callback or a canceller ends there. Excepted: a program built with
//!   `panic = "abort"`.
//!
//! # Loops
//!
//! A loop of rounds that each wait is best written with `async`. Written by recursion
//! (`fn rounds() { wait().then(|_| rounds()) }`) it runs in constant memory too, as long as no
//! [`Canceller`] was made for one of the inner rounds: links that only pass a result on are cut out.
//! Rounds that don't wait nest like any recursion.
//!
//! # For those who know Twisted
//!
//! | Twisted | here |
//! | --- | --- |
//! | `addCallback(f)` | [`add_callback`](Deferred::add_callback), [`map`](Deferred::map); [`then`](Deferred::then) if `f` returns a Deferred |
//! | `addErrback(f)` | [`add_errback`](Deferred::add_errback); [`recover`](Deferred::recover) if `f` returns a Deferred |
//! | `d.callback`, `d.errback` | on the [`Resolver`], by value: firing twice doesn't compile |
//! | `maybeDeferred(f)` | `Deferred::succeed(()).add_callback(\|()\| f())`, or `.then(\|()\| f())` |
//! | `failure.trap(E)` | [`failure.is::<E>()`](Failure::is), [`failure.downcast_ref::<E>()`](Failure::downcast_ref) |
//! | `DeferredList`, `gatherResults`, `race` | [`list`], [`gather`] or [`gather_consuming`], [`race`] |
//! | `DeferredLock`, `DeferredSemaphore` | [`DeferredLock`], [`DeferredSemaphore`]; `release()` is the drop of a [`Permit`] |
//! | `DeferredQueue` | [`DeferredQueue`] |
//! | `pause`, `unpause` | none: return a Deferred from a callback |

mod cancel;
mod deferred;
mod drops;
mod error;
mod failure;
mod group;
mod node;
mod queue;
mod report;
mod resolver;
mod semaphore;
mod timeout;

pub use cancel::Canceller;
pub use deferred::Deferred;
pub use error::{AllFailed, Cancelled, Empty, FirstError, Panicked, ResolverDropped, TimedOut};
pub use failure::{Failure, Result};
pub use group::{gather, gather_consuming, list, race};
pub(crate) use node::alive;
pub use queue::{DeferredQueue, QueueOverflow, QueueUnderflow};
pub use report::{Reporter, Unhandled, set_reporter};
pub use resolver::Resolver;
pub use semaphore::{DeferredLock, DeferredSemaphore, Permit};
pub use timeout::Alarm;
