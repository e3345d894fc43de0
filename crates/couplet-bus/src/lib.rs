//! A message bus: publish and subscribe, requests, and presence, between the parts of a program or
//! many machines.
//!
//! A [`Bus`] belongs to one loop. [`Bus::memory`] connects the loops of a process, and
//! [`Bus::nats`] and [`Bus::redis`] machines, over servers of NATS or Redis; programs use them
//! alike. Messages have subjects such as `rooms.lobby`, and subscriptions [patterns](Pattern) such
//! as `rooms.*`.
//!
//! ```
//! use couplet::bus::{Bus, Memory};
//!
//! # let mut memory = couplet::testing::MemoryReactor::new();
//! # let reactor = memory.reactor();
//! let bus = Bus::memory(&reactor, &Memory::new());
//! let subscription = bus.subscribe("rooms.*", |message| {
//!     println!("{}: {:?}", message.subject(), message.payload());
//! })?;
//! bus.publish("rooms.lobby", "hello")?;
//! # memory.advance(std::time::Duration::ZERO);
//! # assert_eq!(bus.counts().delivered, 1);
//! # drop(subscription);
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! # Without a connection
//!
//! A program that loses its bus still works for its own clients. The bus queues messages up to a
//! [limit](nats::Options::queue); further ones are refused, counted and reported. [`Bus::health`]
//! is `Degraded`, [events](Event) report each change, and [`Counts`] count. The bus reconnects with
//! growing delays, restores the subscriptions, and sends the queued messages.
//!
//! A subscription misses the messages that others publish in that time: each [`Event::Connected`]
//! but the first follows a gap. The size of the gap is known only for
//! [numbered](Message::numbered) messages: see [`Event::Missed`]. A [`Log`] has no such gaps: its
//! readers continue after their last message.
//!
//! # Slow subscribers
//!
//! A subscribed function gets each message as it arrives. A slow subscriber uses
//! [`Bus::messages`], whose queue has a separate [limit](Limit): a full queue drops messages,
//! which is counted and reported, and delays no other subscriber.
//!
//! # Rooms on many machines
//!
//! With a bus without echo, the rooms (feature `rooms`) of many machines become one: each machine
//! publishes its members' messages, and passes the other machines' messages to its members.
//!
//! ```
//! use couplet::bus::{Bus, Memory, Subscription, SubjectError};
//! use couplet::rooms::{Event, RoomOptions, Rooms};
//!
//! fn join_machines(bus: &Bus, rooms: &Rooms<String>) -> Result<Subscription, SubjectError> {
//!     let sending = bus.clone();
//!     rooms.on_event(move |event| {
//!         // Messages of other machines are by no member of this one.
//!         if let Event::Published { room, bytes, by: Some(_), .. } = event {
//!             // The bus counts and reports a message that it refuses.
//!             let _ = sending.publish(format!("rooms.{room}"), bytes.clone());
//!         }
//!     });
//!     let rooms = rooms.clone();
//!     bus.subscribe("rooms.*", move |message| {
//!         let room = message.subject().trim_start_matches("rooms.").to_owned();
//!         if let Err(error) = rooms.publish(&room, message.payload().clone()) {
//!             eprintln!("{error}");
//!         }
//!     })
//! }
//! # use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
//! # struct Chat(Rooms<String>, Option<couplet::rooms::Member<String, ()>>);
//! # impl LineProtocol for Chat {
//! #     fn connection_made(&mut self, transport: &LineTransport) {
//! #         self.1 = self.0.join(&"lobby".to_owned(), transport, ()).ok();
//! #     }
//! #     fn line_received(&mut self, _: &LineTransport, line: &[u8]) {
//! #         self.1.as_ref().unwrap().publish([line, b"\r\n"].concat()).unwrap();
//! #     }
//! # }
//! # let hub = Memory::new().echo(false);
//! # let mut machines = [0, 1].map(|_| {
//! #     let memory = couplet::testing::MemoryReactor::new();
//! #     let reactor = memory.reactor();
//! #     let rooms = Rooms::new(&reactor, |_| RoomOptions::default());
//! #     let joined = join_machines(&Bus::memory(&reactor, &hub), &rooms).unwrap();
//! #     reactor.listen("tcp:1", move || LineReceiver::new(Chat(rooms.clone(), None))).unwrap();
//! #     (memory, joined)
//! # });
//! # let wires = machines.each_mut().map(|(memory, _)| memory.connect(1));
//! # wires[0].push(b"hello\r\n");
//! # for _ in 0..2 {
//! #     machines.iter_mut().for_each(|(memory, _)| memory.advance(std::time::Duration::ZERO));
//! # }
//! # assert_eq!(wires.map(|wire| wire.take()), [b"hello\r\n", b"hello\r\n"]);
//! ```

#![forbid(unsafe_code)]

#[cfg(test)]
#[macro_use]
extern crate couplet_testkit;

mod bus;
mod client;
mod core;
mod error;
mod event;
mod log;
mod memory;
mod message;
mod messages;
pub mod nats;
mod numbers;
mod presence;
pub mod redis;
mod requests;
mod subject;
mod wake;

pub use bus::{Bus, Subscription};
pub use error::{NotConfirmed, PublishError, RequestError};
pub use event::{Counts, Event};
pub use log::{
    Entry, Following, Log, LogError, LogLimits, Page, ParsePositionError, Position, Start,
};
pub use memory::Memory;
pub use message::Message;
pub use messages::{Limit, Messages};
pub use presence::{Peer, Presence, PresenceEvent, PresenceOptions};
pub use subject::{Pattern, SubjectError};
