//! Prints the stack inside `connection_lost`: who called us? The turn of the loop did, and little
//! stands between. `cargo run --example trace`

use std::backtrace::Backtrace;

use couplet::testing::pair;
use couplet::{Protocol, Reason, Transport};

struct Tracer;

impl Protocol for Tracer {
    fn connection_made(&mut self, transport: &Transport) {
        transport.lose_connection();
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        println!("{reason}; the stack, the last call first:");
        println!("{}", Backtrace::force_capture());
    }
}

struct Quiet;

impl Protocol for Quiet {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

fn main() {
    // Two protocols in memory: no socket is needed to lose a connection.
    pair(Tracer, Quiet);
}
