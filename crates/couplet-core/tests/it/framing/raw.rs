//! Row 164: raw mode and back.

use std::cell::RefCell;
use std::rc::Rc;

use couplet::Reason;
use couplet::protocols::{
    FramingError, LineOnlyReceiver, LineProtocol, LineReceiver, LineTransport,
};
use couplet::testing::{Held, every_split, hold};

use super::{Event, Log, events, lost, message};

/// Consumes one raw byte after each line.
#[derive(Default)]
struct Alternates {
    switches: usize,
}

impl LineProtocol for Alternates {
    fn line_received(&mut self, transport: &LineTransport, _: &[u8]) {
        transport.set_raw_mode();
    }

    fn raw_data_received(&mut self, transport: &LineTransport, data: &[u8]) {
        self.switches += 1;
        transport.set_line_mode(&data[1..]);
    }
}

/// Recursion per switch would overflow the stack; a copy per switch would take hours.
#[test]
fn c164_a_million_switches_in_one_chunk_take_neither_stack_nor_copies() {
    use couplet::Protocol;
    let mut held = hold(LineReceiver::new(Alternates::default()).with_delimiter(b"\n"));
    let chunk = b"\n!".repeat(1_000_000);
    let switches = held.with(move |receiver, transport| {
        receiver.data_received(transport, &chunk);
        receiver.protocol().switches
    });
    assert_eq!(switches, Some(1_000_000));
}

type Kept = Rc<RefCell<Option<LineTransport>>>;

/// Records its events, plays the test's acts after them, and hands its transport to the test. Reads
/// the rest of an oversized line in raw mode.
struct Plays {
    kept: Kept,
    log: Log,
    after_line: fn(&LineTransport),
    after_raw: fn(&LineTransport, &[u8]),
}

/// Reads lines, until the test asks for raw bytes.
fn plays() -> Plays {
    Plays { kept: Kept::default(), log: Log::default(), after_line: |_| {}, after_raw: |_, _| {} }
}

impl LineProtocol for Plays {
    fn connection_made(&mut self, transport: &LineTransport) {
        *self.kept.borrow_mut() = Some(transport.clone());
    }

    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        self.log.borrow_mut().push(Event::Message(line.into()));
        (self.after_line)(transport);
    }

    fn line_length_exceeded(&mut self, transport: &LineTransport, beginning: &[u8]) {
        self.log.borrow_mut().push(Event::Exceeded(beginning.into()));
        transport.set_raw_mode();
    }

    fn raw_data_received(&mut self, transport: &LineTransport, data: &[u8]) {
        self.log.borrow_mut().push(Event::Raw(data.into()));
        (self.after_raw)(transport, data);
    }

    fn connection_lost(&mut self, _: &LineTransport, reason: &Reason) {
        self.log.borrow_mut().push(lost(reason));
    }
}

/// A held [`Plays`], its transport and its log.
fn held(plays: Plays) -> (Held<LineReceiver<Plays>>, LineTransport, Log) {
    let (kept, log) = (plays.kept.clone(), plays.log.clone());
    let held = hold(LineReceiver::new(plays));
    (held, kept.take().expect("the protocol is connected"), log)
}

#[test]
fn c164_the_mode_may_be_switched_from_outside() {
    let (mut held, transport, log) = held(plays());
    held.push(b"one\r\ntw");
    assert_eq!(log.take(), [message("one")]);
    transport.set_raw_mode();
    assert_eq!(log.take(), [], "the transport only records the request");
    held.settle();
    assert_eq!(log.take(), [Event::Raw(b"tw".to_vec())], "the held bytes arrive raw");
    held.push(b"o\r\n");
    assert_eq!(log.take(), [Event::Raw(b"o\r\n".to_vec())]);
    transport.set_line_mode(b"three\r\nfo");
    assert_eq!(log.take(), []);
    held.settle();
    assert_eq!(log.take(), [message("three")]);
    held.push(b"ur\r\n");
    assert_eq!(log.take(), [message("four")]);
    // A pause holds the bytes back.
    transport.pause_producing();
    transport.set_line_mode(b"five\r\n");
    held.settle();
    assert_eq!(log.take(), []);
    transport.resume_producing();
    held.settle();
    assert_eq!(log.take(), [message("five")]);
}

#[test]
fn c164_other_bytes_may_be_given_as_lines() {
    // More bytes than were received, or fewer.
    for raw in [&b"\x1f\x8b"[..], b"\x1f\x8b and more than are given"] {
        let instead = |transport: &LineTransport, _: &[u8]| {
            transport.set_line_mode(b"one\r\ntwo\r\nth");
        };
        let (mut held, transport, log) = held(Plays { after_raw: instead, ..plays() });
        transport.set_raw_mode();
        held.push(raw);
        held.push(b"ree\r\n");
        let want = [Event::Raw(raw.to_vec()), message("one"), message("two"), message("three")];
        assert_eq!(log.take(), want);
    }
}

#[test]
fn c164_bytes_given_several_times_before_the_turn_are_all_parsed_in_order() {
    let (mut held, transport, log) = held(plays());
    for given in [&b"one\r\ntw"[..], b"o\r", b"\nthr"] {
        transport.set_line_mode(given);
    }
    held.settle();
    assert_eq!(log.take(), [message("one"), message("two")]);
    held.push(b"ee\r\n");
    assert_eq!(log.take(), [message("three")]);
}

/// After each digit, gives a line with the next lower one.
struct Counts(Log);

impl LineProtocol for Counts {
    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        self.0.borrow_mut().push(Event::Message(line.into()));
        if let [digit @ b'1'..=b'9'] = *line {
            transport.set_line_mode(&[digit - 1, b'\r', b'\n']);
        }
    }
}

#[test]
fn c164_lines_that_were_given_may_give_further_ones() {
    let log = Log::default();
    let mut held = hold(LineReceiver::new(Counts(log.clone())));
    for _ in 0..2 {
        held.push(b"3\r\n");
        assert_eq!(log.take(), ["3", "2", "1", "0"].map(message));
    }
}

#[test]
fn c164_raw_bytes_wait_while_reading_is_paused() {
    let (mut held, transport, log) = held(plays());
    transport.set_raw_mode();
    transport.pause_producing();
    held.settle();
    held.wire.push(b"raw");
    held.settle();
    assert_eq!(log.take(), []);
    transport.resume_producing();
    held.settle();
    assert_eq!(log.take(), [Event::Raw(b"raw".to_vec())]);
}

/// Consumes raw bytes four at a time.
struct Fours(Log);

impl LineProtocol for Fours {
    fn connection_made(&mut self, transport: &LineTransport) {
        transport.set_raw_mode();
    }

    fn line_received(&mut self, _: &LineTransport, _: &[u8]) {}

    fn raw_data_received(&mut self, transport: &LineTransport, data: &[u8]) {
        let taken = data.len() / 4 * 4;
        if taken > 0 {
            self.0.borrow_mut().push(Event::Raw(data[..taken].into()));
        }
        transport.set_line_mode(&data[taken..]);
        transport.set_raw_mode();
    }
}

#[test]
fn c164_raw_bytes_that_are_given_back_come_again_with_more() {
    let log = Log::default();
    every_split(b"onlyfourbyteseachab", |pieces| {
        let got = events(LineReceiver::new(Fours(log.clone())), &log, pieces);
        let bytes: Vec<u8> = got
            .iter()
            .flat_map(|event| match event {
                Event::Raw(bytes) => bytes.clone(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(bytes, b"onlyfourbyteseac", "{pieces:?}");
    });
}

#[test]
fn c163_c164_a_line_that_is_too_long_may_continue_raw_and_ends_there() {
    let plays =
        Plays { after_raw: |transport, data| transport.set_line_mode(&data[5..]), ..plays() };
    let log = plays.log.clone();
    let receiver = LineReceiver::new(plays).with_max_length(3);
    let got = events(receiver, &log, &[b"ok\r\n1234567\r\nab\r\n"]);
    let rest = Event::Raw(b"567\r\nab\r\n".to_vec());
    assert_eq!(got, [message("ok"), Event::Exceeded(b"1234".to_vec()), rest, message("ab")]);
}

#[test]
fn c164_a_line_only_receiver_refuses_raw_mode() {
    let asks = Plays { after_line: LineTransport::set_raw_mode, ..plays() };
    let log = asks.log.clone();
    let got = events(LineOnlyReceiver::new(asks), &log, &[b"a\r\nb\r\n"]);
    assert_eq!(got, [message("a"), lost(FramingError::NoRawMode)]);
}
