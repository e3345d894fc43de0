//! Without a connection: attempts and their delays, the queue, and the servers of a cluster.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use couplet::bus::nats::Options;
use couplet::bus::{Bus, PublishError};
use couplet::defer::set_reporter;
use couplet::services::{Health, Service};
use couplet::testing::{MemoryReactor, Wire, failure_of, success_of};
use couplet_testkit::logged::logged_at;
use tracing::Level;

use crate::kit::{LONG, Log, Scene};

fn refuse(scene: &mut Scene) {
    scene.memory.connecting().remove(0).fail(io::ErrorKind::ConnectionRefused.into());
    scene.settle();
}

#[test]
fn c207_attempts_back_off_with_jitter_up_to_a_limit_and_start_over_after_good_service() {
    let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
    let mut scene = Scene::nats(|options| options.back_off(first, longest));
    for most in [200, 400, 800, 1000, 1000, 1000] {
        refuse(&mut scene);
        let delay = scene.delay();
        assert!((most / 2..=most + 1).contains(&delay), "{delay} of {most}");
    }
    let wire = scene.accept();
    scene.memory.advance(Duration::from_secs(10));
    scene.reset(&wire);
    let delay = scene.delay();
    assert!((50..=101).contains(&delay), "{delay}");
    let log = scene.log();
    assert_eq!(log.len(), 8, "{log:?}");
    assert!(log[0].starts_with("a.example:4222 failed: connection refused"), "{log:?}");
}

#[test]
fn c207_the_delay_doubles_once_all_servers_have_failed() {
    let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
    let mut scene = Scene::nats(|_| {
        Options::new(["a.example", "b.example"]).expect("valid").back_off(first, longest)
    });
    for most in [100, 200, 200, 400, 400, 800, 800, 1000, 1000] {
        refuse(&mut scene);
        let delay = scene.delay();
        assert!((most / 2..=most + 1).contains(&delay), "{delay} of {most}");
    }
}

#[test]
fn c207_a_server_that_breaks_after_each_login_is_retried_at_growing_delays() {
    let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
    // Twice: the second series begins after good service.
    let mut scene = Scene::nats(|options| {
        options.back_off(first, longest).steady_after(Duration::from_secs(3))
    });
    for _ in 0..2 {
        for most in [200, 400, 800, 1000, 1000] {
            let wire = scene.accept();
            scene.memory.advance(Duration::from_millis(2900));
            scene.reset(&wire);
            let delay = scene.delay();
            assert!((most / 2..=most + 1).contains(&delay), "{delay} of {most}");
        }
        let wire = scene.accept();
        scene.memory.advance(Duration::from_secs(3));
        scene.reset(&wire);
        let delay = scene.delay();
        assert!((50..=101).contains(&delay), "{delay}");
    }
}

#[test]
fn c207b_a_client_leaves_a_server_that_is_about_to_stop_for_another_one() {
    let mut scene = Scene::nats(|_| Options::new(["good:1", "good:2"]).expect("valid"));
    let (first, wire) = next(&mut scene, "good");
    let wire = wire.expect("it accepts");
    let _subscription = scene.subscribe("a");
    scene.publish("1");
    let flushed = scene.bus.flush();
    scene.settle();
    scene.say(&wire, r#"INFO {"ldm":true}"#);
    assert_eq!(scene.take(&wire), "SUB a 1\r\nPUB a 1\r\n1\r\nPING\r\nPING\r\n");
    // A server may say so again.
    scene.say(&wire, r#"INFO {"ldm":true}"#);
    assert_eq!((scene.take(&wire), scene.bus.health()), (String::new(), Health::Ready));
    let _late = scene.subscribe("b");
    scene.publish("2");
    scene.say(&wire, "MSG a 1 1\r\nx\r\nPONG");
    assert_eq!(scene.take(&wire), "", "the next message waits for the next connection");
    assert!(!wire.saw_fin(), "the second PING has no answer");
    scene.say(&wire, "PONG");
    success_of(flushed);
    assert!(wire.saw_fin());
    wire.close();
    scene.settle();
    let (second, wire) = next(&mut scene, "good");
    assert_ne!(first, second);
    let wire = wire.expect("it accepts");
    assert_eq!(scene.take(&wire), "SUB a 1\r\nSUB b 2\r\nPUB a 1\r\n2\r\n");
    let log = scene.log();
    assert_eq!(log[1], "a x");
    assert_eq!(log[2], "disconnected with 0 unconfirmed: the server is about to stop");
    assert_eq!(scene.bus.counts().unconfirmed, 0);
}

#[test]
fn c207b_a_client_without_another_server_stays_and_one_that_gets_no_answer_leaves_in_time() {
    let (mut scene, wire) = Scene::open(|options| options);
    scene.say(&wire, r#"INFO {"ldm":true}"#);
    assert_eq!(scene.take(&wire), "");
    scene.publish("1");
    assert_eq!(scene.take(&wire), "PUB a 1\r\n1\r\n");

    scene.say(&wire, r#"INFO {"ldm":true,"connect_urls":["b.example"]}"#);
    assert_eq!(scene.take(&wire), "PING\r\n");
    scene.memory.advance(Duration::from_secs(5));
    assert_eq!(scene.log(), ["disconnected with 1 unconfirmed: the server is about to stop"]);
}

#[test]
fn c207c_a_client_follows_its_name_to_another_address() {
    let minute = Duration::from_secs(60);
    let (old, new) = ([IpAddr::from([10, 0, 0, 1])], [IpAddr::from([10, 0, 0, 2])]);
    let mapped = [IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1])];
    let mut scene = Scene::nats(|options| options.ping_interval(60 * minute));
    let name = |scene: &Scene, addresses: Result<&[IpAddr], io::ErrorKind>| {
        let addresses = addresses.map(<[IpAddr]>::to_vec);
        scene.memory.network().set_name("a.example", Duration::ZERO, addresses);
    };
    name(&scene, Ok(&old));
    refuse(&mut scene);
    let wire = scene.accept();
    scene.log();
    // Each case is one lookup.
    for found in [
        Ok(&old[..]),
        Ok(&new),
        Ok(&old),
        Ok(&new),
        Err(io::ErrorKind::NotFound),
        Ok(&[]),
        Ok(&[new[0], old[0]]),
        Ok(&new),
        Ok(&mapped),
    ] {
        name(&scene, found);
        scene.memory.advance(minute);
        assert_eq!((scene.log(), scene.take(&wire)), (vec![], String::new()), "{found:?}");
    }
    name(&scene, Ok(&new));
    scene.memory.advance(2 * minute);
    assert_eq!(scene.take(&wire), "PING\r\n");
    scene.say(&wire, "PONG");
    wire.close();
    let log = scene.log();
    let moved = "disconnected with 0 unconfirmed: the name a.example has moved to other addresses";
    assert_eq!(log, [moved]);
    scene.delay();
    let attempt = scene.memory.connecting().remove(0);
    assert_eq!(attempt.address().socket_addr().map(|address| address.ip()), Some(new[0]));
}

#[test]
fn c207c_a_client_looks_up_no_address_and_no_name_without_the_check() {
    for options in [
        Options::new(["10.0.0.1"]).expect("valid"),
        Options::new(["a.example"]).expect("valid").name_check(None),
    ] {
        let mut scene = Scene::nats(|_| options.ping_interval(Duration::from_secs(36_000)));
        let wire = scene.accept();
        let gone = Ok(vec![IpAddr::from([10, 0, 0, 2])]);
        scene.memory.network().set_name("a.example", Duration::ZERO, gone);
        scene.memory.advance(Duration::from_secs(3600));
        assert_eq!(scene.take(&wire), "");
    }
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
    scene.reset(&wire);
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
        let wanted = if number < 3 { Ok(()) } else { Err(PublishError::Full) };
        assert_eq!(published, wanted, "message {number}");
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
    assert_eq!(scene.take_all(&wire).len(), published * 1014);
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
    scene.reset(&wire);
    drop(dropped);
    scene.memory.network().set_capacity(64 * 1024);
    let wire = scene.accept();
    let output = scene.take_all(&wire);
    assert!(output.starts_with("SUB b 1\r\nPUB a 1000\r\n"), "{}", &output[..100]);
    assert_eq!(output.matches("SUB").count(), 1);
    assert!(unhandled.borrow().is_empty(), "{unhandled:?}");
}

/// Accepts the next attempt if the name of its server begins like this, and refuses it otherwise.
fn next(scene: &mut Scene, good: &str) -> (String, Option<Wire>) {
    scene.delay();
    let attempt = scene.memory.connecting().remove(0);
    let server = format!("{}:{}", attempt.remote_host(), attempt.remote_port());
    if server.starts_with(good) {
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
        let (server, wire) = next(&mut scene, "good");
        tried.push(server);
        if let Some(wire) = wire {
            break wire;
        }
        assert!(tried.len() < 3, "{tried:?}");
    };
    scene.say(&wire, r#"INFO {"connect_urls":["bad:5","[::1]:6","good:2","a b"]}"#);
    scene.reset(&wire);
    let mut round: Vec<String> = (0..5).map(|_| next(&mut scene, "none").0).collect();
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
    // The drain that was cancelled does not count for this one.
    let stopped = service.stop();
    for _ in 0..2 {
        assert_eq!(scene.take(&wire), "PING\r\n");
        scene.say(&wire, "PONG");
    }
    success_of(stopped);
    assert!(wire.saw_fin());
}

#[test]
fn c207_each_loss_and_each_return_is_logged_with_its_counts() {
    let mut scene = Scene::nats(|options| options);
    let (_, lines) = logged_at(Level::INFO, || refuse(&mut scene));
    let [first] = &lines[..] else { panic!("{lines:?}") };
    assert!(first.contains("the bus is out of reach: a.example:4222: connection"), "{first}");
    let mut wire = scene.accept();
    for round in 1..=2 {
        scene.publish("sent");
        scene.settle();
        let lost = scene.memory.elapsed();
        let (next, lines) = logged_at(Level::INFO, || {
            scene.reset(&wire);
            scene.publish("queued");
            for _ in 0..2 {
                scene.delay();
                refuse(&mut scene);
            }
            scene.delay();
            scene.accept()
        });
        let after = scene.memory.elapsed() - lost;
        let [away, still, again, back] = &lines[..] else { panic!("{lines:?}") };
        assert!(away.contains("message=the bus is out of reach: a.example:4222: "), "{away}");
        assert!(away.contains("unconfirmed=1 ") && away.contains("queued=0 "), "{away}");
        for line in [still, again] {
            assert!(line.contains("message=the bus is still out of reach: "), "{line}");
        }
        assert!(back.contains("message=connected to the bus again "), "{back}");
        for field in [format!("after={after:?}"), "queued=1".into(), format!("unconfirmed={round}")]
        {
            assert!(back.contains(&format!("{field} ")), "{field}: {back}");
        }
        scene.take(&next);
        scene.say(&next, "PONG");
        wire = next;
        // The queued message is confirmed.
        let flushed = scene.bus.flush();
        scene.settle();
        scene.say(&wire, "PONG");
        success_of(flushed);
        scene.take(&wire);
    }
}

#[test]
fn c206_a_closed_bus_stops_in_every_state() {
    // While it connects.
    let mut scene = Scene::nats(|options| options);
    scene.publish("dropped");
    let flushed = scene.bus.flush();
    scene.bus.close();
    scene.bus.close();
    scene.settle();
    failure_of(flushed);
    assert_eq!(scene.bus.counts().lost, 1);
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
