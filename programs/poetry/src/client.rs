//! The client of a server that sends one poem without a request; the end of the stream ends the
//! poem.

use std::rc::Rc;
use std::sync::Arc;

use clap::Args;
use couplet::endpoints::ClientEndpoint;
use couplet::{ConnectionLost, Deferred, Failure, Protocol, Reactor, Reason, Transport};

use crate::order::{CutShort, Order, TooLong, order};
use crate::progress::Bar;
use crate::values::bytes;

// An argument of two commands. No doc comment: it would become the commands' help.
#[derive(Args, Debug)]
pub(crate) struct Limit {
    /// Give up on a poem that is longer than this many bytes [default: 64 MiB]
    #[arg(
        long,
        value_name = "N",
        default_value = "67108864",
        hide_default_value = true,
        value_parser = bytes,
        allow_negative_numbers = true
    )]
    pub(crate) max_bytes: u64,
}

/// The forms of an address to connect to, for the help of two commands.
macro_rules! addresses {
    () => {
        "\
An ADDRESS is one of:
  10000                           this port, on 127.0.0.1
  localhost:10000, [::1]:10000    a name or an IP address, and a port
  tcp:example.com:10000           the same, spelt out
  unix:/run/app.sock, unix:@app   this UNIX socket, or this abstract name
  tls:example.com:443             with TLS; ca=FILE trusts another authority
  haproxy:…, throttle:…, log:…    before any of these: a PROXY header, a limit, a log"
    };
}
pub(crate) use addresses;

/// Collects one poem and delivers it once complete.
struct PoetryClient {
    poem: Vec<u8>,
    max_bytes: u64,
    bar: Option<Bar>,
    order: Rc<Order<Vec<u8>>>,
}

impl Protocol for PoetryClient {
    fn connection_made(&mut self, transport: &Transport) {
        self.order.set_transport(transport);
        if let Some(bar) = &self.bar {
            bar.connected();
        }
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        if (self.poem.len() + data.len()) as u64 > self.max_bytes {
            self.order.resolve(Err(TooLong(self.max_bytes).into()));
            return transport.abort_connection();
        }
        self.poem.extend_from_slice(data);
        if let Some(bar) = &self.bar {
            bar.add(data.len(), transport.reactor().now());
        }
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        if reason.is_clean() {
            self.order.resolve(not_empty(std::mem::take(&mut self.poem)));
        } else {
            let (bytes, lost) = (self.poem.len() as u64, ConnectionLost(reason.clone()));
            self.order.resolve(Err(CutShort { bytes, of: None, lost }.into()));
        }
    }
}

/// A server without a poem closes without data.
fn not_empty(poem: Vec<u8>) -> couplet::Result<Vec<u8>> {
    if poem.is_empty() {
        return Err(Failure::msg("the connection was closed without data"));
    }
    Ok(poem)
}

/// Fetches one poem, which is never empty, and shows the progress in `bar` if there is one.
/// Cancelling the Deferred ends the connect or the connection.
pub fn get_poem(
    reactor: &Reactor,
    from: Arc<dyn ClientEndpoint>,
    max_bytes: u64,
    bar: impl Into<Option<Bar>>,
) -> Deferred<Vec<u8>> {
    let bar = bar.into();
    order(reactor, from, |order| PoetryClient { poem: Vec::new(), max_bytes, bar, order })
}
