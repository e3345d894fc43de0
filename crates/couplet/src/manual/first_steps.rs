//! # A first server and its client
//!
//! A [`Protocol`](crate::Protocol) serves a connection: one object per connection, with a method
//! for each event. Most protocols exchange messages, so they implement
//! [`LineProtocol`](crate::protocols::LineProtocol) or
//! [`StringProtocol`](crate::protocols::StringProtocol), and a framer splits the stream for them.
//!
//! ## The server
//!
//! ```
//! use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
//!
//! struct Greeter;
//!
//! impl LineProtocol for Greeter {
//!     fn line_received(&mut self, transport: &LineTransport, name: &[u8]) {
//!         let name = String::from_utf8_lossy(name);
//!         transport.send_line(format!("hello, {name}"));
//!     }
//! }
//!
//! fn main() -> couplet::Result<()> {
//!     couplet::run(|reactor| {
//!         // Called for each connection: a closure is a factory.
//!         let port = reactor.listen("localhost:0", || LineReceiver::new(Greeter))?;
//!         assert_ne!(port.host().port(), Some(0)); // the system chose a free port
//!         println!("listening on {}", port.host());
//! #       reactor.stop();
//!         Ok(())
//!     })
//! }
//! ```
//!
//! [`run`](crate::run) calls the closure once, then runs the loop until Ctrl-C, SIGTERM or
//! [`Reactor::stop`](crate::Reactor::stop). A real server listens on a fixed port, `"tcp:8000"`;
//! [`endpoints`](crate::endpoints) describes these strings. Try it with `couplet connect 8000`.
//!
//! Nothing here blocks: `send_line` records the bytes, and the loop writes them after the callback
//! returns. Keep callbacks short; for long-running work, see [`threads`](super::threads).
//!
//! ## The client
//!
//! A client is a protocol too. This one delivers its result through a
//! [`Resolver`](crate::Resolver), whose other end is a [`Deferred`](crate::Deferred), a result that
//! arrives later:
//!
//! ```
//! use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
//! use couplet::{Deferred, Reactor, Resolver};
//! # struct Greeter;
//! # impl LineProtocol for Greeter {
//! #     fn line_received(&mut self, transport: &LineTransport, name: &[u8]) {
//! #         transport.send_line(format!("hello, {}", String::from_utf8_lossy(name)));
//! #     }
//! # }
//!
//! struct Caller {
//!     greeting: Option<Resolver<String>>,
//! }
//!
//! impl LineProtocol for Caller {
//!     fn connection_made(&mut self, transport: &LineTransport) {
//!         transport.send_line("Ada");
//!     }
//!     fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
//!         if let Some(greeting) = self.greeting.take() {
//!             greeting.callback(String::from_utf8_lossy(line).into_owned());
//!         }
//!         transport.lose_connection();
//!     }
//! }
//!
//! fn greeting(reactor: &Reactor, endpoint: &str) -> Deferred<String> {
//!     let (greeting, resolver) = Deferred::new();
//!     let mut resolver = Some(resolver);
//!     let caller = move || LineReceiver::new(Caller { greeting: resolver.take() });
//!     reactor.connect(endpoint, caller).then(|_connection| greeting)
//! }
//!
//! // Both in one program, which ends when the Deferred fires.
//! let greeting = couplet::run_until(|reactor| {
//!     match reactor.listen("localhost:0", || LineReceiver::new(Greeter)) {
//!         Ok(port) => greeting(reactor, &port.host().to_string()),
//!         Err(error) => Deferred::fail(error),
//!     }
//! })?;
//! assert_eq!(greeting, "hello, Ada");
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! If the connection cannot be established, the Deferred of `connect` fails and `then` passes the
//! failure on. If the server closes without a greeting, the protocol and its resolver are dropped,
//! and the Deferred fails too: no result stays pending forever.
//!
//! ## The life of a protocol
//!
//! `connection_made` is called first, then `data_received` (or `line_received`) whenever data
//! arrives, and finally `connection_lost`, exactly once, with the [`Reason`](crate::Reason). To
//! signal an error, call `transport.fail(error)`; it ends only this connection.
//!
//! Next: [state that connections share](super::shared_state).
