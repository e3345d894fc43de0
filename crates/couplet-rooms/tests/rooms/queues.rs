//! Slow members: each policy at its bounds, reported and counted, and no effect on the others.

use std::sync::Arc;

use couplet::rooms::{Counts, RoomOptions, Rooms, WhenFull};

use crate::kit::{Guest, ROOM, Scene, digits};

/// Bytes that a slow guest takes without reading.
const TAKEN: usize = 8;

/// The numbers of the dropped messages, of one guest.
fn dropped(log: &[String]) -> Vec<u32> {
    let number = |line: &String| {
        let (number, _) = line.strip_prefix("lobby: ")?.split_once(" dropped for ")?;
        number.parse().ok()
    };
    log.iter().filter_map(number).collect()
}

/// Publishes messages of one digit each; returns the dropped ones, and the text that the slow guest
/// reads then. The other guest reads everything.
fn fill(options: RoomOptions, messages: u32) -> (Scene, Guest, Vec<u32>, String) {
    let mut scene = Scene::new(options);
    let ((slow, guest), (ada, _)) = (scene.slow_guest("slow", TAKEN), scene.guest("ada"));
    scene.observe();
    for number in 1..=messages {
        scene.publish(&digits([number]));
    }
    let dropped = dropped(&scene.log());
    assert_eq!(scene.read(&ada), digits(1..=messages), "the others get everything");
    let read = scene.read(&slow);
    (scene, guest, dropped, read)
}

#[test]
fn c188_the_newest_messages_are_dropped_beyond_the_bounds() {
    // By messages, and by bytes.
    for options in [RoomOptions::default().queue(4, 100), RoomOptions::default().queue(100, 4)] {
        let options = options.when_full(WhenFull::DropNewest);
        let (mut scene, guest, dropped, read) = fill(options, 20);
        assert_eq!(dropped, (13..=20).collect::<Vec<_>>());
        assert_eq!(read, digits(1..=12));
        assert_eq!((guest.dropped(), guest.queued(), guest.is_present()), (8, 0, true));
        let counts = scene.rooms.counts();
        assert_eq!((counts.dropped, counts.delivered, counts.cut), (8, 20 + 12, 0));
        let next = scene.publish("x").number();
        assert_eq!((next, guest.dropped()), (21, 8), "it continues");
    }
}

#[test]
fn c188_the_oldest_messages_are_dropped_beyond_the_bounds() {
    for options in [RoomOptions::default().queue(4, 100), RoomOptions::default().queue(100, 4)] {
        let options = options.when_full(WhenFull::DropOldest);
        let (_scene, guest, dropped, read) = fill(options, 20);
        assert_eq!(dropped, (9..=16).collect::<Vec<_>>());
        assert_eq!(read, digits((1..=8).chain(17..=20)));
        assert_eq!((guest.dropped(), guest.is_present()), (8, true));
    }
}

#[test]
fn c188_a_member_is_cut_beyond_the_bounds() {
    for options in [RoomOptions::default().queue(4, 100), RoomOptions::default().queue(100, 4)] {
        let mut scene = Scene::new(options);
        let ((slow, guest), (ada, _)) = (scene.slow_guest("slow", TAKEN), scene.guest("ada"));
        scene.observe();
        for number in 1..=12 {
            scene.publish(&digits([number]));
        }
        assert!(guest.is_present() && guest.queued() == 4);
        let _ = scene.log();
        scene.publish("3");
        assert_eq!(scene.log(), ["lobby: 13 3", "lobby: slow left (Cut)"]);
        assert!(slow.saw_reset() && !guest.is_present() && guest.queued() == 0);
        assert_eq!(scene.rooms.counts().cut, 1);
        scene.publish("4");
        assert_eq!(scene.read(&ada), digits(1..=14));
        assert_eq!(scene.log(), ["lobby: 14 4"], "its loss is not reported again");
    }
}

#[test]
fn c188_a_message_displaces_as_many_old_ones_as_it_needs_and_none_if_it_can_never_fit() {
    let options = RoomOptions::default().queue(100, 4).when_full(WhenFull::DropOldest);
    let mut scene = Scene::new(options);
    let (slow, guest) = scene.slow_guest("slow", TAKEN);
    for number in 1..=12 {
        scene.publish(&digits([number]));
    }
    scene.observe();
    scene.publish("xyz");
    assert_eq!(dropped(&scene.log()), [9, 10, 11]);
    scene.publish("vwxyz");
    assert_eq!(dropped(&scene.log()), [14], "five bytes never fit");
    assert_eq!((guest.queued(), guest.dropped()), (2, 4));
    assert_eq!(scene.read(&slow), "123456782xyz");
}

/// Each limit on both sides: the other one is far away. Twice, since a queue that was read is as
/// empty as a new one.
#[test]
fn c188_a_message_fits_up_to_the_last_place_and_the_last_byte_of_the_queue() {
    let cases = [
        // Messages, bytes, the length of each message, and how many fit.
        ((3, 1000), 1, 3),
        ((1000, 14), 5, 2),
        ((1000, 15), 5, 3),
        ((1000, 16), 5, 3),
        ((3, 15), 5, 3),
        // Those without bytes count as messages.
        ((3, 1000), 0, 3),
        ((3, 0), 0, 3),
    ];
    for ((messages, bytes), length, fit) in cases {
        let options = RoomOptions::default().queue(messages, bytes).when_full(WhenFull::DropNewest);
        let mut scene = Scene::new(options);
        let (slow, guest) = scene.slow_guest("slow", TAKEN);
        for round in 1..=2 {
            // The transport takes these, up to its high mark.
            scene.publish(&"x".repeat(TAKEN));
            while guest.dropped() < round {
                scene.publish(&"y".repeat(length));
            }
            assert_eq!(guest.queued(), fit, "{messages}, {bytes}, {length}");
            scene.read(&slow);
            assert_eq!(guest.queued(), 0);
        }
    }
}

#[test]
fn c188_a_queue_of_no_messages_or_no_bytes_drops_all_that_the_transport_does_not_take() {
    for (messages, bytes) in [(0, 100), (100, 0)] {
        for policy in [WhenFull::DropNewest, WhenFull::DropOldest] {
            let options = RoomOptions::default().queue(messages, bytes).when_full(policy);
            let (_scene, _guest, dropped, read) = fill(options, 10);
            assert_eq!((dropped, read), (vec![9, 10], digits(1..=8)));
        }
    }
}

#[test]
fn c188_a_queue_has_1024_messages_and_1_mib_unless_set() {
    for (text, queued) in [("x", 1024), (&*"x".repeat(64 * 1024), 16)] {
        let options = RoomOptions::default().when_full(WhenFull::DropNewest);
        let mut scene = Scene::new(options);
        let (_slow, guest) = scene.slow_guest("slow", TAKEN);
        while guest.dropped() == 0 {
            scene.publish(text);
        }
        assert_eq!(guest.queued(), queued);
    }
    let mut scene = Scene::new(RoomOptions::default());
    let (slow, _) = scene.slow_guest("slow", TAKEN);
    scene.publish_digits(1..=1024 + TAKEN as u32);
    assert!(!slow.saw_reset());
    scene.publish("x");
    assert!(slow.saw_reset(), "a member is cut unless the room says otherwise");
}

#[test]
fn c188_queued_messages_keep_their_order_as_the_member_reads_now_and_then() {
    let mut scene = Scene::new(RoomOptions::default());
    let (slow, guest) = scene.slow_guest("slow", TAKEN);
    let (mut read, mut most) = (String::new(), 0);
    for number in 1..=300 {
        scene.publish(&digits([number]));
        most = most.max(guest.queued());
        if number % 7 == 0 {
            read += std::str::from_utf8(&slow.take_most(5)).expect("digits");
            scene.memory.settle();
        }
    }
    assert!(most > 10);
    read += &scene.read(&slow);
    assert_eq!(read, digits(1..=300));
}

#[test]
fn c188_a_room_has_the_options_of_its_name() {
    let mut scene = Scene::new(RoomOptions::default());
    let rooms = Rooms::<&str, String>::new(&scene.memory.reactor(), |name| {
        let policy = if *name == "cuts" { WhenFull::Cut } else { WhenFull::DropNewest };
        RoomOptions::default().queue(0, 0).when_full(policy)
    });
    scene.rooms = rooms;
    for (room, expected) in [("cuts", (0, 1)), ("drops", (1, 1))] {
        scene.memory.network().set_capacity(1);
        let (_wire, transport) = scene.connect();
        transport.set_write_marks(0, 0);
        scene.rooms.join(&room, &transport, "ada".to_owned()).expect("it may join");
        // One is in flight, one in the transport.
        for _ in 0..3 {
            scene.rooms.publish(&room, "x").expect("there is such a room");
            scene.memory.settle();
        }
        let Counts { dropped, cut, .. } = scene.rooms.counts();
        assert_eq!((dropped, cut), expected, "{room}");
    }
    assert_eq!(scene.rooms.present(&ROOM).len(), 0);
}

#[test]
fn c188_the_rooms_of_a_connection_share_its_room_in_turns() {
    let mut scene = Scene::new(RoomOptions::default());
    let (slow, guest) = scene.slow_guest("slow", TAKEN);
    let other = scene.rooms.join(&"other", guest.transport(), "slow".to_owned());
    scene.publish(&"x".repeat(TAKEN));
    for _ in 0..5 {
        scene.rooms.publish(&"other", "b").expect("there is such a room");
        scene.publish("a");
    }
    assert_eq!((guest.queued(), other.expect("it may join").queued()), (5, 5));
    assert_eq!(scene.read(&slow), "x".repeat(TAKEN) + &"ab".repeat(5));
}

#[test]
fn c187_a_blocked_connection_that_joins_and_leaves_keeps_nothing_of_its_rooms() {
    let mut scene = Scene::new(RoomOptions::default());
    let (slow, guest) = scene.slow_guest("slow", TAKEN);
    scene.publish(&"x".repeat(TAKEN));
    let rooms = Rooms::new(&scene.memory.reactor(), |_: &Arc<u32>| RoomOptions::default());
    let visited: Vec<_> = (0..10_000).map(Arc::new).collect();
    for room in &visited {
        let member = rooms.join(room, guest.transport(), ()).expect("it may join");
        rooms.publish(room, "y").expect("there is such a room");
        scene.memory.settle();
        assert_eq!(member.queued(), 1);
        assert!(member.leave());
    }
    scene.memory.settle();
    // The rooms remember where they last looked for expired messages.
    let kept = visited.iter().filter(|room| Arc::strong_count(room) > 1).count();
    assert!(kept <= 1, "{kept}");
    assert_eq!(scene.read(&slow), "x".repeat(TAKEN));
    scene.publish("z");
    assert_eq!(scene.read(&slow), "z");
}
