//! Rows 41 to 46 and 50: factories, the protocols they build, and the effect of a failing callback.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use couplet::{Address, ConnectError, Shared, Transport};

use crate::logged::logged;

use super::endings::{ENDINGS, Ending};
use super::kit::{BOTH_ROLES, Kit, Role, key_of};
use super::peer::{B, Saw};
use super::plays::play;
use super::recorder::{A, Log, Maker, On, Script};

pub(crate) fn c41_a_shared_factory_starts_once_and_stops_once(kit: Kit) {
    let mut rig = kit.rig();
    let (a, peer) = (rig.end(), rig.peer_port());
    let shared = Shared::new(a.makes_many());
    let one = rig.listen_with(shared.clone());
    let two = rig.listen_with(shared.clone());
    rig.connect_with(peer.address(), shared.clone());
    let b = rig.accepted(&peer);
    rig.until("connection_made", || a.is_made());
    assert_eq!((a.log.entries()[0].as_str(), a.log.count("do_start")), ("do_start", 1));
    drop(one.stop_listening());
    rig.turns(2);
    b.fin();
    rig.until("the client's end", || a.log.has("client_connection_lost"));
    rig.turns(2);
    assert!(!a.log.has("do_stop"));
    // An open connection does not delay `do_stop`.
    let _open = rig.peer(&two);
    rig.until("connection_made", || a.log.count("made") == 2);
    drop(two.stop_listening());
    rig.turns(2);
    assert_eq!(a.log.last_but(0), "do_stop");
    one.start_listening().expect("a free port can be opened");
    rig.turns(2);
    assert_eq!((a.log.count("do_start"), a.log.count("do_stop")), (2, 1));
}

scripted! {
    $ building:

    fn c42_build_protocol_comes_first_and_reading_is_on()
        "listens many; peer; b sends x; a log do_start, build(peer), made, data(1); a at-peer";

    // Rows 22c and 44 show that the next ones are served.
    fn c43_a_server_that_builds_nothing_closes()
        "listens none; peer; b send never read; b sees; b got ; a log do_start, build(peer)";

    fn c43_a_client_that_builds_nothing_gets_client_connection_lost()
        "dials open none; accepts; a until do_stop
        a log do_start, started_connecting, build(peer), client_connection_lost(Done(Us)), do_stop; b sees Fin";
}

pub(crate) fn c43_connect_fails_with_no_protocol(kit: Kit) {
    let mut rig = kit.rig();
    let (log, peer) = (Log::default(), rig.peer_port());
    let to = peer.address().to_string();
    let failed = log.clone();
    rig.reactor
        .connect(&to, Maker::new(&log, |_| None))
        .add_both(move |result| {
            let failure = result.expect_err("the factory built nothing");
            let error: Option<&ConnectError> = failure.downcast_ref();
            failed.note(format!("{error:?}"));
            Ok(())
        })
        .detach();
    rig.until("an answer", || log.has("Some(NoProtocol)"));
}

/// Plays acts in each callback of a connection, and in each kind of call into it.
const ENTRIES: &str = "aware; {server|client}
    {1:once made: ACTS|once data: ACTS|once read_closed: ACTS|once write_closed: ACTS|once resumed: ACTS|plain|plain|plain}
    tick; {1:plain|b send x|b fin|a half|a pause; turn; a resume|a tells ACTS|a asks asked ACTS|a in 0 ACTS}";

// Through layers the FIN may be seen a turn before `write_closed` is called.
pub(crate) fn c44_a_panic_in_any_callback_loses_that_connection(kit: Kit) {
    let panics = ENTRIES.replace("ACTS", "panic no more");
    let ends = "b sees Fin; turns 2; b fin; a until lost; turns 3; a has lost(Panicked(no more))
        a count {1:0|0|0|0|0|0|1|0} asked: failed; tick";
    play(kit, &[format!("errors 1; {panics}; {ends}")]);
}

pub(crate) fn c44_fail_in_any_callback_loses_that_connection(kit: Kit) {
    let fails = ENTRIES.replace("ACTS", "write last words, fail e");
    let words = "{1:last words|last words|last words||last words|last words|last words|last words}";
    let ends = format!("b sees Fin; turns 2; b got {words}; b fin; a lost Failed(e); tick");
    // After a fail in connection_made, pending data is not delivered.
    let made = "once made: fail e; arriving; b send x; b fin; a lost Failed(e); a log made, lost(Failed(e))";
    play(kit, &[format!("{fails}; {ends}"), made.to_owned()]);
}

pub(crate) fn c44_a_panic_in_build_protocol_drops_that_connection(kit: Kit) {
    for shared in [false, true] {
        let mut rig = kit.rig();
        let a = rig.end();
        let mut first = true;
        let factory = a.makes(move || {
            assert!(!std::mem::take(&mut first), "the first");
            Script::new()
        });
        let (port, of_many) = if shared {
            let shared = Shared::new(factory);
            (rig.listen_with(shared.clone()), Some(shared))
        } else {
            (rig.listen_with(factory), None)
        };
        let b1 = rig.peer(&port);
        let (sees, lines) = logged(|| rig.take_to_the_end(&b1));
        assert_ne!(sees, Saw::Open);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("the first"));
        let b2 = rig.peer(&port);
        rig.sends(&a, &b2, b"x");
        if let Some(shared) = of_many {
            let log = a.log.clone();
            shared.tell(move |_| log.note("reached"));
            rig.turn();
            assert!(a.log.has("reached"));
        }
    }
    // A client.
    let mut rig = kit.rig();
    let (log, peer) = (Log::default(), rig.peer_port());
    let ((), lines) = logged(|| {
        rig.connect_with(peer.address(), Maker::new(&log, |_| panic!("none")));
        rig.until("do_stop", || log.has("do_stop"));
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(log.entries()[3..], ["client_connection_lost(Done(Us))", "do_stop"]);
}

pub(crate) fn c44_a_failing_connection_does_not_end_the_turn(kit: Kit) {
    let mut rig = kit.rig();
    let failed: Rc<Cell<bool>> = Rc::default();
    let script = || {
        let failed = failed.clone();
        Script::new().on(On::Data, move |_| assert!(failed.replace(true), "the first"))
    };
    let (a1, b1) = rig.accept(script());
    let (a2, b2) = rig.accept(script());
    b1.send(b"x");
    b2.send(b"x");
    while !failed.get() {
        // A timed call that is due in the turn of the panic still runs in that turn.
        let ran: Rc<Cell<bool>> = Rc::default();
        let runs = ran.clone();
        rig.reactor.call_soon(move || runs.set(true));
        rig.turn();
        assert!(ran.get());
    }
    if kit.is_readiness_in_memory() {
        assert!(a1.log.has("data") && a2.log.has("data"), "in the same turn");
    }
    rig.tick();
    assert_eq!((a1.log.count("data"), a2.log.count("data")), (1, 1));
    b1.fin();
    b2.fin();
    let mut reasons = [rig.lost(&a1), rig.lost(&a2)];
    reasons.sort();
    assert_eq!(reasons, ["Done(Peer)", "Panicked(the first)"]);
}

pub(crate) fn c45_a_panic_in_connection_lost_is_logged_and_the_rest_follows(kit: Kit) {
    for ending in ["the peer's FIN", "the peer's reset", "lose"].map(Ending::named) {
        let mut rig = kit.rig();
        let (a, peer) = (rig.end(), rig.peer_port());
        let mut again = true;
        let script = || Script::new().on(On::Lost, |_| panic!("at the end"));
        let factory = a.makes(script).on_lost(move |connector| {
            assert!(std::mem::take(&mut again), "in the factory");
            assert_eq!(connector.connect(), Ok(()));
        });
        let ((), lines) = logged(|| {
            rig.connect_with(peer.address(), factory);
            for n in 1..=2 {
                let b = rig.accepted(&peer);
                rig.until("connection_made", || a.log.count("made") == n);
                ending.bring(&mut rig, &a, &b);
                rig.until("the end", || a.log.count("client_connection_lost") == n);
            }
            rig.turns(3);
        });
        let lost = format!("client_connection_lost({})", ending.reason);
        assert_eq!(a.log.count(&lost), 2, "with the original reason");
        assert_eq!(a.log.last_but(0), "do_stop");
        assert_eq!(lines.len(), 3, "{lines:?}");
    }
}

pub(crate) fn c46_host_and_peer_stay_readable(kit: Kit) {
    for role in BOTH_ROLES {
        let mut rig = kit.rig();
        let seen: Rc<RefCell<Vec<(Address, Address)>>> = Rc::default();
        let looks = || {
            let seen = seen.clone();
            move |transport: &Transport| {
                seen.borrow_mut().push((transport.host().clone(), transport.peer().clone()));
            }
        };
        let (a, b) = rig.pair(role, Script::new().on(On::Made, looks()).on(On::Lost, looks()));
        // Opened first, so that this port does not take the slot.
        let other = rig.end();
        let port = rig.listen_with(other.makes_many());
        rig.turn();
        let peer = b.address();
        b.fin();
        rig.lost(&a);
        let mut taken = Vec::new();
        let _others: Vec<B> = (1..=5)
            .map(|n| {
                let b = rig.peer(&port);
                rig.until("connection_made", || other.log.count("made") == n);
                taken.push(key_of(&other.transport()).slot);
                b
            })
            .collect();
        assert!(taken.contains(&key_of(&a.transport()).slot), "another connection has its slot");
        looks()(&a.transport());
        let seen = seen.borrow();
        assert!(seen.len() == 3 && seen.iter().all(|pair| *pair == seen[0]), "{seen:?}");
        assert!(role == Role::Client || seen[0].1 == peer);
    }
}

struct Mourner(A);

impl Drop for Mourner {
    fn drop(&mut self) {
        let transport = self.0.transport();
        transport.write("late");
        assert!(!self.0.tell(|_| {}));
        transport.reactor().call_later(Duration::ZERO, || {});
        self.0.log.note("dropped");
    }
}

pub(crate) fn c50_nothing_keeps_a_protocol_after_its_connection(kit: Kit) {
    for ending in ENDINGS {
        let mut rig = kit.rig();
        let a = rig.end();
        let held = Rc::new(Mourner(a.clone()));
        let weak: Weak<Mourner> = Rc::downgrade(&held);
        let script = Script::new().on(On::Made, move |_| drop(held.clone()));
        let b = rig.peer_of(&a, ending.script(script));
        rig.until("connection_made", || a.is_made());
        let handles = (a.transport(), a.connection());
        let call = a.call_later(Duration::from_secs(3600), |_| {});
        ending.bring(&mut rig, &a, &b);
        let asked = a.ask(|_| ());
        rig.until("connection_lost", || a.is_lost());
        assert!(weak.upgrade().is_none(), "{}: by the end of that turn", ending.name);
        assert_eq!(a.log.last_but(0), "dropped");
        assert!(handles.1.is_lost() && !call.active());
        asked.add_errback(|_| Ok(())).detach();
        drop(handles.0);
        rig.turns(3);
    }
}
