//! Network programming with protocols: Twisted's ideas at Rust's speed.
//!
//! You write a [`Protocol`] once: what to do when a connection is made, when bytes arrive, when it
//! is lost. A [`Reactor`] runs it on every connection; a test runs the same object in memory.
//!
//! ```
//! use couplet::{Protocol, Transport};
//!
//! struct Echo;
//!
//! impl Protocol for Echo {
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         transport.write(data);
//!     }
//! }
//!
//! fn main() -> couplet::Result<()> {
//!     couplet::run(|reactor| {
//!         let port = reactor.listen("tcp:0", || Echo)?; // a closure is a factory
//!         println!("listening on {}", port.host());
//! #       reactor.stop();
//!         Ok(())
//!     })
//! }
//! ```
//!
//! And its test, without a socket:
//!
//! ```
//! # use couplet::{Protocol, Transport};
//! # struct Echo;
//! # impl Protocol for Echo {
//! #     fn data_received(&mut self, transport: &Transport, data: &[u8]) { transport.write(data); }
//! # }
//! let mut held = couplet::testing::hold(Echo);
//! held.push(b"hello");
//! assert_eq!(held.wire.take(), b"hello");
//! ```
//!
//! And whole programs meet crashes, partitions and long nights in [`sim`], where a seed replays every
//! one of them.
//!
//! # The one idea: handles record, a turn acts
//!
//! [`Transport`], [`Connection`], [`Reactor`], [`Port`] and [`Connector`] are handles: cheap to
//! clone and to keep. A handle only records what was asked of it; the turn of the [`Loop`] alone
//! acts. So the loop calls your code from one place, never from inside a call that you made; the
//! effects on a connection happen in the order in which you asked for them; and what you asked
//! holds from the call on. The loop is one thread, and nothing of it is `Send` but [`Remote`], the
//! door for other threads: you write `Rc` and `&mut self`, never a lock. Many cores are used by
//! many loops, one a thread.
//!
//! # What is there, and what is not
//!
//! | there | not there |
//! | --- | --- |
//! | TCP servers and clients, [`endpoints`], names, happy eyeballs | TLS |
//! | [`Deferred`]s, which are futures; tasks; timed calls | UNIX sockets |
//! | [framing](protocols): lines, netstrings, strings with a length, and your own by [`Framer`](protocols::Framer) | UDP, outside of [`sim`] |
//! | [relays and policies](protocols): reconnecting, limits of connections and of messages | processes |
//! | threads: [`Remote`], [`Reactor::defer_to_thread`]; `Reactor::watch` for descriptors | io_uring |
//! | [`testing`] and the simulator, [`sim`] | HTTP and other application protocols |
//!
//! # What to read first
//!
//! | you want to | read |
//! | --- | --- |
//! | learn step by step | the guide, [`manual`] |
//! | speak a protocol | [`Protocol`], [`Transport`] |
//! | speak in lines or in strings with a length | [`protocols`] |
//! | build one per connection, hear of failed connects | [`Factory`], [`Shared`] |
//! | listen, connect, call later, spawn a future | [`Reactor`], [`endpoints`] |
//! | come back to a protocol later: timers, answers | [`Connection`] |
//! | wait for results | [`defer`]: Deferreds, which are futures too; locks and queues |
//! | take what is ready-made: reconnecting, policies | [`protocols`] |
//! | repeat something | [`LoopingCall`] |
//! | call from other threads, run what blocks | [`Remote`], [`Reactor::defer_to_thread`] |
//! | watch a descriptor of your own | `Reactor::watch`, on Unix |
//! | know why a connection ended | [`Reason`] |
//! | test a protocol | the chapter [`manual::testing`], then [`testing`] |
//! | see what a bad network does to your programs | [`sim`] |
//! | own the loop, or have several | [`Loop`] |
//! | write another driver | [`driver`] |
//!
//! # The life of a connection
//!
//! `build_protocol` → [`connection_made`](Protocol::connection_made) →
//! [`data_received`](Protocol::data_received)… → [`read_closed`](Protocol::read_closed) when the
//! peer has no more to send → [`connection_lost`](Protocol::connection_lost), exactly once, with
//! the [`Reason`].
//!
//! [`lose_connection`](Transport::lose_connection) flushes what was written, sends a FIN, reads
//! and drops what still comes until the peer's FIN, and is bounded by a close deadline.
//! [`abort_connection`](Transport::abort_connection) resets. An error in a callback is
//! [`transport.fail(error)`](Transport::fail), or a panic: either loses that one connection.
//!
//! `write` never blocks, and there are three ways not to write too much: a
//! [producer](Transport::register_producer), [`drained`](Transport::drained), and a hard cap
//! ([`set_write_cap`](Transport::set_write_cap)).
//!
//! # For those who know Twisted
//!
//! Names and the order of events are Twisted's, in snake_case. What differs on purpose is written
//! down in `docs/contract.md`, row by row. The reactor is a value and can be run again; callbacks
//! of a Deferred take one kind of closure each; `dataReceived` and friends get the transport as an
//! argument.
#![forbid(unsafe_code)]

mod address;
pub mod defer;
pub mod driver;
pub mod endpoints;
mod error;
mod factory;
pub mod manual;
mod panics;
mod protocol;
pub mod protocols;
mod reactor;
pub mod sim;
mod slots;
mod task;
pub mod testing;
mod transport;

pub use address::Address;
pub use bytes::Bytes;
pub use defer::{Deferred, Failure, Resolver, Result};
pub use driver::{ConnectOptions, Interest, ListenOptions, Ready, Signal, SocketOption};
pub use error::{By, ConnectError, ConnectionLost, ListenError, Reason};
pub use factory::{
    Factory, FromClosure, FromPeerClosure, IntoFactory, IsClosure, IsFactory, IsPeerClosure, Shared,
};
pub use protocol::Protocol;
pub use reactor::{
    ConnectionSnapshot, Connector, ConnectorSnapshot, ConnectorState, DelayedCall, Loop, LoopGone,
    LoopOptions, NotDisconnected, Port, PortSnapshot, Reactor, Remote, Shutdown, Snapshot, Stopped,
    WouldWaitForItself, run, run_until,
};
#[cfg(unix)]
pub use reactor::{NotWatching, Watch};
pub use task::{AlreadyRunning, LoopResult, LoopingCall};
pub use transport::{
    Connection, ConnectionId, Producer, ProducerKind, ProducerRegistered, Transport,
};
