//! `--threads`: servers in several loops.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use rustix::process::Signal;

use crate::chat::Member;
use crate::kit::{Client, Server, TempFile, couplet, has, noise, run, wait_until};
use crate::needed::Folder;
use crate::peers::peer;
use crate::tls::certificate;

/// Connections accepted by each loop, from one snapshot of every loop.
fn accepted(server: &mut Server, threads: usize) -> Vec<usize> {
    server.running.signal(Signal::USR1);
    let shown = || server.running.told().matches(" accepted ").count();
    wait_until("a snapshot", || shown() >= threads);
    let told = server.running.told();
    let counts = told.lines().filter_map(|line| line.split_once(" accepted ")?.1.parse().ok());
    counts.collect()
}

#[test]
fn connections_are_spread_over_the_threads_and_all_are_served() {
    let mut server = Server::start(&["echo", "--threads", "3"]);
    let mut clients: Vec<_> = (0..50).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(b"hello");
    }
    for client in &mut clients {
        assert_eq!(client.read_exact(5), b"hello");
    }
    let counts = accepted(&mut server, 3);
    assert_eq!((counts.len(), counts.iter().sum::<usize>()), (3, 50));
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    let asked = format!("3 ports, 0 connectors, {} connections", clients.len());
    assert!(server.running.told().contains(&asked), "{}", server.running.told());
    server.running.signal(Signal::TERM);
    for mut client in clients {
        assert_eq!(client.read_to_end().expect("a clean end"), b"");
    }
    let ended = server.running.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.took.as_secs_f64() < 4.0, "{:?}", ended.took);
}

#[test]
fn each_server_has_the_driver_that_is_chosen_in_all_its_loops() {
    for server in [
        &["echo", "--threads", "3"][..],
        &["chat", "--threads", "3"],
        &["serve", ".", "--listen", "0", "--threads", "3"],
        &["poetry", "transform", "--threads", "3"],
        &["forward", "0", "127.0.0.1:1", "--threads", "3"],
    ] {
        let rings = |driver: &[&str]| Server::start(&[server, driver].concat()).rings();
        let Some(rings_with_uring) = rings(&["--driver", "uring"]) else { return };
        assert_eq!((rings_with_uring, rings(&[])), (3, Some(0)), "{server:?}");
    }
}

#[test]
fn a_unix_socket_gives_each_thread_as_many() {
    let folder = Folder::new();
    let path = folder.path("socket");
    let listen = format!("unix:{path}");
    let mut server =
        Server::start_command(couplet(&["echo", "--threads", "3", "--listen", &listen]), 0);
    assert_eq!(server.line().trim_end(), format!("listening on {listen}"));
    let mut clients: Vec<_> = (0..30).map(|_| UnixStream::connect(&path).unwrap()).collect();
    for client in &mut clients {
        client.write_all(b"hello").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
    }
    assert_eq!(accepted(&mut server, 3), [10; 3]);
    server.running.signal(Signal::TERM);
    drop(clients);
    assert_eq!(server.running.ended().code, Some(0));
    assert!(!std::fs::exists(&path).unwrap(), "its file is removed");
}

#[test]
fn a_proxy_in_several_threads_fetches_a_poem_once_for_each() {
    let bytes = noise(10_000);
    let poem = TempFile::new(&bytes);
    let mut upstream = Server::start(&["poetry", "serve", "--delay", "0", poem.path()]);
    let from = upstream.ports[0].to_string();
    let mut proxy = Server::start(&["poetry", "proxy", "--threads", "3", "--upstream", &from]);
    for _ in 0..40 {
        assert!(proxy.connect().read_to_end().expect("a clean end") == bytes);
    }
    let asked = accepted(&mut proxy, 3);
    let fetched = accepted(&mut upstream, 1);
    let busy = asked.iter().filter(|count| **count > 0).count();
    assert_eq!((asked.iter().sum::<usize>(), fetched), (40, vec![busy]), "{asked:?}");
    for server in [proxy, upstream] {
        let mut running = server.running;
        running.signal(Signal::TERM);
        assert_eq!(running.ended().code, Some(0));
    }
}

#[test]
fn tls_in_several_threads_reads_its_files_once() {
    if !has("openssl") {
        return;
    }
    let file = certificate();
    let endpoint = format!("tls:127.0.0.1:0:cert={}", file.path());
    let server =
        Server::start_command(couplet(&["echo", "--threads", "2", "--listen", &endpoint]), 0);
    let line = server.line();
    let port = line.trim_end().strip_prefix("listening on tls:127.0.0.1:").expect("a port");
    let to = format!("tls:localhost:{port}:ca={}", file.path());
    for _ in 0..6 {
        let echoed = peer(env!("CARGO_BIN_EXE_couplet"), &["connect", &to], b"a line\n");
        assert_eq!(echoed, b"a line\n");
    }
}

#[test]
fn the_totals_of_a_forward_are_those_of_all_threads() {
    let echo = Server::start(&["echo"]);
    let threads = ["--threads", "4", "--max-connections", "20"];
    let server = Server::start(&[&["forward", "0", &echo.address()], &threads[..]].concat());
    let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(b"hello");
        assert_eq!(client.read_exact(5), b"hello");
    }
    let mut one_more = server.connect();
    assert!(one_more.read_to_end().is_ok_and(|bytes| bytes.is_empty()), "it is turned away");
    for mut client in clients {
        client.finish();
        assert_eq!(client.read_to_end().expect("a clean end"), b"");
    }
    let ended = server.stop(Signal::TERM);
    let totals = "20 connections, 100 bytes sent, 100 received, 1 turned away\n";
    assert!(ended.code == Some(0) && ended.stderr.ends_with(totals), "{}", ended.stderr);
}

#[test]
fn people_of_all_threads_are_in_one_room() {
    const MEMBERS: usize = 12;
    let mut server = Server::start(&["chat", "--threads", "3"]);
    let join = |number: usize| {
        let mut member = Member::join(&server);
        member.say(&format!("/nick m{number}"));
        member.hears(&format!("* guest-{} is now m{number}", number + 1));
        member
    };
    let mut members: Vec<_> = (0..MEMBERS).map(join).collect();
    assert!(accepted(&mut server, 3).iter().all(|count| *count < MEMBERS), "in several loops");
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

#[test]
fn each_client_gets_the_next_poem_whichever_thread_serves_it() {
    let poems = [&b"a rose"[..], b"a tiger"].map(TempFile::new);
    let files = poems.each_ref().map(TempFile::path);
    let args = ["poetry", "serve", "--threads", "3", "--delay", "0"];
    let server = Server::start(&[&args[..], &files].concat());
    let read = |_| server.connect().read_to_end().expect("a poem");
    let mut got: Vec<_> = (0..20).map(read).collect();
    got.sort();
    assert_eq!(got, [vec![&b"a rose"[..]; 10], vec![&b"a tiger"[..]; 10]].concat());
}

#[test]
fn poems_by_name_transformations_and_files_come_from_several_threads() {
    let poem = TempFile::named("rose.txt", b"A rose is a rose");
    let threads = ["--threads", "2"];
    let serve = ["poetry", "serve", "--by-name", "--delay", "0", poem.path()];
    let poet = Server::start(&[&serve[..], &threads].concat());
    let critic = Server::start(&[&["poetry", "transform"][..], &threads].concat());
    let folder = std::path::Path::new(poem.path()).parent().unwrap().to_str().unwrap();
    let site = Server::start(&["serve", folder, "--threads", "2"]);
    for _ in 0..6 {
        let transform = ["--transform", &critic.address(), "--transform-name", "upper"];
        let get = ["poetry", "get", &poet.address(), "--name", "rose"];
        let got = run(&[&get[..], &transform].concat());
        assert!(got.text().contains("A ROSE IS A ROSE"), "{got:?}");
        let got = run(&["get", &format!("http://{}/rose.txt", site.address())]);
        assert_eq!(got.stdout, b"A rose is a rose");
    }
}

#[test]
fn a_sigterm_lets_the_connections_of_all_threads_finish() {
    let poem = TempFile::new(b"a poem that takes a second");
    let args = ["poetry", "serve", "--threads", "3", "--delay", "0.2", "--num-bytes", "5"];
    let mut poet = Server::start(&[&args[..], &[poem.path()]].concat());
    let mut readers: Vec<Client> = (0..9).map(|_| poet.connect()).collect();
    let begun: Vec<_> = readers.iter_mut().map(|reader| reader.read_exact(5)).collect();
    poet.running.signal(Signal::TERM);
    for (mut reader, mut text) in readers.into_iter().zip(begun) {
        text.extend(reader.read_to_end().expect("a clean end"));
        assert_eq!(text, b"a poem that takes a second");
    }
    poet.running.ended().quietly(0);
}

#[test]
fn a_thread_for_each_processor_and_a_port_that_is_in_use() {
    let server = Server::start(&["echo", "--threads", "auto"]);
    let mut client = server.connect();
    client.send(b"hello");
    assert_eq!(client.read_exact(5), b"hello");
    let second = run(&["echo", "--threads", "2", "--listen", &server.address()]);
    assert_eq!(second.code, Some(1));
    assert!(second.stderr.contains("already in use"), "{}", second.stderr);
}
