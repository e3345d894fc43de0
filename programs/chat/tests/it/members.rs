//! The people of one server.

use rustix::process::Signal;

#[cfg(target_os = "linux")]
use crate::kit::next_probe;
use crate::kit::{
    Client, GREETING, Member, Server, allow_a_crowd, assert_drain_briefly, assert_idle_is_cut,
    leave_at_each_step, lines_until, noise, now, peer, wait_until,
};

/// A member that has taken this name before others talk.
fn named(server: &Server, name: &str) -> Member {
    let mut member = Member::join(server);
    member.say(&format!("/nick {name}"));
    assert!(member.line().ends_with(&format!(" is now {name}")));
    member
}

/// A server with two members.
fn ada_and_bob() -> (Server, Member, Member) {
    let server = Server::start(&[]);
    let (mut ada, bob) = (named(&server, "ada"), named(&server, "bob"));
    ada.hears("* guest-2 is now bob");
    (server, ada, bob)
}

#[test]
fn the_greeting_shows_the_name_and_the_commands() {
    let server = Server::start(&[]);
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
fn all_others_get_each_line_and_each_arrival_and_departure() {
    let server = Server::start(&[]);
    let mut ada = named(&server, "ada");
    let mut bob = Member::join(&server);
    assert_eq!(ada.line(), "* guest-2 has joined");
    bob.say("/nick bob");
    assert_eq!([ada.line(), bob.line()], ["* guest-2 is now bob"; 2]);
    let mut eve = named(&server, "eve");
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
    let (_server, mut ada, mut bob) = ada_and_bob();
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
fn a_line_holds_no_control_characters_and_cannot_forge_another_speaker() {
    let (_server, mut ada, mut bob) = ada_and_bob();
    let cases: [(&[u8], &str); 6] = [
        (b"\x1b[2J\x1b]0;title\x07", "<bob> ?[2J?]0;title?"),
        (b"well\r<tom> I said it", "<bob> well?<tom> I said it"),
        (b"\x9b31m \xff\xfb\x01 \xc2\x9b", "<bob> ?31m ??? ?"),
        (b"* tom has left", "<bob> * tom has left"),
        ("\u{202e}olleh".as_bytes(), "<bob> ?olleh"),
        (b"a line of telnet\r", "<bob> a line of telnet"),
    ];
    for (said, heard) in cases {
        bob.0.send(&[said, b"\n"].concat());
        assert_eq!(ada.line(), heard);
    }
    bob.say("/\u{1b}[31m");
    assert_eq!(bob.line(), "* There is no /?[31m; /help lists the commands.");
    // For any input, the other members get whole lines of text.
    bob.0.push(&noise(20_000));
    bob.0.send(b"\nthe end\n");
    loop {
        let line = ada.line();
        assert!(line.starts_with("<bob> ") && !line.contains(char::is_control), "{line:?}");
        if line == "<bob> the end" {
            break;
        }
    }
}

#[test]
fn a_line_that_is_too_long_is_not_said_and_the_next_one_is() {
    let (_server, mut ada, mut bob) = ada_and_bob();
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
fn an_endless_line_costs_no_memory_and_delays_no_member() {
    let (server, mut ada, mut bob) = ada_and_bob();
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
fn a_flooder_and_a_member_that_never_reads_delay_no_member() {
    let (server, mut ada, mut bob) = ada_and_bob();
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
    let server = Server::start(&[]);
    let mut ada = named(&server, "ada");
    let descriptors = server.descriptors();
    let steps: [&[u8]; 6] =
        [b"half a li", b"a line\n", b"/nick x", b"/nick x\n", b"/quit\n", b"\xff"];
    leave_at_each_step(&server, &steps);
    for leave in [drop, Client::reset] {
        leave(Member::join(&server).0);
    }
    // The last ones may still be in the queue of the port.
    wait_until("all to be gone", || {
        ada.say("/who");
        lines_until(&mut ada, " here: ").pop().unwrap() == "* 1 here: ada (you)"
    });
    wait_until("all descriptors to be closed", || server.descriptors() <= descriptors);
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn a_thousand_people_hear_one_another() {
    if !allow_a_crowd() {
        return;
    }
    let server = Server::start_limited(1100, &[]);
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
    server.stop(Signal::INT).quietly(0);
}

#[test]
fn without_descriptors_members_keep_talking() {
    let server = Server::start_limited(24, &[]);
    let mut ada = named(&server, "ada");
    let mut bob = named(&server, "bob");
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
fn a_signal_stops_the_server_cleanly_with_open_connections() {
    for signal in [Signal::INT, Signal::TERM] {
        let server = Server::start(&["--drain", "0"]);
        let mut ada = Member::join(&server);
        let mut silent = server.connect();
        silent.push(&"flood\n".repeat(20_000).into_bytes());
        ada.hears("* guest-2 has joined");
        server.stop(signal).quietly(0);
        assert!(!String::from_utf8(ada.0.read_to_end().unwrap()).unwrap().contains("has left"));
    }
}

#[test]
fn a_sigterm_lets_connections_finish() {
    let server = Server::start(&[]);
    let mut member = server.connect();
    assert!(member.read_line().contains("Welcome!"));
    let stopped = std::thread::spawn(move || server.stop(Signal::TERM));
    let said = String::from_utf8(member.read_to_end().unwrap()).unwrap();
    assert!(said.ends_with("* The server is stopping. Goodbye.\n"), "{said}");
    drop(member);
    stopped.join().unwrap().quietly(0);
}

#[test]
fn a_drain_waits_for_silent_people_no_longer_than_a_second() {
    assert_drain_briefly(&[(&[], "")]);
}

#[test]
fn nc_that_closes_its_sending_side_is_answered_first() {
    needs!("nc");
    let server = Server::start(&[]);
    let mut ada = named(&server, "ada");
    let port = server.ports[0].port().to_string();
    let said = peer("nc", &["-N", "127.0.0.1", &port], b"hello\n/who\n");
    let said = String::from_utf8(said).unwrap();
    assert!(said.ends_with("* 2 here: ada, guest-2 (you)\n"), "{said}");
    ada.hears("<guest-2> hello");
    ada.hears("* guest-2 has left");
}

#[test]
fn a_client_silent_in_mid_line_is_cut_after_the_idle_timeout() {
    assert_idle_is_cut(&[], b"half a li");
}

#[cfg(target_os = "linux")]
#[test]
fn a_client_that_may_have_vanished_is_probed() {
    let server = Server::start(&[]);
    let client = server.connect();
    wait_until("a probe that is due", || {
        next_probe(&server, &client).is_some_and(|next| (1..=60).contains(&next))
    });
}

#[test]
fn people_of_all_threads_are_in_one_room() {
    const MEMBERS: usize = 12;
    let mut server = Server::start(&["--threads", "3"]);
    let join = |number: usize| {
        let mut member = Member::join(&server);
        member.say(&format!("/nick m{number}"));
        member.hears(&format!("* guest-{} is now m{number}", number + 1));
        member
    };
    let mut members: Vec<_> = (0..MEMBERS).map(join).collect();
    assert!(server.accepted(3).iter().all(|count| *count < MEMBERS), "in several loops");
    for (number, member) in members.iter_mut().enumerate() {
        member.say(&format!("I am {number}"));
    }
    for (number, member) in members.iter_mut().enumerate() {
        let mut heard: Vec<String> = Vec::new();
        while heard.len() < MEMBERS - 1 {
            let line = member.line();
            heard.extend(line.starts_with('<').then_some(line));
        }
        heard.sort();
        let said = |by: usize| format!("<m{by}> I am {by}");
        let mut expected: Vec<_> = (0..MEMBERS).filter(|by| *by != number).map(said).collect();
        expected.sort();
        assert_eq!(heard, expected, "each line once");
    }
    members[0].say("/nick m7");
    members[0].hears("* m7 is taken; choose another name.");
    members[0].say("/who");
    members[0].hears("* 12 here: m0 (you), m1, m10, m11, m2, m3, m4, m5, m6, m7, m8, m9");
    drop(members.pop());
    members[3].hears("* m11 has left");
    server.running.signal(Signal::TERM);
    for mut member in members {
        member.hears("* The server is stopping. Goodbye.");
    }
    let ended = server.running.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}
