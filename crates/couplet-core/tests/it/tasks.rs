//! Row 125a: futures as tasks of the loop, their effect on other tasks, I/O and timers, their
//! cancellation and panics, and the end of the loop.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::time::Duration;

use couplet::defer::{Canceller, Panicked, set_reporter};
use couplet::task::yield_now;
use couplet::testing::Manner;
use couplet::{Deferred, Failure, Loop, Reactor, Result};

use crate::defer_witness::{Given, given};
use crate::logged::logged;
use crate::pace::s;
use crate::suite::kit::{Kit, Rig};
use crate::suite::recorder::{Log, On, Script};

fn memory() -> Rig {
    Kit::memory(Manner::Readiness).rig()
}

const KITS: [Kit; 3] =
    [Kit::mio(), Kit::memory(Manner::Readiness), Kit::memory(Manner::Completion)];

/// Logs a line when dropped.
pub(crate) struct Drops(pub(crate) Log, pub(crate) &'static str);

impl Drop for Drops {
    fn drop(&mut self) {
        self.0.note(self.1);
    }
}

/// Never finishes; logs when it is dropped.
pub(crate) async fn sleeps<T>(log: Log, dropped: &'static str) -> Result<T> {
    let _drops = Drops(log, dropped);
    pending().await
}

#[test]
fn a_task_runs_in_the_turn_and_its_deferred_gets_the_result() {
    let mut rig = memory();
    let log = Log::default();
    let inner = log.clone();
    let value = given(rig.reactor.spawn(async move {
        inner.note("polled");
        Ok(42)
    }));
    let failed = given(rig.reactor.spawn(async { Err::<(), _>(Failure::msg("no poem")) }));
    assert!(log.entries().is_empty(), "spawn only records");
    rig.turn();
    assert_eq!(log.entries(), ["polled"]);
    assert_eq!(value.take().unwrap(), 42);
    assert_eq!(failed.text(), "no poem");
    assert_eq!(rig.l.snapshot().tasks, 0);
}

#[test]
fn tasks_spawned_in_a_turn_wait_for_the_next_and_keep_their_order() {
    let mut rig = memory();
    let log = Log::default();
    for name in ["a", "b"] {
        let (reactor, log) = (rig.reactor.clone(), log.clone());
        let task = async move {
            log.note(name);
            let child = async move {
                log.note(format!("child of {name}"));
                Ok(())
            };
            reactor.spawn(child).await
        };
        rig.reactor.spawn(task).detach();
    }
    rig.turn();
    assert_eq!(log.entries(), ["a", "b"]);
    rig.turn();
    assert_eq!(log.entries()[2..], ["child of a", "child of b"]);
    assert_eq!(rig.l.snapshot().tasks, 0, "each result reaches its task in the same turn");
}

#[test]
fn a_sleeping_task_is_not_polled_until_its_time() {
    let mut rig = memory();
    let polls = Rc::new(Cell::new(0));
    let (reactor, counted) = (rig.reactor.clone(), polls.clone());
    let slept = given(rig.reactor.spawn(async move {
        let start = reactor.now();
        for _ in 0..3 {
            let mut sleep = std::pin::pin!(reactor.sleep(s(10)));
            poll_fn(|context| {
                counted.set(counted.get() + 1);
                sleep.as_mut().poll(context)
            })
            .await?;
        }
        Ok(reactor.now().duration_since(start).as_secs())
    }));
    for _ in 0..30 {
        rig.turns(3);
        rig.pass(s(1));
    }
    rig.turns(3);
    assert_eq!(slept.take().unwrap(), 30);
    assert_eq!(polls.get(), 6, "once at the start of each sleep, once at its end");
}

#[test]
fn c125a_a_cancelled_task_is_dropped_in_the_turn() {
    let mut rig = memory();
    let log = Log::default();
    let task = rig.reactor.spawn(sleeps::<()>(log.clone(), "dropped"));
    let canceller = task.canceller();
    let task = given(task);
    rig.turn();
    canceller.cancel();
    assert!(log.entries().is_empty(), "not inside cancel");
    assert!(task.take().unwrap_err().is_cancelled(), "the Deferred fires immediately");
    rig.turn();
    assert_eq!(log.entries(), ["dropped"]);
    assert_eq!(rig.l.snapshot().tasks, 0);
    canceller.cancel();
    rig.turns(2);
    // A task cancelled before its first poll never runs.
    let inner = log.clone();
    let task = rig.reactor.spawn(async move {
        inner.note("polled");
        Ok(())
    });
    task.cancel();
    let task = given(task);
    rig.turn();
    assert!(task.take().unwrap_err().is_cancelled());
    assert_eq!(log.entries(), ["dropped"]);
}

#[test]
fn c125a_a_task_cancelled_by_another_in_its_turn_gives_no_result() {
    let mut rig = memory();
    let log = Log::default();
    let slot: Rc<RefCell<Option<Canceller>>> = Rc::default();
    let (victim, inner) = (slot.clone(), log.clone());
    let killer = async move {
        if let Some(victim) = victim.take() {
            victim.cancel();
        }
        inner.note("cancel returned");
        Ok(())
    };
    rig.reactor.spawn(killer).detach();
    let victim = rig.reactor.spawn(sleeps::<()>(log.clone(), "victim dropped"));
    *slot.borrow_mut() = Some(victim.canceller());
    let victim = given(victim);
    rig.turn();
    assert_eq!(log.entries(), ["cancel returned", "victim dropped"]);
    assert!(victim.take().unwrap_err().is_cancelled());
}

#[test]
fn c125a_a_task_that_cancels_itself_is_dropped_after_its_poll() {
    let mut rig = memory();
    let log = Log::default();
    let slot: Rc<RefCell<Option<Canceller>>> = Rc::default();
    let (own, inner) = (slot.clone(), log.clone());
    let held = Drops(log.clone(), "dropped");
    let task = rig.reactor.spawn(async move {
        let _held = held;
        own.take().expect("it was stored").cancel();
        inner.note("still running");
        yield_now().await;
        inner.note("never reached");
        Ok(())
    });
    *slot.borrow_mut() = Some(task.canceller());
    let task = given(task);
    rig.turns(3);
    assert_eq!(log.entries(), ["still running", "dropped"]);
    assert!(task.take().unwrap_err().is_cancelled());
}

#[test]
fn c125a_a_task_abandoned_while_it_is_awaited_is_cancelled() {
    let mut rig = memory();
    let log = Log::default();
    let (reactor, inner) = (rig.reactor.clone(), log.clone());
    let outer =
        rig.reactor.spawn(async move { reactor.spawn(sleeps::<()>(inner, "inner dropped")).await });
    rig.turns(3);
    outer.cancel();
    let outer = given(outer);
    rig.turns(2);
    assert!(outer.take().unwrap_err().is_cancelled());
    assert_eq!(log.entries(), ["inner dropped"]);
    assert_eq!(rig.l.snapshot().tasks, 0);
}

#[test]
fn c125a_a_panic_in_a_task_is_its_failure() {
    let mut rig = memory();
    let log = Log::default();
    let held = Drops(log.clone(), "dropped");
    let task = rig.reactor.spawn(async move {
        let _held = held;
        yield_now().await;
        let poems: Vec<String> = Vec::new();
        Ok(poems.first().expect("no poem").len())
    });
    let beside = given(rig.reactor.spawn(async {
        yield_now().await;
        yield_now().await;
        Ok("well")
    }));
    rig.turns(4);
    let failure = rig.l.run_until(task).expect_err("it panicked");
    let panicked = failure.downcast_ref::<Panicked>().expect("with its text");
    assert_eq!(panicked.0, "no poem");
    assert_eq!(log.entries(), ["dropped"]);
    assert_eq!(beside.take().unwrap(), "well");
    // A panic in the drop of a future harms nothing else.
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in a drop");
        }
    }
    let bomb = Bomb;
    let task = rig.reactor.spawn(async move {
        let _bomb = bomb;
        pending::<Result<()>>().await
    });
    rig.turn();
    task.cancel();
    let task = given(task);
    let ((), lines) = logged(|| rig.turn());
    assert!(task.take().unwrap_err().is_cancelled());
    assert_eq!(lines.len(), 1, "{lines:?}");
    rig.still_echoes();
}

#[test]
fn c125a_the_tasks_of_an_ended_loop_fail_with_cancelled() {
    let end: [fn(Rig); 2] = [
        |mut rig| {
            rig.stop(Duration::ZERO);
            assert_eq!(rig.l.snapshot().tasks, 0);
        },
        drop,
    ];
    for end in end {
        let reported = reported();
        let mut rig = memory();
        let log = Log::default();
        let waiting = given(rig.reactor.spawn(sleeps::<()>(log.clone(), "dropped")));
        let sleep = rig.reactor.sleep(s(1));
        let asleep = given(rig.reactor.spawn(sleep));
        rig.reactor.spawn(pending::<Result<()>>()).detach();
        rig.turn();
        let reactor = rig.reactor.clone();
        end(rig);
        assert!(waiting.take().unwrap_err().is_cancelled());
        assert!(asleep.take().unwrap_err().is_cancelled());
        assert_eq!(log.entries(), ["dropped"]);
        assert!(reported.take().is_empty(), "an unhandled Cancelled is not reported");
        drop(reactor);
    }
}

#[test]
fn c125a_a_task_that_sees_a_connection_lost_at_the_end_of_a_run_cannot_connect_again() {
    for kit in KITS {
        let reported = reported();
        let mut rig = kit.rig();
        let (gone, resolver) = Deferred::new();
        let tells = Script::new().once(On::Lost, move |_| resolver.callback(()));
        let (a, _b) = rig.accept(tells);
        let (log, inner) = (a.log.clone(), rig.reactor.clone());
        let waiting = given(rig.reactor.spawn(async move {
            gone.await?;
            for _ in 0..3 {
                let again = inner.connect_stream("tcp:127.0.0.1:9");
                log.note(again.await.expect_err("the loop ends").to_string());
            }
            Ok("refused")
        }));
        rig.turn();
        rig.stop(Duration::ZERO);
        assert_eq!(a.log.entries()[a.log.entries().len() - 3..], ["the reactor stopped"; 3]);
        assert_eq!(waiting.take().unwrap(), "refused");
        assert!(reported.take().is_empty());
    }
}

/// The unhandled failures on this thread from now on.
fn reported() -> Rc<RefCell<Vec<String>>> {
    let seen: Rc<RefCell<Vec<String>>> = Rc::default();
    let notes = seen.clone();
    set_reporter(move |unhandled| notes.borrow_mut().push(unhandled.failure().to_string()));
    seen
}

#[test]
fn an_unhandled_failure_of_a_task_is_reported_once() {
    let reported = reported();
    let mut rig = memory();
    rig.reactor.spawn(async { Err::<(), _>(Failure::msg("no poem")) }).detach();
    // Dropping it unpolled only detaches it.
    let sleep = rig.reactor.sleep(s(1));
    drop(rig.reactor.spawn(async {
        sleep.await?;
        Err::<(), _>(Failure::msg("no prose"))
    }));
    rig.turns(3);
    rig.pass(s(1));
    rig.turns(2);
    assert_eq!(reported.take(), ["no poem", "no prose"]);
    // A handled failure is not reported; an unhandled one is when its last handle is dropped.
    let handled = rig.reactor.spawn(async { Err::<(), _>(Failure::msg("no song")) });
    handled.add_errback(|_| Ok(())).detach();
    let kept = rig.reactor.spawn(async { Err::<(), _>(Failure::msg("no dance")) });
    rig.turns(3);
    assert!(reported.take().is_empty());
    drop(kept);
    assert_eq!(reported.take(), ["no dance"]);
    drop(rig);
    assert!(reported.take().is_empty());
}

#[test]
fn a_task_that_wakes_itself_does_not_starve_io_and_timers() {
    for kit in KITS {
        let mut rig = kit.rig();
        let polls = Rc::new(Cell::new(0));
        let counted = polls.clone();
        rig.reactor
            .spawn(async move {
                loop {
                    counted.set(counted.get() + 1);
                    yield_now().await;
                }
                #[expect(unreachable_code, reason = "it gives the task's type")]
                Ok(())
            })
            .detach();
        let (a, b) = rig.accept(Script::new());
        let before = polls.get();
        rig.turns(10);
        assert_eq!(polls.get() - before, 10, "once per turn, and no turn sleeps");
        b.send(b"hello");
        rig.until("bytes", || a.received() == b"hello");
        let log = a.log.clone();
        rig.reactor.call_later(s(1), move || log.note("timed"));
        rig.pass(s(1));
        rig.turn();
        assert!(a.log.has("timed"));
    }
}

#[test]
fn a_task_woken_many_times_is_polled_once() {
    let mut rig = memory();
    let polls = Rc::new(Cell::new(0));
    let counted = polls.clone();
    let slot: Rc<RefCell<Option<Waker>>> = Rc::default();
    let waker = slot.clone();
    let task = poll_fn(move |context| {
        counted.set(counted.get() + 1);
        *waker.borrow_mut() = Some(context.waker().clone());
        Poll::<Result<()>>::Pending
    });
    rig.reactor.spawn(task).detach();
    rig.turns(3);
    assert_eq!(polls.get(), 1, "a task that is not woken is not polled");
    let waker = slot.take().expect("it was polled");
    for _ in 0..100 {
        waker.wake_by_ref();
        waker.wake_by_ref();
    }
    rig.turns(3);
    assert_eq!(polls.get(), 2);
}

/// A task that sends its waker at each poll, and finishes at the `n`th.
fn sends_its_waker(reactor: &Reactor, n: usize) -> (Deferred<()>, mpsc::Receiver<Waker>) {
    let (send, receive) = mpsc::channel();
    let mut left = n;
    let task = poll_fn(move |context| {
        left -= 1;
        if left == 0 {
            return Poll::Ready(Ok(()));
        }
        // The receiver may be dropped.
        let _ = send.send(context.waker().clone());
        Poll::Pending
    });
    (reactor.spawn(task), receive)
}

#[test]
fn a_waker_works_from_another_thread() {
    const ROUNDS: usize = 200;
    let mut l = Loop::new().expect("a poll descriptor");
    let reactor = l.reactor();
    let (tasks, wakers): (Vec<_>, Vec<_>) =
        (0..8).map(|_| sends_its_waker(&reactor, ROUNDS)).unzip();
    let threads: Vec<_> = wakers
        .into_iter()
        .map(|wakers| {
            std::thread::spawn(move || {
                let mut used = 0;
                for waker in wakers {
                    waker.wake();
                    used += 1;
                }
                used
            })
        })
        .collect();
    // Nothing else happens in this loop: each wake-up must end its sleep.
    for task in tasks {
        l.run_until(task).expect("it ends");
    }
    for thread in threads {
        assert_eq!(thread.join().expect("it only wakes"), ROUNDS - 1);
    }
}

#[test]
fn a_waker_that_outlives_its_task_or_its_loop_is_harmless() {
    let make: [fn() -> Loop; 2] = [
        || Loop::new().expect("a poll descriptor"),
        || {
            let (driver, _) = couplet::testing::Memory::new(Manner::Completion, 0);
            Loop::with_driver(driver, couplet::LoopOptions::default())
        },
    ];
    for make in make {
        let mut l = make();
        let reactor = l.reactor();
        let (task, wakers) = sends_its_waker(&reactor, 2);
        l.turn(Some(Duration::ZERO)).expect("the driver does not fail");
        let waker = wakers.recv().expect("it was polled");
        waker.wake_by_ref();
        l.run_until(task).expect("it ends");
        // The task has ended, and another one reuses its slot.
        let (other, others) = sends_its_waker(&reactor, 3);
        l.turn(Some(Duration::ZERO)).expect("the driver does not fail");
        others.recv().expect("it was polled");
        from_a_thread(&waker);
        waker.wake_by_ref();
        l.turn(Some(Duration::ZERO)).expect("the driver does not fail");
        assert!(others.try_recv().is_err(), "the other task is not polled");
        drop(other);
        // The run has ended.
        reactor.call_soon({
            let reactor = reactor.clone();
            move || reactor.stop()
        });
        l.run(|_| Ok(())).expect("the run ends");
        from_a_thread(&waker);
        l.turn(Some(Duration::ZERO)).expect("the driver does not fail");
        // The loop is dropped, then its last handle.
        let (_task, wakers) = sends_its_waker(&reactor, 9);
        l.turn(Some(Duration::ZERO)).expect("the driver does not fail");
        let last = wakers.recv().expect("it was polled");
        drop(l);
        from_a_thread(&last);
        last.wake_by_ref();
        drop(reactor);
        from_a_thread(&last);
        last.wake();
    }
}

fn from_a_thread(waker: &Waker) {
    let waker = waker.clone();
    std::thread::spawn(move || waker.wake()).join().expect("it only wakes");
}

#[test]
fn a_task_woken_by_another_runs_in_the_same_turn_and_none_runs_twice() {
    for kit in KITS {
        let mut rig = kit.rig();
        let polls = Rc::new(Cell::new([0, 0]));
        let wakers: Rc<RefCell<[Option<Waker>; 2]>> = Rc::default();
        for me in [0, 1] {
            let (polls, wakers) = (polls.clone(), wakers.clone());
            let wakes_the_other = poll_fn(move |context| {
                let mut counts = polls.get();
                counts[me] += 1;
                polls.set(counts);
                wakers.borrow_mut()[me] = Some(context.waker().clone());
                if let Some(other) = &wakers.borrow()[1 - me] {
                    other.wake_by_ref();
                }
                Poll::<Result<()>>::Pending
            });
            rig.reactor.spawn(wakes_the_other).detach();
        }
        rig.turns(3);
        let before = polls.get();
        rig.turns(10);
        assert_eq!(polls.get(), before.map(|polls| polls + 10), "each once per turn");
    }
}

#[test]
fn c71_a_task_that_waits_for_a_drain_continues_when_its_connection_is_lost() {
    for kit in KITS {
        let mut rig = kit.rig();
        let (a, b) = rig.accept(Script::new());
        let transport = a.transport();
        transport.write(rig.kit.big());
        rig.turns(2);
        let waits = [transport.writable(), transport.flushed()];
        let ends = waits.map(|waits| given(rig.reactor.spawn(waits)));
        rig.turns(2);
        let tasks = rig.l.snapshot().tasks;
        assert!(ends.iter().all(Given::is_none) && tasks == 2, "{tasks}");
        b.reset();
        rig.lost(&a);
        rig.turns(2);
        for end in &ends {
            end.take().expect_err("the connection was lost");
        }
        assert_eq!(rig.l.snapshot().tasks, 0);
    }
}

#[test]
fn c125a_all_tasks_that_are_cancelled_together_are_dropped_in_that_turn() {
    let mut rig = memory();
    let log = Log::default();
    let tasks = ["a", "b", "c", "d"].map(|name| rig.reactor.spawn(sleeps::<()>(log.clone(), name)));
    rig.turn();
    for (together, dropped) in [([0, 2], &["a", "c"][..]), ([1, 3], &["a", "c", "b", "d"])] {
        together.iter().for_each(|n: &usize| tasks[*n].cancel());
        rig.turn();
        assert_eq!(log.entries(), dropped);
        assert_eq!(rig.l.snapshot().tasks, 4 - dropped.len());
    }
    for task in tasks {
        assert!(given(task).take().unwrap_err().is_cancelled());
    }
}
