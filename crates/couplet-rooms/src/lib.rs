//! Rooms: messages to many connections, with presence and histories.
//!
//! Connections join and leave rooms, which are named by any [`Key`]: names, devices, the tables of a
//! game. A message to a room is encoded once, into one shared buffer, and sent to each member, in
//! all loops of a [`Cluster`](couplet_core::Cluster).
//!
//! ```
//! use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
//! use couplet::rooms::{Member, RoomOptions, Rooms};
//!
//! /// A line chat: each line goes to all others.
//! struct Chat {
//!     rooms: Rooms<&'static str>,
//!     member: Option<Member<&'static str, ()>>,
//! }
//!
//! impl LineProtocol for Chat {
//!     fn connection_made(&mut self, transport: &LineTransport) {
//!         match self.rooms.join(&"lobby", transport, ()) {
//!             Ok(member) => self.member = Some(member),
//!             Err(error) => transport.fail(error),
//!         }
//!     }
//!
//!     fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
//!         let said = [line, b"\r\n"].concat();
//!         if let Some(Err(error)) = self.member.as_ref().map(|me| me.publish_to_others(said)) {
//!             transport.fail(error);
//!         }
//!     }
//! }
//!
//! # let mut memory = couplet::testing::MemoryReactor::new();
//! # let reactor = memory.reactor();
//! let rooms = Rooms::new(&reactor, |_room| RoomOptions::default());
//! reactor.listen("tcp:7777", move || {
//!     LineReceiver::new(Chat { rooms: rooms.clone(), member: None })
//! })?;
//! # let (ada, bob) = (memory.connect(7777), memory.connect(7777));
//! # ada.push(b"hello\r\n");
//! # memory.settle();
//! # assert_eq!((ada.take(), bob.take()), (vec![], b"hello\r\n".to_vec()));
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! # Slow members
//!
//! A member that reads slowly delays no other. Messages for it fill its transport, and then its
//! queue, which has a [bound](RoomOptions::queue). When that is full, the room [cuts](WhenFull::Cut)
//! the member, or drops the [newest](WhenFull::DropNewest) or the [oldest](WhenFull::DropOldest)
//! message; [events](Event) report each, and [`Counts`] count them.
//!
//! # Presence
//!
//! A member joins with metadata, such as its name, and may [change](Member::set_meta) it.
//! [`Rooms::present`] lists the members of a room in all loops, and [`Rooms::on_event`] reports joins,
//! changes and leaves in order. A connection leaves when it is lost.
//!
//! # Clients that return
//!
//! A room numbers its messages, and keeps the last ones in a [history](RoomOptions::history). A
//! client whose connection was lost sends the [`Position`] of its last message, and gets exactly the
//! messages that it missed, before the next ones; or the server learns that there is a gap, because
//! the history no longer has them all.
//!
//! ```
//! use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
//! use couplet::rooms::{Position, RoomOptions, Rooms, Start};
//! use std::time::Duration;
//!
//! /// Sends the measurements of a device, each after its position. A client that returns begins
//! /// with the position of the last one that it got.
//! struct Readings(Rooms<u32>);
//!
//! impl LineProtocol for Readings {
//!     fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
//!         let position = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok());
//!         let from = position.map_or(Start::Now, Start::After);
//!         match self.0.join_from(&17, transport, (), from) {
//!             Ok((_, replay)) if !replay.is_complete => transport.send_line("gap"),
//!             Ok(_) => {}
//!             Err(error) => transport.fail(error),
//!         }
//!     }
//! }
//!
//! # let mut memory = couplet::testing::MemoryReactor::new();
//! # let reactor = memory.reactor();
//! let options = RoomOptions::default().history(100, 64 * 1024, Duration::from_secs(60));
//! let rooms = Rooms::new(&reactor, move |_device| options.clone());
//! let serving = rooms.clone();
//! reactor.listen("tcp:7777", move || LineReceiver::new(Readings(serving.clone())))?;
//! let measured = |celsius: f32| {
//!     rooms.publish_encoded(&17, |position| format!("{position} {celsius}\r\n").into())
//! };
//! # let first = memory.connect(7777);
//! # first.push(b"\r\n");
//! # memory.settle();
//! let position = measured(19.5)?;
//! # memory.settle();
//! # assert_eq!(first.take(), format!("{position} 19.5\r\n").as_bytes());
//! # first.reset();
//! # memory.settle();
//! # let next = measured(20.0)?;
//! # let again = memory.connect(7777);
//! # again.push(format!("{position}\r\n").as_bytes());
//! # memory.settle();
//! # assert_eq!(again.take(), format!("{next} 20\r\n").as_bytes());
//! # let late = memory.connect(7777);
//! # late.push(b"1-0\r\n");
//! # memory.settle();
//! # assert_eq!(late.take(), b"gap\r\n");
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! # More machines
//!
//! An observer gets each [message](Event::Published), to send to other machines; `publish` takes their
//! messages, in any loop.

#![forbid(unsafe_code)]

#[cfg(test)]
#[macro_use]
extern crate couplet_testkit;

mod error;
mod event;
mod history;
mod hub;
mod link;
mod local;
mod member;
mod options;
mod position;
mod rooms;
mod wake;

pub use error::{JoinError, PublishError};
pub use event::{Departure, Event, MemberId, Present};
pub use member::Member;
pub use options::{Limits, RoomOptions, WhenFull};
pub use position::{ParsePositionError, Position};
pub use rooms::{Counts, Key, Meta, Replay, Rooms, SharedRooms, Start};
