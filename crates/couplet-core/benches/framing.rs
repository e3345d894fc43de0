//! The cost of framing, compared with tokio_util's codecs, and with a plain `memchr` walk over the
//! same bytes, a lower bound for any line framer. Messages have 64 bytes, framing included; reads
//! of 64 KiB begin and end in the middle of a message; each message is one callback. Nanoseconds
//! are per message: 64 / ns are GB/s.
//!
//! `cargo bench -p couplet-core --bench framing`, or with `-- lines` for the rows that contain `lines`.
//!
//! Only the framing is timed. Filling tokio_util's buffer is the read itself, and is excluded; the
//! copies made for its items are included. `LinesCodec` checks that a line is UTF-8, the others do
//! not. The first round compares every message with the one that was framed.

use std::fmt::Debug;
use std::hint::black_box;
use std::time::Duration;

use couplet::protocols::{
    IntReceiver, LineOnlyReceiver, LineProtocol, LineReceiver, LineTransport, NetstringReceiver,
    StringProtocol, StringTransport, encode_int, encode_line, encode_netstring,
};
use couplet::testing::hold;
use couplet::{Protocol, Transport};
use couplet_testkit::bench::rows::{row, timed};
use tokio_util::bytes::BytesMut;
use tokio_util::codec::{AnyDelimiterCodec, Decoder, LengthDelimitedCodec, LinesCodec};

const READ: usize = 64 * 1024;
const MESSAGE: usize = 64;
const READS: usize = 1_000;
const MESSAGES: usize = READ * READS / MESSAGE;

/// Examines each message: closely in the first round, and as little as possible afterwards.
struct Seen {
    expected: Vec<u8>,
    closely: bool,
    messages: usize,
    bytes: usize,
}

impl Seen {
    fn new(expected: &[u8]) -> Seen {
        Seen { expected: expected.to_vec(), closely: true, messages: 0, bytes: 0 }
    }

    fn see(&mut self, message: &[u8]) {
        assert!(!self.closely || message == self.expected, "another message was framed");
        self.messages += 1;
        self.bytes += black_box(message).len();
    }

    /// Checks the results of a round.
    fn end_round(&mut self) {
        assert_eq!((self.messages, self.bytes), (MESSAGES, MESSAGES * self.expected.len()));
        (self.closely, self.messages, self.bytes) = (false, 0, 0);
    }
}

impl LineProtocol for Seen {
    fn line_received(&mut self, _: &LineTransport, line: &[u8]) {
        self.see(line);
    }
}

impl StringProtocol for Seen {
    fn string_received(&mut self, _: &StringTransport, string: &[u8]) {
        self.see(string);
    }
}

/// A read that starts in the middle of a message. Repeated, it is a stream of that message.
fn read_of(message: &[u8]) -> Vec<u8> {
    assert_eq!(message.len(), MESSAGE);
    let half = MESSAGE / 2;
    let stream: Vec<u8> = message.iter().copied().cycle().skip(half).take(READ).collect();
    assert_eq!(&stream[READ - half..], &message[..half], "it can be fed again");
    stream
}

/// One of our framers, fed by hand.
fn ours<R: Protocol>(
    receiver: R,
    seen: impl Fn(&mut R) -> &mut Seen + Copy + 'static,
    message: &[u8],
) -> impl FnMut() -> Duration {
    let read = read_of(message);
    let mut held = hold(receiver);
    // Starts the stream with half a message, because each read starts in the middle of one.
    let first = message[..MESSAGE / 2].to_vec();
    held.with(move |receiver, transport| receiver.data_received(transport, &first));
    move || {
        let read = read.clone();
        let round = move |receiver: &mut R, transport: &Transport| {
            let took = feed(receiver, transport, &read);
            seen(receiver).end_round();
            took
        };
        held.with(round).expect("the connection lives")
    }
}

#[inline(never)]
fn feed<R: Protocol>(receiver: &mut R, transport: &Transport, read: &[u8]) -> Duration {
    timed(|| {
        for _ in 0..READS {
            receiver.data_received(transport, black_box(read));
        }
    })
}

/// A codec of tokio_util.
fn theirs<D: Decoder>(mut codec: D, mut seen: Seen, message: &[u8]) -> impl FnMut() -> Duration
where
    D::Item: AsRef<[u8]>,
    D::Error: Debug,
{
    let read = read_of(message);
    let mut buffer = BytesMut::with_capacity(2 * READ);
    buffer.extend_from_slice(&message[..MESSAGE / 2]);
    move || {
        let mut took = Duration::ZERO;
        for _ in 0..READS {
            buffer.extend_from_slice(&read);
            took += timed(|| {
                while let Some(item) = codec.decode(&mut buffer).expect("it is well framed") {
                    seen.see(item.as_ref());
                }
            });
        }
        seen.end_round();
        took
    }
}

/// The cost of just finding the line ends. The walk ignores read boundaries, so the bytes of a
/// round begin with a whole line.
fn walk(mut seen: Seen, message: &[u8]) -> impl FnMut() -> Duration {
    let bytes = message.repeat(READ / MESSAGE);
    move || {
        let took = timed(|| {
            for _ in 0..READS {
                let mut rest = black_box(&bytes[..]);
                while let Some(at) = memchr::memchr(b'\n', rest) {
                    seen.see(&rest[..at.saturating_sub(1)]);
                    rest = &rest[at + 1..];
                }
            }
        });
        seen.end_round();
        took
    }
}

fn main() {
    let (text, string) = ([b'x'; 62], [b'x'; 60]);
    let [line, int, netstring] = [
        encoded(|out| encode_line(&text, b"\r\n", out)),
        encoded(|out| encode_int::<u32>(&string, out).expect("it is short")),
        encoded(|out| encode_netstring(&string, out)),
    ];
    row(
        "lines",
        MESSAGES,
        &mut [
            (
                "LineReceiver",
                &mut ours(LineReceiver::new(Seen::new(&text)), LineReceiver::protocol, &line),
            ),
            (
                "LineOnlyReceiver",
                &mut ours(
                    LineOnlyReceiver::new(Seen::new(&text)),
                    LineOnlyReceiver::protocol,
                    &line,
                ),
            ),
            ("tokio_util, LinesCodec", &mut theirs(LinesCodec::new(), Seen::new(&text), &line)),
            (
                "tokio_util, AnyDelimiterCodec",
                &mut theirs(
                    AnyDelimiterCodec::new(b"\n".to_vec(), b"\n".to_vec()),
                    Seen::new(&line[..MESSAGE - 1]),
                    &line,
                ),
            ),
            ("a memchr walk, the lower bound", &mut walk(Seen::new(&text), &line)),
        ],
    );
    row(
        "strings with a length in front",
        MESSAGES,
        &mut [
            (
                "IntReceiver<u32>",
                &mut ours(
                    IntReceiver::<u32, _>::new(Seen::new(&string)),
                    IntReceiver::protocol,
                    &int,
                ),
            ),
            (
                "NetstringReceiver, with the length in decimal",
                &mut ours(
                    NetstringReceiver::new(Seen::new(&string)),
                    NetstringReceiver::protocol,
                    &netstring,
                ),
            ),
            (
                "tokio_util, LengthDelimitedCodec",
                &mut theirs(LengthDelimitedCodec::new(), Seen::new(&string), &int),
            ),
        ],
    );
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}
