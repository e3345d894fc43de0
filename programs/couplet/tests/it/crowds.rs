//! A thousand concurrent clients.

use rustix::process::Signal;

use crate::kit::{Client, Server, allow_a_crowd, wait_until};

const CROWD: usize = 1000;

#[test]
fn a_thousand_clients_of_an_echo_server_get_each_their_own_words_back() {
    if !allow_a_crowd() {
        return;
    }
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
#[ignore = "measures; run it alone"]
fn closed_clients_leave_no_memory() {
    const LEFT: u64 = 2 * 1024;
    if !allow_a_crowd() {
        return;
    }
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
fn a_thousand_clients_are_no_hindrance_to_an_interrupt() {
    if !allow_a_crowd() {
        return;
    }
    let server = Server::start_limited(1024, &["echo"]);
    let mut clients: Vec<Client> = (0..CROWD).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.echoes(b"x");
    }
    server.stop(Signal::INT).quietly(0);
}
