//! Poetry: servers that give out poems slowly, clients that collect them, and a server that
//! transforms them. A poem that was cut is not taken for a whole one.
//!
//! - `serve` and `client`: each client gets the next poem, and its end is the end of the stream.
//! - `named` and `ask`: poems are asked for by their titles, and their length comes first;
//!   `catalogue` and `answer` are the two ends of that without a connection, `list` the command.
//! - `transform`, `transform_server` and `transforming`: poems as netstrings, the command, its server
//!   and the client; `transformations` are what they are for.
//! - `recital` is what the servers have in common, `order` what the clients have; `get` is the
//!   command in which the clients meet.

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
