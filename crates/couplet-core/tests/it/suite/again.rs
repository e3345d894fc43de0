//! Each cycle twice, pairs in both orders, and several waiters of one event.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use couplet::{Address, DatagramOptions, Group, ListenOptions, LoadLimits, LoopOptions, SendError};

use super::datagrams::Far;
use super::kit::{Kit, LOOPBACK};
use super::load::{crowd_at, hold, lost};
use super::recorder::Log;
use crate::needed::has_ipv6;

scripted! {
    $ again:

    /// Several waiters, whether they ask before or after the end arrives, and while reading is paused.
    fn c55a_each_of_several_waiters_gets_the_peers_end() needs half_close
        "aware; {a pause; turn|plain}
        a {1:|watch ended one|watch ended one, watch ended two|watch ended one, watch ended two, watch ended three}
        tick; a log made; b fin; tick
        a {1:watch ended one, watch ended two, watch ended three|watch ended two, watch ended three|watch ended three|}
        a until three: ok; a ordered one two three; a count 1 one: ok; a count 1 two: ok; a count 1 three";

    /// The waits of one connection all end, several times, and a cancelled one takes none with it.
    fn c71_each_of_several_waiters_gets_room_each_time() needs capacity
        "a write BIG; turns 3; a watch {1:writable|flushed} one, cancelled {1:writable|flushed}, watch {1:writable|flushed} two
        a log made; b reads-until 1 two; a log made, one: ok, two: ok; b gets BIG
        a write BIG; turns 3; a watch {1:writable|flushed} one, cancelled {1:writable|flushed}, watch {1:writable|flushed} two
        a entries 3; b reads-until 2 two; a log made, one: ok, two: ok, one: ok, two: ok; b gets BIG+BIG";
}

/// Limits for each peer, of the loop and of a port: the smaller one counts, and neither concerns other
/// ports or newcomers.
pub(crate) fn c71c_of_two_limits_for_each_peer_the_smaller_one_counts(kit: Kit) {
    const SMALL: usize = 1024 * 1024;
    fn small() -> LoopOptions {
        LoopOptions::default().load_limits(LoadLimits::default().buffered_by_peer(SMALL))
    }
    fn large() -> LoopOptions {
        LoopOptions::default().load_limits(LoadLimits::default().buffered_by_peer(64 * SMALL))
    }
    type Limits = (fn() -> LoopOptions, usize);
    let limits: [Limits; 4] =
        [(LoopOptions::default, SMALL), (large, SMALL), (small, 64 * SMALL), (small, SMALL)];
    for (number, (of_loop, of_port)) in limits.into_iter().enumerate() {
        let mut rig = kit.options(of_loop).rig();
        let options = ListenOptions::default().max_buffered_by_peer(of_port);
        let crowd = crowd_at(&mut rig, options, &[200 * 1024, 500 * 1024, 100 * 1024]);
        let sizes: &[usize] = if number == 0 { &[2 * SMALL] } else { &[] };
        let others = crowd_at(&mut rig, ListenOptions::default(), sizes);
        hold(&mut rig, &crowd[0].0, 300 * 1024);
        rig.turns(3);
        assert!(rig.l.snapshot().ports.iter().all(|port| !port.paused), "{number}");
        assert_eq!(lost(&crowd), [false; 3], "{number}");
        hold(&mut rig, &crowd[0].0, 450 * 1024);
        rig.turns(3);
        assert_eq!(lost(&crowd), [false, true, false], "{number}");
        assert_eq!(rig.lost(&crowd[1].0), "Overflow");
        assert!(!lost(&others).contains(&true), "{number}");
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
                    true => port.join([127, 0, 0, 1]),
                    false if round == 1 => port.join(group(last)),
                    false => port.leave(group(last)),
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
    if !has_ipv6() {
        return;
    }
    let rig = kit.rig();
    let v6 = |ip: Ipv6Addr| SocketAddr::new(IpAddr::from(ip), 0);
    let ports = [
        (LOOPBACK, vec![false]),
        (v6(Ipv6Addr::LOCALHOST), vec![true]),
        (v6(Ipv6Addr::UNSPECIFIED), vec![false, true]),
    ];
    for (at, destinations) in ports {
        let port =
            rig.reactor.listen_datagrams(at, Far::default()).expect("a free port can be opened");
        for is_v6 in destinations.iter().copied() {
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
        // Only a port of IPv6 on all interfaces reaches both families.
        let elsewhere: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        for (is_v6, ip) in [false, true].into_iter().zip(elsewhere) {
            let to = Address::udp((ip, 9));
            let sent = port.send_to("x", to.clone());
            let expected = match destinations.contains(&is_v6) {
                true => Ok(()),
                false => Err(SendError::WrongAddress { host: port.host(), to }),
            };
            assert_eq!(sent, expected, "{at}");
        }
    }
}
