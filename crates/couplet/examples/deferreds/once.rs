//! Part 7: a Deferred fires once. Firing twice is not a runtime error as in Twisted:
//! `resolver.callback(…)` consumes the resolver, so it doesn't compile.
//!
//! If either of two callers may fire first, both share an `Option` from which to take the resolver;
//! the late one finds it empty.
//!
//! `cargo run --example deferreds -- once`

use std::cell::Cell;
use std::rc::Rc;

use couplet::{Deferred, Failure, Resolver};

type Door = Rc<Cell<Option<Resolver<&'static str>>>>;

fn knock(door: &Door, who: &str, answer: Result<&'static str, Failure>) {
    match door.take() {
        Some(resolver) => resolver.resolve(answer),
        None => println!("{who} comes too late"),
    }
}

fn open() -> Door {
    let (first, resolver) = Deferred::new();
    first
        .add_both(|result| {
            match result {
                Ok(value) => println!("a value: {value}"),
                Err(failure) => println!("a failure: {failure}"),
            }
            Ok(())
        })
        .detach();
    Rc::new(Cell::new(Some(resolver)))
}

pub(crate) fn main() -> couplet::Result<()> {
    for (left, right) in [(true, true), (true, false), (false, false), (false, true)] {
        let door = open();
        for (who, well) in [("the first", left), ("the second", right)] {
            let answer = if well { Ok("here I am") } else { Err(Failure::msg("I can't")) };
            knock(&door, who, answer);
        }
    }
    Ok(())
}
