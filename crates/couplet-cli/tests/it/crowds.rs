//! A thousand concurrent clients.

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use crate::kit::{Client, Server, TempFile, noise, wait_until};

const CROWD: usize = 1000;

/// This process needs a descriptor for each client; the server keeps the usual limit of 1024.
pub(crate) fn allow_a_crowd() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = 20_000.min(limit.maximum.unwrap_or(u64::MAX));
    if limit.current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit }).unwrap();
    }
}

#[test]
fn a_thousand_clients_of_an_echo_server_get_each_their_own_words_back() {
    allow_a_crowd();
    let server = Server::start_limited(1024, &["echo"]);
    let mut clients: Vec<Client> = (0..CROWD).map(|_| server.connect()).collect();
    for round in 0..3 {
        let words = |n: usize| format!("client {n}, round {round}");
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(words(n).as_bytes());
        }
        for (n, client) in clients.iter_mut().enumerate() {
            let words = words(n);
            assert_eq!(client.read_exact(words.len()), words.as_bytes());
        }
    }
    for client in &mut clients {
        client.finish();
        assert_eq!(client.read_to_end().unwrap(), b"");
    }
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn clients_that_have_gone_leave_no_memory_behind() {
    const LEFT: u64 = 2 * 1024;
    allow_a_crowd();
    let server = Server::start_limited(8192, &["echo"]);
    let before = server.memory();
    let clients: Vec<Client> = (0..6000).map(|_| server.connect()).collect();
    wait_until("a socket for each client", || server.running.sockets() > clients.len());
    let with_all = server.memory();
    assert!(with_all > before + LEFT, "from {before} to {with_all} KiB: it proves nothing");
    drop(clients);
    wait_until("the memory of the clients", || server.memory() <= before + LEFT);
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn a_thousand_clients_of_a_poetry_server_get_each_the_whole_poem() {
    allow_a_crowd();
    let bytes = noise(3000);
    let poem = TempFile::new(&bytes);
    let pace = ["--delay", "0.1", "--num-bytes", "300"];
    let args = [&["poetry", "serve", poem.path()], &pace[..]].concat();
    let server = Server::start_limited(1024, &args);
    let clients: Vec<Client> = (0..CROWD).map(|_| server.connect()).collect();
    for mut client in clients {
        assert!(client.read_to_end().unwrap() == bytes);
    }
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn a_thousand_clients_of_a_server_by_name_get_each_what_they_ask_for() {
    allow_a_crowd();
    let bytes = noise(3000);
    let poem = TempFile::named("noise.bin", &bytes);
    let pace = ["--by-name", "--delay", "0.1", "--num-bytes", "1000"];
    let args = [&["poetry", "serve", poem.path()], &pace[..]].concat();
    let server = Server::start_limited(1024, &args);
    let mut clients: Vec<Client> = (0..CROWD).map(|_| server.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(format!("no {n}\nnoise\n").as_bytes());
        client.finish();
    }
    for (n, mut client) in clients.into_iter().enumerate() {
        let error = format!("error there is no poem \"no {n}\"; an empty line gets the titles\r\n");
        let expected = [error.as_bytes(), b"poem 3000 noise\r\n", &bytes].concat();
        assert!(client.read_to_end().unwrap() == expected);
    }
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn a_thousand_clients_of_a_transformation_server_get_each_their_own_words_back() {
    allow_a_crowd();
    let server = Server::start_limited(1024, &["poetry", "transform"]);
    let mut clients: Vec<Client> = (0..CROWD).map(|_| server.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(format!("14:upper.poem {n:03},0").as_bytes());
    }
    for (n, mut client) in clients.into_iter().enumerate() {
        assert_eq!(client.read_exact(11), format!("8:POEM {n:03},").as_bytes());
        client.finish();
        assert_eq!(client.read_to_end().unwrap(), b"");
    }
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn a_thousand_clients_are_no_hindrance_to_an_interrupt() {
    allow_a_crowd();
    let server = Server::start_limited(1024, &["echo"]);
    let mut clients: Vec<Client> = (0..CROWD).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(b"x");
        client.read_exact(1);
    }
    let ended = server.stop(Signal::INT);
    ended.quietly(0);
    assert!(ended.took.as_secs_f64() < 1.0, "{:?}", ended.took);
}
