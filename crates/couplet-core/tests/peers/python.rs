//! Python's `ssl`, as client and as server: many bytes in both directions, the two-sided shutdown
//! by `unwrap()`, half-closes by close_notify, and a truncated stream.

use std::cell::Cell;
use std::rc::Rc;

use couplet::layers::tls::TlsVersion;
use couplet::{By, Reason, TlsError, TlsProblem, Transport};

use crate::kit::{End, Ends, Event, Program, Scene, VERSIONS, has, quiet};

const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/peer.py");
/// As in `peer.py`.
const MUCH: usize = 4 * 1024 * 1024;

fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}

/// The outcome of a connection with Python.
struct Met {
    end: End,
    said: String,
}

/// Runs a case with Python as the client and as the server, in each version, until both sides have
/// ended.
fn meet(case: &str, ends: impl Fn() -> Ends, check: impl Fn(&Met)) {
    if !has("python3") {
        return;
    }
    for (version, option) in VERSIONS {
        for role in ["client", "server"] {
            let (mut scene, ends) = (Scene::new(), ends());
            let mut python = start(&mut scene, case, role, (version, option), &ends);
            let succeeded = scene.ended(&mut python);
            let said = python.said();
            assert!(succeeded, "{case}, {role}, {version}: {said}");
            let end = ends.last();
            scene.until_lost(&end);
            assert_eq!(end.tls().version, version);
            check(&Met { end, said });
        }
    }
}

fn start(
    scene: &mut Scene,
    case: &str,
    role: &str,
    (version, option): (TlsVersion, &str),
    ends: &Ends,
) -> Program {
    if role == "client" {
        let port = scene.listen(&scene.server(scene.server_options()), ends).to_string();
        return Program::start(&mut scene.command("python3", &[PEER, case, role, &port, option]));
    }
    let mut command = scene.command("python3", &[PEER, case, role, "0", option]);
    let server = scene.listening(&mut command, "listening ");
    let options = scene.client_options().versions(version, version);
    scene.connect(&scene.client(options), server.port, ends);
    server.program
}

#[test]
fn many_bytes_go_both_ways_at_once_and_both_sides_say_goodbye() {
    let send = || {
        Ends::new(|transport, event| match event {
            Event::Made => transport.write(pattern(MUCH)),
            Event::ReadClosed => transport.lose_connection(),
            _ => {}
        })
    };
    meet("both-ways", send, |met| {
        assert!(met.said.contains("received 4194304 intact\nunwrapped"), "{}", met.said);
        assert!(met.end.has_received(&pattern(MUCH)));
        let reason = met.end.reason();
        assert!(matches!(reason, Reason::Done(By::Peer)), "{reason}");
    });
}

#[test]
fn we_half_close_and_read_everything_python_sends_afterwards() {
    let write_closed = Rc::new(Cell::new(0));
    let ask = || {
        let write_closed = write_closed.clone();
        Ends::new(move |transport, event| match event {
            Event::Made => {
                transport.write(pattern(1_000_000));
                transport.lose_write_connection();
            }
            Event::WriteClosed => write_closed.set(write_closed.get() + 1),
            _ => {}
        })
    };
    meet("answer", ask, |met| {
        assert!(met.said.contains("received 1000000 intact\nunwrapped"), "{}", met.said);
        assert!(met.end.has_received(&pattern(MUCH)) && met.end.is_read_closed());
        assert!(met.end.reason().is_clean(), "{}", met.end.reason());
        assert_eq!(write_closed.replace(0), 1);
    });
}

/// Answers once the peer has shut down its write side.
fn answer(transport: &Transport, event: Event<'_>) {
    if matches!(event, Event::ReadClosed) {
        transport.write(pattern(MUCH));
        transport.lose_connection();
    }
}

#[test]
fn python_half_closes_and_reads_everything_we_send_afterwards() {
    meet(
        "half-close",
        || Ends::new(answer),
        |met| {
            assert!(met.said.contains("half-closed\nreceived 4194304 intact"), "{}", met.said);
            assert!(met.end.has_received(&pattern(100_000)));
            assert!(matches!(met.end.reason(), Reason::Done(By::Peer)), "{}", met.end.reason());
        },
    );
}

#[test]
fn c78_a_stream_that_python_cuts_is_lost() {
    meet(
        "cut",
        || Ends::new(quiet),
        |met| {
            assert!(met.end.has_received(&pattern(100)) && !met.end.is_read_closed());
            let reason = met.end.reason();
            assert!(matches!(reason, Reason::Lost(_)), "{reason}");
            let error = reason.downcast_ref::<TlsError>().expect("it says that it was cut");
            assert_eq!(error.problem, TlsProblem::Truncated);
        },
    );
}
