//! Poetry: servers that send poems slowly, clients that collect them, and a server that transforms
//! them. A truncated poem never passes for a whole one. The first application on `couplet`, as in
//! Twisted's tutorial; [`main`] is its program.
//!
//! - [`serve`] and [`client`]: each client gets the next poem, which ends with the stream.
//! - [`named`] and [`ask`]: clients request poems by title, and the length precedes each poem;
//!   [`catalogue`] and `answer` are the two ends of that protocol without I/O, `list` the command.
//! - [`transform`], [`transform_server`] and [`transforming`]: poems as netstrings; the command, its
//!   server and its client. [`transformations`] has no I/O, and `heap_trim` frees memory.
//! - The servers share [`recital`], the clients `order`; the command `get` uses all clients.
//! - [`proxy`] fetches a poem once for many clients, `demo` plays servers and clients in one process,
//!   and `worlds` simulates them (feature `sim`).
#![forbid(unsafe_code)]

#[cfg(test)]
#[macro_use]
extern crate couplet_testkit;

mod answer;
pub mod ask;
pub mod catalogue;
pub mod client;
mod command_line;
mod demo;
mod get;
mod heap_trim;
mod list;
pub mod named;
mod order;
pub mod poems;
mod printer;
pub mod progress;
pub mod proxy;
pub mod recital;
pub mod serve;
pub mod transform;
pub mod transform_server;
pub mod transformations;
pub mod transforming;
#[cfg(feature = "sim")]
pub mod worlds;

#[cfg(test)]
use couplet_command::held;
use couplet_command::{endpoint, exit, known, logging, marks, output, server, signals, values};

pub use command_line::main;
