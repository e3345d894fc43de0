//! The simulator: a whole network of hosts on one thread, in virtual time, reproducible from a
//! seed.
//!
//! Each host runs an ordinary program (the function passed to [`run`](couplet_core::run)) on the
//! shipped loop, transports and protocols; only the driver is simulated. Waiting is free: an hour
//! takes only as long as the events in it. The same seed gives the same trace, byte for byte.
//!
//! ```
//! use std::time::Duration;
//! use couplet::sim::Sim;
//! use couplet::{Protocol, Transport};
//!
//! struct Echo;
//! impl Protocol for Echo {
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         transport.write(data);
//!     }
//! }
//!
//! struct Hello;
//! impl Protocol for Hello {
//!     fn connection_made(&mut self, transport: &Transport) {
//!         transport.write("hello");
//!     }
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         assert_eq!(data, b"hello");
//!         transport.lose_connection();
//!     }
//! }
//!
//! let mut sim = Sim::new(7);
//! sim.host("server", |reactor| {
//!     reactor.listen("tcp:8000", || Echo)?;
//!     Ok(())
//! });
//! sim.host("client", |reactor| {
//!     reactor.connect("tcp:server:8000", || Hello).detach();
//!     Ok(())
//! });
//! sim.run_for(Duration::from_secs(60))?;
//! sim.finish()?;
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! Simulated hosts behave like Linux: the same scene gives protocols the same callbacks over real
//! sockets and in the simulator. A [`Weather`] draws faults from the seed before the run, or a
//! program [plans](Sim::fault) them: partitions, resets, crashes, descriptor exhaustion and so on;
//! see [`Fault`]. [`check`] runs a scenario with many seeds, and reports a failure with its seed,
//! the shortest list of faults that still fails, and the last lines of the trace.
//!
//! # What every world checks, all the time
//!
//! These always hold, or the world fails:
//!
//! - `connection_made` comes first and `connection_lost` exactly once, with nothing after it.
//! - No callback runs inside another.
//! - A protocol receives the bytes that its peer wrote, in order: all of them before the end of the
//!   stream, or a prefix when the connection fails.
//! - Every byte counted as sent has reached the driver.
//! - Time never goes backwards.
//! - Every queue stays within its bound.
//! - No user code panics, unless [`allow_panics`](Sim::allow_panics) is set.
//! - Every failure of a Deferred is handled.
//!
//! Bytes that pass through [layers](couplet_core::layers) are compared above the layers, if both
//! ends have layers of the same types
//! ([transparent](couplet_core::layers::Layer::is_transparent) ones aside) and at most 4 MiB are in
//! flight. Otherwise the two ends share no stream, as with a relay that cannot decrypt the TLS it
//! forwards: then only the callbacks and the byte counts are checked.
//!
//! A program that stops itself, with [`Reactor::stop`](couplet_core::Reactor::stop), must leave
//! nothing for the shutdown to cut off: no port, connect, open connection, timed call or task.
//! Leftovers are listed with the place that created them, as in
//! [`testing::run`](couplet_core::testing::run), unless [`allow_leaks`](Sim::allow_leaks) is set. A
//! server stopped by a signal may leave its ports open.
//!
//! However a program ends, its loop and its system must release everything: connections, ports,
//! timed calls, tasks, jobs, lookups and driver keys. [`Sim::finish`] ends all programs and waits
//! until the network is quiet. A [`Trial`] also counts Deferreds, unless a program was killed: a
//! real system would have freed that program's memory.
//!
//! A world that does not end is given up after 100 million events or 5 minutes of real time; see
//! [`set_event_limit`](Sim::set_event_limit) and [`set_real_time_limit`](Sim::set_real_time_limit).
//!
//! # What a program must not do
//!
//! A program must take time, names and randomness only from its reactor, must not wait for another
//! thread, and must not iterate over a `HashMap` if the order matters. [`check`] runs the first
//! seed and each failure twice, and shows the first difference; [`check_determined`] runs each seed
//! twice, and once more in another process.
//!
//! Libraries can get the system's time and entropy from the seed too: with the feature `trap`, on
//! Linux, the C library's functions for them (`getrandom`, `clock_gettime` and their kin) are
//! replaced in the whole program. Simulating threads get the simulation's answers, all other
//! threads the system's. The feature is for test binaries. In a world that runs in a [new
//! thread](Trial::run_apart), hash maps then iterate in an order determined by the seed.

#![forbid(unsafe_code)]

#[cfg(test)]
#[macro_use]
extern crate couplet_testkit;

#[macro_use(log_warn)]
extern crate couplet_defer;

mod capture;
mod detached;
mod determinism;
mod driver;
mod faults;
mod kernel;
mod limits;
#[cfg(feature = "sim-tokio")]
mod paused_tokio;
#[cfg(unix)]
mod processes;
mod random;
mod recording;
mod restarts;
mod running;
mod sockets;
mod trace;
mod trapped;
mod trial;
mod wakers;
mod witness;
mod world;

pub use couplet_core::driver::memory::Cut;
pub use couplet_core::hooks::inspector::TableLimits;
pub use determinism::check_determined;
pub use faults::{Fault, Link, Planned, Weather};
#[cfg(unix)]
pub use processes::Program;
pub use random::Latency;
pub use recording::{RecordedLoop, Recorder};
pub use sockets::{Datagrams, Listening, Socket};
pub use trial::{Broken, Report, Trial, check};
pub use world::{Notes, Sim};

use std::time::Duration;

/// The wall clock at the start of a world, as time since 1970.
pub const FIRST_DAY: Duration = Duration::from_secs(1_700_000_000);

/// Identifies a host of the [`Sim`] that created it; meaningless in any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(pub(crate) u32);
