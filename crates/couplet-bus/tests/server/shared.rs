//! Facts of every bus over a server: NATS and Redis.

use std::time::Duration;

use couplet::bus::{
    Bus, Limit, Message, Presence, PresenceOptions, PublishError, RequestError, nats, redis,
};
use couplet::services::Health;
use rustix::process::Signal;

use crate::server::{Client, Server, Serves};

const LONG: Duration = Duration::from_secs(30);

/// The settings of a client of one kind or the other.
#[derive(Clone)]
enum Options {
    Nats(nats::Options),
    Redis(redis::Options),
}

macro_rules! change {
    ($options:expr, $name:ident($value:expr)) => {
        match $options {
            Options::Nats(options) => Options::Nats(options.$name($value)),
            Options::Redis(options) => Options::Redis(options.$name($value)),
        }
    };
}

/// Runs a test with a server of each kind.
fn each(test: impl Fn(Server, Client, Options)) {
    each_with(["", ""], &[], test);
}

/// Servers of NATS with this configuration, and of Redis with these arguments.
fn each_with(nats: [&str; 2], redis: &[&str], test: impl Fn(Server, Client, Options)) {
    let configuration = nats.join("\n");
    if let Some(server) = Server::start_with(&configuration, &[]) {
        let options = Options::Nats(server.options());
        test(server, Client::new(), options);
    }
    if let Some(server) = Server::start_redis(redis) {
        let options = Options::Redis(server.redis_options());
        test(server, Client::new(), options);
    }
}

/// A bus that has connected.
fn open(client: &mut Client, options: &Options) -> Bus {
    match options.clone() {
        Options::Nats(options) => client.bus(options),
        Options::Redis(options) => client.redis_bus(options),
    }
}

#[test]
fn c204_messages_with_headers_reach_other_clients_in_order() {
    each(|_server, mut client, options| {
        let ada = open(&mut client, &options);
        let bob = open(&mut client, &change!(options, echo(false)));
        let messages = bob.messages("rooms.>", Limit::default()).expect("it is valid");
        client.finish(bob.flush()).expect("it is connected");
        for number in 0..1000 {
            let message = Message::new("rooms.lobby", number.to_string());
            let message = message.header("Number", number.to_string());
            ada.publish_message(&message).expect("there is room");
        }
        bob.publish("rooms.lobby", "no echo").expect("there is room");
        for number in 0..1000 {
            let message = client.finish(messages.next()).expect("it arrives");
            assert_eq!(*message.payload(), number.to_string());
            assert_eq!(message.find_header("number"), Some(&*number.to_string()));
        }
        client.finish(ada.flush()).expect("it is connected");
        client.finish(bob.flush()).expect("it is connected");
        assert!(messages.is_empty());
    });
}

#[test]
fn c201_each_subscription_gets_a_message_once_if_its_pattern_matches() {
    each(|_server, mut client, options| {
        let bus = open(&mut client, &options);
        let patterns = ["a.b.c", "a.*.c", "a.*.c", "a.>", ">", "*.b.*", "a.b", "a?b.*", "a.*"];
        let queues =
            patterns.map(|pattern| bus.messages(pattern, Limit::default()).expect("it is valid"));
        for subject in ["a.b.c", "a.b.c", "a.x.y.c", "a?b.c", "axb.c", "a.b"] {
            bus.publish(subject, "").expect("there is room");
        }
        client.finish(bus.flush()).expect("it is connected");
        client.finish(bus.flush()).expect("it is connected");
        assert_eq!(queues.map(|queue| queue.len()), [2, 2, 2, 4, 6, 2, 1, 1, 1]);
    });
}

#[test]
fn c203_requests_between_clients() {
    each(|_server, mut client, options| {
        let asks = open(&mut client, &options);
        let answers = open(&mut client, &options);
        let nothing = asks.request("double", "", LONG);
        let failure = client.finish(nothing).expect_err("nothing is subscribed");
        assert_eq!(failure.downcast_ref(), Some(&RequestError::NoResponders));
        let replying = answers.clone();
        let _doubling = answers.subscribe("double", move |asked| {
            let twice = [&**asked.payload(), asked.payload()].concat();
            replying.reply(&asked, twice).expect("it wants a reply");
        });
        client.finish(answers.flush()).expect("it is connected");
        let replies: Vec<_> =
            (0..100).map(|number| asks.request("double", number.to_string(), LONG)).collect();
        for (number, reply) in replies.into_iter().enumerate() {
            let reply = client.finish(reply).expect("it is answered");
            assert_eq!(*reply.payload(), format!("{number}{number}"));
        }
    });
}

#[test]
fn c210_nodes_know_each_other() {
    each(|_server, mut client, options| {
        let buses = [open(&mut client, &options), open(&mut client, &options)];
        let interval = Duration::from_millis(100);
        let settings = PresenceOptions { interval, ..Default::default() };
        let [first, second] =
            buses.each_ref().map(|bus| bus.presence("nodes", "", settings).expect("it is open"));
        let knows = |presence: &Presence| !presence.peers().is_empty();
        client.wait(|| knows(&first) && knows(&second));
        assert_eq!(first.peers()[0].id, second.id());
        drop(second);
        client.wait(|| !knows(&first));
    });
}

#[test]
fn c207_a_client_survives_the_restart_of_its_server() {
    each(|mut server, mut client, options| {
        // A message takes 13 bytes on the wire with NATS, and 39 with Redis.
        let size = if let Options::Nats(_) = options { 13 } else { 39 };
        let bus = open(&mut client, &change!(options, queue(size * 3)));
        let _subscription = client.subscribe(&bus, "a");
        bus.publish("a", "00").expect("there is room");
        assert_eq!(client.until("a 00"), ["connected", "a 00"]);
        server.kill();
        let log = client.until("failed: ");
        assert!(log[0].starts_with("disconnected: "), "{log:?}");
        assert!(matches!(bus.health(), Health::Degraded(_)));
        let published: Vec<_> =
            (1..=5).map(|number| bus.publish("a", format!("0{number}"))).collect();
        let full = Err(PublishError::Full);
        assert_eq!(published, [Ok(()), Ok(()), Ok(()), full.clone(), full]);
        client.until("lost 2");
        server.start_again();
        let log = client.until("a 03");
        let log: Vec<_> = log.iter().filter(|line| !line.starts_with("failed: ")).collect();
        assert_eq!(log, ["connected", "a 01", "a 02", "a 03"]);
        assert_eq!(bus.health(), Health::Ready);
        assert_eq!((bus.counts().connects, bus.counts().lost), (2, 2));
    });
}

#[test]
fn c209_a_drain_delivers_and_sends_everything_before_the_end() {
    each(|_server, mut client, options| {
        let drains = open(&mut client, &options);
        // In a separate loop, so that the first one runs only while it drains.
        let mut others = Client::new();
        let other = open(&mut others, &options);
        let _results = others.subscribe(&other, "results");
        let replying = drains.clone();
        // The second one begins as the first, and both get everything.
        let _seen = client.subscribe(&drains, "work");
        let _work = drains.subscribe("work", move |job| {
            replying.publish("results", job.payload().clone()).expect("the bus is open");
        });
        client.finish(drains.flush()).expect("it is connected");
        others.finish(other.flush()).expect("it is connected");
        client.log();
        others.log();
        for number in 0..100 {
            other.publish("work", number.to_string()).expect("there is room");
        }
        others.finish(other.flush()).expect("it is connected");
        client.finish(drains.drain()).expect("it is connected");
        assert!(matches!(drains.health(), Health::Failed(_)));
        others.finish(other.flush()).expect("it is connected");
        let lines = |kind: &str| (0..100).map(|number| format!("{kind} {number}")).collect();
        let (work, results): (Vec<String>, Vec<String>) = (lines("work"), lines("results"));
        assert_eq!((client.log(), others.log()), (work, results));
    });
}

#[test]
fn c209_a_server_that_is_suspended_is_dropped_for_its_silence() {
    each(|server, mut client, options| {
        let options = change!(options, ping_interval(Duration::from_millis(50)));
        let options = change!(options, connect_timeout(Duration::from_millis(200)));
        let bus = open(&mut client, &options);
        server.signal(Signal::STOP);
        client.until("disconnected: the server does not answer PING");
        bus.publish("a", "kept").expect("there is room");
        let _subscription = client.subscribe(&bus, "a");
        server.signal(Signal::CONT);
        client.until("a kept");
    });
}

#[test]
fn c209_a_client_that_reads_slowly_is_cut_by_the_server_and_returns() {
    let nats = ["max_pending: 1100000", "write_deadline: \"500ms\""];
    let redis = ["--client-output-buffer-limit", "pubsub 1100000 0 0"];
    each_with(nats, &redis, |_server, mut sender, options| {
        let mut reader = Client::new();
        let bus = open(&mut reader, &options);
        let _subscription = reader.subscribe(&bus, "a");
        reader.finish(bus.flush()).expect("it is connected");
        reader.log();
        // The reader's loop does not run while the sender sends.
        let sending = open(&mut sender, &change!(options, queue(64 << 20)));
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
    });
}
