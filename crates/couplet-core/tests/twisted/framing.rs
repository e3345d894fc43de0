//! Lines, netstrings and Int32 strings: each side echoes the other's messages, with lengths around
//! the limits and odd contents; a message over the limit ends the connection.

use std::cell::RefCell;
use std::rc::Rc;

use couplet::protocols::{
    FramingError, IntReceiver, LineProtocol, LineReceiver, LineTransport, NetstringReceiver,
    StringProtocol, StringTransport,
};
use couplet::{By, Protocol, Reason, Transport};

use crate::meeting::{End, Listener, in_both_directions, meet};

/// The longest line and the longest string in bytes, as in Twisted.
const LINE: usize = 16_384;
const STRING: usize = 99_999;

const CRLF_ODD: &[&[u8]] = &[b"", b"", b"\r", b"\n", b"a\nb", b"a\rb", b"\n\r", b"\r\r"];
const LF_ODD: &[&[u8]] = &[b"", b"", b"\r", b"a\r", b"a\rb", b"\r\r"];
const EVERY_BYTE: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut at = 0;
    while at < 256 {
        bytes[at] = at as u8;
        at += 1;
    }
    bytes
};
const STRING_ODD: &[&[u8]] =
    &[b"", b"", b",", b":", b"3:abc,", b"\0\0\0\x01a", b"\r\n", &EVERY_BYTE];

/// A framing that both sides implement.
struct Framing<R> {
    name: &'static str,
    limit: usize,
    odd: &'static [&'static [u8]],
    wrap: fn(Speaker) -> R,
    too_long: FramingError,
}

impl<R> Framing<R> {
    /// Short messages, lengths around each digit count, lengths up to the limit, and odd contents.
    fn messages(&self) -> Vec<Vec<u8>> {
        let digits = [98, 99, 100, 101, 998, 999, 1000, 1001, 9999, 10_000, 10_001];
        let lengths = (0..40).chain(digits).chain(self.limit - 9..=self.limit);
        let letters = |n: usize| (0..n).map(|i| b'a' + ((i + n) % 26) as u8).collect();
        lengths.map(letters).chain(self.odd.iter().map(|odd| odd.to_vec())).collect()
    }
}

/// Calls a generic function with every framing.
macro_rules! with_each_framing {
    ($fact:ident) => {
        let lines = |name, odd, wrap| {
            let too_long = FramingError::LineTooLong { limit: LINE };
            Framing { name, limit: LINE, odd, wrap, too_long }
        };
        in_both_directions(|at| $fact(at, &lines("crlf-lines", CRLF_ODD, LineReceiver::new)));
        let lf = |speaker| LineReceiver::new(speaker).with_delimiter(b"\n");
        in_both_directions(|at| $fact(at, &lines("lf-lines", LF_ODD, lf)));
        let too_long = FramingError::StringTooLong { limit: STRING };
        let (name, wrap, error) = ("netstrings", NetstringReceiver::new as fn(_) -> _, &too_long);
        let framing =
            Framing { name, limit: STRING, odd: STRING_ODD, wrap, too_long: error.clone() };
        in_both_directions(|at| $fact(at, &framing));
        let (name, wrap) = ("int32-strings", IntReceiver::<u32, _>::new as fn(_) -> _);
        let framing = Framing { name, limit: STRING, odd: STRING_ODD, wrap, too_long };
        in_both_directions(|at| $fact(at, &framing));
    };
}

#[test]
fn twisted_echoes_every_message() {
    with_each_framing!(fact);
    fn fact<R: Protocol>(at: Listener, framing: &Framing<R>) {
        let (notes, messages) = (Notes::default(), framing.messages());
        let (log, script) = (notes.clone(), Script::Say(messages.clone()));
        let case = format!("echo-{}", framing.name);
        let met = meet(at, &case, |_, end| (framing.wrap)(Speaker { script, notes: log, end }));
        assert!(*notes.borrow() == messages, "{case}, {at:?} listens");
        assert!(matches!(met.reason, Reason::Done(By::Us)), "{case}, {at:?}: {}", met.reason);
        assert_eq!(met.said, ["lost ConnectionDone"], "{case}, {at:?} listens");
    }
}

#[test]
fn we_echo_every_message_of_twisted() {
    with_each_framing!(fact);
    fn fact<R: Protocol>(at: Listener, framing: &Framing<R>) {
        let (notes, script) = (Notes::default(), Script::Echo);
        let log = notes.clone();
        let case = format!("talk-{}", framing.name);
        let met = meet(at, &case, |_, end| (framing.wrap)(Speaker { script, notes: log, end }));
        assert!(*notes.borrow() == framing.messages(), "{case}, {at:?} listens");
        assert!(matches!(met.reason, Reason::Done(By::Peer)), "{case}, {at:?}: {}", met.reason);
        assert_eq!(met.said, ["all echoed", "lost ConnectionDone"], "{case}, {at:?} listens");
    }
}

#[test]
fn an_oversized_message_from_twisted_fails_the_connection() {
    with_each_framing!(fact);
    fn fact<R: Protocol>(at: Listener, framing: &Framing<R>) {
        let (notes, script) = (Notes::default(), Script::Echo);
        let log = notes.clone();
        let case = format!("exceed-{}", framing.name);
        let met = meet(at, &case, |_, end| (framing.wrap)(Speaker { script, notes: log, end }));
        assert!(*notes.borrow() == [vec![b'x'; framing.limit]], "{case}, {at:?} listens");
        let said = [format!("echoed {}", framing.limit), "lost ConnectionDone".into()];
        assert_eq!(met.said, said, "{case}, {at:?} listens");
        assert_eq!(met.reason.downcast_ref(), Some(&framing.too_long), "{case}, {at:?} listens");
    }
}

#[test]
fn twisted_closes_on_an_oversized_message() {
    with_each_framing!(fact);
    fn fact<R: Protocol>(at: Listener, framing: &Framing<R>) {
        let (notes, script) = (Notes::default(), Script::Exceed(framing.limit));
        let log = notes.clone();
        let case = format!("echo-{}", framing.name);
        let met = meet(at, &case, |_, end| (framing.wrap)(Speaker { script, notes: log, end }));
        assert!(*notes.borrow() == [vec![b'x'; framing.limit]], "{case}, {at:?} listens");
        // Twisted closes without reading the rest; unread bytes make the kernel send an RST.
        let ended = matches!(met.reason, Reason::Done(By::Peer) | Reason::Lost(_));
        assert!(ended, "{case}, {at:?} listens: {}", met.reason);
        assert_eq!(met.said, ["lost ConnectionDone"], "{case}, {at:?} listens");
    }
}

/// Every message received.
type Notes = Rc<RefCell<Vec<Vec<u8>>>>;

enum Script {
    /// Echoes every message.
    Echo,
    /// Sends these immediately, and closes when as many have been echoed.
    Say(Vec<Vec<u8>>),
    /// Sends a message of this many bytes, and one byte more when its echo arrives.
    Exceed(usize),
}

/// Plays a script over any framing.
struct Speaker {
    script: Script,
    notes: Notes,
    end: End,
}

impl Speaker {
    fn begin(&self, send: impl Fn(&[u8])) {
        match &self.script {
            Script::Echo => {}
            Script::Say(messages) => messages.iter().for_each(|message| send(message)),
            Script::Exceed(limit) => send(&vec![b'x'; *limit]),
        }
    }

    fn received(&mut self, transport: &Transport, message: &[u8], send: impl Fn(&[u8])) {
        let mut notes = self.notes.borrow_mut();
        notes.push(message.to_vec());
        match &self.script {
            Script::Echo => send(message),
            Script::Say(messages) if messages.len() == notes.len() => transport.lose_connection(),
            Script::Say(_) => {}
            Script::Exceed(limit) => send(&vec![b'x'; limit + 1]),
        }
    }
}

impl LineProtocol for Speaker {
    fn connection_made(&mut self, transport: &LineTransport) {
        self.begin(|line| transport.send_line(line));
    }

    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        self.received(transport, line, |line| transport.send_line(line));
    }

    fn connection_lost(&mut self, transport: &LineTransport, reason: &Reason) {
        self.end.lost(transport, reason);
    }
}

impl StringProtocol for Speaker {
    fn connection_made(&mut self, transport: &StringTransport) {
        self.begin(|string| transport.send_string(string).expect("it fits"));
    }

    fn string_received(&mut self, transport: &StringTransport, string: &[u8]) {
        self.received(transport, string, |string| transport.send_string(string).expect("it fits"));
    }

    fn connection_lost(&mut self, transport: &StringTransport, reason: &Reason) {
        self.end.lost(transport, reason);
    }
}
