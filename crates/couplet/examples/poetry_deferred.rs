//! A poetry client with Deferreds: one for each poem, and one for all of them.
//!
//! `cargo run --example poetry_deferred -- tcp:127.0.0.1:10000 tcp:127.0.0.1:10001`

use std::time::Duration;

use couplet::defer::list;
use couplet::{ConnectionLost, Deferred, Failure, Protocol, Reactor, Reason, Resolver, Transport};

/// Collects a poem; the Deferred fires with it once it is complete.
struct PoetryProtocol {
    poem: Vec<u8>,
    whole: Option<Deferred<Vec<u8>>>,
    resolver: Option<Resolver<Vec<u8>>>,
}

impl PoetryProtocol {
    fn new() -> PoetryProtocol {
        let (whole, resolver) = Deferred::new();
        PoetryProtocol { poem: Vec::new(), whole: Some(whole), resolver: Some(resolver) }
    }

    fn whole_poem(&mut self) -> Deferred<Vec<u8>> {
        self.whole
            .take()
            .unwrap_or_else(|| Deferred::fail(Failure::msg("the poem was already taken")))
    }
}

impl Protocol for PoetryProtocol {
    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.poem.extend_from_slice(data);
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        let Some(resolver) = self.resolver.take() else { return };
        if reason.is_clean() {
            resolver.callback(std::mem::take(&mut self.poem));
        } else {
            resolver.errback(ConnectionLost(reason.clone()));
        }
    }
}

/// Gets the poem from the server at `endpoint`.
fn get_poem(reactor: &Reactor, endpoint: &str) -> Deferred<Vec<u8>> {
    reactor
        .connect(endpoint, PoetryProtocol::new)
        .then(|connection| connection.ask(|poetry, _| poetry.whole_poem()))
        .then(|whole| whole)
        .add_timeout(reactor, Duration::from_secs(60))
}

fn main() -> couplet::Result<()> {
    let endpoints: Vec<String> = std::env::args().skip(1).collect();
    couplet::run_until(|reactor| {
        let poems = endpoints.into_iter().map(|endpoint| {
            get_poem(reactor, &endpoint)
                .map(|poem| print!("{}", String::from_utf8_lossy(&poem)))
                .add_errback(move |failure| {
                    eprintln!("no poem from {endpoint}: {failure}");
                    Ok(())
                })
        });
        list(poems).map(|poems| eprintln!("{} servers asked", poems.len()))
    })
}
