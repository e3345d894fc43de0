//! One connection of the driver: its reads and writes, immediate or as operations in flight.

use std::collections::VecDeque;
use std::io;

use super::network::{Cut, EndId, Net, split};
use super::{Manner, Notice, READ_BUFFER, TAKE};
use crate::driver::readiness::Readiness;
use crate::driver::{Event, Key, Outbox, WriteOutcome};

/// A connection of a [`Memory`](super::Memory) driver.
pub(super) struct Stream {
    pub(super) end: EndId,
    /// `PAUSED`, `ENDED`, `END_REPORTED` and `BLOCKED`; the network knows the rest.
    pub(super) readiness: Readiness,
    /// Completion: received bytes in flight, and the turns until the operation completes.
    pub(super) received: Option<(Vec<u8>, u32)>,
    /// Completion: bytes taken from the outbox.
    pub(super) taken: VecDeque<u8>,
    pub(super) write_error: Option<io::ErrorKind>,
}

impl Stream {
    pub(super) fn new(end: EndId) -> Stream {
        Stream {
            end,
            readiness: Readiness::NONE,
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
        if self.readiness.has(Readiness::ENDED | Readiness::PAUSED) {
            if let Some((_, turns)) = &mut self.received {
                *turns = turns.saturating_sub(1);
            }
            return broken || self.readiness.has_unreported_end(end.incoming.fin);
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

    pub(super) fn receive(&mut self, net: &mut Net) -> Vec<u8> {
        let most = match net.cut {
            Cut::Whole => READ_BUFFER,
            Cut::Most(n) => n.max(1),
            Cut::Random(n) => 1 + net.random_below(n),
        };
        let bytes = &mut net.end(self.end).incoming.bytes;
        split(bytes, most.min(READ_BUFFER))
    }

    /// The end of the stream after its last byte, if it has arrived: an error or the FIN.
    pub(super) fn end_of_stream(&mut self, net: &mut Net, key: Key) -> Option<Event> {
        let end = net.end(self.end);
        let error = self.write_error.take().or(end.error.take());
        if error.is_none() && !end.incoming.fin {
            return None;
        }
        self.readiness.set(Readiness::ENDED, true);
        Some(Event::end_of(key, error.map(io::Error::from)))
    }

    /// Completion: sends some taken bytes. Readiness: checks whether the network accepts bytes again.
    pub(super) fn send_some(&mut self, net: &mut Net, key: Key, manner: Manner) -> Option<Notice> {
        if manner == Manner::Readiness {
            let room = net.room(self.end) > 0 || net.peer(self.end).is_closed();
            return (room && self.readiness.take(Readiness::BLOCKED)).then_some(Notice::Room(key));
        }
        if self.taken.is_empty() || self.write_error.is_some() {
            return None;
        }
        let portion = 1 + net.random_below(self.taken.len());
        // Bytes that do not fit are not copied, since they would be refused.
        let fits = if net.peer(self.end).is_closed() { portion } else { net.room(self.end) };
        let bytes: Vec<u8> = self.taken.iter().take(portion.min(fits)).copied().collect();
        match net.send(self.end, &bytes) {
            Ok(0) => None,
            Ok(n) => {
                self.taken.drain(..n);
                Some(Notice::Sent(key, n))
            }
            Err(error) => {
                self.write_error = Some(error.kind());
                None
            }
        }
    }

    /// Sends as much of the outbox as fits.
    pub(super) fn write_ready(&mut self, net: &mut Net, out: &mut Outbox) -> WriteOutcome {
        while !out.is_empty() && !self.readiness.has(Readiness::BLOCKED) && out.load() {
            match net.send(self.end, out.first()) {
                Ok(n) => {
                    self.readiness.set(Readiness::BLOCKED, n < out.first().len());
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
        while self.taken.len() < TAKE && out.load() {
            let Some(piece) = out.take_piece() else {
                break;
            };
            self.taken.extend(piece.as_slice());
            out.give_back(piece);
        }
        // Nothing is taken if a part of a file can't be read.
        match self.taken.len() {
            0 => WriteOutcome::Blocked,
            taken => WriteOutcome::Taken(taken),
        }
    }
}
