//! Clients of a by-name server: one requests a poem, the other the titles.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use couplet::endpoints::ClientEndpoint;
use couplet::{ConnectionLost, Deferred, Failure, Protocol, Reactor, Reason, Transport};

use crate::answer::{FirstLine, ReplyKind};
use crate::order::{CutShort, Order, TooLong, order};
use crate::progress::Bar;

/// Law 9: the most bytes of all titles.
const MAX_TITLES: usize = 16 * 1024 * 1024;

/// The connection ended before the answer arrived.
#[derive(Debug)]
struct Unanswered(ConnectionLost);

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lost = &self.0;
        write!(f, "no answer arrived: {lost}; is that a `poetry serve --by-name`?")
    }
}

impl std::error::Error for Unanswered {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// Requests one poem; the answer begins with its length.
struct NamedClient {
    title: String,
    max_bytes: u64,
    bar: Option<Bar>,
    state: AskStage,
    order: Rc<Order<Vec<u8>>>,
}

enum AskStage {
    Asking(FirstLine),
    Poem { poem: Vec<u8>, of: u64 },
}

impl NamedClient {
    /// Takes received bytes, up to the end of the poem; returns the poem once it is complete.
    fn take(&mut self, mut data: &[u8], now: Instant) -> couplet::Result<Option<Vec<u8>>> {
        if let AskStage::Asking(line) = &mut self.state {
            let Some((of, rest)) = line.feed(data)? else { return Ok(None) };
            if of > self.max_bytes {
                return Err(TooLong(self.max_bytes).into());
            }
            data = rest;
            self.state = AskStage::Poem { poem: Vec::new(), of };
        }
        let AskStage::Poem { poem, of } = &mut self.state else { return Ok(None) };
        let missing = usize::try_from(*of - poem.len() as u64).unwrap_or(usize::MAX);
        let data = &data[..data.len().min(missing)];
        poem.extend_from_slice(data);
        if let Some(bar) = &self.bar {
            bar.add(data.len(), now);
        }
        Ok((poem.len() as u64 == *of).then(|| std::mem::take(poem)))
    }
}

impl Protocol for NamedClient {
    fn connection_made(&mut self, transport: &Transport) {
        self.order.set_transport(transport);
        if let Some(bar) = &self.bar {
            bar.connected();
        }
        transport.write(format!("{}\r\n", self.title));
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let made = self.take(data, transport.reactor().now());
        self.order.settle(transport, made);
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        let lost = ConnectionLost(reason.clone());
        self.order.resolve(Err(match &self.state {
            AskStage::Asking(_) => Unanswered(lost).into(),
            AskStage::Poem { poem, of } => {
                CutShort { bytes: poem.len() as u64, of: Some(*of), lost }.into()
            }
        }));
    }
}

/// Fetches the poem with this title, and shows the progress in `bar` if there is one. Cancelling
/// the Deferred ends the connect or the connection.
pub fn ask_poem(
    reactor: &Reactor,
    from: Arc<dyn ClientEndpoint>,
    title: String,
    max_bytes: u64,
    bar: impl Into<Option<Bar>>,
) -> Deferred<Vec<u8>> {
    let bar = bar.into();
    let state = AskStage::Asking(FirstLine::new(ReplyKind::Poem));
    order(reactor, from, |order| NamedClient { title, max_bytes, bar, state, order })
}

/// Requests the titles.
struct TitlesClient {
    line: FirstLine,
    /// Lines still missing, once their number is known.
    missing: Option<u64>,
    titles: Vec<u8>,
    order: Rc<Order<Vec<u8>>>,
}

impl TitlesClient {
    /// Takes received bytes, up to the last title; returns the titles once all are complete.
    fn take(&mut self, mut data: &[u8]) -> couplet::Result<Option<Vec<u8>>> {
        let mut missing = match self.missing {
            Some(missing) => missing,
            None => {
                let Some((count, rest)) = self.line.feed(data)? else { return Ok(None) };
                data = rest;
                count
            }
        };
        // Each missing title has at least one byte, its line end.
        if missing.saturating_add((self.titles.len() + data.len()) as u64) > MAX_TITLES as u64 {
            return Err(Failure::msg(format!("the titles have more than {MAX_TITLES} bytes")));
        }
        for line in data.split_inclusive(|byte| *byte == b'\n') {
            if missing == 0 {
                break;
            }
            self.titles.extend_from_slice(line);
            missing -= u64::from(line.ends_with(b"\n"));
        }
        self.missing = Some(missing);
        Ok((missing == 0).then(|| std::mem::take(&mut self.titles)))
    }
}

impl Protocol for TitlesClient {
    fn connection_made(&mut self, transport: &Transport) {
        self.order.set_transport(transport);
        transport.write("?\r\n");
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let made = self.take(data);
        self.order.settle(transport, made);
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        let lost = ConnectionLost(reason.clone());
        self.order.resolve(Err(match self.missing {
            None => Unanswered(lost).into(),
            Some(1) => Failure::msg(format!("one title is missing: {lost}")),
            Some(missing) => Failure::msg(format!("{missing} titles are missing: {lost}")),
        }));
    }
}

/// Fetches the titles, one per line, as the server sends them.
pub fn ask_titles(reactor: &Reactor, from: Arc<dyn ClientEndpoint>) -> Deferred<Vec<u8>> {
    let line = FirstLine::new(ReplyKind::Titles);
    order(reactor, from, |order| TitlesClient { line, missing: None, titles: Vec::new(), order })
}
