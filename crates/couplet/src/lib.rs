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
//! `?` turns any error into a [`Failure`], the error of callbacks and of this crate's [`Result`].
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
//! call. The loop is single-threaded, and only [`Remote`], the handle for other threads, is `Send`:
//! you use `Rc` and `&mut self`, never a lock. To use many cores, run many loops in a [`Cluster`].
//!
//! # Scope
//!
//! | included | not included |
//! | --- | --- |
//! | TCP and UNIX servers and clients, [`endpoints`], names, happy eyeballs | |
//! | UDP and UNIX datagrams, broadcast, multicast: [`DatagramProtocol`] | |
//! | on Unix: processes, terminals, pipes, serial lines | |
//! | many loops in one program: a [`Cluster`]; io_uring: the feature `uring` and [`DriverChoice`] | |
//! | [layers]: TLS, the PROXY protocol, throttles, traffic logs, or your own | |
//! | [`Deferred`]s, which are futures; tasks; [streams](stream) for `async`; timed calls | |
//! | [framing](protocols): lines, netstrings, length-prefixed strings, or your own [`Framer`](protocols::Framer) | other application protocols |
//! | HTTP/1.1 by hyper, HTTP/2 (for clients by hyper), for axum and any tower service: the feature `http` | |
//! | [relays and policies](protocols): reconnecting, connection and message limits | |
//! | threads: [`Remote`], [`Reactor::defer_to_thread`]; `Reactor::watch` for file descriptors | |
//! | [`testing`] and the simulator, [`sim`] | |
//!
//! # What to read first
//!
//! | to | read |
//! | --- | --- |
//! | learn step by step | [the guide] |
//! | see how callbacks, Deferreds, `async` and streams relate | the chapter [From callbacks to Deferreds to async] |
//! | implement a protocol | [`Protocol`], [`Transport`] |
//! | exchange lines or length-prefixed strings | [`protocols`] |
//! | write a dialogue as a sequence, with `async` | [`stream`] |
//! | build a protocol for each connection, handle failed connects | [`Factory`], [`Shared`] |
//! | listen, connect, call later, spawn a future | [`Reactor`], [`endpoints`] |
//! | configure endpoints as strings, or add your own kind | the chapter [Endpoints] |
//! | exchange datagrams | [`DatagramProtocol`]; the chapter [Datagrams] |
//! | pass an open socket to the loop | [`Reactor::adopt`], [`Reactor::adopt_port`], [`Reactor::listen_datagrams`] |
//! | set any socket option | [`Transport::with_socket`], [`ListenOptions::prepare`] |
//! | reach a protocol from timers and callbacks | [`Connection`] |
//! | switch a connection to another protocol, as CONNECT does | [`Transport::upgrade`] |
//! | serve HTTP, or WebSockets | `http`; the chapter [WebSockets] |
//! | encrypt, throttle or log traffic | [layers]; the chapter [TLS] |
//! | write a program that is one Deferred or task | [`react`] |
//! | stop without cutting clients off | the chapter [Stopping well]; [`Reactor::drain`], [`LoopOptions::drain`] |
//! | cancel an operation, or limit its time | the chapter [Cancellation] |
//! | wait for results | [`defer`]: Deferreds, which are also futures; locks, events and queues |
//! | reconnect automatically, limit connections or rates | [`protocols`] |
//! | serve HTTP with an axum router, or send requests | the chapter [HTTP with axum] |
//! | be a client of PostgreSQL, Redis or HTTPS servers | the chapter [Databases and other clients] |
//! | exchange messages between loops or machines, over NATS or Redis | `bus` |
//! | send messages to many connections, know who is present | `rooms` |
//! | keep a connection to a server | [`services::ClientService`] |
//! | start, restart and stop the parts of a program | [`services::Supervisor`]; the chapter [Services] |
//! | configure, watch and reload such a program | the crate `couplet-runner`; the chapter [Running in production] |
//! | repeat a call | [`LoopingCall`] |
//! | do long work without blocking the loop | [`task::Cooperator`], [`Reactor::defer_to_thread`] |
//! | see why a connection waits, in a running program | `inspect`; the chapter [Why does it wait?] |
//! | find callbacks that block the loop | [`LoopOptions::stall_after`] |
//! | lock out other processes | [`task::FilesystemLock`] |
//! | debug a chain of Deferreds | [`Deferred::history`] |
//! | call from other threads, run blocking code | [`Remote`], [`Reactor::defer_to_thread`] |
//! | start other programs | `Reactor::spawn_process`, `Reactor::process_output`, on Unix |
//! | read and write pipes, terminals and files | `Reactor::adopt_pipe`, on Unix |
//! | watch your own file descriptor | `Reactor::watch`, on Unix |
//! | know why a connection ended | [`Reason`] |
//! | test a protocol | the chapter [Testing your protocol], then [`testing`] |
//! | test programs on a bad network | [`sim`]; for HTTP, the chapter [Your service in a storm] |
//! | own the loop, or run several | [`Loop`] |
//! | run beside tokio, or inside another event loop | the chapters [Using tokio libraries], [A loop inside another loop] |
//! | transform the bytes between a socket and a protocol | [`layers`] |
//! | write another driver | `driver` of `couplet-core`, with its feature `unstable-driver` |
//!
//! Rarely used names are in the modules [`reactor`], [`transport`], [`factory`] and [`task`].
//!
//! # Features
//!
//! | feature | on | adds |
//! | --- | --- | --- |
//! | `testing` | by default | [`testing`], and its in-memory driver |
//! | `sim` | by default | [`sim`]; implies `testing` |
//! | `tls` | by default | `layers::tls`, with the cryptography of aws-lc-rs |
//! | `ring` | | `layers::tls`, with the cryptography of ring |
//! | `backtrace` | by default | backtraces of loops that stall, in the log and in the inspector, on Linux with glibc |
//! | `sim-tokio` | | `Sim::host_with_tokio`, tokio's tasks and timers in the simulator |
//! | `trap` | | the C library's time and entropy, from the seed on [simulating](sim) threads: for test binaries, on Linux |
//! | `http` | | `http`: HTTP/1.1 and HTTP/2 servers and clients |
//! | `inspect` | | `inspect`: a page, and JSON, about the connections, tasks and timers of a running program, and why they wait; implies `websocket` |
//! | `decompression` | | decoding of compressed answers by `http::Client`: gzip, deflate, br, zstd; implies `http` |
//! | `websocket` | | `http::websocket`, WebSocket clients and handlers; implies `http` |
//! | `bus` | | `bus`: publish, subscribe, request and presence, in memory, over NATS and over Redis |
//! | `rooms` | | `rooms`: messages to many connections, presence, histories |
//! | `hyper` | | hyper's `Read` and `Write` for [streams](stream), without its HTTP |
//! | `uring` | | the driver over io_uring on Linux, which `LoopOptions::driver` chooses |
//! | `tokio-io` | | tokio's `AsyncRead` and `AsyncWrite` for [streams](stream), without its runtime |
//! | `tokio` | | `embed`, a loop inside a tokio runtime; `LoopOptions::tokio`, a tokio runtime around a loop |
//!
//! A shipped program can omit `testing` and `sim` with `default-features = false`, and enable them
//! in its `dev-dependencies`.
//!
//! # Stability
//!
//! Until 1.0, each change of the interface is in the changelog. The parts below may change in any
//! release, also after 1.0:
//!
//! - [`hooks`], the hidden modules, and the crates beneath this one, such as `couplet-core`, whose
//!   `driver` needs the feature `unstable-driver`;
//! - the text of errors, of [snapshots](reactor::Snapshot), logs and leak reports;
//! - the fields of snapshots: new ones may appear, and each describes the loop of one version.
//!
//! Foreign types below 1.0 are in the interface where Rust has no stable ones: `socket2::SockRef`
//! in [`with_socket`](Transport::with_socket) and the `prepare` options, and `futures_core::Stream`.
//!
//! # The life of a connection
//!
//! `build_protocol` → [`connection_made`](Protocol::connection_made) →
//! [`data_received`](Protocol::data_received)… → [`read_closed`](Protocol::read_closed) when the
//! peer shuts down its write side → [`connection_lost`](Protocol::connection_lost), exactly once,
//! with the [`Reason`].
//!
//! [`lose_connection`](Transport::lose_connection) flushes the written bytes, sends a FIN, and
//! reads and discards incoming bytes until the peer's FIN, all bounded by a close deadline.
//! [`abort_connection`](Transport::abort_connection) resets the connection. A callback signals an
//! error with [`transport.fail(error)`](Transport::fail); an error or a panic ends only its own
//! connection.
//!
//! `write` never blocks. There are three ways to bound the output buffer: a
//! [producer](Transport::register_producer), [`writable`](Transport::writable), and a hard cap
//! ([`set_write_cap`](Transport::set_write_cap)).
//!
//! # Coming from Twisted
//!
//! Names and the order of events are Twisted's, in snake_case. [The contract] lists the
//! deliberate differences, row by row. The reactor is a value and can run again; each method of a
//! Deferred takes one kind of closure; `data_received` and the other callbacks get the transport as
//! an argument. The chapter [Coming from Twisted] has a table of names and the reasons for the
//! differences, and [Coming from tokio] does the same for tokio. Programs in Python keep their code:
//! [couplet-twisted] is a reactor for Twisted on Couplet's loop.
//!
//! [The contract]: https://github.com/couplet-rs/couplet/blob/main/docs/contract.md
//! [the guide]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/README.md
//! [From callbacks to Deferreds to async]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/callbacks-to-async.md
//! [Endpoints]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/endpoints.md
//! [Datagrams]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/datagrams.md
//! [WebSockets]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/websocket.md
//! [TLS]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/tls.md
//! [Services]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/services.md
//! [Why does it wait?]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/inspector.md
//! [Running in production]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/production.md
//! [Stopping well]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/stopping.md
//! [Cancellation]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/cancellation.md
//! [HTTP with axum]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/http.md
//! [Databases and other clients]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/databases.md
//! [Testing your protocol]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/testing.md
//! [Your service in a storm]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/storm.md
//! [Using tokio libraries]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/beside-tokio.md
//! [A loop inside another loop]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/embedding.md
//! [couplet-twisted]: https://github.com/couplet-rs/couplet/blob/main/python/README.md
//! [Coming from Twisted]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/coming-from-twisted.md
//! [Coming from tokio]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/coming-from-tokio.md
#![forbid(unsafe_code)]

#[cfg(feature = "bus")]
#[doc(inline)]
pub use couplet_bus as bus;
#[cfg(feature = "http")]
#[doc(inline)]
pub use couplet_http as http;
#[cfg(feature = "inspect")]
#[doc(inline)]
pub use couplet_inspect as inspect;

#[cfg(feature = "rooms")]
#[doc(inline)]
pub use couplet_rooms as rooms;

#[cfg(all(unix, feature = "tokio"))]
#[doc(inline)]
pub use couplet_core::embed;
#[cfg(feature = "testing")]
#[doc(inline)]
pub use couplet_core::testing;
#[doc(inline)]
pub use couplet_core::{
    Address, Answers, By, Bytes, CertificateProblem, Cluster, ConnectError, ConnectOptions,
    Connection, ConnectionId, ConnectionLost, Connector, ConnectorState, Datagram,
    DatagramEndpoint, DatagramOptions, DatagramPort, DatagramProtocol, DatagramSocket,
    DatagramTransport, Deferred, DelayedCall, DriverChoice, Factory, Failure, Fault, Group,
    HandOver, Interest, Interface, IntoFactory, ListenError, ListenOptions, ListeningSocket,
    LoadLimits, Loop, LoopOptions, LoopingCall, Newcomer, PeerCredentials, Port, PortStopped,
    Producer, ProducerKind, Protocol, ProtocolExtension, Reactor, Ready, Reason, Remote, Resolver,
    Result, Seat, SendError, Shared, Shutdown, Signal, SocketOption, SocketOptionKind, Stream,
    TlsError, TlsProblem, Transport, UnixAddress, cluster, react, run, run_until,
};
#[cfg(unix)]
#[doc(inline)]
pub use couplet_core::{Watch, process};
#[doc(inline)]
pub use couplet_core::{
    backlog, defer, endpoints, factory, layers, protocols, reactor, services, stream, task,
    task_local, transport,
};
#[cfg(feature = "sim")]
#[doc(inline)]
pub use couplet_sim as sim;

/// Functions for guests: code that drives a connection or a loop on behalf of another library or
/// language, of an inspector, or of a process that continues a connection. Unstable.
pub mod hooks {
    #[doc(hidden)]
    pub use couplet_core::hooks::SortedMap;
    #[cfg(unix)]
    #[doc(inline)]
    pub use couplet_core::hooks::descriptor;
    #[doc(inline)]
    pub use couplet_core::hooks::{
        ConnectTarget, Note, NoteRow, connector, dropped, forked, interrupt, is_starting_layer,
        keep, made_at, note, note_rows, random, set_in_message, set_write_until_end,
        share_progress, suspend_turn, unacknowledged, unix_time,
    };
}
