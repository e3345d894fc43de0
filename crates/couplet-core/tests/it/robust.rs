//! User code that misbehaves at awkward moments must do no further harm: a drop that panics, an end
//! that starts something new, a connect cancelled while it succeeds.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use couplet::testing::hold;
use couplet::transport::Timeout;
use couplet::{Address, ConnectError, Connector, Factory, Protocol, Reactor, Reason, Transport};

use crate::defer_witness::given;
use crate::pace::TestLoop;
use crate::suite::kit::LOOPBACK;
use couplet_testkit_loops::doubles::Quiet;

/// A value whose drop panics.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a drop that panics");
        }
    }
}

#[test]
fn a_panic_in_the_drop_of_a_call_after_a_panic_ends_only_its_connection() {
    let mut held = hold(Quiet);
    held.take_panics();
    held.connection.tell(|_, _| panic!("the first call"));
    let bomb = Bomb;
    held.connection.tell(move |_, _| std::mem::forget(bomb));
    held.settle();
    held.wire.fin();
    held.settle();
    assert!(held.connection.is_lost());
}

/// Respawns a task whenever it ends, like a supervisor.
fn supervise(reactor: &Reactor, spawned: Rc<Cell<u32>>) {
    spawned.set(spawned.get() + 1);
    let (again, sleeping) = (reactor.clone(), reactor.clone());
    let task = reactor.spawn(async move { sleeping.sleep(Duration::from_secs(3600)).await });
    task.add_errback(move |_| {
        supervise(&again, spawned);
        Ok(())
    })
    .detach();
}

#[test]
fn a_run_ends_although_its_tasks_are_respawned_whenever_they_end() {
    let mut stage = TestLoop::new(11);
    let spawned = Rc::new(Cell::new(0));
    supervise(&stage.reactor, spawned.clone());
    stage.run();
    assert!((2..1000).contains(&spawned.get()), "{} spawned", spawned.get());
}

#[test]
fn a_port_restarted_whenever_it_stops_does_not_starve_the_rest() {
    let mut stage = TestLoop::new(11);
    let port = stage.listen(|| Quiet);
    stage.turns(2);
    let stops = Rc::new(Cell::new(0));
    fn again(port: couplet::Port, stops: Rc<Cell<u32>>) {
        stops.set(stops.get() + 1);
        let Some(stopped) = port.stop_listening() else { return };
        stopped
            .map(move |()| {
                port.start_listening().unwrap();
                again(port, stops);
            })
            .detach();
    }
    again(port, stops.clone());
    let before = stops.get();
    stage.turn();
    assert!(stops.get() - before <= 3, "{} stops in one turn", stops.get() - before);
}

/// Cancels the attempt in `build_protocol` or in `connection_made`.
struct GivesUp {
    in_build: bool,
    connector: Rc<RefCell<Option<Connector>>>,
    log: Rc<RefCell<Vec<String>>>,
}

struct Cancels(Rc<dyn Fn()>);

impl Protocol for Cancels {
    fn connection_made(&mut self, _: &Transport) {
        (self.0)();
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

impl Factory for GivesUp {
    type Protocol = Cancels;

    fn started_connecting(&mut self, connector: &Connector) {
        *self.connector.borrow_mut() = Some(connector.clone());
    }

    fn build_protocol(&mut self, _: &Address) -> Option<Cancels> {
        let connector = self.connector.borrow().clone().unwrap();
        if self.in_build {
            connector.disconnect();
            return Some(Cancels(Rc::new(|| {})));
        }
        Some(Cancels(Rc::new(move || connector.disconnect())))
    }

    fn client_connection_failed(&mut self, _: &Connector, reason: &Reason) {
        let stopped = matches!(reason.downcast_ref(), Some(ConnectError::Stopped));
        self.log.borrow_mut().push(format!("failed, stopped: {stopped}"));
    }

    fn client_connection_lost(&mut self, _: &Connector, reason: &Reason) {
        self.log.borrow_mut().push(format!("lost, clean: {}", reason.is_clean()));
    }
}

#[test]
fn a_connect_abandoned_while_it_succeeds_leaves_no_connection() {
    for (in_build, logged) in [(true, "failed, stopped: true"), (false, "lost, clean: true")] {
        let mut stage = TestLoop::new(11);
        let peer = stage.network.listen(LOOPBACK, 5).unwrap();
        let log = Rc::new(RefCell::new(Vec::new()));
        let factory = GivesUp { in_build, connector: Rc::default(), log: log.clone() };
        stage.reactor.connect(("127.0.0.1", peer.port().unwrap()), factory).detach();
        stage.turns(3);
        let wire = stage.network.accept(peer).unwrap();
        wire.close();
        stage.turns(5);
        assert_eq!(*log.borrow(), [logged]);
        assert!(wire.is_closed());
        let snapshot = stage.l.snapshot();
        assert!(snapshot.connections.is_empty() && snapshot.connectors.is_empty());
    }
}

#[test]
fn a_connect_cancelled_in_connection_made_closes_the_connection() {
    let mut stage = TestLoop::new(11);
    let peer = stage.network.listen(LOOPBACK, 5).unwrap();
    let canceller: Rc<RefCell<Option<couplet::defer::Canceller>>> = Rc::default();
    let cancel = canceller.clone();
    let connecting = stage.reactor.connect(peer.to_string(), move || {
        let cancel = cancel.clone();
        Cancels(Rc::new(move || cancel.borrow().as_ref().unwrap().cancel()))
    });
    canceller.replace(Some(connecting.canceller()));
    let connecting = given(connecting);
    stage.turns(3);
    let wire = stage.network.accept(peer).unwrap();
    wire.close();
    stage.turns(5);
    assert!(connecting.take().unwrap_err().is_cancelled() && wire.is_closed());
    assert!(stage.l.snapshot().connections.is_empty());
}

#[test]
fn waiters_fail_when_their_loop_is_dropped() {
    let held = hold(Quiet);
    let (connection, transport) = (held.connection.clone(), held.connection.transport());
    transport.write(vec![0; 1_000_000]);
    let drained = given(transport.writable());
    drop(held);
    assert!(drained.take().is_err());
    assert!(!connection.tell(|_, _| {}));
    assert!(given(connection.ask(|_, _| ())).take().is_err());
}

#[test]
fn every_connect_fails_when_its_loop_is_dropped() {
    let mut stage = TestLoop::new(11);
    let silent = SocketAddr::from(([10, 0, 0, 1], 80));
    stage.network.set_silent(silent);
    stage.network.set_name("slow.test", Duration::MAX, Ok(vec![silent.ip()]));
    let connect = |to: &str| given(stage.reactor.connect(to, || Quiet).map(drop));
    let mut connects = ["10.0.0.1:80", "slow.test:80", "10.0.0.1:80", "slow.test:80"].map(connect);
    stage.settle();
    // The last has not begun.
    connects[3] = given(stage.reactor.connect("10.0.0.1:80", || Quiet).map(drop));
    assert!(connects.iter().all(|connecting| connecting.is_none()));
    drop(stage);
    for connecting in &connects {
        assert!(connecting.take().unwrap_err().is_cancelled());
    }
}

#[test]
fn a_hundred_thousand_calls_of_one_connection_are_made_and_cancelled() {
    let mut held = hold(Quiet);
    let made = Rc::new(Cell::new(0));
    let calls: Vec<_> = (0..100_000u64)
        .map(|n| {
            let made = made.clone();
            let delay = Duration::from_millis(1 + n % 1000);
            held.connection.call_later(delay, move |_, _| made.set(made.get() + 1))
        })
        .collect();
    let cancelled = calls.iter().step_by(2).filter(|call| call.cancel()).count();
    held.advance(Duration::from_secs(2));
    assert_eq!((cancelled, made.get()), (50_000, 50_000));
}

/// A device that must send something every 180 s: one call on its transport.
struct Device;

impl Protocol for Device {
    fn connection_made(&mut self, transport: &Transport) {
        transport.set_timeout(Timeout::Idle, Some(Duration::from_secs(180)));
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

#[test]
fn of_a_thousand_devices_the_silent_ones_are_dropped() {
    let mut stage = TestLoop::new(11);
    let port = stage.listen(|| Device);
    stage.turn();
    let devices: Vec<_> = (0..1000)
        .map(|_| {
            let wire = stage.network.connect(port.host()).unwrap();
            stage.turns(2);
            wire
        })
        .collect();
    // Every tenth falls silent; the others send every 90 s for an hour.
    for _ in 0..40 {
        for wire in devices.iter().enumerate().filter(|(n, _)| n % 10 != 0).map(|(_, wire)| wire) {
            wire.push(b"alive");
        }
        let sleeping = stage.reactor.sleep(Duration::from_secs(90));
        stage.l.run_until(sleeping).unwrap();
    }
    let lost = |wire: &couplet::testing::Wire| wire.saw_reset() && wire.is_closed();
    assert!(devices.iter().enumerate().all(|(n, wire)| lost(wire) == (n % 10 == 0)));
    assert_eq!(stage.l.snapshot().connections.len(), 900);
    assert_eq!(stage.l.snapshot().pending_calls, 900, "one timer for each");
}
