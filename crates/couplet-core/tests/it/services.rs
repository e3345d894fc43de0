//! Rows 137 and 138: the client service, on the memory driver's network and clock, and in one test
//! on the simulator's.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use couplet::defer::Deferred;
use couplet::services::ClientService;
use couplet::sim::{Fault, Sim};
use couplet::testing::Wire;
use couplet::transport::Timeout;
use couplet::{ConnectError, Connection, Failure, Protocol, Reason, Resolver, Transport};

use crate::defer_witness::{Log, given};
use crate::reconnecting::{Ends, Rig, server};
use couplet_testkit_loops::doubles::Echo;

const S: Duration = Duration::from_secs(1);

type Service = ClientService<Ends>;

impl Rig {
    fn service(&self) -> Service {
        ClientService::new(&self.reactor, "tcp:127.0.0.1:8000", self.notes()).unwrap()
    }

    /// A service that waits a second for each failure so far.
    fn punctual(&self) -> Service {
        self.service().retry_policy(|failures, _| S * failures)
    }

    /// A [`punctual`](Self::punctual) service that has been started.
    fn started(&self) -> Service {
        let service = self.punctual();
        service.start();
        service
    }

    /// A preparation that never fires, and logs its cancellation.
    fn endless(&self) -> impl Fn(&Connection<Ends>) -> Deferred<()> + 'static {
        let (log, kept) = (self.ends.clone(), RefCell::new(Vec::new()));
        move |_| {
            let log = log.clone();
            let (prepared, resolver) = Deferred::with_canceller(move |_| log.say("cancelled"));
            kept.borrow_mut().push(resolver);
            prepared
        }
    }

    /// A connected service, and its peer.
    fn connected(&mut self) -> (Service, Wire) {
        self.serve();
        let service = self.started();
        self.settle();
        let wire = self.accept();
        self.settle();
        (service, wire)
    }
}

#[test]
fn c137_the_waits_grow_by_half_from_one_and_a_half_seconds_to_a_minute() {
    let mut rig = Rig::new(0);
    rig.service().start();
    rig.pass(S * 500);
    let least = [1500, 2250, 3375, 5062, 7593, 11_390, 17_085, 25_628, 38_443, 57_665, 60_000];
    let waits = rig.waits();
    for (wait, least) in waits.iter().zip(least) {
        assert!((least..=least + 1001).contains(wait), "{wait} after {least}: {waits:?}");
    }
    assert!(waits[11..].iter().all(|wait| (60_000..=61_001).contains(wait)), "{waits:?}");
    assert!(waits.len() > 13, "it never gives up");
}

#[test]
fn c137_up_to_a_second_of_jitter_is_spread_evenly_and_the_same_for_a_seed() {
    let waits = |seed| {
        let mut rig = Rig::new(seed);
        rig.service().start();
        rig.pass(S * 20);
        rig.waits()
    };
    let jitter: Vec<f64> = (0..400).map(|seed| waits(seed)[0] as f64 - 1500.0).collect();
    let mean = jitter.iter().sum::<f64>() / 400.0;
    assert!((450.0..550.0).contains(&mean), "{mean}");
    for part in 0..4 {
        let (from, to) = (f64::from(part) * 250.0, f64::from(part + 1) * 250.0);
        let part = jitter.iter().filter(|it| (from..to).contains(*it)).count();
        assert!((60..140).contains(&part), "{part} of 400 between {from} and {to}");
    }
    assert_eq!(waits(7), waits(7));
    assert_ne!(waits(7), waits(8));
}

#[test]
fn c137_a_connection_that_becomes_ready_resets_the_waits() {
    let mut rig = Rig::new(0);
    let _service = rig.started();
    rig.pass(S * 7);
    assert_eq!(rig.waits(), [1000, 2000, 3000]);
    rig.serve();
    rig.pass(S * 4);
    rig.network.set_unreachable(server().ip());
    rig.accept().reset();
    rig.pass(S * 4);
    // The connection was lost at 11 s.
    assert_eq!(rig.attempts.borrow()[5..], [S * 12, S * 14]);
}

#[test]
fn c137_a_connection_that_is_not_prepared_resets_nothing() {
    let mut rig = Rig::new(0);
    rig.serve();
    let service = rig.punctual().prepare(|_| Deferred::fail(Failure::msg("who are you?")));
    service.start();
    let waiting = given(service.when_connected(Some(3)));
    rig.pass(S * 4);
    assert_eq!(rig.waits(), [1000, 2000]);
    assert_eq!(waiting.text(), "who are you?");
    for _ in 0..3 {
        assert!(rig.accept().saw_reset(), "it is aborted");
    }
}

#[test]
fn c137_a_connection_counts_when_it_is_prepared_and_not_before() {
    let mut rig = Rig::new(0);
    rig.serve();
    let preparing = Rc::<RefCell<Option<Resolver<()>>>>::default();
    let slot = preparing.clone();
    let service = rig.punctual().prepare(move |connection| {
        connection.tell(|_, transport| transport.write("hello"));
        let (prepared, resolver) = Deferred::new();
        *slot.borrow_mut() = Some(resolver);
        prepared
    });
    service.start();
    let waiting = given(service.when_connected(None));
    rig.pass(S * 100);
    let wire = rig.accept();
    assert_eq!(wire.take(), b"hello");
    assert!(waiting.is_none());
    preparing.take().unwrap().callback(());
    assert!(!waiting.take().unwrap().is_lost());
    assert_eq!(rig.attempts(), 1);
}

#[test]
fn c137_a_connection_lost_while_it_is_prepared_cancels_that_and_counts_as_a_failure() {
    let mut rig = Rig::new(0);
    rig.serve();
    let service = rig.punctual().prepare(rig.endless());
    service.start();
    let waiting = given(service.when_connected(Some(1)));
    rig.settle();
    rig.accept().reset();
    rig.settle();
    assert_eq!(rig.ends.lines(), ["lost", "cancelled"]);
    assert!(waiting.text().contains("connection lost"), "{}", waiting.text());
    rig.pass(S);
    assert_eq!(rig.waits(), [1000]);
}

#[test]
fn c137_a_panic_in_user_code_is_a_failure_like_any_other() {
    let mut rig = Rig::new(0);
    rig.serve();
    let prepared = Rc::new(Cell::new(0));
    let count = prepared.clone();
    let service = rig.punctual().prepare(move |_| {
        count.set(count.get() + 1);
        panic!("in prepare");
    });
    service.start();
    rig.pass(S * 4);
    assert_eq!((rig.waits(), prepared.get()), (vec![1000, 2000], 3));

    let mut rig = Rig::new(0);
    rig.serve();
    let mut notes = rig.notes();
    (notes.panics, notes.panics_in_build) = (true, true);
    let service = ClientService::new(&rig.reactor, "tcp:127.0.0.1:8000", notes).unwrap();
    service.retry_policy(|failures, _| S * failures).start();
    rig.pass(S * 4);
    assert_eq!(rig.waits(), [1000, 2000]);

    let mut rig = Rig::new(0);
    rig.service().retry_policy(|_, _| panic!("in the policy")).start();
    rig.pass(S * 3);
    assert_eq!(rig.attempts(), 2, "the usual policy takes its place");
}

#[test]
fn c137a_a_connection_of_maximum_age_is_replaced_by_one_to_the_current_address_of_the_name() {
    let mut rig = Rig::new(0);
    let ips = [[127, 0, 0, 1], [127, 0, 0, 2], [127, 0, 0, 3]];
    let servers = ips.map(|ip| SocketAddr::from((ip, 8000)));
    for server in servers {
        rig.network.listen(server, 10).expect("the port is free");
    }
    let name_leads_to = |rig: &Rig, server: SocketAddr| {
        rig.network.set_name("bus.test", Duration::ZERO, Ok(vec![server.ip()]));
    };
    name_leads_to(&rig, servers[0]);
    let service = ClientService::new(&rig.reactor, "tcp:bus.test:8000", rig.notes()).unwrap();
    let service = service.max_age(S * 600);
    service.start();
    rig.settle();
    let mut wire = rig.network.accept(servers[0]).unwrap();
    for next in [servers[1], servers[2]] {
        name_leads_to(&rig, next);
        rig.pass(S * 600 - S / 1000);
        assert!(!wire.saw_fin(), "it is not too old yet");
        rig.pass(S / 1000);
        assert!(wire.saw_fin() && !wire.saw_reset());
        let waiting = given(service.when_connected(Some(1)));
        assert!(waiting.is_none() && service.is_running());
        rig.after(|| wire.close());
        // Immediately, and without a failure.
        wire = rig.network.accept(next).expect("it has connected");
        assert!(waiting.take().is_ok());
    }
    assert_eq!(rig.ends.lines(), ["lost"; 2]);
}

#[test]
fn c137a_the_maximum_age_applies_to_each_connection_and_is_unlimited_by_default() {
    for age in [None, Some(S * 10)] {
        let mut rig = Rig::new(0);
        rig.serve();
        let service = rig.punctual().max_age(age);
        service.start();
        rig.pass(S * 5);
        // The call for the lost connection would come when the next one is four seconds old.
        rig.accept().reset();
        rig.pass(S);
        let wire = rig.accept();
        rig.pass(S * 9);
        assert!(!wire.saw_fin());
        rig.pass(S);
        assert_eq!(wire.saw_fin(), age.is_some());
        let stopped = given(service.stop());
        rig.after(|| wire.close());
        stopped.take().unwrap();
        rig.pass(S * 100_000);
        assert_eq!(rig.attempts(), 2);
    }
    let mut rig = Rig::new(0);
    let (_service, wire) = rig.connected();
    rig.pass(S * 100_000);
    assert!(!wire.saw_fin());
}

#[test]
fn c137a_the_age_of_a_connection_counts_from_the_end_of_its_preparation() {
    let mut rig = Rig::new(0);
    rig.serve();
    let reactor = rig.reactor.clone();
    let service = rig.punctual().max_age(S * 10).prepare(move |_| reactor.sleep(S * 5));
    service.start();
    for round in 1..=3 {
        rig.settle();
        let wire = rig.accept();
        rig.pass(S * 15 - S / 1000);
        assert!(!wire.saw_fin(), "{round}");
        rig.pass(S / 1000);
        assert!(wire.saw_fin(), "{round}");
        rig.after(|| wire.close());
        assert_eq!(rig.attempts(), round + 1);
    }
}

#[test]
fn c138_a_waiter_gets_the_current_connection_immediately_or_the_next_one() {
    let mut rig = Rig::new(0);
    let service = rig.punctual();
    let early = given(service.when_connected(None));
    service.start();
    let second = given(service.when_connected(None));
    rig.pass(S / 2);
    assert!(early.is_none() && second.is_none());
    rig.serve();
    rig.pass(S);
    let id = early.take().unwrap().id();
    assert_eq!(second.take().unwrap().id(), id);
    assert_eq!(given(service.when_connected(Some(1))).take().unwrap().id(), id);
    // After the loss, the next connection.
    rig.accept().reset();
    rig.settle();
    let next = given(service.when_connected(None));
    assert!(next.is_none());
    rig.pass(S);
    assert_ne!(next.take().unwrap().id(), id);
}

#[test]
fn c138_a_waiter_with_a_limit_of_failures_gets_the_last_failure() {
    let mut rig = Rig::new(0);
    let service = rig.started();
    let wait = |failures| given(service.when_connected(failures));
    let (patient, none, one, two) = (wait(None), wait(Some(0)), wait(Some(1)), wait(Some(2)));
    rig.settle();
    for over in [none, one] {
        let failure = over.take().unwrap_err();
        assert!(matches!(failure.downcast_ref(), Some(ConnectError::Refused(_))), "{failure}");
    }
    // Failures count from the beginning of the wait.
    let late = wait(Some(2));
    assert!(two.is_none());
    rig.pass(S);
    assert!(!two.is_none() && late.is_none());
    rig.pass(S * 2);
    assert!(!late.is_none() && patient.is_none());
    assert!(late.take().is_err());
    assert!(two.take().is_err());
}

#[test]
fn a_failed_wait_may_stop_the_service() {
    let mut rig = Rig::new(0);
    let service = rig.started();
    let stopped = service.clone();
    let waiting = service.when_connected(Some(1)).add_errback(move |failure| {
        stopped.stop().detach();
        Err(failure)
    });
    let waiting = given(waiting);
    rig.pass(S * 10);
    assert!(waiting.take().is_err());
    assert_eq!((rig.attempts(), service.is_running()), (1, false));
}

#[test]
fn a_callback_with_the_connection_may_stop_the_service() {
    let mut rig = Rig::new(0);
    rig.serve();
    let service = rig.started();
    let stopping = service.clone();
    let stop = given(service.when_connected(None).then(move |_| stopping.stop()));
    rig.settle();
    let wire = rig.accept();
    rig.settle();
    assert!(wire.saw_fin() && stop.is_none());
    rig.after(|| wire.close());
    stop.take().unwrap();
    rig.pass(S * 100);
    assert_eq!((rig.attempts(), service.is_running()), (1, false));
}

#[test]
fn c138_a_cancelled_wait_ends_alone() {
    let mut rig = Rig::new(0);
    let service = rig.started();
    let one = service.when_connected(None);
    let canceller = one.canceller();
    let (one, other) = (given(one), given(service.when_connected(None)));
    canceller.cancel();
    assert!(one.take().unwrap_err().is_cancelled());
    let shown = format!("{service:?}");
    assert!(shown.contains("waiting: 1"), "{shown}");
    rig.serve();
    rig.pass(S);
    assert!(other.take().is_ok());
}

#[test]
fn c138_a_stop_completes_once_the_connection_has_really_closed() {
    let mut rig = Rig::new(0);
    let (service, wire) = rig.connected();
    let stops = [given(service.stop()), given(service.stop())];
    let waiting = [None, Some(1), None].map(|most| given(service.when_connected(most)));
    rig.pass(S);
    assert!(wire.saw_fin());
    assert!(stops.iter().all(|stop| stop.is_none()) && waiting.iter().all(|it| it.is_none()));
    rig.after(|| wire.close());
    assert_eq!(rig.ends.lines(), ["lost"]);
    for stop in stops {
        stop.take().unwrap();
    }
    for waiting in waiting {
        assert!(waiting.take().unwrap_err().is_cancelled());
    }
    assert!(given(service.when_connected(None)).take().unwrap_err().is_cancelled());
    rig.pass(S * 100);
    assert_eq!(rig.attempts(), 1);
    given(service.stop()).take().unwrap();
}

#[test]
fn c138_a_stop_ends_an_attempt_a_wait_and_a_preparation() {
    // Before it was ever started.
    let mut rig = Rig::new(0);
    let service = rig.punctual();
    let waiting = given(service.when_connected(None));
    given(service.stop()).take().unwrap();
    assert!(waiting.take().unwrap_err().is_cancelled());
    // While it connects.
    rig.network.set_silent(server());
    service.start();
    rig.settle();
    let waiting = given(service.when_connected(None));
    let stop = given(service.stop());
    rig.settle();
    stop.take().unwrap();
    assert!(waiting.take().unwrap_err().is_cancelled());
    // While it waits for the next attempt.
    let mut rig = Rig::new(0);
    let service = rig.started();
    rig.settle();
    let waiting = given(service.when_connected(None));
    given(service.stop()).take().unwrap();
    assert!(waiting.take().unwrap_err().is_cancelled());
    rig.pass(S * 100);
    assert_eq!(rig.attempts(), 1);
    // While a connection is prepared.
    let mut rig = Rig::new(0);
    rig.serve();
    let service = rig.punctual().prepare(rig.endless());
    service.start();
    rig.settle();
    let wire = rig.accept();
    let stop = given(service.stop());
    rig.settle();
    assert!(stop.is_none());
    rig.after(|| wire.close());
    stop.take().unwrap();
    assert_eq!(rig.ends.lines(), ["cancelled", "lost"]);
}

#[test]
fn c138_a_start_while_it_stops_starts_afresh() {
    let mut rig = Rig::new(0);
    let (service, wire) = rig.connected();
    let stop = given(service.stop());
    let waiting = given(service.when_connected(None));
    assert!(!service.is_running());
    service.start();
    assert!(service.is_running());
    rig.pass(S);
    assert_eq!(rig.attempts(), 1, "not before the old connection has gone");
    rig.after(|| wire.close());
    stop.take().unwrap();
    assert!(!waiting.take().unwrap().is_lost(), "who waits gets the new one");
    assert_eq!(rig.attempts(), 2);
    // A second stop cancels the start.
    let wire = rig.accept();
    let first = given(service.stop());
    service.start();
    let second = given(service.stop());
    wire.close();
    rig.pass(S * 100);
    first.take().unwrap();
    second.take().unwrap();
    assert_eq!((rig.attempts(), service.is_running()), (2, false));
    // After the stop, a start connects immediately.
    service.start();
    rig.settle();
    assert_eq!(rig.attempts(), 3);
}

#[test]
fn c138_a_start_while_it_stops_counts_failures_from_one() {
    let mut rig = Rig::new(0);
    rig.serve();
    let (endless, attempts) = (rig.endless(), rig.attempts.clone());
    let service = rig.punctual().prepare(move |connection| match attempts.borrow().len() {
        3 => endless(connection),
        _ => Deferred::fail(Failure::msg("who are you?")),
    });
    service.start();
    rig.pass(S * 3);
    assert_eq!(rig.waits(), [1000, 2000]);
    let stop = given(service.stop());
    service.start();
    (0..3).for_each(|_| rig.accept().close());
    rig.settle();
    stop.take().unwrap();
    rig.pass(S);
    assert_eq!(rig.waits(), [1000, 2000, 0, 1000]);
}

#[test]
fn c138_a_start_after_a_stop_counts_failures_from_one() {
    let mut rig = Rig::new(0);
    let service = rig.started();
    for _ in 0..3 {
        rig.attempts.borrow_mut().clear();
        rig.pass(S * 4);
        assert_eq!(rig.waits(), [1000, 2000]);
        given(service.stop()).take().unwrap();
        service.start();
    }
}

#[test]
fn c138_a_stop_waits_for_the_end_of_a_connection_that_was_not_prepared() {
    let mut rig = Rig::new(0);
    rig.serve();
    let preparing = Rc::<RefCell<Option<Resolver<()>>>>::default();
    let slot = preparing.clone();
    let service = rig.punctual().prepare(move |_| {
        let (prepared, resolver) = Deferred::new();
        *slot.borrow_mut() = Some(resolver);
        prepared
    });
    service.start();
    rig.settle();
    let waiting = given(service.when_connected(Some(1)));
    // The connection is aborted by the next turn.
    preparing.take().unwrap().errback(Failure::msg("who are you?"));
    let stop = given(service.stop());
    assert!(stop.is_none() && waiting.is_none());
    rig.settle();
    stop.take().unwrap();
    assert!(waiting.take().unwrap_err().is_cancelled());
    assert_eq!(rig.ends.lines(), ["lost"]);
    rig.pass(S * 100);
    assert_eq!((rig.attempts(), service.is_running()), (1, false));
}

#[test]
fn a_start_while_it_runs_is_no_second_connection() {
    let mut rig = Rig::new(0);
    let (service, _wire) = rig.connected();
    service.start();
    rig.pass(S * 100);
    assert_eq!(rig.attempts(), 1);
}

#[test]
fn c138_a_stop_inside_connection_made_waits_for_that_connection() {
    struct Stops(Rc<RefCell<Option<ClientService<Stops>>>>, Log);
    impl Protocol for Stops {
        fn connection_made(&mut self, _: &Transport) {
            let log = self.1.clone();
            let service = self.0.borrow().clone().unwrap();
            service.stop().map(move |()| log.say("stopped")).detach();
        }
        fn data_received(&mut self, _: &Transport, _: &[u8]) {}
        fn connection_lost(&mut self, _: &Transport, _: &Reason) {
            self.1.say("lost");
        }
    }
    let mut rig = Rig::new(0);
    rig.serve();
    let (slot, log) = (Rc::<RefCell<_>>::default(), rig.ends.clone());
    let inner = slot.clone();
    let factory = move || Stops(inner.clone(), log.clone());
    let service = ClientService::new(&rig.reactor, "tcp:127.0.0.1:8000", factory).unwrap();
    *slot.borrow_mut() = Some(service.clone());
    service.start();
    rig.pass(S);
    assert_eq!(rig.ends.lines(), [""; 0]);
    rig.accept().close();
    rig.settle();
    assert_eq!(rig.ends.lines(), ["lost", "stopped"]);
    slot.take();
}

#[test]
fn c138_the_end_of_the_reactor_ends_a_client_service() {
    let mut rig = Rig::new(0);
    let (service, _wire) = rig.connected();
    rig.run();
    assert!(!service.is_running());
    assert!(given(service.when_connected(None)).take().unwrap_err().is_cancelled());
    assert_eq!(rig.attempts(), 1);

    let mut rig = Rig::new(0);
    rig.network.set_silent(server());
    let service = rig.started();
    let waiting = given(service.when_connected(Some(1)));
    rig.settle();
    drop(rig);
    assert!(waiting.take().unwrap_err().is_cancelled());
    assert!(!service.is_running());
}

#[test]
fn a_wrong_endpoint_is_an_immediate_error() {
    let rig = Rig::new(0);
    let error = ClientService::new(&rig.reactor, "tcp:nowhere", rig.notes()).unwrap_err();
    assert!(error.to_string().contains("port"), "{error}");
}

#[test]
fn c138_in_the_simulator_a_client_service_reconnects_after_each_crash_and_stops_without_a_leak() {
    struct Asks;
    impl Protocol for Asks {
        fn connection_made(&mut self, transport: &Transport) {
            transport.set_timeout(Timeout::Idle, Some(S * 5));
        }
        fn data_received(&mut self, transport: &Transport, _: &[u8]) {
            let ask = |_: &mut Asks, transport: &Transport| transport.write("?");
            transport.connection::<Asks>().call_later(S, ask);
        }
    }
    let world = |seed| {
        let mut sim = Sim::new(seed);
        let echo = sim.host("server", |reactor| reactor.listen("tcp:5000", || Echo).map(drop));
        let connected = Rc::new(Cell::new(0));
        let counted = connected.clone();
        sim.host("client", move |reactor| {
            let counted = counted.clone();
            let service = ClientService::new(reactor, "tcp:server:5000", || Asks)?;
            let service = service.prepare(move |connection: &Connection<Asks>| {
                counted.set(counted.get() + 1);
                connection.ask(|_, transport| transport.write("?"))
            });
            service.start();
            let stopping = reactor.clone();
            reactor.call_later(S * 300, move || {
                service.stop().map(move |()| stopping.stop()).detach();
            });
            Ok(())
        });
        for at in [20, 100, 180] {
            sim.fault(S * at, S * 10, Fault::Crash(echo));
        }
        sim.run_for(S * 400).unwrap_or_else(|failure| panic!("{failure}"));
        sim.finish().unwrap_or_else(|failure| panic!("{failure}"));
        (connected.get(), sim.hash())
    };
    let (connected, hash) = world(1);
    assert_eq!(connected, 4, "once at first, and after each crash");
    assert_eq!(world(1), (connected, hash));
}
