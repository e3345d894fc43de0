//! Tools for testing protocols without sockets and without waiting. The chapter
//! [Testing your protocol] shows them in use.
//!
//! [Testing your protocol]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/testing.md
//!
//! - [`pair`] connects two protocols in memory and runs them until idle.
//! - [`hold`] puts one protocol on a connection whose far end, a [`Wire`], the test controls: push
//!   bytes in, take bytes out, inspect the requests.
//! - [`every_split`] feeds an input whole, byte by byte, split at every offset, and at random.
//! - [`Clock`] is a reactor whose time the test advances.
//! - [`MemoryReactor`] is a reactor for code that listens and connects, with the test as the
//!   network.
//! - [`success_of`], [`failure_of`] and [`no_result_yet`] check a Deferred's result.
//! - [`run`] runs a whole program, and fails if it leaves anything behind.
//!
//! All of them run the shipped loop and transport on the [`memory`](crate::driver::memory) driver,
//! whose time is virtual: [`Pair::advance`] can pass an hour in an instant.

mod clock;
mod held;
mod memory_loop;
mod memory_reactor;
mod pair;
mod run;
mod split;

pub use crate::driver::memory::{Cut, Manner, Memory, Network, Wire};
pub use clock::Clock;
#[doc(inline)]
pub use couplet_defer::testing::{failure_of, no_result_yet, success_of};
pub use held::{Held, hold, hold_on};
pub use memory_reactor::{Attempt, MemoryReactor};
pub use pair::{Pair, pair, pair_on};
pub use run::{run, run_within};
pub use split::every_split;
