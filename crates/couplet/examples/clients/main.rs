//! The poetry clients of the tutorial, from part 1 on. Each gets poems from the given servers;
//! `cargo run --example servers` has some.
//!
//! `cargo run --example clients -- v2_0 127.0.0.1:10000 127.0.0.1:10001`

use std::net::SocketAddr;

use couplet::Failure;

mod blocking;
#[cfg(unix)]
mod select;
#[cfg(unix)]
mod v1_0;
#[cfg(unix)]
mod v1_0_broken;
mod v2_0;
mod v2_1;
mod v3_0;
mod v4_0;
mod v5_0;
mod v5_1;
mod v6_0;
mod v7_0;

fn parse(address: String) -> couplet::Result<SocketAddr> {
    let wrong =
        |_| Failure::msg(format!("{address:?}: expected a server address such as 127.0.0.1:10000"));
    address.parse().map_err(wrong)
}

fn main() -> couplet::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let client: fn(Vec<SocketAddr>) -> couplet::Result<()> = match arguments.next().as_deref() {
        Some("blocking") => blocking::main,
        #[cfg(unix)]
        Some("select") => select::main,
        #[cfg(unix)]
        Some("v1_0") => v1_0::main,
        #[cfg(unix)]
        Some("v1_0_broken") => v1_0_broken::main,
        Some("v2_0") => v2_0::main,
        Some("v2_1") => v2_1::main,
        Some("v3_0") => v3_0::main,
        Some("v4_0") => v4_0::main,
        Some("v5_0") => v5_0::main,
        Some("v5_1") => v5_1::main,
        Some("v6_0") => v6_0::main,
        Some("v7_0") => v7_0::main,
        _ => {
            return Err(Failure::msg(
                "which one? blocking, select, v1_0, v1_0_broken, v2_0, v2_1, v3_0, v4_0, v5_0, v5_1, \
                 v6_0 or v7_0",
            ));
        }
    };
    let servers = arguments.map(parse).collect::<couplet::Result<Vec<_>>>()?;
    if servers.is_empty() {
        return Err(Failure::msg("which servers? give their addresses, such as 127.0.0.1:10000"));
    }
    client(servers)
}
