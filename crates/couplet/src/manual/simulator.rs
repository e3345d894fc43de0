//! # The simulator: assert inside the protocol
//!
//! [`sim`](crate::sim) runs your programs on simulated hosts, over a simulated network, from a
//! seed; the chapter on [`testing`](super::testing) shows how to set up a world and how to read its
//! report. This chapter is about assertions in protocols.
//!
//! A test that checks a world after the run sees only the final state. It can detect a missing
//! result, but not the moment of the error, and the state of a crashed program is lost. A protocol
//! sees every step. So `assert!` each invariant in the callback that can check it: a panic fails
//! the world at that moment, and the report shows the trace that led there.
//!
//! ## An assumption that does not hold
//!
//! A poet recites for two seconds, then closes. The reader assumes that a clean end means a
//! complete poem:
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
//! /// A world in which the poet's process is killed mid-poem.
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
//! // The fix: a poet that dies resets, so its end cannot be mistaken for the end of the poem.
//! assert!(trial.examine(&|sim| world(sim, true)).is_ok());
//! ```
//!
//! ## Assertions worth making
//!
//! - Order: messages are numbered, and each number is greater than the previous one.
//! - Conservation: money that left one account has arrived at the other, or is in flight.
//! - At most once: a request repeated after a reconnect is not executed twice.
//! - Bounds: `transport.buffered()` stays below the bound you promise, in `data_received` and after
//!   it.
//! - Termination: each request gets an answer or a failure within a stated time.
//!
//! Termination is about time, so check it in a timer of the protocol. Assert overall progress, such
//! as "at least one poem arrived", after the faults: they are drawn within a time span, so let the
//! world run for longer than that.
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
//!             assert_eq!(*n, self.next, "in order, no duplicates"); // in every weather
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
//!     let heard = Rc::new(Cell::new(0)); // belongs to this world: created inside the scenario
//!     sim.host("server", |reactor| reactor.listen("tcp:80", || Counts).map(drop));
//!     let counter = heard.clone();
//!     sim.host("client", move |reactor| {
//!         let (counter, again) = (counter.clone(), reactor.clone());
//!         let call = move || {
//!             let heard = counter.clone();
//!             let checks = move || Checks { next: 0, heard: heard.clone() };
//!             // In this weather a connect may fail; the next one follows in a second.
//!             again.connect("tcp:server:80", checks).add_both(|_| Ok(())).detach();
//!         };
//!         couplet::LoopingCall::new(reactor, call).start(Duration::from_secs(1)).detach();
//!         Ok(())
//!     });
//!     sim.draw_faults(Duration::from_secs(30));
//!     sim.run_for(Duration::from_secs(90))?;
//!     assert!(heard.get() > 10, "after the storm calls get through: {}", heard.get());
//!     Ok(())
//! });
//! ```
//!
//! ## Programs that start others
//!
//! [`Sim::program`](crate::sim::Sim::program) defines a program that the hosts' programs can start,
//! by `spawn_process`, `process_output` or the endpoint `process:`. Its process is another host,
//! with its standard input and output at the endpoint `stdio:`; it crashes, pauses and ends with
//! its parent.
//!
//! ## Captures for Wireshark
//!
//! [`Sim::capture`](crate::sim::Sim::capture) writes the packets of a world as a capture file, handshakes and
//! resets included, and [`Sim::log_keys`](crate::sim::Sim::log_keys) the secrets of its TLS connections:
//!
//! ```no_run
//! use std::fs::File;
//! use std::io::BufWriter;
//! # use couplet::sim::{Trial, Weather};
//! # fn world(_: &mut couplet::sim::Sim) -> couplet::Result<()> { Ok(()) }
//!
//! let report = Trial::new(17, Weather::Storm).run(&|sim| {
//!     sim.capture(BufWriter::new(File::create("storm.pcap")?))?;
//!     sim.log_keys(File::create("storm.keys")?);
//!     world(sim)
//! });
//! ```
//!
//! Then `wireshark storm.pcap -o tls.keylog_file:storm.keys` shows the traffic, TLS decrypted.
//! `couplet sim` has an option for its own worlds: `couplet sim chat --seeds 17 --pcap chat.pcap`.
//!
//! ## State that outlives a crash
//!
//! State in an `Rc` created by the test survives a crash of the host. That is right for a test's
//! counters and wrong for a program's state: let programs create their own state when they start.
