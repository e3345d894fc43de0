//! A protocol for framers that records its events.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::rc::Rc;

use couplet::protocols::{LineProtocol, LineTransport, StringProtocol, StringTransport};
use couplet::testing::{Manner, hold_on};
use couplet::{Protocol, Reason, Transport};

/// A callback of a framer's protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Message(Vec<u8>),
    Raw(Vec<u8>),
    Exceeded(Vec<u8>),
    Resumed,
    ReadClosed,
    Lost(String),
}

pub fn message(text: &str) -> Event {
    Event::Message(text.into())
}

pub fn lost(error: impl ToString) -> Event {
    Event::Lost(error.to_string())
}

pub type Log = Rc<RefCell<Vec<Event>>>;
pub type Then = Rc<dyn Fn(usize, &Transport)>;

/// Records its events, in a framer of lines or of strings.
#[derive(Clone)]
pub struct Notes {
    pub log: Log,
    /// Keeps the connection when a line is too long.
    pub survives: bool,
    /// Called after each message with its number, from 0.
    pub then: Then,
    pub messages: usize,
}

impl Default for Notes {
    fn default() -> Notes {
        Notes { log: Log::default(), survives: false, then: Rc::new(|_, _| {}), messages: 0 }
    }
}

impl Notes {
    pub fn then(f: impl Fn(usize, &Transport) + 'static) -> Notes {
        Notes { then: Rc::new(f), ..Notes::default() }
    }

    pub fn note(&self, event: Event) {
        self.log.borrow_mut().push(event);
    }

    pub fn message(&mut self, transport: &Transport, bytes: &[u8]) {
        self.note(Event::Message(bytes.into()));
        (self.then.clone())(self.messages, transport);
        self.messages += 1;
    }
}

impl LineProtocol for Notes {
    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        self.message(transport, line);
    }

    fn line_length_exceeded(&mut self, transport: &LineTransport, beginning: &[u8]) {
        self.note(Event::Exceeded(beginning.into()));
        if !self.survives {
            let limit = beginning.len() - 1;
            transport.fail(couplet::protocols::FramingError::LineTooLong { limit });
        }
    }

    fn reading_resumed(&mut self, _: &LineTransport) {
        self.note(Event::Resumed);
    }

    fn read_closed(&mut self, transport: &LineTransport) {
        self.note(Event::ReadClosed);
        transport.lose_connection();
    }

    fn connection_lost(&mut self, _: &LineTransport, reason: &Reason) {
        self.note(lost(reason));
    }

    fn find(&mut self, wanted: TypeId) -> Option<&mut dyn Any> {
        (wanted == TypeId::of::<usize>()).then_some(&mut self.messages)
    }
}

impl StringProtocol for Notes {
    fn string_received(&mut self, transport: &StringTransport, string: &[u8]) {
        self.message(transport, string);
    }

    fn reading_resumed(&mut self, _: &StringTransport) {
        self.note(Event::Resumed);
    }

    fn read_closed(&mut self, transport: &StringTransport) {
        self.note(Event::ReadClosed);
        transport.lose_connection();
    }

    fn connection_lost(&mut self, _: &StringTransport, reason: &Reason) {
        self.note(lost(reason));
    }

    fn find(&mut self, wanted: TypeId) -> Option<&mut dyn Any> {
        (wanted == TypeId::of::<usize>()).then_some(&mut self.messages)
    }
}

/// The events in `log` of a receiver that reads these pieces, one per read, and is resumed whenever
/// it pauses. `Event::Resumed` is left out.
pub fn events<R: Protocol>(receiver: R, log: &Log, pieces: &[&[u8]]) -> Vec<Event> {
    let mut held = hold_on(Manner::Readiness, 0, receiver);
    let transport = held.connection.transport();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() && !transport.is_closing() {
            let pushed = held.wire.push(rest);
            rest = &rest[pushed..];
            held.settle();
            while !transport.wants_data() && !transport.is_closing() {
                transport.resume_producing();
                held.settle();
            }
        }
    }
    // A failed connection waits for the peer's FIN.
    if transport.is_closing() {
        held.wire.take();
        held.wire.fin();
        held.settle();
    }
    let events = log.borrow().iter().filter(|event| **event != Event::Resumed).cloned().collect();
    log.borrow_mut().clear();
    events
}
