//! Protocols that many tests share: one that does nothing, and an echo.

use couplet::{Protocol, Transport};

/// Keeps its connection open, and sends nothing.
pub(crate) struct Quiet;

impl Protocol for Quiet {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

/// Sends back everything that it receives.
pub(crate) struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}
