//! # The simulator: assert inside of the protocol
//!
//! [`sim`](crate::sim) runs your programs on simulated hosts, over a simulated network, from a seed; the
//! chapter on [`testing`](super::testing) shows how to set up a world and how to read its report. This
//! one is about what to assert, and where.
//!
//! A test that looks when a world is over sees only the end. It knows that something is missing, not
//! when it went wrong; and what a crashed program knew has gone with it. A protocol sees each step. So
//! write what must hold as an `assert!` in the callback that can tell: a panic fails the world at that
//! moment, and the report shows the trace that led there.
//!
//! ## A claim that does not hold
//!
//! A poet recites for two seconds, then closes. The reader claims that a clean end means a whole poem:
//!
//! ```
//! use couplet::sim::{Fault, Sim, Trial, Weather};
//! use couplet::{Protocol, Reason, Transport};
//! use std::time::Duration;
//!
//! const POEM: [&str; 2] = ["Shall I compare thee", " to a summer's day?"];
//!
//! struct Poet { resets: bool }
//! impl Protocol for Poet {
//!     fn connection_made(&mut self, transport: &Transport) {
//!         transport.set_reset_unless_closed(self.resets);
//!         transport.write(POEM[0]);
//!         transport.connection::<Poet>().call_later(Duration::from_secs(2), |_, transport| {
//!             transport.write(POEM[1]);
//!             transport.lose_connection();
//!         });
//!     }
//!     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
//! }
//!
//! struct Reader(String);
//! impl Protocol for Reader {
//!     fn data_received(&mut self, _: &Transport, data: &[u8]) {
//!         self.0 += &String::from_utf8_lossy(data);
//!     }
//!     fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
//!         if reason.is_clean() {
//!             assert_eq!(self.0, POEM.concat(), "half a poem passes for a whole one");
//!         }
//!     }
//! }
//!
//! /// A world in which the poet's process is killed in mid-poem.
//! fn world(sim: &mut Sim, resets: bool) -> couplet::Result<()> {
//!     let poet = sim.host("poet", move |reactor| {
//!         reactor.listen("tcp:80", move || Poet { resets }).map(drop)
//!     });
//!     sim.host("reader", |reactor| {
//!         reactor.connect("tcp:poet:80", || Reader(String::new())).detach();
//!         Ok(())
//!     });
//!     sim.fault(Duration::from_secs(1), Duration::from_secs(1), Fault::Kill(poet));
//!     sim.run_for(Duration::from_secs(60))
//! }
//!
//! let trial = Trial::new(7, Weather::Calm);
//! let report = trial.examine(&|sim| world(sim, false)).unwrap_err();
//! assert!(report.contains("half a poem passes for a whole one"), "{report}");
//!
//! // The remedy: a poet that dies resets, so that its end cannot be taken for the poem's.
//! assert!(trial.examine(&|sim| world(sim, true)).is_ok());
//! ```
//!
//! ## Claims worth making
//!
//! - Order: messages carry a number, and each is greater than the one before.
//! - Conservation: what was taken from one account has arrived at the other, or is under way.
//! - At most once: a request that is repeated after a reconnect is not carried out twice.
//! - Bounds: `transport.buffered()` stays below what you promise, in `data_received` and after it.
//! - An end: each request gets an answer or a failure in the time that you state.
//!
//! The last one speaks about time, so it belongs to a timer of the protocol. Progress of the whole, such
//! as "at least one poem arrived", is asserted once the weather is over: faults are drawn within a span,
//! so let the world run for longer than that.
//!
//! ```
//! use couplet::sim::{self, Weather};
//! use couplet::{Protocol, Transport};
//! use std::{cell::Cell, rc::Rc, time::Duration};
//!
//! struct Counts;
//! impl Protocol for Counts {
//!     fn connection_made(&mut self, transport: &Transport) { transport.write([0, 1, 2, 3]); }
//!     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
//! }
//! struct Checks { next: u8, heard: Rc<Cell<u32>> }
//! impl Protocol for Checks {
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         for n in data {
//!             assert_eq!(*n, self.next, "in order, none twice"); // in every weather
//!             self.next += 1;
//!         }
//!         if self.next == 4 {
//!             self.heard.set(self.heard.get() + 1);
//!             transport.lose_connection();
//!         }
//!     }
//! }
//!
//! sim::check(0..10, Weather::Storm, |sim| {
//!     let heard = Rc::new(Cell::new(0)); // of this world: made inside of the scenario
//!     sim.host("server", |reactor| reactor.listen("tcp:80", || Counts).map(drop));
//!     let counter = heard.clone();
//!     sim.host("client", move |reactor| {
//!         let (counter, again) = (counter.clone(), reactor.clone());
//!         let call = move || {
//!             let heard = counter.clone();
//!             let checks = move || Checks { next: 0, heard: heard.clone() };
//!             // A failed connect is the weather's right; the next one comes in a second.
//!             again.connect("tcp:server:80", checks).add_both(|_| Ok(())).detach();
//!         };
//!         couplet::LoopingCall::new(reactor, call).start(Duration::from_secs(1)).detach();
//!         Ok(())
//!     });
//!     sim.draw_faults(Duration::from_secs(30));
//!     sim.run_for(Duration::from_secs(90))?;
//!     assert!(heard.get() > 10, "when the storm is over calls come through: {}", heard.get());
//!     Ok(())
//! });
//! ```
//!
//! State in an `Rc` that the test made survives a crash of the host. That is right for what a test counts
//! and wrong for what a program knows: let programs make their own state when they start.
