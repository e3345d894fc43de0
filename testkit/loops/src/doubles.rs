//! Protocols for tests.

use couplet::{Protocol, Transport};

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

struct OnMade<F>(F);

impl<F: FnMut(&Transport) + 'static> Protocol for OnMade<F> {
    fn connection_made(&mut self, transport: &Transport) {
        (self.0)(transport);
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

/// Calls a closure in `connection_made`.
pub fn on_made(call: impl FnMut(&Transport) + 'static) -> impl Protocol {
    OnMade(call)
}

struct OnData<F>(F);

impl<F: FnMut(&Transport, &[u8]) + 'static> Protocol for OnData<F> {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        (self.0)(transport, data);
    }
}

/// Calls a closure in `data_received`.
pub fn on_data(call: impl FnMut(&Transport, &[u8]) + 'static) -> impl Protocol {
    OnData(call)
}
