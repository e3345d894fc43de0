//! Services in three loops.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use couplet::endpoints::server_from_string;
use couplet::services::{ChildState, StreamServerService, Supervisor};
use couplet::{Address, Loop, LoopOptions, Protocol, Transport};
use couplet_testkit::PATIENCE;

use super::*;
use crate::loops::{enter, this_loop};
use crate::places::{self, Common, placed};
use crate::workers::Workers;

/// The calls to the parts: a word and the number of the loop.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<String>>>);

impl Calls {
    fn add(&self, what: &str) {
        self.0.lock().unwrap().push(format!("{what} {}", this_loop().number));
    }

    fn count(&self, what: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|call| call.as_str() == what).count()
    }

    /// How often there was this call in each loop.
    fn counts(&self, what: &str) -> [usize; 3] {
        [0, 1, 2].map(|number| self.count(&format!("{what} {number}")))
    }
}

/// The behaviour of the parts.
#[derive(Clone, Copy, PartialEq)]
enum Plan {
    Run,
    /// The part of loop 1 fails to start.
    FailToStart,
    /// The part of loop 1 fails to start, and the part of loop 2 starts until that is cancelled.
    FailBesideAStart,
    /// The part of loop 1 fails soon, after its first start.
    Fail,
    /// The same after its first two starts.
    FailTwice,
    /// The part of loop 1 starts until that is cancelled.
    HangInStart,
    /// The parts stop until that is cancelled.
    HangInStop,
    /// The part of loop 1 is restricted, and the part of loop 2 panics when it is asked.
    Ail,
    /// The part of loop 1 is restricted once it was asked three times.
    Tire,
}

struct Part {
    calls: Calls,
    plan: Plan,
    reactor: Option<Reactor>,
    hang: Option<Resolver<()>>,
}

impl Part {
    fn hang(&mut self, word: &'static str) -> Deferred<()> {
        let calls = self.calls.clone();
        let (deferred, resolver) = Deferred::with_canceller(move |_| calls.add(word));
        self.hang = Some(resolver);
        deferred
    }
}

impl Service for Part {
    fn name(&self) -> &str {
        "part"
    }

    fn start(&mut self, reactor: &Reactor) -> Deferred<()> {
        self.calls.add("start");
        self.reactor = Some(reactor.clone());
        match self.plan {
            Plan::FailToStart if this_loop().number == 1 => Deferred::fail(Failure::msg("no")),
            Plan::FailBesideAStart if this_loop().number == 1 => Deferred::fail(Failure::msg("no")),
            Plan::FailBesideAStart if this_loop().number == 2 => self.hang("cancel"),
            Plan::HangInStart if this_loop().number == 1 => self.hang("cancel"),
            _ => Deferred::succeed(()),
        }
    }

    fn stop(&mut self) -> Deferred<()> {
        self.calls.add("stop");
        match self.plan {
            Plan::HangInStop => self.hang("cancel"),
            _ => Deferred::succeed(()),
        }
    }

    fn health(&self) -> Health {
        match (self.plan, this_loop().number) {
            (Plan::Ail, 1) => Health::Degraded("one leg".to_owned()),
            (Plan::Ail, 2) => panic!("a health that panics"),
            (Plan::Tire, 1) => {
                self.calls.add("health");
                match self.calls.count("health 1") {
                    ..=3 => Health::Ready,
                    _ => Health::Degraded("tired".to_owned()),
                }
            }
            _ => Health::Ready,
        }
    }

    fn take_end(&mut self) -> Option<Deferred<()>> {
        let failures = match self.plan {
            Plan::Fail => 1,
            Plan::FailTwice => 2,
            _ => 0,
        };
        let fails = self.calls.count("start 1") <= failures;
        (this_loop().number == 1 && fails).then(|| {
            let slept = self.reactor.as_ref().unwrap().sleep(Duration::from_millis(5));
            slept.then(|()| Deferred::fail(Failure::msg("its leg broke")))
        })
    }
}

/// A service in several loops.
struct Parts {
    l: Loop,
    _workers: Workers,
    child: Child,
    calls: Calls,
}

impl Parts {
    fn new(plan: Plan) -> Parts {
        Parts::with(3, plan, |child| child)
    }

    /// In this number of loops, with a way to shorten its times.
    fn with(
        count: usize,
        plan: Plan,
        shorten: impl Fn(Child) -> Child + Send + Sync + 'static,
    ) -> Parts {
        let l = Loop::new().unwrap();
        let mut workers = Workers::default();
        enter(0, count);
        for number in 1..count {
            let main = l.reactor().remote();
            let set_up = move |_: &mut Loop| enter(number, count);
            workers.start(LoopOptions::default(), main, set_up).unwrap();
        }
        let (loops, calls) = (Loops::new(&l.reactor(), workers.remotes()), Calls::default());
        let log = calls.clone();
        let child = child(&loops, move |_| {
            let part = Part { calls: log.clone(), plan, reactor: None, hang: None };
            Ok(shorten(Child::new(part)))
        });
        Parts { l, _workers: workers, child: child.unwrap(), calls }
    }

    fn start(&mut self) -> couplet::Result<()> {
        let started = self.child.start(&self.l.reactor());
        self.l.run_until(started)
    }

    fn stop(&mut self) -> couplet::Result<()> {
        let stopped = self.child.stop();
        self.l.run_until(stopped)
    }

    /// Cancels a start immediately.
    fn cancel_a_start(&mut self) {
        let starting = self.child.start(&self.l.reactor());
        starting.cancel();
        assert!(self.l.run_until(starting).is_err());
    }

    /// Turns until there were these calls.
    fn turn_until(&mut self, what: &'static str, counts: [usize; 3]) {
        let calls = self.calls.clone();
        turn_until(&mut self.l, what, move || calls.counts(what) == counts);
    }

    #[track_caller]
    fn assert_counts(&self, words: &[(&str, [usize; 3])]) {
        for (word, wanted) in words {
            assert_eq!(self.calls.counts(word), *wanted, "{word}");
        }
    }

    /// Asserts that one part more was started in each loop than was stopped.
    fn assert_one_runs_in_each_loop(&self) {
        let (starts, stops) = (self.calls.counts("start"), self.calls.counts("stop"));
        let run = [0, 1, 2].map(|number| starts[number] - stops[number]);
        assert_eq!(run, [1; 3], "{starts:?} starts, {stops:?} stops");
        assert_eq!(self.child.health(), Health::Ready);
    }

    fn assert_none_runs(&self) {
        assert_eq!(self.calls.counts("start"), self.calls.counts("stop"));
    }
}

/// Turns until this holds.
fn turn_until(l: &mut Loop, what: &str, done: impl Fn() -> bool + 'static) {
    let reactor = l.reactor();
    let done = reactor.clone().spawn(async move {
        let late = reactor.now() + PATIENCE;
        while !done() {
            if reactor.now() > late {
                return Err(Failure::msg("it does not come"));
            }
            reactor.sleep(Duration::from_millis(5)).await?;
        }
        Ok(())
    });
    l.run_until(done).unwrap_or_else(|failure| panic!("{what}: {failure}"));
}

#[test]
fn a_part_runs_in_each_loop() {
    for (count, in_each) in [(3, [1, 1, 1]), (2, [1, 1, 0])] {
        let mut parts = Parts::with(count, Plan::Run, |child| child);
        assert_eq!(parts.child.name(), "part");
        for round in 1..3 {
            parts.start().unwrap();
            let counts = in_each.map(|one| one * round);
            parts.assert_counts(&[("start", counts)]);
            assert_eq!(parts.child.health(), Health::Ready);
            parts.stop().unwrap();
            parts.assert_counts(&[("stop", counts)]);
        }
    }
}

#[test]
fn if_a_part_cannot_start_the_others_are_stopped_or_their_starts_cancelled() {
    for (plan, cancels, stops) in
        [(Plan::FailToStart, [0, 0, 0], [1, 0, 1]), (Plan::FailBesideAStart, [0, 0, 1], [1, 0, 0])]
    {
        let mut parts = Parts::new(plan);
        assert_eq!(parts.start().unwrap_err().to_string(), "no");
        parts.assert_counts(&[("start", [1; 3]), ("cancel", cancels), ("stop", stops)]);
    }
}

#[test]
fn a_start_waits_until_the_parts_have_stopped_and_so_does_another_stop() {
    let mut parts = Parts::new(Plan::Run);
    parts.start().unwrap();
    let (stopped, again) = (parts.child.stop(), parts.child.stop());
    parts.start().unwrap();
    parts.l.run_until(stopped).unwrap();
    parts.l.run_until(again).unwrap();
    parts.assert_one_runs_in_each_loop();
    parts.assert_counts(&[("start", [2; 3])]);
    parts.stop().unwrap();
    parts.assert_counts(&[("stop", [2; 3])]);
}

#[test]
fn the_service_ends_with_its_first_part() {
    let mut parts = Parts::new(Plan::Fail);
    parts.start().unwrap();
    let end = parts.child.take_end().unwrap();
    assert_eq!(parts.l.run_until(end).unwrap_err().to_string(), "its leg broke");
    parts.assert_counts(&[("stop", [1; 3])]);
}

#[test]
fn the_service_ends_with_its_first_part_in_each_run() {
    let mut parts = Parts::new(Plan::FailTwice);
    for run in 1..=2 {
        parts.start().unwrap();
        assert_eq!(parts.child.health(), Health::Ready, "{run}");
        let end = parts.child.take_end().unwrap();
        assert_eq!(parts.l.run_until(end).unwrap_err().to_string(), "its leg broke");
        parts.assert_counts(&[("start", [run; 3]), ("stop", [run; 3])]);
    }
    parts.start().unwrap();
    parts.assert_one_runs_in_each_loop();
    parts.stop().unwrap();
    parts.assert_none_runs();
}

#[test]
fn a_part_that_fails_restarts_all() {
    let Parts { mut l, child, calls, _workers } = Parts::new(Plan::Fail);
    let supervisor = Supervisor::new("program").back_off(Duration::ZERO, Duration::ZERO);
    supervisor.add(child).detach();
    supervisor.run(&l.reactor()).detach();
    let (starts, shown) = (calls.clone(), supervisor.clone());
    turn_until(&mut l, "the restart", move || {
        let is_running = shown.children()[0].state == ChildState::Running;
        starts.counts("start") == [2; 3] && is_running
    });
    // The failed part is stopped too: it may hold something.
    assert_eq!(calls.counts("stop"), [1; 3]);
    assert_eq!((supervisor.children()[0].restarts, supervisor.health()), (1, Health::Ready));
}

#[test]
fn a_cancelled_start_stops_the_parts_that_have_started() {
    let mut parts = Parts::new(Plan::HangInStart);
    let starting = parts.child.start(&parts.l.reactor());
    parts.turn_until("start", [1; 3]);
    starting.cancel();
    assert!(parts.l.run_until(starting).is_err());
    parts.turn_until("stop", [1, 0, 1]);
    parts.assert_counts(&[("cancel", [0, 1, 0])]);
}

#[test]
fn a_start_or_a_stop_waits_until_starts_that_were_cancelled_are_undone() {
    for cancelled in 1..=3 {
        let mut parts = Parts::new(Plan::Run);
        (0..cancelled).for_each(|_| parts.cancel_a_start());
        parts.start().unwrap();
        parts.assert_one_runs_in_each_loop();
        parts.stop().unwrap();
        parts.assert_none_runs();
        parts.cancel_a_start();
        parts.stop().unwrap();
        parts.assert_none_runs();
    }
}

#[test]
fn a_cancelled_stop_is_cancelled_in_each_loop() {
    // Their own times would cancel the stops too.
    let patient = |child: Child| child.stop_within(Duration::MAX);
    let mut parts = Parts::with(3, Plan::HangInStop, patient);
    parts.start().unwrap();
    let stopping = parts.child.stop();
    parts.turn_until("stop", [1; 3]);
    stopping.cancel();
    assert!(parts.l.run_until(stopping).is_err());
    parts.turn_until("cancel", [1; 3]);
}

#[test]
fn each_part_has_the_times_of_the_child() {
    let short = Duration::from_millis(20);
    for (plan, starts) in [(Plan::HangInStart, false), (Plan::HangInStop, true)] {
        let shorten = move |child: Child| child.start_within(short).stop_within(short);
        let mut parts = Parts::with(3, plan, shorten);
        assert_eq!(parts.start().is_ok(), starts);
        assert!(!starts || parts.stop().is_err());
        assert_eq!(parts.calls.counts("cancel")[1], 1, "starts: {starts}");
    }
}

#[test]
fn the_health_follows_the_worst_part_while_it_runs() {
    let mut parts = Parts::new(Plan::Ail);
    parts.start().unwrap();
    let Health::Failed(words) = parts.child.health() else { panic!("{:?}", parts.child.health()) };
    assert!(words.contains("a health that panics"), "{words}");
    let mut parts = Parts::new(Plan::Tire);
    parts.start().unwrap();
    assert_eq!(parts.child.health(), Health::Ready);
    let Parts { mut l, child, _workers, .. } = parts;
    let tired = Health::Degraded("tired".to_owned());
    turn_until(&mut l, "the part is tired", move || child.health() == tired);
}

#[test]
fn the_end_of_a_loop_is_noticed_unless_it_was_stopped() {
    let mut l = Loop::new().unwrap();
    for is_stopped in [false, true] {
        let mut workers = Workers::default();
        let main = l.reactor().remote();
        workers.start(LoopOptions::default(), main, |_| ()).unwrap();
        let loops = Loops::new(&l.reactor(), workers.remotes());
        let failures = Rc::new(RefCell::new(Vec::new()));
        let seen = failures.clone();
        loops.watch(move |failure| seen.borrow_mut().push(failure.to_string()));
        if is_stopped {
            l.run_until(loops.stop()).unwrap();
        } else {
            drop(workers);
            let seen = failures.clone();
            turn_until(&mut l, "the failure", move || !seen.borrow().is_empty());
        }
        let wanted = if is_stopped { vec![] } else { vec!["loop 1 has ended unexpectedly"] };
        assert_eq!(*failures.borrow(), wanted);
    }
}

#[test]
fn all_loops_have_turned_only_if_none_hangs() {
    let mut l = Loop::new().unwrap();
    let mut workers = Workers::default();
    for _ in 0..2 {
        workers.start(LoopOptions::default(), l.reactor().remote(), |_| ()).unwrap();
    }
    let loops = Loops::new(&l.reactor(), workers.remotes());
    l.run_until(loops.turned()).unwrap();
    let (free, freed) = mpsc::channel::<()>();
    let hangs = workers.remotes().nth(1).unwrap();
    hangs.call(move |_| assert!(freed.recv().is_err())).unwrap();
    let turned = Rc::new(Cell::new(false));
    let slot = turned.clone();
    loops.turned().map(move |()| slot.set(true)).detach();
    let waited = l.reactor().sleep(Duration::from_millis(100));
    l.run_until(waited).unwrap();
    assert!(!turned.get());
    // A status does not wait for it.
    let snapshots = l.run_until(loops.snapshots()).unwrap();
    assert_eq!(snapshots.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
    drop(free);
    turn_until(&mut l, "the turn", move || turned.get());
}

/// Echoes, and panics at a question mark.
struct Touchy;

impl Protocol for Touchy {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        assert!(data != b"?", "a question");
        transport.write(data);
    }
}

/// The answer to a byte; `None` if the connection has ended.
fn answer(mut client: &TcpStream, byte: u8) -> Option<u8> {
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = [0];
    client.write_all(&[byte]).ok()?;
    client.read_exact(&mut answer).ok().map(|()| answer[0])
}

/// A service that listens in this number of loops, as in a program that starts.
fn touchy(count: usize) -> (Loop, Workers, Loops, Child, Arc<Mutex<Option<Address>>>) {
    let l = Loop::new().unwrap();
    let common = Common::new(count);
    common.enter();
    let mut workers = Workers::default();
    for _ in 1..count {
        let (common, main) = (common.clone(), l.reactor().remote());
        workers.start(LoopOptions::default(), main, move |_| common.enter()).unwrap();
    }
    let loops = Loops::new(&l.reactor(), workers.remotes());
    let host = Arc::new(Mutex::new(None));
    let (slot, endpoint) = (host.clone(), server_from_string("127.0.0.1:0").unwrap());
    let endpoint = places::in_all_loops(|| placed("touchy", endpoint));
    let touchy = child(&loops, move |_| {
        let (slot, endpoint) = (slot.clone(), endpoint.clone());
        let service = StreamServerService::new("touchy", endpoint, || Touchy)?;
        let service = service.on_listening(move |port| *slot.lock().unwrap() = Some(port.host()));
        Ok(Child::new(service.drain(Duration::ZERO)))
    });
    (l, workers, loops, touchy.unwrap(), host)
}

#[test]
fn a_panic_of_a_protocol_ends_its_connection_only() {
    let (mut l, _workers, loops, mut touchy, host) = touchy(3);
    let started = touchy.start(&l.reactor());
    l.run_until(started).unwrap();
    assert!(places::begin(&l.reactor()));
    loops.call_others(places::resume);
    let at = host.lock().unwrap().as_ref().and_then(|host: &Address| host.socket_addr()).unwrap();
    let talk = l.reactor().defer_to_thread(move || {
        let clients = [0; 9].map(|_| TcpStream::connect(at).unwrap());
        let answers = |byte| clients.each_ref().map(|client| answer(client, byte));
        assert_eq!(answers(b'a'), [Some(b'a'); 9]);
        clients[..4].iter().for_each(|client| assert_eq!(answer(client, b'?'), None));
        assert_eq!(answers(b'b')[4..], [Some(b'b'); 5]);
        assert_eq!(answer(&TcpStream::connect(at).unwrap(), b'c'), Some(b'c'));
        Ok(())
    });
    l.run_until(talk).unwrap();
    let snapshots = l.run_until(loops.snapshots()).unwrap();
    assert!(snapshots.iter().flatten().all(|snapshot| snapshot.ports.len() == 1));
    assert_eq!(touchy.health(), Health::Ready);
    let stopped = touchy.stop();
    l.run_until(stopped).unwrap();
    assert!(TcpStream::connect(at).is_err());
}

#[test]
fn two_loops_have_one_port_which_accepts_when_they_begin() {
    let (mut l, _workers, loops, mut touchy, _) = touchy(2);
    let started = touchy.start(&l.reactor());
    l.run_until(started).unwrap();
    let mut ports = || {
        let snapshots = l.run_until(loops.snapshots()).unwrap();
        let ports = snapshots.into_iter().flatten().flat_map(|snapshot| snapshot.ports);
        ports.map(|port| (port.host, port.paused)).collect::<Vec<_>>()
    };
    let waiting = ports();
    assert_eq!(waiting, vec![(waiting[0].0.clone(), true); 2]);
    assert!(places::begin(loops.reactor()));
    loops.call_others(places::resume);
    assert_eq!(ports(), vec![(waiting[0].0.clone(), false); 2]);
    let stopped = touchy.stop();
    l.run_until(stopped).unwrap();
}
