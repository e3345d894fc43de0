//! # Many cores
//!
//! One loop uses one core. A [`Cluster`](crate::Cluster) runs several, each in a thread, and calls your
//! `setup` in each of them. Nothing of your protocols changes: they still live in one loop, without a lock.
//! A port is bound once, in the calling thread, and each loop serves a part of its connections. Any endpoint
//! may be bound so.
//!
//! ```
//! use couplet::{Cluster, Protocol, Transport};
//!
//! # struct Echo;
//! # impl Protocol for Echo {
//! #     fn data_received(&mut self, transport: &Transport, data: &[u8]) { transport.write(data); }
//! # }
//! let cluster = Cluster::new(0); // a loop for each processor
//! let port = cluster.bind("localhost:0")?; // or "tls:443:cert=site.pem", "unix:app.sock", "systemd:web"
//! cluster.run(|reactor| {
//!     port.listen(reactor, || Echo)?;
//! #   reactor.stop();
//!     Ok(())
//! })?;
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! ## What they share
//!
//! The loops share only what you give them. [`Members`](crate::reactor::Members) reaches the others:
//! `broadcast` calls a function in each loop, `tell` finds the loop of a connection by its id, and `snapshot`
//! shows what all of them hold. What a loop keeps for itself, such as who is in a chat's room, goes into a
//! `thread_local!`, or into what `setup` makes. Counts are atomics in an `Arc`.
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use couplet::{Cluster, Protocol, Transport};
//!
//! struct Counting(Arc<AtomicU64>);
//! impl Protocol for Counting {
//!     fn data_received(&mut self, _: &Transport, data: &[u8]) {
//!         self.0.fetch_add(data.len() as u64, Ordering::Relaxed);
//!     }
//! }
//!
//! let cluster = Cluster::new(2).on_snapshot(|snapshot| {
//!     // On SIGUSR1: what all loops hold.
//!     println!("{} connections", snapshot.connections.len());
//! });
//! let (port, received) = (cluster.bind("localhost:0")?, Arc::<AtomicU64>::default());
//! cluster.run(|reactor| {
//!     let received = received.clone();
//!     port.listen(reactor, move || Counting(received.clone()))?;
//! #   reactor.stop();
//!     Ok(())
//! })?;
//! println!("{} bytes", received.load(Ordering::Relaxed));
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! ## How they end
//!
//! A signal reaches all loops, and so does a stop. A loop that fails ends the program, unless the cluster
//! [restarts](crate::Cluster::restart) it.
//!
//! ## Which loop serves a connection
//!
//! For TCP on Linux the system decides, by a hash of the addresses, whatever the loops have to do: nothing
//! passes between them, but with few connections that each do much, some loops may have most of the work. For
//! UNIX sockets, inherited sockets, and TCP elsewhere, one loop accepts, and hands each connection to the
//! loop with the fewest; if that loop stops listening, another one accepts. See
//! [`SharedPort`](crate::endpoints::SharedPort). A connection stays in its loop, also while another program
//! has that loop's processor.
//!
//! [`Cluster::pin`](crate::Cluster::pin) gives each loop a processor of its own, on Linux: for a machine that
//! does nothing else.
