//! # Many cores
//!
//! One loop uses one core. A [`Cluster`](crate::Cluster) runs several loops, each in a thread, and
//! calls your `setup` in each of them. Your protocols don't change: each still lives in one loop,
//! without locks. A port is bound once, in the calling thread, and each loop serves a part of its
//! connections. This works for any endpoint.
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
//! ## Sharing
//!
//! The loops share no state unless you pass it in. [`Members`](crate::reactor::Members) reaches all
//! loops: `broadcast` calls a function in each of them, `tell` finds a connection's loop by the
//! connection's id, and `snapshot` lists the open objects of all loops. State of one loop, such as
//! the guests in a chat room, belongs in a `thread_local!` or in objects that `setup` creates. For
//! counters, share atomics in an `Arc`.
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
//! ## Stopping
//!
//! Signals and stops reach all loops. A loop that fails ends the program, unless the cluster
//! [restarts](crate::Cluster::restart) it.
//!
//! ## Which loop serves a connection
//!
//! For TCP on Linux the kernel decides, by a hash of the addresses and regardless of load. The
//! loops exchange nothing, but a few busy connections may land on the same loop. For UNIX sockets,
//! inherited sockets, and TCP on other systems, one loop accepts, and hands each connection to the
//! loop with the fewest; if the accepting loop stops listening, another one takes over. See
//! [`SharedPort`](crate::endpoints::SharedPort). A connection never changes its loop, even while
//! another program occupies that loop's processor.
//!
//! On Linux, [`Cluster::pin`](crate::Cluster::pin) binds each loop's thread to one processor. Use
//! it on a machine that runs nothing else.
