//! Presence: the members of a room and their metadata, in order.

use couplet::rooms::RoomOptions;

use crate::kit::{ROOM, Scene};

fn names(scene: &Scene) -> Vec<String> {
    scene.rooms.present(&ROOM).iter().map(|member| member.meta.to_string()).collect()
}

#[test]
fn c189_joins_changes_leaves_and_messages_are_events_in_order() {
    let mut scene = Scene::new(RoomOptions::default());
    scene.observe();
    let ((_, ada), (bob, of_bob)) = (scene.guest("ada"), scene.guest("bob"));
    ada.publish("hi").expect("it is a member");
    assert!(of_bob.set_meta("bert".to_owned()));
    ada.publish("bye").expect("it is a member");
    assert!(ada.leave());
    bob.reset();
    scene.memory.settle();
    let log = scene.log();
    assert_eq!(
        log[..6],
        [
            "lobby: ada joined",
            "lobby: bob joined",
            "lobby: 1 hi",
            "lobby: now bert",
            "lobby: 2 bye",
            "lobby: ada left (Left)",
        ]
    );
    assert!(log.len() == 7 && log[6].starts_with("lobby: bert left (lost: Lost("), "{log:?}");
}

#[test]
fn c189_the_present_members_are_listed_in_the_order_of_their_joins() {
    let mut scene = Scene::new(RoomOptions::default());
    assert_eq!(names(&scene), [""; 0]);
    let guests: Vec<_> = ["cid", "ada", "bob"].map(|name| scene.guest(name)).into();
    assert_eq!(names(&scene), ["cid", "ada", "bob"]);
    assert!(guests[1].1.set_meta("adele".to_owned()));
    assert_eq!(names(&scene), ["cid", "adele", "bob"], "with its next event");
    let present = scene.rooms.present(&ROOM);
    for ((_, guest), member) in guests.iter().zip(&present) {
        assert_eq!((member.id, member.connection), (guest.id(), guest.transport().id()));
    }
    guests[0].0.reset();
    scene.memory.settle();
    assert_eq!(names(&scene), ["adele", "bob"]);
    let (_wire, guest) = scene.guest("cid");
    assert_eq!(names(&scene), ["adele", "bob", "cid"]);
    assert!(present.iter().all(|member| member.id < guest.id()), "ids are not used again");
}

#[test]
fn c189_an_observer_gets_the_next_events_and_one_replaces_the_other() {
    let mut scene = Scene::new(RoomOptions::default());
    let _ada = scene.guest("ada");
    let seen = std::rc::Rc::new(std::cell::Cell::new(0));
    let first = seen.clone();
    scene.rooms.on_event(move |_| first.set(first.get() + 1));
    let _bob = scene.guest("bob");
    assert_eq!(seen.get(), 1);
    scene.observe();
    let _cid = scene.guest("cid");
    assert_eq!((seen.get(), scene.log()), (1, vec!["lobby: cid joined".to_owned()]));
}

#[test]
fn c189_an_observer_may_use_the_rooms() {
    let mut scene = Scene::new(RoomOptions::default());
    let (ada, _) = scene.guest("ada");
    let rooms = scene.rooms.clone();
    // Not kept for longer than the test.
    scene.rooms.on_event(move |event| {
        if let couplet::rooms::Event::Joined { member, .. } = event {
            assert!(rooms.present(&ROOM).iter().any(|other| other.id == member.id));
            let welcome = format!("welcome, {}. ", member.meta);
            rooms.publish(&ROOM, welcome).expect("there is such a room");
        }
    });
    let (bob, of_bob) = scene.guest("bob");
    assert_eq!(
        (scene.read(&ada), scene.read(&bob)),
        ("welcome, bob. ".into(), "welcome, bob. ".into())
    );
    assert!(of_bob.is_present());
    scene.rooms.on_event(|_| {});
}
