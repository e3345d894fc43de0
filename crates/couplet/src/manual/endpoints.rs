//! # Endpoints
//!
//! An endpoint says where to listen or connect, and through which layers. As a string it belongs in
//! a configuration file or on a command line, so the operator decides whether a program speaks TLS,
//! runs behind a proxy, or gets its socket from systemd. The program stays the same:
//!
//! ```
//! use couplet::{Protocol, Reactor, Transport};
//!
//! struct Echo;
//! impl Protocol for Echo {
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         transport.write(data);
//!     }
//! }
//!
//! fn serve(reactor: &Reactor, configured: &str) -> couplet::Result<()> {
//!     println!("listening on {}", reactor.listen(configured, || Echo)?);
//!     Ok(())
//! }
//! # let reactor_loop = couplet::Loop::new()?;
//! # serve(&reactor_loop.reactor(), "0")?;
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! | `configured` | effect |
//! | --- | --- |
//! | `8000` | listens on 127.0.0.1 |
//! | `:8000` | listens on all interfaces |
//! | `unix:/run/echo.sock:mode=660` | listens on a UNIX socket that its group may use |
//! | `systemd:echo` | takes the socket from the unit with `FileDescriptorName=echo` |
//! | `tls:8000:cert=echo.pem:key=echo.key` | speaks TLS |
//! | `tls:8000:cert=echo.pem:key=echo.key:client-ca=ca.pem` | the same, and requires a certificate from each client |
//! | `haproxy:8000:trusted=10.0.0.0/8` | accepts the PROXY header of a load balancer |
//! | `throttle:8000:write=1M` | sends at most a megabyte a second to each client |
//! | `log:8000:file=traffic.pcap` | records the traffic for Wireshark |
//!
//! To connect, there are also `process:/usr/bin/tr a-z A-Z` for the standard input and output of a
//! program, `serial:/dev/ttyUSB0:speed=115200`, `stdio:`, and `fd:3` for an inherited descriptor.
//!
//! [`endpoints`](crate::endpoints) has a table of all kinds. Keywords follow the address, in any
//! order. A value that contains a colon needs a backslash or [`quote`](crate::endpoints::quote):
//! `cert=C\:\\echo.pem`.
//!
//! ## Nesting
//!
//! `tls:`, `haproxy:`, `throttle:` and `log:` wrap another endpoint. The wrapper on the right is
//! nearer to the socket: `log:tls:8000` logs plaintext, `tls:log:8000` logs ciphertext.
//!
//! A load balancer that forwards TLS writes its PROXY header before the first byte of TLS; one that
//! speaks TLS itself writes it inside:
//!
//! ```
//! use couplet::endpoints::server_from_string;
//!
//! let passed_on = "tls:haproxy:443:cert=site.pem";
//! let spoken = "haproxy:tls:443:cert=site.pem";
//! assert_eq!(server_from_string(passed_on)?.to_string(), "tls:haproxy:tcp:443:cert=site.pem:key=site.pem");
//! assert_eq!(server_from_string(spoken)?.to_string(), "haproxy:tls:443:cert=site.pem:key=site.pem");
//! # Ok::<(), couplet::endpoints::EndpointError>(())
//! ```
//!
//! ## Mistakes
//!
//! An error points at the mistake and suggests a correction. Parsing opens nothing, so errors in
//! files come when the program listens or connects; they point at the string too:
//!
//! ```
//! use couplet::endpoints::{client_from_string, server_from_string};
//!
//! let error = server_from_string("tls:443:crt=site.pem").unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "unknown keyword crt=; known keywords are cert=, key=, chain=, alpn=, sni=, client-ca=, \
//!      endpoint=, host=, port=, interface=, backlog=, reuse_port=, reuse_addr=, dual_stack= and \
//!      no_delay=\n\
//!      \x20   tls:443:crt=site.pem\n\
//!      \x20           ^\n\
//!      \x20 did you mean tls:443:cert=site.pem?"
//! );
//! let error = client_from_string("tsl:example.com:443").unwrap_err();
//! assert_eq!(error.hint(), Some("tls:example.com:443"));
//! ```
//!
//! ## As objects
//!
//! A program may also construct endpoints as objects. They can be cloned and sent to other threads,
//! and display as their string:
//!
//! ```
//! use couplet::endpoints::{TcpServer, Throttled};
//! # struct Echo;
//! # impl couplet::Protocol for Echo {
//! #     fn data_received(&mut self, _: &couplet::Transport, _: &[u8]) {}
//! # }
//!
//! let slow = Throttled::new(TcpServer::new(([127, 0, 0, 1], 0).into())).write(10_000);
//! assert_eq!(slow.to_string(), "throttle:tcp:0:interface=127.0.0.1:write=10000");
//! # let reactor_loop = couplet::Loop::new()?;
//! # let reactor = reactor_loop.reactor();
//! reactor.listen(slow, || Echo)?;
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! ## Your own endpoints
//!
//! [`ServerEndpoint`](crate::endpoints::ServerEndpoint) and
//! [`ClientEndpoint`](crate::endpoints::ClientEndpoint) have one required method each, which gets
//! the factory as an [`ErasedFactory`](crate::factory::ErasedFactory) and passes it on. An endpoint
//! with a registered prefix works in every endpoint string, inside wrappers too. This one looks up
//! the address of a service in a directory, asynchronously:
//!
//! ```
//! use std::fmt;
//! use std::time::Duration;
//!
//! use couplet::endpoints::{ClientEndpoint, Parts, TcpClient, register_client};
//! use couplet::factory::ErasedFactory;
//! use couplet::{Deferred, Protocol, Reactor, Transport};
//!
//! #[derive(Debug)]
//! struct Service(String);
//!
//! impl ClientEndpoint for Service {
//!     fn connect(&self, reactor: &Reactor, factory: ErasedFactory) -> Deferred<Transport> {
//!         let connecting = reactor.clone();
//!         look_up(reactor, &self.0).then(move |port| {
//!             TcpClient::new("127.0.0.1", port).connect(&connecting, factory)
//!         })
//!     }
//!
//!     /// With `tls:` around it, the certificate must be for this host.
//!     fn host(&self) -> Option<&str> {
//!         Some(&self.0)
//!     }
//! }
//!
//! impl fmt::Display for Service {
//!     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
//!         write!(f, "service:{}", self.0)
//!     }
//! }
//!
//! # thread_local!(static PORT: std::cell::Cell<u16> = const { std::cell::Cell::new(0) });
//! fn look_up(reactor: &Reactor, name: &str) -> Deferred<u16> {
//!     assert_eq!(name, "poems");
//!     // A question to a server, in a real program.
//!     reactor.sleep(Duration::from_millis(1)).map(|()| PORT.get())
//! }
//!
//! struct Quiet;
//! impl Protocol for Quiet {
//!     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
//! }
//!
//! # fn main() -> couplet::Result<()> {
//! register_client("service", |parts: &mut Parts| match parts.positional() {
//!     Some(name) => Ok(Service(name.text().to_owned())),
//!     None => Err(parts.missing("name", "service:NAME")),
//! })?;
//!
//! couplet::run_until(|reactor| {
//! #   let port = reactor.listen("0", || Quiet).expect("a free port");
//! #   PORT.set(port.host().port().expect("a TCP port"));
//!     // And `tls:service:poems`, `log:service:poems`, …
//!     reactor.connect("service:poems", || Quiet)
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! A wrapper parses its inner endpoint with [`Parts::server`](crate::endpoints::Parts::server) or
//! [`Parts::client`](crate::endpoints::Parts::client), and adds a layer to the factory with
//! [`ErasedFactory::layered`](crate::factory::ErasedFactory::layered).
//!
//! ## Certificates for tests
//!
//! `couplet cert DIR localhost` creates a certificate authority for tests, and certificates signed
//! by it for a server and a client:
//!
//! ```text
//! couplet cert certs localhost
//! couplet echo --listen tls:7000:cert=certs/localhost.pem:key=certs/localhost.key
//! couplet connect tls:localhost:7000:ca=certs/ca.pem
//! ```
