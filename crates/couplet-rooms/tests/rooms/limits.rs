//! The limits of all rooms together.

use std::time::Duration;

use couplet::Bytes;
use couplet::rooms::{JoinError, Limits, PublishError, RoomOptions, SharedRooms, Start};

use crate::kit::{ROOM, Scene};

const HOUR: Duration = Duration::from_secs(3600);

fn scene(limits: Limits) -> Scene {
    Scene::of(&SharedRooms::with_limits(limits, |_: &&str| {
        RoomOptions::default().history(100, 1 << 20, HOUR)
    }))
}

fn kept(scene: &mut Scene, room: &'static str) -> String {
    let (wire, transport) = scene.connect();
    let start = Start::Oldest;
    let joined = scene.rooms.join_from(&room, &transport, "ada".to_owned(), start);
    scene.memory.settle();
    assert!(joined.expect("it may join").0.leave());
    scene.read(&wire)
}

#[test]
fn c192_the_oldest_empty_room_makes_place_and_rooms_with_members_stay() {
    let mut scene = scene(Limits::default().rooms(3));
    for room in ["a", "b", "c", "a"] {
        scene.rooms.publish(&room, room).expect("there is place");
        scene.memory.advance(Duration::from_secs(1));
    }
    scene.rooms.publish(&"d", "d").expect("there is place");
    assert_eq!(scene.rooms.rooms(), 3);
    assert_eq!(scene.rooms.position(&"b"), None, "its last message was the oldest");
    assert_eq!(kept(&mut scene, "a"), "aa");
    let (_wire, transport) = scene.connect();
    for room in ["a", "c", "d"] {
        scene.rooms.join(&room, &transport, "ada".to_owned()).expect("there is place");
    }
    assert_eq!(scene.rooms.publish(&"e", "e"), Err(PublishError::TooManyRooms));
    let joined = scene.rooms.join(&"e", &transport, "ada".to_owned());
    assert_eq!(joined.err(), Some(JoinError::TooManyRooms));
    let published = scene.rooms.publish_encoded(&"e", |_| Bytes::new());
    assert_eq!(published, Err(PublishError::TooManyRooms));
    scene.rooms.publish(&"a", "a").expect("it exists");
}

#[test]
fn c192_the_histories_of_all_rooms_have_a_bound_that_they_share_in_turns() {
    let mut scene = scene(Limits::default().history_bytes(12));
    for _ in 0..4 {
        for room in ["a", "b", "c"] {
            scene.rooms.publish(&room, room).expect("there is place");
        }
    }
    for _ in 0..3 {
        scene.rooms.publish(&"d", "d").expect("there is place");
    }
    let all: Vec<String> = ["a", "b", "c", "d"].map(|room| kept(&mut scene, room)).into();
    assert_eq!(all.concat().len(), 12, "{all:?}");
    assert!(all.iter().all(|kept| kept.len() >= 2), "{all:?}");
    scene.rooms.publish(&"d", "a long message").expect("there is place");
    let all = ["a", "b", "c", "d"].map(|room| kept(&mut scene, room)).concat();
    assert!(all.len() <= 12 && !all.contains("long"), "{all}");
}

#[test]
fn c192_a_removed_history_frees_its_part_of_the_bound() {
    let mut scene = scene(Limits::default().rooms(1).history_bytes(3));
    for round in 0..10 {
        for room in ["a", "b"] {
            scene.rooms.publish(&room, "xyz").expect("there is place");
            assert_eq!(kept(&mut scene, room), "xyz", "{round}");
        }
    }
}

#[test]
fn c192_the_histories_of_all_rooms_have_256_mib_unless_set() {
    let mut scene = Scene::of(&SharedRooms::new(|_: &&str| {
        RoomOptions::default().history(1000, usize::MAX, HOUR)
    }));
    // One buffer, however often it is kept.
    let text = Bytes::from(vec![b'x'; 1 << 20]);
    let count = |scene: &mut Scene| {
        let (_wire, transport) = scene.connect();
        let joined = scene.rooms.join_from(&"a", &transport, "ada".to_owned(), Start::Oldest);
        joined.expect("it may join").1.messages
    };
    for messages in 1..=256 {
        scene.rooms.publish(&"a", text.clone()).expect("there is place");
        assert!(messages % 64 > 0 || count(&mut scene) == messages);
    }
    scene.rooms.publish(&"a", text).expect("there is place");
    assert_eq!(count(&mut scene), 256);
}

#[test]
fn c192_65_536_rooms_are_kept_unless_set() {
    let scene = Scene::new(RoomOptions::default());
    let rooms = couplet::rooms::Rooms::<u32, ()>::new(&scene.memory.reactor(), |_| {
        RoomOptions::default().history(1, 1, HOUR)
    });
    for room in 0..65_536 {
        rooms.publish(&room, "x").expect("there is place");
    }
    assert_eq!((rooms.rooms(), rooms.position(&0).is_some()), (65_536, true));
    rooms.publish(&65_536, "x").expect("there is place");
    assert_eq!(rooms.rooms(), 65_536);
    assert_eq!(scene.rooms.position(&ROOM), None);
}

#[test]
fn c192_messages_that_expire_or_are_displaced_free_their_part_of_the_bound() {
    let options = RoomOptions::default().history(2, 1 << 20, HOUR);
    let limits = Limits::default().history_bytes(6);
    let mut scene = Scene::of(&SharedRooms::with_limits(limits, move |_: &&str| options.clone()));
    for round in 1..=3 {
        for _ in 0..5 {
            scene.rooms.publish(&"a", "xyz").expect("there is place");
        }
        assert_eq!(kept(&mut scene, "a"), "xyzxyz", "{round}");
        scene.memory.advance(HOUR * 2);
    }
}
