//! Access lines: an event for each request whose response has ended. Their target is their switch,
//! and while it is off a request costs one comparison.

use std::cell::Cell;
use std::time::Instant;

use couplet_core::Transport;
use http::{Method, Request, StatusCode};

/// The line of a request, without the parts of its target that may hold secrets: its query, and a
/// user's name and password.
pub(super) struct AccessLine {
    method: Method,
    path: Box<str>,
    began: Instant,
    /// `None` until the request is answered.
    status: Cell<Option<StatusCode>>,
    /// Bytes of the response's body that the connection has taken.
    bytes: Cell<u64>,
}

impl AccessLine {
    /// Begins the line of a request, if the subscriber wants such lines.
    #[inline]
    pub(super) fn begin(request: &Request<()>, transport: &Transport) -> Option<Box<AccessLine>> {
        if tracing::enabled!(target: "couplet::access::request", tracing::Level::DEBUG) {
            return Some(AccessLine::new(request, transport));
        }
        None
    }

    #[cold]
    fn new(request: &Request<()>, transport: &Transport) -> Box<AccessLine> {
        Box::new(AccessLine {
            method: request.method().clone(),
            path: request.uri().path().into(),
            began: transport.reactor().now(),
            status: Cell::default(),
            bytes: Cell::default(),
        })
    }

    pub(super) fn set_status(&self, status: StatusCode) {
        self.status.set(Some(status));
    }

    pub(super) fn add_bytes(&self, count: usize) {
        self.bytes.set(self.bytes.get() + count as u64);
    }

    /// Logs the line. Without an answer, such as to a client that left before it, there is no
    /// status.
    #[cold]
    pub(super) fn end(&self, transport: &Transport) {
        let took = transport.reactor().now().saturating_duration_since(self.began);
        tracing::debug!(
            target: "couplet::access::request",
            connection = %transport.id(),
            peer = %transport.peer(),
            method = %self.method,
            path = &*self.path,
            status = self.status.get().map(|status| status.as_u16()),
            bytes = self.bytes.get(),
            seconds = took.as_secs_f64(),
            "request ended"
        );
    }
}
