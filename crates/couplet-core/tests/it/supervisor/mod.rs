//! Rows 139 to 139m: supervisors, in virtual time, with the semantics of Erlang's `supervisor`.

mod model;
mod ready_made;
mod scripted;
mod tree;

use std::time::Duration;

use couplet::services::{Child, ChildState, Health, Restart, Service, ServiceError, Strategy};

use crate::defer_witness::given;
use crate::logged::logged;
use scripted::{Rig, Script};

const S: Duration = Duration::from_secs(1);

#[test]
fn c139_children_start_in_order_each_when_the_one_before_has_started_and_stop_in_reverse() {
    let mut rig = Rig::new(&["a", "b", "c"]);
    rig.script("b").start_takes(S);
    rig.script("b").stop_takes(S);
    let started = given(rig.supervisor.start(&rig.reactor()));
    rig.settle();
    assert_eq!(rig.take(), ["start a", "start b"]);
    assert_eq!(rig.supervisor.health(), Health::Starting);
    rig.advance(S);
    assert_eq!(rig.take(), ["start c"]);
    started.take().unwrap();
    assert_eq!(rig.supervisor.health(), Health::Ready);
    let stopped = given(rig.supervisor.stop());
    rig.settle();
    assert_eq!(rig.take(), ["stop c", "stop b"]);
    assert_eq!(rig.supervisor.health(), Health::Stopping);
    rig.advance(S);
    assert_eq!(rig.take(), ["stop a"]);
    stopped.take().unwrap();
    // A stopped supervisor can be started again.
    assert_eq!(rig.start(), ["start a", "start b"]);
}

#[test]
fn c139a_a_child_that_fails_to_start_stops_those_before_it_and_the_error_names_it() {
    for fails in [Script::fails_to_start as fn(&Script), Script::panics_at_start] {
        let mut rig = Rig::new(&["a", "b", "c", "d"]);
        fails(&rig.script("c"));
        let started = given(rig.supervisor.start(&rig.reactor()));
        rig.settle();
        assert_eq!(rig.take(), ["start a", "start b", "start c", "stop b", "stop a"]);
        let failure = started.take().unwrap_err();
        let Some(ServiceError::Start { name, .. }) = failure.downcast_ref() else {
            panic!("{failure}")
        };
        assert_eq!(name, "c");
        assert!(failure.to_string().starts_with("cannot start service c: "), "{failure}");
        assert!(rig.states().iter().all(|state| *state == ChildState::Stopped));
        assert_eq!(rig.reactor_load(), 0, "timers and tasks stay");
    }
}

#[test]
fn c139a_a_start_that_takes_too_long_is_cancelled_and_has_failed() {
    let mut rig = Rig::empty();
    rig.add("a", |child| child);
    rig.add("b", |child| child.start_within(S * 3));
    rig.script("b").start_takes(S * 60);
    let started = given(rig.supervisor.start(&rig.reactor()));
    rig.settle();
    rig.advance(S * 3);
    assert_eq!(rig.take(), ["start a", "start b", "cancelled start b", "stop a"]);
    let text = started.take().unwrap_err().to_string();
    assert!(text.starts_with("cannot start service b: ") && text.contains("3"), "{text}");
}

#[test]
fn c139b_a_stop_that_takes_too_long_is_cancelled_and_the_others_are_stopped() {
    let mut rig = Rig::empty();
    rig.add("a", |child| child);
    rig.add("b", |child| child.stop_within(S * 2));
    rig.add("c", |child| child);
    rig.script("b").stop_takes(S * 60);
    rig.start();
    let stopped = given(rig.supervisor.stop());
    rig.settle();
    rig.advance(S * 2);
    assert_eq!(rig.take(), ["stop c", "stop b", "cancelled stop b", "stop a"]);
    let text = stopped.take().unwrap_err().to_string();
    assert!(text.starts_with("cannot stop service b: "), "{text}");
    assert_eq!(rig.reactor_load(), 0);
}

#[test]
fn c139b_a_failed_stop_is_the_result_and_the_others_are_stopped() {
    for fails in [Script::fails_to_stop as fn(&Script), Script::panics_at_stop] {
        let mut rig = Rig::new(&["a", "b", "c"]);
        fails(&rig.script("c"));
        fails(&rig.script("b"));
        rig.start();
        let stopped = given(rig.supervisor.stop());
        rig.settle();
        assert_eq!(rig.take(), ["stop c", "stop b", "stop a"]);
        let failure = stopped.take().unwrap_err();
        assert!(failure.to_string().starts_with("cannot stop service c: "), "{failure}");
    }
}

#[test]
fn c139b_a_stop_during_the_start_cancels_it_and_stops_those_that_have_started() {
    let mut rig = Rig::new(&["a", "b", "c"]);
    rig.script("b").start_takes(S * 60);
    let started = given(rig.supervisor.start(&rig.reactor()));
    rig.settle();
    let stopped = [given(rig.supervisor.stop()), given(rig.supervisor.stop())];
    rig.settle();
    assert_eq!(rig.take(), ["start a", "start b", "cancelled start b", "stop a"]);
    assert!(started.take().unwrap_err().is_cancelled());
    for stopped in stopped {
        stopped.take().unwrap();
    }
    // Before a start and after a stop there is nothing to stop.
    given(rig.supervisor.stop()).take().unwrap();
    assert_eq!(rig.reactor_load(), 0);
}

#[test]
fn c139b_a_cancelled_start_stops_those_that_have_started_and_can_be_repeated() {
    let mut rig = Rig::new(&["a", "b"]);
    rig.script("b").start_takes(S * 5);
    for _ in 0..2 {
        let starting = rig.supervisor.start(&rig.reactor());
        rig.settle();
        starting.cancel();
        rig.settle();
        assert_eq!(rig.take(), ["start a", "start b", "cancelled start b", "stop a"]);
        assert!(given(starting).take().unwrap_err().is_cancelled());
        assert_eq!(rig.states(), [ChildState::Stopped; 2]);
        assert_eq!(rig.reactor_load(), 0);
    }
    assert_eq!(rig.start(), ["start a", "start b"]);
    rig.advance(S * 5);
    assert_eq!(rig.states(), [ChildState::Running; 2]);
}

#[test]
fn c139b_cancelling_the_stop_cancels_the_stops_of_the_children_those_to_come_too() {
    let mut rig = Rig::new(&["a", "b", "c"]);
    for name in ["a", "b", "c"] {
        rig.script(name).stop_takes(S * 5);
    }
    rig.start();
    let stopping = rig.supervisor.stop();
    rig.settle();
    assert_eq!(rig.take(), ["stop c"]);
    stopping.cancel();
    rig.settle();
    assert_eq!(
        rig.take(),
        ["cancelled stop c", "stop b", "cancelled stop b", "stop a", "cancelled stop a"]
    );
    drop(given(stopping));
    // The next stop has its time again.
    rig.start();
    let stopped = given(rig.supervisor.stop());
    rig.settle();
    assert_eq!(rig.take(), ["stop c"]);
    rig.advance(S * 5);
    assert_eq!(rig.take(), ["stop b"]);
    rig.advance(S * 5);
    assert_eq!(rig.take(), ["stop a"]);
    rig.advance(S * 5);
    assert_eq!(rig.take(), [""; 0]);
    stopped.take().unwrap();
}

#[test]
fn c139d_the_strategy_decides_which_children_are_restarted_together() {
    for (strategy, expected) in [
        (Strategy::OneForOne, &["start b"][..]),
        (Strategy::RestForOne, &["stop d", "stop c", "start b", "start c", "start d"]),
        (
            Strategy::OneForAll,
            &["stop d", "stop c", "stop a", "start a", "start b", "start c", "start d"],
        ),
    ] {
        let mut rig = Rig::new(&["a", "b", "c", "d"]);
        rig.set(|supervisor| supervisor.strategy(strategy));
        rig.start();
        assert_eq!(rig.end("b", false), expected, "{strategy:?}");
        assert!(rig.states().iter().all(|state| *state == ChildState::Running));
    }
}

#[test]
fn c139d_children_that_fail_to_stop_are_started_with_the_others() {
    for fails in [Script::fails_to_stop as fn(&Script), Script::panics_at_stop] {
        let mut rig = Rig::new(&["a", "b", "c", "d"]);
        rig.set(|supervisor| supervisor.strategy(Strategy::OneForAll).intensity(2, S));
        fails(&rig.script("d"));
        fails(&rig.script("c"));
        rig.start();
        for _ in 0..2 {
            let calls = ["stop d", "stop c", "stop a", "start a", "start b", "start c", "start d"];
            assert_eq!(rig.end("b", false), calls);
            assert_eq!(rig.states(), [ChildState::Running; 4]);
        }
    }
}

#[test]
fn c139e_more_restarts_than_the_intensity_allows_end_the_supervisor() {
    let mut rig = Rig::new(&["a", "b"]);
    rig.set(|supervisor| supervisor.intensity(2, S * 10));
    rig.start();
    let end = given(rig.supervisor.take_end().unwrap());
    rig.end("b", false);
    rig.advance(S * 10);
    // The first restart counts until its period is over.
    rig.end("b", false);
    assert!(end.is_none());
    rig.advance(Duration::from_millis(1));
    rig.end("a", false);
    assert!(end.is_none(), "two in ten seconds");
    assert_eq!(rig.end("b", false), ["stop a"]);
    let failure = end.take().unwrap_err();
    let expected =
        "supervisor top gave up: more than 2 restarts within 10 s, the last of b: b failed";
    assert_eq!(failure.to_string(), expected);
    assert_eq!(rig.supervisor.health(), Health::Failed(expected.to_owned()));
    assert_eq!(rig.reactor_load(), 0);
}

#[test]
fn c139e_one_restart_in_five_seconds_is_allowed_unless_set() {
    for (apart, gives_up) in [(S * 5, true), (S * 5 + Duration::from_millis(1), false)] {
        let mut rig = Rig::new(&["a"]);
        rig.start();
        let end = given(rig.supervisor.take_end().unwrap());
        rig.end("a", false);
        rig.advance(apart);
        rig.end("a", false);
        assert_eq!(!end.is_none(), gives_up, "{apart:?}");
        drop(end);
    }
}

#[test]
fn c139e_a_start_that_fails_during_a_restart_is_another_restart() {
    let mut rig = Rig::new(&["a", "b", "c"]);
    rig.set(|supervisor| supervisor.strategy(Strategy::RestForOne).intensity(3, S * 60));
    rig.start();
    let end = given(rig.supervisor.take_end().unwrap());
    rig.take();
    rig.script("b").fails_to_start();
    // The restarts after the first begin with the child that failed to start.
    assert_eq!(
        rig.end("a", false),
        ["stop c", "stop b", "start a", "start b", "start b", "start b", "stop a"]
    );
    let failure = end.take().unwrap_err().to_string();
    assert!(failure.contains("the last of b: b does not start"), "{failure}");
}

#[test]
fn each_restart_and_each_end_is_a_warning_and_giving_up_is_an_error() {
    let mut rig = Rig::new(&["a", "b"]);
    rig.add("t", |child| child.restart(Restart::Temporary));
    rig.set(|supervisor| supervisor.intensity(2, S * 10));
    rig.start();
    let ((), lines) = logged(|| {
        for name in ["a", "t", "a", "b"] {
            rig.end(name, false);
        }
    });
    let expected = [
        ("restarting a service: a failed", "service=a"),
        ("service ended: t failed", "service=t"),
        ("restarting a service: a failed", "service=a"),
        ("supervisor top gave up: more than 2 restarts", "service=b"),
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    for (line, (words, service)) in lines.iter().zip(expected) {
        assert!(line.contains(words) && line.contains(service), "{line}");
    }
}

#[test]
fn c139f_restarts_in_succession_wait_twice_as_long_each_time_less_up_to_half() {
    let mut rig = Rig::new(&["a"]);
    let most = S * 4;
    rig.set(|supervisor| supervisor.back_off(S, most).intensity(100, S * 10));
    rig.start();
    for full in [S, S * 2, S * 4, S * 4, S * 4] {
        let began = rig.elapsed();
        rig.end("a", false);
        assert_eq!(rig.states(), [ChildState::Restarting]);
        assert!(matches!(rig.supervisor.health(), Health::Failed(words) if words == "a: a failed"));
        rig.advance_until(|rig| rig.states() == [ChildState::Running]);
        let waited = rig.elapsed() - began;
        assert!(full / 2 <= waited && waited <= full, "{waited:?} of {full:?}");
    }
    // A child that ran for the period begins at the first delay.
    rig.advance(S * 10);
    rig.end("a", false);
    rig.advance(S);
    assert_eq!(rig.states(), [ChildState::Running]);
}

#[test]
fn c139f_starts_that_fail_wait_twice_as_long_each_time_too_and_each_child_has_its_delay() {
    let mut rig = Rig::new(&["a", "b"]);
    rig.set(|supervisor| supervisor.back_off(S, S * 8).intensity(100, S * 10));
    rig.start();
    rig.script("a").fails(3);
    rig.end("a", false);
    for (failed, full) in [S, S * 2, S * 4, S * 8].into_iter().enumerate() {
        let began = rig.elapsed();
        rig.advance_until(|rig| rig.starts("a") == failed + 2);
        let waited = rig.elapsed() - began;
        assert!(full / 2 <= waited && waited <= full, "{waited:?} of {full:?}");
        let is_up = rig.states()[0] == ChildState::Running;
        assert_eq!(is_up, failed == 3, "after {failed} starts that failed");
    }
    rig.end("b", false);
    rig.advance(S);
    assert_eq!(rig.states(), [ChildState::Running; 2]);
}

#[test]
fn c139f_a_child_that_waits_for_its_restart_can_be_stopped_and_removed() {
    for removes in [false, true] {
        let mut rig = Rig::new(&["a", "b"]);
        rig.set(|supervisor| supervisor.back_off(S, S).intensity(10, S * 60));
        rig.start();
        for _ in 0..2 {
            rig.end("b", false);
            assert_eq!(rig.states(), [ChildState::Running, ChildState::Restarting]);
            let calls = rig.done(|it| if removes { it.remove("b") } else { it.stop_child("b") });
            assert_eq!(calls, [""; 0]);
            rig.advance(S * 5);
            assert_eq!(rig.take(), [""; 0], "it is not restarted");
            match removes {
                true => {
                    assert_eq!(rig.names(), ["a"]);
                    rig.add("b", |child| child);
                    rig.settle();
                    assert_eq!(rig.take(), ["start b"]);
                }
                false => assert_eq!(rig.done(|it| it.start_child("b")), ["start b"]),
            }
        }
    }
}

#[test]
fn c139f_a_stop_ends_the_wait_for_a_restart() {
    let mut rig = Rig::new(&["a", "b"]);
    rig.set(|supervisor| supervisor.back_off(S * 60, S * 60));
    rig.start();
    rig.end("b", false);
    assert_eq!(rig.done(|it| it.stop()), ["stop a"]);
    assert_eq!(rig.reactor_load(), 0, "the timer of the restart stays");
}

#[test]
fn c139f_during_a_wait_the_supervisor_answers_and_restarts_others() {
    let mut rig = Rig::new(&["a", "b"]);
    rig.set(|supervisor| supervisor.back_off(S * 2, S * 2).intensity(10, S * 60));
    rig.start();
    rig.end("b", false);
    rig.add("c", |child| child);
    rig.settle();
    assert_eq!(rig.end("a", false), ["start c"]);
    rig.advance(S * 2);
    assert_eq!(rig.states(), [ChildState::Running; 3]);
    // A restart of all takes over those that wait.
    let mut rig = Rig::new(&["a", "b"]);
    rig.set(|it| it.strategy(Strategy::RestForOne).back_off(S, S * 60).intensity(10, S * 60));
    rig.start();
    rig.end("b", false);
    rig.end("a", false);
    rig.advance(S * 2);
    assert_eq!(rig.take(), ["start a", "start b"]);
}

#[test]
fn c139g_children_are_added_stopped_started_and_removed_while_the_supervisor_runs() {
    let mut rig = Rig::new(&["a"]);
    rig.start();
    rig.add("b", |child| child);
    rig.settle();
    assert_eq!(rig.take(), ["start b"]);
    assert_eq!(rig.done(|it| it.stop_child("a")), ["stop a"]);
    assert_eq!(rig.states(), [ChildState::Stopped, ChildState::Running]);
    assert_eq!(rig.supervisor.health(), Health::Failed("a: stopped".to_owned()));
    let (again, runs) = (rig.supervisor.start_child("a"), rig.supervisor.start_child("b"));
    let (again, runs) = (given(again), given(runs));
    rig.settle();
    again.take().unwrap();
    assert_eq!(runs.text(), "cannot start service b: it runs");
    assert_eq!(rig.take(), ["start a"]);
    assert_eq!(rig.done(|it| it.remove("a")), ["stop a"]);
    assert_eq!(rig.names(), ["b"]);
    for unknown in [
        rig.supervisor.remove("a"),
        rig.supervisor.stop_child("a"),
        rig.supervisor.start_child("a"),
    ] {
        assert_eq!(given(unknown).text(), "there is no service a");
    }
}

#[test]
fn c139g_a_child_that_cannot_be_added_is_forgotten() {
    let mut rig = Rig::new(&["a"]);
    rig.start();
    let twice = given(rig.supervisor.add(Child::new(rig.service("a"))));
    assert_eq!(twice.text(), "cannot add service a: there is one of that name");
    rig.script("b").fails_to_start();
    let failing = given(rig.supervisor.add(Child::new(rig.service("b"))));
    rig.settle();
    assert_eq!(failing.text(), "cannot start service b: b does not start");
    assert_eq!(rig.names(), ["a"]);
    assert_eq!(rig.states(), [ChildState::Running]);
}

#[test]
fn c139g_a_temporary_child_that_is_stopped_is_forgotten() {
    let mut rig = Rig::new(&["a"]);
    for name in ["t", "u", "v"] {
        rig.add(name, |child| child.restart(Restart::Temporary));
    }
    rig.start();
    assert_eq!(rig.done(|it| it.stop_child("t")), ["stop t"]);
    assert_eq!(rig.names(), ["a", "u", "v"]);
    assert_eq!(rig.done(|it| it.stop()), ["stop v", "stop u", "stop a"]);
    assert_eq!(rig.names(), ["a"]);
    assert_eq!(rig.start(), ["start a"]);
}

#[test]
fn c139g_requests_are_carried_out_in_order_and_always_answered() {
    let mut rig = Rig::new(&["a", "b"]);
    rig.start();
    let it = rig.supervisor.clone();
    let removed = [given(it.remove("a")), given(it.remove("a"))];
    let started = given(it.start_child("a"));
    rig.settle();
    removed[0].take().unwrap();
    assert_eq!([removed[1].text(), started.text()], ["there is no service a"; 2].map(String::from));
    assert_eq!(rig.take(), ["stop a"]);
    // A stop answers the requests that it overtakes: all but the first, which has begun.
    let stopped = [given(it.stop_child("b")), given(it.stop_child("b"))];
    let added = given(it.add(Child::new(rig.service("c"))));
    let (removed, started) = (given(it.remove("b")), given(it.start_child("b")));
    assert_eq!(rig.done(|it| it.stop()), ["stop b"]);
    for done in stopped.into_iter().chain([added, removed]) {
        done.take().unwrap();
    }
    assert_eq!(started.text(), "supervisor top does not run");
    assert_eq!(given(it.start_child("b")).text(), "there is no service b");
    assert_eq!(rig.start(), ["start c"]);
}
