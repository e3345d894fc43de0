//! One connection of the driver: its reads and writes, immediate or as operations in flight.

use std::collections::VecDeque;
use std::io;

use super::network::{Cut, EndId, Net};
use super::{Manner, READ_BUFFER, TAKE};
use crate::driver::{Event, Key, Outbox, WriteOutcome};

/// A connection of a [`Memory`](super::Memory) driver.
pub(super) struct Stream {
    pub(super) end: EndId,
    pub(super) receiving: bool,
    pub(super) ended: bool,
    /// The arrival of the peer's FIN during a pause was reported.
    pub(super) fin_reported: bool,
    pub(super) blocked: bool,
    /// Completion: received bytes in flight, and the turns until the operation completes.
    // Bound: one read: at most READ_BUFFER (256 KiB).
    pub(super) received: Option<(Vec<u8>, u32)>,
    /// Completion: bytes taken from the outbox.
    // Bound: TAKE (256 KiB), and the rest of a piece.
    pub(super) taken: VecDeque<u8>,
    pub(super) write_error: Option<io::ErrorKind>,
}

impl Stream {
    pub(super) fn new(end: EndId) -> Stream {
        Stream {
            end,
            receiving: true,
            ended: false,
            fin_reported: false,
            blocked: false,
            received: None,
            taken: VecDeque::new(),
            write_error: None,
        }
    }

    /// Whether `Memory::read` has something to report. In the completion manner this starts the
    /// receive operation, or counts down its turns.
    pub(super) fn is_readable(&mut self, net: &mut Net, manner: Manner) -> bool {
        let end = net.end(self.end);
        let broken = end.error.is_some() || self.write_error.is_some();
        if self.ended || !self.receiving {
            if let Some((_, turns)) = &mut self.received {
                *turns = turns.saturating_sub(1);
            }
            return broken || self.has_unreported_fin(net);
        }
        let something = broken || !end.incoming.bytes.is_empty() || end.incoming.fin;
        if manner == Manner::Readiness {
            return something;
        }
        match &mut self.received {
            Some((_, turns)) => {
                *turns = turns.saturating_sub(1);
                *turns == 0
            }
            None if something => {
                let bytes = self.receive(net);
                let turns = net.random_below(3) as u32;
                self.received = Some((bytes, turns));
                turns == 0
            }
            None => false,
        }
    }

    /// Whether the peer's FIN arrived during a pause and was not reported yet.
    pub(super) fn has_unreported_fin(&self, net: &mut Net) -> bool {
        net.end(self.end).incoming.fin && !self.ended && !self.fin_reported
    }

    pub(super) fn receive(&mut self, net: &mut Net) -> Vec<u8> {
        let most = match net.cut {
            Cut::Whole => READ_BUFFER,
            Cut::Most(n) => n.max(1),
            Cut::Random(n) => 1 + net.random_below(n),
        };
        let bytes = &mut net.end(self.end).incoming.bytes;
        let n = most.min(bytes.len()).min(READ_BUFFER);
        bytes.drain(..n).collect()
    }

    /// The end of the stream after its last byte, if it has arrived: an error or the FIN.
    pub(super) fn end_of_stream(&mut self, net: &mut Net, key: Key) -> Option<Event> {
        let end = net.end(self.end);
        let error = self.write_error.take().or(end.error.take());
        if error.is_none() && !end.incoming.fin {
            return None;
        }
        self.ended = true;
        Some(Event::Ended(key, error.map(io::Error::from)))
    }

    /// Completion: sends some taken bytes, and returns their number. Readiness: returns 0 when the
    /// network accepts bytes again.
    pub(super) fn send_some(&mut self, net: &mut Net, manner: Manner) -> Option<usize> {
        if manner == Manner::Readiness {
            let ready = self.blocked && (net.room(self.end) > 0 || net.peer(self.end).closed);
            return ready.then(|| {
                self.blocked = false;
                0
            });
        }
        if self.taken.is_empty() || self.write_error.is_some() {
            return None;
        }
        let portion = 1 + net.random_below(self.taken.len());
        // Bytes that do not fit are not copied, since they would be refused.
        let fits = if net.peer(self.end).closed { portion } else { net.room(self.end) };
        let bytes: Vec<u8> = self.taken.iter().take(portion.min(fits)).copied().collect();
        match net.send(self.end, &bytes) {
            Ok(0) => None,
            Ok(n) => {
                self.taken.drain(..n);
                Some(n)
            }
            Err(error) => {
                self.write_error = Some(error.kind());
                None
            }
        }
    }

    /// Sends as much of the outbox as fits.
    pub(super) fn write_ready(&mut self, net: &mut Net, out: &mut Outbox) -> WriteOutcome {
        while !out.is_empty() && !self.blocked {
            match net.send(self.end, out.first()) {
                Ok(n) => {
                    self.blocked = n < out.first().len();
                    out.advance(n);
                }
                Err(error) => {
                    self.write_error = Some(error.kind());
                    return WriteOutcome::Blocked;
                }
            }
        }
        if out.is_empty() { WriteOutcome::All } else { WriteOutcome::Blocked }
    }

    /// Takes bytes from the outbox, one operation at a time.
    pub(super) fn take(&mut self, out: &mut Outbox) -> WriteOutcome {
        if !self.taken.is_empty() {
            return WriteOutcome::Blocked;
        }
        while self.taken.len() < TAKE {
            let Some(piece) = out.take_piece() else {
                break;
            };
            self.taken.extend(piece.as_slice());
            out.give_back(piece);
        }
        WriteOutcome::Taken(self.taken.len())
    }
}
