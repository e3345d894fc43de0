//! Part 3: who calls us back? The stack shows it: `main`, then `run`, then a turn of the loop,
//! then our function. (`cargo run --example trace` shows the same for a connection.)
//!
//! `cargo run --example reactors -- stack`

use std::backtrace::Backtrace;

use couplet::Reactor;

fn show(reactor: &Reactor) {
    println!("the stack, the last call first:");
    println!("{}", Backtrace::force_capture());
    reactor.stop();
}

pub(crate) fn main() -> couplet::Result<()> {
    couplet::run(|reactor| {
        let kept = reactor.clone();
        reactor.call_soon(move || show(&kept));
        Ok(())
    })
}
