//! Rows 22e, 71b and 71c: limits on the connections of a loop and on their unsent output.

use couplet::{Address, ListenOptions, LoadLimits, ProducerKind};

use super::kit::{Kit, Rig, Role};
use super::peer::{B, Saw};
use super::recorder::{A, Log, Maker, Script};

const MOST: usize = 1024 * 1024;

/// A loop with a limit on unsent output.
fn limited(kit: Kit, limits: fn(LoadLimits, usize) -> LoadLimits) -> Rig {
    let rig = kit.rig();
    rig.reactor.set_load_limits(limits(LoadLimits::default(), MOST));
    rig
}

pub(crate) fn c22e_a_full_loop_accepts_nothing_on_any_port(kit: Kit) {
    let mut rig = kit.rig();
    rig.reactor.set_load_limits(LoadLimits::default().connections(2));
    let ports = [rig.end(), rig.end()].map(|a| (rig.listen_with(a.makes_many()), a));
    rig.turn();
    let mut peers: Vec<B> = (0..6).map(|n| rig.peer(&ports[n % 2].0)).collect();
    let made = || ports.iter().map(|(_, a)| a.log.count("made")).sum::<usize>();
    rig.until("two connections", || made() >= 2);
    rig.turns(10);
    // Each port may accept one more in the turn in which the loop becomes full.
    assert!(made() <= 3, "the others wait");
    assert!(rig.l.snapshot().ports.iter().all(|port| port.paused));
    // A port may be exempt.
    let a = rig.end();
    let exempt = rig.listen_with(a.makes_many());
    exempt.accept_under_load(true);
    rig.turns(2);
    let question = rig.peer(&exempt);
    rig.until("an answer", || a.log.count("made") == 1);
    question.close();
    rig.until("its end", || a.log.count("lost") == 1);
    exempt.accept_under_load(false);
    rig.turns(2);
    assert!(rig.l.snapshot().ports.iter().all(|port| port.paused), "no longer");
    let question = rig.peer(&exempt);
    rig.turns(10);
    assert_eq!(a.log.count("made"), 1);
    exempt.accept_under_load(true);
    rig.until("another answer", || a.log.count("made") == 2);
    question.close();
    rig.until("its end", || a.log.count("lost") == 2);
    exempt.stop_listening().expect("it listens").detach();
    rig.turns(2);
    for peer in peers.drain(..) {
        peer.close();
        rig.turns(10);
        assert!(rig.l.snapshot().connections.len() <= 3);
    }
    rig.until("all six", || made() == 6);
    while rig.l.snapshot().ports.iter().any(|port| port.paused) {
        rig.turn();
    }
}

pub(crate) fn c22e_a_loop_takes_other_limits_while_it_runs(kit: Kit) {
    let mut rig = kit.rig();
    let a = rig.end();
    let port = rig.listen_with(a.makes_many());
    let mut peers: Vec<B> = (0..3).map(|_| rig.peer(&port)).collect();
    rig.until("all three", || a.log.count("made") == 3);
    // Below the number that there are: these stay, and the next ones wait.
    rig.reactor.set_load_limits(LoadLimits::default().connections(2));
    rig.turns(2);
    peers.extend([rig.peer(&port), rig.peer(&port)]);
    rig.turns(10);
    let paused = |rig: &mut Rig| rig.l.snapshot().ports.iter().all(|port| port.paused);
    assert!(paused(&mut rig));
    assert_eq!((a.log.count("made"), a.log.count("lost")), (3, 0));
    // One more than there are, and then none.
    rig.reactor.set_load_limits(LoadLimits::default().connections(4));
    rig.until("the fourth", || a.log.count("made") >= 4);
    while !paused(&mut rig) {
        rig.turn();
    }
    rig.reactor.set_load_limits(LoadLimits::default());
    rig.until("the fifth", || a.log.count("made") == 5);
    rig.turns(2);
    assert!(!paused(&mut rig));
    // The connections accepted in between count for the limit.
    rig.reactor.set_load_limits(LoadLimits::default().connections(4));
    rig.turns(2);
    assert!(paused(&mut rig));
    for peer in peers.drain(..2) {
        peer.close();
    }
    rig.until("their ends", || a.log.count("lost") == 2);
    rig.turns(2);
    assert!(!paused(&mut rig));
}

/// Connects of the loop count, before any port accepts. A limit of 0 is one of 1.
pub(crate) fn c22e_outgoing_connections_count(kit: Kit) {
    for most in [0, 2] {
        let mut rig = kit.rig();
        rig.reactor.set_load_limits(LoadLimits::default().connections(most));
        let a = rig.end();
        let port = rig.listen_with(a.makes_many());
        rig.turns(2);
        for round in 1..=2 {
            let mut clients: Vec<(A, B)> =
                (0..most.max(1)).map(|_| rig.pair(Role::Client, Script::new())).collect();
            rig.turns(3);
            assert!(rig.l.snapshot().ports.iter().all(|port| port.paused), "{most}, {round}");
            let waits = rig.peer(&port);
            rig.turns(10);
            assert_eq!(a.log.count("made"), round - 1, "{most}");
            let (client, b) = clients.pop().expect("one or two");
            b.close();
            rig.lost(&client);
            rig.until("the one that waits", || a.log.count("made") == round);
            for (client, b) in clients {
                b.close();
                rig.lost(&client);
            }
            waits.close();
            rig.until("its end", || a.log.count("lost") == round);
        }
    }
}

/// Fills the network of a connection, and has it hold this much output.
pub(super) fn hold(rig: &mut Rig, a: &A, bytes: usize) {
    let transport = a.transport();
    while transport.buffered() < bytes {
        let missing = bytes - transport.buffered();
        transport.write(vec![0; if transport.buffered() > 0 { missing } else { 16 * 1024 }]);
        rig.turns(10);
    }
}

/// Connections that hold unsent output of these sizes, with their peers.
fn crowd(rig: &mut Rig, sizes: &[usize]) -> Vec<(A, B)> {
    let crowd: Vec<_> = sizes.iter().map(|_| rig.accept(Script::new())).collect();
    for ((a, _), bytes) in crowd.iter().zip(sizes) {
        hold(rig, a, *bytes);
    }
    crowd
}

/// Connections of one port, which hold unsent output of these sizes.
pub(super) fn crowd_at(rig: &mut Rig, options: ListenOptions, sizes: &[usize]) -> Vec<(A, B)> {
    let ends: Vec<A> = sizes.iter().map(|_| rig.end()).collect();
    let mut next = ends.clone().into_iter();
    let build = move |_: &Address| Some(next.next()?.plays(Script::new()));
    let port = rig.listen_at(options, Maker::new(&Log::default(), build));
    let mut crowd = Vec::new();
    for (a, bytes) in ends.into_iter().zip(sizes) {
        let b = rig.peer(&port);
        rig.until("a connection", || a.is_made());
        hold(rig, &a, *bytes);
        crowd.push((a, b));
    }
    crowd
}

pub(super) fn lost(crowd: &[(A, B)]) -> Vec<bool> {
    crowd.iter().map(|(a, _)| a.is_lost()).collect()
}

/// Three connections reach a limit; the second has the largest buffer.
fn reach_a_limit(kit: Kit, limits: fn(LoadLimits, usize) -> LoadLimits) {
    let (mut rig, k) = (limited(kit, limits), 1024);
    let crowd = crowd(&mut rig, &[200 * k, 500 * k, 100 * k]);
    assert_eq!(lost(&crowd), [false; 3]);
    assert_eq!(rig.l.snapshot().counters.shed, 0);
    hold(&mut rig, &crowd[0].0, 450 * k);
    rig.turns(3);
    assert_eq!(lost(&crowd), [false, true, false]);
    assert_eq!(rig.lost(&crowd[1].0), "Overflow");
    assert_eq!(rig.l.snapshot().counters.shed, 1);
    // The others get everything.
    assert!(crowd[0].0.transport().buffered() >= 450 * k);
    rig.until("all of it", || {
        crowd[0].1.take_all();
        crowd[0].0.transport().buffered() == 0
    });
    assert_eq!(lost(&crowd), [false, true, false]);
}

pub(crate) fn c71b_the_connection_with_most_output_is_ended(kit: Kit) {
    reach_a_limit(kit, LoadLimits::buffered);
}

pub(crate) fn c71b_each_peer_with_an_address_has_a_separate_limit(kit: Kit) {
    reach_a_limit(kit, LoadLimits::buffered_by_peer);
}

pub(crate) fn c71c_a_port_has_a_separate_limit(kit: Kit) {
    let (mut rig, k) = (kit.rig(), 1024);
    let limited = ListenOptions::default().max_buffered(MOST);
    let crowd = crowd_at(&mut rig, limited, &[200 * k, 400 * k, 100 * k]);
    let others = crowd_at(&mut rig, ListenOptions::default(), &[2 * MOST]);
    let paused = |rig: &mut Rig| -> Vec<bool> {
        rig.l.snapshot().ports.iter().map(|port| port.paused).collect()
    };
    rig.turns(3);
    assert_eq!(paused(&mut rig), [false; 2], "below three quarters");
    hold(&mut rig, &crowd[0].0, 300 * k);
    rig.turns(3);
    assert_eq!(paused(&mut rig), [true, false]);
    assert_eq!(lost(&crowd), [false; 3]);
    hold(&mut rig, &crowd[2].0, 350 * k);
    rig.turns(3);
    assert_eq!(lost(&crowd), [false, true, false]);
    assert_eq!(rig.lost(&crowd[1].0), "Overflow");
    rig.turns(3);
    assert_eq!(paused(&mut rig), [false; 2]);
    assert!(!others[0].0.is_lost());
    assert_eq!(rig.l.snapshot().counters.shed, 1);
}

pub(crate) fn c71b_producers_of_large_buffers_wait_first(kit: Kit) {
    let mut rig = limited(kit, LoadLimits::buffered);
    let k = 1024;
    let crowd = crowd(&mut rig, &[300 * k, 100 * k, 350 * k]);
    for (a, _) in &crowd {
        a.transport().set_write_marks(16 * k, 10 * MOST);
        a.produces(ProducerKind::Push, |_, _| {});
    }
    rig.turns(3);
    let paused =
        |crowd: &[(A, B)]| -> Vec<bool> { crowd.iter().map(|(a, _)| a.log.has("pause")).collect() };
    assert_eq!(paused(&crowd), [false; 3], "below three quarters");
    hold(&mut rig, &crowd[1].0, 150 * k);
    rig.turns(3);
    assert_eq!(paused(&crowd), [false, false, true]);
    let ports = rig.listen_with(rig.end().makes_many());
    rig.turns(2);
    assert!(rig.l.snapshot().ports.iter().all(|port| port.paused), "no newcomers");
    // Below the limit, ports accept again, and the producer resumes at its low mark.
    rig.until("room", || {
        crowd[2].1.take_all();
        crowd[2].0.log.has("resume")
    });
    rig.turns(3);
    assert!(rig.l.snapshot().ports.iter().all(|port| !port.paused));
    // And again.
    let before = ["pause", "resume"].map(|call| crowd[2].0.log.count(call));
    hold(&mut rig, &crowd[2].0, 350 * k);
    rig.turns(3);
    assert_eq!(crowd[2].0.log.count("pause"), before[0] + 1);
    assert_eq!(paused(&crowd), [false, false, true]);
    assert!(rig.l.snapshot().ports.iter().all(|port| port.paused));
    rig.until("room", || {
        crowd[2].1.take_all();
        crowd[2].0.log.count("resume") > before[1]
    });
    rig.turns(3);
    assert!(rig.l.snapshot().ports.iter().all(|port| !port.paused));
    assert_eq!(lost(&crowd), [false; 3]);
    drop(ports);
}

pub(crate) fn c71b_output_that_the_driver_takes_at_once_is_not_limited(kit: Kit) {
    let mut rig = limited(kit, LoadLimits::buffered);
    let log = Log::default();
    let (a, b) = rig.accept(Script::new());
    for _ in 0..20 {
        a.transport().write(vec![7; MOST / 8]);
        rig.until("all of it", || {
            b.take_all();
            a.transport().buffered() == 0
        });
    }
    assert!(!a.is_lost() && log.len() == 0);
    assert_eq!(rig.l.snapshot().counters.shed, 0);
}

pub(crate) fn c71b_output_that_waits_already_counts_for_a_new_limit(kit: Kit) {
    let (mut rig, k) = (kit.rig(), 1024);
    let crowd = crowd(&mut rig, &[200 * k, 900 * k, 100 * k]);
    rig.turns(3);
    rig.reactor.set_load_limits(LoadLimits::default().buffered(MOST));
    rig.turns(3);
    assert_eq!(lost(&crowd), [false, true, false]);
    assert_eq!(rig.lost(&crowd[1].0), "Overflow");
    // A higher limit, and none.
    rig.reactor.set_load_limits(LoadLimits::default().buffered(2 * MOST));
    rig.turns(2);
    hold(&mut rig, &crowd[0].0, MOST);
    rig.turns(3);
    assert_eq!(lost(&crowd), [false, true, false]);
    rig.reactor.set_load_limits(LoadLimits::default());
    rig.turns(2);
    hold(&mut rig, &crowd[2].0, 2 * MOST);
    rig.turns(3);
    assert_eq!(lost(&crowd), [false, true, false]);
    assert_eq!(rig.l.snapshot().counters.shed, 1);
}

/// Output waits, leaves, and waits again: the limit holds each time.
pub(crate) fn c71b_output_that_has_left_counts_when_it_waits_again(kit: Kit) {
    let (mut rig, k) = (limited(kit, LoadLimits::buffered), 1024);
    let crowd = crowd(&mut rig, &[300 * k, 400 * k]);
    for (a, b) in &crowd {
        rig.until("all of it", || {
            b.take_all();
            a.transport().buffered() == 0
        });
    }
    rig.turns(3);
    hold(&mut rig, &crowd[1].0, 900 * k);
    assert_eq!(lost(&crowd), [false; 2], "below the limit");
    hold(&mut rig, &crowd[0].0, 600 * k);
    rig.turns(3);
    assert_eq!(lost(&crowd), [false, true]);
    assert_eq!(rig.lost(&crowd[1].0), "Overflow");
    assert_eq!(rig.l.snapshot().counters.shed, 1);
}

/// The largest buffers go first, as many as necessary, and again.
pub(crate) fn c71b_as_many_connections_are_ended_as_it_takes(kit: Kit) {
    let (mut rig, k) = (kit.rig(), 1024);
    let crowd = crowd(&mut rig, &[300 * k, 900 * k, 500 * k, 100 * k]);
    rig.reactor.set_load_limits(LoadLimits::default().buffered(600 * k));
    rig.turn();
    assert_eq!(rig.l.snapshot().counters.shed, 2, "in one turn");
    rig.turns(3);
    assert_eq!(lost(&crowd), [false, true, true, false]);
    crowd[3].0.transport().write(vec![0; 500 * k]);
    rig.turns(3);
    assert_eq!(lost(&crowd), [false, true, true, true]);
    assert_eq!(rig.l.snapshot().counters.shed, 3);
    for (a, _) in &crowd[1..] {
        assert_eq!(rig.lost(a), "Overflow");
    }
}

pub(crate) fn c71b_output_that_waits_counts_although_a_port_has_its_own_limit(kit: Kit) {
    let (mut rig, k) = (kit.rig(), 1024);
    let crowd = crowd(&mut rig, &[200 * k, 900 * k]);
    let limited = ListenOptions::default().max_buffered(MOST);
    let _port = rig.listen_at(limited, rig.end().makes_many());
    rig.turns(2);
    // Set twice, it counts once.
    for most in [2 * MOST, 2 * MOST, MOST] {
        assert_eq!(lost(&crowd), [false; 2]);
        rig.reactor.set_load_limits(LoadLimits::default().buffered(most));
        rig.turns(3);
    }
    assert_eq!(lost(&crowd), [false, true]);
}

/// Two ports with a limit: each accepts again when its own output has left, each time.
pub(crate) fn c71c_each_port_accepts_again_whenever_its_output_has_left(kit: Kit) {
    let (mut rig, k) = (kit.rig(), 1024);
    let mut limited = || crowd_at(&mut rig, ListenOptions::default().max_buffered(MOST), &[0]);
    let crowds = [limited(), limited()];
    let paused = |rig: &mut Rig| -> Vec<bool> {
        rig.l.snapshot().ports.iter().map(|port| port.paused).collect()
    };
    for round in 1..=2 {
        for crowd in &crowds {
            hold(&mut rig, &crowd[0].0, 850 * k);
        }
        rig.turns(3);
        assert_eq!(paused(&mut rig), [true; 2], "{round}");
        let host = |crowd: &[(A, B)]| crowd[0].0.transport().host().clone();
        let late = crowds.each_ref().map(|crowd| rig.try_peer(host(crowd)).expect("a queue"));
        rig.turns(10);
        assert!(late.iter().all(|late| late.take_all() == 0 && late.saw() == Saw::Open));
        for ((crowd, late), expected) in crowds.iter().zip(&late).zip([[false, true], [false; 2]]) {
            let (a, b) = &crowd[0];
            rig.until("all of it", || {
                b.take_all();
                a.transport().buffered() == 0
            });
            rig.turns(3);
            assert_eq!(paused(&mut rig), expected, "{round}");
            // The factory has no protocol for a newcomer.
            assert_ne!(rig.take_to_the_end(late), Saw::Open);
        }
    }
    assert!(!crowds.iter().any(|crowd| lost(crowd).contains(&true)));
    // At once, by an end.
    for crowd in &crowds {
        hold(&mut rig, &crowd[0].0, 850 * k);
    }
    rig.turns(3);
    assert_eq!(paused(&mut rig), [true; 2]);
    crowds[0][0].0.transport().abort_connection();
    rig.lost(&crowds[0][0].0);
    assert_eq!(paused(&mut rig), [false, true]);
}
