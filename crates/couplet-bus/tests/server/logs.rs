//! Logs on JetStream.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use couplet::bus::{
    Bus, Entry, Following, Log, LogError, LogLimits, Message, Page, Position, PublishError, Start,
};
use couplet::services::Health;

use crate::needed::Folder;
use crate::server::{Client, Server};

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

    /// Runs the loop until it has got so many entries, and takes them.
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
    let mut client = Client::new();
    let bus = client.bus(server.options());
    let lobby = log(&bus, LogLimits { messages: 300, ..LogLimits::default() });
    let empty = client.finish(lobby.last(10)).expect("it is created");
    assert_eq!((lines(&empty), empty.first.number(), empty.last.number()), (vec![], 1, 0));
    let next = Follower::new(&lobby, Start::Next);
    let began = client.l.reactor().unix_time();
    append(&mut client, &lobby, 1..=250);
    assert_eq!(next.take(&mut client, 250), numbers(1..=250));
    let oldest = Follower::new(&lobby, Start::Oldest);
    let after = Follower::new(&lobby, Start::After(empty.last.with_number(120)));
    assert_eq!(oldest.take(&mut client, 250), numbers(1..=250));
    assert_eq!(after.take(&mut client, 130), numbers(121..=250));
    // Another handle, on another connection.
    let other = client.bus(server.options());
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
    assert_eq!(lobby.health(), Health::Ready);
}

#[test]
fn c212_nothing_is_lost_and_nothing_stored_twice_when_the_server_is_killed() {
    let folder = Folder::new();
    let Some(mut server) = start(&folder) else { return };
    let mut client = Client::new();
    let (writing, reading) = (client.bus(server.options()), client.bus(server.options()));
    let limits = LogLimits { patience: Duration::from_secs(60), ..LogLimits::default() };
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
    assert_eq!(why, "the stream rooms_lobby of JetStream is not one of rooms_lobby alone");
    assert!(matches!(other.health(), Health::Degraded(_)));
    // Other publishers to the subject are in the log too.
    bus.publish_message(&Message::new("rooms.lobby", "by another")).expect("there is room");
    let follower = Follower::new(&lobby, Start::Oldest);
    assert_eq!(follower.take(&mut client, 2), ["1 1", "2 by another"]);

    let Some(plain) = Server::start(&[]) else { return };
    let bus = client.bus(plain.options());
    let error = client.finish(log(&bus, limits).append("x")).unwrap_err();
    assert!(error.to_string().contains("nothing is subscribed to the subject"), "{error}");
}
