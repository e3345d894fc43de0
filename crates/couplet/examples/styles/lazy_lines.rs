//! Part 21, Haskell: a poem as a lazy list of lines. A line is read only when needed: until then
//! reading is paused, and TCP flow control slows the poet down.
//!
//! `cargo run --example styles -- lazy_lines 127.0.0.1:10000 127.0.0.1:10001`

use std::net::SocketAddr;

use couplet::defer::list;
use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
use couplet::{Connection, ConnectionLost, Deferred, Reactor, Reason, Resolver, Result};

#[derive(Default)]
struct Reader {
    wanted: Option<Resolver<Option<String>>>,
}

impl LineProtocol for Reader {
    fn connection_made(&mut self, transport: &LineTransport) {
        transport.pause_producing();
    }

    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        transport.pause_producing();
        if let Some(wanted) = self.wanted.take() {
            wanted.resolve(String::from_utf8(line.to_vec()).map(Some).map_err(Into::into));
        }
    }

    fn connection_lost(&mut self, _: &LineTransport, reason: &Reason) {
        match self.wanted.take() {
            Some(wanted) if reason.is_clean() => wanted.callback(None),
            Some(wanted) => wanted.errback(ConnectionLost(reason.clone())),
            None => {}
        }
    }
}

/// The lines of a poem, each read only on request.
pub(crate) struct LazyLines(Connection<Reader>);

impl LazyLines {
    pub(crate) async fn of(reactor: &Reactor, server: SocketAddr) -> Result<LazyLines> {
        let factory = || LineReceiver::new(Reader::default()).with_delimiter(b"\n");
        let connection = reactor.connect(format!("tcp:{server}"), factory).await?;
        Ok(LazyLines(connection.transport().connection()))
    }

    /// The next line; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<String>> {
        let (line, resolver) = Deferred::new();
        self.0.tell(|reader, transport| {
            reader.wanted = Some(resolver);
            transport.resume_producing();
        });
        line.await
    }
}

async fn show(n: usize, server: SocketAddr, reactor: Reactor) -> Result<()> {
    let mut lines = LazyLines::of(&reactor, server).await?;
    while let Some(line) = lines.next().await? {
        println!("task {n}: {line}");
    }
    Ok(())
}

pub(crate) fn main(servers: Vec<SocketAddr>) -> Result<()> {
    couplet::run_until(|reactor| {
        let tasks = (1..).zip(servers).map(|(n, server)| {
            let task = reactor.spawn(show(n, server, reactor.clone()));
            task.add_errback(move |failure| {
                println!("task {n}: no poem: {failure}");
                Ok(())
            })
        });
        list(tasks).map(|_| ())
    })
}
