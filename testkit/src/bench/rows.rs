//! Shared by the small benches. A row is one task, done by several contestants alternately, round
//! by round, so that a busy moment of the machine affects all of them. Prints nanoseconds per
//! operation in the best round, and the ratio to the first contestant within a round: median, least
//! and most.
//!
//! The first round warms up and is not counted, so a bench may make slow checks in it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::spread::Spread;

const ROUNDS: usize = 7;

/// A contestant's name and function: does all operations of a round, and returns how long they
/// took.
pub type Contestant<'a> = (&'a str, &'a mut dyn FnMut() -> Duration);

/// Measures a row and prints it, if its name contains the word on the command line.
pub fn row(name: &str, operations: usize, contestants: &mut [Contestant<'_>]) {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    if !name.contains(&wanted.unwrap_or_default()) {
        return;
    }
    let mut times = vec![Vec::new(); contestants.len()];
    for round in 0..=ROUNDS {
        for ((_, run), times) in contestants.iter_mut().zip(&mut times) {
            let took = run().as_secs_f64() * 1e9 / operations as f64;
            times.extend((round > 0).then_some(took));
        }
    }
    println!("{name}");
    for ((who, _), own) in contestants.iter().zip(&times) {
        let Spread { least, median, most } =
            Spread::of(own.iter().zip(&times[0]).map(|(own, first)| own / first));
        let best = own.iter().copied().fold(f64::MAX, f64::min);
        println!("  {best:9.1} ns  {median:5.2} ({least:.2}-{most:.2})  {who}");
    }
}

/// Times a call.
#[expect(clippy::disallowed_methods, reason = "it measures")]
pub fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    black_box(work());
    start.elapsed()
}
