//! Rows 140 to 142a, and 35: connects to host names, and lookups. The test scripts the memory
//! driver's names and addresses; the tap records when each attempt began.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use couplet::defer::Cancelled;
use couplet::endpoints::TcpClient;
use couplet::testing::{Manner, Network};
use couplet::{Address, ConnectError, ConnectOptions, Connection, Deferred, Failure, Loop};

use crate::pace::{TestLoop, ms};
use crate::suite::kit::{Kit, Rig};
use crate::suite::recorder::{A, Log, Maker, Recorder, Script};

const PORT: u16 = 7;

const TICK: Duration = Duration::from_nanos(1);

/// A loop in memory whose network resolves the name "example".
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
        self.rig.network.clone().expect("a memory driver")
    }

    fn silent(self, addresses: &[&str]) -> Names {
        for ip in addresses {
            self.network().set_silent(at(ip));
        }
        self
    }

    /// A listener at `ip` whose accept queue of one is full.
    fn busy(self, ip: &str) -> Names {
        let network = self.network();
        network.listen(at(ip), 0).expect("a free address");
        network.connect(at(ip)).expect("room for one");
        self
    }

    fn connect(&self, host: &str) -> Deferred<Connection<Recorder>> {
        let a = self.a.clone();
        let maker = Maker::new(&self.log, move |_| Some(a.plays(Script::new())));
        let options = ConnectOptions::default();
        self.rig.reactor.connect(TcpClient::new(host, PORT).options(options), maker)
    }

    /// Calls [`connect`](Self::connect), and makes the turns that start it.
    fn begin(&mut self, host: &str) -> Deferred<Connection<Recorder>> {
        let connecting = self.connect(host);
        self.rig.turns(4);
        connecting
    }

    fn failure(&mut self, connecting: Deferred<Connection<Recorder>>) -> Failure {
        assert!(connecting.has_fired(), "{:?}", self.log.entries());
        self.rig.l.run_until(connecting).expect_err("it fails")
    }

    fn error(&mut self, connecting: Deferred<Connection<Recorder>>) -> ConnectError {
        let failure = self.failure(connecting);
        let error = failure.downcast_ref::<ConnectError>();
        error.unwrap_or_else(|| panic!("{failure:?}")).clone()
    }

    /// Start time in milliseconds and address of each attempt.
    fn attempts(&self) -> Vec<(u128, String)> {
        let connects = self.rig.tapped.connects.borrow();
        let attempts = connects.iter().map(|(at, to, _)| {
            let ip = to.ip().expect("a TCP address");
            (at.as_millis(), ip.to_string())
        });
        attempts.collect()
    }

    /// The number of attempts that were closed, and of all that were started.
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
    assert_eq!(names.closed(), (0, 3), "the earlier ones continue");
    // The 30 s cover the lookup and all attempts.
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
    // The first is refused, the second has no route, the third does not answer.
    let mut names =
        Names::new(&["fd00::1", "10.0.0.1", "fd00::2", "10.0.0.2"]).silent(&["fd00::2"]);
    names.network().set_unreachable(at("10.0.0.1").ip());
    names.begin("example").detach();
    names.rig.turns(8);
    assert_eq!(names.attempts(), attempts(&[(0, "fd00::1"), (0, "10.0.0.1"), (0, "fd00::2")]));
    // The 250 ms count from the last attempt. A failure while others are pending starts the next.
    names.pass(ms(250));
    assert_eq!(names.attempts()[3], (250, "10.0.0.2".into()));

    let mut names = Names::new(&["fd00::1", "10.0.0.1", "fd00::2"]).silent(&["fd00::1", "fd00::2"]);
    names.begin("example").detach();
    names.pass(ms(250));
    assert_eq!(
        names.attempts(),
        attempts(&[(0, "fd00::1"), (250, "10.0.0.1"), (250, "fd00::2")]),
        "the next one follows the refused one immediately, while the first is pending"
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
    // The second gets into the accept queue, although the third began after it.
    names.network().accept(at("10.0.0.1")).expect("a queued connection");
    names.rig.turns(4);
    assert!(connecting.has_fired());
    let connection = names.rig.l.run_until(connecting).expect("it connects");
    assert_eq!(connection.transport().peer().socket_addr(), Some(at("10.0.0.1")));
    assert_eq!(names.closed(), (2, 3), "all but the winner");
    names.pass(ms(60_000));
    assert_eq!(names.attempts().len(), 3, "no further attempt");
    let log = names.log.entries();
    assert_eq!(log, ["do_start", "started_connecting", "build(tcp:10.0.0.1:7)", "made"]);
}

#[test]
fn c32_c140_the_errors_of_all_addresses_are_reported_together() {
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
        matches!(
            kinds[..],
            [ConnectError::Refused(_), ConnectError::NoRoute(_), ConnectError::Refused(_)]
        ),
        "{errors:?}"
    );
    assert!(text.contains("10.0.0.1:7: no route"), "{text}");
    assert!(text.contains("[fd00::1]:7: connection refused"), "{text}");
    // A single address: its error, not wrapped.
    let mut names = Names::new(&["10.0.0.1"]);
    let connecting = names.begin("example");
    names.rig.turns(4);
    assert!(matches!(names.error(connecting), ConnectError::Refused(_)));
    let log = names.log.entries();
    assert_eq!(log[..2], ["do_start", "started_connecting"]);
    assert!(log[2].starts_with("client_connection_failed"), "{log:?}");
    assert_eq!(log[3..], ["do_stop"], "exactly once");
}

#[test]
fn c32_c141_a_name_without_addresses_is_a_lookup_error() {
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
        // Nothing is left of the attempt, whose time would be over.
        names.pass(ms(60_000));
        assert_eq!(names.log.count("client_connection_failed"), 1);
        assert_eq!(names.log.count("do_stop"), 1);
    }
}

#[test]
fn c141_an_impossible_name_fails_the_connect() {
    // No resolver accepts a NUL: the system's lookup fails.
    let mut rig = Kit::mio().rig();
    let options = ConnectOptions::default();
    let a = rig.end();
    let factory = move || a.plays(Script::new());
    let connecting =
        rig.reactor.connect(TcpClient::new("no\0name", PORT).options(options), factory);
    assert!(!connecting.has_fired());
    rig.until("the failure", || connecting.has_fired());
    let failure = rig.l.run_until(connecting).expect_err("it fails");
    let error = failure.downcast_ref::<ConnectError>();
    assert!(matches!(error, Some(ConnectError::NameLookup { .. })), "{failure:?}");
}

#[test]
fn c32_c142_a_slow_lookup_times_out() {
    for takes in [ms(30_001), Duration::MAX] {
        let mut names = Names::looked_up_in(takes, &["10.0.0.1"]);
        let connecting = names.begin("example");
        names.pass(ms(30_000) - TICK);
        assert!(!connecting.has_fired());
        names.pass(TICK);
        assert!(matches!(names.error(connecting), ConnectError::TimedOut(_)));
        assert_eq!(names.rig.tapped.forgotten.get(), 1);
        // A late answer starts nothing.
        names.pass(ms(60_000));
        assert!(names.attempts().is_empty());
        assert_eq!(names.log.count("client_connection_failed"), 1);
    }
    // After a slow lookup the attempts get the remaining time.
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
    assert_eq!(names.log.count("client_connection_failed"), 0, "the turn calls the factory");
    names.rig.turn();
    let log = names.log.entries();
    assert!(log[2].starts_with("client_connection_failed"), "{log:?}");
    assert_eq!(log[3..], ["do_stop"]);
    assert_eq!(names.rig.l.snapshot().connectors.len(), 0);
    assert_eq!(names.rig.tapped.forgotten.get(), 1, "the lookup was cancelled");
    names.pass(ms(60_000));
    assert!(names.attempts().is_empty(), "its answer is ignored");
    assert_eq!(names.log.len(), 4);
}

#[test]
fn c142_a_cancelled_lookup_keeps_nothing_of_its_caller() {
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

/// The target named by the `Cancelled` that it failed with.
fn cancelled(names: &mut Names, connecting: Deferred<Connection<Recorder>>) -> String {
    let failure = names.failure(connecting);
    let cancelled = failure.downcast_ref::<Cancelled>();
    let what = cancelled.and_then(Cancelled::what);
    what.unwrap_or_else(|| panic!("{failure:?}")).to_owned()
}

#[test]
fn c35_a_cancelled_connect_has_ended_before_the_next_turn_does() {
    // While two attempts are in flight.
    let all = ["fd00::1", "10.0.0.1", "fd00::2"];
    let mut names = Names::new(&all).silent(&all);
    let connecting = names.begin("example");
    names.pass(ms(250));
    connecting.cancel();
    assert_eq!(cancelled(&mut names, connecting), "tcp:example:7");
    assert_eq!(names.closed(), (0, 2), "cancel only records");
    names.rig.turn();
    assert_eq!(names.closed(), (2, 2));
    assert_eq!(names.log.count("do_stop"), 1);
    // Before the turn that would have started it: the factory gets the same calls.
    let mut names = Names::new(&all).silent(&all);
    let connecting = names.connect("fd00::1");
    connecting.cancel();
    assert_eq!(cancelled(&mut names, connecting), "tcp:[fd00::1]:7");
    names.rig.turn();
    assert!(names.attempts().is_empty());
    assert_eq!(names.log.count("client_connection_failed"), 1);
    assert_eq!(names.log.count("do_stop"), 1);
    // A connection established in the turn of the cancel is closed as well.
    let mut names = Names::new(&["10.0.0.1"]).busy("10.0.0.1");
    let connecting = names.begin("example");
    names.rig.turns(4);
    names.network().accept(at("10.0.0.1")).expect("a queued connection");
    connecting.cancel();
    assert_eq!(cancelled(&mut names, connecting), "tcp:example:7");
    names.rig.turns(4);
    assert_eq!(names.closed(), (1, 1));
    assert_eq!(names.log.count("build"), 0);
    let accepted = names.network().accept(at("10.0.0.1")).expect("the next one");
    assert!(accepted.saw_reset(), "not an empty stream");
}

#[test]
fn c35_a_server_that_has_accepted_a_cancelled_connect_gets_a_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("a bound address").port();
    let mut rig = Kit::mio().rig();
    let a = rig.end();
    let factory = move || a.plays(Script::new());
    let options = ConnectOptions::default();
    let connecting =
        rig.reactor.connect(TcpClient::new("127.0.0.1", port).options(options), factory);
    rig.turn();
    let (mut accepted, _) = listener.accept().expect("a connection");
    connecting.cancel();
    rig.turn();
    let error = accepted.read(&mut [0]).expect_err("not an empty stream");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    rig.l.run_until(connecting).expect_err("it was cancelled");
}

#[test]
fn localhost_resolves_through_the_system() {
    // With any addresses that the system returns, in any order.
    let mut rig = Kit::mio().rig();
    let peer = rig.peer_port();
    let a = rig.end();
    let (options, factory) = (ConnectOptions::default(), a.plays(Script::new()));
    let mut factory = Some(factory);
    let factory = move |_: &Address| factory.take();
    let port = peer.address().port().expect("TCP");
    let connecting =
        rig.reactor.connect(TcpClient::new("localhost", port).options(options), factory);
    rig.until("the connection", || connecting.has_fired());
    let connection = rig.l.run_until(connecting).expect("it connects");
    assert_eq!(connection.transport().peer(), &peer.address());
}

fn unknown(failure: &Failure) -> String {
    match failure.downcast_ref::<ConnectError>() {
        Some(ConnectError::NameLookup { name, .. }) => name.clone(),
        _ => panic!("{failure:?}"),
    }
}

#[test]
fn c142a_resolve_returns_all_addresses_of_a_name_in_their_order() {
    let all = ["10.0.0.1", "fd00::1", "10.0.0.2"];
    let mut names = Names::looked_up_in(ms(5), &all);
    let reactor = names.rig.reactor.clone();
    let resolving = reactor.resolve("example");
    // A connect to the same name does its own lookup.
    let connecting = names.begin("example");
    names.pass(ms(5) - TICK);
    assert!(!resolving.has_fired());
    names.pass(TICK);
    let found = names.rig.l.run_until(resolving).expect("it has addresses");
    assert_eq!(found, all.map(|ip| at(ip).ip()));
    assert!(!names.attempts().is_empty(), "the connect has its answer too");
    connecting.detach();
}

#[test]
fn a_loop_in_memory_waits_for_a_lookup_and_no_longer() {
    let mut stage = TestLoop::new(0);
    let ips = vec![at("10.0.0.1").ip()];
    stage.network.set_name("example", ms(5), Ok(ips.clone()));
    stage.reactor.call_later(ms(5000), || ());
    let resolving = stage.reactor.resolve("example");
    assert_eq!(stage.l.run_until(resolving).expect("it has an address"), ips);
    assert_eq!(stage.network.elapsed(), ms(5));
}

#[test]
fn c142a_an_address_is_not_looked_up_and_a_name_without_one_is_an_error() {
    let mut names = Names::new(&[]);
    let (l, reactor) = (&mut names.rig.l, names.rig.reactor.clone());
    let address = reactor.resolve("fd00::7");
    assert!(address.has_fired(), "nobody is asked");
    assert_eq!(l.run_until(address).expect("an address"), [at("fd00::7").ip()]);
    for name in ["example", "nowhere", "", "a b\0"] {
        let failure = l.run_until(reactor.resolve(name)).expect_err("it has no address");
        assert_eq!(unknown(&failure), name);
    }
}

#[test]
fn c142a_a_lookup_can_be_cancelled_and_ends_with_the_run() {
    let mut names = Names::looked_up_in(ms(5000), &["10.0.0.1"]);
    let reactor = names.rig.reactor.clone();
    // Cancelled before the turn that would begin the lookup, and after it.
    for (turns, forgotten) in [(0, 0), (2, 1)] {
        let resolving = reactor.resolve("example");
        names.rig.turns(turns);
        resolving.cancel();
        assert!(resolving.has_fired());
        names.rig.turns(2);
        assert_eq!(names.rig.tapped.forgotten.get(), forgotten);
        let failure = names.rig.l.run_until(resolving).expect_err("it was cancelled");
        assert!(failure.downcast_ref::<Cancelled>().is_some(), "{failure:?}");
    }
    let late = reactor.resolve("example").add_timeout(&reactor, ms(20));
    names.pass(ms(20));
    assert!(
        names.rig.l.run_until(late).is_err_and(|failure| failure.is::<couplet::defer::TimedOut>())
    );
    for turns in [0, 2] {
        let resolving = reactor.resolve("example");
        names.rig.turns(turns);
        names.rig.stop(Duration::ZERO);
        assert!(resolving.has_fired(), "the run has ended");
        let failure = names.rig.l.run_until(resolving).expect_err("it was cut off");
        assert!(failure.downcast_ref::<Cancelled>().is_some(), "{failure:?}");
    }
}

#[test]
fn c142a_the_system_is_asked_for_names() {
    let mut l = Loop::new().expect("a loop");
    let (reactor, nowhere) = (l.reactor(), "no-such-name.invalid");
    let found = l.run_until(reactor.resolve("localhost")).expect("every system knows it");
    assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
    let failure = l.run_until(reactor.resolve(nowhere)).expect_err("RFC 6761");
    assert_eq!(unknown(&failure), nowhere);
}

#[test]
fn c142a_each_of_several_lookups_has_its_own_end() {
    let mut names = Names::looked_up_in(ms(5000), &["10.0.0.1"]);
    let reactor = names.rig.reactor.clone();
    // Two are cancelled before the turn that would begin them, and after it.
    for (turns, forgotten) in [(0, 0), (2, 2)] {
        let lookups = [(); 4].map(|()| reactor.resolve("example"));
        names.rig.turns(turns);
        lookups[0].cancel();
        lookups[2].cancel();
        names.rig.turns(2);
        assert_eq!(names.rig.tapped.forgotten.get(), forgotten);
        names.pass(ms(5000));
        for (number, lookup) in lookups.into_iter().enumerate() {
            assert!(lookup.has_fired());
            assert_eq!(names.rig.l.run_until(lookup).is_ok(), number % 2 == 1, "{number}");
        }
    }
    // The end of the run.
    let mut lookups: Vec<_> = (0..2).map(|_| reactor.resolve("example")).collect();
    names.rig.turns(2);
    lookups.extend((0..2).map(|_| reactor.resolve("example")));
    names.rig.stop(Duration::ZERO);
    for lookup in lookups {
        assert!(lookup.has_fired(), "the run has ended");
        let failure = names.rig.l.run_until(lookup).expect_err("it was cut off");
        assert!(failure.is::<Cancelled>(), "{failure:?}");
    }
    assert_eq!(names.rig.tapped.forgotten.get(), 2 + 4);
}
