//! `--threads`: servers in several loops.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use rustix::process::Signal;

use crate::http::{Site, url};
use crate::kit::{Server, couplet, peer, run};
use crate::needed::Folder;
use crate::tls::{certificate, secure};

#[test]
fn connections_are_spread_over_the_threads_and_all_are_served() {
    let mut server = Server::start(&["echo", "--threads", "3", "--drain", "600"]);
    let mut clients: Vec<_> = (0..50).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.echoes(b"hello"));
    let counts = server.accepted(3);
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
}

#[test]
fn each_server_has_the_driver_that_is_chosen_in_all_its_loops() {
    for server in [
        &["echo", "--threads", "3"][..],
        &["serve", ".", "--listen", "0", "--threads", "3"],
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
    assert_eq!(server.accepted(3), [10; 3]);
    server.running.signal(Signal::TERM);
    drop(clients);
    assert_eq!(server.running.ended().code, Some(0));
    assert!(!std::fs::exists(&path).unwrap(), "its file is removed");
}

#[test]
fn tls_in_several_threads_reads_its_files_once() {
    needs!("openssl");
    let file = certificate();
    let (_server, to, _) = secure(&["echo", "--threads", "2"], &file);
    for _ in 0..6 {
        let echoed = peer(env!("CARGO_BIN_EXE_couplet"), &["connect", &to], b"a line\n");
        assert_eq!(echoed, b"a line\n");
    }
}

#[test]
fn the_totals_of_a_forward_sum_all_threads() {
    let echo = Server::start(&["echo"]);
    let threads = ["--threads", "4", "--max-connections", "20"];
    let server = Server::start(&[&["forward", "0", &echo.address()], &threads[..]].concat());
    let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.echoes(b"hello");
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
fn a_thread_for_each_processor_and_a_port_that_is_in_use() {
    let server = Server::start(&["echo", "--threads", "auto"]);
    let mut client = server.connect();
    client.echoes(b"hello");
    run(&["echo", "--threads", "2", "--listen", &server.address()]).says(1, "already in use");
}

#[test]
fn files_come_from_several_threads() {
    let site = Site::new(&[("rose.txt", b"A rose is a rose")]);
    let server = site.serve_with(&["--threads", "2"]);
    for _ in 0..6 {
        let got = run(&["get", &url(&server, "/rose.txt")]);
        assert_eq!(got.stdout, b"A rose is a rose");
    }
}
