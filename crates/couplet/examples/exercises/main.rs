//! Solutions to the tutorial's exercises in part 5.
//!
//! `cargo run --example exercises -- sequence 127.0.0.1:10000`, or another of the names below.

use std::str::FromStr;

use couplet::Failure;

mod sequence;
mod talking;
mod timeout;

fn parse<T: FromStr>(word: &str, what: &str) -> couplet::Result<T> {
    word.parse().map_err(|_| Failure::msg(format!("{word:?} is not {what}")))
}

fn main() -> couplet::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let server = |word| parse(word, "a server address such as 127.0.0.1:10000");
    match words[..] {
        ["timeout", milliseconds, poet] => {
            timeout::main(parse(milliseconds, "a number of milliseconds")?, server(poet)?)
        }
        ["sequence", poet] => sequence::main(server(poet)?),
        ["talking", poet] => talking::main(server(poet)?),
        _ => Err(Failure::msg(
            "which one? `timeout MILLISECONDS SERVER`, `sequence SERVER` or `talking SERVER`; \
             a SERVER is 127.0.0.1:10000",
        )),
    }
}
