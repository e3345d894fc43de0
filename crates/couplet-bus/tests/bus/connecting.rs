//! Without a connection: attempts and their delays, the queue, and the servers of a cluster.

use std::io;
use std::time::Duration;

use couplet::bus::nats::Options;
use couplet::bus::{Bus, PublishError};
use couplet::defer::set_reporter;
use couplet::services::{Health, Service};
use couplet::testing::{MemoryReactor, Wire, failure_of, success_of};

use crate::kit::{LONG, Log, Scene};

fn refuse(scene: &mut Scene) {
    scene.memory.connecting().remove(0).fail(io::ErrorKind::ConnectionRefused.into());
    scene.settle();
}

#[test]
fn c207_attempts_back_off_with_jitter_up_to_a_limit_and_start_over_after_a_login() {
    let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
    let mut scene = Scene::nats(|options| options.back_off(first, longest));
    for most in [200, 400, 800, 1000, 1000, 1000] {
        refuse(&mut scene);
        let delay = scene.delay();
        assert!((most / 2..=most + 1).contains(&delay), "{delay} of {most}");
    }
    let wire = scene.accept();
    wire.reset();
    scene.settle();
    let delay = scene.delay();
    assert!((50..=101).contains(&delay), "{delay}");
    let log = scene.log();
    assert_eq!(log.len(), 8, "{log:?}");
    assert!(log[0].starts_with("a.example:4222 failed: connection refused"), "{log:?}");
}

#[test]
fn c207_clients_that_lost_their_server_at_once_return_at_different_times() {
    let mut memory = MemoryReactor::new();
    let options = Options::new(["a.example"]).expect("it is valid");
    let buses: Vec<Bus> = (0..20).map(|_| Bus::nats(&memory.reactor(), options.clone())).collect();
    for attempt in memory.connecting() {
        attempt.fail(io::ErrorKind::ConnectionRefused.into());
    }
    memory.settle();
    let mut steps = 0;
    for _ in 0..500 {
        let before = memory.connecting().len();
        memory.advance(Duration::from_millis(1));
        steps += usize::from(memory.connecting().len() > before);
    }
    assert_eq!(memory.connecting().len(), buses.len());
    assert!(steps > 10, "{steps}");
}

#[test]
fn c207_subscriptions_are_restored_before_the_queued_messages_are_sent() {
    let (mut scene, wire) = Scene::open(|options| options);
    let (_kept, dropped) = (scene.subscribe("a"), scene.subscribe("b"));
    scene.settle();
    wire.reset();
    scene.settle();
    drop(dropped);
    let _new = scene.subscribe("c");
    scene.publish("1");
    let Health::Degraded(words) = scene.bus.health() else { panic!() };
    assert!(words.starts_with("not connected to NATS at a.example:4222: "), "{words}");
    assert!(words.ends_with("; 1 messages are queued"), "{words}");
    let wire = scene.accept();
    assert_eq!(scene.take(&wire), "SUB a 1\r\nSUB c 3\r\nPUB a 1\r\n1\r\n");
    assert_eq!(scene.bus.health(), Health::Ready);
    assert_eq!(scene.bus.counts().connects, 2);
}

#[test]
fn c209_the_queue_is_bounded_and_the_lost_messages_are_counted_and_reported() {
    // Each message is 15 bytes on the wire.
    let mut scene = Scene::nats(|options| options.queue(50));
    for number in 0..5 {
        let published = scene.bus.publish("a", number.to_string().repeat(4));
        assert_eq!(published.is_ok(), number < 3, "message {number}");
        if number >= 3 {
            assert_eq!(published, Err(PublishError::Full));
        }
    }
    assert_eq!(scene.log(), ["lost 2"]);
    let counts = scene.bus.counts();
    assert_eq!((counts.published, counts.lost), (3, 2));
    let wire = scene.accept();
    assert_eq!(scene.take(&wire), "PUB a 4\r\n0000\r\nPUB a 4\r\n1111\r\nPUB a 4\r\n2222\r\n");
    scene.publish("5555");
    assert_eq!(scene.take(&wire), "PUB a 4\r\n5555\r\n", "there is room again");
}

#[test]
fn c209_messages_for_a_server_that_reads_slowly_are_bounded_too() {
    let mut scene = Scene::nats(|options| options.queue(100_000));
    scene.memory.network().set_capacity(10_000);
    let wire = scene.accept();
    let mut published = 0;
    while scene.bus.publish("a", vec![b'x'; 1000]).is_ok() {
        published += 1;
        scene.settle();
    }
    // The network, the transport and the queue.
    assert!((100..200).contains(&published), "{published}");
    let mut taken = 0;
    loop {
        let bytes = scene.take(&wire).len();
        if bytes == 0 {
            break;
        }
        taken += bytes;
    }
    assert_eq!(taken, published * 1014);
    scene.publish("there is room again");
    assert_eq!(scene.take(&wire), "PUB a 19\r\nthere is room again\r\n");
}

#[test]
fn c207_a_subscription_that_waited_for_a_slow_server_is_restored_once() {
    let mut scene = Scene::nats(|options| options);
    let unhandled = Log::default();
    let noted = unhandled.clone();
    set_reporter(move |one| noted.borrow_mut().push(one.failure().to_string()));
    scene.memory.network().set_capacity(1000);
    let wire = scene.accept();
    while scene.bus.publish("a", vec![b'x'; 1000]).is_ok() && scene.bus.counts().published < 200 {
        scene.settle();
    }
    let _behind = scene.subscribe("b");
    let dropped = scene.subscribe("c");
    scene.settle();
    wire.reset();
    scene.settle();
    drop(dropped);
    scene.memory.network().set_capacity(64 * 1024);
    let wire = scene.accept();
    let mut output = String::new();
    loop {
        let some = scene.take(&wire);
        if some.is_empty() {
            break;
        }
        output += &some;
    }
    assert!(output.starts_with("SUB b 1\r\nPUB a 1000\r\n"), "{}", &output[..100]);
    assert_eq!(output.matches("SUB").count(), 1);
    assert!(unhandled.borrow().is_empty(), "{unhandled:?}");
}

/// Refuses or accepts the next attempt; returns its server.
fn next(scene: &mut Scene) -> (String, Option<Wire>) {
    scene.delay();
    let attempt = scene.memory.connecting().remove(0);
    let server = format!("{}:{}", attempt.remote_host(), attempt.remote_port());
    if server.starts_with("good") {
        return (server, Some(scene.accept()));
    }
    attempt.fail(io::ErrorKind::ConnectionRefused.into());
    scene.settle();
    (server, None)
}

#[test]
fn c207_all_servers_are_tried_also_those_that_a_server_names() {
    let mut scene = Scene::nats(|_| Options::new(["bad:1", "good:2", "bad:3"]).expect("valid"));
    let mut tried: Vec<String> = Vec::new();
    let wire = loop {
        let (server, wire) = next(&mut scene);
        tried.push(server);
        if let Some(wire) = wire {
            break wire;
        }
        assert!(tried.len() < 3, "{tried:?}");
    };
    scene.say(&wire, r#"INFO {"connect_urls":["bad:5","[::1]:6","good:2","a b"]}"#);
    wire.reset();
    scene.settle();
    let mut round: Vec<String> = Vec::new();
    for _ in 0..5 {
        scene.delay();
        let attempt = scene.memory.connecting().remove(0);
        round.push(format!("{}:{}", attempt.remote_host(), attempt.remote_port()));
        attempt.fail(io::ErrorKind::ConnectionRefused.into());
        scene.settle();
    }
    round.sort();
    assert_eq!(round, ["::1:6", "bad:1", "bad:3", "bad:5", "good:2"]);
}

#[test]
fn c206_a_service_without_a_connection_stops_when_its_time_is_over() {
    let mut scene = Scene::nats(|options| options);
    scene.publish("queued");
    let mut service = scene.bus.clone();
    let stopped = service.stop();
    scene.memory.advance(LONG);
    assert!(!stopped.has_fired(), "it waits for a connection");
    stopped.cancel();
    assert_eq!(scene.bus.publish("a", ""), Err(PublishError::Closed));
    scene.memory.advance(LONG);
    assert!(scene.memory.connecting().is_empty());
    success_of(service.start(&scene.memory.reactor()));
    let wire = scene.accept();
    assert_eq!(scene.take(&wire), "");
}

#[test]
fn c206_a_closed_bus_stops_in_every_state() {
    // While it connects.
    let mut scene = Scene::nats(|options| options);
    scene.publish("dropped");
    let flushed = scene.bus.flush();
    scene.bus.close();
    scene.settle();
    failure_of(flushed);
    // While it waits for the next attempt.
    let mut waiting = Scene::nats(|options| options);
    refuse(&mut waiting);
    waiting.bus.close();
    // While it logs in.
    let mut login = Scene::nats(|options| options);
    let wire = login.complete();
    login.bus.close();
    login.settle();
    assert!(wire.saw_reset());
    // By the drop of the last handle.
    let (mut open, wire) = Scene::open(|options| options);
    let reactor = open.memory.reactor();
    open.publish("last");
    open.bus = Bus::memory(&reactor, &couplet::bus::Memory::new());
    assert_eq!(open.take(&wire), "PUB a 4\r\nlast\r\n");
    assert!(wire.saw_fin());
    wire.close();
    for scene in [&mut scene, &mut waiting, &mut login, &mut open] {
        scene.memory.advance(LONG);
        assert!(scene.memory.connecting().is_empty());
    }
}
