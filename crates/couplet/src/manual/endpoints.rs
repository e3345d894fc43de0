//! # Endpoints
//!
//! An endpoint says where to listen or where to connect, and through what. As a string it belongs in
//! a configuration file or on a command line, so that whoever runs a program decides whether it
//! speaks TLS, behind which proxy it stands, and whether its socket comes from systemd. The program
//! is the same:
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
//! | `configured` | what it does |
//! | --- | --- |
//! | `8000` | listens on 127.0.0.1 |
//! | `:8000` | listens on all interfaces |
//! | `unix:/run/echo.sock:mode=660` | listens on a UNIX socket for a group |
//! | `systemd:echo` | takes the socket from the unit with `FileDescriptorName=echo` |
//! | `tls:8000:cert=echo.pem:key=echo.key` | speaks TLS |
//! | `tls:8000:cert=echo.pem:key=echo.key:client-ca=ca.pem` | and requires a certificate of each client |
//! | `haproxy:8000:trusted=10.0.0.0/8` | stands behind a load balancer |
//! | `throttle:8000:write=1M` | sends at most a megabyte a second to each client |
//! | `log:8000:file=traffic.pcap` | keeps the traffic for Wireshark |
//!
//! To connect, there are also `process:/usr/bin/tr a-z A-Z`, a program on its standard input and output,
//! `serial:/dev/ttyUSB0:speed=115200`, `stdio:`, and `fd:3` for a descriptor that was inherited.
//!
//! All kinds are in the table of [`endpoints`](crate::endpoints). Keywords follow the address, in any
//! order. A value with a colon in it needs a backslash or [`quote`](crate::endpoints::quote):
//! `cert=C\:\\echo.pem`.
//!
//! ## What is around what
//!
//! `tls:`, `haproxy:`, `throttle:` and `log:` take another endpoint: the next in the string is nearer
//! to the socket. `log:tls:8000` logs plaintext, `tls:log:8000` what is on the wire.
//!
//! A load balancer writes its PROXY header before the first byte of TLS, if it passes TLS on, and
//! inside TLS, if it speaks TLS itself:
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
//! An error shows the place, and what was probably meant. It comes before anything is opened, except
//! for files, whose errors come when the program listens or connects, and show their place too:
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
//! A program that does not want strings builds the same objects. They can be cloned and sent to other
//! threads, and display as the string:
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
//! ## Your own
//!
//! [`ServerEndpoint`](crate::endpoints::ServerEndpoint) and
//! [`ClientEndpoint`](crate::endpoints::ClientEndpoint) have one method each to write. It gets the
//! factory as an [`ErasedFactory`](crate::factory::ErasedFactory), and passes it on. With a prefix it
//! works in strings everywhere, inside the wrappers too. This one finds the address of a service in a
//! directory, which takes a while:
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
//! A wrapper reads the rest of its parts with [`Parts::server`](crate::endpoints::Parts::server) or
//! [`Parts::client`](crate::endpoints::Parts::client), and puts a layer under the factory with
//! [`ErasedFactory::layered`](crate::factory::ErasedFactory::layered).
//!
//! ## Certificates for tests
//!
//! `couplet cert DIR localhost` makes an authority, and certificates of it for a server and a client,
//! for tests:
//!
//! ```text
//! couplet cert certs localhost
//! couplet echo --listen tls:7000:cert=certs/localhost.pem:key=certs/localhost.key
//! couplet connect tls:localhost:7000:ca=certs/ca.pem
//! ```
