//! Talks over standard input and output, of any kind:
//! `printf 'rose\n' | cargo run --example stdio`. In a terminal, type lines; Ctrl-D ends them.
//! Another endpoint may be passed: `-- serial:/dev/ttyUSB0`. Twisted's `StandardIO`.

use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
use couplet::{Deferred, Reason, Resolver};

struct Capitals(Option<Resolver<()>>);

impl LineProtocol for Capitals {
    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        match line {
            b"quit" => transport.lose_connection(),
            line => transport.send_line(line.to_ascii_uppercase()),
        }
    }

    fn connection_lost(&mut self, _: &LineTransport, reason: &Reason) {
        // Not on standard output, which belongs to the connection.
        eprintln!("{reason}");
        if let Some(done) = self.0.take() {
            done.callback(());
        }
    }
}

fn main() -> couplet::Result<()> {
    let endpoint = std::env::args().nth(1).unwrap_or("stdio:".into());
    couplet::run_until(|reactor| {
        let (end, done) = Deferred::new();
        let capitals = LineReceiver::new(Capitals(Some(done))).with_delimiter(b"\n");
        reactor.connect_protocol(&endpoint, capitals).then(|_| end)
    })
}
