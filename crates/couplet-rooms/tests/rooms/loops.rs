//! Several loops, which the test turns in any order: without threads, but over the same calls.

use std::cell::RefCell;
use std::rc::Rc;

use couplet::Bytes;
use couplet::rooms::{Limits, RoomOptions, SharedRooms};
use couplet::testing::Wire;

use crate::kit::{ROOM, Scene, digits};

fn two_loops(limits: Limits) -> (Scene, Scene) {
    let shared = SharedRooms::with_limits(limits, |_: &&str| RoomOptions::default());
    (Scene::of(&shared), Scene::of(&shared))
}

#[test]
fn c193_a_message_crosses_to_each_loop_with_a_member_once() {
    let (mut one, mut two) = two_loops(Limits::default());
    one.observe();
    two.observe();
    let guests: Vec<(Wire, _)> = (0..5).map(|_| two.guest("of two")).collect();
    let (ada, _) = one.guest("ada");
    two.memory.settle();
    let _ = (one.log(), two.log());
    one.rooms.publish(&ROOM, "hello").expect("there is such a room");
    two.memory.settle();
    one.memory.settle();
    for (wire, _) in &guests {
        assert_eq!(two.read(wire), "hello");
    }
    assert_eq!(one.read(&ada), "hello");
    two.memory.settle();
    assert_eq!(
        (one.log(), two.log()),
        (vec!["lobby: 1 hello".into()], vec!["lobby: 1 hello".into()])
    );
    assert_eq!((one.rooms.counts().delivered, two.rooms.counts().delivered), (1, 5));
}

#[test]
fn c193_all_loops_see_the_same_order() {
    let (mut one, mut two) = two_loops(Limits::default());
    one.observe();
    two.observe();
    let ((ada, of_ada), (bob, of_bob)) = (one.guest("ada"), two.guest("bob"));
    one.memory.settle();
    two.memory.settle();
    let _ = (one.log(), two.log());
    // Each loop takes its queue at another time.
    for n in 1..=30 {
        let by = if n % 3 == 0 { &of_ada } else { &of_bob };
        by.publish(digits([n])).expect("it is a member");
        match n % 5 {
            0 => one.memory.settle(),
            2 => two.memory.settle(),
            3 => assert!(of_ada.set_meta(format!("ada {n}"))),
            _ => {}
        }
    }
    one.memory.settle();
    two.memory.settle();
    assert_eq!((one.read(&ada), two.read(&bob)), (digits(1..=30), digits(1..=30)));
    let log = one.log();
    assert_eq!(log.len(), 36);
    assert_eq!(log, two.log());
    assert_eq!(one.rooms.present(&ROOM).len(), 2);
}

#[test]
fn c193_a_loop_that_is_busy_misses_messages_beyond_its_bound_and_reports_them() {
    let limits = [Limits::default().loop_queue(4, 1000), Limits::default().loop_queue(1000, 4)];
    for limits in limits {
        let (mut one, mut two) = two_loops(limits);
        let ((ada, _), (bob, of_bob)) = (one.guest("ada"), two.guest("bob"));
        two.memory.settle();
        two.observe();
        let (_dan, transport) = two.connect();
        for n in 1..=10 {
            one.publish(&digits([n]));
        }
        let (_cid, of_cid) = one.guest("cid");
        assert_eq!(one.read(&ada), digits(1..=10));
        // The loop's own join is not among the lost events, and comes behind the messages.
        let joined = two.rooms.join(&ROOM, &transport, "dan".to_owned());
        two.memory.settle();
        assert!(joined.expect("it may join").is_present() && of_cid.is_present());
        assert_eq!(two.read(&bob), "1234");
        let log = two.log();
        assert_eq!(log.last().map(|line| &**line), Some("lobby: missed 6 and 1"), "{log:?}");
        assert_eq!((two.rooms.counts().missed, of_bob.dropped()), (6, 6));
        one.publish("x");
        two.memory.settle();
        assert_eq!(two.read(&bob), "x");
    }
}

#[test]
fn c193_65_536_messages_and_64_mib_wait_for_a_loop_unless_set() {
    for (text, most) in [(Bytes::from_static(b"x"), 65_536), (vec![b'x'; 1 << 20].into(), 64)] {
        let (one, mut two) = two_loops(Limits::default());
        let (_bob, of_bob) = two.guest("bob");
        for _ in 0..most {
            one.rooms.publish(&ROOM, text.clone()).expect("there is such a room");
        }
        // One buffer waits for the guest, however often.
        of_bob.transport().set_write_marks(0, usize::MAX);
        two.memory.settle();
        assert_eq!((two.rooms.counts().missed, two.rooms.counts().delivered), (0, most));
        for _ in 0..=most {
            one.rooms.publish(&ROOM, text.clone()).expect("there is such a room");
        }
        two.memory.settle();
        assert_eq!((two.rooms.counts().missed, two.rooms.counts().delivered), (1, 2 * most));
    }
}

#[test]
fn c193_the_members_of_a_loop_that_ends_leave() {
    let (mut one, mut two) = two_loops(Limits::default());
    let _ada = one.guest("ada");
    let guests = ["bob", "cid", "dan"].map(|name| two.guest(name));
    one.memory.settle();
    one.observe();
    let present = Rc::<RefCell<Vec<usize>>>::default();
    for (_, guest) in &guests {
        let (rooms, seeing) = (one.rooms.clone(), present.clone());
        let lost = guest.transport().lost();
        lost.map(move |_| seeing.borrow_mut().push(rooms.present(&ROOM).len())).detach();
    }
    drop(two);
    assert_eq!(*present.borrow(), [1; 3], "all of them leave with the first");
    one.memory.settle();
    let log = one.log();
    let left = |name: &str| format!("lobby: {name} left (lost: Shutdown)");
    assert_eq!(log, ["bob", "cid", "dan"].map(left));
    assert!(guests.iter().all(|(_, guest)| !guest.is_present()));
    assert_eq!(one.rooms.present(&ROOM).len(), 1);
    drop(guests);
    one.publish("x");
}

#[test]
fn c193_a_loop_gets_messages_until_its_last_member_has_left() {
    let (mut one, mut two) = two_loops(Limits::default().loop_queue(4, 1000));
    let _ada = one.guest("ada");
    for round in 1..=2 {
        let [(bob, of_bob), (cid, of_cid)] = ["bob", "cid"].map(|name| two.guest(name));
        assert!(of_bob.leave());
        one.publish("1");
        two.memory.settle();
        assert_eq!((two.read(&bob), two.read(&cid)), (String::new(), "1".to_owned()), "{round}");
        assert!(of_cid.leave());
        one.publish_digits(1..=10);
        two.memory.settle();
        assert_eq!((two.rooms.counts().missed, two.rooms.counts().delivered), (0, round));
        assert_eq!((of_bob.dropped(), of_cid.dropped()), (0, 0));
    }
}

#[test]
fn c193_each_room_of_a_busy_loop_has_its_own_missed_messages_and_each_member_counts_them() {
    let (one, mut two) = two_loops(Limits::default().loop_queue(4, 1000));
    let guests = ["bob", "cid"].map(|name| two.guest(name));
    let (dan, transport) = two.connect();
    let of_dan = two.rooms.join(&"other", &transport, "dan".to_owned()).expect("it may join");
    two.memory.settle();
    two.observe();
    for round in 1..=3 {
        for (room, count) in [(ROOM, 5), ("other", 3)] {
            for _ in 0..count {
                one.rooms.publish(&room, "x").expect("there is such a room");
            }
        }
        two.memory.settle();
        let log = two.log();
        assert_eq!(log[log.len() - 2..], ["lobby: missed 1 and 0", "other: missed 3 and 0"]);
        assert_eq!(two.rooms.counts().missed, 4 * round);
        assert!(guests.iter().all(|(_, guest)| guest.dropped() == round));
        assert_eq!(of_dan.dropped(), 3 * round);
        assert!(guests.iter().all(|(wire, _)| wire.take() == b"xxxx") && dan.take() == b"");
    }
}

#[test]
fn c193_a_member_that_joins_a_busy_loop_does_not_count_messages_before_its_join() {
    for limits in [Limits::default().loop_queue(4, 1000), Limits::default().loop_queue(1000, 4)] {
        let (mut one, mut two) = two_loops(limits);
        let (_ada, (_bob, of_bob)) = (one.guest("ada"), two.guest("bob"));
        two.memory.settle();
        for round in 1..=3 {
            let (dan, transport) = two.connect();
            one.publish_digits(1..=10);
            let joined = two.rooms.join(&ROOM, &transport, "dan".to_owned());
            one.publish_digits(1..=2);
            two.memory.settle();
            let joined = joined.expect("it may join");
            assert_eq!((joined.dropped(), of_bob.dropped()), (2, 9 * round - 1));
            one.publish_digits(1..=5);
            two.memory.settle();
            assert_eq!((two.read(&dan), joined.dropped()), (digits(1..=4), 3));
            assert!(joined.leave());
            two.memory.settle();
        }
    }
}

#[test]
fn c193_an_observer_in_a_loop_without_members_gets_the_events_of_all_rooms() {
    let (mut one, mut two) = two_loops(Limits::default());
    two.observe();
    for name in ["ada", "bob"] {
        let (_wire, guest) = one.guest(name);
        assert!(guest.set_meta(format!("{name}!")));
        one.publish("x");
        assert!(guest.leave());
        two.memory.settle();
        let expected = [
            format!("lobby: {name} joined"),
            format!("lobby: now {name}!"),
            "lobby: 1 x".to_owned(),
            format!("lobby: {name}! left (Left)"),
        ];
        assert_eq!(two.log(), expected);
    }
    assert_eq!(two.rooms.counts().delivered, 0);
}
