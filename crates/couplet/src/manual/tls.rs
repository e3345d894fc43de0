//! # TLS
//!
//! TLS is a [layer](crate::layers) between the socket and your protocol, and the protocol is the
//! same with or without it. [`layers::tls`](crate::layers::tls) implements TLS 1.2 and 1.3 with
//! rustls, under the feature `tls` (on by default).
//!
//! ## Servers and clients
//!
//! Often a [string](super::endpoints) is enough: `tls:443:cert=site.pem:key=site.key` to listen,
//! `tls:example.com:443` to connect. The rest of this section is for programs that configure TLS in
//! code.
//!
//! A [`ServerTls`](crate::layers::tls::ServerTls) and a
//! [`ClientTls`](crate::layers::tls::ClientTls) are configured once, so a key that doesn't match,
//! or a lack of roots, is an error there and not in a connection. Each then makes a layer for each
//! connection, and [`Layered`](crate::factory::Layered) adds the layer to the connections of a
//! factory:
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
//! A client verifies the chain and the name of its server. Without `roots` it trusts the platform's
//! roots. The option that disables verification has a long, explicit name.
//!
//! ## Choosing a certificate
//!
//! [`CertificateDirectory`](crate::layers::tls::CertificateDirectory) serves a folder of
//! certificates. It chooses by the name that the client requests, and reloads the folder when it
//! changes, without affecting open connections. If the choice takes time,
//! [`Tls::choosing`](crate::layers::tls::Tls::choosing) passes the ClientHello to a function that
//! returns a Deferred. Only that handshake waits for it, within its deadline.
//!
//! ## Differences from plain TCP
//!
//! - **The protocol is built after the handshake.** On ports and connects
//!   [`build_protocol`](crate::Factory::build_protocol) and
//!   [`connection_made`](crate::Protocol::connection_made) are called once it is complete, and the
//!   Deferred of a connect fires once the certificate is verified. A client that never completes a
//!   handshake costs no protocol, and is cut off after ten seconds. Ports count such connections in
//!   their [snapshot](crate::reactor::PortSnapshot::not_opened), and each is logged with its peer
//!   and reason.
//! - **Errors say which side is at fault.** [`Reason::Tls`](crate::Reason::Tls) has the problem,
//!   the side, and the alert. A stream that ends without a close_notify is
//!   [`Lost`](crate::Reason::Lost), so a truncated message never passes for a complete one.
//! - **Everything else is the same**: watermarks, caps, producers, pauses, deadlines, half-close,
//!   close.
//!
//! ## STARTTLS
//!
//! [`start_tls`](crate::Transport::start_tls) adds the layer to a live connection, and keeps its
//! protocol and transport. Bytes written before the call are sent in cleartext, later ones are
//! encrypted, even within the same callback.
//! [`handshake_completed`](crate::Protocol::handshake_completed) is called before the first
//! decrypted byte arrives.
//!
//! Cleartext bytes that the peer sent after its request are never treated as decrypted
//! (CVE-2011-0411). Our framers close such a connection; a protocol that buffers bytes itself must
//! do the same when it calls `start_tls`.
