//! Rows 105a and 105b: draining.

use couplet::reactor::{Drain, Drained};
use couplet::{Address, Deferred};

use super::endings::write_big;
use super::kit::{Kit, Rig, Role, s};
use super::peer::Saw;
use super::recorder::{Echo, Log, Script};

/// Logs the result of a drain, as `(finished, closed, aborted)`.
fn watch(log: &Log, drained: Deferred<Drained>) {
    let log = log.clone();
    drained
        .map(move |Drained { finished, closed, aborted, .. }| {
            log.note(format!("{:?}", (finished, closed, aborted)));
        })
        .detach();
}

pub(crate) fn c105a_a_drain_closes_its_port_and_asks_only_its_connections(kit: Kit) {
    let (mut rig, log) = (kit.rig(), Log::default());
    let (one, other) = (rig.end(), rig.end());
    let (port, another) = (rig.listen(&one, Script::new()), rig.listen(&other, Script::new()));
    let (_b1, _b2) = (rig.peer(&port), rig.peer(&another));
    let (client, _b3) = rig.pair(Role::Client, Script::new());
    rig.until("connections", || one.is_made() && other.is_made());
    watch(&log, port.drain(s(10)));
    assert_eq!(one.log.count("draining"), 0, "nothing is called inside it");
    rig.until("the question", || one.log.has("draining"));
    assert!(!port.is_listening() && rig.try_peer(port.host()).is_err());
    assert!(one.transport().is_draining() && !other.transport().is_draining());
    watch(&log, rig.reactor.drain(s(10)));
    rig.until("the question", || other.log.has("draining"));
    rig.turns(3);
    assert!(!another.is_listening());
    assert_eq!(one.log.count("draining"), 1, "it was asked already");
    assert_eq!(client.log.count("draining"), 0, "it is not a server's");
    assert!(log.entries().is_empty());
    for a in [&one, &other] {
        a.transport().abort_connection();
        rig.lost(a);
    }
    assert_eq!(log.entries(), ["(1, 0, 0)", "(2, 0, 0)"]);
    rig.still_echoes();
}

pub(crate) fn c105e_bytes_that_the_system_holds_come_before_the_question(kit: Kit) {
    // There the system holds no bytes: they arrive when their operation completes.
    if kit.in_flight() {
        return;
    }
    let mut rig = kit.rig();
    for _ in 0..2 {
        let a = rig.end();
        let port = rig.listen(&a, Script::new());
        let b = rig.peer(&port);
        rig.until("a connection", || a.is_made());
        assert!(!a.transport().has_received());
        b.send(b"a request");
        rig.reactor.drain(s(10)).detach();
        rig.until("the question", || a.log.has("draining"));
        assert!(a.log.entries()[1].starts_with("data"), "{:?}", a.log.entries());
        assert!(a.transport().has_received());
        a.transport().abort_connection();
        rig.lost(&a);
    }
}

pub(crate) fn c105a_ports_that_have_not_started_are_closed_and_no_connection_is_an_end(kit: Kit) {
    let (mut rig, log) = (kit.rig(), Log::default());
    let a = rig.end();
    let port = rig.listen(&a, Script::new());
    watch(&log, rig.reactor.drain(s(10)));
    watch(&log, port.drain(s(10)));
    rig.turns(3);
    assert!(!port.is_listening() && !a.is_made());
    assert_eq!(log.entries(), ["(0, 0, 0)", "(0, 0, 0)"]);
    port.start_listening().expect("it may start again");
    let b = rig.peer(&port);
    rig.until("a connection", || a.is_made());
    assert!(!a.transport().is_draining(), "that drain is over");
    drop(b);
}

pub(crate) fn c105a_a_port_may_accept_while_all_others_drain(kit: Kit) {
    let (mut rig, log) = (kit.rig(), Log::default());
    let (one, other) = (rig.end(), rig.end());
    let (port, exempt) = (rig.listen(&one, Script::new()), rig.listen(&other, Script::new()));
    exempt.accept_while_draining(true);
    let no_longer = rig.listen(&rig.end(), Script::new());
    no_longer.accept_while_draining(true);
    no_longer.accept_while_draining(false);
    let b = rig.peer(&port);
    rig.until("a connection", || one.is_made());
    watch(&log, rig.reactor.drain(s(10)));
    rig.until("the question", || one.log.has("draining"));
    assert!(!port.is_listening() && exempt.is_listening() && !no_longer.is_listening());
    let _question = rig.peer(&exempt);
    rig.until("a connection", || other.is_made());
    assert!(!other.transport().is_draining());
    b.close();
    rig.lost(&one);
    assert_eq!(log.entries(), ["(1, 0, 0)"], "the new connection does not delay it");
    watch(&log, exempt.drain(s(10)));
    rig.until("the question", || other.log.has("draining"));
    assert!(!exempt.is_listening(), "its own drain closes it");
}

pub(crate) fn c105a_a_drain_of_all_closes_every_port(kit: Kit) {
    let (mut rig, log) = (kit.rig(), Log::default());
    let listen = |rig: &Rig| rig.listen(&rig.end(), Script::new());
    let mut ports = vec![listen(&rig), listen(&rig)];
    rig.turns(2);
    ports.extend([listen(&rig), listen(&rig)]);
    watch(&log, rig.reactor.drain(s(10)));
    rig.turns(3);
    for port in &ports {
        assert!(!port.is_listening() && rig.try_peer(port.host()).is_err());
    }
    assert!(rig.l.snapshot().ports.is_empty());
    assert_eq!(log.entries(), ["(0, 0, 0)"]);
}

pub(crate) fn c105b_a_port_that_listens_again_drains_again(kit: Kit) {
    let (mut rig, log) = (kit.rig(), Log::default());
    let ends = [(); 4].map(|()| rig.end());
    let mut next = ends.clone().into_iter();
    let port = rig.listen_with(move |_: &Address| Some(next.next()?.plays(Script::new())));
    for (round, a) in ends.iter().enumerate() {
        if round > 0 {
            port.start_listening().expect("it was closed");
        }
        let b = rig.peer(&port);
        rig.until("a connection", || a.is_made());
        assert!(!a.transport().is_draining());
        watch(&log, port.drain(Drain::within(s(1)).close(s(5))));
        rig.until("the question", || a.log.has("draining"));
        assert!(!port.is_listening());
        if round % 2 == 0 {
            rig.pass(s(1));
            assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
            b.fin();
            assert_eq!(rig.lost(a), "Shutdown");
        } else {
            a.transport().abort_connection();
            rig.lost(a);
        }
        let each = ["(0, 1, 0)", "(1, 0, 0)"];
        assert_eq!(log.entries(), [each, each].concat()[..=round]);
    }
}

scripted! {
    $ finishing:

    fn c105a_a_paused_protocol_and_its_successor_are_asked_too()
        "protocol; on draining: write bye, lose; connection; once made: pause; drain 10; a until draining; a upgrade 1
        p until draining; p log made, draining, ..; b sees Fin; b got bye; a count 1 draining";

    fn c105a_an_upgrade_in_the_same_turn_is_asked_once()
        "protocol; connection; once data: upgrade 1, drains 10; b send upgrade; p until draining; turns 3
        p count 1 draining";

    fn c105b_a_drain_ends_when_its_connections_have_finished() needs awaited_end
        "on draining: write bye, lose; drain 100 patience 100; b sees Fin; b got bye; turns 2; results
        b fin; a lost Done(Us); results 1/0/0; time 0; no-timer";

    fn c105b_a_connection_that_does_not_finish_is_closed_and_at_last_aborted()
        "a write written before; next; a2 bytes BIG; next; once made: resetting; drain 10 close 5; turns 3
        a has draining; a2 has draining; a3 has draining; pass 9; turns 3; a open; a2 open; a3 open
        pass 1; b sees Fin; b got written before; b fin; a lost Shutdown; a3 lost Shutdown; b3 sees; a2 open
        pass 5; a2 lost Shutdown; results 0/1/2; echoes";

    fn c105b_a_panic_in_draining_loses_only_that_connection() needs half_close
        "on draining: panic no time; next; on draining: write bye, lose; b2 fin; drain 10; a until draining
        b fin; a lost Panicked(no time); b2 sees; a2 lost; results 2/0/0";

    // Each peer has another second.
    fn c105b_a_peer_that_does_not_answer_our_end_holds_a_drain_for_a_second() needs awaited_end
        "on draining: write bye, lose; next; drain 100; b sees Fin; pass 900ms; turns 3; a open; a2 lose; b2 sees Fin
        pass 100ms; a lost Done(Us); a2 open; pass 900ms; a2 lost Done(Us); results 2/0/0; echoes";

    // After 10 and after 20 s, each give or take 2.5 s. Each connection has its ten seconds after the pace.
    fn c105b_a_paced_drain_asks_one_group_after_the_other()
        "<6:next;> drain 10 patience 100 close 1 paced 3/30; turns 3; sum 3 draining; pass 7; turns 3; sum 3 draining
        pass 6; turns 3; sum 6 draining; pass 4; turns 3; sum 6 draining; pass 6; turns 3; sum 7 draining
        a7 abort; a7 lost; pass 16; turns 3; sum 1 lost; results ; pass 2; turns 3
        b sees Fin; b2 sees Fin; b3 sees Fin; b4 sees Fin; b5 sees Fin; b6 sees Fin
        b fin; b2 fin; b3 fin; b4 fin; b5 fin; b6 fin; a lost Shutdown; a2 lost Shutdown; a3 lost Shutdown
        a4 lost Shutdown; a5 lost Shutdown; a6 lost Shutdown; results 1/6/0; echoes",
        // No group is one group.
        "next; drain 10 paced 0/30; turns 3; sum 2 draining";

    // Connections that have ended count for the size of the groups.
    fn c105b_the_groups_of_a_paced_drain_keep_their_size()
        "<8:on draining: abort; next;> on draining: abort; drain 100 patience 100 paced 3/30
        turns 5; sum 3 lost; pass 13; turns 5; sum 6 lost; pass 10; turns 5; sum 9 lost
        results 9/0/0";

    fn c105b_a_look_for_silent_peers_does_not_end_the_pace()
        "next; drain 100 patience 3 paced 2/40; turns 3; sum 1 draining; pass 4
        turns 3; sum 1 draining; pass 22; turns 3; sum 2 draining; pass 4; turns 3; sum 0 lost";

    fn c105b_a_cancel_after_the_first_stage_leaves_the_time_to_flush()
        "a bytes BIG; drain 10 close 5; turns 3; pass 10; turns 3; a open; cancel-drain
        results failed; turns 3; a open; pass 4; turns 3; a open; pass 1; a lost Shutdown; echoes";

    fn c105b_a_cancel_closes_them_at_once_and_ends_the_pace()
        "next; drain 100{1:| paced 2/400}; any draining; cancel-drain; results failed; b sees Fin; b2 sees Fin
        b fin; b2 fin; a lost Shutdown; a2 lost Shutdown; time 0; echoes";

    fn c105b_each_silent_peer_of_a_drain_has_its_own_patience() needs awaited_end
        "next; next; drain 100 patience 10; turns 3; a lose; b sees Fin; pass 2; a2 lose; b2 sees Fin; pass 2
        a3 lose; b3 sees Fin; pass 6; a lost Done(Us); a2 open; pass 2; a2 lost Done(Us); a3 open
        pass 2; a3 lost Done(Us); results 3/0/0; echoes";

    fn c105b_the_patience_of_a_drain_can_be_set() needs awaited_end
        "on draining: write bye, lose; drain 100 patience 20; b sees Fin; pass 19; turns 3; a open
        pass 1; a lost Done(Us); results 1/0/0";
}

/// The default `draining` does nothing.
pub(crate) fn c105a_a_protocol_that_does_not_know_of_drains_is_left_alone(kit: Kit) {
    let mut rig = kit.rig();
    let port = rig.listen_with(|| Echo);
    let b = rig.peer(&port);
    b.send(b"before");
    rig.gets(&b, b"before");
    port.drain(s(10)).detach();
    rig.turns(3);
    b.send(b", and after");
    rig.gets(&b, b"before, and after");
}

pub(crate) fn c105b_a_connection_closed_by_one_drain_counts_as_closed_for_another(kit: Kit) {
    let (mut rig, log) = (kit.rig(), Log::default());
    let (idle, unread) = (rig.end(), rig.end());
    let ports = [rig.listen(&idle, Script::new()), rig.listen(&unread, Script::new())];
    let [b1, _b2] = [&ports[0], &ports[1]].map(|port| rig.peer(port));
    rig.until("connections", || idle.is_made() && unread.is_made());
    write_big(&rig, &unread);
    watch(&log, rig.reactor.drain(s(100)));
    for port in &ports {
        watch(&log, port.drain(Drain::within(s(1)).close(s(5))));
    }
    rig.turns(3);
    rig.pass(s(1));
    assert_eq!(rig.take_to_the_end(&b1), Saw::Fin);
    b1.fin();
    assert_eq!(rig.lost(&idle), "Shutdown");
    rig.pass(s(5));
    assert_eq!(rig.lost(&unread), "Shutdown");
    assert_eq!(log.entries(), ["(0, 1, 0)", "(0, 1, 1)", "(0, 0, 1)"]);
}

pub(crate) fn c105b_a_drain_that_was_cancelled_before_it_began_leaves_nothing(kit: Kit) {
    let mut rig = kit.rig();
    rig.turns(2);
    let drained = rig.reactor.drain(Drain::within(s(10)).close(s(100)));
    drained.cancel();
    drop(drained);
    rig.turns(2);
    assert!(rig.l.next_turn().is_none_or(|due| due < rig.reactor.now() + s(50)), "a timer is left");
}
