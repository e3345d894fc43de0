//! Part 9: which callbacks of a chain run, and with which result? Describe the chain, one argument
//! per link. The first is `ok` or `fail`; `callback=ok`, `errback=fail`, `both=ok` and so on are
//! links, each with its outcome.
//!
//! `cargo run --example deferreds -- simulator fail callback=ok errback=ok both=fail errback=ok`

use couplet::{Deferred, Failure};

/// The result of a link, independent of its input.
fn outcome(well: bool, name: &str) -> couplet::Result<String> {
    if well {
        Ok(format!("the value of {name}"))
    } else {
        Err(Failure::msg(format!("the failure of {name}")))
    }
}

fn parse_outcome(word: &str) -> couplet::Result<bool> {
    match word {
        "ok" => Ok(true),
        "fail" => Ok(false),
        _ => Err(Failure::msg(format!("{word:?}: expected `ok` or `fail`"))),
    }
}

fn parse_link(text: &str) -> couplet::Result<(&str, bool)> {
    match text.split_once('=') {
        Some((kind @ ("callback" | "errback" | "both"), made)) => Ok((kind, parse_outcome(made)?)),
        _ => Err(Failure::msg(format!("{text:?}: expected callback=…, errback=… or both=…"))),
    }
}

fn add(chain: Deferred<String>, number: usize, (kind, well): (&str, bool)) -> Deferred<String> {
    let name = format!("{kind} {number}");
    let ran = move |got: String| {
        println!("{name} got {got}");
        outcome(well, &name)
    };
    match kind {
        "callback" => chain.add_callback(ran),
        "errback" => chain.add_errback(move |failure| ran(failure.to_string())),
        _ => chain.add_both(move |result| ran(result.unwrap_or_else(|f| f.to_string()))),
    }
}

pub(crate) fn main(words: Vec<String>) -> couplet::Result<()> {
    let Some((begin, links)) = words.split_first() else {
        return Err(Failure::msg("how does it begin? `ok` or `fail`, then the links"));
    };
    let begin = parse_outcome(begin)?;
    let links = links.iter().map(|text| parse_link(text)).collect::<couplet::Result<Vec<_>>>()?;
    let (chain, resolver) = Deferred::new();
    let chain = (1..).zip(links).fold(chain, |chain, (number, link)| add(chain, number, link));
    chain
        .map(|value| println!("the chain ends with {value}"))
        .add_errback(|failure| {
            println!("the chain ends unhandled with {failure}");
            Ok(())
        })
        .detach();
    resolver.resolve(outcome(begin, "the beginning"));
    Ok(())
}
