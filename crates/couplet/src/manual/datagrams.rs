//! # Datagrams
//!
//! A datagram arrives whole, or not at all; perhaps twice, perhaps after a later one; and nobody tells.
//! There is no connection, so there is nothing to make, to lose or to close: one
//! [`DatagramProtocol`](crate::DatagramProtocol) serves a port, and whoever sends to it.
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
//! [`answer`](crate::DatagramTransport::answer) sends to the sender, from the address that was asked: on a
//! port of all interfaces the system might choose another one, and the asker would not know it.
//!
//! ## What may be lost
//!
//! | where | what you see |
//! | --- | --- |
//! | more wait to be sent than [`DatagramOptions::queue`](crate::DatagramOptions::queue), 256 KiB | [`SendError::Full`](crate::SendError::Full); [`dropped`](crate::DatagramTransport::dropped) counts it |
//! | the system refuses it: no route, no permission, a full queue of the network card | it is logged, and counted as dropped |
//! | on the way | nothing |
//! | the receiver's queue is full, because its program is slow | nothing; a larger `SO_RCVBUF`, by [`prepare`](crate::DatagramOptions::prepare), helps |
//! | it is longer than the receiver's [`size`](crate::DatagramOptions::size) | [`cut`](crate::Datagram::cut): the rest is gone |
//!
//! So what has to arrive is numbered, repeated until it is acknowledged, and counted once. `couplet sim
//! meters` is such a program: meters, a collector, and a storm in which no reading is lost.
//!
//! ## Time, and the way back
//!
//! [`transport.port::<Self>()`](crate::DatagramTransport::port) leads back to `&mut self`: `tell`, `ask`
//! and `call_later` work as those of a [`Connection`](crate::Connection), and end with the port.
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
//! [`connect_udp`](crate::Reactor::connect_udp), hears of nobody else, and of refusals: where nobody
//! listens, the peer's system says so, and
//! [`connection_refused`](crate::DatagramProtocol::connection_refused) is called. The port stays open:
//! the peer may come back.
//!
//! Datagrams go to addresses. [`Reactor::resolve`](crate::Reactor::resolve) looks up those of a name:
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
//! ## Groups
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
//! Without an interface the system chooses one by its routes. [`Group::source`](crate::Group::source) hears
//! of one sender alone. Hop limits, loopback, broadcasts and the TOS byte are other
//! [options](crate::DatagramOption); what is asked for takes its place among what is sent.
//!
//! ## How many at once
//!
//! One turn delivers at most 64 datagrams of a port, then others have their turn. On Linux they are
//! received by one system call, and the answers leave by another; those of one length to one place leave as
//! one. `benches/datagrams.rs` measures an echo of 64 bytes, in the time of the server's thread: with 32 on
//! their way 0.78 of recvmmsg(2) and sendmmsg(2) as they are, and tokio 1.18; with one 1.08, and tokio 1.03.
//!
//! ## UNIX sockets
//!
//! [`listen_unix_datagrams`](crate::Reactor::listen_unix_datagrams) opens a port with a path, an abstract
//! name, or, for an empty one, a name of the system's. Each datagram has the
//! [credentials](crate::Datagram::credentials) of its sender. None is lost on the way: while the
//! receiver's queue is full, the sender's waits.
//!
//! ## Tests
//!
//! The same protocol runs on the loop in memory, and in the [simulator](crate::sim), whose
//! [links](crate::sim::Link) lose, repeat, reorder and cut datagrams, and have an MTU: a longer datagram
//! travels in fragments, and is lost with any of them.
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
