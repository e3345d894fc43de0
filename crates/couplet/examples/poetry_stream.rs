//! A poetry client of many poems at once, with the names of the guide's first chapter and no others.
//!
//! `cargo run --example poetry_stream -- tcp:127.0.0.1:10000 tcp:127.0.0.1:10001`

use couplet::Reactor;

async fn get_poem(reactor: Reactor, endpoint: String) -> couplet::Result<String> {
    let mut stream = reactor.connect_stream(endpoint).await?;
    let mut poem = String::new();
    while let Some(line) = stream.read_line().await? {
        poem += &String::from_utf8(line)?;
        poem += "\n";
    }
    Ok(poem)
}

fn main() -> couplet::Result<()> {
    couplet::run_until(|reactor| {
        let reactor = reactor.clone();
        reactor.clone().spawn(async move {
            let mut poems = Vec::new();
            for endpoint in std::env::args().skip(1) {
                let poem = get_poem(reactor.clone(), endpoint.clone());
                poems.push((endpoint, reactor.spawn(poem)));
            }
            let asked = poems.len();
            for (endpoint, poem) in poems {
                match poem.await {
                    Ok(poem) => print!("{poem}"),
                    Err(failure) => eprintln!("no poem from {endpoint}: {failure}"),
                }
            }
            eprintln!("{asked} servers asked");
            Ok(())
        })
    })
}
