//! A message bus: publish and subscribe, requests, and presence, between the parts of a program or
//! many machines.
//!
//! A [`Bus`] belongs to one loop. [`Bus::memory`] connects the loops of a process, and
//! [`Bus::nats`] machines, over a cluster of NATS servers; programs use both alike. Messages have
//! subjects such as `rooms.lobby`, and subscriptions [patterns](Pattern) such as `rooms.*`.
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
//! A program that loses its bus still works for its own clients. Its messages are queued up to a
//! [limit](nats::Options::queue); further ones are refused, counted and reported. [`Bus::health`] is
//! `Degraded`, [events](Event) report each change, and [`Counts`] count. The bus reconnects with
//! growing delays, restores the subscriptions, and sends the queued messages.
//!
//! # Slow subscribers
//!
//! A function that is subscribed gets each message as it arrives. A subscriber that takes its time
//! uses [`Bus::messages`], whose queue has a [limit](Limit) of its own: a full queue drops messages,
//! which is counted and reported, and delays no other subscriber.

#![forbid(unsafe_code)]

#[cfg(test)]
#[macro_use]
extern crate couplet_watched;

mod bus;
mod core;
mod error;
mod event;
mod memory;
mod message;
mod messages;
pub mod nats;
mod presence;
mod requests;
mod subject;
mod wake;

pub use bus::{Bus, Subscription};
pub use error::{NotConfirmed, PublishError, RequestError};
pub use event::{Counts, Event};
pub use memory::Memory;
pub use message::Message;
pub use messages::{Limit, Messages};
pub use presence::{Peer, Presence, PresenceEvent, PresenceOptions};
pub use subject::{Pattern, SubjectError};
