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
