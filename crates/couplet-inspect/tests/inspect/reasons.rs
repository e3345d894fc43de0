//! The reasons why things wait, planted in a real program.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use couplet::transport::Timeout;
use couplet::{Protocol, Reactor, Transport};
use couplet_testkit::needed::{Folder, SelfSigned};

use crate::kit::{Program, text};

/// Calls a function of the test when bytes arrive.
struct Planted(fn(&Transport));

impl Protocol for Planted {
    fn data_received(&mut self, transport: &Transport, _: &[u8]) {
        (self.0)(transport);
    }

    fn read_closed(&mut self, _: &Transport) {}
}

fn serve(reactor: &Reactor, planted: fn(&Transport)) -> SocketAddr {
    let port = reactor.listen("tcp:0:interface=127.0.0.1", move || Planted(planted));
    port.expect("a free port").host().socket_addr().expect("TCP")
}

/// A client that has sent a byte.
fn client(address: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(address).expect("it listens");
    client.write_all(b"x").expect("it reads");
    client
}

#[test]
fn a_silent_peer() {
    let (program, address) = Program::start(|reactor| serve(reactor, |_| ()));
    let mut silent = TcpStream::connect(address).expect("it listens");
    let row = program.row_with("connections", "waits for the peer's first byte for ");
    assert_eq!(text(&row, "protocol"), "Planted");
    silent.write_all(b"x").expect("it reads");
    program.row_with("connections", "waits for the peer, last heard ");
}

#[test]
fn states_of_connections() {
    type Case = (fn(&Transport), &'static str, &'static [&'static str]);
    let cases: [Case; 6] = [
        (
            |it| it.set_timeout(Timeout::Idle, Some(Duration::from_secs(3600))),
            "waits for the peer, last heard ",
            &[", reset in 60 min"],
        ),
        (Transport::pause_producing, "reading paused by Planted for ", &[]),
        (
            |it| it.pause_for(Duration::from_secs(3600)),
            "reading paused by a timer for ",
            &[", resumed in 60 min"],
        ),
        (
            Transport::lose_write_connection,
            "our side is closed; waits for the peer, last heard ",
            &[],
        ),
        (
            |it| {
                it.write(vec![7; 64 << 20]);
                it.lose_connection();
            },
            "closing (connection closed by us): ",
            &[" MiB unsent, no progress for ", ", reset in "],
        ),
        (
            Transport::lose_connection,
            "lingering (connection closed by us): our FIN went ",
            &[" ago, waits for the peer's, closed in "],
        ),
    ];
    for (planted, begins, goes_on) in cases {
        let (program, address) = Program::start(move |reactor| serve(reactor, planted));
        let _client = client(address);
        let row = program.row_with("connections", begins);
        let has_all = goes_on.iter().all(|words| text(&row, "why").contains(words));
        assert!(has_all, "{goes_on:?}: {row}");
    }
}

#[test]
fn c180_a_peer_that_reads_nothing() {
    let write = |transport: &Transport| {
        transport.set_write_cap(Some(1 << 30));
        transport.write(vec![7; 64 << 20]);
    };
    let (program, address) = Program::start(move |reactor| serve(reactor, write));
    let _client = client(address);
    let why = program.until("/connections.json", |rows| {
        let why = rows[0]["why"].as_str()?;
        why.contains("the peer has taken nothing for ").then(|| why.to_owned())
    });
    assert!(why.contains(" MiB unsent, ") && why.contains(", reset above 1 GiB"), "{why}");
}

#[test]
fn a_peer_that_has_closed_its_side() {
    let (program, address) = Program::start(|reactor| serve(reactor, |_| ()));
    client(address).shutdown(Shutdown::Write).expect("it is open");
    let mut ours = TcpStream::connect(address).expect("it listens");
    ours.shutdown(Shutdown::Write).expect("it is open");
    program.row_with("connections", "the peer has closed its side");
    drop(program);
    let _ = ours.read(&mut [0]);
}

#[test]
fn c180_a_handshake_that_does_not_proceed() {
    let folder = Folder::new();
    let file = folder.write("pem", SelfSigned::new("localhost").pem());
    let endpoint = format!("tls:0:interface=127.0.0.1:cert={file}:key={file}");
    let (program, address) = Program::start(move |reactor| {
        let port = reactor.listen(endpoint, || Planted(|_| ())).expect("a certificate");
        port.host().socket_addr().expect("TCP")
    });
    let _silent = TcpStream::connect(address).expect("it listens");
    let row = program.row_with("connections", "opening: TLS, ");
    assert!(text(&row, "why").contains(", failed in "), "{row}");
    assert_eq!(row["layers"][0], "TLS");
    assert_eq!(text(&row, "state"), "opening");
}

#[test]
fn a_connect_that_gets_no_answer() {
    // A full backlog answers no further connects.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (program, ()) = Program::start(move |reactor| {
        reactor.connect(("127.0.0.1", address.port()), || Planted(|_| ())).detach();
    });
    let row = program
        .until("/connectors.json", |rows| Some(rows[0].clone()).filter(|row| !row.is_null()));
    assert_eq!(text(&row, "target"), format!("tcp:{address}"));
    assert!(text(&row, "place").contains("reasons.rs:"), "{row}");
    let why = text(&row, "why");
    assert!(
        why.starts_with("has connection ") || why.starts_with("waits for an answer of "),
        "{why}"
    );
}

#[test]
fn c180_timed_calls_tasks_and_jobs_have_their_places() {
    let (let_go, waits) = mpsc::channel::<()>();
    let (program, ()) = Program::start(move |reactor| {
        reactor.call_later(Duration::from_secs(3600), || ());
        reactor.spawn_named("talk", std::future::pending::<couplet::Result<()>>()).detach();
        let wait = move || {
            let _ = waits.recv();
            Ok(())
        };
        reactor.defer_to_thread(wait).detach();
    });
    let call = program.row_with("calls", "due in 60 min");
    assert_eq!(text(&call, "kind"), "timed call");
    let task = program.row_with("tasks", "waits to be woken");
    assert_eq!(text(&task, "name"), "talk");
    let job = program.row_with("jobs", "runs in a thread, requested ");
    for row in [&call, &task, &job] {
        assert!(text(row, "place").contains("reasons.rs:"), "{row}");
    }
    let_go.send(()).expect("it waits");
    program.until("/jobs.json", |jobs| (jobs.as_array()?.is_empty()).then_some(()));
}

#[test]
fn c180_a_job_that_waits_for_a_thread() {
    let (let_go, waits) = mpsc::channel::<()>();
    let waits = std::sync::Arc::new(std::sync::Mutex::new(waits));
    let (program, ()) = Program::start(move |reactor| {
        for _ in 0..11 {
            let waits = waits.clone();
            let wait = move || {
                let _ = waits.lock().map(|waits| waits.recv());
                Ok(())
            };
            reactor.defer_to_thread(wait).detach();
        }
    });
    program.row_with("jobs", "waits for a thread for ");
    for _ in 0..11 {
        let_go.send(()).expect("they wait");
    }
}
