//! Servers that end, refuse, or cannot keep up, and clients that leave.

use std::time::Duration;

use couplet::bus::PublishError;
use couplet::bus::nats::{Auth, Options};
use couplet::services::Health;
use rustix::process::Signal;

use crate::server::{Client, Server};

#[test]
fn c207_a_client_survives_the_restart_of_its_server() {
    let Some(mut server) = Server::start(&[]) else { return };
    let mut client = Client::new();
    // Each message is 13 bytes on the wire.
    let bus = client.bus(server.options().queue(13 * 3));
    let _subscription = client.subscribe(&bus, "a");
    bus.publish("a", "00").expect("there is room");
    assert_eq!(client.until("a 00"), ["connected", "a 00"]);
    server.kill();
    let log = client.until("failed: ");
    assert!(log[0].starts_with("disconnected: "), "{log:?}");
    assert!(matches!(bus.health(), Health::Degraded(_)));
    let published: Vec<_> = (1..=5).map(|number| bus.publish("a", format!("0{number}"))).collect();
    let full = Err(PublishError::Full);
    assert_eq!(published, [Ok(()), Ok(()), Ok(()), full.clone(), full]);
    client.until("lost 2");
    server.start_again();
    let log = client.until("a 03");
    let log: Vec<_> = log.iter().filter(|line| !line.starts_with("failed: ")).collect();
    assert_eq!(log, ["connected", "a 01", "a 02", "a 03"]);
    assert_eq!(bus.health(), Health::Ready);
    assert_eq!((bus.counts().connects, bus.counts().lost), (2, 2));
}

#[test]
fn c207_a_client_finds_the_other_server_of_a_cluster() {
    let cluster = "cluster: { name: c, listen: \"127.0.0.1:-1\" }";
    let Some(mut first) = Server::start_with(cluster, &["-n", "first"]) else { return };
    let route = format!("nats://127.0.0.1:{}", first.port_of("Listening for route connections"));
    let second = Server::start_with(cluster, &["-n", "second", "-routes", &route]);
    let second = second.expect("it is installed");
    let mut client = Client::new();
    // The client knows the first one only.
    let (bus, other) = (client.bus(first.options()), client.bus(second.options()));
    let _subscription = client.subscribe(&bus, "a");
    // Messages cross once the servers know each other, and each other's subscriptions.
    let crossed = loop {
        other.publish("a", "crossed").expect("there is room");
        let pause = client.l.reactor().sleep(Duration::from_millis(10));
        client.finish(pause).expect("time passes");
        let log = client.log();
        if log.iter().any(|line| line == "a crossed") {
            break log;
        }
    };
    drop(crossed);
    first.kill();
    client.until_all(&["disconnected: ", "connected"]);
    client.finish(bus.flush()).expect("it is connected");
    other.publish("a", "again").expect("there is room");
    client.until("a again");
}

#[test]
fn c206_permissions_are_reported_and_limits_end_the_connection() {
    let users = "authorization: { users: [ { user: ada, password: x, permissions: {
        publish: \"ours.>\", subscribe: [\"ours.>\", \"_INBOX.>\"] } } ] }
        max_subscriptions: 2";
    let Some(server) = Server::start_with(users, &[]) else { return };
    let mut client = Client::new();
    let auth = Auth::Password { user: "ada".to_owned(), password: "x".to_owned() };
    let bus = client.bus(server.options().auth(auth));
    let _ours = client.subscribe(&bus, "ours.a");
    bus.publish("theirs", "").expect("the server checks it");
    let log = client.until("error: ");
    assert_eq!(log, ["connected", "error: Permissions Violation for Publish to \"theirs\""]);
    let theirs = client.subscribe(&bus, "theirs");
    let log = client.until("error: ");
    assert_eq!(log, ["error: Permissions Violation for Subscription to \"theirs\""]);
    bus.publish("ours.a", "still connected").expect("there is room");
    client.until("ours.a still connected");
    drop(theirs);
}

#[test]
fn c204_the_maximum_payload_of_the_server_is_respected() {
    let Some(server) = Server::start_with("max_payload: 1000", &[]) else { return };
    let mut client = Client::new();
    let bus = client.bus(server.options());
    let _subscription = client.subscribe(&bus, "a");
    let error = bus.publish("a", vec![b'x'; 1001]).unwrap_err();
    assert_eq!(error, PublishError::TooLarge { size: 1001, most: 1000 });
    bus.publish("a", vec![b'x'; 1000]).expect("there is room");
    client.until("a xxx");
    assert_eq!(bus.counts().connects, 1);
}

#[test]
fn c209_a_client_that_reads_slowly_is_cut_by_the_server_and_returns() {
    let slow = "max_pending: 1100000\nwrite_deadline: \"500ms\"";
    let Some(server) = Server::start_with(slow, &[]) else { return };
    let mut sender = Client::new();
    let mut reader = Client::new();
    let bus = reader.bus(server.options());
    let _subscription = reader.subscribe(&bus, "a");
    reader.finish(bus.flush()).expect("it is connected");
    reader.log();
    // The reader's loop does not run meanwhile.
    let sending = sender.bus(server.options().queue(64 << 20));
    for _ in 0..200 {
        sending.publish("a", vec![b'x'; 100_000]).expect("there is room");
        sender.finish(sending.flush()).expect("the sender is not slow");
    }
    let log = reader.until_all(&["disconnected: ", "connected"]);
    assert!(log.iter().any(|line| line.starts_with("disconnected: ")), "{}", log.len());
    reader.finish(bus.flush()).expect("it is connected again");
    sending.publish("a", "again").expect("there is room");
    sender.finish(sending.flush()).expect("it is connected");
    reader.until("a again");
}

#[test]
fn c209_a_drain_delivers_and_sends_everything_before_the_end() {
    let Some(server) = Server::start(&[]) else { return };
    let mut client = Client::new();
    let (drains, other) = (client.bus(server.options()), client.bus(server.options()));
    let _results = client.subscribe(&other, "results");
    let replying = drains.clone();
    let _work = drains.subscribe("work", move |job| {
        replying.publish("results", job.payload().clone()).expect("the bus is open");
    });
    client.finish(drains.flush()).expect("it is connected");
    client.finish(other.flush()).expect("it is connected");
    client.log();
    (0..100).for_each(|number| other.publish("work", number.to_string()).expect("there is room"));
    client.finish(other.flush()).expect("it is connected");
    client.finish(drains.drain()).expect("it is connected");
    assert!(matches!(drains.health(), Health::Failed(_)));
    client.finish(other.flush()).expect("it is connected");
    let results: Vec<String> = (0..100).map(|number| format!("results {number}")).collect();
    assert_eq!(client.log(), results);
}

#[test]
fn c209_a_server_that_is_suspended_is_dropped_for_its_silence() {
    let Some(server) = Server::start(&[]) else { return };
    let mut client = Client::new();
    let options = server.options().ping_interval(Duration::from_millis(50));
    let bus = client.bus(options.connect_timeout(Duration::from_millis(200)));
    server.signal(Signal::STOP);
    client.until("disconnected: the server does not answer PING");
    bus.publish("a", "kept").expect("there is room");
    let _subscription = client.subscribe(&bus, "a");
    server.signal(Signal::CONT);
    client.until("a kept");
}

#[test]
fn c206_a_peer_that_is_no_nats_server_is_an_attempt_that_failed() {
    let Some(server) = Server::start(&["-m", "-1"]) else { return };
    let mut client = Client::new();
    let http = Options::new([format!("127.0.0.1:{}", server.port_of("Starting http monitor"))]);
    let bus = client.begin(http.expect("it is valid").connect_timeout(Duration::from_millis(100)));
    let log = client.until("failed: ");
    assert!(log[0].starts_with("failed: cannot "), "{log:?}");
    bus.close();
}
