//! Everything that happens once happens several times here: full queues, busy loops, joins.

use couplet::rooms::{Limits, RoomOptions, SharedRooms, WhenFull};

use crate::kit::{ROOM, Scene, digits};

#[test]
fn c188_a_queue_that_has_emptied_is_full_again_at_its_bound() {
    for (policy, lost) in [(WhenFull::DropNewest, 13..=20), (WhenFull::DropOldest, 9..=16)] {
        let mut scene = Scene::new(RoomOptions::default().queue(4, 100).when_full(policy));
        let (slow, guest) = scene.slow_guest("slow", 8);
        for round in 1..=3 {
            scene.publish_digits(1..=20);
            assert_eq!((guest.queued(), guest.dropped()), (4, 8 * round), "{policy:?}");
            let kept = (1..=20).filter(|number| !lost.contains(number));
            assert_eq!(scene.read(&slow), digits(kept), "{policy:?}, round {round}");
            assert_eq!((guest.queued(), guest.is_present()), (0, true));
        }
    }
}

#[test]
fn c193_a_loop_that_is_busy_again_misses_messages_beyond_its_bound_again() {
    for limits in [Limits::default().loop_queue(4, 1000), Limits::default().loop_queue(1000, 4)] {
        let shared = SharedRooms::with_limits(limits, |_: &&str| RoomOptions::default());
        let (mut one, mut two) = (Scene::of(&shared), Scene::of(&shared));
        let ((ada, _), (bob, of_bob)) = (one.guest("ada"), two.guest("bob"));
        two.memory.settle();
        two.observe();
        for round in 1..=3 {
            one.publish_digits(1..=10);
            assert_eq!(one.read(&ada), digits(1..=10));
            two.memory.settle();
            assert_eq!(two.read(&bob), "1234");
            let log = two.log();
            assert_eq!(log.last().map(|line| &**line), Some("lobby: missed 6 and 0"), "{log:?}");
            assert_eq!((two.rooms.counts().missed, of_bob.dropped()), (6 * round, 6 * round));
        }
    }
}

#[test]
fn c186_a_connection_that_left_joins_again_also_in_the_same_turn() {
    let mut scene = Scene::new(RoomOptions::default());
    let (wire, transport) = scene.connect();
    let mut before = None;
    for round in 0..3 {
        let join = |scene: &Scene| scene.rooms.join(&ROOM, &transport, "ada".to_owned());
        let member = join(&scene).expect("it has left");
        scene.publish("1");
        assert!(member.leave() && !member.leave());
        scene.publish("2");
        // A join, a leave and a join in one turn.
        let short = join(&scene).expect("it has left");
        assert!(short.leave());
        let member = join(&scene).expect("it has left");
        scene.publish("3");
        assert_eq!(scene.read(&wire), "13", "round {round}");
        assert_eq!(scene.rooms.present(&ROOM).len(), 1);
        assert_ne!(before.replace(member.id()), Some(member.id()));
        assert!(member.leave());
        assert!(scene.rooms.present(&ROOM).is_empty());
    }
}
