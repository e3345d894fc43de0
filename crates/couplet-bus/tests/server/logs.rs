//! Logs on JetStream and on Redis.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use couplet::bus::redis::Redis;
use couplet::bus::{
    Bus, Entry, Following, Log, LogError, LogLimits, Message, Page, Position, PublishError, Start,
};
use couplet::hooks;
use couplet::services::{Health, Service};

use crate::needed::Folder;
use crate::server::{Client, Server, Serves};

/// The arguments of a Redis server that confirms a write once it is on the disk.
const WRITES_ALL: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

fn start(folder: &Folder) -> Option<Server> {
    Server::start(&["-js", "-sd", &folder.path("")])
}

fn line(entry: &Entry) -> String {
    match entry {
        Entry::Message { position, payload, .. } => {
            format!("{} {}", position.number(), String::from_utf8_lossy(payload))
        }
        Entry::Gap { from, to } => format!("gap {} {}", from.number(), to.number()),
        Entry::Reset { next } => format!("reset {}", next.number()),
        other => format!("{other:?}"),
    }
}

fn lines(page: &Page) -> Vec<String> {
    page.entries.iter().map(line).collect()
}

struct Follower {
    _following: Following,
    got: Rc<RefCell<Vec<String>>>,
}

impl Follower {
    fn new(log: &Log, start: Start) -> Follower {
        let got = Rc::<RefCell<Vec<String>>>::default();
        let getting = got.clone();
        let following = log.follow(start, move |entry| getting.borrow_mut().push(line(&entry)));
        Follower { _following: following, got }
    }

    /// Runs the loop until it has this number of entries, and takes them.
    fn take(&self, client: &mut Client, count: usize) -> Vec<String> {
        while self.got.borrow().len() < count {
            let pause = client.l.reactor().sleep(Duration::from_millis(2));
            client.finish(pause).expect("time passes");
        }
        self.got.take()
    }
}

fn log(bus: &Bus, limits: LogLimits) -> Log {
    bus.log("rooms.lobby", limits).expect("it is valid")
}

fn append(client: &mut Client, log: &Log, numbers: std::ops::RangeInclusive<u64>) {
    let appended: Vec<_> = numbers.clone().map(|number| log.append(number.to_string())).collect();
    for (number, appended) in numbers.zip(appended) {
        assert_eq!(client.finish(appended).expect("it is stored").number(), number);
    }
}

fn numbers(of: std::ops::RangeInclusive<u64>) -> Vec<String> {
    of.map(|number| format!("{number} {number}")).collect()
}

#[test]
fn c212_a_log_of_jetstream_is_read_from_any_position() {
    let folder = Folder::new();
    let Some(server) = start(&folder) else { return };
    is_read_from_any_position(|client| client.bus(server.options()));
}

#[test]
fn c218_a_log_of_redis_is_read_from_any_position() {
    let Some(server) = Server::start_redis(&[]) else { return };
    is_read_from_any_position(|client| client.redis_bus(server.redis_options()));
}

fn is_read_from_any_position(connect: impl Fn(&mut Client) -> Bus) {
    let mut client = Client::new();
    let bus = connect(&mut client);
    let lobby = log(&bus, LogLimits { messages: 300, ..LogLimits::default() });
    let empty = client.finish(lobby.last(10)).expect("it is created");
    assert_eq!((lines(&empty), empty.first.number(), empty.last.number()), (vec![], 1, 0));
    let next = Follower::new(&lobby, Start::Next);
    let began = hooks::unix_time(&client.l.reactor());
    append(&mut client, &lobby, 1..=250);
    assert_eq!(next.take(&mut client, 250), numbers(1..=250));
    let oldest = Follower::new(&lobby, Start::Oldest);
    let after = Follower::new(&lobby, Start::After(empty.last.with_number(120)));
    assert_eq!(oldest.take(&mut client, 250), numbers(1..=250));
    assert_eq!(after.take(&mut client, 130), numbers(121..=250));
    // Another handle, on another connection.
    let other = connect(&mut client);
    let writer = log(&other, LogLimits::default());
    append(&mut client, &writer, 251..=350);
    for follower in [next, oldest, after] {
        assert_eq!(follower.take(&mut client, 100), numbers(251..=350));
    }
    let page = client.finish(lobby.last(3)).expect("it is there");
    assert_eq!((lines(&page), page.first.number()), (numbers(348..=350), 51));
    assert_eq!(page.last.number(), 350);
    let Entry::Message { time, .. } = page.entries[0] else { panic!("a message") };
    let passed = time.checked_sub(began).expect("it was stored after the beginning");
    assert!(passed < Duration::from_secs(60), "{passed:?}");
    let page = client.finish(lobby.read(page.last.with_number(49), 3)).expect("it is there");
    assert_eq!(lines(&page), ["gap 49 50", "51 51", "52 52", "53 53"]);
    let page = client.finish(lobby.read(page.last.with_number(351), 3)).expect("it is there");
    assert_eq!(lines(&page), Vec::<String>::new());
    // Each read at the end returns the messages appended since the read before.
    for number in 351..=353 {
        let next = page.last.with_number(number);
        for appended in [Vec::new(), numbers(number..=number)] {
            if !appended.is_empty() {
                append(&mut client, &lobby, number..=number);
            }
            let page = client.finish(lobby.read(next, 3)).expect("it is there");
            assert_eq!(lines(&page), appended);
        }
    }
    assert_eq!(lobby.health(), Health::Ready);
}

#[test]
fn c212_nothing_is_lost_and_nothing_stored_twice_when_the_server_is_killed() {
    let folder = Folder::new();
    let Some(server) = start(&folder) else { return };
    nothing_is_lost(server, |client, server| client.bus(server.options()));
}

#[test]
fn c212_a_reader_continues_at_once_after_a_restart_of_the_server() {
    let folder = Folder::new();
    let Some(mut server) = start(&folder) else { return };
    let mut client = Client::new();
    let bus = client.bus(server.options());
    let lobby = log(&bus, LogLimits::default());
    append(&mut client, &lobby, 1..=5);
    let all = client.finish(lobby.last(5)).expect("it is there");
    let mut next = all.first;
    for _ in 0..2 {
        let began = client.l.reactor().now();
        let page = client.finish(lobby.read(next, 2)).expect("it is there");
        assert_eq!(lines(&page), numbers(next.number()..=next.number() + 1));
        let passed = client.l.reactor().now() - began;
        assert!(passed < Duration::from_secs(4), "the server did not answer: {passed:?}");
        next = next.with_number(next.number() + 2);
        server.kill();
        server.start_again();
    }
}

#[test]
fn c218_nothing_is_lost_and_nothing_stored_twice_when_a_redis_that_writes_all_is_killed() {
    let Some(server) = Server::start_redis(&WRITES_ALL) else { return };
    nothing_is_lost(server, |client, server| client.redis_bus(server.redis_options()));
}

fn nothing_is_lost(mut server: Server, connect: impl Fn(&mut Client, &Server) -> Bus) {
    let mut client = Client::new();
    let (writing, reading) = (connect(&mut client, &server), connect(&mut client, &server));
    let limits = LogLimits { patience: Duration::MAX, ..LogLimits::default() };
    let (writer, reader) = (log(&writing, limits), log(&reading, limits));
    let follower = Follower::new(&reader, Start::Oldest);
    let mut appended = Vec::new();
    for round in 0..4 {
        let begin = round * 100;
        appended.extend((begin..begin + 100).map(|n| writer.append(n.to_string())));
        // The server ends while some are confirmed and some are not.
        while writer.unconfirmed() > 60 {
            let pause = client.l.reactor().sleep(Duration::from_micros(200));
            client.finish(pause).expect("time passes");
        }
        server.kill();
        server.start_again();
        assert!(writer.unconfirmed() > 0, "it was too late");
    }
    let positions: Vec<Position> =
        appended.into_iter().map(|append| client.finish(append).expect("it is stored")).collect();
    assert!(positions.iter().map(|position| position.number()).eq(1..=400));
    let got = follower.take(&mut client, 400);
    let expected: Vec<String> = (0..400).map(|n| format!("{} {n}", n + 1)).collect();
    assert_eq!(got, expected);
    let page = client.finish(writer.last(1000)).expect("it is there");
    assert_eq!(lines(&page), expected);
}

#[test]
fn c209_a_drain_waits_for_appends_to_jetstream() {
    let folder = Folder::new();
    let Some(server) = start(&folder) else { return };
    a_drain_waits(|client| client.bus(server.options()));
}

#[test]
fn c209_a_drain_waits_for_appends_to_redis() {
    let Some(server) = Server::start_redis(&[]) else { return };
    a_drain_waits(|client| client.redis_bus(server.redis_options()));
}

/// The messages that a drain delivers are appended by their subscriber.
fn a_drain_waits(connect: impl Fn(&mut Client) -> Bus) {
    let mut client = Client::new();
    let drains = connect(&mut client);
    let mut others = Client::new();
    let other = connect(&mut others);
    let lobby = log(&drains, LogLimits::default());
    append(&mut client, &lobby, 1..=1);
    let (stored, storing) = (Rc::new(Cell::new(0)), lobby.clone());
    let counting = stored.clone();
    let _work = drains.subscribe("work", move |job| {
        let counting = counting.clone();
        let appended = storing.append(job.payload().clone());
        appended.map(move |_| counting.set(counting.get() + 1)).detach();
    });
    client.finish(drains.flush()).expect("it is connected");
    for number in 2..=100 {
        other.publish("work", number.to_string()).expect("there is room");
    }
    others.finish(other.flush()).expect("it is connected");
    client.finish(drains.drain()).expect("it is connected");
    assert_eq!(stored.get(), 99);
    let page = others.finish(log(&other, LogLimits::default()).last(200));
    assert_eq!(lines(&page.expect("it is there")), numbers(1..=100));
}

#[test]
fn c218_a_log_is_followed_at_once_also_after_its_bus_was_stopped_and_started() {
    let Some(server) = Server::start_redis(&[]) else { return };
    let mut client = Client::new();
    let mut bus = client.redis_bus(server.redis_options());
    let lobby = log(&bus, LogLimits::default());
    for number in 1..=2 {
        let follower = Follower::new(&lobby, Start::Next);
        client.finish(lobby.last(1)).expect("it is created");
        client.finish(bus.flush()).expect("it is connected");
        let other = client.redis_bus(server.redis_options());
        let began = client.l.reactor().now();
        append(&mut client, &log(&other, LogLimits::default()), number..=number);
        assert_eq!(follower.take(&mut client, 1), numbers(number..=number));
        let passed = client.l.reactor().now() - began;
        assert!(passed < Duration::from_secs(15), "no announcement woke it: {passed:?}");
        client.finish(bus.stop()).expect("it is connected");
        let reactor = client.l.reactor();
        client.finish(bus.start(&reactor)).expect("it starts");
    }
}

#[test]
fn c212_a_stream_that_is_removed_is_a_reset() {
    let folder = Folder::new();
    let Some(server) = start(&folder) else { return };
    let mut client = Client::new();
    let bus = client.bus(server.options());
    let lobby = log(&bus, LogLimits::default());
    append(&mut client, &lobby, 1..=5);
    let follower = Follower::new(&lobby, Start::Oldest);
    assert_eq!(follower.take(&mut client, 5), numbers(1..=5));
    let api = |operation: &str| {
        bus.request(format!("$JS.API.STREAM.{operation}.rooms_lobby"), "", Duration::from_secs(5))
    };
    client.finish(api("PURGE")).expect("it is there");
    append(&mut client, &lobby, 6..=6);
    assert_eq!(follower.take(&mut client, 1), ["6 6"], "it had read the others");
    let page = client.finish(lobby.last(10)).expect("it is there");
    assert_eq!((lines(&page), page.first.number()), (numbers(6..=6), 6));
    client.finish(api("DELETE")).expect("it is there");
    assert_eq!(follower.take(&mut client, 1), ["reset 1"]);
    append(&mut client, &lobby, 1..=3);
    assert_eq!(follower.take(&mut client, 3), numbers(1..=3));
    let old = client.finish(lobby.read(page.last, 10)).expect("it is there");
    assert_eq!(lines(&old), ["reset 1", "1 1", "2 2", "3 3"]);
}

#[test]
fn c212_errors_of_jetstream_are_errors_of_the_log() {
    let folder = Folder::new();
    let Some(server) = start(&folder) else { return };
    let mut client = Client::new();
    let bus = client.bus(server.options());
    let limits = LogLimits { patience: Duration::from_millis(500), ..LogLimits::default() };
    let lobby = log(&bus, limits);
    let large = client.finish(lobby.append(vec![b'x'; 2 << 20])).unwrap_err();
    assert!(matches!(large.downcast_ref(), Some(PublishError::TooLarge { .. })), "{large}");
    // The stream of a name with dots has another subject.
    append(&mut client, &lobby, 1..=1);
    let other = bus.log("rooms_lobby", limits).expect("it is valid");
    let error = client.finish(other.append("x")).unwrap_err();
    let Some(LogError::Unavailable { why, .. }) = error.downcast_ref() else { panic!("{error}") };
    assert_eq!(why, "the stream rooms_lobby of JetStream has other subjects than rooms_lobby");
    assert!(matches!(other.health(), Health::Degraded(_)));
    // Other publishers to the subject are in the log too.
    bus.publish_message(&Message::new("rooms.lobby", "by another")).expect("there is room");
    let follower = Follower::new(&lobby, Start::Oldest);
    assert_eq!(follower.take(&mut client, 2), ["1 1", "2 by another"]);

    let Some(plain) = Server::start(&[]) else { return };
    let bus = client.bus(plain.options());
    let error = client.finish(log(&bus, limits).append("x")).unwrap_err();
    assert!(error.to_string().contains("JetStream is not enabled"), "{error}");
}

/// A Redis command.
fn run(client: &mut Client, bus: &Bus, parts: &[&str]) {
    client.finish(Redis::new(bus).command(parts)).expect("it runs");
}

#[test]
fn c219_a_redis_that_has_lost_its_data_is_a_reset() {
    let Some(mut server) = Server::start_redis(&[]) else { return };
    let mut client = Client::new();
    let bus = client.redis_bus(server.redis_options());
    let lobby = log(&bus, LogLimits::default());
    append(&mut client, &lobby, 1..=5);
    let follower = Follower::new(&lobby, Start::Oldest);
    assert_eq!(follower.take(&mut client, 5), numbers(1..=5));
    let old = client.finish(lobby.last(1)).expect("it is there").last;
    run(&mut client, &bus, &["FLUSHALL"]);
    append(&mut client, &lobby, 1..=2);
    assert_eq!(follower.take(&mut client, 3), ["reset 1", "1 1", "2 2"]);
    let page = client.finish(lobby.read(old, 10)).expect("it is there");
    assert_eq!(lines(&page), ["reset 1", "1 1", "2 2"]);
    // Only the stream is removed: the old writers' keys do not count for the new one.
    run(&mut client, &bus, &["DEL", "couplet:log:{rooms.lobby}"]);
    append(&mut client, &lobby, 1..=1);
    assert_eq!(follower.take(&mut client, 2), ["reset 1", "1 1"]);
    // Without persistence, a restart is the same.
    server.kill();
    server.start_again();
    append(&mut client, &lobby, 1..=1);
    assert_eq!(follower.take(&mut client, 2), ["reset 1", "1 1"]);
}

#[test]
fn c219_the_limits_of_a_log_of_redis_remove_messages_and_a_reader_gets_a_gap() {
    let Some(server) = Server::start_redis(&[]) else { return };
    let mut client = Client::new();
    let bus = client.redis_bus(server.redis_options());
    // Longer than the appends take on a busy machine: they too remove old messages.
    let age = Duration::from_secs(2);
    let lobby = log(&bus, LogLimits { messages: 200, age, ..LogLimits::default() });
    append(&mut client, &lobby, 1..=150);
    let page = client.finish(lobby.last(1)).expect("it is there");
    let pause = client.l.reactor().sleep(age);
    client.finish(pause).expect("time passes");
    // 100 old messages are removed at a time. The existing stream keeps its limits.
    let other = log(&bus, LogLimits::default());
    let aged = client.finish(other.last(300)).expect("it is there");
    assert_eq!((aged.first.number(), aged.last), (101, page.last));
    append(&mut client, &other, 151..=151);
    let rest = client.finish(other.read(page.first, 300)).expect("it is there");
    assert_eq!(lines(&rest), ["gap 1 150", "151 151"]);
    let pause = client.l.reactor().sleep(age);
    client.finish(pause).expect("time passes");
    let empty = client.finish(lobby.last(10)).expect("it is there");
    assert_eq!((lines(&empty), empty.first.number(), empty.last.number()), (vec![], 152, 151));
    append(&mut client, &lobby, 152..=152);
}

#[test]
fn c219_large_messages_of_redis_come_in_small_pages() {
    let Some(server) = Server::start_redis(&[]) else { return };
    let mut client = Client::new();
    let bus = client.redis_bus(server.redis_options().max_payload(100_000));
    let lobby = log(&bus, LogLimits::default());
    let large = |number: u8| vec![number; 100_000];
    for number in 0..20 {
        client.finish(lobby.append(large(number))).expect("it is stored");
    }
    let page = client.finish(lobby.last(20)).expect("it is there");
    assert_eq!(page.entries.len(), 2);
    let got = Rc::<RefCell<Vec<_>>>::default();
    let getting = got.clone();
    let _following = lobby.follow(Start::Oldest, move |entry| {
        let Entry::Message { payload, .. } = entry else { panic!("{entry:?}") };
        getting.borrow_mut().push(payload);
    });
    client.wait(|| got.borrow().len() == 20);
    assert!((0..20).map(large).eq(got.take()));
    let error = client.finish(lobby.append(vec![0; 100_001])).unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(PublishError::TooLarge { .. })), "{error}");
}

#[test]
fn c219_many_messages_of_redis_come_in_several_pages() {
    let Some(server) = Server::start_redis(&[]) else { return };
    let mut client = Client::new();
    let bus = client.redis_bus(server.redis_options());
    let lobby = log(&bus, LogLimits::default());
    append(&mut client, &lobby, 1..=1);
    let add = "local stream, time = KEYS[1], redis.call('TIME')
        local epoch = string.match(redis.call('XRANGE', stream, '-', '+')[1][1], '%d+')
        for number = 2, 25000 do
          local now = time[1] .. string.format('%06d', time[2])
          redis.call('XADD', stream, epoch .. '-' .. number, 'time', now, 'payload', number)
        end";
    run(&mut client, &bus, &["EVAL", add, "1", "couplet:log:{rooms.lobby}"]);
    let mut next = client.finish(lobby.last(1)).expect("it is there").first;
    for count in [10_000, 10_000, 5000] {
        let page = client.finish(lobby.read(next, 25_000)).expect("it is there");
        let after = next.number() + count;
        assert_eq!(lines(&page), numbers(next.number()..=after - 1));
        next = next.with_number(after);
    }
    assert_eq!(bus.counts().connects, 1);
}

#[test]
fn c219_errors_of_redis_are_errors_of_the_log() {
    let Some(server) = Server::start_redis(&[]) else { return };
    let mut client = Client::new();
    let bus = client.redis_bus(server.redis_options());
    let limits = LogLimits { patience: Duration::from_millis(300), ..LogLimits::default() };
    let lobby = log(&bus, limits);
    append(&mut client, &lobby, 1..=1);
    let mut fails = |change: &[&str], why: &str, back: &[&str]| {
        run(&mut client, &bus, change);
        let error = client.finish(lobby.append("x")).unwrap_err();
        let Some(LogError::Unavailable { why: text, .. }) = error.downcast_ref() else {
            panic!("{error}")
        };
        assert!(text.contains(why), "{text}");
        assert!(matches!(lobby.health(), Health::Degraded(_)));
        run(&mut client, &bus, back);
    };
    let limit = ["CONFIG", "SET", "maxmemory"];
    fails(&[limit[0], limit[1], limit[2], "1"], "OOM ", &[limit[0], limit[1], limit[2], "0"]);
    server.administer("REPLICAOF 127.0.0.1 1");
    let error = client.finish(lobby.append("x")).unwrap_err();
    assert!(error.to_string().contains("the server is a replica, not the master"), "{error}");
    assert!(matches!(lobby.health(), Health::Degraded(_)));
    server.administer("REPLICAOF NO ONE");
    client.finish(bus.flush()).expect("it is connected again");
    append(&mut client, &lobby, 2..=2);
    assert_eq!(lobby.health(), Health::Ready);
    let key = "couplet:log:{rooms.lobby}";
    let mut others = |command: &[&str], why: &str| {
        run(&mut client, &bus, &["DEL", key]);
        run(&mut client, &bus, command);
        let error = client.finish(lobby.last(10)).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    };
    others(&["SET", key, "x"], "WRONGTYPE ");
    others(&["XADD", key, "*", "a", "b"], "its reply is of another kind");
}
