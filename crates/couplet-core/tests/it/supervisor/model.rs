//! Random failures of children, against a model that is written after the manual of Erlang's
//! `supervisor`.

use std::time::Duration;

use couplet::services::{ChildState, Restart, Strategy};

use super::S;
use super::scripted::Rig;
use crate::defer_witness::given;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const RESTARTS: [Restart; 3] = [Restart::Permanent, Restart::Transient, Restart::Temporary];
const STRATEGIES: [Strategy; 3] = [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne];

/// A child in the model.
struct Modelled {
    name: &'static str,
    restart: Restart,
    state: ChildState,
    restarts: u64,
    /// The number of its next starts that fail.
    failures: usize,
}

struct Model {
    children: Vec<Modelled>,
    strategy: Strategy,
    most: usize,
    period: Duration,
    /// The times of the restarts.
    recent: Vec<Duration>,
    log: Vec<String>,
    gave_up: bool,
}

impl Model {
    fn place(&self, name: &str) -> usize {
        self.children.iter().position(|child| child.name == name).expect("a child")
    }

    /// A child ends with success or a failure.
    fn end(&mut self, name: &'static str, succeeds: bool, now: Duration) {
        let place = self.place(name);
        match (self.children[place].restart, succeeds) {
            (Restart::Temporary, _) => drop(self.children.remove(place)),
            (Restart::Transient, true) => self.children[place].state = ChildState::Ended,
            (Restart::Permanent, _) | (Restart::Transient, false) => {
                self.children[place].state = ChildState::Restarting;
                self.restart(name, now);
            }
        }
    }

    /// "If more than MaxR number of restarts occur in the last MaxT seconds, the supervisor
    /// terminates all the child processes and then itself."
    fn restart(&mut self, name: &'static str, now: Duration) {
        let mut name = name;
        loop {
            self.recent.retain(|at| now - *at <= self.period);
            self.recent.push(now);
            if self.recent.len() > self.most {
                self.terminate(0, None);
                self.gave_up = true;
                return;
            }
            let place = self.place(name);
            let from = match self.strategy {
                Strategy::OneForOne => None,
                Strategy::OneForAll => Some(0),
                Strategy::RestForOne => Some(place),
            };
            if let Some(from) = from {
                self.terminate(from, Some(name));
            }
            match self.start(from, name) {
                Some(failed) => name = failed,
                None => return,
            }
        }
    }

    /// Terminates the children from this place on, but for one, "in reverse start order".
    fn terminate(&mut self, from: usize, except: Option<&str>) {
        for place in (from..self.children.len()).rev() {
            let child = &mut self.children[place];
            if Some(child.name) == except {
                continue;
            }
            if child.state == ChildState::Running {
                self.log.push(format!("stop {}", child.name));
            }
            if child.state != ChildState::Ended {
                child.state = ChildState::Stopped;
            }
            if child.restart == Restart::Temporary {
                self.children.remove(place);
            }
        }
    }

    /// Starts the children from this place on that don't run, or only the named one. Returns the
    /// first that fails.
    fn start(&mut self, from: Option<usize>, name: &str) -> Option<&'static str> {
        let places = match from {
            Some(from) => from..self.children.len(),
            None => self.place(name)..self.place(name) + 1,
        };
        for child in &mut self.children[places] {
            if child.state == ChildState::Running {
                continue;
            }
            self.log.push(format!("start {}", child.name));
            child.restarts += 1;
            if child.failures > 0 {
                child.failures -= 1;
                child.state = ChildState::Restarting;
                return Some(child.name);
            }
            child.state = ChildState::Running;
        }
        None
    }
}

/// Numbers from a seed: SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// A supervisor and its model, from a seed.
fn build(random: &mut Random) -> (Rig, Model) {
    let mut rig = Rig::empty();
    let strategy = STRATEGIES[random.below(3)];
    let (most, period) = (1 + random.below(6), S * (1 + random.below(10) as u32));
    rig.set(|supervisor| supervisor.strategy(strategy).intensity(most as u32, period));
    let mut children = Vec::new();
    for name in &NAMES[..1 + random.below(NAMES.len())] {
        let restart = RESTARTS[random.below(3)];
        rig.add(name, |child| child.restart(restart));
        let state = ChildState::Running;
        children.push(Modelled { name, restart, state, restarts: 0, failures: 0 });
    }
    let (recent, log) = (Vec::new(), Vec::new());
    (rig, Model { children, strategy, most, period, recent, log, gave_up: false })
}

/// Lets children fail until the supervisor gives up, or 40 times. Returns the number of failures.
fn storm(seed: u64) -> usize {
    let mut random = Random(seed);
    let (mut rig, mut model) = build(&mut random);
    rig.start();
    let end = given(couplet::services::Service::take_end(&mut rig.supervisor).unwrap());
    for ends in 0..40 {
        let running = model.children.iter().filter(|child| child.state == ChildState::Running);
        let running: Vec<_> = running.map(|child| child.name).collect();
        if running.is_empty() {
            return ends;
        }
        rig.advance(Duration::from_millis(random.below(4000) as u64));
        if random.below(4) == 0 {
            let place = random.below(model.children.len());
            let failures = random.below(3);
            model.children[place].failures = failures;
            rig.script(model.children[place].name).fails(failures);
        }
        let (name, succeeds) = (running[random.below(running.len())], random.below(3) == 0);
        model.end(name, succeeds, rig.elapsed());
        assert_eq!(
            rig.end(name, succeeds),
            std::mem::take(&mut model.log),
            "seed {seed}, end {ends} of {name}"
        );
        assert_eq!(!end.is_none(), model.gave_up, "seed {seed}, end {ends}");
        if model.gave_up {
            return ends + 1;
        }
        let children = rig.supervisor.children();
        let seen: Vec<_> =
            children.iter().map(|it| (it.name.as_str(), it.state, it.restarts)).collect();
        let expected: Vec<_> =
            model.children.iter().map(|it| (it.name, it.state, it.restarts)).collect();
        assert_eq!(seen, expected, "seed {seed}, end {ends} of {name}");
    }
    40
}

#[test]
fn c139c_c139d_c139l_ten_thousand_failures_are_handled_as_by_erlangs_supervisor() {
    let failures: usize = (0..1500).map(storm).sum();
    assert!(failures >= 10_000, "{failures}");
}

#[test]
fn c139l_ten_thousand_starts_and_stops_leave_nothing_behind() {
    let mut rig = Rig::new(&["a", "b"]);
    for _ in 0..10_000 {
        rig.start();
        let stopped = given(couplet::services::Service::stop(&mut rig.supervisor));
        rig.settle();
        stopped.take().unwrap();
    }
    assert_eq!((rig.starts("a"), rig.starts("b"), rig.reactor_load()), (10_000, 10_000, 0));
}

#[test]
fn c139l_services_fail_and_restart_for_a_day() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let names = ["a", "b", "c"];
    let (mut rig, mut random, mut failures) = (Rig::new(&names), Random(1), 0);
    rig.set(|supervisor| supervisor.back_off(S, S * 60).intensity(200, S * 3600));
    rig.start();
    let load = rig.reactor_load();
    while rig.elapsed() < DAY {
        rig.advance(Duration::from_millis(random.below(240_000) as u64));
        let name = names[random.below(3)];
        let children = rig.supervisor.children();
        let is_up = children.iter().any(|it| it.name == name && it.state == ChildState::Running);
        if is_up {
            rig.script(name).fails(random.below(3));
            rig.end(name, random.below(2) == 0);
            failures += 1;
        }
    }
    // The longest back-off, twice, with its jitter.
    rig.advance(S * 300);
    assert_eq!(rig.states(), [ChildState::Running; 3]);
    for child in rig.supervisor.children() {
        assert_eq!(rig.starts(&child.name) as u64, child.restarts + 1, "{child}");
    }
    assert!(failures > 500, "{failures}");
    assert_eq!(rig.reactor_load(), load);
}
