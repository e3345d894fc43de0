//! # Testing your protocol
//!
//! A protocol never sees a socket: it receives bytes and writes bytes. So a test runs the same
//! object over an in-memory network, where I/O is instant, ports are always free, and an hour
//! passes immediately. The loop and the transport are the same as in the program; only the driver
//! below them differs.
//!
//! | to test | use |
//! | --- | --- |
//! | one protocol's answers | [`hold`], and its [`Wire`] |
//! | a client and its server | [`pair`] |
//! | that it doesn't matter how the stream is split | [`every_split`], [`Cut`] |
//! | timers, timeouts, retries | `advance`; a [`Clock`] if there is no connection |
//! | code that listens and connects itself | [`MemoryReactor`] |
//! | the result of a Deferred | [`success_of`], [`failure_of`], [`no_result_yet`] |
//! | a whole program, and that it cleans up | [`run`] |
//! | programs on several hosts over a bad network | [`sim`](crate::sim) |
//!
//! ## A protocol and its test
//!
//! This protocol receives numbers, one per line, and answers each with the sum so far:
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
//! assert!(held.wire.saw_fin(), "an invalid line ends the connection");
//! ```
//!
//! [`hold`] creates a connection with the protocol on it and gives you the far end. `push` sends
//! bytes and runs turns until the loop is idle; then you check the result.
//!
//! ## Both ends: `pair`
//!
//! [`pair`] connects a client protocol to a server protocol.
//! [`with_a`](crate::testing::Pair::with_a) and [`with_b`](crate::testing::Pair::with_b) call into
//! either one, then settle:
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
//! ## The network side: `Wire`
//!
//! The [`Wire`] is the far end of a connection. It sends and takes bytes, ends its stream with
//! [`fin`](Wire::fin), closes, or [resets](Wire::reset). It also shows the protocol's actions: a
//! FIN, a reset, paused reading.
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
//! held.settle(); // actions on the wire take effect when the loop turns
//! assert!(matches!(*watches.0.borrow(), Some(Reason::Lost(_))));
//! ```
//!
//! ## Splits
//!
//! A stream has no message boundaries: it may arrive byte by byte. [`every_split`] feeds an input
//! whole, in single bytes, split at each position, and at random positions. The result must be the
//! same every time:
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
//! For two protocols, use [`pair_on`](crate::testing::pair_on) with a [`Cut`] and a seed.
//!
//! ## Time
//!
//! Time stands still until the test advances it. `advance` stops at each deadline on the way, so
//! every timed call runs at its own time, including those scheduled along the way.
//! [`Pair`](crate::testing::Pair), [`Held`](crate::testing::Held) and [`MemoryReactor`] have this
//! method:
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
//! For code without a connection, use the reactor of a [`Clock`]:
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
//! As in any loop, a panic in a timed call stops neither the clock nor the other calls; but
//! afterwards `advance` fails the test with it. The same applies to all code that the kit runs, so
//! callbacks may contain assertions. A test that expects a panic takes it with
//! [`take_panics`](Clock::take_panics).
//!
//! ## Clients and servers: `MemoryReactor`
//!
//! For code that listens or connects itself, use the reactor of a [`MemoryReactor`]. Its connects
//! wait for the test, which sees each request and lets it succeed or fail:
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
//! /// Tries a second host if the first does not answer.
//! fn reach(reactor: &Reactor) -> Deferred<Connection<Client>> {
//!     let again = reactor.clone();
//!     let first = reactor.connect("tcp:first.example:80:timeout=5", || Client);
//!     first.recover(move |_| again.connect("tcp:second.example:80", || Client))
//! }
//!
//! let mut memory = MemoryReactor::new();
//! let reached = reach(&memory.reactor());
//! assert_eq!(memory.connecting()[0].remote_host(), "first.example");
//! memory.advance(Duration::from_secs(5)); // no answer
//! let second = memory.connecting().remove(0);
//! assert_eq!((second.remote_host(), second.remote_port()), ("second.example", 80));
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
//! assert!(matches!(failure.downcast_ref(), Some(ConnectError::NoRoute(_))));
//! ```
//!
//! A server appears in [`listening`](MemoryReactor::listening), and
//! [`connect`](MemoryReactor::connect) connects to it. Each name resolves to a different address;
//! use [`network`](MemoryReactor::network) to give it other addresses, none, or a slow lookup.
//!
//! ## Deferreds
//!
//! [`success_of`] and [`failure_of`] take the result; [`no_result_yet`] asserts that the Deferred
//! hasn't fired. A failed assertion shows the actual result and its origin:
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
//! [`run`] replaces [`couplet::run_until`](crate::run_until): it runs a program until the Deferred
//! that the program returns fires, and returns the result. It runs in memory and in virtual time,
//! so the program must also run the servers that it connects to:
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
//! ### The report of a dirty run
//!
//! A program that leaks fails its test, even if its result is right. This program forgets its port
//! and a timer, and drops a connect that fails:
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
//! the program ended and left behind:
//! 1. a port that listens on tcp:[::]:10000
//!    opened at tests/programs.rs:12:13
//!    to clean up: `port.stop_listening()`
//! 2. a timed call, due in 29s
//!    requested at tests/programs.rs:13:13
//!    to clean up: keep its `DelayedCall`, and `cancel()` it
//! 3. an unhandled failure: connection refused
//!    began at tests/programs.rs:14:13, unhandled by the Deferred created at tests/programs.rs:14:13
//!    to clean up: `add_errback` at the end of that chain, or await it
//! ```
//!
//! Pending connects, live connections, tasks and contained panics are reported in the same way. The
//! loop's own timers are not: each connection is reported once. Final requests still complete, and
//! the triggers of [`Shutdown::Before`](crate::Shutdown::Before) are called, so a program may clean
//! up there. A program that calls [`Reactor::stop`] ends as in production, which closes everything.
//!
//! A program that is stuck, loops without progress, or has not ended after a day of virtual time
//! fails too: the list then shows its pending waits.
//!
//! ## A bad network: the simulator
//!
//! [`sim`](crate::sim) runs whole worlds: hosts, each with a program, a clock and a system, and the
//! network between them, in one thread and in virtual time. The loop, transports and protocols are
//! the ones you ship; below them a [`Sim`] simulates Linux and the network. Its seed determines
//! every random choice, so a world can be replayed:
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
//!         if reason.is_clean() { self.1.set(Some(self.0)); } // it takes this for the whole poem
//!     }
//! }
//!
//! let poem = Rc::new(Cell::new(None));
//! let mut sim = Sim::new(7);
//! let server = sim.host("server", |reactor| reactor.listen("tcp:80", || Poet).map(drop));
//! let shelf = poem.clone();
//! sim.host("client", move |reactor| {
//!     let shelf = shelf.clone(); // a program may be started more than once
//!     reactor.connect("tcp:server:80", move || Reader(0, shelf.clone())).detach();
//!     Ok(())
//! });
//! sim.fault(Duration::from_millis(500), Duration::from_secs(9), Fault::Kill(server));
//! sim.run_for(Duration::from_secs(60))?;
//! sim.finish()?; // stops the programs, which must leave nothing behind
//! assert_eq!(poem.get(), Some(20), "half a poem: the reader can't tell it from a whole one");
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! (`transport.set_reset_unless_closed(true)` in the poet's `connection_made` would prevent this: a
//! killed poet would then reset.)
//!
//! [`Fault`](crate::sim::Fault) lists the possible faults: partitions, resets, crashes, clock
//! jumps, hosts that run out of file descriptors. [`set_link`](Sim::set_link) sets the latency of a
//! link and how it splits streams. [`Sim::socket`] and [`Sim::datagrams`] give the test bare
//! sockets, for a peer that is not yours.
//!
//! ### Weather
//!
//! Faults scheduled by hand find the problems you thought of. A [`Weather`](crate::sim::Weather)
//! draws faults from the seed, and [`check`](crate::sim::check) runs a scenario for many seeds. In
//! addition to the scenario's own assertions, each world [is
//! checked](crate::sim#what-every-world-checks-all-the-time) continuously:
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
//!         // In a storm it may fail, which is not what this test is about.
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
//! A failing seed is run again with fewer and fewer faults. The test then panics with the shortest
//! list that still fails, and the trace leading up to the failure:
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
//! Each line has the time in seconds, the host, and the connection: `reader#10` is the reader's
//! tenth attempt. `COUPLET_SEED=4 cargo test` runs only that seed, as often as you like, even in a
//! debugger. If two runs of a seed differ, the report shows the first line where they diverge: the
//! program takes time, order or randomness from outside, for example by iterating over a `HashMap`.

#[cfg(doc)]
use crate::Reactor;
#[cfg(doc)]
use crate::sim::Sim;
#[cfg(doc)]
use crate::testing::{
    Clock, Cut, MemoryReactor, Wire, every_split, failure_of, hold, no_result_yet, pair, run,
    success_of,
};
