//! The poetry servers and proxies of the tutorial. Each prints its address.
//!
//! `cargo run --example servers -- slow tcp:10000 poem.txt`, or another of the names below.

mod download;
mod fast;
mod proxy_1;
mod proxy_2;
mod proxy_3;
mod slow;
mod transform;

use std::str::FromStr;

use couplet::{Bytes, Failure};

fn read(file: &str) -> couplet::Result<Bytes> {
    let text = std::fs::read(file);
    text.map(Bytes::from).map_err(|error| Failure::msg(format!("cannot read {file}: {error}")))
}

fn parse<T: FromStr>(word: &str, what: &str) -> couplet::Result<T> {
    word.parse().map_err(|_| Failure::msg(format!("{word:?} is not {what}")))
}

fn main() -> couplet::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let server = |word| parse(word, "a server address such as 127.0.0.1:10000");
    match words[..] {
        ["slow", endpoint, file] => slow::main(endpoint, read(file)?, 10, 100),
        ["slow", endpoint, file, bytes, pause] => {
            let bytes = parse(bytes, "a number of bytes")?;
            slow::main(endpoint, read(file)?, bytes, parse(pause, "a number of milliseconds")?)
        }
        ["fast", endpoint, file] => fast::main(endpoint, read(file)?),
        ["transform", endpoint] => transform::main(endpoint),
        ["proxy_1", endpoint, poet] => proxy_1::main(endpoint, server(poet)?),
        ["proxy_2", endpoint, poet] => proxy_2::main(endpoint, server(poet)?),
        ["proxy_3", endpoint, poet] => proxy_3::main(endpoint, server(poet)?),
        _ => Err(Failure::msg(
            "which one? `slow ENDPOINT FILE [BYTES MILLISECONDS]`, `fast ENDPOINT FILE`, \
             `transform ENDPOINT`, or one of proxy_1, proxy_2 and proxy_3 with `ENDPOINT SERVER`; \
             an ENDPOINT is tcp:10000, a SERVER 127.0.0.1:10000",
        )),
    }
}
