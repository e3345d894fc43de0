//! The PROXY protocol, versions 1 and 2: a proxy reports the client's address to the server behind
//! it.
//!
//! [`ProxyReader`] is a server's layer, [`ProxyWriter`] a client's. Any peer that can connect to a
//! port with a reader can claim any address, so use it only for connections of trusted peers; the
//! caller decides that by the peer's address.
//!
//! <https://www.haproxy.org/download/3.1/doc/proxy-protocol.txt>
//!
//! Contract: 51d, 81a.

mod header;

use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use header::LONGEST;
pub use header::{ProxyError, ProxyHeader, ProxyTls, ProxyVersion};

use super::{Layer, Opened, Outbox, PassThrough, Up};
use crate::bounded::{AtMost, Bounded};
use crate::defer::Failure;
use crate::error::Reason;

/// Default time limit for the header.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Reads a PROXY header at the beginning of a connection, and forwards the bytes after it. As the only
/// layer of a new connection, it is dropped once it has read the header.
///
/// The header is required. Limits: 10 s, 4096 bytes for version 2 and 107 for version 1. A
/// connection that the proxy makes on its own behalf, such as a health check, keeps its addresses.
///
/// If the stream ends within the header, the reason is [`Lost`](Reason::Lost), with the
/// [`ProxyError`] inside; any other error is the failure in [`Failed`](Reason::Failed).
pub struct ProxyReader {
    /// Empty once the header was read.
    received: Bounded<Vec<u8>, AtMost<LONGEST>>,
    deadline: Option<Instant>,
    stage: HeaderStage,
    after: PassThrough,
}

#[derive(PartialEq, Eq)]
enum HeaderStage {
    Header,
    /// The time for the header is over.
    Late,
    Open,
}

impl ProxyReader {
    /// A reader for a connection made at `now`.
    pub fn new(now: Instant) -> ProxyReader {
        ProxyReader {
            received: Bounded::default(),
            deadline: now.checked_add(TIMEOUT),
            stage: HeaderStage::Header,
            after: PassThrough::default(),
        }
    }

    /// Sets the time by which the header must be complete.
    #[must_use]
    pub fn deadline_at(mut self, deadline: Option<Instant>) -> ProxyReader {
        self.deadline = deadline;
        self
    }

    /// Reads the header, and takes no byte after it from `below`.
    fn read(&mut self, below: &mut &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
        loop {
            let missing = match header::bytes_needed(&self.received, below)? {
                0 => return header::parse(&self.received).map(Some),
                missing => missing,
            };
            if below.is_empty() {
                return match self.stage {
                    HeaderStage::Late => Err(ProxyError::TimedOut),
                    _ if self.after.ended => {
                        Err(ProxyError::Truncated { received: self.received.len() })
                    }
                    _ => Ok(None),
                };
            }
            let (taken, rest) = below.split_at(missing.min(below.len()));
            self.received.edit().extend_from_slice(taken);
            *below = rest;
        }
    }
}

impl Layer for ProxyReader {
    fn name(&self) -> &'static str {
        "PROXY header"
    }

    fn up<'a>(&'a mut self, below: &mut &'a [u8], now: Instant) -> Up<'a> {
        if self.is_open() {
            return self.after.up(below, now);
        }
        match self.read(below) {
            Ok(None) => Up::Nothing,
            Ok(Some(header)) => {
                self.received.take();
                self.deadline = None;
                self.stage = HeaderStage::Open;
                Up::Open(Some(Box::new(Opened::from(header))))
            }
            Err(error) => {
                self.deadline = None;
                Up::Failed(match error {
                    ProxyError::Truncated { .. } => {
                        let error = io::Error::new(io::ErrorKind::UnexpectedEof, error);
                        Reason::Lost(Arc::new(error))
                    }
                    error => Reason::Failed(Failure::from(error)),
                })
            }
        }
    }

    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, now: Instant) {
        if self.is_open() {
            self.after.down(above, below, now);
        }
    }

    fn ended(&mut self) {
        self.after.ended();
    }

    fn is_open(&self) -> bool {
        self.stage == HeaderStage::Open
    }

    fn is_finished(&self) -> bool {
        self.is_open() && !self.after.ended
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn timed_out(&mut self, _: Instant) {
        if self.deadline.take().is_some() {
            self.stage = HeaderStage::Late;
        }
    }

    fn relays(&self) -> bool {
        true
    }
}

impl fmt::Debug for ProxyReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyReader").field("is_open", &self.is_open()).finish_non_exhaustive()
    }
}

impl From<ProxyHeader> for Opened {
    fn from(header: ProxyHeader) -> Opened {
        let (peer, host) = (header.peer.clone(), header.host.clone());
        Opened { peer, host, infos: vec![Rc::new(header)] }
    }
}

/// Writes a PROXY header before all other bytes.
#[derive(Debug)]
pub struct ProxyWriter {
    /// Empty once the header was sent.
    header: Bounded<Vec<u8>, AtMost<LONGEST>>,
    after: PassThrough,
}

impl ProxyWriter {
    /// Writes this header.
    ///
    /// # Errors
    ///
    /// If the version cannot express the header, or the header is too long.
    pub fn new(header: &ProxyHeader, version: ProxyVersion) -> Result<ProxyWriter, ProxyError> {
        Ok(ProxyWriter { header: header.encode(version)?.into(), after: PassThrough::default() })
    }
}

impl Layer for ProxyWriter {
    fn name(&self) -> &'static str {
        "PROXY header"
    }

    fn up<'a>(&'a mut self, below: &mut &'a [u8], now: Instant) -> Up<'a> {
        self.after.up(below, now)
    }

    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, now: Instant) {
        if !self.header.is_empty() {
            below.extend(&self.header.take());
        }
        self.after.down(above, below, now);
    }

    fn ended(&mut self) {
        self.after.ended();
    }

    fn held(&self) -> usize {
        self.header.len()
    }
}

#[cfg(test)]
mod tests;
