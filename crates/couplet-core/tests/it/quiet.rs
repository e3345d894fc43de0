//! A protocol that does nothing: it keeps its connection open and sends nothing.

use couplet::{Protocol, Transport};

pub(crate) struct Quiet;

impl Protocol for Quiet {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}
