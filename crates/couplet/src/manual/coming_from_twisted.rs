//! # Coming from Twisted
//!
//! The names (in snake_case), the order of events and the ideas are Twisted's: protocols that don't
//! know their transport, factories, endpoints, Deferreds, tests without a network. So most of your
//! knowledge applies, and this chapter covers the differences. `docs/contract.md` lists the
//! behaviour row by row; a row that differs on purpose ends with Twisted's behaviour, "(Twisted:
//! …)".
//!
//! ```python
//! from twisted.internet import endpoints, protocol, reactor
//!
//! class Echo(protocol.Protocol):
//!     def dataReceived(self, data):
//!         self.transport.write(data)
//!
//! port = endpoints.serverFromString(reactor, "tcp:0:interface=127.0.0.1")
//! port.listen(protocol.Factory.forProtocol(Echo))
//! reactor.run()
//! ```
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
//!         reactor.listen("tcp:0:interface=127.0.0.1", || Echo)?;
//! #       reactor.stop();
//!         Ok(())
//!     })
//! }
//! ```
//!
//! ## Reactor
//!
//! | Twisted | Couplet |
//! | --- | --- |
//! | `reactor.run()` | [`run`](crate::run), with the setup as a closure |
//! | `reactor.stop()` | [`Reactor::stop`](crate::Reactor::stop) |
//! | `task.react(main)` | [`react`](crate::react) |
//! | `callLater`, `callWhenRunning` | [`call_later`](crate::Reactor::call_later), [`call_soon`](crate::Reactor::call_soon) |
//! | `IDelayedCall`: `cancel`, `reset`, `delay` | [`DelayedCall`](crate::DelayedCall): `cancel`, `reset`, `delay_by`; they return whether the call was still pending instead of raising |
//! | `reactor.seconds()` | [`now`](crate::Reactor::now) |
//! | `reactor.resolve` | [`resolve`](crate::Reactor::resolve), all addresses of both families |
//! | `getDelayedCalls` | [`snapshot`](crate::Reactor::snapshot), and SIGUSR1 |
//! | `addSystemEventTrigger("before", "shutdown", f)` | [`on`](crate::Reactor::on)`(`[`Shutdown::Before`](crate::Shutdown::Before)`, f)`; see [`stopping`](super::stopping) |
//! | `addReader`, `addWriter` | `watch`, on Unix |
//! | `spawnProcess`, `ProcessProtocol`, `getProcessOutputAndValue` | `spawn_process`, `process::ProcessProtocol`, `process_output`, on Unix; the environment is inherited, and a program that can't be started is always an immediate error |
//! | `SerialPort` | the endpoint `serial:`, or `adopt_pipe` with `driver::Pipe::serial` |
//! | `StandardIO` | `adopt_pipe` with `driver::Pipe::stdio()`, or the endpoint `stdio:` |
//! | `adoptStreamConnection`, `adoptStreamPort` | [`adopt`](crate::Reactor::adopt), [`adopt_port`](crate::Reactor::adopt_port) |
//! | `reactor.iterate()`, other reactors, GUI reactors | [`Loop::turn`](crate::Loop::turn), [`Loop::with_driver`](crate::Loop::with_driver), [`embedding`](super::embedding) |
//! | the asyncio reactor | [`beside_tokio`](super::beside_tokio) |
//!
//! ## Endpoints
//!
//! | Twisted | Couplet |
//! | --- | --- |
//! | `serverFromString(reactor, s).listen(factory)` | [`reactor.listen(s, factory)`](crate::Reactor::listen) |
//! | `clientFromString(reactor, s).connect(factory)` | [`reactor.connect(s, factory)`](crate::Reactor::connect) |
//! | `connectProtocol(endpoint, p)` | [`reactor.connect_protocol(endpoint, p)`](crate::Reactor::connect_protocol) |
//! | `TCP4ServerEndpoint`, `HostnameEndpoint` | [`TcpServer`](crate::endpoints::TcpServer), [`TcpClient`](crate::endpoints::TcpClient); a string is usually enough |
//! | `UNIXServerEndpoint`, `UNIXClientEndpoint` | [`UnixServer`](crate::endpoints::UnixServer), [`UnixClient`](crate::endpoints::UnixClient) |
//! | `SSL4ServerEndpoint`, `wrapClientTLS` | `tls:` in front of any endpoint |
//! | `haproxy:`, `systemd:` | the same |
//! | an `IStreamServerEndpointStringParser` plugin | [`register_server`](crate::endpoints::register_server), [`register_client`](crate::endpoints::register_client) |
//! | `listenTCP`, `connectTCP`, `listenUNIX`, `connectUNIX` | the same names, `listen_tcp` … |
//! | `listenUDP`, `listenMulticast`, `listenUNIXDatagram`, `transport.connect` | [`listen_udp`](crate::Reactor::listen_udp), [`listen_unix_datagrams`](crate::Reactor::listen_unix_datagrams), [`connect_udp`](crate::Reactor::connect_udp); see [`datagrams`](super::datagrams) |
//! | `IListeningPort`, `IConnector` | [`Port`](crate::Port), [`Connector`](crate::Connector) |
//!
//! Twisted's strings work. Here `tcp:8000` is both IPv6 and IPv4, and a bare number is a port on
//! 127.0.0.1: see [`endpoints`](crate::endpoints).
//!
//! ## Transports
//!
//! | Twisted | Couplet |
//! | --- | --- |
//! | `write`, `writeSequence` | [`write`](crate::Transport::write), for text too; [`write_bytes`](crate::Transport::write_bytes) copies nothing; `write_sequence` |
//! | `loseConnection`, `abortConnection` | [`lose_connection`](crate::Transport::lose_connection), [`abort_connection`](crate::Transport::abort_connection) |
//! | `loseWriteConnection` | [`lose_write_connection`](crate::Transport::lose_write_connection), over TLS too |
//! | raising an exception in a callback | [`fail`](crate::Transport::fail) |
//! | `getPeer`, `getHost` | [`peer`](crate::Transport::peer), [`host`](crate::Transport::host) |
//! | `registerProducer(p, True)`, `(p, False)` | [`register_producer`](crate::Transport::register_producer)`(p, ProducerKind::Push)`, `Pull`; see [`back_pressure`](super::back_pressure) |
//! | `disconnecting` | [`is_closing`](crate::Transport::is_closing) |
//! | `setTcpNoDelay`, `getTcpNoDelay`, `setTcpKeepAlive`, `getTcpKeepAlive`, `getHandle` | `set_tcp_no_delay` (on unless set), `tcp_no_delay`, `set_tcp_keep_alive`, `tcp_keep_alive`, [`with_socket`](crate::Transport::with_socket) |
//! | `startTLS(options)` | `start_tls`, `start_tls_client` |
//! | `sendFileDescriptor` | `send_descriptor`, on Unix |
//! | `transport.protocol = other` | [`upgrade`](crate::Transport::upgrade), which passes on the bytes that a framer has buffered |
//!
//! ## Protocols, factories, framing
//!
//! | Twisted | Couplet |
//! | --- | --- |
//! | `makeConnection`, `connectionMade`, `dataReceived`, `connectionLost` | [`Protocol`](crate::Protocol), without the first |
//! | `self.transport` | an argument of each callback |
//! | `self.factory` | none: an `Rc` that the factory clones into each protocol ([`shared_state`](super::shared_state)) |
//! | `IHalfCloseableProtocol` | [`read_closed`](crate::Protocol::read_closed), [`write_closed`](crate::Protocol::write_closed); every protocol has them ([`half_close`](super::half_close)) |
//! | `IHandshakeListener` | [`handshake_completed`](crate::Protocol::handshake_completed) |
//! | `Factory.forProtocol(P)` | the closure `\|\| P::new()` |
//! | `Factory`, `ClientFactory` | [`Factory`](crate::Factory): `do_start`, `build_protocol`, `client_connection_failed`, `client_connection_lost`, `do_stop` |
//! | `connectionLost(reason)`: `reason.check(ConnectionDone)` | [`Reason`](crate::Reason), an enum; [`is_clean`](crate::Reason::is_clean) |
//! | `LineReceiver`, `LineOnlyReceiver` | [`LineReceiver::new`](crate::protocols::LineReceiver)`(P)`, [`LineOnlyReceiver`](crate::protocols::LineOnlyReceiver), around a [`LineProtocol`](crate::protocols::LineProtocol) |
//! | `NetstringReceiver`, `Int32StringReceiver` | [`NetstringReceiver`](crate::protocols::NetstringReceiver), [`IntReceiver<u32, _>`](crate::protocols::IntReceiver), around a [`StringProtocol`](crate::protocols::StringProtocol) |
//! | `StatefulProtocol`, your own framing | [`Framer`](crate::protocols::Framer); see [`framing`](super::framing) |
//! | `TimeoutMixin` | [`set_idle_timeout`](crate::Transport::set_idle_timeout), or [`Connection::call_later`](crate::Connection::call_later), whose calls end with the connection |
//! | `FileSender` | [`send_file`](crate::protocols::send_file) |
//! | `portforward` | [`Relay`](crate::protocols::Relay) |
//! | `ReconnectingClientFactory`, `ClientService` | [`ReconnectingClientFactory`](crate::protocols::ReconnectingClientFactory), [`ClientService`](crate::services::ClientService) |
//! | `LimitTotalConnectionsFactory`, `LimitConnectionsByPeer` | [`LimitConnections`](crate::protocols::LimitConnections), [`LimitConnectionsByPeer`](crate::protocols::LimitConnectionsByPeer), and more [policies](crate::protocols::Policy) |
//! | `ThrottlingFactory`, `TrafficLoggingFactory` | `throttle:` and `log:` in front of an endpoint |
//! | `ProtocolWrapper` | a [`Layer`](crate::layers::Layer), for bytes; see [`layers`](super::layers) |
//!
//! ## Deferreds
//!
//! [`defer`](crate::defer#coming-from-twisted) has the table of Deferreds, groups, locks and queues.
//!
//! | Twisted | Couplet |
//! | --- | --- |
//! | `addCallbacks(f, g)` | [`add_both`](crate::Deferred::add_both), with a `match` |
//! | `addTimeout(5, reactor)` | [`add_timeout`](crate::Deferred::add_timeout)`(&reactor, Duration::from_secs(5))` |
//! | `d.called` | [`has_fired`](crate::Deferred::has_fired) |
//! | `d1.chainDeferred(d2)` | `d1.add_both(\|result\| { resolver.resolve(result); Ok(()) })` |
//! | `@inlineCallbacks`, `ensureDeferred(coroutine)` | `async`, [`spawn`](crate::Reactor::spawn); to handle `CancelledError`, [`spawn_cancellable`](crate::Reactor::spawn_cancellable) |
//! | `failure.check`, `failure.value`, `getTraceback` | [`is`](crate::Failure::is), [`error`](crate::Failure::error), [`place`](crate::Failure::place): the source location of its origin |
//! | `log.err` at the end of a chain | [`detach`](crate::Deferred::detach): an unhandled failure is reported |
//! | `DeferredFilesystemLock` | [`FilesystemLock`](crate::task::FilesystemLock) |
//!
//! ```python
//! @inlineCallbacks
//! def fetch(reactor, attempts):
//!     for n in range(attempts):
//!         try:
//!             return (yield get_poem(reactor))
//!         except ConnectError:
//!             yield deferLater(reactor, 2 ** n)
//!     raise NoPoem()
//! ```
//!
//! ```
//! use std::time::Duration;
//!
//! use couplet::{ConnectError, Deferred, Failure, Reactor};
//! # fn get_poem(_: &Reactor) -> Deferred<String> { Deferred::fail(ConnectError::Stopped) }
//!
//! async fn fetch(reactor: Reactor, attempts: u32) -> couplet::Result<String> {
//!     for n in 0..attempts {
//!         match get_poem(&reactor).await {
//!             Err(failure) if failure.is::<ConnectError>() => {
//!                 reactor.sleep(Duration::from_secs(2_u64.pow(n))).await?;
//!             }
//!             result => return result,
//!         }
//!     }
//!     Err(Failure::msg("no poem"))
//! }
//! # let result = couplet::testing::run(|reactor| reactor.spawn(fetch(reactor.clone(), 3)));
//! # assert_eq!(result.unwrap_err().to_string(), "no poem");
//! ```
//!
//! ## Tasks, threads, services
//!
//! | Twisted | Couplet |
//! | --- | --- |
//! | `LoopingCall(f).start(5)`, `start(5, now=False)`, `withCount` | [`LoopingCall`](crate::LoopingCall): `start`, `start_later`, `with_count` |
//! | `deferLater` | [`sleep`](crate::Reactor::sleep), [`defer_later`](crate::Reactor::defer_later) |
//! | `cooperate`, `coiterate`, `Cooperator` | [`Cooperator`](crate::task::Cooperator) |
//! | `deferToThread` | [`defer_to_thread`](crate::Reactor::defer_to_thread) |
//! | `callFromThread` | [`Remote::call`](crate::Remote::call); the compiler keeps the reactor itself on its thread |
//! | `blockingCallFromThread` | [`Remote::block_on_reactor`](crate::Remote::block_on_reactor) |
//! | `twisted.enterprise.adbapi` | a blocking client, by `defer_to_thread` |
//! | `Application`, `MultiService`, `twistd`, plugins | none: write a `main`, and let an init system start it |
//! | `twisted.python.log`, `twisted.logger` | [`tracing`](https://docs.rs/tracing): the program chooses the subscriber |
//! | `usage.Options` | any crate for command lines |
//!
//! ## Tests
//!
//! | Twisted | Couplet |
//! | --- | --- |
//! | `trial` | `cargo test` |
//! | a test that returns a Deferred; "Reactor was unclean" | [`testing::run`](crate::testing::run), in virtual time |
//! | `StringTransport`, `StringTransportWithDisconnection` | [`hold`](crate::testing::hold), on a real loop with a virtual clock |
//! | `iosim.connectedServerAndClient` | [`pair`](crate::testing::pair) |
//! | `MemoryReactorClock` | [`MemoryReactor`](crate::testing::MemoryReactor) |
//! | `task.Clock` | [`Clock`](crate::testing::Clock) |
//! | `successResultOf`, `failureResultOf`, `assertNoResult` | [`success_of`](crate::testing::success_of), [`failure_of`](crate::testing::failure_of), [`no_result_yet`](crate::testing::no_result_yet) |
//! | `flushLoggedErrors` | [`set_reporter`](crate::defer::set_reporter), and `take_panics` in the testing kit |
//! | | [`every_split`](crate::testing::every_split), and [whole networks](super::simulator) from a seed |
//!
//! ## TLS
//!
//! | Twisted | Couplet |
//! | --- | --- |
//! | `CertificateOptions`, `PrivateCertificate` | `layers::tls::ServerTlsOptions`, `Identity`; or keywords of `tls:` |
//! | `optionsForClientTLS(hostname)` | `layers::tls::ClientTlsOptions`; the host of the endpoint is verified |
//! | `platformTrust`, `trustRootFromCertificates` | the default, `Roots` |
//! | `getPeerCertificate`, `negotiatedProtocol` | `Transport::tls`, once the handshake is complete |
//! | pyOpenSSL's context | none: rustls, TLS 1.2 and 1.3 |
//!
//! ## Differences, and their reasons
//!
//! **The reactor is a value.** There is no `from twisted.internet import reactor`. A function that needs
//! one takes a `&Reactor`, so a test can pass its own; a process can have several, one per thread; and a
//! stopped reactor can run again.
//!
//! **The transport is an argument,** so no attribute is `None` before `connectionMade`. Other code
//! reaches a protocol through its [`Connection`](crate::Connection): `tell` runs a closure with
//! `&mut self`, in the turn.
//!
//! **Handles record, a turn acts.** Some of Twisted's methods call you back before they return:
//! `loseConnection` may call `connectionLost`, `registerProducer` calls `resumeProducing`, and
//! `LoopingCall.start` makes the first call. Couplet's methods never do, so a callback never finds
//! its own object borrowed. Only Deferreds call back immediately, inside the call that fires them,
//! as in Twisted.
//!
//! **Each method takes one kind of closure.** A callback may change the type of the result, so each method
//! consumes the Deferred and returns a new one. `addCallback` has become three methods: `map` for a function
//! that can't fail, `add_callback` for one that returns a `Result`, `then` for one that returns a Deferred.
//! A Deferred has one consumer; for several waiters there is
//! [`DeferredEvent`](crate::defer::DeferredEvent).
//!
//! **The two ends of a Deferred are two types.** The consumer holds the Deferred, the producer the
//! [`Resolver`](crate::Resolver), which firing consumes: `AlreadyCalledError` became a compile error.
//! Dropping a resolver fails its Deferred, so a forgotten `callback` is a failure instead of a hang.
//!
//! **No `pause` and `unpause`.** To make a chain wait, return a Deferred from a callback.
//!
//! **Errors are values, panics are contained.** A callback of a Deferred returns a `Result`, a callback of
//! a protocol calls [`transport.fail(error)`](crate::Transport::fail). A panic is a bug: it is logged and
//! ends its connection, or fails its chain, and everything else continues, unless the program is built with
//! `panic = "abort"`.
//!
//! **`connection_lost` comes exactly once, with one [`Reason`](crate::Reason),** and is the last callback.
//! If several reasons apply, a documented order decides. When the reactor stops the reason is `Shutdown`,
//! not a broken connection.
//!
//! **A close waits for the peer.** `lose_connection` flushes, sends a FIN, then reads and discards until the
//! peer's FIN. Otherwise a kernel with unread input sends a reset, which can destroy the reply. The wait is
//! bounded by a close deadline, 30 seconds without progress.
//!
//! **Framers wrap protocols; protocols don't inherit from them.** A `LineReceiver` contains a
//! `LineProtocol`. A protocol can be used with another framer, and a message that arrives whole is
//! a slice of the received bytes. Every framer has a length limit; exceeding it ends the
//! connection.
//!
//! **An unhandled failure is reported when the last end of its chain is dropped,** a well-defined moment
//! rather than the next garbage collection. `Cancelled` is never reported.
//!
//! **A cancel drops a task.** For a `CancelledError` at the `yield`, spawn the task with
//! `spawn_cancellable`; see [`cancellation`](super::cancellation).
//!
//! **There is no global log.** The library emits `tracing` events. Until a program sets a
//! subscriber, warnings and errors, including unhandled failures, are printed to stderr.
//!
//! **Signal handlers are restored** when `run` returns.
//!
//! ## Not included
//!
//! - Application protocols other than HTTP (by hyper, with the feature `http`): SSH, DNS, mail,
//!   IRC, AMP, PB.
//! - Service trees, `twistd`, plugins, `twisted.cred`, manholes.
//! - A configurable thread pool: it has at most ten threads.
//!
//! The examples contain all programs of Dave Peticolas' *Twisted Introduction*;
//! `examples/README.md` lists the differences.
