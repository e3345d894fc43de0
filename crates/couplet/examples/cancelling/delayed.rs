//! Part 19, cases 9 to 11: a poem that arrives later. Without a canceller, a cancel ends the wait
//! but not the work; with one it ends both.
//!
//! `cargo run --example cancelling -- delayed`

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use couplet::{Deferred, DelayedCall, Reactor, Resolver};

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn send(resolver: Resolver<&'static str>) {
    println!("  sending the poem");
    resolver.callback("rain, and no umbrella");
}

fn poem(reactor: &Reactor) -> Deferred<&'static str> {
    let (poem, resolver) = Deferred::new();
    reactor.call_later(ms(50), move || send(resolver));
    poem
}

fn poem_that_stops(reactor: &Reactor) -> Deferred<&'static str> {
    let timer: Rc<Cell<Option<DelayedCall>>> = Rc::default();
    let call = timer.clone();
    let (poem, resolver) = Deferred::with_canceller(move |_resolver| {
        let cancelled = call.take().is_some_and(|call| call.cancel());
        println!("  the call was cancelled: {cancelled}");
    });
    timer.set(Some(reactor.call_later(ms(50), move || send(resolver))));
    poem
}

fn show(reactor: &Reactor, poem: Deferred<&'static str>, cancels: bool) {
    let shown = poem.add_both(|result| {
        match result {
            Ok(poem) => println!("  got a poem: {poem}"),
            Err(failure) => println!("  no poem: {failure}"),
        }
        Ok(())
    });
    if cancels {
        reactor.call_later(ms(20), move || shown.cancel());
    } else {
        shown.detach();
    }
    let stopping = reactor.clone();
    reactor.call_later(ms(100), move || stopping.stop());
}

fn run(get: fn(&Reactor) -> Deferred<&'static str>, cancels: bool) -> couplet::Result<()> {
    couplet::run(|reactor| {
        let kept = reactor.clone();
        // In one turn, so that all delays start at the same time.
        reactor.call_soon(move || show(&kept, get(&kept), cancels));
        Ok(())
    })
}

pub(crate) fn main() -> couplet::Result<()> {
    println!("9: nobody cancels");
    run(poem, false)?;
    println!("10: cancelled, and the poem is sent anyway");
    run(poem, true)?;
    println!("11: cancelled, and not sent");
    run(poem_that_stops, true)
}
