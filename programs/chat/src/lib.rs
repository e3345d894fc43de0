//! A chat for line clients and browsers: people in one room, on one server or on several that a bus
//! joins. [`main`] is its program; [`serve`] describes its server, which also runs as a service among
//! others, where its connections may move to another process ([`MOVES_AS`], [`continued`]).
//!
//! - `member`: a person's connection. `room`: all members, in all loops, and their names; `text` and
//!   `rate_limit` protect them from one another.
//! - `bus`: the link to other servers, with `address`, their bus on the command line, and `others`,
//!   their people. `kept` and `history`: the lines that a server keeps, in a log of that bus. Without
//!   the feature `bus`, `unlinked` is in their place.
//! - `web`: a page for browsers, a WebSocket each (feature `web`).
//! - `worlds` simulates a chat (feature `sim`).
#![forbid(unsafe_code)]

#[cfg(test)]
#[macro_use]
extern crate couplet_testkit;

#[cfg(feature = "bus")]
mod address;
#[cfg(feature = "bus")]
mod bus;
mod command_line;
#[cfg(feature = "bus")]
mod history;
#[cfg(feature = "bus")]
mod kept;
mod member;
#[cfg_attr(not(feature = "bus"), allow(dead_code, reason = "a link has others"))]
mod others;
mod rate_limit;
mod room;
pub mod serve;
mod text;
#[cfg(not(feature = "bus"))]
mod unlinked;
#[cfg(feature = "web")]
mod web;
#[cfg(feature = "sim")]
pub mod worlds;

#[cfg(test)]
use couplet_command::held;
use couplet_command::{endpoint, exit, server, values};
#[cfg(not(feature = "bus"))]
use unlinked as bus;
#[cfg(not(feature = "bus"))]
use unlinked as history;

pub use command_line::main;
pub use member::{MOVES_AS, continued};
