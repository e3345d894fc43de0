//! Poetry: servers that send poems slowly, clients that collect them, and a server that transforms
//! them. A truncated poem never passes for a whole one.
//!
//! - `serve` and `client`: each client gets the next poem, which ends with the stream.
//! - `named` and `ask`: clients request poems by title, and the length precedes each poem;
//!   `catalogue` and `answer` are the two ends of that protocol without I/O, `list` the command.
//! - `transform`, `transform_server` and `transforming`: poems as netstrings; the command, its
//!   server and its client. `transformations` has no I/O, and `heap_trim` frees memory.
//! - The servers share `recital`, the clients `order`; the command `get` uses all clients.

mod answer;
pub(crate) mod ask;
pub(crate) mod catalogue;
pub(crate) mod client;
pub(crate) mod get;
mod heap_trim;
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

use clap::Subcommand;

use crate::exit::Exit;
use crate::logging::Logging;

const EXAMPLE: &str = "\
Example, in two terminals:
  couplet poetry serve --listen 10000
  couplet poetry get 10000";

#[derive(Subcommand, Debug)]
#[command(after_help = EXAMPLE)]
pub(crate) enum Poetry {
    /// Send a poem to each client, slowly, then close
    Serve(serve::Serve),
    /// Fetch poems from many servers at once
    Get(get::Get),
    /// Print the titles of a server that runs with --by-name
    List(list::List),
    /// Transform poems that clients send, as netstrings NAME.POEM
    Transform(transform::Transform),
    /// Fetch a poem once, cache it, and serve it to all clients
    Proxy(proxy::Proxy),
}

pub(crate) fn run(command: Poetry, logging: &Logging) -> Result<(), Exit> {
    match command {
        Poetry::Serve(options) => serve::run(options),
        Poetry::Get(options) => get::run(options, logging),
        Poetry::List(options) => list::run(options),
        Poetry::Transform(options) => transform::run(options),
        Poetry::Proxy(options) => proxy::run(options),
    }
}
