//! Prints the stack inside `connection_lost`: who called us? A turn of the loop did, almost
//! directly. `cargo run --example trace`

use std::backtrace::Backtrace;

use couplet::{Protocol, Reason, Transport};

struct Tracer;

impl Protocol for Tracer {
    fn connection_made(&mut self, transport: &Transport) {
        transport.lose_connection();
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        println!("{reason}; the stack, the last call first:");
        println!("{}", Backtrace::force_capture());
        transport.reactor().stop();
    }
}

struct Quiet;

impl Protocol for Quiet {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

fn main() -> couplet::Result<()> {
    couplet::run(|reactor| {
        let port = reactor.listen("tcp:0:interface=127.0.0.1", || Quiet)?;
        reactor.connect(port.host().to_string(), || Tracer).detach();
        Ok(())
    })
}
