//! Part 17: who resumes a coroutine? Not its spawner: a turn of the loop polls it, and the code
//! that it awaited is no longer on the stack.
//!
//! `cargo run --example coroutines -- stack`

use std::backtrace::Backtrace;
use std::time::Duration;

use couplet::Reactor;

async fn resumed(reactor: Reactor) -> couplet::Result<()> {
    reactor.sleep(Duration::from_millis(1)).await?;
    println!("resumed; the stack, the last call first:");
    println!("{}", Backtrace::force_capture());
    Ok(())
}

pub(crate) fn main() -> couplet::Result<()> {
    couplet::run_until(|reactor| reactor.spawn(resumed(reactor.clone())))
}
