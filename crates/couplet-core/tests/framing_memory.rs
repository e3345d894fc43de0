//! A peer cannot make a framer buffer more than its limit. A separate binary, because it installs a
//! counting allocator.

#[macro_use]
extern crate couplet_testkit;

use couplet::protocols::{
    FrameBuffer, Framer, IntReceiver, LineOnlyReceiver, LineProtocol, LineReceiver, LineTransport,
    NetstringReceiver, StringProtocol, StringTransport,
};
use couplet::testing::hold;
use couplet::{Protocol, Transport};
use couplet_testkit::counting;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

struct Nobody;

impl StringProtocol for Nobody {
    fn string_received(&mut self, _: &StringTransport, _: &[u8]) {}
}

impl LineProtocol for Nobody {
    fn line_received(&mut self, _: &LineTransport, _: &[u8]) {}
}

/// Keeps the connection if a line is too long.
struct Patient;

impl LineProtocol for Patient {
    fn line_received(&mut self, _: &LineTransport, _: &[u8]) {}
    fn line_length_exceeded(&mut self, _: &LineTransport, _: &[u8]) {}
}

/// A custom framing that never finds the end of a message and never requests a length.
#[derive(Default)]
struct Endless(FrameBuffer);

impl Framer for Endless {
    type Transport = Transport;

    fn step(&mut self, _: &Transport, _: &[u8]) -> Option<usize> {
        None
    }
    fn buffer(&mut self) -> &mut FrameBuffer {
        &mut self.0
    }
}

impl Protocol for Endless {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.frame(transport, data);
    }
    fn reading_resumed(&mut self, transport: &Transport) {
        self.frame_held(transport);
    }
}

#[test]
fn an_endless_message_costs_at_most_the_limit_in_a_custom_framing() {
    for chunk in [100, 1000, 65_535, 262_144] {
        let (most, left) = kept(Endless::default(), b"xx", chunk, 1 << 24);
        assert!(most < 65_536 + FAILURE && left < FAILURE, "{most} {left} in chunks of {chunk}");
    }
}

/// Feeds the framer `first`, then `bytes` bytes in chunks of `chunk`. Returns the peak of the
/// memory that it held, and the memory that it holds at the end.
fn kept<R: Protocol>(
    receiver: R,
    first: &'static [u8],
    chunk: usize,
    bytes: usize,
) -> (usize, usize) {
    let mut held = hold(receiver);
    held.with(move |receiver, transport: &Transport| {
        // The framer creates its transport in the first call.
        receiver.data_received(transport, &first[..1]);
        let chunk = vec![b'x'; chunk];
        let before = counting::live();
        counting::reset_peak();
        receiver.data_received(transport, &first[1..]);
        for _ in 0..bytes / chunk.len() {
            receiver.data_received(transport, &chunk);
        }
        ((counting::peak() - before) as usize, (counting::live() - before).max(0) as usize)
    })
    .expect("the closure runs before the connection is lost")
}

/// Upper bound of the cost of an error and its trace.
const FAILURE: usize = 4096;
const GIGABYTE: usize = 1 << 30;
const LIMIT: usize = 99_999;

#[test]
fn c167_three_gigabytes_in_place_of_a_netstring_cost_at_most_the_limit() {
    // The length is announced, or missing.
    for first in [&b"3221225472:"[..], b"xx"] {
        let (most, left) = kept(NetstringReceiver::new(Nobody), first, 65_536, 3 * GIGABYTE);
        assert!(most < FAILURE && left < FAILURE, "{most} {left}");
    }
    // A string of exactly the limit that arrives slowly, without the final comma.
    for chunk in [100, 1000, 65_536] {
        let (most, left) =
            kept(NetstringReceiver::new(Nobody), b"99999:", chunk, 3 * GIGABYTE / 64);
        assert!((90_000..LIMIT + 7 + FAILURE).contains(&most), "{most} in chunks of {chunk}");
        assert!(left < FAILURE, "{left}");
    }
}

#[test]
fn c168_a_length_sets_nothing_aside_before_its_bytes_come() {
    let receiver = || IntReceiver::<u32, _>::new(Nobody).with_max_length(1 << 30);
    let (most, _) = kept(receiver(), b"\x3f\xff\xff\xff", 100, 1000);
    assert!(most <= 2048, "1 KB of an announced gigabyte cost {most}");
    let (most, left) = kept(receiver(), b"\xff\xff\xff\xff", 65_536, GIGABYTE);
    assert!(most < FAILURE && left < FAILURE, "{most} {left}");
}

#[test]
fn c163_a_line_without_an_end_costs_at_most_the_limit() {
    for chunk in [1, 1000, 65_536] {
        let bytes = chunk * 20_000;
        let (most, left) = kept(LineReceiver::new(Nobody), b"xx", chunk, bytes);
        assert!(most < 16_386 + FAILURE && left < FAILURE, "{most} {left}");
        let (most, left) = kept(LineOnlyReceiver::new(Nobody), b"xx", chunk, bytes);
        assert!(most < 16_386 + FAILURE && left < FAILURE, "{most} {left}");
        // The line is discarded, and the connection stays open.
        let (most, left) = kept(LineReceiver::new(Patient), b"xx", chunk, bytes.min(32 << 20));
        assert!(most < 16_386 + FAILURE && left < FAILURE, "{most} {left}");
    }
}

#[test]
fn a_delivered_message_leaves_no_buffer_behind() {
    let (most, left) = kept(NetstringReceiver::new(Nobody), b"9:abc", 1, 5);
    assert!(most > 0);
    assert!(left > 0, "the comma has not come");
    let mut held = hold(NetstringReceiver::new(Nobody));
    let left = held.with(|receiver, transport| {
        let before = counting::live();
        for piece in [&b"9:abc"[..], b"defghi,1:", b"a", b","] {
            receiver.data_received(transport, piece);
        }
        counting::live() - before
    });
    assert_eq!(left, Some(0));
}
