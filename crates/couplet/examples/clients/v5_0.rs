//! Part 10, client 5.0: a callback between download and output transforms the poem and may fail.
//! The callback handles the failures it can recover from; the rest go to the errback, along with
//! failed downloads.
//!
//! `cargo run --example clients -- v5_0 127.0.0.1:10000 127.0.0.1:10001`

use std::net::SocketAddr;

use couplet::defer::list;

use crate::v4_0::get_poem;

/// Why a poem can't be whispered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Loud {
    #[error("this is gibberish")]
    Gibberish,
    #[error("there are too many exclamation marks")]
    Exclaims,
}

/// The poem in lower case.
pub(crate) fn whisper(poem: &str) -> Result<String, Loud> {
    if poem.contains("##") {
        return Err(Loud::Gibberish);
    }
    if poem.contains("!!") {
        return Err(Loud::Exclaims);
    }
    Ok(poem.to_lowercase())
}

fn try_to_whisper(poem: String) -> couplet::Result<String> {
    match whisper(&poem) {
        Ok(whispered) => Ok(whispered),
        Err(Loud::Gibberish) => Err(Loud::Gibberish.into()),
        Err(loud) => {
            eprintln!("not whispered: {loud}");
            Ok(poem)
        }
    }
}

pub(crate) fn main(servers: Vec<SocketAddr>) -> couplet::Result<()> {
    couplet::run_until(|reactor| {
        let all = servers.into_iter().map(|server| {
            get_poem(reactor, server)
                .add_callback(try_to_whisper)
                .map(|poem| print!("{poem}"))
                .add_errback(move |failure| {
                    eprintln!("no poem from {server}: {failure}");
                    Ok(())
                })
        });
        list(all).map(|_| ())
    })
}
