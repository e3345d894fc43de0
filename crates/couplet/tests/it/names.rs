//! Rows 140 to 142, and 35: connecting to a name. The memory driver's names and addresses behave
//! as the test says; the tap tells when an attempt began.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use couplet::defer::Cancelled;
use couplet::testing::{Manner, Network};
use couplet::{Address, ConnectError, ConnectOptions, Connection, Deferred, Failure};

use crate::suite::kit::{Kit, Rig};
use crate::suite::recorder::{A, Log, Maker, Recorder, Script};

const PORT: u16 = 7;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const TICK: Duration = Duration::from_nanos(1);

/// A loop in memory whose network knows the name "example".
struct Names {
    rig: Rig,
    a: A,
    log: Log,
}

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), PORT)
}

impl Names {
    fn new(addresses: &[&str]) -> Names {
        Names::looked_up_in(Duration::ZERO, addresses)
    }

    fn looked_up_in(takes: Duration, addresses: &[&str]) -> Names {
        let rig = Kit::memory(Manner::Readiness).rig();
        let a = rig.end();
        let log = a.log.clone();
        let names = Names { rig, a, log };
        let ips: Vec<IpAddr> = addresses.iter().map(|ip| at(ip).ip()).collect();
        names.network().set_name("example", takes, Ok(ips));
        names
    }

    fn network(&self) -> Network {
        self.rig.network.clone().expect("it is in memory")
    }

    /// Connects go unanswered there.
    fn silent(self, addresses: &[&str]) -> Names {
        for ip in addresses {
            self.network().set_silent(at(ip));
        }
        self
    }

    /// A port there takes one connection at a time, and its queue is full.
    fn busy(self, ip: &str) -> Names {
        let network = self.network();
        network.listen(at(ip), 0).expect("it is free");
        network.connect(at(ip)).expect("there is room for one");
        self
    }

    fn connect(&self, host: &str) -> Deferred<Connection<Recorder>> {
        let a = self.a.clone();
        let maker = Maker::new(&self.log, move |_| Some(a.plays(Script::new())));
        let options = ConnectOptions::default();
        self.rig.reactor.connect_tcp_deferred(host, PORT, options, maker)
    }

    /// [`connect`](Self::connect), and the turns that start it.
    fn begin(&mut self, host: &str) -> Deferred<Connection<Recorder>> {
        let connecting = self.connect(host);
        self.rig.turns(4);
        connecting
    }

    /// The failure of a connect that has failed by now.
    fn failure(&mut self, connecting: Deferred<Connection<Recorder>>) -> Failure {
        assert!(connecting.has_fired(), "{:?}", self.log.entries());
        self.rig.l.run_until(connecting).expect_err("it fails")
    }

    fn error(&mut self, connecting: Deferred<Connection<Recorder>>) -> ConnectError {
        let failure = self.failure(connecting);
        let error = failure.downcast_ref::<ConnectError>();
        error.unwrap_or_else(|| panic!("{failure:?}")).clone()
    }

    /// When each attempt began, in milliseconds, and where to.
    fn attempts(&self) -> Vec<(u128, String)> {
        let connects = self.rig.tapped.connects.borrow();
        let told = connects.iter().map(|(at, to, _)| {
            let ip = to.ip().expect("a TCP address");
            (at.as_millis(), ip.to_string())
        });
        told.collect()
    }

    /// How many attempts the driver was told to end, of how many it has begun.
    fn closed(&self) -> (usize, usize) {
        let connects = self.rig.tapped.connects.borrow();
        let keys: Vec<_> = connects.iter().filter_map(|(.., key)| *key).collect();
        let closed = keys.iter().filter(|key| !self.rig.tapped.counts(**key).closes.is_empty());
        (closed.count(), keys.len())
    }

    fn pass(&mut self, by: Duration) {
        self.rig.pass(by);
        self.rig.turns(4);
    }
}

fn attempts(of: &[(u128, &str)]) -> Vec<(u128, String)> {
    of.iter().map(|(at, to)| (*at, (*to).to_owned())).collect()
}

#[test]
fn c140_the_families_take_turns() {
    let six_first = ["fd00::1", "fd00::2", "fd00::3", "10.0.0.1", "10.0.0.2"];
    let four_first = ["10.0.0.1", "10.0.0.2", "fd00::1"];
    let orders: [(&[&str], &[&str]); 3] = [
        (&six_first, &["fd00::1", "10.0.0.1", "fd00::2", "10.0.0.2", "fd00::3"]),
        (&four_first, &["10.0.0.1", "fd00::1", "10.0.0.2"]),
        (&["10.0.0.2", "10.0.0.1"], &["10.0.0.2", "10.0.0.1"]),
    ];
    for (found, order) in orders {
        let mut names = Names::new(found).silent(found);
        names.begin("example").detach();
        for _ in 0..8 {
            names.pass(ms(250));
        }
        let tried: Vec<String> = names.attempts().into_iter().map(|(_, to)| to).collect();
        assert_eq!(tried, order);
    }
}

#[test]
fn c140_the_next_attempt_starts_after_250_ms() {
    let all = ["fd00::1", "10.0.0.1", "fd00::2"];
    let mut names = Names::new(&all).silent(&all);
    let connecting = names.begin("example");
    names.rig.turns(4);
    assert_eq!(names.attempts(), attempts(&[(0, "fd00::1")]));
    names.pass(ms(250) - TICK);
    assert_eq!(names.attempts().len(), 1);
    names.pass(TICK);
    assert_eq!(names.attempts(), attempts(&[(0, "fd00::1"), (250, "10.0.0.1")]));
    names.pass(ms(250));
    assert_eq!(names.attempts()[2], (500, "fd00::2".into()));
    assert_eq!(names.closed(), (0, 3), "the earlier ones go on");
    // The 30 s are for all of them together, the lookup included.
    names.pass(ms(29_500) - TICK);
    assert!(!connecting.has_fired());
    names.pass(TICK);
    assert!(
        matches!(names.error(connecting), ConnectError::TimedOut(after) if after == ms(30_000))
    );
    assert_eq!(names.closed(), (3, 3));
}

#[test]
fn c140_the_next_attempt_starts_at_once_when_one_fails() {
    // The first is refused, the second has no route, the third doesn't answer.
    let mut names =
        Names::new(&["fd00::1", "10.0.0.1", "fd00::2", "10.0.0.2"]).silent(&["fd00::2"]);
    names.network().set_unreachable(at("10.0.0.1").ip());
    names.begin("example").detach();
    names.rig.turns(8);
    assert_eq!(names.attempts(), attempts(&[(0, "fd00::1"), (0, "10.0.0.1"), (0, "fd00::2")]));
    // The 250 ms count from the last attempt. One that fails while others wait starts the next.
    names.pass(ms(250));
    assert_eq!(names.attempts()[3], (250, "10.0.0.2".into()));

    let mut names = Names::new(&["fd00::1", "10.0.0.1", "fd00::2"]).silent(&["fd00::1", "fd00::2"]);
    names.begin("example").detach();
    names.pass(ms(250));
    assert_eq!(
        names.attempts(),
        attempts(&[(0, "fd00::1"), (250, "10.0.0.1"), (250, "fd00::2")]),
        "the refused one is followed at once, while the first still waits"
    );
}

#[test]
fn c140_the_first_success_ends_the_others() {
    let all = ["fd00::1", "10.0.0.1", "fd00::2", "10.0.0.2"];
    let mut names = Names::new(&all).silent(&["fd00::1"]).busy("10.0.0.1").silent(&["fd00::2"]);
    let connecting = names.begin("example");
    names.pass(ms(250));
    names.pass(ms(250));
    assert_eq!(names.attempts().len(), 3);
    // The second gets its place in the queue, though the third began after it.
    names.network().accept(at("10.0.0.1")).expect("it was filled");
    names.rig.turns(4);
    assert!(connecting.has_fired());
    let connection = names.rig.l.run_until(connecting).expect("it came through");
    assert_eq!(connection.transport().peer().socket_addr(), Some(at("10.0.0.1")));
    assert_eq!(names.closed(), (2, 3), "all but the one that won");
    names.pass(ms(60_000));
    assert_eq!(names.attempts().len(), 3, "and no more is tried");
    let log = names.log.entries();
    assert_eq!(log, ["do_start", "started_connecting", "build(tcp:10.0.0.1:7)", "made"]);
}

#[test]
fn c140_all_errors_are_told_together() {
    let mut names = Names::new(&["fd00::1", "10.0.0.1", "fd00::2"]);
    names.network().set_unreachable(at("10.0.0.1").ip());
    let connecting = names.begin("example");
    names.rig.turns(8);
    let error = names.error(connecting);
    let text = error.to_string();
    let ConnectError::AllFailed(errors) = error else { panic!("{error:?}") };
    let places: Vec<_> = errors.iter().map(|(address, _)| address.socket_addr()).collect();
    assert_eq!(places, [Some(at("fd00::1")), Some(at("10.0.0.1")), Some(at("fd00::2"))]);
    let kinds: Vec<_> = errors.iter().map(|(_, error)| error).collect();
    assert!(
        matches!(kinds[..], [ConnectError::Refused, ConnectError::NoRoute, ConnectError::Refused]),
        "{errors:?}"
    );
    assert!(text.contains("10.0.0.1:7: no route"), "{text}");
    assert!(text.contains("[fd00::1]:7: connection refused"), "{text}");
    // One address alone: its error as it is.
    let mut names = Names::new(&["10.0.0.1"]);
    let connecting = names.begin("example");
    names.rig.turns(4);
    assert!(matches!(names.error(connecting), ConnectError::Refused));
    let log = names.log.entries();
    assert_eq!(log[..2], ["do_start", "started_connecting"]);
    assert!(log[2].starts_with("client_connection_failed"), "{log:?}");
    assert_eq!(log[3..], ["do_stop"], "once, and no more");
}

#[test]
fn c141_a_name_without_addresses_is_a_lookup_error() {
    let answers = [Ok(Vec::new()), Err(ErrorKind::NotFound), Err(ErrorKind::TimedOut)];
    for answer in answers {
        let mut names = Names::new(&[]);
        names.network().set_name("example", Duration::ZERO, answer);
        let connecting = names.connect("example");
        assert!(!connecting.has_fired(), "reported by a turn");
        names.rig.turns(4);
        let error = names.error(connecting);
        assert!(
            matches!(&error, ConnectError::NameLookup { name, .. } if name == "example"),
            "{error:?}"
        );
        assert!(names.attempts().is_empty());
        assert_eq!(names.log.count("client_connection_failed"), 1);
        assert_eq!(names.log.count("do_stop"), 1);
    }
}

#[test]
fn c141_an_impossible_name_fails_the_connect() {
    // No resolver takes a NUL: the system's own lookup says so.
    let mut rig = Kit::mio().rig();
    let options = ConnectOptions::default();
    let a = rig.end();
    let factory = move || a.plays(Script::new());
    let connecting = rig.reactor.connect_tcp_deferred("no\0name", PORT, options, factory);
    assert!(!connecting.has_fired());
    rig.until("the failure", || connecting.has_fired());
    let failure = rig.l.run_until(connecting).expect_err("it fails");
    let error = failure.downcast_ref::<ConnectError>();
    assert!(matches!(error, Some(ConnectError::NameLookup { .. })), "{failure:?}");
}

#[test]
fn c142_a_slow_lookup_times_out() {
    for takes in [ms(30_001), Duration::MAX] {
        let mut names = Names::looked_up_in(takes, &["10.0.0.1"]);
        let connecting = names.begin("example");
        names.pass(ms(30_000) - TICK);
        assert!(!connecting.has_fired());
        names.pass(TICK);
        assert!(matches!(names.error(connecting), ConnectError::TimedOut(_)));
        assert_eq!(names.rig.tapped.forgotten.get(), 1);
        // The answer that comes after that starts nothing.
        names.pass(ms(60_000));
        assert!(names.attempts().is_empty());
        assert_eq!(names.log.count("client_connection_failed"), 1);
    }
    // One that is only slow leaves the addresses what is left of the time.
    let mut names = Names::looked_up_in(ms(20_000), &["10.0.0.1"]).silent(&["10.0.0.1"]);
    let connecting = names.begin("example");
    names.pass(ms(20_000));
    assert_eq!(names.attempts(), attempts(&[(20_000, "10.0.0.1")]));
    names.pass(ms(10_000));
    assert!(matches!(names.error(connecting), ConnectError::TimedOut(_)));
}

#[test]
fn c142_cancelling_a_lookup_answers_at_once() {
    let mut names = Names::looked_up_in(ms(5000), &["10.0.0.1"]);
    let connecting = names.begin("example");
    names.rig.turns(2);
    connecting.cancel();
    assert_eq!(cancelled(&mut names, connecting), "tcp:example:7");
    assert_eq!(names.log.count("client_connection_failed"), 0, "the factory hears by the turn");
    names.rig.turn();
    let log = names.log.entries();
    assert!(log[2].starts_with("client_connection_failed"), "{log:?}");
    assert_eq!(log[3..], ["do_stop"]);
    assert_eq!(names.rig.l.snapshot().connectors.len(), 0);
    assert_eq!(names.rig.tapped.forgotten.get(), 1, "nobody waits for its answer");
    names.pass(ms(60_000));
    assert!(names.attempts().is_empty(), "its answer is nobody's");
    assert_eq!(names.log.len(), 4);
}

#[test]
fn c142_a_lookup_that_is_given_up_keeps_nothing_of_who_asked() {
    let mut names = Names::looked_up_in(ms(5000), &["10.0.0.1"]);
    let witness = Rc::new(());
    let kept = witness.clone();
    let factory = move |_: &Address| -> Option<Recorder> {
        let _kept = &kept;
        None
    };
    let connecting = names.rig.reactor.connect("tcp:example:7", factory);
    names.rig.turns(2);
    connecting.cancel();
    drop(connecting);
    names.rig.turns(2);
    assert_eq!(Rc::strong_count(&witness), 1);
}

/// What the `Cancelled` that it failed with names.
fn cancelled(names: &mut Names, connecting: Deferred<Connection<Recorder>>) -> String {
    let failure = names.failure(connecting);
    let cancelled = failure.downcast_ref::<Cancelled>();
    let what = cancelled.and_then(Cancelled::what);
    what.unwrap_or_else(|| panic!("{failure:?}")).to_owned()
}

#[test]
fn c35_a_cancelled_connect_has_ended_before_the_next_turn_does() {
    // While two attempts are under way.
    let all = ["fd00::1", "10.0.0.1", "fd00::2"];
    let mut names = Names::new(&all).silent(&all);
    let connecting = names.begin("example");
    names.pass(ms(250));
    connecting.cancel();
    assert_eq!(cancelled(&mut names, connecting), "tcp:example:7");
    assert_eq!(names.closed(), (0, 2), "a handle only records");
    names.rig.turn();
    assert_eq!(names.closed(), (2, 2));
    assert_eq!(names.log.count("do_stop"), 1);
    // Before the turn that would have started it: the factory hears the same story.
    let mut names = Names::new(&all).silent(&all);
    let connecting = names.connect("fd00::1");
    connecting.cancel();
    assert_eq!(cancelled(&mut names, connecting), "tcp:[fd00::1]:7");
    names.rig.turn();
    assert!(names.attempts().is_empty());
    assert_eq!(names.log.count("client_connection_failed"), 1);
    assert_eq!(names.log.count("do_stop"), 1);
    // A connection that came through in the turn of the cancel is given up as well.
    let mut names = Names::new(&["10.0.0.1"]).busy("10.0.0.1");
    let connecting = names.begin("example");
    names.rig.turns(4);
    names.network().accept(at("10.0.0.1")).expect("it was filled");
    connecting.cancel();
    assert_eq!(cancelled(&mut names, connecting), "tcp:example:7");
    names.rig.turns(4);
    assert_eq!(names.closed(), (1, 1));
    assert_eq!(names.log.count("build"), 0);
}

#[test]
fn localhost_is_reached_through_the_systems_resolver() {
    // Whatever the system gives for it, and in whichever order.
    let mut rig = Kit::mio().rig();
    let peer = rig.peer_port();
    let a = rig.end();
    let (options, factory) = (ConnectOptions::default(), a.plays(Script::new()));
    let mut factory = Some(factory);
    let factory = move |_: &Address| factory.take();
    let port = peer.address().port();
    let connecting = rig.reactor.connect_tcp_deferred("localhost", port, options, factory);
    rig.until("the connection", || connecting.has_fired());
    let connection = rig.l.run_until(connecting).expect("it comes through");
    assert_eq!(connection.transport().peer().socket_addr(), Some(peer.address()));
}
