//! The simulator: a whole network of hosts on one thread, in virtual time, reproducible from a
//! seed.
//!
//! Each host runs an ordinary program, the function that [`run`](crate::run) takes, on the shipped
//! loop, transports and protocols; only the driver is the simulator's. Waiting is free: an hour
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
//! Simulated hosts behave like Linux: the same scenes over real sockets and in the simulator give
//! protocols the same callbacks. A [`Weather`] draws faults from the seed before the run, or a
//! program [plans](Sim::fault) them: partitions, resets, crashes, descriptor exhaustion and so on;
//! see [`Fault`]. [`check`] runs a scenario with many seeds and reports a failure with its seed,
//! the shortest list of faults that still fails, and the last lines of the trace.
//!
//! # What every world checks, all the time
//!
//! `connection_made` comes first, `connection_lost` exactly once, nothing after it, and no callback
//! runs inside another; a protocol receives what its peer wrote, in order: all of it before the end
//! of the stream, a prefix when the connection fails; every byte counted as sent has reached the
//! driver; time never goes backwards; every queue stays within its bound; no user code panics
//! (unless [`allow_panics`](Sim::allow_panics)); and every failure of a Deferred is handled.
//!
//! What passes through [layers](crate::layers) is compared above them, where both ends have layers of the
//! same types, [transparent](crate::layers::Layer::is_transparent) ones aside, and no more than 4 MiB
//! are on their way. Other ends have no stream in common, such as a relay of TLS that it does not speak:
//! there only the callbacks and the counts of bytes are checked.
//!
//! A program that stops itself, with [`Reactor::stop`](crate::Reactor::stop), leaves nothing for
//! the shutdown to cut off: no port, connect, open connection, timed call or task. Leftovers are
//! listed with the place that created them, as in [`testing::run`](crate::testing::run) (unless
//! [`allow_leaks`](Sim::allow_leaks)). A server that a signal stops may have its ports open.
//!
//! However a program ends, its loop and its system keep nothing of it: no connection, port, timed
//! call, task, job, lookup or driver key. [`Sim::finish`] ends all programs and waits for the
//! network to become quiet. A [`Trial`] counts Deferreds too, unless a program was killed: a real
//! system would have freed that program's memory.
//!
//! A world that does not end is given up after 100 million events or 5 minutes of real time; see
//! [`set_event_limit`](Sim::set_event_limit) and
//! [`set_real_time_limit`](Sim::set_real_time_limit).
//!
//! # What a program must not do
//!
//! Take time, names or randomness from anywhere but its reactor, wait for another thread, or
//! iterate over a `HashMap` where the order matters. [`check`] runs the first seed and each failure
//! twice, and shows the first difference; [`check_determined`] runs each seed twice, and once more in
//! another process.
//!
//! What a library takes from the system can come from the seed too: with the feature `trap`, on Linux, the C
//! library's functions for time and entropy (`getrandom`, `clock_gettime` and their kin) are replaced in
//! the whole program, and answer threads that simulate from the simulation, all others from the system.
//! For test binaries. A world in a [thread of its own](Trial::run_apart) then has hash maps whose order is
//! the seed's.

mod capture;
mod determined;
mod driver;
mod faults;
mod kernel;
mod limits;
#[cfg(unix)]
mod processes;
mod random;
mod sockets;
mod trace;
mod trapped;
mod trial;
mod waking;
mod witness;
mod world;

pub use crate::driver::memory::Cut;
pub use determined::check_determined;
pub use faults::{Fault, Link, Planned, Weather};
#[cfg(unix)]
pub use processes::Program;
pub use random::Latency;
pub use sockets::{Datagrams, Listening, Socket};
pub use trial::{Broken, Report, Trial, check};
pub use world::{Notes, Sim};

use std::time::Duration;

/// Since 1970, when a world begins.
const FIRST_DAY: Duration = Duration::from_secs(1_700_000_000);

/// Identifies a host of the [`Sim`] that created it; meaningless in any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(pub(crate) u32);
