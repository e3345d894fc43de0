//! Part 3: the same loop over something else than the system's poll. Which driver a loop has is
//! said where it is made; here it is the one for tests, whose time is virtual.
//!
//! `cargo run --example reactors -- another_driver`

use std::time::Duration;

use couplet::testing::{Manner, Memory};
use couplet::{Loop, LoopOptions};

pub(crate) fn main() -> couplet::Result<()> {
    let (driver, network) = Memory::new(Manner::Readiness, 1);
    let mut l = Loop::with_driver(driver, LoopOptions::default());
    let day = Duration::from_secs(24 * 3600);
    l.reactor().call_later(day, || println!("a day has passed"));
    println!("one turn now");
    l.turn(Some(Duration::ZERO))?;
    println!("one turn tomorrow");
    network.advance(day);
    l.turn(Some(Duration::ZERO))?;
    Ok(())
}
