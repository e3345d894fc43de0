//! # Testing your protocol
//!
//! A protocol never sees a socket: it hears of bytes and writes bytes. So a test runs the same
//! object over a network in memory, where nothing is slow, no port is taken, and an hour passes at
//! once. The loop and the transport are those of the program; only the driver below them is another
//! one.
//!
//! | what you test | with |
//! | --- | --- |
//! | what one protocol answers | [`hold`], and the [`Wire`] in your hand |
//! | a client and its server | [`pair`] |
//! | that no cut of the stream matters | [`every_split`], [`Cut`] |
//! | timers, timeouts, retries | `advance`; a [`Clock`] where there is no connection |
//! | what listens and connects by itself | [`MemoryReactor`] |
//! | what becomes of a Deferred | [`success_of`], [`failure_of`], [`no_result_yet`] |
//! | a whole program, and that it cleans up | [`run`] |
//! | programs on several hosts, and what a bad network does to them | [`sim`](crate::sim) |
//!
//! ## A protocol, and its test
//!
//! This one is given numbers, a line each, and answers with their sum so far:
//!
//! ```
//! use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
//! use couplet::testing::hold;
//!
//! #[derive(Default)]
//! struct Sum(u64);
//! impl LineProtocol for Sum {
//!     fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
//!         match String::from_utf8_lossy(line).parse::<u64>() {
//!             Ok(n) => self.0 += n,
//!             Err(error) => return transport.fail(error),
//!         }
//!         transport.send_line(self.0.to_string());
//!     }
//! }
//!
//! // Its test:
//! let mut held = hold(LineReceiver::new(Sum::default()));
//! held.push(b"20\r\n22\r\n");
//! assert_eq!(held.wire.take(), b"20\r\n42\r\n");
//! held.push(b"poem\r\n");
//! assert!(held.wire.saw_fin(), "it ends the connection");
//! ```
//!
//! [`hold`] makes a connection, puts the protocol on it and gives you the far end. `push` sends
//! bytes and lets the loop turn until it is quiet; then you look.
//!
//! ## Both ends: `pair`
//!
//! [`pair`] joins a client's protocol and a server's. [`with_a`](crate::testing::Pair::with_a) and
//! [`with_b`](crate::testing::Pair::with_b) call into either, and settle:
//!
//! ```
//! use couplet::testing::pair;
//! # use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
//! # #[derive(Default)] struct Sum(u64);
//! # impl LineProtocol for Sum {
//! #     fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
//! #         self.0 += String::from_utf8_lossy(line).parse::<u64>().unwrap();
//! #         transport.send_line(self.0.to_string());
//! #     }
//! # }
//! #[derive(Default)]
//! struct Asks(Vec<String>);
//! impl LineProtocol for Asks {
//!     fn connection_made(&mut self, transport: &LineTransport) {
//!         transport.send_line("20");
//!         transport.send_line("22");
//!     }
//!     fn line_received(&mut self, _: &LineTransport, line: &[u8]) {
//!         self.0.push(String::from_utf8_lossy(line).into());
//!     }
//! }
//!
//! let asks = LineReceiver::new(Asks::default());
//! let mut pair = pair(asks, LineReceiver::new(Sum::default()));
//! let answers = pair.with_a(|asks, _| asks.protocol().0.clone());
//! assert_eq!(answers.unwrap(), ["20", "42"]);
//! ```
//!
//! ## What the network does: `Wire`
//!
//! The [`Wire`] is the far end of a connection. It pushes and takes bytes, ends its stream with
//! [`fin`](Wire::fin), closes, or [resets](Wire::reset); and it sees what the protocol did: a FIN,
//! a reset, a pause of its reading.
//!
//! ```
//! use couplet::testing::hold;
//! use couplet::{Protocol, Reason, Transport};
//! use std::{cell::RefCell, rc::Rc};
//!
//! #[derive(Clone, Default)]
//! struct Watches(Rc<RefCell<Option<Reason>>>);
//! impl Protocol for Watches {
//!     fn data_received(&mut self, transport: &Transport, _: &[u8]) {
//!         transport.pause_producing(); // one message is enough
//!     }
//!     fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
//!         *self.0.borrow_mut() = Some(reason.clone());
//!     }
//! }
//!
//! let watches = Watches::default();
//! let mut held = hold(watches.clone());
//! held.push(b"hello");
//! assert!(!held.wire.is_receiving());
//! held.wire.reset();
//! held.settle(); // what you do with the wire is heard when the loop turns
//! assert!(matches!(*watches.0.borrow(), Some(Reason::Lost(_))));
//! ```
//!
//! ## Cuts
//!
//! A stream has no messages: it may come byte by byte. [`every_split`] feeds an input whole, in
//! single bytes, cut at each place, and at random places. One result must come out:
//!
//! ```
//! use couplet::testing::{every_split, hold};
//! # use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
//! # #[derive(Default)] struct Sum(u64);
//! # impl LineProtocol for Sum {
//! #     fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
//! #         self.0 += String::from_utf8_lossy(line).parse::<u64>().unwrap();
//! #         transport.send_line(self.0.to_string());
//! #     }
//! # }
//!
//! every_split(b"20\r\n22\r\n", |pieces| {
//!     let mut held = hold(LineReceiver::new(Sum::default()));
//!     for piece in pieces {
//!         held.push(piece);
//!     }
//!     assert_eq!(held.wire.take(), b"20\r\n42\r\n", "cut as {pieces:?}");
//! });
//! ```
//!
//! For two protocols there is [`pair_on`](crate::testing::pair_on) with a [`Cut`] and a seed.
//!
//! ## Time
//!
//! Time stands still until the test passes it. `advance` stops at each deadline on the way, and
//! what is due runs at its own time, with whatever it asks for in turn.
//! [`Pair`](crate::testing::Pair), [`Held`](crate::testing::Held) and [`MemoryReactor`] have it:
//!
//! ```
//! use couplet::testing::hold;
//! use couplet::{Protocol, Transport};
//! use std::time::Duration;
//!
//! struct Patient;
//! impl Protocol for Patient {
//!     fn connection_made(&mut self, transport: &Transport) {
//!         transport.set_idle_timeout(Some(Duration::from_secs(3600)));
//!     }
//!     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
//! }
//!
//! let mut held = hold(Patient);
//! held.advance(Duration::from_secs(3599));
//! held.push(b"still here");
//! held.advance(Duration::from_secs(3599));
//! assert!(!held.connection.is_lost());
//! held.advance(Duration::from_secs(1));
//! assert!(held.connection.is_lost() && held.wire.saw_reset());
//! ```
//!
//! Code without a connection takes the reactor of a [`Clock`]:
//!
//! ```
//! use couplet::{LoopingCall, testing::Clock};
//! use std::{cell::Cell, rc::Rc, time::Duration};
//!
//! let mut clock = Clock::new();
//! let ticks = Rc::new(Cell::new(0));
//! let counted = ticks.clone();
//! let ticking = LoopingCall::new(&clock.reactor(), move || counted.set(counted.get() + 1));
//! ticking.start(Duration::from_secs(60)).detach();
//! clock.advance(Duration::from_secs(24 * 3600));
//! assert_eq!(ticks.get(), 1 + 24 * 60);
//! ```
//!
//! A panic in a timed call stops neither the clock nor the other calls, as in any loop; but
//! `advance` then fails the test with it. All that the kit runs is held to this: an assertion may
//! stand in a callback. A test of what a panic does takes it with
//! [`take_panics`](Clock::take_panics).
//!
//! ## Clients and servers: `MemoryReactor`
//!
//! Code that listens or connects by itself takes the reactor of a [`MemoryReactor`]. Its connects
//! wait for the test, which sees what was asked for and lets each come through or fail:
//!
//! ```
//! use couplet::testing::{MemoryReactor, failure_of, success_of};
//! use couplet::{ConnectError, Connection, Deferred, Protocol, Reactor, Transport};
//! use std::{io, time::Duration};
//!
//! struct Client;
//! impl Protocol for Client {
//!     fn connection_made(&mut self, transport: &Transport) { transport.write("hello"); }
//!     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
//! }
//! /// Tries a second host where the first does not answer.
//! fn reach(reactor: &Reactor) -> Deferred<Connection<Client>> {
//!     let again = reactor.clone();
//!     let first = reactor.connect("tcp:first.example:80:timeout=5", || Client);
//!     first.recover(move |_| again.connect("tcp:second.example:80", || Client))
//! }
//!
//! let mut memory = MemoryReactor::new();
//! let reached = reach(&memory.reactor());
//! assert_eq!(memory.connecting()[0].host(), "first.example");
//! memory.advance(Duration::from_secs(5)); // no answer
//! let second = memory.connecting().remove(0);
//! assert_eq!((second.host(), second.port()), ("second.example", 80));
//! let wire = second.complete(); // the far end
//! memory.settle();
//! assert_eq!(wire.take(), b"hello");
//! assert!(!success_of(reached).is_lost());
//!
//! let reached = reach(&memory.reactor());
//! memory.connecting()[0].fail(io::ErrorKind::ConnectionRefused.into());
//! memory.connecting()[0].fail(io::ErrorKind::NetworkUnreachable.into());
//! memory.settle();
//! let failure = failure_of(reached);
//! assert!(matches!(failure.downcast_ref(), Some(ConnectError::NoRoute)));
//! ```
//!
//! A server is seen in [`listening`](MemoryReactor::listening), and
//! [`connect`](MemoryReactor::connect) makes a connection to it. A name that is looked up has an
//! address of its own; [`network`](MemoryReactor::network) gives it others, none, or a slow answer.
//!
//! ## Deferreds
//!
//! [`success_of`] and [`failure_of`] take the result that is there; [`no_result_yet`] sees that
//! there is none. Where it is otherwise, the test fails with what there is instead, and where it
//! came from:
//!
//! ```should_panic
//! # use couplet::{Deferred, Failure, testing::success_of};
//! let poem = Deferred::<String>::fail(Failure::msg("no poem"));
//! success_of(poem);
//! ```
//!
//! ```text
//! the Deferred of tests/poems.rs:7:12 has failed: no poem (began at tests/poems.rs:7:38)
//! ```
//!
//! ## Whole programs: `run`
//!
//! [`run`] takes the place of [`couplet::run_until`](crate::run_until): it runs a program until the
//! Deferred that it returns has fired, and gives the result. It runs in memory and in virtual time,
//! and what the program connects to it also serves:
//!
//! ```
//! use couplet::{Protocol, Transport};
//! use couplet::testing::run;
//! use std::time::Duration;
//!
//! struct Echo;
//! impl Protocol for Echo {
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         transport.write(data);
//!     }
//! }
//! struct Client;
//! impl Protocol for Client {
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         assert_eq!(data, b"to and fro");
//!         transport.lose_connection();
//!     }
//! }
//!
//! # fn main() -> couplet::Result<()> {
//! let lost = run(|reactor| {
//!     let reactor = reactor.clone();
//!     reactor.clone().spawn(async move {
//!         let port = reactor.listen("tcp:10000", || Echo)?;
//!         let client = reactor.connect("tcp:localhost:10000", || Client).await?;
//!         reactor.sleep(Duration::from_secs(3600)).await?;
//!         client.transport().write("to and fro");
//!         reactor.sleep(Duration::from_secs(1)).await?;
//!         if let Some(stopped) = port.stop_listening() {
//!             stopped.await?;
//!         }
//!         Ok(client.is_lost())
//!     })
//! })?;
//! assert!(lost);
//! # Ok(())
//! # }
//! ```
//!
//! ### What a dirty run prints
//!
//! A program that leaves something behind fails its test, even where its result is right: what is
//! left would go on in the next one, and in production it would be a leak. Here the program forgets
//! its port and a timer, and drops a connect that fails:
//!
//! ```should_panic
//! # use couplet::{Protocol, Transport, testing::run};
//! # use std::time::Duration;
//! # struct Echo;
//! # impl Protocol for Echo { fn data_received(&mut self, _: &Transport, _: &[u8]) {} }
//! run(|reactor| {
//!     reactor.listen("tcp:10000", || Echo).expect("a free port");
//!     reactor.call_later(Duration::from_secs(30), || println!("too late"));
//!     reactor.connect("tcp:127.0.0.1:9", || Echo).detach();
//!     reactor.sleep(Duration::from_secs(1))
//! })
//! .unwrap();
//! ```
//!
//! ```text
//! the program ended and left this behind:
//! 1. a port that listens on tcp:[::]:10000
//!    opened at tests/programs.rs:12:13
//!    to clean up: `port.stop_listening()`
//! 2. a timed call, due in 29s
//!    asked for at tests/programs.rs:13:13
//!    to clean up: keep its `DelayedCall`, and `cancel()` it
//! 3. a failure that nobody handled: connection refused
//!    began at tests/programs.rs:14:13, left by the Deferred of tests/programs.rs:14:13
//!    to clean up: `add_errback` at the end of that chain, or await it
//! ```
//!
//! Connects under way, live connections, tasks and contained panics are told in the same way. The
//! loop's own timers are not: a connection is told once. What is asked for last still comes to its
//! end, and the triggers of [`Shutdown::Before`](crate::Shutdown::Before) are called, so a program
//! that cleans up there is clean; and one that calls [`Reactor::stop`] ends as it does in
//! production, which leaves nothing.
//!
//! A program that can't go on, goes in a circle, or has not ended after a day of virtual time fails
//! as well: the list then says what it waits for.
//!
//! ## A bad network: the simulator
//!
//! [`sim`](crate::sim) runs whole worlds: hosts with a program, a clock and a system each, and the
//! network between them, in one thread and in virtual time. Loop, transports and protocols are
//! those that you ship; below them a [`Sim`] does what Linux does, and what networks do to it. Its
//! seed decides everything that is left to chance, so a world can be run again:
//!
//! ```
//! use std::{cell::Cell, rc::Rc, time::Duration};
//! use couplet::sim::{Fault, Sim};
//! use couplet::{Protocol, Reason, Transport};
//!
//! struct Poet;
//! impl Protocol for Poet {
//!     fn connection_made(&mut self, transport: &Transport) {
//!         transport.write("Shall I compare thee");
//!         transport.connection::<Poet>().call_later(Duration::from_secs(1), |_, transport| {
//!             transport.write(" to a summer's day?");
//!             transport.lose_connection();
//!         });
//!     }
//!     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
//! }
//! struct Reader(usize, Rc<Cell<Option<usize>>>);
//! impl Protocol for Reader {
//!     fn data_received(&mut self, _: &Transport, data: &[u8]) { self.0 += data.len(); }
//!     fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
//!         if reason.is_clean() { self.1.set(Some(self.0)); } // it takes this for the poem
//!     }
//! }
//!
//! let poem = Rc::new(Cell::new(None));
//! let mut sim = Sim::new(7);
//! let server = sim.host("server", |reactor| reactor.listen("tcp:80", || Poet).map(drop));
//! let shelf = poem.clone();
//! sim.host("client", move |reactor| {
//!     let shelf = shelf.clone(); // a program may start more than once
//!     reactor.connect("tcp:server:80", move || Reader(0, shelf.clone())).detach();
//!     Ok(())
//! });
//! sim.fault(Duration::from_millis(500), Duration::from_secs(9), Fault::Kill(server));
//! sim.run_for(Duration::from_secs(60))?;
//! sim.finish()?; // stops the programs: nothing may be left of them
//! assert_eq!(poem.get(), Some(20), "half a poem: the reader can't tell it from a whole one");
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! (`transport.set_reset_unless_closed(true)` in the poet's `connection_made` would have spared the
//! reader that: a poet that is killed then resets.)
//!
//! [`Fault`](crate::sim::Fault) lists what can go wrong: partitions, resets, crashes, clocks that
//! jump, hosts without descriptors. [`set_link`](Sim::set_link) says how long a way takes and how
//! it cuts streams. [`Sim::socket`] and [`Sim::datagrams`] are bare sockets in the test's hand, for
//! a peer that is not yours.
//!
//! ### Weather
//!
//! Faults by hand find what you thought of. A [`Weather`](crate::sim::Weather) draws them from the
//! seed, and [`check`](crate::sim::check) runs a scenario for many seeds. Besides what the scenario
//! asserts, each world [is watched](crate::sim#what-is-checked-in-every-world-all-the-time) all the
//! time:
//!
//! ```
//! # use std::time::Duration;
//! # use couplet::sim::{self, Weather};
//! # use couplet::{Protocol, Transport};
//! # struct Echo;
//! # impl Protocol for Echo {
//! #     fn data_received(&mut self, transport: &Transport, data: &[u8]) { transport.write(data); }
//! # }
//! sim::check(0..20, Weather::Storm, |sim| {
//!     sim.host("server", |reactor| reactor.listen("tcp:80", || Echo).map(drop));
//!     sim.host("client", |reactor| {
//!         // In a storm it may fail, which is not what this looks for.
//!         reactor.connect("tcp:server:80", || Echo).add_both(|_| Ok(())).detach();
//!         Ok(())
//!     });
//!     sim.draw_faults(Duration::from_secs(60));
//!     sim.run_for(Duration::from_secs(120))
//! });
//! ```
//!
//! ### Reading a failure, and replaying it
//!
//! A seed that fails is run again with fewer and fewer faults. The test then panics with the
//! shortest list that still fails, and with the trace before it:
//!
//! ```text
//! seed 4, weather storm: a poem of 5000 bytes was taken for a whole one (at 27.143548552s)
//! 1 of the 14 faults of the weather is enough
//!   at 27.125109858s poet is killed, for 810.176003ms
//! the trace before it:
//! ...
//!     27.061222533 poet       reader#10 sends 1000 bytes
//!     27.079159858 reader     reader#10 data_received 1000 bytes e2f9105e
//!     27.125109858            fault 1 begins: poet is killed
//!     27.125109858 poet       is killed
//!     27.143548552 reader     reader#10 read_closed
//!     27.143548552 reader     reader#10 connection_lost: connection closed by the peer
//!     27.143548552            BROKEN: a poem of 5000 bytes was taken for a whole one
//! replay it with COUPLET_SEED=4
//! ```
//!
//! Each line has its second, its host, and the connection: `reader#10` is the tenth that the reader
//! tried. `COUPLET_SEED=4 cargo test` runs that seed alone, as often as you like, in a debugger
//! too. Where two runs of a seed differ, the report names the first line in which they do:
//! something takes time, order or chance from elsewhere, say by walking a `HashMap`.

#[cfg(doc)]
use crate::Reactor;
#[cfg(doc)]
use crate::sim::Sim;
#[cfg(doc)]
use crate::testing::{
    Clock, Cut, MemoryReactor, Wire, every_split, failure_of, hold, no_result_yet, pair, run,
    success_of,
};
