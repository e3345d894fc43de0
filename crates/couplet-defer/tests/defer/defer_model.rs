//! Random programs of links and events against a naive model, which keeps a list of callbacks.

use std::collections::VecDeque;

use couplet_defer::defer::{Cancelled, Canceller, Deferred, Failure, Resolver, keep_histories};
use proptest::prelude::*;

use couplet_testkit::defer_witness::{Log, unhandled_in};

/// A link's behaviour. The number is a summand, the failure's text, or the origin to wait for.
#[derive(Debug, Clone, Copy)]
enum Link {
    Map(i64),
    Fail(i64),
    Panic,
    Then(usize),
    ThenFired(i64),
    Rescue(i64),
    Worsen(i64),
    Recover(usize),
    Both(i64),
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Add(Link),
    Succeed(usize, i64),
    Fail(usize, i64),
    DropResolver(usize),
    Cancel,
    DropHandle,
}

/// The behaviour of an origin's canceller.
#[derive(Debug, Clone, Copy)]
enum OnCancel {
    Nothing,
    Value(i64),
    Failure(i64),
    Panic,
}

type Outcome = Result<i64, String>;

/// Origin 0 starts the chain; links wait for the others, each at most once.
const ORIGINS: usize = 5;

const DROPPED: &str = "the resolver was dropped before it fired";

/// Twisted's Deferred in miniature: a list of callbacks, a result, an origin to wait for.
struct Model {
    links: VecDeque<Link>,
    result: Option<Outcome>,
    waits_for: Option<usize>,
    origins: Vec<Origin>,
    handle: bool,
    log: Vec<String>,
    reports: Vec<String>,
    /// Without links nothing depends on the result, so a dropped resolver is not reported.
    has_run_a_link: bool,
}

#[derive(Clone)]
struct Origin {
    on_cancel: OnCancel,
    result: Option<Outcome>,
    fired: bool,
    used: bool,
}

impl Model {
    fn new(cancellers: &[OnCancel]) -> Self {
        let origin = |&on_cancel| Origin { on_cancel, result: None, fired: false, used: false };
        let mut origins: Vec<_> = cancellers.iter().map(origin).collect();
        origins[0].used = true;
        Self {
            links: VecDeque::new(),
            result: None,
            waits_for: Some(0),
            origins,
            handle: true,
            log: vec![],
            reports: vec![],
            has_run_a_link: false,
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Add(link) if self.handle => self.links.push_back(link),
            Event::Add(_) => {}
            Event::Succeed(origin, n) => self.fire(origin, Ok(n)),
            Event::Fail(origin, n) => self.fire(origin, Err(n.to_string())),
            Event::DropResolver(origin) => self.fire(origin, Err(DROPPED.to_owned())),
            Event::Cancel => self.cancel(),
            Event::DropHandle => self.handle = false,
        }
        self.run();
    }

    fn fire(&mut self, origin: usize, outcome: Outcome) {
        let origin = &mut self.origins[origin];
        if !origin.fired {
            origin.fired = true;
            origin.result = Some(outcome);
        }
    }

    fn cancel(&mut self) {
        let Some(origin) = self.waits_for else { return };
        let outcome = match self.origins[origin].on_cancel {
            OnCancel::Nothing | OnCancel::Panic => Err("cancelled".to_owned()),
            OnCancel::Value(n) => Ok(n),
            OnCancel::Failure(n) => Err(n.to_string()),
        };
        self.fire(origin, outcome);
    }

    fn run(&mut self) {
        loop {
            if let Some(origin) = self.waits_for {
                let Some(result) = self.origins[origin].result.take() else {
                    return;
                };
                self.waits_for = None;
                self.result = Some(result);
            }
            let Some(link) = self.links.pop_front() else {
                break;
            };
            let result = self.result.take().expect("a result, since it waits for no origin");
            self.apply(link, result);
        }
        if !self.handle
            && let Some(Err(failure)) = self.result.take()
            && (self.has_run_a_link || failure != DROPPED)
        {
            self.report(failure);
        }
    }

    fn apply(&mut self, link: Link, input: Outcome) {
        self.has_run_a_link = true;
        if runs(link, input.is_ok()) {
            self.log.push(format!("{link:?} {input:?}"));
        }
        self.result = Some(match (link, input) {
            (Link::Map(k), Ok(n)) => Ok(n + k),
            (Link::Fail(k), Ok(_)) => Err(k.to_string()),
            (Link::Panic, Ok(_)) => Err("panicked: thrown".to_owned()),
            (Link::ThenFired(k), Ok(_)) => Ok(k),
            (Link::Rescue(k), Err(_)) => Ok(k),
            (Link::Worsen(k), Err(failure)) => Err(format!("{failure} {k}")),
            (Link::Both(k), Ok(n)) => Err((n + k).to_string()),
            (Link::Both(k), Err(_)) => Ok(k),
            (Link::Then(origin), Ok(_)) | (Link::Recover(origin), Err(_)) => {
                return self.wait(origin);
            }
            (_, unchanged) => unchanged,
        });
    }

    fn wait(&mut self, origin: usize) {
        if self.origins[origin].used {
            self.result = Some(Err("used".to_owned()));
        } else {
            self.origins[origin].used = true;
            self.waits_for = Some(origin);
        }
    }

    fn report(&mut self, failure: String) {
        if failure != "cancelled" {
            self.reports.push(failure);
        }
    }

    /// Drops everything: the resolvers, then the handle, then the unused origins.
    fn end(mut self) -> (Vec<String>, Vec<String>) {
        for origin in 0..ORIGINS {
            self.event(Event::DropResolver(origin));
        }
        self.event(Event::DropHandle);
        let mut unused = vec![];
        for origin in &mut self.origins {
            if !origin.used
                && let Some(Err(failure)) = origin.result.take()
                && failure != DROPPED
            {
                unused.push(failure);
            }
        }
        unused.into_iter().for_each(|failure| self.report(failure));
        self.reports.sort();
        (self.log, self.reports)
    }
}

fn runs(link: Link, ok: bool) -> bool {
    match link {
        Link::Map(_) | Link::Fail(_) | Link::Panic | Link::Then(_) | Link::ThenFired(_) => ok,
        Link::Rescue(_) | Link::Worsen(_) | Link::Recover(_) => !ok,
        Link::Both(_) => true,
    }
}

/// The same events on real Deferreds.
struct Real {
    end: Option<Deferred<i64>>,
    canceller: Canceller,
    resolvers: Vec<Option<Resolver<i64>>>,
    waits: Waits,
    log: Log,
}

type Waits = std::rc::Rc<std::cell::RefCell<Vec<Option<Deferred<i64>>>>>;

impl Real {
    fn new(cancellers: &[OnCancel]) -> Self {
        let origin = |&on_cancel: &OnCancel| {
            let (deferred, resolver) = match on_cancel {
                OnCancel::Nothing => Deferred::new(),
                OnCancel::Value(n) => Deferred::with_canceller(move |r| r.callback(n)),
                OnCancel::Failure(n) => {
                    Deferred::with_canceller(move |r| r.errback(Failure::msg(n)))
                }
                OnCancel::Panic => Deferred::with_canceller(|_| thrown()),
            };
            (Some(deferred), Some(resolver))
        };
        let (mut waits, resolvers): (Vec<_>, Vec<_>) = cancellers.iter().map(origin).unzip();
        let end = waits[0].take().unwrap();
        Self {
            canceller: end.canceller(),
            end: Some(end),
            resolvers,
            waits: Waits::new(waits.into()),
            log: Log::default(),
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Add(link) => self.end = self.end.take().map(|end| self.add(end, link)),
            Event::Succeed(origin, n) => {
                self.resolvers[origin].take().into_iter().for_each(|r| r.callback(n));
            }
            Event::Fail(origin, n) => {
                let resolver = self.resolvers[origin].take();
                resolver.into_iter().for_each(|r| r.errback(Failure::msg(n)));
            }
            Event::DropResolver(origin) => drop(self.resolvers[origin].take()),
            Event::Cancel => self.canceller.cancel(),
            Event::DropHandle => drop(self.end.take()),
        }
    }

    fn add(&self, end: Deferred<i64>, link: Link) -> Deferred<i64> {
        let (log, waits) = (self.log.clone(), self.waits.clone());
        let say = move |input: Outcome| log.say(format!("{link:?} {input:?}"));
        let wait = move |origin: usize| {
            let wait = waits.borrow_mut()[origin].take();
            wait.unwrap_or_else(|| Deferred::fail(Failure::msg("used")))
        };
        match link {
            Link::Map(k) => end.map(move |n| {
                say(Ok(n));
                n + k
            }),
            Link::Fail(k) => end.add_callback(move |n| {
                say(Ok(n));
                Err(Failure::msg(k))
            }),
            Link::Panic => end.map(move |n| {
                say(Ok(n));
                thrown()
            }),
            Link::Then(origin) => end.then(move |n| {
                say(Ok(n));
                wait(origin)
            }),
            Link::ThenFired(k) => end.then(move |n| {
                say(Ok(n));
                Deferred::succeed(k)
            }),
            Link::Rescue(k) => end.add_errback(move |failure| {
                say(Err(failure.to_string()));
                Ok(k)
            }),
            Link::Worsen(k) => end.add_errback(move |failure| {
                say(Err(failure.to_string()));
                Err(Failure::msg(format!("{failure} {k}")))
            }),
            Link::Recover(origin) => end.recover(move |failure| {
                say(Err(failure.to_string()));
                wait(origin)
            }),
            Link::Both(k) => end.add_both(move |result| {
                let input = result.map_err(|failure| failure.to_string());
                say(input.clone());
                match input {
                    Ok(n) => Err(Failure::msg(n + k)),
                    Err(_) => Ok(k),
                }
            }),
        }
    }
}

fn thrown() -> ! {
    std::panic::resume_unwind(Box::new("thrown"))
}

fn real(cancellers: &[OnCancel], events: &[Event]) -> (Vec<String>, Vec<String>) {
    let log = Log::default();
    let lines = log.clone();
    let mut reports = unhandled_in(move || {
        let mut real = Real::new(cancellers);
        real.log = log;
        events.iter().for_each(|&event| real.event(event));
        for origin in 0..ORIGINS {
            real.event(Event::DropResolver(origin));
        }
        real.event(Event::DropHandle);
    });
    reports.sort();
    (lines.lines(), reports)
}

fn link() -> impl Strategy<Value = Link> {
    prop_oneof![
        3 => (0..9_i64).prop_map(Link::Map),
        1 => (0..9_i64).prop_map(Link::Fail),
        1 => Just(Link::Panic),
        3 => (1..ORIGINS).prop_map(Link::Then),
        1 => (0..9_i64).prop_map(Link::ThenFired),
        1 => (0..9_i64).prop_map(Link::Rescue),
        1 => (0..9_i64).prop_map(Link::Worsen),
        2 => (1..ORIGINS).prop_map(Link::Recover),
        1 => (0..9_i64).prop_map(Link::Both),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => link().prop_map(Event::Add),
        3 => (0..ORIGINS, 0..9_i64).prop_map(|(origin, n)| Event::Succeed(origin, n)),
        2 => (0..ORIGINS, 0..9_i64).prop_map(|(origin, n)| Event::Fail(origin, n)),
        1 => (0..ORIGINS).prop_map(Event::DropResolver),
        2 => Just(Event::Cancel),
        1 => Just(Event::DropHandle),
    ]
}

fn on_cancel() -> impl Strategy<Value = OnCancel> {
    prop_oneof![
        2 => Just(OnCancel::Nothing),
        1 => (0..9_i64).prop_map(OnCancel::Value),
        1 => (0..9_i64).prop_map(OnCancel::Failure),
        1 => Just(OnCancel::Panic),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn c109_c119_c119a_random_programs_behave_like_a_list_of_callbacks(
        cancellers in prop::collection::vec(on_cancel(), ORIGINS),
        events in prop::collection::vec(event(), 0..25),
    ) {
        let mut model = Model::new(&cancellers);
        events.iter().for_each(|&event| model.event(event));
        let expected = model.end();
        prop_assert_eq!(&real(&cancellers, &events), &expected);
        // Histories do not change behaviour.
        let before = keep_histories(3);
        let traced = real(&cancellers, &events);
        keep_histories(before);
        prop_assert_eq!(traced, expected);
    }
}

#[test]
fn the_model_uses_the_messages_of_defer() {
    assert_eq!(Cancelled::new().to_string(), "cancelled");
    assert_eq!(couplet_defer::defer::ResolverDropped.to_string(), DROPPED);
}
