//! Each cycle twice, and limits on both sides.

use std::time::Duration;

use couplet::bus::nats::Options;
use couplet::bus::redis::{self, CommandError, Redis};
use couplet::bus::{Limit, LogError, LogLimits, Memory, PublishError};
use couplet::services::Service;
use couplet::testing::{failure_of, success_of};

use crate::kit::Scene;

/// Publishes until the queue is full; returns how many messages fit.
fn fill(scene: &Scene) -> usize {
    let publish = || scene.bus.publish("a", vec![b'x'; 100]);
    (0..).take_while(|_| publish().is_ok()).count()
}

/// Commands, sent or waiting, leave the whole queue to the messages after each loss.
#[test]
fn c216_a_lost_connection_frees_the_place_of_each_command() {
    const QUEUE: usize = 100_000;
    let options = || redis::Options::new("redis://a.example").expect("it is valid").queue(QUEUE);
    let expected = fill(&Scene::redis(options()));
    assert!((500..1000).contains(&expected), "{expected}");
    for losses in 1..=3 {
        let mut scene = Scene::redis(options());
        scene.memory.network().set_capacity(1000);
        for _ in 0..losses {
            let wire = scene.complete();
            scene.take(&wire);
            scene.say(&wire, "%1\r\n+server\r\n+redis\r\n+PONG");
            let (client, large) = (Redis::new(&scene.bus), "x".repeat(40_000));
            // The transport takes the first ones; the others fill the queue.
            let mut calls = Vec::new();
            let refused = loop {
                let call = client.command(&["SET", "a", &large]);
                scene.settle();
                if call.has_fired() {
                    break call;
                }
                calls.push(call);
                assert!(calls.len() < 20, "the queue has a limit");
            };
            assert!(calls.len() >= 3, "{}", calls.len());
            assert_eq!(failure_of(refused).downcast_ref(), Some(&CommandError::NotSent));
            scene.reset(&wire);
            for call in calls {
                assert_eq!(failure_of(call).downcast_ref(), Some(&CommandError::Lost));
            }
        }
        assert_eq!(fill(&scene), expected, "after {losses} losses");
    }
}

/// Appends that are stored, refused or too large leave the queue empty each time.
#[test]
fn c227_each_append_frees_its_place_in_the_queue_however_it_ends() {
    let hub = Memory::new().max_payload(100);
    let mut scene = Scene::hub(&hub);
    let queue = Limit { messages: 100, bytes: 300 };
    let limits = LogLimits { queue, ..LogLimits::default() };
    let log = scene.bus.log("a", limits).expect("it is valid");
    for round in 1..=4 {
        let too_large = [log.append(vec![b'x'; 101]), log.append(vec![b'x'; 199])];
        assert_eq!(log.unconfirmed(), 2, "{round}");
        let full = log.append("x");
        scene.memory.advance(Duration::from_secs(60));
        assert_eq!(failure_of(full).downcast_ref(), Some(&LogError::Full), "{round}");
        for append in too_large {
            let failure = failure_of(append);
            let too_large = failure.downcast_ref::<PublishError>();
            assert!(matches!(too_large, Some(PublishError::TooLarge { .. })), "{failure}");
        }
        let stored = [(); 3].map(|()| log.append(vec![b'x'; 100]));
        let full = log.append("x");
        scene.memory.advance(Duration::from_secs(60));
        assert_eq!(failure_of(full).downcast_ref(), Some(&LogError::Full), "{round}");
        let positions = stored.map(|stored| success_of(stored).number());
        assert_eq!(positions, [1, 2, 3].map(|n| 3 * (round - 1) + n));
        assert_eq!(log.unconfirmed(), 0);
    }
}

/// Each flush has a PING; only the answer to the last one confirms everything.
#[test]
fn c207b_a_server_is_left_at_the_last_of_several_answers() {
    for flushes in 0..=3 {
        let mut scene =
            Scene::nats(|_| Options::new(["a.example:1", "b.example:2"]).expect("valid"));
        let wire = scene.accept();
        let flushed: Vec<_> = (0..flushes)
            .map(|number| {
                scene.publish(&number.to_string());
                scene.bus.flush()
            })
            .collect();
        scene.settle();
        scene.say(&wire, r#"INFO {"ldm":true}"#);
        assert_eq!(scene.take(&wire).matches("PING").count(), flushes + 1);
        for answer in 0..=flushes {
            assert!(!wire.saw_fin(), "after {answer} of {flushes} answers and one more");
            scene.say(&wire, "PONG");
        }
        flushed.into_iter().for_each(success_of);
        assert!(wire.saw_fin());
        wire.close();
        scene.settle();
        assert_eq!(scene.bus.counts().unconfirmed, 0);
    }
}

/// The smaller limit counts, each time that the server names one.
#[test]
fn c204_the_smaller_of_both_limits_holds_however_often_the_server_changes_its_own() {
    let (mut scene, wire) = Scene::open(|options| options.max_payload(100));
    for of_server in [1000, 50, 200, 100, 10, 99, 101] {
        scene.say(&wire, &format!(r#"INFO {{"max_payload":{of_server}}}"#));
        let most = of_server.min(100);
        let publish = |size| scene.bus.publish("a", vec![b'x'; size]);
        assert_eq!(publish(most), Ok(()), "{of_server}");
        assert_eq!(publish(most + 1), Err(PublishError::TooLarge { size: most + 1, most }));
    }
}

/// Each limit on both sides, while the other one is far away, and twice.
#[test]
fn c205_a_message_fits_up_to_the_last_place_and_the_last_byte() {
    // Those that wait for a loop in memory: 10 bytes each, with their subject.
    for (queue, fit) in [(29, 2), (30, 3), (31, 3)] {
        let hub = Memory::new().queue(queue);
        let (mut busy, other) = (Scene::hub(&hub), Scene::hub(&hub));
        let _busy = busy.subscribe("a");
        for _ in 0..2 {
            (0..4).for_each(|_| other.publish("123456789"));
            let log = busy.log();
            let arrived = log.iter().filter(|line| *line == "a 123456789").count();
            assert_eq!((arrived, log.last()), (fit, Some(&format!("lost {}", 4 - fit))), "{queue}");
        }
    }
    // Those that wait for a subscriber, of 5 bytes each or of none.
    let cases = [
        ((3, 1000), 5, 3),
        ((1000, 14), 5, 2),
        ((1000, 15), 5, 3),
        ((1000, 16), 5, 3),
        ((3, 0), 0, 3),
    ];
    for ((messages, bytes), length, fit) in cases {
        let mut scene = Scene::hub(&Memory::new());
        let waiting = scene.bus.messages("a", Limit { messages, bytes }).expect("it is valid");
        for round in 1..=2 {
            (0..4).for_each(|_| scene.publish(&"x".repeat(length)));
            scene.settle();
            let expected = (fit, round * (4 - fit as u64));
            assert_eq!((waiting.len(), waiting.dropped()), expected, "{messages}, {bytes}");
            (0..fit).for_each(|_| drop(success_of(waiting.next())));
        }
    }
}

/// Messages of 15 bytes each on the wire, for a server that is out of reach.
#[test]
fn c209_a_message_fits_up_to_the_last_byte_of_the_queue() {
    for (queue, fit) in [(44, 2), (45, 3), (46, 3)] {
        let mut scene = Scene::nats(|options| options.queue(queue));
        for _ in 0..2 {
            let sent = (0..4).filter(|_| scene.bus.publish("a", "1234").is_ok()).count();
            assert_eq!(sent, fit, "{queue}");
            let wire = scene.accept();
            assert_eq!(scene.take(&wire), "PUB a 4\r\n1234\r\n".repeat(fit));
            scene.reset(&wire);
        }
    }
}

/// Messages that were sent leave their place to as many others, after each lost connection.
#[test]
fn c209_a_queue_that_was_sent_takes_as_many_messages_again() {
    let mut scene = Scene::nats(|options| options.queue(10_000));
    let mut expected = None;
    for round in 1..=4 {
        let fit = fill(&scene);
        assert_eq!(*expected.get_or_insert(fit), fit, "{round}");
        let wire = scene.accept();
        assert_eq!(scene.take(&wire).matches("PUB a 100").count(), fit, "{round}");
        scene.reset(&wire);
    }
    assert!(expected.is_some_and(|fit| (80..100).contains(&fit)), "{expected:?}");
}

/// Messages that a close drops leave the whole queue to the next start, each time.
#[test]
fn c206_a_bus_that_is_closed_and_started_again_has_its_whole_queue() {
    const QUEUE: usize = 10_000;
    let options = redis::Options::new("redis://a.example").expect("it is valid").queue(QUEUE);
    for mut scene in [Scene::nats(|options| options.queue(QUEUE)), Scene::redis(options)] {
        let expected = fill(&scene);
        assert!((70..100).contains(&expected), "{expected}");
        for round in 1..=3 {
            scene.bus.close();
            scene.settle();
            // The queued ones, and the one that did not fit.
            assert_eq!(scene.bus.counts().lost, round * (expected as u64 + 1), "{round}");
            success_of(scene.bus.clone().start(&scene.memory.reactor()));
            assert_eq!(fill(&scene), expected, "{round}");
        }
    }
}
