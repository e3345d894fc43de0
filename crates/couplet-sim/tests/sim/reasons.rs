//! The reasons of waiting objects, planted in simulated hosts: their texts, with the world's times.

use std::cell::RefCell;
use std::future::pending;
use std::rc::Rc;

use couplet::defer::DeferredLock;
use couplet::factory::Layered;
use couplet::protocols::ReconnectingClientFactory;
use couplet::sim::{Fault, Host, Link, Sim, Socket};
use couplet::{ProducerKind, Protocol, Reactor, Result, Transport};
use couplet_core::hooks::inspector::Observing;
use couplet_core::reactor::Snapshot;
use couplet_core::transport::Timeout;

use super::kit::{ms, s};
use super::secure::both;

/// Calls a function of the test when bytes arrive, and ignores the end of the stream.
struct Planted(Plant);

impl Protocol for Planted {
    fn data_received(&mut self, transport: &Transport, _: &[u8]) {
        (self.0)(transport);
    }

    fn read_closed(&mut self, _: &Transport) {}
}

/// A host with a program, and its peer without one.
struct World {
    sim: Sim,
    host: Host,
    peer: Host,
}

impl World {
    fn new(program: impl Fn(&Reactor) -> Result<()> + 'static) -> World {
        let mut sim = Sim::new(1);
        sim.set_default_link(Link::constant(ms(10)));
        sim.set_buffers(1000, 1000);
        let (host, peer) = (sim.host("host", program), sim.bare_host("peer"));
        sim.run_for(s(1)).expect("it starts");
        World { sim, host, peer }
    }

    /// A port of planted protocols.
    fn serve(planted: Plant) -> World {
        World::new(move |reactor| reactor.listen("tcp:80", move || Planted(planted)).map(drop))
    }

    fn connect(&self, port: u16) -> Socket {
        self.sim.socket(self.peer, self.sim.at(self.host, port)).expect("a descriptor is free")
    }

    /// The snapshot five seconds later.
    fn later(&mut self) -> Snapshot {
        self.sim.run_for(s(5)).expect("no invariant is violated");
        self.sim.snapshot(self.host).expect("it runs")
    }
}

/// The reasons of a snapshot's connections, connectors, pending work and locks, in this order.
fn reasons(snapshot: &Snapshot) -> Vec<String> {
    let now = snapshot.at.expect("of a loop");
    let connections = snapshot.connections.iter().map(|it| &it.why);
    let connectors = snapshot.connectors.iter().map(|it| &it.why);
    let pending = snapshot.pending.iter().map(|it| &it.why);
    let locks = snapshot.locks.iter().map(|it| &it.why);
    let all = connections.chain(connectors).chain(pending).chain(locks);
    all.map(|why| why.at(now).to_string()).collect()
}

/// Plants a state in a connection.
type Plant = fn(&Transport);

/// The reason of a connection five seconds after its peer has sent a byte.
fn of_connection(planted: Plant) -> String {
    let mut world = World::serve(planted);
    let peer = world.connect(80);
    world.sim.run_for(ms(30)).expect("it listens");
    peer.push(b"x").expect("room");
    // The byte arrives after 10 ms.
    world.sim.run_for(ms(10)).expect("it is delivered");
    let snapshot = world.later();
    snapshot.connections[0].why.at(snapshot.at.expect("of a loop")).to_string()
}

fn write_much(transport: &Transport) {
    transport.set_write_cap(Some(1024 * 1024));
    transport.write([7; 102_400]);
}

#[test]
fn each_state_of_a_connection_has_its_reason() {
    let states: [(Plant, &str); 9] = [
        (|_| (), "waits for the peer, last heard 5.0 s ago"),
        (
            |transport| transport.set_timeout(Timeout::Idle, Some(s(60))),
            "waits for the peer, last heard 5.0 s ago, reset in 55.0 s",
        ),
        (Transport::pause_producing, "reading paused by Planted for 5.0 s"),
        (
            |transport| transport.pause_for(s(60)),
            "reading paused by a timer for 5.0 s, resumed in 55.0 s",
        ),
        (
            write_much,
            "98 KiB unsent, the peer has taken nothing for 5.0 s, reset above 1 MiB; waits for the peer, last heard 5.0 s ago",
        ),
        (
            |transport| {
                let own = transport.clone();
                transport.register_producer(own, ProducerKind::Push).expect("it has none");
                write_much(transport);
            },
            "98 KiB unsent, the peer has taken nothing for 5.0 s, reset above 1 MiB; its producer is paused until 16 KiB are left; reading paused by Planted for 5.0 s",
        ),
        (
            Transport::lose_write_connection,
            "our side is closed; waits for the peer, last heard 5.0 s ago",
        ),
        (
            |transport| {
                write_much(transport);
                transport.lose_connection();
            },
            "closing (connection closed by us): 98 KiB unsent, no progress for 5.0 s, reset in 25.0 s",
        ),
        (
            Transport::lose_connection,
            "lingering (connection closed by us): our FIN went 5.0 s ago, waits for the peer's, closed in 25.0 s",
        ),
    ];
    let seen: Vec<_> = states.iter().map(|(planted, _)| of_connection(*planted)).collect();
    assert_eq!(seen, states.map(|(_, why)| why));
}

#[test]
fn a_silent_peer_and_one_that_has_closed_its_side() {
    let mut world = World::serve(|_| ());
    let (_silent, closed) = (world.connect(80), world.connect(80));
    world.sim.run_for(ms(30)).expect("it listens");
    closed.fin();
    let expected = [
        "waits for the peer's first byte for 5.0 s",
        "the peer has closed its side; waits for the program to close ours",
    ];
    assert_eq!(reasons(&world.later()), expected);
}

#[test]
fn a_handshake_that_does_not_proceed() {
    let mut world = World::new(|reactor| {
        let tls = both().0.clone();
        let tls = Layered::new(|| Planted(|_| ()), move |reactor, _| tls.layer(reactor.now()));
        reactor.listen("tcp:443", tls).map(drop)
    });
    let _silent = world.connect(443);
    assert_eq!(reasons(&world.later())[0], "opening: TLS, 5.0 s, failed in 5.0 s");
}

/// The reason of a connector five seconds after a fault began, in which its program started it.
fn of_connector(connect: fn(&Reactor), fault: fn(Host, Host) -> Fault) -> String {
    let mut world = World::new(move |reactor| {
        let later = reactor.clone();
        reactor.call_later(s(2), move || connect(&later));
        Ok(())
    });
    let World { sim, host, peer } = &mut world;
    sim.fault(sim.elapsed(), s(3600), fault(*host, *peer));
    sim.run_for(s(1)).expect("it waits");
    let snapshot = world.later();
    snapshot.connectors[0].why.at(snapshot.at.expect("of a loop")).to_string()
}

fn connect(reactor: &Reactor) {
    let connecting = reactor.connect("tcp:peer:80", || Planted(|_| ()));
    connecting.add_both(|_| Ok(())).detach();
}

#[test]
fn each_state_of_a_connector_has_its_reason() {
    let slow = |host, _| Fault::SlowNames(host, s(20));
    let silent = |_, peer| Fault::BlackHole(peer);
    let refused = |_, peer| Fault::Refuse(peer);
    let reconnect = |reactor: &Reactor| {
        let factory =
            ReconnectingClientFactory::new(|| Planted(|_| ())).initial_delay(s(60)).jitter(0.0);
        reactor.connect("tcp:peer:80", factory).add_both(|_| Ok(())).detach();
    };
    let seen = [
        of_connector(connect, slow),
        of_connector(connect, silent),
        of_connector(reconnect, refused),
    ];
    let expected = [
        "looks up peer, fails in 25.0 s",
        "waits for an answer of tcp:[fd00::2]:80 and tcp:10.0.0.2:80, fails in 25.0 s",
        "waits for its next attempt, which begins in 55.0 s",
    ];
    assert_eq!(seen, expected);
}

#[test]
fn timed_calls_tasks_jobs_and_locks_have_their_reasons() {
    let observing: Rc<RefCell<Option<Observing>>> = Rc::default();
    let kept = observing.clone();
    let mut world = World::new(move |reactor| {
        kept.replace(Observing::begin(reactor, 8));
        reactor.call_later(s(60), || ());
        reactor.spawn(pending::<Result<()>>()).detach();
        let lock = DeferredLock::new();
        for name in ["holder", "waiter"] {
            let (lock, reactor_) = (lock.clone(), reactor.clone());
            let task = async move {
                let permit = lock.acquire().await?;
                reactor_.sleep(s(60)).await?;
                drop(permit);
                Ok(())
            };
            reactor.spawn_named(name, task).detach();
        }
        let later = reactor.clone();
        reactor.call_later(s(2), move || later.defer_to_thread(|| Ok(())).detach());
        Ok(())
    });
    world.sim.fault(world.sim.elapsed(), s(60), Fault::SlowJobs(world.host, s(30)));
    let snapshot = world.later();
    let place = |kind: &str, number: usize| {
        let mut all = snapshot.pending.iter().filter(|it| it.kind == kind);
        all.nth(number).expect("it waits").place
    };
    let (lock, sleep, holder) = (snapshot.locks[0].place, place("sleep", 0), place("task", 1));
    // Both tasks request the lock there, in the line above the sleep's.
    let waiting = snapshot.deferreds.iter().find(|it| it.place.line() + 1 == sleep.line());
    let request = waiting.expect("the waiter's request").place;
    let sleeps = format!("waits for a sleep requested at {sleep}, due in 54.0 s");
    let held = format!(
        "held by the request at {request} for 6.0 s of the task \"holder\" spawned at {holder}, \
         which {sleeps}"
    );
    let expected = [
        "due in 54.0 s",
        "due in 54.0 s",
        "waits to be woken",
        &sleeps,
        &format!("waits for the lock made at {lock}, {held}"),
        "waits for a thread for 4.0 s",
        &held,
    ];
    assert_eq!(reasons(&snapshot), expected);
    drop(observing.take());
}
