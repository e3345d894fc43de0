//! `pair`, `hold` and `every_split`.

use std::cell::RefCell;

use super::{Notes, failing, s, saying};
use couplet::testing::{Cut, Manner, every_split, hold, hold_on, pair, pair_on};
use couplet::{Address, ListenOptions, Protocol, Reason, SocketOption, Transport, UnixAddress};
use couplet_testkit_loops::doubles::on_made;

use crate::pace::TestLoop;

const MANNERS: [Manner; 2] = [Manner::Readiness, Manner::Completion];

#[test]
fn a_new_pair_has_settled() {
    for manner in MANNERS {
        let (a, b) = (saying("hello"), saying("good day"));
        let mut pair = pair_on(manner, Cut::Whole, 1, a.clone(), b.clone());
        // In the completion manner a greeting may come in pieces.
        assert_eq!(a.entries().concat(), "madegood day");
        assert_eq!(b.entries().concat(), "madehello");
        // The client's peer is the server's host, and vice versa.
        let of_a = pair.with_a(|_, t| (t.peer().clone(), t.host().clone())).expect("still open");
        let of_b = pair.with_b(|_, t| (t.host().clone(), t.peer().clone())).expect("still open");
        assert_eq!(of_a, of_b);
    }
}

#[test]
fn with_runs_on_the_protocol_and_settles() {
    let (a, b) = (saying(""), saying(""));
    let mut pair = pair(a, b.clone());
    let answer = pair.with_a(|notes, transport| {
        transport.write("question");
        notes.entries().len()
    });
    assert_eq!(answer, Some(1));
    assert_eq!(b.entries(), ["made", "question"], "it has arrived when `with` returns");
    pair.with_b(|_, transport| transport.lose_connection());
    assert_eq!(pair.with_b(|_, _| ()), None, "the connection is gone");
    assert_eq!(pair.with_a(|_, _| ()), None);
    assert!(pair.a.is_lost() && pair.b.is_lost());
    assert!(b.entries()[2].contains("closed by us"), "{:?}", b.entries());
}

#[test]
fn both_protocols_get_every_callback() {
    let (mut a, mut b) = (saying(""), saying(""));
    (a.aware, b.aware) = (true, true);
    let mut pair = pair(a.clone(), b.clone());
    pair.with_a(|_, transport| {
        transport.pause_producing();
        transport.resume_producing();
        transport.pause_producing();
    });
    pair.with_a(|_, transport| transport.resume_producing());
    pair.with_b(|_, transport| transport.pause_producing());
    pair.with_b(|_, transport| transport.resume_producing());
    pair.with_a(|_, transport| transport.lose_write_connection());
    pair.with_b(|_, transport| transport.lose_write_connection());
    let end = |by: &str| format!("lost: connection closed by {by}");
    let of_a = ["made", "resumed", "write_closed", "read_closed"];
    assert_eq!(a.entries()[..4], of_a);
    let of_b = ["made", "resumed", "read_closed", "write_closed"];
    assert_eq!(b.entries()[..4], of_b);
    assert_eq!((a.entries().len(), b.entries().len()), (5, 5));
    assert_eq!(b.entries()[4], end("the peer"));
}

#[test]
fn a_protocol_that_closes_at_once_makes_a_pair_too() {
    for manner in MANNERS {
        let mut closing = saying("bye");
        closing.close = true;
        let b = saying("hello");
        let mut pair = pair_on(manner, Cut::Whole, 1, closing.clone(), b.clone());
        assert!(b.entries().concat().starts_with("madebye"), "{:?}", b.entries());
        assert!(pair.a.is_lost() && pair.b.is_lost());
        assert_eq!(pair.with_a(|_, _| ()), None);
        let server = saying("");
        let pair = pair_on(manner, Cut::Whole, 1, server.clone(), closing.clone());
        assert!(server.entries().concat().starts_with("madebye"));
        assert!(pair.a.is_lost() && pair.b.is_lost());
        let mut held = hold_on(manner, 1, closing);
        assert_eq!(held.wire.take(), b"bye");
        assert!(
            held.wire.saw_fin() && held.with(|_, _| ()).is_some(),
            "it still waits for the test's FIN"
        );
        held.wire.fin();
        held.settle();
        assert!(held.connection.is_lost() && held.wire.is_closed());
    }
}

#[test]
fn the_streams_of_a_pair_are_cut_as_requested() {
    let text = "x".repeat(1000);
    for manner in MANNERS {
        let cut = |cut: Cut, seed: u64| {
            let b = saying("");
            let _pair = pair_on(manner, cut, seed, saying(&text), b.clone());
            let pieces = b.pieces.take();
            assert_eq!(pieces.iter().sum::<usize>(), 1000, "{cut:?}");
            pieces
        };
        assert_eq!(cut(Cut::Most(1), 1), [1; 1000]);
        assert_eq!(cut(Cut::Random(1), 1), [1; 1000]);
        assert!(cut(Cut::Most(300), 1).iter().all(|n| *n <= 300));
        let random = cut(Cut::Random(50), 1);
        assert!(random.iter().all(|n| (1..=50).contains(n)));
        assert!(random.iter().any(|n| *n != random[0]), "{random:?}");
        assert_eq!(cut(Cut::Random(50), 1), random, "a seed makes the same choices");
        assert_ne!(cut(Cut::Random(50), 2), random);
    }
    // Changed later.
    let b = saying("");
    let mut pair = pair(saying(""), b.clone());
    pair.set_cut(Cut::Most(3));
    pair.with_a(|_, transport| transport.write("1234567"));
    assert_eq!(b.entries()[1..], ["123", "456", "7"]);
}

#[test]
fn time_stands_still_until_the_test_advances_it() {
    let b = saying("");
    let mut pair = pair(saying(""), b.clone());
    let start = pair.reactor().now();
    pair.with_a(|_, transport| {
        let connection = transport.connection::<Notes>();
        connection.call_later(s(3600), |_, transport| transport.write("an hour later"));
    });
    pair.settle();
    pair.turn();
    assert_eq!(pair.reactor().now(), start);
    pair.advance(s(3599));
    assert_eq!(b.entries(), ["made"]);
    pair.advance(s(1));
    assert_eq!(b.entries(), ["made", "an hour later"]);
    assert_eq!(pair.reactor().now(), start + s(3600));
}

#[test]
fn a_held_protocol_receives_pushed_bytes_and_its_writes_can_be_taken() {
    for manner in MANNERS {
        let notes = saying("hello");
        let mut held = hold_on(manner, 1, notes.clone());
        assert_eq!(held.wire.waiting(), 5);
        assert_eq!(held.wire.take_most(2), b"he");
        assert_eq!(held.wire.take(), b"llo");
        assert!(held.wire.take().is_empty());
        let text = "y".repeat(300_000);
        held.push(text.as_bytes());
        assert_eq!(notes.pieces.take().iter().sum::<usize>(), 300_000, "more than fits in one go");
        assert_eq!(held.wire.unreceived(), 0);
        held.with(|_, transport| transport.write("bye"));
        assert_eq!(held.wire.take(), b"bye");
        assert!(!held.wire.saw_fin() && !held.wire.is_closed());
        held.wire.fin();
        held.settle();
        assert!(held.wire.saw_fin() && held.wire.is_closed() && !held.wire.saw_reset());
        assert!(held.connection.is_lost());
        assert_eq!(held.with(|_, _| ()), None);
    }
}

#[test]
fn the_far_end_sees_a_fin_once_it_has_taken_the_bytes_before() {
    for manner in MANNERS {
        for length in [0, 1, 3] {
            let mut held = hold_on(manner, 1, saying(&"end"[..length]));
            held.with(|_, transport| transport.lose_write_connection());
            for left in (1..=length).rev() {
                assert!(!held.wire.saw_fin(), "{left} of {length} bytes are not taken");
                assert_eq!(held.wire.take_most(1).len(), 1);
            }
            assert!(held.wire.saw_fin(), "{length} bytes");
        }
    }
}

#[test]
fn the_far_end_sees_pauses_options_and_resets() {
    for manner in MANNERS {
        let notes = saying("");
        let mut held = hold_on(manner, 1, notes.clone());
        assert!(held.wire.is_receiving());
        held.with(|_, transport| {
            transport.pause_producing();
            transport.set_option(SocketOption::NoDelay(false));
        });
        assert!(!held.wire.is_receiving());
        assert_eq!(held.wire.options(), [SocketOption::NoDelay(false)]);
        assert_eq!(held.wire.push(b"unread"), 6);
        held.settle();
        assert_eq!((held.wire.unreceived(), notes.entries().len()), (6, 1));
        held.with(|_, transport| transport.resume_producing());
        assert_eq!(notes.entries()[1..], ["resumed", "unread"]);
        held.with(|_, transport| transport.lose_write_connection());
        assert!(held.wire.saw_fin() && !held.wire.saw_reset());
        held.with(|_, transport| transport.abort_connection());
        assert!(held.wire.saw_reset() && held.wire.is_closed() && !held.wire.saw_fin());
        assert!(held.wire.try_push(b"x").is_err());
    }
}

#[test]
fn a_reset_destroys_half_of_the_bytes_of_tcp_and_none_between_unix_sockets() {
    let tcp = Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
    for manner in MANNERS {
        let mut stage = TestLoop::on(manner, 1);
        for (to, arrived) in [(tcp.clone(), 500), (UnixAddress::from("a").into(), 1000)] {
            let notes = saying("never read");
            let ours = notes.clone();
            let port = stage.reactor.listen((to, ListenOptions::default()), move || ours.clone());
            let wire =
                stage.network.connect(port.expect("a free port").host()).expect("it listens");
            stage.turns(10);
            assert_eq!((wire.waiting(), wire.push(&[b'x'; 1000])), (10, 1000));
            wire.close();
            stage.turns(10);
            assert_eq!(notes.pieces.take().iter().sum::<usize>(), arrived, "{}", wire.address());
            assert!(notes.entries().last().is_some_and(|lost| lost.contains("connection lost")));
        }
    }
}

#[test]
fn a_capacity_applies_to_connections_made_after_it() {
    let mut stage = TestLoop::on(Manner::Readiness, 1);
    let port = stage.listen(|| saying("")).host();
    let wires = [(10, 10), (5, 5), (0, 1)].map(|(capacity, fits)| {
        stage.network.set_capacity(capacity);
        (stage.network.connect(port.clone()).expect("it listens"), fits)
    });
    stage.turn();
    for (wire, fits) in &wires {
        assert_eq!(
            (wire.push(&[0; 20]), wire.push(&[0; 20]), wire.unreceived()),
            (*fits, 0, *fits)
        );
    }
}

/// Options of all connections, then options of TCP.
const OPTIONS: [SocketOption; 5] = [
    SocketOption::ReceiveBuffer(1),
    SocketOption::SendBuffer(2),
    SocketOption::NoDelay(true),
    SocketOption::KeepAlive(None),
    SocketOption::ResetUnlessClosed(true),
];

#[test]
fn the_far_end_of_a_unix_connection_sees_no_options_of_tcp() {
    let tcp = Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
    for manner in MANNERS {
        let mut stage = TestLoop::on(manner, 1);
        for (to, seen) in
            [(tcp.clone(), &OPTIONS[..]), (UnixAddress::from("a").into(), &OPTIONS[..2])]
        {
            let set = |transport: &Transport| {
                OPTIONS.iter().for_each(|option| transport.set_option(*option));
            };
            let port = stage.reactor.listen((to, ListenOptions::default()), move || on_made(set));
            let wire =
                stage.network.connect(port.expect("a free port").host()).expect("it listens");
            stage.turns(5);
            assert_eq!(wire.options(), seen, "{}", wire.address());
        }
    }
}

#[test]
fn a_reset_by_the_far_end_is_a_lost_connection() {
    let notes = saying("");
    let mut held = hold(notes.clone());
    held.wire.reset();
    held.settle();
    let entries = notes.entries();
    assert!(entries[1].contains("connection lost"), "{entries:?}");
    // Closing with unread bytes is a reset too, as on a real system.
    let notes = saying("never read");
    let mut held = hold(notes.clone());
    held.wire.close();
    held.settle();
    assert!(notes.entries()[1].contains("connection lost"), "{:?}", notes.entries());
    let mut held = hold(saying(""));
    held.wire.close();
    held.settle();
    assert!(held.wire.saw_fin());
}

#[test]
#[should_panic(expected = "paused reading")]
fn pushing_more_than_a_paused_protocol_takes_fails_the_test() {
    let mut held = hold(saying(""));
    held.with(|_, transport| transport.pause_producing());
    held.push(&[0; 1024 * 1024]);
}

/// Panics on this event: these bytes, or `made`, `lost` or `drop`.
struct PanicsOn(&'static str);

impl PanicsOn {
    fn event(&self, what: &str) {
        assert_ne!(what, self.0, "as expected");
    }
}

impl Protocol for PanicsOn {
    fn connection_made(&mut self, _: &Transport) {
        self.event("made");
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.event(&String::from_utf8_lossy(data));
    }

    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        self.event("lost");
    }
}

impl Drop for PanicsOn {
    fn drop(&mut self) {
        self.event("drop");
    }
}

fn play_all_events(protocol: PanicsOn) {
    let mut held = hold(protocol);
    held.push(b"poem");
    held.wire.close();
    held.settle();
}

#[test]
fn a_callback_that_panics_fails_the_test() {
    for what in ["made", "poem", "lost"] {
        let text = failing(|| play_all_events(PanicsOn(what)));
        assert!(text.starts_with("a panic in "), "{text}");
    }
    failing(|| pair(PanicsOn("made"), saying("")));
    play_all_events(PanicsOn("nothing"));
}

#[test]
fn a_panic_after_the_last_settle_fails_the_test_too() {
    let text = failing(|| play_all_events(PanicsOn("drop")));
    assert!(text.starts_with("a panic in drop of a protocol: "), "{text}");
    let text = failing(|| drop(hold(PanicsOn("drop"))));
    assert!(text.starts_with("a panic in drop of a protocol: "), "{text}");
    let text = failing(|| {
        let mut pair = pair(saying(""), saying(""));
        pair.reactor().call_soon(|| panic!("no poem"));
        pair.turn();
    });
    assert_eq!(text, "a panic in timed call: no poem");
}

#[test]
fn panics_that_the_test_takes_do_not_fail_it() {
    let mut held = hold(PanicsOn("poem"));
    assert!(held.take_panics().is_empty());
    held.push(b"poem");
    assert!(held.take_panics()[0].contains("as expected"));
    held.reactor().call_soon(|| panic!("no poem"));
    held.settle();
    // After the first `take_panics`, further panics do not fail the test either.
    let panics = held.take_panics();
    assert!(panics.len() == 1 && panics[0].contains("no poem"), "{panics:?}");
    assert!(held.take_panics().is_empty());
}

#[test]
fn a_panic_fails_only_the_loop_that_contained_it() {
    let (mut one, mut other) = (hold(saying("")), hold(saying("")));
    one.reactor().call_soon(|| panic!("no poem"));
    other.settle();
    failing(|| one.settle());
    other.settle();
    one.settle();
}

#[test]
fn every_split_cuts_at_every_position() {
    let input = b"one\r\ntwo\r\n";
    let seen: RefCell<Vec<Vec<Vec<u8>>>> = RefCell::default();
    every_split(input, |pieces| {
        assert_eq!(pieces.concat(), input);
        assert!(pieces.iter().all(|piece| !piece.is_empty()));
        seen.borrow_mut().push(pieces.iter().map(|piece| piece.to_vec()).collect());
    });
    let first = seen.take();
    assert_eq!(first.len(), 2 + 9 + 32);
    assert_eq!(first[0], [input.to_vec()], "whole");
    assert!(first[1].len() == 10 && first[1].iter().all(|piece| piece.len() == 1), "byte by byte");
    for at in 1..10 {
        assert!(first.contains(&vec![input[..at].to_vec(), input[at..].to_vec()]), "at {at}");
    }
    assert!(first[11..].iter().any(|pieces| pieces.len() > 2), "at several random positions");
    every_split(input, |pieces| {
        seen.borrow_mut().push(pieces.iter().map(|piece| piece.to_vec()).collect());
    });
    assert_eq!(seen.take(), first, "the same each time");
}

#[test]
fn every_split_of_nothing_gives_nothing() {
    every_split(b"", |pieces| assert!(pieces.concat().is_empty()));
    let mut calls = 0;
    every_split(b"x", |pieces| {
        assert_eq!(pieces, [b"x"]);
        calls += 1;
    });
    assert!(calls >= 1);
}
