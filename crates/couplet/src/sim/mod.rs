//! The simulator: whole worlds of hosts, in one thread, in virtual time, from a seed.
//!
//! Each host runs an ordinary program, the function that [`run`](crate::run) takes, on the shipped
//! loop, transports and protocols; only the driver is the simulator's. Waiting costs nothing: an
//! hour passes as fast as what happens in it. The same seed gives the same trace, byte for byte.
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
//! The systems of the hosts do as Linux does; the same scenes, played over real sockets and here,
//! show protocols the same. A [`Weather`] draws faults from the seed before the run, or a program
//! [writes](Sim::fault) them: partitions, resets, crashes, hosts without descriptors, and so on; see
//! [`Fault`]. [`check`] runs a scenario for many seeds and reports a failure with its seed, the
//! shortest list of faults that still fails, and the trace around it.
//!
//! # What is checked in every world, all the time
//!
//! `connection_made` comes first, `connection_lost` exactly once, nothing after it, and no callback
//! inside another; a protocol is given what the other end wrote, in order: all of it before an end
//! of the stream, and a prefix where the connection fails; the driver is given what has left; time
//! never goes back; each bound of a queue is kept; no user code panics
//! ([`allow_panics`](Sim::allow_panics) lets it), and no failure of a Deferred is left unhandled.
//!
//! A program that ends itself, by [`Reactor::stop`](crate::Reactor::stop), leaves nothing for the
//! shutdown to cut off: no port, connect, open connection, timed call or task. What it leaves is
//! listed with the place that asked for it, as [`testing::run`](crate::testing::run) does
//! ([`allow_leaks`](Sim::allow_leaks) lets it). A server that a signal ends may have its ports open.
//!
//! However a program has ended, its loop and its system hold nothing of it: no connection, port,
//! timed call, task, job, lookup or key of its driver. [`Sim::finish`] ends them all, and the network
//! is to become quiet; a [`Trial`] counts the Deferreds too, where no program was killed: its system
//! would have freed what it held.
//!
//! A world that has no end in sight is given up after 100 million events or 5 minutes of real time:
//! [`set_event_limit`](Sim::set_event_limit), [`set_real_time_limit`](Sim::set_real_time_limit).
//!
//! # What a program must not do
//!
//! Take time, names or chance from anywhere but its reactor, wait for another thread, or walk a
//! `HashMap` where the order has an effect. [`check`] runs the first seed and each failure
//! twice, and names the first difference.

mod driver;
mod faults;
mod kernel;
mod limits;
mod random;
mod sockets;
mod trace;
mod trial;
mod waking;
mod witness;
mod world;

pub use crate::driver::memory::Cut;
pub use faults::{Fault, Link, Planned, Weather};
pub use random::Latency;
pub use sockets::{Datagrams, Listening, Socket};
pub use trial::{Broken, Report, Trial, check};
pub use world::{Notes, Sim};

/// Names a host of a [`Sim`], which gave it; it means nothing in another world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(pub(crate) u32);
