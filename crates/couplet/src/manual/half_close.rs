//! # The half-close trap
//!
//! A TCP connection has two directions, and each ends independently. A peer that shuts down its
//! write side may still read. Couplet reports this as
//! [`read_closed`](crate::Protocol::read_closed), and **by default then closes the connection**,
//! after sending everything written so far. This is right for most protocols, but wrong for a
//! server that answers later.
//!
//! `echo hello | socat - TCP:localhost:8000` sends a line and its FIN together. A server that
//! answers in `data_received` has written its answer before `read_closed` is called, and the client
//! gets it. A server that waits for a database, a thread or a timer has written nothing yet: it
//! closes, and the client gets nothing.
//!
//! ```
//! use couplet::testing::hold;
//! use couplet::{Protocol, Transport};
//! use std::time::Duration;
//!
//! /// Answers after a second, if the connection is still there.
//! struct Hasty;
//! impl Protocol for Hasty {
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         let answer = data.to_ascii_uppercase();
//!         let connection = transport.connection::<Hasty>();
//!         connection.call_later(Duration::from_secs(1), move |_, transport| transport.write(answer));
//!     }
//! }
//!
//! let mut held = hold(Hasty);
//! held.push(b"hello");
//! held.wire.fin();
//! held.advance(Duration::from_secs(2));
//! assert!(held.wire.saw_fin());
//! assert_eq!(held.wire.take(), b"", "closed before the answer was written");
//! ```
//!
//! ## The solution
//!
//! Override `read_closed`. Count the answers you still owe, and close once you have written them
//! all:
//!
//! ```
//! use couplet::testing::hold;
//! use couplet::{Protocol, Transport};
//! use std::time::Duration;
//!
//! #[derive(Default)]
//! struct Patient {
//!     owed: usize,
//!     peer_has_finished: bool,
//! }
//! impl Patient {
//!     fn close_when_done(&self, transport: &Transport) {
//!         if self.peer_has_finished && self.owed == 0 {
//!             transport.lose_connection();
//!         }
//!     }
//! }
//! impl Protocol for Patient {
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         self.owed += 1;
//!         let answer = data.to_ascii_uppercase();
//!         let connection = transport.connection::<Patient>();
//!         connection.call_later(Duration::from_secs(1), move |patient, transport| {
//!             transport.write(answer);
//!             patient.owed -= 1;
//!             patient.close_when_done(transport);
//!         });
//!     }
//!     fn read_closed(&mut self, transport: &Transport) {
//!         self.peer_has_finished = true;
//!         self.close_when_done(transport);
//!     }
//! }
//!
//! let mut held = hold(Patient::default());
//! held.push(b"hello");
//! held.wire.fin();
//! held.settle();
//! assert!(!held.wire.saw_fin());
//! held.advance(Duration::from_secs(2));
//! assert_eq!(held.wire.take(), b"HELLO");
//! assert!(held.wire.saw_fin(), "and then it closes");
//! ```
//!
//! A `read_closed` that never closes keeps the connection and its file descriptor for as long as
//! the peer likes. [`set_idle_timeout`](crate::Transport::set_idle_timeout) sets a bound, and stays
//! in force after the peer's FIN.
//!
//! ## The other side
//!
//! To half-close yourself, call [`lose_write_connection`](crate::Transport::lose_write_connection):
//! it sends everything written, then a FIN, while you continue reading.
//! [`write_closed`](crate::Protocol::write_closed) is called once the FIN is sent.
//!
//! ## Impatient clients
//!
//! `socat` gives up half a second after its input ends, unless given `-t 10` or so. So even a
//! patient server may find the client gone. `couplet connect` half-closes and waits for the server.
