//! Messages reach the members at their time; a member leaves when its connection is lost.

use std::sync::Arc;

use couplet::rooms::{JoinError, PublishError, RoomOptions, Rooms};
use couplet::{Bytes, Reason};

use crate::kit::{ROOM, Scene};

#[test]
fn c186_a_message_reaches_each_member_of_its_room_once_and_in_order() {
    let mut scene = Scene::new(RoomOptions::default());
    let ((ada, _), (bob, of_bob)) = (scene.guest("ada"), scene.guest("bob"));
    let (eve, of_eve) = scene.connect();
    let elsewhere = scene.rooms.join(&"elsewhere", &of_eve, "eve".to_owned()).expect("it may join");
    for text in ["one ", "two ", "three "] {
        scene.rooms.publish(&ROOM, text).expect("there is such a room");
    }
    assert_eq!(of_bob.transport().buffered(), 0, "the turn sends, not the publish");
    scene.memory.settle();
    assert!(of_bob.leave() && !of_bob.is_present());
    scene.publish("four ");
    let (cid, _) = scene.guest("cid");
    scene.publish("five ");
    assert_eq!(scene.read(&ada), "one two three four five ");
    assert_eq!(scene.read(&bob), "one two three ");
    assert_eq!(scene.read(&cid), "five ");
    assert_eq!(scene.read(&eve), "");
    elsewhere.publish("alone").expect("it is a member");
    scene.memory.settle();
    assert_eq!(scene.read(&eve), "alone");
    assert_eq!(scene.rooms.counts().delivered, 3 * 2 + 1 + 2 + 1);
}

#[test]
fn c186_a_member_publishes_to_all_or_to_the_others_until_it_leaves() {
    let mut scene = Scene::new(RoomOptions::default());
    let ((ada, of_ada), (bob, _)) = (scene.guest("ada"), scene.guest("bob"));
    of_ada.publish("all ").expect("it is a member");
    of_ada.publish_to_others("others ").expect("it is a member");
    scene.memory.settle();
    assert_eq!((scene.read(&ada), scene.read(&bob)), ("all ".into(), "all others ".into()));
    assert!(of_ada.leave() && !of_ada.leave(), "it leaves once");
    assert_eq!(of_ada.publish("late"), Err(PublishError::NotMember));
    assert_eq!(of_ada.publish_to_others("late"), Err(PublishError::NotMember));
    assert!(!of_ada.set_meta("late".to_owned()));
}

#[test]
fn c186_all_members_and_the_history_share_one_buffer() {
    let mut scene = Scene::new(RoomOptions::default());
    let guests: Vec<_> = (0..10).map(|_| scene.slow_guest("slow", 8)).collect();
    let text = Bytes::from(vec![b'x'; 1000]);
    for _ in 0..3 {
        scene.rooms.publish(&ROOM, text.clone()).expect("there is such a room");
    }
    scene.memory.settle();
    assert!(guests.iter().all(|(_, guest)| guest.queued() > 0));
    assert!(!text.is_unique(), "the queues share it");
    for (wire, _) in &guests {
        assert_eq!(scene.read(wire).len(), 3000);
    }
    assert!(text.is_unique(), "nothing else keeps it");
}

#[test]
fn c187_a_member_leaves_once_when_its_connection_is_lost_however_it_ends() {
    type End = fn(&mut Scene, &couplet::testing::Wire, &crate::kit::Guest);
    let ends: [(&str, End); 7] = [
        ("Lost", |_, wire, _| wire.reset()),
        ("Done(Peer)", |_, wire, _| wire.close()),
        ("Done(Us)", |scene, wire, _| {
            wire.push(b"lose");
            scene.memory.settle();
            wire.close();
        }),
        ("Aborted", |_, _, guest| guest.transport().abort_connection()),
        ("Failed", |_, wire, guest| {
            guest.transport().fail(couplet::Failure::msg("no reason"));
            wire.fin();
        }),
        ("Panicked", |scene, wire, _| {
            wire.push(b"panic");
            scene.memory.settle();
            wire.close();
        }),
        ("Left", |_, _, guest| assert!(guest.leave())),
    ];
    for (reason, end) in ends {
        let mut scene = Scene::new(RoomOptions::default());
        let _ = scene.memory.take_panics();
        let ((wire, guest), (_ada, _)) = (scene.guest("bob"), scene.guest("ada"));
        scene.observe();
        end(&mut scene, &wire, &guest);
        scene.memory.settle();
        let log = scene.log();
        assert!(log.len() == 1 && log[0].contains(reason), "{reason}: {log:?}");
        assert!(!guest.is_present() && !guest.leave());
        let present = scene.rooms.present(&ROOM);
        assert_eq!(present.iter().map(|member| &*member.meta).collect::<Vec<_>>(), ["ada"]);
        scene.publish("more");
        wire.reset();
        scene.memory.settle();
        assert_eq!(scene.log(), ["lobby: 1 more"], "nothing comes after it");
    }
}

#[test]
fn c187_a_half_open_member_stays_until_its_connection_is_lost() {
    let mut scene = Scene::new(RoomOptions::default());
    let (wire, transport) = scene.connect_half_open();
    let guest = scene.rooms.join(&ROOM, &transport, "ada".to_owned()).expect("it may join");
    wire.fin();
    scene.publish("still ");
    assert!(guest.is_present());
    assert_eq!(scene.read(&wire), "still ");
    scene.observe();
    wire.reset();
    scene.memory.settle();
    assert_eq!(scene.log().len(), 1);
    assert!(!guest.is_present());
}

#[test]
fn c187_a_connection_joins_a_room_once_and_not_while_it_closes() {
    let mut scene = Scene::new(RoomOptions::default());
    let (wire, guest) = scene.guest("ada");
    let transport = guest.transport().clone();
    let again = |scene: &Scene| scene.rooms.join(&ROOM, &transport, "again".to_owned()).err();
    assert_eq!(again(&scene), Some(JoinError::AlreadyMember));
    assert!(guest.leave());
    let guest = scene.rooms.join(&ROOM, &transport, "again".to_owned()).expect("it has left");
    scene.publish("once");
    assert_eq!(scene.read(&wire), "once");
    transport.lose_connection();
    assert!(guest.leave());
    assert_eq!(again(&scene), Some(JoinError::Closing));
    wire.close();
    scene.memory.settle();
    assert_eq!(again(&scene), Some(JoinError::Closing));
    let reason = guest.transport().lost();
    assert!(matches!(couplet::testing::success_of(reason), Reason::Done(_)));
}

#[test]
fn c187_a_member_that_leaves_before_its_turn_gets_nothing() {
    let mut scene = Scene::new(RoomOptions::default());
    scene.observe();
    let (wire, transport) = scene.connect();
    let guest = scene.rooms.join(&ROOM, &transport, "ada".to_owned()).expect("it may join");
    scene.rooms.publish(&ROOM, "x").expect("there is such a room");
    assert!(guest.leave());
    scene.memory.settle();
    assert_eq!(scene.read(&wire), "");
    assert_eq!(scene.log(), ["lobby: ada joined", "lobby: 1 x", "lobby: ada left (Left)"]);
    assert_eq!(scene.rooms.rooms(), 0, "a room without members and history is removed");
}

#[test]
fn c187_rooms_that_a_connection_has_left_leave_nothing() {
    let mut scene = Scene::new(RoomOptions::default());
    let (_wire, transport) = scene.connect();
    let rooms = Rooms::new(&scene.memory.reactor(), |_: &Arc<u32>| RoomOptions::default());
    let visited: Vec<_> = (0..100).map(Arc::new).collect();
    for room in &visited {
        let member = rooms.join(room, &transport, ()).expect("it may join");
        scene.memory.settle();
        assert!(member.leave());
    }
    scene.memory.settle();
    // The rooms remember where they last looked for expired messages.
    let kept = visited.iter().filter(|room| Arc::strong_count(room) > 1).count();
    assert!(kept <= 1, "{kept}");
    let home = rooms.join(&visited[0], &transport, ()).expect("it may join again");
    transport.abort_connection();
    scene.memory.settle();
    assert!(!home.is_present());
}

#[test]
fn c187_a_connection_that_is_lost_or_cut_leaves_all_of_its_rooms() {
    for is_cut in [false, true] {
        let mut scene = Scene::new(RoomOptions::default().queue(0, 0));
        let (wire, guest) = scene.slow_guest("ada", 2);
        let others = ["a", "z"].map(|room| {
            let joined = scene.rooms.join(&room, guest.transport(), "ada".to_owned());
            joined.expect("it may join")
        });
        scene.memory.settle();
        scene.observe();
        if is_cut {
            // Two messages fill it, the third one cuts it.
            scene.publish("1");
            scene.publish("2");
            scene.publish("3");
        } else {
            wire.reset();
            scene.memory.settle();
        }
        assert!(others.iter().chain([&guest]).all(|member| !member.is_present()));
        assert_eq!(scene.rooms.rooms(), 0);
        let mut left: Vec<_> =
            scene.log().into_iter().filter(|line| line.contains(" left (")).collect();
        left.sort();
        let lobby = if is_cut { "lobby: ada left (Cut)" } else { "lobby: ada left (lost: " };
        let expected = ["a: ada left (lost: ", lobby, "z: ada left (lost: "];
        let are_all = left.iter().zip(expected).all(|(line, start)| line.starts_with(start));
        assert!(left.len() == 3 && are_all, "{left:?}");
        assert_eq!(scene.rooms.counts().cut, u64::from(is_cut));
    }
}
