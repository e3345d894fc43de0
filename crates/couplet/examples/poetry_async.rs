//! A poetry client with `async`: the same protocol, with tasks that await.
//!
//! `cargo run --example poetry_async -- tcp:127.0.0.1:10000 tcp:127.0.0.1:10001`

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

async fn get_poem(reactor: &Reactor, endpoint: &str) -> couplet::Result<String> {
    let connection = reactor.connect(endpoint, PoetryProtocol::new).await?;
    let poem = connection.ask(|poetry, _| poetry.whole_poem()).await?.await?;
    Ok(String::from_utf8(poem)?)
}

async fn show_poem(reactor: Reactor, endpoint: String) -> couplet::Result<()> {
    match get_poem(&reactor, &endpoint).await {
        Ok(poem) => print!("{poem}"),
        Err(failure) => eprintln!("no poem from {endpoint}: {failure}"),
    }
    Ok(())
}

fn main() -> couplet::Result<()> {
    let endpoints: Vec<String> = std::env::args().skip(1).collect();
    couplet::run_until(|reactor| {
        let tasks = endpoints.into_iter().map(|e| reactor.spawn(show_poem(reactor.clone(), e)));
        list(tasks).map(|poems| eprintln!("{} servers asked", poems.len()))
    })
}
