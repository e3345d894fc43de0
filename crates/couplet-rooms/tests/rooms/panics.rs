//! Panics of the user's code end nothing but their own call.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use couplet::rooms::{Event, RoomOptions, Rooms};

use crate::kit::{ROOM, Scene};

#[test]
fn c193a_after_a_panic_of_the_observer_the_other_messages_and_events_follow() {
    let mut scene = Scene::new(RoomOptions::default());
    let _ = scene.memory.take_panics();
    let (ada, _) = scene.guest("ada");
    let seen = Rc::new(Cell::new(0));
    let counting = seen.clone();
    scene.rooms.on_event(move |_| {
        counting.set(counting.get() + 1);
        assert!(counting.get() % 2 == 0, "as the test wants");
    });
    for text in ["1", "2", "3", "4", "5"] {
        scene.rooms.publish(&ROOM, text).expect("there is such a room");
    }
    scene.memory.settle();
    assert_eq!((scene.read(&ada), seen.get()), ("12345".to_owned(), 5));
    assert_eq!(scene.memory.take_panics().len(), 3);
}

#[test]
fn c193a_a_panic_of_an_encoder_or_of_the_options_publishes_nothing() {
    let mut scene = Scene::new(RoomOptions::default());
    let (ada, _) = scene.guest("ada");
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        scene.rooms.publish_encoded(&ROOM, |_| panic!("as the test wants"))
    }));
    assert!(panicked.is_err());
    assert_eq!(scene.publish("1").number(), 1);
    assert_eq!(scene.read(&ada), "1");
    let rooms = Rooms::<u8, ()>::new(&scene.memory.reactor(), |room| {
        assert_ne!(*room, 7, "as the test wants");
        RoomOptions::default()
    });
    assert!(catch_unwind(AssertUnwindSafe(|| rooms.publish(&7, "x"))).is_err());
    assert_eq!(rooms.publish(&8, "x").map(couplet::rooms::Position::number), Ok(1));
    assert_eq!(rooms.rooms(), 0);
}

/// Panics when it is dropped, if it says so.
struct Bad(bool);

impl Drop for Bad {
    fn drop(&mut self) {
        assert!(!self.0, "as the test wants");
    }
}

#[test]
fn c193a_metadata_that_panics_when_it_is_dropped_ends_no_other_membership() {
    let mut scene = Scene::new(RoomOptions::default());
    let _ = scene.memory.take_panics();
    let rooms = Rooms::<u8, Bad>::new(&scene.memory.reactor(), |_| RoomOptions::default());
    let ((ada, of_ada), (bob, of_bob)) = (scene.connect(), scene.connect());
    let member = rooms.join(&1, &of_ada, Bad(true)).expect("it may join");
    let other = rooms.join(&1, &of_bob, Bad(false)).expect("it may join");
    scene.memory.settle();
    ada.reset();
    scene.memory.settle();
    assert!(!member.is_present() && other.is_present());
    assert_eq!(rooms.present(&1).len(), 1);
    rooms.publish(&1, "x").expect("there is such a room");
    scene.memory.settle();
    assert_eq!(scene.read(&bob), "x");
    assert_eq!(scene.memory.take_panics().len(), 1);
}

#[test]
fn c193a_a_panic_of_one_member_ends_no_other() {
    let mut scene = Scene::new(RoomOptions::default());
    let _ = scene.memory.take_panics();
    let ((ada, _), (bob, _)) = (scene.guest("ada"), scene.guest("bob"));
    let lefts = Rc::new(Cell::new(0));
    let counting = lefts.clone();
    scene.rooms.on_event(move |event| {
        if let Event::Left { .. } = event {
            counting.set(counting.get() + 1);
        }
    });
    ada.push(b"panic");
    scene.memory.settle();
    ada.close();
    scene.publish("x");
    assert_eq!((scene.read(&bob), lefts.get()), ("x".to_owned(), 1));
    assert_eq!(scene.memory.take_panics().len(), 1);
}

#[test]
fn c193a_metadata_that_panics_ends_the_other_memberships_of_its_connection_as_well() {
    for bad in 1..=3 {
        let mut scene = Scene::new(RoomOptions::default());
        let rooms = Rooms::<u8, Bad>::new(&scene.memory.reactor(), |_| RoomOptions::default());
        let (ada, of_ada) = scene.connect();
        let members = [1, 2, 3]
            .map(|room| rooms.join(&room, &of_ada, Bad(room == bad)).expect("it may join"));
        scene.memory.settle();
        ada.reset();
        scene.memory.settle();
        assert!(members.iter().all(|member| !member.is_present()), "{bad}");
        assert_eq!(rooms.rooms(), 0, "{bad}");
    }
}
