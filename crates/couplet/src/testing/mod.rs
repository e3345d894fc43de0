//! Tests of protocols, without sockets and without waiting. The chapter
//! [Testing your protocol](crate::manual::testing) shows all of it at work.
//!
//! - [`pair`] joins two protocols in memory and runs them to quiet.
//! - [`hold`] puts one protocol on a connection whose far end, a [`Wire`], the test holds: push
//!   bytes in, take bytes out, see what was asked.
//! - [`every_split`] feeds an input whole, byte by byte, cut at every place, and at random.
//! - [`Clock`] is a reactor whose time the test passes.
//! - [`MemoryReactor`] is one for code that listens and connects: the test plays the network.
//! - [`success_of`], [`failure_of`] and [`no_result_yet`] say what has become of a Deferred.
//! - [`run`] runs a whole program, and fails when it leaves something behind.
//!
//! All run the shipped loop and transport on the [`memory`](crate::driver::memory) driver, whose
//! time is virtual: [`Pair::advance`] passes an hour at once.

mod clock;
mod held;
mod memory_loop;
mod memory_reactor;
mod pair;
mod results;
mod run;
mod split;

pub use crate::driver::memory::{Cut, Manner, Memory, Network, Wire};
pub use clock::Clock;
pub use held::{Held, hold, hold_on};
pub use memory_reactor::{Attempt, MemoryReactor};
pub use pair::{Pair, pair, pair_on};
pub use results::{failure_of, no_result_yet, success_of};
pub use run::{run, run_within};
pub use split::every_split;
