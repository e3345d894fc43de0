//! Parts 20 and 21 of the tutorial look at other languages. These are Couplet poetry clients in the
//! style of Erlang, with actors, and of Haskell, with lazy streams.
//!
//! `cargo run --example styles -- actors 127.0.0.1:10000 127.0.0.1:10001`

use std::net::SocketAddr;

use couplet::Failure;

mod actors;
mod in_order;
mod lazy_lines;

fn parse(address: String) -> couplet::Result<SocketAddr> {
    let wrong =
        |_| Failure::msg(format!("{address:?}: expected a server address such as 127.0.0.1:10000"));
    address.parse().map_err(wrong)
}

fn main() -> couplet::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let client: fn(Vec<SocketAddr>) -> couplet::Result<()> = match arguments.next().as_deref() {
        Some("actors") => actors::main,
        Some("lazy_lines") => lazy_lines::main,
        Some("in_order") => in_order::main,
        _ => return Err(Failure::msg("which one? actors, lazy_lines or in_order")),
    };
    let servers = arguments.map(parse).collect::<couplet::Result<Vec<_>>>()?;
    if servers.is_empty() {
        return Err(Failure::msg("which servers? give their addresses, such as 127.0.0.1:10000"));
    }
    client(servers)
}
