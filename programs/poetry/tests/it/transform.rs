//! `poetry transform`, with raw clients.

use rustix::process::Signal;

use crate::kit::{Client, Server, noise, run};

const MIB: usize = 1024 * 1024;

fn serve() -> Server {
    Server::start(&["transform"])
}

fn netstring(string: impl AsRef<[u8]>) -> Vec<u8> {
    let string = string.as_ref();
    [format!("{}:", string.len()).as_bytes(), string, b","].concat()
}

#[test]
fn each_transformation_answers_and_the_connection_stays() {
    let server = serve();
    let mut client = server.connect();
    for (request, answer) in [
        ("cummingsify.Look ON my \u{c4}RA", "look on my \u{e4}ra"),
        ("upper.stra\u{df}e", "STRASSE"),
        ("reverse.one\ntwo\n", "two\none\n"),
        ("pirate.Your king", "Yer cap'n"),
        ("upper.a.b", "A.B"),
        ("cummingsify.", ""),
        ("upper.", ""),
        ("reverse.", ""),
        ("pirate.", ""),
    ] {
        client.send(&netstring(request));
        let answer = netstring(answer);
        assert_eq!(client.read_exact(answer.len()), answer, "{request}");
    }
    client.finish();
    assert_eq!(client.read_to_end().unwrap(), b"");
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn many_requests_are_answered_in_order_and_after_the_client_has_finished() {
    let server = serve();
    let requests: Vec<u8> = (0..20_000).flat_map(|n| netstring(format!("upper.a{n}"))).collect();
    let answers: Vec<u8> = (0..20_000).flat_map(|n| netstring(format!("A{n}"))).collect();
    let mut client = server.connect();
    let sending = client.sending(requests);
    assert!(client.read_to_end().unwrap() == answers);
    sending.join().unwrap();
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn one_byte_at_a_time_is_a_request_as_well() {
    let server = serve();
    let mut client = server.connect();
    for byte in b"7:upper.a,7:upper.b,7:upper" {
        client.send(&[*byte]);
    }
    client.finish();
    assert_eq!(client.read_to_end().unwrap(), b"1:A,1:B,");
}

#[test]
fn a_bad_request_loses_the_connection_after_the_answers_before_it() {
    let server = serve();
    let mut another = server.connect();
    for bad in [
        &netstring("nonsense.poem")[..],
        &netstring("UPPER.poem"),
        &netstring(".poem"),
        &netstring("upper"),
        &netstring(""),
        &netstring(b"upper.\xff"),
        &netstring(b"\r\n\x1b[2J.x"),
        b"hello",
        b"-1:",
        b"007:upper.a,",
        b"7:upper.a;",
        b":,",
        b"100000:",
        b"99999999999999999999999:",
        &b"9".repeat(900_000),
        &noise(500_000),
    ] {
        for before in [&b""[..], b"7:upper.a,7:upper.b,"] {
            let mut client = server.connect();
            client.send(&[before, bad, b"7:upper.c,"].concat());
            // The connection is closed although the client keeps sending.
            let expected: &[u8] = if before.is_empty() { b"" } else { b"1:A,1:B," };
            assert_eq!(client.read_to_end().unwrap(), expected);
        }
    }
    another.send(b"7:upper.a,");
    assert_eq!(another.read_exact(4), b"1:A,");
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn a_request_has_at_most_99999_bytes_unless_it_is_said_otherwise() {
    for (flags, limit) in [
        (&[][..], 99_999),
        (&["--max-length", "10"], 10),
        (&["--max-length", "3000000"], 3_000_000),
    ] {
        let server = Server::start(&[&["transform"], flags].concat());
        let request = |length: usize| netstring(format!("upper.{}", "a".repeat(length - 6)));
        let answer = netstring("A".repeat(limit - 6));
        let both = [request(limit), request(limit)].concat();
        assert!(server.connect().answered(&both) == answer.repeat(2));
        let mut client = server.connect();
        client.send(&request(limit)[..]);
        // The server refuses it at its length, and reads the rest, so that the answer arrives.
        client.send(&request(limit + 1)[..]);
        assert!(client.read_to_end().unwrap() == answer);
    }
}

#[test]
fn the_names_are_listed() {
    let ended = run(&["transform", "--list"]);
    ended.prints("cummingsify\nupper\nreverse\npirate\n");
    let help = run(&["transform", "--help"]);
    for name in ended.text().lines() {
        assert!(help.text().contains(&format!("\n  {name} ")), "{name} is in the help");
    }
}

#[test]
#[ignore = "measures; run it alone"]
fn a_client_that_never_reads_costs_at_most_1_mib_is_not_cut_and_delays_no_client() {
    // Enough clients that their allowance exceeds the loop's spare buffers, at most 4 MiB.
    const CLIENTS: usize = 8;
    let server = serve();
    // In the second case the answer has three times the bytes of the request.
    for (poem, answer) in [("x".repeat(1000), "X".repeat(1000)), growing()] {
        let (request, answer) = (netstring(format!("upper.{poem}")), netstring(answer));
        assert_eq!(server.connect().answered(&request), answer);
        let before = server.memory();
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
        let requests = request.repeat(40 * MIB / request.len());
        let taken: Vec<usize> = clients.iter_mut().map(|client| client.push(&requests)).collect();
        assert!(taken.iter().all(|taken| *taken < requests.len()), "{taken:?}");
        let grown = server.memory().saturating_sub(before);
        assert!(grown <= CLIENTS as u64 * 1024, "{CLIENTS} clients cost {grown} KiB");
        assert_eq!(server.connect().answered(&request), answer);
        // Clients that start reading get every answer.
        for (client, taken) in clients.iter_mut().zip(taken) {
            for _ in 0..taken / request.len() {
                assert!(client.read_exact(answer.len()) == answer);
            }
        }
    }
    server.stop(Signal::TERM).quietly(0);
}

/// A poem whose upper case is three times as long, and the upper case.
fn growing() -> (String, String) {
    ("\u{390}".repeat(20_000), "\u{399}\u{308}\u{301}".repeat(20_000))
}

#[test]
fn a_client_that_has_finished_and_reads_late_gets_everything() {
    let server = serve();
    let (poem, answer) = growing();
    let requests = netstring(format!("upper.{poem}")).repeat(100);
    let mut client = server.connect();
    let sending = client.sending(requests);
    let answer = netstring(answer);
    for _ in 0..100 {
        assert!(client.read_exact(answer.len()) == answer);
    }
    assert_eq!(client.read_to_end().unwrap(), b"");
    sending.join().unwrap();
}

#[test]
fn silent_clients_delay_no_client() {
    if !crate::kit::allow_a_crowd() {
        return;
    }
    let server = serve();
    let _silent: Vec<Client> = (0..100)
        .map(|n| {
            let mut client = server.connect();
            client.send(&b"99999:upper."[..n % 12]);
            client
        })
        .collect();
    assert_eq!(server.connect().answered(b"7:upper.a,"), b"1:A,");
    server.stop(Signal::TERM).quietly(0);
}
