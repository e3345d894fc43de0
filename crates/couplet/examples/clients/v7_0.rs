//! Part 17, client 7.0: client 6.0 as a coroutine. `async` and `await` replace Twisted's
//! `inlineCallbacks` and `yield`, and an errback is a `match`.
//!
//! `cargo run --example clients -- v7_0 127.0.0.1:11000 127.0.0.1:10000`: first the transform
//! server (`servers transform`), then the poets.

use std::net::SocketAddr;

use couplet::Reactor;
use couplet::defer::list;

use crate::v4_0::get_poem;
use crate::v6_0::transform;

async fn get_whispered(
    reactor: &Reactor,
    transformer: SocketAddr,
    poet: SocketAddr,
) -> couplet::Result<String> {
    let poem = get_poem(reactor, poet).await?;
    match transform(reactor, transformer, format!("whisper.{poem}")).await {
        Ok(whispered) => Ok(whispered),
        Err(failure) => {
            eprintln!("not whispered: {failure}");
            Ok(poem)
        }
    }
}

async fn show(reactor: Reactor, transformer: SocketAddr, poet: SocketAddr) -> couplet::Result<()> {
    match get_whispered(&reactor, transformer, poet).await {
        Ok(poem) => print!("{poem}"),
        Err(failure) => eprintln!("no poem from {poet}: {failure}"),
    }
    Ok(())
}

pub(crate) fn main(servers: Vec<SocketAddr>) -> couplet::Result<()> {
    let (transformer, poets) = (servers[0], &servers[1..]);
    couplet::run_until(|reactor| {
        let show = |poet: &SocketAddr| reactor.spawn(show(reactor.clone(), transformer, *poet));
        list(poets.iter().map(show)).map(|_| ())
    })
}
