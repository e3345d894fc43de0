//! Part 3: the same loop over something other than the system's poll. A loop gets its driver when
//! it is created; here it is the test driver, whose time is virtual.
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
