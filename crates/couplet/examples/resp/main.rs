//! A custom framing: a server that implements part of Redis's protocol, RESP.
//!
//! `cargo run --example resp -- tcp:6379`, then `redis-cli set poem hope`, `redis-cli get poem`

mod grammar;
mod server;

use std::rc::Rc;

use server::Redis;

fn main() -> couplet::Result<()> {
    let endpoint = std::env::args().nth(1).unwrap_or("tcp:0:interface=127.0.0.1".into());
    couplet::run(|reactor| {
        let store = Rc::default();
        let redis = move || Redis { store: Rc::clone(&store), ..Redis::default() };
        println!("listening on {}", reactor.listen(&endpoint, redis)?.host());
        Ok(())
    })
}
