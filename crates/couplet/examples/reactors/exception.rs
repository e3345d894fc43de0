//! Part 3: a callback that goes wrong takes nobody with it. Rust's exception is the panic; it ends
//! where the loop called, and is logged there (see `log`).
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
