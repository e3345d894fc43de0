//! Rows 135 and 136: reconnecting, on the memory driver's network and clock.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::time::Duration;

use couplet::defer::Deferred;
use couplet::protocols::{ReconnectingClientFactory, Reconnection};
use couplet::testing::{Network, Wire};
use couplet::{
    Address, ConnectError, ConnectOptions, Connection, Connector, ConnectorState, Factory,
    Protocol, Reactor, Reason, Transport, hooks,
};

use crate::defer_witness::{Log, given};
use crate::pace::TestLoop;
use couplet_testkit_loops::doubles::Quiet;

const S: Duration = Duration::from_secs(1);

/// A stage for clients of one server, which need not exist.
pub(crate) struct Rig {
    stage: TestLoop,
    /// Start time of each attempt.
    pub(crate) attempts: Rc<RefCell<Vec<Duration>>>,
    /// Logs the ends of connections.
    pub(crate) ends: Log,
}

impl Deref for Rig {
    type Target = TestLoop;

    fn deref(&self) -> &TestLoop {
        &self.stage
    }
}

impl DerefMut for Rig {
    fn deref_mut(&mut self) -> &mut TestLoop {
        &mut self.stage
    }
}

/// The address of these tests' servers, if any.
pub(crate) fn server() -> SocketAddr {
    ([127, 0, 0, 1], 8000).into()
}

/// Sends nothing; logs its end.
pub(crate) struct Ends(Log);

impl Protocol for Ends {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        self.0.say("lost");
    }
}

/// Logs its callbacks, and when attempts begin.
pub(crate) struct Notes {
    log: Log,
    ends: Log,
    network: Network,
    attempts: Rc<RefCell<Vec<Duration>>>,
    /// Panics in the callbacks about a failure and a loss.
    pub(crate) panics: bool,
    pub(crate) panics_in_build: bool,
}

impl Factory for Notes {
    type Protocol = Ends;

    fn attach(&mut self, _: &Reactor) {
        self.log.say("attach");
    }

    fn do_start(&mut self) {
        self.log.say("do_start");
    }

    fn started_connecting(&mut self, _: &Connector) {
        self.attempts.borrow_mut().push(self.network.elapsed());
        self.log.say("started");
    }

    fn build_protocol(&mut self, _: &Address) -> Option<Ends> {
        assert!(!self.panics_in_build, "in build_protocol");
        self.log.say("build");
        Some(Ends(self.ends.clone()))
    }

    fn client_connection_failed(&mut self, _: &Connector, reason: &Reason) {
        self.log.say(format!("failed: {reason}"));
        assert!(!self.panics, "in client_connection_failed");
    }

    fn client_connection_lost(&mut self, _: &Connector, reason: &Reason) {
        self.log.say(format!("lost: {reason}"));
        assert!(!self.panics, "in client_connection_lost");
    }

    fn do_stop(&mut self) {
        self.log.say("do_stop");
    }
}

type Reconnecting = ReconnectingClientFactory<Notes>;

impl Rig {
    pub(crate) fn new(seed: u64) -> Rig {
        let (attempts, ends) = Default::default();
        Rig { stage: TestLoop::new(seed), attempts, ends }
    }

    pub(crate) fn notes(&self) -> Notes {
        let (log, ends, attempts) = (self.log.clone(), self.ends.clone(), self.attempts.clone());
        let (network, panics, panics_in_build) = (self.network.clone(), false, false);
        Notes { log, ends, attempts, network, panics, panics_in_build }
    }

    fn factory(&self) -> Reconnecting {
        ReconnectingClientFactory::new(self.notes())
    }

    fn connect(&self, factory: Reconnecting) -> Connector {
        hooks::connector(&self.reactor, ("127.0.0.1", 8000), ConnectOptions::default(), factory)
    }

    fn endpoint(&self, factory: Reconnecting) -> Deferred<Connection<Ends>> {
        self.reactor.connect("tcp:127.0.0.1:8000", factory)
    }

    /// Time between consecutive attempts, in milliseconds.
    pub(crate) fn waits(&self) -> Vec<u64> {
        let ms = |wait: Duration| (wait.as_secs_f64() * 1000.0).round() as u64;
        self.attempts.borrow().windows(2).map(|two| ms(two[1] - two[0])).collect()
    }

    pub(crate) fn attempts(&self) -> usize {
        self.attempts.borrow().len()
    }

    /// Makes the server listen.
    pub(crate) fn serve(&self) {
        self.network.listen(server(), 10).expect("the port is free");
    }

    pub(crate) fn accept(&self) -> Wire {
        self.network.accept(server()).expect("it has connected")
    }

    /// Connects, and makes the first attempt.
    fn begin(&mut self, factory: Reconnecting) -> (Connector, Reconnection) {
        let reconnection = factory.reconnection();
        let connector = self.connect(factory);
        self.settle();
        (connector, reconnection)
    }

    fn take(&self) -> Vec<String> {
        self.log.lines()
    }
}

#[test]
fn c135_the_waits_grow_by_e_from_one_second_to_an_hour() {
    let mut rig = Rig::new(0);
    rig.connect(rig.factory().jitter(0.0));
    rig.pass(S * 20_000);
    let expected =
        [1000, 2718, 7389, 20086, 54598, 148_413, 403_429, 1_096_633, 2_980_958, 3_600_000];
    assert_eq!(rig.waits()[..10], expected);
    assert_eq!(rig.waits()[10], 3_600_000, "retries are unlimited");
}

#[test]
fn c135_jitter_spreads_the_waits_by_twelve_percent_and_never_over_the_cap() {
    let (mut first, mut capped) = (Vec::new(), 0);
    for seed in 0..200 {
        let mut rig = Rig::new(seed);
        rig.connect(rig.factory());
        rig.pass(S * 40_000);
        let waits = rig.waits();
        first.push(waits[0] as f64 / 1000.0);
        assert!(waits.iter().all(|wait| *wait <= 3_600_000), "{waits:?}");
        capped += waits.iter().filter(|wait| **wait == 3_600_000).count();
        // The jittered wait grows: the next wait is e times as long, with new jitter.
        for two in waits.windows(2).take(4) {
            let grew = two[1] as f64 / two[0] as f64;
            assert!((0.2..5.0).contains(&grew), "{waits:?}");
        }
    }
    let mean = first.iter().sum::<f64>() / 200.0;
    let deviation = (first.iter().map(|w| (w - mean).powi(2)).sum::<f64>() / 200.0).sqrt();
    assert!((0.97..1.03).contains(&mean), "{mean}");
    assert!((0.10..0.14).contains(&deviation), "{deviation}");
    assert!(capped > 200, "about half of the late waits reach the cap: {capped}");
}

#[test]
fn c135_the_same_seed_gives_the_same_waits() {
    let waits = |seed| {
        let mut rig = Rig::new(seed);
        rig.connect(rig.factory());
        rig.pass(S * 1000);
        rig.waits()
    };
    assert_eq!(waits(1), waits(1));
    assert_ne!(waits(1), waits(2));
}

#[test]
fn c135_delay_cap_and_factor_can_be_set_and_values_out_of_range_count_as_the_nearest() {
    type Change = fn(Reconnecting) -> Reconnecting;
    let cases: [(&str, Change, &[u64]); 7] = [
        (
            "all are set",
            |it| it.jitter(0.0).factor(2.0).initial_delay(S / 2).max_delay(S * 3),
            &[500, 1000, 2000, 3000, 3000, 3000],
        ),
        ("a factor of 0", |it| it.jitter(-1.0).factor(0.0), &[1000; 4]),
        ("a factor of -3", |it| it.jitter(-1.0).factor(-3.0), &[1000; 4]),
        ("a factor that is no number", |it| it.jitter(-1.0).factor(f64::NAN), &[1000; 4]),
        ("a factor of 1", |it| it.jitter(-1.0).factor(1.0), &[1000; 4]),
        (
            "an infinite factor, a jitter that is no number",
            |it| it.factor(f64::INFINITY).jitter(f64::NAN).max_delay(S * 5),
            &[1000, 5000, 5000],
        ),
        (
            "an initial delay above the cap",
            |it| it.jitter(0.0).initial_delay(Duration::MAX).max_delay(S * 2),
            &[2000, 2000],
        ),
    ];
    for (case, change, waits) in cases {
        let mut rig = Rig::new(0);
        rig.connect(change(rig.factory()));
        rig.pass(Duration::from_millis(waits.iter().sum()));
        assert_eq!(rig.waits(), waits, "{case}");
    }
    // Without a delay each attempt gets its own turn.
    let mut rig = Rig::new(0);
    rig.connect(rig.factory().initial_delay(Duration::ZERO));
    rig.settle();
    let so_far = rig.attempts();
    assert!((2..=8).contains(&so_far), "{so_far}");
    // Even a huge jitter does not shrink the waits to zero.
    let mut rig = Rig::new(7);
    rig.connect(rig.factory().factor(1.0).jitter(9.0).max_delay(S));
    rig.pass(S * 100);
    assert!(rig.waits().iter().all(|wait| (100..=1000).contains(wait)));
}

#[test]
fn c135_reconnecting_stops_after_the_maximum_of_retries() {
    for most in [0, 3] {
        let mut rig = Rig::new(0);
        let (connector, reconnection) = rig.begin(rig.factory().jitter(0.0).max_retries(most));
        rig.pass(S * 10_000);
        assert_eq!(rig.attempts(), most as usize + 1);
        assert_eq!(reconnection.retries(), most);
        assert_eq!(connector.state(), ConnectorState::Disconnected);
        assert_eq!(rig.take().last().unwrap(), "do_stop");
    }
}

#[test]
fn c135_the_inner_factory_gets_every_call_and_is_started_once() {
    let mut rig = Rig::new(0);
    let (connector, reconnection) = rig.begin(rig.factory().jitter(0.0));
    rig.serve();
    rig.pass(S);
    let wire = rig.accept();
    assert_eq!(connector.state(), ConnectorState::Connected);
    rig.after(|| wire.close());
    reconnection.stop_trying();
    rig.settle();
    let refused = "failed: connection refused";
    let (lost, stopped) =
        ("lost: connection closed by the peer", "failed: the attempt was stopped");
    let calls = ["attach", "do_start", "started", refused, "started", "build", lost, stopped];
    assert_eq!(rig.take()[..8], calls);
    assert_eq!(rig.take()[8..], ["do_stop"]);
}

#[test]
fn c135_a_lost_connection_is_made_again_and_reset_delay_starts_the_waits_anew() {
    let mut rig = Rig::new(0);
    let (_, reconnection) = rig.begin(rig.factory().jitter(0.0));
    rig.pass(S * 10);
    assert_eq!(rig.waits(), [1000, 2718]);
    assert_eq!(reconnection.retries(), 3);
    rig.serve();
    rig.pass(S * 2);
    assert_eq!(rig.attempts(), 4);
    // A successful connect does not reset the delay.
    rig.accept().close();
    rig.pass(S * 19);
    assert_eq!(rig.attempts(), 4);
    rig.pass(S * 2);
    assert_eq!((rig.attempts(), reconnection.retries()), (5, 4));
    reconnection.reset_delay();
    assert_eq!(reconnection.retries(), 0);
    rig.accept().reset();
    rig.pass(S);
    assert_eq!((rig.attempts(), reconnection.retries()), (6, 1));
}

#[test]
fn c135_stop_trying_ends_a_wait_an_attempt_and_leaves_a_connection() {
    // During a wait.
    let mut rig = Rig::new(0);
    let (connector, reconnection) = rig.begin(rig.factory());
    assert_eq!(
        connector.state(),
        ConnectorState::Connecting,
        "a waiting connector counts as connecting"
    );
    assert_eq!(rig.l.snapshot().connectors[0].state, "waiting");
    reconnection.stop_trying();
    rig.settle();
    assert_eq!(connector.state(), ConnectorState::Disconnected);
    let log = rig.take();
    assert_eq!(log[log.len() - 2..], ["failed: the attempt was stopped", "do_stop"]);
    assert_eq!(rig.l.snapshot().pending_calls, 0);
    // During an attempt.
    let mut rig = Rig::new(0);
    rig.network.set_silent(server());
    let (connector, reconnection) = rig.begin(rig.factory());
    reconnection.stop_trying();
    rig.pass(S * 100);
    assert_eq!(rig.attempts(), 1);
    assert_eq!(connector.state(), ConnectorState::Disconnected);
    // With a connection.
    let mut rig = Rig::new(0);
    rig.serve();
    let (connector, reconnection) = rig.begin(rig.factory());
    reconnection.stop_trying();
    rig.pass(S);
    assert_eq!(connector.state(), ConnectorState::Connected);
    rig.accept().close();
    rig.pass(S * 100);
    assert_eq!((rig.attempts(), reconnection.is_trying()), (1, false));
    // Before the first attempt.
    let mut rig = Rig::new(0);
    let factory = rig.factory();
    let reconnection = factory.reconnection();
    let first = given(rig.endpoint(factory));
    reconnection.stop_trying();
    rig.pass(S * 100);
    assert_eq!(first.text(), "the attempt was stopped");
    assert_eq!(rig.attempts(), 1);
}

#[test]
fn c135_an_attempt_stopped_on_purpose_is_not_repeated() {
    let mut rig = Rig::new(0);
    rig.network.set_silent(server());
    let connector = rig.connect(rig.factory());
    rig.settle();
    assert!(connector.stop_connecting());
    rig.pass(S * 100);
    assert_eq!(rig.attempts(), 1);
    // A stopped wait is not repeated either.
    let mut rig = Rig::new(0);
    let connector = rig.connect(rig.factory());
    rig.settle();
    assert!(connector.stop_connecting() && !connector.stop_connecting());
    rig.pass(S * 100);
    assert_eq!(rig.attempts(), 1);
    assert_eq!(rig.take().last().unwrap(), "do_stop");
}

#[test]
fn c135_a_panic_in_the_inner_factory_does_not_end_the_trying() {
    let mut rig = Rig::new(0);
    let notes = Notes { panics: true, ..rig.notes() };
    rig.connect(ReconnectingClientFactory::new(notes).jitter(0.0));
    rig.pass(S);
    assert_eq!(rig.waits(), [1000]);
    rig.serve();
    rig.pass(S * 3);
    rig.accept().close();
    rig.pass(S * 10);
    assert_eq!(rig.attempts(), 4);
}

#[test]
fn c135_the_end_of_the_reactor_ends_the_trying() {
    for connected in [false, true] {
        let mut rig = Rig::new(0);
        if connected {
            rig.serve();
        }
        let factory = rig.factory();
        let retries = factory.reconnection();
        let first = given(rig.endpoint(factory));
        rig.settle();
        rig.run();
        if !connected {
            let failure = first.take().unwrap_err();
            assert!(matches!(failure.downcast_ref(), Some(ConnectError::Shutdown)));
        }
        let log = rig.take();
        let text = if connected { "closed by the reactor" } else { "the reactor stopped" };
        let stopped = log.iter().filter(|line| line.ends_with(text)).count();
        assert_eq!(stopped, 1, "nothing is tried after that: {log:?}");
        assert_eq!(log.last().unwrap(), "do_stop");
        assert_eq!(retries.retries(), u32::from(!connected));
        assert_eq!(rig.attempts(), 1);
        rig.pass(S * 100);
        assert_eq!(rig.attempts(), 1);
    }
}

/// Resets the delay itself when it receives data.
struct Greeted(Reconnection);

impl Protocol for Greeted {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {
        self.0.reset_delay();
    }
}

#[test]
fn c135_a_protocol_can_reset_the_delay_and_a_closure_be_wrapped() {
    let mut rig = Rig::new(0);
    let factory =
        ReconnectingClientFactory::with(|reconnection| move || Greeted(reconnection.clone()));
    let reconnection = factory.reconnection();
    let connecting = rig.reactor.connect("tcp:127.0.0.1:8000", factory);
    rig.pass(S * 10);
    assert!(reconnection.retries() >= 2 && !connecting.has_fired());
    rig.serve();
    rig.pass(S * 30);
    rig.accept().push(b"hello");
    rig.settle();
    assert_eq!(reconnection.retries(), 0);
    let connection: Connection<Greeted> = given(connecting).take().unwrap();
    assert!(!connection.is_lost());
    // A closure that takes the peer's address works too.
    let mut rig = Rig::new(0);
    rig.serve();
    let factory = ReconnectingClientFactory::new(|_: &Address| Some(Quiet));
    let connecting = given(rig.reactor.connect("tcp:127.0.0.1:8000", factory));
    rig.settle();
    connecting.take().unwrap();
}

#[test]
fn c37_c136_through_an_endpoint_retries_continue_until_the_first_connection_and_after_it() {
    let mut rig = Rig::new(0);
    let connecting = rig.endpoint(rig.factory().jitter(0.0));
    rig.pass(S * 2);
    assert_eq!(rig.attempts(), 2);
    assert!(!connecting.has_fired(), "a failure followed by a retry is not reported");
    rig.serve();
    rig.pass(S * 2);
    let connection = given(connecting).take().unwrap();
    assert!(!connection.is_lost());
    rig.accept().close();
    rig.pass(S * 8);
    assert!(connection.is_lost());
    assert_eq!(rig.attempts(), 4);
    rig.accept();
}

#[test]
fn c136_through_an_endpoint_giving_up_reports_the_last_failure() {
    let mut rig = Rig::new(0);
    let connecting = given(rig.endpoint(rig.factory().jitter(0.0).max_retries(1)));
    rig.pass(S * 10);
    let failure = connecting.take().unwrap_err();
    assert!(matches!(failure.downcast_ref(), Some(ConnectError::Refused(_))));
    assert_eq!(rig.attempts(), 2);
}

#[test]
fn c136_a_cancel_of_the_connect_ends_the_trying() {
    let mut rig = Rig::new(0);
    let connecting = rig.endpoint(rig.factory());
    rig.pass(S * 10);
    let attempts = rig.attempts();
    connecting.cancel();
    assert!(given(connecting).take().unwrap_err().is_cancelled());
    rig.pass(S * 1000);
    assert_eq!(rig.attempts(), attempts);
    assert_eq!(rig.take().last().unwrap(), "do_stop");
}

#[test]
fn c136_a_factory_that_builds_nothing_is_asked_again() {
    let mut rig = Rig::new(0);
    rig.serve();
    let mut says_no = true;
    let factory = ReconnectingClientFactory::new(move |_: &Address| {
        (!std::mem::take(&mut says_no)).then_some(Quiet)
    });
    let connecting = given(rig.reactor.connect("tcp:127.0.0.1:8000", factory));
    rig.settle();
    assert!(connecting.is_none());
    rig.pass(S * 2);
    connecting.take().unwrap();
}

/// Reconnects itself with `connect_after`, after the given delay.
struct ByHand(Duration, Log);

impl Factory for ByHand {
    type Protocol = Quiet;

    fn build_protocol(&mut self, _: &Address) -> Option<Quiet> {
        Some(Quiet)
    }

    fn client_connection_lost(&mut self, connector: &Connector, reason: &Reason) {
        let connects = [(); 2].map(|()| connector.connect_after(self.0).is_ok());
        let has_transport = connector.transport().is_some();
        self.1.say(format!("lost: {reason}, {connects:?}, {has_transport}"));
    }

    fn do_stop(&mut self) {
        self.1.say("do_stop");
    }
}

#[test]
fn c37_a_connect_after_a_delay_keeps_the_factory_started_and_can_be_stopped() {
    let mut rig = Rig::new(0);
    rig.serve();
    let factory = ByHand(S * 5, rig.log.clone());
    let connector =
        hooks::connector(&rig.reactor, ("127.0.0.1", 8000), ConnectOptions::default(), factory);
    rig.settle();
    rig.accept().close();
    rig.pass(S * 4);
    assert_eq!(connector.state(), ConnectorState::Connecting);
    assert!(rig.network.accept(server()).is_none());
    rig.pass(S);
    rig.accept().close();
    rig.settle();
    let lost = "lost: connection closed by the peer, [true, false], false";
    assert_eq!(rig.take(), [lost; 2], "the second connect is refused, and there is no transport");
    connector.disconnect();
    rig.settle();
    assert_eq!(rig.take(), [lost, lost, "do_stop"]);
    assert_eq!(connector.state(), ConnectorState::Disconnected);
    // Outside of any callback too; the turn reports an immediate stop.
    connector.connect_after(S).unwrap();
    assert!(connector.stop_connecting());
    rig.settle();
    assert_eq!(connector.state(), ConnectorState::Disconnected);
    connector.connect_after(Duration::ZERO).unwrap();
    rig.settle();
    rig.accept();
}

#[test]
fn c37_a_connector_stopped_in_its_delay_makes_one_attempt_when_it_connects_again() {
    let mut rig = Rig::new(0);
    rig.network.set_silent(server());
    let options = ConnectOptions::default().timeout(S * 3);
    let connector = hooks::connector(&rig.reactor, ("127.0.0.1", 8000), options, rig.notes());
    rig.settle();
    assert!(connector.stop_connecting());
    rig.settle();
    connector.connect_after(S * 5).unwrap();
    rig.settle();
    assert!(connector.stop_connecting());
    rig.settle();
    connector.connect().unwrap();
    rig.pass(S * 20);
    let (stopped, late) = ("failed: the attempt was stopped", "failed: no answer within 3s");
    let first = ["attach", "do_start", "started", stopped, "do_stop", stopped];
    assert_eq!(rig.take(), [&first[..], &["do_start", "started", late, "do_stop"]].concat());
}
