//! Rows 32, 36 to 40 and 51, and the connect timeout of row 49: the life of a connector, in order.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use couplet::testing::failure_of;
use couplet::{Address, ConnectError, ConnectOptions, Connector, ConnectorState, hooks};
use couplet_core::driver::CloseMode;

use crate::logged::logged;

use super::endings::ENDINGS;
use super::kit::{Kit, Rig};
use super::plays::play;
use super::recorder::{Log, Maker, Script};

/// An unreachable address: the driver's `connect` fails, and no event follows.
fn out_of_reach(rig: &Rig) -> Address {
    // TCP has no broadcast.
    let address = SocketAddr::from((Ipv4Addr::BROADCAST, 9));
    if let Some(network) = &rig.network {
        network.set_unreachable(address.ip());
    }
    address.into()
}

scripted! {
    $ connecting:

    fn c36_a_client_starts_in_order() needs passive_peer
        "dials open; turn; a log do_start, started_connecting, ..; a until made; turns 3
        a log do_start, started_connecting, build(peer), made; a at-peer";

    // A connector has a transport while its connection lives.
    fn c36_the_connector_knows_its_transport_until_the_end()
        "dials open; accepts; a until made; c connected; b fin; a until do_stop; c unconnected";

    fn c37_a_reconnect_keeps_the_factory_started()
        "dials open many; factory lost: connect; accepts; b fin; tick; accepts; b2 fin; tick; a until do_stop
        a log do_start<2:, started_connecting, build(peer), made, read_closed, lost(Done(Peer)), client_connection_lost(Done(Peer))>, do_stop";

    fn c38_a_failed_connect_builds_no_protocol()
        "dials refusing none; a until do_stop; turns 3
        a log do_start, started_connecting, client_connection_failed(Failed(connection refused)), do_stop";

    // Each attempt has its own 30 s.
    fn c49_an_attempt_after_a_timeout_has_the_whole_time_again()
        "dials silent none; factory failed: connect; turns 3; pass 30; turns 3
        a count 1 client_connection_failed; pass 30-1ms; turns 3; a count 1 client_connection_failed
        pass 1ms; turns 3; a count 2 client_connection_failed; a until do_stop";

    fn c39_stop_connecting_is_reported_after_started_connecting_returned()
        "dials open none; factory started: stop, note end; a until do_stop; tick
        a log do_start, started_connecting, stopped: true, end, client_connection_failed(Failed(the attempt was stopped)), do_stop; unheard";

    fn c39_stop_connecting_in_another_state_returns_false()
        "dials open; on data: write x; accepts; a until made; c stop false; turns 3; a entries 4; b send x; b gets x
        b fin; a until do_stop; c stop false",
        // A second time after a stop.
        "dials silent none; turns 3; c stop true; c stop false; turn
        a log do_start, started_connecting, client_connection_failed(Failed(the attempt was stopped)), do_stop; c stop false";

    // A stop before the first turn takes effect there.
    fn c39_a_connector_stopped_before_it_starts_tries_nothing()
        "dials open none; c stop true; turns 3
        a log do_start, started_connecting, client_connection_failed(Failed(the attempt was stopped)), do_stop; untried; c unconnected";

    fn c51_disconnect_stops_an_attempt_or_closes_the_connection()
        // While connecting.
        "dials silent none; turns 3; c disconnect; turn
        a log do_start, started_connecting, client_connection_failed(Failed(the attempt was stopped)), do_stop",
        // While connected: buffered bytes are flushed. While disconnected.
        "dials open; accepts; a until made; a bytes BIG; c disconnect; b sees Fin; b got BIG; b fin; a until do_stop
        a log do_start, started_connecting, build(peer), made, lost(Done(Us)), client_connection_lost(Done(Us)), do_stop
        c disconnect; turns 3; a entries 7";

    fn c51_connect_in_another_state_is_an_error() needs passive_peer
        "dials open many; c connect Err; turn; c connect Err; a until made; accepts; c connect Err; turns 3; b sends x
        a bytes BIG, lose; turn; c connect Err; b sees Fin; b fin; a until do_stop; a count 1 made
        a count 1 started_connecting; c connect Ok; accepts; a until-count 2 made; b2 fin; a until-count 2 do_stop
        a count 2 do_start";
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
                    reactor.connect(&to, maker).detach();
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
        let (a, peer) = (rig.end(), rig.peer_port());
        let connector = rig.connect_with(peer.address(), a.maker(ending.script(Script::new())));
        let b = rig.accepted(&peer);
        rig.until("connection_made", || a.is_made());
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

pub(crate) fn c38_a_retry_after_failure_keeps_the_factory_started(kit: Kit) {
    // The second attempt finds a listening port.
    let retry =
        "dials refusing many; factory failed: listen, connect; a until made; a count 1 do_start
        a count 2 started_connecting; a lacks do_stop";
    play(kit, &[retry]);
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

pub(crate) fn c32_a_refused_connect_has_the_systems_number_where_there_is_one(kit: Kit) {
    let mut rig = kit.rig();
    let (a, to) = (rig.end(), rig.refusing_port().address());
    let connecting = rig.reactor.connect((to, ConnectOptions::default()), a.once(Script::new()));
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
        reactor.connect(&target, factory).detach();
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
        hooks::connector(&rig.reactor, &to, options, factory);
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
