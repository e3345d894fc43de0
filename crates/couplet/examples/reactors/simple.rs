//! Part 3: the smallest program. The reactor has nothing to do and waits, without using the CPU,
//! until Ctrl-C.
//!
//! `cargo run --example reactors -- simple`

pub(crate) fn main() -> couplet::Result<()> {
    couplet::run(|_reactor| {
        println!("waiting for nothing; Ctrl-C ends me");
        Ok(())
    })?;
    println!("ended as asked");
    Ok(())
}
