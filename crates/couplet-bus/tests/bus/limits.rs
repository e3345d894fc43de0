//! The default of each limit, tried on both sides: the most that fits, and one more.

use std::io;
use std::time::Duration;

use couplet::bus::{Limit, LogLimits, Memory, PresenceOptions, PublishError, redis};
use couplet::testing::Wire;

use crate::kit::Scene;

const MIB: usize = 1 << 20;

fn nats() -> Scene {
    Scene::nats(|options| options)
}

fn redis() -> Scene {
    Scene::redis(redis::Options::new("redis://a.example").expect("it is valid"))
}

fn memory() -> Scene {
    Scene::hub(&Memory::new())
}

impl Scene {
    /// The reports at the end of this time. Before it nothing may be reported.
    fn reports_after(&mut self, time: Duration) -> Vec<String> {
        let instant = Duration::from_millis(1);
        self.memory.advance(time - instant);
        assert!(self.log().is_empty(), "before {time:?}");
        self.memory.advance(instant);
        self.log()
    }
}

#[test]
fn c209_8_mib_wait_for_a_server_unless_set() {
    // The bytes on the wire around a payload of a million or so.
    for (scene, frame) in [(nats(), 15 + 2), (redis(), 4 + 4 + 9 + 4 + 3 + 10 + 2)] {
        for _ in 0..8 {
            scene.bus.publish("a", vec![b'x'; MIB - frame]).expect("there is room");
        }
        assert_eq!(scene.bus.publish("a", ""), Err(PublishError::Full));
        assert_eq!(scene.bus.counts().lost, 1);
    }
}

#[test]
fn c205_8_mib_wait_for_a_loop_unless_set() {
    let hub = Memory::new();
    let (mut busy, other) = (Scene::hub(&hub), Scene::hub(&hub));
    let _busy = busy.bus.subscribe("a", |_| ()).expect("it is valid");
    // Twice: the queue is empty again.
    for round in 1..=2 {
        for _ in 0..8 {
            other.bus.publish("a", vec![b'x'; MIB - "a".len()]).expect("it is not too large");
        }
        other.publish("");
        assert_eq!(busy.log(), ["lost 1"]);
        let counts = busy.bus.counts();
        assert_eq!((counts.delivered, counts.lost), (8 * round, round));
    }
}

#[test]
fn c204_a_message_has_1_mib_unless_set() {
    for scene in [nats(), redis(), memory()] {
        assert_eq!(scene.bus.publish("a", vec![b'x'; MIB]), Ok(()));
        let too_large = Err(PublishError::TooLarge { size: MIB + 1, most: MIB });
        assert_eq!(scene.bus.publish("a", vec![b'x'; MIB + 1]), too_large);
    }
}

#[test]
fn c205_a_queue_of_messages_has_1024_and_8_mib_unless_set() {
    for (text, most) in [("x".to_owned(), 1024), ("x".repeat(MIB), 8)] {
        let mut scene = memory();
        let messages = scene.bus.messages("a", Limit::default()).expect("it is valid");
        for _ in 0..most {
            scene.publish(&text);
            scene.settle();
        }
        assert_eq!((messages.len(), messages.dropped()), (most, 0));
        scene.publish("x");
        assert_eq!(scene.log(), ["a is slow"]);
        assert_eq!((messages.len(), messages.dropped()), (most, 1));
    }
}

#[test]
fn c210_the_limits_of_logs_and_presences_have_defaults() {
    let [second, minute] = [1, 60].map(Duration::from_secs);
    let queue = Limit { messages: 1024, bytes: 8 * MIB };
    let (age, patience) = (minute * 60 * 24 * 7, second * 30);
    let limits = LogLimits { messages: 100_000, bytes: 64 << 20, age, patience, queue };
    assert_eq!(LogLimits::default(), limits);
    let presence = PresenceOptions { interval: second * 5, peers: 65_536 };
    assert_eq!(PresenceOptions::default(), presence);
}

#[test]
fn c207_a_connect_and_a_login_have_5_s_each_unless_set() {
    let five = Duration::from_secs(5);
    for (mut scene, server) in [(nats(), "a.example:4222"), (redis(), "a.example:6379")] {
        // Twice: each attempt has its own time.
        for _ in 0..2 {
            scene.delay();
            let [failed] = &scene.reports_after(five)[..] else { panic!("it reports once") };
            assert!(failed.starts_with(&format!("{server} failed: ")), "{failed}");
            let _wire = scene.complete();
            assert_eq!(
                scene.reports_after(five),
                [format!("{server} failed: cannot log in: the server did not answer in time")]
            );
        }
    }
}

/// Logs in, and returns the server's end.
fn open_nats() -> (Scene, Wire) {
    Scene::open(|options| options)
}

#[test]
fn c209_a_ping_is_sent_each_30_s_and_two_without_an_answer_end_the_connection_unless_set() {
    let (mut scene, wire) = open_nats();
    let (thirty, instant) = (Duration::from_secs(30), Duration::from_millis(1));
    for answered in [true, true, false, false] {
        scene.memory.advance(thirty - instant);
        assert_eq!(scene.take(&wire), "");
        scene.memory.advance(instant);
        assert_eq!(scene.take(&wire), "PING\r\n");
        if answered {
            scene.say(&wire, "PONG");
        }
    }
    let ended = "disconnected with 0 unconfirmed: the server does not answer PING";
    assert_eq!(scene.reports_after(thirty), [ended]);
}

#[test]
fn c207_the_delays_grow_from_250_ms_to_30_s_unless_set() {
    let mut scene = nats();
    let mut longest = 0;
    // The delay of a failure is between a half and the whole of these.
    for most in [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000, 30_000] {
        scene.memory.connecting().remove(0).fail(io::ErrorKind::ConnectionRefused.into());
        scene.settle();
        let delay = scene.delay();
        assert!((most / 2..=most + 1).contains(&delay), "{delay} of {most}");
        longest = longest.max(delay);
    }
    assert!(longest > 16_000, "{longest}");
}

#[test]
fn c207_a_connection_is_steady_after_10_s_unless_set() {
    // After a steady connection the delays begin anew.
    for (lived, most) in [(9_999, 500), (10_000, 250)] {
        let (mut scene, wire) = open_nats();
        scene.memory.advance(Duration::from_millis(lived));
        scene.reset(&wire);
        let delay = scene.delay();
        assert!((most / 2..=most + 1).contains(&delay), "{delay} of {most} after {lived} ms");
    }
}
