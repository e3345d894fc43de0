//! # Datagrams
//!
//! A datagram arrives whole or not at all. It may arrive twice, or after a later one, and delivery
//! is not acknowledged. There are no connections: one [`DatagramProtocol`](crate::DatagramProtocol)
//! serves a port and all its senders.
//!
//! ```
//! use couplet::{Datagram, DatagramProtocol, DatagramTransport};
//!
//! struct Upper;
//!
//! impl DatagramProtocol for Upper {
//!     fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>) {
//!         let answer = datagram.data.to_ascii_uppercase();
//!         transport.answer(datagram, answer).ok();
//!     }
//! }
//!
//! couplet::run(|reactor| {
//!     let port = reactor.listen_udp("127.0.0.1:0".parse()?, Upper)?;
//!     let asking = reactor.listen_udp("127.0.0.1:0".parse()?, |transport: &DatagramTransport, answer: &Datagram<'_>| {
//!         assert_eq!(answer.data, b"ROSE");
//!         transport.reactor().stop();
//!     })?;
//!     asking.send_to("rose", port.host())?;
//!     Ok(())
//! })?;
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! [`answer`](crate::DatagramTransport::answer) replies to the sender from the address that the
//! datagram was sent to. On a port bound to all interfaces the system might otherwise choose a
//! different source address, which the client would not recognize.
//!
//! ## Loss
//!
//! | cause | effect |
//! | --- | --- |
//! | the send queue exceeds [`DatagramOptions::queue`](crate::DatagramOptions::queue), 256 KiB | [`SendError::Full`](crate::SendError::Full); counted in [`dropped`](crate::DatagramTransport::dropped) |
//! | the system refuses it: no route, no permission, a full network interface queue | logged, and counted as dropped |
//! | the network drops it | none |
//! | the receiver is too slow, and its socket's queue is full | none; a larger `SO_RCVBUF`, set in [`prepare`](crate::DatagramOptions::prepare), helps |
//! | it is longer than the receiver's [`size`](crate::DatagramOptions::size) | truncated; [`cut`](crate::Datagram::cut) is true |
//!
//! For reliable delivery, number each message, repeat it until it is acknowledged, and let the
//! receiver ignore duplicates. `couplet sim meters` does so: meters, a collector, and a storm in
//! which no reading is lost.
//!
//! ## Timers, and the way back to the protocol
//!
//! [`transport.port::<Self>()`](crate::DatagramTransport::port) leads back to `&mut self`. Its
//! `tell`, `ask` and `call_later` work as on a [`Connection`](crate::Connection), and are dropped
//! when the port closes.
//!
//! ```
//! use std::time::Duration;
//! use couplet::{Address, Datagram, DatagramProtocol, DatagramTransport, DelayedCall};
//!
//! /// Repeats a question until it is answered.
//! struct Ask {
//!     to: Address,
//!     again: Option<DelayedCall>,
//! }
//!
//! impl Ask {
//!     fn ask(&mut self, transport: &DatagramTransport) {
//!         transport.send_to("?", &self.to).ok();
//!         let again = transport.port::<Self>().call_later(Duration::from_secs(1), Self::ask);
//!         self.again = Some(again);
//!     }
//! }
//!
//! impl DatagramProtocol for Ask {
//!     fn start_protocol(&mut self, transport: &DatagramTransport) {
//!         self.ask(transport);
//!     }
//!     fn datagram_received(&mut self, transport: &DatagramTransport, _: &Datagram<'_>) {
//!         self.again.take().map(|again| again.cancel());
//! #       transport.reactor().stop();
//!     }
//! }
//! # couplet::run(|reactor| {
//! # let echo = |transport: &DatagramTransport, datagram: &Datagram<'_>| {
//! #     transport.answer(datagram, "!").ok();
//! # };
//! # let to = reactor.listen_udp("127.0.0.1:0".parse()?, echo)?.host();
//! # reactor.listen_udp("127.0.0.1:0".parse()?, Ask { to, again: None })?;
//! # Ok(()) })?;
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! ## One peer
//!
//! A port with a [peer](crate::DatagramOptions::peer), made by
//! [`connect_udp`](crate::Reactor::connect_udp), receives only the peer's datagrams. If the peer's
//! port is closed, its system answers with an ICMP error, and
//! [`connection_refused`](crate::DatagramProtocol::connection_refused) is called. Our port stays
//! open, since the peer may return.
//!
//! Datagrams are sent to addresses. [`Reactor::resolve`](crate::Reactor::resolve) looks up the
//! addresses of a name:
//!
//! ```
//! # use couplet::{Datagram, DatagramTransport};
//! # let nothing = |_: &DatagramTransport, _: &Datagram<'_>| {};
//! # couplet::run(|reactor| {
//! let looking = reactor.clone();
//! reactor.spawn(async move {
//!     let addresses = looking.resolve("localhost").await?;
//!     looking.connect_udp((addresses[0], 9000).into(), nothing)?;
//! #   looking.stop();
//!     Ok(())
//! }).detach();
//! # Ok(()) })?;
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! ## Multicast groups
//!
//! ```
//! use std::net::Ipv4Addr;
//! use couplet::{Datagram, DatagramOptions, DatagramTransport, Group};
//!
//! couplet::run(|reactor| {
//!     let heard = |transport: &DatagramTransport, datagram: &Datagram<'_>| {
//!         assert_eq!(datagram.data, b"to all");
//!         transport.reactor().stop();
//!     };
//!     // Several programs of one host may have the port.
//!     let options = DatagramOptions::default().reuse_addr(true);
//!     let port = reactor.listen_udp_with("0.0.0.0:0".parse()?, options, heard)?;
//!     let group = Group::new([239, 255, 7, 7]).interface(Ipv4Addr::LOCALHOST);
//!     port.join_group(group).detach();
//!     port.set_outgoing_interface(Ipv4Addr::LOCALHOST).detach();
//!     let number = port.host().port().expect("a UDP port");
//!     port.send_to("to all", std::net::SocketAddr::new(group.address, number))?;
//!     Ok(())
//! })?;
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! Without an interface the system chooses one by its routes.
//! [`Group::source`](crate::Group::source) limits the membership to one sender. The hop limit,
//! loopback, broadcasts and the TOS byte are [options](crate::DatagramOption) too; a request to
//! change one takes effect in order with the datagrams that are sent.
//!
//! ## Batches
//!
//! A turn delivers at most 64 datagrams per port. On Linux one system call receives them and
//! another sends the answers; equally long datagrams to the same address are sent as one
//! (`UDP_SEGMENT`). `benches/datagrams.rs` measures the processor time of a server thread that
//! echoes 64 bytes, relative to plain recvmmsg(2) and sendmmsg(2): 0.78 with 32 datagrams in flight
//! (tokio: 1.18), and 1.08 with one (tokio: 1.03).
//!
//! ## UNIX sockets
//!
//! [`listen_unix_datagrams`](crate::Reactor::listen_unix_datagrams) opens a port with a path, an
//! abstract name, or, if that is empty, a name that the system assigns. Each datagram carries the
//! [credentials](crate::Datagram::credentials) of its sender. UNIX datagrams are not lost in
//! transit: while the receiver's queue is full, they wait in the sender's.
//!
//! ## Tests
//!
//! The same protocol runs on the in-memory loop, and in the [simulator](crate::sim), whose
//! [links](crate::sim::Link) lose, duplicate, reorder and truncate datagrams, and have an MTU: a
//! longer datagram travels in fragments, and is lost if any of them is.
//!
//! ```
//! # #[cfg(feature = "sim")] {
//! use std::time::Duration;
//! use std::net::SocketAddr;
//! use couplet::sim::{Link, Sim};
//! use couplet::{Datagram, DatagramTransport};
//!
//! let mut sim = Sim::new(7);
//! sim.set_default_link(Link::constant(Duration::from_millis(10)).loss(500));
//! let notes = sim.notes();
//! let server = sim.host("server", move |reactor| {
//!     let notes = notes.clone();
//!     reactor.listen_udp("0.0.0.0:53".parse()?, move |_: &DatagramTransport, _: &Datagram<'_>| {
//!         notes.note("one arrived");
//!     })?;
//!     Ok(())
//! });
//! let to = SocketAddr::new(sim.address(server), 53);
//! sim.host("client", move |reactor| {
//!     let port = reactor.listen_udp("0.0.0.0:0".parse()?, |_: &DatagramTransport, _: &Datagram<'_>| {})?;
//!     for _ in 0..100 {
//!         port.send_to("x", to)?;
//!     }
//!     Ok(())
//! });
//! sim.keep_trace();
//! sim.run_for(Duration::from_secs(1)).unwrap();
//! let arrived = sim.trace().matches("one arrived").count();
//! assert!((20..80).contains(&arrived), "half of them: {arrived}");
//! # }
//! ```
