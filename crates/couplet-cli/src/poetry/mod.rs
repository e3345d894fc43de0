//! Poetry: servers that send poems slowly, clients that collect them, and a server that transforms
//! them. A truncated poem never passes for a whole one.
//!
//! - `serve` and `client`: each client gets the next poem, which ends with the stream.
//! - `named` and `ask`: clients request poems by title, and the length precedes each poem;
//!   `catalogue` and `answer` are the two ends of that protocol without I/O, `list` the command.
//! - `transform`, `transform_server` and `transforming`: poems as netstrings; the command, its
//!   server and its client. `transformations` has no I/O.
//! - The servers share `recital`, the clients `order`; the command `get` uses all clients.

mod answer;
pub(crate) mod ask;
pub(crate) mod catalogue;
mod client;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod named;
mod order;
pub(crate) mod proxy;
pub(crate) mod recital;
pub(crate) mod serve;
pub(crate) mod transform;
mod transform_server;
mod transformations;
mod transforming;

pub(crate) use client::get_poem;
pub(crate) use named::MAX_LINE;
