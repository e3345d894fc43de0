//! Part 10, client 5.1: the same with two errbacks. The first comes right after the transformation
//! and checks the type of the failure: it recovers from the transformation's own, and passes others
//! (such as a failed download) on to the second.
//!
//! `cargo run --example clients -- v5_1 127.0.0.1:10000 127.0.0.1:10001`

use std::net::SocketAddr;

use couplet::defer::list;
use couplet::{Deferred, Failure};

use crate::v4_0::get_poem;
use crate::v5_0::{Loud, whisper};

/// A failure that carries the untransformed poem for its handler.
#[derive(Debug, thiserror::Error)]
#[error("not whispered")]
struct CannotWhisper {
    poem: String,
    source: Loud,
}

fn whispered(poem: String) -> couplet::Result<String> {
    Ok(whisper(&poem).map_err(|source| CannotWhisper { poem, source })?)
}

fn as_it_was(failure: Failure) -> couplet::Result<String> {
    match failure.downcast_ref::<CannotWhisper>() {
        Some(CannotWhisper { poem, source: Loud::Exclaims }) => {
            eprintln!("{failure:#}");
            Ok(poem.clone())
        }
        _ => Err(failure),
    }
}

fn shown(poem: Deferred<String>, server: SocketAddr) -> Deferred<()> {
    poem.add_callback(whispered).add_errback(as_it_was).map(|poem| print!("{poem}")).add_errback(
        move |failure| {
            eprintln!("no poem from {server}: {failure:#}");
            Ok(())
        },
    )
}

pub(crate) fn main(servers: Vec<SocketAddr>) -> couplet::Result<()> {
    couplet::run_until(|reactor| {
        let all = servers.into_iter().map(|server| shown(get_poem(reactor, server), server));
        list(all).map(|_| ())
    })
}
