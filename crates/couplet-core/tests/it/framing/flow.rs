//! Rows 165 and 166: framers paused or closed in the middle of a chunk; messages lent as slices;
//! callbacks forwarded to the protocol inside.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use couplet::protocols::{
    FrameBuffer, Framer, IntReceiver, LineOnlyReceiver, LineProtocol, LineReceiver, LineTransport,
    NetstringReceiver,
};
use couplet::testing::{Held, Manner, hold, hold_on};
use couplet::{Protocol, ProtocolExtension, Reason, Transport};

use super::own::Semicolons;
use super::{Event, MANNERS, Notes, lost, message};

/// Four messages, "0" to "3", and the start of a fifth, "4"; then the end of the fifth.
type Chunk = (&'static [u8], &'static [u8]);
const LINES: Chunk = (b"0\r\n1\r\n2\r\n3\r\n4\r", b"\n");
const NETSTRINGS: Chunk = (b"1:0,1:1,1:2,1:3,1:4", b",");
const BYTES: Chunk = (b"\x010\x011\x012\x013\x01", b"4");
const SEMICOLONS: Chunk = (b"0;1;2;3;4", b";");
const SHORTS: Chunk = (b"\0\x010\0\x011\0\x012\0\x013\0\x01", b"4");

/// Calls a generic function with every framer, on both manners of driver.
macro_rules! with_each_framer {
    ($fact:ident) => {
        for manner in MANNERS {
            $fact(manner, LineReceiver::new, LINES);
            $fact(manner, LineOnlyReceiver::new, LINES);
            $fact(manner, NetstringReceiver::new, NETSTRINGS);
            $fact(manner, IntReceiver::<u8, _>::new, BYTES);
            $fact(manner, IntReceiver::<u16, _>::new, SHORTS);
            $fact(manner, Semicolons::new, SEMICOLONS);
        }
    };
}

/// The events since the last call.
fn news(notes: &Notes) -> Vec<Event> {
    notes.log.take()
}

fn tell<R: Protocol>(held: &mut Held<R>, f: impl FnOnce(&Transport) + 'static) {
    held.with(move |_, transport| f(transport));
}

#[test]
fn c165_a_pause_stops_in_the_middle_of_a_chunk_and_the_rest_comes_on_resume() {
    with_each_framer!(fact);
    fn fact<R: Protocol>(manner: Manner, wrap: fn(Notes) -> R, (chunk, end): Chunk) {
        let notes = Notes::then(|n, transport| {
            if n % 2 == 0 {
                transport.pause_producing();
            }
        });
        let mut held = hold_on(manner, 1, wrap(notes.clone()));
        held.push(chunk);
        assert_eq!(news(&notes), [message("0")]);
        // Later bytes and the EOF queue up behind the held part.
        held.wire.push(end);
        held.wire.fin();
        held.settle();
        assert_eq!(news(&notes), []);
        tell(&mut held, Transport::resume_producing);
        assert_eq!(news(&notes), [Event::Resumed, message("1"), message("2")]);
        tell(&mut held, Transport::resume_producing);
        assert_eq!(news(&notes), [Event::Resumed, message("3"), message("4")]);
        tell(&mut held, Transport::resume_producing);
        assert_eq!(news(&notes)[..2], [Event::Resumed, Event::ReadClosed]);
    }
}

#[test]
fn c165_held_messages_come_in_the_turn_and_not_inside_resume() {
    with_each_framer!(fact);
    fn fact<R: Protocol>(manner: Manner, wrap: fn(Notes) -> R, (chunk, _): Chunk) {
        let notes = Notes::then(|n, transport| {
            if n == 0 {
                transport.pause_producing();
            }
        });
        let mut held = hold_on(manner, 1, wrap(notes.clone()));
        held.push(chunk);
        let log = notes.log.clone();
        tell(&mut held, move |transport| {
            transport.resume_producing();
            log.borrow_mut().push(message("resume returned"));
        });
        let want = ["0", "resume returned", "", "1", "2", "3"].map(message);
        let events = news(&notes);
        assert_eq!(events[2], Event::Resumed);
        assert_eq!((&events[..2], &events[3..]), (&want[..2], &want[3..]));
    }
}

#[test]
fn c165_a_pause_and_a_resume_in_one_callback_change_nothing() {
    with_each_framer!(fact);
    fn fact<R: Protocol>(manner: Manner, wrap: fn(Notes) -> R, (chunk, end): Chunk) {
        let notes = Notes::then(|_, transport| {
            transport.pause_producing();
            transport.resume_producing();
        });
        let mut held = hold_on(manner, 1, wrap(notes.clone()));
        held.push(chunk);
        held.push(end);
        assert_eq!(news(&notes), ["0", "1", "2", "3", "4"].map(message));
    }
}

#[test]
fn c165_a_pause_from_outside_holds_a_partial_message() {
    with_each_framer!(fact);
    fn fact<R: Protocol>(manner: Manner, wrap: fn(Notes) -> R, (chunk, end): Chunk) {
        let notes = Notes::default();
        let mut held = hold_on(manner, 1, wrap(notes.clone()));
        held.push(chunk);
        assert_eq!(news(&notes), ["0", "1", "2", "3"].map(message));
        tell(&mut held, Transport::pause_producing);
        held.wire.push(end);
        held.settle();
        assert_eq!(news(&notes), []);
        tell(&mut held, Transport::resume_producing);
        assert_eq!(news(&notes), [Event::Resumed, message("4")]);
    }
}

type Close = fn(&Transport);

#[test]
fn c166_nothing_is_delivered_after_a_close() {
    with_each_framer!(fact);
    fn fact<R: Protocol>(manner: Manner, wrap: fn(Notes) -> R, (chunk, end): Chunk) {
        let closes: [(Close, &str); 3] = [
            (Transport::lose_connection, "connection closed by us"),
            (Transport::abort_connection, "connection aborted by us"),
            (|transport| transport.fail(std::fmt::Error), &std::fmt::Error.to_string()),
        ];
        for (close, reason) in closes {
            let notes = Notes::then(move |n, transport| {
                if n == 1 {
                    close(transport);
                }
            });
            let mut held = hold_on(manner, 1, wrap(notes.clone()));
            held.wire.push(chunk);
            held.settle();
            // An aborted connection accepts nothing more.
            if held.wire.try_push(end).is_ok() {
                held.wire.fin();
            }
            held.settle();
            assert_eq!(news(&notes), [message("0"), message("1"), lost(reason)]);
        }
    }
}

#[test]
fn c166_nothing_that_was_held_is_delivered_after_a_close() {
    with_each_framer!(fact);
    fn fact<R: Protocol>(manner: Manner, wrap: fn(Notes) -> R, (chunk, _): Chunk) {
        let pausing = || Notes::then(|_, transport| transport.pause_producing());
        // Resumed and closed in the same call.
        let notes = pausing();
        let mut held = hold_on(manner, 1, wrap(notes.clone()));
        held.push(chunk);
        tell(&mut held, |transport| {
            transport.resume_producing();
            transport.lose_connection();
        });
        assert_eq!(news(&notes), [message("0")]);
        // Closed by the second message, which was held.
        let notes = Notes::then(|n, transport| match n {
            0 => transport.pause_producing(),
            _ => transport.abort_connection(),
        });
        let mut held = hold_on(manner, 1, wrap(notes.clone()));
        held.push(chunk);
        tell(&mut held, Transport::resume_producing);
        let end = lost("connection aborted by us");
        assert_eq!(news(&notes), [message("0"), Event::Resumed, message("1"), end]);
    }
}

#[test]
fn nothing_is_held_after_a_close() {
    with_each_framer!(fact);
    fn fact<R: Framer + Protocol>(manner: Manner, wrap: fn(Notes) -> R, (chunk, _): Chunk) {
        for pauses_before in [false, true] {
            let notes = Notes::then(move |n, transport| match n {
                0 if pauses_before => transport.pause_producing(),
                1 => transport.lose_connection(),
                _ => {}
            });
            let mut held = hold_on(manner, 1, wrap(notes.clone()));
            held.push(chunk);
            tell(&mut held, Transport::resume_producing);
            let buffer = held.with(|framer, _| format!("{:?}", framer.buffer()));
            assert_eq!(buffer, Some(format!("{:?}", FrameBuffer::default())));
        }
    }
}

#[test]
fn a_held_message_takes_no_more_of_the_next_chunk_than_it_needs() {
    let lines = |held: &[u8], more: &[u8]| {
        let needs = LineReceiver::new(Notes::default()).needs(held, more);
        assert_eq!(LineOnlyReceiver::new(Notes::default()).needs(held, more), needs);
        needs
    };
    assert_eq!(lines(b"ab", b"c\r\nd\r\n"), 3);
    assert_eq!(lines(b"ab\r", b"\nd\r\n"), 1, "a delimiter that was cut");
    assert_eq!(lines(b"ab", b"cd"), 3, "no end of a line comes with these");
    let strings = IntReceiver::<u8, _>::new(Notes::default());
    assert_eq!(strings.needs(b"\x05ab", b"cdefg"), 3);
}

/// Wraps a framer and records the address range of the bytes lent to it.
struct Around<R> {
    inside: R,
    lent: Rc<Cell<Range<usize>>>,
}

impl<R: Protocol> Protocol for Around<R> {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let lent = data.as_ptr_range();
        self.lent.set(lent.start as usize..lent.end as usize);
        self.inside.data_received(transport, data);
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl<R: Protocol> ProtocolExtension for Around<R> {
    fn inner(&mut self) -> Option<&mut dyn Protocol> {
        Some(&mut self.inside)
    }
}

/// Records each line, and whether it was lent as a slice of the received bytes.
struct Slices {
    lent: Rc<Cell<Range<usize>>>,
    lines: Rc<RefCell<Vec<(String, bool)>>>,
}

impl LineProtocol for Slices {
    fn line_received(&mut self, _: &LineTransport, line: &[u8]) {
        let lent = self.lent.take();
        self.lent.set(lent.clone());
        let inside = lent.contains(&(line.as_ptr() as usize));
        self.lines.borrow_mut().push((String::from_utf8_lossy(line).into(), inside));
    }
}

#[test]
fn a_complete_message_is_lent_as_a_slice_of_the_received_bytes() {
    let lent = Rc::new(Cell::new(0..0));
    let lines = Rc::default();
    let slices = Slices { lent: lent.clone(), lines: Rc::clone(&lines) };
    let mut held = hold(Around { inside: LineReceiver::new(slices), lent });
    held.push(b"one\r\ntwo\r\nth");
    held.push(b"ree\r\nfour\r\nfive\r");
    held.push(b"\nsix\r\n");
    let want = [
        ("one", true),
        ("two", true),
        ("three", false),
        ("four", true),
        ("five", false),
        ("six", true),
    ];
    let want = want.map(|(text, inside)| (text.to_owned(), inside));
    assert_eq!(*lines.borrow(), want);
}

#[test]
fn a_connection_finds_the_protocol_inside_a_framer() {
    with_each_framer!(fact);
    fn fact<R: Protocol>(manner: Manner, wrap: fn(Notes) -> R, (chunk, _): Chunk) {
        let notes = Notes::default();
        let lent = Rc::default();
        let held = &mut hold_on(manner, 1, Around { inside: wrap(notes.clone()), lent });
        held.push(chunk);
        let inside = held.connection.transport().connection::<Notes>();
        inside.tell(|notes, _| notes.note(Event::Raw(vec![notes.messages as u8])));
        held.settle();
        assert_eq!(notes.log.borrow().last(), Some(&Event::Raw(vec![4])));
        // A value inside that protocol is found too.
        let counter = held.connection.transport().connection::<usize>().ask(|n, _| *n);
        let answer = Rc::new(Cell::new(0));
        let slot = answer.clone();
        counter.map(move |n| slot.set(n)).detach();
        held.settle();
        assert_eq!(answer.get(), 4);
    }
}

/// Records the name of each callback.
#[derive(Default)]
struct Records(Rc<RefCell<Vec<&'static str>>>);

macro_rules! records {
    ($kind:ident, $transport:ident, $message:ident) => {
        impl couplet::protocols::$kind for Records {
            fn connection_made(&mut self, _: &couplet::protocols::$transport) {
                self.0.borrow_mut().push("made");
            }
            fn $message(&mut self, _: &couplet::protocols::$transport, _: &[u8]) {}
            fn connection_lost(&mut self, _: &couplet::protocols::$transport, _: &Reason) {
                self.0.borrow_mut().push("lost");
            }
            fn read_closed(&mut self, _: &couplet::protocols::$transport) {
                self.0.borrow_mut().push("read closed");
            }
            fn write_closed(&mut self, _: &couplet::protocols::$transport) {
                self.0.borrow_mut().push("write closed");
            }
            fn reading_resumed(&mut self, _: &couplet::protocols::$transport) {
                self.0.borrow_mut().push("resumed");
            }
            fn handshake_completed(&mut self, _: &couplet::protocols::$transport) {
                self.0.borrow_mut().push("handshake");
            }
        }
    };
}

records!(LineProtocol, LineTransport, line_received);
records!(StringProtocol, StringTransport, string_received);

#[test]
fn a_framer_forwards_every_callback() {
    fn fact<R: Protocol>(wrap: fn(Records) -> R) {
        let log = Rc::default();
        let mut held = hold(wrap(Records(Rc::clone(&log))));
        held.with(|receiver, transport| {
            let receiver: &mut dyn Protocol = receiver;
            receiver.handshake_completed(transport);
        });
        tell(&mut held, Transport::pause_producing);
        tell(&mut held, Transport::resume_producing);
        tell(&mut held, Transport::lose_write_connection);
        held.wire.fin();
        held.settle();
        let want = ["made", "handshake", "resumed", "write closed", "read closed", "lost"];
        assert_eq!(*log.borrow(), want);
    }
    fact(LineReceiver::new);
    fact(LineOnlyReceiver::new);
    fact(NetstringReceiver::new);
    fact(IntReceiver::<u32, _>::new);
}
