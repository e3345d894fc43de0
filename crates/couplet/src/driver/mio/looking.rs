//! From what the system told of a slot to what the loop is told: one look at a time.

use std::io;

use mio::{Interest, Token};

#[cfg(target_os = "linux")]
use super::epoll::Says as _;
use super::slots::{ConnectingSlot, Kind};
use super::stream::{Found, Signs, StreamSlot};
use super::{Mio, SIGNALS, WAKER, WATCHES};
use crate::address::Address;
use crate::driver::{Event, Key, Ready, WatchId};

impl Mio {
    /// The next slot that may have something to tell, with what its event told noted.
    pub(super) fn next_slot(&mut self) -> Option<u32> {
        while let Some(event) = self.batch.get(self.cursor) {
            self.cursor += 1;
            match event.token() {
                WAKER => self.own = true,
                SIGNALS => self.signals.readable = true,
                Token(watch) if watch >= WATCHES => {
                    let failed = event.is_error() || event.is_read_closed();
                    let ready = Ready {
                        readable: event.is_readable() || failed,
                        writable: event.is_writable() || failed || event.is_write_closed(),
                    };
                    self.watched.push_back((WatchId(watch - WATCHES), ready));
                    self.own = true;
                }
                Token(slot) => {
                    let signs = Signs::of(event);
                    self.note(slot, signs);
                    return Some(slot as u32);
                }
            }
        }
        if self.due == 0 {
            return None;
        }
        self.due -= 1;
        let slot = self.ready.pop_front()?;
        self.slots[slot as usize].queued = false;
        Some(slot)
    }

    pub(super) fn note(&mut self, slot: usize, mut signs: Signs) {
        match &mut self.slots[slot].kind {
            Kind::Port(port) => port.readable = true,
            Kind::Stream(stream) => {
                if !stream.signs.has(Signs::BLOCKED) || stream.error.is_some() {
                    signs.set(Signs::ROOM, false);
                }
                stream.signs.set(signs.0, true);
            }
            Kind::Connecting(connecting) => {
                connecting.closing |= signs.has(Signs::CLOSING);
            }
            Kind::Free => {}
        }
    }

    pub(super) fn look_at_connecting(&mut self, slot: u32) -> Option<io::Result<Address>> {
        let Kind::Connecting(ConnectingSlot { stream, .. }) = &self.slots[slot as usize].kind
        else {
            return None;
        };
        let outcome = match stream.take_error() {
            Ok(Some(error)) | Err(error) => Err(error),
            Ok(None) => match (stream.peer_addr(), stream.local_addr()) {
                // A connect to a free port of our own range can meet itself.
                (Ok(peer), Ok(host)) if peer == host => {
                    Err(io::Error::from(io::ErrorKind::ConnectionRefused))
                }
                (Ok(_), Ok(host)) => Ok(Address::from(host)),
                (Err(error), _) if error.kind() == io::ErrorKind::NotConnected => return None,
                (Err(error), _) | (_, Err(error)) => Err(error),
            },
        };
        if outcome.is_ok() {
            let entry = &mut self.slots[slot as usize];
            if let Kind::Connecting(connecting) = std::mem::replace(&mut entry.kind, Kind::Free) {
                let mut stream = StreamSlot::new(connecting.stream);
                // The edge that told of the connect may have told of bytes and of their end.
                stream.signs.set(Signs::READABLE, true);
                stream.signs.set(Signs::CLOSING, connecting.closing);
                entry.kind = Kind::Stream(stream);
            }
            self.queue(slot);
        }
        Some(outcome)
    }

    pub(super) fn look_at_stream(&mut self, slot: u32) -> Found {
        let Kind::Stream(stream) = &mut self.slots[slot as usize].kind else {
            return Found::Nothing;
        };
        let already = self.read.take();
        if already.is_some() {
            stream.signs.set(Signs::READABLE, true);
        }
        if stream.signs.has(Signs::ROOM) {
            stream.signs.set(Signs::ROOM | Signs::BLOCKED, false);
            return Found::Room;
        }
        if stream.signs.has(Signs::ENDED | Signs::PAUSED) {
            return stream.pending_error().map_or(Found::Nothing, |e| Found::End(Some(e)));
        }
        if !stream.signs.has(Signs::READABLE) {
            return Found::Nothing;
        }
        let found = stream.read(&mut self.buffer, already);
        if matches!(found, Found::Bytes(n) if n == self.buffer.len()) {
            self.current = None;
            self.queue(slot);
        } else if !self.slots[slot as usize].is_readable_stream() {
            self.current = None;
        }
        found
    }

    /// The next event, whatever it is.
    #[inline(never)]
    pub(super) fn next_of_all(&mut self) -> Option<Event<'_>> {
        loop {
            let Some(slot) = self.current.take().or_else(|| self.next_slot()) else {
                return self.own_event();
            };
            self.current = Some(slot);
            let key = Key { slot, generation: self.slots[slot as usize].generation };
            match &self.slots[slot as usize].kind {
                Kind::Stream(_) => match self.look_at_stream(slot) {
                    Found::Nothing => self.current = None,
                    Found::Bytes(n) => return Some(Event::Received(key, &self.buffer[..n])),
                    Found::End(error) => return Some(Event::Ended(key, error)),
                    Found::Room => return Some(Event::Sent(key, 0)),
                },
                Kind::Port(_) => match self.look_at_port(slot) {
                    None => self.current = None,
                    Some((mut stream, peer, host)) => {
                        let host = if host.is_wildcard() {
                            stream.local_addr().map_or(host, Address::from)
                        } else {
                            host
                        };
                        // Its slot is the next one, so the token is known before it has one.
                        let next = self.free.last().map_or(self.slots.len(), |s| *s as usize);
                        let both = Interest::READABLE | Interest::WRITABLE;
                        let registry = self.poll.registry();
                        if let Err(error) = registry.register(&mut stream, Token(next), both) {
                            tracing::error!(%error, "cannot watch a new connection");
                            continue;
                        }
                        let accepted = self.insert(Kind::Stream(StreamSlot::new(stream)));
                        let peer = Address::from(peer);
                        return Some(Event::Accepted { port: key, key: accepted, peer, host });
                    }
                },
                Kind::Connecting(_) => {
                    self.current = None;
                    match self.look_at_connecting(slot) {
                        Some(Ok(host)) => return Some(Event::Connected { key, host }),
                        Some(Err(error)) => return Some(Event::Ended(key, Some(error))),
                        None => {}
                    }
                }
                Kind::Free => self.current = None,
            }
        }
    }

    pub(super) fn own_event(&mut self) -> Option<Event<'static>> {
        if let Some(signal) = self.signals.next() {
            return Some(Event::Signal(signal));
        }
        if self.own {
            if let Some((ticket, answer)) = self.names.next() {
                return Some(Event::Resolved(ticket, answer));
            }
            if let Some((ticket, ())) = self.jobs.next() {
                return Some(Event::JobDone(ticket));
            }
            if let Some((id, ready)) = self.watched.pop_front() {
                return Some(Event::Ready(id, ready));
            }
            self.own = false;
        }
        None
    }
}
