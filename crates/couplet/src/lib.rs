//! Network programming with protocols: Twisted's ideas at Rust's speed.
//!
//! You write a [`Protocol`] once: what to do when a connection is made, when bytes arrive, and when
//! it is lost. A [`Reactor`] runs it on every connection; a test runs the same object in memory.
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
//! [`sim`] exposes whole programs to crashes, partitions and long stretches of virtual time, and
//! replays any run from its seed.
//!
//! # The one idea: handles record, a turn acts
//!
//! [`Transport`], [`Connection`], [`Reactor`], [`Port`] and [`Connector`] are handles: cheap to
//! clone and to keep. A handle only records requests; only the turn of the [`Loop`] acts on them.
//! So the loop calls your code from one place, never from inside a call that you made; effects on a
//! connection happen in the order you requested them; and a request counts from the moment of the
//! call. The loop is single-threaded, and only [`Remote`], the way in for other threads, is `Send`:
//! you write `Rc` and `&mut self`, never a lock. To use many cores, run many loops: a [`Cluster`].
//!
//! # What is included, and what is not
//!
//! | included | not included |
//! | --- | --- |
//! | TCP and UNIX servers and clients, [`endpoints`], names, happy eyeballs | |
//! | UDP and UNIX datagrams, broadcast, multicast: [`DatagramProtocol`] | |
//! | processes, terminals, pipes, serial lines, on Unix | |
//! | many loops in one program: a [`Cluster`] | |
//! | [layers]: TLS, the PROXY protocol, throttles, traffic logs, and your own | |
//! | [`Deferred`]s, which are futures; tasks; [streams](stream) for `async`; timed calls | io_uring |
//! | [framing](protocols): lines, netstrings, length-prefixed strings, and your own with [`Framer`](protocols::Framer) | other application protocols |
//! | HTTP/1.1 and HTTP/2 by hyper, for axum and any service of tower: the feature `http` | |
//! | [relays and policies](protocols): reconnecting, connection and message limits | |
//! | threads: [`Remote`], [`Reactor::defer_to_thread`]; `Reactor::watch` for file descriptors | |
//! | [`testing`] and the simulator, [`sim`] | |
//!
//! # What to read first
//!
//! | to | read |
//! | --- | --- |
//! | learn step by step | the guide, [`manual`] |
//! | see how callbacks, Deferreds, `async` and streams relate | the chapter [`manual::callbacks_to_async`] |
//! | implement a protocol | [`Protocol`], [`Transport`] |
//! | exchange lines or length-prefixed strings | [`protocols`] |
//! | write a dialogue as a sequence, with `async` | [`stream`] |
//! | build a protocol per connection, handle failed connects | [`Factory`], [`Shared`] |
//! | listen, connect, call later, spawn a future | [`Reactor`], [`endpoints`] |
//! | say in a string where to listen and through what, or add a kind of your own | the chapter [`manual::endpoints`] |
//! | exchange datagrams | [`DatagramProtocol`]; the chapter [`manual::datagrams`] |
//! | pass it a socket that is already open | [`Reactor::adopt`], [`Reactor::adopt_port`] |
//! | set any option of a socket | [`Transport::with_socket`], [`ListenOptions::prepare`] |
//! | get back to a protocol later, from timers and callbacks | [`Connection`] |
//! | switch to another protocol, as STARTTLS and CONNECT do | [`Transport::upgrade`] |
//! | serve HTTP, or WebSockets | `http`; the chapter `manual::websocket` |
//! | encrypt, throttle or log what passes | [layers], `manual::tls` |
//! | write a program that is one Deferred or task | [`react`] |
//! | end without cutting anybody off | the chapter [`manual::stopping`]; [`Reactor::drain`], [`LoopOptions::drain`] |
//! | cancel, or limit the time of something | the chapter [`manual::cancellation`] |
//! | wait for results | [`defer`]: Deferreds, which are also futures; locks, events and queues |
//! | use ready-made reconnecting and policies | [`protocols`] |
//! | serve HTTP by an axum router, or ask for a URL | the chapter `manual::http` |
//! | use PostgreSQL, Redis or HTTPS servers | the chapter `manual::databases` |
//! | keep a connection to a server | [`services::ClientService`] |
//! | repeat something | [`LoopingCall`] |
//! | do long work without holding up the loop | [`task::Cooperator`], [`Reactor::defer_to_thread`] |
//! | find out what holds up the loop | [`LoopOptions::stall_after`] |
//! | let one process at a time do something | [`task::FilesystemLock`] |
//! | find out why a Deferred did what it did | [`Deferred::history`] |
//! | call from other threads, run blocking code | [`Remote`], [`Reactor::defer_to_thread`] |
//! | start other programs | `Reactor::spawn_process`, `Reactor::process_output`, on Unix |
//! | read and write pipes, terminals and files | `Reactor::adopt_pipe`, on Unix |
//! | watch a file descriptor of your own | `Reactor::watch`, on Unix |
//! | know why a connection ended | [`Reason`] |
//! | test a protocol | the chapter [`manual::testing`], then [`testing`] |
//! | see what a bad network does to your programs | [`sim`]; for HTTP, the chapter `manual::storm` |
//! | own the loop, or run several | [`Loop`] |
//! | run beside tokio, or inside another event loop | the chapters [`manual::beside_tokio`], [`manual::embedding`] |
//! | transform the bytes between a socket and a protocol | [`layers`] |
//! | write another driver | [`driver`] |
//!
//! Names that a program rarely writes are in the module of what they belong to: [`reactor`],
//! [`transport`], [`factory`], [`task`].
//!
//! # Features
//!
//! | feature | on | what it adds |
//! | --- | --- | --- |
//! | `testing` | by default | [`testing`], and the driver in memory below it |
//! | `sim` | by default | [`sim`]; it implies `testing` |
//! | `tls` | by default | `layers::tls`, with the cryptography of aws-lc-rs |
//! | `ring` | | `layers::tls`, with the cryptography of ring |
//! | `sim-tokio` | | `Sim::host_with_tokio`, tokio's tasks and timers in the simulator |
//! | `trap` | | time and entropy of the system from the seed, on threads that [simulate](sim): for test binaries, on Linux |
//! | `http` | | `http`: servers and clients of HTTP/1.1 and HTTP/2, by hyper |
//! | `decompression` | | compressed answers, decoded by `http::Client`: gzip, deflate, br, zstd; it implies `http` |
//! | `websocket` | | `http::websocket`, WebSockets for clients and for handlers of requests; it implies `http` |
//! | `hyper` | | hyper's `Read` and `Write` for [streams](stream), without its HTTP |
//! | `tokio-io` | | tokio's `AsyncRead` and `AsyncWrite` for [streams](stream), without its runtime |
//! | `tokio` | | `embed`, a loop inside a runtime of tokio; `LoopOptions::tokio`, a runtime around a loop |
//!
//! A program that is shipped can leave both out by `default-features = false`, and name them among
//! its `dev-dependencies`.
//!
//! # The life of a connection
//!
//! `build_protocol` → [`connection_made`](Protocol::connection_made) →
//! [`data_received`](Protocol::data_received)… → [`read_closed`](Protocol::read_closed) when the
//! peer shuts down its write side → [`connection_lost`](Protocol::connection_lost), exactly once,
//! with the [`Reason`].
//!
//! [`lose_connection`](Transport::lose_connection) flushes what was written, sends a FIN, and reads
//! and discards incoming bytes until the peer's FIN, all bounded by a close deadline.
//! [`abort_connection`](Transport::abort_connection) resets. A callback signals an error with
//! [`transport.fail(error)`](Transport::fail); that or a panic loses only its connection.
//!
//! `write` never blocks, and there are three ways to avoid writing too much: a
//! [producer](Transport::register_producer), [`drained`](Transport::drained), and a hard cap
//! ([`set_write_cap`](Transport::set_write_cap)).
//!
//! # Coming from Twisted
//!
//! Names and the order of events are Twisted's, in snake_case. `docs/contract.md` lists the
//! deliberate differences, row by row. The reactor is a value and can be run again; callbacks
//! of a Deferred take one kind of closure each; `dataReceived` and friends get the transport as an
//! argument. The chapter [`manual::coming_from_twisted`] has a table of names and the reasons, and
//! [`manual::coming_from_tokio`] is the same for tokio.
#![forbid(unsafe_code)]

#[cfg(test)]
#[macro_use]
extern crate couplet_watched;

// First, as its macros are textual.
#[macro_use]
mod events;

mod address;
mod datagrams;
pub mod defer;
pub mod driver;
#[cfg(all(unix, feature = "tokio"))]
pub mod embed;
pub mod endpoints;
mod error;
pub mod factory;
#[cfg(feature = "http")]
pub mod http;
pub mod layers;
pub mod manual;
mod panics;
#[cfg(unix)]
pub mod process;
mod protocol;
pub mod protocols;
pub mod reactor;
pub mod services;
#[cfg(feature = "sim")]
pub mod sim;
mod slots;
pub mod stream;
pub mod task;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transport;
mod unread;

pub use address::{Address, UnixAddress};
pub use bytes::Bytes;
pub use datagrams::{DatagramPort, DatagramProtocol, DatagramTransport, PortStopped, SendError};
pub use defer::{Deferred, Failure, Resolver, Result};
pub use driver::{
    ConnectOptions, Datagram, DatagramOption, DatagramOptions, Group, Interest, Interface,
    ListenOptions, PeerCredentials, Ready, Signal, SocketOption,
};
pub use error::{
    By, CertificateProblem, ConnectError, ConnectionLost, Fault, ListenError, Reason, TlsError,
    TlsProblem,
};
#[doc(inline)]
pub use factory::{Factory, IntoFactory, Newcomer, Seat, Shared};
pub use protocol::Protocol;
#[cfg(unix)]
#[doc(inline)]
pub use reactor::Watch;
#[doc(inline)]
pub use reactor::{
    Answers, Cluster, Connector, ConnectorState, DelayedCall, Loop, LoopOptions, Port, Reactor,
    Remote, Shutdown, cluster, react, run, run_until,
};
#[doc(inline)]
pub use stream::Stream;
#[doc(inline)]
pub use task::LoopingCall;
#[doc(inline)]
pub use transport::{Connection, ConnectionId, Producer, ProducerKind, Transport};
