//! Services that a test steers, and a supervisor over them on a clock.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use couplet::defer::Deferred;
use couplet::services::{Child, ChildState, Health, Service, Supervisor};
use couplet::testing::{Clock, success_of};
use couplet::{Failure, Reactor, Resolver};

use crate::defer_witness::{Log, given};

/// The behaviour of a service, shared with the test.
#[derive(Clone, Default)]
pub(super) struct Script(Rc<Steps>);

#[derive(Default)]
struct Steps {
    start: Cell<Step>,
    stop: Cell<Step>,
    health: RefCell<Option<Health>>,
    /// Ends the current run.
    end: RefCell<Option<Resolver<()>>>,
    starts: Cell<usize>,
    /// The number of starts that fail first.
    failures: Cell<usize>,
}

#[derive(Clone, Copy, Default)]
enum Step {
    #[default]
    Succeeds,
    Takes(Duration),
    Fails,
    Panics,
}

impl Script {
    pub(super) fn start_takes(&self, time: Duration) {
        self.0.start.set(Step::Takes(time));
    }

    pub(super) fn stop_takes(&self, time: Duration) {
        self.0.stop.set(Step::Takes(time));
    }

    /// Makes this many of the next starts fail.
    pub(super) fn fails(&self, starts: usize) {
        self.0.failures.set(starts);
    }

    pub(super) fn fails_to_start(&self) {
        self.0.start.set(Step::Fails);
    }

    pub(super) fn panics_at_start(&self) {
        self.0.start.set(Step::Panics);
    }

    pub(super) fn fails_to_stop(&self) {
        self.0.stop.set(Step::Fails);
    }

    pub(super) fn panics_at_stop(&self) {
        self.0.stop.set(Step::Panics);
    }

    pub(super) fn has(&self, health: Health) {
        *self.0.health.borrow_mut() = Some(health);
    }
}

/// A service with a script; logs its calls.
pub(super) struct Scripted {
    name: String,
    script: Script,
    log: Log,
    reactor: Reactor,
    end: Option<Deferred<()>>,
}

impl Scripted {
    fn step(&self, verb: &'static str, step: Step) -> Deferred<()> {
        let (name, log) = (self.name.clone(), self.log.clone());
        log.say(format!("{verb} {name}"));
        match step {
            Step::Succeeds => Deferred::succeed(()),
            Step::Takes(time) => {
                let sleep = self.reactor.sleep(time);
                sleep.add_errback(move |failure| {
                    log.say(format!("cancelled {verb} {name}"));
                    Err(failure)
                })
            }
            Step::Fails => Deferred::fail(Failure::msg(format!("{name} does not {verb}"))),
            Step::Panics => panic!("{name} panics"),
        }
    }
}

impl Service for Scripted {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self, _: &Reactor) -> Deferred<()> {
        let steps = self.script.0.clone();
        steps.starts.set(steps.starts.get() + 1);
        let (end, ended) = Deferred::new();
        self.end = Some(end);
        let before = steps.end.replace(Some(ended));
        drop(before);
        let failures = steps.failures.get();
        steps.failures.set(failures.saturating_sub(1));
        self.step("start", if failures > 0 { Step::Fails } else { steps.start.get() })
    }

    fn stop(&mut self) -> Deferred<()> {
        self.step("stop", self.script.0.stop.get())
    }

    fn health(&self) -> Health {
        self.script.0.health.borrow().clone().unwrap_or(Health::Ready)
    }

    fn take_end(&mut self) -> Option<Deferred<()>> {
        self.end.take()
    }
}

/// A supervisor of scripted services, which restarts them immediately unless set otherwise.
pub(super) struct Rig {
    clock: Clock,
    pub(super) supervisor: Supervisor,
    scripts: RefCell<BTreeMap<String, Script>>,
    log: Log,
}

impl Rig {
    pub(super) fn empty() -> Rig {
        let supervisor = Supervisor::new("top").back_off(Duration::ZERO, Duration::ZERO);
        let (scripts, log) = (RefCell::default(), Log::default());
        Rig { clock: Clock::new(), supervisor, scripts, log }
    }

    pub(super) fn new(names: &[&str]) -> Rig {
        let rig = Rig::empty();
        for name in names {
            rig.add(name, |child| child);
        }
        rig
    }

    pub(super) fn reactor(&self) -> Reactor {
        self.clock.reactor()
    }

    pub(super) fn set(&mut self, set: impl FnOnce(Supervisor) -> Supervisor) {
        self.supervisor = set(self.supervisor.clone());
    }

    /// The script of a service, present or future.
    pub(super) fn script(&self, name: &str) -> Script {
        self.scripts.borrow_mut().entry(name.to_owned()).or_default().clone()
    }

    pub(super) fn service(&self, name: &str) -> Scripted {
        let (script, log) = (self.script(name), self.log.clone());
        Scripted { name: name.to_owned(), script, log, reactor: self.reactor(), end: None }
    }

    pub(super) fn add(&self, name: &str, set: impl FnOnce(Child) -> Child) {
        let added = self.supervisor.add(set(Child::new(self.service(name))));
        added.detach();
    }

    /// Starts the supervisor, which does not fail, and returns the calls.
    pub(super) fn start(&mut self) -> Vec<String> {
        let started = given(self.supervisor.start(&self.clock.reactor()));
        self.settle();
        if !started.is_none() {
            started.take().unwrap();
        }
        self.take()
    }

    /// Carries out a request, which succeeds immediately, and returns the calls.
    pub(super) fn done(
        &mut self,
        request: impl FnOnce(&mut Supervisor) -> Deferred<()>,
    ) -> Vec<String> {
        let done = given(request(&mut self.supervisor));
        self.settle();
        done.take().unwrap();
        self.take()
    }

    /// Ends the current run of a service, and returns the calls.
    pub(super) fn end(&mut self, name: &str, succeeds: bool) -> Vec<String> {
        let end = self.script(name).0.end.take().expect("it runs");
        end.resolve(match succeeds {
            true => Ok(()),
            false => Err(Failure::msg(format!("{name} failed"))),
        });
        self.settle();
        self.take()
    }

    pub(super) fn starts(&self, name: &str) -> usize {
        self.script(name).0.starts.get()
    }

    pub(super) fn settle(&mut self) {
        self.clock.settle();
    }

    pub(super) fn advance(&mut self, time: Duration) {
        self.clock.advance(time);
    }

    /// Advances by milliseconds until a condition holds, for a minute at most.
    pub(super) fn advance_until(&mut self, mut holds: impl FnMut(&Rig) -> bool) {
        for _ in 0..60_000 {
            if holds(self) {
                return;
            }
            self.advance(Duration::from_millis(1));
        }
        panic!("the condition does not hold within a minute");
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    /// The calls of services since the last time.
    pub(super) fn take(&self) -> Vec<String> {
        self.log.take()
    }

    pub(super) fn states(&self) -> Vec<ChildState> {
        self.supervisor.children().iter().map(|child| child.state).collect()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.supervisor.children().into_iter().map(|child| child.name).collect()
    }

    /// The number of timers and tasks in the loop.
    pub(super) fn reactor_load(&mut self) -> usize {
        let snapshot = self.reactor().snapshot();
        self.settle();
        let snapshot = success_of(snapshot);
        snapshot.pending_calls + snapshot.tasks
    }
}
