//! Part 3: we don't call our function, the reactor does, once it runs.
//!
//! `cargo run --example reactors -- hello`

pub(crate) fn main() -> couplet::Result<()> {
    couplet::run(|reactor| {
        let stopping = reactor.clone();
        reactor.call_soon(move || {
            println!("hello from inside the loop");
            stopping.stop();
        });
        println!("the loop is about to start");
        Ok(())
    })?;
    println!("the loop has ended");
    Ok(())
}
