//! Positions: a returning client gets exactly the messages that it missed, or learns of a gap.

use std::time::Duration;

use couplet::rooms::{Position, PublishError, Replay, RoomOptions, SharedRooms, Start, WhenFull};
use couplet::testing::Wire;
use couplet::{Bytes, Transport};

use crate::kit::{Guest, ROOM, Scene, digits};

const MINUTE: Duration = Duration::from_secs(60);

fn with_history(messages: usize) -> RoomOptions {
    RoomOptions::default().history(messages, 1 << 20, MINUTE)
}

fn join(scene: &Scene, transport: &Transport, start: Start) -> (Guest, Replay) {
    scene.rooms.join_from(&ROOM, transport, "ada".to_owned(), start).expect("it may join")
}

/// A client that joins at this start, and its replay.
fn returns(scene: &mut Scene, start: Start) -> (Wire, Guest, Replay) {
    let (wire, transport) = scene.connect();
    let (guest, replay) = join(scene, &transport, start);
    (wire, guest, replay)
}

#[test]
fn c190_a_returning_client_gets_exactly_the_missed_messages_and_then_new_ones() {
    let mut scene = Scene::new(with_history(100));
    let positions: Vec<Position> = (1..=9).map(|n| scene.publish(&digits([n]))).collect();
    assert_eq!(scene.rooms.position(&ROOM), Some(positions[8]));
    for (at, position) in positions.iter().enumerate() {
        let (wire, _guest, replay) = returns(&mut scene, Start::After(*position));
        assert!(replay.is_complete && replay.messages == 8 - at);
        assert_eq!(replay.position, positions[8]);
        scene.memory.settle();
        assert_eq!(scene.read(&wire), digits(at as u32 + 2..=9));
    }
    let (wire, _guest, replay) = returns(&mut scene, Start::Oldest);
    assert!(replay.is_complete && replay.messages == 9);
    assert_eq!(scene.publish("0").number(), 10);
    assert_eq!(scene.read(&wire), "1234567890");
}

#[test]
fn c190_messages_published_around_a_return_come_once_and_in_order() {
    let mut scene = Scene::new(with_history(100));
    let position = scene.publish("1");
    // Before and after the join, in one turn.
    scene.rooms.publish(&ROOM, "2").expect("there is such a room");
    let (wire, transport) = scene.connect();
    scene.rooms.publish(&ROOM, "3").expect("there is such a room");
    let (_guest, replay) = join(&scene, &transport, Start::After(position));
    assert_eq!(replay.messages, 2);
    scene.rooms.publish(&ROOM, "4").expect("there is such a room");
    scene.memory.settle();
    scene.publish("5");
    assert_eq!(scene.read(&wire), "2345");
}

#[test]
fn c190_a_gap_is_reported_and_no_history_is_sent() {
    let mut scene = Scene::new(with_history(3));
    let positions: Vec<Position> = (1..=9).map(|n| scene.publish(&digits([n]))).collect();
    let other = Scene::new(with_history(3)).publish("1");
    let future: Position = {
        let text = positions[8].to_string();
        text.replace("-9", "-10").parse().expect("a position")
    };
    for (position, is_complete) in [
        (positions[5], true),
        (positions[4], false),
        (positions[0], false),
        (other, false),
        (future, false),
    ] {
        let (wire, guest, replay) = returns(&mut scene, Start::After(position));
        assert_eq!(replay.is_complete, is_complete, "{position}");
        scene.memory.settle();
        assert_eq!(scene.read(&wire), if is_complete { "789" } else { "" });
        assert!(guest.leave());
    }
}

#[test]
fn c190_a_slow_reader_with_a_small_queue_gets_its_whole_history() {
    for policy in [WhenFull::DropNewest, WhenFull::DropOldest, WhenFull::Cut] {
        let mut scene = Scene::new(with_history(100).queue(2, 2).when_full(policy));
        let position = scene.publish("1");
        scene.publish_digits(2..=50);
        scene.memory.network().set_capacity(3);
        let (wire, transport) = scene.connect();
        transport.set_write_marks(0, 2);
        let (guest, _) = join(&scene, &transport, Start::After(position));
        scene.memory.settle();
        assert_eq!(guest.queued(), 49 - 6);
        scene.publish_digits(51..=52);
        assert_eq!(scene.read(&wire), digits(2..=52), "{policy:?}");
        assert_eq!(guest.dropped(), 0);
    }
}

#[test]
fn c190_a_message_contains_its_position() {
    let mut scene = Scene::new(with_history(10));
    let (wire, _guest) = scene.guest("ada");
    let encode = |position: Position| Bytes::from(format!("{position} "));
    let first = scene.rooms.publish_encoded(&ROOM, encode).expect("there is such a room");
    let second = scene.rooms.publish_encoded(&ROOM, encode).expect("there is such a room");
    assert_eq!((first.number(), second.number()), (1, 2));
    scene.memory.settle();
    assert_eq!(scene.read(&wire), format!("{first} {second} "));
}

#[test]
fn c190_an_encoder_that_is_overtaken_runs_again() {
    let mut scene = Scene::new(with_history(10));
    let (wire, _guest) = scene.guest("ada");
    let (rooms, mut runs) = (scene.rooms.clone(), 0);
    let position = scene.rooms.publish_encoded(&ROOM, |position| {
        runs += 1;
        if runs <= 2 {
            rooms.publish(&ROOM, "other ").expect("there is such a room");
        }
        Bytes::from(format!("{} ", position.number()))
    });
    assert_eq!((position.expect("the third is its own").number(), runs), (3, 3));
    scene.memory.settle();
    assert_eq!(scene.read(&wire), "other other 3 ");
    let always = scene.rooms.publish_encoded(&ROOM, |_| {
        rooms.publish(&ROOM, "").expect("there is such a room");
        Bytes::new()
    });
    assert_eq!(always, Err(PublishError::Overtaken));
}

#[test]
fn c191_a_history_is_bounded_by_count_bytes_and_time() {
    // At most three messages; at most three bytes; the messages of the last minute.
    let options = [
        (RoomOptions::default().history(3, 100, MINUTE), Duration::ZERO, "789"),
        (RoomOptions::default().history(100, 3, MINUTE), Duration::ZERO, "789"),
        (RoomOptions::default().history(100, 100, MINUTE), MINUTE / 3, "6789"),
        (RoomOptions::default().history(0, 100, MINUTE), Duration::ZERO, ""),
        (RoomOptions::default(), Duration::ZERO, ""),
    ];
    for (options, pause, kept) in options {
        let mut scene = Scene::new(options);
        for n in 1..=9 {
            scene.publish(&digits([n]));
            scene.memory.advance(if n < 9 { pause } else { Duration::ZERO });
        }
        let (wire, _guest, replay) = returns(&mut scene, Start::Oldest);
        scene.memory.settle();
        assert_eq!((&*scene.read(&wire), replay.messages), (kept, kept.len()));
    }
}

#[test]
fn c191_expired_messages_and_their_rooms_are_removed_by_the_use_of_other_rooms() {
    let shared = SharedRooms::new(|_: &&str| RoomOptions::default().history(9, 100, MINUTE));
    let mut scene = Scene::of(&shared);
    for room in ["a", "b", "c", "d"] {
        scene.rooms.publish(&room, "x").expect("there is such a room");
    }
    let _guest = scene.guest("ada");
    assert_eq!(scene.rooms.rooms(), 5);
    scene.memory.advance(MINUTE * 2);
    scene.publish_digits(1..=3);
    assert_eq!(scene.rooms.rooms(), 1, "the one with a member stays");
    assert_eq!(scene.rooms.position(&"a"), None);
}

#[test]
fn c191_a_room_that_was_made_again_has_another_epoch() {
    let mut scene = Scene::new(RoomOptions::default());
    let (_, guest) = scene.guest("ada");
    let old = scene.publish("x");
    assert!(guest.leave());
    assert_eq!(scene.rooms.position(&ROOM), None);
    let (_, _guest) = scene.guest("ada");
    let new = scene.publish("x");
    assert_eq!((old.number(), new.number()), (1, 1));
    assert_ne!(old, new);
    let (_wire, _guest, replay) = returns(&mut scene, Start::After(old));
    assert!(!replay.is_complete);
}

#[test]
fn c190_a_member_that_leaves_before_its_replay_keeps_nothing_of_it() {
    let mut scene = Scene::new(with_history(100));
    scene.publish_digits(1..=5);
    let (wire, transport) = scene.connect();
    for _ in 0..2 {
        let (guest, replay) = join(&scene, &transport, Start::Oldest);
        assert_eq!((guest.queued(), replay.messages), (5, 5));
        assert!(guest.leave());
        assert_eq!(guest.queued(), 0);
        scene.memory.settle();
        assert_eq!(scene.read(&wire), "");
    }
    let (guest, _) = join(&scene, &transport, Start::Oldest);
    scene.memory.settle();
    assert_eq!((scene.read(&wire), guest.queued()), (digits(1..=5), 0));
}

#[test]
fn c191_a_message_is_in_replays_until_it_has_expired_without_another_one() {
    let mut scene = Scene::new(with_history(100));
    for round in 0..2 {
        scene.publish_digits(1..=2);
        for (passes, kept) in [(MINUTE, "12"), (Duration::from_secs(1), "")] {
            scene.memory.advance(passes);
            let (wire, guest, replay) = returns(&mut scene, Start::Oldest);
            scene.memory.settle();
            assert_eq!((&*scene.read(&wire), replay.messages), (kept, kept.len()), "{round}");
            assert!(guest.leave());
        }
    }
}

#[test]
fn c190_a_queue_that_overflows_drops_none_of_the_history_ahead_of_it() {
    for (policy, kept) in [(WhenFull::DropNewest, 51..=52), (WhenFull::DropOldest, 53..=54)] {
        let mut scene = Scene::new(with_history(100).queue(2, 2).when_full(policy));
        let position = scene.publish("1");
        scene.publish_digits(2..=50);
        scene.memory.network().set_capacity(3);
        let (wire, transport) = scene.connect();
        transport.set_write_marks(0, 2);
        let (guest, _) = join(&scene, &transport, Start::After(position));
        scene.memory.settle();
        scene.publish_digits(51..=54);
        assert_eq!((guest.queued(), guest.dropped()), (49 - 6 + 2, 2), "{policy:?}");
        assert_eq!(scene.read(&wire), digits((2..=50).chain(kept)), "{policy:?}");
    }
}
