//! Servers that end, refuse, or cannot keep up, and clients that leave.

use std::time::Duration;

use couplet::bus::PublishError;
use couplet::bus::nats::{Auth, Options};
use rustix::process::Signal;

use crate::server::{Client, Server, Serves};

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
fn c207b_a_client_leaves_a_server_in_its_lame_duck_mode_and_misses_nothing_that_it_sent() {
    let cluster = "cluster: { name: c, listen: \"127.0.0.1:-1\" }";
    let Some(first) = Server::start_with(cluster, &["-n", "first"]) else { return };
    let route = format!("nats://127.0.0.1:{}", first.port_of("Listening for route connections"));
    let second = Server::start_with(cluster, &["-n", "second", "-routes", &route]);
    let second = second.expect("it is installed");
    let mut client = Client::new();
    let (bus, other) = (client.bus(first.options()), client.bus(second.options()));
    let _subscription = client.subscribe(&other, "a");
    // Messages cross once the servers know each other, and each other's subscriptions.
    while !client.log().iter().any(|line| line == "a crossed") {
        bus.publish("a", "crossed").expect("there is room");
        let pause = client.l.reactor().sleep(Duration::from_millis(10));
        client.finish(pause).expect("time passes");
    }
    first.signal(Signal::USR2);
    client.until_all(&["disconnected: the server is about to stop", "connected"]);
    bus.publish("a", "again").expect("there is room");
    client.until("a again");
    assert_eq!(bus.counts().unconfirmed, 0);
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
fn c206_a_peer_that_is_no_nats_server_is_an_attempt_that_failed() {
    let Some(server) = Server::start(&["-m", "-1"]) else { return };
    let mut client = Client::new();
    let http = Options::new([format!("127.0.0.1:{}", server.port_of("Starting http monitor"))]);
    let bus = client.begin(http.expect("it is valid").connect_timeout(Duration::from_millis(100)));
    let log = client.until("failed: ");
    assert!(log[0].starts_with("failed: cannot "), "{log:?}");
    bus.close();
}
