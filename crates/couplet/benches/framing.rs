//! What framing costs, beside tokio_util's codecs: messages of 64 bytes, framing included, in reads
//! of 64 KiB that begin and end in the middle of a message; one callback a message.
//!
//! `cargo bench --bench framing`, or with `-- --assert` to fail below the goals of GB/s.
//!
//! Only the framing is timed. Where tokio_util keeps bytes in a buffer, filling it is the read
//! itself, and is left out; the copies that its items are count. The best of several rounds is
//! told, because the machine has other things to do.

#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use couplet::protocols::{
    IntReceiver, LineOnlyReceiver, LineProtocol, LineReceiver, LineTransport, NetstringReceiver,
    StringProtocol, StringTransport, encode_int, encode_line, encode_netstring,
};
use couplet::testing::hold;
use couplet::{Protocol, Transport};
use tokio_util::bytes::BytesMut;
use tokio_util::codec::{Decoder, LengthDelimitedCodec, LinesCodec};

const READ: usize = 64 * 1024;
const MESSAGE: usize = 64;
const READS: usize = 4_000;
const ROUNDS: usize = 9;

/// Looks at each message, as little as it can.
#[derive(Default)]
struct Count {
    messages: usize,
}

impl LineProtocol for Count {
    fn line_received(&mut self, _: &LineTransport, line: &[u8]) {
        self.messages += usize::from(!black_box(line).is_empty());
    }
}

impl StringProtocol for Count {
    fn string_received(&mut self, _: &StringTransport, string: &[u8]) {
        self.messages += usize::from(!black_box(string).is_empty());
    }
}

/// A read from the middle of a stream of the same message: fed again and again it is that stream.
fn read_of(message: &[u8]) -> Vec<u8> {
    assert_eq!(message.len(), MESSAGE);
    let half = MESSAGE / 2;
    let stream: Vec<u8> = message.iter().copied().cycle().skip(half).take(READ).collect();
    assert_eq!(&stream[READ - half..], &message[..half], "it can be fed again");
    stream
}

fn gigabytes_per_second(took: Duration) -> f64 {
    (READ * READS) as f64 / took.as_secs_f64() / 1e9
}

fn best(mut round: impl FnMut() -> Duration) -> f64 {
    (0..ROUNDS).map(|_| gigabytes_per_second(round())).fold(0.0, f64::max)
}

/// A framer, fed by hand.
fn ours<R: Protocol>(
    receiver: R,
    count: impl Fn(&mut R) -> &mut Count + Copy + 'static,
    message: &[u8],
) -> f64 {
    let read = read_of(message);
    let mut held = hold(receiver);
    // The stream begins with half a message, as its reads do.
    let first = message[..MESSAGE / 2].to_vec();
    held.with(move |receiver, transport| receiver.data_received(transport, &first));
    best(|| {
        let read = read.clone();
        held.with(move |receiver, transport| {
            let before = count(receiver).messages;
            let took = feed(receiver, transport, &read);
            assert_eq!(count(receiver).messages - before, READ * READS / MESSAGE);
            took
        })
        .expect("the connection lives")
    })
}

#[inline(never)]
fn feed<R: Protocol>(receiver: &mut R, transport: &Transport, read: &[u8]) -> Duration {
    let start = Instant::now();
    for _ in 0..READS {
        receiver.data_received(transport, black_box(read));
    }
    start.elapsed()
}

/// A codec of tokio_util.
fn theirs<D: Decoder>(mut codec: D, message: &[u8]) -> f64
where
    D::Error: std::fmt::Debug,
{
    let read = read_of(message);
    let mut buffer = BytesMut::with_capacity(2 * READ);
    buffer.extend_from_slice(&message[..MESSAGE / 2]);
    best(|| {
        let mut took = Duration::ZERO;
        let mut messages = 0;
        for _ in 0..READS {
            buffer.extend_from_slice(&read);
            let start = Instant::now();
            while let Some(item) = codec.decode(&mut buffer).expect("it is well framed") {
                black_box(item);
                messages += 1;
            }
            took += start.elapsed();
        }
        assert_eq!(messages, READ * READS / MESSAGE);
        took
    })
}

/// What looking for the ends of lines costs by itself.
fn search(message: &[u8]) -> f64 {
    let read = read_of(message);
    best(|| {
        let start = Instant::now();
        for _ in 0..READS {
            let mut rest = black_box(&read[..]);
            while let Some(at) = memchr::memchr(b'\n', rest) {
                rest = &rest[black_box(at) + 1..];
            }
        }
        start.elapsed()
    })
}

fn main() {
    let assert = std::env::args().any(|argument| argument == "--assert");
    let mut line = Vec::new();
    encode_line(&[b'x'; 62], b"\r\n", &mut line);
    let mut string = Vec::new();
    encode_int::<u32>(&[b'x'; 60], &mut string).expect("short");
    let mut netstring = Vec::new();
    encode_netstring(&[b'x'; 60], &mut netstring);

    let lines = theirs(LinesCodec::new(), &line);
    let lengths = theirs(LengthDelimitedCodec::new(), &string);
    println!("   GB/s  ratio");
    println!("{lines:7.2}         tokio_util LinesCodec");
    println!("{lengths:7.2}         tokio_util LengthDelimitedCodec");
    println!("{:7.2}         memchr alone, a call a line", search(&line));
    let rows = [
        (
            "LineReceiver",
            ours(LineReceiver::new(Count::default()), LineReceiver::protocol, &line),
            lines,
            5.0,
        ),
        (
            "LineOnlyReceiver",
            ours(LineOnlyReceiver::new(Count::default()), LineOnlyReceiver::protocol, &line),
            lines,
            5.0,
        ),
        (
            "IntReceiver<u32>",
            ours(IntReceiver::<u32, _>::new(Count::default()), IntReceiver::protocol, &string),
            lengths,
            3.0,
        ),
        (
            "NetstringReceiver, beside LengthDelimitedCodec",
            ours(NetstringReceiver::new(Count::default()), NetstringReceiver::protocol, &netstring),
            lengths,
            3.0,
        ),
    ];
    for (name, ours, theirs, goal) in rows {
        println!("{ours:7.2}  {:5.1}  {name}", ours / theirs);
        assert!(!assert || ours >= goal, "{name}: {ours:.2} GB/s, the goal is {goal}");
    }
}
