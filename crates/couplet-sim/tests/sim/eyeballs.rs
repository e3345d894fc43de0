//! Row 140 as a table: RFC 8305 ("happy eyeballs") with addresses that answer, are slow, refuse,
//! are unreachable or dead, and with a late resolver.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use couplet::sim::{Fault, Link, Sim};
use couplet::{ConnectError, Failure, Protocol, Reactor, Reason, Transport};
use couplet_testkit_loops::doubles::Quiet;

use super::kit::{ms, s};

/// An address of a name.
#[derive(Clone, Copy)]
enum Ip {
    V4(Sort),
    V6(Sort),
}
use Ip::{V4, V6};

#[derive(Clone, Copy)]
enum Sort {
    /// A server with this round-trip time, in milliseconds.
    Away(u64),
    /// A host without a server, 2 ms away.
    Refuses,
    /// An unused address: no answer.
    Dead,
    /// The system has no route to it.
    NoRoute,
}
use Sort::{Away, Dead, NoRoute, Refuses};

/// The end of a connect. Times count from the resolver's answer, in milliseconds.
#[derive(Clone, Copy)]
enum Ends {
    /// With a connection to the nth address.
    At(usize, u64),
    /// With the errors of all addresses.
    AllFailed(u64),
    /// With the error of the only address.
    Failed(u64),
}
use Ends::{AllFailed, At, Failed};

/// A name, the addresses in the resolver's order, the attempts (index of the address, and time),
/// and the end.
type Case = (&'static str, &'static [Ip], &'static [(usize, u64)], Ends);

const TABLE: &[Case] = &[
    ("one address", &[V4(Away(2))], &[(0, 0)], At(0, 2)),
    ("both answer", &[V6(Away(2)), V4(Away(2))], &[(0, 0)], At(0, 2)),
    ("IPv4 is preferred", &[V4(Away(2)), V6(Away(2))], &[(0, 0)], At(0, 2)),
    ("IPv6 is dead", &[V6(Dead), V4(Away(2))], &[(0, 0), (1, 250)], At(1, 252)),
    ("IPv4 is dead", &[V4(Dead), V6(Away(2))], &[(0, 0), (1, 250)], At(1, 252)),
    ("the first refuses", &[V6(Refuses), V4(Away(2))], &[(0, 0), (1, 2)], At(1, 4)),
    ("no way to the first", &[V6(NoRoute), V4(Away(2))], &[(1, 0)], At(1, 2)),
    ("slow, within the delay", &[V6(Away(240)), V4(Away(2))], &[(0, 0)], At(0, 240)),
    ("slower than the delay", &[V6(Away(260)), V4(Away(2))], &[(0, 0), (1, 250)], At(1, 252)),
    ("the first still wins", &[V6(Away(400)), V4(Away(200))], &[(0, 0), (1, 250)], At(0, 400)),
    ("both at the same time", &[V6(Away(252)), V4(Away(2))], &[(0, 0), (1, 250)], At(0, 252)),
    (
        "families take turns",
        &[V6(Dead), V6(Dead), V4(Dead), V4(Away(2))],
        &[(0, 0), (2, 250), (1, 500), (3, 750)],
        At(3, 752),
    ),
    (
        "the second family comes second, however many the first has",
        &[V6(Dead), V6(Dead), V6(Dead), V4(Away(2))],
        &[(0, 0), (3, 250)],
        At(3, 252),
    ),
    (
        "a refusal hurries the next, and the dead one continues",
        &[V6(Dead), V4(Refuses), V6(Away(2))],
        &[(0, 0), (1, 250), (2, 252)],
        At(2, 254),
    ),
    (
        "a slow one wins over the dead ones after it",
        &[V6(Away(600)), V4(Dead), V6(Dead), V4(Dead)],
        &[(0, 0), (1, 250), (2, 500)],
        At(0, 600),
    ),
    ("all refuse", &[V6(Refuses), V4(Refuses)], &[(0, 0), (1, 2)], AllFailed(4)),
    ("no way anywhere", &[V6(NoRoute), V4(NoRoute)], &[], AllFailed(0)),
    ("the only one refuses", &[V4(Refuses)], &[(0, 0)], Failed(2)),
];

/// Counts open connections, and all connections so far.
#[derive(Clone, Default)]
struct Guests(Rc<(Cell<usize>, Cell<usize>)>);

impl Protocol for Guests {
    fn connection_made(&mut self, _: &Transport) {
        let (has, had) = &*self.0;
        has.set(has.get() + 1);
        had.set(had.get() + 1);
    }
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        self.0.0.set(self.0.0.get() - 1);
    }
}

/// A world in which "www" has these addresses, and a client that connects to it.
struct World {
    sim: Sim,
    addresses: Vec<IpAddr>,
    servers: Guests,
    outcome: Rc<RefCell<Option<Result<IpAddr, Failure>>>>,
}

fn connect(
    reactor: &Reactor,
    endpoint: &str,
    outcome: &Rc<RefCell<Option<Result<IpAddr, Failure>>>>,
) {
    let slot = outcome.clone();
    let connecting = reactor.connect(endpoint, || Quiet);
    let connecting = connecting.map(|made| made.transport().peer().ip().expect("an IP address"));
    let noted = connecting.add_both(move |result| {
        *slot.borrow_mut() = Some(result);
        Ok(())
    });
    noted.detach();
}

impl World {
    fn new(ips: &[Ip], endpoint: &'static str) -> World {
        let mut sim = Sim::new(1);
        sim.keep_trace();
        let outcome = Rc::default();
        let slot = Rc::clone(&outcome);
        let client = sim.host("client", move |reactor| {
            connect(reactor, endpoint, &slot);
            Ok(())
        });
        let (servers, mut addresses) = (Guests::default(), Vec::new());
        for (n, ip) in ips.iter().enumerate() {
            let (V4(sort) | V6(sort)) = *ip;
            let guests = servers.clone();
            let host = match sort {
                Away(_) => sim.host(&format!("server-{n}"), move |reactor| {
                    let guests = guests.clone();
                    reactor.listen("tcp:80:interface=[::]", move || guests.clone()).map(drop)
                }),
                _ => sim.bare_host(&format!("bare-{n}")),
            };
            let away = if let Away(ms) = sort { ms } else { 2 };
            sim.set_link(client, host, Link::constant(Duration::from_micros(away * 500)));
            addresses.push(match (ip, sort) {
                (V4(_), Dead) => IpAddr::from([10, 9, 9, n as u8]),
                (V6(_), Dead) => IpAddr::from([0xfd00, 0, 0, 0, 0, 9, 9, n as u16]),
                (V4(_), NoRoute) => IpAddr::from([192, 0, 2, n as u8]),
                (V6(_), NoRoute) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n as u16]),
                (V4(_), _) => sim.address(host),
                (V6(_), _) => sim.address_v6(host),
            });
        }
        sim.set_name("www", &addresses);
        World { sim, addresses, servers, outcome }
    }

    /// Runs until the connect has ended; returns its result, and the time in microseconds since the
    /// start.
    fn run(&mut self) -> (Result<IpAddr, Failure>, u64) {
        let outcome = self.outcome.clone();
        assert!(self.sim.run_until(s(100), |_| outcome.borrow().is_some()).expect("a sound world"));
        let at = self.sim.elapsed();
        (self.outcome.take().expect("it has ended"), at.as_micros() as u64)
    }

    /// Index of the address and start time of each attempt, in microseconds since the start of the
    /// world. An address that the system refuses immediately is not an attempt.
    fn attempts(&self) -> Vec<(usize, u64)> {
        let trace = self.sim.trace();
        let tries = trace.lines().filter_map(|line| {
            line.split_once(" tries ").map(|(before, to)| {
                let seconds: f64 =
                    before.split_whitespace().next().expect("a time").parse().expect("it");
                let at = |ip: &IpAddr| SocketAddr::new(*ip, 80).to_string() == to;
                let which = self.addresses.iter().position(at).expect("an address of the name");
                (which, (seconds * 1e6).round() as u64)
            })
        });
        tries.collect()
    }

    /// Lets everything in flight arrive, and asserts the number of connections left at the servers.
    fn settle(&mut self, connections: usize) {
        self.sim.run_for(s(2)).expect("a sound world");
        assert_eq!(self.servers.0.0.get(), connections, "connections left at the servers");
    }
}

#[test]
fn c140_a_table_of_addresses() {
    for (name, ips, attempts, ends) in TABLE {
        let mut world = World::new(ips, "tcp:www:80");
        let (outcome, at) = world.run();
        let tried = world.attempts();
        let answered = tried.first().map_or(at, |(_, first)| *first);
        let tried: Vec<_> =
            tried.iter().map(|(which, at)| (*which, (at - answered) / 1000)).collect();
        assert_eq!(&tried, attempts, "{name}");
        let took = (at - answered) / 1000;
        match (ends, outcome) {
            (At(which, after), Ok(peer)) => {
                assert_eq!((peer, took), (world.addresses[*which], *after), "{name}");
                world.settle(1);
            }
            (AllFailed(after), Err(failure)) => {
                let Some(ConnectError::AllFailed(errors)) = failure.downcast_ref() else {
                    panic!("{name}: {failure:?}");
                };
                assert_eq!((errors.len(), took), (ips.len(), *after), "{name}");
                world.settle(0);
            }
            (Failed(after), Err(failure)) => {
                let error = failure.downcast_ref();
                assert!(matches!(error, Some(ConnectError::Refused(_))), "{name}: {error:?}");
                assert_eq!(took, *after, "{name}");
                world.settle(0);
            }
            (_, outcome) => panic!("{name}: {outcome:?}"),
        }
        world.sim.finish().expect("nothing leaks");
    }
}

/// The world, the result and the time of a connect whose lookup takes `by` longer.
fn with_late_names(by: Duration, ips: &[Ip]) -> (World, Result<IpAddr, Failure>, u64) {
    let mut world = World::new(ips, "tcp:www:80:timeout=10");
    let client = world.sim.hosts()[0];
    world.sim.fault(Duration::ZERO, s(100), Fault::SlowNames(client, by));
    let (outcome, at) = world.run();
    (world, outcome, at)
}

#[test]
fn c140_a_late_answer_of_the_resolver_is_used() {
    let (mut world, outcome, at) = with_late_names(s(9), &[V6(Dead), V4(Away(2))]);
    assert_eq!(outcome.expect("a connection"), world.addresses[1]);
    let tried: Vec<_> = world.attempts().iter().map(|(which, _)| *which).collect();
    assert_eq!(tried, [0, 1]);
    assert!((9_252_000..9_260_000).contains(&at), "{at}");
    world.settle(1);
    world.sim.finish().expect("nothing leaks");
}

#[test]
fn c140_the_time_of_a_lookup_counts_for_the_timeout() {
    let (world, outcome, at) = with_late_names(ms(9_800), &[V6(Dead), V4(Dead)]);
    let failure = outcome.expect_err("nobody answers");
    assert!(matches!(failure.downcast_ref(), Some(ConnectError::TimedOut(_))), "{failure:?}");
    assert_eq!((world.attempts().len(), at), (1, 10_000_000));
}

#[test]
fn c32_c141_a_name_that_leads_nowhere_is_a_lookup_error() {
    let mut world = World::new(&[], "tcp:www:80");
    let failure = world.run().0.expect_err("no address");
    assert_eq!(failure.to_string(), "cannot find the host \"www\": the name has no address");
    world.sim.finish().expect("nothing leaks");
}

#[test]
fn c142a_a_host_of_the_simulator_looks_names_up() {
    let mut sim = Sim::new(7);
    let server = sim.bare_host("server");
    let addresses = [IpAddr::from([10, 9, 9, 9]), sim.address_v6(server), sim.address(server)];
    sim.set_name("www", &addresses);
    let found: Rc<RefCell<Vec<_>>> = Rc::default();
    let noted = found.clone();
    sim.host("client", move |reactor| {
        for name in ["www", "server", "nowhere"] {
            let noted = noted.clone();
            let note = move |answer| {
                noted.borrow_mut().push((name, answer));
                Ok(())
            };
            reactor.resolve(name).add_both(note).detach();
        }
        Ok(())
    });
    sim.run_for(s(1)).expect("a sound world");
    let mut found = found.take();
    found.sort_by_key(|(name, _)| *name);
    let failure = found[0].1.as_ref().expect_err("there is no such name");
    assert!(matches!(failure.downcast_ref(), Some(ConnectError::NameLookup { .. })), "{failure:?}");
    let found: Vec<_> = found.iter().map(|(_, found)| found.as_deref().ok()).collect();
    assert_eq!(found, [None, Some(&addresses[1..]), Some(&addresses[..])]);
}
