//! A poetry client with streams: without a custom protocol, a task reads the poem to its end.
//!
//! `cargo run --example poetry_stream -- tcp:127.0.0.1:10000 tcp:127.0.0.1:10001`

use couplet::Reactor;
use couplet::defer::list;

/// The longest poem, in bytes.
const LONGEST: usize = 1024 * 1024;

async fn get_poem(reactor: &Reactor, endpoint: &str) -> couplet::Result<String> {
    let mut stream = reactor.connect_stream(endpoint).await?;
    let mut poem = Vec::new();
    stream.read_to_end(&mut poem, LONGEST).await?;
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
