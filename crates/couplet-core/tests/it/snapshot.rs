//! A snapshot's figures against known traffic, on every driver; and its printed form.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use couplet::hooks::NoteRow;
use couplet::reactor::{ConnectionSnapshot, Snapshot};
use couplet::testing::{Manner, success_of};
use couplet::transport::Timeout;
use couplet::{Address, Deferred, Failure, hooks};

use crate::pace::s;
use crate::suite::kit::{Kit, Rig};
use crate::suite::recorder::{A, On, Script};
use couplet_testkit_loops::doubles::Quiet;

const KITS: [Kit; 3] =
    [Kit::mio(), Kit::memory(Manner::Readiness), Kit::memory(Manner::Completion)];

fn of(rig: &mut Rig, a: &A) -> ConnectionSnapshot {
    let id = a.transport().id();
    let snapshot = rig.l.snapshot();
    let found = snapshot.connections.into_iter().find(|c| c.id == id);
    found.expect("a live connection")
}

#[test]
fn a_snapshot_names_the_type_of_a_protocol() {
    for kit in KITS {
        let mut rig = kit.rig();
        let port = rig.listen_with(|| Quiet);
        rig.turn();
        let _peer = rig.peer(&port);
        rig.turns(3);
        let snapshot = rig.l.snapshot();
        assert_eq!(snapshot.connections[0].protocol, std::any::type_name::<Quiet>(), "{kit:?}");
    }
}

#[test]
fn the_bytes_of_a_connection_are_counted() {
    for kit in KITS {
        let mut rig = kit.rig();
        let (a, b) = rig.accept(Script::new());
        let c = of(&mut rig, &a);
        assert_eq!((c.bytes_in, c.bytes_out, c.buffered, c.state), (0, 0, 0, "open"));
        assert_eq!(Some(&c.peer), Some(&b.address()));
        assert_eq!(&c.host, a.transport().host());
        b.send(&[1; 1000]);
        rig.until("1000 bytes", || a.received().len() == 1000);
        a.transport().write([2; 300]);
        a.transport().write_bytes(&[3; 33][..]);
        assert_eq!(of(&mut rig, &a).buffered, 333, "until the turn");
        rig.until("333 bytes", || {
            b.take_all();
            b.got_len() == 333
        });
        rig.turns(4);
        let c = of(&mut rig, &a);
        assert_eq!((c.bytes_in, c.bytes_out, c.buffered), (1000, 333, 0));
    }
}

#[test]
fn bytes_out_plus_buffered_equals_bytes_written() {
    for kit in KITS {
        let big = kit.big();
        let mut rig = kit.rig();
        let (a, b) = rig.accept(Script::new());
        a.transport().write(big);
        rig.turns(20);
        let c = of(&mut rig, &a);
        assert!(c.buffered > 0 && c.bytes_out > 0, "{c:?}");
        assert_eq!(c.buffered as u64 + c.bytes_out, big.len() as u64);
        assert_eq!(c.buffered, a.transport().buffered());
        for _ in 0..20_000 {
            b.take(64 * 1024);
            rig.turn();
            let c = of(&mut rig, &a);
            assert_eq!(c.buffered as u64 + c.bytes_out, big.len() as u64);
            assert!(c.bytes_out >= b.got_len() as u64);
            if b.got_len() == big.len() {
                break;
            }
        }
        assert_eq!(b.got_len(), big.len());
    }
}

#[test]
fn connections_have_times_of_the_loops_clock() {
    let mut rig = Kit::memory(Manner::Readiness).rig();
    let (a, b) = rig.accept(Script::new());
    rig.pass(s(10));
    b.send(b"x");
    rig.until("a byte", || a.received() == b"x");
    rig.pass(s(3));
    let c = of(&mut rig, &a);
    let now = rig.l.snapshot().at.expect("of a loop");
    assert_eq!((now - c.received_at, now - c.made_at), (s(3), s(13)));
    // The passage of time changes nothing, and sending does not end the peer's silence.
    rig.pass(s(1));
    assert_eq!(of(&mut rig, &a), c);
    a.transport().write("y");
    rig.turns(3);
    assert_eq!(of(&mut rig, &a).received_at, c.received_at);
}

#[test]
fn each_state_has_its_name() {
    for kit in KITS {
        let big = kit.big();
        let mut rig = kit.rig();
        let (a, b) = rig.accept(Script::new().aware());
        let transport = a.transport();
        transport.pause_producing();
        rig.turn();
        assert_eq!(of(&mut rig, &a).state, "paused");
        transport.resume_producing();
        rig.turns(2);
        assert_eq!(of(&mut rig, &a).state, "open");
        b.fin();
        rig.until("read_closed", || a.log.has("read_closed"));
        assert_eq!(of(&mut rig, &a).state, "half-closed");
        transport.write(big);
        transport.lose_connection();
        rig.turn();
        assert_eq!(of(&mut rig, &a).state, "flushing");
        b.take_all();
        b.reset();
        rig.lost(&a);
        let (a, b) = rig.accept(Script::new());
        a.transport().lose_connection();
        rig.take_to_the_end(&b);
        rig.turn();
        assert_eq!(of(&mut rig, &a).state, "lingering");
        b.close();
        rig.lost(&a);
        assert!(rig.l.snapshot().connections.is_empty());
    }
}

#[test]
fn ports_connectors_calls_and_tasks_are_listed() {
    let mut rig = Kit::memory(Manner::Readiness).rig();
    let network = rig.network.clone().expect("a memory driver");
    let port = rig.listen_with(|| A::default().plays(Script::new()));
    let to = port.host().socket_addr().expect("TCP");
    let peer: Vec<_> = (0..3).map(|_| network.connect(to).expect("it listens")).collect();
    rig.turns(4);
    port.pause_producing();
    rig.turn();
    let snapshot = rig.l.snapshot();
    assert_eq!(snapshot.connections.len(), peer.len());
    assert_eq!(snapshot.ports.len(), 1);
    assert_eq!(snapshot.ports[0].host, port.host());
    assert_eq!((snapshot.ports[0].counters.accepted, snapshot.ports[0].paused), (3, true));
    // Connectors in each listed state.
    network.set_name("slow", s(5), Ok(vec![to.ip()]));
    let silent = std::net::SocketAddr::from(([10, 0, 0, 1], 7));
    network.set_silent(silent);
    let target =
        network.listen(crate::suite::kit::LOOPBACK, 5).expect("a free port").port().expect("TCP");
    let factory = || A::default().plays(Script::new());
    rig.reactor.connect(("slow", 7), factory).detach();
    rig.reactor.connect(("10.0.0.1", 7), factory).detach();
    rig.reactor.connect(("127.0.0.1", target), factory).detach();
    rig.turns(4);
    let listed: Vec<_> =
        rig.l.snapshot().connectors.into_iter().map(|c| (c.target, c.state)).collect();
    assert_eq!(
        listed,
        [
            ("tcp:slow:7".to_owned(), "looking up"),
            ("tcp:10.0.0.1:7".to_owned(), "connecting"),
            (format!("tcp:127.0.0.1:{}", target), "connected"),
        ]
    );
    // Each of the two attempts has a timer.
    assert_eq!(rig.l.snapshot().pending_calls, 2);
    let call = rig.reactor.call_later(s(1), || {});
    rig.reactor.spawn(std::future::pending::<couplet::Result<()>>()).detach();
    rig.turn();
    let snapshot = rig.l.snapshot();
    assert_eq!((snapshot.pending_calls, snapshot.tasks), (3, 1));
    call.cancel();
    assert_eq!(rig.l.snapshot().pending_calls, 2);
}

#[test]
fn a_callback_gets_the_snapshot_of_its_turn() {
    let mut rig = Kit::memory(Manner::Readiness).rig();
    let seen = Rc::new(RefCell::new(None::<Snapshot>));
    let slot = seen.clone();
    let (a, b) = rig.accept(Script::new().on(On::Data, move |transport| {
        let slot = slot.clone();
        let asked = transport.reactor().snapshot();
        asked.map(move |snapshot| *slot.borrow_mut() = Some(snapshot)).detach();
    }));
    b.send(b"12345");
    rig.until("a snapshot", || seen.borrow().is_some());
    let snapshot = seen.take().expect("a snapshot");
    assert_eq!(snapshot.connections.len(), 1);
    assert_eq!(snapshot.connections[0].id, a.transport().id());
    assert_eq!(snapshot.connections[0].bytes_in, 5);
}

#[test]
fn connections_that_a_factory_rejects_are_counted_at_their_port() {
    for kit in KITS {
        let mut rig = kit.rig();
        let reactor = rig.reactor.clone();
        let count = Rc::new(Cell::new(0));
        let built = count.clone();
        let odd = move |_: &Address| {
            built.set(built.get() + 1);
            (built.get() % 2 == 1).then_some(Quiet)
        };
        let port = reactor.listen("localhost:0", odd).expect("a port");
        let clients: Vec<_> =
            (0..5).map(|_| reactor.connect_stream(port.host().to_string())).collect();
        rig.until("five connections", || count.get() == 5);
        rig.turn();
        let snapshot = rig.l.snapshot();
        let seen = &snapshot.ports[0];
        assert_eq!(
            (seen.counters.accepted, seen.counters.rejected, seen.counters.turned_away),
            (5, 2, 0)
        );
        assert!(snapshot.to_string().contains(" accepted 5, 2 rejected\n"), "{snapshot}");
        drop(clients);
    }
}

#[test]
fn unhandled_failures_are_counted_from_the_beginning_of_the_loop() {
    let before = couplet::defer::set_reporter(|_| {});
    drop(Deferred::<()>::fail(Failure::msg("before")));
    let mut rig = Kit::memory(Manner::Readiness).rig();
    assert_eq!(rig.l.snapshot().counters.unhandled_failures, 0);
    drop(Deferred::<()>::fail(Failure::msg("one")));
    Deferred::<()>::fail(Failure::msg("handled")).add_errback(|_| Ok(())).detach();
    rig.reactor.call_soon(|| drop(Deferred::<()>::fail(Failure::msg("two"))));
    rig.turns(2);
    assert_eq!(rig.l.snapshot().counters.unhandled_failures, 2);
    before.set();
}

#[test]
fn connections_that_have_ended_are_counted_by_their_reasons() {
    type End = fn(&couplet::Transport);
    const IDLE: Duration = Duration::from_millis(20);
    let ends: [(&str, End); 6] = [
        ("done", couplet::Transport::lose_connection),
        ("aborted", couplet::Transport::abort_connection),
        ("failed", |transport| transport.fail(Failure::msg("no"))),
        ("timeout", |transport| transport.set_timeout(Timeout::Idle, Some(IDLE))),
        ("overflow", |transport| {
            transport.set_write_cap(Some(1));
            transport.write("too much");
        }),
        ("panicked", |_| panic!("on purpose")),
    ];
    for kit in KITS {
        let mut rig = kit.rig();
        for (number, (word, end)) in (1..).zip(ends) {
            let (a, b) = rig.accept(Script::new().on(On::Data, end));
            b.send(b"12345");
            rig.until("its data", || a.received().len() == 5 || a.is_lost());
            if word == "timeout" {
                rig.pass(2 * IDLE);
            } else {
                b.fin();
            }
            rig.until("its end", || a.is_lost());
            rig.turns(2);
            let ended = rig.l.snapshot().ended;
            let counted: Vec<_> = ended.reasons().filter(|(_, count)| *count > 0).collect();
            let wanted: Vec<_> = ended
                .reasons()
                .filter_map(|(name, _)| {
                    ends[..number].iter().any(|(word, _)| *word == name).then_some((name, 1))
                })
                .collect();
            assert_eq!(counted, wanted, "{word}");
            assert_eq!(ended.bytes_in, 5 * number as u64, "{word}");
        }
    }
}

#[test]
fn a_snapshot_prints_a_line_per_item() {
    let mut rig = Kit::memory(Manner::Readiness).rig();
    let port = rig.listen_with(|| A::default().plays(Script::new()));
    let b = rig.peer(&port);
    rig.turns(3);
    b.send(b"hello");
    rig.pass(s(90));
    rig.turns(3);
    rig.pass(Duration::from_millis(1500));
    let id = rig.l.snapshot().connections[0].id;
    rig.reactor.connect(("10.0.0.1", 7), || A::default().plays(Script::new())).detach();
    let text = rig.l.snapshot().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "1 ports, 1 connectors, 1 connections, 0 pending calls, 0 tasks, 0 jobs, 0 watches"
    );
    assert_eq!(lines[1], format!("port        {} accepted 1", port.host()));
    assert_eq!(lines[2], "connector   tcp:10.0.0.1:7 connecting");
    let peer = b.address();
    let line = "open in 5 out 0 buffered 0 idle 1.5 s age 91.5 s: waits for the peer, last heard 1.5 s ago";
    assert_eq!(lines[3], format!("connection  {id} {peer} Recorder {line}"));
    assert_eq!(lines.len(), 4);
}

#[test]
fn recorded_requests_are_counted_before_the_turn_starts_them() {
    for kit in KITS {
        let mut rig = kit.rig();
        let reactor = rig.l.reactor();
        let before = rig.l.snapshot().ports.len();
        let port = reactor.listen("tcp:0:interface=127.0.0.1", || Quiet).unwrap();
        let connecting = reactor.connect(port.host().to_string(), || Quiet);
        for turn in 0..3 {
            let snapshot = rig.l.snapshot();
            assert_eq!(snapshot.ports.len(), before + 1, "turn {turn}: {snapshot}");
            assert_eq!(snapshot.ports[before].host, port.host());
            assert_eq!(snapshot.connectors.len(), 1, "turn {turn}: {snapshot}");
            rig.turns(1);
        }
        rig.l.run_until(connecting).unwrap();
        // A port that is stopped and restarted between two turns counts as one until it closes.
        drop(port.stop_listening());
        assert_eq!(rig.l.snapshot().ports.len(), before + 1, "it closes during the next turn");
        port.start_listening().unwrap();
        assert_eq!(rig.l.snapshot().ports.len(), before + 1);
        drop(port.stop_listening());
        rig.turns(2);
        assert_eq!(rig.l.snapshot().ports.len(), before);
    }
}

#[test]
fn a_snapshot_is_empty_while_nothing_is_counted() {
    let mut rig = Kit::memory(Manner::Readiness).rig();
    let nothing = rig.l.snapshot();
    assert!(nothing.is_empty());
    for which in 1..16 {
        let mut snapshot = nothing.clone();
        let counts = [
            &mut snapshot.pending_calls,
            &mut snapshot.tasks,
            &mut snapshot.jobs,
            &mut snapshot.watches,
        ];
        for (bit, count) in counts.into_iter().enumerate() {
            *count = which >> bit & 1;
        }
        assert!(!snapshot.is_empty(), "{snapshot}");
    }
}

#[test]
fn rows_of_the_program_are_printed_and_one_that_panics_is_left_out() {
    let mut rig = Kit::memory(Manner::Readiness).rig();
    let row = |name: &str| {
        NoteRow::new("rooms", [("room", name.to_owned()), ("members", "12".to_owned())])
    };
    let lounge = hooks::note_rows(&rig.reactor, move || vec![row("lounge"), row("bar")]);
    let _panics = hooks::note_rows(&rig.reactor, || panic!("on purpose"));
    let text = rig.l.snapshot().to_string();
    let lines: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(lines, ["rooms       lounge members 12", "rooms       bar members 12"]);
    drop(lounge);
    assert!(rig.l.snapshot().rows.is_empty());
    rig.turns(1);
}

#[test]
fn each_of_several_requests_of_a_turn_gets_its_snapshot() {
    let mut rig = Kit::memory(Manner::Readiness).rig();
    for round in 1..=2 {
        let asked = [(); 3].map(|()| rig.reactor.snapshot());
        rig.turns(2);
        for snapshot in asked {
            assert!(success_of(snapshot).is_empty(), "{round}");
        }
    }
}

#[test]
fn a_port_that_listens_again_continues_its_count() {
    for kit in KITS {
        let mut rig = kit.rig();
        let a = rig.end();
        let port = rig.listen_with(a.makes_many());
        for round in 1..=3 {
            let peer = rig.peer(&port);
            rig.until("a connection", || a.log.count("made") == round);
            assert_eq!(rig.l.snapshot().ports[0].counters.accepted, round as u64);
            drop((peer, port.stop_listening()));
            rig.turns(2);
            assert!(rig.l.snapshot().ports.is_empty());
            port.start_listening().expect("a free port");
        }
    }
}

#[test]
fn lines_of_the_program_stay_until_their_notes_are_dropped() {
    let mut rig = Kit::memory(Manner::Readiness).rig();
    let [first, second] = [(); 2].map(|()| hooks::note(&rig.reactor));
    assert!(rig.l.snapshot().notes.is_empty(), "no line is set");
    first.set("one");
    second.set("two\nthree");
    assert_eq!(rig.l.snapshot().notes, ["one", "two three"]);
    first.set("");
    assert_eq!(rig.l.snapshot().notes, ["two three"]);
    first.set("again");
    assert_eq!(rig.l.snapshot().notes, ["again", "two three"]);
    drop(second);
    let third = hooks::note(&rig.reactor);
    third.set("third");
    let snapshot = rig.l.snapshot();
    assert_eq!(snapshot.notes, ["again", "third"]);
    assert_eq!(snapshot.to_string().lines().skip(1).collect::<Vec<_>>(), ["again", "third"]);
    drop(first);
    assert_eq!(rig.l.snapshot().notes, ["third"]);
}
