//! The client of a transformation server: one connection per poem.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use couplet::defer::TimedOut;
use couplet::protocols::{NetstringReceiver, StringProtocol, StringTransport};
use couplet::transport::Timeout;
use couplet::{ConnectionLost, Deferred, Failure, Reactor, Reason};

use crate::endpoint::Peer;
use crate::order::{Order, order};

/// The server and the transformation.
#[derive(Debug)]
pub struct Transformer {
    /// The server.
    pub server: Peer,
    /// The transformation.
    pub name: String,
    /// The longest time for one poem.
    pub timeout: Option<Duration>,
    /// Most bytes in a transformed poem.
    pub max_bytes: u64,
}

/// The server closed the connection without an answer, as it does if it cannot transform a poem.
#[derive(Debug)]
struct Unanswered(ConnectionLost);

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer arrived: {}", self.0)?;
        // If the answer is malformed, the request is not at fault.
        if !matches!(self.0.0, Reason::Failed(_)) {
            f.write_str(
                " (a `poetry transform` takes the names of its --list, and UTF-8 of up to its \
                 --max-length, 99999 bytes unless set)",
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Unanswered {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl Transformer {
    /// Transforms this poem at the server.
    pub fn transform(&self, reactor: &Reactor, poem: Bytes) -> Deferred<Bytes> {
        let max = usize::try_from(self.max_bytes).unwrap_or(usize::MAX);
        let transformed = order(reactor, self.server.endpoint.clone(), |order| {
            let client = TransformClient { name: self.name.clone(), poem, order };
            NetstringReceiver::new(client).with_max_length(max)
        });
        match self.timeout {
            Some(timeout) => transformed.add_timeout(reactor, timeout),
            None => transformed,
        }
    }

    /// Describes in a clause why the poem was not transformed.
    pub(crate) fn why(&self, failure: &Failure) -> String {
        let server = &self.server.name;
        match failure.downcast_ref::<TimedOut>() {
            Some(late) => {
                let seconds = late.after.as_secs_f64();
                format!("{server} did not transform it within {seconds} s (--timeout)")
            }
            None => format!("{server} did not transform it: {failure}"),
        }
    }
}

struct TransformClient {
    name: String,
    poem: Bytes,
    order: Rc<Order<Bytes>>,
}

impl StringProtocol for TransformClient {
    fn connection_made(&mut self, transport: &StringTransport) {
        self.order.set_transport(transport);
        let length = self.name.len() + 1 + self.poem.len();
        transport.write(format!("{length}:{}.", self.name));
        transport.write_bytes(std::mem::take(&mut self.poem));
        transport.write(",");
        // The FIN ends the requests: a server that expects something else need not wait for more,
        // and we need not wait for that server.
        transport.lose_write_connection();
    }

    /// Called when the poem has been sent, however long that took. From now on a close is
    /// immediate, because a malformed answer is reported only once the connection has ended.
    fn write_closed(&mut self, transport: &StringTransport) {
        transport.set_timeout(Timeout::Fin, Some(Duration::ZERO));
    }

    fn string_received(&mut self, transport: &StringTransport, poem: &[u8]) {
        self.order.resolve(Ok(Bytes::copy_from_slice(poem)));
        transport.lose_connection();
    }

    /// Bytes that the server has not read are irrelevant now.
    fn read_closed(&mut self, transport: &StringTransport) {
        let lost = ConnectionLost(Reason::Done(couplet::By::Peer));
        self.order.resolve(Err(Unanswered(lost).into()));
        transport.abort_connection();
    }

    fn connection_lost(&mut self, _: &StringTransport, reason: &Reason) {
        self.order.resolve(Err(Unanswered(ConnectionLost(reason.clone())).into()));
    }
}
