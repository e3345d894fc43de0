//! `chat --bus` and `chat --history`: several servers as one chat, over real servers of NATS and Redis.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;

use crate::kit::{Client, Member, Server, kept_until, lines_until, renamed, run, wait_until};
use crate::link::Link;
use crate::servers;
use couplet_testkit::needed::Folder;

/// Runs a test over a bus of each kind.
fn each_bus(test: impl Fn(servers::Server)) {
    let buses = [servers::Server::start(&[]), servers::Server::start_redis(&[])];
    buses.into_iter().flatten().for_each(test);
}

/// The arguments of a server that joins a bus.
pub(crate) fn joined<'a>(url: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["-v", "--bus", url], more].concat()
}

/// Starts a chat server, and waits until it has joined the bus.
pub(crate) fn chat(bus: &servers::Server, more: &[&str]) -> Server {
    let server = Server::start(&joined(&bus.url(), more));
    server.wait_told("connected to the bus");
    server
}

/// A member of this name.
pub(crate) fn named(server: &Server, name: &str) -> Member {
    renamed(Member::join(server), name)
}

/// Waits until `/who` lists these people.
fn wait_who(member: &mut Member, people: &[&str]) {
    let list = format!("* {} here: {}", people.len(), people.join(", "));
    wait_until(&list, || {
        member.say("/who");
        lines_until(member, " here: ").pop().unwrap() == list
    });
}

/// The lines that people have said, without notices, up to and including the last one.
fn said_until(member: &mut Member, last: &str) -> Vec<String> {
    let mut said = Vec::new();
    while said.last().is_none_or(|line| line != last) {
        said.extend(Some(member.line()).filter(|line| line.starts_with('<')));
    }
    said
}

#[test]
fn a_line_of_one_server_arrives_on_all_once_and_in_order() {
    each_bus(|bus| {
        let (first, second) = (chat(&bus, &[]), chat(&bus, &["--threads", "2"]));
        let mut ada = named(&first, "ada");
        let mut bob = named(&second, "bob");
        let mut eve = named(&second, "eve");
        wait_who(&mut ada, &["ada (you)", "bob", "eve"]);
        let line = |name: &str, n: usize| format!("<{name}> {n}");
        for n in 0..100 {
            for member in [&mut ada, &mut bob, &mut eve] {
                member.say(&n.to_string());
            }
        }
        for (own, member) in [("ada", &mut ada), ("bob", &mut bob), ("eve", &mut eve)] {
            let mut said = Vec::new();
            while said.len() < 200 {
                said.extend(Some(member.line()).filter(|line| line.starts_with('<')));
            }
            for name in ["ada", "bob", "eve"] {
                let heard: Vec<&String> = said.iter().filter(|line| line.contains(name)).collect();
                let lines: Vec<String> = (0..100).map(|n| line(name, n)).collect();
                let expected = if name == own { Vec::new() } else { lines.iter().collect() };
                assert_eq!(heard, expected, "{own} hears {name}");
            }
        }
        bob.say("the end");
        assert_eq!(said_until(&mut ada, "<bob> the end"), ["<bob> the end"], "nothing came twice");
        ada.say("the end");
        assert_eq!(said_until(&mut bob, "<ada> the end"), ["<ada> the end"]);
        assert_eq!(said_until(&mut eve, "<ada> the end"), ["<bob> the end", "<ada> the end"]);
    });
}

#[test]
fn c233_people_see_how_many_lines_of_another_server_were_lost() {
    let Some(bus) = servers::Server::start(&[]) else { return };
    let mut link = Link::to(bus.port);
    let first = chat(&bus, &[]);
    let second = Server::start(&joined(&format!("nats://127.0.0.1:{}", link.port), &[]));
    second.wait_told("connected to the bus");
    let (mut ada, mut bob) = (named(&first, "ada"), named(&second, "bob"));
    wait_who(&mut ada, &["ada (you)", "bob"]);
    ada.say("one");
    bob.hears("<ada> one");
    link.cut();
    bob.hears("* The other servers are out of reach.");
    ada.say("two");
    ada.say("three");
    link.heal();
    bob.hears("* The other servers are back.");
    // The bus has the subscriptions before the line.
    bob.say("hello");
    ada.hears("<bob> hello");
    ada.say("four");
    bob.hears("* 2 lines of another server did not arrive.");
    assert_eq!(bob.line(), "<ada> four");
}

#[test]
fn people_of_all_servers_have_different_names_and_leave_with_their_server() {
    each_bus(|bus| {
        let (first, mut second, third) = (chat(&bus, &[]), chat(&bus, &[]), chat(&bus, &[]));
        let mut ada = named(&first, "ada");
        let mut bob = named(&second, "bob");
        let _eve = named(&third, "eve");
        wait_who(&mut ada, &["ada (you)", "bob", "eve"]);
        wait_who(&mut bob, &["ada", "bob (you)", "eve"]);
        bob.say("/nick ADA");
        bob.hears("* ADA is taken; choose another name.");
        let mut late = Member(second.connect());
        let welcome = late.line();
        assert!(welcome.ends_with("3 others are here."), "{welcome}");
        late.say("/nick tom");
        ada.hears("* guest-2 is now tom");
        wait_who(&mut ada, &["ada (you)", "bob", "eve", "tom"]);
        late.say("/quit");
        ada.hears("* tom has left");
        wait_who(&mut ada, &["ada (you)", "bob", "eve"]);
        assert_eq!(third.stop(Signal::TERM).code, Some(0));
        ada.hears("* eve has left (their server has stopped)");
        wait_who(&mut ada, &["ada (you)", "bob"]);
        // Without a goodbye: the heartbeats stop.
        second.running.signal(Signal::KILL);
        ada.hears("* bob has left (their server has stopped)");
        wait_who(&mut ada, &["ada (you)"]);
    });
}

#[test]
fn without_the_bus_a_server_serves_its_own_people_and_it_comes_back() {
    each_bus(|mut bus| {
        let (first, second) = (chat(&bus, &[]), chat(&bus, &[]));
        let mut ada = named(&first, "ada");
        let mut bob = named(&second, "bob");
        let mut tom = named(&first, "tom");
        wait_who(&mut bob, &["ada", "bob (you)", "tom"]);
        bus.kill();
        for member in [&mut ada, &mut bob, &mut tom] {
            member.hears("* The other servers are out of reach.");
        }
        first.wait_told("the bus is still out of reach");
        tom.say("anybody?");
        assert_eq!(ada.line(), "<tom> anybody?", "it was reported once");
        ada.say("/who");
        assert_eq!(ada.line(), "* 2 here: ada (you), tom; the other servers are out of reach");
        let mut late = Member(first.connect());
        assert!(late.line().starts_with("* Welcome!"));
        assert_eq!(late.line(), "* The other servers are out of reach.");
        drop(late);
        // Each server gives the same name to one of its people.
        ada.say("/nick zoe");
        ada.hears("* ada is now zoe");
        bob.say("/nick ZOE");
        bob.hears("* bob is now ZOE");
        bus.start_again();
        for member in [&mut bob, &mut tom] {
            member.hears("* The other servers are back.");
        }
        tom.say("welcome back");
        bob.hears("<tom> welcome back");
        let mut renamed = Vec::new();
        wait_until("one of them to lose the name", || {
            for member in [&mut ada, &mut bob] {
                member.say("/who");
                let answer = lines_until(member, " here: ");
                renamed.extend(answer.into_iter().filter(|line| line.contains("has your name")));
            }
            !renamed.is_empty()
        });
        assert_eq!(renamed.len(), 1, "{renamed:?}");
        wait_until("its default name", || {
            tom.say("/who");
            let who = lines_until(&mut tom, " here: ").pop().unwrap();
            who.starts_with("* 3 here: guest-") && who.to_lowercase().matches("zoe").count() == 1
        });
    });
}

#[test]
fn bad_addresses_are_usage_errors_without_the_password() {
    for (url, expected) in [
        ("nats://ada:s3cret@", "address 1 of --bus is invalid: write nats://HOST:PORT"),
        ("nats://ada:s3cret@a,http://ada:s3cret@b", "address 2 of --bus is invalid"),
        ("nats://ada:s3cret@a,nats://b", "the addresses of --bus differ"),
        (
            "redis://ada:s3cret@",
            "--bus: the address of the Redis server is invalid: write redis://",
        ),
    ] {
        let ended = run(&["--bus", url]);
        ended.says(2, expected);
        assert!(!ended.stderr.contains("s3cret"), "{}", ended.stderr);
    }
}

#[test]
fn a_password_opens_the_bus_and_is_in_no_log() {
    let Some(bus) = servers::Server::start(&["--user", "ada", "--pass", "s3cret@x"]) else {
        return;
    };
    let address = format!("127.0.0.1:{}", bus.port);
    let server = Server::start(&joined(&format!("nats://ada:s3cret%40x@{address}"), &["-v"]));
    server.wait_told("connected to the bus");
    assert!(!server.running.told().contains("s3cret"), "{}", server.running.told());
    let refused = Server::start(&joined(&format!("nats://ada:wr0ng@{address}"), &["-v"]));
    refused.wait_told("the bus is out of reach: ");
    let told = refused.running.told();
    assert!(told.contains("Authorization Violation") && !told.contains("wr0ng"), "{told}");
}

/// Another user of a NATS server.
pub(crate) struct Rogue(Client);

impl Rogue {
    pub(crate) fn join(bus: &servers::Server) -> Rogue {
        let mut client = Client::connect(SocketAddr::from(([127, 0, 0, 1], bus.port)));
        assert!(client.read_line().starts_with("INFO "));
        client.send(b"CONNECT {\"verbose\":false}\r\n");
        Rogue(client)
    }

    pub(crate) fn publish(&mut self, subject: &str, payload: &[u8]) {
        self.0.send(format!("PUB {subject} {}\r\n", payload.len()).as_bytes());
        self.0.send(&[payload, b"\r\n"].concat());
    }
}

#[test]
fn other_users_of_the_bus_do_no_harm() {
    let Some(bus) = servers::Server::start(&[]) else { return };
    let server = chat(&bus, &[]);
    let mut ada = named(&server, "ada");
    let mut rogue = Rogue::join(&bus);
    let mut publish = |subject: &str, payload: &[u8]| rogue.publish(subject, payload);
    let too_long = [&[b'x'; 1000][..], b"\n"].concat();
    for bad in [&b""[..], b"no end", &too_long, &[b'x'; 200_000]] {
        publish("couplet.chat.lines", bad);
        publish("couplet.chat.people.x1", bad);
        publish("couplet.chat.people.x2", &[b"=", bad].concat());
    }
    publish("couplet.chat.people.x3", b"+3 \x1b[31m mallory <ada> ada");
    publish("couplet.chat.lines", b"<mallory> \x1b[2J\n* ada has left\xff\n");
    let heard = lines_until(&mut ada, "<mallory> ?[2J?* ada has left?");
    assert!(!heard.concat().contains("xxx"), "{heard:?}");
    ada.say("/who");
    let who = lines_until(&mut ada, " here: ").pop().unwrap();
    assert_eq!(who, "* 4 here: ada (you), ada, mallory, and 1 more");
    drop(rogue);
    ada.hears("* 3 people have left (their server has stopped)");
}

/// Starts a NATS server that keeps streams in a folder.
pub(crate) fn keeping_bus(folder: &Folder) -> Option<servers::Server> {
    servers::Server::start(&["-js", "-sd", &folder.path("")])
}

/// Runs a test over a bus of each kind that keeps lines.
fn each_keeping_bus(test: impl Fn(servers::Server)) {
    let folder = Folder::new();
    let buses = [keeping_bus(&folder), servers::Server::start_redis(&[])];
    buses.into_iter().flatten().for_each(test);
}

/// A member of a chat with a history, which has read the greeting and the last lines up to `last`.
fn returning(server: &Server, from: &str, until: &str) -> (Member, Vec<String>) {
    let mut member = Member(server.connect());
    member.say(&format!("/from {from}"));
    let lines = lines_until(&mut member, until);
    (member, lines)
}

#[test]
fn c228_lines_are_kept_in_one_order_and_any_server_replays_the_missed_ones() {
    each_keeping_bus(|bus| {
        let keeps = ["--history", "50"];
        let (mut first, second) = (chat(&bus, &keeps), chat(&bus, &keeps));
        let mut ada = named(&first, "ada");
        let mut bob = named(&second, "bob");
        for n in 0..10 {
            ada.say(&format!("a{n}"));
            bob.say(&format!("b{n}"));
        }
        // Both see all lines, including their own, in one order.
        ada.say("from ada");
        let mut seen = kept_until(&mut ada, "from ada");
        bob.say("the end");
        seen.extend(kept_until(&mut ada, "the end"));
        assert_eq!(kept_until(&mut bob, "the end"), seen);
        assert_eq!(seen.len(), 22);
        for (index, line) in seen.iter().enumerate() {
            assert!(line.starts_with(&format!("[{}] <", index + 1)), "{line}");
        }
        // The next member gets the last lines, and a position for later.
        let mut tom = Member(second.connect());
        let last = kept_until(&mut tom, "the end");
        assert_eq!(last, seen[2..]);
        // Ada's server ends, and she returns to the other one.
        first.running.signal(Signal::KILL);
        bob.say("where is ada?");
        lines_until(&mut bob, "where is ada?");
        let (mut ada, _) = returning(&second, "22", "[23] <bob> where is ada?");
        ada.say("/from 22");
        assert_eq!(lines_until(&mut ada, "[23]").last().unwrap(), "[23] <bob> where is ada?");
        ada.say("/from 23");
        lines_until(&mut ada, "* You have missed nothing.");
        ada.say("/from 99");
        lines_until(&mut ada, "* There is no line 99; the newest is 23.");
        ada.say("/from x");
        ada.hears("* Give the number of the last line that you have: /from 41");
        // Enough lines to push out the first ones.
        for n in 0..60 {
            bob.say(&format!("c{n}"));
        }
        lines_until(&mut ada, "c59");
        ada.say("/from 20");
        lines_until(&mut ada, "* Lines 21 to 33 are not kept any more.");
        let kept = kept_until(&mut ada, "c59");
        assert_eq!((kept.len(), &*kept[0]), (50, "[34] <bob> c10"));
        ada.say("/from ffff-20");
        lines_until(&mut ada, "* The lines have begun anew since then.");
        assert_eq!(kept_until(&mut ada, "c59").len(), 50);
        // A new server has the earlier lines.
        let third = chat(&bus, &keeps);
        let kept = kept_until(&mut Member(third.connect()), "c59");
        assert!(kept.len() >= 20 && kept.last().unwrap() == "[83] <bob> c59", "{kept:?}");
        drop((first, tom));
    });
}

#[test]
fn c228_a_server_without_its_bus_shows_the_lines_to_its_own_people_and_keeps_them_later() {
    let folder = Folder::new();
    let Some(mut bus) = keeping_bus(&folder) else { return };
    let (first, second) = (chat(&bus, &["--history"]), chat(&bus, &["--history"]));
    let mut ada = named(&first, "ada");
    let mut tom = named(&first, "tom");
    let mut bob = named(&second, "bob");
    ada.say("one");
    for member in [&mut ada, &mut tom, &mut bob] {
        member.hears("[1] <ada> one");
    }
    bus.kill();
    ada.say("two");
    tom.hears("<ada> two");
    for member in [&mut ada, &mut bob] {
        member.hears("* The other servers are out of reach.");
    }
    ada.say("three");
    tom.hears("<ada> three");
    bob.say("four");
    bus.start_again();
    let after: Vec<Vec<String>> = [&mut ada, &mut tom, &mut bob]
        .map(|member| {
            let mut kept = Vec::new();
            while kept.len() < 3 {
                kept.extend(Some(member.line()).filter(|line| line.starts_with('[')));
            }
            kept
        })
        .into();
    assert_eq!(after[0], after[1]);
    assert_eq!(after[0], after[2]);
    let mut texts: Vec<&str> =
        after[0].iter().filter_map(|line| line.split_once("] ")).map(|(_, text)| text).collect();
    let order = |text: &str| texts.iter().position(|line| *line == text);
    assert!(order("<ada> two") < order("<ada> three"), "{texts:?}");
    texts.sort_unstable();
    assert_eq!(texts, ["<ada> three", "<ada> two", "<bob> four"]);
    // Entries of other users of the bus have numbers too.
    let mut rogue = Rogue::join(&bus);
    for payload in [&b"no end"[..], b"", &[b'x'; 1000], b"\x1b[2J\n"] {
        rogue.publish("couplet.chat.log", payload);
    }
    let lines = kept_until(&mut ada, "?[2J");
    assert_eq!(lines[..3], [5, 6, 7].map(|number| format!("[{number}] * (this is no line)")));
    assert_eq!(lines[3], "[8] ?[2J");
}

#[test]
fn c228_a_server_whose_bus_keeps_no_lines_says_why_and_shows_them() {
    let Some(bus) = servers::Server::start(&[]) else { return };
    let server = chat(&bus, &["--history"]);
    server.wait_told("no lines are kept: the log: JetStream is not enabled");
    let (mut ada, mut bob) = (named(&server, "ada"), named(&server, "bob"));
    ada.say("hello");
    lines_until(&mut bob, "<ada> hello");
    assert_eq!(server.running.told().matches("no lines are kept").count(), 1);
}

#[test]
fn c228_without_a_bus_the_server_keeps_the_lines_for_all_its_threads() {
    let server = Server::start(&["--history", "3", "--threads", "2"]);
    let mut ada = Member(server.connect());
    lines_until(&mut ada, "/help explains more.");
    // From an earlier server, which kept its lines in memory. This server reads its log first.
    wait_until("the log", || {
        ada.say("/from 41");
        let answer = lines_until(&mut ada, "o lines are kept yet.").pop();
        answer.as_deref() == Some("* There is no line 41: no lines are kept yet.")
    });
    for n in 1..=5 {
        ada.say(&format!("line {n}"));
        ada.hears(&format!("[{n}] <guest-1> line {n}"));
    }
    for _ in 0..5 {
        let mut bob = Member(server.connect());
        let lines = lines_until(&mut bob, "[5] <guest-1> line 5");
        let kept: Vec<&String> = lines.iter().filter(|line| line.starts_with('[')).collect();
        assert_eq!(kept.len(), 3, "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("-5 sends later ones.")), "{lines:?}");
        bob.say("/from 4");
        bob.hears("[5] <guest-1> line 5");
        bob.say("/from 1");
        bob.hears("* Lines 2 to 2 are not kept any more.");
        assert_eq!(kept_until(&mut bob, "line 5")[0], "[3] <guest-1> line 3");
        bob.say("/from 41");
        bob.hears("* There is no line 41; the newest is 5.");
        bob.say("/quit");
    }
    let plain = Server::start(&[]);
    let mut eve = Member::join(&plain);
    eve.say("/from 1");
    assert_eq!(eve.line(), "* No lines are kept here.");
    for bad in ["0", "10001", "x"] {
        assert_eq!(run(&["--history", bad]).code, Some(2), "{bad}");
    }
}

#[test]
fn c228_a_line_said_as_soon_as_the_ports_are_open_is_kept() {
    for _ in 0..8 {
        let server = Server::start(&["--history", "--threads", "2"]);
        let mut members: Vec<Member> = (0..4).map(|_| Member(server.connect())).collect();
        for member in &mut members {
            member.say("first");
        }
        for (index, member) in members.iter_mut().enumerate() {
            for _ in index..4 {
                assert!(lines_until(member, "> first").pop().unwrap().starts_with('['));
            }
        }
    }
}

/// A server that accepts each login and then ends the connection. Counts the logins.
fn breaking_bus() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let logins = Arc::new(AtomicUsize::new(0));
    let counted = logins.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(mut client) = client else { continue };
            let mut input = [0; 4096];
            let mut heard = Vec::new();
            let greeted = client.write_all(b"INFO {\"headers\":true}\r\n");
            while greeted.is_ok() && !heard.ends_with(b"PING\r\n") {
                match client.read(&mut input) {
                    Ok(count @ 1..) => heard.extend_from_slice(&input[..count]),
                    _ => break,
                }
            }
            let _ = client.write_all(b"PONG\r\n");
            // The client's subscriptions follow the login.
            let _ = client.read(&mut input);
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (address, logins)
}

#[test]
fn c228a_a_line_that_waits_for_its_bus_is_shown_once_however_often_the_bus_breaks() {
    let (address, logins) = breaking_bus();
    let server = Server::start(&joined(&format!("nats://{address}"), &["--history"]));
    let (mut ada, mut bob) = (named(&server, "ada"), named(&server, "bob"));
    ada.say("one");
    let seen = lines_until(&mut bob, "<ada> one");
    assert!(seen.iter().all(|line| !line.starts_with('[')), "{seen:?}");
    let before = logins.load(Ordering::SeqCst);
    wait_until("three more breaks", || logins.load(Ordering::SeqCst) >= before + 3);
    ada.say("two");
    let seen = lines_until(&mut bob, "<ada> two");
    assert!(!seen.iter().any(|line| line.contains("one")), "{seen:?}");
}
