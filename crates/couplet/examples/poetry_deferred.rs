//! A poetry client with Deferreds: one for each poem, and one for all of them.
//!
//! `cargo run --example poetry_deferred -- tcp:127.0.0.1:10000 tcp:127.0.0.1:10001`

use std::time::Duration;

use couplet::defer::list;
use couplet::{ConnectionLost, Deferred, Protocol, Reactor, Reason, Resolver, Transport};

struct PoetryProtocol {
    poem: Vec<u8>,
    resolver: Option<Resolver<Vec<u8>>>,
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

/// The poem that the server at `endpoint` gives out.
fn get_poem(reactor: &Reactor, endpoint: &str) -> Deferred<Vec<u8>> {
    let (poem, resolver) = Deferred::new();
    let mut resolver = Some(resolver);
    let protocol = move || PoetryProtocol { poem: Vec::new(), resolver: resolver.take() };
    // When the connection can't be made, nobody is left to give the poem: `then` is not reached.
    reactor.connect(endpoint, protocol).then(|_| poem).add_timeout(reactor, Duration::from_secs(60))
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
