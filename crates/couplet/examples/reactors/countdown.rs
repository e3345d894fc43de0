//! Part 3: a timed call that schedules the next one. In between, only the reactor waits.
//!
//! `cargo run --example reactors -- countdown`, or `-- countdown 100` for 100 ms a step.

use std::time::Duration;

use couplet::Reactor;

fn count(reactor: &Reactor, left: u32, step: Duration) {
    if left == 0 {
        reactor.stop();
        return;
    }
    println!("{left} …");
    let kept = reactor.clone();
    reactor.call_later(step, move || count(&kept, left - 1, step));
}

pub(crate) fn main(milliseconds: Option<String>) -> couplet::Result<()> {
    let step = Duration::from_millis(milliseconds.as_deref().unwrap_or("1000").parse()?);
    println!("start");
    couplet::run(|reactor| {
        let kept = reactor.clone();
        reactor.call_soon(move || count(&kept, 5, step));
        Ok(())
    })?;
    println!("stop");
    Ok(())
}
