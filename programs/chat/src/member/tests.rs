//! The chat over an in-memory network: the test plays all clients, and waiting takes no time.

use std::net::SocketAddr;

use couplet::testing::{Held, Wire, every_split, hold};

use super::*;
use crate::held::Nobody;
use crate::rate_limit::BURST_OF_ALL;
use crate::room::SharedRoom;

const IDLE: Duration = Duration::from_secs(3600);

struct Scene {
    held: Held<Nobody>,
    port: SocketAddr,
}

impl Scene {
    fn new() -> Scene {
        Scene::with(&SharedRoom::new(0))
    }

    fn with(room: &SharedRoom) -> Scene {
        let held = hold(Nobody);
        let room = room.attach(&held.reactor());
        let factory = move || ChatServer::new(&room, Some(IDLE));
        let port = held.reactor().listen("tcp:0:interface=127.0.0.1", factory).unwrap();
        let port = port.host().socket_addr().unwrap();
        Scene { held, port }
    }

    /// Connects a member and reads the greeting.
    fn member(&mut self, name: &str) -> Wire {
        let wire = self.held.network().connect(self.port).unwrap();
        self.held.settle();
        self.send(&wire, format!("/nick {name}\n").as_bytes());
        heard(&wire);
        wire
    }

    fn send(&mut self, from: &Wire, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = from.push(bytes);
            self.held.settle();
            if taken == 0 {
                self.held.advance(Duration::from_millis(100));
            }
            bytes = &bytes[taken..];
        }
    }
}

fn heard(wire: &Wire) -> String {
    String::from_utf8(wire.take()).unwrap()
}

#[test]
fn a_line_arrives_once_and_whole_however_it_is_cut() {
    every_split(b"one\ntwo two\n\n/who\n//three\n", |pieces| {
        let mut scene = Scene::new();
        let (ada, bob) = (scene.member("ada"), scene.member("bob"));
        heard(&ada);
        for piece in pieces {
            scene.send(&ada, piece);
        }
        assert_eq!(heard(&bob), "<ada> one\n<ada> two two\n<ada> /three\n");
        assert_eq!(heard(&ada), "* 2 here: ada (you), bob\n");
    });
}

#[test]
fn a_member_that_never_reads_is_reset_at_the_cap_and_the_others_get_every_line() {
    let mut scene = Scene::new();
    let (ada, bob, eve) = (scene.member("ada"), scene.member("bob"), scene.member("eve"));
    let line = [&[b'x'; 500][..], b"\n"].concat();
    let (mut said, mut heard_by_bob) = (0, 0);
    while !eve.saw_reset() {
        scene.send(&ada, &line);
        said += 1;
        heard_by_bob += heard(&bob).matches("<ada> xxx").count();
        scene.held.advance(Duration::from_millis(2));
        assert!(said < 10_000, "she is never cut off");
    }
    assert!(said * 500 > WRITE_CAP / 2, "it takes more than {said} lines");
    assert_eq!(heard_by_bob, said);
    assert!(heard(&ada).contains("* eve has left (it read too slowly)\n"));
    scene.send(&bob, b"still here?\n");
    assert!(heard(&ada).contains("<bob> still here?\n"));
}

#[test]
fn a_flood_arrives_whole_at_the_rate_and_resets_no_member() {
    let mut scene = Scene::new();
    let (ada, bob) = (scene.member("ada"), scene.member("bob"));
    // Many times the cap: each line grows by the sender's name.
    let lines: Vec<String> = (0..200_000).map(|n| n.to_string()).collect();
    let flood = lines.join("\n") + "\n";
    let began = scene.held.network().elapsed();
    let mut said = flood.as_bytes();
    let mut told = String::new();
    while !said.is_empty() {
        said = &said[ada.push(said)..];
        scene.held.advance(Duration::from_millis(50));
        told += &heard(&bob);
        assert!(!bob.saw_reset());
    }
    while ada.unreceived() > 0 || !told.ends_with("<ada> 199999\n") {
        scene.held.advance(Duration::from_millis(50));
        told += &heard(&bob);
    }
    let expected: String = lines.iter().map(|line| format!("<ada> {line}\n")).collect();
    assert!(told == expected);
    let took = scene.held.network().elapsed() - began;
    assert!(took > Duration::from_secs(told.len() as u64 / 256 / 1024 / 2), "{took:?}");
}

#[test]
fn during_a_flood_lines_of_others_arrive_immediately() {
    let mut scene = Scene::new();
    let (ada, bob, eve) = (scene.member("ada"), scene.member("bob"), scene.member("eve"));
    eve.push("flood\n".repeat(10_000).as_bytes());
    scene.held.settle();
    assert!(!eve.is_receiving(), "she is paused");
    scene.send(&ada, b"hello\n");
    assert!(heard(&bob).ends_with("<ada> hello\n"));
}

#[test]
fn each_kind_of_line_costs_its_bytes_and_its_answer() {
    let too_long = "x".repeat(LINE_LENGTH + 2) + "\n";
    // These lines exceed the burst, but not by their fixed cost only.
    for (line, count) in [
        ("flood\n", 1500),
        ("/help\n", 200),
        ("/who\n", 900),
        ("/dance\n", 700),
        ("/nick a1\n/nick a2\n", 700),
        ("/nick <>\n", 500),
        (&*too_long, 600),
    ] {
        assert!((count * LINE_COST as u64) < BURST_OF_ALL / 4, "{line:?}");
        assert!(is_paused_by(line, count), "{line:?}");
    }
    // An empty line has nothing but that cost.
    assert!(is_paused_by("\n", 2100));
}

/// True if a member that sends `count` of these lines at once is paused.
fn is_paused_by(line: &str, count: u64) -> bool {
    let mut scene = Scene::new();
    let (_ada, eve) = (scene.member("ada"), scene.member("eve"));
    let flood = line.repeat(count as usize);
    let mut rest = flood.as_bytes();
    while !rest.is_empty() && eve.is_receiving() {
        rest = &rest[eve.push(rest)..];
        scene.held.settle();
    }
    !eve.is_receiving()
}

#[test]
fn a_reset_of_a_paused_member_is_announced() {
    let mut scene = Scene::new();
    let (ada, eve) = (scene.member("ada"), scene.member("eve"));
    eve.push("flood\n".repeat(10_000).as_bytes());
    scene.held.settle();
    heard(&ada);
    eve.reset();
    scene.held.settle();
    assert_eq!(heard(&ada), "* eve has left (the connection was lost)\n");
    scene.held.advance(Duration::from_secs(60));
    assert_eq!(heard(&ada), "");
}

#[test]
fn names_are_unique_regardless_of_case_and_free_when_their_owner_leaves() {
    let mut scene = Scene::new();
    let (ada, bob) = (scene.member("Ada"), scene.member("bob"));
    for (asked, answer) in [
        ("/nick aDA\n", "* aDA is taken; choose another name.\n"),
        ("/nick BOB\n", "* bob is now BOB\n"),
        ("/nick BOB\n", "* You are BOB.\n"),
        ("/who\n", "* 2 here: Ada, BOB (you)\n"),
        ("/nick   bob  \r\n", "* BOB is now bob\n"),
    ] {
        scene.send(&bob, asked.as_bytes());
        assert_eq!(heard(&bob), answer);
    }
    heard(&ada);
    scene.send(&ada, b"/nick BoB\n");
    assert_eq!(heard(&ada), "* BoB is taken; choose another name.\n");
    ada.close();
    scene.held.settle();
    heard(&bob);
    scene.send(&bob, b"/nick ada\n");
    assert_eq!(heard(&bob), "* bob is now ada\n");
    let guest = scene.member("guest-4");
    let next = scene.held.network().connect(scene.port).unwrap();
    scene.held.settle();
    assert!(heard(&next).contains("You are guest-5."), "guest-4 is taken");
    scene.send(&guest, b"/who\n");
    assert!(heard(&guest).ends_with("* 3 here: ada, guest-4 (you), guest-5\n"));
}

#[test]
fn a_burst_of_a_thousand_members_stays_below_the_cap() {
    let longest = LINE_LENGTH + NAME_LENGTH + "<> \n".len();
    // Each member may use up its share and finish a line.
    assert!(BURST_OF_ALL as usize + 1000 * longest < WRITE_CAP);
}

#[test]
fn a_member_silent_for_the_idle_timeout_is_cut_and_its_leaving_announced() {
    let mut scene = Scene::new();
    let (ada, eve) = (scene.member("ada"), scene.member("eve"));
    heard(&ada);
    // Half a line counts as activity too.
    scene.send(&eve, b"half a li");
    scene.held.advance(IDLE / 2);
    scene.send(&ada, b"anybody?\n");
    scene.held.advance(IDLE / 2 - Duration::from_secs(1));
    assert_eq!((heard(&ada), heard(&eve)), (String::new(), "<ada> anybody?\n".into()));
    scene.held.advance(Duration::from_secs(1));
    assert!(eve.saw_reset() && !ada.saw_reset());
    assert_eq!(heard(&ada), "* eve has left (it was silent for too long)\n");
}

#[cfg(feature = "bus")]
mod kept {
    use couplet::bus::{Bus, Memory};

    use super::*;
    use crate::history::{KEPT_BYTES, Line};
    use crate::kept::KeptLines;
    use crate::room::Channel;
    use crate::serve::MOST_KEPT;

    #[test]
    fn c228_all_kept_lines_fit_into_the_cap_of_a_member() {
        let most = MOST_KEPT.into();
        let room = SharedRoom::new(most);
        let mut scene = Scene::with(&room);
        let rooms = room.rooms.attach(&scene.held.reactor());
        let line = |number: u64| format!("[{number}] <bob> {}\n", "x".repeat(500));
        for number in 1..=most as u64 {
            let (line, at) = (line(number), scene.held.reactor().now());
            let bytes = line.len();
            let place = rooms.publish(&Channel::Lines, line).unwrap();
            let position = format!("a1-{number}").parse().unwrap();
            room.names.history(|history| history.add(position, Line { place, bytes, at }));
        }
        let ada = scene.member("ada");
        scene.send(&ada, b"/from 0\n");
        let mut told = heard(&ada);
        while !told.ends_with(&line(most as u64)) {
            assert!(!ada.saw_reset());
            scene.held.advance(Duration::from_millis(10));
            told += &heard(&ada);
        }
        let (notice, lines) = told.split_once('\n').unwrap();
        let first = notice.strip_prefix("* Lines 1 to ").unwrap();
        let first = first.strip_suffix(" are not kept any more.").unwrap().parse::<u64>().unwrap();
        let expected: String = (first + 1..=most as u64).map(line).collect();
        assert!(lines == expected, "{} of {} bytes", lines.len(), expected.len());
        assert!((KEPT_BYTES - 1000..=KEPT_BYTES).contains(&lines.len()));
    }

    #[test]
    fn c228b_a_line_that_the_log_refuses_is_shown_to_the_people_of_its_server() {
        let room = SharedRoom::new(100);
        let mut scene = Scene::with(&room);
        let rooms = room.rooms.attach(&scene.held.reactor());
        let bus = Bus::memory(&scene.held.reactor(), &Memory::new());
        let kept = KeptLines::new(&bus, &rooms, &room.names, 100).unwrap();
        scene.held.settle();
        let ada = scene.member("ada");
        scene.send(&ada, b"/from 0\n");
        heard(&ada);
        for round in 1..=2 {
            // The first fills the queue, so that the second is refused.
            for line in [vec![b'x'; 1024 * 1024], b"<bob> hello\n".to_vec()] {
                kept.say(&line.into());
            }
            scene.held.advance(Duration::from_secs(1));
            let mut told: Vec<_> = heard(&ada).lines().map(str::to_owned).collect();
            told.sort();
            let notice = "* A line was not kept: the other servers miss it.".to_owned();
            let numbered = format!("[{round}] * (this is no line)");
            assert_eq!(told, [notice, "<bob> hello".to_owned(), numbered]);
        }
    }
}
