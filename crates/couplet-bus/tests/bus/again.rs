//! Everything that happens once happens twice here: losses, subscriptions, full queues, drains. And
//! a loss in the middle of a message leaves everything else whole.

use std::time::Duration;

use couplet::Deferred;
use couplet::bus::{Bus, NotConfirmed, redis};
use couplet::services::Service;
use couplet::testing::{Wire, failure_of, success_of};

use crate::kit::Scene;
use crate::redis::command;

/// A kind of server, as the test plays it.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Nats,
    Redis,
}

const KINDS: [Kind; 2] = [Kind::Nats, Kind::Redis];

impl Kind {
    fn scene(self) -> Scene {
        match self {
            Kind::Nats => Scene::nats(|options| options),
            Kind::Redis => {
                Scene::redis(redis::Options::new("redis://a.example").expect("it is valid"))
            }
        }
    }

    /// Completes the next attempt, and its login.
    fn log_in(self, scene: &mut Scene) -> Wire {
        if let Kind::Nats = self {
            return scene.accept();
        }
        let wire = scene.complete();
        scene.take(&wire);
        scene.say(&wire, "%1\r\n+server\r\n+redis\r\n+PONG");
        wire
    }

    /// Also returns the subscriptions that follow, in order, and confirms them.
    fn accept(self, scene: &mut Scene) -> (Wire, Vec<String>) {
        let wire = self.log_in(scene);
        let output = scene.take(&wire);
        let channels: Vec<String> = match self {
            Kind::Nats => {
                let subscribed = output.lines().filter_map(|line| line.strip_prefix("SUB "));
                subscribed.filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect()
            }
            Kind::Redis => {
                let commands = output.split("*2\r\n$9\r\nSUBSCRIBE\r\n").skip(1);
                commands.filter_map(|rest| Some(rest.lines().nth(1)?.to_owned())).collect()
            }
        };
        channels.iter().for_each(|channel| self.confirm(scene, &wire, channel));
        (wire, channels)
    }

    /// Confirms a subscription.
    fn confirm(self, scene: &mut Scene, wire: &Wire, channel: &str) {
        if let Kind::Redis = self {
            scene.say(wire, &format!(">3\r\n+subscribe\r\n+{channel}\r\n:1"));
        }
    }

    /// A message on the wire, for the subscription with this number.
    fn message(self, channel: &str, id: u64, text: &str) -> String {
        let length = text.len();
        match self {
            Kind::Nats => format!("MSG {channel} {id} {length}\r\n{text}\r\n"),
            Kind::Redis => {
                let name = channel.len();
                format!(">3\r\n+message\r\n${name}\r\n{channel}\r\n${length}\r\n{text}\r\n")
            }
        }
    }

    fn ping(self) -> String {
        match self {
            Kind::Nats => "PING\r\n".to_owned(),
            Kind::Redis => command(&["PING"]),
        }
    }

    fn pong(self) -> &'static str {
        match self {
            Kind::Nats => "PONG",
            Kind::Redis => "+PONG",
        }
    }

    fn publish(self, text: &str) -> String {
        match self {
            Kind::Nats => format!("PUB a {}\r\n{text}\r\n", text.len()),
            Kind::Redis => command(&["PUBLISH", "a", text]),
        }
    }
}

#[test]
fn c207_a_loss_in_the_middle_of_a_message_loses_only_that_message_each_time() {
    for kind in KINDS {
        let mut scene = kind.scene();
        let _held = ["a", "b"].map(|subject| scene.subscribe(subject));
        for round in 0..3 {
            let (wire, subscribed) = kind.accept(&mut scene);
            assert_eq!(subscribed, ["a", "b"], "{kind:?}, round {round}");
            scene.log();
            let whole = kind.message("a", 1, "one") + &kind.message("b", 2, "two");
            let part = kind.message("a", 1, "three");
            let cut = [3, part.len() / 2, part.len() - 1][round];
            let input = whole + &part[..cut];
            assert_eq!(wire.push(input.as_bytes()), input.len());
            assert_eq!(scene.log(), ["a one", "b two"], "{kind:?}, round {round}");
            wire.reset();
            let log = scene.log();
            assert_eq!(log.len(), 1, "{log:?}");
            assert!(log[0].starts_with("disconnected with 0 unconfirmed: "), "{log:?}");
        }
    }
}

#[test]
fn c207_each_loss_counts_its_own_messages_and_keeps_the_queued_ones() {
    for kind in KINDS {
        let mut scene = kind.scene();
        for round in 0..3_u64 {
            // Without a connection.
            scene.publish("queued");
            let (wire, _) = kind.accept(&mut scene);
            scene.log();
            scene.publish("sent");
            let flush = scene.bus.flush();
            scene.settle();
            wire.reset();
            let log = scene.log();
            assert!(log[0].starts_with("disconnected with 2 unconfirmed: "), "{kind:?} {log:?}");
            assert_eq!(failure_of(flush).downcast_ref(), Some(&NotConfirmed));
            assert_eq!(scene.bus.counts().unconfirmed, 2 * (round + 1));
        }
        scene.publish("last");
        let wire = kind.log_in(&mut scene);
        assert_eq!(scene.take(&wire), kind.publish("last"), "nothing is sent again");
    }
}

#[test]
fn c204_a_subscription_that_ended_begins_again_at_the_server_and_here() {
    let (mut scene, wire) = Scene::open(|options| options);
    for id in 1..=3 {
        let held = scene.subscribe("a");
        assert_eq!(scene.take(&wire), format!("SUB a {id}\r\n"));
        scene.say(&wire, "MSG a 1 3\r\nold");
        scene.say(&wire, &format!("MSG a {id} 3\r\nnew"));
        let expected: &[&str] = if id == 1 { &["a old", "a new"] } else { &["a new"] };
        assert_eq!(scene.log(), expected);
        drop(held);
        assert_eq!(scene.take(&wire), format!("UNSUB {id}\r\n"));
    }
}

#[test]
fn c214_a_subscription_that_ended_begins_again_before_and_after_the_answer_of_the_server() {
    for answers_first in [true, false] {
        let mut scene = Kind::Redis.scene();
        let (wire, _) = Kind::Redis.accept(&mut scene);
        scene.log();
        let ended = ">3\r\n+unsubscribe\r\n+a\r\n:0";
        let mut left = Vec::new();
        for _ in 0..3 {
            let held = scene.subscribe("a");
            assert_eq!(scene.take(&wire), command(&["SUBSCRIBE", "a"]));
            left.drain(..).for_each(|answer: &str| scene.say(&wire, answer));
            Kind::Redis.confirm(&mut scene, &wire, "a");
            scene.say(&wire, Kind::Redis.message("a", 0, "new").trim_end());
            assert_eq!(scene.log(), ["a new"]);
            drop(held);
            assert_eq!(scene.take(&wire), command(&["UNSUBSCRIBE", "a"]));
            // On its way when the subscription ended.
            scene.say(&wire, Kind::Redis.message("a", 0, "late").trim_end());
            assert!(scene.log().is_empty());
            match answers_first {
                true => scene.say(&wire, ended),
                false => left.push(ended),
            }
        }
        left.into_iter().for_each(|answer| scene.say(&wire, answer));
        let flush = scene.bus.flush();
        scene.settle();
        scene.say(&wire, "+PONG");
        success_of(flush);
    }
}

#[test]
fn c209_a_server_that_reads_slowly_again_and_again_gets_all_in_order() {
    for kind in KINDS {
        let mut scene = kind.scene();
        scene.memory.network().set_capacity(1000);
        let (wire, _) = kind.accept(&mut scene);
        let mut published = 0;
        for round in 0..3 {
            let mut expected = String::new();
            for _ in 0..200 {
                let text = format!("{published} {}", "x".repeat(1000));
                expected += &kind.publish(&text);
                scene.publish(&text);
                scene.settle();
                published += 1;
            }
            let mut taken = String::new();
            while taken.len() < expected.len() {
                let more = scene.take(&wire);
                assert!(!more.is_empty(), "{kind:?}, round {round}");
                taken += &more;
            }
            assert!(taken == expected, "{kind:?}, round {round}");
        }
    }
}

#[test]
fn c209_all_who_wait_for_a_drain_or_a_flush_are_answered() {
    for kind in KINDS {
        let mut scene = kind.scene();
        // The second time after a restart.
        for _ in 0..2 {
            let (wire, _) = kind.accept(&mut scene);
            scene.log();
            let answer = |scene: &mut Scene, wire: &Wire, count: usize| {
                (0..count).for_each(|_| scene.say(wire, kind.pong()));
            };
            for _ in 0..2 {
                let flushes = [scene.bus.flush(), scene.bus.flush()];
                scene.settle();
                let pings = scene.take(&wire).matches("PING").count();
                answer(&mut scene, &wire, pings);
                flushes.into_iter().for_each(success_of);
            }
            let drains: Vec<_> = [(); 3].map(|()| scene.bus.drain()).into();
            let pings = scene.take(&wire).matches("PING").count();
            answer(&mut scene, &wire, pings);
            let more = scene.take(&wire).matches("PING").count();
            answer(&mut scene, &wire, more - 1);
            assert!(!drains.iter().any(Deferred::has_fired), "{kind:?}: the last one closes");
            answer(&mut scene, &wire, 1);
            drains.into_iter().for_each(success_of);
            assert!(is_closed(&scene.bus) && wire.saw_fin());
            wire.close();
            scene.settle();
            success_of(scene.bus.clone().start(&scene.memory.reactor()));
        }
    }
}

#[test]
fn c209_a_flush_that_waits_for_a_slow_server_is_sent_on_the_next_connection() {
    for kind in KINDS {
        let mut scene = kind.scene();
        scene.memory.network().set_capacity(1000);
        let (wire, _) = kind.accept(&mut scene);
        for _ in 0..200 {
            scene.publish(&"x".repeat(1000));
            scene.settle();
        }
        let flush = scene.bus.flush();
        // The client's own check waits too, and is not sent later.
        scene.memory.advance(Duration::from_secs(30));
        scene.reset(&wire);
        assert!(!flush.has_fired(), "{kind:?}");
        scene.memory.network().set_capacity(64 * 1024);
        let wire = kind.log_in(&mut scene);
        let output = scene.take_all(&wire);
        assert_eq!((output.matches("PING").count(), output.matches("HELLO").count()), (1, 0));
        assert!(output.ends_with(&kind.ping()), "{kind:?}: behind the messages");
        if let Kind::Redis = kind {
            (0..output.matches("PUBLISH").count()).for_each(|_| scene.say(&wire, ":1"));
        }
        assert!(!flush.has_fired(), "{kind:?}");
        scene.say(&wire, kind.pong());
        success_of(flush);
    }
}

#[test]
fn c209_a_drain_without_a_connection_sends_all_and_restores_no_subscription() {
    for kind in KINDS {
        let mut scene = kind.scene();
        let _held = ["a", "b"].map(|subject| scene.subscribe(subject));
        scene.publish("queued");
        let drained = scene.bus.drain();
        let wire = kind.log_in(&mut scene);
        assert_eq!(scene.take(&wire), kind.publish("queued") + &kind.ping());
        if let Kind::Redis = kind {
            scene.say(&wire, ":0");
        }
        scene.say(&wire, kind.pong());
        assert_eq!(scene.take(&wire), kind.ping());
        scene.say(&wire, kind.pong());
        success_of(drained);
    }
}

fn is_closed(bus: &Bus) -> bool {
    bus.publish("a", "").is_err()
}
