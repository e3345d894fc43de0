//! Supervisors below supervisors, their health, and a run at the top.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use couplet::reactor::Drain;
use couplet::services::{Child, ChildState, FunctionService, Health, Restart, Service, Supervisor};
use couplet::{Deferred, Failure, Reactor};

use couplet::testing::{Clock, MemoryReactor};

use super::S;
use super::scripted::Rig;
use crate::defer_witness::{Log, given};
use couplet_testkit_loops::doubles::Echo;

/// A supervisor `under` with one child, `leaf`, below the rig's.
fn tree(rig: &Rig, restart: Restart) -> Supervisor {
    let under = Supervisor::new("under").back_off(Duration::ZERO, Duration::ZERO);
    under.add(Child::new(rig.service("leaf"))).detach();
    rig.supervisor.add(Child::supervisor(&under).restart(restart)).detach();
    under
}

#[test]
fn c139h_a_supervisor_that_gave_up_is_restarted_with_its_children_if_permanent() {
    for (restart, state) in
        [(Restart::Permanent, ChildState::Running), (Restart::Transient, ChildState::Ended)]
    {
        let mut rig = Rig::new(&["a"]);
        let under = tree(&rig, restart);
        rig.start();
        let calls = [rig.end("leaf", false), rig.end("leaf", false)].concat();
        let expected = if state == ChildState::Running { 2 } else { 1 };
        assert_eq!(calls, vec!["start leaf"; expected]);
        assert_eq!(rig.states(), [ChildState::Running, state]);
        // The restarted supervisor counts restarts from zero.
        if state == ChildState::Running {
            rig.end("leaf", false);
            assert_eq!(under.health(), Health::Ready);
        }
    }
}

#[test]
fn c139h_a_supervisor_that_was_restarted_can_give_up_again() {
    let mut rig = Rig::empty();
    rig.set(|supervisor| supervisor.intensity(10, S * 60));
    let under = tree(&rig, Restart::Permanent);
    rig.start();
    for round in 1..=3 {
        // A restart of the leaf, and one of its supervisor.
        for _ in 0..2 {
            assert_eq!(rig.end("leaf", false), ["start leaf"]);
        }
        assert_eq!(under.health(), Health::Ready);
        assert_eq!(rig.supervisor.children()[0].restarts, round);
    }
}

#[test]
fn c139h_a_tree_starts_and_stops_depth_first() {
    let mut rig = Rig::new(&["a"]);
    let _under = tree(&rig, Restart::Permanent);
    rig.add("z", |child| child);
    assert_eq!(rig.start(), ["start a", "start leaf", "start z"]);
    assert_eq!(rig.done(|it| it.stop()), ["stop z", "stop leaf", "stop a"]);
    assert_eq!(rig.reactor_load(), 0);
}

#[test]
fn c139h_a_supervisor_may_take_as_long_to_stop_as_its_children() {
    let mut rig = Rig::new(&["a"]);
    let under = Supervisor::new("under");
    under.add(Child::new(rig.service("slow")).stop_within(S * 60)).detach();
    rig.supervisor.add(Child::supervisor(&under)).detach();
    rig.start();
    rig.script("slow").stop_takes(S * 30);
    rig.take();
    let stopped = given(rig.supervisor.stop());
    rig.advance(S * 50);
    stopped.take().unwrap();
    assert_eq!(rig.take(), ["stop slow", "stop a"]);
}

#[test]
fn c139n_a_supervisor_whose_end_begins_during_its_start_is_not_ready_afterwards() {
    let mut rig = Rig::new(&["a"]);
    rig.script("a").start_takes(S * 2);
    rig.set(|supervisor| supervisor.not_ready_for(S * 10));
    let started = given(rig.supervisor.run(&rig.reactor()));
    rig.advance(S);
    rig.supervisor.wind_down(&rig.reactor()).detach();
    rig.advance(S * 2);
    assert_eq!(rig.states(), [ChildState::Running]);
    assert_eq!(rig.supervisor.health(), Health::Stopping);
    drop(started);
}

#[test]
fn c139i_a_supervisor_has_the_health_of_its_worst_child_with_the_childs_name() {
    let mut rig = Rig::new(&["a", "b"]);
    let _under = tree(&rig, Restart::Permanent);
    assert_eq!(rig.supervisor.health(), Health::Starting);
    rig.start();
    let degraded = |words: &str| Health::Degraded(words.to_owned());
    let failed = |words: &str| Health::Failed(words.to_owned());
    for (child, health, expected) in [
        ("a", degraded("slow"), degraded("a: slow")),
        ("b", Health::Starting, Health::Starting),
        ("leaf", failed("no disk"), failed("under: leaf: no disk")),
        ("b", failed("no net"), failed("under: leaf: no disk")),
    ] {
        rig.script(child).has(health);
        assert_eq!(rig.supervisor.health(), expected);
    }
    assert!(degraded("slow").is_ready() && Health::Ready.is_ready());
    for bad in [Health::Starting, Health::Stopping, failed("x")] {
        assert!(!bad.is_ready(), "{bad}");
    }
    let lines = rig.supervisor.children();
    let lines: Vec<_> = lines.iter().map(ToString::to_string).collect();
    assert_eq!(lines[0], "a running degraded: a: slow restarts 0");
}

#[test]
fn c139i_a_permanent_child_that_does_not_run_is_never_healthy() {
    for down in ["a", "b", "c"] {
        let mut rig = Rig::new(&["a", "b", "c"]);
        rig.set(|supervisor| supervisor.back_off(S, S));
        rig.start();
        rig.end(down, false);
        assert!(!rig.supervisor.health().is_ready(), "while {down} waits");
        rig.script(down).start_takes(S);
        rig.advance(S);
        assert_eq!(rig.supervisor.health(), Health::Starting);
        rig.advance(S);
        assert!(rig.supervisor.health().is_ready());
    }
}

#[test]
fn c139i_a_service_may_ask_for_the_health_and_the_children_of_its_supervisor() {
    let mut rig = Rig::empty();
    let (asking, seen) = (rig.supervisor.clone(), Rc::new(RefCell::new(Vec::new())));
    let said = seen.clone();
    let nosy = FunctionService::new("nosy", move |_| {
        said.borrow_mut().push((asking.health(), asking.children()[0].state));
        Deferred::succeed(())
    });
    let panics =
        FunctionService::new("panics", |_| Deferred::succeed(())).on_health(|| panic!("no health"));
    rig.supervisor.add(Child::new(nosy)).detach();
    rig.supervisor.add(Child::new(panics)).detach();
    rig.start();
    assert_eq!(*seen.borrow(), [(Health::Starting, ChildState::Starting)]);
    assert!(
        matches!(rig.supervisor.health(), Health::Failed(words) if words.contains("no health"))
    );
}

#[test]
fn c139m_snapshots_show_each_child_while_its_supervisor_runs() {
    let mut rig = Rig::new(&["a"]);
    let _under = tree(&rig, Restart::Permanent);
    let notes = |rig: &mut Rig| {
        let snapshot = rig.reactor().snapshot();
        rig.settle();
        let rows = couplet::testing::success_of(snapshot).rows.into_iter();
        let texts = rows.map(|row| {
            let fields = row.fields.iter().filter(|(name, _)| *name != "health");
            fields.map(|(_, value)| &**value).collect::<Vec<_>>().join(" ")
        });
        texts.collect::<Vec<_>>()
    };
    assert!(notes(&mut rig).is_empty());
    rig.start();
    rig.set(|supervisor| supervisor.back_off(S, S));
    rig.end("a", false);
    let expected = ["top/a restarting 0", "top/under running 0", "under/leaf running 0"];
    assert_eq!(notes(&mut rig), expected);
    rig.advance(S);
    assert_eq!(notes(&mut rig)[0], "top/a running 1");
    rig.done(|it| it.remove("a"));
    assert_eq!(notes(&mut rig), expected[1..]);
    for _ in 0..2 {
        rig.done(|it| it.stop());
        assert!(notes(&mut rig).is_empty());
        rig.start();
        assert_eq!(notes(&mut rig), expected[1..]);
    }
}

#[test]
fn c139j_a_run_ends_with_the_loop_or_fails_with_the_supervisor() {
    // The supervisor is stopped.
    let mut rig = Rig::new(&["a"]);
    let running = given(rig.supervisor.run(&rig.reactor()));
    rig.settle();
    rig.done(|it| it.stop());
    running.take().unwrap();
    // The supervisor gives up.
    let mut rig = Rig::new(&["a"]);
    let running = given(rig.supervisor.run(&rig.reactor()));
    rig.settle();
    rig.end("a", false);
    rig.end("a", false);
    assert!(running.text().starts_with("supervisor top gave up: "));
    // The supervisor fails to start.
    let mut rig = Rig::new(&["a"]);
    rig.script("a").fails_to_start();
    let running = given(rig.supervisor.run(&rig.reactor()));
    rig.settle();
    assert_eq!(running.text(), "cannot start service a: a does not start");
}

#[test]
fn c139j_the_children_stop_before_the_loop_does() {
    let log = Rc::new(RefCell::new(Vec::new()));
    let (starts, stops) = (log.clone(), log.clone());
    couplet::run_until(move |reactor| {
        let service = FunctionService::new("a", move |_| {
            starts.borrow_mut().push("start");
            Deferred::succeed(())
        });
        let waits = reactor.clone();
        let service = service.on_stop(move || {
            stops.borrow_mut().push("stop");
            let stops = stops.clone();
            waits.sleep(S / 100).map(move |()| stops.borrow_mut().push("stopped"))
        });
        let supervisor = Supervisor::new("top");
        supervisor.add(Child::new(service)).detach();
        let (stopping, end) = (reactor.clone(), supervisor.run(reactor));
        reactor.call_later(S / 100, move || stopping.stop());
        end
    })
    .unwrap();
    assert_eq!(*log.borrow(), ["start", "stop", "stopped"]);
}

/// The seconds in which the stages of an end begin, if it is cancelled after some seconds: not ready,
/// ports closed, children stopped, end.
fn stages_of_an_end(cancelled_after: u64) -> Vec<(u64, &'static str)> {
    let mut memory = MemoryReactor::new();
    let (now, log) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Vec::new())));
    let (reactor, stops_at, said) = (memory.reactor(), now.clone(), log.clone());
    let slow = FunctionService::new("slow", |_| Deferred::succeed(())).on_stop(move || {
        said.borrow_mut().push((stops_at.get(), "stop"));
        reactor.sleep(S * 5)
    });
    let supervisor = Supervisor::new("top").not_ready_for(S * 10).drain(Drain::within(S * 20));
    supervisor.add(Child::new(slow)).detach();
    let port = memory.reactor().listen("tcp:8000", || Echo).unwrap();
    supervisor.run(&memory.reactor()).detach();
    memory.settle();
    let wire = memory.connect(8000);
    memory.settle();
    let ending = supervisor.wind_down(&memory.reactor());
    let canceller = ending.canceller();
    let (ended, ends_at) = (log.clone(), now.clone());
    let ending = ending.add_both(move |_| {
        ended.borrow_mut().push((ends_at.get(), "end"));
        Ok(())
    });
    ending.detach();
    for second in 0..60 {
        now.set(second);
        if second == cancelled_after {
            canceller.cancel();
        }
        memory.settle();
        for (fact, holds) in [
            ("not ready", supervisor.health() == Health::Stopping),
            ("ports closed", !port.is_listening()),
        ] {
            if holds && !log.borrow().iter().any(|(_, known)| *known == fact) {
                log.borrow_mut().push((second, fact));
            }
        }
        if wire.saw_fin() {
            wire.close();
        }
        memory.advance(S);
    }
    log.take()
}

#[test]
fn c139n_an_end_has_stages_and_a_cancel_shortens_each() {
    let all = [(0, "not ready"), (10, "ports closed"), (30, "stop"), (34, "end")];
    for cancelled in [99, 3, 12, 33] {
        let mut seen = stages_of_an_end(cancelled);
        let mut expected = all.map(|(second, stage)| (second.min(cancelled), stage)).to_vec();
        // Within one second, the order depends on the test, which looks at one fact after the other.
        seen.sort_unstable();
        expected.sort_unstable();
        assert_eq!(seen, expected, "cancelled after {cancelled} s");
    }
}

#[test]
fn c139n_each_end_drains_the_ports_and_continues_if_that_fails() {
    let mut rig = Rig::new(&["a"]);
    let drains = Rc::new(Cell::new(0));
    let counted = drains.clone();
    rig.set(|supervisor| {
        supervisor.drain_by(move |_| {
            counted.set(counted.get() + 1);
            Deferred::fail(Failure::msg("it cannot drain"))
        })
    });
    let reactor = rig.reactor();
    for round in 1..=2 {
        rig.start();
        assert_eq!(rig.done(|it| it.wind_down(&reactor)), ["stop a"]);
        assert_eq!(drains.get(), round);
    }
}

#[test]
fn c139n_two_ends_that_overlap_are_both_complete_when_the_children_have_stopped() {
    let mut rig = Rig::new(&["a"]);
    rig.set(|supervisor| supervisor.not_ready_for(S * 10));
    rig.script("a").stop_takes(S * 5);
    for _ in 0..2 {
        rig.start();
        let first = given(rig.supervisor.wind_down(&rig.reactor()));
        rig.advance(S * 4);
        let second = given(rig.supervisor.wind_down(&rig.reactor()));
        rig.advance(S * 6);
        assert_eq!(rig.take(), ["stop a"]);
        rig.advance(S * 4);
        assert!(first.is_none() && second.is_none());
        assert_eq!(rig.supervisor.health(), Health::Stopping);
        rig.advance(S);
        first.take().unwrap();
        second.take().unwrap();
        assert_eq!(rig.states(), [ChildState::Stopped]);
    }
}

#[test]
fn c139n_the_end_of_the_loop_ends_a_supervisor_which_can_be_started_in_another() {
    let mut rig = Rig::new(&["a"]);
    rig.start();
    rig.script("a").stop_takes(S * 5);
    let stopping = given(rig.supervisor.stop());
    let mut supervisor = rig.supervisor.clone();
    rig.settle();
    drop(rig);
    assert!(stopping.take().unwrap_err().is_cancelled());
    assert_eq!(supervisor.children()[0].state, ChildState::Stopped);
    supervisor.remove("a").detach();
    let mut clock = Clock::new();
    let cache = FunctionService::new("cache", |_| Deferred::succeed(()));
    supervisor.add(Child::new(cache)).detach();
    let started = given(Service::start(&mut supervisor, &clock.reactor()));
    clock.settle();
    started.take().unwrap();
    assert_eq!(supervisor.health(), Health::Ready);
}

#[test]
fn c139a_a_service_whose_end_cannot_be_taken_is_stopped_and_has_not_started() {
    struct Broken(Log);
    impl Service for Broken {
        fn name(&self) -> &str {
            "broken"
        }
        fn start(&mut self, _: &Reactor) -> Deferred<()> {
            self.0.say("start");
            Deferred::succeed(())
        }
        fn stop(&mut self) -> Deferred<()> {
            self.0.say("stop");
            Deferred::succeed(())
        }
        fn take_end(&mut self) -> Option<Deferred<()>> {
            panic!("no end")
        }
    }
    let (mut clock, log) = (Clock::new(), Log::default());
    let mut supervisor = Supervisor::new("top");
    supervisor.add(Child::new(Broken(log.clone()))).detach();
    let started = given(supervisor.start(&clock.reactor()));
    clock.settle();
    assert!(started.text().contains("no end"));
    assert_eq!(log.take(), ["start", "stop"]);
}
