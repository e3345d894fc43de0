//! `couplet chat --bus`: several servers as one chat, over a real NATS server.

use std::net::SocketAddr;

use rustix::process::Signal;

use crate::chat::Member;
use crate::kit::{Client, Server, run, wait_until};
use crate::nats;

/// The arguments of a server that joins a bus.
fn joined<'a>(url: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["-v", "chat", "--bus", url], more].concat()
}

/// Starts a chat server, and waits until it has joined the bus.
fn chat(bus: &nats::Server, more: &[&str]) -> Server {
    let server = Server::start(&joined(&bus.url(), more));
    server.wait_told("connected to the bus");
    server
}

/// A member of this name.
fn named(server: &Server, name: &str) -> Member {
    let mut member = Member::join(server);
    member.say(&format!("/nick {name}"));
    lines_until(&mut member, &format!(" is now {name}"));
    member
}

/// The next lines up to one with these words.
fn lines_until(member: &mut Member, words: &str) -> Vec<String> {
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line: &String| !line.contains(words)) {
        lines.push(member.line());
    }
    lines
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
fn a_line_said_on_one_server_is_heard_on_all_once_and_in_order() {
    let Some(bus) = nats::Server::start(&[]) else { return };
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
}

#[test]
fn people_of_all_servers_have_different_names_and_leave_with_their_server() {
    let Some(bus) = nats::Server::start(&[]) else { return };
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
    // Without a goodbye: its signs of life end.
    second.running.signal(Signal::KILL);
    ada.hears("* bob has left (their server has stopped)");
    wait_who(&mut ada, &["ada (you)"]);
}

#[test]
fn without_the_bus_a_server_serves_its_own_people_and_it_comes_back() {
    let Some(mut bus) = nats::Server::start(&[]) else { return };
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
}

#[test]
fn bad_addresses_are_usage_errors_without_the_password() {
    for (url, expected) in [
        ("nats://ada:s3cret@", "address 1 of --bus is invalid: write nats://HOST:PORT"),
        ("nats://ada:s3cret@a,http://ada:s3cret@b", "address 2 of --bus is invalid"),
        ("nats://ada:s3cret@a,nats://b", "the addresses of --bus differ"),
    ] {
        let ended = run(&["chat", "--bus", url]);
        assert_eq!(ended.code, Some(2), "{url}");
        assert!(ended.stderr.contains(expected), "{}", ended.stderr);
        assert!(!ended.stderr.contains("s3cret"), "{}", ended.stderr);
    }
}

#[test]
fn a_password_opens_the_bus_and_is_in_no_log() {
    let Some(bus) = nats::Server::start(&["--user", "ada", "--pass", "s3cret@x"]) else { return };
    let address = format!("127.0.0.1:{}", bus.port);
    let server = Server::start(&joined(&format!("nats://ada:s3cret%40x@{address}"), &["-v"]));
    server.wait_told("connected to the bus");
    assert!(!server.running.told().contains("s3cret"), "{}", server.running.told());
    let refused = Server::start(&joined(&format!("nats://ada:wr0ng@{address}"), &["-v"]));
    refused.wait_told("the bus is out of reach: ");
    let told = refused.running.told();
    assert!(told.contains("Authorization Violation") && !told.contains("wr0ng"), "{told}");
}

#[test]
fn other_users_of_the_bus_do_no_harm() {
    let Some(bus) = nats::Server::start(&[]) else { return };
    let server = chat(&bus, &[]);
    let mut ada = named(&server, "ada");
    let mut rogue = Client::connect(SocketAddr::from(([127, 0, 0, 1], bus.port)));
    assert!(rogue.read_line().starts_with("INFO "));
    rogue.send(b"CONNECT {\"verbose\":false}\r\n");
    let mut publish = |subject: &str, payload: &[u8]| {
        rogue.send(format!("PUB {subject} {}\r\n", payload.len()).as_bytes());
        rogue.send(&[payload, b"\r\n"].concat());
    };
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
