//! What a Deferred costs: nanoseconds for each step, the best of several rounds.
//!
//! `cargo bench --bench defer`

#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::hint::black_box;
use std::time::Instant;

use couplet::defer::Deferred;

const TIMES: u32 = 2_000_000;

fn measure(what: &str, mut run: impl FnMut(u32)) {
    let best = (0..7)
        .map(|_| {
            let start = Instant::now();
            (0..TIMES).for_each(&mut run);
            start.elapsed().as_secs_f64() * 1e9 / f64::from(TIMES)
        })
        .fold(f64::INFINITY, f64::min);
    println!("{best:8.1} ns  {what}");
}

fn main() {
    measure("new + fire, then a callback", |n| {
        let (deferred, resolver) = Deferred::<u32>::new();
        resolver.callback(black_box(n));
        deferred.map(black_box).detach();
    });
    measure("new + callback + fire", |n| {
        let (deferred, resolver) = Deferred::<u32>::new();
        deferred.add_callback(|n| Ok(black_box(n))).detach();
        resolver.callback(black_box(n));
    });
    measure("new with canceller + callback + fire", |n| {
        let (deferred, resolver) =
            Deferred::<u32>::with_canceller(move |_| assert!(black_box(n) < TIMES));
        deferred.add_callback(|n| Ok(black_box(n))).detach();
        resolver.callback(black_box(n));
    });
    measure("new + callback + cancel", |_| {
        let (deferred, resolver) = Deferred::<u32>::new();
        let deferred = deferred.add_callback(|n| Ok(black_box(n)));
        deferred.cancel();
        drop((deferred, resolver));
    });
    measure("new + callback + errback + then + fire", |n| {
        let (deferred, resolver) = Deferred::<u32>::new();
        deferred
            .add_callback(|n| Ok(black_box(n)))
            .add_errback(Err)
            .then(Deferred::succeed)
            .detach();
        resolver.callback(black_box(n));
    });
    measure("succeed + callback", |n| {
        Deferred::succeed(black_box(n)).add_callback(|n| Ok(black_box(n))).detach();
    });
}
