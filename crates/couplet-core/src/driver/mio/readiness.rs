//! Turns readiness into events, one slot at a time.
//!
//! Contract: 54, 55, 57, 162.

use std::collections::VecDeque;
use std::io;

use mio::Token;

use super::accepting::BACK_OFF;
#[cfg(target_os = "linux")]
use super::epoll::EventExt as _;
use super::slots::{ConnectingSlot, HeldMessage, Kind, Registered};
use super::stream::{READ, ReadResult};
use super::system::{self, is_queue_full};
use super::{Mio, SIGNALS, WAKER, socket, watch_of};
use crate::address::Address;
use crate::driver::readiness::Readiness;
use crate::driver::{Event, Key, Ready};

impl Mio {
    /// The next slot that may have something to report, after recording the readiness of its event.
    pub(super) fn next_slot(&mut self) -> Option<u32> {
        while let Some(event) = self.batch.get(self.cursor) {
            self.cursor += 1;
            match event.token() {
                WAKER => self.has_internal_events = true,
                SIGNALS => self.signals.record_readiness(),
                token => {
                    let Some(watch) = watch_of(token) else {
                        let readiness = Readiness::from_event(event);
                        self.record_readiness(token.0, readiness);
                        return Some(token.0 as u32);
                    };
                    // A pipe reports an error when its last reader closes.
                    let failed = event.is_error() || event.is_read_closed();
                    let ready = match (event.is_readable(), event.is_writable()) {
                        (true, false) if !failed => Ready::Readable,
                        (false, true) if !failed => Ready::Writable,
                        _ => Ready::Both,
                    };
                    self.watched.edit().push_back((watch, ready));
                    self.has_internal_events = true;
                }
            }
        }
        while let Some(slot) = self.again.pop_front() {
            // A slot queued for the next turn has had its share of this one.
            if self.slots.at(slot).is_some_and(|slot| !slot.queued) {
                return Some(slot);
            }
        }
        None
    }

    pub(super) fn record_readiness(&mut self, slot: usize, mut readiness: Readiness) {
        let Some(slot) = self.slots.at_mut(slot as u32) else { return };
        match &mut slot.kind {
            Kind::Port(port) => port.readiness.set(Readiness::READABLE, true),
            Kind::Datagrams(port) => port.record_readiness(readiness),
            Kind::Stream(stream) => {
                if !stream.readiness.has(Readiness::BLOCKED) || stream.error.is_some() {
                    readiness.set(Readiness::ROOM, false);
                }
                stream.readiness.set(readiness.0, true);
            }
            #[cfg(unix)]
            Kind::Pipe(pipe) => pipe.record_readiness(readiness),
            Kind::Dialling(_) => {}
            Kind::Connecting(connecting) => {
                connecting.readiness.add(readiness, Readiness::CLOSING);
            }
        }
    }

    /// Retries a connect to a UNIX socket.
    fn dial(&mut self, slot: u32) -> Option<Event> {
        let key = self.slots.key_at(slot);
        let Some(Kind::Dialling(dial)) = self.kind(key) else {
            return None;
        };
        let connected = match system::connect(&dial.to, &dial.options) {
            Err(error) if is_queue_full(&dial.to, &error) => {
                self.try_again(slot, BACK_OFF);
                return None;
            }
            connected => connected,
        };
        let registered = connected.and_then(|mut stream| {
            self.world.registry.register(&mut stream, Token(slot as usize), socket::BOTH)?;
            Ok(stream)
        });
        match registered {
            Ok(stream) => {
                let connecting = ConnectingSlot { stream, readiness: Readiness::new(true) };
                self.slots
                    .map(key, |slot| Registered { kind: Kind::Connecting(connecting), ..slot });
                None
            }
            Err(error) => Some(Event::Failed(key, error)),
        }
    }

    fn next_from_connecting(&mut self, slot: u32) -> Option<Event> {
        let key = self.slots.key_at(slot);
        let Some(Registered { kind: Kind::Connecting(connecting), .. }) = self.slots.get_mut(key)
        else {
            return None;
        };
        match connecting.outcome()? {
            Ok(host) => {
                if connecting.readiness.has(Readiness::LOCAL) {
                    let (token, few) = (Token(slot as usize), socket::interest(true));
                    // Events that stay registered only cost time.
                    let _ = self.world.registry.reregister(&mut connecting.stream, token, few);
                }
                self.slots.map(key, |slot| Registered { kind: slot.kind.connected(), ..slot });
                self.queue(slot);
                Some(Event::Connected { key, host })
            }
            Err(error) => Some(Event::Failed(key, error)),
        }
    }

    /// The next event of a stream. `already` is the result of a read already made for it, if any.
    fn next_from_stream(&mut self, slot: u32, already: Option<io::Result<usize>>) -> Option<Event> {
        let key = self.slots.key_at(slot);
        let Some(Registered { kind: Kind::Stream(stream), .. }) = self.slots.get_mut(key) else {
            return None;
        };
        if already.is_some() {
            stream.readiness.set(Readiness::READABLE, true);
        }
        if let Some(error) = stream.take_half_error() {
            self.again.push_front(slot);
            return Some(Event::WriteFailed(key, error));
        }
        if stream.readiness.has(Readiness::ROOM) {
            stream.readiness.set(Readiness::ROOM | Readiness::BLOCKED, false);
            self.again.push_front(slot);
            return Some(Event::Room(key));
        }
        if stream.readiness.has(Readiness::ENDED | Readiness::PAUSED) {
            if let Some(error) = stream.pending_error() {
                return Some(Event::Failed(key, error));
            }
            let has_arrived = stream.readiness.has(Readiness::CLOSING);
            return stream
                .readiness
                .take_unreported_end(has_arrived)
                .then_some(Event::PeerEnded(key));
        }
        if !self.held.is_empty() && self.held.contains_key(&slot) {
            return self.next_held(key);
        }
        if !stream.readiness.has(Readiness::READABLE) {
            return None;
        }
        let most = match &already {
            Some(_) => self.first_read,
            None => stream.read_limit(self.buffer.len()),
        };
        let mut descriptors = Vec::new();
        match stream.read(&mut self.buffer[..most], already, &mut descriptors) {
            ReadResult::Nothing => None,
            ReadResult::End(error) => Some(Event::end_of(key, error)),
            ReadResult::Bytes(n) if !descriptors.is_empty() => {
                // Descriptors are reported first, and then another connection may use the buffer.
                let held = HeldMessage {
                    descriptors: VecDeque::from(descriptors).into(),
                    bytes: self.buffer[..n].to_vec(),
                };
                self.held.insert(slot, held);
                self.next_held(key)
            }
            ReadResult::Bytes(n) => {
                stream.readiness.set(Readiness::BULK, n == most || n >= READ);
                if n == most {
                    self.queue(slot);
                } else if stream.readiness.has(Readiness::READABLE) {
                    self.again.push_front(slot);
                }
                self.lent = n;
                Some(Event::Received(key))
            }
        }
    }

    /// The next item received in one message on a UNIX socket: its descriptors, then its bytes.
    #[cold]
    fn next_held(&mut self, key: Key) -> Option<Event> {
        let mut held = self.held.remove(&key.slot)?;
        #[cfg(unix)]
        let descriptor = held.descriptors.edit().pop_front();
        #[cfg(unix)]
        if let Some(descriptor) = descriptor {
            self.held.insert(key.slot, held);
            self.again.push_front(key.slot);
            return Some(Event::Descriptor(key, descriptor));
        }
        let len = held.bytes.len().min(self.buffer.len());
        self.lent = len;
        self.buffer[..len].copy_from_slice(&held.bytes[..len]);
        if len < held.bytes.len() {
            held.bytes.drain(..len);
            self.held.insert(key.slot, held);
        }
        // More bytes may follow, for the next turn.
        self.queue(key.slot);
        Some(Event::Received(key))
    }

    fn next_from(&mut self, slot: u32) -> Option<Event> {
        match &self.slots.at(slot)?.kind {
            Kind::Stream(_) => self.next_from_stream(slot, None),
            Kind::Port(_) => self.next_from_port(slot),
            Kind::Connecting(_) => self.next_from_connecting(slot),
            Kind::Dialling(_) => self.dial(slot),
            Kind::Datagrams(_) => self.next_from_datagrams(slot),
            #[cfg(unix)]
            Kind::Pipe(_) => self.next_from_pipe(slot),
        }
    }

    /// The next event after a read off the fast path: it filled the buffer, was empty or failed.
    #[cold]
    pub(super) fn next_after(&mut self, slot: u32, read: io::Result<usize>) -> Option<Event> {
        let event = self.next_from_stream(slot, Some(read));
        event.or_else(|| self.next_slow())
    }

    /// The slow path: the next event of any kind.
    #[inline(never)]
    pub(super) fn next_slow(&mut self) -> Option<Event> {
        while let Some(slot) = self.next_slot() {
            let event = self.next_from(slot);
            if event.is_some() {
                return event;
            }
        }
        self.internal_event()
    }

    pub(super) fn internal_event(&mut self) -> Option<Event> {
        if let Some(signal) = self.signals.next() {
            return Some(Event::Signal(signal));
        }
        if self.has_internal_events {
            if let Some((ticket, answer)) = self.names.next() {
                return Some(Event::Resolved(ticket, answer));
            }
            if let Some((ticket, ())) = self.jobs.next() {
                return Some(Event::JobDone(ticket));
            }
            if let Some((id, ready)) = self.watched.edit().pop_front() {
                return Some(Event::Ready(id, ready));
            }
            self.has_internal_events = false;
        }
        None
    }
}

impl ConnectingSlot {
    /// The outcome of the connect, once known: the local address or the error.
    fn outcome(&self) -> Option<io::Result<Address>> {
        let stream = &self.stream;
        Some(match stream.take_error() {
            Ok(Some(error)) | Err(error) => Err(error),
            Ok(None) => match stream.addresses() {
                // A connect to a free port in the ephemeral range can connect to itself.
                Ok((peer, host)) if peer == host && peer.port().is_some() => {
                    Err(io::Error::from(io::ErrorKind::ConnectionRefused))
                }
                Ok((_, host)) => Ok(host),
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return None,
                Err(error) => Err(error),
            },
        })
    }
}
