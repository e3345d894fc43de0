//! Each cycle twice, each position of a failure, and both limits of a queue.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use couplet::rooms::{Event, Limits, RoomOptions, SharedRooms, WhenFull};
use couplet::testing::Wire;

use crate::kit::{Guest, ROOM, Scene, digits};

fn scene(limits: Limits, options: RoomOptions) -> Scene {
    Scene::of(&SharedRooms::with_limits(limits, move |_: &&str| options.clone()))
}

/// Members are served in groups of `deliveries`; those that are not cut get every message once.
#[test]
fn c188_a_cut_in_any_place_of_a_message_leaves_the_others_complete() {
    const MEMBERS: usize = 7;
    for deliveries in [1, 2, 3, 100] {
        for slow in [vec![0], vec![1], vec![2], vec![6], vec![0, 6], vec![2, 3, 4]] {
            let limits = Limits::default().deliveries(deliveries);
            let mut scene = scene(limits, RoomOptions::default().queue(0, 0));
            let guests: Vec<(Wire, Guest)> = (0..MEMBERS)
                .map(|number| match slow.contains(&number) {
                    true => scene.slow_guest("slow", 2),
                    false => scene.guest("fast"),
                })
                .collect();
            // Two messages fill the slow ones, the third one cuts them.
            scene.publish_digits(1..=6);
            for (number, (wire, guest)) in guests.iter().enumerate() {
                let is_slow = slow.contains(&number);
                let name = format!("{number} of {slow:?}, {deliveries} a turn");
                assert_eq!(guest.is_present(), !is_slow, "{name}");
                match is_slow {
                    true => assert!(wire.saw_reset(), "{name}"),
                    false => assert_eq!(scene.read(wire), digits(1..=6), "{name}"),
                }
            }
            let (counts, cut) = (scene.rooms.counts(), slow.len());
            assert_eq!((counts.cut, counts.missed), (cut as u64, 0));
            assert_eq!(counts.delivered, (6 * (MEMBERS - cut) + 2 * cut) as u64);
            assert_eq!(scene.rooms.present(&ROOM).len(), MEMBERS - cut);
        }
    }
}

/// A connection fills and drains again and again, in one room or in another one each time.
#[test]
fn c188_a_connection_that_fills_and_drains_several_times_gets_everything() {
    for leaves in [false, true] {
        let mut scene = Scene::new(RoomOptions::default());
        let (wire, mut guest) = scene.slow_guest("slow", 8);
        for round in 1..=4 {
            scene.publish_digits(1..=20);
            assert!(guest.queued() > 0, "{round}");
            match leaves {
                true => {
                    assert!(guest.leave());
                    assert_eq!(scene.read(&wire), digits(1..=8), "{round}");
                    let transport = guest.transport().clone();
                    let joined = scene.rooms.join(&ROOM, &transport, "slow".to_owned());
                    guest = joined.expect("it may join");
                    scene.memory.settle();
                }
                false => assert_eq!(scene.read(&wire), digits(1..=20), "{round}"),
            }
            assert_eq!(guest.queued(), 0, "{round}");
            scene.publish("x");
            assert_eq!(scene.read(&wire), "x", "{round}");
        }
    }
}

/// A loop's queue is worked off first when it is half full by messages or by bytes, in each turn.
#[test]
fn c193b_publishers_that_fill_either_limit_lose_nothing() {
    for (limits, length) in [((10, 1_000_000), 1), ((1_000_000, 1000), 100)] {
        let limits = Limits::default().deliveries(1).loop_queue(limits.0, limits.1);
        let mut scene = scene(limits, RoomOptions::default());
        let guests: Vec<(Wire, Guest)> = (0..3).map(|_| scene.guest("guest")).collect();
        let (rooms, reactor) = (scene.rooms.clone(), scene.memory.reactor());
        publish_in_each_turn(&reactor, 100, move || {
            for _ in 0..5 {
                rooms.publish(&ROOM, vec![b'x'; length]).expect("there is such a room");
            }
        });
        scene.memory.settle();
        assert_eq!(scene.rooms.counts().missed, 0, "{length}");
        for (wire, _) in &guests {
            assert_eq!(scene.read(wire).len(), 500 * length);
        }
    }
}

fn publish_in_each_turn(reactor: &couplet::Reactor, turns: u32, publish: impl Fn() + 'static) {
    let again = reactor.clone();
    reactor.call_soon(move || {
        publish();
        if turns > 1 {
            publish_in_each_turn(&again, turns - 1, publish);
        }
    });
}

/// The observer sees a message before any member has it, however the message is delivered.
#[test]
fn the_observer_gets_each_message_before_its_members() {
    for (deliveries, flushes) in [(1, false), (2, false), (100, false), (100, true)] {
        let limits = Limits::default().deliveries(deliveries);
        let mut scene = scene(limits, RoomOptions::default());
        let guests: Vec<(Wire, Guest)> = (0..3).map(|_| scene.guest("guest")).collect();
        let (seen, rooms) = (Rc::<RefCell<Vec<u64>>>::default(), scene.rooms.clone());
        let (seeing, delivered) = (seen.clone(), rooms.counts().delivered);
        let watching = Rc::new(Cell::new(Some(rooms)));
        let watched = watching.clone();
        scene.rooms.on_event(move |event| {
            if let (Event::Published { .. }, Some(rooms)) = (event, watching.take()) {
                seeing.borrow_mut().push(rooms.counts().delivered - delivered);
                watching.set(Some(rooms));
            }
        });
        for _ in 0..4 {
            scene.rooms.publish(&ROOM, "x").expect("there is such a room");
        }
        if flushes {
            scene.rooms.flush();
        }
        scene.memory.settle();
        let expected = [0, 3, 6, 9];
        assert_eq!(*seen.borrow(), expected, "{deliveries} a turn, flushes: {flushes}");
        assert!(guests.iter().all(|(wire, _)| wire.take() == b"xxxx"));
        // The observer refers to the rooms.
        watched.take();
    }
}

/// Both overflow policies, several times: bytes of dropped messages are free again.
#[test]
fn c188_a_queue_that_overflows_again_has_all_of_its_place() {
    for policy in [WhenFull::DropNewest, WhenFull::DropOldest] {
        for options in [RoomOptions::default().queue(4, 100), RoomOptions::default().queue(100, 4)]
        {
            let mut scene = Scene::new(options.when_full(policy));
            let (wire, guest) = scene.slow_guest("slow", 8);
            for round in 1..=3 {
                scene.publish_digits(1..=20);
                assert_eq!(guest.queued(), 4, "{round}");
                assert_eq!(guest.dropped(), 8 * round, "{round}");
                let kept = match policy {
                    WhenFull::DropNewest => 9..=12,
                    _ => 17..=20,
                };
                assert_eq!(scene.read(&wire), digits((1..=8).chain(kept)), "{round}");
            }
        }
    }
}
