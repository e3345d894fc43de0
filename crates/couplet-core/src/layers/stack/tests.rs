//! A stack's promises: order, no copies of lent bytes, pauses, ends, and pushes onto a live stack.

use std::cell::Cell;
use std::time::Duration;

use super::*;
use crate::address::Address;
use crate::layers::{PassThrough, SingleBytes};
use crate::testing::every_split;

/// A small record layer with a handshake. Both ends send `!`, then records of a length byte and as
/// many inverted bytes. A length of 0 ends the stream; a length above 100 is an error.
#[derive(Default)]
struct Records {
    received: Vec<u8>,
    record: Vec<u8>,
    greeted: bool,
    open: bool,
    opened_by: Option<Opened>,
    ended: bool,
    until: Option<Instant>,
    late: bool,
    alert: bool,
}

impl Layer for Records {
    fn up<'a>(&'a mut self, below: &mut &'a [u8], _: Instant) -> Up<'a> {
        self.received.extend_from_slice(mem::take(below));
        let Some(&first) = self.received.first() else {
            return match (self.ended, self.late) {
                (_, true) => Up::Failed(Reason::Timeout),
                (true, _) => Up::Failed(Reason::Shutdown),
                _ => Up::Nothing,
            };
        };
        if !self.open {
            self.open = true;
            self.received.remove(0);
            return Up::Open(self.opened_by.take().map(Box::new));
        }
        if first == 0 {
            return Up::Closed;
        }
        if first > 100 {
            self.alert = true;
            return Up::Failed(Reason::Failed(Failure::msg("a bad record")));
        }
        if self.received.len() <= usize::from(first) {
            return if self.ended { Up::Failed(Reason::Shutdown) } else { Up::Nothing };
        }
        self.record = self.received.drain(..=usize::from(first)).skip(1).map(|b| !b).collect();
        Up::Data(&self.record)
    }

    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, _: Instant) {
        if !mem::replace(&mut self.greeted, true) {
            below.extend(b"!");
        }
        if mem::take(&mut self.alert) {
            below.extend(b"?");
        }
        while self.open && !above.is_empty() && below.len() < ROOM {
            let n = above.first().len().min(100);
            let record: Vec<u8> = above.first()[..n].iter().map(|b| !b).collect();
            above.advance(n);
            below.extend(&[n as u8]);
            below.extend(&record);
        }
    }

    fn ended(&mut self) {
        self.ended = true;
    }

    fn close(&mut self, below: &mut Outbox) {
        below.extend(&[0]);
    }

    fn is_open(&self) -> bool {
        self.open
    }

    fn held(&self) -> usize {
        usize::from(!self.greeted) + usize::from(self.alert)
    }

    fn deadline(&self) -> Option<Instant> {
        self.until
    }

    fn timed_out(&mut self, _: Instant) {
        self.late = true;
    }
}

/// Takes `credit` bytes, then is full until it times out.
struct Metered {
    credit: usize,
    each: usize,
    now: Instant,
    ended: bool,
}

impl Layer for Metered {
    fn up<'a>(&'a mut self, below: &mut &'a [u8], _: Instant) -> Up<'a> {
        let n = self.credit.min(below.len());
        if n == 0 {
            return if self.ended && below.is_empty() { Up::Closed } else { Up::Nothing };
        }
        self.credit -= n;
        let (data, rest) = below.split_at(n);
        *below = rest;
        Up::Data(data)
    }

    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, _: Instant) {
        below.append(above);
    }

    fn ended(&mut self) {
        self.ended = true;
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.now)
    }

    fn timed_out(&mut self, _: Instant) {
        self.credit = self.each;
    }
}

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn start() -> Instant {
    Instant::now()
}

fn spares() -> Rc<Spares> {
    Rc::default()
}

fn outbox(bytes: &[u8]) -> Outbox {
    let mut outbox = Outbox::new(spares());
    outbox.extend(bytes);
    outbox
}

/// Takes everything from an outbox.
fn drain(outbox: &mut Outbox) -> Vec<u8> {
    let mut all = Vec::new();
    while !outbox.is_empty() {
        let n = outbox.first().len();
        all.extend_from_slice(outbox.first());
        outbox.advance(n);
    }
    all
}

/// A stack of these layers, the lowest first.
macro_rules! stack {
    ($($layer:expr),+) => {
        Layers::stack(vec![$(Box::new($layer) as Box<dyn Layer>),+], &spares())
    };
}

fn pass() -> PassThrough {
    PassThrough::default()
}

fn single() -> SingleBytes {
    SingleBytes::default()
}

/// A record layer after its handshake.
fn records() -> Records {
    Records { open: true, greeted: true, ..Records::default() }
}

/// A record layer after the peer's greeting, and before its own.
fn silent() -> Records {
    Records { open: true, ..Records::default() }
}

/// Each byte as in a record.
fn inverted(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| !byte).collect()
}

/// The output on top, abbreviated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    data: Vec<u8>,
    /// The number of data bytes before each other event.
    events: Vec<(usize, &'static str)>,
}

impl Seen {
    fn note(&mut self, up: Up<'_>) {
        let event = match up {
            Up::Nothing | Up::Last(_) => "nothing",
            Up::Data(data) => {
                assert!(!data.is_empty(), "empty data came up");
                return self.data.extend_from_slice(data);
            }
            Up::Open(_) => "open",
            Up::Closed => "closed",
            Up::Failed(_) => "failed",
        };
        self.events.push((self.data.len(), event));
    }

    fn feed(&mut self, layers: &mut Layers, bytes: &[u8]) -> ControlFlow<()> {
        self.feed_until(layers, bytes, Continue(()))
    }

    /// Feeds bytes to a receiver that answers each piece with `flow`.
    fn feed_until(
        &mut self,
        layers: &mut Layers,
        bytes: &[u8],
        flow: ControlFlow<()>,
    ) -> ControlFlow<()> {
        layers.feed(bytes, start(), |up| {
            self.note(up);
            flow
        })
    }
}

#[test]
fn lent_bytes_pass_through_layers_without_a_copy() {
    let mut layers = stack![pass(), pass(), pass()];
    let bytes = b"the very same bytes";
    let mut times = 0;
    let flow = layers.feed(bytes, start(), |up| {
        let Up::Data(data) = up else { panic!("{up:?}") };
        assert!(std::ptr::eq(data, &bytes[..]));
        times += 1;
        Continue(())
    });
    assert_eq!((flow, times), (Continue(()), 1));
    let mut above = outbox(b"");
    let piece = Bytes::from_static(b"a piece that is not copied");
    above.extend(b"x");
    above.push(piece.clone());
    layers.down(&mut above, start());
    assert!(above.is_empty());
    layers.bottom().advance(1);
    assert!(std::ptr::eq(layers.bottom().first(), &piece[..]));
}

#[test]
fn a_stack_gives_the_same_bytes_however_they_are_cut() {
    let (mut a, mut above) = (stack![Records::default()], outbox(b""));
    assert_eq!(a.held(), 1, "the greeting");
    assert_eq!(Seen::default().feed(&mut a, b"!"), Continue(()));
    above.extend(&[7; 250]);
    assert!(a.close(&mut above, start()));
    let wire = drain(a.bottom());
    assert_eq!(wire.len(), 1 + 250 + 3 + 1);
    every_split(&wire, |pieces| {
        let mut layers = stack![single(), Records::default()];
        let mut seen = Seen::default();
        for piece in pieces {
            assert!(!layers.is_behind());
            assert_eq!(seen.feed(&mut layers, piece), Continue(()));
        }
        assert_eq!(seen.data, [7; 250]);
        assert_eq!(seen.events, [(0, "open"), (250, "closed")]);
    });
}

#[test]
fn a_receiver_that_stops_misses_nothing_and_gets_nothing_early() {
    let wire: Vec<u8> = (1..=60).flat_map(|n| std::iter::once(1).chain([!n])).collect();
    let expected: Vec<u8> = (1..=60).collect();
    for step in 1..=wire.len() {
        let mut layers = stack![pass(), silent(), single()];
        let mut seen = Seen::default();
        let mut chunks = wire.chunks(step);
        let mut turn = 0;
        while chunks.len() > 0 || layers.is_behind() {
            turn += 1;
            // Every other time, feed new bytes in spite of the stop.
            let more = !layers.is_behind() || turn % 2 == 1;
            let chunk = if more { chunks.next().unwrap_or_default() } else { &[] };
            let before = seen.data.len();
            let flow = seen.feed_until(&mut layers, chunk, Break(()));
            assert!(seen.data.len() <= before + 1, "delivered to a receiver that had stopped");
            assert_eq!(flow.is_break(), layers.is_behind());
        }
        assert_eq!(seen.data, expected, "in chunks of {step}");
    }
}

#[test]
fn a_full_layer_stops_the_reading_until_its_deadline() {
    let now = start();
    let metered = Metered { credit: 3, each: 3, now, ended: false };
    let mut layers = stack![pass(), metered, pass()];
    let mut seen = Seen::default();
    assert_eq!(seen.feed(&mut layers, b"abcdefgh"), Break(()));
    assert_eq!(seen.data, b"abc");
    assert_eq!(layers.deadline(), Some(now));
    layers.ended();
    assert_eq!(seen.feed(&mut layers, b""), Break(()));
    layers.timed_out(now - Duration::from_nanos(1));
    assert_eq!(seen.feed(&mut layers, b""), Break(()));
    assert_eq!(seen.data, b"abc", "it was not the time yet");
    layers.timed_out(now);
    assert_eq!(seen.feed(&mut layers, b""), Break(()));
    assert_eq!(seen.data, b"abcdef");
    layers.timed_out(now);
    assert_eq!(seen.feed(&mut layers, b""), Continue(()));
    assert_eq!(seen, Seen { data: b"abcdefgh".into(), events: vec![(8, "closed")] });
    assert!(!layers.is_behind());
}

#[test]
fn the_end_comes_after_all_bytes_even_to_a_receiver_that_stopped() {
    let mut layers = stack![single(), pass()];
    let mut seen = Seen::default();
    assert!(seen.feed_until(&mut layers, b"abc", Break(())).is_break());
    layers.ended();
    assert!(seen.feed_until(&mut layers, b"", Break(())).is_break());
    assert_eq!(seen, Seen { data: b"ab".into(), events: vec![] });
    assert_eq!(seen.feed(&mut layers, b""), Continue(()));
    assert_eq!(seen, Seen { data: b"abc".into(), events: vec![(3, "closed")] });
    assert_eq!(seen.feed(&mut layers, b"more"), Continue(()));
    assert_eq!(seen.data, b"abc", "nothing comes after the end");
}

#[test]
fn a_stack_opens_once_when_its_last_level_does_with_all_addresses() {
    let peer: Address = std::net::SocketAddr::from(([1, 2, 3, 4], 5)).into();
    let told = Opened { peer: Some(peer.clone()), ..Opened::default() };
    let lowest = Records { opened_by: Some(told), ..Records::default() };
    let mut layers = stack![lowest, Records::default(), pass()];
    assert!(!layers.is_open());
    let mut opened = Vec::new();
    let mut feed = |layers: &mut Layers, bytes: &[u8]| {
        layers.feed(bytes, start(), |up| {
            let Up::Open(Some(told)) = up else { panic!("{up:?}") };
            opened.push(told.peer);
            Break(())
        })
    };
    assert_eq!(feed(&mut layers, b"!"), Continue(()));
    assert!(!layers.is_open());
    // The record that opens level 1 is followed by a byte of data, which the break holds back.
    assert_eq!(feed(&mut layers, &[3, !b'!', !1, !254]), Break(()));
    assert!(layers.is_open());
    assert_eq!(opened, [Some(peer)]);
    let mut seen = Seen::default();
    assert_eq!(seen.feed(&mut layers, b""), Continue(()));
    assert_eq!(seen, Seen { data: vec![1], events: vec![] });
}

#[test]
fn output_written_before_a_push_leaves_in_clear() {
    let mut layers = stack![pass()];
    let mut above = outbox(b"220 go ahead\r\n");
    layers.push(Records::default(), &mut above, start()).expect("nothing came behind it");
    assert!(above.is_empty() && !layers.is_open());
    above.extend(b"secret");
    layers.down(&mut above, start());
    assert_eq!(drain(layers.bottom()), b"220 go ahead\r\n!");
    let mut seen = Seen::default();
    assert_eq!(seen.feed(&mut layers, b"!"), Continue(()));
    layers.down(&mut above, start());
    assert_eq!(drain(layers.bottom()), [&[6], &inverted(b"secret")[..]].concat());
}

#[test]
fn bytes_behind_an_upgrade_fail_it_at_any_level() {
    // Bytes unread between two levels, bytes unread inside a level, bytes that a full level holds
    // back, and none.
    let wire = [1, !b'a', 1, !b'b'];
    let full = || Metered { credit: 1, each: 1, now: start(), ended: false };
    for (name, stack, bytes, fails) in [
        ("in the layer", stack![pass(), silent()], &wire[..], true),
        ("between two", stack![single(), pass()], b"ab", true),
        ("below a full layer", stack![pass(), full(), pass()], b"ab", true),
        ("below a full layer at the bottom", stack![full()], b"ab", true),
        ("none", stack![pass(), silent()], &wire[..2], false),
        ("none, and one byte at a time", stack![single(), pass()], b"a", false),
    ] {
        let (mut layers, mut seen) = (stack, Seen::default());
        assert!(seen.feed_until(&mut layers, bytes, Break(())).is_break(), "{name}");
        let pushed = layers.push(PassThrough::default(), &mut outbox(b""), start());
        assert_eq!(pushed.is_err(), fails, "{name}");
        if let Err(reason) = pushed {
            assert!(reason.downcast_ref::<PlaintextAfterUpgrade>().is_some(), "{name}");
            assert!(reason.to_string().contains("plaintext after STARTTLS"), "{reason}");
        }
        let _ = seen.feed(&mut layers, b"");
        assert_eq!(seen.data, b"a", "{name}: nothing from before is delivered after");
    }
}

#[test]
fn a_stream_that_ended_before_a_push_ends_for_the_new_layer_too() {
    let mut layers = stack![pass()];
    layers.ended();
    assert_eq!(Seen::default().feed(&mut layers, b""), Continue(()));
    assert!(!layers.is_behind());
    layers.push(Records::default(), &mut outbox(b""), start()).expect("no bytes");
    assert!(layers.is_behind(), "the new layer has not reported the end yet");
    let mut seen = Seen::default();
    let _ = seen.feed(&mut layers, b"");
    assert_eq!(seen.events, [(0, "failed")], "it was truncated");
}

#[test]
fn output_stays_above_while_the_bottom_is_full() {
    let mut layers = stack![silent()];
    let mut above = outbox(&[1; 4 * ROOM]);
    layers.down(&mut above, start());
    let first = layers.bottom().len();
    assert!((ROOM..ROOM + 101).contains(&first), "{first}");
    assert_eq!(layers.held(), first);
    let left = above.len();
    layers.down(&mut above, start());
    assert_eq!(above.len(), left, "it was asked for more than there is room for");
    layers.bottom().advance(ROOM);
    layers.down(&mut above, start());
    assert!(above.len() < left);
}

#[test]
fn a_level_with_a_full_outbox_is_not_asked_for_more() {
    /// Sends half of `ROOM` each time it is called.
    struct Chatty(Rc<Cell<usize>>);
    impl Layer for Chatty {
        fn up<'a>(&'a mut self, _: &mut &'a [u8], _: Instant) -> Up<'a> {
            Up::Nothing
        }

        fn down(&mut self, _: &mut Outbox, below: &mut Outbox, _: Instant) {
            self.0.set(self.0.get() + 1);
            below.extend(&[0; ROOM / 2]);
        }

        fn ended(&mut self) {}
    }
    let [upper, lower] = [0; 2].map(|_| Rc::new(Cell::new(0)));
    let mut layers = stack![Chatty(lower.clone()), Chatty(upper.clone())];
    for _ in 0..10 {
        layers.down(&mut outbox(b""), start());
    }
    assert_eq!((upper.get(), lower.get()), (2, 2));
    layers.bottom().advance(1);
    layers.down(&mut outbox(b""), start());
    assert_eq!((upper.get(), lower.get()), (2, 3));
}

#[test]
fn a_close_goes_down_level_by_level_behind_everything_and_once() {
    let mut layers = stack![Records::default(), records()];
    let mut above = outbox(b"last");
    assert!(!layers.close(&mut above, start()), "level 0 is not open");
    assert_eq!(drain(layers.bottom()), b"!");
    assert!(!layers.close(&mut above, start()));
    let _ = Seen::default().feed(&mut layers, b"!");
    assert!(layers.close(&mut above, start()));
    assert!(layers.close(&mut above, start()), "and again");
    // Level 1 sends a record of four bytes and a goodbye; level 0 wraps both in a record, and adds
    // its own goodbye.
    let inner = [&[4], &inverted(b"last")[..], &[0]].concat();
    assert_eq!(drain(layers.bottom()), [&[6], &inverted(&inner)[..], &[0]].concat());
}

#[test]
fn a_layer_that_holds_output_is_closed_behind_it() {
    /// Holds a byte until it is called for the third time.
    #[derive(Default)]
    struct Slow(u32);
    impl Layer for Slow {
        fn up<'a>(&'a mut self, _: &mut &'a [u8], _: Instant) -> Up<'a> {
            Up::Nothing
        }

        fn down(&mut self, above: &mut Outbox, below: &mut Outbox, _: Instant) {
            above.clear();
            self.0 += 1;
            if self.0 == 3 {
                below.extend(b"late");
            }
        }

        fn ended(&mut self) {}

        fn close(&mut self, below: &mut Outbox) {
            below.extend(b"bye");
        }

        fn held(&self) -> usize {
            usize::from(self.0 < 3)
        }
    }
    let mut layers = stack![pass(), Slow::default()];
    let mut above = outbox(b"x");
    for closed in [false, false, true] {
        assert_eq!(layers.close(&mut above, start()), closed);
    }
    assert_eq!(drain(layers.bottom()), b"latebye");
}

#[test]
fn a_failure_comes_once_and_its_alert_goes_down() {
    let mut layers = stack![single(), records(), pass()];
    let mut seen = Seen::default();
    assert_eq!(seen.feed(&mut layers, &[1, !5, 200, 1, !6]), Continue(()));
    layers.ended();
    assert_eq!(seen.feed(&mut layers, &[1, !6]), Continue(()));
    assert_eq!(seen, Seen { data: vec![5], events: vec![(1, "failed")] });
    assert_eq!(layers.held(), 1);
    layers.down(&mut outbox(b""), start());
    assert_eq!(drain(layers.bottom()), b"?");
}

#[test]
fn the_uppermost_layers_info_is_found_first() {
    let opens = |info: &'static str| Records {
        opened_by: Some(*Opened::with_info(info)),
        ..Records::default()
    };
    let mut layers = stack![opens("lower"), opens("upper")];
    let mut seen = Seen::default();
    let _ = seen.feed(&mut layers, b"!");
    assert_eq!(layers.opened().find::<&str>().as_deref(), Some(&"lower"));
    let _ = seen.feed(&mut layers, &[1, !b'!']);
    assert_eq!(layers.opened().find::<&str>().as_deref(), Some(&"upper"));
    assert_eq!(layers.opened().find::<String>(), None);
}

#[test]
fn each_address_comes_from_the_uppermost_layer_that_has_one() {
    let [a, b, c] =
        [1, 2, 3].map(|port| Address::from(std::net::SocketAddr::from(([1, 2, 3, 4], port))));
    let opens = |peer: Option<&Address>, host: Option<&Address>| Records {
        opened_by: Some(Opened { peer: peer.cloned(), host: host.cloned(), infos: Vec::new() }),
        ..Records::default()
    };
    for (lower, upper, told) in [
        ((Some(&a), Some(&b)), (None, None), (Some(&a), Some(&b))),
        ((Some(&a), Some(&b)), (Some(&c), None), (Some(&c), Some(&b))),
        ((Some(&a), Some(&b)), (None, Some(&c)), (Some(&a), Some(&c))),
        ((None, None), (Some(&a), Some(&b)), (Some(&a), Some(&b))),
    ] {
        let mut layers = stack![opens(lower.0, lower.1), opens(upper.0, upper.1)];
        let mut seen = Seen::default();
        let _ = seen.feed(&mut layers, &[b'!', 1, !b'!']);
        let opened = layers.opened();
        assert_eq!((opened.peer.as_ref(), opened.host.as_ref()), told);
    }
}

#[test]
fn only_layers_whose_time_has_come_time_out() {
    let now = start();
    let later = now + Duration::from_secs(1);
    let until = |until| Records { until: Some(until), ..Records::default() };
    let mut layers = stack![until(later), until(now)];
    assert_eq!(layers.deadline(), Some(now));
    let mut seen = Seen::default();
    layers.timed_out(now);
    let reason = Cell::new(None);
    let _ = layers.feed(b"", now, |up| {
        if let Up::Failed(why) = &up {
            reason.set(Some(why.to_string()));
        }
        seen.note(up);
        Continue(())
    });
    assert_eq!(reason.take(), Some(Reason::Timeout.to_string()));
    assert_eq!(layers.deadline(), None, "a stack that has failed waits for nothing");
    assert_eq!(seen.events.len(), 1);
}

#[test]
fn a_cleared_stack_holds_nothing_and_delivers_nothing() {
    for clear in [Layers::clear, Layers::drop_layers] {
        let mut layers = stack![silent(), single()];
        layers.down(&mut outbox(b"never sent"), start());
        let _ = layers.feed(&[2, !1, !2], start(), |_| Break(()));
        clear(&mut layers);
        assert_eq!(layers.held(), 0);
        assert!(layers.bottom().is_empty());
        let mut seen = Seen::default();
        assert_eq!(seen.feed(&mut layers, &[1, !3]), Continue(()));
        assert_eq!(seen, Seen::default());
    }
}

#[test]
fn all_layers_whose_time_has_come_time_out_together_and_again() {
    let now = start();
    let metered = || Metered { credit: 1, each: 2, now, ended: false };
    let mut layers = stack![metered(), pass(), metered()];
    let mut seen = Seen::default();
    assert_eq!(seen.feed(&mut layers, b"abcdef"), Break(()));
    assert_eq!(seen.data, b"a");
    for expected in [&b"abc"[..], b"abcde", b"abcdef"] {
        layers.timed_out(now);
        let _ = seen.feed(&mut layers, b"");
        assert_eq!(seen.data, expected);
    }
}

#[test]
fn unread_bytes_of_all_levels_are_taken_in_their_order() {
    let mut layers = stack![pass(), single(), pass()];
    let mut seen = Seen::default();
    for bytes in [&b"abc"[..], b"de"] {
        assert!(seen.feed_until(&mut layers, bytes, Break(())).is_break());
    }
    assert_eq!(seen.data, b"ab");
    assert_eq!(layers.take_unread(), b"cde");
    assert_eq!(layers.take_unread(), b"");
}

#[test]
fn foreign_buffers_that_have_been_sent_are_given_back_from_each_level() {
    /// Replaces its output by a separate buffer.
    struct Foreign;
    impl Layer for Foreign {
        fn up<'a>(&'a mut self, _: &mut &'a [u8], _: Instant) -> Up<'a> {
            Up::Nothing
        }

        fn down(&mut self, above: &mut Outbox, below: &mut Outbox, _: Instant) {
            while !above.is_empty() {
                above.advance(above.first().len());
                below.push(Bytes::from(vec![1; 1000]));
            }
        }

        fn ended(&mut self) {}
    }
    let mut layers = stack![records(), Foreign, pass()];
    for _ in 0..3 {
        let mut above = outbox(b"");
        above.push(Bytes::from(vec![2; 1000]));
        layers.down(&mut above, start());
        assert!(layers.has_spent_above_bottom());
        let mut spent = layers.take_spent();
        spent.sort();
        assert_eq!(spent, [vec![1; 1000], vec![2; 1000]]);
        assert!(!layers.has_spent());
        drain(layers.bottom());
    }
}
