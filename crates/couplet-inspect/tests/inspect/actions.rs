//! Actions on the program: only if it allows them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use couplet::hooks::NoteRow;
use couplet::inspect::Inspector;
use couplet::{LoopOptions, Producer, ProducerKind, Protocol, Reactor, Transport, hooks};
use couplet_testkit_loops::doubles::Echo;
use serde_json::Value;

use crate::kit::{Program, connect, pause, post, text};

fn echo(reactor: &Reactor) -> SocketAddr {
    let port = reactor.listen("tcp:0:interface=127.0.0.1", || Echo);
    port.expect("a free port").host().socket_addr().expect("TCP")
}

fn allowed() -> Inspector {
    Inspector::at("0").actions(true)
}

fn start(inspector: Inspector) -> (Program, TcpStream, String) {
    let (program, address) = Program::start_with(inspector, LoopOptions::default(), echo);
    let client = TcpStream::connect(address).expect("it listens");
    let row = program.row_with("connections", "waits for the peer");
    let id = text(&row, "id").to_owned();
    (program, client, id)
}

#[test]
fn c182a_a_connection_is_paused_resumed_and_closed() {
    let (program, mut client, id) = start(allowed());
    assert_eq!(program.get("/state.json")["program"]["actions"], true);
    let act = |action: &str| post(&program.url(), &format!("/connections/{id}/{action}"), "", "");
    assert!(act("pause").starts_with("HTTP/1.1 200 "));
    program.row_with("connections", "reading paused by the inspector");
    client.write_all(b"x").expect("the system takes it");
    assert!(act("resume").starts_with("HTTP/1.1 200 "));
    client.read_exact(&mut [0]).expect("it is echoed");
    assert!(act("dance").starts_with("HTTP/1.1 404 "));
    assert!(act("close").starts_with("HTTP/1.1 200 "));
    assert_eq!(client.read(&mut [0]).expect("a clean end"), 0);
    drop(client);
    let is_gone = |rows: &Value| rows.as_array().expect("rows").is_empty().then_some(());
    program.until("/connections.json", is_gone);
    let gone = act("reset");
    assert!(gone.starts_with("HTTP/1.1 404 ") && gone.contains("there is no connection"), "{gone}");
}

/// Has a producer that never finishes.
struct Endless;

impl Protocol for Endless {
    fn connection_made(&mut self, transport: &Transport) {
        transport.register_producer(Idle, ProducerKind::Push).expect("the only producer");
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

struct Idle;

impl Producer for Idle {
    fn resume_producing(&mut self) {}
}

#[test]
fn a_connection_whose_close_waits_for_its_producer_is_reset() {
    let (program, address) = Program::start_with(allowed(), LoopOptions::default(), |reactor| {
        let port = reactor.listen("tcp:0:interface=127.0.0.1", || Endless);
        port.expect("a free port").host().socket_addr().expect("TCP")
    });
    let mut client = TcpStream::connect(address).expect("it listens");
    let row = program.until("/connections.json", |rows| rows.as_array()?.first().cloned());
    let path = format!("/connections/{}/close", text(&row, "id"));
    assert!(post(&program.url(), &path, "", "").starts_with("HTTP/1.1 200 "));
    let closing = program.get("/connections.json");
    assert!(text(&closing[0], "why").contains("clos"), "it waits for its producer: {closing}");
    client.read(&mut [0]).expect_err("a reset");
}

#[test]
fn an_action_is_seen_by_the_next_reader() {
    let (program, _client, id) = start(allowed());
    let paused = || text(&program.get("/connections.json")[0], "why").starts_with("reading paused");
    for (action, on) in [("pause", true), ("resume", false), ("pause", true)] {
        // The views are as young as can be.
        assert_eq!(paused(), !on);
        post(&program.url(), &format!("/connections/{id}/{action}"), "", "");
        assert_eq!(paused(), on, "{action}");
    }
}

#[test]
fn c182a_a_connection_is_reset() {
    let (program, mut client, id) = start(allowed());
    assert!(post(&program.url(), &format!("/connections/{id}/reset"), "", "").contains("done"));
    client.read(&mut [0]).expect_err("a reset");
}

#[test]
fn c182a_actions_reach_the_connections_of_each_loop() {
    let inspector = allowed();
    let programs = [(); 2].map(|()| {
        let (program, address) =
            Program::start_with(inspector.clone(), LoopOptions::default(), echo);
        (program, TcpStream::connect(address).expect("it listens"))
    });
    let [(first, one), (_second, other)] = programs;
    let rows = first.until("/connections.json", |rows| {
        Some(rows.as_array()?.clone()).filter(|rows| rows.len() == 2)
    });
    for (number, mut client) in [(1, other), (0, one)] {
        let row = rows.iter().find(|row| row["loop"] == number).expect("one in each loop");
        let path = format!("/connections/{}/reset", text(row, "id"));
        assert!(post(&first.url(), &path, "", "").contains("done"));
        client.read(&mut [0]).expect_err("a reset");
    }
}

#[test]
fn c182a_actions_are_refused_unless_they_are_allowed() {
    let (program, mut client, id) = start(Inspector::at("0"));
    let path = format!("/connections/{id}/close");
    let refused = post(&program.url(), &path, "", "");
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    assert!(refused.contains("the program does not allow actions"), "{refused}");
    client.write_all(b"x").expect("it is open");
    client.read_exact(&mut [0]).expect("it is echoed");
    assert_eq!(program.get("/state.json")["program"]["actions"], false);
}

#[test]
fn c182a_other_sites_cant_act() {
    let (program, _client, id) = start(allowed());
    let url = program.url();
    let (base, _) = url.split_once('?').expect("a token");
    let path = format!("/connections/{id}/close");
    assert!(post(base, &path, "", "").contains("the token is missing or wrong"));
    let foreign = post(&url, &path, "origin: http://example.com\r\n", "");
    assert!(foreign.starts_with("HTTP/1.1 403 "), "{foreign}");
    let page = post(&url, &path, "origin: http://a\r\nx-couplet-action: close\r\n", "");
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
}

#[test]
fn c182a_the_levels_of_the_log_are_set() {
    let (tell, told) = mpsc::channel();
    let inspector = allowed().set_log(move |levels| match levels {
        "loud" => Err("no such level".to_owned()),
        _ => tell.send(levels.to_owned()).map_err(|error| error.to_string()),
    });
    let (program, _client, _) = start(inspector);
    assert_eq!(program.get("/state.json")["program"]["sets_log"], true);
    assert!(post(&program.url(), "/log", "", "couplet=debug\n").starts_with("HTTP/1.1 200 "));
    assert_eq!(told.recv().expect("the levels"), "couplet=debug");
    let wrong = post(&program.url(), "/log", "", "loud");
    assert!(wrong.starts_with("HTTP/1.1 400 ") && wrong.contains("no such level"), "{wrong}");
    let long = post(&program.url(), "/log", "", &"x".repeat(5000));
    assert!(long.starts_with("HTTP/1.1 400 "), "{long}");
    let (without, _client, _) = start(allowed());
    assert!(post(&without.url(), "/log", "", "info").starts_with("HTTP/1.1 404 "));
}

#[test]
fn c183_a_page_that_stops_reading_is_cut() {
    let inspector = Inspector::at("0").page_timeout(Duration::from_millis(300));
    let (program, ()) = Program::start_with(inspector, LoopOptions::default(), |reactor| {
        // More than the buffers of a loopback connection hold.
        let row = || NoteRow::new("rooms", [("name", "x".repeat(16 << 20))]);
        let note = hooks::note_rows(reactor, move || vec![row()]);
        reactor.call_later(Duration::from_secs(3600), move || drop(note));
    });
    let url = program.url();
    let mut page = connect(&url);
    let query = url.split_once('?').expect("a token").1;
    let head = format!(
        "GET /live?{query} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    page.write_all(head.as_bytes()).expect("it reads");
    // Another page is still served.
    assert_eq!(program.get("/loops.json")[0]["id"], 0);
    // A ping can't be sent on a connection that was reset.
    let is_cut = (0..1200).any(|_| {
        pause();
        page.write_all(b"\x89\x80\0\0\0\0").is_err()
    });
    assert!(is_cut);
}
