//! `couplet chat`.

use std::io::Write;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::kit::allow_a_crowd;
use crate::kit::{Client, Running, Server, has, noise, now, run, wait_until};

/// Number of lines in the greeting.
const GREETING: usize = 3;

/// A member that has read the greeting.
pub(crate) struct Member(pub(crate) Client);

impl Member {
    pub(crate) fn join(server: &Server) -> Member {
        Member::greeted(server.connect())
    }

    /// A client that reads the greeting.
    pub(crate) fn greeted(client: Client) -> Member {
        let mut member = Member(client);
        (0..GREETING).for_each(|_| drop(member.line()));
        member
    }

    fn named(server: &Server, name: &str) -> Member {
        let mut member = Member::join(server);
        member.say(&format!("/nick {name}"));
        assert!(member.line().ends_with(&format!(" is now {name}")));
        member
    }

    pub(crate) fn say(&mut self, line: &str) {
        self.0.send(format!("{line}\n").as_bytes());
    }

    pub(crate) fn line(&mut self) -> String {
        self.0.read_line()
    }

    /// Reads until this line.
    pub(crate) fn hears(&mut self, line: &str) {
        while self.line() != line {}
    }
}

#[test]
fn the_greeting_tells_ones_name_and_teaches_the_commands() {
    let server = Server::start(&["chat"]);
    let mut ada = Member(server.connect());
    let greeting: Vec<String> = (0..GREETING).map(|_| ada.line()).collect();
    assert_eq!(greeting[0], "* Welcome! You are guest-1. Nobody else is here yet.");
    for command in ["/nick NAME", "/who", "/quit", "/help"] {
        assert!(greeting.concat().contains(command), "{greeting:?}");
    }
    let mut bob = Member(server.connect());
    assert_eq!(bob.line(), "* Welcome! You are guest-2. One other is here.");
    ada.say("/help");
    ada.hears("* /who        lists who is here");
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn what_one_says_all_others_hear_and_who_comes_and_goes_they_are_told() {
    let server = Server::start(&["chat"]);
    let mut ada = Member::named(&server, "ada");
    let mut bob = Member::join(&server);
    assert_eq!(ada.line(), "* guest-2 has joined");
    bob.say("/nick bob");
    assert_eq!(
        (ada.line(), bob.line()),
        ("* guest-2 is now bob".into(), "* guest-2 is now bob".into())
    );
    let mut eve = Member::named(&server, "eve");
    for hearer in [&mut ada, &mut bob] {
        assert_eq!(hearer.line(), "* guest-3 has joined");
        assert_eq!(hearer.line(), "* guest-3 is now eve");
    }
    ada.say("hello, grüße 🎉");
    assert_eq!(bob.line(), "<ada> hello, grüße 🎉");
    assert_eq!(eve.line(), "<ada> hello, grüße 🎉");
    ada.say("/who");
    assert_eq!(ada.line(), "* 3 here: ada (you), bob, eve", "its own lines do not come back");
    eve.say("/quit");
    assert_eq!(eve.line(), "* Goodbye.");
    assert_eq!(eve.0.read_to_end().unwrap(), b"");
    assert_eq!(ada.line(), "* eve has left");
    bob.0.reset();
    assert_eq!(ada.line(), "* bob has left (the connection was lost)");
    ada.0.finish();
    assert_eq!(ada.0.read_to_end().unwrap(), b"");
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn a_bad_name_is_refused_with_the_way_out() {
    let server = Server::start(&["chat"]);
    let mut ada = Member::named(&server, "ada");
    let mut bob = Member::named(&server, "bob");
    ada.hears("* guest-2 is now bob");
    for bad in ["", "a b", "<ada>", "\u{1b}[31mred", "ad\u{430}", &"x".repeat(21), "*"] {
        bob.say(&format!("/nick {bad}"));
        let answer = bob.line();
        assert!(answer.starts_with("* You are bob. A name is 1 to 20 of a-z"), "{answer}");
    }
    bob.say("/nick ADA");
    assert_eq!(bob.line(), "* ADA is taken; choose another name.");
    bob.say("/dance");
    assert_eq!(bob.line(), "* There is no /dance; /help lists the commands.");
    bob.say("done");
    assert_eq!(ada.line(), "<bob> done", "nobody else was bothered");
}

#[test]
fn nobody_sends_control_characters_or_speaks_for_another() {
    let server = Server::start(&["chat"]);
    let mut ada = Member::named(&server, "ada");
    let mut eve = Member::named(&server, "eve");
    ada.hears("* guest-2 is now eve");
    let cases: [(&[u8], &str); 6] = [
        (b"\x1b[2J\x1b]0;title\x07", "<eve> ?[2J?]0;title?"),
        (b"well\r<bob> I said it", "<eve> well?<bob> I said it"),
        (b"\x9b31m \xff\xfb\x01 \xc2\x9b", "<eve> ?31m ??? ?"),
        (b"* bob has left", "<eve> * bob has left"),
        ("\u{202e}olleh".as_bytes(), "<eve> ?olleh"),
        (b"a line of telnet\r", "<eve> a line of telnet"),
    ];
    for (said, heard) in cases {
        eve.0.send(&[said, b"\n"].concat());
        assert_eq!(ada.line(), heard);
    }
    eve.say("/\u{1b}[31m");
    assert_eq!(eve.line(), "* There is no /?[31m; /help lists the commands.");
    // For any input, the other members get whole lines of text.
    eve.0.push(&noise(20_000));
    eve.0.send(b"\nthe end\n");
    loop {
        let line = ada.line();
        assert!(line.starts_with("<eve> ") && !line.contains(char::is_control), "{line:?}");
        if line == "<eve> the end" {
            break;
        }
    }
}

#[test]
fn a_line_that_is_too_long_is_not_said_and_the_next_one_is() {
    let server = Server::start(&["chat"]);
    let mut ada = Member::named(&server, "ada");
    let mut bob = Member::named(&server, "bob");
    ada.hears("* guest-2 is now bob");
    let longest = "x".repeat(512);
    for end in ["\n", "\r\n"] {
        bob.0.send(format!("{longest}{end}").as_bytes());
        assert_eq!(ada.line(), format!("<bob> {longest}"));
    }
    for length in [513, 514, 5000, 3_000_000] {
        bob.say(&"x".repeat(length));
        assert_eq!(bob.line(), "* That line has more than 512 bytes and was not sent.");
    }
    for byte in b"byte by byte\n" {
        bob.0.send(&[*byte]);
    }
    assert_eq!(ada.line(), "<bob> byte by byte");
}

#[test]
fn an_endless_line_costs_no_memory_and_holds_nobody_up() {
    let server = Server::start(&["chat"]);
    let mut ada = Member::named(&server, "ada");
    let mut bob = Member::named(&server, "bob");
    let before = server.memory();
    let mut endless = Member::join(&server);
    let pushing = std::thread::spawn(move || endless.0.push(&vec![b'x'; 50_000_000]));
    while !pushing.is_finished() {
        bob.say("still here?");
        ada.hears("<bob> still here?");
    }
    assert!(pushing.join().unwrap() > 10_000_000);
    let grown = server.memory().saturating_sub(before);
    assert!(grown < 2048, "{grown} KiB");
}

#[test]
fn who_floods_and_who_never_reads_hold_nobody_up() {
    let server = Server::start(&["chat"]);
    let mut ada = Member::named(&server, "ada");
    let mut bob = Member::named(&server, "bob");
    let mut never_reads = server.connect();
    never_reads.send(b"/nick stone\n");
    ada.hears("* guest-3 is now stone");
    let before = server.memory();
    let flooding = Member::join(&server).0;
    // The thread ends when the flooder is dropped, at the end of the test.
    let mut sending = flooding.another();
    let flood = std::thread::spawn(move || {
        let lines = format!("{}\n", "x".repeat(500)).repeat(20_000);
        sending.push(lines.as_bytes())
    });
    // A member that does not read would be disconnected.
    let reads = |mut member: Client| {
        std::thread::spawn(move || while member.read().is_ok_and(|bytes| !bytes.is_empty()) {})
    };
    let readers = [reads(flooding), reads(bob.0.another())];
    let (mut cut, mut slowest) = (false, 0.0_f64);
    while !cut {
        let said = now();
        bob.say("hello");
        loop {
            let line = ada.line();
            cut |= line == "* stone has left (it read too slowly)";
            if line == "<bob> hello" {
                break;
            }
        }
        slowest = slowest.max(said.elapsed().as_secs_f64());
    }
    assert!(slowest < 5.0, "{slowest}");
    let grown = server.memory().saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB");
    drop((ada, bob));
    server.stop(Signal::TERM).quietly(0);
    flood.join().unwrap();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

#[test]
fn clients_that_leave_at_any_step_do_no_harm() {
    let server = Server::start(&["chat"]);
    let mut ada = Member::named(&server, "ada");
    let descriptors = server.descriptors();
    let leave: [fn(Client); 3] = [drop, Client::reset, |mut client| client.finish()];
    for leave in leave {
        leave(server.connect());
        leave(Member::join(&server).0);
        for last in [&b"half a li"[..], b"a line\n", b"/nick x", b"/nick x\n", b"/quit\n", b"\xff"]
        {
            let mut client = server.connect();
            client.send(last);
            leave(client);
        }
        let mut client = server.connect();
        client.push(&noise(100_000));
        leave(client);
    }
    wait_until("all descriptors to be closed", || server.descriptors() <= descriptors);
    ada.say("/who");
    ada.hears("* 1 here: ada (you)");
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn a_thousand_people_hear_one_another() {
    allow_a_crowd();
    let server = Server::start_limited(1100, &["chat"]);
    let mut members: Vec<Member> = (0..1000).map(|_| Member(server.connect())).collect();
    members[0].hears("* guest-1000 has joined");
    let introduction = |n: usize| format!("I am number {n}");
    for (n, member) in members.iter_mut().enumerate().take(20) {
        member.say(&introduction(n));
    }
    for (n, member) in members.iter_mut().enumerate() {
        let mut left: Vec<String> = (0..20).filter(|other| *other != n).map(introduction).collect();
        let mut heard = Vec::new();
        while !left.is_empty() {
            heard.extend(member.0.read().unwrap());
            let text = String::from_utf8_lossy(&heard);
            left.retain(|said| !text.contains(&format!("> {said}\n")));
        }
    }
    let ended = server.stop(Signal::INT);
    ended.quietly(0);
    assert!(ended.took.as_secs_f64() < 2.0, "{:?}", ended.took);
}

#[test]
fn without_descriptors_those_who_are_in_go_on() {
    let server = Server::start_limited(24, &["chat"]);
    let mut ada = Member::named(&server, "ada");
    let mut bob = Member::named(&server, "bob");
    let crowd: Vec<Client> = (0..60).map(|_| server.connect()).collect();
    ada.say("hello");
    bob.hears("<ada> hello");
    drop(crowd);
    wait_until("a new member to be accepted", || {
        server.connect().read().is_ok_and(|greeting| greeting.starts_with(b"* Welcome!"))
    });
    assert_eq!(server.stop(Signal::TERM).code, Some(0));
}

#[test]
fn a_signal_stops_it_cleanly_whatever_is_open() {
    for signal in [Signal::INT, Signal::TERM] {
        let server = Server::start(&["chat", "--drain", "0"]);
        let mut ada = Member::join(&server);
        let mut silent = server.connect();
        silent.push(&"flood\n".repeat(20_000).into_bytes());
        ada.hears("* guest-2 has joined");
        let ended = server.stop(signal);
        ended.quietly(0);
        assert!(ended.took.as_secs_f64() < 1.0, "{:?}", ended.took);
        assert!(!String::from_utf8(ada.0.read_to_end().unwrap()).unwrap().contains("has left"));
    }
}

#[test]
fn nc_that_closes_its_sending_side_is_answered_first() {
    if !has("nc") {
        return;
    }
    let server = Server::start(&["chat"]);
    let mut ada = Member::named(&server, "ada");
    let port = server.ports[0].port().to_string();
    let mut command = Command::new("nc");
    command.args(["-N", "127.0.0.1", &port]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = Running::start_with_stdout(&mut command);
    running.stdin().unwrap().write_all(b"hello\n/who\n").unwrap();
    let ended = running.ended();
    assert!(ended.text().ends_with("* 2 here: ada, guest-2 (you)\n"), "{}", ended.text());
    ada.hears("<guest-2> hello");
    ada.hears("* guest-2 has left");
}

#[test]
fn its_help_has_an_example_and_bad_usage_is_explained() {
    let ended = run(&["chat", "--help"]);
    ended.quietly(0);
    assert!(ended.text().contains("\n  couplet chat --listen 7777"), "{}", ended.text());
    assert!(ended.text().lines().all(|line| line.len() <= 100));
    for (args, code, expected) in [
        (&["chat", "please"][..], 2, "unexpected argument 'please'"),
        (&["chat", "--listen", "example.com:1"], 2, "example.com:1\n    ^"),
    ] {
        let ended = run(args);
        assert_eq!(ended.code, Some(code), "{args:?}");
        assert!(ended.stderr.contains(expected), "{args:?}: {}", ended.stderr);
    }
    let first = Server::start(&["chat"]);
    let ended = run(&["chat", "--listen", &first.ports[0].port().to_string()]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("address already in use (something listens there already"));
}
