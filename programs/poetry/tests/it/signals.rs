//! SIGINT, SIGTERM and SIGUSR1.

use std::io::ErrorKind;

use rustix::process::Signal;

use crate::kit::{
    Client, Running, Server, TempFile, Upstream, assert_drain_briefly, assert_stop_at_once, noise,
    program, serve_raw, wait_until,
};
use crate::serve::poet;

/// A server with a client that is draining and one that does not read 10 MB, and a server with one in
/// mid-poem.
fn busy_servers() -> Vec<(Server, Vec<Client>)> {
    let poems = [&b"short"[..], &noise(10_000_000)].map(TempFile::new);
    let files = poems.each_ref().map(TempFile::path);
    let fast = Server::start(&[&["serve", "--drain", "0", "--delay", "0"], &files[..]].concat());
    let mut draining = fast.connect();
    assert_eq!(draining.read_to_end().unwrap(), b"short");
    let mut unsent = fast.connect();
    unsent.read_exact(1000);

    let slow = Server::start(&["serve", "--drain", "0"]);
    let mut waiting = slow.connect();
    waiting.read_exact(10);
    vec![(fast, vec![draining, unsent]), (slow, vec![waiting])]
}

#[test]
fn a_server_with_open_connections_exits_with_0_within_a_second_also_at_a_second_signal() {
    assert_stop_at_once(busy_servers);
}

#[test]
fn a_sigterm_lets_a_poem_finish() {
    let (_poem, poet) =
        poet(b"a poem that takes a second", &["--delay", "0.2", "--num-bytes", "5"]);
    let mut reader = poet.connect();
    let mut text = reader.read_exact(5);
    let reading = std::thread::spawn(move || {
        text.extend(reader.read_to_end().unwrap());
        reader.finish();
        text
    });
    let ended = poet.stop(Signal::TERM);
    assert_eq!(reading.join().unwrap(), b"a poem that takes a second");
    ended.quietly(0);
}

#[test]
fn a_drain_waits_for_clients_between_requests_no_longer_than_a_second() {
    let servers: [(&[&str], &str); 2] =
        [(&["serve", "--by-name"], "\n"), (&["transform"], "7:upper.a,")];
    assert_drain_briefly(&servers);
}

#[test]
fn a_server_that_stops_resets_unfinished_poems() {
    let poem = TempFile::new(b"the whole poem");
    let args = ["serve", "-v", "--drain", "0.1", "--delay", "30", poem.path()];
    for signal in [Signal::INT, Signal::TERM] {
        let server = Server::start(&args);
        let mut client = server.connect();
        assert_eq!(client.read_exact(10), b"the whole ");
        let get = Running::start(&mut program(&["get", &server.address()]));
        let begun = || server.running.told().matches("serving a poem").count();
        wait_until("both to be sent the poem", || begun() == 2);
        assert_eq!(server.stop(signal).code, Some(0));
        assert_eq!(client.read_to_end().unwrap_err().kind(), ErrorKind::ConnectionReset);
        let ended = get.ended();
        assert_eq!((ended.code, ended.text()), (Some(1), ""), "{}", ended.stderr);
    }
}

#[test]
fn a_drain_lasts_as_long_as_it_may_or_until_the_next_signal() {
    let poem = TempFile::new(b"the whole poem");
    let serve = |threads: &str, drain: &str| {
        let args = ["serve", "-v", "--delay", "1000", "--drain", drain, poem.path()];
        let server = Server::start(&[&args[..], &["--threads", threads]].concat());
        let mut client = server.connect();
        assert_eq!(client.read_exact(10), b"the whole ");
        (server, client)
    };
    for threads in ["1", "2"] {
        let (server, mut client) = serve(threads, "0.5");
        let ended = server.stop(Signal::TERM);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.took.as_secs_f64() >= 0.5, "{threads}: {:?}", ended.took);
        assert_eq!(client.read_to_end().unwrap_err().kind(), ErrorKind::ConnectionReset);
    }

    let seconds = [Signal::INT, Signal::TERM];
    for (threads, second) in ["1", "2"].into_iter().flat_map(|n| seconds.map(|it| (n, it))) {
        let (mut server, mut client) = serve(threads, "1000");
        server.running.signal(Signal::TERM);
        server.wait_told("draining");
        let ended = server.stop(second);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_eq!(client.read_to_end().unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn an_interrupted_get_has_code_130_and_a_terminated_one_143() {
    let (_poem, server) = poet(b"a poem\n", &["--delay", "0"]);
    let silent = serve_raw(|mut client| drop(client.read_to_end())).to_string();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let args = ["get", &server.address(), &silent];
        let mut running = Running::start(&mut program(&args));
        wait_until("the first poem", || running.told().contains("a poem of 7 bytes"));
        running.signal(signal);
        let ended = running.ended();
        assert_eq!((ended.code, ended.text()), (Some(code), "a poem\n"));
        let lines: Vec<_> = ended.stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{}", ended.stderr);
        assert!(lines[1].starts_with("interrupted: 1 of 2 poems, 7 bytes"), "{}", ended.stderr);
    }
}

#[test]
fn sigusr1_shows_the_connector_that_a_get_waits_for() {
    let silent = serve_raw(|mut client| drop(client.read_to_end())).to_string();
    let mut running = Running::start(&mut program(&["get", &silent, "-vv"]));
    wait_until("a connection", || running.told().contains("connection made"));
    running.signal(Signal::USR1);
    let line = format!("connector   tcp:{silent} connected\n");
    wait_until("a snapshot", || running.told().contains(&line));
    running.signal(Signal::INT);
    assert_eq!(running.ended().code, Some(130));
}

#[test]
fn sigusr1_is_harmless_with_a_closed_stderr() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let silent = Upstream::start();
    let mut command = program(&["get", &silent.address, "--timeout", "0.5"]);
    let mut running = Running::spawn(command.stdin(std::process::Stdio::null()).stderr(writer));
    // The signal handlers are installed before the connect.
    let _client = silent.accept();
    running.signal(Signal::USR1);
    assert_eq!(running.ended().code, Some(1), "it continues to its timeout");
}
