//! A poetry client with `async`: the same protocol, and tasks that await.
//!
//! `cargo run --example poetry_async -- tcp:127.0.0.1:10000 tcp:127.0.0.1:10001`

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
        let poem = match reason.is_clean() {
            true => Ok(std::mem::take(&mut self.poem)),
            false => Err(ConnectionLost(reason.clone()).into()),
        };
        if let Some(resolver) = self.resolver.take() {
            resolver.resolve(poem);
        }
    }
}

async fn get_poem(reactor: &Reactor, endpoint: &str) -> couplet::Result<String> {
    let (poem, resolver) = Deferred::new();
    let mut resolver = Some(resolver);
    let protocol = move || PoetryProtocol { poem: Vec::new(), resolver: resolver.take() };
    if let Err(failure) = reactor.connect(endpoint, protocol).await {
        poem.cancel(); // nobody is going to give it
        return Err(failure);
    }
    Ok(String::from_utf8(poem.await?)?)
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
