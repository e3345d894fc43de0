//! Row 133: `Cooperator`, on the memory driver's virtual clock.

use std::cell::{Cell, RefCell};
use std::iter;
use std::rc::Rc;
use std::time::Duration;

use couplet::defer::{Deferred, Failure, Panicked, Resolver};
use couplet::sim::Sim;
use couplet::task::{CooperativeTask, Cooperator, SchedulerStopped, TaskStopped};

use crate::defer_witness::{Log, given, unhandled_in};
use crate::pace::{TestLoop, ms};

/// An endless iterator, and the number of steps taken.
fn counting() -> (impl Iterator<Item = ()>, Rc<Cell<u32>>) {
    let count = Rc::new(Cell::new(0));
    let counted = count.clone();
    (iter::repeat_with(move || counted.set(counted.get() + 1)), count)
}

/// Records its drop.
struct Held(Rc<Cell<bool>>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

fn holding<S>(mut step: impl FnMut() -> S) -> (impl Iterator<Item = S>, Rc<Cell<bool>>) {
    let dropped = Rc::new(Cell::new(false));
    let held = Held(dropped.clone());
    let steps = iter::repeat_with(move || {
        let _ = &held;
        step()
    });
    (steps, dropped)
}

#[test]
fn c133_a_slice_ends_when_its_time_is_up_and_the_next_comes_in_the_next_turn() {
    for (slice, steps) in [(None, 3), (Some(ms(5)), 2), (Some(Duration::ZERO), 1)] {
        let mut clock = TestLoop::new(0);
        let (work, count) = counting();
        let network = clock.network.clone();
        let slow = work.inspect(move |()| network.advance(ms(4)));
        let cooperator = Cooperator::new(&clock.reactor);
        let cooperator = slice.into_iter().fold(cooperator, Cooperator::slice);
        let _task = cooperator.cooperate(slow);
        assert_eq!(count.get(), 0, "`cooperate` takes no step");
        clock.jump(ms(0));
        assert_eq!(count.get(), steps, "a slice of {slice:?}, and steps of 4 ms");
        let before = clock.network.elapsed();
        assert!(clock.l.next_turn().is_some_and(|at| at <= clock.reactor.now()));
        clock.jump(ms(0));
        assert_eq!((count.get(), clock.network.elapsed() - before), (2 * steps, ms(4) * steps));
    }
}

#[test]
fn c133_where_time_stands_still_a_slice_ends_after_a_thousand_steps() {
    for (most, steps) in [(None, 1000), (Some(7), 7), (Some(0), 1)] {
        let mut clock = TestLoop::new(0);
        let (work, count) = counting();
        let cooperator = Cooperator::new(&clock.reactor);
        let cooperator = most.into_iter().fold(cooperator, Cooperator::steps);
        let _task = cooperator.cooperate(work);
        clock.jump(ms(0));
        assert_eq!(count.get(), steps);
        clock.jump(ms(0));
        assert_eq!(count.get(), 2 * steps);
    }
}

#[test]
fn c133_tasks_take_their_steps_in_turn() {
    let mut clock = TestLoop::new(0);
    let cooperator = Cooperator::new(&clock.reactor).steps(5);
    for (name, steps) in [("a", 4), ("b", 2), ("c", 3)] {
        let log = clock.log.clone();
        let work = iter::repeat_n((), steps).inspect(move |()| log.say(name));
        cooperator.coiterate(work).detach();
    }
    assert_eq!(clock.jump(ms(0)).join(""), "abcab");
    assert_eq!(clock.jump(ms(0)).join(""), "abcabcaca");
}

#[test]
fn c133_a_task_that_is_resumed_while_it_is_queued_takes_no_more_steps_than_the_others() {
    let mut clock = TestLoop::new(0);
    let cooperator = Cooperator::new(&clock.reactor).steps(6);
    let [resumed, _] = ["a", "b"].map(|name| {
        let log = clock.log.clone();
        cooperator.cooperate(iter::repeat_with(move || log.say(name)))
    });
    for _ in 0..3 {
        assert!(resumed.pause() && resumed.resume());
        clock.jump(ms(0));
        assert_eq!(clock.log.take().join(""), "ababab");
    }
}

#[test]
fn c133_a_task_that_waits_for_a_deferred_is_idle() {
    let mut clock = TestLoop::new(0);
    let (wait, resolver) = Deferred::<()>::new();
    let log = clock.log.clone();
    let steps = [Deferred::succeed(()), wait, Deferred::succeed(())];
    let done = Cooperator::new(&clock.reactor)
        .coiterate(steps.into_iter().inspect(move |_| log.say("step")));
    assert_eq!(clock.jump(ms(0)).len(), 2);
    assert_eq!(clock.jump(ms(100)).len(), 2);
    assert!(clock.l.next_turn().is_none(), "nothing is scheduled");
    resolver.callback(());
    assert_eq!(clock.jump(ms(0)).len(), 3);
    given(done).take().unwrap();
}

#[test]
fn c133_a_failure_or_a_panic_ends_only_its_task() {
    let (failing, resolver) = Deferred::<()>::new();
    let mut failing = Some(failing);
    let panics = || -> couplet::Result<()> { panic!("oh") };
    let mut clock = TestLoop::new(0);
    let cooperator = Cooperator::new(&clock.reactor);
    let (refuses, first_dropped) = holding(|| Err(Failure::msg("no")));
    let (breaks, second_dropped) = holding(panics);
    let (waits, third_dropped) = holding(move || failing.take().expect("it ends"));
    let (other, count) = counting();
    let ends = [
        given(cooperator.coiterate(refuses)),
        given(cooperator.coiterate(breaks)),
        given(cooperator.coiterate(waits)),
    ];
    let _other = cooperator.cooperate(other);
    clock.jump(ms(0));
    resolver.errback(Failure::msg("later"));
    clock.jump(ms(0));
    assert_eq!(ends[0].text(), "no");
    let panicked = ends[1].take().unwrap_err();
    assert_eq!(panicked.downcast_ref(), Some(&Panicked("oh".into())));
    assert_eq!(ends[2].text(), "later");
    assert!(first_dropped.get() && second_dropped.get() && third_dropped.get());
    assert!(count.get() > 1000, "the other task goes on");
}

#[test]
fn c133_a_stop_ends_the_work_and_fails_the_waiters() {
    let mut clock = TestLoop::new(0);
    let (work, dropped) = holding(|| ());
    let task = Cooperator::new(&clock.reactor).cooperate(work);
    let is_dropped = dropped.clone();
    let first = task.when_done().add_both(move |result| {
        assert!(is_dropped.get(), "the work is dropped before anything else follows");
        result
    });
    let (first, second) = (given(first), given(task.when_done()));
    clock.jump(ms(0));
    assert!(task.is_active() && task.stop() && dropped.get());
    assert!(first.take().unwrap_err().is::<TaskStopped>());
    assert!(second.take().unwrap_err().is::<TaskStopped>());
    assert!(given(task.when_done()).take().unwrap_err().is::<TaskStopped>());
    assert!(!task.stop() && !task.pause() && !task.resume() && !task.is_active());
    clock.jump(ms(0));
    assert!(clock.l.next_turn().is_none());
}

#[test]
fn c133_a_paused_task_that_is_dropped_leaves_nothing_behind() {
    let mut clock = TestLoop::new(0);
    let cooperator = Cooperator::new(&clock.reactor);
    let (work, dropped) = holding(|| ());
    let reports = unhandled_in(|| {
        let task = cooperator.cooperate(work);
        task.pause();
        clock.jump(ms(0));
        drop(task);
    });
    assert!(dropped.get());
    assert_eq!(reports, [""; 0], "nobody waits for it");
    let shown = format!("{cooperator:?}");
    assert!(shown.contains("tasks: 0"), "{shown}");
}

#[test]
fn c133_a_stop_cancels_the_deferred_that_the_task_waits_for() {
    let mut clock = TestLoop::new(0);
    let (wait, resolver) = Deferred::<()>::new();
    let task = Cooperator::new(&clock.reactor).cooperate([wait]);
    clock.jump(ms(0));
    task.stop();
    assert!(resolver.is_cancelled());
    let (wait, resolver) = Deferred::<()>::new();
    let own: Rc<RefCell<Option<CooperativeTask>>> = Rc::default();
    let stops = own.clone();
    let stopping = iter::once(wait).inspect(move |_| {
        stops.take().expect("it is there").stop();
    });
    *own.borrow_mut() = Some(Cooperator::new(&clock.reactor).cooperate(stopping));
    clock.jump(ms(0));
    assert!(resolver.is_cancelled(), "it was given after the stop");
}

#[test]
fn c133_stopping_the_cooperator_fails_every_task() {
    let mut clock = TestLoop::new(0);
    let cooperator = Cooperator::new(&clock.reactor);
    let (wait, _resolver) = Deferred::<()>::new();
    let tasks = [
        cooperator.cooperate(counting().0),
        cooperator.cooperate(counting().0),
        cooperator.cooperate([wait]),
    ];
    tasks[1].pause();
    let ends = tasks.each_ref().map(|task| given(task.when_done()));
    clock.jump(ms(0));
    cooperator.stop();
    for end in ends {
        assert!(end.take().unwrap_err().is::<SchedulerStopped>());
    }
    let (work, count) = counting();
    assert!(given(cooperator.coiterate(work)).take().unwrap_err().is::<SchedulerStopped>());
    clock.jump(ms(0));
    assert!(count.get() == 0 && clock.l.next_turn().is_none());
}

#[test]
fn a_stopping_cooperator_refuses_work_from_its_callbacks() {
    let mut clock = TestLoop::new(0);
    let cooperator = Cooperator::new(&clock.reactor);
    let ((work, count), again) = (counting(), cooperator.clone());
    let later: Rc<RefCell<Option<Deferred<()>>>> = Rc::default();
    let keep = later.clone();
    let stopped = cooperator.cooperate(counting().0).when_done().add_errback(move |_| {
        *keep.borrow_mut() = Some(again.coiterate(work));
        Ok(())
    });
    stopped.detach();
    cooperator.stop();
    let later = given(later.take().expect("it was told"));
    assert!(later.take().unwrap_err().is::<SchedulerStopped>());
    clock.jump(ms(0));
    assert_eq!(count.get(), 0);
}

#[test]
fn c133_a_paused_task_takes_no_step_until_it_was_resumed_as_often() {
    let mut clock = TestLoop::new(0);
    let (work, count) = counting();
    let task = Cooperator::new(&clock.reactor).steps(1).cooperate(work);
    assert!(!task.resume(), "it isn't paused");
    clock.jump(ms(0));
    assert!(task.pause() && task.pause());
    clock.jump(ms(0));
    assert!(task.resume());
    clock.jump(ms(0));
    assert!(count.get() == 1 && clock.l.next_turn().is_none(), "a paused task costs no turn");
    assert!(task.resume());
    clock.jump(ms(0));
    assert_eq!(count.get(), 2);
}

#[test]
fn c133_a_paused_task_waits_for_both_its_deferred_and_the_resume() {
    let mut clock = TestLoop::new(0);
    let (wait, resolver) = Deferred::<()>::new();
    let task = Cooperator::new(&clock.reactor).cooperate([wait]);
    clock.jump(ms(0));
    task.pause();
    resolver.callback(());
    clock.jump(ms(0));
    assert!(task.is_active());
    task.resume();
    clock.jump(ms(0));
    given(task.when_done()).take().unwrap();
    let (wait, resolver) = Deferred::<()>::new();
    let task = Cooperator::new(&clock.reactor).cooperate([wait]);
    clock.jump(ms(0));
    assert!(task.pause() && task.resume());
    clock.jump(ms(0));
    assert!(task.is_active());
    resolver.callback(());
    clock.jump(ms(0));
    given(task.when_done()).take().unwrap();
}

#[test]
fn c133_a_step_may_pause_resume_and_stop_its_own_task() {
    let mut clock = TestLoop::new(0);
    let own: Rc<RefCell<Option<CooperativeTask>>> = Rc::default();
    let (me, log) = (own.clone(), clock.log.clone());
    let mut step = 0;
    let (work, dropped) = holding(move || {
        step += 1;
        log.say(step.to_string());
        let me = me.borrow().clone().expect("it is there");
        match step {
            1 => assert!(me.pause() && me.resume()),
            2 => assert!(me.pause()),
            _ => assert!(me.stop()),
        }
    });
    let task = Cooperator::new(&clock.reactor).cooperate(work);
    *own.borrow_mut() = Some(task.clone());
    let end = given(task.when_done());
    assert_eq!(clock.jump(ms(0)), ["1", "2"]);
    assert_eq!(clock.jump(ms(0)), ["1", "2"]);
    task.resume();
    assert_eq!(clock.jump(ms(0)), ["1", "2", "3"]);
    assert!(end.take().unwrap_err().is::<TaskStopped>());
    assert!(dropped.get());
    own.take();
}

#[test]
fn c133_cancelling_a_wait_for_the_end_ends_only_that_wait() {
    let mut clock = TestLoop::new(0);
    let task = Cooperator::new(&clock.reactor).cooperate([(); 3]);
    let (first, second, third) = (task.when_done(), task.when_done(), task.when_done());
    first.cancel();
    second.cancel();
    assert!(given(first).take().unwrap_err().is_cancelled());
    assert!(given(second).take().unwrap_err().is_cancelled());
    clock.jump(ms(0));
    given(third).take().unwrap();
    given(task.when_done()).take().unwrap();
}

#[test]
fn c133_an_unhandled_failure_is_reported_and_a_stop_is_not() {
    let fails = || iter::once_with(|| Err::<(), _>(Failure::msg("alone")));
    let mut clock = TestLoop::new(0);
    let reports = unhandled_in(|| {
        let cooperator = Cooperator::new(&clock.reactor);
        drop(cooperator.cooperate(fails()));
        let seen = cooperator.cooperate(fails());
        cooperator.cooperate(counting().0).stop();
        cooperator.cooperate([(); 2]).pause();
        clock.jump(ms(0));
        assert_eq!(given(seen.when_done()).text(), "alone");
        assert_eq!(given(seen.when_done()).text(), "alone");
        cooperator.cooperate(counting().0);
        cooperator.stop();
    });
    assert_eq!(reports, ["alone"]);
}

#[test]
fn a_failure_after_the_stop_of_a_task_is_reported() {
    let mut clock = TestLoop::new(0);
    let cooperator = Cooperator::new(&clock.reactor);
    let reports = unhandled_in(|| {
        let own: Rc<RefCell<Option<CooperativeTask>>> = Rc::default();
        let stops = own.clone();
        let panics = iter::once_with(move || -> () {
            stops.take().expect("it is there").stop();
            panic!("in the last step")
        });
        *own.borrow_mut() = Some(cooperator.cooperate(panics));
        let refusing = Deferred::<()>::with_canceller(|resolver: Resolver<()>| {
            resolver.errback(Failure::msg("not in time"));
        });
        let (wait, _resolver) = refusing;
        let waits = cooperator.cooperate([wait]);
        clock.jump(ms(0));
        assert!(waits.stop() && own.borrow().is_none());
    });
    assert_eq!(reports.len(), 2, "{reports:?}");
    assert!(reports[0].contains("in the last step"), "{reports:?}");
    assert_eq!(reports[1], "not in time");
}

#[test]
fn c133_cancelling_or_dropping_coiterate_stops_the_work() {
    let mut clock = TestLoop::new(0);
    let cooperator = Cooperator::new(&clock.reactor);
    let (work, dropped) = holding(|| ());
    let cancelled = cooperator.coiterate(work);
    clock.jump(ms(0));
    cancelled.cancel();
    assert!(given(cancelled).take().unwrap_err().is_cancelled() && dropped.get());
    let (work, dropped) = holding(|| ());
    let awaiting = clock.reactor.spawn({
        let cooperator = cooperator.clone();
        async move { cooperator.coiterate(work).await }
    });
    clock.jump(ms(0));
    clock.jump(ms(0));
    assert!(!dropped.get());
    awaiting.cancel();
    clock.jump(ms(0));
    assert!(dropped.get());
    awaiting.detach();
}

#[test]
fn c133_the_end_of_the_loop_ends_the_work() {
    let reports = unhandled_in(|| {
        let TestLoop { mut l, reactor, .. } = TestLoop::new(0);
        let cooperator = Cooperator::new(&reactor);
        let (work, dropped) = holding(|| ());
        let mut end = None;
        let ended = l.run(|reactor| {
            end = Some(given(cooperator.coiterate(work)));
            drop(cooperator.cooperate(counting().0));
            reactor.call_later(ms(0), {
                let reactor = reactor.clone();
                move || reactor.stop()
            });
            Ok(())
        });
        ended.expect("a run");
        assert!(end.expect("the work began").take().unwrap_err().is_cancelled() && dropped.get());
        // The slice that was scheduled has ended with the run, and new work gets another.
        let next = given(cooperator.coiterate([(); 3]));
        for _ in 0..3 {
            l.turn(Some(ms(0))).expect("memory does not fail");
        }
        next.take().expect("it has ended");
    });
    assert_eq!(reports, [""; 0]);
}

#[test]
fn the_end_of_the_loop_ends_a_paused_a_waiting_and_a_working_task() {
    let mut clock = TestLoop::new(0);
    let cooperator = Cooperator::new(&clock.reactor);
    let ((work, dropped), (wait, resolver)) = (holding(|| ()), Deferred::<()>::new());
    let paused = cooperator.cooperate(work);
    let tasks = [paused.clone(), cooperator.cooperate([wait]), cooperator.cooperate(counting().0)];
    let ends = tasks.each_ref().map(|task| given(task.when_done()));
    clock.jump(ms(0));
    assert!(paused.pause());
    clock.jump(ms(0));
    drop(clock.l);
    for end in ends {
        assert!(end.take().unwrap_err().is_cancelled());
    }
    assert!(dropped.get() && resolver.is_cancelled());
}

/// A task, and whether its iterator was dropped.
type Work = (CooperativeTask, Rc<Cell<bool>>);

/// Tasks of a cooperator without a scheduled slice: one that was paused before its first step, one
/// that was paused after a step, and one that waits for a Deferred. The last task before them has
/// ended.
fn idle_tasks(clock: &mut TestLoop, cooperator: &Cooperator) -> [Work; 3] {
    let before = given(cooperator.cooperate([()]).when_done());
    clock.jump(ms(0));
    before.take().expect("it has ended");
    let steps = || {
        let (work, dropped) = holding(|| Deferred::succeed(()));
        (cooperator.cooperate(work), dropped)
    };
    let mut resolvers = Vec::new();
    let (work, dropped) = holding(move || {
        let (deferred, resolver) = Deferred::new();
        resolvers.push(resolver);
        deferred
    });
    let tasks = [steps(), steps(), (cooperator.cooperate(work), dropped)];
    tasks[0].0.pause();
    clock.jump(ms(0));
    tasks[1].0.pause();
    clock.jump(ms(0));
    clock.jump(ms(0));
    let timers = clock.l.snapshot();
    assert!(timers.is_empty(), "no slice is scheduled, and nothing else counts: {timers}");
    tasks
}

#[test]
fn c133_the_end_of_a_run_and_the_drop_of_the_loop_end_idle_work_too() {
    for (runs, is_dropped) in [(1, false), (2, false), (3, false), (0, true), (1, true)] {
        let reports = unhandled_in(|| {
            let mut clock = TestLoop::new(0);
            let cooperator = Cooperator::new(&clock.reactor);
            let check = |tasks: [Work; 3], end: &mut dyn FnMut()| {
                let ends = tasks.each_ref().map(|(task, _)| given(task.when_done()));
                end();
                for ((task, dropped), end) in tasks.into_iter().zip(ends) {
                    assert!(!task.is_active() && dropped.get(), "{runs} runs, {is_dropped}");
                    assert!(end.take().expect_err("it was cut off").is_cancelled());
                }
            };
            for _ in 0..runs {
                let tasks = idle_tasks(&mut clock, &cooperator);
                check(tasks, &mut || clock.run());
            }
            if is_dropped {
                let tasks = idle_tasks(&mut clock, &cooperator);
                let mut clock = Some(clock);
                check(tasks, &mut || drop(clock.take()));
                let late = cooperator.cooperate([()]);
                assert!(given(late.when_done()).take().is_err_and(|late| late.is_cancelled()));
            }
        });
        assert_eq!(reports, [""; 0]);
    }
}

#[test]
fn c133_in_the_simulator_other_calls_come_between_the_slices() {
    let mut sim = Sim::new(1);
    let log = Log::default();
    let said = log.clone();
    sim.host("works", move |reactor| {
        let (log, ends, stopping) = (said.clone(), said.clone(), reactor.clone());
        let mut step = 0;
        let work = iter::repeat_n((), 2500).inspect(move |()| {
            step += 1;
            if step % 1000 == 1 {
                log.say("slice");
            }
        });
        let between = |name: &'static str| {
            let said = said.clone();
            move || said.say(name)
        };
        reactor.call_soon(between("before"));
        let done = Cooperator::new(reactor).coiterate(work);
        done.map(move |()| {
            ends.say("done");
            stopping.stop();
        })
        .detach();
        let (soon, said) = (reactor.clone(), between("between"));
        reactor.call_soon(move || {
            soon.call_soon(said);
        });
        Ok(())
    });
    sim.run_for(Duration::from_secs(1)).expect("no invariant is violated");
    assert_eq!(log.lines(), ["before", "slice", "slice", "between", "slice", "done"]);
}
