//! The per-connection message rate limit: it delays messages, and drops none.

use std::time::Duration;

use couplet::protocols::{
    IntReceiver, LimitMessages, LineOnlyReceiver, LineProtocol, LineReceiver, LineTransport,
    NetstringReceiver, StringProtocol, StringTransport,
};
use couplet::testing::{Held, every_split, hold};
use couplet::transport::Timeout;
use couplet::{Protocol, Reason, Transport};

const S: Duration = Duration::from_secs(1);

/// Echoes each message, of any kind.
struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        assert!(reason.is_clean(), "{reason}");
    }
}

impl LineProtocol for Echo {
    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        transport.write(line);
        if line == b"raw" {
            transport.set_raw_mode();
        }
    }
    fn raw_data_received(&mut self, transport: &LineTransport, data: &[u8]) {
        transport.write(data);
    }
}

impl StringProtocol for Echo {
    fn string_received(&mut self, transport: &StringTransport, string: &[u8]) {
        transport.write(string);
    }
}

fn two_a_second() -> LimitMessages<Echo> {
    LimitMessages::new(Echo).with_rate(2, S)
}

fn each_half_second<R: Protocol>(receiver: R, stream: &[u8]) {
    let mut held = hold(receiver);
    held.push(stream);
    held.wire.fin();
    held.settle();
    for came in ["01", "2", "3", "4"] {
        assert_eq!(held.wire.take(), came.as_bytes());
        assert!(!held.wire.saw_fin());
        held.advance(S / 2 - Duration::from_nanos(1));
        assert_eq!(held.wire.waiting(), 0);
        held.advance(Duration::from_nanos(1));
    }
    assert!(held.wire.saw_fin());
}

#[test]
fn messages_over_the_rate_are_delayed_and_eof_comes_after_them() {
    each_half_second(LineReceiver::new(two_a_second()), b"0\r\n1\r\n2\r\n3\r\n4\r\n");
    each_half_second(LineOnlyReceiver::new(two_a_second()), b"0\r\n1\r\n2\r\n3\r\n4\r\n");
    each_half_second(NetstringReceiver::new(two_a_second()), b"1:0,1:1,1:2,1:3,1:4,");
    each_half_second(IntReceiver::<u8, _>::new(two_a_second()), b"\x010\x011\x012\x013\x014");
}

#[test]
fn reads_over_the_rate_stay_in_the_socket() {
    let mut held = hold(two_a_second());
    held.push(b"0");
    held.push(b"1");
    held.wire.push(b"2");
    held.wire.push(b"3");
    held.settle();
    assert_eq!(held.wire.take(), b"01");
    assert!(!held.wire.is_receiving());
    held.advance(S / 2);
    // Bytes that arrived in the meantime are one read.
    assert_eq!(held.wire.take(), b"23");
}

#[test]
fn no_message_is_lost_or_reordered_however_the_stream_is_cut() {
    every_split(b"0\r\n1\r\n2\r\n3\r\n4\r\n", |pieces| {
        let mut held = hold(LineReceiver::new(LimitMessages::new(Echo).with_rate(1, S)));
        for piece in pieces {
            held.wire.push(piece);
            held.settle();
        }
        held.advance(5 * S);
        assert_eq!(held.wire.take(), b"01234", "{pieces:?}");
    });
}

/// The number of lines delivered within `time`.
fn lines_in(held: &mut Held<LineReceiver<LimitMessages<Echo>>>, time: Duration) -> usize {
    let step = time / 50;
    for _ in 0..50 {
        held.wire.push(&b"x\r\n".repeat(1000));
        held.advance(step);
    }
    held.wire.take().len()
}

#[test]
fn the_rate_is_exact_over_a_long_time_and_idle_time_allows_one_burst() {
    for (most, per) in [(7, S), (3, Duration::from_nanos(999_999_937)), (1, S / 10)] {
        let limited = LimitMessages::new(Echo).with_rate(most, per);
        let mut held = hold(LineReceiver::new(limited));
        held.advance(3600 * S);
        let time = 100 * S;
        let even = (time.as_nanos() * u128::from(most) / per.as_nanos()) as usize;
        let came = lines_in(&mut held, time);
        assert_eq!(came, even + most as usize, "{most} in {per:?}");
    }
}

#[test]
fn the_default_is_a_thousand_a_second() {
    let mut held = hold(LineReceiver::new(LimitMessages::new(Echo)));
    assert_eq!(lines_in(&mut held, 5 * S), 6000);
}

#[test]
fn a_rate_of_zero_lets_one_through_and_a_zero_period_all() {
    let mut held = hold(LineReceiver::new(LimitMessages::new(Echo).with_rate(0, S)));
    held.push(b"0\r\n1\r\n");
    assert_eq!(held.wire.take(), b"0");
    held.advance(S);
    assert_eq!(held.wire.take(), b"1");
    let unlimited = LimitMessages::new(Echo).with_rate(1, Duration::ZERO);
    let mut held = hold(LineReceiver::new(unlimited));
    held.push(&b"x\r\n".repeat(5000));
    assert_eq!(held.wire.take().len(), 5000);
}

#[test]
fn raw_bytes_of_a_line_protocol_are_not_counted() {
    let mut held = hold(LineReceiver::new(LimitMessages::new(Echo).with_rate(2, S)));
    held.push(b"raw\r\n");
    for _ in 0..10 {
        held.push(b"x");
    }
    assert_eq!(held.wire.take(), b"rawxxxxxxxxxx");
}

#[test]
fn the_protocols_pause_and_the_limits_pause_are_independent() {
    let mut held = hold(LineReceiver::new(two_a_second()));
    held.push(b"0\r\n1\r\n2\r\n3\r\n");
    assert_eq!(held.wire.take(), b"01");
    // The user's resume does not end the limit's pause,
    held.with(|_, transport| transport.resume_producing());
    assert_eq!(held.wire.take(), b"");
    // and the end of the limit's pause does not resume the user's.
    held.with(|_, transport| transport.pause_producing());
    held.advance(10 * S);
    assert_eq!(held.wire.take(), b"");
    held.with(|_, transport| transport.resume_producing());
    assert_eq!(held.wire.take(), b"23");
}

#[test]
fn of_several_timed_pauses_the_longest_counts() {
    let mut held = hold(Echo);
    held.with(|_, transport| {
        transport.pause_for(2 * S);
        transport.pause_for(S);
        transport.pause_for(Duration::ZERO);
        transport.pause_for(Duration::MAX);
        assert!(!transport.wants_data());
    });
    held.wire.push(b"x");
    held.advance(2 * S - Duration::from_nanos(1));
    assert_eq!(held.wire.take(), b"");
    held.advance(Duration::from_nanos(1));
    assert_eq!(held.wire.take(), b"x");
    // A timed pause that begins later ends later.
    held.with(|_, transport| transport.pause_for(S));
    held.advance(S / 2);
    held.with(|_, transport| transport.pause_for(S));
    held.wire.push(b"y");
    held.advance(S);
    assert_eq!(held.wire.take(), b"y");
}

#[test]
fn a_connection_in_a_timed_pause_is_not_idle_and_may_be_closed() {
    let mut held = hold(LineReceiver::new(two_a_second()));
    held.with(|_, transport| transport.set_timeout(Timeout::Idle, Some(3 * S)));
    held.push(&b"x\r\n".repeat(20));
    held.advance(9 * S);
    assert!(!held.connection.is_lost());
    held.with(|_, transport| transport.lose_connection());
    held.wire.fin();
    held.advance(S);
    assert!(held.connection.is_lost());
    let transport = held.connection.transport();
    transport.pause_for(S);
    held.advance(S);
}

#[test]
fn a_connection_finds_the_protocol_inside_a_limit() {
    let mut held = hold(LineReceiver::new(two_a_second()));
    let inside = held.connection.transport().connection::<Echo>();
    inside.tell(|_, transport| transport.write("found"));
    held.settle();
    assert_eq!(held.wire.take(), b"found");
}

#[test]
fn an_upgrade_keeps_the_limit_and_its_used_part() {
    let mut held = hold(LimitMessages::new(Echo).with_rate(2, S));
    held.push(b"a");
    held.with(|_, transport| transport.upgrade(Echo));
    held.settle();
    held.push(b"b");
    assert_eq!(held.wire.take(), b"ab");
    held.wire.push(b"c");
    held.advance(S / 2 - Duration::from_nanos(1));
    assert_eq!(held.wire.take(), b"");
    held.advance(Duration::from_nanos(1));
    assert_eq!(held.wire.take(), b"c");
}
