//! Presence, in memory and over a connection that is lost.

use std::time::Duration;

use couplet::bus::{Memory, Presence, PresenceEvent, PresenceOptions, PublishError};

use crate::kit::{Log, Scene};

const INTERVAL: Duration = Duration::from_secs(5);

fn join(scene: &Scene, meta: &str, options: PresenceOptions) -> (Presence, Log) {
    let presence = scene.bus.presence("nodes", meta.to_owned(), options).expect("it is open");
    let log = Log::default();
    let logging = log.clone();
    presence.on_event(move |event| {
        let (what, peer) = match event {
            PresenceEvent::Joined(peer) => ("joined", peer),
            PresenceEvent::Changed(peer) => ("changed", peer),
            PresenceEvent::Left(peer) => ("left", peer),
            PresenceEvent::Ignored(peer) => ("ignored", peer),
            _ => return,
        };
        logging.borrow_mut().push(format!("{} {what}", String::from_utf8_lossy(&peer.meta)));
    });
    (presence, log)
}

fn metas(presence: &Presence) -> Vec<String> {
    let peers = presence.peers().into_iter();
    let mut metas: Vec<String> =
        peers.map(|peer| String::from_utf8_lossy(&peer.meta).into_owned()).collect();
    metas.sort();
    metas
}

/// Lets time pass in all loops, in steps.
fn pass(scenes: &mut [Scene], time: Duration) {
    const STEP: Duration = Duration::from_millis(100);
    for _ in 0..time.as_millis() / STEP.as_millis() {
        scenes.iter_mut().for_each(|scene| scene.memory.advance(STEP));
    }
    // The messages of the last step.
    scenes.iter_mut().for_each(Scene::settle);
}

#[test]
fn c210_members_know_each_other_and_their_changes() {
    let hub = Memory::new();
    let mut scenes = [Scene::hub(&hub), Scene::hub(&hub), Scene::hub(&hub)];
    let members = [0, 1, 2].map(|n| join(&scenes[n], &format!("{n}"), PresenceOptions::default()));
    pass(&mut scenes, INTERVAL / 5);
    assert_eq!(
        members.each_ref().map(|(member, _)| metas(member)),
        [["1", "2"], ["0", "2"], ["0", "1"]]
    );
    pass(&mut scenes, INTERVAL * 20);
    members[1].0.set_meta("one").expect("it is open");
    pass(&mut scenes, INTERVAL);
    let [(_first, log), second, third] = members;
    let mut joined = log.take();
    joined[..2].sort();
    assert_eq!(joined, ["1 joined", "2 joined", "one changed"]);
    drop(second);
    pass(&mut scenes, INTERVAL / 5);
    assert_eq!(log.take(), ["one left"], "immediately");
    // Without a farewell.
    let [first, _, silent] = scenes;
    silent.bus.close();
    let mut scenes = [first, silent];
    pass(&mut scenes, INTERVAL * 2);
    assert!(log.borrow().is_empty(), "two missed signs are no end");
    pass(&mut scenes, INTERVAL * 2);
    assert_eq!(log.take(), ["2 left"]);
    drop(third);
}

#[test]
fn c210_the_number_of_peers_and_their_metadata_are_bounded() {
    let hub = Memory::new().max_payload(5);
    let mut scenes = [Scene::hub(&hub), Scene::hub(&hub), Scene::hub(&hub)];
    let (few, log) =
        join(&scenes[0], "few", PresenceOptions { peers: 1, ..PresenceOptions::default() });
    let [(one, _), (two, _)] =
        [1, 2].map(|n| join(&scenes[n], &format!("{n}"), PresenceOptions::default()));
    pass(&mut scenes, INTERVAL / 5);
    assert_eq!(few.peers().len(), 1);
    let seen = log.take();
    assert!(
        seen.contains(&"1 joined".to_owned()) && seen.contains(&"2 ignored".to_owned()),
        "{seen:?}"
    );
    let error = few.set_meta("large").unwrap_err();
    assert_eq!(error, PublishError::TooLarge { size: 6, most: 5 });
    pass(&mut scenes, INTERVAL * 5);
    assert_eq!(metas(&two), ["1", "few"], "the heartbeats go on");
    // The place of one that leaves is free.
    log.take();
    drop(one);
    pass(&mut scenes, INTERVAL * 2);
    assert_eq!(log.take(), ["1 left", "2 joined"]);
    assert_eq!(metas(&few), ["2"]);
    let closed = scenes[0].bus.presence("a.*", "", PresenceOptions::default());
    assert!(matches!(closed, Err(PublishError::Subject(_))));
}

#[test]
fn c210_peers_stay_while_the_bus_has_no_connection() {
    let (mut scene, wire) = Scene::open(|options| options);
    let (presence, log) = join(&scene, "me", PresenceOptions::default());
    let said = scene.take(&wire);
    let hello = format!("PUB nodes.{} 3\r\n+me\r\n", presence.id());
    assert_eq!(said, format!("SUB nodes.* 1\r\n{hello}"));
    scene.say(&wire, "MSG nodes.other 1 6\r\n=other");
    assert_eq!(metas(&presence), ["other"]);
    scene.reset(&wire);
    scene.delay();
    // Longer than three intervals, with attempts that take 5 s each.
    for _ in 0..4 {
        scene.memory.advance(INTERVAL);
        scene.delay();
    }
    assert_eq!(metas(&presence), ["other"], "nothing is known about it");
    let wire = scene.accept();
    assert_eq!(scene.take(&wire), "SUB nodes.* 1\r\n", "heartbeats are not queued");
    scene.memory.advance(INTERVAL);
    assert_eq!(scene.take(&wire), hello);
    scene.memory.advance(INTERVAL * 2);
    assert_eq!(metas(&presence), ["other"]);
    scene.memory.advance(INTERVAL);
    assert_eq!(metas(&presence), [""; 0]);
    assert_eq!(log.take(), ["other joined", "other left"]);
    // The second time, with two peers, and after heartbeats with a connection.
    scene.say(&wire, "MSG nodes.other 1 6\r\n=other");
    scene.say(&wire, "MSG nodes.third 1 6\r\n=third");
    scene.memory.advance(INTERVAL);
    scene.reset(&wire);
    for _ in 0..5 {
        scene.memory.advance(INTERVAL);
        scene.delay();
    }
    let wire = scene.accept();
    assert_eq!(scene.take(&wire), "SUB nodes.* 1\r\n");
    scene.memory.advance(INTERVAL);
    assert_eq!(scene.take(&wire), hello);
    scene.memory.advance(INTERVAL * 2);
    assert_eq!(metas(&presence), ["other", "third"]);
    scene.memory.advance(INTERVAL);
    assert_eq!(metas(&presence), [""; 0]);
    assert_eq!(log.take(), ["other joined", "third joined", "other left", "third left"]);
    scene.take(&wire);
    let id = presence.id().to_owned();
    drop(presence);
    assert_eq!(scene.take(&wire), format!("PUB nodes.{id} 3\r\n-me\r\nUNSUB 1\r\n"));
    // Without a connection a farewell would come too late.
    let (away, _log) = join(&scene, "me", PresenceOptions::default());
    scene.reset(&wire);
    drop(away);
    let wire = scene.accept();
    assert_eq!(scene.take(&wire), "");
}
