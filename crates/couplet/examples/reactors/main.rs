//! The small programs of the tutorial, most from part 3, about the reactor only.
//!
//! `cargo run --example reactors -- hello`, or another of the names below.

mod another_driver;
mod countdown;
mod exception;
mod hello;
mod log;
mod simple;
mod stack;

fn main() -> couplet::Result<()> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("simple") => simple::main(),
        Some("another_driver") => another_driver::main(),
        Some("hello") => hello::main(),
        Some("stack") => stack::main(),
        Some("countdown") => countdown::main(arguments.next()),
        Some("exception") => exception::main(),
        Some("log") => log::main(),
        _ => Err(couplet::Failure::msg(
            "which one? simple, another_driver, hello, stack, countdown, exception or log",
        )),
    }
}
