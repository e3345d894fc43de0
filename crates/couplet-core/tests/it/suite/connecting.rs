//! Rows 32, 36 to 40 and 51, and the connect timeout of row 49: the life of a connector, in order.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use couplet::driver::CloseMode;
use couplet::reactor::NotDisconnected;
use couplet::testing::failure_of;
use couplet::{Address, Bytes, ConnectError, ConnectOptions, Connector, ConnectorState, Transport};

use crate::logged::logged;

use super::endings::{ENDINGS, write_big};
use super::kit::{Kit, Rig};
use super::peer::{B, Saw};
use super::recorder::{A, Log, Maker, On, Script};

const STOPPED: &str = "client_connection_failed(Failed(the attempt was stopped))";

/// An unreachable address: the driver's `connect` fails, and no event follows.
fn out_of_reach(rig: &Rig) -> Address {
    // TCP has no broadcast.
    let address = SocketAddr::from((Ipv4Addr::BROADCAST, 9));
    if let Some(network) = &rig.network {
        network.set_unreachable(address.ip());
    }
    address.into()
}

/// A client whose factory logs to A.
fn client(rig: &mut Rig, script: Script) -> (A, B, Connector) {
    let (a, peer) = (rig.end(), rig.peer_port());
    let connector = rig.connect_with(peer.address(), a.maker(script));
    let b = rig.accepted(&peer);
    rig.until("connection_made", || a.is_made());
    (a, b, connector)
}

pub(crate) fn c36_a_client_starts_in_order(kit: Kit) {
    let mut rig = kit.rig();
    let (a, peer) = (rig.end(), rig.peer_port());
    rig.connect_with(peer.address(), a.maker(Script::new()));
    rig.turn();
    assert_eq!(a.log.entries()[..2], ["do_start", "started_connecting"], "in one turn");
    rig.until("connection_made", || a.is_made());
    rig.turns(3);
    let peer = peer.address();
    let build = format!("build({peer})");
    assert_eq!(a.log.entries(), ["do_start", "started_connecting", &build, "made"]);
    assert_eq!(*a.transport().peer(), peer);
}

pub(crate) fn c36_nothing_is_called_inside_connect(kit: Kit) {
    for by_string in [false, true] {
        for place in ["outside", "a callback", "a timed call"] {
            let mut rig = kit.rig();
            let (a, peer) = (rig.end(), rig.peer_port());
            let (log, to, maker) = (a.log.clone(), peer.address(), a.maker(Script::new()));
            let connect = move |reactor: &couplet::Reactor| {
                log.note("before");
                if by_string {
                    reactor.connect(to.to_string(), maker).detach();
                } else {
                    reactor.connect_to(&to, ConnectOptions::default(), maker);
                }
                log.note("after");
            };
            match place {
                "outside" => connect(&rig.reactor),
                "a callback" => {
                    let (other, _b) = rig.accept(Script::new());
                    other.tell(move |transport| connect(transport.reactor()));
                }
                _ => {
                    let reactor = rig.reactor.clone();
                    rig.reactor.call_soon(move || connect(&reactor));
                }
            }
            rig.until("connection_made", || a.is_made());
            let seen = a.log.entries();
            assert_eq!(seen[..3], ["before", "after", "do_start"], "{place}");
        }
    }
}

pub(crate) fn c37_a_client_ends_in_order(kit: Kit) {
    for ending in ENDINGS {
        let mut rig = kit.rig();
        let (a, b, connector) = client(&mut rig, ending.script(Script::new()));
        ending.bring(&mut rig, &a, &b);
        rig.until("do_stop", || a.log.has("do_stop"));
        rig.turns(3);
        let seen = a.log.entries();
        let lost = format!("lost({})", ending.reason);
        let ends = [&lost, &format!("client_connection_{lost}"), "do_stop"];
        assert_eq!(seen[seen.len() - 3..], ends, "{}", ending.name);
        assert_eq!((a.log.count("do_start"), a.log.count("do_stop")), (1, 1));
        assert_eq!(connector.state(), ConnectorState::Disconnected);
    }
}

pub(crate) fn c37_a_reconnect_keeps_the_factory_started(kit: Kit) {
    let mut rig = kit.rig();
    let (a, peer) = (rig.end(), rig.peer_port());
    let mut again = true;
    let factory = a.makes_many().on_lost(move |connector| {
        if std::mem::take(&mut again) {
            assert_eq!(connector.connect(), Ok(()));
        }
    });
    rig.connect_with(peer.address(), factory);
    for _ in 0..2 {
        let b = rig.accepted(&peer);
        b.fin();
        rig.tick();
    }
    rig.until("do_stop", || a.log.has("do_stop"));
    let build = format!("build({})", peer.address());
    let ends = ["read_closed", "lost(Done(Peer))", "client_connection_lost(Done(Peer))"];
    let life = [&["started_connecting", &build, "made"], &ends[..]].concat();
    assert_eq!(a.log.entries(), [&["do_start"], &life[..], &life, &["do_stop"]].concat());
}

pub(crate) fn c38_a_failed_connect_builds_no_protocol(kit: Kit) {
    let mut rig = kit.rig();
    let (log, peer) = (Log::default(), rig.refusing_port());
    rig.connect_with(peer.address(), Maker::new(&log, |_| panic!("a protocol was built")));
    rig.until("do_stop", || log.has("do_stop"));
    rig.turns(3);
    let failed = "client_connection_failed(Failed(connection refused))";
    assert_eq!(log.entries(), ["do_start", "started_connecting", failed, "do_stop"]);
}

pub(crate) fn c38_a_retry_after_failure_keeps_the_factory_started(kit: Kit) {
    // The second attempt finds a listening port.
    let mut rig = kit.rig();
    let (a, peer) = (rig.end(), Rc::new(rig.refusing_port()));
    let listens = peer.clone();
    let factory = a.makes_many().on_failed(move |connector| {
        listens.listen();
        assert_eq!(connector.connect(), Ok(()));
    });
    rig.connect_with(peer.address(), factory);
    rig.until("connection_made", || a.is_made());
    assert_eq!((a.log.count("do_start"), a.log.count("started_connecting")), (1, 2));
    assert!(!a.log.has("do_stop"));
    // With a driver that reports the failure in an event, and with one whose `connect` fails
    // immediately.
    let mut rig = kit.rig();
    let peer = rig.refusing_port();
    a_thousand_failures_grow_nothing(&mut rig, peer.address());
    let mut rig = kit.rig();
    let to = out_of_reach(&rig);
    a_thousand_failures_grow_nothing(&mut rig, to);
}

/// Each attempt waits for a turn; the stack does not grow, and loop and driver leak nothing.
fn a_thousand_failures_grow_nothing(rig: &mut Rig, to: Address) {
    let log = Log::default();
    let token = Rc::new(());
    let held = Rc::downgrade(&token);
    let depths: Rc<RefCell<Vec<usize>>> = Rc::default();
    let seen = depths.clone();
    let factory = Maker::new(&log, |_| None).on_failed(move |connector| {
        let here = Rc::strong_count(&token);
        seen.borrow_mut().push(std::ptr::from_ref(&here).addr());
        if seen.borrow().len() <= 1000 {
            assert_eq!(connector.connect(), Ok(()));
        }
    });
    rig.connect_with(to, factory);
    rig.until("do_stop", || log.has("do_stop"));
    assert!(rig.tapped.waits.borrow().len() > 1000, "a turn for each");
    let depths = depths.borrow();
    let spread = depths.iter().max().zip(depths.iter().min()).map(|(max, min)| max - min);
    assert!(depths.len() == 1001 && spread < Some(16 * 1024), "{spread:?}");
    assert_eq!((log.count("do_start"), log.count("do_stop")), (1, 1));
    assert_eq!(log.entries().last().map(String::as_str), Some("do_stop"));
    for key in rig.tapped.connects.borrow().iter().filter_map(|(_, _, key)| *key) {
        assert_eq!(rig.tapped.counts(key).closes, [CloseMode::Normal]);
        assert!(key.slot < 8, "slots are reused");
    }
    assert!(held.upgrade().is_none(), "the factory is dropped");
}

pub(crate) fn c39_stop_connecting_is_reported_after_started_connecting_returned(kit: Kit) {
    let mut rig = kit.rig();
    let (log, peer) = (Log::default(), rig.peer_port());
    let inside = log.clone();
    let factory = Maker::new(&log, |_| None).on_started(move |connector| {
        inside.note(format!("stopped: {}", connector.stop_connecting()));
        inside.note("end");
    });
    rig.connect_with(peer.address(), factory);
    rig.until("do_stop", || log.has("do_stop"));
    rig.tick();
    let wanted = ["do_start", "started_connecting", "stopped: true", "end", STOPPED, "do_stop"];
    assert_eq!(log.entries(), wanted);
    if let Some(b) = peer.accept() {
        assert_ne!(rig.take_to_the_end(&b), Saw::Open);
    }
}

pub(crate) fn c39_stop_connecting_in_another_state_returns_false(kit: Kit) {
    let mut rig = kit.rig();
    let echo = Script::new().on(On::Data, |transport| transport.write("x"));
    let (a, b, connector) = client(&mut rig, echo);
    let entries = a.log.len();
    assert!(!connector.stop_connecting(), "while connected");
    rig.turns(3);
    assert_eq!(a.log.len(), entries);
    b.send(b"x");
    rig.gets(&b, b"x");
    b.fin();
    rig.until("do_stop", || a.log.has("do_stop"));
    assert!(!connector.stop_connecting(), "after the end");
    // A second time after a stop.
    let (log, silent) = (Log::default(), rig.silent_port());
    let connector = rig.connect_with(silent.address(), Maker::new(&log, |_| None));
    rig.turns(3);
    assert!(connector.stop_connecting());
    assert!(!connector.stop_connecting());
    rig.turn();
    assert_eq!(log.entries()[2..], [STOPPED, "do_stop"]);
    assert!(!connector.stop_connecting());
}

pub(crate) fn c32_a_refused_connect_has_the_systems_number_where_there_is_one(kit: Kit) {
    let mut rig = kit.rig();
    let (a, to) = (rig.end(), rig.refusing_port().address());
    let connecting =
        rig.reactor.connect_to_deferred(to, ConnectOptions::default(), a.once(Script::new()));
    rig.until("the failure", || connecting.has_fired());
    let failure = failure_of(connecting);
    let error: &ConnectError = failure.downcast_ref().expect("an error of the connect");
    assert!(matches!(error, ConnectError::Refused(_)), "{error:?}");
    assert_eq!(error.raw_os_error().is_some(), kit.has_sockets());
}

pub(crate) fn c40_a_refused_connect_is_reported_by_a_turn(kit: Kit) {
    let mut rig = kit.rig();
    let peer = rig.refusing_port();
    reported_by_a_turn(&mut rig, peer.address());
    let mut rig = kit.rig();
    let to = out_of_reach(&rig);
    reported_by_a_turn(&mut rig, to);
}

fn reported_by_a_turn(rig: &mut Rig, to: Address) {
    let log = Log::default();
    let inside: Rc<Cell<u32>> = Rc::default();
    let deep = inside.clone();
    let checks = move |_: &Connector| assert_eq!(deep.get(), 0, "reported inside a call");
    // One attempt from outside, one from a callback, one from a failure report.
    let reactor = rig.reactor.clone();
    let (depth, attempt_log, target) = (inside.clone(), log.clone(), to.clone());
    let connect = Rc::new(move || {
        depth.set(depth.get() + 1);
        let before = attempt_log.len();
        let factory = Maker::new(&attempt_log, |_| None).on_failed(checks.clone());
        reactor.connect_to(&target, ConnectOptions::default(), factory);
        assert_eq!(attempt_log.len(), before, "no callback inside the call");
        depth.set(depth.get() - 1);
    });
    connect();
    let (other, _b) = rig.accept(Script::new());
    let from_callback = connect.clone();
    other.tell(move |_| from_callback());
    let from_report = connect.clone();
    let reports = Maker::new(&Log::default(), |_| None).on_failed(move |_| from_report());
    rig.connect_with(to, reports);
    let ((), lines) = logged(|| {
        rig.until("three reports", || log.count("client_connection_failed") == 3);
    });
    assert!(!log.has("build") && lines.is_empty(), "{lines:?}");
}

pub(crate) fn c49_an_unanswered_connect_ends_after_30_s(kit: Kit) {
    for (timeout, seconds) in [(None, 30), (Some(Duration::from_secs(5)), 5)] {
        let mut rig = kit.rig();
        let (log, silent) = (Log::default(), rig.silent_port());
        let to = silent.address();
        let mut options = ConnectOptions::default();
        if let Some(timeout) = timeout {
            options = options.timeout(timeout);
        }
        let factory = Maker::new(&log, |_| None);
        rig.reactor.connect_to(&to, options, factory);
        rig.turns(3);
        rig.pass(Duration::from_secs(seconds) - Duration::from_millis(1));
        rig.turn();
        assert_eq!(log.entries(), ["do_start", "started_connecting"]);
        rig.pass(Duration::from_millis(1));
        rig.turn();
        let failed = format!("client_connection_failed(Failed(no answer within {seconds}s))");
        assert_eq!(log.entries()[2..], [failed.as_str(), "do_stop"]);
        let attempts = rig.tapped.connects.borrow().clone();
        let [(_, _, Some(key))] = attempts[..] else { panic!("{attempts:?}") };
        assert_eq!(rig.tapped.counts(key).closes, [CloseMode::Reset]);
    }
}

pub(crate) fn c51_disconnect_does_what_the_state_asks_for(kit: Kit) {
    // While connecting.
    let mut rig = kit.rig();
    let (log, silent) = (Log::default(), rig.silent_port());
    let connector = rig.connect_with(silent.address(), Maker::new(&log, |_| None));
    rig.turns(3);
    connector.disconnect();
    rig.turn();
    assert_eq!(log.entries()[2..], [STOPPED, "do_stop"]);
    // While connected: buffered bytes are flushed.
    let (a, b, connector) = client(&mut rig, Script::new());
    write_big(&rig, &a);
    connector.disconnect();
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert!(b.got() == kit.big());
    b.fin();
    rig.until("do_stop", || a.log.has("do_stop"));
    let ends = ["lost(Done(Us))", "client_connection_lost(Done(Us))", "do_stop"];
    assert_eq!(a.log.entries()[4..], ends);
    // While disconnected.
    connector.disconnect();
    rig.turns(3);
    assert_eq!(a.log.len(), 7);
}

pub(crate) fn c51_connect_in_another_state_is_an_error(kit: Kit) {
    let mut rig = kit.rig();
    let (a, peer) = (rig.end(), rig.peer_port());
    let connector = rig.connect_with(peer.address(), a.makes_many());
    assert_eq!(connector.connect(), Err(NotDisconnected), "before it starts");
    rig.turn();
    assert!(connector.state() != ConnectorState::Connecting || connector.connect().is_err());
    rig.until("connection_made", || a.is_made());
    let b = rig.accepted(&peer);
    assert_eq!(connector.connect(), Err(NotDisconnected), "while connected");
    rig.turns(3);
    rig.sends(&a, &b, b"x");
    a.transport().write_bytes(Bytes::from_static(kit.big()));
    a.transport().lose_connection();
    rig.turn();
    assert_eq!(connector.connect(), Err(NotDisconnected), "while closing");
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    b.fin();
    rig.until("do_stop", || a.log.has("do_stop"));
    assert_eq!((a.log.count("made"), a.log.count("started_connecting")), (1, 1));
    // A full second life.
    assert_eq!(connector.connect(), Ok(()));
    let b = rig.accepted(&peer);
    rig.until("connection_made", || a.log.count("made") == 2);
    b.fin();
    rig.until("do_stop", || a.log.count("do_stop") == 2);
    assert_eq!(a.log.count("do_start"), 2);
}

/// A stop before the first turn takes effect there.
pub(crate) fn c39_a_connector_stopped_before_it_starts_tries_nothing(kit: Kit) {
    let mut rig = kit.rig();
    let (log, peer) = (Log::default(), rig.peer_port());
    let connector = rig.connect_with(peer.address(), Maker::new(&log, |_| None));
    assert!(connector.stop_connecting());
    rig.turns(3);
    assert_eq!(log.entries(), ["do_start", "started_connecting", STOPPED, "do_stop"]);
    assert!(rig.tapped.connects.borrow().is_empty());
    assert!(connector.transport().is_none());
}

/// A connector has a transport while its connection lives.
pub(crate) fn c36_the_connector_knows_its_transport_until_the_end(kit: Kit) {
    let mut rig = kit.rig();
    let (a, b, connector) = client(&mut rig, Script::new());
    assert_eq!(connector.transport(), Some(a.transport()));
    b.fin();
    rig.until("do_stop", || a.log.has("do_stop"));
    assert_eq!(connector.transport(), None::<Transport>);
}
