//! Part 5, an exercise: a client that also talks back: thanks for every line, and a last word
//! after the poet's FIN, since the end of reading is not the end of writing.
//!
//! `cargo run --example exercises -- talking 127.0.0.1:10000`

use std::net::SocketAddr;

use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
use couplet::{Deferred, Failure, Reason, Resolver};

struct Talker {
    lines: usize,
    end: Option<Deferred<()>>,
    done: Option<Resolver<()>>,
}

impl LineProtocol for Talker {
    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        self.lines += 1;
        println!("{}", String::from_utf8_lossy(line));
        transport.send_line(format!("thank you for line {}", self.lines));
    }

    fn read_closed(&mut self, transport: &LineTransport) {
        transport.send_line("is that all?");
        transport.lose_connection(); // flushes first
    }

    fn connection_lost(&mut self, _: &LineTransport, reason: &Reason) {
        println!("{} lines; {reason}", self.lines);
        if let Some(done) = self.done.take() {
            done.callback(());
        }
    }
}

pub(crate) fn main(server: SocketAddr) -> couplet::Result<()> {
    couplet::run_until(|reactor| {
        let factory = || {
            let (end, done) = Deferred::new();
            let talker = Talker { lines: 0, end: Some(end), done: Some(done) };
            LineReceiver::new(talker).with_delimiter(b"\n")
        };
        reactor
            .connect(format!("tcp:{server}"), factory)
            .then(|connection| connection.ask(|receiver, _| receiver.protocol().end.take()))
            .then(|end| end.unwrap_or_else(|| Deferred::fail(Failure::msg("asked twice"))))
    })
}
