//! # The half-close trap
//!
//! A TCP stream has two directions, and each ends by itself. A peer that shuts down its sending side
//! may still read. Couplet delivers this as [`read_closed`](crate::Protocol::read_closed), and **by
//! default closes the connection then**, after everything written so far has left. That is right for
//! most protocols, and wrong for a server that answers later.
//!
//! `echo hello | socat - TCP:localhost:8000` sends a line and its FIN together. A server that answers
//! in `data_received` has written its answer before `read_closed` comes, and the client gets it. A server
//! that first asks a database, a thread or a timer has written nothing yet: it closes, and the client
//! gets nothing.
//!
//! ```
//! use couplet::testing::hold;
//! use couplet::{Protocol, Transport};
//! use std::time::Duration;
//!
//! /// Answers after a second, if somebody is there to answer.
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
//! ## The way out
//!
//! Override `read_closed`. Count what you still owe, and close when it has been paid:
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
//! A `read_closed` that neither closes now nor later keeps the connection, and its descriptor, for as
//! long as the peer likes. [`set_idle_timeout`](crate::Transport::set_idle_timeout) bounds that: it
//! stays in force after the peer's FIN.
//!
//! ## The other side
//!
//! To half-close yourself, call [`lose_write_connection`](crate::Transport::lose_write_connection):
//! what was written leaves, then a FIN, and you go on reading.
//! [`write_closed`](crate::Protocol::write_closed) tells when the FIN has left.
//!
//! ## Also the client's patience
//!
//! `socat` gives up half a second after its input has ended, unless `-t 10` or so is given. So even a
//! patient server may find nobody there. `couplet connect` half-closes and waits for the server.
