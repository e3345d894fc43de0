//! Part 3: a failing callback affects no other. Rust's exception is the panic; the loop catches it
//! at its call into the callback, and logs it (see `log`).
//!
//! `cargo run --example reactors -- exception`

pub(crate) fn main() -> couplet::Result<()> {
    couplet::run(|reactor| {
        reactor.call_soon(|| panic!("I stumble"));
        let stopping = reactor.clone();
        reactor.call_soon(move || {
            println!("and the next one walks on");
            stopping.stop();
        });
        Ok(())
    })
}
