//! Protocols for tests.

use couplet::{Protocol, Reason, Transport};

/// Sends received bytes back.
#[derive(Clone, Copy, Default)]
pub struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Keeps its connection open, and sends nothing.
#[derive(Clone, Copy, Default)]
pub struct Quiet;

impl Protocol for Quiet {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

/// Calls a closure in `connection_made`.
pub struct OnMade<F>(pub F);

impl<F: FnMut(&Transport) + 'static> Protocol for OnMade<F> {
    fn connection_made(&mut self, transport: &Transport) {
        (self.0)(transport);
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

/// Calls a closure in `data_received`.
pub struct OnData<F>(pub F);

impl<F: FnMut(&Transport, &[u8]) + 'static> Protocol for OnData<F> {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        (self.0)(transport, data);
    }
}

/// Calls a closure in `connection_lost`.
pub struct OnLost<F>(pub F);

impl<F: FnMut(&Transport, &Reason) + 'static> Protocol for OnLost<F> {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        (self.0)(transport, reason);
    }
}
