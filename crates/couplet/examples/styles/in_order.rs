//! Part 21, Haskell's second client: each poem has its own box, all are fetched concurrently, and
//! the boxes are opened in request order. Haskell's `MVar` is a Deferred here.
//!
//! `cargo run --example styles -- in_order 127.0.0.1:10000 127.0.0.1:10001`

use std::net::SocketAddr;

use couplet::{Deferred, Reactor, Result};

use crate::lazy_lines::LazyLines;

async fn whole(reactor: Reactor, server: SocketAddr) -> Result<String> {
    let mut lines = LazyLines::of(&reactor, server).await?;
    let mut poem = String::new();
    while let Some(line) = lines.next().await? {
        poem += &line;
        poem.push('\n');
    }
    println!("({server} has finished)");
    Ok(poem)
}

async fn show(boxes: Vec<Deferred<String>>) -> Result<()> {
    for poem in boxes {
        match poem.await {
            Ok(poem) => print!("{poem}"),
            Err(failure) => println!("no poem: {failure}"),
        }
    }
    Ok(())
}

pub(crate) fn main(servers: Vec<SocketAddr>) -> Result<()> {
    couplet::run_until(|reactor| {
        let get = |server| reactor.spawn(whole(reactor.clone(), server));
        reactor.spawn(show(servers.into_iter().map(get).collect()))
    })
}
