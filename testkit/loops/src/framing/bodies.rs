//! A protocol that mixes lines and raw bytes.

use couplet::protocols::{LineProtocol, LineTransport};

use super::notes::{Event, Log};

/// A line holding a number, then that many raw bytes, then lines again.
#[derive(Clone, Default)]
pub struct Bodies {
    log: Log,
    body: Vec<u8>,
    left: usize,
    pauses: bool,
}

impl Bodies {
    /// `pauses`: it pauses reading at every opportunity.
    pub fn new(pauses: bool) -> Bodies {
        Bodies { pauses, ..Bodies::default() }
    }

    pub fn log(&self) -> Log {
        self.log.clone()
    }
}

impl LineProtocol for Bodies {
    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        self.log.borrow_mut().push(Event::Message(line.into()));
        if let Ok(length) = String::from_utf8_lossy(line).parse() {
            self.left = length;
            transport.set_raw_mode();
            if self.pauses {
                transport.pause_producing();
            }
        }
    }

    fn raw_data_received(&mut self, transport: &LineTransport, data: &[u8]) {
        let (body, rest) = data.split_at(self.left.min(data.len()));
        self.left -= body.len();
        self.body.extend_from_slice(body);
        if self.left == 0 {
            self.log.borrow_mut().push(Event::Raw(std::mem::take(&mut self.body)));
            transport.set_line_mode(rest);
        }
        if self.pauses {
            transport.pause_producing();
        }
    }
}
