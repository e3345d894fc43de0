//! Each cycle twice, pairs in both orders, and several waiters of one event.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use couplet::{
    DatagramOptions, Deferred, Group, ListenOptions, LoadLimits, LoopOptions, SendError, Transport,
};

use super::datagrams::Far;
use super::kit::{Kit, LOOPBACK};
use super::load::{crowd_at, hold, lost};
use super::recorder::{Log, Script};

/// Several waiters, whether they ask before or after the end arrives, and while reading is paused.
pub(crate) fn c55a_each_of_several_waiters_gets_the_peers_end(kit: Kit) {
    const NAMES: [&str; 3] = ["one", "two", "three"];
    for paused in [false, true] {
        for before in 0..=NAMES.len() {
            let (mut rig, a, b) = kit.accept(Script::new().aware());
            if paused {
                a.transport().pause_producing();
                rig.turn();
            }
            let log = Log::default();
            let ask = |names: &[&'static str]| {
                names.iter().for_each(|&name| log.watch(name, a.transport().peer_ended()));
            };
            ask(&NAMES[..before]);
            rig.tick();
            assert_eq!(log.len(), 0);
            b.fin();
            rig.tick();
            ask(&NAMES[before..]);
            rig.until("the end", || log.len() == NAMES.len());
            let expected = NAMES.map(|name| format!("{name}: ok"));
            assert_eq!(log.entries(), expected, "paused: {paused}, {before} before the end");
        }
    }
}

/// The waits of one connection all end, several times, and a cancelled one takes none with it.
pub(crate) fn c71_each_of_several_waiters_gets_room_each_time(kit: Kit) {
    type Wait = fn(&Transport) -> Deferred<()>;
    let waits: [Wait; 2] = [Transport::drained, Transport::flushed];
    for wait in waits {
        let (mut rig, a, b) = kit.accept(Script::new());
        for round in 1..=2 {
            let log = Log::default();
            a.transport().write(kit.big());
            rig.turns(3);
            log.watch("one", wait(&a.transport()));
            let cancelled = wait(&a.transport());
            log.watch("two", wait(&a.transport()));
            cancelled.cancel();
            drop(cancelled.add_errback(|_| Ok(())));
            assert_eq!(log.len(), 0, "{round}");
            rig.until("room", || {
                b.take_all();
                log.len() == 2
            });
            assert_eq!(log.entries(), ["one: ok", "two: ok"], "{round}");
            rig.until("everything", || {
                b.take_all();
                b.got_len() == round * kit.big().len()
            });
        }
    }
}

/// Limits for each peer, of the loop and of a port: the smaller one counts.
pub(crate) fn c71c_of_two_limits_for_each_peer_the_smaller_one_counts(kit: Kit) {
    const SMALL: usize = 1024 * 1024;
    fn small() -> LoopOptions {
        LoopOptions::default().load_limits(LoadLimits::default().buffered_by_peer(SMALL))
    }
    fn large() -> LoopOptions {
        LoopOptions::default().load_limits(LoadLimits::default().buffered_by_peer(64 * SMALL))
    }
    type Limits = (fn() -> LoopOptions, Option<usize>);
    let limits: [Limits; 5] = [
        (LoopOptions::default, Some(SMALL)),
        (large, Some(SMALL)),
        (small, Some(64 * SMALL)),
        (small, Some(SMALL)),
        (small, None),
    ];
    for (number, (of_loop, of_port)) in limits.into_iter().enumerate() {
        let mut rig = kit.options(of_loop).rig();
        let options = match of_port {
            Some(most) => ListenOptions::default().max_buffered_by_peer(most),
            None => ListenOptions::default(),
        };
        let crowd = crowd_at(&mut rig, options, &[200 * 1024, 500 * 1024, 100 * 1024]);
        assert_eq!(lost(&crowd), [false; 3], "{number}");
        hold(&mut rig, &crowd[0].0, 450 * 1024);
        rig.turns(3);
        assert_eq!(lost(&crowd), [false, true, false], "{number}");
        assert_eq!(rig.lost(&crowd[1].0), "Overflow");
    }
}

/// Options that are set together have an outcome each, wherever one of them fails.
pub(crate) fn c160c_each_of_several_options_has_its_outcome(kit: Kit) {
    let mut rig = kit.rig();
    let group = |last| Group::new([239, 255, 155, last]).interface(Ipv4Addr::LOCALHOST);
    for fails in
        [[true, false, false], [false, true, false], [true, true, false], [true, false, true]]
    {
        let port = rig.datagrams(DatagramOptions::default(), Far::default());
        rig.turn();
        // Twice: the requests of a later turn are new.
        for round in 1..=2 {
            let log = Log::default();
            for (fails, last) in fails.into_iter().zip(1..) {
                let set = match fails {
                    true => port.join_group([127, 0, 0, 1]),
                    false if round == 1 => port.join_group(group(last)),
                    false => port.leave_group(group(last)),
                };
                log.watch("set", set);
            }
            rig.turns(2);
            let outcome = |fails| if fails { "set: failed" } else { "set: ok" };
            assert_eq!(log.entries(), fails.map(outcome), "{fails:?}, {round}");
        }
        drop(port.stop_listening());
    }
}

/// The longest datagram depends on the family of its destination, not of its port.
pub(crate) fn c157_the_longest_datagram_is_the_destinations(kit: Kit) {
    let rig = kit.rig();
    let v6 = |ip: Ipv6Addr| SocketAddr::new(IpAddr::from(ip), 0);
    let ports = [
        (LOOPBACK, vec![false]),
        (v6(Ipv6Addr::LOCALHOST), vec![true]),
        (v6(Ipv6Addr::UNSPECIFIED), vec![false, true]),
    ];
    for (at, destinations) in ports {
        let port = rig.reactor.listen_udp(at, Far::default()).expect("a free port can be opened");
        for is_v6 in destinations {
            let (ip, most): (IpAddr, usize) = match is_v6 {
                false => (Ipv4Addr::LOCALHOST.into(), 65_507),
                true => (Ipv6Addr::LOCALHOST.into(), 65_527),
            };
            let to = SocketAddr::new(ip, 9);
            let length = most + 1;
            let refused = port.send_to(vec![0; length], to);
            assert_eq!(refused, Err(SendError::TooLong { length, most }), "{at} to {to}");
            port.send_to(vec![0; most], to).expect("it fits");
        }
    }
}

/// The bytes of a queue that has drained are free again, all of them and no more.
pub(crate) fn c157_a_queue_that_was_full_takes_as_much_again(kit: Kit) {
    const LENGTH: usize = 1000;
    const MOST: usize = 10;
    let (mut rig, far) = (kit.rig(), Far::default());
    let peer = rig.datagrams(DatagramOptions::default(), far.clone());
    let port = rig.datagrams(DatagramOptions::default().queue(MOST * LENGTH), Far::default());
    rig.turn();
    for round in 1..=3 {
        let send = || port.send_to(vec![0; LENGTH], peer.host());
        let fit = (0..2 * MOST).take_while(|_| send().is_ok()).count();
        assert_eq!(fit, MOST, "{round}");
        assert_eq!(send(), Err(SendError::Full { queued: MOST * LENGTH }));
        rig.until("all of them", || far.count() == MOST * round);
    }
}
