//! Tasks that handle their cancellation, tasks that end with their owner, scopes, task-local
//! values, and intervals.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::rc::Rc;

use couplet::defer::{Cancelled, Panicked};
use couplet::task::{Cancelling, Scope, yield_now};
use couplet::testing::{failure_of, no_result_yet, success_of};
use couplet::{Deferred, Failure, Result};
use futures_util::{FutureExt, StreamExt};

use crate::defer_witness::unhandled_in;
use crate::pace::{TestLoop, s};
use crate::suite::recorder::Log;
use crate::tasks::{Drops, sleeps};

// Cancellation that is handled.

#[test]
fn c125_a_cancel_is_an_error_where_the_task_waits_and_the_task_decides_its_result() {
    for (how, expected) in [
        ("propagates it", "cancelled"),
        ("swallows it", "7"),
        ("converts it", "failed: no time left"),
        ("has work to finish first", "8"),
    ] {
        let (mut clock, log) = (TestLoop::new(0), Log::default());
        let inner = log.clone();
        let task = clock.reactor.spawn_cancellable(async move |cancelling| match how {
            "propagates it" => cancelling.or(pending()).await,
            "swallows it" => {
                let waits = cancelling.or::<u8>(sleeps(inner, "dropped"));
                assert!(waits.await.expect_err("a cancel").is::<Cancelled>());
                Ok(7)
            }
            "converts it" => {
                cancelling.or(pending()).await.map_err(|_| Failure::msg("no time left"))
            }
            _ => {
                cancelling.asked().await;
                inner.note("good-bye");
                cancelling.or(async { Ok(()) }).await?;
                yield_now().await;
                Ok(8)
            }
        });
        clock.jump(s(0));
        no_result_yet(&task);
        task.cancel();
        no_result_yet(&task);
        clock.jump(s(0));
        clock.jump(s(0));
        let got = success_of(task.add_both(|result| {
            Ok(match result {
                Ok(value) => value.to_string(),
                Err(failure) if failure.is_cancelled() => "cancelled".to_owned(),
                Err(failure) => format!("failed: {failure}"),
            })
        }));
        assert_eq!(got, expected, "a task that {how}");
    }
}

#[test]
fn c125_a_cancel_is_reported_only_once() {
    for waits_for_it in [false, true] {
        let mut clock = TestLoop::new(0);
        let sleeping = clock.reactor.sleep(s(1));
        let task = clock.reactor.spawn_cancellable(async move |cancelling| {
            match waits_for_it {
                true => cancelling.asked().await,
                false => drop(cancelling.or::<()>(pending()).await.expect_err("a cancel")),
            }
            assert!(!cancelling.is_asked());
            // A farewell takes its time.
            cancelling.or(sleeping).await?;
            let again = cancelling.asked().now_or_never();
            assert!(again.is_none(), "there was no other");
            Ok("a farewell")
        });
        clock.jump(s(0));
        task.cancel();
        clock.jump(s(0));
        no_result_yet(&task);
        clock.jump(s(1));
        clock.jump(s(0));
        assert_eq!(success_of(task), "a farewell");
    }
}

#[test]
fn a_cancel_that_comes_together_with_a_result_interrupts_the_next_wait() {
    for cancel_comes_first in [true, false] {
        let mut clock = TestLoop::new(0);
        let (wait, resolver) = Deferred::new();
        let task = clock.reactor.spawn_cancellable(async move |cancelling| {
            let value = cancelling.or(wait).await?;
            assert!(cancelling.is_asked());
            let failure = cancelling.or::<()>(pending()).await.expect_err("the cancel");
            assert!(failure.is::<Cancelled>() && !cancelling.is_asked());
            let text = failure.to_string();
            assert!(text.contains("the task of ") && text.contains(file!()), "{text}");
            Ok(value)
        });
        clock.jump(s(0));
        if cancel_comes_first {
            task.cancel();
        }
        resolver.callback(7);
        if !cancel_comes_first {
            task.cancel();
        }
        clock.settle();
        assert_eq!(success_of(task), 7, "the cancel comes first: {cancel_comes_first}");
    }
}

#[test]
fn c125_a_second_cancel_drops_the_task_and_so_does_the_end_of_the_loop() {
    let stubborn = |log: &Log| {
        let log = log.clone();
        async move |cancelling: Cancelling| {
            cancelling.asked().await;
            log.note("asked");
            sleeps::<()>(log, "dropped").await
        }
    };
    let (mut clock, log) = (TestLoop::new(0), Log::default());
    let task = clock.reactor.spawn_cancellable(stubborn(&log));
    clock.jump(s(0));
    assert!(log.take().is_empty(), "it waits for the cancel");
    task.cancel();
    clock.jump(s(0));
    assert_eq!(log.take(), ["asked"]);
    task.cancel();
    clock.jump(s(0));
    assert_eq!(log.take(), ["dropped"]);
    assert!(failure_of(task).is_cancelled());

    let task = clock.reactor.spawn_cancellable(stubborn(&log));
    clock.jump(s(0));
    task.cancel();
    clock.jump(s(0));
    drop(clock);
    assert_eq!(log.take(), ["asked", "dropped"]);
    assert!(failure_of(task).is_cancelled());
}

#[test]
fn c125_a_cancel_before_the_first_poll_and_after_the_end() {
    let mut clock = TestLoop::new(0);
    let early = clock.reactor.spawn_cancellable(async |cancelling| {
        assert!(cancelling.is_asked());
        cancelling.or(async { Ok("ready already") }).await
    });
    early.cancel();
    clock.jump(s(0));
    assert_eq!(success_of(early), "ready already", "what is ready counts");
    let late = clock.reactor.spawn_cancellable(async |_| Ok(5));
    clock.jump(s(0));
    late.cancel();
    assert_eq!(success_of(late), 5);
}

// Tasks that end with their owner.

#[test]
fn c125d_only_abort_on_drop_cancels_a_task_dropped_unpolled() {
    let (mut clock, log) = (TestLoop::new(0), Log::default());
    drop(clock.reactor.spawn(sleeps::<()>(log.clone(), "the first")));
    let second = clock.reactor.spawn(sleeps::<()>(log.clone(), "the second")).abort_on_drop();
    let third = clock.reactor.spawn(sleeps::<()>(log.clone(), "the third")).abort_on_drop();
    clock.jump(s(0));
    drop(second);
    clock.jump(s(0));
    assert_eq!(log.take(), ["the second"]);
    third.into_inner().detach();
    clock.jump(s(0));
    assert!(log.take().is_empty());
    let fires = Deferred::succeed(3).abort_on_drop();
    assert_eq!(fires.now_or_never().map(|result| result.expect("a value")), Some(3));
}

// Scopes.

/// Runs a scope until the loop has nothing left to do at this time; returns the scope's task.
fn scoped<T: 'static>(
    clock: &mut TestLoop,
    body: impl AsyncFnOnce(&Scope) -> Result<T> + 'static,
) -> Deferred<T> {
    let reactor = clock.reactor.clone();
    let task = clock.reactor.spawn(async move { reactor.scope(body).await });
    clock.jump(s(0));
    clock.jump(s(0));
    task
}

#[test]
fn c125c_a_scope_waits_for_its_tasks_and_theirs() {
    let (mut clock, log) = (TestLoop::new(0), Log::default());
    let (reactor, inner) = (clock.reactor.clone(), log.clone());
    let task = scoped(&mut clock, async move |scope| {
        let nested = scope.clone();
        let child = scope.spawn(async move {
            reactor.sleep(s(1)).await?;
            let sleep = reactor.sleep(s(1));
            let nested = nested.spawn(async move {
                sleep.await?;
                inner.note("grandchild");
                Ok(())
            });
            nested.detach();
            Ok(3)
        });
        assert_eq!(scope.running(), 1);
        let sum = child.await? + 1;
        assert_eq!(scope.running(), 1, "the child has ended, and the grandchild has not");
        Ok(sum)
    });
    clock.jump(s(1));
    no_result_yet(&task);
    clock.jump(s(1));
    assert_eq!((success_of(task), log.take()), (4, vec!["grandchild".to_owned()]));
}

#[test]
fn c125c_a_failure_or_a_panic_of_a_task_cancels_the_others_and_the_body() {
    for panics in [false, true] {
        let (mut clock, log) = (TestLoop::new(0), Log::default());
        let (reactor, inner) = (clock.reactor.clone(), log.clone());
        let task = scoped(&mut clock, async move |scope| {
            scope.spawn(sleeps::<()>(inner.clone(), "one")).detach();
            let sleep = reactor.sleep(s(1));
            let fails = scope.spawn(async move {
                sleep.await?;
                assert!(!panics, "out of order");
                Err::<(), _>(Failure::msg("broken"))
            });
            scope.spawn(sleeps::<()>(inner.clone(), "another")).detach();
            fails.detach();
            sleeps::<()>(inner, "the body").await
        });
        let unhandled = unhandled_in(|| drop(clock.jump(s(1))));
        // Tasks cancelled in that turn were dropped in it, after the scope was polled.
        clock.jump(s(0));
        let failure = failure_of(task);
        match panics {
            true => assert!(failure.is::<Panicked>(), "{failure}"),
            false => assert_eq!(failure.to_string(), "broken"),
        }
        assert_eq!(log.take(), ["the body", "one", "another"]);
        assert!(unhandled.is_empty(), "{unhandled:?}");
    }
}

#[test]
fn a_failure_of_a_task_after_the_body_has_finished_is_the_result_of_its_scope() {
    for panics in [false, true] {
        let (mut clock, log) = (TestLoop::new(0), Log::default());
        let (reactor, inner) = (clock.reactor.clone(), log.clone());
        let task = scoped(&mut clock, async move |scope| {
            let ends = inner.clone();
            scope.spawn(sleeps::<()>(inner, "another")).detach();
            let sleep = reactor.sleep(s(1));
            let fails = scope.spawn(async move {
                sleep.await?;
                assert!(!panics, "out of order");
                Err::<(), _>(Failure::msg("broken"))
            });
            let told = fails.add_both(move |ended| {
                assert!(ended.expect_err("it fails").is_cancelled());
                ends.note("its Deferred");
                Ok(())
            });
            told.detach();
            Ok("a value")
        });
        no_result_yet(&task);
        clock.pass(s(1));
        let failure = failure_of(task);
        assert_eq!(failure.is::<Panicked>(), panics, "{failure}");
        assert!(panics || failure.to_string() == "broken", "{failure}");
        assert_eq!(log.take(), ["its Deferred", "another"]);
    }
}

#[test]
fn the_first_of_two_failures_in_a_turn_fails_the_scope() {
    let fails = |text: &'static str| async move { Err::<(), _>(Failure::msg(text)) };
    for first in ["a task", "another task", "the body"] {
        let mut clock = TestLoop::new(0);
        let task = scoped(&mut clock, async move |scope| {
            let mut order = ["a task", "another task"];
            if first == order[1] {
                order.reverse();
            }
            for text in order {
                scope.spawn(fails(text)).detach();
            }
            match first {
                "the body" => Err(Failure::msg(first)),
                _ => sleeps::<()>(Log::default(), "the body").await,
            }
        });
        clock.settle();
        assert_eq!(failure_of(task).to_string(), first);
    }
}

#[test]
fn c125c_a_task_spawned_after_the_body_has_failed_is_cancelled_too() {
    /// Spawns when dropped.
    struct Spawns(Scope, Log);
    impl Drop for Spawns {
        fn drop(&mut self) {
            self.1.note("spawns");
            self.0.spawn(pending::<Result<()>>()).detach();
        }
    }
    let (mut clock, log) = (TestLoop::new(0), Log::default());
    let inner = log.clone();
    let task = scoped(&mut clock, async move |scope| {
        let spawns = Spawns(scope.clone(), inner);
        let waits = async move {
            let _spawns = spawns;
            pending::<Result<()>>().await
        };
        scope.spawn(waits).detach();
        yield_now().await;
        yield_now().await;
        Err::<(), _>(Failure::msg("the body"))
    });
    clock.pass(s(1));
    assert_eq!(log.entries(), ["spawns"]);
    assert_eq!(failure_of(task).to_string(), "the body");
}

#[test]
fn c125c_the_tasks_of_a_scope_are_dropped_before_it_ends() {
    for polled in [true, false] {
        let (mut clock, log) = (TestLoop::new(0), Log::default());
        let (reactor, inner) = (clock.reactor.clone(), log.clone());
        let task = clock.reactor.spawn(async move {
            let (held, sleeping) = (Drops(inner.clone(), "dropped"), reactor.clone());
            let ended = reactor.scope(async move |scope| {
                let holds = async move {
                    let _held = held;
                    pending::<Result<()>>().await
                };
                scope.spawn(holds).detach();
                if polled {
                    sleeping.sleep(s(1)).await?;
                }
                Err::<(), _>(Failure::msg("the body"))
            });
            let ended = ended.await;
            inner.note("ended");
            ended
        });
        clock.pass(s(2));
        assert_eq!(failure_of(task).to_string(), "the body");
        assert_eq!(log.entries(), ["dropped", "ended"], "polled: {polled}");
    }
}

#[test]
fn c125c_cancelling_or_dropping_a_scope_cancels_its_tasks() {
    for drops in [false, true] {
        let (mut clock, log) = (TestLoop::new(0), Log::default());
        let (inner, kept) = (log.clone(), Rc::new(RefCell::new(None)));
        let keeps = kept.clone();
        let task = scoped(&mut clock, async move |scope| {
            *keeps.borrow_mut() = Some(scope.clone());
            scope.spawn(sleeps::<()>(inner.clone(), "a task")).detach();
            sleeps::<()>(inner, "the body").await
        });
        let scope = kept.borrow_mut().take().expect("it has begun");
        if drops {
            task.cancel()
        } else {
            scope.cancel()
        }
        clock.jump(s(0));
        clock.jump(s(0));
        assert_eq!(log.take(), ["the body", "a task"]);
        assert!(failure_of(task).is_cancelled());
        assert!(failure_of(scope.spawn(async { Ok(()) })).is_cancelled(), "it has ended");
    }
}

#[test]
fn c125c_a_task_that_was_cancelled_by_its_user_is_no_failure() {
    let (mut clock, log) = (TestLoop::new(0), Log::default());
    let inner = log.clone();
    let task = scoped(&mut clock, async move |scope| {
        let child = scope.spawn(sleeps::<()>(inner, "a task"));
        yield_now().await;
        child.cancel();
        Ok(child.await.is_err_and(|failure| failure.is_cancelled()))
    });
    clock.jump(s(0));
    assert!(success_of(task));
    assert_eq!(log.take(), ["a task"]);
}

// Task-local values.

couplet::task_local! {
    static REQUEST: u64;
    static SEEN: Rc<Cell<u64>>;
}

#[test]
fn c127_each_task_has_its_own_value_across_its_awaits() {
    let mut clock = TestLoop::new(0);
    let tasks: Vec<_> = (1..4)
        .map(|n| {
            let reactor = clock.reactor.clone();
            clock.reactor.spawn(REQUEST.scope(n, async move {
                let before = REQUEST.get();
                reactor.sleep(s(4 - n)).await?;
                REQUEST.with(|value| *value.expect("it is there") *= 10);
                let inner = REQUEST.scope(7, async { REQUEST.get() }).await;
                Ok((before, inner, REQUEST.get()))
            }))
        })
        .collect();
    for seconds in [0, 1, 1, 1] {
        clock.jump(s(seconds));
        assert_eq!(REQUEST.get(), None, "outside there is none");
    }
    for (n, task) in (1..4).zip(tasks) {
        assert_eq!(success_of(task), (Some(n), Some(7), Some(10 * n)));
    }
}

#[test]
fn c127_a_value_outlives_a_panic_and_is_there_for_the_last_drop() {
    struct Notes;
    impl Drop for Notes {
        fn drop(&mut self) {
            SEEN.with(|seen| seen.expect("it is there").set(1));
        }
    }
    let seen = Rc::new(Cell::new(0));
    let mut clock = TestLoop::new(0);
    let task = clock.reactor.spawn(SEEN.scope(seen.clone(), async {
        let _notes = Notes;
        let panics = async { SEEN.with(|_| panic!("in the middle")) };
        let _ = std::panic::AssertUnwindSafe(panics).catch_unwind().await;
        assert!(SEEN.get().is_some());
        pending::<Result<()>>().await
    }));
    clock.jump(s(0));
    assert_eq!(seen.get(), 0);
    task.cancel();
    clock.jump(s(0));
    assert_eq!(seen.get(), 1);
    assert!(SEEN.get().is_none());
}

#[test]
fn a_value_that_is_in_use_is_not_there_for_another_use() {
    let mut clock = TestLoop::new(0);
    let task = clock.reactor.spawn(REQUEST.scope(7, async {
        let inner = REQUEST.with(|value| {
            *value.expect("it is there") += 1;
            let seen = (REQUEST.get(), REQUEST.with(|value| value.is_none()));
            let scope = REQUEST.scope(9, async { REQUEST.get() }).now_or_never();
            (seen, scope)
        });
        Ok((inner, REQUEST.get()))
    }));
    clock.jump(s(0));
    assert_eq!(success_of(task), (((None, true), Some(Some(9))), Some(8)));
}

// Deadlines and intervals.

#[test]
fn c130a_an_interval_stays_on_its_grid_and_counts_skipped_points() {
    let mut clock = TestLoop::new(0);
    let told = Rc::<RefCell<Vec<(u64, u64)>>>::default();
    let (reactor, tells, network) = (clock.reactor.clone(), told.clone(), clock.network.clone());
    let mut ticks = reactor.interval(s(2));
    let task = reactor.spawn(async move {
        loop {
            let points = ticks.tick().await?;
            tells.borrow_mut().push((network.elapsed().as_secs(), points));
        }
        #[expect(unreachable_code, reason = "the type")]
        Ok(())
    });
    clock.jump(s(0));
    for seconds in [1, 1, 5, 1, 4] {
        clock.jump(s(seconds));
    }
    assert_eq!(*told.borrow(), [(0, 1), (2, 1), (7, 2), (8, 1), (12, 2)]);
    task.cancel();
    clock.jump(s(0));
    let mut none = clock.reactor.interval(s(0));
    assert!(none.next().now_or_never().flatten().is_some_and(|point| point.is_ok()));
    assert!(none.next().now_or_never().is_none(), "one a turn");
    clock.jump(s(0));
    assert!(none.next().now_or_never().flatten().is_some_and(|point| point.is_ok()));
    let mut later = clock.reactor.interval(s(2));
    later.reset();
    assert!(later.next().now_or_never().is_none());
    clock.jump(s(2));
    assert!(later.next().now_or_never().is_some());
}

#[test]
fn an_interval_that_is_reset_begins_a_new_grid_one_period_later() {
    let mut clock = TestLoop::new(0);
    let mut ticks = clock.reactor.interval(s(2));
    let mut at = |clock: &mut TestLoop, by: u64, resets: bool| {
        clock.jump(s(by));
        if resets {
            ticks.reset();
        }
        ticks.tick().now_or_never().map(|points| points.expect("the loop runs"))
    };
    assert_eq!(at(&mut clock, 0, false), Some(1));
    assert_eq!(at(&mut clock, 1, false), None);
    // Between two points, and while it waits for the second.
    assert_eq!(at(&mut clock, 0, true), None);
    let then = [1, 1, 1, 4].map(|by| at(&mut clock, by, false));
    assert_eq!(then, [None, Some(1), None, Some(2)]);
    // After points that no tick has returned.
    assert_eq!(at(&mut clock, 7, true), None);
    assert_eq!([1, 1].map(|by| at(&mut clock, by, false)), [None, Some(1)]);
    let mut none = clock.reactor.interval(s(0));
    none.reset();
    assert!(none.tick().now_or_never().is_none(), "one a turn");
    clock.jump(s(0));
    assert_eq!(none.tick().now_or_never().map(|point| point.expect("the loop runs")), Some(1));
}

#[test]
fn every_tick_of_an_interval_fails_once_its_loop_has_ended() {
    // The points that passed while no tick waited, and whether a tick waits at the end.
    for (passed, waits, is_dropped) in
        [(0, true, true), (3, true, true), (3, true, false), (3, false, true), (0, false, true)]
    {
        for period in [s(0), s(2)] {
            let mut clock = TestLoop::new(0);
            let mut ticks = clock.reactor.interval(period);
            assert!(ticks.tick().now_or_never().is_some(), "the first one is now");
            assert!(!waits || ticks.tick().now_or_never().is_none());
            let mut tick = || ticks.tick().now_or_never().expect("it is over");
            if is_dropped {
                clock.network.advance(passed * s(2));
                drop(clock);
            } else {
                // A run without a turn, so that no point passes in it.
                clock.l.begin(|_| Ok(())).expect("a run begins");
                clock.l.end().expect("a run ends");
                clock.network.advance(passed * s(2));
            }
            for _ in 0..3 {
                let failure = tick().expect_err("there is no further point");
                assert!(failure.is_cancelled(), "{passed} {waits} {is_dropped} {period:?}");
            }
        }
    }
}

#[test]
fn an_interval_that_a_run_has_ended_is_used_in_the_next_run_after_a_reset() {
    let mut clock = TestLoop::new(0);
    let mut ticks = clock.reactor.interval(s(2));
    assert!(ticks.tick().now_or_never().is_some(), "the first one is now");
    assert!(ticks.tick().now_or_never().is_none());
    clock.run();
    assert!(ticks.tick().now_or_never().is_some_and(|point| point.is_err()));
    clock.jump(s(4));
    assert!(ticks.tick().now_or_never().is_some_and(|point| point.is_err()));
    ticks.reset();
    assert!(ticks.tick().now_or_never().is_none());
    clock.jump(s(2));
    assert_eq!(ticks.tick().now_or_never().map(|points| points.expect("a point")), Some(1));
}
