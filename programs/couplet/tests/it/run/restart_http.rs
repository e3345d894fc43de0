//! Kept connections of HTTP in a restart.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::restart::{Restarted, services};
use super::{FILE, Program};
use crate::kit::{Client, few_or_many, noise, wait_until};
use crate::needed::Folder;

const SMALL: &[u8] = b"a small file";

/// A server of the files of `site`.
fn site(name: &str) -> String {
    format!("[services.{name}]\nkind = \"serve\"\nfolder = \"site\"\nlisten = \"0\"\n")
}

fn start(big: &[u8]) -> Restarted {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("site")).unwrap();
    for (name, bytes) in [("site/small", SMALL), ("site/big", big), ("site/last", SMALL)] {
        folder.write(name, bytes);
    }
    Restarted(Program::start_with(folder, &services(&[site("s")], "generations = 101"), &[]))
}

/// Requests a file. Returns it, and whether the connection ends.
fn fetch(client: &mut Client, path: &str) -> (Vec<u8>, bool) {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
    read_file(client)
}

fn read_file(client: &mut Client) -> (Vec<u8>, bool) {
    assert_eq!(client.read_line(), "HTTP/1.1 200 OK\r");
    let (mut length, mut ends) = (0, false);
    loop {
        let line = client.read_line().to_lowercase();
        match line.trim_end().split_once(": ") {
            Some(("content-length", number)) => length = number.parse().unwrap(),
            Some(("connection", word)) => ends = word == "close",
            Some(_) => {}
            None => break,
        }
    }
    (client.read_exact(length), ends)
}

/// Requests a file repeatedly until `ends` is set; returns the numbers of requests and connections.
fn fetch_for_ever(port: SocketAddr, ends: &AtomicBool) -> (usize, usize) {
    let mut client = Client::connect(port);
    let (mut requests, mut connections) = (0, 1);
    while !ends.load(Ordering::Relaxed) {
        let (bytes, is_last) = fetch(&mut client, "/small");
        assert!(bytes == SMALL, "other bytes came back");
        requests += 1;
        if is_last {
            assert!(client.read_to_end().unwrap().is_empty());
            client = Client::connect(port);
            connections += 1;
        }
    }
    (requests, connections)
}

#[test]
fn c51d_kept_connections_of_http_move_and_no_request_fails_in_restarts() {
    let big = Arc::new(noise(2_000_000));
    let mut program = start(&big);
    let port = program.port("s");
    let mut kept: Vec<Client> = (0..40).map(|_| Client::connect(port)).collect();
    for client in &mut kept[20..] {
        assert_eq!(fetch(client, "/small"), (SMALL.to_vec(), false));
    }
    // One has sent a part of its next request.
    kept[39].send(b"GET /last HTTP/1.1\r\nHo");
    let ends = Arc::new(AtomicBool::new(false));
    let loops = [0, 1, 2].map(|_| {
        let ends = ends.clone();
        std::thread::spawn(move || fetch_for_ever(port, &ends))
    });
    let (whole_ends, wanted) = (ends.clone(), big.clone());
    let whole = std::thread::spawn(move || {
        let mut count = 0;
        while !whole_ends.load(Ordering::Relaxed) {
            let (bytes, _) = fetch(&mut Client::connect(port), "/big");
            assert!(bytes == *wanted, "other bytes came back");
            count += 1;
        }
        count
    });
    let restarts = few_or_many(20, 100);
    for _ in 0..restarts {
        program.restart();
    }
    ends.store(true, Ordering::Relaxed);
    for one in loops {
        let (requests, connections) = one.join().unwrap_or_else(|_| panic!("{}", program.told()));
        assert!(requests > 100 && connections <= restarts + 1, "{requests} {connections}");
    }
    assert!(whole.join().unwrap_or_else(|_| panic!("{}", program.told())) > 1);
    // No older process has a connection.
    wait_until("the end of the first", || !program.is_running());
    wait_until("the ends of the others", || program.generations() == (restarts as u32 + 1, 0));
    kept[39].send(b"st: localhost\r\n\r\n");
    assert_eq!(read_file(&mut kept[39]), (SMALL.to_vec(), false));
    for client in &mut kept {
        assert_eq!(fetch(client, "/last"), (SMALL.to_vec(), false));
        let peer = client.address();
        program.wait_told(&format!("peer=tcp:{peer} method=GET target=/last status=200"));
    }
    program.stop();
}

#[test]
fn a_kept_connection_ends_if_its_service_was_removed() {
    let mut program = start(b"");
    let mut client = Client::connect(program.port("s"));
    assert_eq!(fetch(&mut client, "/small"), (SMALL.to_vec(), false));
    program.folder.write(FILE, services(&[site("other")], ""));
    program.restart();
    assert!(client.read_to_end().unwrap().is_empty());
    wait_until("the end of the first", || !program.is_running());
    program.stop();
}
