//! A message to many members takes several turns, in order, while members come and go.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use couplet::rooms::{Limits, RoomOptions, SharedRooms, Start};
use couplet::testing::Wire;
use couplet::{Protocol, Reactor, Transport};

use crate::kit::{Guest, ROOM, Scene};

fn scene(limits: Limits) -> Scene {
    Scene::of(&SharedRooms::with_limits(limits, |_: &&str| RoomOptions::default()))
}

fn guests(scene: &mut Scene, count: usize) -> Vec<(Wire, Guest)> {
    (1..=count).map(|number| scene.guest(&format!("guest {number}"))).collect()
}

/// Calls `f` at the end of each of `turns` turns, with its number.
fn each_turn(reactor: &Reactor, turns: u32, f: impl FnMut(u32) + 'static) {
    fn next(reactor: &Reactor, turn: u32, turns: u32, mut f: Box<dyn FnMut(u32)>) {
        let again = reactor.clone();
        reactor.call_soon(move || {
            f(turn);
            if turn < turns {
                next(&again, turn + 1, turns, f);
            }
        });
    }
    next(reactor, 1, turns, Box::new(f));
}

/// The members that have got a message after each turn.
fn delivered(scene: &mut Scene, turns: u32) -> Vec<u64> {
    let seen = Rc::<RefCell<Vec<u64>>>::default();
    let (rooms, seeing) = (scene.rooms.clone(), seen.clone());
    let before = rooms.counts().delivered;
    each_turn(&scene.memory.reactor(), turns, move |_| {
        seeing.borrow_mut().push(rooms.counts().delivered - before);
    });
    scene.publish("x");
    seen.take()
}

#[test]
fn c193b_a_message_reaches_256_members_in_a_turn_unless_set() {
    let mut all = scene(Limits::default());
    let guests_of_all = guests(&mut all, 520);
    assert_eq!(delivered(&mut all, 4), [255, 511, 520, 520]);
    assert!(guests_of_all.iter().all(|(wire, _)| wire.take() == b"x"));
    for (most, expected) in [(4, [3, 7, 10, 10]), (11, [10; 4]), (0, [0, 1, 2, 3])] {
        let mut scene = scene(Limits::default().deliveries(most));
        let _guests = guests(&mut scene, 10);
        assert_eq!(delivered(&mut scene, 4), expected, "{most}");
    }
}

/// Notes the number of deliveries so far when it receives bytes.
struct Other {
    rooms: couplet::rooms::Rooms<&'static str, String>,
    noted: Rc<Cell<Option<u64>>>,
}

impl Protocol for Other {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {
        self.noted.set(Some(self.rooms.counts().delivered));
    }
}

#[test]
fn c193b_other_connections_are_served_while_a_message_is_delivered() {
    let mut scene = scene(Limits::default().deliveries(50));
    let _guests = guests(&mut scene, 200);
    let noted = Rc::<Cell<Option<u64>>>::default();
    let (rooms, noting) = (scene.rooms.clone(), noted.clone());
    let factory = move || Other { rooms: rooms.clone(), noted: noting.clone() };
    scene.memory.reactor().listen("tcp:3", factory).expect("a port in memory is free");
    let wire = scene.memory.connect(3);
    each_turn(&scene.memory.reactor(), 2, move |_| {
        let _ = wire.push(b"x");
    });
    scene.publish("x");
    assert_eq!((noted.get(), scene.rooms.counts().delivered), (Some(99), 200));
}

#[test]
fn c193b_members_that_leave_and_join_during_a_message_get_what_their_order_says() {
    let mut scene = scene(Limits::default().deliveries(4));
    let guests = guests(&mut scene, 12);
    let (late, of_late) = scene.connect();
    let (rooms, members) =
        (scene.rooms.clone(), guests.iter().map(|(_, guest)| guest.clone()).collect::<Vec<_>>());
    each_turn(&scene.memory.reactor(), 1, move |_| {
        assert_eq!(rooms.counts().delivered, 2, "besides the item and its event");
        assert!(members[1].leave() && members[9].leave());
        rooms.join(&ROOM, &of_late, "late".to_owned()).expect("it may join");
        rooms.publish(&ROOM, "second ").expect("there is such a room");
    });
    scene.observe();
    scene.publish("first ");
    for (number, (wire, _)) in guests.iter().enumerate() {
        let expected = match number {
            1 => "first ",
            9 => "",
            _ => "first second ",
        };
        assert_eq!(scene.read(wire), expected, "{number}");
    }
    assert_eq!(scene.read(&late), "second ");
    let log = scene.log();
    let expected = [
        "lobby: 1 first ",
        "lobby: guest 2 left (Left)",
        "lobby: guest 10 left (Left)",
        "lobby: late joined",
        "lobby: 2 second ",
    ];
    assert_eq!(log, expected);
}

#[test]
fn c186_a_member_that_is_served_in_a_later_turn_does_not_get_its_message_to_the_others_either() {
    let mut scene = scene(Limits::default().deliveries(4));
    let guests = guests(&mut scene, 10);
    for (publisher, (_, member)) in guests.iter().enumerate() {
        member.publish_to_others("x").expect("it is a member");
        scene.memory.settle();
        for (number, (wire, _)) in guests.iter().enumerate() {
            let expected: &[u8] = if number == publisher { b"" } else { b"x" };
            assert_eq!(wire.take(), expected, "{number} of {publisher}");
        }
    }
}

#[test]
fn c193b_a_flush_delivers_everything_immediately() {
    let mut scene = scene(Limits::default().deliveries(1));
    let guests = guests(&mut scene, 20);
    scene.observe();
    for text in ["a", "b", "c"] {
        scene.rooms.publish(&ROOM, text).expect("there is such a room");
    }
    scene.rooms.flush();
    assert_eq!(scene.rooms.counts().delivered, 60);
    assert_eq!(scene.log(), ["lobby: 1 a", "lobby: 2 b", "lobby: 3 c"]);
    scene.publish("d");
    assert!(guests.iter().all(|(wire, _)| wire.take() == b"abcd"));
}

#[test]
fn c193b_a_flush_in_the_observer_keeps_the_order() {
    let mut scene = scene(Limits::default().deliveries(2));
    let guests = guests(&mut scene, 5);
    let seen = Rc::<RefCell<Vec<u64>>>::default();
    let (rooms, seeing) = (scene.rooms.clone(), seen.clone());
    let flushing = Rc::new(RefCell::new(Some(rooms)));
    let kept = flushing.clone();
    scene.rooms.on_event(move |event| {
        if let couplet::rooms::Event::Published { position, .. } = event {
            seeing.borrow_mut().push(position.number());
            let rooms = kept.borrow().clone();
            rooms.iter().for_each(couplet::rooms::Rooms::flush);
        }
    });
    for text in ["a", "b", "c"] {
        scene.rooms.publish(&ROOM, text).expect("there is such a room");
    }
    scene.memory.settle();
    assert_eq!(*seen.borrow(), [1, 2, 3]);
    assert!(guests.iter().all(|(wire, _)| wire.take() == b"abc"));
    flushing.take();
}

#[test]
fn c193b_publishers_that_are_faster_than_the_bound_lose_nothing() {
    let mut scene = scene(Limits::default().deliveries(1).loop_queue(10, 1000));
    let guests = guests(&mut scene, 3);
    let rooms = scene.rooms.clone();
    each_turn(&scene.memory.reactor(), 100, move |_| {
        for _ in 0..5 {
            rooms.publish(&ROOM, "x").expect("there is such a room");
        }
    });
    scene.memory.settle();
    assert!(guests.iter().all(|(wire, _)| wire.take().len() == 500));
    assert_eq!(scene.rooms.counts().missed, 0);
}

#[test]
fn c193b_the_messages_of_a_replay_count_for_their_turn() {
    let options = RoomOptions::default().history(100, 100, std::time::Duration::from_secs(60));
    let limits = Limits::default().deliveries(5);
    let mut scene = Scene::of(&SharedRooms::with_limits(limits, move |_: &&str| options.clone()));
    for _ in 0..10 {
        scene.publish("x");
    }
    let clients = [(); 3].map(|()| scene.connect());
    let guests = clients.each_ref().map(|(_, transport)| {
        let start = Start::Oldest;
        let joined = scene.rooms.join_from(&ROOM, transport, "ada".to_owned(), start);
        joined.expect("it may join").0
    });
    let seen = Rc::<RefCell<Vec<usize>>>::default();
    let seeing = seen.clone();
    each_turn(&scene.memory.reactor(), 4, move |_| {
        let served = guests.iter().filter(|guest| guest.queued() == 0).count();
        seeing.borrow_mut().push(served);
    });
    scene.memory.settle();
    assert_eq!(*seen.borrow(), [1, 2, 3, 3]);
    assert!(clients.iter().all(|(wire, _)| wire.take() == b"x".repeat(10)));
}
