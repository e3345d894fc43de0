//! Part 6: the type `Failure`. `?` or `into()` turns any error into one; it keeps the error, its
//! type, its causes and the source location where it became a failure.
//!
//! `cargo run --example deferreds -- failure`

use std::path::Path;

use couplet::{Deferred, Failure};

#[derive(Debug, thiserror::Error)]
#[error("line {line} does not rhyme")]
struct BadRhyme {
    line: usize,
}

#[derive(Debug, thiserror::Error)]
#[error("the poem was turned down")]
struct TurnedDown(#[from] BadRhyme);

/// Each line must end like the first.
fn check(poem: &str) -> Result<(), BadRhyme> {
    let end = |line: &str| line.chars().last();
    let first = poem.lines().next().and_then(end);
    match poem.lines().position(|line| end(line) != first) {
        Some(index) => Err(BadRhyme { line: index + 1 }),
        None => Ok(()),
    }
}

fn tell(failure: &Failure) {
    println!("{failure:#}");
    println!("a bad rhyme? {}", failure.is::<BadRhyme>());
    if let Some(TurnedDown(rhyme)) = failure.downcast_ref() {
        println!("turned down for line {}", rhyme.line);
    }
    let file = Path::new(failure.place().file()).file_name();
    println!("it began in {}", file.unwrap_or_default().display());
}

pub(crate) fn main() -> couplet::Result<()> {
    Deferred::succeed("the cat\nthe dog")
        .add_callback(|poem| Ok(check(poem).map_err(TurnedDown)?))
        .add_errback(|failure| {
            tell(&failure);
            Ok(())
        })
        .detach();
    Deferred::<()>::fail(BadRhyme { line: 9 })
        .add_errback(|failure| {
            tell(&failure);
            Ok(())
        })
        .detach();
    Ok(())
}
