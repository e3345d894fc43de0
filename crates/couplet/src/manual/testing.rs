//! # Testing your protocol
//!
//! A protocol never sees a socket: it hears of bytes and writes bytes. So a test runs the same object
//! over a network in memory, where nothing is slow, no port is taken, and an hour passes at once. The
//! loop and the transport are those of the program; only the driver below them is another one.
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
//! [`hold`] makes a connection, puts the protocol on it and gives you the far end. `push` sends bytes
//! and lets the loop turn until it is quiet; then you look.
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
//! [`fin`](Wire::fin), closes, or [resets](Wire::reset); and it sees what the protocol did: a FIN, a
//! reset, a pause of its reading.
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
//! A stream has no messages: it may come byte by byte. [`every_split`] feeds an input whole, in single
//! bytes, cut at each place, and at random places. One result must come out:
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
//! Time stands still until the test passes it. `advance` stops at each deadline on the way, and what is
//! due runs at its own time, with whatever it asks for in turn. [`Pair`](crate::testing::Pair),
//! [`Held`](crate::testing::Held) and [`MemoryReactor`] have it:
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
//! A panic in a timed call stops neither the clock nor the other calls, as in any loop; but `advance`
//! then fails the test with it.
//!
//! ## Clients and servers: `MemoryReactor`
//!
//! Code that listens or connects by itself takes the reactor of a [`MemoryReactor`]. Its connects wait
//! for the test, which sees what was asked for and lets each come through or fail:
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
//! [`connect`](MemoryReactor::connect) makes a connection to it. A name that is looked up has an address
//! of its own; [`network`](MemoryReactor::network) gives it others, none, or a slow answer.
//!
//! ## Deferreds
//!
//! [`success_of`] and [`failure_of`] take the result that is there; [`no_result_yet`] sees that there is
//! none. Where it is otherwise, the test fails with what there is instead, and where it came from:
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
//! Deferred that it returns has fired, and gives the result. It runs in memory and in virtual time, and
//! what the program connects to it also serves:
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
//! A program that leaves something behind fails its test, even where its result is right: what is left
//! would go on in the next one, and in production it would be a leak. Here the program forgets its port
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
//! the program is over, and this is left of it:
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
//! Connects under way, live connections, tasks and contained panics are told in the same way. The loop's
//! own timers are not: a connection is told once. What is asked for last still comes to its end, and the
//! triggers of [`Shutdown::Before`](crate::Shutdown::Before) are called, so a program that cleans up there
//! is clean; and one that calls [`Reactor::stop`] ends as it does in production, which leaves nothing.
//!
//! A program that can't go on, goes in a circle, or has not ended after a day of virtual time fails as
//! well: the list then says what it waits for.

#[cfg(doc)]
use crate::Reactor;
#[cfg(doc)]
use crate::testing::{
    Clock, Cut, MemoryReactor, Wire, every_split, failure_of, hold, no_result_yet, pair, run,
    success_of,
};
