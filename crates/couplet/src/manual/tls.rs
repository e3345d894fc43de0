//! # TLS
//!
//! TLS is a [layer](crate::layers) between the socket and your protocol, which is the same with it
//! and without. [`layers::tls`](crate::layers::tls) is TLS 1.2 and 1.3 on rustls, with the feature
//! `tls` (on by default).
//!
//! ## Servers and clients
//!
//! Often a [string](super::endpoints) is enough: `tls:443:cert=site.pem:key=site.key` to listen,
//! `tls:example.com:443` to connect. What follows is for programs that decide themselves.
//!
//! A [`ServerTls`](crate::layers::tls::ServerTls) and a [`ClientTls`](crate::layers::tls::ClientTls)
//! are configured once: with a key that does not fit, or without any roots, that fails, and no
//! connection does. Each makes the layer of one connection, and
//! [`Layered`](crate::factory::Layered) puts it under those of a factory:
//!
//! ```
//! use couplet::factory::Layered;
//! use couplet::layers::tls::{
//!     ClientTls, ClientTlsOptions, Identity, Roots, ServerTls, ServerTlsOptions,
//! };
//! use couplet::{Loop, Protocol, Reason, Transport};
//!
//! struct Greeter;
//! impl Protocol for Greeter {
//!     fn connection_made(&mut self, transport: &Transport) {
//!         // The handshake is complete: what it has negotiated is there.
//!         let tls = transport.tls().expect("this port speaks nothing but TLS");
//!         transport.write(format!("welcome over {}", tls.version));
//!         transport.lose_connection();
//!     }
//!     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
//! }
//!
//! struct Client(Vec<u8>);
//! impl Protocol for Client {
//!     fn data_received(&mut self, _: &Transport, data: &[u8]) {
//!         self.0.extend_from_slice(data);
//!     }
//!     fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
//!         // A stream that was cut is not clean.
//!         assert!(reason.is_clean());
//!         assert_eq!(self.0, b"welcome over TLSv1.3");
//!         transport.reactor().stop();
//!     }
//! }
//!
//! # fn main() -> couplet::Result<()> {
//! # let made = rcgen::generate_simple_self_signed(["couplet.test".to_owned()])?;
//! # let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
//! let identity = Identity::from_pem(chain.as_bytes(), key.as_bytes())?;
//! let server = ServerTls::new(&ServerTlsOptions::default().identity(identity))?;
//! let roots = Roots::from_pem(chain.as_bytes())?;
//! let client = ClientTls::new(&ClientTlsOptions::default().roots(roots))?;
//!
//! Loop::new()?.run(|reactor| {
//!     let greeters = Layered::new(|| Greeter, move |reactor, _| server.layer(reactor.now()));
//!     let port = reactor.listen("tcp:0:interface=127.0.0.1", greeters)?;
//!     let clients = Layered::new(
//!         || Client(Vec::new()),
//!         move |reactor, _| client.layer("couplet.test", reactor.now()).expect("a DNS name"),
//!     );
//!     reactor.connect_tcp("127.0.0.1", port.host().port().expect("a TCP port"), clients);
//!     Ok(())
//! })
//! # }
//! ```
//!
//! A client verifies the chain and the name of its server. Without `roots` it trusts what the
//! platform trusts. Turning that off has a long name that says what it does.
//!
//! ## Which certificate
//!
//! [`CertificateDirectory`](crate::layers::tls::CertificateDirectory) holds a folder of certificates, chosen by
//! the name that a client asks for, and reads it again when it changes: connections that are open do not
//! notice. When the answer takes longer than a look into a table, [`Tls::choosing`](crate::layers::tls::Tls::choosing)
//! gives the ClientHello to a function that returns a Deferred; the handshake waits for it, within its
//! deadline, and no other connection does.
//!
//! ## What is different, and what is not
//!
//! - **There is no protocol before the handshake is complete.** On ports and connects
//!   [`build_protocol`](crate::Factory::build_protocol) and
//!   [`connection_made`](crate::Protocol::connection_made) come afterwards, and the Deferred of a
//!   connect fires when the certificate was verified. Who never completes a handshake costs no
//!   protocol, and is cut after ten seconds; ports count such connections in their
//!   [snapshot](crate::reactor::PortSnapshot::not_opened), and each is logged with its peer and reason.
//! - **Errors say whose fault it is.** [`Reason::Tls`](crate::Reason::Tls) has what failed, on which
//!   side, and the alert. A stream that ends without a close_notify is
//!   [`Lost`](crate::Reason::Lost): a part of a message never passes for the whole.
//! - **Everything else is the same**: marks, caps, producers, pauses, deadlines, half-close, close.
//!
//! ## STARTTLS
//!
//! [`start_tls`](crate::Transport::start_tls) puts the layer under a live connection, whose protocol
//! and transport stay: what was written before goes out in clear, what is written afterwards is
//! encrypted, also within one callback. [`handshake_completed`](crate::Protocol::handshake_completed)
//! comes before the first byte that was encrypted.
//!
//! Bytes in clear that the peer sent behind its request never count as encrypted (CVE-2011-0411). Our
//! framers cut such a connection; a protocol that keeps bytes itself must do so when it calls
//! `start_tls`.
